//! The refresher's own pages behind a gate: which of them stand open, and how the refresher itself
//! gets in for its check of the whole way.
//!
//! Both are looked at only after the gate has decided, and change only what it refused for want of
//! a client key. Whatever else it refuses stays refused.

use std::rc::Rc;

use serde::{Deserialize, Deserializer, de};

use crate::client::ClientKey;
use crate::gate::{Decision, bearer_token};
use crate::headers::Request;
use crate::refusal::Refusal;

/// The request targets that can be opened, and nothing that only begins like one of them.
pub const PAGES: [&str; 4] = ["/health", "/health?deep=1", "/ready", "/metrics"];

/// The targets of [`PAGES`] that need no client key. Default: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicPaths(Vec<&'static str>);

/// What the targets that can be opened are, for who has stated another.
pub const ACCEPTED: &str = "/health, /health?deep=1, /ready, /metrics";

impl PublicPaths {
    /// Takes targets as they are written in a configuration; none of them, if one is not of
    /// [`PAGES`].
    pub fn of(targets: &[String]) -> Option<Self> {
        let page = |found: &String| PAGES.into_iter().find(|page| page == found);
        targets.iter().map(page).collect::<Option<_>>().map(Self)
    }

    /// The targets.
    pub fn targets(&self) -> &[&'static str] {
        &self.0
    }

    fn open(&self, request: &Request<'_>) -> bool {
        matches!(request.method, b"GET" | b"HEAD")
            && self.0.iter().any(|target| target.as_bytes() == request.path)
    }
}

impl<'de> Deserialize<'de> for PublicPaths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let refused =
            || de::Error::custom("public_paths accepts /health, /health?deep=1, /ready, /metrics");
        Self::of(&Vec::deserialize(deserializer)?).ok_or_else(refused)
    }
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// What the gate has decided.
    Decided(Decision<'a>),
    /// It may go on without a client key, and gets no token: it leads to the refresher or nowhere.
    Public,
}

/// Looks at what the gate has decided again. `probe` is the refresher's own way in.
pub fn reconsider<'a>(
    decision: Decision<'a>,
    request: &Request<'_>,
    public: &PublicPaths,
    probe: Option<&'a Rc<ClientKey>>,
) -> Entry<'a> {
    let probing = || probe.filter(|probe| is_probe(probe, request));
    match decision {
        Decision::Refuse(Refusal::INVALID_CLIENT_KEY) => match probing() {
            Some(probe) => Entry::Decided(Decision::Admit(Some(probe))),
            None if public.open(request) => Entry::Public,
            None => Entry::Decided(decision),
        },
        Decision::Forbid(_, Refusal::PATH_NOT_ALLOWED) if public.open(request) => Entry::Public,
        // Where nobody needs a key, it still tells whose request this is.
        Decision::Admit(None) => Entry::Decided(Decision::Admit(probing())),
        decided => Entry::Decided(decided),
    }
}

/// Whether this is the one request that the probe's key is good for.
fn is_probe(probe: &Rc<ClientKey>, request: &Request<'_>) -> bool {
    let its_path = |path: &String| path.as_bytes() == request.path;
    request.method == b"GET"
        && probe.paths.iter().any(its_path)
        && bearer_token(request.authorization).is_some_and(|key| probe.is_shown_by(key))
}

