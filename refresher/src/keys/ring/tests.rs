use super::*;
use proptest::prelude::*;

const NOW: u64 = 1_779_000_000;

fn id(name: &str) -> ClientId {
    name.parse().unwrap()
}

fn key(name: &str, secret: &str) -> ClientKey {
    ClientKey::of_key(id(name), secret.as_bytes())
}

fn ring(keys: impl IntoIterator<Item = ClientKey>) -> Ring {
    let mut ring = Ring::default();
    for key in keys {
        ring.add(key, NOW).unwrap();
    }
    ring
}

/// Names, ends of life, and whether they hold at `now`.
fn held(ring: &Ring, now: u64) -> Vec<(&str, u64, bool)> {
    let holds = |key: &ClientKey| key.not_after == 0 || now < key.not_after;
    let entries = ring.entries().iter();
    entries.map(|it| (it.key.id.as_str(), it.key.not_after, holds(&it.key))).collect()
}

#[test]
fn a_name_is_one_clients_and_a_key_too() {
    let mut ring = ring([key("alice", "a")]);
    let known = ring.clone();
    for (added, expected) in [
        (key("alice", "b"), Refused::Exists { name: "alice".into() }),
        (key("bob", "a"), Refused::Taken { name: "alice".into() }),
    ] {
        assert_eq!(ring.add(added, NOW), Err(expected));
        assert_eq!(ring, known);
    }
    let spiffe = Proof::Certificate("spiffe://a/b".into());
    ring.add(ClientKey::new(id("mesh"), spiffe.clone()), NOW).unwrap();
    let error = ring.add(ClientKey::new(id("mesh"), spiffe.clone()), NOW).unwrap_err();
    assert!(error.to_string().contains("refresher keys revoke mesh"), "{error}");
    let error = ring.add(ClientKey::new(id("other"), spiffe), NOW).unwrap_err();
    assert_eq!(error, Refused::Taken { name: "mesh".into() });
    assert_eq!(
        ring.rotate(&id("mesh"), Digest::of(b"x"), 0, NOW),
        Err(Refused::Certificate { name: "mesh".into() })
    );
}

#[test]
fn a_rotation_keeps_the_restrictions_and_shortens_what_was() {
    let mut alice = key("alice", "first");
    alice.paths = vec!["/v1/".into()];
    alice.models = vec!["grok-4*".into()];
    alice.credential = "bob".into();
    (alice.requests_per_minute, alice.concurrency) = (60, 2);
    let mut ring = ring([alice.clone(), key("bob", "b")]);
    let new = ring.rotate(&id("alice"), Digest::of(b"second"), 3600, NOW + 10).unwrap();
    assert_eq!(new, ClientKey { proof: Proof::Key(Digest::of(b"second")), ..alice });
    let end = NOW + 10 + 3600;
    assert_eq!(held(&ring, end - 1), [("alice", end, true), ("bob", 0, true), ("alice", 0, true)]);
    assert!(!held(&ring, end)[0].2, "the old key ends with the overlap");
    // A second rotation during the overlap ends the first key no later than was said.
    ring.rotate(&id("alice"), Digest::of(b"third"), 7200, NOW + 20).unwrap();
    let ends: Vec<u64> = held(&ring, NOW).iter().map(|it| it.1).collect();
    assert_eq!(ends, [end, 0, NOW + 20 + 7200, 0]);
    // One without overlap ends all of them now.
    ring.rotate(&id("alice"), Digest::of(b"fourth"), 0, NOW + 30).unwrap();
    let holding: Vec<bool> = held(&ring, NOW + 30).iter().map(|it| it.2).collect();
    assert_eq!(holding, [false, true, false, false, true]);
    let again = ring.rotate(&id("alice"), Digest::of(b"fourth"), 0, NOW + 40);
    assert_eq!(again, Err(Refused::Taken { name: "alice".into() }));
}

#[test]
fn a_new_key_lives_as_long_as_the_old_one_did() {
    let mut alice = key("alice", "first");
    alice.not_after = NOW + 1000;
    let mut ring = ring([alice]);
    let new = ring.rotate(&id("alice"), Digest::of(b"second"), 5000, NOW + 900).unwrap();
    assert_eq!(new.not_after, NOW + 1900);
    // An overlap lengthens no life.
    assert_eq!(held(&ring, NOW)[0].1, NOW + 1000);
    let new = ring.rotate(&id("alice"), Digest::of(b"third"), 0, NOW + 5000).unwrap();
    assert_eq!(new.not_after, NOW + 6000);
}

