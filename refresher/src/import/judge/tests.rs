use super::*;
use crate::config::{Overrides, resolve};
use crate::import::format::Format;
use crate::oauth::lifetime::DEFAULT_SECONDS;
use crate::provider::discovery::configured;
use crate::secret::Secret;
use crate::store::Verdict;
use proptest::prelude::*;

const NOW: Now = Now { unix_ms: 1_779_000_000_000, boot_ms: 1 << 40 };
const UNIX: u64 = 1_779_000_000;
/// Payload: `{"client_id":"claimed","iat":1779000000,"exp":1779021600}`
const CLAIMED: &str = "eyJhbGciOiJub25lIn0.eyJjbGllbnRfaWQiOiJjbGFpbWVkIiwiaWF0IjoxNzc5MDAwMDAw\
    LCJleHAiOjE3NzkwMjE2MDB9.x";
/// Payload: `{"aud":["https://api.example","from-aud"]}`
const AUDIENCE: &str =
    "eyJhbGciOiJub25lIn0.eyJhdWQiOlsiaHR0cHM6Ly9hcGkuZXhhbXBsZSIsImZyb20tYXVkIl19.x";
/// Payload: `{"aud":"https://api.example"}`
const API: &str = "eyJhbGciOiJub25lIn0.eyJhdWQiOiJodHRwczovL2FwaS5leGFtcGxlIn0.x";
/// Payload: `{"aud":["other","configured"]}`
const SEVERAL: &str = "eyJhbGciOiJub25lIn0.eyJhdWQiOlsib3RoZXIiLCJjb25maWd1cmVkIl19.x";
/// Payload: `{"aud":"from-id-token"}`
const IDENTITY: &str = "eyJhbGciOiJub25lIn0.eyJhdWQiOiJmcm9tLWlkLXRva2VuIn0.x";

fn provider(document: &str) -> Provider {
    let env = |name: &str| (name == "HOME").then(|| "/home/u".to_owned());
    resolve(document, &Overrides::default(), &env).unwrap().provider
}

fn preset() -> Provider {
    provider("[providers.xai]\ntoken_endpoint = \"https://auth.x.ai/oauth2/token\"\n")
}

/// A client of the user's own.
fn own() -> Provider {
    provider(
        "[providers.xai]\nclient_id = \"configured\"\ntoken_endpoint = \"https://auth.x.ai/oauth2/token\"\n",
    )
}

fn endpoints(provider: &Provider) -> Endpoints {
    configured(provider, provider.token_endpoint.clone().unwrap())
}

fn candidate() -> Candidate {
    Candidate {
        format: Format::Hermes,
        refresh_token: Secret::new("rt-planted-1".into()),
        access_token: Some("at-planted-1".parse().unwrap()),
        id_token: None,
        client_id: None,
        issuer: None,
        token_endpoint: Some("https://auth.x.ai/oauth2/token".into()),
        obtained_at: Some(UNIX - 10),
        expires_at: Some(UNIX + 100),
        scope: None,
    }
}

fn admitted(candidate: &Candidate, provider: &Provider) -> Result<Grant, Refused> {
    admit(candidate, provider, &endpoints(provider), None, NOW)
}

