//! Which names in a client's certificate admit it.

use std::fmt;
use std::str::FromStr;

/// What a name can be, in words.
pub const RULE: &str = "the URI or the DNS name of a client's certificate, such as \
    \"spiffe://example.org/envoy\" or \"envoy.example.org\"; * at the end of a URI's path, or as the \
    first label of a DNS name, stands for anything";

/// A name in a certificate (RFC 5280, section 4.2.1.6), as far as it can admit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// A URI, such as a SPIFFE id.
    Uri(String),
    /// A DNS name.
    Dns(String),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(name) | Self::Dns(name) => f.write_str(name),
        }
    }
}

/// A name, or all names with an ending, that admit. A URI never fits a rule for DNS names, nor the
/// other way round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// This URI, byte for byte.
    Uri(String),
    /// All URIs that begin so; it ends with a `/`.
    UriBelow(String),
    /// This DNS name, in any case.
    Dns(String),
    /// All DNS names that end so; it begins with a `.`.
    DnsBelow(String),
}

/// A rule that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("accepted: {RULE}")]
pub struct Unaccepted;

impl FromStr for Rule {
    type Err = Unaccepted;

    fn from_str(text: &str) -> Result<Self, Unaccepted> {
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic()) && text.len() <= 2048;
        if !plain {
            return Err(Unaccepted);
        }
        match text.split_once("://") {
            Some((scheme, rest)) => {
                // Of an authority's name a beginning says nothing: example.org.evil.org.
                let (path, below) = match rest.strip_suffix("/*") {
                    Some(begin) => (begin, true),
                    None => (rest, false),
                };
                let named = !scheme.is_empty() && !path.is_empty() && !path.starts_with('/');
                match named && !text.trim_end_matches('*').contains('*') {
                    true if below => Ok(Self::UriBelow(format!("{scheme}://{path}/"))),
                    true if !text.ends_with('*') => Ok(Self::Uri(text.to_owned())),
                    _ => Err(Unaccepted),
                }
            }
            None => {
                let (name, below) = match text.strip_prefix("*.") {
                    Some(rest) => (rest, true),
                    None => (text, false),
                };
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
                let label = |label: &str| !label.is_empty() && label.bytes().all(allowed);
                match name.split('.').all(label) {
                    true if below => Ok(Self::DnsBelow(format!(".{}", name.to_ascii_lowercase()))),
                    true => Ok(Self::Dns(name.to_ascii_lowercase())),
                    false => Err(Unaccepted),
                }
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(name) | Self::Dns(name) => f.write_str(name),
            Self::UriBelow(begin) => write!(f, "{begin}*"),
            Self::DnsBelow(end) => write!(f, "*{end}"),
        }
    }
}

impl Rule {
    /// Whether a name fits.
    pub fn fits(&self, name: &Name) -> bool {
        match (self, name) {
            (Self::Uri(rule), Name::Uri(name)) => rule == name,
            // Dot segments would lead elsewhere.
            (Self::UriBelow(begin), Name::Uri(name)) => {
                let rest = name.strip_prefix(begin.as_str()).unwrap_or_default();
                !rest.is_empty() && !rest.split('/').any(|part| [".", ".."].contains(&part))
            }
            (Self::Dns(rule), Name::Dns(name)) => rule.eq_ignore_ascii_case(name),
            (Self::DnsBelow(end), Name::Dns(name)) => {
                let name = name.to_ascii_lowercase();
                // A wildcard certificate is nobody's name.
                name.len() > end.len() && name.ends_with(end.as_str()) && !name.contains('*')
            }
            _ => false,
        }
    }
}

/// The first of a certificate's names that a rule fits.
pub fn admitted<'a>(rules: &[Rule], names: &'a [Name]) -> Option<&'a Name> {
    names.iter().find(|name| rules.iter().any(|rule| rule.fits(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fits(rule: &str, name: &Name) -> bool {
        rule.parse::<Rule>().unwrap().fits(name)
    }

    #[test]
    fn a_rule_fits_its_own_kind_of_name_and_no_neighbour() {
        for (rule, good, bad) in [
            (
                "spiffe://example.org/envoy",
                &["spiffe://example.org/envoy"][..],
                &["spiffe://example.org/envoy/2", "spiffe://example.org/Envoy", ""][..],
            ),
            (
                "spiffe://example.org/edge/*",
                &["spiffe://example.org/edge/1", "spiffe://example.org/edge/a/b"],
                &[
                    "spiffe://example.org/edge/",
                    "spiffe://example.org/edge",
                    "spiffe://example.org/edges/1",
                    "spiffe://example.org/edge/../api",
                    "spiffe://evil.org/spiffe://example.org/edge/1",
                ],
            ),
        ] {
            assert!(good.iter().all(|name| fits(rule, &Name::Uri((*name).to_owned()))), "{rule}");
            for name in bad {
                assert!(!fits(rule, &Name::Uri((*name).to_owned())), "{rule} {name}");
            }
            assert!(good.iter().all(|name| !fits(rule, &Name::Dns((*name).to_owned()))), "{rule}");
        }
        for (rule, good, bad) in [
            (
                "envoy.example.org",
                &["envoy.example.org", "Envoy.Example.Org"][..],
                &["an.envoy.example.org", "envoy.example.org.evil.org", "*.example.org"][..],
            ),
            (
                "*.example.org",
                &["a.example.org", "a.b.example.org", "A.EXAMPLE.ORG"],
                &["example.org", ".example.org", "aexample.org", "*.example.org", "a.example.org."],
            ),
        ] {
            assert!(good.iter().all(|name| fits(rule, &Name::Dns((*name).to_owned()))), "{rule}");
            for name in bad {
                assert!(!fits(rule, &Name::Dns((*name).to_owned())), "{rule} {name}");
            }
            assert!(good.iter().all(|name| !fits(rule, &Name::Uri((*name).to_owned()))), "{rule}");
        }
        // A URI that ends like a DNS name.
        assert!(!fits("*.example.org", &Name::Uri("spiffe://evil.org/a.example.org".to_owned())));
    }

    #[test]
    fn what_would_admit_too_much_is_no_rule() {
        for text in [
            "",
            "*",
            "*.",
            "**",
            "a.*",
            "a*.example.org",
            "*example.org",
            "a..b",
            "a b",
            "a/b",
            "spiffe://*",
            "spiffe://",
            "spiffe:///*",
            "spiffe://example.org*",
            "://a",
            "a://*/b",
            "spiffe://example.org/a*",
            "spiffe://example.org/*/b",
            "spiffe://example.org/**",
        ] {
            assert_eq!(text.parse::<Rule>(), Err(Unaccepted), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_rule_is_shown_as_it_was_written(text in "(\\*\\.)?[a-z]{1,8}(\\.[a-z]{1,8}){0,2}|[a-z]{1,6}://[a-z.]{1,9}(/[a-z]{1,3})?(/\\*)?") {
            let rule = text.parse::<Rule>();
            prop_assert!(rule.is_ok() || text.contains(".."), "{text}");
            if let Ok(rule) = rule {
                prop_assert_eq!(rule.to_string(), text);
            }
        }

        #[test]
        fn no_input_panics(rule: String, name: String) {
            if let Ok(rule) = rule.parse::<Rule>() {
                let _ = rule.fits(&Name::Uri(name.clone()));
                let _ = rule.fits(&Name::Dns(name));
            }
        }
    }
}
