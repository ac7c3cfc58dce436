use super::super::{Config, Error, Overrides, resolve};
use super::*;

const DIGEST: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// The digest of "abcd".
const OTHER: &str = "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589";

fn with(document: &str) -> Result<Config, Error> {
    resolve(document, &Overrides::default(), &|name| (name == "HOME").then(|| "/home/u".into()))
}

fn refusal(document: &str) -> String {
    with(document).unwrap_err().to_string()
}

#[test]
fn a_name_has_a_digest_or_a_table_with_everything_that_a_key_carries() {
    let document = format!(
        "[client_keys]\nplain = \"{OTHER}\"\n\
         [client_keys.alice]\nsha256 = \"{DIGEST}\"\nnot_before = 1779000000\n\
         not_after = 2026-05-17T08:40:01+02:00\ncredential = \"bob\"\npaths = [\"/v1/\"]\n\
         models = [\"grok-4*\"]\nrequests_per_minute = 60\nconcurrency = 2\n\
         [client_keys.mesh]\nsubject_alt_name = \"spiffe://a/b\"\n"
    );
    let keys = with(&document).unwrap().client_keys;
    let id = |name: &str| name.parse::<ClientId>().unwrap();
    let [proof, other] = [DIGEST, OTHER].map(|digest| Proof::Key(digest.parse().unwrap()));
    let alice = ClientKey {
        not_before: 1_779_000_000,
        not_after: 1_779_000_001,
        credential: "bob".into(),
        paths: vec!["/v1/".into()],
        models: vec!["grok-4*".into()],
        requests_per_minute: 60,
        concurrency: 2,
        ..ClientKey::new(id("alice"), proof)
    };
    let mesh = ClientKey::new(id("mesh"), Proof::Certificate("spiffe://a/b".into()));
    let mut sorted = keys;
    sorted.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(sorted, [alice, mesh, ClientKey::new(id("plain"), other)]);
}

#[test]
fn what_no_client_key_has_is_named_with_what_would_be_accepted() {
    for (members, said) in [
        ("sha256 = \"D\"\ncolour = 1", "client_keys.a.colour: unknown setting; accepted: sha256, "),
        (
            "",
            "client_keys.a: neither; accepted: a client key has either sha256 or subject_alt_name",
        ),
        ("sha256 = \"D\"\nsubject_alt_name = \"x\"", "client_keys.a: both; accepted: a client key"),
        ("subject_alt_name = \"\"", "a.subject_alt_name: \"\"; accepted: a string that is not"),
        ("sha256 = \"my-plain-key\"", "client_keys.a.sha256: not a digest; accepted: the SHA-256"),
        ("sha256 = 7", "client_keys.a.sha256: not a digest; accepted: the SHA-256 of a key"),
        ("sha256 = \"D\"\npaths = [\"v1\"]", "a path of a client key begins with /"),
        ("sha256 = \"D\"\nmodels = [\"gr*k\"]", "with * only at its end"),
        ("sha256 = \"D\"\nmodels = \"grok\"", "client_keys.a.models: \"grok\"; accepted: a list"),
        ("sha256 = \"D\"\nconcurrency = -1", "a.concurrency: -1; accepted: a number from 0"),
        ("sha256 = \"D\"\nrequests_per_minute = 4294967296", "to 4294967295"),
        ("sha256 = \"D\"\nnot_after = \"soon\"", "a.not_after: \"soon\"; accepted: a date-time"),
        ("sha256 = \"D\"\nnot_after = 2026-05-17", "not_after: 2026-05-17; accepted: a date-time"),
        ("sha256 = \"D\"\nnot_after = 2026-05-17T06:40:00", "such as 2027-01-31T12:00:00Z"),
        ("sha256 = \"D\"\nnot_after = 1779000000000", "1779000000000; accepted: a date-time"),
        (
            "sha256 = \"D\"\nnot_before = 9\nnot_after = 9",
            "not_after: 9, which is not after not_before",
        ),
        ("sha256 = \"D\"\ncredential = \"any text\"", "a.credential: \"any text\"; accepted: "),
        ("sha256 = \"D\"\nnot_before = -5", "a.not_before: -5; accepted: a date-time"),
    ] {
        let members = members.replace("\"D\"", &format!("\"{DIGEST}\""));
        let message = refusal(&format!("[client_keys.a]\n{members}\n"));
        assert!(message.contains(said), "{members}\n{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(!message.contains("my-plain-key"), "{message}");
    }
    assert!(refusal("client_keys = 7\n").contains("client_keys: of another shape"));
    assert!(refusal(&format!("[client_keys]\n\"a b\" = \"{DIGEST}\"\n")).contains("A-Z a-z 0-9"));
}

#[test]
fn two_clients_have_not_one_key() {
    let document = format!("[client_keys]\na = \"{DIGEST}\"\nb = \"{DIGEST}\"\nc = \"{DIGEST}\"\n");
    let message = refusal(&document);
    assert_eq!(
        message,
        "client_keys.b: the same key or name as client_keys.a; accepted: one of its own"
    );
    let key = |name: &str| match name {
        "HOME" => Some("/home/u".to_owned()),
        "PROXY_API_KEY" => Some("abc".to_owned()),
        _ => None,
    };
    let document = format!("[client_keys]\na = \"{DIGEST}\"\n");
    assert!(resolve(&document, &Overrides::default(), &key).is_err());
}

#[test]
fn the_file_leaves_room_for_other_keys_and_the_credentials() {
    let entry = |number: usize| format!("k{number} = \"{number:064x}\"\n");
    let entries: String = (0..=MAX_KEYS).map(entry).collect();
    let message = refusal(&format!("[client_keys]\n{entries}"));
    assert_eq!(message, "client_keys: 1001 names; accepted: at most 1000");
    let path = "x".repeat(MAX_BYTES);
    let document = format!("[client_keys.a]\nsha256 = \"{DIGEST}\"\npaths = [\"/{path}\"]\n");
    let message = refusal(&document);
    assert!(message.contains("accepted: at most 262144: fewer or shorter"), "{message}");
}
