//! The one place that reads clocks and draws random numbers.

use std::fmt;
use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};
use zeroize::Zeroizing;

/// What the boot-time clock shows at boot, in milliseconds: enough that a token obtained long
/// before still has a positive time on it.
pub const ORIGIN_MS: u64 = 1 << 40;

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Wall clock, in milliseconds since the Unix epoch. For what is stored or published; it may
    /// jump.
    pub unix_ms: u64,
    /// Boot-time clock, in milliseconds from [`ORIGIN_MS`] at boot. For waiting; it never jumps
    /// and counts on while the machine is suspended.
    pub boot_ms: u64,
}

impl Now {
    /// The wall clock in whole seconds.
    pub fn unix(self) -> u64 {
        self.unix_ms / 1000
    }

    /// A time of the wall clock in Unix seconds, on the boot-time clock in milliseconds.
    pub fn on_boot_clock(self, unix: u64) -> u64 {
        let unix_ms = unix.saturating_mul(1000);
        let ahead = unix_ms.saturating_sub(self.unix_ms);
        let behind = self.unix_ms.saturating_sub(unix_ms);
        self.boot_ms.saturating_add(ahead).saturating_sub(behind)
    }

    /// A time of the boot-time clock in milliseconds, on the wall clock in Unix seconds.
    pub fn on_wall_clock(self, boot_ms: u64) -> u64 {
        let ahead = boot_ms.saturating_sub(self.boot_ms);
        let behind = self.boot_ms.saturating_sub(boot_ms);
        self.unix_ms.saturating_add(ahead).saturating_sub(behind) / 1000
    }
}

/// Reads both clocks.
pub fn now() -> Now {
    #[expect(clippy::disallowed_methods, reason = "the edge that every other module is given")]
    let wall = std::time::SystemTime::now();
    let unix = wall.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    #[cfg(target_os = "linux")]
    let boot = clock_gettime(ClockId::Boottime);
    // Elsewhere the monotonic clock stands in; it may rest while the machine is suspended.
    #[cfg(not(target_os = "linux"))]
    let boot = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(boot.tv_sec).unwrap_or_default();
    let millis = u64::try_from(boot.tv_nsec / 1_000_000).unwrap_or_default();
    Now {
        unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
        boot_ms: ORIGIN_MS.saturating_add(seconds.saturating_mul(1000)).saturating_add(millis),
    }
}

/// A source of time: the system's, or a test's.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Now + Send + Sync>);

impl Clock {
    /// The system's clocks.
    pub fn system() -> Self {
        Self(Arc::new(now))
    }

    /// Clocks that show what `read` says.
    pub fn of(read: impl Fn() -> Now + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Reads both clocks.
    pub fn now(&self) -> Now {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// A random share of a whole: at least 0, less than 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(f64);

impl Share {
    /// The share `numerator / 2^32`.
    pub fn of(numerator: u32) -> Self {
        Self(f64::from(numerator) / 4_294_967_296.0)
    }

    /// This share of `whole`, rounded down.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of at most some weeks in milliseconds; precision does not matter"
    )]
    pub fn times(self, whole: u64) -> u64 {
        (whole as f64 * self.0) as u64
    }
}

/// Draws 256 random bits, for a secret.
///
/// # Errors
///
/// Where the system has no randomness: then there is no secret.
pub fn random_bits() -> Result<Zeroizing<[u8; 32]>, getrandom::Error> {
    let mut bits = Zeroizing::new([0_u8; 32]);
    getrandom::fill(bits.as_mut_slice())?;
    Ok(bits)
}

/// Draws a share. Where the system has no randomness, one half: only the spread is lost.
pub fn share() -> Share {
    let mut bytes = [0_u8; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Share::of(u32::from_le_bytes(bytes)),
        Err(_) => Share::of(1 << 31),
    }
}
