//! Faults of the authorization server, each shorter than what the token has left.

use anyhow::{Context as _, Result, ensure};
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use simulator::{Fault, Target};

use super::{Injection, seen};

/// What the provider asks for when it is busy.
const RETRY_AFTER_S: u64 = 1;

/// Where a redirection leads: a place that would be seen if anybody went there.
const ELSEWHERE: &str = "/v1/echo/redirected";

impl Injection<'_> {
    /// Connections are refused.
    pub(super) async fn close_the_door(&mut self) -> Result<()> {
        let printed = self.rig.stack.refresher()?.log().len();
        self.rig.door.close().await;
        let felt = self.printed(printed, "provider cannot be reached").await;
        self.pass(100..400).await;
        self.rig.door.open(self.rig.stack.provider_address())?;
        felt?;
        self.refreshed().await
    }

    /// Answers come late.
    pub(super) async fn slow_the_provider(&mut self) -> Result<()> {
        let delay_ms = self.random.random_range(500..1500);
        self.strike(Fault { delay_ms, ..Fault::new(Target::Token) }).await?;
        self.refreshed().await
    }

    /// Answers are errors of the server.
    pub(super) async fn fail_at_the_provider(&mut self) -> Result<()> {
        let status = [500, 502, 503, 504].choose(&mut self.random).copied();
        self.strike(Fault { status, ..Fault::new(Target::Token) }).await?;
        self.refreshed().await
    }

    /// The provider asks to wait, and is not asked again until then.
    pub(super) async fn limit_at_the_provider(&mut self) -> Result<()> {
        let headers = [("retry-after".to_owned(), RETRY_AFTER_S.to_string())].into();
        let busy = Fault { status: Some(429), headers, ..Fault::new(Target::Token) };
        self.strike(Fault { count: Some(1), ..busy }).await?;
        self.refreshed().await?;
        let ledger = self.provider().ledger();
        let later = ledger.iter().rev().take_while(|entry| entry.outcome != "fault");
        let next = later.last().context("a refresh after the 429")?;
        let busy = ledger.iter().rev().find(|entry| entry.outcome == "fault");
        let waited =
            next.time_ms.saturating_sub(busy.context("a refresh that met the 429")?.time_ms);
        ensure!(waited >= RETRY_AFTER_S * 1000, "asked again after {waited} ms, too soon");
        Ok(())
    }

    /// The provider redirects, and nobody goes there with the refresh token.
    pub(super) async fn redirect_at_the_provider(&mut self) -> Result<()> {
        let status = [301, 302, 303, 307, 308].choose(&mut self.random).copied();
        let provider = self.provider();
        let latest = provider.requests_after(0).last().map_or(0, |request| request.sequence);
        let elsewhere = format!("http://{}{ELSEWHERE}", self.rig.stack.provider_address());
        let headers = [("location".to_owned(), elsewhere)].into();
        self.strike(Fault { status, headers, ..Fault::new(Target::Token) }).await?;
        self.refreshed().await?;
        let followed = provider.requests_after(latest).iter().any(|it| it.path == ELSEWHERE);
        ensure!(!followed, "the refresher followed the {status:?}");
        Ok(())
    }

    /// The API refuses the current token.
    pub(super) async fn refuse_the_token(&mut self) -> Result<()> {
        let provider = self.provider();
        let before = provider.summary();
        ensure!(provider.kill_access_token() > 0, "there was no token");
        seen("the API refuses a request, and there is another token", async || {
            let now = provider.summary();
            (now.refused > before.refused && now.refreshes > before.refreshes).then_some(())
        })
        .await
    }

    /// Sets a fault until some time after a refresh has met it.
    async fn strike(&mut self, fault: Fault) -> Result<()> {
        let provider = self.provider();
        let before = provider.summary().struck;
        provider.set_fault(fault);
        let felt =
            seen("a refresh meets it", async || (provider.summary().struck > before).then_some(()));
        let felt = felt.await;
        self.pass(100..400).await;
        provider.clear_faults(None);
        felt
    }
}
