use super::*;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use url::Url;

use crate::config::{Overrides, resolve};
use crate::secret::Secret;

struct Place {
    directory: tempfile::TempDir,
    config: Config,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let flags =
            Overrides { state_dir: Some(directory.path().join("state")), ..Overrides::default() };
        let config = resolve("provider = \"demo\"", &flags, &|_| None).unwrap();
        Self { directory, config }
    }

    fn open(&self) -> Store {
        Store::open(&self.config, "default").unwrap()
    }

    /// A store whose file has this content.
    fn with(&self, content: &str) -> Store {
        let store = self.open();
        std::fs::write(store.path(), content).unwrap();
        std::fs::set_permissions(store.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        store
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn grant(generation: u64) -> Grant {
    let endpoint = Url::parse("https://id.example/token").unwrap();
    let token = Secret::new(format!("rt-{generation}"));
    Grant::new(None, endpoint, "client".to_owned(), token, generation)
}

#[tokio::test]
async fn what_is_saved_is_loaded_and_private() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(store.load(0).unwrap(), None);
    let lock = store.lock().await.unwrap();
    let mut saved = grant(1);
    saved.token = Some(TokenRecord {
        access_token: "at".parse().unwrap(),
        obtained_at: 5,
        expires_at: 65,
        generation: 1,
    });
    lock.save(&saved).unwrap();
    assert_eq!(store.load(0).unwrap(), Some(saved));
    assert_eq!(mode(store.path()), 0o600);
    assert_eq!(mode(store.path().parent().unwrap()), 0o700);
    let before = store.stamp();
    lock.save(&grant(2)).unwrap();
    assert_ne!(store.stamp(), before);
    let left: Vec<_> = std::fs::read_dir(store.path().parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert_eq!(left, [""; 0]);
    assert_eq!(Store::credentials(&place.config), ["default"]);
}

#[tokio::test]
async fn open_modes_are_repaired() {
    let place = Place::new();
    let store = place.open();
    store.lock().await.unwrap().save(&grant(1)).unwrap();
    let parent = store.path().parent().unwrap().to_owned();
    std::fs::set_permissions(store.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::set_permissions(&parent, std::fs::Permissions::from_mode(0o777)).unwrap();
    let store = place.open();
    assert!(store.load(0).unwrap().is_some());
    assert_eq!((mode(store.path()), mode(&parent)), (0o600, 0o700));
}

#[test]
fn nothing_but_a_regular_file_is_opened() {
    let place = Place::new();
    let store = place.open();
    let elsewhere = place.directory.path().join("elsewhere");
    std::fs::write(&elsewhere, "precious").unwrap();
    symlink(&elsewhere, store.path()).unwrap();
    let error = store.load(0).unwrap_err();
    assert!(matches!(error, Error::Unsafe { found: "a symbolic link", .. }), "{error}");
    std::fs::remove_file(store.path()).unwrap();

    let made = std::process::Command::new("mkfifo").arg(store.path()).status().unwrap();
    assert!(made.success());
    let error = store.load(0).unwrap_err();
    assert!(matches!(error, Error::Unsafe { found: "not a regular file", .. }), "{error}");
    std::fs::remove_file(store.path()).unwrap();

    std::fs::create_dir(store.path()).unwrap();
    assert!(matches!(store.load(0), Err(Error::Unsafe { .. })));
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "precious");
}

#[test]
fn a_link_in_the_place_of_the_grants_is_not_followed() {
    let place = Place::new();
    let elsewhere = place.directory.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::set_permissions(&elsewhere, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(&place.config.state_dir).unwrap();
    symlink(&elsewhere, place.config.state_dir.join("grants")).unwrap();
    let error = Store::open(&place.config, "default").unwrap_err();
    assert!(matches!(error, Error::Unsafe { accepted: "a directory", .. }), "{error}");
    assert_eq!(mode(&elsewhere), 0o755);
    // A state directory that is the user's own link is the user's affair.
    std::fs::rename(&place.config.state_dir, place.directory.path().join("disk")).unwrap();
    std::fs::remove_file(place.directory.path().join("disk/grants")).unwrap();
    symlink("disk", &place.config.state_dir).unwrap();
    assert!(place.open().load(0).unwrap().is_none());
}

#[test]
fn what_belongs_to_somebody_else_is_refused() {
    let place = Place::new();
    let store = place.with("{}");
    let parent = store.path().parent().unwrap();
    // Only root can give a file away; anybody else has nothing of another user to show.
    if std::os::unix::fs::chown(store.path(), Some(65_534), None).is_err() {
        assert!(!rustix::process::geteuid().is_root());
        eprintln!("not tested as this user: files of somebody else");
        return;
    }
    let error = store.load(0).unwrap_err();
    assert!(matches!(error, Error::Unsafe { found: "somebody else's file", .. }), "{error}");
    assert_eq!(std::fs::read_to_string(store.path()).unwrap(), "{}");
    std::os::unix::fs::chown(parent, Some(65_534), None).unwrap();
    let error = Store::open(&place.config, "default").unwrap_err();
    assert!(matches!(error, Error::Unsafe { found: "somebody else's directory", .. }), "{error}");
}

#[test]
fn a_corrupt_file_is_moved_aside_and_not_lost() {
    let place = Place::new();
    for (at, content) in ["", "{", "[]", "{}", "\0\0\0", "{\"version\": 1}"].iter().enumerate() {
        let store = place.with(content);
        let at = u64::try_from(at).unwrap();
        let Err(Error::Corrupt { aside, .. }) = store.load(at) else { panic!("{content}") };
        assert_eq!(std::fs::read_to_string(&aside).unwrap(), *content);
        assert!(aside.to_str().unwrap().ends_with(&format!(".corrupt-{at}")));
        assert_eq!(store.load(at).unwrap(), None);
    }
}

#[test]
fn a_file_of_a_later_release_is_left_alone() {
    let place = Place::new();
    let store = place.with("{\"version\": 2, \"refresh_token\": {}}");
    assert!(matches!(store.load(0), Err(Error::UnknownVersion { found: 2, .. })));
    assert!(store.path().exists());
}

#[test]
fn the_predecessors_files_are_read() {
    let place = Place::new();
    let python = "{\"access_token\": \"opaque\", \"refresh_token\": \"rt\", \"client_id\": \"c\", \
        \"token_type\": \"Bearer\", \"expires_in\": 21600, \"token_endpoint\": \
        \"https://auth.x.ai/oauth2/token\", \"last_refresh\": \"2026-05-17T06:40:00Z\"}";
    let grant = place.with(python).load(0).unwrap().unwrap();
    assert_eq!((grant.refresh_token.expose(), grant.client_id.as_str()), ("rt", "c"));
    assert_eq!(grant.token, None);
    let rust = "{\"access_token\": \"opaque\", \"refresh_token\": \"rt\", \"expires_at\": \
        1779000000, \"token_endpoint\": \"https://auth.x.ai/oauth2/token\"}";
    let grant = place.with(rust).load(0).unwrap().unwrap();
    assert_eq!(grant.token.unwrap().expires_at, 1_779_000_000);
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_held_by_one_and_waited_for_with_patience() {
    let place = Place::new();
    let (first, second) = (place.open(), place.open());
    let held = first.lock().await.unwrap();
    assert!(!second.save_now(&grant(1)).unwrap());
    assert!(matches!(second.lock().await, Err(Error::Locked { .. })));
    drop(held);
    assert!(second.lock().await.is_ok());
    assert!(second.save_now(&grant(1)).unwrap());
}

#[tokio::test]
async fn an_intent_is_about_one_grant() {
    let place = Place::new();
    let store = place.open();
    let (one, two) = (grant(1), grant(2));
    // What a provider that does not replace refresh tokens makes of the first.
    let mut successor = grant(1);
    successor.generation = 2;
    assert_eq!(store.intent(&one).unwrap(), None);
    let lock = store.lock().await.unwrap();
    let intent = Intent::of(&one, 7);
    lock.note(&intent).unwrap();
    assert_eq!(store.intent(&one).unwrap(), Some(intent.clone()));
    assert_eq!(store.intent(&two).unwrap(), None);
    assert_eq!(store.intent(&successor).unwrap(), None);
    // A note of an earlier release names the refresh token only.
    let old = Intent { generation: None, ..intent };
    lock.note(&old).unwrap();
    assert_eq!(store.intent(&successor).unwrap(), Some(old));
    assert_eq!(store.intent(&two).unwrap(), None);
    lock.forget().unwrap();
    lock.forget().unwrap();
    assert_eq!(store.intent(&one).unwrap(), None);
}

#[tokio::test]
async fn a_delayed_write_does_not_undo_a_login() {
    let place = Place::new();
    let store = place.open();
    store.lock().await.unwrap().save(&grant(5)).unwrap();
    assert!(store.save_now(&grant(4)).unwrap());
    assert_eq!(store.load(0).unwrap().unwrap().generation, 5);
}

#[test]
fn a_directory_of_the_users_must_be_closed_to_others() {
    let place = Place::new();
    let directory = place.directory.path().join("own");
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("auth_state.json");
    let config = Config { grant_file: Some(path.clone()), ..place.config.clone() };
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(Store::open(&config, "default").unwrap().path(), path);
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Store::open(&config, "default"), Err(Error::Unsafe { .. })));
    assert_eq!(mode(&directory), 0o777);
    // Other credentials stay in the state directory.
    assert!(Store::open(&config, "bob").unwrap().path().starts_with(&place.config.state_dir));
}

#[test]
fn a_secret_that_others_can_read_is_refused_with_the_reason() {
    let place = Place::new();
    let path = place.directory.path().join("secret");
    std::fs::write(&path, "s3cret\n").unwrap();
    for open in [0o640, 0o604, 0o660, 0o644] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(open)).unwrap();
        let error = read_secret(&path).unwrap_err().to_string();
        assert!(error.contains("others can read this secret; accepted:"), "{error}");
        assert!(!error.contains("s3cret"));
        assert_eq!(mode(&path), open);
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(read_secret(&path).unwrap().expose(), "s3cret");
    for content in ["", " \n", "two\nlines", "\u{1b}[2J"] {
        std::fs::write(&path, content).unwrap();
        assert!(matches!(read_secret(&path), Err(Error::Unsafe { .. })), "{content:?}");
    }
    assert!(matches!(read_secret(place.directory.path()), Err(Error::Unsafe { .. })));
}

/// A store as a crash leaves it: a grant, the note that it is being spent, and a draft.
async fn interrupted(place: &Place, draft: &[u8]) -> Store {
    let store = place.open();
    {
        let lock = store.lock().await.unwrap();
        lock.save(&grant(1)).unwrap();
        lock.note(&Intent::of(&grant(1), 7)).unwrap();
    }
    std::fs::write(store.path().with_file_name(".demo.default.json.new"), draft).unwrap();
    store
}

#[tokio::test]
async fn a_successor_that_was_only_not_renamed_is_not_lost() {
    let place = Place::new();
    let mut whole = serde_json::to_vec(&grant(2)).unwrap();
    whole.extend([0; 100]);
    let store = interrupted(&place, &whole).await;
    let lock = store.lock().await.unwrap();
    assert_eq!(lock.recover(&grant(1)).unwrap(), Some(grant(2)));
    assert_eq!(store.load(0).unwrap(), Some(grant(2)));
    assert_eq!(lock.recover(&grant(2)).unwrap(), None);
}

#[tokio::test]
async fn a_draft_that_is_torn_old_foreign_or_of_no_exchange_is_none() {
    let place = Place::new();
    let whole = serde_json::to_vec(&grant(2)).unwrap();
    let mut torn = whole.clone();
    torn[40..60].fill(0);
    let mut foreign = grant(2);
    foreign.client_id = "other".to_owned();
    let foreign = serde_json::to_vec(&foreign).unwrap();
    let old = serde_json::to_vec(&grant(1)).unwrap();
    for draft in [&[][..], &[0; 64], &whole[..whole.len() - 1], &torn, &foreign, &old] {
        let store = interrupted(&place, draft).await;
        assert_eq!(store.lock().await.unwrap().recover(&grant(1)).unwrap(), None, "{draft:?}");
        assert_eq!(store.load(0).unwrap(), Some(grant(1)));
    }
    let store = interrupted(&place, &whole).await;
    let lock = store.lock().await.unwrap();
    lock.forget().unwrap();
    assert_eq!(lock.recover(&grant(1)).unwrap(), None);
}

#[tokio::test]
async fn what_is_removed_leaves_no_file_but_the_lock() {
    let place = Place::new();
    let store = interrupted(&place, b"{}").await;
    store.lock().await.unwrap().remove().unwrap();
    let parent = store.path().parent().unwrap();
    let left: Vec<_> = std::fs::read_dir(parent)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left, ["demo.default.json.lock"]);
    // There is nothing to remove, and that is no error.
    store.lock().await.unwrap().remove().unwrap();
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = grant::parse(&bytes);
    }
}
