//! Carries out a history as Envoy would, and watches what the module does.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use super::bundles::{Published, Wanted};
use super::checks;
use super::history::{Answer, Event, History, Place, configurations};
use super::host::Shared;
use super::traffic::{Flow, Response, Went};
use super::vm::Vm;

/// The key of the bundle in shared data.
const BUNDLE: &str = "torchbearer/bundle/refresher";

const START: u64 = 1_779_000_000;

/// What histories have come to, to see that they come to something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Requests that were let through at a gate, at a bearer, at a place that is both.
    pub through: [u32; 3],
    /// Those of them that had waited.
    pub resumed: u32,
    /// Requests that were refused.
    pub refused: u32,
    /// Answers that were held back and then let through, and those that ask for a replay.
    pub released: u32,
    pub replays: u32,
}

impl Seen {
    /// Adds up.
    pub fn add(&mut self, more: Self) {
        for (sum, more) in self.through.iter_mut().zip(more.through) {
            *sum += more;
        }
        self.resumed += more.resumed;
        self.refused += more.refused;
        self.released += more.released;
        self.replays += more.replays;
    }
}

/// A root context, and its configuration.
pub struct Root {
    pub id: u32,
    pub place: Place,
    pub configuration: String,
    pub retired: bool,
}

pub struct World {
    pub vm: Vm,
    pub roots: Vec<Root>,
    pub flows: Vec<Flow>,
    requests: usize,
    generation: u64,
    /// What the module has to serve from, and the generations that the API refused since the VM's
    /// start.
    pub served: Option<Published>,
    pub rejected: BTreeMap<String, u64>,
    /// The bundle in shared data.
    shared: Option<Published>,
    pub seen: Seen,
}

impl World {
    /// Plays a history; the error says what went wrong.
    pub fn play(history: &History) -> Result<Seen> {
        let mut world = Self::new(history)?;
        for (number, event) in history.events.iter().enumerate() {
            world.event(event.clone(), history).with_context(|| format!("event {number}"))?;
            world.retire()?;
            checks::no_secret(world.vm.host())?;
        }
        world.end()
    }

    fn new(history: &History) -> Result<Self> {
        let mut world = Self {
            vm: Vm::start(START * 1_000_000_000, Shared::new(), history.faults)?,
            roots: Vec::new(),
            flows: Vec::new(),
            requests: 0,
            generation: 1,
            served: None,
            rejected: BTreeMap::new(),
            shared: None,
            seen: Seen::default(),
        };
        world.configure_all(history)?;
        Ok(world)
    }

    fn configure_all(&mut self, history: &History) -> Result<()> {
        let address = b"destination\0address".to_vec();
        self.vm.host().properties.insert(address, b"127.0.0.1:9996".to_vec());
        let places = [Place::Gate, Place::Bearer, Place::Both];
        for (place, which) in places.into_iter().zip(history.configurations) {
            self.configure(place, which)?;
        }
        Ok(())
    }

    fn configure(&mut self, place: Place, which: usize) -> Result<()> {
        let configurations = configurations(place);
        let configuration = configurations[which % configurations.len()].clone();
        let id = self.vm.root(configuration.as_bytes())?.context("a good configuration")?;
        for root in self.roots.iter_mut().filter(|root| root.place == place) {
            root.retired = true;
        }
        self.roots.push(Root { id, place, configuration, retired: false });
        if self.shared.as_ref().map(|shared| shared.generation) > self.generation_served() {
            self.served.clone_from(&self.shared);
        }
        Ok(())
    }

    fn generation_served(&self) -> Option<u64> {
        self.served.as_ref().map(|served| served.generation)
    }

    /// Ends root contexts that are not used any more.
    fn retire(&mut self) -> Result<()> {
        let used = |root: &Root| self.flows.iter().any(|flow| flow.root == root.id);
        let unused = self.roots.iter().filter(|root| root.retired && !used(root));
        for id in unused.map(|root| root.id).collect::<Vec<_>>() {
            self.vm.delete(id)?;
            self.roots.retain(|root| root.id != id);
        }
        Ok(())
    }

    /// Unix seconds.
    pub fn now(&mut self) -> u64 {
        self.vm.host().wall / 1_000_000_000
    }

