//! The API.

use serde_json::json;

use super::*;
use crate::DeadToken;

#[tokio::test]
async fn only_exactly_one_live_token_gets_in() {
    let world = World::new(Options::default()).await;
    let (good, refresh) = world.grant();
    let basic = format!("Basic {good}");
    let (one, lower) = (format!("Bearer {good}"), format!("bearer {good}"));
    for (authorizations, status) in [
        (vec![], "401"),
        (vec!["Bearer "], "401"),
        (vec!["Bearer not.a.token"], "401"),
        (vec![basic.as_str()], "401"),
        (vec![one.as_str(), one.as_str()], "401"),
        (vec![one.as_str(), "Bearer other"], "401"),
        (vec![one.as_str()], "200"),
        (vec![lower.as_str()], "200"),
    ] {
        let lines: String =
            authorizations.iter().map(|it| format!("Authorization: {it}\r\n")).collect();
        let request = format!("GET /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{lines}\r\n");
        let (answer, _) = world.raw(request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{authorizations:?} {answer}");
        assert!(!answer.contains(&good));
    }
    let summary = world.simulator.control().summary();
    assert_eq!((summary.api_requests, summary.refused), (8, 6));
    let requests = world.simulator.control().requests();
    assert_eq!(requests[4].authorization, ["f1-t1", "f1-t1"]);
    assert_eq!(
        (requests[4].jti.as_deref(), requests[5].authorization[1].as_str()),
        (None, "invalid")
    );
    assert!(requests[5].refused && !requests[6].refused);
    let printed = format!("{requests:?}");
    assert!(!printed.contains(&good) && !printed.contains(&refresh));
}

#[tokio::test]
async fn a_dead_token_is_answered_in_the_shape_that_is_set() {
    let world = World::new(Options::default()).await;
    let (access, refresh) = world.grant();
    assert_eq!(world.simulator.control().kill_access_token(), 1);
    let response = world.get("/v1/models", &access).await;
    assert!(response.headers().contains_key("www-authenticate"));
    let (status, body) = answer(response).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (401, &json!("invalid_api_key")));
    world.control("/dead_token", &json!({"as": "forbidden"})).await;
    let (status, body) = answer(world.get("/v1/models", &access).await).await;
    assert_eq!((status.as_u16(), &body["code"]), (403, &json!("unauthenticated:bad-credentials")));
    world.simulator.control().set_dead_token(DeadToken::ForbiddenOld);
    let (status, body) = answer(world.get("/v1/models", &access).await).await;
    assert_eq!((status.as_u16(), body.get("code")), (403, None));
    assert!(text(&body, "error").starts_with("unauthenticated:bad-credentials"));

    let (_, tokens) = world.refresh(&refresh).await;
    let fresh = text(&tokens, "access_token");
    assert_eq!(world.get("/v1/models", &fresh).await.status(), StatusCode::OK);
    let (_, killed) = world.control("/kill", &json!({"jti": "f1-t2"})).await;
    assert_eq!(killed["killed"], 1);
    assert_eq!(world.get("/v1/models", &fresh).await.status(), StatusCode::FORBIDDEN);
    let (_, revoked) = world.control("/revoke_all", &json!({})).await;
    assert_eq!(revoked["revoked"], 1);
    assert_eq!(world.refresh(&text(&tokens, "refresh_token")).await.1["error"], "invalid_grant");
}

#[tokio::test]
async fn an_expired_or_foreign_token_is_dead() {
    let world = World::new(Options::default()).await;
    world.control("/token_life", &json!({"seconds": 0})).await;
    let (expired, _) = world.grant();
    let (foreign, _) = World::new(Options::default()).await.grant();
    for token in [expired, foreign] {
        assert_eq!(world.get("/echo", &token).await.status(), StatusCode::UNAUTHORIZED);
    }
    let requests = world.simulator.control().requests();
    assert_eq!((&requests[0].jti, &requests[1].jti), (&Some("f1-t1".into()), &None));
}

