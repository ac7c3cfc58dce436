//! The simulator over HTTP, as its users meet it.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::digest::s256;
use crate::{Options, Simulator};

mod api;
mod faults;
mod oauth;

const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const REDIRECT: &str = "http://127.0.0.1:56121/callback";
const CLIENT: &str = "torchbearer-demo";

/// A simulator and a client that follows no redirect.
struct World {
    simulator: Simulator,
    client: Client,
}

impl World {
    async fn new(options: Options) -> Self {
        let simulator = Simulator::start(options).await.unwrap();
        // Cargo unites features: in the workspace reqwest has TLS, but no provider for it. Only the
        // first installation counts; the others fail, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().redirect(Policy::none()).no_proxy().build().unwrap();
        Self { simulator, client }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.simulator.url())
    }

    async fn get(&self, path: &str, token: &str) -> Response {
        self.client.get(self.url(path)).bearer_auth(token).send().await.unwrap()
    }

    async fn post(&self, path: &str, token: &str, body: &Value) -> Response {
        self.client.post(self.url(path)).bearer_auth(token).json(body).send().await.unwrap()
    }

    async fn control(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let url = self.url(&format!("/_control{path}"));
        answer(self.client.post(url).json(body).send().await.unwrap()).await
    }

    async fn form(&self, path: &str, form: &[(&str, &str)]) -> Response {
        self.client.post(self.url(path)).form(form).send().await.unwrap()
    }

    async fn token(&self, form: &[(&str, &str)]) -> (StatusCode, Value) {
        answer(self.form("/oauth2/token", form).await).await
    }

    async fn refresh(&self, refresh_token: &str) -> (StatusCode, Value) {
        let grant = ("grant_type", "refresh_token");
        self.token(&[grant, ("client_id", CLIENT), ("refresh_token", refresh_token)]).await
    }

    async fn exchange(&self, code: &str, verifier: &str) -> (StatusCode, Value) {
        self.token(&[
            ("grant_type", "authorization_code"),
            ("client_id", CLIENT),
            ("redirect_uri", REDIRECT),
            ("code", code),
            ("code_verifier", verifier),
        ])
        .await
    }

    async fn authorize(&self, redirect_uri: &str) -> Response {
        let query = [
            ("client_id", CLIENT),
            ("redirect_uri", redirect_uri),
            ("response_type", "code"),
            ("state", "the state"),
            ("code_challenge", &s256(VERIFIER)),
            ("code_challenge_method", "S256"),
            ("plan", "generic"),
        ];
        self.client.get(self.url("/oauth2/authorize")).query(&query).send().await.unwrap()
    }

    /// Goes through the consent page; returns what the redirect says.
    async fn decide(&self, decision: &str) -> BTreeMap<String, String> {
        let page = self.authorize(REDIRECT).await.text().await.unwrap();
        let (_, rest) = page.split_once(r#"name="consent" value=""#).unwrap();
        let (id, _) = rest.split_once('"').unwrap();
        let form = [("consent", id), ("decision", decision)];
        let answer = self.form("/oauth2/consent", &form).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        let again = self.form("/oauth2/consent", &form).await;
        assert_eq!(again.status(), StatusCode::BAD_REQUEST, "a form is good once");
        redirected(&answer)
    }

    /// Sends bytes as they are; returns what came back, and how the connection ended.
    async fn raw(&self, request: &[u8]) -> (String, Result<usize, ErrorKind>) {
        let address = self.simulator.url().trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        let ended = stream.read_to_string(&mut answer).await;
        (answer, ended.map_err(|error| error.kind()))
    }

    /// The tokens of a login without the ceremony.
    fn grant(&self) -> (String, String) {
        let tokens = self.simulator.control().issue_grant();
        (text(&tokens, "access_token"), text(&tokens, "refresh_token"))
    }

    fn outcomes(&self) -> Vec<&'static str> {
        self.simulator.control().ledger().iter().map(|entry| entry.outcome).collect()
    }
}

async fn answer(response: Response) -> (StatusCode, Value) {
    (response.status(), serde_json::from_str(&response.text().await.unwrap()).unwrap())
}

fn redirected(response: &Response) -> BTreeMap<String, String> {
    let location = response.headers()["location"].to_str().unwrap();
    assert!(location.starts_with(&format!("{REDIRECT}?")), "{location}");
    url::Url::parse(location).unwrap().query_pairs().into_owned().collect()
}

fn text(object: &Value, member: &str) -> String {
    object[member].as_str().unwrap_or_else(|| panic!("no {member} in {object}")).to_owned()
}
