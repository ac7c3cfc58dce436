//! What one worker serves from: the last good bundle, and which of its tokens were refused.

use std::rc::Rc;

use zeroize::Zeroizing;

use crate::bundle::{AccessToken, Bundle, BundleError, Credential, Token};
use crate::client::ClientKey;

/// The last good bundle with all that can be prepared from it once.
#[derive(Debug, Default)]
pub struct Serving {
    bundle: Option<Bundle>,
    /// The bundle's client keys; requests keep hold of theirs.
    client_keys: Option<Vec<Rc<ClientKey>>>,
    /// The refresher's own way in.
    probe: Option<Rc<ClientKey>>,
    /// The whole header value of each credential that is ready.
    headers: Vec<(String, Header)>,
    /// The newest generation of each credential that the upstream refused.
    rejected: Vec<(String, u64)>,
}

struct Header {
    /// Empty where the token is withheld.
    authorization: Zeroizing<String>,
    /// The token's generation, as the access log shows it.
    generation: String,
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What there is to inject for a credential.
#[derive(Debug, PartialEq, Eq)]
pub enum Injection<'a> {
    /// This value of `authorization`.
    Ready {
        /// The header's value; empty where the token is withheld, for another filter to put in.
        authorization: &'a str,
        /// The token's generation, for the rejection should it be refused.
        generation: u64,
        /// The same as text, for the access log.
        shown: &'a str,
    },
    /// The upstream refused the token of this generation.
    Rejected {
        /// Its generation.
        generation: u64,
    },
    /// The token expired before another was published.
    Expired,
    /// The refresher says that it has none at the moment, and when it tries next (Unix seconds).
    Unavailable {
        /// Unix seconds.
        retry_at: u64,
    },
    /// The refresher says that only a login helps.
    LoginRequired,
    /// The bundle does not have this credential.
    Unknown,
    /// There is no bundle yet.
    NoBundle,
}

/// The client keys of the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published<'a> {
    /// The first bundle has not come yet.
    Awaited,
    /// The refresher has no client keys to manage.
    Unmanaged,
    /// A client key is required; these hold.
    Managed(&'a [Rc<ClientKey>]),
}

/// What became of a document.
#[derive(Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It is what is served from now on.
    Accepted,
    /// It is not newer than what is served.
    NotNewer,
}

impl Serving {
    /// Takes over a published bundle if it is newer than what is served.
    ///
    /// # Errors
    ///
    /// When it does not parse. What is served stays.
    pub fn accept(&mut self, document: &[u8]) -> Result<Acceptance, BundleError> {
        let mut bundle = Bundle::parse(document)?;
        if bundle.generation <= self.generation() {
            return Ok(Acceptance::NotNewer);
        }
        self.headers.clear();
        for (name, credential) in bundle.credentials.iter() {
            if let Credential::Ready(token) = credential {
                let value = |token: &AccessToken| format!("Bearer {}", token.expose());
                let authorization =
                    Zeroizing::new(token.access_token.as_ref().map(value).unwrap_or_default());
                let generation = token.generation.to_string();
                self.headers.push((name.to_owned(), Header { authorization, generation }));
            }
        }
        let client_keys = bundle.client_keys.take();
        self.client_keys = client_keys.map(|keys| keys.into_iter().map(Rc::new).collect());
        let probe = bundle.probe.take();
        self.probe = probe.map(|probe| Rc::new(probe.into_probe()));
        self.bundle = Some(bundle);
        Ok(Acceptance::Accepted)
    }

    /// The generation that is served; 0 before the first bundle.
    pub fn generation(&self) -> u64 {
        self.bundle.as_ref().map_or(0, |bundle| bundle.generation)
    }

    /// The tokens that are served, by credential.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, &Token)> {
        let credentials = self.bundle.iter().flat_map(|bundle| bundle.credentials.iter());
        credentials.filter_map(|(name, credential)| match credential {
            Credential::Ready(token) => Some((name, token)),
            _ => None,
        })
    }

    /// The bundle's client keys.
    pub fn client_keys(&self) -> Published<'_> {
        match (&self.bundle, &self.client_keys) {
            (None, _) => Published::Awaited,
            (Some(_), None) => Published::Unmanaged,
            (Some(_), Some(keys)) => Published::Managed(keys),
        }
    }

    /// The refresher's own way in, which is none of the client keys.
    pub fn probe(&self) -> Option<&Rc<ClientKey>> {
        self.probe.as_ref()
    }

    /// Notes that the upstream refused the token of `generation`.
    pub fn reject(&mut self, credential: &str, generation: u64) {
        match self.rejected.iter_mut().find(|(name, _)| name == credential) {
            Some((_, rejected)) => *rejected = generation.max(*rejected),
            None => self.rejected.push((credential.to_owned(), generation)),
        }
    }

    /// What to inject for `credential` at `now`, in Unix seconds.
    pub fn injection(&self, credential: &str, now: u64) -> Injection<'_> {
        let Some(bundle) = &self.bundle else {
            return Injection::NoBundle;
        };
        match (bundle.credentials.get(credential), find(&self.headers, credential)) {
            (Some(Credential::Ready(token)), Some(header)) => {
                let generation = token.generation;
                let rejected = find(&self.rejected, credential);
                if rejected.is_some_and(|rejected| *rejected >= generation) {
                    Injection::Rejected { generation }
                } else if now >= token.expires_at {
                    Injection::Expired
                } else {
                    Injection::Ready {
                        authorization: &header.authorization,
                        generation,
                        shown: &header.generation,
                    }
                }
            }
            (Some(Credential::Unavailable { retry_at, .. }), _) => {
                Injection::Unavailable { retry_at: *retry_at }
            }
            (Some(Credential::LoginRequired { .. }), _) => Injection::LoginRequired,
            _ => Injection::Unknown,
        }
    }
}

