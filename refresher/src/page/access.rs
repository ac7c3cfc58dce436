//! Who may use the page: whoever was given a ticket, which is good for one use, and has a session
//! since. Both are random, and only digests of them are kept.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::clock::{self, Now};
use crate::keys;
use crate::secret::Secret;

/// How long a ticket can be used, in milliseconds.
pub const TICKET_LIFE_MS: u64 = 60 * 60 * 1000;

/// How long a session lasts after its last use, in milliseconds.
pub const SESSION_LIFE_MS: u64 = 12 * 60 * 60 * 1000;

/// How many of each are kept; the oldest give way.
pub const KEPT: usize = 16;

/// What is kept of a ticket or a session.
#[derive(Clone, Debug)]
struct Pass {
    digest: [u8; 32],
    /// When it was issued or last used, on the boot-time clock.
    at_ms: u64,
}

/// The tickets and sessions that hold. Times are of the boot-time clock, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Access {
    tickets: Vec<Pass>,
    sessions: Vec<Pass>,
}

impl Access {
    /// Keeps a ticket that is issued now.
    pub fn issue(&mut self, ticket: &Secret, now_ms: u64) {
        keep(&mut self.tickets, ticket, now_ms);
    }

    /// Takes a ticket, and begins this session with it. Says whether the ticket was good.
    pub fn redeem(&mut self, ticket: &str, session: &Secret, now_ms: u64) -> bool {
        let Some(place) = find(&self.tickets, ticket, TICKET_LIFE_MS, now_ms) else {
            return false;
        };
        self.tickets.remove(place);
        keep(&mut self.sessions, session, now_ms);
        true
    }

    /// Whether this is a session; it is used now.
    pub fn admit(&mut self, session: &str, now_ms: u64) -> bool {
        let place = find(&self.sessions, session, SESSION_LIFE_MS, now_ms);
        let found = place.and_then(|place| self.sessions.get_mut(place));
        if let Some(pass) = found {
            pass.at_ms = now_ms;
            return true;
        }
        false
    }
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

fn keep(passes: &mut Vec<Pass>, secret: &Secret, now_ms: u64) {
    if passes.len() >= KEPT
        && let Some((oldest, _)) = passes.iter().enumerate().min_by_key(|(_, pass)| pass.at_ms)
    {
        passes.remove(oldest);
    }
    passes.push(Pass { digest: digest(secret.expose()), at_ms: now_ms });
}

/// Looks at every pass, so that the time tells nothing.
fn find(passes: &[Pass], secret: &str, life_ms: u64, now_ms: u64) -> Option<usize> {
    let wanted = digest(secret);
    let mut found = None;
    for (place, pass) in passes.iter().enumerate() {
        let same = bool::from(pass.digest.ct_eq(&wanted));
        if same & (now_ms.saturating_sub(pass.at_ms) < life_ms) {
            found = Some(place);
        }
    }
    found
}

/// How to reach the page once: what the refresher's socket answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Invitation {
    /// Where the page is served.
    pub address: SocketAddr,
    /// The ticket.
    pub ticket: Secret,
}

impl Invitation {
    /// The address to open. The ticket is in its fragment, which a browser does not send.
    pub fn url(&self) -> Secret {
        Secret::new(format!("http://{}/#{}", self.address, self.ticket.expose()))
    }
}

/// The way in, shared by the page and the refresher's socket.
#[derive(Clone, Debug, Default)]
pub struct Door(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// Where the page is served, while it is.
    address: Option<SocketAddr>,
    access: Access,
}

impl Door {
    /// The page is served here from now on.
    pub fn open(&self, address: SocketAddr) {
        self.lock().address = Some(address);
    }

    /// The page is not served any more; every ticket and session ends.
    pub fn close(&self) {
        *self.lock() = Inner::default();
    }

    /// Issues a ticket; nothing while no page is served, or where the system has no randomness.
    pub fn issue(&self, now: Now) -> Option<Invitation> {
        let ticket = random()?;
        let mut inner = self.lock();
        let address = inner.address?;
        inner.access.issue(&ticket, now.boot_ms);
        Some(Invitation { address, ticket })
    }

    /// Begins a session with a ticket, if that is good.
    pub fn redeem(&self, ticket: &str, now: Now) -> Option<Secret> {
        let session = random()?;
        self.lock().access.redeem(ticket, &session, now.boot_ms).then_some(session)
    }

    /// Whether this is a session.
    pub fn admits(&self, session: &str, now: Now) -> bool {
        self.lock().access.admit(session, now.boot_ms)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change below the lock is complete before anything can fail.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random() -> Option<Secret> {
    let bits = clock::random_bits().ok()?;
    // The same shape as a client key, less what people know one by.
    let text = keys::encode(&bits);
    Some(Secret::new(text.expose().trim_start_matches(keys::PREFIX).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn a_ticket_is_good_for_one_session_and_for_an_hour() {
        let mut access = Access::default();
        access.issue(&secret("t1"), 1000);
        access.issue(&secret("t2"), 1000);
        assert!(!access.redeem("t3", &secret("s"), 1001) && !access.admit("s", 1001));
        assert!(!access.redeem("", &secret("s"), 1001) && !access.admit("", 1001));
        assert!(access.redeem("t1", &secret("s1"), 1000 + TICKET_LIFE_MS - 1));
        assert!(!access.redeem("t1", &secret("s2"), 1002) && !access.admit("s2", 1002));
        assert!(!access.redeem("t2", &secret("s2"), 1000 + TICKET_LIFE_MS));
        // A ticket is no session, nor the other way round.
        assert!(!access.admit("t2", 1002) && !access.redeem("s1", &secret("s2"), 1002));
        assert!(access.admit("s1", 1002));
    }

    #[test]
    fn a_session_lasts_while_it_is_used() {
        let mut access = Access::default();
        access.issue(&secret("t"), 0);
        assert!(access.redeem("t", &secret("s"), 0));
        let mut now = 0;
        for _ in 0..3 {
            now += SESSION_LIFE_MS - 1;
            assert!(access.admit("s", now));
        }
        assert!(!access.admit("s", now + SESSION_LIFE_MS));
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_newest_hold() {
        let mut access = Access::default();
        let many = 3 * KEPT as u64;
        for number in 0..many {
            access.issue(&secret(&format!("t{number}")), number);
        }
        assert_eq!(access.tickets.len(), KEPT);
        assert!(access.redeem(&format!("t{}", many - 1), &secret("s"), many));
        assert!(!access.redeem("t0", &secret("s"), many));
        assert!(!format!("{access:?}").contains("\"s\""));
    }

    #[test]
    fn without_a_page_there_are_no_tickets() {
        let door = Door::default();
        let now = Now { unix_ms: 0, boot_ms: 5 };
        assert!(door.issue(now).is_none());
        door.open("127.0.0.1:9997".parse().unwrap());
        let invitation = door.issue(now).unwrap();
        let url = invitation.url();
        let (address, ticket) = url.expose().split_once('#').unwrap();
        assert_eq!((address, ticket.len()), ("http://127.0.0.1:9997/", 43));
        assert!(!format!("{invitation:?}").contains(ticket));
        let session = door.redeem(ticket, now).unwrap();
        assert!(door.admits(session.expose(), now) && !door.admits(ticket, now));
        door.close();
        assert!(!door.admits(session.expose(), now));
    }
}
