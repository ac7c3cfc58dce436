//! What comes back from the browser, and what of it counts.

use url::{Url, form_urlencoded};

use crate::oauth::{ErrorCode, Words};
use crate::secret::Secret;

/// What the callback of the login under way looks like.
#[derive(Debug)]
pub struct Expected {
    /// The registered path.
    pub path: String,
    /// The state of this attempt.
    pub state: Secret,
    /// What the provider calls itself, where it is known.
    pub issuer: Option<String>,
    /// Whether an authorization code must come with that name.
    pub names_issuer: bool,
}

/// What a request or a pasted text amounts to.
#[derive(Debug, PartialEq, Eq)]
pub enum Callback {
    /// The code of this login.
    Code(Secret),
    /// The provider's refusal of this login, and what it says about it.
    Refused(Option<ErrorCode>, Option<Words>),
    /// Of another login, or forged, or incomplete: goes on waiting.
    OtherAttempt,
    /// Of this login, but named otherwise than the provider that was asked, or not named though
    /// this provider always names itself: goes on waiting.
    OtherIssuer(Option<Words>),
    /// No callback at all.
    NotFound,
}

/// Judges a request to the callback listener by its path and query.
///
/// Only what carries the right `state` ends the login (RFC 6749, section 10.12), an error too: a
/// stray or forged request must not.
pub fn judge(path: &str, query: &str, expected: &Expected) -> Callback {
    if path != expected.path {
        return Callback::NotFound;
    }
    let fields: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    // RFC 6749, section 3.1: a parameter must not come twice. Then none of them counts.
    let field = |name: &str| {
        let mut values = fields.iter().filter(|(field, _)| field == name);
        values.next().filter(|_| values.next().is_none()).map(|(_, value)| value.as_str())
    };
    let state = field("state").map(|state| Secret::new(state.to_owned()));
    if state.is_none_or(|state| state.fingerprint() != expected.state.fingerprint()) {
        return Callback::OtherAttempt;
    }
    // RFC 9207, section 2.4: where `iss` is there, it must be the provider we asked.
    if let (Some(named), Some(issuer)) = (field("iss"), &expected.issuer)
        && named.trim_end_matches('/') != issuer.trim_end_matches('/')
    {
        return Callback::OtherIssuer(Words::parse(named));
    }
    match (field("error"), field("code")) {
        (Some(error), _) => {
            let description = field("error_description").and_then(Words::parse);
            Callback::Refused(ErrorCode::parse(error), description)
        }
        // And where the metadata promise it, a code without it is rejected: it may be another
        // provider's. An error can only end a login, which whoever knows the state may.
        (None, Some(_)) if expected.names_issuer && field("iss").is_none() => {
            Callback::OtherIssuer(None)
        }
        (None, Some(code)) if !code.is_empty() => Callback::Code(Secret::new(code.to_owned())),
        _ => Callback::OtherAttempt,
    }
}

