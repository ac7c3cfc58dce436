//! Envoy's log on disk: bounded, and whole.
//!
//! Envoy writes its log and its access log itself, from a thread that no request waits for, so that
//! nothing depends on whether this program runs. A file that has grown is renamed, and Envoy is
//! asked (SIGUSR1) to open the name again: until then it writes to the renamed file, so no line is
//! lost. Lines are flushed each second.

use std::path::{Path, PathBuf};

/// When a log is rotated, and how many files there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// At which size, in bytes.
    pub max_bytes: u64,
    /// How many files, the present one included.
    pub files: u32,
}

/// The size of a log, in bytes; 0 where there is none.
pub fn size(log: &Path) -> u64 {
    std::fs::metadata(log).map_or(0, |stat| stat.len())
}

/// Renames a log that has grown to its bound, and drops the oldest. Answers whether it did, so that
/// whoever writes it has to open it again.
///
/// # Errors
///
/// When a file cannot be renamed; nothing is lost then.
pub fn rotate(log: &Path, bounds: Bounds) -> std::io::Result<bool> {
    if size(log) < bounds.max_bytes {
        return Ok(false);
    }
    // From the oldest on, each to the next number; the last one is replaced.
    for number in (0..bounds.files.saturating_sub(1)).rev() {
        let (from, to) = (numbered(log, number), numbered(log, number + 1));
        match std::fs::rename(from, to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(true)
}

/// The log's name with a number behind it; 0 is the log itself.
pub fn numbered(log: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return log.to_owned();
    }
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_has_grown_moves_on_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("envoy.log");
        let bounds = Bounds { max_bytes: 4, files: 3 };
        assert!(!rotate(&log, bounds).unwrap());
        for text in ["first", "second", "third", "fourth"] {
            std::fs::write(&log, "abc").unwrap();
            assert!(!rotate(&log, bounds).unwrap(), "not yet");
            std::fs::write(&log, text).unwrap();
            assert!(rotate(&log, bounds).unwrap());
            assert!(!log.exists());
        }
        let read = |number| std::fs::read_to_string(numbered(&log, number)).unwrap();
        assert_eq!((read(1).as_str(), read(2).as_str()), ("fourth", "third"));
        assert!(!numbered(&log, 3).exists());
    }
}
