//! Faults of the machine.

use anyhow::{Result, ensure};
use rand::RngExt as _;
use serde_json::Value;
use tests::unix_now;

use super::{Injection, seen};

/// How far the clock jumps, in seconds.
const JUMP_S: std::ops::Range<i64> = 600..7200;

/// What two looks at a clock, and the life of a token, may make a difference of, in seconds.
const NEAR_S: i64 = 60;

const STORED_IN_VAIN: &str = "No space left on device";

impl Injection<'_> {
    /// The disk with the grants is full when a refresh is due. What cannot be stored is not spent.
    pub(super) async fn fill_the_disk(&mut self) -> Result<()> {
        let provider = self.provider();
        let printed = self.rig.stack.refresher()?.log().len();
        self.rig.disk.fill()?;
        let felt = self.printed(printed, STORED_IN_VAIN).await;
        let before = provider.summary().refresh_requests;
        self.pass(100..300).await;
        let spent = provider.summary().refresh_requests - before;
        self.rig.disk.free()?;
        felt?;
        ensure!(spent == 0, "{spent} grants were spent that could not have been stored");
        self.refreshed().await?;
        seen("the alarm ends", async || {
            let health = self.health().await?;
            health.pointer("/credentials/default/alarm").is_none().then_some(())
        })
        .await
    }

    /// The refresher's wall clock jumps ahead, and after a while back to where it was.
    ///
    /// Envoy keeps its clock: it does not start with the library that makes a clock jump. So the
    /// refresher's is never behind, where Envoy would rightly take each token for expired.
    pub(super) async fn let_the_clock_jump(&mut self) -> Result<()> {
        let ahead_s = self.random.random_range(JUMP_S);
        self.rig.clock.jump(ahead_s)?;
        self.clock_is_seen(ahead_s).await?;
        self.refreshed().await?;
        self.rig.clock.jump(0)?;
        self.clock_is_seen(0).await?;
        self.refreshed().await
    }

    /// Waits until the refresher tells expiries by a clock that is so far ahead.
    async fn clock_is_seen(&self, ahead_s: i64) -> Result<()> {
        seen("the refresher tells its expiry by that clock", async || {
            let expiry = self.health().await?.get("token_expires_at").and_then(Value::as_i64)?;
            let now = i64::try_from(unix_now()).ok()?;
            ((expiry - now - ahead_s).abs() < NEAR_S).then_some(())
        })
        .await
    }
}
