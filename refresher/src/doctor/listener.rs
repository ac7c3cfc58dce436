//! Who serves on the listener: our Envoy, nobody, or somebody else.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;

use super::report::Finding;
use crate::config::Config;
use crate::publish::health::Health;
use crate::surroundings::reachable;
use crate::up::process::Paths;
use crate::{http, status};

/// How long one question may take.
const DEADLINE: Duration = Duration::from_millis(1_500);

/// The same, where an answer is not needed.
const HEALTH_DEADLINE: Duration = Duration::from_secs(1);

/// A path that our gate answers itself, and no other program in this way.
const AMBIGUOUS: &str = "/..;/";

/// Who answers at an address.
#[derive(Debug)]
enum Who {
    /// Nobody.
    Nobody,
    /// An Envoy with our gate.
    Ours,
    /// One of another provider.
    Provider(String),
    /// Another program.
    Other,
}

/// Looks, and answers with the address of our Envoy if it is there. `serving`: a refresher is, so
/// that an Envoy should be.
pub(super) async fn look(config: &Config, serving: bool) -> (Vec<Finding>, Option<SocketAddr>) {
    let configured = SocketAddr::new(config.listener.host, config.listener.port);
    let started = started(config).await;
    if let Some(address) = started {
        let says = format!("Envoy listens on {address}");
        let moved = configured.port() != 0 && configured.port() != address.port();
        let finding = if moved {
            let taken = match who(reachable(configured), config).await {
                Who::Nobody => "",
                _ => ", which another program has",
            };
            let remedy = format!("have clients call http://{}/v1", reachable(address));
            Finding::warn(format!("{says}, not on {configured}{taken}"), remedy)
        } else {
            Finding::ok(says)
        };
        return (vec![finding], Some(reachable(address)));
    }
    if configured.port() == 0 {
        let says = "listener.port is 0, and no Envoy of refresher up answers on its admin socket";
        return (vec![Finding::fail(says, "refresher up, or set listener.port")], None);
    }
    let address = reachable(configured);
    match who(address, config).await {
        Who::Ours => (vec![Finding::ok(format!("our Envoy answers on {address}"))], Some(address)),
        Who::Nobody if serving => {
            let says = format!("nothing listens on {address}: Envoy does not run");
            (vec![Finding::fail(says, "refresher up, or start your own Envoy")], None)
        }
        Who::Nobody => (vec![Finding::ok(format!("{address} is free"))], None),
        Who::Provider(name) => {
            let says = format!("an Envoy for provider {name} answers on {address}");
            (vec![Finding::fail(says, "stop that one, or choose another listener.port")], None)
        }
        Who::Other => {
            let says = format!("{address} is taken by another program");
            let port = address.port();
            let remedy = format!(
                "find it with: ss -ltnp 'sport = :{port}'; stop it, or choose another listener.port"
            );
            (vec![Finding::fail(says, remedy)], None)
        }
    }
}

/// Where the Envoy of `up` listens, as it says itself.
async fn started(config: &Config) -> Option<SocketAddr> {
    let admin = Paths::new(&config.state_dir).admin;
    let path = "/listeners?format=json";
    let answer = http::ask_socket(&admin, path, false, DEADLINE).await.ok()?;
    let listeners: Value = serde_json::from_slice(&answer.body).ok()?;
    let address = listeners.pointer("/listener_statuses/0/local_address/socket_address")?;
    let host = address.get("address")?.as_str()?.parse().ok()?;
    let port = address.get("port_value")?.as_u64()?.try_into().ok()?;
    Some(SocketAddr::new(host, port))
}

async fn who(address: SocketAddr, config: &Config) -> Who {
    let connected = tokio::time::timeout(DEADLINE, TcpStream::connect(address)).await;
    if !matches!(connected, Ok(Ok(_))) {
        return Who::Nobody;
    }
    let url = |path: &str| format!("http://{address}{path}");
    match http::ask_listener(&url(AMBIGUOUS), None, DEADLINE).await {
        Ok(answer) if is_of_gate(&serde_json::from_slice(&answer.body).unwrap_or_default()) => {}
        _ => return Who::Other,
    }
    // Without a refresher behind it, and with client keys, it does not say of which provider.
    match http::ask_listener(&url("/health"), None, HEALTH_DEADLINE).await {
        Ok(answer) => match serde_json::from_slice::<Health>(&answer.body) {
            Ok(health) if !status::is_of(config, &health) => Who::Provider(health.provider),
            _ => Who::Ours,
        },
        Err(_) => Who::Ours,
    }
}

/// Whether an answer to a request for an ambiguous path is that of our gate: it refuses the path,
/// or before that whoever asks.
fn is_of_gate(body: &Value) -> bool {
    const CODES: [&str; 4] =
        ["ambiguous_path", "invalid_client_key", "client_keys_required", "misdirected_request"];
    let code = body.pointer("/error/code").and_then(Value::as_str);
    code.is_some_and(|code| CODES.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn our_gate_is_known_by_its_refusals() {
        let refusal = |code: &str| json!({"error": {"code": code, "message": "m"}});
        for (body, expected) in [
            (refusal("ambiguous_path"), true),
            (refusal("invalid_client_key"), true),
            (refusal("not_found"), false),
            (json!({"code": "ambiguous_path"}), false),
            (json!({"status": "ok"}), false),
            (Value::Null, false),
        ] {
            assert_eq!(is_of_gate(&body), expected, "{body}");
        }
    }

    #[test]
    fn all_addresses_are_asked_on_loopback() {
        for (address, asked) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("192.0.2.1:1", "192.0.2.1:1")]
        {
            assert_eq!(reachable(address.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
