//! Logging in: by a browser that comes back to a port of this machine, and by a device code.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Client, Response};
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use simulator::{Fault, Options, Target};
use tests::{Plan, Process, Stack, Stopwatch, eventually, raw_request, webdriver};
use tokio::net::TcpStream;
use url::Url;

/// How long a login may take that waits for nobody.
const SOON: Duration = Duration::from_secs(20);

/// A provider with a consent page and this many callback ports; nobody has logged in.
async fn provider(callbacks: usize) -> Result<Stack> {
    Stack::prepare(Plan { login: false, callbacks, ..Plan::default() }).await
}

/// A `refresher login` that waits for its browser.
struct Attempt {
    process: Process,
    url: Url,
}

impl Attempt {
    async fn start(stack: &Stack, name: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = stack.refresher_command(&["login", "--no-browser"])?;
        command.args(arguments);
        let mut process = Process::start(name, stack.dir(), &mut command)?;
        let address = |line: &str| line.split(' ').find_map(|word| Url::parse(word).ok());
        let url = process.printed(SOON, address).await?;
        Ok(Self { process, url })
    }

    fn parameter(&self, name: &str) -> Result<String> {
        let mut pairs = self.url.query_pairs();
        let value = pairs.find(|(known, _)| known == name).map(|(_, value)| value.into_owned());
        value.with_context(|| format!("{} has no {name}", self.url))
    }

    /// The address to which the provider sends the browser.
    fn callback(&self) -> Result<Url> {
        Ok(self.parameter("redirect_uri")?.parse()?)
    }

    /// Asks for a page of the callback's port.
    async fn visit(&self, client: &Client, path: &str, query: &[(&str, &str)]) -> Result<Response> {
        let mut url = self.callback()?;
        url.set_path(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(client.get(url).send().await?)
    }

    /// Waits for its end; gives its output.
    async fn ended(mut self, code: i32) -> Result<String> {
        let status = self.process.wait(SOON).await?;
        let output = self.process.log();
        ensure!(status.code() == Some(code), "ended with {status} instead of {code}: {output}");
        Ok(output)
    }
}

/// Opens an authorization URL and answers the consent page; follows where that leads.
async fn decide(client: &Client, url: &Url, decision: &str) -> Result<Response> {
    let page = client.get(url.clone()).send().await?.error_for_status()?;
    let (base, html) = (page.url().clone(), page.text().await?);
    let attribute = |start: &str| {
        let (_, rest) = html.split_once(start)?;
        rest.split('"').next().map(str::to_owned)
    };
    let action = attribute("action=\"").context("the page has no form")?;
    let consent = attribute("name=\"consent\" value=\"").context("the form has no consent")?;
    let form = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("consent", consent.as_str()), ("decision", decision)])
        .finish();
    let request = client.post(base.join(&action)?).body(form);
    Ok(request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").send().await?)
}

fn grant_file(stack: &Stack) -> PathBuf {
    stack.state_dir().join("grants/simulated.default.json")
}

fn grant(stack: &Stack) -> Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(grant_file(stack))?)?)
}

fn mode(path: &Path) -> Result<u32> {
    Ok(std::fs::symlink_metadata(path)?.permissions().mode() & 0o7777)
}

/// Starts refresher and Envoy on what a login stored, and sends a request.
async fn assert_serves(stack: &mut Stack) -> Result<()> {
    stack.start_refresher().await?;
    stack.start_envoy().await?;
    let answer = stack.client.get(stack.url("/v1/models")).send().await?;
    ensure!(answer.status() == 200, "{}", answer.text().await?);
    Ok(())
}

fn codes_presented(stack: &Stack) -> usize {
    let ledger = stack.provider().ledger();
    ledger.iter().filter(|entry| entry.grant == "authorization_code").count()
}

