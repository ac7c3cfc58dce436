//! A provider by configuration alone: a client with a secret, parameters of its own, a private
//! certificate authority, and a proxy on the way.

#[cfg(test)]
#[expect(dead_code, reason = "each test program uses its part")]
mod harness;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::sync::{Arc, Mutex};

    use axum::Json;
    use axum::Router;
    use axum::extract::{Request, State};
    use filter::bundle::Credential;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::pki_types::PrivateKeyDer;
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsAcceptor;

    use super::harness::SOON;
    use super::harness::program::{Place, Program};

    const HOST: &str = "id.torchbearer.test";
    /// `client:s3%3Acret`, as RFC 6749, section 2.3.1, has it encoded.
    const BASIC: &str = "Basic Y2xpZW50OnMzJTNBY3JldA==";

    /// One request as it arrived: path, `Authorization`, body.
    type Seen = Arc<Mutex<Vec<(String, Option<String>, String)>>>;

    /// A provider that grants everything.
    struct Provider {
        address: String,
        seen: Seen,
    }

    #[derive(Clone)]
    struct Shared {
        issuer: String,
        methods: Vec<&'static str>,
        seen: Seen,
    }

    impl Provider {
        async fn start(issuer: Option<&str>, methods: &[&'static str]) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let seen = Seen::default();
            let issuer = issuer.map_or(format!("http://{address}"), str::to_owned);
            let shared = Shared { issuer, methods: methods.to_vec(), seen: seen.clone() };
            let router = Router::new().fallback(answer).with_state(shared);
            tokio::spawn(async move { axum::serve(listener, router).await });
            Self { address, seen }
        }

        fn of(&self, path: &str) -> Vec<(Option<String>, String)> {
            let seen = self.seen.lock().unwrap();
            let same = seen.iter().filter(|(at, ..)| at == path);
            same.map(|(_, authorization, body)| (authorization.clone(), body.clone())).collect()
        }
    }

    async fn answer(State(shared): State<Shared>, request: Request) -> Json<Value> {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 16).await.unwrap();
        let authorization = head.headers.get("authorization");
        let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
        let path = head.uri.path().to_owned();
        let body = String::from_utf8(body.to_vec()).unwrap();
        shared.seen.lock().unwrap().push((path.clone(), authorization, body));
        let issuer = &shared.issuer;
        Json(match path.as_str() {
            "/.well-known/openid-configuration" => json!({
                "issuer": issuer,
                "token_endpoint": format!("{issuer}/token"),
                "device_authorization_endpoint": format!("{issuer}/device"),
                "revocation_endpoint": format!("{issuer}/revoke"),
                "token_endpoint_auth_methods_supported": shared.methods,
            }),
            "/device" => json!({"device_code": "dc", "user_code": "ABCD", "interval": 1,
                "verification_uri": format!("{issuer}/activate"), "expires_in": 60}),
            "/token" => json!({"access_token": "at", "refresh_token": "rt",
                "token_type": "Bearer", "expires_in": 3600}),
            _ => json!({}),
        })
    }

    async fn run(mut command: Command, arguments: &[&str]) -> (i32, String) {
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = tokio::time::timeout(SOON * 3, output).await.unwrap().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), text)
    }

    /// The place's configuration names the secret, which is beside it.
    fn place(provider: &Provider, extra: &str) -> Place {
        let extra = format!(
            "client_id = \"client\"\nclient_secret_file = \"DIRECTORY/secret\"\n\
             token_params = {{ audience = \"the api\" }}\n{extra}"
        );
        let place = Place::new(&format!("http://{}", provider.address), &extra);
        std::fs::write(secret_of(&place), "s3:cret\n").unwrap();
        open_to(&place, 0o600);
        place
    }

    fn open_to(place: &Place, mode: u32) {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(secret_of(place), mode).unwrap();
    }

    fn secret_of(place: &Place) -> &Path {
        place.config.provider.client_secret_file.as_deref().unwrap()
    }

    #[tokio::test]
    async fn a_secret_goes_where_the_metadata_or_the_file_say() {
        for (methods, extra, in_header) in [
            (&["client_secret_basic", "client_secret_post"][..], "", true),
            (&[], "", true),
            (&["client_secret_post"], "", false),
            (
                &["client_secret_basic"],
                "token_endpoint_auth_method = \"client_secret_post\"",
                false,
            ),
            (&["client_secret_post"], "token_endpoint_auth_method = \"client_secret_basic\"", true),
        ] {
            let provider = Provider::start(None, methods).await;
            let place = place(&provider, extra);
            let (code, text) = run(place.command(), &["login", "--device"]).await;
            assert_eq!(code, 0, "{text}");
            let (code, _) = run(place.command(), &["logout"]).await;
            assert_eq!(code, 0);
            assert!(!text.contains("s3") && !text.contains("cret"), "{text}");
            let [(authorization, body)] = &provider.of("/token")[..] else { panic!("one") };
            assert!(body.contains("audience=the+api"), "{body}");
            assert_eq!(authorization.as_deref(), in_header.then_some(BASIC), "{methods:?} {extra}");
            assert_eq!(body.contains("client_secret=s3%3Acret"), !in_header, "{body}");
            assert_eq!(body.contains("client_id="), !in_header, "{body}");
            for path in ["/device", "/revoke"] {
                let [(authorization, body)] = &provider.of(path)[..] else { panic!("{path}") };
                assert_eq!(authorization.as_deref(), in_header.then_some(BASIC), "{path}");
                assert!(!body.contains("audience"), "{path}: {body}");
            }
        }
    }

    #[tokio::test]
    async fn a_refresh_uses_the_secret_and_the_method_of_the_login() {
        let provider = Provider::start(None, &["client_secret_post"]).await;
        let place = place(&provider, "");
        let (code, text) = run(place.command(), &["login", "--device"]).await;
        assert_eq!(code, 0, "{text}");
        let mut grant = place.stored().unwrap();
        let token = grant.token.as_mut().unwrap();
        token.expires_at = token.obtained_at - 10;
        token.obtained_at -= 20;
        grant.generation += 1;
        place.store().lock().await.unwrap().save(&grant).unwrap();
        // A secret that others can read is not used, and that is said.
        open_to(&place, 0o644);
        let socket = place.socket("s.sock");
        let mut program = Program::serve(place.command(), socket);
        let refused = |state: &Credential| match state {
            Credential::Unavailable { reason, .. } => reason == "client_secret",
            _ => false,
        };
        program.settle(refused).await.unwrap();
        assert_eq!(provider.of("/token").len(), 1);
        open_to(&place, 0o600);
        program.settle(|state| matches!(state, Credential::Ready(_))).await.unwrap();
        let requests = provider.of("/token");
        let (authorization, body) = &requests[1];
        assert_eq!(*authorization, None);
        assert!(body.starts_with("grant_type=refresh_token&refresh_token=rt&audience=the+api&"));
        assert!(body.ends_with("client_id=client&client_secret=s3%3Acret"), "{body}");
    }

    #[tokio::test]
    async fn a_secret_that_others_can_read_is_refused_before_anything_is_sent() {
        let provider = Provider::start(None, &[]).await;
        let place = place(&provider, "");
        open_to(&place, 0o640);
        let (code, text) = run(place.command(), &["login", "--device"]).await;
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("others can read this secret; accepted: a file that only"), "{text}");
        assert_eq!(provider.of("/device").len(), 0);
    }

    /// A certificate authority and a server certificate of it.
    fn certificates() -> (String, rustls::ServerConfig) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let own = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        let server = params.signed_by(&own, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(own.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![server.der().clone()], key)
            .unwrap();
        (authority.pem(), config)
    }

    /// A proxy that ends the TLS of every tunnel and passes on to the provider; what it was asked
    /// for.
    async fn proxy(
        tls: rustls::ServerConfig,
        upstream: String,
    ) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, acceptor) = (asked.clone(), TlsAcceptor::from(Arc::new(tls)));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (log, acceptor, upstream) = (log.clone(), acceptor.clone(), upstream.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    let line = String::from_utf8_lossy(&head);
                    log.lock().unwrap().push(line.lines().next().unwrap_or_default().to_owned());
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                    let mut inside = acceptor.accept(stream).await?;
                    let mut provider = TcpStream::connect(upstream).await?;
                    tokio::io::copy_bidirectional(&mut inside, &mut provider).await
                });
            }
        });
        (address, asked)
    }

    #[tokio::test]
    async fn a_proxy_and_a_private_authority_are_honoured() {
        let issuer = format!("https://{HOST}");
        let provider = Provider::start(Some(&issuer), &[]).await;
        let (authority, tls) = certificates();
        let (proxy, asked) = proxy(tls, provider.address.clone()).await;
        let files = tempfile::tempdir().unwrap();
        let ca_file = files.path().join("ca.pem");
        std::fs::write(&ca_file, authority).unwrap();
        let trusting = Place::new(&issuer, &format!("ca_file = \"{}\"", ca_file.display()));
        let through = |place: &Place, variables: &[(&str, &str)]| {
            let mut command = place.command();
            command.env("HTTPS_PROXY", format!("http://{proxy}"));
            command.envs(variables.iter().copied());
            command
        };
        let (code, text) = run(through(&trusting, &[]), &["login", "--device"]).await;
        assert_eq!(code, 0, "{text}");
        let tunnel = format!("CONNECT {HOST}:443 HTTP/1.1");
        let tunnels = std::mem::take(&mut *asked.lock().unwrap());
        assert!(tunnels.len() >= 3 && tunnels.iter().all(|line| *line == tunnel), "{tunnels:?}");
        assert_eq!(provider.of("/token").len(), 1);

        // Without the authority nothing is said through the tunnel.
        let strict = Place::new(&issuer, "");
        let (code, text) = run(through(&strict, &[]), &["login", "--device"]).await;
        assert_eq!(code, 6, "{text}");
        assert_eq!(asked.lock().unwrap().len(), 1);
        assert_eq!(provider.of("/token").len(), 1);

        // What NO_PROXY names is asked for directly, and nobody is there.
        asked.lock().unwrap().clear();
        let direct = through(&trusting, &[("NO_PROXY", HOST)]);
        let (code, text) = run(direct, &["login", "--device"]).await;
        assert_eq!(code, 6, "{text}");
        assert_eq!(*asked.lock().unwrap(), [""; 0]);

        std::fs::write(&ca_file, "no certificate").unwrap();
        let (code, text) = run(through(&trusting, &[]), &["login", "--device"]).await;
        assert_ne!(code, 0);
        assert!(text.contains("ca_file") && text.contains("accepted: a PEM file"), "{text}");
    }
}
