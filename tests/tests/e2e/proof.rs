//! What has to hold after every case, whatever it was: checked in one place.

use anyhow::{Context as _, Result, ensure};
use filter::headers::Policy;
use simulator::RequestEntry;
use tests::{Message, Outcome, Plan, Protocol, Stack};

/// The key of the one client, `alice`.
pub const KEY: &str = "key-of-alice-0123456789";

/// What stands in values that must not reach the API.
pub const PLANTED: &str = "planted";

/// A stack whose gate wants a key.
pub async fn with_key() -> Result<Stack> {
    Stack::start(Plan { client_keys: vec![("alice", KEY)], ..Plan::default() }).await
}

/// A GET of what answers with what arrived, with the key.
pub fn echo() -> Message {
    with_the_key(Message::get("/v1/echo"))
}

/// The same request with the key.
pub fn with_the_key(message: Message) -> Message {
    message.with("x-proxy-api-key", KEY)
}

/// Sends a request; what arrived before is checked a last time and forgotten.
pub async fn send(stack: &Stack, protocol: Protocol, message: &Message) -> Result<Outcome> {
    forget(stack)?;
    message.send(protocol, stack.address).await
}

/// Checks what arrived and forgets it.
pub fn forget(stack: &Stack) -> Result<()> {
    arrived(stack)?;
    stack.provider().clear();
    Ok(())
}

/// What reached the API. Each request carried the current bearer, no other credential and nothing
/// that stays here; and no grant was spent twice.
pub fn arrived(stack: &Stack) -> Result<Vec<RequestEntry>> {
    let requests = stack.provider().requests();
    let policy = Policy::default();
    for request in &requests {
        ensure!(request.authorization.len() == 1, "{:?}", request.authorization);
        ensure!(request.jti.is_some() && !request.refused, "not the current bearer: {request:?}");
        for (name, value) in request.headers.iter().chain(&request.trailers) {
            // The bearer, and how Envoy itself frames the body.
            let own = ["authorization", "transfer-encoding"].contains(&name.as_str());
            ensure!(own || policy.of_request(name).is_none(), "{name} was not stripped");
            ensure!(!value.contains(PLANTED) && !value.contains(KEY), "{name}: {value}");
        }
        let credentials = request.trailers.iter().filter(|(name, _)| name == "authorization");
        ensure!(credentials.count() == 0, "a credential in the trailers");
    }
    ensure!(stack.provider().summary().spent_twice == 0, "a grant was spent twice");
    Ok(requests)
}

/// The one request that reached the API.
pub fn arrived_once(stack: &Stack) -> Result<RequestEntry> {
    let mut requests = arrived(stack)?;
    ensure!(requests.len() <= 1, "{requests:?}");
    requests.pop().context("nothing reached the API")
}

/// Nothing reached the API.
pub fn nothing_arrived(stack: &Stack) -> Result<()> {
    let requests = arrived(stack)?;
    ensure!(requests.is_empty(), "{requests:?}");
    Ok(())
}

/// A request on a new connection is served, by a filter that has never trapped.
pub async fn serves(stack: &Stack) -> Result<()> {
    for protocol in Protocol::ALL {
        let outcome = send(stack, protocol, &echo()).await?;
        ensure!(outcome.status() == 200, "{protocol:?}: {outcome}");
        arrived_once(stack)?;
    }
    let log = stack.envoy()?.log();
    ensure!(!log.contains("panic") && !log.contains("Wasm VM failed"), "the filter trapped");
    Ok(())
}

/// Whether a request got no further than Envoy's parser: 400, 431, or over HTTP/2 a reset.
pub fn is_malformed(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Answered(answer) => [400, 431].contains(&answer.status),
        Outcome::Reset(_) => true,
        Outcome::Closed(_) => false,
    }
}
