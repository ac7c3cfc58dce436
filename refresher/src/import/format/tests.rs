use super::*;

const SAMPLES: [(&str, &[u8]); 9] = [
    ("hermes", include_bytes!("../../../tests/samples/hermes.json")),
    ("hermes", include_bytes!("../../../tests/samples/hermes-pool.json")),
    ("hermes", include_bytes!("../../../tests/samples/hermes-logged-out.json")),
    ("grok-cli", include_bytes!("../../../tests/samples/grok-cli.json")),
    ("python-proxy", include_bytes!("../../../tests/samples/python-proxy.json")),
    ("python-proxy", include_bytes!("../../../tests/samples/python-proxy-export.json")),
    ("rust-proxy", include_bytes!("../../../tests/samples/rust-proxy.json")),
    ("torchbearer", include_bytes!("../../../tests/samples/torchbearer.json")),
    ("torchbearer", include_bytes!("../../../tests/samples/grant.json")),
];

const ENDPOINT: Option<&str> = Some("https://auth.x.ai/oauth2/token");
const ISSUER: Option<&str> = Some("https://auth.x.ai");
const OBTAINED: u64 = 1_779_000_000;
const EXPIRES: u64 = 1_779_021_600;

fn sample(name: &str, index: usize) -> Vec<Candidate> {
    let (_, bytes) = SAMPLES.iter().filter(|(format, _)| *format == name).nth(index).unwrap();
    read(bytes, None).unwrap()
}

/// The best candidate's facts: refresh token, client, issuer, endpoint, obtained, expires.
type Facts<'a> =
    (&'a str, Option<&'a str>, Option<&'a str>, Option<&'a str>, Option<u64>, Option<u64>);

fn facts(candidate: &Candidate) -> Facts<'_> {
    (
        candidate.refresh_token.expose(),
        candidate.client_id.as_deref(),
        candidate.issuer.as_deref(),
        candidate.token_endpoint.as_deref(),
        candidate.obtained_at,
        candidate.expires_at,
    )
}

#[test]
fn each_sample_is_read_as_what_it_is() {
    let (at, to) = (Some(OBTAINED), Some(EXPIRES));
    let expected: [(&str, usize, Facts<'_>); 8] = [
        ("hermes", 0, ("rt-planted-hermes", None, None, ENDPOINT, at, to)),
        ("hermes", 1, ("rt-planted-c", Some("of-the-entry"), ISSUER, None, None, to)),
        ("grok-cli", 0, ("rt-planted-grok", Some("client-2"), ISSUER, None, None, at)),
        ("python-proxy", 0, ("rt-planted-python", Some("python-client"), None, ENDPOINT, at, to)),
        ("python-proxy", 1, ("rt-planted-export", None, None, ENDPOINT, at, to)),
        ("rust-proxy", 0, ("rt-planted-rust", None, None, ENDPOINT, None, to)),
        ("torchbearer", 0, ("rt-planted-own", Some("own-client"), ISSUER, ENDPOINT, at, to)),
        ("torchbearer", 1, ("rt-planted-grant", Some("own-client"), ISSUER, ENDPOINT, at, to)),
    ];
    for (name, index, expected) in expected {
        let candidates = sample(name, index);
        assert_eq!(facts(&candidates[0]), expected, "{name} {index}");
        assert_eq!(candidates[0].format.name(), name);
        assert!(candidates[0].access_token.is_some(), "{name} {index}");
    }
}

#[test]
fn entries_in_good_standing_come_first_and_the_longest_life_before_the_rest() {
    let order: Vec<String> = sample("hermes", 1)
        .iter()
        .map(|candidate| candidate.refresh_token.expose().to_owned())
        .collect();
    assert_eq!(order, ["rt-planted-c", "rt-planted-b", "rt-planted-a"]);
    let order: Vec<_> = sample("grok-cli", 0).into_iter().map(|c| c.client_id.unwrap()).collect();
    assert_eq!(order, ["client-2", "client-of-the-name"]);
}

#[test]
fn what_is_no_login_is_said_by_its_reason() {
    for (text, stated, expected) in [
        ("", None, Unreadable::NotJson),
        ("[]", None, Unreadable::NotJson),
        ("{\"refresh_token\": \"rt-plant", None, Unreadable::NotJson),
        ("{}", None, Unreadable::UnknownFormat),
        ("{\"refresh_token\": \"rt\"}", None, Unreadable::UnknownFormat),
        ("{\"providers\": {}}", None, Unreadable::NoTokens(Format::Hermes)),
        ("{\"providers\": 7}", None, Unreadable::NoTokens(Format::Hermes)),
        ("{\"a::b\": 7}", None, Unreadable::NoTokens(Format::GrokCli)),
        ("{\"xai-oauth\": {}}", None, Unreadable::NoTokens(Format::PythonProxy)),
        ("{\"source\": \"torchbearer\"}", None, Unreadable::Version),
        ("{\"source\": \"torchbearer\", \"version\": 2}", None, Unreadable::Version),
        (
            "{\"refresh_token\": 7, \"token_endpoint\": \"u\"}",
            None,
            Unreadable::NoTokens(Format::RustProxy),
        ),
        (
            "{\"providers\": {}}",
            Some(Format::GrokCli),
            Unreadable::OtherFormat { stated: Format::GrokCli, found: "hermes" },
        ),
        (
            "{\"refresh_token\": \"rt\"}",
            Some(Format::RustProxy),
            Unreadable::OtherFormat { stated: Format::RustProxy, found: "none that is known" },
        ),
    ] {
        assert_eq!(read(text.as_bytes(), stated).unwrap_err(), expected, "{text}");
    }
    let (_, logged_out) = SAMPLES[2];
    assert_eq!(read(logged_out, None), Err(Unreadable::NoTokens(Format::Hermes)));
}

#[test]
fn a_field_of_another_type_is_as_good_as_missing() {
    let text = "{\"refresh_token\": \"rt\", \"token_endpoint\": \"https://a.example/\\u0007\",
        \"access_token\": \"two words\", \"expires_at\": {}, \"client_id\": [\"c\"], \"scope\": 1}";
    let [found] = read(text.as_bytes(), None).unwrap().try_into().unwrap();
    assert_eq!(facts(&found), ("rt", None, None, None, None, None));
    assert_eq!((found.access_token, found.scope), (None, None));
}

#[test]
fn a_jwt_tells_what_the_file_leaves_out() {
    // Payload: {"client_id":"claimed","iat":1779000000,"exp":1779021600}
    const JWT: &str = "eyJhbGciOiJub25lIn0.eyJjbGllbnRfaWQiOiJjbGFpbWVkIiwiaWF0IjoxNzc5MDAwMDAwLC\
        JleHAiOjE3NzkwMjE2MDB9.x";
    let text = format!(
        "{{\"refresh_token\": \"rt\", \"token_endpoint\": \"u\", \"access_token\": \"{JWT}\"}}"
    );
    let [found] = read(text.as_bytes(), None).unwrap().try_into().unwrap();
    assert_eq!((found.obtained_at, found.expires_at), (Some(OBTAINED), Some(EXPIRES)));
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        for stated in Format::ALL.into_iter().map(Some).chain([None]) {
            let _ = read(&bytes, stated);
        }
    }
}
