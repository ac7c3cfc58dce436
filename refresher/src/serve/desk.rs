//! Where requests of the socket server reach the keepers of credentials.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::rotation::Settlement;

/// What a keeper is asked for.
#[derive(Debug)]
pub enum Command {
    /// The upstream refused the token of this generation.
    Reject {
        /// The token's generation.
        generation: u64,
        /// Whom to tell how that ends.
        reply: oneshot::Sender<Settlement>,
    },
    /// The stored grant may have changed.
    Reload,
}

/// The keepers by their credential's name.
#[derive(Clone, Debug, Default)]
pub struct Desk(Arc<Mutex<BTreeMap<String, mpsc::UnboundedSender<Command>>>>);

impl Desk {
    /// Opens the way to the keeper of a credential.
    pub fn register(&self, credential: &str) -> mpsc::UnboundedReceiver<Command> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.lock().insert(credential.to_owned(), sender);
        receiver
    }

    /// Reports a refused token and waits for what becomes of it; nothing when there is no such
    /// credential.
    pub async fn reject(&self, credential: &str, generation: u64) -> Option<Settlement> {
        let sender = self.lock().get(credential).cloned()?;
        let (reply, settled) = oneshot::channel();
        sender.send(Command::Reject { generation, reply }).ok()?;
        // A keeper that stops meanwhile leaves the question open.
        Some(settled.await.unwrap_or(Settlement::Pending))
    }

    /// Tells every keeper to look at its grant.
    pub fn reload(&self) {
        for sender in self.lock().values() {
            // A keeper that has stopped needs no news.
            let _ = sender.send(Command::Reload);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, mpsc::UnboundedSender<Command>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
