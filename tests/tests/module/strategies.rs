//! How histories are made up.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::bundles::{Keys, State, Wanted};
use super::history::{Answer, Bytes, Event, History, Lines, Place};
use super::host::{Faults, Headers};

/// Names that some part of the filter looks at.
const NAMES: &[&str] = &[
    "authorization",
    "x-proxy-api-key",
    "x-api-key",
    "api_key",
    "cookie",
    "connection",
    "upgrade",
    "sec-websocket-protocol",
    "te",
    "keep-alive",
    "transfer-encoding",
    "trailer",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x_forwarded_for",
    "x-real-ip",
    "via",
    "origin",
    "sec-fetch-site",
    "content-encoding",
    "content-type",
    "x-envoy-retry-on",
    "cf-ray",
    "x-torchbearer-replay",
    "accept-encoding",
    "x-custom",
    "content-length",
    "set-cookie",
    ":path",
    ":authority",
    ":method",
    "",
];

const VALUES: &[&str] = &[
    "Bearer key-s3cret-alice",
    "bearer key-s3cret-bob",
    "Bearer wrong-s3cret",
    "Basic s3cret",
    "upgrade",
    "keep-alive, x-custom, authorization",
    "websocket",
    "http",
    "https",
    "gzip",
    "openai-insecure-api-key.key-s3cret-alice, realtime",
    "cross-site",
    "http://localhost:1",
    "https://evil.example",
    "text/event-stream",
    "application/json",
    "",
    ",,,",
    "GET",
    "CONNECT",
];

/// Bytes as Envoy's codecs let them pass: no NUL, CR or LF, but anything else.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let any_byte = any::<u8>().prop_map(|byte| if b"\0\r\n".contains(&byte) { 0xff } else { byte });
    prop_oneof![
        8 => select(VALUES).prop_map(|value| value.as_bytes().to_vec()),
        4 => vec(any_byte, 0..24),
        1 => (any::<u8>(), 1000..20_000_usize).prop_map(|(byte, size)| vec![byte | 0x80; size]),
    ]
}

/// Envoy's names are tokens in lower case; a name in another shape it refuses before any filter.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => select(NAMES).prop_map(str::to_owned),
        1 => vec(select(b"abcxyz-_.!~09".to_vec()), 0..20)
            .prop_map(|name| String::from_utf8_lossy(&name).into_owned()),
    ]
}

fn headers(most: usize) -> impl Strategy<Value = Headers> {
    vec((name(), value()), 0..most)
}

fn good_request() -> impl Strategy<Value = Headers> {
    let owned = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let credential = prop_oneof![
        2 => Just(Vec::new()),
        5 => Just(vec![owned("authorization", "Bearer key-s3cret-alice")]),
        3 => Just(vec![owned("x-proxy-api-key", "key-s3cret-bob")]),
    ];
    let path = prop_oneof![
        8 => Just("/v1/chat/completions"),
        3 => Just("/v1/models?model=grok-4"),
        1 => select(vec!["/v1/x?model=%ff%zz", "/x/../y", "*"]),
    ];
    let method = prop_oneof![5 => Just("POST"), 4 => Just("GET"), 1 => Just("TRACE")];
    (method, path, credential).prop_map(move |(method, path, credential)| {
        let head = [(":method", method), (":path", path), (":authority", "localhost:9996")];
        let mut headers: Headers = head.map(|(name, value)| owned(name, value)).into();
        headers.extend(credential);
        headers
    })
}

fn request() -> impl Strategy<Value = Headers> {
    prop_oneof![
        4 => good_request(),
        6 => (good_request(), headers(6)).prop_map(|(mut good, more)| {
            good.extend(more.into_iter().filter(|(name, _)| !name.starts_with(':')));
            good
        }),
        1 => headers(12),
        1 => (name(), value(), 0..300_usize).prop_map(|(name, value, count)| {
            vec![(name, value); count]
        }),
    ]
}

/// Bodies in which some part of the filter looks for something.
fn body() -> impl Strategy<Value = Bytes> {
    const PARTS: &[&str] = &[
        r#"{"model": "grok-4-fast", "messages": []}"#,
        r#"{"model":"#,
        r#""other"}"#,
        "{",
        "}",
        "[",
        "\"",
        "\\",
        ":",
        ",",
        "data: ",
        "\n\n",
        "\r",
        r#""usage":{"prompt_tokens":7}"#,
        "\"model\"",
        r#"{"code":"unauthenticated:x"}"#,
        r#"{"error":{"code":"unauthenticated:"#,
        "[DONE]",
        r#"data: {"model":"grok-4","usage":{"prompt_tokens":18446744073709551615}}"#,
    ];
    let part = prop_oneof![
        6 => select(PARTS).prop_map(|part| part.as_bytes().to_vec()),
        2 => vec(any::<u8>(), 0..16),
        1 => (any::<u8>(), 0..40_000_usize).prop_map(|(byte, size)| vec![byte; size]),
    ];
    vec(part, 0..5).prop_map(|parts| Bytes(parts.concat()))
}

