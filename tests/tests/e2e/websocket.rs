//! WebSockets: only where they are allowed, with the bearer in the handshake.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use filter::client::ClientKey;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::Empty;
use hyper::ext::Protocol;
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use refresher::config::Proxy;
use simulator::DeadToken;
use tests::{Plan, Stack, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

const ALICE: &str = "torchbearer-key-of-alice-1";

const PATH: &str = "/v1/realtime";

const LIMIT: Duration = Duration::from_secs(20);

async fn stack_with(key: ClientKey) -> Result<Stack> {
    let proxy = Proxy { websocket_paths: vec![PATH.to_owned()], ..Proxy::default() };
    Stack::start(Plan { limited_keys: vec![key], proxy, ..Plan::default() }).await
}

fn alice() -> Result<ClientKey> {
    Ok(ClientKey::of_key("alice".parse()?, ALICE.as_bytes()))
}

type Socket = WebSocketStream<TcpStream>;

/// Opens a WebSocket with these headers, or says with which status that was refused.
async fn open(
    stack: &Stack,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<Result<(Socket, Response), u16>> {
    let mut request = format!("ws://{}{path}", stack.address).into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse()?);
    }
    let stream = TcpStream::connect(stack.address).await?;
    match tokio::time::timeout(LIMIT, client_async(request, stream)).await? {
        Ok(opened) => Ok(Ok(opened)),
        Err(Error::Http(refused)) => Ok(Err(refused.status().as_u16())),
        Err(error) => Err(error.into()),
    }
}

