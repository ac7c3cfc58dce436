//! Client keys that begin and end by themselves, and where the keys are found afterwards.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use filter::client::Digest;
use tests::{Plan, Stack, unix_now, unix_request};

use super::{COMMAND, always, answered, keys, status};

const EARLY: &str = "key-before-its-time";
const LATE: &str = "key-after-its-time";
const SHORT: &str = "key-that-begins-and-ends";

fn digest(key: &str) -> String {
    Digest::of(key.as_bytes()).to_string()
}

#[tokio::test]
async fn k07_before_and_after_its_time_a_key_is_refused() -> Result<()> {
    let mut stack = Stack::start(Plan::default()).await?;
    // Written only now, so that the start takes nothing from the times.
    let (begin, end) = (unix_now() + 10, unix_now() + 20);
    let settings = format!(
        "[client_keys.early]\nsha256 = \"{}\"\nnot_before = 2999-12-31T23:59:59Z\n\
         [client_keys.late]\nsha256 = \"{}\"\nnot_after = 2020-01-01T00:00:00+01:00\n\
         [client_keys.short]\nsha256 = \"{}\"\nnot_before = {begin}\nnot_after = {end}\n",
        digest(EARLY),
        digest(LATE),
        digest(SHORT),
    );
    let mut file = fs::File::options().append(true).open(stack.dir().join("config.toml"))?;
    file.write_all(settings.as_bytes())?;
    stack.take_refresher()?.stop().await?;
    stack.start_refresher().await?;
    answered(&stack, EARLY, 401, COMMAND).await.context("no key is required")?;
    for key in [EARLY, LATE] {
        always(&stack, key, 401).await?;
    }
    let listed = keys(&stack, &["list"]).await?;
    for line in ["early  not yet  configuration", "late   expired  configuration"] {
        ensure!(listed.contains(line), "{listed}");
    }
    let (before, now) = (status(&stack, SHORT).await?, unix_now());
    ensure!(now >= begin || before == 401, "it holds too early");
    let generation = generation(&stack).await?;
    answered(&stack, SHORT, 200, COMMAND * 2).await.context("it never holds")?;
    ensure!(unix_now() >= begin, "it holds too early");
    answered(&stack, SHORT, 401, COMMAND).await.context("it never ends")?;
    ensure!(unix_now() >= end, "it ends too early");
    // Nobody did anything for that.
    ensure!(generation == self::generation(&stack).await?, "something was published");
    Ok(())
}

#[tokio::test]
async fn k07_a_key_of_the_store_ends_by_itself() -> Result<()> {
    let stack = Stack::start(Plan::default()).await?;
    let made = unix_now();
    let short = keys(&stack, &["add", "short", "--expires", "6s"]).await?;
    let long = keys(&stack, &["add", "long", "--expires", "1h"]).await?;
    answered(&stack, &long, 200, COMMAND).await.context("the key is not taken")?;
    answered(&stack, &short, 401, COMMAND).await.context("it never ends")?;
    ensure!(unix_now() >= made + 6, "it ends too early");
    for (key, wanted) in [(&short, 401), (&long, 200)] {
        always(&stack, key, wanted).await?;
    }
    let listed = keys(&stack, &["list"]).await?;
    ensure!(listed.contains("short  expired  store"), "{listed}");
    ensure!(listed.contains("long   valid    store"), "{listed}");
    Ok(())
}

async fn generation(stack: &Stack) -> Result<u64> {
    let bundle = unix_request(&stack.socket(), "GET", "/v1/bundle?generation=0", "").await?;
    bundle.json()["generation"].as_u64().context("a generation")
}

#[tokio::test]
async fn a_key_is_found_nowhere_but_with_its_owner() -> Result<()> {
    let stack = Stack::start(Plan::default()).await?;
    let first = keys(&stack, &["add", "alice", "--model", "grok-4*"]).await?;
    let second = keys(&stack, &["rotate", "alice"]).await?;
    answered(&stack, &second, 200, COMMAND).await.context("the key is not taken")?;
    let mut shown = vec![keys(&stack, &["list"]).await?, keys(&stack, &["list", "--json"]).await?];
    for target in ["/config_dump", "/stats", "/stats/prometheus"] {
        shown.push(stack.admin(target).await?.body);
    }
    shown.push(stack.refresher()?.log());
    shown.push(stack.envoy()?.log());
    let mut folders = vec![stack.state_dir()];
    while let Some(folder) = folders.pop() {
        ensure!(mode(&folder)? == 0o700, "{}", folder.display());
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
                continue;
            }
            ensure!(mode(&entry.path())? == 0o600, "{}", entry.path().display());
            if kind.is_file() {
                shown.push(String::from_utf8_lossy(&fs::read(entry.path())?).into_owned());
            }
        }
    }
    ensure!(shown.iter().any(|text| text.contains(&digest(&second))), "the digest is kept");
    for key in [&first, &second] {
        let part = key.get(3..20).context("a key of this length")?;
        ensure!(!shown.iter().any(|text| text.contains(part)), "a key is shown");
    }
    Ok(())
}

fn mode(path: &std::path::Path) -> Result<u32> {
    Ok(fs::symlink_metadata(path)?.permissions().mode() & 0o777)
}
