//! Paths: what answers them, and what nobody does.

use anyhow::Result;
use tests::{Message, Protocol};

use crate::proof::{
    arrived_once, forget, is_malformed, nothing_arrived, send, serves, with_key, with_the_key,
};

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answerer {
    /// The refresher.
    Refresher,
    /// The API, asked for this very path.
    Api,
    /// Nobody: it is refused as ambiguous, or malformed.
    Nobody,
}

use Answerer::{Api, Nobody, Refresher};

/// Only the two paths themselves, with any query, are the refresher's. What resembles them is the
/// API's where it can be read in one way only, and refused where it cannot.
const PATHS: &[(&str, Answerer)] = &[
    ("/health", Refresher),
    ("/health?x", Refresher),
    ("/health?/../x", Refresher),
    ("/ready", Refresher),
    ("/health/", Api),
    ("/healthz", Api),
    ("/health;x", Api),
    ("/HEALTH", Api),
    ("/Health", Api),
    ("/%68ealth", Api),
    ("/health%3fx", Api),
    ("/health%23x", Api),
    ("/health%20", Api),
    ("/health%25", Api),
    ("/v1/health", Api),
    ("/v1/echo?path=/../health", Api),
    ("/v1/bundle?generation=0", Api),
    ("/v1/rejections", Api),
    ("/health/../health", Nobody),
    ("/v1/../health", Nobody),
    ("/v1/%2e%2e/health", Nobody),
    ("/v1/%2E%2e/health", Nobody),
    ("/v1/.%2e/health", Nobody),
    ("/%2e%2e/health", Nobody),
    ("/%2e/health", Nobody),
    ("/./health", Nobody),
    ("/health/.", Nobody),
    ("/health/..", Nobody),
    ("//health", Nobody),
    ("/health//", Nobody),
    ("///health", Nobody),
    ("/health%00", Nobody),
    ("/health%2f", Nobody),
    ("/v1%2F..%2Fhealth", Nobody),
    ("/v1/..%5chealth", Nobody),
    ("/v1/..\\health", Nobody),
    ("\\health", Nobody),
    ("/\\health", Nobody),
    ("/v1/..;/health", Nobody),
    ("/v1/..;a=b/health", Nobody),
    ("/v1/..%3b/health", Nobody),
    ("/;x/health", Nobody),
    ("/v1/%252e%252e/health", Nobody),
    ("/v1/%c0%ae%c0%ae/health", Nobody),
    ("/v1/\u{ff0e}\u{ff0e}/health", Nobody),
    ("/health#x", Nobody),
    ("/v1/echo#/../health", Nobody),
    ("health", Nobody),
    ("", Nobody),
    ("*", Nobody),
    ("/v1/echo /health", Nobody),
    ("/v1/echo\t/health", Nobody),
    ("/v1/echo HTTP/1.1", Nobody),
];

/// Whole URLs, which only HTTP/1.1 has in its request line (RFC 9112, section 3.2.2). The host in
/// them counts no more than `Host`.
const URLS: &[(&str, Answerer)] = &[
    ("http://elsewhere.example/health", Refresher),
    ("http://elsewhere.example/health/", Api),
    ("http://elsewhere.example//health", Nobody),
    ("http://elsewhere.example/v1/../health", Nobody),
    ("http://elsewhere.example/%2e%2e/health", Nobody),
    ("http://elsewhere.example\\health", Nobody),
    ("http:///health", Nobody),
    ("http:/health", Nobody),
    ("ftp://elsewhere.example/health", Nobody),
];

#[tokio::test]
async fn h10_no_path_gets_a_management_answer_by_accident() -> Result<()> {
    let stack = with_key().await?;
    let http1 = URLS.iter().chain(PATHS).map(|case| (Protocol::Http1, case));
    let http2 = PATHS.iter().map(|case| (Protocol::Http2, case));
    for (protocol, (path, answerer)) in http1.chain(http2) {
        let outcome = send(&stack, protocol, &with_the_key(Message::get(path))).await?;
        let what = format!("{protocol:?} {path}: {outcome}");
        let managed = outcome.answer().is_some_and(|answer| {
            let body = answer.json();
            body.get("oauth_refresh").is_some() || body.get("ready").is_some()
        });
        assert_eq!(managed, *answerer == Refresher, "{what}");
        match answerer {
            Refresher => nothing_arrived(&stack)?,
            Api => {
                let expected = path.strip_prefix("http://elsewhere.example").unwrap_or(path);
                assert_eq!(arrived_once(&stack)?.path, expected, "{what}");
            }
            Nobody => {
                assert!(is_malformed(&outcome), "{what}");
                nothing_arrived(&stack)?;
            }
        }
    }
    serves(&stack).await
}

#[tokio::test]
async fn h10_a_query_is_no_path() -> Result<()> {
    let stack = with_key().await?;
    let url = "http://elsewhere.example?/health";
    let outcome = send(&stack, Protocol::Http1, &with_the_key(Message::get(url))).await?;
    assert_eq!(outcome.status(), 404, "{outcome}");
    nothing_arrived(&stack)
}

#[tokio::test]
async fn h10_the_management_paths_want_a_key_as_well_and_only_tell() -> Result<()> {
    let stack = with_key().await?;
    for protocol in Protocol::ALL {
        for path in ["/health", "/ready", "/health?deep=1"] {
            let outcome = send(&stack, protocol, &Message::get(path)).await?;
            assert_eq!(outcome.status(), 401, "{protocol:?} {path}: {outcome}");
            for method in ["POST", "PUT", "DELETE", "PATCH"] {
                let message = with_the_key(Message::new(method, path));
                let outcome = send(&stack, protocol, &message).await?;
                assert_eq!(outcome.status(), 405, "{protocol:?} {method} {path}: {outcome}");
            }
            nothing_arrived(&stack)?;
        }
    }
    forget(&stack)
}
