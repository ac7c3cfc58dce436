//! Faults that are planted one after the other in a stack that works, and taken out again.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use refresher::doctor::report::CHECKS;
use serde_json::json;
use simulator::{Fault, Target};
use tests::{Plan, Stack, eventually, own_port, unix_now};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Call, Diagnosis, Missed, arrived, known, small, stand_in, started};

async fn diagnose(stack: &Stack) -> Result<Diagnosis> {
    Call::new(stack)?.diagnose(stack).await
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(path, Permissions::from_mode(mode))?)
}

#[tokio::test]
async fn all_is_good_only_if_a_request_went_through() -> Result<()> {
    let stack = started().await?;
    let before = arrived(&stack);
    diagnose(&stack).await?.expect(0, &[])?;
    ensure!(arrived(&stack) == before + 1, "no request reached the API");
    let (code, text) = Call::new(&stack)?.say(&stack).await?;
    let last = text.lines().last().unwrap_or_default();
    ensure!(code == Some(0) && last.starts_with("all good"), "{text}");
    ensure!(!text.contains('\u{1b}') && arrived(&stack) == before + 2, "{text}");
    let ok = |line: &&str| line.get(13..).is_some_and(|rest| rest.starts_with("ok "));
    ensure!(text.lines().filter(ok).count() == CHECKS.len(), "{text}");
    // In the order in which the documentation shows them.
    let readme = include_str!("../../../../README.md");
    let screen = readme.split_once("$ refresher doctor\n").context("no screen of doctor")?.1;
    let named = |text: &str| -> Vec<String> {
        let lines = text.lines().take_while(|line| !line.starts_with("```"));
        let names = lines.filter_map(|line| Some(line.get(..13)?.trim().to_owned()));
        names.filter(|name| CHECKS.contains(&name.as_str())).collect()
    };
    ensure!(named(screen) == CHECKS && named(&text) == CHECKS, "{text}");
    Ok(())
}

/// The refresher's settings name a place for Envoy where another program answers 200.
#[tokio::test]
async fn another_program_where_the_refresher_looks_for_envoy_is_not_believed() -> Result<()> {
    let other = own_port()?;
    other.set_nonblocking(true)?;
    let other = tokio::net::TcpListener::from_std(other)?;
    let settings = format!("[listener]\nport = {}\n", other.local_addr()?.port());
    let asked = tokio::spawn(async move {
        let (mut stream, _) = other.accept().await?;
        let mut request = [0; 1024];
        let length = stream.read(&mut request).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").await?;
        anyhow::Ok(String::from_utf8_lossy(request.get(..length).unwrap_or_default()).into_owned())
    });
    let stack = Stack::start(Plan { settings, ..small() }).await?;
    known(&stack).await?;
    let before = arrived(&stack);
    let found = diagnose(&stack).await?;
    found.expect(0, &[("request", "ok", "GET /v1/models through Envoy: the API answered 200")])?;
    ensure!(arrived(&stack) == before + 1, "no request reached the API");
    let asked = tokio::time::timeout(Duration::from_secs(5), asked).await;
    ensure!(asked???.starts_with("GET /v1/models "), "the refresher asked something else");
    Ok(())
}

#[tokio::test]
async fn a_fault_of_files_and_programs_is_named() -> Result<()> {
    let stack = started().await?;
    let (dir, state) = (stack.dir(), stack.state_dir());
    let mut missed = Missed::default();

    // Without settings nothing else is known.
    let call = Call::new(&stack)?.configured(|text| format!("colour = 1\n{text}"))?;
    let all: Vec<_> = CHECKS.iter().skip(1).map(|name| (*name, "skipped", "settings")).collect();
    let odd = [&[("settings", "fail", "colour: unknown setting")], &all[..]].concat();
    missed.note("unknown setting", call.diagnose(&stack).await?.expect(1, &odd));
    let call = Call::new(&stack)?.env("TOKEN_REFRESH_WINDOW", "5");
    let odd = [&[("settings", "fail", "at least 30")], &all[..]].concat();
    missed.note("bad variable", call.diagnose(&stack).await?.expect(1, &odd));

    let config = dir.join("config.toml");
    set_mode(&config, 0o666)?;
    let odd = [("settings", "fail", "others can change it (mode 0666)")];
    missed.note("open file", diagnose(&stack).await?.expect(1, &odd));
    set_mode(&config, 0o600)?;

    set_mode(&state, 0o777)?;
    missed.note(
        "open directory",
        diagnose(&stack).await?.expect(1, &[("state", "fail", "open to others (mode 0777")]),
    );
    ensure!(fs::metadata(&state)?.permissions().mode() & 0o777 == 0o777, "it was mended");
    set_mode(&state, 0o700)?;
    let grant = state.join("grants/simulated.default.json");
    set_mode(&grant, 0o644)?;
    let odd = [("state", "fail", "default.json: open to others (mode 0644")];
    missed.note("open grant", diagnose(&stack).await?.expect(1, &odd));
    ensure!(fs::metadata(&grant)?.permissions().mode() & 0o777 == 0o644, "it was mended");
    set_mode(&grant, 0o600)?;
    let link = state.join("grants/another.default.json");
    symlink("/etc/passwd", &link)?;
    missed.note("link", diagnose(&stack).await?.expect(1, &[("state", "fail", "a symbolic link")]));
    fs::remove_file(&link)?;

    missed.none()
}

