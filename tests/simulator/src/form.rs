//! Request parameters as OAuth wants them: each at most once (RFC 6749, section 3.1).

use std::collections::BTreeMap;

use axum::http::{HeaderMap, header::CONTENT_TYPE};
use url::form_urlencoded;

/// Decoded parameters. No `Debug`: they carry grants.
pub(crate) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Parses a query or a form body.
    ///
    /// # Errors
    ///
    /// Names a parameter that occurs twice.
    pub(crate) fn parse(encoded: &[u8]) -> Result<Self, String> {
        let mut parameters = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(encoded) {
            if parameters.insert(name.clone().into_owned(), value.into_owned()).is_some() {
                return Err(name.into_owned());
            }
        }
        Ok(Self(parameters))
    }

    /// A parameter's value; one without a value counts as omitted (RFC 6749, section 3.1).
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// Whether the body says that it is a form.
pub(crate) fn is_form(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
        let media_type = value.split(';').next().unwrap_or_default().trim();
        media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_occurs_once_or_not_at_all() {
        let parameters = Parameters::parse(b"a=1&b=%20x&c=").unwrap();
        assert_eq!(parameters.get("a"), Some("1"));
        assert_eq!(parameters.get("b"), Some(" x"));
        assert_eq!((parameters.get("c"), parameters.get("d")), (None, None));
        assert_eq!(Parameters::parse(b"a=1&b=2&%61=").err().as_deref(), Some("a"));
    }
}