#[tokio::test]
async fn a_login_in_the_browser_is_stored_privately_and_serves() -> Result<()> {
    let mut stack = provider(1).await?;
    let attempt = Attempt::start(&stack, "login", &[]).await?;
    let callback = attempt.callback()?;
    let page = decide(&stack.client, &attempt.url, "approve").await?;
    ensure!(page.url().path() == callback.path() && page.url().port() == callback.port());
    ensure!(page.status() == 200, "{}", page.status());
    let kept = ["no-store", "no-referrer", "nosniff"];
    let headers = ["cache-control", "referrer-policy", "x-content-type-options"];
    for (name, value) in headers.into_iter().zip(kept) {
        ensure!(page.headers().get(name).is_some_and(|found| found == value), "{name}");
    }
    let code = page.url().query_pairs().find(|(name, _)| name == "code").context("no code")?;
    let code = code.1.into_owned();
    let html = page.text().await?;
    ensure!(html.contains("Logged in") && !html.contains(&code), "{html}");
    let state = attempt.parameter("state")?;
    ensure!(!html.contains(&state), "{html}");

    let output = attempt.ended(0).await?;
    ensure!(output.contains("logged in to simulated as credential default"), "{output}");
    ensure!(mode(&grant_file(&stack))? == 0o600);
    ensure!(mode(&stack.state_dir())? == 0o700);
    ensure!(mode(&stack.state_dir().join("grants"))? == 0o700);
    let grant = grant(&stack)?;
    for secret in ["/refresh_token", "/token/access_token"] {
        let secret = grant.pointer(secret).and_then(Value::as_str).context("not in the grant")?;
        ensure!(!secret.is_empty() && !output.contains(secret), "{output}");
    }
    ensure!(!output.contains(&code), "the code is in the output");
    let port = callback.port().context("no port")?;
    ensure!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err(), "still listening");
    assert_serves(&mut stack).await
}

#[tokio::test]
async fn l01_stray_callbacks_do_not_end_a_login() -> Result<()> {
    let mut stack = provider(1).await?;
    let attempt = Attempt::start(&stack, "login", &[]).await?;
    let state = attempt.parameter("state")?;
    let right = ("state", state.as_str());
    let code = ("code", "stray");
    // A connection that says nothing must not be in the way either.
    let port = attempt.callback()?.port().context("no port")?;
    let _silent = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    for (path, query, status) in [
        ("/callback", vec![code, ("state", "wrong")], 400),
        ("/callback", vec![code, ("state", "")], 400),
        ("/callback", vec![code], 400),
        ("/callback", vec![], 400),
        ("/callback", vec![right], 400),
        ("/callback", vec![code, right, right], 400),
        ("/callback", vec![code, right, ("iss", "https://other.example")], 400),
        ("/callback", vec![("error", "access_denied"), ("state", "wrong")], 400),
        ("/favicon.ico", vec![], 404),
        ("/", vec![], 404),
        ("/callback/", vec![code, right], 404),
        ("/other", vec![code, right], 404),
    ] {
        let answer = attempt.visit(&stack.client, path, &query).await?;
        ensure!(answer.status() == status, "{path} {query:?}: {}", answer.status());
    }
    let post = stack.client.post(attempt.callback()?).body(format!("code=stray&state={state}"));
    ensure!(post.send().await?.status() == 405);
    let rubbish =
        raw_request((Ipv4Addr::LOCALHOST, port).into(), b"\x16\x03\x01\x00\r\n\r\n").await;
    ensure!(rubbish.map_or(400, |answer| answer.status) == 400);
    ensure!(codes_presented(&stack) == 0, "a stray code was sent to the provider");

    let page = decide(&stack.client, &attempt.url, "approve").await?;
    ensure!(page.status() == 200, "{}", page.text().await?);
    attempt.ended(0).await?;
    ensure!(codes_presented(&stack) == 1);
    assert_serves(&mut stack).await
}

