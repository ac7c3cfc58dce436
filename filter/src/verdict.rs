//! What an upstream's answer says about the access token.

use serde::{Deserialize, Serialize};

use crate::json::Tree;

/// The largest part of a 403's body that is looked into, in bytes.
pub const INSPECTED_BYTES: usize = 16 << 10;

/// Which answers say that the token was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// Status codes that say so by themselves. Default: 401. RFC 6750, section 3.1: a token that
    /// is expired, revoked or malformed is answered with it.
    pub statuses: Vec<u16>,
    /// Beginnings of the codes that say so in the body of a 403. Default: `unauthenticated:`, as
    /// xAI has it. None: a 403 never says so.
    pub codes: Vec<String>,
}

impl Default for Rule {
    fn default() -> Self {
        Self { statuses: vec![401], codes: vec!["unauthenticated:".to_owned()] }
    }
}

/// What the status line alone tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing against the token.
    Accepted,
    /// The token was refused.
    Dead,
    /// The body has to say whether it was the token; see [`Rule::refuses`].
    Inspect,
}

impl Rule {
    /// Judges a status code.
    pub fn of_status(&self, status: u16) -> Verdict {
        if self.statuses.contains(&status) {
            Verdict::Dead
        } else if status == 403 && !self.codes.is_empty() {
            // 403 is also the answer to much that a new token would not change.
            Verdict::Inspect
        } else {
            Verdict::Accepted
        }
    }

    /// Whether the body of a 403 says that the token was refused.
    ///
    /// Known shapes: `{"code": "unauthenticated:…"}`, the same nested in `error`, and the older
    /// `{"error": "… unauthenticated:… …"}`. Of a body that was cut off, the beginning counts.
    pub fn refuses(&self, body: &[u8]) -> bool {
        match serde_json::from_slice::<Tree>(body) {
            Ok(tree) => {
                let error = tree.get("error");
                let codes = [tree.get("code"), error.and_then(|error| error.get("code"))];
                let text = error.and_then(Tree::text).unwrap_or_default();
                codes.into_iter().flatten().filter_map(Tree::text).any(|code| self.begins(code))
                    || self.prefixes().any(|prefix| text.contains(prefix))
            }
            Err(error) => error.is_eof() && self.cut_off_refuses(body),
        }
    }

    fn begins(&self, code: &str) -> bool {
        self.prefixes().any(|prefix| code.starts_with(prefix))
    }

    /// The beginnings, less an empty one, which would fit every code.
    fn prefixes(&self) -> impl Iterator<Item = &str> {
        self.codes.iter().map(String::as_str).filter(|prefix| !prefix.is_empty())
    }

    /// Looks for a member `code` in a JSON object that lacks its end.
    fn cut_off_refuses(&self, body: &[u8]) -> bool {
        let text = String::from_utf8_lossy(body);
        text.split("\"code\"").skip(1).any(|rest| {
            let value = rest.trim_start().strip_prefix(':').map(str::trim_start);
            value.and_then(|value| value.strip_prefix('"')).is_some_and(|code| self.begins(code))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn only_401_and_403_concern_the_token() {
        for (status, verdict) in [
            (200, Verdict::Accepted),
            (400, Verdict::Accepted),
            (401, Verdict::Dead),
            (402, Verdict::Accepted),
            (403, Verdict::Inspect),
            (407, Verdict::Accepted),
            (429, Verdict::Accepted),
            (500, Verdict::Accepted),
            (503, Verdict::Accepted),
        ] {
            assert_eq!(Rule::default().of_status(status), verdict, "{status}");
        }
    }

    #[test]
    fn a_403_is_read_for_its_code() {
        for (body, dead) in [
            (r#"{"code":"unauthenticated:bad-credentials","error":"x"}"#, true),
            (r#"{"error":"unauthenticated:bad-credentials: no"}"#, true),
            (r#"{"error":"The token is bad [unauthenticated:bad-credentials]"}"#, true),
            (r#"{"error":{"code":"unauthenticated:token-expired","message":"x"}}"#, true),
            (r#"{"code":"unauthenticated:bad-credentials","error":"cut of"#, true),
            (r#"{"error":{"message":"x","code" : "unauthenticated:a"#, true),
            (r#"{"code":"permission-denied:entitlement","error":"no plan"}"#, false),
            (r#"{"code":"personal-team-blocked:spending-limit"}"#, false),
            (r#"{"error":{"message":"say unauthenticated: to me","code":"x"}}"#, false),
            (r#"{"message":"unauthenticated:bad-credentials"}"#, false),
            (r#"["unauthenticated:bad-credentials"]"#, false),
            (r#"{"code":null,"error":null}"#, false),
            (r#"{"n":[1,-1,1.5,true,{"a":[]}],"code":"unauthenticated:x"}"#, true),
            ("<html>unauthenticated:bad-credentials</html>", false),
            ("unauthenticated:bad-credentials", false),
            ("", false),
        ] {
            assert_eq!(Rule::default().refuses(body.as_bytes()), dead, "{body}");
        }
    }

    #[test]
    fn a_rule_of_another_provider_replaces_the_default() {
        let rule = Rule { statuses: vec![419], codes: vec!["token_".to_owned()] };
        assert_eq!(rule.of_status(419), Verdict::Dead);
        assert_eq!(rule.of_status(401), Verdict::Accepted);
        assert!(rule.refuses(br#"{"error": {"code": "token_revoked"}}"#));
        assert!(!rule.refuses(br#"{"code": "unauthenticated:bad-credentials"}"#));
        let empty = Rule { codes: vec![String::new()], ..Rule::default() };
        assert!(!empty.refuses(br#"{"code": "permission-denied"}"#));
        let never = Rule { codes: Vec::new(), ..Rule::default() };
        assert_eq!(never.of_status(403), Verdict::Accepted);
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = Rule::default().refuses(&body);
        }
    }
}
