//! Who is let in, and to what.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rcgen::SanType;
use tests::{Plan, Process, Stopwatch, eventually, unix_request};

use super::{REFRESHER, SOON, Site};
use crate::certificates::{Authority, uri};

const GOOD: &str = "spiffe://example.org/envoy/1";

/// What curl gets: the status, 0 where there is no answer, and the body.
async fn ask(
    site: &Site,
    options: &[&str],
    certificate: Option<&Path>,
    path: &str,
) -> Result<(u16, String)> {
    let mut command = Process::command("curl");
    command.args(["--silent", "--noproxy", "*", "--max-time", "10"]).args(options);
    command.args(["--write-out", "\n%{http_code}"]).arg("--cacert").arg(site.dir().join("ca.pem"));
    command.args(["--connect-to", &format!("{REFRESHER}:{}:127.0.0.1:{}", site.port, site.port)]);
    if let Some(certificate) = certificate {
        command.arg("--cert").arg(certificate);
    }
    let output = command.arg(format!("https://{REFRESHER}:{}{path}", site.port)).output();
    let output = output.await.context("curl is missing; run `apt-get install curl`")?;
    let text = String::from_utf8(output.stdout)?;
    let (body, status) = text.rsplit_once('\n').context("no status")?;
    Ok((status.parse()?, body.to_owned()))
}

async fn status(site: &Site, certificate: &Path) -> Result<u16> {
    Ok(ask(site, &[], Some(certificate), "/ready").await?.0)
}

#[tokio::test]
async fn only_allowed_names_are_let_in_and_only_to_what_an_envoy_needs() -> Result<()> {
    let allowed = ["spiffe://example.org/envoy/*", "envoy.example.org"];
    let site = Site::start(Plan::default(), Ipv4Addr::LOCALHOST.into(), &allowed).await?;
    let foreign = Authority::new()?;
    let dns = vec![SanType::DnsName("envoy.example.org".try_into()?)];
    for (issuer, name, names, expected) in [
        (&site.authority, "good", uri(GOOD)?, 200),
        (&site.authority, "dns", dns, 200),
        (&site.authority, "other", uri("spiffe://example.org/api/1")?, 0),
        (&site.authority, "nameless", Vec::new(), 0),
        (&foreign, "foreign", uri(GOOD)?, 0),
    ] {
        let certificate = issuer.issue(site.dir(), name, names)?;
        assert_eq!(status(&site, &certificate).await?, expected, "{name}");
    }
    assert_eq!(ask(&site, &[], None, "/v1/bundle").await?.0, 0, "without a certificate");

    let good = site.issue("good", GOOD)?;
    let get = async |options: &[&str], path: &str| ask(&site, options, Some(&good), path).await;
    let (status, bundle) = get(&[], "/v1/bundle").await?;
    ensure!(status == 200 && bundle.contains("access_token"), "{status}");
    assert_eq!(get(&["--tls-max", "1.2"], "/ready").await?.0, 200);
    assert_eq!(get(&["--tls-max", "1.1"], "/ready").await?.0, 0);
    let (status, health) = get(&[], "/health").await?;
    ensure!(status == 200 && health.contains("\"status\":\"ok\""), "{health}");
    let (status, metrics) = get(&[], "/metrics").await?;
    ensure!(status == 200 && metrics.contains("torchbearer_credential_state"), "{metrics}");
    ensure!(!metrics.contains("torchbearer_envoy_up"), "of another Envoy: {metrics}");
    for path in ["/health?deep=1", "/v1/overview", "/v1/page", "/v1/reload", "/", "/v1/keys"] {
        assert_eq!(get(&[], path).await?.0, 404, "{path}");
        assert_eq!(get(&["--request", "POST"], path).await?.0 / 100, 4, "{path}");
    }
    // Bounded: heads and bodies. What is read at once may end a head that was not too large before.
    let headers = ["x", "y"].map(|name| format!("{name}: {}", name.repeat(100_000)));
    let [x, y] = headers.each_ref().map(String::as_str);
    assert_eq!(get(&["--header", x, "--header", y], "/ready").await?.0, 431);
    let file = site.dir().join("large");
    fs::write(&file, "x".repeat(100_000))?;
    let data = format!("@{}", file.display());
    // A server that does not read on may be gone before its answer has been read.
    let (status, _) = get(&["--data-binary", &data], "/v1/rejections").await?;
    ensure!([0, 413].contains(&status), "{status}");
    // Plain HTTP gets nothing.
    let mut plain = Process::command("curl");
    plain.args(["--silent", "--noproxy", "*", "--max-time", "10", "--output", "/dev/null"]);
    plain.arg(format!("http://127.0.0.1:{}/v1/bundle", site.port));
    ensure!(!plain.output().await?.status.success());
    let log = site.stack.refresher()?.log();
    ensure!(log.contains("a client was not let in"), "{log}");
    Ok(())
}