#[tokio::test]
async fn the_echo_shows_every_byte_but_the_token() {
    let world = World::new(Options::default()).await;
    let (access, _) = world.grant();
    let mut request =
        b"PUT /v1/echo/a%2fb?c=d HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a: \xff\xe9\r\n".to_vec();
    request.extend(format!("Authorization: Bearer {access}\r\nConnection: close\r\n").bytes());
    request.extend(
        b"Transfer-Encoding: chunked\r\nTrailer: x-t\r\n\r\n3\r\nabc\r\n0\r\nx-t: late\r\n\r\n",
    );
    let (answer, _) = world.raw(&request).await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let echo: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&echo["method"], &echo["path"]), (&json!("PUT"), &json!("/v1/echo/a%2fb?c=d")));
    let headers = echo["headers"].as_array().unwrap();
    assert_eq!(
        headers[..3],
        [json!(["host", "h"]), json!(["x-a", "1"]), json!(["x-a", "\u{ff}\u{e9}"])]
    );
    assert!(headers.contains(&json!(["authorization", "[f1-t1]"])));
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!((&echo["body_bytes"], &echo["body_sha256"]), (&json!(3), &json!(sha256)));
    assert!(!answer.contains(&access));
    let entry = world.simulator.control().requests().remove(0);
    assert_eq!(
        (entry.body_bytes, entry.body_sha256.as_str(), entry.status),
        (3, sha256, Some(200))
    );
    assert_eq!(entry.header("x-a").collect::<Vec<_>>(), ["1", "\u{ff}\u{e9}"]);
    assert_eq!(entry.trailers, [("x-t".to_owned(), "late".to_owned())]);
}

#[tokio::test]
async fn the_first_event_is_there_before_the_last_is_sent() {
    let world = World::new(Options::default()).await;
    let (access, _) = world.grant();
    let body = |delay: u64| {
        json!({"model": "grok-4", "stream": true, "x_chunks": 2, "x_delay_ms": delay,
               "messages": [{"role": "user", "content": "hi"}], "input": "hi",
               "stream_options": {"include_usage": true}})
    };
    for (path, first, last) in [
        ("/v1/chat/completions", "\"role\":\"assistant\"", "data: [DONE]"),
        ("/v1/responses", "event: response.created", "event: response.completed"),
    ] {
        // An hour between two events: were the first held back, it would not come at all.
        let mut slow = world.post(path, &access, &body(3_600_000)).await;
        assert_eq!(slow.headers()["content-type"], "text/event-stream");
        let event = slow.chunk().await.unwrap().unwrap();
        let event = std::str::from_utf8(&event).unwrap().to_owned();
        assert!(event.contains(first) && !event.contains(last), "{event}");
        let whole = world.post(path, &access, &body(1)).await.text().await.unwrap();
        for needle in [first, last, "word0 ", "word1 ", "\"reasoning_tokens\":5", "cached_tokens"] {
            assert!(whole.contains(needle), "{needle} in {whole}");
        }
    }
}

