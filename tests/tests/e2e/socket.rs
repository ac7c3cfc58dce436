//! A refresher's socket that answers nonsense: the last good bundle stays.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tests::{Plan, Stack, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::proof::arrived;

/// What the socket answers, and how often it was asked since that was set.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<(Vec<u8>, u32)>>);

impl Script {
    fn answer(&self, status: &str, body: &[u8]) {
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        self.send(&[head.as_bytes(), body].concat());
    }

    /// Any bytes instead of an answer.
    fn send(&self, bytes: &[u8]) {
        let whole = bytes.to_vec();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (whole, 0);
    }

    fn asked(&self) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    async fn serve(self, listener: UnixListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let script = self.clone();
            tokio::spawn(async move { script.exchange(stream).await });
        }
    }

    async fn exchange(&self, mut stream: UnixStream) -> std::io::Result<()> {
        let mut request = Vec::new();
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            if stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        let answer = {
            let mut script = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            script.1 += 1;
            script.0.clone()
        };
        stream.write_all(&answer).await?;
        stream.shutdown().await
    }
}

fn bundle(token: &str, generation: u64) -> Vec<u8> {
    let credential = json!({
        "state": "ready", "access_token": token, "token_type": "Bearer",
        "expires_at": tests::unix_now() + 3600, "generation": generation
    });
    let bundle =
        json!({"version": 1, "generation": generation, "credentials": {"default": credential}});
    bundle.to_string().into_bytes()
}

#[tokio::test]
async fn f05_nonsense_from_the_socket_leaves_the_last_good_bundle() -> Result<()> {
    let mut stack = Stack::prepare(Plan { login: false, ..Plan::default() }).await?;
    std::fs::create_dir_all(stack.state_dir())?;
    let token = |grant: Value| Some(grant.get("access_token")?.as_str()?.to_owned());
    let good = token(stack.provider().issue_grant()).context("a token")?;
    let other = token(stack.provider().issue_grant()).context("a token")?;
    let script = Script::default();
    script.answer("200 OK", &bundle(&good, 1000));
    let listener = UnixListener::bind(stack.socket())?;
    let server = tokio::spawn(script.clone().serve(listener));
    stack.start_envoy().await?;

    let in_use = async || {
        let answer = stack.client.get(stack.url("/v1/echo")).send().await.ok()?;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.ok()?;
        Some((status, body["authorization"][0].as_str()?.to_owned()))
    };
    let first = in_use().await.context("a first answer")?;
    assert_eq!(first.0, 200);
    let half = bundle(&other, 3000);
    let half = half.get(..half.len() / 2).context("half a bundle")?;
    let version =
        String::from_utf8(bundle(&other, 3000))?.replace("\"version\":1", "\"version\":9");
    let forged = String::from_utf8(bundle(&other, 3000))?.replace(&other, "a\\r\\nx-evil: 1");
    let text = String::from_utf8(bundle(&other, 3000))?;
    let nested = "[".repeat(100_000);
    let answers: [(&str, &[u8]); 20] = [
        ("500 Internal Server Error", b"broken"),
        ("500 Internal Server Error", text.as_bytes()),
        ("204 No Content", b""),
        ("200 OK", b"<html>hello</html>"),
        ("200 OK", half),
        ("200 OK", b""),
        ("200 OK", b"null"),
        ("200 OK", b"[]"),
        ("200 OK", nested.as_bytes()),
        ("200 OK", &[text.as_bytes(), b"}"].concat()),
        ("200 OK", &[b"\xef\xbb\xbf", text.as_bytes()].concat()),
        ("200 OK", &vec![b'x'; 1 << 20]),
        ("200 OK", &vec![b' '; 3 << 20]),
        ("200 OK", &[text.as_bytes(), &[b' '; 1 << 20]].concat()),
        ("200 OK", &bundle(&other, 999)),
        ("200 OK", &bundle(&other, 1000)),
        ("200 OK", &bundle(&other, 0)),
        ("200 OK", version.as_bytes()),
        ("200 OK", forged.as_bytes()),
        ("302 Found", text.as_bytes()),
    ];
    let as_answer = |(status, body): &(&str, &[u8])| {
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
        [head.as_bytes(), body].concat()
    };
    let longer = format!("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{text}");
    let chunk = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfff\r\n{text}");
    let raw: [&[u8]; 4] = [b"", b"\0\xff\0\xff", longer.as_bytes(), chunk.as_bytes()];
    let all = answers.iter().map(as_answer).chain(raw.map(<[u8]>::to_vec));
    for bytes in all {
        let what = String::from_utf8_lossy(bytes.get(..bytes.len().min(120)).unwrap_or_default());
        script.send(&bytes);
        // Every worker, and the main thread, has heard it; and none asks in a hurry.
        let heard =
            eventually(Duration::from_secs(20), async || (script.asked() >= 3).then_some(()));
        heard.await.with_context(|| format!("the socket is asked again after {what}"))?;
        for _ in 0..4 {
            assert_eq!(in_use().await.context("an answer")?, first, "{what}");
        }
        assert!(script.asked() < 60, "{what}: {} polls", script.asked());
        arrived(&stack)?;
    }
    // And a good one is taken over again.
    script.answer("200 OK", &bundle(&other, 2000));
    let renewed = eventually(Duration::from_secs(10), async || {
        in_use().await.filter(|(status, token)| *status == 200 && *token != first.1)
    });
    renewed.await.context("the next good bundle is in force")?;
    server.abort();
    Ok(())
}
