//! Envoy's admin interface, as far as it is asked: what Envoy is, and its counters.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use crate::http;
use crate::overview::Envoy;
use crate::publish::exposition::Page;

/// How long the admin interface may take to answer.
const DEADLINE: Duration = Duration::from_secs(1);

/// The largest page of counters that is read, in bytes: some ten thousand of them.
const MAX_BYTES: usize = 8 << 20;

/// Envoy's names of the counters that are of use. The rest, several times as many, stays there.
const FILTER: &str = concat!(
    "^(wasmcustom\\.torchbearer_|wasm\\.",
    "|http\\.proxy\\.downstream_(rq_|cx_(active|total|overload|protocol_error|idle_timeout))",
    "|cluster\\.(upstream|refresher|websocket)\\.(membership_(healthy|total)$",
    "|upstream_cx_(active|total|connect_fail|connect_timeout|overflow)",
    "|upstream_rq_([0-9]|active|time|timeout|retry|pending_|rx_reset|tx_reset|cancelled))",
    "|server\\.(concurrency|live|memory_|state|total_connections|uptime))",
);

/// Where Envoy's admin interface is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    /// A unix socket.
    Socket(PathBuf),
    /// A loopback address.
    Http(Url),
}

/// Why nothing is known of Envoy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not answer.
    #[error("envoy's admin interface does not answer")]
    Unanswered(#[from] http::Error),
    /// It answers, but not as Envoy does.
    #[error("envoy's admin interface answers {status}, or not as expected")]
    Unexpected {
        /// The status code.
        status: u16,
    },
}

#[derive(Deserialize)]
struct ServerInfo {
    version: String,
    state: String,
    uptime_current_epoch: String,
}

impl Admin {
    /// Envoy's counters, those that are of use and have been used.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn counters(&self) -> Result<Page, Error> {
        let filter: String = form_urlencoded::byte_serialize(FILTER.as_bytes()).collect();
        let body = self.ask(&format!("/stats/prometheus?usedonly&filter={filter}")).await?;
        Ok(Page::parse(&String::from_utf8_lossy(&body)))
    }

    /// What Envoy says of itself, `counters` being its counters.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn envoy(&self, counters: &Page) -> Result<Envoy, Error> {
        let body = self.ask("/server_info").await?;
        let info: ServerInfo =
            serde_json::from_slice(&body).map_err(|_| Error::Unexpected { status: 200 })?;
        Ok(sum_up(&info, counters))
    }

    /// Whether an Envoy answers here.
    pub async fn answers(&self) -> bool {
        self.ask("/server_info").await.is_ok()
    }

    async fn ask(&self, target: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
        let answer = http::ask_admin(self, target, DEADLINE, MAX_BYTES).await?;
        match answer.status {
            200 => Ok(answer.body),
            status => Err(Error::Unexpected { status }),
        }
    }
}

fn sum_up(info: &ServerInfo, counters: &Page) -> Envoy {
    let seconds = info.uptime_current_epoch.trim_end_matches('s');
    let mut envoy = Envoy {
        version: version(&info.version).to_owned(),
        state: info.state.clone(),
        uptime_seconds: seconds.parse().unwrap_or_default(),
        ..Envoy::default()
    };
    let owned = |label: Option<&str>| label.unwrap_or_default().to_owned();
    for sample in counters.samples("torchbearer_requests_total") {
        let statuses = envoy.requests.entry(owned(sample.label("client"))).or_default();
        statuses.insert(owned(sample.label("status")), sample.count());
    }
    for sample in counters.samples("torchbearer_refusals_total") {
        envoy.refusals.insert(owned(sample.label("code")), sample.count());
    }
    for sample in counters.samples("torchbearer_tokens_total") {
        let models = envoy.tokens.entry(owned(sample.label("client"))).or_default();
        let kinds = models.entry(owned(sample.label("model"))).or_default();
        kinds.insert(owned(sample.label("kind")), sample.count());
    }
    for sample in counters.samples("envoy_http_downstream_rq_active") {
        envoy.active_requests += sample.count();
    }
    envoy
}

/// The number in `COMMIT/NUMBER/…`.
fn version(text: &str) -> &str {
    text.split('/').nth(1).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoys_counters_are_summed_up() {
        let page = Page::parse(
            "# TYPE torchbearer_requests_total counter\n\
             torchbearer_requests_total{client=\"alice\",status=\"2xx\"} 3\n\
             torchbearer_requests_total{client=\"(none)\",status=\"5xx\"} 1\n\
             # TYPE torchbearer_refusals_total counter\n\
             torchbearer_refusals_total{code=\"invalid_client_key\"} 2\n\
             # TYPE torchbearer_tokens_total counter\n\
             torchbearer_tokens_total{client=\"alice\",model=\"m\",kind=\"prompt\"} 26\n\
             # TYPE envoy_http_downstream_rq_active gauge\n\
             envoy_http_downstream_rq_active{envoy_http_conn_manager_prefix=\"proxy\"} 4\n",
        );
        let info = ServerInfo {
            version: "9e55/1.40.0/Clean/RELEASE/BoringSSL".to_owned(),
            state: "LIVE".to_owned(),
            uptime_current_epoch: "18s".to_owned(),
        };
        let envoy = sum_up(&info, &page);
        assert_eq!((envoy.version.as_str(), envoy.uptime_seconds), ("1.40.0", 18));
        assert_eq!(envoy.requests["alice"]["2xx"], 3);
        assert_eq!(envoy.requests["(none)"]["5xx"], 1);
        assert_eq!(envoy.refusals["invalid_client_key"], 2);
        assert_eq!(envoy.tokens["alice"]["m"]["prompt"], 26);
        assert_eq!(envoy.active_requests, 4);
    }
}