#[tokio::test]
async fn l02_a_denial_ends_a_login_only_with_the_state() -> Result<()> {
    let stack = provider(1).await?;
    let attempt = Attempt::start(&stack, "denied", &[]).await?;
    let state = attempt.parameter("state")?;
    let denied = [("error", "access_denied"), ("state", state.as_str())];
    let page = attempt.visit(&stack.client, "/callback", &denied[..1]).await?;
    ensure!(page.status() == 400, "{}", page.status());
    let page = attempt.visit(&stack.client, "/callback", &denied).await?;
    ensure!(page.status() == 403, "{}", page.status());
    ensure!(page.text().await?.contains("denied"));
    let output = attempt.ended(4).await?;
    ensure!(output.contains("the login was denied"), "{output}");

    let attempt = Attempt::start(&stack, "failed", &[]).await?;
    let state = attempt.parameter("state")?;
    let failed = [("error", "temporarily_unavailable"), ("state", state.as_str())];
    let page = attempt.visit(&stack.client, "/callback", &failed).await?;
    ensure!(!page.status().is_success(), "{}", page.status());
    let output = attempt.ended(1).await?;
    ensure!(output.contains("temporarily_unavailable"), "{output}");

    let attempt = Attempt::start(&stack, "stray", &[]).await?;
    let page = attempt.visit(&stack.client, "/callback", &denied[..1]).await?;
    ensure!(page.status() == 400, "{}", page.status());
    let page = decide(&stack.client, &attempt.url, "approve").await?;
    ensure!(page.status() == 200, "{}", page.text().await?);
    attempt.ended(0).await?;
    Ok(())
}

#[tokio::test]
async fn l02_a_denial_on_the_consent_page_ends_the_login() -> Result<()> {
    let stack = provider(1).await?;
    let attempt = Attempt::start(&stack, "login", &[]).await?;
    let page = decide(&stack.client, &attempt.url, "deny").await?;
    ensure!(page.status() == 403, "{}", page.status());
    let output = attempt.ended(4).await?;
    ensure!(output.contains("the login was denied"), "{output}");
    ensure!(codes_presented(&stack) == 0 && !grant_file(&stack).exists());
    Ok(())
}

#[tokio::test]
async fn l03_a_busy_port_leads_to_the_next_registered_one() -> Result<()> {
    let mut stack = provider(2).await?;
    let [first, second] = stack.callbacks[..] else { bail!("not two ports") };
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first))?;
    let attempt = Attempt::start(&stack, "login", &[]).await?;
    let callback = attempt.callback()?;
    ensure!(callback.as_str() == format!("http://127.0.0.1:{second}/callback"), "{callback}");
    // All of 127.0.0.0/8 is this machine: a listener on every interface would answer here.
    for other in [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 1, 1, 1)] {
        ensure!(TcpStream::connect((other, second)).await.is_err(), "reachable on {other}");
    }
    ensure!(TcpStream::connect((std::net::Ipv6Addr::LOCALHOST, second)).await.is_err());
    let page = decide(&stack.client, &attempt.url, "approve").await?;
    ensure!(page.status() == 200, "{}", page.text().await?);
    attempt.ended(0).await?;
    assert_serves(&mut stack).await
}

#[tokio::test]
async fn l03_with_all_ports_busy_the_device_flow_is_offered() -> Result<()> {
    let stack = provider(2).await?;
    let take = |&port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let _taken = stack.callbacks.iter().map(take).collect::<Result<Vec<_>, _>>()?;
    let mut command = stack.refresher_command(&["login", "--no-browser"])?;
    let mut login = Process::start("login", stack.dir(), &mut command)?;
    let (status, output) = (login.wait(SOON).await?, login.log());
    ensure!(status.code() == Some(1), "{status}: {output}");
    ensure!(output.contains("--device") && !output.contains("/oauth2/authorize"), "{output}");
    for port in &stack.callbacks {
        ensure!(output.contains(&port.to_string()), "{output}");
    }
    Ok(())
}

