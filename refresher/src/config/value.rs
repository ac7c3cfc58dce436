//! Values as text, parsed into their types; the same for the file, the environment and flags.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use url::Url;

use super::problem::Refused;
use crate::admin::Admin;
use crate::provider::is_loopback;

/// The shortest refresh window, in seconds.
pub(super) const MIN_WINDOW_S: u64 = 30;

/// The shortest interval between two looks at Hermes's file, in seconds.
pub(super) const MIN_POLL_S: u64 = 5;

pub(super) const ATTEMPTS: &str = "a number from 0 to 10";
pub(super) const DELAY: &str = "seconds from 0.025 to 60";
pub(super) const POLL: &str = "seconds from 5 to 86400";
pub(super) const BUFFER: std::ops::RangeInclusive<u64> = 65_536..=0x400_0000;
pub(super) const BUFFER_RULE: &str = "bytes from 65536 to 67108864";
pub(super) const PORT: &str = "a port from 0 to 65535";
pub(super) const WINDOW: &str = "seconds, at least 30";

pub(super) fn host(text: &str) -> Result<IpAddr, Refused> {
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    text.parse().map_err(|_| refused(text, "an IP address or localhost"))
}

/// Envoy's admin interface can stop Envoy, so it has to be on this machine.
pub(super) fn admin(text: &str) -> Result<Admin, Refused> {
    const ACCEPTED: &str = "the path of a unix socket, or http://ADDRESS:PORT on loopback";
    if text.starts_with('/') || text.starts_with("~/") {
        return Ok(Admin::Socket(text.into()));
    }
    let url = Url::parse(text).ok();
    let url = url.filter(|url| {
        let bare = url.path() == "/" && url.query().is_none() && url.username().is_empty();
        url.scheme() == "http" && bare && is_loopback(url)
    });
    url.map(Admin::Http).ok_or_else(|| refused(text, ACCEPTED))
}

/// What a `GET` of the API can ask for, as it stands in a request.
pub(super) fn check_path(text: &str) -> Result<String, Refused> {
    const ACCEPTED: &str = "a path of the API, such as \"/v1/models\"";
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\#".contains(&byte));
    let path = text.starts_with('/') && !text.starts_with("//") && plain && text.len() <= 256;
    if path { Ok(text.to_owned()) } else { Err(refused(text, ACCEPTED)) }
}

pub(super) fn port(text: &str) -> Result<u16, Refused> {
    text.trim().parse().map_err(|_| refused(text, PORT))
}

pub(super) fn window(text: &str) -> Result<u64, Refused> {
    let window = text.trim().parse().ok().filter(|&window| window >= MIN_WINDOW_S);
    window.ok_or_else(|| refused(text, WINDOW))
}

pub(super) fn poll(text: &str) -> Result<u64, Refused> {
    let poll = text.trim().parse().ok().filter(|poll| (MIN_POLL_S..=86_400).contains(poll));
    poll.ok_or_else(|| refused(text, POLL))
}

pub(super) fn attempts(text: &str) -> Result<u32, Refused> {
    let attempts = text.trim().parse().ok().filter(|attempts| *attempts <= 10);
    attempts.ok_or_else(|| refused(text, ATTEMPTS))
}

pub(super) fn delay(text: &str) -> Result<Duration, Refused> {
    text.trim().parse().ok().and_then(delay_of).ok_or_else(|| refused(text, DELAY))
}

pub(super) fn delay_of(seconds: f64) -> Option<Duration> {
    // Envoy's own least pause.
    (0.025..=60.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

fn refused(text: &str, accepted: &'static str) -> Refused {
    Refused { found: format!("{text:?}"), accepted }
}
