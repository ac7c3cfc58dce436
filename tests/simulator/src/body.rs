//! Request bodies: noted as they arrive, and sent back as they are by one endpoint.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Channel};
use sha2::{Digest as _, Sha256};

use crate::Shared;
use crate::form::Parameters;

/// The largest body that is taken.
const MAX_BYTES: usize = 64 << 20;

/// A body that has arrived.
pub(crate) struct Arrived {
    /// Its bytes, where they were to be kept.
    pub(crate) bytes: Bytes,
    pub(crate) length: usize,
    pub(crate) sha256: String,
    pub(crate) trailers: HeaderMap,
}

/// Why a body has not arrived.
pub(crate) enum Unread {
    TooLarge,
    Broken,
}

/// Reads a request's body, and notes in its log entry what has come of it so far.
pub(crate) async fn read(
    shared: &Shared,
    sequence: u64,
    mut body: Body,
    keep: bool,
) -> Result<Arrived, Unread> {
    let (mut bytes, mut hash, mut length) = (BytesMut::new(), Sha256::new(), 0);
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        match frame.map_err(|_| Unread::Broken)?.into_data() {
            Ok(data) => {
                length += data.len();
                if length > MAX_BYTES {
                    return Err(Unread::TooLarge);
                }
                hash.update(&data);
                if keep {
                    bytes.extend_from_slice(&data);
                }
                shared.change(|state, _| {
                    state.logs.amend(sequence, |entry| entry.body_bytes = length);
                });
            }
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Arrived { bytes: bytes.freeze(), length, sha256, trailers })
}

/// Sends the body back, in the pieces that the query asks for.
pub(crate) fn returned(query: &Parameters, body: &Bytes) -> Response {
    let number = |name| query.get(name).and_then(|value| value.parse::<usize>().ok());
    let status = number("status").and_then(|status| u16::try_from(status).ok());
    let status = status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or_default();
    let size = number("chunk").unwrap_or(body.len()).max(1);
    let mut pieces: Vec<Bytes> = match number("split") {
        Some(at) => vec![body.slice(..at.min(body.len())), body.slice(at.min(body.len())..)],
        None => (0..body.len())
            .step_by(size)
            .map(|from| body.slice(from..(from + size).min(body.len())))
            .collect(),
    };
    pieces.retain(|piece| !piece.is_empty());
    let pause = number("delay_ms").and_then(|pause| u64::try_from(pause).ok()).unwrap_or(0);
    let mut answer = (status, in_pieces(pieces, Duration::from_millis(pause))).into_response();
    let content_type = query.get("content_type").unwrap_or("application/json");
    let headers =
        [(CONTENT_TYPE, Some(content_type)), (CONTENT_ENCODING, query.get("content_encoding"))];
    for (name, value) in headers {
        if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

fn in_pieces(pieces: Vec<Bytes>, pause: Duration) -> Body {
    let (mut sender, channel) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(async move {
        for (number, piece) in pieces.into_iter().enumerate() {
            if number > 0 && !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            if sender.send_data(piece).await.is_err() {
                break;
            }
        }
    });
    Body::new(channel)
}
