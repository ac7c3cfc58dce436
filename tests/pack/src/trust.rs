//! The certificates that a refresher in an image trusts: Mozilla's, of the version in Cargo.lock, so
//! that they do not depend on the machine that makes the image.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

/// Where programs look for them.
pub(crate) const PATH: &str = "etc/ssl/certs/ca-certificates.crt";

/// How long a line is (RFC 7468, section 2).
const LINE: usize = 64;

/// The bundle, in PEM.
pub(crate) fn bundle() -> String {
    let mut certificates: Vec<&[u8]> =
        TLS_SERVER_ROOT_CERTS.iter().map(|certificate| certificate.as_ref()).collect();
    certificates.sort_unstable();
    certificates.into_iter().map(pem).collect()
}

fn pem(certificate: &[u8]) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut column = 0;
    for letter in STANDARD.encode(certificate).chars() {
        if column == LINE {
            text.push('\n');
            column = 0;
        }
        text.push(letter);
        column += 1;
    }
    text + "\n-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_root_is_in_the_bundle_in_lines_of_64() {
        let bundle = bundle();
        assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), TLS_SERVER_ROOT_CERTS.len());
        assert!(TLS_SERVER_ROOT_CERTS.len() > 100);
        assert!(bundle.lines().all(|line| line.len() <= 64));
        let first: String =
            bundle.lines().skip(1).take_while(|line| !line.starts_with('-')).collect();
        let first = STANDARD.decode(first).unwrap();
        assert!(TLS_SERVER_ROOT_CERTS.iter().any(|root| root.as_ref() == first));
    }
}
