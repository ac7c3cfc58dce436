use super::*;
use proptest::prelude::*;
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn key(id: &str, secret: &str) -> Rc<ClientKey> {
    Rc::new(ClientKey::of_key(id.parse().unwrap(), secret.as_bytes()))
}

fn found(keys: &[Rc<ClientKey>], presented: &str, now: u64) -> Option<String> {
    let found = identify(keys.iter(), presented.as_bytes(), now);
    found.map(|key| key.id.as_str().to_owned())
}

#[test]
fn each_of_several_keys_finds_its_client() {
    let keys = [key("alice", "key-of-alice"), key("bob", "key-of-bob"), key("eve", "k")];
    assert_eq!(found(&keys, "key-of-alice", 0).as_deref(), Some("alice"));
    assert_eq!(found(&keys, "key-of-bob", 0).as_deref(), Some("bob"));
    assert_eq!(found(&keys, "k", 0).as_deref(), Some("eve"));
    assert_eq!(found(&[], "k", 0), None);
}

#[test]
fn a_near_miss_is_a_miss() {
    let keys = [key("alice", "torchbearer-key-0123456789")];
    for presented in [
        "",
        "torchbearer-key-012345678",
        "torchbearer-key-01234567890",
        "torchbearer-key-012345678X",
        "Torchbearer-key-0123456789",
    ] {
        assert_eq!(found(&keys, presented, 0), None, "{presented}");
    }
}

#[test]
fn a_key_holds_from_its_first_to_before_its_last_second() {
    let mut limited = ClientKey::of_key("alice".parse().unwrap(), b"k");
    limited.not_before = 100;
    limited.not_after = 200;
    for (now, held) in [(0, false), (99, false), (100, true), (199, true), (200, false)] {
        assert_eq!(found(&[Rc::new(limited.clone())], "k", now).is_some(), held, "{now}");
    }
}

#[test]
fn a_certificate_finds_its_client_and_no_other_proof_does() {
    let name = "spiffe://example.org/ns/web/sa/chat";
    let proof = Proof::Certificate(name.to_owned());
    let keys = [key("alice", "k"), Rc::new(ClientKey::new("chat".parse().unwrap(), proof))];
    let client = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        identify_certificate(keys.iter(), &names, 0).map(|key| key.id.as_str().to_owned())
    };
    assert_eq!(client(&["chat.example.org", name]).as_deref(), Some("chat"));
    for names in [[].as_slice(), &[""], &["spiffe://example.org/ns/web/sa/cha"], &["k"]] {
        assert_eq!(client(names), None, "{names:?}");
    }
    assert_eq!(found(&keys, name, 0), None);
}

#[test]
fn a_model_fits_a_name_or_the_beginning_before_a_star() {
    let mut limited = ClientKey::of_key("alice".parse().unwrap(), b"k");
    assert!(limited.allows_model("anything"));
    limited.models = vec!["grok-4*".to_owned(), "grok-3-mini".to_owned()];
    for (model, allowed) in [
        ("grok-4", true),
        ("grok-4-fast", true),
        ("grok-3-mini", true),
        ("grok-3-mini-x", false),
        ("grok-3", false),
        ("GROK-4", false),
        ("", false),
    ] {
        assert_eq!(limited.allows_model(model), allowed, "{model}");
    }
}

#[test]
fn an_entry_is_refused_with_the_reason() {
    let digest = Digest::of(b"k");
    for (rest, said) in [
        (String::new(), "either sha256 or subject_alt_name"),
        (format!(r#","sha256":"{digest}","subject_alt_name":"a""#), "either"),
        (r#","subject_alt_name":"""#.to_owned(), "empty"),
        (format!(r#","sha256":"{digest}","paths":["v1"]"#), "begins with /"),
        (format!(r#","sha256":"{digest}","models":["grok*4"]"#), "only at its end"),
        (format!(r#","sha256":"{digest}","models":[""]"#), "only at its end"),
        (format!(r#","sha256":"{digest}","rpm":1"#), "unknown field"),
    ] {
        let document = format!(r#"{{"id":"a"{rest}}}"#);
        let error = serde_json::from_str::<ClientKey>(&document).unwrap_err().to_string();
        assert!(error.contains(said), "{document}: {error}");
    }
}

#[test]
fn a_digest_reads_what_it_writes_and_refuses_the_rest() {
    let digest = Digest::of(b"abc");
    let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(digest.to_string(), text);
    assert_eq!(text.to_uppercase().parse(), Ok(digest));
    let short = text.split_at(1).1;
    for bad in ["", "ba78", short, &text.replace('b', "g"), &format!("{text}00")] {
        assert_eq!(bad.parse::<Digest>(), Err(InvalidDigest), "{bad}");
    }
}

#[test]
fn ids_are_safe_to_print() {
    for good in ["alice", "team-a.prod_1", "bob@example.com"] {
        assert!(good.parse::<ClientId>().is_ok(), "{good}");
    }
    for bad in ["", "two words", "line\nbreak", "quote\"", &"x".repeat(65)] {
        assert!(bad.parse::<ClientId>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_key_matches_but_its_own(secret in ".{1,40}", guess in ".{0,40}") {
        prop_assume!(secret != guess);
        prop_assert_eq!(found(&[key("alice", &secret)], &guess, 0), None);
    }
}
