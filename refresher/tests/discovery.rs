//! Providers that publish their metadata elsewhere, badly, or not at all.

#[cfg(test)]
#[expect(dead_code, reason = "each test program uses its part")]
mod harness;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::extract::{Request, State};
    use axum::http::{StatusCode, Uri};
    use refresher::chain;
    use refresher::login::terminal::Display;
    use refresher::login::{Error, device};
    use refresher::provider::discovery::{self, Need};
    use serde_json::{Value, json};

    use super::harness::program::Place;

    const OPENID: &str = "/tenant/.well-known/openid-configuration";
    const OAUTH: &str = "/.well-known/oauth-authorization-server/tenant";

    /// A provider at `/tenant` that answers each path as it is told to, all others with 404.
    struct Provider {
        origin: String,
        answers: Arc<Mutex<BTreeMap<String, (u16, String)>>>,
        asked: Arc<Mutex<Vec<Seen>>>,
    }

    type Shared = (Arc<Mutex<BTreeMap<String, (u16, String)>>>, Arc<Mutex<Vec<Seen>>>);

    /// A request as it arrived.
    struct Seen {
        path: String,
        agent: String,
        body: String,
    }

    impl Provider {
        async fn start() -> Self {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let origin = format!("http://{}", listener.local_addr().unwrap());
            let shared = Shared::default();
            let router = Router::new().fallback(answer).with_state(shared.clone());
            tokio::spawn(async move { axum::serve(listener, router).await });
            let (answers, asked) = shared;
            Self { origin, answers, asked }
        }

        fn says(&self, path: &str, status: u16, body: &str) {
            self.answers.lock().unwrap().insert(path.to_owned(), (status, body.to_owned()));
        }

        /// Its metadata, with further members.
        fn metadata(&self, further: Value) -> String {
            let origin = &self.origin;
            let mut metadata = json!({
                "issuer": format!("{origin}/tenant"),
                "authorization_endpoint": format!("{origin}/authorize"),
                "token_endpoint": format!("{origin}/token"),
            });
            metadata.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
            metadata.to_string()
        }

        /// A configuration of it.
        fn place(&self, extra: &str) -> Place {
            Place::new(&format!("{}/tenant", self.origin), &extra.replace("ORIGIN", &self.origin))
        }

        /// The paths that were asked for since the last look.
        fn paths(&self) -> Vec<String> {
            let asked = std::mem::take(&mut *self.asked.lock().unwrap());
            asked.into_iter().map(|seen| seen.path).collect()
        }
    }

    async fn answer(
        State((answers, asked)): State<Shared>,
        uri: Uri,
        request: Request,
    ) -> (StatusCode, String) {
        let agent = request.headers().get("user-agent").cloned();
        let agent = agent.map(|agent| agent.to_str().unwrap().to_owned()).unwrap_or_default();
        let body = axum::body::to_bytes(request.into_body(), 1 << 16).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        asked.lock().unwrap().push(Seen { path: uri.path().to_owned(), agent, body });
        let answer = answers.lock().unwrap().get(uri.path()).cloned();
        let (status, body) = answer.unwrap_or((404, "<html>not found</html>".to_owned()));
        (StatusCode::from_u16(status).unwrap(), body)
    }

    async fn log_in(place: &Place) -> Result<(), Error> {
        device::login(&place.config, "default", Display::Plain, &mut std::io::sink()).await
    }

    #[tokio::test]
    async fn metadata_are_found_at_the_address_of_rfc_8414_too() {
        for (status, body) in [(404, ""), (403, "{}"), (200, "<html>welcome</html>")] {
            let provider = Provider::start().await;
            provider.says(OPENID, status, body);
            provider.says(OAUTH, 200, &provider.metadata(json!({})));
            let place = provider.place("");
            let endpoints =
                discovery::resolve(&place.config.provider, Need::Browser).await.unwrap();
            assert_eq!(endpoints.token.as_str(), format!("{}/token", provider.origin));
            assert_eq!(provider.paths(), [OPENID, OAUTH]);
        }
    }

    #[tokio::test]
    async fn metadata_of_another_and_a_failing_server_are_not_asked_for_elsewhere() {
        let provider = Provider::start().await;
        provider.says(OAUTH, 200, &provider.metadata(json!({})));
        let other = provider.metadata(json!({"issuer": "https://evil.example"}));
        for (status, body, said) in [(200, &*other, "names another issuer"), (503, "", "503")] {
            provider.says(OPENID, status, body);
            let place = provider.place("");
            let error = discovery::resolve(&place.config.provider, Need::Device).await.unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(provider.paths(), [OPENID]);
        }
    }

    #[tokio::test]
    async fn where_nothing_is_published_the_error_names_the_addresses_and_the_settings() {
        let provider = Provider::start().await;
        for (need, extra, settings) in [
            (Need::Exchange, "", "set token_endpoint in [providers.demo]"),
            (Need::Browser, "", "set authorization_endpoint and token_endpoint in"),
            (
                Need::Device,
                "token_endpoint = \"ORIGIN/token\"",
                "set device_authorization_endpoint in",
            ),
        ] {
            let place = provider.place(extra);
            let error = discovery::resolve(&place.config.provider, need).await.unwrap_err();
            let error = chain::line(&error);
            for said in [&format!("{}{OPENID} (status 404)", provider.origin), OAUTH, settings] {
                assert!(error.contains(said), "{said}: {error}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_stated_does_not_depend_on_what_is_published() {
        let provider = Provider::start().await;
        provider.says("/token", 200, r#"{"access_token": "at", "refresh_token": "rt"}"#);
        let device = format!(
            "{{\"device_code\": \"d\", \"user_code\": \"A\", \"interval\": 1, \
             \"verification_uri\": \"{}/activate\"}}",
            provider.origin
        );
        provider.says("/device", 200, &device);
        let stated = "token_endpoint = \"ORIGIN/token\"\n\
                      device_authorization_endpoint = \"ORIGIN/device\"\n\
                      authorize_params = { audience = \"api\", prompt = \"login\" }";
        for (status, metadata) in [
            (404, String::new()),
            (500, String::new()),
            (200, provider.metadata(json!({"issuer": "https://evil.example"}))),
            (200, provider.metadata(json!({"revocation_endpoint": "http://id.example/"}))),
        ] {
            provider.says(OPENID, status, &metadata);
            let place = provider.place(stated);
            log_in(&place).await.unwrap();
            assert!(place.stored().unwrap().token.is_some());
        }
        for seen in provider.asked.lock().unwrap().iter() {
            let version = env!("CARGO_PKG_VERSION");
            assert_eq!(seen.agent, format!("torchbearer-refresher/{version}"), "{}", seen.path);
            let asks = seen.body.contains("audience=api") && !seen.body.contains("prompt");
            assert_eq!(asks, seen.path == "/device", "{}: {}", seen.path, seen.body);
        }
        // What is published adds what is not stated.
        let revoke = json!({"revocation_endpoint": format!("{}/revoke", provider.origin)});
        provider.says(OPENID, 200, &provider.metadata(revoke));
        let place = provider.place(stated);
        let found = discovery::resolve(&place.config.provider, Need::Device).await.unwrap();
        assert!(found.revocation.is_some() && found.authorization.is_some());
        // The other login takes an endpoint that is not stated.
        provider.says(OPENID, 404, "");
        let error = discovery::resolve(&place.config.provider, Need::Browser).await.unwrap_err();
        assert!(error.to_string().contains("set authorization_endpoint in"), "{error}");
    }

    #[tokio::test]
    async fn a_device_flow_that_is_not_published_can_be_stated() {
        let provider = Provider::start().await;
        provider.says(OPENID, 200, &provider.metadata(json!({})));
        let error = log_in(&provider.place("")).await.unwrap_err();
        assert!(matches!(error, Error::NoEndpoint { .. }));
        assert!(error.to_string().contains("set device_authorization_endpoint, or"), "{error}");
    }
}
