//! How Envoy dies with us. This program starts itself as a guard, which asks the kernel for a
//! signal at its parent's death and then becomes Envoy: the request outlives the `exec`. Envoy
//! makes the same request itself, with SIGTERM, once it has come that far; this one covers the
//! time before.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "guard";

/// Becomes the given program. Returns only when that fails.
///
/// # Errors
///
/// Always: why it failed.
pub fn become_program(parent: u32, program: &OsString, arguments: &[OsString]) -> std::io::Error {
    #[cfg(target_os = "linux")]
    if let Err(errno) =
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
    {
        return errno.into();
    }
    // The parent may have died before the kernel was asked.
    if std::os::unix::process::parent_id() != parent {
        return std::io::Error::other("the parent process has ended");
    }
    Command::new(program).args(arguments).exec()
}
