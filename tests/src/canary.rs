//! Whether a secret is shown where none may be.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use aho_corasick::AhoCorasick;
use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// How much of a secret must not be shown, in characters.
const CUT: usize = 8;

/// How long a program may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks for secrets: as they are, cut, in base64 and in hexadecimal digits.
#[derive(Debug)]
pub struct Canaries(AhoCorasick);

impl Canaries {
    /// Those of `random`, of which no part may be shown, and of `chosen`, which are words that a
    /// test has chosen and whose parts are words like any other.
    ///
    /// # Errors
    ///
    /// When they are too many to search for.
    pub fn new(random: &[String], chosen: &[String]) -> Result<Self> {
        let mut shapes: Vec<String> = random.iter().flat_map(|secret| cuts(secret)).collect();
        shapes.extend(chosen.iter().cloned());
        shapes.extend(random.iter().chain(chosen).flat_map(|secret| encodings(secret)));
        // What is too short could be anything.
        shapes.retain(|shape| shape.len() >= CUT);
        Ok(Self(AhoCorasick::new(&shapes)?))
    }

    /// What is shown of a secret in this text, with what stands before it.
    pub fn find(&self, text: &[u8]) -> Option<String> {
        let found = self.0.find(text)?;
        let from = found.start().saturating_sub(100);
        let around = text.get(from..found.end()).unwrap_or_default();
        Some(String::from_utf8_lossy(around).into_owned())
    }

    /// Refuses a text that shows a secret.
    ///
    /// # Errors
    ///
    /// When it does.
    pub fn clear(&self, place: &str, text: &[u8]) -> Result<()> {
        let found = self.find(text);
        ensure!(found.is_none(), "{place} shows a secret: …{}", found.unwrap_or_default());
        Ok(())
    }

    /// The same for every file in a folder, those of `except` left out: where secrets belong.
    ///
    /// # Errors
    ///
    /// When a file shows a secret.
    pub fn clear_files(&self, folder: &Path, except: &impl Fn(&Path) -> bool) -> Result<()> {
        // What a program removes meanwhile shows nothing any more.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let kind = entry.file_type()?;
            if except(&path) {
                continue;
            } else if kind.is_dir() {
                self.clear_files(&path, except)?;
            } else if let (true, Ok(content)) = (kind.is_file(), fs::read(&path)) {
                self.clear(&path.display().to_string(), &content)?;
            }
        }
        Ok(())
    }

    /// The same for the arguments of every process that this one may look at.
    ///
    /// # Errors
    ///
    /// When a process shows a secret.
    pub fn clear_arguments(&self) -> Result<()> {
        for entry in fs::read_dir("/proc")?.flatten() {
            let path = entry.path().join("cmdline");
            if let Ok(arguments) = fs::read(&path) {
                self.clear(&path.display().to_string(), &arguments)?;
            }
        }
        Ok(())
    }

    /// The same for what a program answers on a unix socket; one that has ended or was stopped answers
    /// nothing.
    ///
    /// # Errors
    ///
    /// When an answer shows a secret.
    pub fn clear_answers(&self, socket: &Path, targets: &[&str]) -> Result<()> {
        let answers =
            targets.iter().map_while(|target| Some((target, answer(socket, target).ok()?)));
        for (target, answer) in answers {
            self.clear(target, &answer)?;
        }
        Ok(())
    }
}

fn answer(socket: &Path, target: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// The beginning and the end of a secret. Of a JWT the signature is one; the rest tells what it is
/// about, and begins as all do.
fn cuts(secret: &str) -> [String; 2] {
    let secret = secret.rsplit('.').next().unwrap_or(secret);
    let end = secret.len().saturating_sub(CUT);
    [secret.chars().take(CUT).collect(), secret.chars().skip(end).collect()]
}

/// Beginnings of a secret in base64, at each place in the text around it, and in hexadecimal digits.
fn encodings(secret: &str) -> Vec<String> {
    let secret = secret.rsplit('.').next().unwrap_or(secret).as_bytes();
    let hex = |digit: fn(&u8) -> String| secret.iter().take(CUT).map(digit).collect();
    let mut encodings: Vec<String> =
        vec![hex(|byte| format!("{byte:02x}")), hex(|byte| format!("{byte:02X}"))];
    for before in [b"".as_slice(), b"\0", b"\0\0"] {
        let text = [before, secret].concat();
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let encoded = engine.encode(&text);
            // The first digits depend on what stands before, the last on what follows.
            let stable = encoded.get(4..encoded.len().saturating_sub(4)).unwrap_or_default();
            encodings.push(stable.chars().take(2 * CUT).collect());
        }
    }
    encodings
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "k7Wq_Zt0aP3rXv9LmB2s";
    const BEGINNING: &str = "k7Wq_Zt0";
    const END: &str = "Xv9LmB2s";

    #[test]
    fn a_secret_is_found_in_every_shape() {
        let canaries = Canaries::new(&[format!("eyJhbGciOi.eyJpc3Mi.{SECRET}")], &[]).unwrap();
        let chosen = Canaries::new(&[], &[SECRET.to_owned()]).unwrap();
        let hex: String = SECRET.bytes().map(|byte| format!("{byte:02X}")).collect();
        for (text, by_part) in [
            (format!("token={SECRET}"), false),
            (format!("token={BEGINNING}…"), true),
            (format!("token=…{END}"), true),
            (STANDARD_NO_PAD.encode(SECRET), false),
            (STANDARD_NO_PAD.encode(format!("a{SECRET}b")), false),
            (URL_SAFE_NO_PAD.encode(format!("ab:{SECRET}:c")), false),
            (URL_SAFE_NO_PAD.encode(format!("user:{SECRET}")), false),
            (hex.clone(), false),
            (hex.to_lowercase(), false),
        ] {
            assert!(canaries.find(text.as_bytes()).is_some(), "{text}");
            assert_eq!(chosen.find(text.as_bytes()).is_some(), !by_part, "{text}");
        }
    }

    #[test]
    fn what_is_no_secret_is_not_taken_for_one() {
        let canaries = Canaries::new(&[SECRET.to_owned()], &["my-key".to_owned()]).unwrap();
        for text in ["", "eyJhbGciOi", "k7Wq_Zt", "my-key", "a line of a log"] {
            assert_eq!(canaries.find(text.as_bytes()), None, "{text}");
        }
    }
}
