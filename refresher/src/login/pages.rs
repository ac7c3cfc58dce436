//! The small pages that a browser sees at the end of a login.

/// What a page tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// The grant is stored.
    LoggedIn,
    /// The user or the provider said no.
    Denied,
    /// The callback was of another attempt, or of nobody's.
    OtherAttempt,
    /// The callback does not name the provider that was asked.
    OtherIssuer,
    /// The code could not be turned into a grant.
    Failed,
    /// There is nothing here.
    NotFound,
}

impl Page {
    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Self::LoggedIn => 200,
            Self::Denied => 403,
            Self::OtherAttempt | Self::OtherIssuer => 400,
            Self::Failed => 502,
            Self::NotFound => 404,
        }
    }

    /// The page. It holds nothing of the request, and loads nothing.
    pub fn html(self) -> String {
        let (title, text) = match self {
            Self::LoggedIn => ("Logged in", "You can close this page."),
            Self::Denied => ("Not logged in", "The login was denied. Nothing has changed."),
            Self::OtherAttempt => (
                "Not this login",
                "This address belongs to another attempt. The login that is under way still \
                 waits: open its address again.",
            ),
            Self::OtherIssuer => (
                "Not this provider",
                "This answer does not name the provider that was asked. Nothing has changed, and \
                 the login still waits. The terminal says more.",
            ),
            Self::Failed => (
                "Not logged in",
                "The provider did not complete the login. The terminal says why; start it again.",
            ),
            Self::NotFound => {
                ("Nothing here", "This is the callback of a login that is under way.")
            }
        };
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
             <meta name=\"viewport\" content=\"width=device-width\">\
             <body style=\"font: 1.1em system-ui; margin: 4em auto; max-width: 32em\">\
             <h1>{title}</h1><p>{text}</p></body></html>\n"
        )
    }
}
