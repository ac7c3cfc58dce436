//! A WebSocket endpoint (RFC 6455) that sends back what it gets.
//!
//! Of the subprotocols that are offered it chooses `realtime`. The text `reset` has it reset the
//! connection, the text `close` close it.

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

/// The subprotocol that is chosen.
const PROTOCOL: &str = "realtime";

const PROTOCOLS: &str = "sec-websocket-protocol";

/// Marks a response after which the connection is a WebSocket.
#[derive(Clone, Copy)]
pub(crate) struct Opened;

/// Answers the handshake, as strictly as the RFC has it.
pub(crate) fn open(head: &axum::http::request::Parts) -> Response {
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    request.headers_mut().clone_from(&head.headers);
    let mut response = match create_response(&request) {
        Ok(response) => response.map(|()| axum::body::Body::empty()),
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let offers = head.headers.get_all(PROTOCOLS);
    let mut offered = offers.iter().filter_map(|it| it.to_str().ok()).flat_map(|it| it.split(','));
    if offered.any(|protocol| protocol.trim() == PROTOCOL) {
        response.headers_mut().insert(PROTOCOLS, HeaderValue::from_static(PROTOCOL));
    }
    response.extensions_mut().insert(Opened);
    response
}

/// Serves an open WebSocket to its end.
pub(crate) async fn serve(stream: TcpStream, read: Bytes) {
    let socket = WebSocketStream::from_partially_read(stream, read.into(), Role::Server, None);
    let mut socket = socket.await;
    while let Some(Ok(message)) = socket.next().await {
        let sent = match &message {
            Message::Text(text) if text.as_str() == "reset" => {
                let _ = socket.get_ref().set_zero_linger();
                return;
            }
            Message::Text(text) if text.as_str() == "close" => socket.close(None).await,
            Message::Text(_) | Message::Binary(_) => socket.send(message).await,
            _ => Ok(()),
        };
        if sent.is_err_and(|error| !matches!(error, Error::ConnectionClosed)) {
            return;
        }
    }
}
