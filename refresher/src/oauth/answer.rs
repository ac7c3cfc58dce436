//! What a token endpoint answers (RFC 6749, sections 5.1 and 5.2), read leniently.

use filter::bundle::AccessToken;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::oauth::{ErrorCode, lifetime, retry_after};
use crate::secret::Secret;

/// A provider's answer, as it came.
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The value of `Retry-After`, if there was one.
    pub retry_after: Option<String>,
    /// The body, bounded by whoever read it.
    pub body: Zeroizing<Vec<u8>>,
}

/// What the answer of a token endpoint amounts to.
#[derive(Debug)]
pub enum Answer {
    /// Tokens.
    Granted(Granted),
    /// An error in OAuth's own form: a top-level string `error`.
    Error {
        /// The HTTP status that came with it.
        status: u16,
        /// The code.
        code: ErrorCode,
        /// The wait that the provider asks for, in seconds.
        retry_after: Option<u64>,
    },
    /// Anything else: a page, half a document, a redirect.
    Unusable {
        /// The HTTP status.
        status: u16,
        /// The wait that the provider asks for, in seconds.
        retry_after: Option<u64>,
    },
}

/// What a token endpoint granted. At least one of the tokens is there.
#[derive(Debug)]
pub struct Granted {
    /// The access token, if there is a usable one.
    pub access_token: Option<AccessToken>,
    /// A refresh token, if there is a new one.
    pub refresh_token: Option<Secret>,
    /// The life of the access token, in seconds from the time that it was read for.
    pub life_s: u64,
    /// The scope, if the provider says it.
    pub scope: Option<String>,
}

/// Every field may be of any type: one that is wrong must not cost the others.
#[derive(Deserialize)]
struct Wire {
    access_token: Option<Value>,
    refresh_token: Option<Value>,
    token_type: Option<Value>,
    expires_in: Option<Value>,
    scope: Option<Value>,
    error: Option<Value>,
}

/// Reads an answer that arrived at `unix`, in Unix seconds.
pub fn read(response: &Response, unix: u64) -> Answer {
    read_since(response, unix, unix)
}

/// The same, with the life of a token counted from `since`, in Unix seconds: it may have been
/// granted before it arrived.
pub fn read_since(response: &Response, unix: u64, since: u64) -> Answer {
    let status = response.status;
    let retry_after =
        response.retry_after.as_deref().and_then(|value| retry_after::parse(value, unix));
    let unusable = Answer::Unusable { status, retry_after };
    let Ok(mut wire) = serde_json::from_slice::<Wire>(&response.body) else {
        return unusable;
    };
    let error = wire.error.take();
    // Some providers have an empty `error` beside the tokens, of which this may be the only copy.
    if let (200, Some(granted)) = (status, granted(wire, since)) {
        return Answer::Granted(granted);
    }
    let Some(Value::String(code)) = error else {
        return unusable;
    };
    ErrorCode::parse(&code).map_or(unusable, |code| Answer::Error { status, code, retry_after })
}

fn granted(wire: Wire, since: u64) -> Option<Granted> {
    // The type is required, but a token without one cannot be meant for anything else. One of
    // another type could not be presented by our filter, while the refresh token still counts.
    let bearer = match &wire.token_type {
        Some(Value::String(name)) => name.eq_ignore_ascii_case("bearer"),
        other => other.is_none(),
    };
    let access_token = text(wire.access_token)
        .filter(|_| bearer)
        .and_then(|token| token.expose().parse::<AccessToken>().ok());
    let refresh_token = text(wire.refresh_token).filter(|token| !token.expose().is_empty());
    if access_token.is_none() && refresh_token.is_none() {
        return None;
    }
    let exposed = access_token.as_ref().map_or("", AccessToken::expose);
    let life_s = lifetime::seconds(wire.expires_in.as_ref(), exposed, since);
    let scope = text(wire.scope).map(|scope| scope.expose().to_owned());
    Some(Granted { access_token, refresh_token, life_s, scope })
}

fn text(value: Option<Value>) -> Option<Secret> {
    match value {
        Some(Value::String(text)) => Some(Secret::new(text)),
        _ => None,
    }
}

