//! Logins by a browser, whose part the test plays.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Client;
use reqwest::header::LOCATION;
use rustix::process::Signal;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use simulator::{Fault, Target};
use tests::{Process, raw_request};
use tokio::net::TcpStream;
use url::Url;

use super::{
    Attempt, SOON, assert_serves, codes_presented, decide, grant, grant_file, mode, provider,
};

#[tokio::test]
async fn a_login_in_the_browser_is_stored_privately_and_serves() -> Result<()> {
    let mut stack = provider(1).await?;
    let attempt = Attempt::start(&stack, "login", &[]).await?;
    let callback = attempt.callback()?;
    let page = decide(&stack.client, &attempt.url, "approve").await?;
    ensure!(page.url().path() == callback.path() && page.url().port() == callback.port());
    ensure!(page.status() == 200, "{}", page.status());
    let kept = ["no-store", "no-referrer", "nosniff"];
    let headers = ["cache-control", "referrer-policy", "x-content-type-options"];
    for (name, value) in headers.into_iter().zip(kept) {
        ensure!(page.headers().get(name).is_some_and(|found| found == value), "{name}");
    }
    let code = page.url().query_pairs().find(|(name, _)| name == "code").context("no code")?;
    let code = code.1.into_owned();
    let html = page.text().await?;
    ensure!(html.contains("Logged in") && !html.contains(&code), "{html}");
    let state = attempt.parameter("state")?;
    ensure!(!html.contains(&state), "{html}");

    let output = attempt.ended(0).await?;
    ensure!(output.contains("logged in to simulated as credential default"), "{output}");
    ensure!(mode(&grant_file(&stack))? == 0o600);
    ensure!(mode(&stack.state_dir())? == 0o700);
    ensure!(mode(&stack.state_dir().join("grants"))? == 0o700);
    let grant = grant(&stack)?;
    for secret in ["/refresh_token", "/token/access_token"] {
        let secret = grant.pointer(secret).and_then(Value::as_str).context("not in the grant")?;
        ensure!(!secret.is_empty() && !output.contains(secret), "{output}");
    }
    ensure!(!output.contains(&code), "the code is in the output");
    let port = callback.port().context("no port")?;
    ensure!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err(), "still listening");
    assert_serves(&mut stack).await
}

#[tokio::test]
async fn l01_stray_callbacks_do_not_end_a_login() -> Result<()> {
    let mut stack = provider(1).await?;
    let attempt = Attempt::start(&stack, "login", &[]).await?;
    let state = attempt.parameter("state")?;
    let right = ("state", state.as_str());
    let code = ("code", "stray");
    // A connection that says nothing must not be in the way either.
    let port = attempt.callback()?.port().context("no port")?;
    let _silent = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    for (path, query, status) in [
        ("/callback", vec![code, ("state", "wrong")], 400),
        ("/callback", vec![code, ("state", "")], 400),
        ("/callback", vec![code], 400),
        ("/callback", vec![], 400),
        ("/callback", vec![right], 400),
        ("/callback", vec![code, right, right], 400),
        ("/callback", vec![code, right, ("iss", "https://other.example")], 400),
        ("/callback", vec![("error", "access_denied"), ("state", "wrong")], 400),
        ("/favicon.ico", vec![], 404),
        ("/", vec![], 404),
        ("/callback/", vec![code, right], 404),
        ("/other", vec![code, right], 404),
    ] {
        let answer = attempt.visit(&stack.client, path, &query).await?;
        ensure!(answer.status() == status, "{path} {query:?}: {}", answer.status());
    }
    let post = stack.client.post(attempt.callback()?).body(format!("code=stray&state={state}"));
    ensure!(post.send().await?.status() == 405);
    let rubbish =
        raw_request((Ipv4Addr::LOCALHOST, port).into(), b"\x16\x03\x01\x00\r\n\r\n").await;
    ensure!(rubbish.map_or(400, |answer| answer.status) == 400);
    ensure!(codes_presented(&stack) == 0, "a stray code was sent to the provider");

    let page = decide(&stack.client, &attempt.url, "approve").await?;
    ensure!(page.status() == 200, "{}", page.text().await?);
    attempt.ended(0).await?;
    ensure!(codes_presented(&stack) == 1);
    assert_serves(&mut stack).await
}

#[tokio::test]
async fn l02_a_denial_ends_a_login_only_with_the_state() -> Result<()> {
    let stack = provider(1).await?;
    let attempt = Attempt::start(&stack, "denied", &[]).await?;
    let state = attempt.parameter("state")?;
    let denied = [("error", "access_denied"), ("state", state.as_str())];
    let page = attempt.visit(&stack.client, "/callback", &denied[..1]).await?;
    ensure!(page.status() == 400, "{}", page.status());
    let page = attempt.visit(&stack.client, "/callback", &denied).await?;
    ensure!(page.status() == 403, "{}", page.status());
    ensure!(page.text().await?.contains("denied"));
    let output = attempt.ended(4).await?;
    ensure!(output.contains("the login was denied"), "{output}");

    let attempt = Attempt::start(&stack, "failed", &[]).await?;
    let state = attempt.parameter("state")?;
    let failed = [("error", "temporarily_unavailable"), ("state", state.as_str())];
    let page = attempt.visit(&stack.client, "/callback", &failed).await?;
    ensure!(!page.status().is_success(), "{}", page.status());
    let output = attempt.ended(1).await?;
    ensure!(output.contains("temporarily_unavailable"), "{output}");

    let attempt = Attempt::start(&stack, "stray", &[]).await?;
    let page = attempt.visit(&stack.client, "/callback", &denied[..1]).await?;
    ensure!(page.status() == 400, "{}", page.status());
    let page = decide(&stack.client, &attempt.url, "approve").await?;
    ensure!(page.status() == 200, "{}", page.text().await?);
    attempt.ended(0).await?;
    Ok(())
}

