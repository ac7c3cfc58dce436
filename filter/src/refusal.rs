//! The answers that the filter gives itself, in the error shape of the OpenAI API.

use serde::Serialize;

use crate::limit::Quota;

/// A request that is answered here and goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status code.
    pub status: u16,
    /// Stable word for programs.
    pub code: &'static str,
    /// The error's class, as OpenAI clients know it.
    pub kind: &'static str,
    /// Sentence for people: what is wrong and what to do.
    pub message: &'static str,
    /// `Retry-After`, in seconds (RFC 9110, section 10.2.3).
    pub retry_after: Option<u64>,
    /// What is left of the client's requests.
    pub quota: Option<Quota>,
}

const AUTHENTICATION: &str = "authentication_error";
const INVALID: &str = "invalid_request_error";
const PERMISSION: &str = "permission_error";
const RATE_LIMIT: &str = "rate_limit_error";
const SERVER: &str = "server_error";

impl Refusal {
    const fn new(
        status: u16,
        code: &'static str,
        kind: &'static str,
        message: &'static str,
    ) -> Self {
        Self { status, code, kind, message, retry_after: None, quota: None }
    }

    /// The same refusal, saying when to try again.
    #[must_use]
    pub const fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// The same refusal, saying what is left of the client's requests.
    #[must_use]
    pub const fn quota(self, quota: Quota) -> Self {
        Self { quota: Some(quota), ..self }
    }

    /// No client key, or none that holds. One answer for all cases, so that it tells nothing.
    pub const INVALID_CLIENT_KEY: Self = Self::new(
        401,
        "invalid_client_key",
        AUTHENTICATION,
        "A valid client key is required, as a bearer token or in X-Proxy-Api-Key.",
    );
    /// The key is good, but not for this path.
    pub const PATH_NOT_ALLOWED: Self = Self::new(
        403,
        "path_not_allowed",
        PERMISSION,
        "This client key is not allowed to use this path.",
    );
    /// The key is good, but not for this model, or the request leaves open which it means.
    pub const MODEL_NOT_ALLOWED: Self = Self::new(
        403,
        "model_not_allowed",
        PERMISSION,
        "This client key is limited to certain models, and the request does not name one of them.",
    );
    /// A body that had to be read for its model is too large.
    pub const BODY_TOO_LARGE: Self = Self::new(
        413,
        "body_too_large",
        INVALID,
        "This client key is limited to certain models, and the body is too large to look for its model.",
    );
    /// The client has made all requests that it may make in a minute.
    pub const RATE_LIMITED: Self = Self::new(
        429,
        "rate_limit_exceeded",
        RATE_LIMIT,
        "This client has made all the requests that it may make in a minute.",
    );
    /// The client has all requests under way that it may have at the same time.
    pub const TOO_CONCURRENT: Self = Self::new(
        429,
        "concurrency_limit_exceeded",
        RATE_LIMIT,
        "This client has all the requests under way that it may have at the same time.",
    );
    /// `CONNECT` and `TRACE` have no use with an API.
    pub const METHOD_NOT_ALLOWED: Self =
        Self::new(405, "method_not_allowed", INVALID, "This method is not proxied.");
    /// The path means different things to different servers.
    pub const AMBIGUOUS_PATH: Self = Self::new(
        400,
        "ambiguous_path",
        INVALID,
        "The path has dot segments, empty segments, backslashes, escaped separators or unescaped bytes.",
    );
    /// Without client keys only loopback may be served.
    pub const CLIENT_KEYS_REQUIRED: Self = Self::new(
        503,
        "client_keys_required",
        SERVER,
        "This listener is not on loopback and has no client keys; it serves nobody until it has.",
    );
    /// Without client keys a foreign `Host` is how DNS rebinding looks.
    pub const MISDIRECTED: Self = Self::new(
        421,
        "misdirected_request",
        INVALID,
        "Without client keys, only requests to localhost or a loopback address are served.",
    );
    /// Without client keys a web page must not use the account.
    pub const CROSS_SITE: Self = Self::new(
        403,
        "cross_site_request",
        PERMISSION,
        "Without client keys, requests from web pages of other sites are refused.",
    );
    /// The upstream filter saw a request that no gate of this Envoy let through.
    pub const NOT_ADMITTED: Self = Self::new(
        503,
        "not_admitted",
        SERVER,
        "This request did not pass a Torchbearer gate, so it gets no credential.",
    );
    /// The refresher has not answered since this filter started.
    pub const NO_BUNDLE: Self = Self::new(
        503,
        "refresher_unavailable",
        SERVER,
        "No credential has been published yet; check that the refresher runs.",
    );
    /// Only a login helps.
    pub const LOGIN_REQUIRED: Self = Self::new(
        503,
        "login_required",
        SERVER,
        "The account's login is missing or has ended; run \"refresher login\".",
    );
    /// The access token expired and could not be renewed in time.
    pub const TOKEN_EXPIRED: Self = Self::new(
        503,
        "token_expired",
        SERVER,
        "The access token has expired and could not be renewed yet.",
    );
    /// The API refused the access token and it could not be replaced in time.
    pub const TOKEN_REJECTED: Self = Self::new(
        503,
        "token_rejected",
        SERVER,
        "The API refused the access token and it could not be replaced yet.",
    );
    /// A client key names a credential that the refresher does not have.
    pub const UNKNOWN_CREDENTIAL: Self = Self::new(
        503,
        "unknown_credential",
        SERVER,
        "The credential of this client is not known to the refresher.",
    );
    /// The refresher gives tokens to Envoy's own filter alone, and none is behind this place.
    pub const NOT_INJECTED: Self = Self::new(
        503,
        "credential_not_injected",
        SERVER,
        "No access token was put in; publish.sds_dir and bearer.credential_injector have to go together.",
    );

