//! Accepting connections, no more at the same time than a listener's bound.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::chain;

/// The pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Attends to every connection until this is dropped, and the connections with it. There are at most
/// `most` at the same time; further ones wait.
pub(crate) async fn connections<F>(
    listener: TcpListener,
    most: usize,
    attend: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(most));
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let attended = attend(stream);
                connections.spawn(async move {
                    attended.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(error = %chain::line(&error), "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
