//! How a command ends. The numbers are documented and do not change.

use std::process::ExitCode;

use super::{keys, pages};
use crate::{config, export, import, login, oauth, provider, service, transfer, up};

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: anything without a number of its own.
    Other,
    /// 2: a flag or a setting is not accepted.
    Usage,
    /// 3: nothing helps but a login.
    LoginRequired,
    /// 4: the login was denied.
    Denied,
    /// 5: the login was not completed in time.
    Expired,
    /// 6: the provider, or the host of a transfer, cannot be reached.
    Network,
    /// 130: interrupted by the user.
    Cancelled,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Other => 1,
            Exit::Usage => 2,
            Exit::LoginRequired => 3,
            Exit::Denied => 4,
            Exit::Expired => 5,
            Exit::Network => 6,
            Exit::Cancelled => 130,
        })
    }
}

/// A level that `LOG_LEVEL` does not have.
#[derive(Debug, thiserror::Error)]
#[error("LOG_LEVEL: {0:?}; accepted: trace, debug, info, warning, error, critical, off")]
pub(super) struct BadLogLevel(pub(super) String);

impl Exit {
    /// How a command ends that failed.
    pub fn of(error: &anyhow::Error) -> Self {
        if error.is::<config::Error>()
            || error.is::<BadLogLevel>()
            || error.is::<keys::Unaccepted>()
            || error.is::<pages::NoCommand>()
            || error.is::<super::config::Refused>()
            || error.is::<config::check::NoBootstrap>()
        {
            return Self::Usage;
        }
        match error.downcast_ref() {
            Some(up::Error::LoginRequired { .. }) => return Self::LoginRequired,
            Some(up::Error::ClientKeysRequired { .. }) => return Self::Usage,
            _ => {}
        }
        if let Some(service::Error::NoUser) = error.downcast_ref() {
            return Self::Usage;
        }
        match (error.downcast_ref(), error.downcast_ref(), error.downcast_ref()) {
            (Some(error), _, _) => Self::of_import(error),
            (_, Some(error), _) => Self::of_export(error),
            (_, _, Some(error)) => Self::of_transfer(error),
            _ => error.downcast_ref().map_or(Self::Other, Self::of_login),
        }
    }

    fn of_import(error: &import::Error) -> Self {
        match error {
            import::Error::NoSource { .. } => Self::Usage,
            import::Error::Discovery(provider::discovery::Error::Http { .. }) => Self::Network,
            _ => Self::Other,
        }
    }

    fn of_export(error: &export::Error) -> Self {
        match error {
            export::Error::NotLoggedIn { .. } | export::Error::Dead { .. } => Self::LoginRequired,
            export::Error::Terminal => Self::Usage,
            _ => Self::Other,
        }
    }

    fn of_transfer(error: &transfer::Error) -> Self {
        match error {
            transfer::Error::Export(error) => Self::of_export(error),
            transfer::Error::Unreachable { .. } => Self::Network,
            _ => Self::Other,
        }
    }

    fn of_login(error: &login::Error) -> Self {
        match error {
            login::Error::Denied => Self::Denied,
            login::Error::Expired => Self::Expired,
            login::Error::Cancelled => Self::Cancelled,
            login::Error::Http(_)
            | login::Error::Discovery(provider::discovery::Error::Http { .. })
            | login::Error::Unusable { .. }
            | login::Error::Device(oauth::device::Error::Unusable { .. }) => Self::Network,
            _ => Self::Other,
        }
    }
}