#[tokio::test]
async fn l04_on_a_terminal_the_address_is_pasted_and_another_logins_is_refused() -> Result<()> {
    let mut stack = provider(1).await?;
    let command = stack.refresher_command(&["login", "--no-browser"])?;
    let (mut login, mut keyboard) = Process::start_on_terminal("login", stack.dir(), command)?;
    let address = |line: &str| line.split(' ').find_map(|word| Url::parse(word).ok());
    let url = login.printed(SOON, address).await?;
    login.printed(SOON, |line| line.contains("paste the code").then_some(())).await?;
    // The browser runs elsewhere: it ends on an address that nobody there answers.
    let client =
        Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
    let sent = decide(&client, &url, "approve").await?;
    let location = sent.headers().get(LOCATION).context("no redirect")?;
    let callback = Url::parse(location.to_str()?)?;
    let mut other = callback.clone();
    let foreign = callback.query_pairs().into_owned().map(|(name, value)| {
        let value = if name == "state" { "another".to_owned() } else { value };
        (name, value)
    });
    other.query_pairs_mut().clear().extend_pairs(foreign.collect::<Vec<_>>());
    keyboard.line(other.as_str())?;
    let refused = |line: &str| line.contains("of another login").then_some(());
    login.printed(SOON, refused).await?;
    ensure!(login.ended().is_none() && codes_presented(&stack) == 0);

    keyboard.line(callback.as_str())?;
    let done = |line: &str| line.contains("logged in to simulated").then_some(());
    login.printed(SOON, done).await?;
    ended(login, 0).await?;
    ensure!(codes_presented(&stack) == 1);
    assert_serves(&mut stack).await
}

#[tokio::test]
async fn l04_without_a_terminal_nothing_is_asked_to_be_pasted() -> Result<()> {
    let stack = provider(1).await?;
    let attempt = Attempt::start(&stack, "login", &[]).await?;
    decide(&stack.client, &attempt.url, "approve").await?;
    let output = attempt.ended(0).await?;
    ensure!(!output.contains("paste"), "{output}");
    Ok(())
}

#[tokio::test]
async fn a_device_login_draws_a_code_on_a_terminal_and_nowhere_else() -> Result<()> {
    let stack = Stack::prepare(waiting_device()).await?;
    let command = stack.refresher_command(&["login", "--device"])?;
    let (mut login, _keyboard) = Process::start_on_terminal("terminal", stack.dir(), command)?;
    // Both are drawn after the code.
    let left = |line: &str| line.contains("waiting for your approval: ").then_some(());
    login.printed(SOON, left).await?;
    let shown = login.log();
    let drawn = |line: &&str| line.chars().all(|c| "█▀▄ \r".contains(c)) && line.contains('█');
    ensure!(shown.lines().filter(drawn).count() > 15, "{shown}");
    ensure!(stack.provider().approve_device(None), "no device waits");
    login.printed(SOON, |line| line.contains("logged in to simulated").then_some(())).await?;
    ended(login, 0).await?;

    let (login, _) = device_login(&stack).await?;
    ensure!(stack.provider().approve_device(None), "no device waits");
    let output = ended(login, 0).await?;
    ensure!(!output.contains(['█', '\r', '\u{1b}']), "{output:?}");
    Ok(())
}

#[tokio::test]
async fn l05_an_abandoned_login_ends_and_leaves_the_old_grant() -> Result<()> {
    let mut stack = provider(1).await?;
    stack.login().await?;
    let before = std::fs::read(grant_file(&stack))?;
    let attempt = Attempt::start(&stack, "expired", &["--timeout", "1"]).await?;
    let output = attempt.ended(5).await?;
    ensure!(output.contains("not completed in time"), "{output}");
    ensure!(std::fs::read(grant_file(&stack))? == before);

    let attempt = Attempt::start(&stack, "interrupted", &[]).await?;
    attempt.process.signal(Signal::INT)?;
    attempt.ended(130).await?;
    ensure!(std::fs::read(grant_file(&stack))? == before);

    // The code comes to nothing at the token endpoint: the browser is told, too.
    let unavailable = Fault { status: Some(503), ..Fault::new(Target::Token) };
    stack.provider().set_fault(unavailable);
    let attempt = Attempt::start(&stack, "failed", &[]).await?;
    let page = decide(&stack.client, &attempt.url, "approve").await?;
    ensure!(page.status() == 502, "{}", page.status());
    attempt.ended(6).await?;
    ensure!(std::fs::read(grant_file(&stack))? == before);
    stack.provider().clear_faults(None);
    assert_serves(&mut stack).await
}

