//! The gate: reads the request once, has it judged, and takes out what must not leave.

use proxy_wasm::hostcalls;
use proxy_wasm::types::MapType;

use super::clock;
use super::held::{Held, Step, Wait};
use crate::bundle::DEFAULT_CREDENTIAL;
use crate::client::ClientKey;
use crate::config::Gate;
use crate::gate::{Connection, Decision, Keys, decide};
use crate::headers::Request;
use crate::refusal::Refusal;

/// Filter state that the gate leaves for the bearer: the request's credential. A client has no way
/// to set filter state, so its presence proves that a gate of this Envoy let the request pass.
pub const CREDENTIAL: &str = "torchbearer.credential";

/// Filter state for the access log: the client's name.
const CLIENT: &str = "torchbearer.client";

impl Held {
    /// Lets the request in, or not. The effective context must be this stream.
    pub(super) fn admit(&self, gate: &Gate) -> Step {
        let headers = hostcalls::get_map_bytes(MapType::HttpRequestHeaders).unwrap_or_default();
        let request = Request::read(&headers);
        // No host call in here comes back to the source.
        let step = self.plugin.source.serving(|serving| {
            let keys = Keys { configured: &gate.client_keys, published: serving.client_keys() };
            match decide(keys, &request, clock::unix(), &Downstream) {
                Decision::Admit(client) => self.mark(client),
                Decision::Refuse(refusal) => Step::Refuse(refusal),
                Decision::AwaitBundle => Step::Wait(Wait::FirstBundle),
            }
        });
        if matches!(step, Step::Pass) {
            for name in &request.strip {
                // What cannot be removed must not leave.
                if hostcalls::remove_map_value(MapType::HttpRequestHeaders, name).is_err() {
                    return Step::Refuse(Refusal::NOT_ADMITTED);
                }
            }
        }
        step
    }

    /// Leaves word for the bearer and the access log.
    fn mark(&self, client: Option<&ClientKey>) -> Step {
        let credential = client.map_or(DEFAULT_CREDENTIAL, |client| &client.credential);
        if hostcalls::set_property(vec![CREDENTIAL], Some(credential.as_bytes())).is_err() {
            return Step::Refuse(Refusal::NOT_ADMITTED);
        }
        if let Some(client) = client {
            let _ = hostcalls::set_property(vec![CLIENT], Some(client.id.as_str().as_bytes()));
        }
        Step::Pass
    }
}

/// The connection of the effective context's request.
struct Downstream;

impl Connection for Downstream {
    fn local_address(&self) -> Option<Vec<u8>> {
        property(&["destination", "address"])
    }

    fn certificate_names(&self) -> Vec<Vec<u8>> {
        // Envoy has verified the certificate where its listener has a trust store; where it has
        // none, any certificate would do, so `envoy/` configures one wherever it asks for any.
        let names = ["uri_san_peer_certificate", "dns_san_peer_certificate"];
        names.into_iter().filter_map(|name| property(&["connection", name])).collect()
    }
}

fn property(path: &[&str]) -> Option<Vec<u8>> {
    hostcalls::get_property(path.to_vec()).ok().flatten().filter(|value| !value.is_empty())
}
