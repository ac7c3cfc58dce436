//! Which model a request asks for, where a client key is limited to some.
//!
//! A request that leaves open which model it means is refused: what one JSON reader overlooks may
//! be what the next one takes.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::client::ClientKey;
use crate::headers::Request;
use crate::json::Tree;

/// What the head of a request tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The key is good for it.
    Allowed,
    /// The key is not, or it does not say what it asks for.
    Refused,
    /// The body has to tell; see [`is_allowed_by_body`].
    Inspect,
}

/// Judges the head of a request; `has_body`: more follows.
pub fn judge(key: &ClientKey, request: &Request<'_>, has_body: bool) -> Verdict {
    if key.models.is_empty() {
        return Verdict::Allowed;
    }
    let mut is_named = false;
    for model in in_query(request.path) {
        is_named = true;
        if !model.is_some_and(|model| key.allows_model(&model)) {
            return Verdict::Refused;
        }
    }
    // Without a body, what reads or removes asks no model anything. A WebSocket does.
    let generates = request.is_websocket
        || ![b"GET".as_slice(), b"HEAD", b"OPTIONS", b"DELETE"].contains(&request.method);
    if has_body && !request.is_websocket {
        if request.is_encoded { Verdict::Refused } else { Verdict::Inspect }
    } else if generates && !is_named {
        Verdict::Refused
    } else {
        Verdict::Allowed
    }
}

/// Whether the body, JSON with one top-level `model`, asks for a model that the key is good for.
pub fn is_allowed_by_body(key: &ClientKey, body: &[u8]) -> bool {
    let named = serde_json::from_slice(body).unwrap_or(Named(None));
    named.0.is_some_and(|model| key.allows_model(&model))
}

/// The values of the query's parameters `model`, `None` for one that is not UTF-8.
fn in_query(target: &[u8]) -> impl Iterator<Item = Option<String>> {
    let query = target.splitn(2, |byte| *byte == b'?').nth(1).unwrap_or_default();
    query.split(|byte| b"&;".contains(byte)).filter_map(|pair| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        let name = decoded(parts.next().unwrap_or_default());
        let value = decoded(parts.next().unwrap_or_default());
        name.eq_ignore_ascii_case(b"model").then(|| String::from_utf8(value).ok())
    })
}

/// Percent-decodes (RFC 3986, section 2.1); what is no escape stays.
pub(crate) fn decoded(text: &[u8]) -> Vec<u8> {
    let digit =
        |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let escaped = match after {
            [high, low, ..] if *first == b'%' => digit(high).zip(digit(low)),
            _ => None,
        };
        if let Some((high, low)) = escaped {
            bytes.push((high << 4) | low);
            rest = rest.get(2..).unwrap_or_default();
        } else {
            bytes.push(*first);
        }
    }
    bytes
}

/// The one top-level `model` of a JSON object, if it is that. The rest is not kept: a body can be
/// large.
struct Named(Option<String>);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamedVisitor)
    }
}

struct NamedVisitor;

