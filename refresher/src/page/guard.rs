//! Which requests are the page's own, by what a browser says of them.
//!
//! A page of another origin can make the browser send requests here. It cannot choose `Host`,
//! `Origin` or `Sec-Fetch-Site`, nor send JSON or a header of ours without asking first (CORS), and
//! nobody here answers that question.

use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, Method, StatusCode, Uri};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// For another host, as after DNS rebinding.
    #[error("this port serves 127.0.0.1 and localhost only")]
    Misdirected,
    /// Of a page of another origin.
    #[error("requests of other sites are refused")]
    CrossSite,
    /// Nothing is changed by other methods than POST.
    #[error("accepted: GET and POST")]
    Method,
    /// Of a shape that a form of any page could send.
    #[error("accepted: Content-Type: application/json")]
    ContentType,
}

impl Refusal {
    /// The status that goes with it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::CrossSite => StatusCode::FORBIDDEN,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }

    /// A word for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Misdirected => "misdirected_request",
            Self::CrossSite => "cross_site_request",
            Self::Method => "method_not_allowed",
            Self::ContentType => "unsupported_media_type",
        }
    }
}

/// Judges a request to the page that is served on `port`.
///
/// # Errors
///
/// Why it is refused.
pub fn judge(method: &Method, uri: &Uri, headers: &HeaderMap, port: u16) -> Result<(), Refusal> {
    let host = only(headers, HOST.as_str()).filter(|host| is_ours(host, port));
    // An absolute target comes before `Host` (RFC 9112, section 3.2.2).
    let named = uri.authority().is_none_or(|authority| is_ours(authority.as_str(), port));
    let Some(host) = host.filter(|_| named) else {
        return Err(Refusal::Misdirected);
    };
    let reads = [Method::GET, Method::HEAD].contains(method);
    if !reads && *method != Method::POST {
        return Err(Refusal::Method);
    }
    let origin = match headers.contains_key(ORIGIN) {
        true => Some(only(headers, ORIGIN.as_str()) == Some(&format!("http://{host}"))),
        false => None,
    };
    let site = headers.contains_key("sec-fetch-site").then(|| only(headers, "sec-fetch-site"));
    // `none` is the user's own doing: a bookmark, or an address that was typed.
    let own_site = match site {
        None | Some(Some("same-origin")) => true,
        Some(Some("none")) => reads,
        Some(_) => reads && opens_page(uri, headers),
    };
    let own_origin = origin.unwrap_or(reads);
    if !own_site || !own_origin {
        return Err(Refusal::CrossSite);
    }
    if !reads && !is_json(headers) {
        return Err(Refusal::ContentType);
    }
    Ok(())
}

/// Whether a link elsewhere leads to the page as a whole, which has nothing of anybody's in it. Not
/// into a frame.
fn opens_page(uri: &Uri, headers: &HeaderMap) -> bool {
    uri.path() == "/"
        && only(headers, "sec-fetch-mode") == Some("navigate")
        && only(headers, "sec-fetch-dest") == Some("document")
}

