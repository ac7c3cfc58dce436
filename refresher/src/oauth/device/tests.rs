use super::*;
use serde_json::json;
use zeroize::Zeroizing;

fn response(status: u16, body: &Value) -> Response {
    let body = Zeroizing::new(body.to_string().into_bytes());
    Response { status, retry_after: None, body }
}

fn authorization(change: &[(&str, Value)]) -> Result<DeviceAuthorization, Error> {
    let mut body = json!({"device_code": "dc", "user_code": "ABCD-EFGH",
        "verification_uri": "https://id.example/device", "expires_in": 60, "interval": 2});
    for (field, value) in change {
        body[*field] = value.clone();
    }
    read(&response(200, &body))
}

fn error(status: u16, code: &str) -> Answer {
    Answer::Error { status, code: ErrorCode::parse(code).unwrap(), retry_after: None }
}

#[test]
fn an_authorization_is_read_with_defaults() {
    let plain = authorization(&[]).unwrap();
    assert_eq!((plain.interval_s, plain.life_s), (2, 60));
    let odd = authorization(&[("interval", json!("x")), ("expires_in", json!(-1))]).unwrap();
    assert_eq!((odd.interval_s, odd.life_s), (DEFAULT_INTERVAL_S, DEFAULT_LIFE_S));
    assert!(authorization(&[("verification_uri", json!("http://127.0.0.1:9/device"))]).is_ok());
}

#[test]
fn what_could_deceive_is_refused() {
    for (field, value) in [
        ("user_code", "AB\u{1b}[2J"),
        ("user_code", "AB\nCD"),
        ("user_code", ""),
        ("user_code", "\u{202e}ABCD"),
        ("verification_uri", "https://id.example/\r\ndevice"),
        ("verification_uri", "https://id.example/\tdevice"),
        ("verification_uri", "http://id.example/device"),
        ("verification_uri", "javascript:alert(1)"),
        ("verification_uri", "file:///etc/passwd"),
        ("verification_uri", "not a url"),
        ("verification_uri_complete", "http://id.example/device?c=1"),
    ] {
        let error = authorization(&[(field, json!(value))]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{field} of")), "{field} {value:?}: {error}");
    }
    assert!(authorization(&[("device_code", json!(""))]).is_err());
}

#[test]
fn a_missing_endpoint_means_that_the_flow_is_off() {
    assert!(matches!(read(&response(404, &json!({}))), Err(Error::Off { status: 404 })));
    let refused = read(&response(400, &json!({"error": "unauthorized_client"})));
    assert!(matches!(refused, Err(Error::Refused(_))));
    assert!(matches!(read(&response(502, &json!("x"))), Err(Error::Unusable { status: 502 })));
}

#[test]
fn polls_keep_the_interval_and_slow_down_for_good() {
    let mut poller = Poller::new(&authorization(&[]).unwrap(), 0);
    let mut at = |answer, now| match poller.advance(answer, now) {
        Step::PollAt(at) => at,
        other => panic!("{other:?}"),
    };
    assert_eq!(at(error(400, "authorization_pending"), 0), 2_000);
    assert_eq!(at(error(400, "slow_down"), 2_000), 9_000);
    assert_eq!(at(error(400, "slow_down"), 9_000), 21_000);
    assert_eq!(at(Answer::Unusable { status: 502, retry_after: None }, 21_000), 33_000);
    assert_eq!(at(error(502, "access_denied"), 33_000), 45_000);
    assert_eq!(at(Answer::Unusable { status: 429, retry_after: Some(14) }, 45_000), 59_000);
}

#[test]
fn polls_are_never_faster_than_asked_and_slower_without_answers() {
    let wire = [("interval", json!(90)), ("expires_in", json!(600))];
    let mut poller = Poller::new(&authorization(&wire).unwrap(), 0);
    assert!(matches!(poller.wait(0), Step::PollAt(90_000)));
    assert!(matches!(poller.advance(error(400, "slow_down"), 0), Step::PollAt(95_000)));
    assert!(matches!(poller.back_off(0), Step::PollAt(95_000)));
    let wire = [("interval", json!(20)), ("expires_in", json!(600))];
    let mut poller = Poller::new(&authorization(&wire).unwrap(), 0);
    assert!(matches!(poller.back_off(0), Step::PollAt(40_000)));
    assert!(matches!(poller.back_off(0), Step::PollAt(60_000)));
    assert!(matches!(poller.back_off(0), Step::PollAt(60_000)));
}

#[test]
fn each_end_is_told_apart() {
    let step = |answer, now| Poller::new(&authorization(&[]).unwrap(), 0).advance(answer, now);
    assert!(matches!(step(error(400, "access_denied"), 0), Step::Denied));
    assert!(matches!(step(error(403, "access_denied"), 0), Step::Denied));
    assert!(matches!(step(error(400, "expired_token"), 0), Step::Expired));
    assert!(matches!(step(error(400, "invalid_client"), 0), Step::Failed(_)));
    assert!(matches!(step(error(400, "authorization_pending"), 58_001), Step::Expired));
}
