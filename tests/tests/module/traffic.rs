//! Streams: callbacks in the order in which Envoy makes them, and what comes of them.

use anyhow::{Context as _, Result, ensure};

use super::checks;
use super::history::{Event, Place};
use super::host::{
    Deferred, Headers, REQUEST_BODY, REQUEST_HEADERS, REQUEST_TRAILERS, RESPONSE_BODY,
    RESPONSE_HEADERS, RESPONSE_TRAILERS,
};
use super::vm::CONTINUE;
use super::world::World;

/// One context of a stream, as Envoy sees it.
pub struct Flow {
    pub id: u32,
    pub request: usize,
    pub place: Place,
    pub root: u32,
    /// As the client or the gate sent it.
    pub sent: Headers,
    pub went: Went,
    pub request_over: bool,
    pub response: Response,
    /// The generation whose token it was let through with, at a bearer.
    injected: Option<u64>,
}

/// How far a request has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Went {
    Held,
    /// With these headers.
    Through(Headers),
    /// The module has answered it.
    Answered,
    /// Envoy has, for a time-out, say.
    Overtaken,
}

/// How far its answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    Awaited,
    Held,
    Passing,
    Over,
}

impl World {
    /// What happens to one of the streams there are.
    pub fn of_stream(&mut self, event: Event) -> Result<()> {
        // Of a request that has been answered, more may come until Envoy has ended it.
        let asks = |flow: &Flow| !flow.request_over;
        let awaits =
            |flow: &Flow| flow.response == Response::Awaited && flow.went != Went::Answered;
        let answers = |flow: &Flow| matches!(flow.response, Response::Held | Response::Passing);
        let (which, fits): (usize, &dyn Fn(&Flow) -> bool) = match &event {
            Event::Body(which, ..) | Event::Trailers(which, _) => (*which, &asks),
            Event::Response { stream, .. } => (*stream, &awaits),
            Event::ResponseBody(which, ..) | Event::ResponseTrailers(which, _) => {
                (*which, &answers)
            }
            Event::Reset(which) => (*which, &|_| true),
            _ => return Ok(()),
        };
        let fitting: Vec<usize> =
            (0..self.flows.len()).filter(|index| fits(&self.flows[*index])).collect();
        let Some(index) = which.checked_rem(fitting.len()).map(|which| fitting[which]) else {
            return Ok(());
        };
        let id = self.flows[index].id;
        match event {
            Event::Body(_, part, end) => {
                self.flows[index].request_over = end;
                let action = self.vm.body(id, REQUEST_BODY, &part.0, end)?;
                self.settle(Some((id, action)))?;
            }
            Event::Trailers(_, trailers) => {
                self.flows[index].request_over = true;
                let action = self.vm.headers(id, REQUEST_TRAILERS, trailers.0, true)?;
                self.settle(Some((id, action)))?;
            }
            Event::Response { status, headers, end, .. } => {
                let mut headers = headers.0;
                headers.retain(|(name, _)| !name.starts_with(':'));
                headers.insert(0, (":status".to_owned(), status.0));
                if self.flows[index].went == Went::Held {
                    self.flows[index].went = Went::Overtaken;
                }
                self.respond(index, headers, end)?;
                self.settle(None)?;
            }
            Event::ResponseBody(_, part, end) => {
                let action = self.vm.body(id, RESPONSE_BODY, &part.0, end)?;
                self.answered(index, action, end)?;
                self.settle(None)?;
            }
            Event::ResponseTrailers(_, trailers) => {
                let action = self.vm.headers(id, RESPONSE_TRAILERS, trailers.0, true)?;
                let stream = self.vm.host().streams.get_mut(&id).context("its context")?;
                let trailers = stream.maps[RESPONSE_TRAILERS].take().context("its trailers")?;
                if self.flows[index].place != Place::Bearer {
                    checks::response(&trailers, false)?;
                }
                self.answered(index, action, true)?;
                self.settle(None)?;
            }
            Event::Reset(_) => {
                self.flows.remove(index);
                self.vm.delete(id)?;
            }
            _ => {}
        }
        Ok(())
    }

    pub fn begin(&mut self, place: Place, request: usize, sent: Headers, end: bool) -> Result<()> {
        let root = self.roots.iter().rfind(|root| root.place == place && !root.retired);
        let root = root.context("a root context")?.id;
        let (id, action) = self.vm.begin(root, request, sent.clone(), end)?;
        self.flows.push(Flow {
            id,
            request,
            place,
            root,
            sent,
            went: Went::Held,
            request_over: end,
            response: Response::Awaited,
            injected: None,
        });
        self.settle(Some((id, action)))
    }

