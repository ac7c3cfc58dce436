//! Heads that are too large, and what Envoy's memory says to hundreds of them.

use anyhow::{Context as _, Result};
use tests::{Http2, Message, Protocol, Stack, literals, repeated};

use crate::proof::{
    arrived_once, echo, forget, is_malformed, nothing_arrived, send, serves, with_key, with_the_key,
};

/// How many of each kind are sent, so many at the same time.
const ROUNDS: usize = 100;
const AT_ONCE: usize = 20;

/// How much more memory Envoy may have afterwards, in KiB. What was sent is three times as much.
const GROWTH: u64 = 16 << 10;

/// What Envoy has resident, in KiB.
fn resident(stack: &Stack) -> Result<u64> {
    let id = stack.envoy()?.id().context("Envoy runs")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("a number of KiB")
}

fn many(count: usize, bytes: usize) -> Message {
    let value = "a".repeat(bytes);
    (0..count).fold(echo(), |message, number| message.with(format!("x-{number}"), &value))
}

#[tokio::test]
async fn h14_too_large_a_head_is_refused_and_memory_is_bounded() -> Result<()> {
    let stack = with_key().await?;
    let heads = [
        ("61 KiB in one header", many(1, 61 << 10)),
        ("61 KiB in 61 headers", many(61, 1 << 10)),
        ("1,000 headers", many(1000, 1)),
        ("1,000 cookies", {
            (0..1000).fold(echo(), |message, number| message.with("cookie", format!("a{number}=b")))
        }),
        ("a name of 61 KiB", echo().with("x".repeat(61 << 10), "a")),
        ("a path of 61 KiB", {
            with_the_key(Message::get(format!("/v1/echo/{}", "a".repeat(61 << 10))))
        }),
    ];
    let round = async |count: usize| {
        for (protocol, (what, head)) in Protocol::ALL
            .into_iter()
            .flat_map(|protocol| heads.iter().map(move |head| (protocol, head)))
        {
            let mut left = count;
            while left > 0 {
                let some = left.min(AT_ONCE);
                left -= some;
                let sent = (0..some).map(|_| {
                    let (head, address) = (head.clone(), stack.address);
                    tokio::spawn(async move { head.send(protocol, address).await })
                });
                let sent: Vec<_> = sent.collect();
                for outcome in sent {
                    let outcome = outcome.await??;
                    // Envoy has no answer for it over HTTP/2, it resets the stream.
                    assert!(is_malformed(&outcome), "{protocol:?} {what}: {outcome}");
                    let status = if protocol == Protocol::Http1 { 431 } else { 0 };
                    assert_eq!(outcome.status(), status, "{protocol:?} {what}: {outcome}");
                }
            }
            nothing_arrived(&stack)?;
        }
        anyhow::Ok(())
    };
    // What the first ones leave behind is not theirs: buffers and pages that stay.
    round(AT_ONCE).await?;
    let before = resident(&stack)?;
    round(ROUNDS).await?;
    let growth = resident(&stack)?.saturating_sub(before);
    assert!(growth < GROWTH, "{growth} KiB more than the {before} KiB before");
    serves(&stack).await
}

/// A few bytes that HPACK makes into a hundred megabytes.
#[tokio::test]
async fn h14_a_head_that_grows_when_it_is_read_is_refused_and_memory_is_bounded() -> Result<()> {
    const TIMES: usize = 30_000;
    let stack = with_key().await?;
    let head = echo();
    let head = literals(&head.http2().head);
    // The form itself is accepted.
    let small = repeated(&("x-custom".into(), "a".into()), 2);
    let block = [head.as_slice(), &small].concat();
    let outcome = Http2::connect(stack.address).await?.request_block(&block).await?;
    assert_eq!(outcome.status(), 200, "{outcome}");
    assert_eq!(arrived_once(&stack)?.header("x-custom").count(), 3);
    forget(&stack)?;
    let round = async |count: usize| {
        for name in ["x-custom", "cookie"] {
            let field = (name.into(), "a".repeat(3_900).into_bytes());
            let block = [head.as_slice(), &repeated(&field, TIMES)].concat();
            for _ in 0..count {
                let outcome = Http2::connect(stack.address).await?.request_block(&block).await?;
                assert!(outcome.answer().is_none(), "{name}: {outcome}");
            }
            nothing_arrived(&stack)?;
        }
        anyhow::Ok(())
    };
    round(5).await?;
    let before = resident(&stack)?;
    round(50).await?;
    let growth = resident(&stack)?.saturating_sub(before);
    assert!(growth < GROWTH, "{growth} KiB more than the {before} KiB before");
    serves(&stack).await
}

#[tokio::test]
async fn h14_what_is_just_within_the_limits_passes() -> Result<()> {
    let stack = with_key().await?;
    for protocol in Protocol::ALL {
        for message in [many(1, 56 << 10), many(80, 600)] {
            let outcome = send(&stack, protocol, &message).await?;
            assert_eq!(outcome.status(), 200, "{protocol:?}");
        }
    }
    serves(&stack).await
}
