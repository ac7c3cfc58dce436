//! The page itself, in one piece, and what browsers are told about it.

use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// The style sheets, each of which is an element of its own.
const STYLES: [&str; 1] = [include_str!("assets/page.css")];

/// The scripts, in the order in which they run.
const SCRIPTS: [&str; 4] = [
    include_str!("assets/base.js"),
    include_str!("assets/view.js"),
    include_str!("assets/actions.js"),
    include_str!("assets/main.js"),
];

const BODY: &str = include_str!("assets/page.html");

/// For answers that are no page: nothing at all may be loaded or run.
const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'; sandbox";

/// The page and its content security policy.
#[derive(Debug)]
pub struct Document {
    /// The HTML. It is the same for everybody.
    pub html: String,
    /// What it may load and run: its own styles and scripts, by their hash.
    pub policy: HeaderValue,
}

impl Document {
    /// Puts the page together.
    pub fn new() -> Self {
        let element = |name: &str, texts: &[&str]| {
            texts.iter().map(|text| format!("<{name}>{text}</{name}>\n")).collect::<String>()
        };
        let html = BODY
            .replace("<!-- styles -->", &element("style", &STYLES))
            .replace("<!-- scripts -->", &element("script", &SCRIPTS));
        // Trusted types: no script can make markup out of text, whatever is in it.
        let policy = format!(
            "default-src 'none'; script-src {}; style-src {}; img-src data:; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'",
            hashes(&SCRIPTS),
            hashes(&STYLES)
        );
        let policy = HeaderValue::from_str(&policy);
        Self { html, policy: policy.unwrap_or(HeaderValue::from_static(NOTHING)) }
    }
}

impl Default for Document {
    fn default() -> Self {
        Self::new()
    }
}

/// What a policy calls these texts (Content Security Policy Level 3, section 2.3.1).
fn hashes(texts: &[&str]) -> String {
    let hash = |text: &&str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    texts.iter().map(hash).collect::<Vec<_>>().join(" ")
}

/// What is said with every answer. A policy that is there already stays.
pub fn harden(headers: &mut HeaderMap) {
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(NOTHING));
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_names_nothing_outside() {
        let Document { html, policy } = Document::new();
        assert!(!html.contains("<!-- s"), "a part is missing");
        // Namespaces are names and not addresses.
        let rest = html.replace("http://www.w3.org/2000/svg", "");
        for foreign in ["http://", "https://", "//", "src=", "@import", "url("] {
            let found = rest.lines().find(|line| {
                let code = line.trim_start();
                !code.starts_with("//") && code.contains(foreign)
            });
            assert_eq!(found, None, "{foreign}");
        }
        let policy = policy.to_str().unwrap();
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(policy.matches("'sha256-").count(), STYLES.len() + SCRIPTS.len());
    }

    #[test]
    fn no_part_ends_its_element_or_makes_markup() {
        for text in STYLES.iter().chain(&SCRIPTS) {
            for forbidden in ["</", "innerHTML", "outerHTML", "insertAdjacent", "document.write"] {
                assert!(!text.contains(forbidden), "{forbidden}");
            }
        }
        let handler = |word: &str| word.starts_with("on") && word.contains("=\"");
        assert!(!BODY.split_whitespace().any(handler) && !BODY.contains("style=\""));
    }

    #[test]
    fn a_hash_is_that_of_the_text() {
        let known = "'sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0='";
        assert_eq!(hashes(&["abc"]), known);
    }
}