async fn opened(stack: &Stack, headers: &[(&'static str, &str)]) -> Result<(Socket, Response)> {
    match open(stack, PATH, headers).await? {
        Ok(opened) => Ok(opened),
        Err(status) => bail!("refused with {status}"),
    }
}

async fn echoed<S>(socket: &mut WebSocketStream<S>, message: Message) -> Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    socket.send(message.clone()).await?;
    let echo = tokio::time::timeout(LIMIT, socket.next()).await?.context("an echo")??;
    ensure!(echo == message, "{} bytes came back", echo.len());
    Ok(())
}

/// Reads until the socket has ended.
async fn ended(socket: &mut Socket) -> Result<()> {
    let end = async { while let Some(Ok(_)) = socket.next().await {} };
    Ok(tokio::time::timeout(LIMIT, end).await?)
}

const BY_KEY: [(&str, &str); 1] = [("x-proxy-api-key", ALICE)];

#[tokio::test]
async fn a_websocket_is_refused_unless_its_path_is_allowed() -> Result<()> {
    let plan = Plan { limited_keys: vec![alice()?], ..Plan::default() };
    let closed = Stack::start(plan).await?;
    assert_eq!(open(&closed, PATH, &BY_KEY).await?.err(), Some(403));
    assert!(closed.provider().requests().is_empty());

    let stack = stack_with(alice()?).await?;
    assert_eq!(open(&stack, "/v1/other", &BY_KEY).await?.err(), Some(403));
    assert_eq!(open(&stack, PATH, &[]).await?.err(), Some(401));
    assert_eq!(open(&stack, PATH, &[("x-proxy-api-key", "wrong")]).await?.err(), Some(401));
    let wrong = [("sec-websocket-protocol", "realtime, openai-insecure-api-key.wrong")];
    assert_eq!(open(&stack, PATH, &wrong).await?.err(), Some(401));
    // No other protocol can be upgraded to.
    for upgrade in ["h2c", "websocket, h2c", "tls/1.0"] {
        let request = format!(
            "GET {PATH} HTTP/1.1\r\nhost: localhost\r\nx-proxy-api-key: {ALICE}\r\n\
             connection: upgrade, http2-settings, close\r\nupgrade: {upgrade}\r\n\
             http2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
        );
        let answer = stack.raw(request.as_bytes()).await?;
        ensure!(answer.status != 101 && answer.status != 200, "{upgrade}: {}", answer.status);
    }
    for request in stack.provider().requests() {
        ensure!(request.header("upgrade").next().is_none(), "{request:?}");
    }
    Ok(())
}

/// Envoy takes an upgrade by any method, and passes what follows on as it is.
#[tokio::test]
async fn no_request_hides_in_an_upgrade_that_is_no_handshake() -> Result<()> {
    let stack = stack_with(alice()?).await?;
    let hidden = "GET /v1/echo/hidden HTTP/1.1\r\nhost: api\r\ncookie: planted\r\n\r\n";
    for method in ["POST", "PUT", "HEAD", "get"] {
        for length in ["content-length: 0\r\n", "content-length: 2\r\n", ""] {
            let request = format!(
                "{method} {PATH} HTTP/1.1\r\nhost: localhost\r\nx-proxy-api-key: {ALICE}\r\n\
                 connection: upgrade\r\nupgrade: websocket\r\n{length}\r\n{{}}{hidden}"
            );
            let request = if length.contains('0') { request.replace("{}", "") } else { request };
            let mut stream = TcpStream::connect(stack.address).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            let read = tokio::time::timeout(LIMIT, stream.read_buf(&mut answer)).await;
            read.with_context(|| format!("no answer: {request}"))??;
            let answer = String::from_utf8_lossy(&answer);
            ensure!(answer.starts_with("HTTP/1.1 4"), "{request}: {answer}");
        }
    }
    ensure!(stack.provider().requests().is_empty(), "{:?}", stack.provider().requests());
    Ok(())
}

#[tokio::test]
async fn a_websocket_is_opened_with_the_bearer_and_carries_messages_whole() -> Result<()> {
    let stack = stack_with(alice()?).await?;
    let bearer = format!("Bearer {ALICE}");
    let in_protocol = format!("realtime, openai-insecure-api-key.{ALICE}, openai-beta.realtime-v1");
    let only_key = format!("openai-insecure-api-key.{ALICE}");
    for (header, value, offered, chosen) in [
        ("authorization", bearer.as_str(), None, None),
        ("x-proxy-api-key", ALICE, None, None),
        (
            "sec-websocket-protocol",
            &in_protocol,
            Some("realtime, openai-beta.realtime-v1"),
            Some("realtime"),
        ),
    ] {
        stack.provider().clear();
        let stripped = [("cookie", "a=1"), ("x-forwarded-for", "1.2.3.4"), ("x-kept", "yes")];
        let headers = [[(header, value)].as_slice(), &stripped].concat();
        let (mut socket, response) = opened(&stack, &headers).await?;
        let protocol = response.headers().get("sec-websocket-protocol");
        assert_eq!(protocol.map(|protocol| protocol.to_str()).transpose()?, chosen, "{header}");
        let [request] = stack.provider().requests().try_into().ok().context("one handshake")?;
        assert!(request.jti.is_some() && request.authorization.len() == 1, "{header}");
        for name in ["cookie", "x-forwarded-for", "x-forwarded-proto", "x-proxy-api-key"] {
            assert_eq!(request.header(name).count(), 0, "{header}: {name}");
        }
        assert_eq!(request.header("x-kept").collect::<Vec<_>>(), ["yes"]);
        assert!(!format!("{:?}", request.headers).contains(ALICE), "{header}");
        let protocols = request.header("sec-websocket-protocol").next();
        assert_eq!(protocols, offered, "{header}");

        echoed(&mut socket, Message::text("hello")).await?;
        echoed(&mut socket, Message::binary(vec![0xff; 1 << 20])).await?;
        echoed(&mut socket, Message::binary(Bytes::new())).await?;
        for number in 0..100 {
            echoed(&mut socket, Message::text(number.to_string())).await?;
        }
        // The API ends it.
        socket.send(Message::text("close")).await?;
        let end = tokio::time::timeout(LIMIT, socket.next()).await?.context("a close")??;
        ensure!(end.is_close(), "{end:?}");
    }
    // A client that offers the key alone gets no protocol chosen, which it may hold against us.
    let (_, response) = raw_handshake(&stack, &only_key).await?;
    ensure!(response.starts_with("HTTP/1.1 101"), "{response}");
    ensure!(!response.to_ascii_lowercase().contains("sec-websocket-protocol"), "{response}");
    let request = stack.provider().requests().pop().context("a handshake")?;
    assert_eq!(request.header("sec-websocket-protocol").count(), 0);
    Ok(())
}

/// The stream and the head of the answer of a handshake that offers these protocols.
async fn raw_handshake(stack: &Stack, protocols: &str) -> Result<(TcpStream, String)> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = TcpStream::connect(stack.address).await?;
    let request = format!(
        "GET {PATH} HTTP/1.1\r\nhost: localhost\r\nconnection: keep-alive, Upgrade\r\n\
         upgrade: WebSocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-protocol: {protocols}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut answer).await? > 0, "no answer");
    }
    Ok((stream, String::from_utf8(answer)?))
}

