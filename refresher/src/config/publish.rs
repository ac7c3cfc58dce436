//! `[publish]`: the ways to the token besides the sidecar's socket.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::problem::{Problems, Refused};
use super::section::Section;
use super::value;
use crate::publish::names::{RULE, Rule};

/// The ways to the token besides the sidecar's socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish {
    /// Mutual TLS, for Envoys on other machines. Default: none.
    pub tls: Option<PublishTls>,
    /// Plain HTTP on this port of 127.0.0.1. Default: none.
    pub loopback_port: Option<u16>,
    /// Where tokens are written as secrets of Envoy's own; bundles on the socket and on loopback are
    /// then without them. Default: none.
    pub sds_dir: Option<PathBuf>,
}

/// Mutual TLS, for Envoys on other machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishTls {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The refresher's own certificate and those between it and its authority's, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub private_key: PathBuf,
    /// The authorities whose certificates Envoys show, PEM.
    pub client_ca: PathBuf,
    /// Which names in them admit; at least one.
    pub allowed_names: Vec<Rule>,
}

const LISTEN: &str = "an IP address with a port, such as \"0.0.0.0:9443\"";

/// Reads the section.
pub(super) fn read(root: &mut Section, problems: &mut Problems) -> Publish {
    let mut section = root.section("publish", problems);
    let listen = section.text("listen", problems);
    let files = ["certificate", "private_key", "client_ca"]
        .map(|name| (name, section.text(name, problems).map(PathBuf::from)));
    let names = section.texts("allowed_names", problems);
    let number = section.number("loopback_port", 1..=u64::from(u16::MAX), PORT, problems);
    let sds_dir = section.text("sds_dir", problems).map(PathBuf::from);
    section.finish(problems);
    Publish {
        tls: tls(listen, files, names, problems),
        loopback_port: number.and_then(|port| u16::try_from(port).ok()),
        sds_dir,
    }
}

const PORT: &str = "a port from 1 to 65535";

/// All of it or nothing: beyond loopback there is no way without TLS, nor one without names.
fn tls(
    listen: Option<String>,
    files: [(&'static str, Option<PathBuf>); 3],
    names: Option<Vec<String>>,
    problems: &mut Problems,
) -> Option<PublishTls> {
    if listen.is_none() && names.is_none() && files.iter().all(|(_, file)| file.is_none()) {
        return None;
    }
    let parsed = match &listen {
        Some(text) => problems.take("publish.listen", address(text)),
        None => {
            problems.unaccepted(
                "publish.listen",
                "unset, but other settings of it are set",
                LISTEN,
            );
            None
        }
    };
    let [certificate, private_key, client_ca] = files.map(|(name, file)| {
        if file.is_none() {
            let accepted = "a PEM file: publish.listen speaks mutual TLS only, with certificate, \
                private_key, client_ca and allowed_names (without TLS there is publish.loopback_port)";
            problems.unaccepted(&format!("publish.{name}"), "unset", accepted);
        }
        file
    });
    let stated = names.unwrap_or_default();
    if stated.is_empty() {
        problems.unaccepted("publish.allowed_names", "empty", &format!("at least one of {RULE}"));
    }
    let mut allowed_names = Vec::new();
    for name in stated {
        match name.parse() {
            Ok(rule) => allowed_names.push(rule),
            Err(_) => problems.unaccepted("publish.allowed_names", &format!("{name:?}"), RULE),
        }
    }
    Some(PublishTls {
        listen: parsed?,
        certificate: certificate?,
        private_key: private_key?,
        client_ca: client_ca?,
        allowed_names,
    })
}

fn address(text: &str) -> Result<SocketAddr, Refused> {
    let refused = || Refused { found: format!("{text:?}"), accepted: LISTEN };
    let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
    // As elsewhere, localhost is 127.0.0.1.
    match value::host(host) {
        Ok(host) if host.is_ipv4() => value::port(port).map(|port| (host, port).into()),
        _ => text.parse().map_err(|_| refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(document: &str) -> (Publish, String) {
        let mut problems = Problems::default();
        let mut root = Section::new("", document.parse().unwrap());
        let publish = read(&mut root, &mut problems);
        root.finish(&mut problems);
        (publish, problems.to_string())
    }

    const FILES: &str = "certificate = \"/c\"\nprivate_key = \"/k\"\nclient_ca = \"/a\"\n";

    #[test]
    fn mutual_tls_is_stated_as_a_whole_or_not_at_all() {
        assert_eq!(parse(""), (Publish::default(), String::new()));
        let names = "allowed_names = [\"spiffe://example.org/edge/*\", \"*.example.org\"]\n";
        for (listen, expected) in [
            ("0.0.0.0:9443", "0.0.0.0:9443"),
            ("localhost:1", "127.0.0.1:1"),
            ("[::]:9443", "[::]:9443"),
        ] {
            let document = format!("[publish]\nlisten = \"{listen}\"\n{FILES}{names}");
            let (publish, problems) = parse(&document);
            assert_eq!(problems, "");
            let tls = publish.tls.unwrap();
            assert_eq!(tls.listen.to_string(), expected);
            let names: Vec<_> = tls.allowed_names.iter().map(ToString::to_string).collect();
            assert_eq!(names, ["spiffe://example.org/edge/*", "*.example.org"]);
        }
        for (document, expected) in [
            (
                "listen = \"0.0.0.0:9443\"\n",
                &[
                    "publish.certificate: unset; accepted: a PEM file: publish.listen speaks mutual TLS only",
                    "publish.private_key: unset",
                    "publish.client_ca: unset",
                    "publish.allowed_names: empty; accepted: at least one of the URI",
                ][..],
            ),
            (
                &format!("listen = \"0.0.0.0:9443\"\n{FILES}allowed_names = []\n"),
                &["publish.allowed_names: empty"],
            ),
            (&format!("{FILES}{names}"), &["publish.listen: unset"]),
            (
                &format!("listen = \"example.org:9443\"\n{FILES}{names}"),
                &["publish.listen: \"example.org:9443\"; accepted: an IP address with a port"],
            ),
            (
                &format!("listen = \"0.0.0.0:1\"\n{FILES}allowed_names = [\"*\"]\n"),
                &["publish.allowed_names: \"*\"; accepted: the URI or the DNS name"],
            ),
            (
                "loopback_port = 0\n",
                &["publish.loopback_port: 0; accepted: a port from 1 to 65535"],
            ),
            ("sds_dir = \"\"\n", &["publish.sds_dir: \"\""]),
            (
                "tls = true\n",
                &[
                    "publish.tls: unknown setting; accepted: listen, certificate, private_key, client_ca, \
                 allowed_names, loopback_port, sds_dir",
                ],
            ),
        ] {
            let (_, problems) = parse(&format!("[publish]\n{document}"));
            for expected in expected {
                assert!(problems.contains(expected), "{document}{problems}");
            }
        }
    }
}