#[test]
fn only_the_providers_own_endpoint_and_issuer_are_admitted() {
    let good = "https://auth.x.ai/oauth2/token";
    let issuer = "https://auth.x.ai";
    for (endpoint, named, refused) in [
        (Some(good), None, None),
        (Some(good), Some(issuer), None),
        (None, Some("https://auth.x.ai/"), None),
        (Some(good), Some("https://auth.x.ai.evil.example"), Some("issuer")),
        (None, Some("https://evil.example"), Some("issuer")),
        (Some("https://auth.x.ai/oauth2/token/"), None, Some("token_endpoint")),
        (Some("http://auth.x.ai/oauth2/token"), None, Some("token_endpoint")),
        (Some("https://auth.x.ai:444/oauth2/token"), None, Some("token_endpoint")),
        (Some("https://auth.x.ai@evil.example/oauth2/token"), None, Some("token_endpoint")),
        (Some("https://auth.x.ai/oauth2/token?x=rt-planted-1"), None, Some("token_endpoint")),
        (Some("rt-planted-1"), None, Some("token_endpoint")),
    ] {
        let candidate = Candidate {
            token_endpoint: endpoint.map(str::to_owned),
            issuer: named.map(str::to_owned),
            ..candidate()
        };
        let result = admitted(&candidate, &preset());
        let field = match &result {
            Err(Refused::Elsewhere { field, .. }) => Some(*field),
            other => other.as_ref().err().map(|_| "other"),
        };
        assert_eq!(field, refused, "{endpoint:?} {named:?}");
        let shown = result.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(!shown.contains("planted"), "{shown}");
    }
    let placeless = Candidate { token_endpoint: None, ..candidate() };
    assert!(matches!(admitted(&placeless, &preset()), Err(Refused::Placeless { .. })));
}

#[test]
fn both_sides_are_named() {
    let token_endpoint = Some("https://u:p@evil.example/t?q=1".to_owned());
    let error = admitted(&Candidate { token_endpoint, ..candidate() }, &preset()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "its token_endpoint is https://evil.example/t; accepted: https://auth.x.ai/oauth2/token, \
         that of provider xai"
    );
}

#[test]
fn the_client_is_the_one_that_the_grant_was_issued_to() {
    let ours = preset().client_id;
    for (explicit, access, identity, of_preset, of_own) in [
        (None, "opaque", None, ours.as_str(), Some("configured")),
        (Some("explicit"), CLAIMED, Some(IDENTITY), "explicit", None),
        (Some("configured"), CLAIMED, None, "configured", Some("configured")),
        (None, CLAIMED, Some(IDENTITY), "claimed", None),
        (None, AUDIENCE, Some(IDENTITY), "from-aud", None),
        (None, SEVERAL, None, "other", Some("configured")),
        (None, API, Some(IDENTITY), "from-id-token", None),
        (None, "opaque", Some(IDENTITY), "from-id-token", None),
        (None, API, None, ours.as_str(), Some("configured")),
        (Some("not a client"), "opaque", None, ours.as_str(), Some("configured")),
    ] {
        let candidate = Candidate {
            client_id: explicit.map(str::to_owned),
            access_token: Some(access.parse().unwrap()),
            id_token: identity.map(|token: &str| Secret::new(token.to_owned())),
            ..candidate()
        };
        let grant = admitted(&candidate, &preset()).unwrap();
        assert_eq!(grant.client_id, of_preset, "{explicit:?}");
        assert!(preset().granted(&grant));
        assert_eq!(preset().client_of(&grant).unwrap().id, of_preset);
        let id = admitted(&candidate, &own()).map(|grant| grant.client_id);
        assert_eq!(id.as_deref().ok(), of_own, "{explicit:?}");
        let stated = admit(&candidate, &own(), &endpoints(&own()), Some("stated"), NOW).unwrap();
        assert_eq!(stated.client_id, "stated");
        assert!(own().granted(&stated));
    }
}

#[test]
fn a_secret_client_is_never_presented_with_a_foreign_grant() {
    let document = "[providers.xai]\nclient_secret_file = \"/nowhere/secret\"\n\
        token_endpoint = \"https://auth.x.ai/oauth2/token\"\n";
    let confidential = provider(document);
    let foreign = Candidate { client_id: Some("another".into()), ..candidate() };
    assert!(matches!(admitted(&foreign, &confidential), Err(Refused::OtherClient { .. })));
    let grant = admit(&foreign, &confidential, &endpoints(&confidential), Some("another"), NOW);
    let client = confidential.client_of(&grant.unwrap()).unwrap();
    assert_eq!(client.proof, crate::oauth::client::Proof::None);
}

