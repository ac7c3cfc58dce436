//! Both logins against a simulated provider, the browser's part played over HTTP.

#[cfg(test)]
#[expect(dead_code, reason = "each test program uses its part")]
mod harness;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use refresher::login::terminal::Display;
    use refresher::login::{Error, browser, device};
    use reqwest::redirect::Policy;
    use simulator::{Fault, Options, Target};
    use url::Url;

    use super::harness::{Screen, World, free_ports};

    async fn world(ports: &[u16]) -> World {
        let redirect_uris =
            ports.iter().map(|port| format!("http://127.0.0.1:{port}/callback")).collect();
        let options = Options { redirect_uris, approve_consent: true, ..Options::default() };
        World::with(options, &format!("redirect_ports = {ports:?}")).await
    }

    fn options(seconds: u64) -> browser::Options {
        browser::Options { open: false, timeout: Duration::from_secs(seconds) }
    }

    /// A login that runs while the test plays the browser.
    fn start(world: &World, seconds: u64) -> (Screen, tokio::task::JoinHandle<Result<(), Error>>) {
        let (screen, config) = (Screen::default(), world.config.clone());
        let mut out = screen.clone();
        let login =
            async move { browser::login(&config, "default", options(seconds), &mut out).await };
        (screen, tokio::spawn(login))
    }

    fn browser() -> reqwest::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::builder().redirect(Policy::none()).no_proxy().build().unwrap()
    }

    async fn get(url: &str) -> (u16, String) {
        let answer = browser().get(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Where the consent page sends the browser.
    async fn consent(address: &str) -> String {
        let answer = browser().get(address).send().await.unwrap();
        assert!(answer.status().is_redirection(), "{}", answer.status());
        answer.headers()["location"].to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn strays_and_forgeries_do_not_end_a_login() {
        let ports = free_ports(1);
        let world = world(&ports).await;
        let (screen, login) = start(&world, 30);
        let address = screen.line("open ").await;
        let base = format!("http://127.0.0.1:{}", ports[0]);
        for (path, status) in [
            ("/favicon.ico", 404),
            ("/", 404),
            ("/callback", 400),
            ("/callback?code=x", 400),
            ("/callback?code=x&state=wrong", 400),
            ("/callback?error=access_denied", 400),
            ("/callback?error=access_denied&state=wrong", 400),
        ] {
            assert_eq!(get(&format!("{base}{path}")).await.0, status, "{path}");
        }
        let url = Url::parse(&address).unwrap();
        let field = |name: &str| {
            url.query_pairs().find(|(field, _)| field == name).map(|(_, value)| value.into_owned())
        };
        assert_eq!(field("code_challenge_method").as_deref(), Some("S256"));
        let callback = consent(&address).await;
        let (status, page) = get(&callback).await;
        assert_eq!(status, 200);
        assert!(page.contains("Logged in"));
        login.await.unwrap().unwrap();
        assert!(world.stored().token.is_some());
        assert!(!screen.text().contains("code_verifier"));
    }

    #[tokio::test]
    async fn a_browser_that_calls_twice_is_told_the_same_twice() {
        let ports = free_ports(1);
        let world = world(&ports).await;
        let (screen, login) = start(&world, 30);
        let callback = consent(&screen.line("open ").await).await;
        let slow = Fault { delay_ms: 300, ..Fault::new(Target::Token) };
        world.control().set_fault(slow);
        for (status, page) in
            <[_; 3]>::from(tokio::join!(get(&callback), get(&callback), get(&callback)))
        {
            assert_eq!(status, 200, "{page}");
            assert!(page.contains("Logged in"), "{page}");
        }
        login.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_denial_with_the_state_ends_the_login_and_keeps_the_old_grant() {
        let ports = free_ports(1);
        let world = world(&ports).await;
        let (screen, login) = start(&world, 30);
        get(&consent(&screen.line("open ").await).await).await;
        login.await.unwrap().unwrap();
        let before = world.stored();
        let (screen, login) = start(&world, 30);
        let url = Url::parse(&screen.line("open ").await).unwrap();
        let state = url.query_pairs().find(|(field, _)| field == "state").unwrap().1.into_owned();
        let base = format!("http://127.0.0.1:{}/callback", ports[0]);
        let denied = "error=access_denied&error_description=not+for+this+plan";
        let (status, page) = get(&format!("{base}?{denied}&state={state}")).await;
        assert_eq!(status, 403);
        assert!(page.contains("denied") && !page.contains("plan"));
        screen.line("the provider says: not for this plan").await;
        assert!(matches!(login.await.unwrap(), Err(Error::Denied)));
        assert_eq!(world.stored(), before);
    }

    #[tokio::test]
    async fn an_answer_that_names_another_provider_or_none_is_refused_and_said_so() {
        let ports = free_ports(1);
        let world = world(&ports).await;
        let (screen, login) = start(&world, 30);
        let callback = Url::parse(&consent(&screen.line("open ").await).await).unwrap();
        let named = |issuer: Option<&str>| {
            let mut url = callback.clone();
            let pairs = callback.query_pairs().into_owned();
            let pairs: Vec<_> = pairs.filter(|(name, _)| name != "iss").collect();
            url.query_pairs_mut().clear().extend_pairs(pairs);
            url.query_pairs_mut().extend_pairs(issuer.map(|issuer| ("iss", issuer)));
            url
        };
        let (own, evil) = (world.simulator.url(), "https://evil.example");
        let said = format!("the provider calls itself {evil}, configured is {own}");
        for (issuer, said) in [(Some(evil), &*said), (None, "it does not name the provider")] {
            let (status, page) = get(named(issuer).as_str()).await;
            assert_eq!(status, 400);
            assert!(page.contains("does not name the provider"), "{page}");
            assert!(screen.text().contains(said), "{}", screen.text());
            assert!(!login.is_finished());
        }
        assert_eq!(get(named(Some(own)).as_str()).await.0, 200);
        login.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_busy_port_leads_to_the_next_registered_one() {
        let ports = free_ports(2);
        let world = world(&ports).await;
        let taken = TcpListener::bind(("127.0.0.1", ports[0])).unwrap();
        let (screen, login) = start(&world, 30);
        let callback = consent(&screen.line("open ").await).await;
        assert!(callback.starts_with(&format!("http://127.0.0.1:{}/callback?", ports[1])));
        get(&callback).await;
        login.await.unwrap().unwrap();
        let _second = TcpListener::bind(("127.0.0.1", ports[1])).unwrap();
        let (_, login) = start(&world, 30);
        let error = login.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::PortsBusy { .. }));
        assert!(error.to_string().contains("--device"), "{error}");
        drop(taken);
    }

    #[tokio::test]
    async fn a_closed_browser_ends_in_time() {
        let world = world(&free_ports(1)).await;
        let (_, login) = start(&world, 1);
        assert!(matches!(login.await.unwrap(), Err(Error::Expired)));
    }

    /// A terminal into which the test types.
    struct Typed(std::sync::mpsc::Receiver<Vec<u8>>, std::io::Cursor<Vec<u8>>);

    impl std::io::Read for Typed {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            loop {
                match self.1.read(buffer)? {
                    0 => match self.0.recv() {
                        Ok(text) => self.1 = std::io::Cursor::new(text),
                        Err(_) => return Ok(0),
                    },
                    read => return Ok(read),
                }
            }
        }
    }

    #[tokio::test]
    async fn the_code_or_the_whole_address_is_pasted_and_another_logins_is_refused() {
        for whole in [true, false] {
            let ports = free_ports(1);
            let world = world(&ports).await;
            let (typing, typed) = std::sync::mpsc::channel::<Vec<u8>>();
            let terminal = std::io::BufReader::new(Typed(typed, std::io::Cursor::default()));
            let (screen, config) = (Screen::default(), world.config.clone());
            let mut out = screen.clone();
            let login = tokio::spawn(async move {
                let options = options(30);
                let paste = Some(terminal);
                browser::login_with_paste(&config, "default", options, paste, &mut out).await
            });
            let address = screen.line("open ").await;
            let callback = consent(&address).await;
            let url = Url::parse(&callback).unwrap();
            let field = |name: &str| {
                url.query_pairs().find(|(field, _)| field == name).unwrap().1.into_owned()
            };
            let (code, state) = (field("code"), field("state"));
            // Neither rubbish nor what is of another login ends this one.
            typing.send(b"\xff\xfe\x00\n\n  \ntwo words\n".to_vec()).unwrap();
            typing.send(callback.replace(&state, "another").into_bytes()).unwrap();
            typing.send(b"\n".to_vec()).unwrap();
            screen.line("that address is of another login").await;
            assert!(!login.is_finished());
            let pasted = if whole { callback.clone() } else { code.clone() };
            typing.send(format!("  {pasted} \n").into_bytes()).unwrap();
            login.await.unwrap().unwrap();
            assert!(world.stored().token.is_some());
            assert!(!screen.text().contains(&code));
        }
    }

    #[tokio::test]
    async fn a_terminal_shows_a_qr_code_and_the_time_left_and_a_pipe_plain_lines() {
        for (display, drawn) in [(Display::Terminal, true), (Display::Plain, false)] {
            let world = World::new(Options::default()).await;
            let (screen, config) = (Screen::default(), world.config.clone());
            let mut out = screen.clone();
            let login =
                tokio::spawn(
                    async move { device::login(&config, "default", display, &mut out).await },
                );
            screen.line("or open ").await;
            world.control().wait_until(|control| control.summary().token_requests >= 2).await;
            assert!(world.control().approve_device(None));
            login.await.unwrap().unwrap();
            let text = screen.text();
            assert!(text.contains(&format!("{}/device", world.simulator.url())), "{text}");
            assert_eq!(text.contains('█'), drawn, "{text}");
            let redrawn = text.matches("\r\u{1b}[Kwaiting for your approval: ").count();
            assert_eq!(redrawn >= 2, drawn, "{text:?}");
            assert_eq!(text.contains(['\r', '\u{1b}']), drawn, "{text:?}");
            // What was redrawn is taken back at the end.
            assert_eq!(text.ends_with("\r\u{1b}[K"), drawn, "{text:?}");
            assert_eq!(text.contains("waiting for your approval, for at most"), !drawn, "{text}");
        }
    }

    #[tokio::test]
    async fn configured_pages_may_call_from_a_script_too_and_no_others() {
        let ports = free_ports(1);
        let redirect_uris = vec![format!("http://127.0.0.1:{}/callback", ports[0])];
        let options = Options { redirect_uris, approve_consent: true, ..Options::default() };
        let extra = format!(
            "redirect_ports = {ports:?}\ncallback_origins = [\"https://accounts.example\"]"
        );
        let world = World::with(options, &extra).await;
        let (screen, login) = start(&world, 30);
        let callback = consent(&screen.line("open ").await).await;
        let allowed = "access-control-allow-origin";
        let private = "access-control-allow-private-network";
        let ask = |method: reqwest::Method, url: &str, origin: &str| {
            let request = browser().request(method, url).header("origin", origin);
            let request = request.header("access-control-request-method", "GET");
            request.header("access-control-request-private-network", "true").send()
        };
        let own = "https://accounts.example";
        for origin in [
            "https://evil.example",
            "https://accounts.example.evil.example",
            "http://accounts.example",
            "https://accounts.example:8443",
            "https://ACCOUNTS.example",
            "null",
            "",
        ] {
            let answer = ask(reqwest::Method::OPTIONS, &callback, origin).await.unwrap();
            let headers = answer.headers();
            assert!(!headers.contains_key(allowed) && !headers.contains_key(private), "{origin}");
            assert!(!headers.contains_key("access-control-allow-methods"), "{origin}");
        }
        let answer = ask(reqwest::Method::OPTIONS, &callback, own).await.unwrap();
        assert_eq!(answer.headers()[allowed], own);
        assert_eq!(answer.headers()[private], "true");
        assert_eq!(answer.headers()["vary"], "origin");
        // The preflight ended nothing; the call itself does, and the page may read the answer.
        assert!(!login.is_finished());
        let answer = ask(reqwest::Method::GET, &callback, own).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()[allowed]),
            (200, &own.parse().unwrap())
        );
        login.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn only_the_providers_pages_may_call_from_a_script() {
        let ports = free_ports(1);
        let world = world(&ports).await;
        let (screen, login) = start(&world, 30);
        screen.line("open ").await;
        let preflight = |origin: String| {
            let method = reqwest::Method::OPTIONS;
            let url = format!("http://127.0.0.1:{}/callback", ports[0]);
            browser().request(method, url).header("origin", origin).send()
        };
        let own = preflight(world.simulator.url().to_owned()).await.unwrap();
        assert_eq!(own.headers()["access-control-allow-private-network"], "true");
        assert_eq!(own.headers()["access-control-allow-origin"], world.simulator.url());
        let other = preflight("https://evil.example".to_owned()).await.unwrap();
        assert!(!other.headers().contains_key("access-control-allow-origin"));
        assert!(!other.headers().contains_key("access-control-allow-private-network"));
        login.abort();
    }

    #[tokio::test]
    async fn a_device_login_survives_what_passes_and_tells_its_ends_apart() {
        let world = World::new(Options::default()).await;
        let device = |world: &World| {
            let (screen, config) = (Screen::default(), world.config.clone());
            let mut out = screen.clone();
            let login =
                async move { device::login(&config, "default", Display::Plain, &mut out).await };
            (screen, tokio::spawn(login))
        };
        let page = |status, body: &str| Fault {
            status: Some(status),
            body: Some(body.to_owned()),
            count: Some(1),
            ..Fault::new(Target::Token)
        };
        world.control().set_fault(page(502, "<html>bad gateway</html>"));
        let (screen, login) = device(&world);
        let line = screen.line("open ").await;
        let (uri, code) = line.split_once(" and enter the code ").unwrap();
        assert_eq!(uri, format!("{}/device", world.simulator.url()));
        world.control().wait_until(|control| control.summary().token_requests >= 2).await;
        assert!(world.control().approve_device(code));
        login.await.unwrap().unwrap();
        let before = world.stored();

        let (screen, login) = device(&world);
        screen.line("open ").await;
        assert!(world.control().deny_device(None));
        assert!(matches!(login.await.unwrap(), Err(Error::Denied)));

        world.control().set_fault(page(400, "{\"error\": \"expired_token\"}"));
        let (_, login) = device(&world);
        assert!(matches!(login.await.unwrap(), Err(Error::Expired)));
        assert_eq!(world.stored(), before);
        assert_eq!(world.control().summary().spent_twice, 0);
    }

    #[tokio::test]
    async fn metadata_that_lead_elsewhere_are_refused_and_not_followed() {
        let world = World::new(Options { approve_device: true, ..Options::default() }).await;
        let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
        elsewhere.set_nonblocking(true).unwrap();
        let other = format!("http://{}", elsewhere.local_addr().unwrap());
        let own = world.simulator.url();
        let discovery = || Fault { count: Some(1), ..Fault::new(Target::Discovery) };
        let patch = |field: &str, value: &str| Fault {
            patch: [(field.to_owned(), value.into())].into_iter().collect(),
            ..discovery()
        };
        let location = [("location".to_owned(), format!("{other}/metadata"))].into();
        for (fault, said) in [
            (Fault { status: Some(302), headers: location, ..discovery() }, "status 302"),
            (Fault { body: Some(" ".repeat(2 << 20)), ..discovery() }, "more than 1048576 bytes"),
            (patch("issuer", &other), "names another issuer"),
            (patch("issuer", &format!("{own}/other")), "names another issuer"),
            (patch("token_endpoint", "http://id.example/token"), "token_endpoint"),
            (patch("revocation_endpoint", "http://id.example/r"), "revocation_endpoint"),
            (patch("token_endpoint", "https://u:p@id.example/token"), "token_endpoint"),
        ] {
            world.control().set_fault(fault);
            let mut out = std::io::sink();
            let login = device::login(&world.config, "default", Display::Plain, &mut out).await;
            let error = refresher::chain::line(&login.unwrap_err());
            assert!(error.contains(said), "{said}: {error}");
        }
        assert!(elsewhere.accept().is_err(), "nobody was sent there");
        assert_eq!(world.control().summary().token_requests, 0);
    }

    #[tokio::test]
    async fn a_device_flow_that_is_off_or_deceives_is_refused() {
        let world = World::new(Options::default()).await;
        let answer = |status, body: &str| Fault {
            status: Some(status),
            body: Some(body.to_owned()),
            count: Some(1),
            ..Fault::new(Target::Device)
        };
        for (fault, said) in [
            (answer(404, ""), "does not offer the device flow"),
            (
                answer(
                    200,
                    "{\"device_code\": \"d\", \"user_code\": \"A\\u001b[2J\", \
                    \"verification_uri\": \"https://id.example/\"}",
                ),
                "user_code",
            ),
            (
                answer(
                    200,
                    "{\"device_code\": \"d\", \"user_code\": \"A\", \
                    \"verification_uri\": \"http://id.example/\"}",
                ),
                "verification_uri",
            ),
        ] {
            world.control().set_fault(fault);
            let screen = Screen::default();
            let login =
                device::login(&world.config, "default", Display::Plain, &mut screen.clone()).await;
            let error = login.unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            assert_eq!(screen.text(), "");
        }
    }
}
