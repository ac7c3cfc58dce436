//! Client keys that are limited to models, and to paths.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use filter::client::ClientKey;
use http_body_util::{BodyExt as _, Channel};
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use refresher::config::Proxy;
use serde_json::{Value, json};
use tests::{Answer, Plan, Process, Publisher, Stack, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

mod held;

const ALICE: &str = "torchbearer-key-of-alice-1";
const BOB: &str = "torchbearer-key-of-bob-22";

const LIMIT: Duration = Duration::from_secs(20);

const CHAT: &str = "/v1/chat/completions";

/// Two messages, since the first is the model's name to a careless reader.
const GOOD: &str =
    r#"{"messages":[{"role":"user","content":"\"model\":\"x\""}],"model":"grok-4-fast"}"#;
const BAD: &str =
    r#"{"messages":[{"role":"user","content":"\"model\":\"grok-4\""}],"model":"grok-3-mini"}"#;

fn alice() -> Result<ClientKey> {
    let key = ClientKey::of_key("alice".parse()?, ALICE.as_bytes());
    Ok(ClientKey { models: vec!["grok-4*".to_owned()], ..key })
}

fn bob() -> Result<ClientKey> {
    Ok(ClientKey::of_key("bob".parse()?, BOB.as_bytes()))
}

async fn stack() -> Result<Stack> {
    Stack::start(Plan { limited_keys: vec![alice()?, bob()?], ..Plan::default() }).await
}

/// A POST by alice over HTTP/1.1, with these header lines and this body.
async fn post(stack: &Stack, lines: &str, body: &[u8]) -> Result<Answer> {
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         authorization: Bearer {ALICE}\r\n{lines}\r\n"
    );
    stack.raw(&[head.as_bytes(), body].concat()).await
}

fn length(body: &str) -> String {
    format!("content-length: {}\r\n", body.len())
}

/// The body in chunks of this size, with a trailer if asked for.
fn chunked(body: &str, size: usize, trailer: &str) -> Vec<u8> {
    let chunks = body.as_bytes().chunks(size);
    let mut encoded: Vec<u8> = chunks
        .flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat())
        .collect();
    encoded.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
    encoded
}

fn refused(answer: &Answer, status: u16, code: &str) -> Result<()> {
    let error = &answer.json()["error"];
    ensure!(answer.status == status && error["code"] == code, "{}: {}", answer.status, answer.body);
    ensure!(answer.header("content-type") == Some("application/json"));
    ensure!(error["type"].is_string() && error["message"].is_string(), "{}", answer.body);
    Ok(())
}

#[tokio::test]
async fn k08_a_model_outside_the_list_is_refused_however_the_body_comes() -> Result<()> {
    let stack = stack().await?;
    for (body, allowed) in [(GOOD, true), (BAD, false)] {
        let mut answers = vec![post(&stack, &length(body), body.as_bytes()).await?];
        for (size, trailer) in [(1, ""), (3, ""), (1000, ""), (7, "x-late: 1\r\n")] {
            let body = chunked(body, size, trailer);
            answers.push(post(&stack, "transfer-encoding: chunked\r\n", &body).await?);
        }
        for answer in answers {
            if allowed {
                ensure!(answer.status == 200, "{}: {}", answer.status, answer.body);
                let request = stack.provider().requests().pop().context("a request")?;
                assert_eq!(request.body_bytes, body.len(), "the body is whole");
            } else {
                refused(&answer, 403, "model_not_allowed")?;
            }
        }
        assert_eq!(stack.provider().requests().len(), if allowed { 5 } else { 0 });
        stack.provider().clear();
    }
    Ok(())
}