fn status() -> impl Strategy<Value = Bytes> {
    const STATUSES: &[&str] = &[
        "200", "204", "401", "403", "419", "409", "429", "500", "503", "101", "", "+401", "99999",
    ];
    prop_oneof![
        6 => select(vec!["200", "401", "403"]).prop_map(|status| Bytes(status.as_bytes().to_vec())),
        6 => select(STATUSES).prop_map(|status| Bytes(status.as_bytes().to_vec())),
        1 => vec(any::<u8>(), 0..6).prop_map(Bytes),
    ]
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let state = || {
        prop_oneof![
            6 => (-2_i64..60).prop_map(State::Ready),
            1 => Just(State::LoginRequired),
            1 => (0_u64..50).prop_map(State::Unavailable),
            1 => Just(State::Missing),
        ]
    };
    let keys = prop_oneof![4 => Just(Keys::None), 1 => Just(Keys::Empty), 2 => Just(Keys::Both)];
    (state(), state(), keys).prop_map(|(default, bob, keys)| Wanted { default, bob, keys })
}

fn answer() -> impl Strategy<Value = Answer> {
    let refusals =
        [r#"{"error": "unavailable", "retry_after": 4}"#, r#"{"error": 3}"#, "<html>", ""];
    let body = prop_oneof![
        select(refusals.to_vec()).prop_map(|body| body.as_bytes().to_vec()),
        vec(any::<u8>(), 0..40),
        Just(vec![b' '; (1 << 20) + 2]),
    ];
    prop_oneof![
        8 => wanted().prop_map(Answer::Bundle),
        1 => wanted().prop_map(Answer::Old),
        1 => (wanted(), any::<u8>()).prop_map(|(wanted, part)| Answer::Cut(wanted, part)),
        1 => Just(Answer::Failure),
        3 => (status(), body).prop_map(|(status, body)| Answer::Other { status, body: Bytes(body) }),
        1 => Just(Answer::WithoutStatus),
    ]
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![4 => Just(Place::Gate), 1 => Just(Place::Bearer), 3 => Just(Place::Both)]
}

fn event() -> impl Strategy<Value = Event> {
    let some = || 0_usize..64;
    prop_oneof![
        10 => (place(), request(), any::<bool>())
            .prop_map(|(place, headers, end)| Event::Request { place, headers: Lines(headers), end }),
        8 => some().prop_map(Event::Attempt),
        8 => (some(), body(), any::<bool>())
            .prop_map(|(stream, body, end)| Event::Body(stream, body, end)),
        2 => (some(), headers(4)).prop_map(|(stream, headers)| Event::Trailers(stream, Lines(headers))),
        6 => (some(), status(), headers(5), prop::bool::weighted(0.2)).prop_map(
            |(stream, status, headers, end)| Event::Response { stream, status, headers: Lines(headers), end }),
        8 => (some(), body(), any::<bool>())
            .prop_map(|(stream, body, end)| Event::ResponseBody(stream, body, end)),
        2 => (some(), headers(4))
            .prop_map(|(stream, headers)| Event::ResponseTrailers(stream, Lines(headers))),
        5 => some().prop_map(Event::Reset),
        8 => select(vec![1, 50, 250, 600, 2100, 21_000]).prop_map(Event::Tick),
        8 => (some(), answer()).prop_map(|(call, answer)| Event::Answer(call, answer)),
        1 => wanted().prop_map(Event::OtherWorker),
        1 => (some(), vec(any::<u8>(), 0..70)).prop_map(|(key, value)| Event::Garble(key, Bytes(value))),
        1 => (place(), some()).prop_map(|(place, which)| Event::Configure(place, which)),
        1 => vec(any::<u8>(), 0..40).prop_map(|document| Event::Invalid(Bytes(document))),
        1 => Just(Event::Reload),
    ]
}

/// Any history.
pub fn history() -> impl Strategy<Value = History> {
    let one_in = option::weighted(0.5, 2_u32..30).prop_map(Option::unwrap_or_default);
    let faults = (one_in, any::<u64>()).prop_map(|(one_in, seed)| Faults { one_in, seed });
    // Most begin with a bundle, without which little happens.
    let bundle = Wanted { default: State::Ready(50), bob: State::Ready(50), keys: Keys::None };
    let bundle = || vec![Event::Tick(1), Event::Answer(0, Answer::Bundle(bundle.clone()))];
    let early = (place(), good_request(), any::<bool>())
        .prop_map(|(place, headers, end)| Event::Request { place, headers: Lines(headers), end });
    let waiting = (vec(early, 1..4), Just(bundle()))
        .prop_map(|(early, bundle)| early.into_iter().chain(bundle).collect::<Vec<_>>());
    let opening = prop_oneof![5 => Just(bundle()), 2 => waiting, 1 => Just(Vec::new())];
    (faults, [0_usize..9, 0..9, 0..9], opening, vec(event(), 0..80)).prop_map(
        |(faults, configurations, mut events, more)| {
            events.extend(more);
            History { faults, configurations, events }
        },
    )
}