    fn event(&mut self, event: Event, history: &History) -> Result<()> {
        match event {
            Event::Request { place, headers, end } => {
                self.requests += 1;
                self.begin(place, self.requests, headers.0, end)?;
            }
            Event::Attempt(which) => {
                let gates = self.flows.iter().filter(|flow| flow.place == Place::Gate);
                let passed: Vec<_> = gates
                    .filter_map(|flow| match &flow.went {
                        Went::Through(headers) => Some((flow.request, headers.clone())),
                        _ => None,
                    })
                    .collect();
                if let Some((request, headers)) = passed.get(which % passed.len().max(1)).cloned() {
                    self.begin(Place::Bearer, request, headers, which % 2 == 0)?;
                }
            }
            Event::Tick(milliseconds) => {
                self.vm.tick(milliseconds)?;
                self.settle(None)?;
            }
            Event::Answer(which, answer) => self.answer(which, answer)?,
            Event::OtherWorker(wanted) => {
                let published = self.publish(&wanted);
                self.share(published.document.clone(), Some(published));
            }
            Event::Garble(which, value) => match which % 3 {
                0 => self.share(value.0, None),
                1 => self.put("torchbearer/rate/alice", value.0),
                _ => self.put("torchbearer/concurrent/bob", value.0),
            },
            Event::Configure(place, which) => self.configure(place, which)?,
            Event::Invalid(configuration) => {
                ensure!(
                    self.vm.root(&configuration.0)?.is_none(),
                    "a bad configuration is accepted"
                );
            }
            Event::Reload => {
                let (wall, shared) =
                    (self.vm.host().wall, std::mem::take(&mut self.vm.host().shared));
                self.vm = Vm::start(wall, shared, self.vm.host().faults)?;
                (self.roots, self.flows) = (Vec::new(), Vec::new());
                self.rejected.clear();
                self.served = None;
                self.configure_all(history)?;
            }
            other => return self.of_stream(other),
        }
        Ok(())
    }

    fn answer(&mut self, which: usize, answer: Answer) -> Result<()> {
        let calls: Vec<u32> = self.vm.host().calls.keys().copied().collect();
        let Some(token) = which.checked_rem(calls.len()).map(|index| calls[index]) else {
            return Ok(());
        };
        let with = |status: &[u8], body: Vec<u8>| {
            Some((vec![(":status".to_owned(), status.to_vec())], body))
        };
        let now = self.now();
        let answer = match answer {
            Answer::Failure => None,
            Answer::WithoutStatus => Some((vec![("server".to_owned(), b"x".to_vec())], Vec::new())),
            Answer::Other { status, body } => with(&status.0, body.0),
            Answer::Old(wanted) => {
                let generation = self.generation_served().unwrap_or_default().saturating_sub(1);
                with(b"200", wanted.publish(generation, now).document)
            }
            Answer::Cut(wanted, part) => {
                let document = self.publish(&wanted).document;
                let end = document.len() * usize::from(part) / 256;
                with(b"200", document[..end].to_vec())
            }
            Answer::Bundle(wanted) => {
                let published = self.publish(&wanted);
                let document = published.document.clone();
                // The module hears of it from now on, whatever it does first.
                self.served = Some(published.clone());
                self.shared = Some(published);
                with(b"200", document)
            }
        };
        self.vm.answer(token, answer)?;
        self.settle(None)
    }

    fn publish(&mut self, wanted: &Wanted) -> Published {
        self.generation += 1;
        let now = self.now();
        wanted.publish(self.generation, now)
    }

    fn share(&mut self, document: Vec<u8>, published: Option<Published>) {
        self.put(BUNDLE, document);
        self.shared = published;
    }

    fn put(&mut self, key: &str, value: Vec<u8>) {
        let number = self.vm.host().issue();
        self.vm.host().shared.insert(key.to_owned(), (value, number));
    }

    /// Nothing waits longer than the longest bound, and everything can be taken down.
    fn end(mut self) -> Result<Seen> {
        for _ in 0..4 {
            self.vm.tick(11_000)?;
            self.settle(None)?;
        }
        for flow in &self.flows {
            let waits = flow.went == Went::Held && flow.request_over;
            ensure!(!waits || flow.response != Response::Awaited, "a request waits for ever");
        }
        for flow in std::mem::take(&mut self.flows) {
            self.vm.delete(flow.id)?;
        }
        for root in std::mem::take(&mut self.roots) {
            self.vm.delete(root.id)?;
        }
        checks::no_secret(self.vm.host())?;
        Ok(self.seen)
    }
}