#[tokio::test]
async fn l06_every_attempt_has_a_fresh_challenge_that_is_not_its_state() -> Result<()> {
    let stack = provider(2).await?;
    let mut seen = Vec::new();
    let mut attempts = Vec::new();
    for name in ["one", "two"] {
        let attempt = Attempt::start(&stack, name, &[]).await?;
        ensure!(attempt.parameter("response_type")? == "code");
        ensure!(attempt.parameter("code_challenge_method")? == "S256");
        let challenge = attempt.parameter("code_challenge")?;
        ensure!(challenge.len() == 43, "{challenge}");
        ensure!(URL_SAFE_NO_PAD.decode(&challenge)?.len() == 32, "{challenge}");
        let state = attempt.parameter("state")?;
        ensure!(state.len() >= 22, "fewer than 128 bits: {state}");
        let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(state.as_bytes()));
        ensure!(challenge != digest, "the verifier is the state");
        for value in [challenge, state] {
            ensure!(!seen.contains(&value), "{value} comes twice");
            seen.push(value);
        }
        attempts.push(attempt);
    }
    // What one attempt was granted is nothing to the other.
    let [one, two] = &attempts[..] else { bail!("not two attempts") };
    let client =
        Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
    let sent = decide(&client, &one.url, "approve").await?;
    let location = sent.headers().get(LOCATION).context("no redirect")?;
    let mut crossed = Url::parse(location.to_str()?)?;
    crossed.set_port(two.callback()?.port()).ok().context("no port can be set")?;
    ensure!(client.get(crossed).send().await?.status() == 400);
    ensure!(codes_presented(&stack) == 0);
    Ok(())
}

/// A `refresher login --device` that has shown its code.
async fn device_login(stack: &Stack) -> Result<(Process, String)> {
    let mut command = stack.refresher_command(&["login", "--device"])?;
    let mut login = Process::start("login", stack.dir(), &mut command)?;
    let line = login.printed(SOON, |line| line.contains("/device").then(|| line.to_owned()));
    let line = line.await?;
    let code = stack.provider().pending_device().context("no device waits")?;
    ensure!(line.contains(&code), "{code} is not in {line:?}");
    Ok((login, line))
}

fn waiting_device() -> Plan {
    let provider = Options { device_interval: 1, ..Options::default() };
    Plan { provider, login: false, ..Plan::default() }
}

