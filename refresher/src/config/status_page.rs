//! `[status_page]`: whether there is one, and where.

use super::problem::Problems;
use super::section::Section;
use super::value;

/// The first port that the status page tries.
pub const DEFAULT_PORT: u16 = 9997;

/// Whether there is a status page, and where. It is on loopback in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusPage {
    /// Default: under `up` there is one, where a person sits at the machine; under `serve`, which is
    /// a service's, there is none.
    pub enabled: Option<bool>,
    /// The first of 20 ports to try; 0 lets the kernel choose. Default: 9997.
    pub port: u16,
}

impl Default for StatusPage {
    fn default() -> Self {
        Self { enabled: None, port: DEFAULT_PORT }
    }
}

pub(super) fn read(root: &mut Section, problems: &mut Problems) -> StatusPage {
    let mut section = root.section("status_page", problems);
    let enabled = section.switch("enabled", problems);
    let port = section.number("port", 0..=u64::from(u16::MAX), value::PORT, problems);
    section.finish(problems);
    let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(DEFAULT_PORT);
    StatusPage { enabled, port }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(document: &str) -> (StatusPage, String) {
        let mut problems = Problems::default();
        let mut root = Section::new("", document.parse().unwrap());
        let page = read(&mut root, &mut problems);
        root.finish(&mut problems);
        (page, problems.to_string())
    }

    #[test]
    fn the_page_is_where_the_file_says_and_bad_settings_are_named() {
        let none = String::new();
        let page = |enabled, port| StatusPage { enabled, port };
        assert_eq!(parse(""), (page(None, 9997), none.clone()));
        let document = "[status_page]\nenabled = true\nport = 0";
        assert_eq!(parse(document), (page(Some(true), 0), none.clone()));
        assert_eq!(parse("[status_page]\nenabled = false").0.enabled, Some(false));
        let document = "status_page = { enabled = 1, port = 65536, host = \"0.0.0.0\" }";
        let (_, problems) = parse(document);
        for expected in [
            "status_page.enabled: 1; accepted: true or false",
            "status_page.port: 65536; accepted: a port from 0 to 65535",
            "status_page.host: unknown setting; accepted: enabled, port",
        ] {
            assert!(problems.contains(expected), "{problems}");
        }
    }
}
