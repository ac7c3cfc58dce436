//! What the provider knows: families of tokens and everything that may become one. Pure: the time
//! and the seed of all secrets are arguments.
//!
//! One login makes a family. A family has any number of access tokens and one refresh token that
//! is good; the others are spent, and to present one of those revokes the family.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::Options;
use crate::authorization::{Code, Consent};
use crate::device::Device;
use crate::digest::Entropy;
use crate::fault::{Fault, Target};
use crate::log::{KEPT_ENTRIES, Logs};

/// Scopes that a client may ask for; a request without `scope` asks for all.
pub(crate) const SCOPES: [&str; 6] =
    ["openid", "profile", "email", "offline_access", "grok-cli:access", "api:access"];

/// Everything that changes.
pub(crate) struct State {
    pub(crate) options: Options,
    pub(crate) entropy: Entropy,
    pub(crate) logs: Logs,
    pub(crate) faults: BTreeMap<Target, Fault>,
    pub(crate) consents: HashMap<String, Consent>,
    pub(crate) codes: HashMap<String, Code>,
    pub(crate) devices: BTreeMap<u64, Device>,
    secrets: VecDeque<String>,
    families: BTreeMap<u64, Family>,
    refresh_tokens: HashMap<String, RefreshToken>,
    access_tokens: HashMap<String, AccessToken>,
}

/// Everything that one login led to.
struct Family {
    scope: String,
    revoked: bool,
    access_tokens: u64,
}

struct RefreshToken {
    family: u64,
    spent: bool,
}

struct AccessToken {
    family: u64,
    expires_at: u64,
    killed: bool,
}

/// A successful answer of the token endpoint, not yet signed.
pub(crate) struct Issued {
    pub(crate) family: u64,
    pub(crate) jti: String,
    pub(crate) issued_at: u64,
    pub(crate) expires_at: u64,
    pub(crate) refresh_token: Option<String>,
    pub(crate) scope: String,
    pub(crate) nonce: Option<String>,
}

