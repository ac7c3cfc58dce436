//! What a service manager is told (sd_notify(3)). Without one, nothing.

use sd_notify::NotifyState;

use crate::chain;

/// Requests are served, with the configuration that was read last.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] follows in any case.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "the service manager is not told of the reload"),
    }
}

/// The end has begun, and may take so long, in seconds.
pub fn stopping(seconds: u64) {
    let extension = u32::try_from(seconds.saturating_mul(1_000_000)).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(extension)]);
}

/// All is well; due within the unit's `WatchdogSec`, if it has one. A manager that did not want to
/// hear it might not read it, and then the system would make us wait.
pub fn alive() {
    if sd_notify::watchdog_enabled().is_some() {
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(error = %chain::line(&error), "the service manager does not hear us");
    }
}
