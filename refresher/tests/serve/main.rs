//! The sidecar against a simulated provider: rotation, rejections, failures of the provider and of
//! the disk.

#![cfg(test)]

mod answers;
mod failures;
#[expect(dead_code, reason = "each test program uses its part")]
#[path = "../harness/mod.rs"]
mod harness;
mod rotation;

use std::time::Duration;

use refresher::store::{Intent, Lock};
use simulator::{Fault, Target};

use harness::World;

fn token_fault() -> Fault {
    Fault::new(Target::Token)
}

/// Lets the token grow so old that a rejection refreshes it without further delay.
async fn age() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

async fn join_all<F: Future + Unpin>(futures: Vec<F>) -> Vec<F::Output> {
    let mut waiting: Vec<(F, Option<F::Output>)> =
        futures.into_iter().map(|future| (future, None)).collect();
    std::future::poll_fn(|context| {
        let mut all = true;
        for (future, output) in &mut waiting {
            if output.is_none() {
                match std::pin::Pin::new(future).poll(context) {
                    std::task::Poll::Ready(ready) => *output = Some(ready),
                    std::task::Poll::Pending => all = false,
                }
            }
        }
        if all { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    waiting.into_iter().map(|(_, output)| output.unwrap()).collect()
}

fn note(lock: &Lock<'_>, world: &World, at: u64) {
    lock.note(&Intent::of(&world.stored(), at)).unwrap();
}