/// Whether a refresh that was answered like this can never succeed with the same refresh token.
///
/// RFC 6749, section 5.2: such an error comes with status 400, or 401 for the client's
/// authentication. Some providers send errors with 200. The same words in any other answer are
/// those of a gateway or a firewall, which says nothing about the grant.
pub fn is_terminal(status: u16, code: &ErrorCode) -> bool {
    matches!(status, 200 | 400 | 401) && matches!(code.as_str(), "invalid_grant" | "invalid_client")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn response(status: u16, body: &str) -> Response {
        Response { status, retry_after: None, body: Zeroizing::new(body.as_bytes().to_vec()) }
    }

    fn terminal(status: u16, body: &str) -> bool {
        match read(&response(status, body), 0) {
            Answer::Error { status, code, .. } => is_terminal(status, &code),
            _ => false,
        }
    }

    #[test]
    fn only_a_top_level_error_of_two_is_terminal() {
        for (status, body, expected) in [
            (400, r#"{"error":"invalid_grant"}"#, true),
            (400, r#"{"error":"invalid_grant","error_description":"gone"}"#, true),
            (401, r#"{"error":"invalid_client"}"#, true),
            (200, r#"{"error":"invalid_grant"}"#, true),
            (400, "", false),
            (400, "{}", false),
            (400, r#"{"error":{"code":"invalid_grant"}}"#, false),
            (400, r#"{"error":{"error":"invalid_grant"}}"#, false),
            (400, r#"{"detail":"invalid_grant"}"#, false),
            (400, r#"["invalid_grant"]"#, false),
            (400, r#"{"error":"invalid_request"}"#, false),
            (400, "invalid_grant", false),
            (401, "<html>invalid_grant</html>", false),
            (403, r#"{"error":"invalid_grant"}"#, false),
            (429, r#"{"error":"invalid_grant"}"#, false),
            (500, r#"{"error":"invalid_grant"}"#, false),
            (503, r#"{"error":"invalid_grant"}"#, false),
        ] {
            assert_eq!(terminal(status, body), expected, "{status} {body}");
        }
    }

    #[test]
    fn a_refresh_token_survives_whatever_is_beside_it() {
        for rest in [
            r#""access_token":"at","token_type":"Bearer","expires_in":"soon""#,
            r#""access_token":"at","expires_in":{},"scope":7"#,
            r#""access_token":12,"token_type":"bearer""#,
            r#""access_token":"with space""#,
            r#""access_token":"at","token_type":"mac""#,
            r#""access_token":null"#,
            r#""id_token":"x""#,
            r#""access_token":"at","error":"""#,
            r#""access_token":"at","error":null,"error_description":"none""#,
        ] {
            let body = format!(r#"{{"refresh_token":"rt2",{rest}}}"#);
            let Answer::Granted(granted) = read(&response(200, &body), 0) else {
                panic!("granted: {body}");
            };
            assert_eq!(granted.refresh_token.unwrap().expose(), "rt2", "{body}");
        }
    }

    #[test]
    fn tokens_count_only_in_an_answer_of_200() {
        let body = r#"{"access_token":"at","token_type":"bearer","expires_in":60}"#;
        let Answer::Granted(granted) = read(&response(200, body), 0) else { panic!("granted") };
        assert_eq!(granted.access_token.unwrap().expose(), "at");
        assert_eq!((granted.life_s, granted.refresh_token), (60, None));
        for status in [201, 302, 400, 500] {
            assert!(matches!(read(&response(status, body), 0), Answer::Unusable { .. }));
        }
        assert!(matches!(read(&response(200, "{}"), 0), Answer::Unusable { .. }));
    }

    #[test]
    fn a_life_is_counted_from_when_the_token_was_granted() {
        // Payload `{"exp":1779000900}`: an end of its own does not move.
        let claim = "eyJhbGciOiJub25lIn0.eyJleHAiOjE3NzkwMDA5MDB9.x";
        for (body, life_s) in [
            (r#"{"access_token":"at","expires_in":600}"#.to_owned(), 600),
            (format!(r#"{{"access_token":"{claim}"}}"#), 940),
        ] {
            let answer = read_since(&response(200, &body), 1_779_000_000, 1_778_999_960);
            let Answer::Granted(granted) = answer else { panic!("granted") };
            assert_eq!(granted.life_s, life_s, "{body}");
        }
    }

    #[test]
    fn retry_after_is_kept_for_every_failure() {
        for body in ["busy", r#"{"error":"slow_down"}"#] {
            let mut answer = response(429, body);
            answer.retry_after = Some("7".into());
            match read(&answer, 0) {
                Answer::Error { retry_after, .. } | Answer::Unusable { retry_after, .. } => {
                    assert_eq!(retry_after, Some(7));
                }
                Answer::Granted(_) => panic!("not granted"),
            }
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(status in 100_u16..600, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&Response { status, retry_after: None, body: Zeroizing::new(body) }, 0);
        }
    }
}
