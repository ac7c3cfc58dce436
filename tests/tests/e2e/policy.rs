//! Settings of what passes: headers that are stripped or kept, and what the refresher refuses.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::Response;
use simulator::{Fault, Target};
use tests::{Plan, Process, Stack, envoy_binary, filter_module};

const KEY: &str = "torchbearer-key-of-alice-1";

async fn stack(strip: &[&str], keep: &[&str]) -> Result<Stack> {
    let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let plan = Plan { client_keys: vec![("alice", KEY)], ..Plan::default() };
    let proxy = refresher::config::Proxy {
        strip_headers: texts(strip),
        keep_headers: texts(keep),
        ..refresher::config::Proxy::default()
    };
    Stack::start(Plan { proxy, ..plan }).await
}

async fn get(stack: &Stack, headers: &[(&str, &str)]) -> Result<Response> {
    let request = stack.client.get(stack.url("/v1/echo")).bearer_auth(KEY);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    Ok(request.send().await?)
}

/// The names of the headers that the API saw.
fn arrived(stack: &Stack) -> Result<Vec<String>> {
    let request = stack.provider().requests().pop().context("a request")?;
    ensure!(request.jti.is_some() && request.authorization.len() == 1, "{request:?}");
    Ok(request.headers.into_iter().map(|(name, _)| name).collect())
}

const SENT: [(&str, &str); 7] = [
    ("cookie", "a=1"),
    ("x-tenant", "1"),
    ("x-team-a", "1"),
    ("x-team", "1"),
    ("x-forwarded-for", "1.2.3.4"),
    ("x-real-ip", "1.2.3.4"),
    ("x-api-key", "1"),
];

#[tokio::test]
async fn added_names_are_stripped_and_kept_ones_pass() -> Result<()> {
    let set_cookie = || Fault {
        headers: [("set-cookie".to_owned(), "b=2".to_owned())].into(),
        ..Fault::new(Target::Api)
    };
    for (strip, keep, passing, cookies) in [
        ([].as_slice(), [].as_slice(), ["x-tenant", "x-team-a", "x-team"].as_slice(), false),
        (&["X-Tenant", "x-team-*"], &[], &["x-team"], false),
        (&[], &["Cookie"], &["cookie", "x-tenant", "x-team-a", "x-team"], true),
        (&["x-te*"], &["x-real-ip", "cookie"], &["cookie", "x-real-ip"], true),
    ] {
        let stack = stack(strip, keep).await?;
        stack.provider().set_fault(set_cookie());
        let answer = get(&stack, &SENT).await?;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers().contains_key("set-cookie"), cookies, "{keep:?}");
        let arrived = arrived(&stack)?;
        for (name, _) in SENT {
            let passed = arrived.iter().any(|known| known == name);
            assert_eq!(passed, passing.contains(&name), "{strip:?} {keep:?}: {name}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_hold_is_refused_at_the_start_with_what_can() -> Result<()> {
    for (settings, said) in [
        ("[headers]\nkeep = [\"authorization\"]\n", "cookies, forwarding headers"),
        ("[headers]\nkeep = [\"x-proxy-api-key\"]\n", "cookies, forwarding headers"),
        ("[headers]\nkeep = [\"connection\"]\n", "cookies, forwarding headers"),
        ("[headers]\nstrip = [\"a b\"]\n", "letters, digits and -"),
        ("[headers]\ndrop = []\n", "strip, keep"),
        ("[retry]\nattempts = 11\n", "0 to 10"),
        ("[retry]\ndelay = 0\n", "0.025 to 60"),
        ("[replay]\nmax_body_bytes = 0\n", "1 to 67108864"),
        ("[usage]\nenabled = \"yes\"\n", "true or false"),
        ("[websocket]\npaths = [\"v1\"]\n", "beginnings of paths"),
    ] {
        let plan = Plan { login: false, settings: settings.to_owned(), ..Plan::default() };
        let stack = Stack::prepare(plan).await?;
        for command in ["serve", "up"] {
            let mut command = stack.refresher_command(&[command])?;
            let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
            let output = tokio::time::timeout(Duration::from_secs(10), running).await??;
            let errors = String::from_utf8(output.stderr)?;
            ensure!(output.status.code() == Some(2), "{settings}: {} {errors}", output.status);
            ensure!(errors.contains(said), "{settings}: {errors}");
        }
        ensure!(!stack.socket().exists());
    }
    Ok(())
}

#[tokio::test]
async fn up_serves_as_the_file_and_the_variables_say() -> Result<()> {
    let settings = "[envoy]\nconcurrency = 1\n[headers]\nstrip = [\"x-tenant\"]\nkeep = [\"cookie\"]\n\
                    [retry]\nattempts = 5\ndelay = 0.05\n[usage]\nenabled = false\n\
                    [websocket]\npaths = [\"/v1/realtime\"]\n";
    let plan = Plan { settings: settings.to_owned(), ..Plan::default() };
    let stack = Stack::prepare(plan).await?;
    stack.login().await?;
    for (variable, outcome) in [(None, (200, 4)), (Some("1"), (503, 2)), (Some("0"), (503, 1))] {
        let mut command = stack.refresher_command(&["up", "--port", "0"])?;
        command.env("ENVOY_BIN", envoy_binary()?).env("TORCHBEARER_FILTER", filter_module()?);
        if let Some(attempts) = variable {
            command.env("UPSTREAM_RETRY_ATTEMPTS", attempts);
        }
        let mut up = Process::start(variable.unwrap_or("up"), stack.dir(), &mut command)?;
        let base = |line: &str| {
            let (_, rest) = line.split_once("listening on http://")?;
            Some(format!("http://{}", rest.split_once("/v1")?.0))
        };
        let base = up.printed(Duration::from_secs(60), base).await?;
        stack.provider().set_fault(Fault {
            status: Some(503),
            count: Some(3),
            ..Fault::new(Target::Api)
        });
        stack.provider().clear();
        let request = stack.client.get(format!("{base}/v1/echo"));
        let request = request.header("cookie", "a=1").header("x-tenant", "1");
        let status = request.send().await?.status().as_u16();
        assert_eq!((status, stack.provider().requests().len()), outcome, "{variable:?}");
        let arrived = arrived(&stack)?;
        ensure!(arrived.iter().any(|name| name == "cookie"), "{arrived:?}");
        ensure!(!arrived.iter().any(|name| name == "x-tenant"), "{arrived:?}");
        stack.provider().clear_faults(None);
        up.stop().await?;
    }
    Ok(())
}