/// What only `up` needs: its absence is a failure, and a warning where Envoy is somebody else's.
#[tokio::test]
async fn an_envoy_that_up_could_not_start_is_named() -> Result<()> {
    let mut stack = Stack::prepare(small()).await?;
    stack.login().await?;
    let dir = stack.dir().to_owned();
    let says =
        |version: &str| format!("echo 'envoy  version: abc/{version}/Clean/RELEASE/BoringSSL'");
    let text = dir.join("text.wasm");
    fs::write(&text, "no module")?;
    // An Envoy that is what it has to be, and does not take the configuration.
    let script = format!(
        "case \"$*\" in *validate*) echo 'error initializing configuration: no such field' >&2; exit 1;; esac\nexec {} \"$@\"",
        tests::envoy_binary()?.display()
    );
    let picky = stand_in(&dir, "picky", &script)?;
    let missing = dir.join("missing");
    let faults = [
        ("ENVOY_BIN", missing.clone(), "envoy", "cannot be run", "no Envoy"),
        (
            "ENVOY_BIN",
            stand_in(&dir, "old", &says("1.36.4"))?,
            "envoy",
            "1.37 or newer",
            "no Envoy",
        ),
        (
            "ENVOY_BIN",
            stand_in(&dir, "bare", &says("1.40.0"))?,
            "envoy",
            "built without",
            "no Envoy",
        ),
        ("TORCHBEARER_FILTER", dir.join("gone.wasm"), "filter", "no filter there", "no filter"),
        ("TORCHBEARER_FILTER", text, "filter", "is no Wasm module", "no filter"),
        ("ENVOY_BIN", picky, "bootstrap", "no such field", ""),
    ];
    let port = tests::free_port()?.to_string();
    let idle = [
        ("socket", "fail", "no refresher runs"),
        ("workers", "skipped", "no refresher"),
        ("request", "skipped", "no Envoy"),
    ];
    let mut missed = Missed::default();
    for (variable, value, check, words, skipped) in &faults {
        let call = Call::new(&stack)?.env(variable, value).env("PROXY_PORT", &port);
        let fault = (*check, "fail", *words);
        let odd = match *check {
            "bootstrap" => [&idle[..], &[fault]].concat(),
            _ => [&idle[..], &[fault, ("bootstrap", "skipped", *skipped)]].concat(),
        };
        missed.note(words, call.diagnose(&stack).await?.expect(1, &odd));
    }
    // The settings speak of an Envoy that `up` does not start.
    let elsewhere = ("bootstrap", "warn", "your Envoy has its own");
    let named = |text: &str| format!("{text}\n[envoy]\nadmin = \"http://127.0.0.1:9\"\n");
    let call = Call::new(&stack)?.env("ENVOY_BIN", &missing).env("PROXY_PORT", &port);
    let odd = [&idle[..], &[("envoy", "warn", "envoy.admin names an Envoy"), elsewhere]].concat();
    missed.note("named", call.configured(named)?.diagnose(&stack).await?.expect(1, &odd));

    // So does a refresher that runs by `serve`: with it all can be good.
    stack.start_refresher().await?;
    stack.start_envoy().await?;
    known(&stack).await?;
    for (variable, value, check, words, _) in &faults {
        let call = Call::new(&stack)?.env(variable, value);
        let found = call.diagnose(&stack).await?;
        let said = found.of(check).iter().any(|it| it["says"].to_string().contains(words));
        ensure!(said, "{words}: {}", found.report);
        let fault = (*check, "warn", "needs it, and `refresher serve` runs");
        let odd = [fault, elsewhere];
        let odd = if *check == "bootstrap" { &odd[..1] } else { &odd[..] };
        missed.note(&format!("{words}, with serve"), found.expect(0, odd));
    }
    // And so does an Envoy that answers.
    stack.take_refresher()?.stop().await?;
    let call = Call::new(&stack)?.env("ENVOY_BIN", &missing);
    let odd =
        [("envoy", "warn", "an Envoy that it did not start answers"), elsewhere, idle[0], idle[1]];
    missed.note("answers", call.diagnose(&stack).await?.expect(1, &odd));
    missed.none()
}

