//! What the simulator remembers of what it was asked: the ledger of grants, the log of API
//! requests, and the counts of both.

use std::collections::VecDeque;

use serde::Serialize;

/// How many entries of each kind are kept; the oldest go first. The counts of a [`Summary`] are
/// not bounded.
pub const KEPT_ENTRIES: usize = 20_000;

/// One presentation of a refresh token, code or device code at the token endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LedgerEntry {
    /// Grows by one with every entry, over [`clear`](crate::Control::clear) too.
    pub sequence: u64,
    /// When, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// `authorization_code`, `refresh_token` or `device_code`.
    pub grant: &'static str,
    /// The first digits of the SHA-256 of what was presented.
    pub fingerprint: String,
    /// `ok`, `spent_twice`, `fault` when a fault answered and the grant was left alone, else the
    /// error code.
    pub outcome: &'static str,
    /// Whether the client was sent what the provider decided. `false` with outcome `ok` means
    /// that the grant is spent and the client does not know.
    pub issued: bool,
}

/// One request that reached the API, whether or not it was let in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestEntry {
    /// Grows by one with every entry, over [`clear`](crate::Control::clear) too.
    pub sequence: u64,
    /// When its head had arrived, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Its method.
    pub method: String,
    /// Its path and query.
    pub path: String,
    /// Its headers, values as Latin-1: names in order of first occurrence, repetitions together.
    /// The value of `authorization` is what [`authorization`](Self::authorization) has.
    pub headers: Vec<(String, String)>,
    /// Trailers, in the same form.
    pub trailers: Vec<(String, String)>,
    /// For each `authorization` header the id of the access token, or `invalid`.
    pub authorization: Vec<String>,
    /// The id of the access token, when there was exactly one with our signature.
    pub jti: Option<String>,
    /// The status of the answer; none while there is none.
    pub status: Option<u16>,
    /// Whether the token was refused.
    pub refused: bool,
    /// Length of what has arrived of the body.
    pub body_bytes: usize,
    /// SHA-256 of the body, hexadecimal; empty until it has arrived.
    pub body_sha256: String,
}

impl RequestEntry {
    /// The values of a header; the name in lower case.
    pub fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Counts since the start, or the last [`clear`](crate::Control::clear).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Requests to the token endpoint, whatever became of them.
    pub token_requests: u64,
    /// Those that presented a refresh token.
    pub refresh_requests: u64,
    /// Refresh tokens exchanged, the answer sent or not.
    pub refreshes: u64,
    /// Grants presented that had been spent before. Anything but 0 is a broken client.
    pub spent_twice: u64,
    /// Requests that reached the API.
    pub api_requests: u64,
    /// Those of them whose token was refused.
    pub refused: u64,
    /// Requests of any kind that a fault has struck.
    pub struck: u64,
}

/// Both logs and their counts.
#[derive(Default)]
pub(crate) struct Logs {
    pub(crate) summary: Summary,
    ledger: VecDeque<LedgerEntry>,
    requests: VecDeque<RequestEntry>,
    sequence: u64,
}

impl Logs {
    /// Enters a presentation into the ledger.
    pub(crate) fn present(
        &mut self,
        time_ms: u64,
        grant: &'static str,
        presented: &str,
        outcome: &'static str,
        issued: bool,
    ) {
        let refresh = grant == "refresh_token";
        self.summary.refresh_requests += u64::from(refresh);
        self.summary.refreshes += u64::from(refresh && outcome == "ok");
        self.summary.spent_twice += u64::from(outcome == "spent_twice");
        let fingerprint = crate::digest::fingerprint(presented);
        let sequence = self.next();
        let entry = LedgerEntry { sequence, time_ms, grant, fingerprint, outcome, issued };
        keep(&mut self.ledger, entry);
    }

    /// Enters an API request and says under which number.
    pub(crate) fn arrive(&mut self, mut entry: RequestEntry) -> u64 {
        self.summary.api_requests += 1;
        entry.sequence = self.next();
        let sequence = entry.sequence;
        keep(&mut self.requests, entry);
        sequence
    }

    /// Changes an API request's entry, if it is still there.
    pub(crate) fn amend(&mut self, sequence: u64, change: impl FnOnce(&mut RequestEntry)) {
        if let Ok(at) = self.requests.binary_search_by_key(&sequence, |entry| entry.sequence)
            && let Some(entry) = self.requests.get_mut(at)
        {
            change(entry);
        }
    }

    pub(crate) fn ledger(&self) -> Vec<LedgerEntry> {
        self.ledger.iter().cloned().collect()
    }

    pub(crate) fn requests(&self) -> Vec<RequestEntry> {
        self.requests.iter().cloned().collect()
    }

    pub(crate) fn requests_after(&self, sequence: u64) -> Vec<RequestEntry> {
        let first = self.requests.partition_point(|entry| entry.sequence <= sequence);
        self.requests.range(first..).cloned().collect()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self { sequence: self.sequence, ..Self::default() };
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }
}

fn keep<T>(entries: &mut VecDeque<T>, entry: T) {
    if entries.len() == KEPT_ENTRIES {
        entries.pop_front();
    }
    entries.push_back(entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_outlive_the_entries_and_numbers_outlive_both() {
        let mut logs = Logs::default();
        for _ in 0..=KEPT_ENTRIES {
            logs.arrive(RequestEntry::default());
        }
        assert_eq!(logs.requests().len(), KEPT_ENTRIES);
        assert_eq!(logs.summary.api_requests, KEPT_ENTRIES as u64 + 1);
        logs.amend(1, |_| panic!("the first entry has gone"));
        logs.amend(2, |entry| entry.status = Some(200));
        assert_eq!(logs.requests().first().unwrap().status, Some(200));
        assert_eq!(logs.requests_after(0), logs.requests());
        let last = logs.requests().pop().unwrap().sequence;
        assert_eq!(logs.requests_after(last), []);
        assert_eq!(logs.requests_after(last - 1), logs.requests().split_off(KEPT_ENTRIES - 1));
        logs.clear();
        assert_eq!(logs.summary, Summary::default());
        assert_eq!(logs.arrive(RequestEntry::default()), KEPT_ENTRIES as u64 + 2);
    }
}