#[tokio::test]
async fn l02_a_denial_on_the_consent_page_ends_the_login() -> Result<()> {
    let stack = provider(1).await?;
    let attempt = Attempt::start(&stack, "login", &[]).await?;
    let page = decide(&stack.client, &attempt.url, "deny").await?;
    ensure!(page.status() == 403, "{}", page.status());
    let output = attempt.ended(4).await?;
    ensure!(output.contains("the login was denied"), "{output}");
    ensure!(codes_presented(&stack) == 0 && !grant_file(&stack).exists());
    Ok(())
}

#[tokio::test]
async fn l03_a_busy_port_leads_to_the_next_registered_one() -> Result<()> {
    let mut stack = provider(2).await?;
    let [first, second] = stack.callbacks[..] else { bail!("not two ports") };
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first))?;
    let attempt = Attempt::start(&stack, "login", &[]).await?;
    let callback = attempt.callback()?;
    ensure!(callback.as_str() == format!("http://127.0.0.1:{second}/callback"), "{callback}");
    // All of 127.0.0.0/8 is this machine: a listener on every interface would answer here.
    for other in [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 1, 1, 1)] {
        ensure!(TcpStream::connect((other, second)).await.is_err(), "reachable on {other}");
    }
    ensure!(TcpStream::connect((std::net::Ipv6Addr::LOCALHOST, second)).await.is_err());
    let page = decide(&stack.client, &attempt.url, "approve").await?;
    ensure!(page.status() == 200, "{}", page.text().await?);
    attempt.ended(0).await?;
    assert_serves(&mut stack).await
}

#[tokio::test]
async fn l03_with_all_ports_busy_the_device_flow_is_offered() -> Result<()> {
    let stack = provider(2).await?;
    let take = |&port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let _taken = stack.callbacks.iter().map(take).collect::<Result<Vec<_>, _>>()?;
    let mut command = stack.refresher_command(&["login", "--no-browser"])?;
    let mut login = Process::start("login", stack.dir(), &mut command)?;
    let (status, output) = (login.wait(SOON).await?, login.log());
    ensure!(status.code() == Some(1), "{status}: {output}");
    ensure!(output.contains("--device") && !output.contains("/oauth2/authorize"), "{output}");
    for port in &stack.callbacks {
        ensure!(output.contains(&port.to_string()), "{output}");
    }
    Ok(())
}

#[tokio::test]
async fn l05_an_abandoned_login_ends_and_leaves_the_old_grant() -> Result<()> {
    let mut stack = provider(1).await?;
    stack.login().await?;
    let before = std::fs::read(grant_file(&stack))?;
    let attempt = Attempt::start(&stack, "expired", &["--timeout", "1"]).await?;
    let output = attempt.ended(5).await?;
    ensure!(output.contains("not completed in time"), "{output}");
    ensure!(std::fs::read(grant_file(&stack))? == before);

    let attempt = Attempt::start(&stack, "interrupted", &[]).await?;
    attempt.process.signal(Signal::INT)?;
    attempt.ended(130).await?;
    ensure!(std::fs::read(grant_file(&stack))? == before);

    // The code comes to nothing at the token endpoint: the browser is told, too.
    let unavailable = Fault { status: Some(503), ..Fault::new(Target::Token) };
    stack.provider().set_fault(unavailable);
    let attempt = Attempt::start(&stack, "failed", &[]).await?;
    let page = decide(&stack.client, &attempt.url, "approve").await?;
    ensure!(page.status() == 502, "{}", page.status());
    attempt.ended(6).await?;
    ensure!(std::fs::read(grant_file(&stack))? == before);
    stack.provider().clear_faults(None);
    assert_serves(&mut stack).await
}

#[tokio::test]
async fn l06_every_attempt_has_a_fresh_challenge_that_is_not_its_state() -> Result<()> {
    let stack = provider(2).await?;
    let mut seen = Vec::new();
    let mut attempts = Vec::new();
    for name in ["one", "two"] {
        let attempt = Attempt::start(&stack, name, &[]).await?;
        ensure!(attempt.parameter("response_type")? == "code");
        ensure!(attempt.parameter("code_challenge_method")? == "S256");
        let challenge = attempt.parameter("code_challenge")?;
        ensure!(challenge.len() == 43, "{challenge}");
        ensure!(URL_SAFE_NO_PAD.decode(&challenge)?.len() == 32, "{challenge}");
        let state = attempt.parameter("state")?;
        ensure!(state.len() >= 22, "fewer than 128 bits: {state}");
        let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(state.as_bytes()));
        ensure!(challenge != digest, "the verifier is the state");
        for value in [challenge, state] {
            ensure!(!seen.contains(&value), "{value} comes twice");
            seen.push(value);
        }
        attempts.push(attempt);
    }
    // What one attempt was granted is nothing to the other.
    let [one, two] = &attempts[..] else { bail!("not two attempts") };
    let client =
        Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
    let sent = decide(&client, &one.url, "approve").await?;
    let location = sent.headers().get(LOCATION).context("no redirect")?;
    let mut crossed = Url::parse(location.to_str()?)?;
    crossed.set_port(two.callback()?.port()).ok().context("no port can be set")?;
    ensure!(client.get(crossed).send().await?.status() == 400);
    ensure!(codes_presented(&stack) == 0);
    Ok(())
}