#[tokio::test]
async fn a_fault_of_the_provider_or_the_api_is_named() -> Result<()> {
    let stack = started().await?;
    let provider = stack.provider();
    let discovery = || Fault::new(Target::Discovery);
    let dated = |seconds: i64| {
        let at = Duration::from_secs(unix_now().saturating_add_signed(seconds));
        let date = httpdate::fmt_http_date(UNIX_EPOCH + at);
        Fault { headers: BTreeMap::from([("date".to_owned(), date)]), ..discovery() }
    };
    let issuer = json!({"issuer": "https://evil.example"}).as_object().cloned();
    let issuer = Fault { patch: issuer.unwrap_or_default(), ..discovery() };
    let endpoint = json!({"token_endpoint": "https://login.example/token"}).as_object().cloned();
    let endpoint = Fault { patch: endpoint.unwrap_or_default(), ..discovery() };
    let entitlement = Fault {
        status: Some(403),
        body: Some(
            r#"{"code": "permission-denied", "error": "no plan with API access"}"#.to_owned(),
        ),
        ..Fault::new(Target::Models)
    };
    let down =
        Fault { status: Some(500), body: Some("{}".to_owned()), ..Fault::new(Target::Models) };
    let reset = Fault { reset: true, ..Fault::new(Target::Models) };
    let no_clock = ("clock", "skipped", "provider does not answer");
    let mut missed = Missed::default();
    let foreign = "names another issuer, https://evil.example";
    for (fault, code, odd) in [
        (dated(-3_600), 1, vec![("clock", "fail", "ahead of the provider's")]),
        (dated(3_600), 1, vec![("clock", "fail", "behind the provider's")]),
        (dated(-30), 0, vec![("clock", "warn", "ahead of the provider's")]),
        (
            Fault { reset: true, ..discovery() },
            1,
            vec![("provider", "fail", "cannot be reached"), no_clock],
        ),
        (
            Fault { silence: true, ..discovery() },
            1,
            vec![("provider", "fail", "cannot be reached"), no_clock],
        ),
        (issuer, 1, vec![("provider", "fail", foreign)]),
        (
            endpoint,
            3,
            vec![("provider", "fail", "but the token endpoint is https://login.example/token")],
        ),
        (
            entitlement,
            1,
            vec![("request", "fail", "the API refuses the account (403: no plan with API access)")],
        ),
        (down, 1, vec![("request", "fail", "500")]),
        (reset, 1, vec![("request", "fail", "503")]),
    ] {
        provider.set_fault(fault.clone());
        missed.note(&format!("{fault:?}"), diagnose(&stack).await?.expect(code, &odd));
        provider.clear_faults(None);
    }
    missed.note("none", diagnose(&stack).await?.expect(0, &[]));
    missed.none()
}

#[tokio::test]
async fn what_does_not_run_is_named() -> Result<()> {
    let mut stack = started().await?;
    diagnose(&stack).await?.expect(0, &[])?;
    let before = arrived(&stack);
    // Envoy goes on serving what it has, for a while: a request alone does not make all good.
    stack.take_refresher()?.kill().await?;
    let workers = ("workers", "skipped", "no refresher");
    let stale = ("socket", "fail", "stale");
    let mut missed = Missed::default();
    missed.note("killed", diagnose(&stack).await?.expect(1, &[stale, workers]));
    ensure!(arrived(&stack) == before + 1);
    fs::remove_file(stack.socket())?;
    let absent = ("socket", "fail", "no refresher runs");
    missed.note("stopped", diagnose(&stack).await?.expect(1, &[absent, workers]));
    stack.start_refresher().await?;
    known(&stack).await?;
    diagnose(&stack).await?.expect(0, &[])?;

    // For the doctor's settings the refresher is another provider's.
    let call = Call::new(&stack)?.configured(|text| text.replace("simulated", "another"))?;
    let other = call.diagnose(&stack).await?;
    ensure!(other.code == Some(1) && other.verdict("socket")? == "fail", "{}", other.report);
    let said = other.of("socket")[0]["says"].to_string();
    ensure!(said.contains("provider simulated") && said.contains("not for another"), "{said}");
    ensure!(other.verdict("listener")? == "fail", "{}", other.report);

    stack.take_envoy()?.stop().await?;
    let seen = arrived(&stack);
    let request = ("request", "skipped", "no Envoy");
    // Its workers are remembered for a while.
    let gone = diagnose(&stack).await?;
    missed.note("no Envoy", gone.expect(1, &[("listener", "fail", "Envoy does not run"), request]));
    let (code, text) = Call::new(&stack)?.say(&stack).await?;
    ensure!(code == Some(1) && !text.contains("all good"), "{text}");

    let address = stack.address;
    let taken = eventually(Duration::from_secs(10), async || TcpListener::bind(address).ok());
    let _taken = taken.await.context("Envoy's port is not free again")?;
    let taken = ("listener", "fail", "is taken by another program");
    missed.note("taken", diagnose(&stack).await?.expect(1, &[taken, request]));
    ensure!(arrived(&stack) == seen);
    missed.none()
}

#[tokio::test]
async fn an_api_that_is_down_is_named() -> Result<()> {
    let mut stack = Stack::prepare(small()).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let closed = own_port()?;
    let port = closed.local_addr()?.port();
    drop(closed);
    let elsewhere = format!("http://127.0.0.1:{port}");
    let here = stack.provider_url().to_owned();
    stack.start_envoy_with(&stack.bootstrap_for(&elsewhere)?).await?;
    known(&stack).await?;
    let upstream = |url: &str| format!("upstream = \"{url}\"");
    let call = Call::new(&stack)?
        .configured(|text| text.replace(&upstream(&here), &upstream(&elsewhere)))?;
    let odd = [("api", "fail", "cannot be reached"), ("request", "fail", "503")];
    call.diagnose(&stack).await?.expect(1, &odd)
}