#[tokio::test]
async fn whole_answers_and_their_errors() {
    let world = World::new(Options::default()).await;
    world.control("/stream", &json!({"chunks": 2, "delay_ms": 0})).await;
    let (access, _) = world.grant();
    let messages = json!([{"role": "user", "content": "hi"}]);
    for (path, body, status, pointer, expected) in [
        (
            "chat/completions",
            json!({"model": "grok-4", "messages": messages}),
            200,
            "/choices/0/message/content",
            "word0 word1 ",
        ),
        (
            "responses",
            json!({"model": "grok-4", "input": "hi"}),
            200,
            "/output/0/content/0/text",
            "word0 word1 ",
        ),
        (
            "chat/completions",
            json!({"model": "grok-9", "messages": messages}),
            404,
            "/error/code",
            "model_not_found",
        ),
        (
            "chat/completions",
            json!({"messages": messages}),
            400,
            "/error/type",
            "invalid_request_error",
        ),
        (
            "chat/completions",
            json!({"model": "grok-4", "messages": []}),
            400,
            "/error/type",
            "invalid_request_error",
        ),
        ("responses", json!([]), 400, "/error/type", "invalid_request_error"),
        ("nowhere", json!({}), 404, "/error/type", "invalid_request_error"),
        ("models", json!({}), 405, "/error/type", "invalid_request_error"),
    ] {
        let (code, answer) = answer(world.post(&format!("/v1/{path}"), &access, &body).await).await;
        assert_eq!(code.as_u16(), status, "{path} {body}");
        assert_eq!(answer.pointer(pointer), Some(&json!(expected)), "{path} {body}");
    }
    let (_, models) = answer(world.get("/v1/models", &access).await).await;
    assert_eq!(models["data"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn any_status_passes_through() {
    let world = World::new(Options::default()).await;
    let (access, _) = world.grant();
    let body = "/v1/status/429?body=%7B%22code%22%3A1%7D&retry_after=3";
    let response = world.get(body, &access).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (429, &"3".parse().unwrap())
    );
    assert_eq!(response.text().await.unwrap(), "{\"code\":1}");
    let response = world.get("/v1/status/403?body=%3Cp%3E&content_type=text/html", &access).await;
    assert_eq!(response.headers()["content-type"], "text/html");
    for bad in ["99", "x", "1000"] {
        let status = world.get(&format!("/v1/status/{bad}"), &access).await.status();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
    }
    let summary = world.simulator.control().summary();
    assert_eq!((summary.api_requests, summary.refused), (5, 0));
}

#[tokio::test]
async fn a_large_body_is_taken_and_a_stopped_simulator_is_gone() {
    let world = World::new(Options::default()).await;
    let (access, _) = world.grant();
    let request = world.client.post(world.url("/echo")).bearer_auth(&access);
    let (status, echo) = answer(request.body(vec![7; 8 << 20]).send().await.unwrap()).await;
    assert_eq!((status, &echo["body_bytes"]), (StatusCode::OK, &json!(8 << 20)));
    let World { simulator, client } = world;
    let url = simulator.url().to_owned();
    drop(simulator);
    // The listener closes when its aborted task is next polled, which this await lets happen.
    assert!(client.get(url).send().await.is_err());
}

#[tokio::test]
async fn a_body_is_sent_back_in_the_pieces_that_were_asked_for() {
    let world = World::new(Options::default()).await;
    let (access, _) = world.grant();
    for (query, pieces) in [
        ("chunk=2&status=201", ["2\r\nab", "2\r\ncd", "1\r\ne\r\n"].as_slice()),
        ("split=1&content_type=text%2Fplain", &["1\r\na\r\n", "4\r\nbcde"]),
        ("content_encoding=gzip", &["5\r\nabcde"]),
    ] {
        let request = format!(
            "POST /v1/body?{query} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {access}\r\n\
             Connection: close\r\nContent-Length: 5\r\n\r\nabcde"
        );
        let (answer, _) = world.raw(request.as_bytes()).await;
        for piece in pieces {
            assert!(answer.contains(piece), "{query}: {answer}");
        }
        assert_eq!(answer.starts_with("HTTP/1.1 201"), query.contains("status"));
        assert_eq!(answer.contains("content-type: text/plain"), query.contains("type"));
        assert_eq!(answer.contains("content-encoding: gzip"), query.contains("encoding"));
    }
}

#[tokio::test]
async fn a_websocket_wants_the_token_and_a_whole_handshake() {
    let world = World::new(Options::default()).await;
    let (access, _) = world.grant();
    let complete = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (token, lines, status) in
        [("other", complete, "401"), (access.as_str(), "", "400"), (&access, complete, "101")]
    {
        let request = format!(
            "GET /v1/realtime HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\n{lines}\r\n"
        );
        let address = world.simulator.url().trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 1024];
        let read = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        // RFC 6455, section 1.3, has this pair as its example.
        assert_eq!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), status == "101");
    }
}
