//! A stand-in for the refresher, which publishes the bundles that a test gives it.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use filter::client::ClientKey;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long it holds a poll.
const WAIT: Duration = Duration::from_secs(25);

/// A socket that answers polls, and nothing else.
#[derive(Debug)]
pub struct Publisher {
    published: watch::Sender<(u64, String)>,
    server: JoinHandle<()>,
}

impl Publisher {
    /// Listens on this socket, with nothing to publish yet.
    ///
    /// # Errors
    ///
    /// When the socket cannot be made.
    pub fn start(socket: &Path) -> Result<Self> {
        if let Some(folder) = socket.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let listener = UnixListener::bind(socket)?;
        let (published, watched) = watch::channel((0, String::new()));
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(exchange(stream, watched.clone()));
            }
        });
        Ok(Self { published, server })
    }

    /// Publishes this access token for the default credential, and these client keys.
    pub fn publish(&self, access_token: &str, client_keys: &[ClientKey]) {
        self.published.send_modify(|(generation, document)| {
            *generation += 1;
            let token = json!({
                "state": "ready", "access_token": access_token, "token_type": "Bearer",
                "expires_at": crate::unix_now() + 3600, "generation": *generation
            });
            *document = json!({
                "version": 1, "generation": *generation, "credentials": {"default": token},
                "client_keys": client_keys
            })
            .to_string();
        });
    }

    /// The same, with a way in for the refresher's own check.
    pub fn publish_with_probe(
        &self,
        provider: &simulator::Control,
        client_keys: &[ClientKey],
        probe: &ClientKey,
    ) {
        self.publish_for(provider, client_keys);
        self.published.send_modify(|(_, document)| {
            let mut bundle: Value = serde_json::from_str(document).unwrap_or_default();
            if let Some(members) = bundle.as_object_mut() {
                members.insert("probe".to_owned(), json!(probe));
            }
            *document = bundle.to_string();
        });
    }

    /// Publishes these client keys, and an access token that the provider has just issued.
    pub fn publish_for(&self, provider: &simulator::Control, client_keys: &[ClientKey]) {
        let grant = provider.issue_grant();
        let token = grant.get("access_token").and_then(Value::as_str).unwrap_or_default();
        self.publish(token, client_keys);
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn exchange(
    mut stream: UnixStream,
    mut watched: watch::Receiver<(u64, String)>,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let request = String::from_utf8_lossy(&request);
    let known = request.split_once("generation=").map(|(_, rest)| {
        rest.bytes()
            .take_while(u8::is_ascii_digit)
            .fold(0, |known, digit| known * 10 + u64::from(digit - b'0'))
    });
    let newer = watched.wait_for(|(generation, _)| Some(*generation) != known && *generation > 0);
    let answer = match tokio::time::timeout(WAIT, newer).await {
        Ok(Ok(published)) => {
            let document = &published.1;
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", document.len())
                + "connection: close\r\n\r\n"
                + document
        }
        _ => "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_owned(),
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