    /// The answer's headers; `request_id`: by which it is found in the access log.
    pub fn headers(&self, request_id: Option<&str>) -> Vec<(&'static str, String)> {
        let mut headers = vec![("content-type", "application/json".to_owned())];
        headers.extend(request_id.map(|id| ("x-request-id", id.to_owned())));
        if self.status == 401 {
            // RFC 9110, section 15.5.2: a 401 carries at least one challenge.
            headers.push(("www-authenticate", "Bearer".to_owned()));
        }
        if let Some(seconds) = self.retry_after {
            headers.push(("retry-after", seconds.to_string()));
        }
        headers.extend(self.quota.iter().flat_map(quota_headers));
        headers
    }

    /// The answer's body, the same for every request that is refused for this reason.
    pub fn body(&self) -> String {
        #[derive(Serialize)]
        struct Body {
            error: Error,
        }
        #[derive(Serialize)]
        struct Error {
            message: &'static str,
            r#type: &'static str,
            code: &'static str,
        }
        let error = Error { message: self.message, r#type: self.kind, code: self.code };
        // Strings always serialise.
        serde_json::to_string(&Body { error }).unwrap_or_default()
    }
}

/// The headers from which OpenAI clients read what is left of their requests.
pub fn quota_headers(quota: &Quota) -> [(&'static str, String); 3] {
    let Quota { limit, remaining, reset_ms } = quota;
    // Go's notation of durations, as OpenAI's API has it.
    let reset = match reset_ms {
        0..1000 => format!("{reset_ms}ms"),
        _ => format!("{}s", reset_ms.div_ceil(1000)),
    };
    [
        ("x-ratelimit-limit-requests", limit.to_string()),
        ("x-ratelimit-remaining-requests", remaining.to_string()),
        ("x-ratelimit-reset-requests", reset),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_refusal_has_the_shape_that_openai_clients_read() {
        let body: serde_json::Value =
            serde_json::from_str(&Refusal::LOGIN_REQUIRED.body()).unwrap();
        assert_eq!(body["error"]["code"], "login_required");
        assert_eq!(body["error"]["type"], "server_error");
        assert!(body["error"]["message"].as_str().unwrap().contains("refresher login"));
    }

    #[test]
    fn a_401_has_a_challenge_and_a_wait_is_said() {
        let headers = Refusal::INVALID_CLIENT_KEY.headers(Some("7f"));
        assert!(headers.contains(&("www-authenticate", "Bearer".to_owned())));
        assert!(headers.contains(&("x-request-id", "7f".to_owned())));
        let headers = Refusal::TOKEN_EXPIRED.retry_after(7).headers(None);
        assert!(headers.contains(&("retry-after", "7".to_owned())));
        let quota = Quota { limit: 60, remaining: 0, reset_ms: 59_001 };
        let headers = Refusal::RATE_LIMITED.quota(quota).headers(None);
        for header in quota_headers(&quota) {
            assert!(headers.contains(&header));
        }
        assert!(headers.contains(&("x-ratelimit-reset-requests", "60s".to_owned())));
    }

    /// Of this file, each `new(STATUS, "CODE"`; of the bootstrap's mappers, each code.
    #[test]
    fn the_readme_has_every_code_of_the_filter_and_of_envoy_and_no_other() {
        let own = include_str!("refusal.rs").split("#[cfg(test)]").next().unwrap();
        let own = own.split("Self::new(").skip(1).map(|call| {
            let mut arguments = call.split(',').map(|argument| argument.trim().trim_matches('"'));
            let status: u16 = arguments.next().unwrap().parse().unwrap();
            (Some(status), arguments.next().unwrap())
        });
        let envoy = include_str!("../../envoy/standalone/bootstrap.yaml").split("{code: ").skip(1);
        let envoy = envoy.map(|mapper| (None, mapper.split(',').next().unwrap()));
        let known: Vec<(Option<u16>, &str)> = own.chain(envoy).collect();
        assert!(known.contains(&(Some(401), "invalid_client_key")));
        assert!(known.contains(&(None, "upstream_reset")));

        let readme = include_str!("../../README.md").split("\n## Errors\n").nth(1).unwrap();
        let rows = readme.split("\n## ").next().unwrap().lines();
        let rows = rows.filter_map(|row| row.strip_prefix("| ")?.split_once(" | `"));
        let shown: Vec<(u16, &str)> = rows
            .filter_map(|(status, rest)| Some((status.parse().ok()?, rest.split('`').next()?)))
            .collect();
        for (status, code) in &known {
            let fits = |(other, name): &(u16, &str)| {
                name == code && status.is_none_or(|status| status == *other)
            };
            assert!(shown.iter().any(fits), "the README lacks {status:?} {code}");
        }
        for (status, code) in &shown {
            let known = known.iter().any(|(_, name)| name == code);
            assert!(known, "the README has {status} {code}, and nothing answers it");
        }
        assert!(shown.is_sorted_by_key(|(status, _)| *status));
    }
}