/// Most of its 42 s are pauses that RFC 8628, section 3.5, asks for.
#[tokio::test]
async fn l07_a_device_login_survives_what_polls_can_meet() -> Result<()> {
    let mut stack = Stack::prepare(waiting_device()).await?;
    let (login, line) = device_login(&stack).await?;
    ensure!(line.contains(&format!("{}/device", stack.provider_url())), "{line}");
    let control = stack.provider();
    let (html, slow_down) = ("<html>Bad gateway</html>", r#"{"error": "slow_down"}"#);
    // What a poll meets, and how long the pause after it has to be, in seconds.
    let polls = [
        (None, 1),
        (Some((502, html)), 1),
        (Some((400, slow_down)), 6),
        (Some((200, html)), 6),
        (Some((400, slow_down)), 11),
        (Some((400, slow_down)), 16),
    ];
    for (count, (answer, _)) in polls.into_iter().enumerate() {
        if let Some((status, body)) = answer {
            let (status, body) = (Some(status), Some(body.to_owned()));
            control.set_fault(Fault { count: Some(1), status, body, ..Fault::new(Target::Token) });
        }
        let wait = control.wait_until(|control| control.ledger().len() > count);
        let polled = tokio::time::timeout(SOON, wait).await;
        polled.with_context(|| format!("poll {count} does not come: {:?}", control.ledger()))?;
    }
    ensure!(control.approve_device(None), "no device waits");
    let output = ended(login, 0).await?;
    ensure!(output.contains("logged in"), "{output}");
    let ledger = control.ledger();
    let outcomes: Vec<_> = ledger.iter().map(|entry| entry.outcome).collect();
    let met = ["authorization_pending", "fault", "fault", "fault", "fault", "fault", "ok"];
    ensure!(outcomes == met, "{ledger:?}");
    for ((_, pause_s), poll) in polls.into_iter().zip(ledger.windows(2)) {
        let [one, next] = poll else { bail!("{poll:?}") };
        // Both times are rounded, and of a clock that may be set.
        let least = pause_s * 1000 - 100;
        ensure!(next.time_ms - one.time_ms >= least, "polled within {pause_s} s: {ledger:?}");
    }
    ensure!(mode(&grant_file(&stack))? == 0o600);
    assert_serves(&mut stack).await
}

async fn ended(mut login: Process, code: i32) -> Result<String> {
    let (status, output) = (login.wait(SOON).await?, login.log());
    ensure!(status.code() == Some(code), "ended with {status} instead of {code}: {output}");
    Ok(output)
}

#[tokio::test]
async fn l07_a_denied_or_expired_device_login_says_so() -> Result<()> {
    let stack = Stack::prepare(waiting_device()).await?;
    let (login, _) = device_login(&stack).await?;
    ensure!(stack.provider().deny_device(None), "no device waits");
    let output = ended(login, 4).await?;
    ensure!(output.contains("the login was denied"), "{output}");
    ensure!(!grant_file(&stack).exists());

    let mut plan = waiting_device();
    plan.provider.device_life = 2;
    let stack = Stack::prepare(plan).await?;
    let (login, _) = device_login(&stack).await?;
    let output = ended(login, 5).await?;
    ensure!(output.contains("not completed in time"), "{output}");

    // The provider's word counts, also where it comes earlier than announced.
    let stack = Stack::prepare(waiting_device()).await?;
    let body = Some(r#"{"error": "expired_token"}"#.to_owned());
    stack.provider().set_fault(Fault { status: Some(400), body, ..Fault::new(Target::Token) });
    let (login, _) = device_login(&stack).await?;
    ended(login, 5).await?;
    Ok(())
}

#[tokio::test]
async fn l08_a_device_answer_that_could_deceive_is_refused_unseen() -> Result<()> {
    for (field, value) in [
        ("user_code", "AB\u{1b}[2JCD"),
        ("user_code", "AB\nCD"),
        ("verification_uri", "http://login.example/device"),
        ("verification_uri", "javascript:alert(1)"),
        ("verification_uri_complete", "http://login.example/device?user_code=AB"),
        ("verification_uri_complete", "https://login.example/\u{7}device"),
    ] {
        let stack = Stack::prepare(waiting_device()).await?;
        let patch = json!({field: value}).as_object().cloned().unwrap_or_default();
        stack.provider().set_fault(Fault { patch, ..Fault::new(Target::Device) });
        let mut command = stack.refresher_command(&["login", "--device"])?;
        let login = Process::start("login", stack.dir(), &mut command)?;
        let output = ended(login, 1).await.with_context(|| format!("{field}: {value:?}"))?;
        let named = field.trim_end_matches("_complete");
        ensure!(output.contains(named) && !output.contains(value), "{output:?}");
        ensure!(stack.provider().summary().token_requests == 0);
    }
    let stack = Stack::prepare(waiting_device()).await?;
    stack.provider().set_fault(Fault { status: Some(404), ..Fault::new(Target::Device) });
    let mut command = stack.refresher_command(&["login", "--device"])?;
    let output = ended(Process::start("login", stack.dir(), &mut command)?, 1).await?;
    ensure!(output.contains("does not offer the device flow"), "{output}");
    Ok(())
}

#[tokio::test]
async fn a_login_is_published_at_once_by_the_refresher_that_runs() -> Result<()> {
    let stack = Stack::start(Plan { login: false, ..Plan::default() }).await?;
    let models = stack.url("/v1/models");
    let answer = stack.client.get(&models).send().await?;
    ensure!(answer.status() == 503, "{}", answer.status());
    let error: Value = answer.json().await?;
    ensure!(error["error"]["code"] == "login_required", "{error}");
    ensure!(stack.provider().requests().is_empty());

    stack.login().await?;
    let works = eventually(Duration::from_secs(2), async || {
        let answer = stack.client.get(&models).send().await.ok()?;
        (answer.status() == 200).then_some(())
    });
    works.await.context("the running refresher did not publish the login")?;
    ensure!(stack.provider().summary().refused == 0);

    // The refresher looks for itself each second. A login takes a little more than that, so one
    // that begins right after a look would be found about a second after its end.
    let mut delays = Vec::new();
    for _ in 0..5 {
        stack.login().await?;
        let ended = Stopwatch::start();
        let token = grant(&stack)?.pointer("/token/access_token").cloned().context("no token")?;
        let token = token.as_str().context("no token")?;
        served(&stack, token).await.context("the running refresher did not publish a login")?;
        delays.push(ended.elapsed());
    }
    delays.sort();
    ensure!(delays.get(2).is_some_and(|median| *median < Duration::from_millis(300)), "{delays:?}");
    Ok(())
}

/// Waits until this access token is published.
async fn served(stack: &Stack, token: &str) -> Option<()> {
    eventually(Duration::from_secs(3), async || {
        let bundle = tests::unix_request(&stack.socket(), "GET", "/v1/bundle", "").await.ok()?;
        let published = bundle.json().pointer("/credentials/default/access_token").cloned();
        (published? == token).then_some(())
    })
    .await
}

#[tokio::test]
async fn l09_a_login_during_a_refresh_leaves_the_newer_grant() -> Result<()> {
    let stack = Stack::start(Plan::default()).await?;
    let before = grant(&stack)?;
    // The refresh has been decided at the provider, and its answer is on the way.
    let slow = Fault {
        count: Some(1),
        mode: simulator::Mode::After,
        delay_ms: 1_500,
        ..Fault::new(Target::Token)
    };
    stack.provider().set_fault(slow);
    stack.provider().kill_access_token();
    let request = tokio::spawn(stack.client.get(stack.url("/v1/models")).send());
    let refreshing = stack.provider().wait_until(|control| control.summary().refreshes == 1);
    tokio::time::timeout(SOON, refreshing).await.context("no refresh")?;
    stack.login().await?;
    let answer = request.await??;
    ensure!(answer.status() == 200, "{}", answer.text().await?);

    let after = grant(&stack)?;
    ensure!(after["generation"].as_u64() > before["generation"].as_u64(), "{after}");
    let newest = after["token"]["access_token"].as_str().context("no token")?.to_owned();
    served(&stack, &newest).await.context("the newer grant is not served")?;
    let answer = stack.client.get(stack.url("/v1/models")).send().await?;
    ensure!(answer.status() == 200, "{}", answer.text().await?);
    ensure!(stack.provider().summary().spent_twice == 0);
    Ok(())
}

/// A headless Chromium behind its WebDriver (W3C WebDriver, sections 8 to 12).
struct Browser<'a> {
    client: &'a Client,
    session: String,
}

impl Browser<'_> {
    async fn start<'a>(client: &'a Client, driver: &str, profile: &Path) -> Result<Browser<'a>> {
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-proxy-server",
            &format!("--user-data-dir={}", profile.display()),
        ];
        let always = json!({"browserName": "chrome", "goog:chromeOptions": {"args": arguments}});
        let body = json!({"capabilities": {"alwaysMatch": always}});
        let url = format!("{driver}/session");
        let value = value(client.post(&url).json(&body)).await?;
        let id = value.get("sessionId").and_then(Value::as_str).context("no session")?;
        Ok(Browser { client, session: format!("{url}/{id}") })
    }

    async fn open(&self, url: &Url) -> Result<()> {
        let request = self.client.post(format!("{}/url", self.session));
        value(request.json(&json!({"url": url.as_str()}))).await.map(drop)
    }

    async fn element(&self, selector: &str) -> Result<String> {
        let request = self.client.post(format!("{}/element", self.session));
        let found =
            value(request.json(&json!({"using": "css selector", "value": selector}))).await?;
        let id = found.as_object().and_then(|object| object.values().next()?.as_str());
        Ok(format!("{}/element/{}", self.session, id.context("no element")?))
    }

    async fn click(&self, selector: &str) -> Result<()> {
        let element = self.element(selector).await?;
        value(self.client.post(format!("{element}/click")).json(&json!({}))).await.map(drop)
    }

    async fn text(&self, selector: &str) -> Result<String> {
        let element = self.element(selector).await?;
        let text = value(self.client.get(format!("{element}/text"))).await?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    async fn address(&self) -> Result<Url> {
        let url = value(self.client.get(format!("{}/url", self.session))).await?;
        Ok(url.as_str().unwrap_or_default().parse()?)
    }

    async fn quit(self) -> Result<()> {
        value(self.client.delete(&self.session)).await.map(drop)
    }
}