/// Judges a pasted line: the whole address that the browser ended on, or as much of it as somebody
/// copied, or the bare code that a provider showed. A bare code has neither state nor issuer: whoever
/// pastes it vouches for it.
pub fn judge_pasted(line: &[u8], expected: &Expected) -> Callback {
    let Ok(line) = std::str::from_utf8(line) else {
        return Callback::NotFound;
    };
    let line = line.trim().trim_matches(['<', '>', '"', '\'']);
    if let Ok(url) = Url::parse(line) {
        return judge(&expected.path, url.query().unwrap_or_default(), expected);
    }
    let query = line.split_once('?').map_or(line, |(_, query)| query);
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    let names = |wanted| form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == wanted);
    if names("state") || line.contains('?') && (names("code") || names("error")) {
        return judge(&expected.path, query, expected);
    }
    let visible = !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_graphic());
    if visible { Callback::Code(Secret::new(line.to_owned())) } else { Callback::NotFound }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expected() -> Expected {
        Expected {
            path: "/callback".into(),
            state: Secret::new("right".into()),
            issuer: Some("https://id.example".into()),
            names_issuer: false,
        }
    }

    fn misnamed(name: &str) -> Callback {
        Callback::OtherIssuer(Words::parse(name))
    }

    fn code(code: &str) -> Callback {
        Callback::Code(Secret::new(code.into()))
    }

    #[test]
    fn only_the_right_state_ends_a_login() {
        let refused = |code: &str| Callback::Refused(ErrorCode::parse(code), None);
        let saying =
            |words: &str| Callback::Refused(ErrorCode::parse("invalid_scope"), Words::parse(words));
        for (path, query, callback) in [
            ("/callback", "code=c&state=right", code("c")),
            ("/callback", "state=right&code=a%2Bb", code("a+b")),
            ("/callback", "code=c&state=right&iss=https%3A%2F%2Fid.example", code("c")),
            (
                "/callback",
                "code=c&state=right&iss=https://evil.example",
                misnamed("https://evil.example"),
            ),
            (
                "/callback",
                "error=a&state=right&iss=https://evil.example",
                misnamed("https://evil.example"),
            ),
            ("/callback", "code=c&state=right&iss=%1b[2J", misnamed("")),
            ("/callback", "code=c&state=wrong&iss=https://evil.example", Callback::OtherAttempt),
            ("/callback", "code=c&state=wrong", Callback::OtherAttempt),
            ("/callback", "code=c&state=", Callback::OtherAttempt),
            ("/callback", "code=c", Callback::OtherAttempt),
            ("/callback", "", Callback::OtherAttempt),
            ("/callback", "state=right", Callback::OtherAttempt),
            ("/callback", "state=right&code=", Callback::OtherAttempt),
            ("/callback", "code=c&state=right&state=right", Callback::OtherAttempt),
            ("/callback", "code=c&code=d&state=right", Callback::OtherAttempt),
            ("/callback", "error=access_denied&state=right", refused("access_denied")),
            ("/callback", "error=access_denied&state=right&code=c", refused("access_denied")),
            ("/callback", "error=<b>&state=right", Callback::Refused(None, None)),
            (
                "/callback",
                "error=invalid_scope&state=right&error_description=no+such+scope",
                saying("no such scope"),
            ),
            ("/callback", "error=invalid_scope&state=right&error_description=%1b[2J", saying("")),
            ("/callback", "error=access_denied", Callback::OtherAttempt),
            ("/callback", "error=access_denied&state=wrong", Callback::OtherAttempt),
            ("/favicon.ico", "", Callback::NotFound),
            ("/", "code=c&state=right", Callback::NotFound),
            ("/callback/", "code=c&state=right", Callback::NotFound),
        ] {
            assert_eq!(judge(path, query, &expected()), callback, "{path}?{query}");
        }
    }

    #[test]
    fn a_provider_that_names_itself_must_do_so_with_every_code() {
        let expected = Expected { names_issuer: true, ..expected() };
        let refused = Callback::Refused(ErrorCode::parse("access_denied"), None);
        for (query, callback) in [
            ("code=c&state=right", misnamed("")),
            ("code=c&state=right&iss=", misnamed("")),
            ("code=c&state=right&iss=https://id.example&iss=https://id.example", misnamed("")),
            ("code=c&state=right&iss=https://id.example", code("c")),
            ("error=access_denied&state=right", refused),
            ("state=right", Callback::OtherAttempt),
        ] {
            assert_eq!(judge("/callback", query, &expected), callback, "{query}");
        }
        assert_eq!(judge_pasted(b"c", &expected), code("c"));
    }

    #[test]
    fn the_code_or_the_whole_address_can_be_pasted() {
        for (line, callback) in [
            ("abc-123\n", code("abc-123")),
            ("  abc  ", code("abc")),
            ("http://127.0.0.1:56121/callback?code=c&state=right", code("c")),
            ("http://127.0.0.1:56121/callback?code=c&state=wrong", Callback::OtherAttempt),
            ("http://127.0.0.1:56121/callback?code=c", Callback::OtherAttempt),
            (
                "http://127.0.0.1:56121/callback?error=access_denied&state=wrong",
                Callback::OtherAttempt,
            ),
            ("127.0.0.1:56121/callback?code=c&state=right", code("c")),
            ("localhost:56121/callback?code=c&state=right", code("c")),
            ("/callback?state=right&code=c#", code("c")),
            ("<http://127.0.0.1:56121/callback?code=c&state=right>", code("c")),
            ("code=c&state=right", code("c")),
            ("\"?code=c&state=right\"", code("c")),
            ("127.0.0.1:56121/callback?code=c&state=wrong", Callback::OtherAttempt),
            ("code=c&state=wrong", Callback::OtherAttempt),
            ("/callback?code=c", Callback::OtherAttempt),
            ("?error=access_denied", Callback::OtherAttempt),
            ("a?b=", code("a?b=")),
            ("", Callback::NotFound),
            ("a\u{1b}[2J", Callback::NotFound),
            ("two words", Callback::NotFound),
        ] {
            assert_eq!(judge_pasted(line.as_bytes(), &expected()), callback, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_pasted_bytes_panic_or_pass_control_characters(line: Vec<u8>) {
            if let Callback::Code(code) = judge_pasted(&line, &expected()) {
                prop_assert!(code.expose().bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }

        #[test]
        fn no_address_of_another_login_is_taken(code in "[a-z]{1,9}", state in "[a-z]{0,9}") {
            prop_assume!(state != "right");
            let line = format!("http://127.0.0.1:56121/callback?code={code}&state={state}");
            let callback = judge_pasted(line.as_bytes(), &expected());
            prop_assert_eq!(callback, Callback::OtherAttempt);
        }

        #[test]
        fn no_request_without_the_state_ends_a_login(path in ".{0,20}", query in ".{0,80}") {
            prop_assume!(!query.contains("right"));
            let callback = judge(&path, &query, &expected());
            prop_assert!(matches!(callback, Callback::OtherAttempt | Callback::NotFound));
        }
    }
}
