//! A file of Hermes's that is watched.

use std::path::{Path, PathBuf};
use std::time::Duration;

use filter::bundle::Credential;
use serde_json::{Value, json};
use simulator::Options;

use super::harness::World;
use super::{hermes, now, text};

/// A provider, and a sidecar that watches a file of Hermes's.
async fn watching(make_directory: bool) -> (World, PathBuf) {
    let directory = tempfile::tempdir().unwrap().keep();
    let path = directory.join("hermes/auth.json");
    if make_directory {
        std::fs::create_dir(path.parent().unwrap()).unwrap();
    }
    let extra = format!("[import]\nhermes = {path:?}\npoll_interval = 5\n");
    (World::with(Options::default(), &extra).await, path)
}

/// As Hermes writes: a new file, renamed into place.
fn write(path: &Path, document: &Value) {
    let new = path.with_extension("new");
    std::fs::write(&new, document.to_string()).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn a_login_of_hermes_is_taken_over_as_it_happens() {
    let (world, path) = watching(true).await;
    let peer = world.serve().await;
    let begun = Duration::from_secs(now());
    assert!(matches!(peer.state().await, Credential::LoginRequired { .. }));
    let url = world.simulator.url();
    let first = world.control().issue_grant();
    write(&path, &hermes(url, &first));
    let token = peer.token_after(0).await;
    assert_eq!(token.access_token.as_ref().unwrap().expose(), text(&first, "access_token"));
    // Told by the kernel: not as late as the next look.
    assert!(Duration::from_secs(now()) - begun <= Duration::from_secs(3));
    // What is no newer login changes nothing.
    let mut removed = hermes(url, &first);
    removed["providers"]["xai-oauth"]["tokens"] = json!({});
    for ignored in [removed, json!([]), json!({"providers": {"xai-oauth": 7}})] {
        write(&path, &ignored);
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(peer.token().await, token, "{ignored}");
    }
    let second = world.control().issue_grant();
    let mut document = hermes(url, &second);
    document["providers"]["xai-oauth"]["last_refresh"] = json!(now() + 5);
    write(&path, &document);
    let newer = peer.token_after(token.generation).await;
    assert_eq!(newer.access_token.as_ref().unwrap().expose(), text(&second, "access_token"));
    peer.stop().await;
    std::fs::remove_dir_all(path.ancestors().nth(2).unwrap()).unwrap();
}

#[tokio::test]
async fn a_login_of_hermes_is_found_by_looking_too() {
    let (world, path) = watching(false).await;
    let peer = world.serve().await;
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    let answer = world.control().issue_grant();
    write(&path, &hermes(world.simulator.url(), &answer));
    let token = peer.token_after(0).await;
    assert_eq!(token.access_token.as_ref().unwrap().expose(), text(&answer, "access_token"));
    peer.stop().await;
    std::fs::remove_dir_all(path.ancestors().nth(2).unwrap()).unwrap();
}
