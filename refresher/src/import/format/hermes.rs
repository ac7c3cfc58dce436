//! Hermes keeps one login as a provider and any number in a pool. It knows xAI alone under this
//! name, and after a terminal failure it removes the tokens and leaves the rest.

use super::json::Document;
use super::{Candidate, Format, by_expiry, flat};

/// The provider's name in Hermes's files.
pub(super) const PROVIDER: &str = "xai-oauth";

/// What an entry that names no endpoint is for.
const ISSUER: &str = "https://auth.x.ai";

/// The provider's login and the pool's entries in good standing, the one that lives longest first;
/// after them the rest of the pool.
pub(super) fn read(document: &Document) -> Vec<Candidate> {
    let single = document.child("providers").and_then(|providers| providers.child(PROVIDER));
    let endpoint = single.as_ref().and_then(endpoint);
    let single = single.and_then(|single| provider(&single, Format::Hermes));
    let (mut good, mut rest): (Vec<_>, Vec<_>) = (single.into_iter().collect(), Vec::new());
    let pool = document.child("credential_pool").map(|pool| pool.children(PROVIDER));
    for entry in pool.into_iter().flatten() {
        let status = entry.text("last_status").unwrap_or_default();
        let list = if matches!(status, "" | "ok") { &mut good } else { &mut rest };
        if let Some(mut candidate) = flat(&entry, Format::Hermes) {
            candidate.token_endpoint = candidate.token_endpoint.or_else(|| endpoint.clone());
            list.push(placed(candidate));
        }
    }
    let mut candidates = by_expiry(good);
    candidates.append(&mut by_expiry(rest));
    candidates
}

/// The login in a provider object: `tokens` and `discovery` within, the facts beside them.
pub(super) fn provider(object: &Document, format: Format) -> Option<Candidate> {
    let mut tokens = object.child("tokens")?;
    for name in ["last_refresh", "client_id"] {
        tokens.inherit(name, object);
    }
    let mut candidate = flat(&tokens, format)?;
    candidate.token_endpoint = candidate.token_endpoint.or_else(|| endpoint(object));
    Some(placed(candidate))
}

fn endpoint(object: &Document) -> Option<String> {
    object.child("discovery")?.word("token_endpoint")
}

fn placed(mut candidate: Candidate) -> Candidate {
    if candidate.token_endpoint.is_none() && candidate.issuer.is_none() {
        candidate.issuer = Some(ISSUER.to_owned());
    }
    candidate
}
