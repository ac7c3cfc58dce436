//! Faults of the refresher.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tests::{eventually, http_client, unix_request};

use super::{Injection, seen};
use crate::allowance::Excuse;
use crate::plan::Fault;

/// A stopped program is asked for so long.
const SILENCE: Duration = Duration::from_millis(300);

/// When a refresher has started, it asks at once what has become of an exchange whose answer it
/// never had: the loss is known within this time.
const KNOWN: Duration = Duration::from_secs(3);

/// So many requests in a row on new connections are served when each of Envoy's workers knows of a
/// login.
const SERVED_IN_A_ROW: usize = 20;

impl Injection<'_> {
    /// It is killed and started again.
    pub(super) async fn kill_the_refresher(&mut self) -> Result<()> {
        let provider = self.provider();
        let before = provider.summary().spent_twice;
        let from = self.recorder.elapsed();
        self.rig.stack.take_refresher()?.kill().await?;
        self.rig.stack.start_refresher().await?;
        let lost = async || (provider.summary().spent_twice > before).then_some(());
        if eventually(KNOWN, lost).await.is_some() {
            self.losses.lost_answers += 1;
            self.rig.stack.login().await?;
            self.served_in_a_row().await?;
            let until = self.recorder.elapsed();
            self.losses.excuses.push(Excuse { fault: Fault::RefresherKilled, from, until });
        }
        self.refreshed().await
    }

    /// It is stopped for a while and goes on.
    pub(super) async fn stop_the_refresher(&mut self) -> Result<()> {
        let socket = self.rig.stack.socket();
        self.rig.stack.refresher()?.signal(Signal::STOP)?;
        let asked = unix_request(&socket, "GET", "/ready", "");
        let silent = tokio::time::timeout(SILENCE, asked).await.is_err();
        self.pass(500..1200).await;
        self.rig.stack.refresher()?.signal(Signal::CONT)?;
        ensure!(silent, "the fault had no effect: a stopped refresher answered");
        self.refreshed().await
    }

    async fn served_in_a_row(&self) -> Result<()> {
        let url = self.rig.stack.url("/v1/models");
        let mut in_a_row = 0;
        seen("requests are served after a login", async || {
            // A client of its own has a connection of its own.
            let answer = http_client().ok()?.get(&url).send().await;
            in_a_row = if answer.is_ok_and(|it| it.status() == 200) { in_a_row + 1 } else { 0 };
            (in_a_row >= SERVED_IN_A_ROW).then_some(())
        })
        .await
        .context("a login after a kill")
    }
}