#[tokio::test]
async fn a_dead_token_at_the_handshake_is_replaced() -> Result<()> {
    let stack = stack_with(alice()?).await?;
    for dead in [DeadToken::Unauthorized, DeadToken::Forbidden] {
        stack.provider().set_dead_token(dead);
        stack.provider().kill_access_token();
        let refreshes = stack.provider().summary().refreshes;
        let (mut socket, _) = opened(&stack, &BY_KEY).await.with_context(|| format!("{dead:?}"))?;
        echoed(&mut socket, Message::text("hello")).await?;
        assert_eq!(stack.provider().summary().refreshes, refreshes + 1, "{dead:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_open_websocket_counts_as_a_request_under_way() -> Result<()> {
    let key = ClientKey { concurrency: 1, ..alice()? };
    let stack = stack_with(key).await?;
    let freed = async || {
        let again = eventually(LIMIT, async || open(&stack, PATH, &BY_KEY).await.ok()?.ok());
        again.await.context("the place is not freed")
    };
    let (mut first, _) = freed().await?;
    echoed(&mut first, Message::text("hello")).await?;
    assert_eq!(open(&stack, PATH, &BY_KEY).await?.err(), Some(429));
    let status =
        stack.client.get(stack.url("/v1/models")).bearer_auth(ALICE).send().await?.status();
    assert_eq!(status, 429);
    // The client goes without a word.
    first.get_ref().set_zero_linger()?;
    drop(first);
    // The API resets it.
    let (mut second, _) = freed().await?;
    assert_eq!(open(&stack, PATH, &BY_KEY).await?.err(), Some(429));
    second.send(Message::text("reset")).await?;
    ended(&mut second).await?;
    // An orderly end.
    let (mut third, _) = freed().await?;
    third.close(None).await?;
    ended(&mut third).await?;
    freed().await?;
    Ok(())
}

#[tokio::test]
async fn a_model_that_the_key_may_not_use_opens_no_websocket() -> Result<()> {
    let key = ClientKey { models: vec!["grok-4*".to_owned()], ..alice()? };
    let stack = stack_with(key).await?;
    for (query, accepted) in
        [("?model=grok-4-fast", true), ("?model=grok-3-mini", false), ("", false)]
    {
        let outcome = open(&stack, &format!("{PATH}{query}"), &BY_KEY).await?;
        assert_eq!(outcome.err(), (!accepted).then_some(403), "{query}");
    }
    assert_eq!(stack.provider().requests().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_websocket_can_be_opened_over_http2() -> Result<()> {
    let stack = stack_with(alice()?).await?;
    let stream = TcpStream::connect(stack.address).await?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
    let connection = tokio::spawn(connection);
    let mut connect = async |key: &str| {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(stack.url(PATH))
            .header("x-proxy-api-key", key)
            .header("sec-websocket-version", "13")
            .extension(Protocol::from_static("websocket"))
            .body(Empty::<Bytes>::new());
        // RFC 8441: only once the peer has said that it takes this.
        let answer = async {
            sender.ready().await?;
            sender.send_request(request?).await.map_err(anyhow::Error::new)
        };
        tokio::time::timeout(LIMIT, answer).await?
    };
    assert_eq!(connect("wrong").await?.status(), 401);
    let response = connect(ALICE).await?;
    assert_eq!(response.status(), 200);
    let upgraded = TokioIo::new(tokio::time::timeout(LIMIT, hyper::upgrade::on(response)).await??);
    let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
    echoed(&mut socket, Message::text("hello")).await?;
    echoed(&mut socket, Message::binary(vec![7; 1 << 20])).await?;
    let request = stack.provider().requests().pop().context("a handshake")?;
    assert!(request.jti.is_some() && request.header("x-proxy-api-key").next().is_none());
    connection.abort();
    Ok(())
}
