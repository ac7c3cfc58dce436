//! Imports again whenever Hermes has logged in: told by the kernel where it can, and in any case
//! found by looking each interval.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use filter::bundle::DEFAULT_CREDENTIAL;
use tokio::sync::watch;

use super::format::{Format, Unreadable};
use super::source::{self, Stamp};
use super::{Error, Options, Outcome, Source};
use crate::chain;
use crate::config::Config;

/// How long a program may take over writing its file: what follows within is one change.
const SETTLE: Duration = Duration::from_millis(200);

/// Watches Hermes's file, if the configuration names one, until told to stop.
pub async fn run(config: Arc<Config>, mut stopping: watch::Receiver<bool>) {
    let Some(path) = config.import.hermes.clone() else {
        return;
    };
    let interval = Duration::from_secs(config.import.poll_interval_s);
    tracing::info!(path = %path.display(), "watching for logins of hermes");
    let mut watcher = Watcher { config, path, settled: None, told: None };
    let mut events = Events::default();
    loop {
        // First the watch, then the look: what changes in between is an event.
        events.arm(&watcher.path);
        watcher.look().await;
        let stopped = async { stopping.wait_for(|stop| *stop).await.map(drop) };
        let changed = async {
            events.next(&watcher.path).await;
            tokio::time::sleep(SETTLE).await;
        };
        tokio::select! {
            _ = stopped => return,
            () = tokio::time::sleep(interval) => {}
            () = changed => {}
        }
    }
}

struct Watcher {
    config: Arc<Config>,
    path: PathBuf,
    /// The version of the file that needs no further look.
    settled: Option<Stamp>,
    /// The version of the file of which an error was logged.
    told: Option<Stamp>,
}

impl Watcher {
    async fn look(&mut self) {
        let stamp = source::stamp(&self.path);
        if stamp.is_none() || stamp == self.settled {
            return;
        }
        let options = Options { from: Some(Format::Hermes), ..Options::default() };
        let source = Source::File(self.path.clone());
        let outcome = super::run(&self.config, DEFAULT_CREDENTIAL, &source, &options).await;
        if outcome.as_ref().err().is_none_or(|error| !error.may_pass()) {
            self.settled = stamp;
        }
        match outcome {
            Ok(Outcome::Imported(_)) => tracing::info!("a newer login of hermes is imported"),
            Ok(Outcome::Unchanged(_)) | Err(Error::Kept { .. }) => {
                tracing::debug!("hermes has no newer login");
            }
            // After a terminal failure hermes removes its tokens; ours may be better.
            Err(Error::Unreadable { reason: Unreadable::NoTokens(_), .. }) => {
                tracing::info!("hermes is logged out; the stored grant stays");
            }
            Err(error) if self.told != stamp => {
                self.told = stamp;
                tracing::error!(error = %chain::line(&error), "the login of hermes is not imported");
            }
            Err(_) => {}
        }
    }
}

/// What happens in a file's directory. Without such news, for example while the directory is
/// missing, the intervals are all there is.
#[derive(Default)]
struct Events {
    #[cfg(target_os = "linux")]
    watch: Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>,
}

#[cfg(not(target_os = "linux"))]
impl Events {
    #[expect(clippy::unused_self, reason = "as on Linux")]
    fn arm(&mut self, _path: &Path) {}

    #[expect(clippy::unused_async, clippy::unused_self, reason = "as on Linux")]
    async fn next(&mut self, _path: &Path) {
        std::future::pending().await
    }
}

#[cfg(target_os = "linux")]
impl Events {
    fn arm(&mut self, path: &Path) {
        if self.watch.is_none() {
            self.watch = Self::open(path);
        }
    }

    /// Waits until the file at `path` has changed.
    async fn next(&mut self, path: &Path) {
        let Some(watch) = &self.watch else {
            return std::future::pending().await;
        };
        loop {
            let Ok(mut ready) = watch.readable().await else {
                break;
            };
            let mut relevant = false;
            let drained = ready.try_io(|fd| drain(fd.get_ref(), path, &mut relevant));
            match drained {
                // The directory itself is gone: watch the next one of this name.
                Ok(Ok(())) => break,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "file events are unreadable; polling goes on");
                    break;
                }
                Err(_would_block) if relevant => return,
                Err(_would_block) => {}
            }
        }
        self.watch = None;
        // Not sooner, lest a broken watch keep us busy.
        tokio::time::sleep(Duration::from_secs(5)).await;
    }

    fn open(path: &Path) -> Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
        use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        // The file is replaced as often as it is written to, so the directory is what lasts.
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
        inotify::add_watch(&fd, parent.unwrap_or(Path::new(".")), flags).ok()?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an OwnedFd keeps what both ask for"
        )]
        tokio::io::unix::AsyncFd::new(fd).ok()
    }
}

/// Reads all events; ends well only when the directory is gone.
#[cfg(target_os = "linux")]
fn drain(fd: &std::os::fd::OwnedFd, path: &Path, relevant: &mut bool) -> std::io::Result<()> {
    use rustix::fs::inotify::{ReadFlags, Reader};
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(fd, &mut buffer);
    let gone = ReadFlags::IGNORED | ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF;
    loop {
        let event = reader.next().map_err(std::io::Error::from)?;
        let name = event.file_name().map(std::ffi::CStr::to_bytes);
        let ours = path.file_name().map(std::os::unix::ffi::OsStrExt::as_bytes);
        *relevant |= event.events().contains(ReadFlags::QUEUE_OVERFLOW) || name == ours;
        if event.events().intersects(gone) {
            return Ok(());
        }
    }
}
