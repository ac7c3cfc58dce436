//! Limits of clients, in cells of Envoy's shared data. Only clients with a limit pay for them.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher as _, RandomState};
use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::types::Status;

use super::clock;
use crate::client::ClientKey;
use crate::limit::{Concurrent, Quota, SIGN_MS, admit};
use crate::refusal::Refusal;

/// How often a swap is tried against other workers before the request is refused.
const SWAPS: u32 = 1000;

/// No cell has this number, so a swap with it succeeds only where there is no cell yet.
const NO_CELL: u32 = u32::MAX;

thread_local! {
    static SHARED: Rc<Limits> = Rc::new(Limits {
        vm: RandomState::new().hash_one(0),
        active: RefCell::default(),
        signed_ms: Cell::new(0),
    });
}

/// The requests of clients with a limit.
#[derive(Debug)]
pub struct Limits {
    /// Tells this VM from the others, and from those before it.
    vm: u64,
    /// The requests under way in this VM, by client.
    active: RefCell<Vec<(String, u32)>>,
    signed_ms: Cell<u64>,
}

impl Limits {
    /// Those of this VM.
    pub fn shared() -> Rc<Self> {
        SHARED.with(Rc::clone)
    }

    /// Counts a request in, or refuses it. What is counted in has to be counted out, by
    /// [`Self::leave`], where the client has a limit of requests at the same time.
    pub fn enter(&self, client: &ClientKey) -> Result<Option<Quota>, Refusal> {
        let id = client.id.as_str();
        if client.concurrency > 0 && !self.begin(id, client.concurrency) {
            return Err(Refusal::TOO_CONCURRENT.retry_after(1));
        }
        if client.requests_per_minute == 0 {
            return Ok(None);
        }
        let rate = exchange(&format!("torchbearer/rate/{id}"), |cell| {
            // Read after the cell, so that it is never before the time at which that was written.
            let now_ns = u64::try_from(clock::unix_time().as_nanos()).unwrap_or(u64::MAX);
            let (rate, new) = admit(cell, client.requests_per_minute, now_ns);
            (rate, new.map(|new| new.to_vec()))
        });
        let refusal = match rate {
            Some(rate) if rate.admitted => return Ok(Some(rate.quota)),
            Some(rate) => {
                let wait = Duration::from_nanos(rate.retry_after_ns).as_millis().div_ceil(1000);
                let seconds = u64::try_from(wait).unwrap_or(60);
                Refusal::RATE_LIMITED.retry_after(seconds.max(1)).quota(rate.quota)
            }
            None => Refusal::RATE_LIMITED.retry_after(1),
        };
        if client.concurrency > 0 {
            self.leave(id);
        }
        Err(refusal)
    }

    fn begin(&self, id: &str, limit: u32) -> bool {
        let under_way = self.count(id);
        let begun = exchange(&concurrent_key(id), |cell| {
            let mut concurrent = Concurrent::read(cell.unwrap_or_default());
            let now_ms = clock::unix_ms();
            concurrent.report(self.vm, under_way, now_ms);
            if concurrent.total() >= u64::from(limit) {
                return (false, None);
            }
            concurrent.report(self.vm, under_way + 1, now_ms);
            (true, Some(concurrent.write()))
        });
        if begun == Some(true) {
            self.set(id, under_way + 1);
        }
        begun == Some(true)
    }

    /// Counts a request out.
    pub fn leave(&self, id: &str) {
        self.set(id, self.count(id).saturating_sub(1));
        self.report(id);
    }

    /// Says that this VM's requests are still under way, now and then. To be called on each tick.
    pub fn sign(&self) {
        let now = clock::unix_ms();
        if now.abs_diff(self.signed_ms.get()) < SIGN_MS {
            return;
        }
        self.signed_ms.set(now);
        let active: Vec<String> = self.active.borrow().iter().map(|(id, _)| id.clone()).collect();
        for id in active {
            self.report(&id);
        }
    }

    fn report(&self, id: &str) {
        exchange(&concurrent_key(id), |cell| {
            let mut concurrent = Concurrent::read(cell.unwrap_or_default());
            concurrent.report(self.vm, self.count(id), clock::unix_ms());
            ((), Some(concurrent.write()))
        });
    }

    fn count(&self, id: &str) -> u32 {
        let active = self.active.borrow();
        active.iter().find_map(|(known, count)| (known == id).then_some(*count)).unwrap_or(0)
    }

    fn set(&self, id: &str, count: u32) {
        let mut active = self.active.borrow_mut();
        active.retain(|(known, _)| known != id);
        if count > 0 {
            active.push((id.to_owned(), count));
        }
    }
}

fn concurrent_key(id: &str) -> String {
    format!("torchbearer/concurrent/{id}")
}

/// Changes a cell of the shared data as one step. `change` may be called several times. `None`: the
/// host would not, or the other workers were quicker each time.
fn exchange<T>(key: &str, change: impl Fn(Option<&[u8]>) -> (T, Option<Vec<u8>>)) -> Option<T> {
    for _ in 0..SWAPS {
        let (cell, number) = match hostcalls::get_shared_data(key) {
            Ok(found) => found,
            Err(Status::NotFound) => (None, None),
            Err(_) => return None,
        };
        let (outcome, new) = change(cell.as_deref());
        let Some(new) = new else { return Some(outcome) };
        match hostcalls::set_shared_data(key, Some(&new), Some(number.unwrap_or(NO_CELL))) {
            Ok(()) => return Some(outcome),
            Err(Status::CasMismatch) => {}
            Err(_) => return None,
        }
    }
    None
}