fn is_ours(host: &str, port: u16) -> bool {
    let (name, given) = host.rsplit_once(':').unwrap_or((host, "80"));
    let loopback = name == "127.0.0.1" || name.eq_ignore_ascii_case("localhost");
    loopback && given == port.to_string()
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = only(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

/// The value of a header that comes once, in visible ASCII.
pub fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    const PORT: u16 = 9997;
    const HERE: (&str, &str) = ("host", "127.0.0.1:9997");
    const OWN: (&str, &str) = ("origin", "http://127.0.0.1:9997");
    const SAME: (&str, &str) = ("sec-fetch-site", "same-origin");
    const CROSS: (&str, &str) = ("sec-fetch-site", "cross-site");
    const NAVIGATE: (&str, &str) = ("sec-fetch-mode", "navigate");
    const JSON: (&str, &str) = ("content-type", "application/json");

    fn judged(method: &str, target: &str, fields: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        judge(&method, &target.parse().unwrap(), &headers, PORT)
    }

    #[test]
    fn only_loopback_names_with_the_right_port_are_served() {
        for host in ["127.0.0.1:9997", "localhost:9997", "LocalHost:9997"] {
            assert_eq!(judged("GET", "/", &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example:9997",
            "127.0.0.1",
            "127.0.0.1:9998",
            "127.0.0.1:09997",
            "localhost",
            "localhost.:9997",
            "127.0.0.1.evil.example:9997",
            "127.1:9997",
            "[::1]:9997",
            "a@127.0.0.1:9997",
            "",
            "\u{ff}",
        ] {
            let fields = [("host", host)];
            assert_eq!(judged("GET", "/", &fields), Err(Refusal::Misdirected), "{host}");
        }
        assert_eq!(judged("GET", "/", &[]), Err(Refusal::Misdirected));
        assert_eq!(judged("GET", "/", &[HERE, HERE]), Err(Refusal::Misdirected));
        assert_eq!(judged("GET", "http://evil.example/", &[HERE]), Err(Refusal::Misdirected));
        assert_eq!(judged("GET", "http://127.0.0.1:9997/", &[HERE]), Ok(()));
    }

    #[test]
    fn what_changes_something_is_the_pages_own_and_json() {
        assert_eq!(judged("POST", "/api/logins", &[HERE, OWN, JSON]), Ok(()));
        assert_eq!(judged("POST", "/api/logins", &[HERE, OWN, JSON, SAME]), Ok(()));
        let charset = ("content-type", "Application/JSON; charset=utf-8");
        assert_eq!(judged("POST", "/api/logins", &[HERE, OWN, charset]), Ok(()));
        let named = [("host", "localhost:9997"), ("origin", "http://localhost:9997"), JSON];
        assert_eq!(judged("POST", "/api/logins", &named), Ok(()));
        for origin in [
            "null",
            "http://localhost:9997",
            "http://127.0.0.1:9998",
            "https://127.0.0.1:9997",
            "http://127.0.0.1:9997/",
            "http://evil.example",
            "",
        ] {
            let fields = [HERE, ("origin", origin), JSON];
            assert_eq!(judged("POST", "/", &fields), Err(Refusal::CrossSite), "{origin}");
        }
        assert_eq!(judged("POST", "/", &[HERE, JSON]), Err(Refusal::CrossSite));
        assert_eq!(judged("POST", "/", &[HERE, OWN, OWN, JSON]), Err(Refusal::CrossSite));
        for site in ["cross-site", "same-site", "none", "", "other"] {
            let fields = [HERE, OWN, JSON, ("sec-fetch-site", site)];
            assert_eq!(judged("POST", "/", &fields), Err(Refusal::CrossSite), "{site}");
        }
        for form in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
            let fields = [HERE, OWN, ("content-type", form)];
            assert_eq!(judged("POST", "/", &fields), Err(Refusal::ContentType), "{form}");
        }
        assert_eq!(judged("POST", "/", &[HERE, OWN]), Err(Refusal::ContentType));
        for method in ["PUT", "DELETE", "OPTIONS", "PATCH"] {
            assert_eq!(judged(method, "/", &[HERE, OWN, JSON]), Err(Refusal::Method), "{method}");
        }
    }

    #[test]
    fn other_sites_read_nothing_but_may_link_to_the_page() {
        let state = "/api/state";
        assert_eq!(judged("GET", state, &[HERE, SAME]), Ok(()));
        assert_eq!(judged("GET", state, &[HERE]), Ok(()));
        assert_eq!(judged("GET", state, &[HERE, ("sec-fetch-site", "none")]), Ok(()));
        let foreign = ("origin", "http://127.0.0.1:8000");
        assert_eq!(judged("GET", state, &[HERE, foreign]), Err(Refusal::CrossSite));
        for site in ["cross-site", "same-site", "other"] {
            let site = ("sec-fetch-site", site);
            for dest in ["document", "empty", "iframe"] {
                let fields = [HERE, site, NAVIGATE, ("sec-fetch-dest", dest)];
                assert_eq!(judged("GET", state, &fields), Err(Refusal::CrossSite), "{fields:?}");
                let expected = if dest == "document" { Ok(()) } else { Err(Refusal::CrossSite) };
                assert_eq!(judged("GET", "/", &fields), expected, "{fields:?}");
            }
        }
        let fields = [HERE, CROSS, ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "document")];
        assert_eq!(judged("GET", "/", &fields), Err(Refusal::CrossSite));
    }
}
