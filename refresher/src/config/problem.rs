//! Bad settings, collected so that one start reports them all.

use std::fmt;

use serde::Serialize;

/// One setting that is unknown or not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Its place in the file, or the variable or flag that sets it.
    pub setting: String,
    /// What was found.
    pub found: String,
    /// What would be accepted.
    pub accepted: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; accepted: {}", self.setting, self.found, self.accepted)
    }
}

/// Bad settings, one on a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Problems(Vec<Problem>);

/// A value that was refused: what was found, and what would be accepted.
pub(super) struct Refused {
    pub(super) found: String,
    pub(super) accepted: &'static str,
}

impl Problems {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn unaccepted(&mut self, setting: &str, found: &str, accepted: &str) {
        self.0.push(Problem {
            setting: setting.to_owned(),
            found: found.to_owned(),
            accepted: accepted.to_owned(),
        });
    }

    /// The value, or nothing and the reason on the list.
    pub(super) fn take<T>(&mut self, setting: &str, value: Result<T, Refused>) -> Option<T> {
        match value {
            Ok(value) => Some(value),
            Err(refused) => {
                self.unaccepted(setting, &refused.found, refused.accepted);
                None
            }
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
