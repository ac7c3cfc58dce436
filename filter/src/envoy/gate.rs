//! The gate: reads the request once, has it judged, and takes out what must not leave.

use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType};

use super::clock;
use super::held::{Held, Step, Wait};
use crate::bundle::DEFAULT_CREDENTIAL;
use crate::client::ClientKey;
use crate::config::Gate;
use crate::gate::{Connection, Decision, Keys, decide};
use crate::headers::Request;
use crate::management::{Entry, method_label, reconsider};
use crate::model::{Verdict, is_allowed_by_body, judge};
use crate::refusal::Refusal;

/// Filter state that the gate leaves for the bearer: the request's credential. A client has no way
/// to set filter state, so its presence proves that a gate of this Envoy let the request pass.
pub const CREDENTIAL: &str = "torchbearer.credential";

/// Filter state for the access log, and for what counts behind the gate: the client's name.
pub const CLIENT: &str = "torchbearer.client";

impl Held {
    /// Lets the request in, or not. The effective context must be this stream.
    pub(super) fn admit(&self, gate: &Gate) -> Step {
        let headers = hostcalls::get_map_bytes(MapType::HttpRequestHeaders).unwrap_or_default();
        let request = Request::read(&headers, &gate.headers);
        self.method.set(method_label(request.method));
        let decision = self.plugin.source.serving(|serving| {
            let keys = Keys { configured: &gate.client_keys, published: serving.client_keys() };
            // No host call in here comes back to the source.
            let decision = decide(keys, &request, clock::unix(), &Downstream);
            match reconsider(decision, &request, &gate.public_paths, serving.probe()) {
                Entry::Public => Ok(None),
                Entry::Decided(Decision::Admit(client)) => Ok(Some(client.cloned())),
                Entry::Decided(Decision::Refuse(refusal)) => Err(Step::Refuse(refusal)),
                Entry::Decided(Decision::Forbid(client, refusal)) => {
                    name(client);
                    Err(Step::Refuse(refusal))
                }
                Entry::Decided(Decision::AwaitBundle) => Err(Step::Wait(Wait::FirstBundle)),
            }
        });
        match decision {
            Ok(Some(client)) => self.enter(client, &request).unwrap_or_else(|step| step),
            // Without the mark of a gate no bearer puts in a token, wherever the routes lead.
            Ok(None) if clean(&request) => Step::Pass,
            Ok(None) => Step::Refuse(Refusal::NOT_ADMITTED),
            Err(step) => step,
        }
    }

    fn enter(&self, client: Option<Rc<ClientKey>>, request: &Request<'_>) -> Result<Step, Step> {
        let mut step = Step::Pass;
        let refused = |refusal| Err(Step::Refuse(refusal));
        let credential = client.as_ref().map_or(DEFAULT_CREDENTIAL, |client| &client.credential);
        let marked = hostcalls::set_property(vec![CREDENTIAL], Some(credential.as_bytes()));
        if let Some(client) = &client {
            name(client);
            match judge(client, request, self.has_body()) {
                Verdict::Allowed => {}
                Verdict::Refused => return refused(Refusal::MODEL_NOT_ALLOWED),
                Verdict::Inspect => step = Step::Read,
            }
            let quota = self.plugin.limits.enter(client).map_err(Step::Refuse)?;
            self.quota.set(quota);
        }
        if let Some(client) = client {
            let _ = self.client.set(client);
        }
        if marked.is_ok() && clean(request) { Ok(step) } else { refused(Refusal::NOT_ADMITTED) }
    }

    /// Judges a body that is buffered so far, for the sake of its model.
    pub(super) fn judge_body(&self, gate: &Gate, size: usize, whole: bool) -> Step {
        let Some(client) = self.client.get() else {
            return Step::Refuse(Refusal::NOT_ADMITTED);
        };
        if size > gate.max_inspected_body_bytes {
            return Step::Refuse(Refusal::BODY_TOO_LARGE);
        }
        if !whole {
            return Step::Read;
        }
        let body = hostcalls::get_buffer(BufferType::HttpRequestBody, 0, size);
        if is_allowed_by_body(client, &body.ok().flatten().unwrap_or_default()) {
            Step::Pass
        } else {
            Step::Refuse(Refusal::MODEL_NOT_ALLOWED)
        }
    }

    /// The request's client, where its gate is this place.
    pub(super) fn client_name(&self) -> Option<&str> {
        self.client.get().map(|client| client.id.as_str())
    }
}

/// Takes out of the effective context's request what must not leave. `false`: it could not be
/// changed, and must not leave itself.
fn clean(request: &Request<'_>) -> bool {
    let removed = request
        .strip
        .iter()
        .all(|name| hostcalls::remove_map_value(MapType::HttpRequestHeaders, name).is_ok());
    let replaced = request.set.iter().all(|(name, value)| {
        hostcalls::set_map_value_bytes(MapType::HttpRequestHeaders, name, Some(value)).is_ok()
    });
    removed && replaced
}

/// Names the client of the effective context's request to the access log and the filters behind.
fn name(client: &ClientKey) {
    let _ = hostcalls::set_property(vec![CLIENT], Some(client.id.as_str().as_bytes()));
}

/// The connection of the effective context's request.
struct Downstream;

impl Connection for Downstream {
    fn local_address(&self) -> Option<Vec<u8>> {
        property(&["destination", "address"])
    }

    fn certificate_names(&self) -> Vec<Vec<u8>> {
        // Envoy has verified the certificate where its listener has a trust store. Where it has
        // none, it may have accepted any, and a listener that asks for certificates must have one.
        let names = ["uri_san_peer_certificate", "dns_san_peer_certificate"];
        names.into_iter().filter_map(|name| property(&["connection", name])).collect()
    }
}

fn property(path: &[&str]) -> Option<Vec<u8>> {
    hostcalls::get_property(path.to_vec()).ok().flatten().filter(|value| !value.is_empty())
}
