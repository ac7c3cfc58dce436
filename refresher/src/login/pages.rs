//! The small pages that a browser sees at the end of a login.

/// The looks of the status page, in small.
const STYLE: &str = "\
    :root{color-scheme:light dark;--ground:#f6f5f2;--card:#fffefc;--line:#dedad2;--ink:#211f1b;\
    --quiet:#645e54;--ok:#17663c;--ok-ground:#e0f2e7;--bad:#a11b12;--bad-ground:#fbe4e1}\
    @media(prefers-color-scheme:dark){:root{--ground:#161513;--card:#201f1c;--line:#3a3732;\
    --ink:#efece6;--quiet:#aba397;--ok:#7fd6a4;--ok-ground:#16351f;--bad:#ff9c90;\
    --bad-ground:#451a16}}\
    body{margin:0;min-height:100vh;display:grid;place-items:center;background:var(--ground);\
    color:var(--ink);font:16px/1.55 system-ui,-apple-system,\"Segoe UI\",Roboto,sans-serif}\
    main{box-sizing:border-box;width:min(27rem,calc(100vw - 2rem));padding:2rem;text-align:center;\
    background:var(--card);border:1px solid var(--line);border-radius:14px}\
    svg{width:3.25rem;height:3.25rem;fill:none;stroke-width:2;stroke-linecap:round;\
    stroke-linejoin:round}circle{stroke:none}\
    .ok{stroke:var(--ok)}.ok circle{fill:var(--ok-ground)}\
    .bad{stroke:var(--bad)}.bad circle{fill:var(--bad-ground)}\
    .quiet{stroke:var(--quiet)}.quiet circle{fill:var(--ground)}\
    h1{font-size:1.35rem;line-height:1.3;margin:.8rem 0 .4rem}p{margin:0;color:var(--quiet)}";

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
                 the login still waits. Where it was started, there is more about it.",
            ),
            Self::Failed => (
                "Not logged in",
                "The provider did not complete the login. Where it was started, it says why; start it \
                 again there.",
            ),
            Self::NotFound => {
                ("Nothing here", "This is the callback of a login that is under way.")
            }
        };
        let (class, mark) = match self {
            Self::LoggedIn => ("ok", "<path d=\"M7 12.5l3.5 3.5L17 9\"/>"),
            Self::OtherAttempt | Self::OtherIssuer | Self::NotFound => {
                ("quiet", "<path d=\"M12 7v6M12 16.5v.5\"/>")
            }
            _ => ("bad", "<path d=\"M8.5 8.5l7 7M15.5 8.5l-7 7\"/>"),
        };
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\"><style>{STYLE}</style>\
             <main><svg class=\"{class}\" viewBox=\"0 0 24 24\" aria-hidden=\"true\">\
             <circle cx=\"12\" cy=\"12\" r=\"11\"/>{mark}</svg>\
             <h1>{title}</h1><p>{text}</p></main></html>\n"
        )
    }
}