#[test]
fn revoking_ends_every_key_of_a_client_and_no_other() {
    let mut ring = ring([key("alice", "a"), key("bob", "b")]);
    ring.rotate(&id("alice"), Digest::of(b"c"), 3600, NOW).unwrap();
    assert_eq!(ring.revoke(&id("alice")), Ok(2));
    assert_eq!(held(&ring, NOW), [("bob", 0, true)]);
    assert_eq!(ring.revoke(&id("alice")), Err(Refused::Unknown { name: "alice".into() }));
    assert_eq!(ring.revoke(&id("bob")), Ok(1));
    assert_eq!(ring, Ring::default());
    ring.add(key("alice", "d"), NOW).unwrap();
}

#[test]
fn what_has_expired_is_kept_for_a_while() {
    let mut alice = key("alice", "a");
    alice.not_after = NOW + 1;
    let mut ring = ring([alice, key("bob", "b")]);
    ring.prune(NOW + KEPT_S);
    assert_eq!(ring.entries().len(), 2);
    ring.prune(NOW + 1 + KEPT_S);
    assert_eq!(held(&ring, NOW), [("bob", 0, true)]);
}

#[test]
fn at_most_a_thousand_are_kept_and_the_expired_make_room() {
    let named = |number: usize| key(&format!("client-{number}"), &format!("key-{number}"));
    let mut ring = ring((0..MAX_KEYS).map(named));
    assert_eq!(ring.add(key("late", "late"), NOW), Err(Refused::Full));
    for (number, end) in [(5, NOW - 10), (7, NOW - 20), (9, NOW + 10)] {
        ring.entries[number].key.not_after = end;
    }
    ring.add(key("late", "late"), NOW).unwrap();
    assert_eq!(ring.entries().len(), MAX_KEYS);
    assert!(ring.of(&id("client-7")).next().is_none(), "the one that expired first");
    assert!(ring.of(&id("client-5")).next().is_some());
    assert_eq!(Ring::parse(&ring.document()), Ok(ring));
}

#[test]
fn together_they_leave_room_in_a_bundle() {
    let mut ring = Ring::default();
    let mut refused = None;
    for number in 0..MAX_KEYS {
        let mut large = key(&format!("client-{number}"), &format!("key-{number}"));
        large.paths = vec![format!("/{}", "x".repeat(4000))];
        let before = ring.clone();
        if let Err(error) = ring.add(large, NOW) {
            refused = Some(error);
            ring = before;
            break;
        }
    }
    assert_eq!(refused, Some(Refused::TooLarge));
    let bundle = filter::bundle::Bundle::new(1, [], Some(ring.keys()));
    let bytes = serde_json::to_vec(&bundle).unwrap().len();
    assert!((MAX_BYTES - 8192..MAX_BYTES + 1024).contains(&bytes), "{bytes}");
    // The document itself is read back, which is bounded too.
    assert!(ring.document().len() < 1 << 20);
    assert_eq!(Ring::parse(&ring.document()), Ok(ring));
}

#[test]
fn what_is_no_ring_is_told_from_what_is_a_later_one() {
    let good = String::from_utf8(ring([key("alice", "a")]).document()).unwrap();
    assert!(Ring::parse(good.as_bytes()).is_ok());
    for (document, expected) in [
        (good.replace("\"version\":1", "\"version\":2"), Unreadable::Version(2)),
        (good.replace("\"made_at\"", "\"born\""), Unreadable::Shape),
        (good.replace("\"alice\"", "\"\""), Unreadable::Shape),
        (good.replace("\"sha256\"", "\"sha\""), Unreadable::Shape),
        (good.split_at(good.len() / 2).0.to_owned(), Unreadable::Shape),
        (String::new(), Unreadable::Shape),
        ("[]".to_owned(), Unreadable::Shape),
    ] {
        assert_eq!(Ring::parse(document.as_bytes()), Err(expected), "{document}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Ring::parse(&bytes);
    }

    /// Whatever is done, what is written is read back, and a client has one key without an end.
    #[test]
    fn every_ring_is_read_back(steps in proptest::collection::vec((0_u8..3, 0_u8..4, 0_u64..100), 0..40)) {
        let mut ring = Ring::default();
        for (number, (what, who, overlap)) in steps.into_iter().enumerate() {
            let name = format!("client-{who}");
            let now = NOW + number as u64;
            let secret = format!("secret-{number}");
            let before = ring.clone();
            let done = match what {
                0 => ring.add(key(&name, &secret), now),
                1 => ring.rotate(&id(&name), Digest::of(secret.as_bytes()), overlap, now).map(drop),
                _ => ring.revoke(&id(&name)).map(drop),
            };
            if done.is_err() {
                ring = before;
            }
            for who in 0..4 {
                let name = id(&format!("client-{who}"));
                let endless = ring.of(&name).filter(|entry| entry.key.not_after == 0).count();
                prop_assert_eq!(endless, usize::from(ring.of(&name).next().is_some()));
            }
        }
        prop_assert_eq!(Ring::parse(&ring.document()), Ok(ring));
    }
}