#[test]
fn a_token_of_unknown_end_counts_as_expired_and_no_end_is_too_far() {
    for (obtained_at, expires_at, expected) in [
        (Some(UNIX - 10), Some(UNIX + 100), Some((UNIX - 10, UNIX + 100))),
        (None, Some(UNIX + 100), Some((UNIX, UNIX + 100))),
        (Some(UNIX + 50), Some(UNIX + 100), Some((UNIX, UNIX + 100))),
        (Some(UNIX - 900), Some(UNIX - 100), Some((UNIX - 900, UNIX - 100))),
        (None, Some(UNIX - 100), Some((UNIX - 100, UNIX - 100))),
        (None, Some(u64::MAX), Some((UNIX, UNIX + MAX_SECONDS))),
        (Some(UNIX), None, None),
    ] {
        let grant =
            admitted(&Candidate { obtained_at, expires_at, ..candidate() }, &preset()).unwrap();
        let token = grant.token.map(|token| (token.obtained_at, token.expires_at));
        assert_eq!(token, expected, "{obtained_at:?} {expires_at:?}");
    }
}

#[test]
fn a_newer_grant_is_told_from_an_older_one() {
    let provider = preset();
    let stored = |obtained_at, expires_at, refresh_token: &str| {
        let mut grant = admitted(&candidate(), &provider).unwrap();
        grant.refresh_token = Secret::new(refresh_token.to_owned());
        let token = grant.token.as_mut().unwrap();
        (token.obtained_at, token.expires_at) = (obtained_at, expires_at);
        grant
    };
    let at = |obtained_at, expires_at| Candidate { obtained_at, expires_at, ..candidate() };
    let (held, life) = (stored(UNIX, UNIX + 900, "rt-2"), DEFAULT_SECONDS);
    for (candidate, expected) in [
        (at(Some(UNIX + 1), Some(UNIX + 2)), Standing::Newer),
        (at(Some(UNIX), Some(UNIX + life)), Standing::Older),
        (at(Some(UNIX - 1), Some(UNIX + life)), Standing::Older),
        (at(None, Some(UNIX + 901)), Standing::Newer),
        (at(None, Some(UNIX + 900)), Standing::Older),
        (at(None, None), Standing::Unknown),
    ] {
        assert_eq!(compare(&candidate, Some(&held), &provider), expected, "{candidate:?}");
        assert_eq!(compare(&candidate, None, &provider), Standing::Wanted);
        let same = stored(UNIX, UNIX + 900, "rt-planted-1");
        assert_eq!(compare(&candidate, Some(&same), &provider), Standing::Same);
        let changed = |change: &dyn Fn(&mut Grant)| {
            let mut grant = held.clone();
            change(&mut grant);
            compare(&candidate, Some(&grant), &provider)
        };
        let condemn = |grant: &mut Grant| {
            grant.verdict = Some(Verdict { reason: "invalid_grant".into(), at: UNIX });
        };
        assert_eq!(changed(&condemn), Standing::Wanted);
        let spent = |grant: &mut Grant| {
            condemn(grant);
            grant.refresh_token = Secret::new("rt-planted-1".into());
        };
        assert_eq!(changed(&spent), Standing::Dead);
        let move_away = |grant: &mut Grant| {
            grant.token_endpoint = "https://other.example/token".parse().unwrap();
        };
        assert_eq!(changed(&move_away), Standing::Foreign);
        assert_eq!(changed(&|grant| grant.token = None), Standing::Unknown);
    }
}

proptest! {
    #[test]
    fn no_address_but_the_providers_is_admitted(
        endpoint in prop_oneof![".{0,60}", "https://auth\\.x\\.ai[/a-z0-9@:?#.]{0,30}"],
        issuer in prop::option::of(".{0,40}"),
    ) {
        let candidate = Candidate { token_endpoint: Some(endpoint.clone()), issuer, ..candidate() };
        match admitted(&candidate, &preset()) {
            Ok(grant) => prop_assert_eq!(
                grant.token_endpoint.as_str(), "https://auth.x.ai/oauth2/token", "{}", endpoint
            ),
            Err(error) => prop_assert!(!error.to_string().contains("planted")),
        }
    }
}
