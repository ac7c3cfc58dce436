//! Tokens as secrets of Envoy's own (SDS), one file for each credential.
//!
//! Envoy reads such a file again when one is moved into its directory. A file that is removed would
//! leave the last secret in force, so a credential without a token has one with an empty secret, with
//! which `credential_injector` refuses requests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use filter::bundle::Credential;
use serde_json::json;
use zeroize::Zeroizing;

use crate::store;

/// How long Envoy's workers may take to see a file, in milliseconds. It has been seen to take 5; a
/// bundle with the generation of a token goes out that much later than the token.
pub const SETTLED_MS: u64 = 100;

/// A directory with one file for each credential, named after it.
#[derive(Debug)]
pub struct Secrets {
    directory: PathBuf,
    /// The generation of the token in each file; none: an empty secret.
    written: BTreeMap<String, Option<u64>>,
}

impl Secrets {
    /// Secrets in this directory, which is made private. What is in it stays until it is written.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made safe.
    pub fn open(directory: &Path) -> Result<Self, store::Error> {
        store::create_private_directory(directory)?;
        Ok(Self { directory: directory.to_owned(), written: BTreeMap::new() })
    }

    /// Writes the secret of a credential, if it is not what the file has. A write that failed is to be
    /// tried again.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&mut self, name: &str, credential: &Credential) -> Result<(), store::Error> {
        let token = match credential {
            Credential::Ready(token) => {
                token.access_token.as_ref().map(|it| (token.generation, it))
            }
            _ => None,
        };
        let generation = token.map(|(generation, _)| generation);
        if self.written.get(name) == Some(&generation) {
            return Ok(());
        }
        let value = token.map(|(_, token)| Zeroizing::new(format!("Bearer {}", token.expose())));
        self.put(name, generation.unwrap_or(0), value.as_ref().map_or("", |value| value.as_str()))?;
        self.written.insert(name.to_owned(), generation);
        Ok(())
    }

    /// Empties the secrets that an earlier refresher has left of credentials that there are no more.
    ///
    /// # Errors
    ///
    /// When one cannot be written.
    pub fn empty_others(&mut self) -> Result<(), store::Error> {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten();
        for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
            let Some(name) = name.strip_suffix(".json").filter(|name| store::is_name(name)) else {
                continue;
            };
            if !self.written.contains_key(name) {
                self.put(name, 0, "")?;
                self.written.insert(name.to_owned(), None);
            }
        }
        Ok(())
    }

    fn put(&self, name: &str, generation: u64, value: &str) -> Result<(), store::Error> {
        let secret = json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": name,
            "generic_secret": {"secret": {"inline_string": value}},
        });
        // Envoy shows the version in `/config_dump`, beside a secret that is redacted.
        let document = json!({"version_info": generation.to_string(), "resources": [secret]});
        let document = Zeroizing::new(document.to_string());
        store::replace_private(&self.directory.join(format!("{name}.json")), document.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use filter::bundle::{Token, TokenType};
    use serde_json::Value;

    use super::*;

    fn ready(token: &str, generation: u64) -> Credential {
        Credential::Ready(Token {
            access_token: Some(token.parse().unwrap()),
            token_type: TokenType::Bearer,
            expires_at: 0,
            generation,
        })
    }

    fn gone() -> Credential {
        Credential::LoginRequired { reason: "invalid_grant".to_owned() }
    }

    fn read(path: &Path) -> (String, String) {
        let document: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let text = |pointer: &str| document.pointer(pointer).unwrap().as_str().unwrap().to_owned();
        assert!(path.ends_with(text("/resources/0/name") + ".json"));
        (text("/version_info"), text("/resources/0/generic_secret/secret/inline_string"))
    }

    #[test]
    fn a_credential_without_a_token_has_an_empty_secret_in_a_new_file() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("sds");
        let path = own.join("default.json");
        let mut secrets = Secrets::open(&own).unwrap();
        let mut last = None;
        for (credential, expected) in [
            (gone(), ("0", "")),
            (ready("a\"b", 7), ("7", "Bearer a\"b")),
            (ready("c", 8), ("8", "Bearer c")),
            (gone(), ("0", "")),
        ] {
            secrets.write("default", &credential).unwrap();
            assert_eq!(read(&path), (expected.0.to_owned(), expected.1.to_owned()));
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&own), mode(&path)), (0o700, 0o600));
            // Envoy is told by a move, of which the inode is the sign.
            use std::os::unix::fs::MetadataExt as _;
            let inode = std::fs::metadata(&path).unwrap().ino();
            assert_ne!(last.replace(inode), Some(inode));
            secrets.write("default", &credential).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode, "written for nothing");
        }
        assert_eq!(std::fs::read_dir(&own).unwrap().count(), 1, "a leftover");
    }

    #[test]
    fn what_an_earlier_refresher_left_of_others_is_emptied() {
        let directory = tempfile::tempdir().unwrap();
        let mut secrets = Secrets::open(directory.path()).unwrap();
        for name in ["default", "bob"] {
            secrets.write(name, &ready("a", 7)).unwrap();
        }
        let mut secrets = Secrets::open(directory.path()).unwrap();
        secrets.write("default", &ready("a", 7)).unwrap();
        secrets.empty_others().unwrap();
        assert_eq!(read(&directory.path().join("default.json")).1, "Bearer a");
        assert_eq!(read(&directory.path().join("bob.json")).1, "");
    }

    #[test]
    fn a_write_that_failed_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("sds");
        let mut secrets = Secrets::open(&own).unwrap();
        secrets.write("default", &ready("a", 7)).unwrap();
        // What cannot be replaced by a file.
        std::fs::create_dir(own.join(".default.json.new")).unwrap();
        secrets.write("default", &ready("b", 8)).unwrap_err();
        std::fs::remove_dir(own.join(".default.json.new")).unwrap();
        secrets.write("default", &ready("b", 8)).unwrap();
        assert_eq!(read(&own.join("default.json")).1, "Bearer b");
    }
}
