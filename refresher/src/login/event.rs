//! What a login tells while it is under way, to whoever shows it: a terminal, or the status page.

use std::fmt;

use url::Url;

use crate::oauth::Words;
use crate::oauth::device::DeviceAuthorization;

/// Something that the user should see.
#[derive(Debug)]
pub enum Event<'a> {
    /// This address is to be opened in a browser on this machine; the callback is awaited by now.
    Authorize(&'a Url),
    /// A code is to be entered in any browser.
    Codes(&'a DeviceAuthorization),
    /// The approval is still awaited; told each second while a device login waits.
    Waiting {
        /// How long the codes are still good, in seconds.
        left_s: u64,
    },
    /// Something by the way, which does not end the login by itself.
    Note(Note<'a>),
}

/// A remark, in one line of text.
#[derive(Debug)]
pub enum Note<'a> {
    /// What the provider says about its refusal.
    Refused(&'a Words),
    /// A pasted address is of another login.
    OtherAttempt,
    /// An answer does not name the provider that was asked.
    OtherIssuer {
        /// What it names.
        named: Option<&'a Words>,
        /// What was asked.
        issuer: &'a str,
    },
}

impl fmt::Display for Note<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(description) => write!(f, "the provider says: {description}"),
            Self::OtherAttempt => f.write_str("that address is of another login; still waiting"),
            Self::OtherIssuer { named: Some(named), issuer } => write!(
                f,
                "that answer is refused: the provider calls itself {named}, configured is \
                 {issuer}; still waiting"
            ),
            Self::OtherIssuer { named: None, issuer } => write!(
                f,
                "that answer is refused: it does not name the provider, which is {issuer}; still \
                 waiting"
            ),
        }
    }
}