    /// Does what the module has left to do, after a callback of a request that ended so.
    pub fn settle(&mut self, outcome: Option<(u32, u32)>) -> Result<()> {
        if let Some((id, action)) = outcome {
            let index = self.index(id).context("a stream that is there")?;
            if action == CONTINUE && self.flows[index].went == Went::Held {
                let map = self.vm.host().streams.get_mut(&id).context("its context")?;
                let headers = map.maps[REQUEST_HEADERS].take().context("its headers")?;
                self.let_through(index, headers)?;
            }
            let answered = self.flows[index].went == Went::Answered;
            ensure!(action != CONTINUE || !answered, "a refused request is let through");
            let through = matches!(self.flows[index].went, Went::Through(_));
            ensure!(action == CONTINUE || !through, "a request is held that had been let through");
        }
        while let Some(deferred) = self.vm.host().deferred.pop_front() {
            match deferred {
                Deferred::Resume { context, headers } => {
                    let Some(index) = self.index(context) else { continue };
                    // Envoy's own answer may have overtaken it.
                    if self.flows[index].response == Response::Awaited {
                        ensure!(self.flows[index].went == Went::Held, "resumed, but not held");
                        self.seen.resumed += 1;
                        self.let_through(index, headers.context("its headers")?)?;
                    }
                }
                Deferred::Reply { context, code, mut headers, body } => {
                    checks::reply(code, &headers, &body)?;
                    let Some(index) = self.index(context) else { continue };
                    // Envoy's own answer may have overtaken it.
                    if self.flows[index].response == Response::Awaited {
                        ensure!(self.flows[index].went == Went::Held, "answered, but not held");
                        self.flows[index].went = Went::Answered;
                        self.seen.refused += 1;
                        headers.insert(0, (":status".to_owned(), code.to_string().into_bytes()));
                        self.respond(index, headers, false)?;
                        let action = self.vm.body(context, RESPONSE_BODY, &body, true)?;
                        self.answered(index, action, true)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn index(&self, id: u32) -> Option<usize> {
        self.flows.iter().position(|flow| flow.id == id)
    }

    /// A request goes on: towards the bearer, or towards the API.
    fn let_through(&mut self, index: usize, headers: Headers) -> Result<()> {
        let now = self.now();
        let flow = &self.flows[index];
        if flow.place != Place::Bearer {
            checks::gate(flow, &headers)?;
        }
        if flow.place != Place::Gate {
            let state = (flow.request, b"torchbearer.credential".to_vec());
            let credential = self.vm.host().filter_state.get(&state).cloned();
            let credential = credential.context("let through without a gate")?;
            let credential = String::from_utf8(credential)?;
            let served = self.served.as_ref().context("let through without a bundle")?;
            let token = served.tokens.get(&credential).context("let through without a token")?;
            checks::bearer(&headers, token, now)?;
            let rejected = self.rejected.get(&credential).is_some_and(|r| *r >= served.generation);
            ensure!(!rejected, "let through with a token that the API had refused");
            self.flows[index].injected = Some(served.generation);
        }
        self.seen.through[self.flows[index].place as usize] += 1;
        self.flows[index].went = Went::Through(headers);
        Ok(())
    }

    fn respond(&mut self, index: usize, headers: Headers, end: bool) -> Result<()> {
        let (id, place, root) = {
            let flow = &self.flows[index];
            (flow.id, flow.place, flow.root)
        };
        let status = headers.first().map(|(_, status)| status.clone()).unwrap_or_default();
        let root = self.roots.iter().find(|known| known.id == root).context("its root context")?;
        let usual = !root.configuration.contains("dead_token");
        let request = self.flows[index].request;
        let state = |name: &[u8]| (request, name.to_vec());
        let filter_state = &self.vm.host().filter_state;
        // One request has one token replaced: what its replay meets is not held against the next.
        let first = !filter_state.contains_key(&state(b"torchbearer.replayed"));
        if let (b"401", true, true, Some(generation)) =
            (status.as_slice(), usual, first, self.flows[index].injected)
        {
            let credential = filter_state.get(&state(b"torchbearer.credential")).cloned();
            let credential = String::from_utf8(credential.unwrap_or_default())?;
            let rejected = self.rejected.entry(credential).or_default();
            *rejected = generation.max(*rejected);
        }
        self.flows[index].response = Response::Passing;
        let action = self.vm.headers(id, RESPONSE_HEADERS, headers, end)?;
        let stream = self.vm.host().streams.get_mut(&id).context("its context")?;
        if action == CONTINUE {
            let headers = stream.maps[RESPONSE_HEADERS].take().context("its headers")?;
            if place != Place::Bearer {
                checks::response(&headers, status == b"101")?;
            }
            self.seen.replays += u32::from(asks_for_replay(&headers));
        } else {
            self.flows[index].response = Response::Held;
        }
        self.answered(index, action, end)
    }

    /// After a callback of an answer.
    fn answered(&mut self, index: usize, action: u32, end: bool) -> Result<()> {
        let flow = &mut self.flows[index];
        let held = flow.response == Response::Held;
        ensure!(action == CONTINUE || held, "an answer is held that had been let through");
        ensure!(action == CONTINUE || !end, "an answer is held for ever");
        if action == CONTINUE && held {
            flow.response = Response::Passing;
            let stream = self.vm.host().streams.get_mut(&flow.id).context("its context")?;
            let headers = stream.maps[RESPONSE_HEADERS].take().context("its headers")?;
            self.seen.released += 1;
            self.seen.replays += u32::from(asks_for_replay(&headers));
        }
        if end {
            flow.response = Response::Over;
        }
        Ok(())
    }
}

fn asks_for_replay(headers: &Headers) -> bool {
    headers.contains(&("x-torchbearer-replay".to_owned(), b"1".to_vec()))
}