/// Why the token endpoint refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    InvalidRequest(&'static str),
    InvalidClient(&'static str),
    InvalidGrant(&'static str),
    /// On the wire the same as any other `invalid_grant`.
    SpentTwice,
    InvalidScope,
    UnsupportedGrantType,
    AuthorizationPending,
    SlowDown,
    ExpiredToken,
    AccessDenied,
}

impl State {
    pub(crate) fn new(options: Options, seed: [u8; 32]) -> Self {
        Self {
            options,
            entropy: Entropy::new(seed),
            logs: Logs::default(),
            faults: BTreeMap::new(),
            consents: HashMap::new(),
            codes: HashMap::new(),
            devices: BTreeMap::new(),
            secrets: VecDeque::new(),
            families: BTreeMap::new(),
            refresh_tokens: HashMap::new(),
            access_tokens: HashMap::new(),
        }
    }

    /// The fault that strikes the next request to `target`; counts it.
    pub(crate) fn take_fault(&mut self, target: Target) -> Option<Fault> {
        let fault = self.faults.get_mut(&target)?;
        let struck = fault.clone();
        if let Some(count) = &mut fault.count {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.faults.remove(&target);
            }
        }
        let strikes = struck.count != Some(0);
        self.logs.summary.struck += u64::from(strikes);
        strikes.then_some(struck)
    }

    /// The scope to grant for the one asked for, if all of it may be had.
    pub(crate) fn grantable_scope(asked: Option<&str>) -> Option<String> {
        let Some(asked) = asked else { return Some(SCOPES.join(" ")) };
        asked.split(' ').all(|scope| SCOPES.contains(&scope)).then(|| asked.to_owned())
    }

    /// A fresh secret, which is remembered.
    pub(crate) fn secret(&mut self) -> String {
        let secret = self.entropy.opaque();
        self.remember(&secret);
        secret
    }

    /// Remembers a secret, for those who look whether it is shown anywhere.
    pub(crate) fn remember(&mut self, secret: &str) {
        if self.secrets.len() == KEPT_ENTRIES {
            self.secrets.pop_front();
        }
        self.secrets.push_back(secret.to_owned());
    }

    /// The secrets that were given out or presented, the latest last.
    pub(crate) fn secrets(&self) -> Vec<String> {
        self.secrets.iter().cloned().collect()
    }

    /// Starts a family and issues its first tokens. There is a refresh token only with the scope
    /// `offline_access` (OpenID Connect Core, section 11).
    pub(crate) fn log_in(&mut self, scope: String, nonce: Option<String>, now_ms: u64) -> Issued {
        let family = self.families.last_key_value().map_or(0, |(last, _)| *last) + 1;
        let offline = scope.split(' ').any(|scope| scope == "offline_access");
        self.families.insert(family, Family { scope, revoked: false, access_tokens: 0 });
        let refresh_token = offline.then(|| self.fresh_refresh_token(family));
        let issued = self.issue(family, refresh_token, None, now_ms);
        Issued { nonce, ..issued }
    }

    /// Exchanges a refresh token. `keep` makes the provider one that does not rotate.
    pub(crate) fn refresh(
        &mut self,
        presented: &str,
        scope: Option<&str>,
        keep: bool,
        now_ms: u64,
    ) -> Result<Issued, Refusal> {
        let token = self.refresh_tokens.get_mut(presented);
        let token = token.ok_or(Refusal::InvalidGrant("unknown refresh token"))?;
        let family = token.family;
        if token.spent {
            // RFC 9700, section 4.14.2: one of the two who have it stole it; neither keeps it.
            self.revoke_family(family);
            return Err(Refusal::SpentTwice);
        }
        let Some(Family { scope: granted, revoked: false, .. }) = self.families.get(&family) else {
            return Err(Refusal::InvalidGrant("refresh token has been revoked"));
        };
        // RFC 6749, section 6: no scope that was not granted before.
        let within =
            |asked: &str| asked.split(' ').all(|one| granted.split(' ').any(|had| had == one));
        if !scope.is_none_or(within) {
            return Err(Refusal::InvalidScope);
        }
        let successor = if keep {
            presented.to_owned()
        } else {
            token.spent = true;
            self.fresh_refresh_token(family)
        };
        Ok(self.issue(family, Some(successor), scope, now_ms))
    }

    fn fresh_refresh_token(&mut self, family: u64) -> String {
        let token = self.secret();
        self.refresh_tokens.insert(token.clone(), RefreshToken { family, spent: false });
        token
    }

    fn issue(
        &mut self,
        family: u64,
        refresh_token: Option<String>,
        narrowed: Option<&str>,
        now_ms: u64,
    ) -> Issued {
        let issued_at = now_ms / 1000;
        let expires_at = issued_at.saturating_add(self.options.token_life);
        self.access_tokens.retain(|_, token| issued_at < token.expires_at);
        let (mut scope, mut number) = (String::new(), 0);
        if let Some(known) = self.families.get_mut(&family) {
            known.access_tokens += 1;
            number = known.access_tokens;
            scope = narrowed.unwrap_or(&known.scope).to_owned();
        }
        let jti = format!("f{family}-t{number}");
        self.access_tokens.insert(jti.clone(), AccessToken { family, expires_at, killed: false });
        Issued { family, jti, issued_at, expires_at, refresh_token, scope, nonce: None }
    }

    /// Whether the API lets this access token in.
    pub(crate) fn admits(&self, jti: &str, now_ms: u64) -> bool {
        self.access_tokens.get(jti).is_some_and(|token| {
            let revoked = self.families.get(&token.family).is_none_or(|family| family.revoked);
            now_ms / 1000 < token.expires_at && !token.killed && !revoked
        })
    }

    /// Makes access tokens dead at the API before their time: one, or all; says how many.
    pub(crate) fn kill(&mut self, jti: Option<&str>, now_ms: u64) -> usize {
        let mut killed = 0;
        for (id, token) in &mut self.access_tokens {
            let meant = jti.is_none_or(|jti| jti == id);
            if meant && !token.killed && now_ms / 1000 < token.expires_at {
                token.killed = true;
                killed += 1;
            }
        }
        killed
    }

    /// Ends a family: its access tokens and its refresh token.
    pub(crate) fn revoke_family(&mut self, family: u64) {
        if let Some(family) = self.families.get_mut(&family) {
            family.revoked = true;
        }
    }

    /// Ends every family; says how many.
    pub(crate) fn revoke_all(&mut self) -> usize {
        let live = self.families.values_mut().filter(|family| !family.revoked);
        live.map(|family| family.revoked = true).count()
    }

    /// The family of a refresh token.
    pub(crate) fn family_of_refresh_token(&self, token: &str) -> Option<u64> {
        self.refresh_tokens.get(token).map(|token| token.family)
    }

    /// The family of an access token.
    pub(crate) fn family_of_access_token(&self, jti: &str) -> Option<u64> {
        self.access_tokens.get(jti).map(|token| token.family)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State::new(Options { token_life: 100, ..Options::default() }, [1; 32])
    }

    fn scope() -> String {
        SCOPES.join(" ")
    }

    #[test]
    fn a_spent_refresh_token_takes_its_family_along_and_no_other() {
        let mut state = state();
        let (first, other) = (state.log_in(scope(), None, 0), state.log_in(scope(), None, 0));
        let old = first.refresh_token.unwrap();
        let second = state.refresh(&old, None, false, 0).unwrap();
        assert!(state.admits(&first.jti, 0) && state.admits(&second.jti, 0));
        assert_eq!(state.refresh(&old, None, false, 0).err(), Some(Refusal::SpentTwice));
        assert!(!state.admits(&first.jti, 0) && !state.admits(&second.jti, 0));
        let newest = second.refresh_token.unwrap();
        assert!(matches!(state.refresh(&newest, None, false, 0), Err(Refusal::InvalidGrant(_))));
        assert!(state.admits(&other.jti, 0));
        assert!(state.refresh(&other.refresh_token.unwrap(), None, false, 0).is_ok());
    }

    #[test]
    fn without_rotation_the_same_token_is_good_again() {
        let mut state = state();
        let token = state.log_in(scope(), None, 0).refresh_token.unwrap();
        for _ in 0..2 {
            let issued = state.refresh(&token, None, true, 0).unwrap();
            assert_eq!(issued.refresh_token.as_deref(), Some(token.as_str()));
        }
    }

    #[test]
    fn scope_can_shrink_and_not_grow_and_a_refusal_spends_nothing() {
        let mut state = state();
        let token = state.log_in("openid offline_access".into(), None, 0).refresh_token.unwrap();
        let refused = state.refresh(&token, Some("openid email"), false, 0);
        assert_eq!(refused.err(), Some(Refusal::InvalidScope));
        assert_eq!(state.refresh(&token, Some("openid"), false, 0).unwrap().scope, "openid");
        assert!(state.log_in("openid".into(), None, 0).refresh_token.is_none());
        assert_eq!(State::grantable_scope(Some("openid root")), None);
    }

    #[test]
    fn an_access_token_lives_until_it_expires_or_is_killed() {
        let mut state = state();
        let (one, two) = (state.log_in(scope(), None, 5_000), state.log_in(scope(), None, 5_000));
        assert!(state.admits(&one.jti, 104_999) && !state.admits(&one.jti, 105_000));
        assert_eq!(state.kill(Some(&one.jti), 6_000), 1);
        assert!(!state.admits(&one.jti, 6_000) && state.admits(&two.jti, 6_000));
        assert_eq!(state.kill(None, 6_000), 1);
        assert!(!state.admits(&two.jti, 6_000));
        assert!(state.refresh(&two.refresh_token.unwrap(), None, false, 6_000).is_ok());
        assert_eq!(state.revoke_all(), 2);
        assert!(matches!(
            state.refresh(&one.refresh_token.unwrap(), None, false, 6_000),
            Err(Refusal::InvalidGrant(_))
        ));
    }

    #[test]
    fn a_fault_strikes_as_often_as_it_says() {
        let mut state = state();
        let fault = Fault { count: Some(2), ..Fault::new(Target::Token) };
        state.faults.insert(Target::Token, fault);
        assert!(state.take_fault(Target::Api).is_none());
        let struck = (0..4).filter(|_| state.take_fault(Target::Token).is_some()).count();
        assert_eq!(struck, 2);
        state.faults.insert(Target::Token, Fault::new(Target::Token));
        assert!((0..9).all(|_| state.take_fault(Target::Token).is_some()));
        state.faults.insert(Target::Token, Fault { count: Some(0), ..Fault::new(Target::Token) });
        assert!(state.take_fault(Target::Token).is_none());
        assert_eq!(state.logs.summary.struck, 2 + 9);
    }
}