/// A request's method as a metric shows it: one of those that are known, else `other`.
pub fn method_label(method: &[u8]) -> &'static str {
    const KNOWN: [&str; 9] =
        ["POST", "GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| known.as_bytes() == method).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{Connection, Keys, decide};
    use crate::headers::Policy;
    use crate::serving::Published;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    struct At(&'static str);

    impl Connection for At {
        fn local_address(&self) -> Option<Vec<u8>> {
            Some(self.0.into())
        }

        fn certificate_names(&self) -> Vec<Vec<u8>> {
            Vec::new()
        }
    }

    const PROBE: &str = "probe-key";

    /// What becomes of a request at a gate with these public paths; with keys, or without.
    fn enters(keyed: bool, public: &[&str], local: &'static str, request: [&str; 4]) -> String {
        let keys = [Rc::new(ClientKey::of_key("alice".parse().unwrap(), b"alice-key"))];
        let probe = Rc::new(ClientKey::of_probe(PROBE.as_bytes(), "/v1/models").into_probe());
        let [method, path, host, key] = request;
        let mut map = vec![
            (":method".to_owned(), method.into()),
            (":path".to_owned(), path.into()),
            (":authority".to_owned(), host.into()),
        ];
        if !key.is_empty() {
            map.push(("authorization".to_owned(), format!("Bearer {key}").into_bytes()));
        }
        let request = Request::read(&map, &Policy::default());
        let published = if keyed { Published::Managed(&keys) } else { Published::Unmanaged };
        let decision = decide(Keys { configured: &[], published }, &request, 1000, &At(local));
        let public: Vec<_> = public.iter().map(|path| (*path).to_owned()).collect();
        let public = PublicPaths::of(&public).unwrap();
        match reconsider(decision, &request, &public, Some(&probe)) {
            Entry::Public => "public".to_owned(),
            Entry::Decided(Decision::Admit(Some(client))) => client.id.as_str().to_owned(),
            Entry::Decided(Decision::Admit(None)) => "anybody".to_owned(),
            Entry::Decided(Decision::Refuse(refusal)) => refusal.status.to_string(),
            Entry::Decided(other) => format!("{other:?}"),
        }
    }

    const LOCAL: &str = "127.0.0.1:9996";
    const FAR: &str = "10.0.0.1:9996";

    #[test]
    fn a_public_path_is_open_as_it_is_written_and_nothing_else_is() {
        let enters = |public, method, path| enters(true, public, FAR, [method, path, "a", ""]);
        for (path, public) in [
            ("/health", &["/health"]),
            ("/health?deep=1", &["/health?deep=1"]),
            ("/ready", &["/ready"]),
            ("/metrics", &["/metrics"]),
        ] {
            assert_eq!(enters(public, "GET", path), "public", "{path}");
            assert_eq!(enters(public, "HEAD", path), "public", "{path}");
            assert_eq!(enters(&[], "GET", path), "401", "{path}");
            for method in ["POST", "PUT", "OPTIONS", "get"] {
                assert_eq!(enters(public, method, path), "401", "{method} {path}");
            }
        }
        for path in [
            "/health?deep=1",
            "/health?",
            "/health?a=b",
            "/health/",
            "/Health",
            "/healthz",
            "/ready",
            "/v1/models",
            "/",
        ] {
            assert_eq!(enters(&["/health"], "GET", path), "401", "{path}");
        }
        assert_eq!(enters(&["/health"], "GET", "/v1/../health"), "400");
        assert_eq!(enters(&["/health"], "TRACE", "/health"), "405");
    }

    #[test]
    fn what_is_refused_for_another_reason_than_the_key_stays_refused() {
        let health = |local, host| enters(false, &["/health"], local, ["GET", "/health", host, ""]);
        assert_eq!(health(FAR, "localhost"), "503");
        assert_eq!(health(LOCAL, "evil.example"), "421");
        assert_eq!(health(LOCAL, "localhost"), "anybody");
    }

    #[test]
    fn only_the_pages_can_be_public() {
        for path in ["/v1/models", "/health/", "", "/health?deep=2", "/HEALTH", "*"] {
            assert_eq!(PublicPaths::of(&["/ready".to_owned(), path.to_owned()]), None, "{path}");
        }
    }

    #[test]
    fn the_probe_opens_one_request_and_is_no_client_key() {
        let probe = |keyed, local, method, path| {
            enters(keyed, &[], local, [method, path, "localhost", PROBE])
        };
        assert_eq!(probe(true, FAR, "GET", "/v1/models"), "(probe)");
        assert_eq!(probe(false, LOCAL, "GET", "/v1/models"), "(probe)");
        for (method, path) in [
            ("POST", "/v1/models"),
            ("HEAD", "/v1/models"),
            ("GET", "/v1/models/grok-4"),
            ("GET", "/v1/models?a"),
            ("GET", "/v1/chat/completions"),
            ("GET", "/health"),
            ("GET", "/metrics"),
        ] {
            assert_eq!(probe(true, FAR, method, path), "401", "{method} {path}");
            assert_eq!(probe(false, LOCAL, method, path), "anybody", "{method} {path}");
        }
        // Where there are no client keys, it does not make up for them.
        assert_eq!(probe(false, FAR, "GET", "/v1/models"), "503");
        let foreign = ["GET", "/v1/models", "evil.example", PROBE];
        assert_eq!(enters(false, &[], LOCAL, foreign), "421");
        for key in ["", "probe-ke", "probe-key1", "PROBE-KEY"] {
            let wrong = ["GET", "/v1/models", "localhost", key];
            assert_eq!(enters(true, &[], FAR, wrong), "401", "{key}");
        }
    }

    #[test]
    fn what_is_accepted_is_told() {
        assert_eq!(ACCEPTED, PAGES.join(", "));
    }

    #[test]
    fn methods_are_few() {
        for (method, label) in [
            (b"GET".as_slice(), "GET"),
            (b"DELETE", "DELETE"),
            (b"get", "other"),
            (b"", "other"),
            (b"\xff\x00;status=200", "other"),
            (b"PROPFIND", "other"),
        ] {
            assert_eq!(method_label(method), label);
        }
    }
}
