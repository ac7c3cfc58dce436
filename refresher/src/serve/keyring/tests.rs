use filter::bundle::{Bundle, Credential};
use filter::client::ClientId;

use super::*;
use crate::clock;
use crate::config::{Overrides, resolve};
use crate::publish::health::Status;

struct Place {
    config: Config,
    publisher: Publisher,
    _directory: tempfile::TempDir,
}

impl Place {
    fn new(settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = Some(directory.path().join("state"));
        let flags = Overrides { state_dir, ..Overrides::default() };
        let config = resolve(&format!("provider = \"demo\"\n{settings}"), &flags, &|_| None);
        let config = config.unwrap();
        let publisher = Publisher::new(config.state_dir.join("generation"), None);
        Self { config, publisher, _directory: directory }
    }

    fn open(&self) -> Keyring {
        let keyring = Keyring::open(&self.config, self.publisher.clone(), clock::now()).unwrap();
        let credential = Credential::LoginRequired { reason: "never_logged_in".to_owned() };
        self.publisher.update("default", credential, Status::default(), clock::now());
        keyring
    }

    fn file(&self) -> KeyFile {
        KeyFile::open(&self.config.state_dir).unwrap()
    }

    async fn add(&self, name: &str) {
        let key = ClientKey::of_key(name.parse().unwrap(), name.as_bytes());
        self.file().change(1, |ring| ring.add(key, 1)).await.unwrap();
    }

    /// The names of the published keys; nothing where no key is required.
    fn published(&self) -> Option<Vec<String>> {
        let document = self.publisher.subscribe().borrow().document.clone();
        let keys = Bundle::parse(&document).unwrap().client_keys?;
        Some(keys.into_iter().map(|key| key.id.as_str().to_owned()).collect())
    }
}

fn names(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

const CONFIGURED: &str = "[client_keys]\n\
    alice = \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"\n";

#[tokio::test]
async fn both_kinds_of_keys_are_published_and_the_last_revoked_leaves_an_empty_list() {
    let place = Place::new("");
    let keyring = place.open();
    assert_eq!(place.published(), None);
    place.add("bob").await;
    keyring.look(clock::now());
    assert_eq!(place.published(), names(&["bob"]));
    let bob: ClientId = "bob".parse().unwrap();
    place.file().change(1, |ring| ring.revoke(&bob)).await.unwrap();
    assert_eq!(keyring.reload(clock::now()), None);
    assert_eq!(place.published(), names(&[]));
    // A restart changes nothing in that.
    place.open();
    assert_eq!(place.published(), names(&[]));

    let place = Place::new(CONFIGURED);
    let keyring = place.open();
    assert_eq!(place.published(), names(&["alice"]));
    place.add("bob").await;
    keyring.look(clock::now());
    assert_eq!(place.published(), names(&["alice", "bob"]));
}

#[tokio::test]
async fn what_has_not_changed_is_not_published_again() {
    let place = Place::new("");
    let keyring = place.open();
    place.add("bob").await;
    keyring.look(clock::now());
    let generation = place.publisher.subscribe().borrow().generation;
    keyring.look(clock::now());
    keyring.reload(clock::now());
    assert_eq!(place.publisher.subscribe().borrow().generation, generation);
    place.add("carol").await;
    keyring.look(clock::now());
    assert!(place.publisher.subscribe().borrow().generation > generation);
}

#[tokio::test]
async fn a_file_that_is_gone_or_broken_opens_nothing() {
    for damage in ["removed", "corrupt", "later", "unreadable"] {
        let place = Place::new("");
        place.add("bob").await;
        let keyring = place.open();
        assert_eq!(place.published(), names(&["bob"]));
        let path = place.file().path().to_owned();
        match damage {
            "removed" => std::fs::remove_file(&path).unwrap(),
            "corrupt" => std::fs::write(&path, "{").unwrap(),
            "later" => std::fs::write(&path, "{\"version\": 2}").unwrap(),
            _ => {
                std::fs::remove_file(&path).unwrap();
                std::os::unix::fs::symlink("/dev/null", &path).unwrap();
            }
        }
        keyring.look(clock::now());
        // What was read before holds on where the file may be right.
        let held: &[&str] = if matches!(damage, "removed" | "corrupt") { &[] } else { &["bob"] };
        assert_eq!(place.published(), names(held), "{damage}");
        let alarm = keyring.alarm().unwrap();
        assert!(alarm.contains("client-keys.json: "), "{alarm}");
        keyring.look(clock::now());
        assert_eq!(keyring.alarm(), Some(alarm), "{damage}");
        // A start that finds it like that is closed as well; only a removal is an answer.
        let again = place.open();
        let expected = if damage == "removed" { None } else { names(&[]) };
        assert_eq!(place.published(), expected, "{damage}");
        // And mended, it holds again.
        if path.exists() {
            std::fs::remove_file(&path).unwrap();
        }
        let _ = std::fs::remove_file(&path);
        place.add("carol").await;
        again.look(clock::now());
        assert_eq!((place.published(), again.alarm()), (names(&["carol"]), None), "{damage}");
    }
}