impl<'de> Visitor<'de> for NamedVisitor {
    type Value = Named;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named, A::Error> {
        let mut models = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            // Some readers take names in any case, and the last of several.
            if name.eq_ignore_ascii_case("model") {
                models.push((name, map.next_value::<Tree>()?));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Named(match models.as_slice() {
            [(name, model)] if name == "model" => model.text().map(str::to_owned),
            _ => None,
        }))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Named, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Named(None))
    }

    fn visit_unit<E>(self) -> Result<Named, E> {
        Ok(Named(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Named, E> {
        Ok(Named(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Named, E> {
        Ok(Named(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Named, E> {
        Ok(Named(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Named, E> {
        Ok(Named(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Named, E> {
        Ok(Named(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::Policy;
    use proptest::prelude::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn limited() -> ClientKey {
        let mut key = ClientKey::of_key("alice".parse().unwrap(), b"k");
        key.models = vec!["grok-4*".to_owned()];
        key
    }

    fn judged(method: &str, path: &str, more: &[(&str, &str)], has_body: bool) -> Verdict {
        let mut map = vec![
            (":method".to_owned(), method.as_bytes().to_vec()),
            (":path".to_owned(), path.as_bytes().to_vec()),
        ];
        map.extend(
            more.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())),
        );
        judge(&limited(), &Request::read(&map, &Policy::default()), has_body)
    }

    #[test]
    fn the_head_decides_where_there_is_no_body() {
        let websocket = [("connection", "upgrade"), ("upgrade", "websocket")];
        for (method, path, more, verdict) in [
            ("GET", "/v1/models", [].as_slice(), Verdict::Allowed),
            ("DELETE", "/v1/responses/1", &[], Verdict::Allowed),
            ("POST", "/v1/chat/completions", &[], Verdict::Refused),
            ("PUT", "/v1/x", &[], Verdict::Refused),
            ("GET", "/v1/realtime?model=grok-4-voice", &websocket, Verdict::Allowed),
            ("GET", "/v1/realtime?model=other", &websocket, Verdict::Refused),
            ("GET", "/v1/realtime", &websocket, Verdict::Refused),
            ("GET", "/v1/realtime?model=grok-4&model=other", &websocket, Verdict::Refused),
            ("GET", "/v1/realtime?a=1;model=other", &websocket, Verdict::Refused),
            ("GET", "/v1/realtime?mode%6C=other", &websocket, Verdict::Refused),
            ("GET", "/v1/realtime?MODEL=other", &websocket, Verdict::Refused),
            ("GET", "/v1/realtime?model=grok%2D4", &websocket, Verdict::Allowed),
            ("GET", "/v1/realtime?model=grok-4%ff", &websocket, Verdict::Refused),
            ("GET", "/v1/realtime?model=%zz", &websocket, Verdict::Refused),
            ("GET", "/v1/models?model", &[], Verdict::Refused),
        ] {
            assert_eq!(judged(method, path, more, false), verdict, "{method} {path}");
        }
    }

    #[test]
    fn a_body_is_looked_into_unless_it_cannot_be_read() {
        let path = "/v1/chat/completions";
        assert_eq!(judged("POST", path, &[], true), Verdict::Inspect);
        assert_eq!(judged("GET", path, &[], true), Verdict::Inspect);
        let encoded = [("content-encoding", "gzip")];
        assert_eq!(judged("POST", path, &encoded, true), Verdict::Refused);
        assert_eq!(judged("POST", "/v1/x?model=other", &[], true), Verdict::Refused);
        let any = ClientKey::of_key("bob".parse().unwrap(), b"b");
        assert_eq!(judge(&any, &Request::default(), true), Verdict::Allowed);
    }

    #[test]
    fn a_body_names_one_model_that_fits() {
        for (body, allowed) in [
            (r#"{"messages":[{"model":"x"}],"model":"grok-4-fast"}"#, true),
            (r#"{"model":"grok-4"}"#, true),
            (r#"{"\u006dodel":"grok-4"}"#, true),
            (r#"{"model":"grok-3"}"#, false),
            (r#"{"model":"grok-4","model":"grok-3"}"#, false),
            (r#"{"model":"grok-4","Model":"grok-3"}"#, false),
            (r#"{"model":"grok-4","\u006dodel":"grok-3"}"#, false),
            (r#"{"Model":"grok-4"}"#, false),
            (r#"{"model":["grok-4"]}"#, false),
            (r#"{"model":null}"#, false),
            (r#"{"model":"grok-4""#, false),
            (r#"{"model":"grok-4"} {"model":"grok-3"}"#, false),
            (r#"[{"model":"grok-4"}]"#, false),
            ("", false),
            ("model=grok-4", false),
        ] {
            assert_eq!(is_allowed_by_body(&limited(), body.as_bytes()), allowed, "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(
            body in proptest::collection::vec(any::<u8>(), 0..200),
            path in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            is_allowed_by_body(&limited(), &body);
            let _ = in_query(&path).count();
        }
    }
}
