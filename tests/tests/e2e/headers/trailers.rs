//! Trailers: headers that come after everything has been decided.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tests::{Message, Plan, Protocol, Stack};

use crate::proof::{KEY, PLANTED, arrived_once, send, serves, with_key, with_the_key};

const STRIPPED: [&str; 9] = [
    "authorization",
    "cookie",
    "x-api-key",
    "x-proxy-api-key",
    "proxy-authorization",
    "x-forwarded-for",
    "x-forwarded-proto",
    "forwarded",
    "x-torchbearer-credential",
];

/// A POST with trailers that stay here, and one that need not.
fn message() -> Message {
    let message = with_the_key(Message::post("/v1/echo", "hello")).with_trailer("x-checksum", "1");
    STRIPPED.iter().fold(message, |message, name| message.with_trailer(name, PLANTED))
}

#[tokio::test]
async fn h13_trailers_with_credentials_are_not_forwarded() -> Result<()> {
    let stack = with_key().await?;
    for protocol in Protocol::ALL {
        let outcome = send(&stack, protocol, &message()).await?;
        assert_eq!(outcome.status(), 200, "{protocol:?}: {outcome}");
        let request = arrived_once(&stack)?;
        assert_eq!(request.body_bytes, 5, "{protocol:?}");
        for name in STRIPPED {
            let found = request.trailers.iter().any(|(known, _)| known == name);
            assert!(!found, "{protocol:?} {name}");
        }
    }
    // A key in the trailers comes too late.
    let late = Message::post("/v1/echo", "hello").with_trailer("x-proxy-api-key", KEY);
    for protocol in Protocol::ALL {
        assert_eq!(send(&stack, protocol, &late).await?.status(), 401, "{protocol:?}");
    }
    serves(&stack).await
}

/// The bootstrap of somebody who lets trailers pass.
fn with_trailers(bootstrap: &str) -> Result<String> {
    const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    const UPSTREAM: &str = "/static_resources/clusters/0/typed_extension_protocol_options/\
                            envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let mut bootstrap: Value = serde_json::from_str(bootstrap)?;
    let trailers = json!({"enable_trailers": true});
    bootstrap.pointer_mut(MANAGER).context("the manager")?["http_protocol_options"] =
        trailers.clone();
    bootstrap.pointer_mut(UPSTREAM).context("the upstream")?["explicit_http_config"] =
        json!({"http_protocol_options": trailers});
    Ok(bootstrap.to_string())
}

#[tokio::test]
async fn h13_where_trailers_pass_those_with_credentials_do_not() -> Result<()> {
    let mut stack =
        Stack::prepare(Plan { client_keys: vec![("alice", KEY)], ..Plan::default() }).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    stack.start_envoy_with(&with_trailers(&stack.bootstrap()?)?).await?;
    for protocol in Protocol::ALL {
        let outcome = send(&stack, protocol, &message()).await?;
        assert_eq!(outcome.status(), 200, "{protocol:?}: {outcome}");
        let trailers = arrived_once(&stack)?.trailers;
        assert_eq!(trailers, [("x-checksum".to_owned(), "1".to_owned())], "{protocol:?}");
    }
    serves(&stack).await
}