/// Sends a WebDriver command; gives its value.
async fn value(request: reqwest::RequestBuilder) -> Result<Value> {
    let answer = request.timeout(Duration::from_secs(60)).send().await?;
    let status = answer.status();
    let mut body: Value = answer.json().await?;
    let value = body.get_mut("value").map(Value::take).unwrap_or_default();
    ensure!(status.is_success(), "WebDriver: {value}");
    Ok(value)
}

/// Approves on the consent page and reads where that ends.
async fn approve_in(browser: &Browser<'_>, url: &Url) -> Result<(Url, String)> {
    browser.open(url).await?;
    browser.click("#approve").await?;
    let page = eventually(SOON, async || {
        let heading = browser.text("h1").await.ok()?;
        (heading != "Authorize access").then_some(heading)
    });
    let heading = page.await.context("the consent page stays")?;
    Ok((browser.address().await?, format!("{heading}\n{}", browser.text("p").await?)))
}

#[tokio::test]
async fn a_login_in_a_real_browser_ends_on_our_page() -> Result<()> {
    let mut stack = provider(1).await?;
    let mut command = Process::command(webdriver()?);
    command.arg("--port=0").env("HOME", stack.dir());
    let mut driver = Process::start("chromedriver", stack.dir(), &mut command)?;
    let port = |line: &str| {
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse::<u16>().ok()
    };
    let url = format!("http://127.0.0.1:{}", driver.printed(SOON, port).await?);
    let attempt = Attempt::start(&stack, "login", &[]).await?;
    let profile = stack.dir().join("chromium");
    let browser = Browser::start(&stack.client, &url, &profile).await;
    let browser = browser.with_context(|| driver.log())?;
    let ended = approve_in(&browser, &attempt.url).await;
    let quit = browser.quit().await;
    driver.stop().await?;
    let (address, text) = ended?;
    quit?;
    ensure!(text == "Logged in\nYou can close this page.", "{text}");
    ensure!(address.path() == "/callback" && address.port() == attempt.callback()?.port());
    attempt.ended(0).await?;
    assert_serves(&mut stack).await
}