#[tokio::test]
async fn certificates_and_names_are_taken_over_and_bad_ones_are_not() -> Result<()> {
    let host = Ipv4Addr::LOCALHOST.into();
    let mut site = Site::start(Plan::default(), host, &["spiffe://example.org/envoy/*"]).await?;
    let first = site.issue("first", GOOD)?;
    assert_eq!(status(&site, &first).await?, 200);
    // A kept connection, which polls for what does not come.
    let target = "/v1/bundle?wait=60&generation=";
    let bundle = unix_request(&site.stack.socket(), "GET", "/v1/bundle", "").await?.json();
    let target = format!("{target}{}", bundle["generation"]);

    // A file that cannot be used leaves the old in force, and shows.
    let good = fs::read(site.dir().join("refresher.pem"))?;
    fs::write(site.dir().join("refresher.pem"), "-----BEGIN CERTIFICATE-----\n")?;
    let alarm = async |expected: &str| {
        let shown = eventually(SOON, async || {
            let health =
                unix_request(&site.stack.socket(), "GET", "/health", "").await.ok()?.json();
            let alarm = health["config_alarm"].as_str().unwrap_or_default().to_owned();
            match expected {
                "" => alarm.is_empty().then_some(()),
                _ => alarm.contains(expected).then_some(()),
            }
        });
        shown.await.with_context(|| format!("no alarm {expected:?}"))
    };
    alarm("publish.certificate").await?;
    assert_eq!(status(&site, &first).await?, 200);
    fs::write(site.dir().join("refresher.pem"), good)?;
    alarm("").await?;

    // Another authority, and with it other certificates: the ones before end, open connections too.
    let since = Stopwatch::start();
    let poll = ask(&site, &["--max-time", "50"], Some(&first), &target);
    let replaced = async {
        let connected = eventually(SOON, async || {
            let log = site.stack.refresher().ok()?.log();
            (log.matches("a client was let in").count() >= 3).then_some(())
        });
        connected.await.context("the poll does not begin")?;
        let next = Authority::new()?;
        site.certify(&next)?;
        Ok::<_, anyhow::Error>(next)
    };
    let (poll, next) = tokio::join!(poll, replaced);
    assert_eq!(poll?.0, 0, "the poll of a client that is let in no longer");
    ensure!(since.elapsed() < SOON, "it went on for {:?}", since.elapsed());
    site.authority = next?;
    let second = site.issue("second", GOOD)?;
    let taken =
        eventually(SOON, async || (status(&site, &second).await.ok()? == 200).then_some(()));
    taken.await.context("the other certificates are not taken over")?;
    assert_eq!(status(&site, &first).await?, 0);

    // And names.
    let path = site.dir().join("config.toml");
    let config = fs::read_to_string(&path)?;
    fs::write(&path, config.replace("org/envoy/*", "org/edge/*"))?;
    let gone = eventually(SOON, async || (status(&site, &second).await.ok()? == 0).then_some(()));
    gone.await.context("the name is still let in")?;
    let edge = site.issue("edge", "spiffe://example.org/edge/1")?;
    assert_eq!(status(&site, &edge).await?, 200);
    Ok(())
}

#[tokio::test]
async fn what_is_not_safe_does_not_start() -> Result<()> {
    let site =
        Site::start(Plan::default(), Ipv4Addr::LOCALHOST.into(), &["envoy.example.org"]).await?;
    let path = site.dir().join("config.toml");
    let config = fs::read_to_string(&path)?;
    for (from, to, said) in [
        ("client_ca = \"~/ca.pem\"\n", "", "publish.client_ca: unset"),
        ("[\"envoy.example.org\"]", "[]", "publish.allowed_names: empty"),
        ("[\"envoy.example.org\"]", "[\"*\"]", "publish.allowed_names: \"*\""),
        ("client_ca = \"~/ca.pem\"", "client_ca = \"~/nowhere.pem\"", "publish.client_ca: "),
        (
            "private_key = \"~/refresher.pem\"",
            "private_key = \"~/open.pem\"",
            "others can read this",
        ),
    ] {
        fs::copy(site.dir().join("refresher.pem"), site.dir().join("open.pem"))?;
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(site.dir().join("open.pem"), fs::Permissions::from_mode(0o644))?;
        ensure!(config.contains(from));
        fs::write(&path, config.replace(from, to))?;
        let checked = site.stack.refresher_command(&["config", "check"])?.output().await?;
        let text =
            String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
        ensure!(!checked.status.success() && text.contains(said), "{to}: {text}");
        let socket = format!("--socket={}", site.dir().join("s.sock").display());
        let served = site.stack.refresher_command(&["serve", &socket])?.output().await?;
        let text = String::from_utf8_lossy(&served.stderr);
        ensure!(!served.status.success() && text.contains(said), "{to}: {text}");
    }
    fs::write(&path, config)?;
    Ok(())
}