/// The value under a name, in a list of few.
fn find<'a, T>(list: &'a [(String, T)], name: &str) -> Option<&'a T> {
    list.iter().find_map(|(known, value)| (known == name).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn bundle(generation: u64, credential: &str) -> String {
        format!(
            r#"{{"version": 1, "generation": {generation}, "credentials": {{"default": {credential}}}}}"#
        )
    }

    fn ready(generation: u64) -> String {
        bundle(
            generation,
            &format!(
                r#"{{"state": "ready", "access_token": "token-{generation}", "token_type": "Bearer",
                    "expires_at": 2000, "generation": {generation}}}"#
            ),
        )
    }

    fn serving(document: &str) -> Serving {
        let mut serving = Serving::default();
        assert_eq!(serving.accept(document.as_bytes()), Ok(Acceptance::Accepted));
        serving
    }

    #[test]
    fn a_ready_token_is_injected_until_it_expires() {
        let serving = serving(&ready(7));
        let token = Injection::Ready { authorization: "Bearer token-7", generation: 7, shown: "7" };
        assert_eq!(serving.injection("default", 0), token);
        assert_eq!(serving.injection("default", 1999), token);
        assert_eq!(serving.injection("default", 2000), Injection::Expired);
        assert_eq!(serving.injection("other", 0), Injection::Unknown);
        assert_eq!(Serving::default().injection("default", 0), Injection::NoBundle);
    }

    #[test]
    fn a_token_that_is_withheld_has_no_header_and_its_times() {
        let serving = serving(&ready(7).replace(r#""access_token": "token-7", "#, ""));
        let token = Injection::Ready { authorization: "", generation: 7, shown: "7" };
        assert_eq!(serving.injection("default", 1999), token);
        assert_eq!(serving.injection("default", 2000), Injection::Expired);
    }

    #[test]
    fn only_a_newer_bundle_that_parses_replaces_the_last() {
        let mut serving = serving(&ready(7));
        for document in [ready(7), ready(6)] {
            assert_eq!(serving.accept(document.as_bytes()), Ok(Acceptance::NotNewer));
        }
        for document in ["<html>", "{}", ready(8).split_at(40).0] {
            assert!(serving.accept(document.as_bytes()).is_err());
        }
        assert_eq!(serving.generation(), 7);
        assert!(matches!(serving.injection("default", 0), Injection::Ready { generation: 7, .. }));
        assert_eq!(serving.accept(ready(8).as_bytes()), Ok(Acceptance::Accepted));
        assert!(matches!(serving.injection("default", 0), Injection::Ready { generation: 8, .. }));
    }

    #[test]
    fn a_rejected_token_is_not_injected_again() {
        let mut serving = serving(&ready(7));
        serving.reject("default", 7);
        serving.reject("default", 3);
        assert_eq!(serving.injection("default", 0), Injection::Rejected { generation: 7 });
        serving.accept(ready(8).as_bytes()).unwrap();
        assert!(matches!(serving.injection("default", 0), Injection::Ready { generation: 8, .. }));
    }

    #[test]
    fn a_late_rejection_of_an_old_token_leaves_the_new_one() {
        let mut serving = serving(&ready(8));
        serving.reject("default", 7);
        assert!(matches!(serving.injection("default", 0), Injection::Ready { generation: 8, .. }));
    }

    #[test]
    fn states_without_a_token_are_told_apart() {
        let login = serving(&bundle(1, r#"{"state": "login_required", "reason": "x"}"#));
        assert_eq!(login.injection("default", 0), Injection::LoginRequired);
        let unavailable =
            serving(&bundle(1, r#"{"state": "unavailable", "reason": "x", "retry_at": 9}"#));
        assert_eq!(unavailable.injection("default", 0), Injection::Unavailable { retry_at: 9 });
    }

    #[test]
    fn no_print_shows_a_token() {
        assert!(!format!("{:?}", serving(&ready(7))).contains("token-7"));
    }
}