#[tokio::test]
async fn k08_what_leaves_the_model_open_is_refused() -> Result<()> {
    let stack = stack().await?;
    let none = json!({"messages": []}).to_string();
    for body in [
        r#"{"model":"grok-4","model":"grok-3-mini"}"#,
        r#"{"model":"grok-3-mini","model":"grok-4"}"#,
        r#"{"model":"grok-4","MODEL":"grok-3-mini"}"#,
        r#"{"model":["grok-4"]}"#,
        r#"{"model":"grok-4"} "#,
        &none,
        "",
        "[]",
        "model=grok-4",
        "{\"model\":\"grok-4\"",
        "\u{feff}{\"model\":\"grok-4\"}",
    ] {
        let answer = post(&stack, &length(body), body.as_bytes()).await?;
        if body.ends_with("} ") {
            // Whitespace around is JSON; the API says what else it misses.
            ensure!(answer.status == 400, "{}", answer.body);
            stack.provider().clear();
            continue;
        }
        refused(&answer, 403, "model_not_allowed").with_context(|| body.to_owned())?;
    }
    for lines in ["content-encoding: gzip\r\n", "content-encoding: identity\r\n"] {
        let answer = post(&stack, &format!("{lines}{}", length(GOOD)), GOOD.as_bytes()).await?;
        refused(&answer, 403, "model_not_allowed")?;
    }
    assert!(stack.provider().requests().is_empty());
    // What asks no model anything is not concerned, and neither is a key without a list.
    let request = stack.client.get(stack.url("/v1/models")).bearer_auth(ALICE);
    assert_eq!(request.send().await?.status(), 200);
    let request = stack.client.post(stack.url("/v1/echo")).bearer_auth(BOB).body("no JSON");
    assert_eq!(request.send().await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn k08_a_body_is_read_up_to_its_bound() -> Result<()> {
    let buffer_bytes = 3 << 20;
    let proxy = Proxy { buffer_bytes, ..Proxy::default() };
    let plan = Plan { limited_keys: vec![alice()?, bob()?], proxy, ..Plan::default() };
    let stack = Stack::start(plan).await?;
    let of_size = |size: u32| {
        let padding = size as usize - GOOD.len();
        format!("{}{}{GOOD}", " ".repeat(padding / 2), " ".repeat(padding - padding / 2))
    };
    for (size, allowed) in [(buffer_bytes, true), (buffer_bytes + 1, false)] {
        let body = of_size(size);
        for answer in [
            post(&stack, &length(&body), body.as_bytes()).await?,
            post(&stack, "transfer-encoding: chunked\r\n", &chunked(&body, 50_000, "")).await?,
        ] {
            if allowed {
                ensure!(answer.status == 200, "{size}: {} {}", answer.status, answer.body);
            } else {
                refused(&answer, 413, "body_too_large")?;
            }
        }
    }
    assert_eq!(stack.provider().requests().len(), 2);
    // Nobody else's is bounded.
    let large = vec![b' '; 5 << 20];
    let request = stack.client.post(stack.url("/v1/echo")).bearer_auth(BOB).body(large);
    assert_eq!(request.send().await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn k08_a_client_that_expects_100_is_told_to_go_on_and_then_judged() -> Result<()> {
    let stack = stack().await?;
    for (body, status) in [(GOOD, "200"), (BAD, "403")] {
        let mut stream = TcpStream::connect(stack.address).await?;
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nexpect: 100-continue\r\n\
             authorization: Bearer {ALICE}\r\n{}\r\n",
            length(body)
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let read = tokio::time::timeout(LIMIT, stream.read_buf(&mut answer)).await??;
            ensure!(read > 0, "no answer");
        }
        ensure!(answer.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&answer));
        stream.write_all(body.as_bytes()).await?;
        answer.clear();
        tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await??;
        let answer = String::from_utf8(answer)?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    assert_eq!(stack.provider().requests().len(), 1);
    Ok(())
}

#[tokio::test]
async fn k08_http2_is_judged_alike_with_and_without_trailers() -> Result<()> {
    let stack = stack().await?;
    for (body, status) in [(GOOD, 200), (BAD, 403)] {
        // curl, as a client of its own.
        let mut command = Process::command("curl");
        command.args(["-q", "--silent", "--http2-prior-knowledge", "--noproxy", "*"]);
        command.args(["--write-out", "%{http_version} %{http_code}", "--output", "/dev/null"]);
        command.args(["-H", &format!("Authorization: Bearer {ALICE}"), "--json", body]);
        let output = command.arg(stack.url(CHAT)).stdin(Stdio::null()).output().await?;
        assert_eq!(String::from_utf8(output.stdout)?, format!("2 {status}"));

        let io = TokioIo::new(TcpStream::connect(stack.address).await?);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        let connection = tokio::spawn(connection);
        let (mut parts, channel) = Channel::<Bytes>::new(4);
        let request =
            Request::post(stack.url(CHAT)).header("authorization", format!("Bearer {ALICE}"));
        let answer = tokio::spawn(sender.send_request(request.body(channel)?));
        for part in body.as_bytes().chunks(10) {
            parts.send_data(Bytes::copy_from_slice(part)).await?;
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-late", "1".parse()?);
        trailers.insert("authorization", "planted".parse()?);
        parts.send_trailers(trailers).await?;
        drop(parts);
        let answer = tokio::time::timeout(LIMIT, answer).await???;
        assert_eq!(answer.status(), status);
        answer.into_body().collect().await?;
        connection.abort();
    }
    let requests = stack.provider().requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.body_bytes == GOOD.len()));
    Ok(())
}

#[tokio::test]
async fn k08_a_prefix_of_a_path_is_a_prefix() -> Result<()> {
    let key = |paths: &[&str]| {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        Ok::<_, anyhow::Error>(ClientKey { paths, ..bob()? })
    };
    for (paths, path, status) in [
        (["/v1/models"].as_slice(), "/v1/models", 200),
        (&["/v1/models"], "/v1/models/grok-4", 200),
        (&["/v1/models"], "/v1/models?x=1", 200),
        (&["/v1/models"], "/v1/modelsandmore", 404),
        (&["/v1/models/"], "/v1/models", 403),
        (&["/v1/models/"], "/v1/models/grok-4", 200),
        (&["/v1/mod", "/v1/echo"], "/v1/echo", 200),
        (&["/v1/models"], "/v1/Models", 403),
        (&["/v1/models"], "/v1/%6dodels", 403),
        (&["/v1/models"], "/v1/echo?/v1/models", 403),
        (&["/v1/models"], "/v1/echo", 403),
    ] {
        let plan = Plan { limited_keys: vec![key(paths)?], workers: 1, ..Plan::default() };
        let mut stack = Stack::prepare(Plan { login: false, ..plan }).await?;
        let publisher = Publisher::start(&stack.socket())?;
        publisher.publish_for(stack.provider(), &[]);
        stack.start_envoy().await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             authorization: Bearer {BOB}\r\n\r\n"
        );
        let answer = stack.raw(request.as_bytes()).await?;
        assert_eq!(answer.status, status, "{paths:?} {path}: {}", answer.body);
        if status == 403 {
            refused(&answer, 403, "path_not_allowed")?;
            assert!(stack.provider().requests().is_empty());
        }
    }
    Ok(())
}
