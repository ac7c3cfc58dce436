//! What a keeper tells the world: the credential's state, and how its refreshes went.

use filter::bundle::{Credential, Token, TokenType};

use super::Keeper;
use crate::clock::Now;
use crate::publish::health::Status;
use crate::rotation::View;
use crate::serve::exchange::Conclusion;

impl Keeper {
    pub(super) fn publish(&mut self, now: Now) {
        let credential = steady(self.published.take(), self.credential(now));
        self.published = Some(credential.clone());
        let mut status = Status {
            alarm: self.alarm.clone(),
            oauth_refresh: self.refreshes.clone(),
            oauth_reauth_required: self.machine.needs_login(),
            rejection_refresh: self.rejections,
            next_refresh_at: self.machine.due_ms().map(|due_ms| now.on_wall_clock(due_ms)),
            token_endpoint: self.grant.as_ref().map(|grant| grant.token_endpoint.to_string()),
            ..Status::default()
        };
        match &credential {
            Credential::Ready(token) => {
                status.state = "ready".to_owned();
                status.generation = Some(token.generation);
                let stored = self.grant.as_ref().and_then(|grant| grant.token.as_ref());
                status.issued_at = stored.map(|token| token.obtained_at);
                status.expires_at = Some(token.expires_at);
            }
            Credential::LoginRequired { reason } => {
                status.state = "login_required".to_owned();
                status.reason = Some(reason.clone());
            }
            Credential::Unavailable { reason, .. } => {
                status.state = "unavailable".to_owned();
                status.reason = Some(reason.clone());
            }
        }
        self.publisher.update(&self.name, credential, status, now);
    }

    fn credential(&self, now: Now) -> Credential {
        let token = self.grant.as_ref().and_then(|grant| grant.token.as_ref());
        match (self.machine.view(now.boot_ms), token) {
            (View::Ready, Some(token)) => {
                let expires_at = self.expiry(token.expires_at, now);
                Credential::Ready(Token {
                    access_token: Some(token.access_token.clone()),
                    token_type: TokenType::Bearer,
                    expires_at,
                    generation: token.generation,
                })
            }
            (View::Ready, None) => {
                Credential::Unavailable { reason: "no_access_token".into(), retry_at: now.unix() }
            }
            (View::LoginRequired { reason }, _) => Credential::LoginRequired { reason },
            (View::Unavailable { reason, retry_ms }, _) => {
                Credential::Unavailable { reason, retry_at: now.on_wall_clock(retry_ms) }
            }
        }
    }

    /// Counts the end of an exchange, if it was for a token that the API had refused.
    pub(super) fn count_rejection(&mut self, conclusion: Option<&Conclusion>) {
        if !self.machine.was_rejected() {
            return;
        }
        let rejections = &mut self.rejections;
        match conclusion {
            Some(Conclusion::Renewed { .. }) => {
                rejections.successes += 1;
                rejections.renewals += 1;
            }
            Some(Conclusion::Adopted(_)) => rejections.successes += 1,
            _ => rejections.failures += 1,
        }
    }

    pub(super) fn count(&mut self, now: Now, result: Result<bool, &str>) {
        self.refreshes.last_refresh_at = Some(now.unix());
        match result {
            Ok(rotated) => {
                self.refreshes.last_refresh_status = Some("success".to_owned());
                self.refreshes.last_refresh_error_class = None;
                self.refreshes.refresh_token_rotated = rotated;
                self.refreshes.refresh_success_count += 1;
            }
            Err(class) => {
                self.refreshes.last_refresh_status = Some("failure".to_owned());
                self.refreshes.last_refresh_error_class = Some(class.to_owned());
                self.refreshes.refresh_failure_count += 1;
            }
        }
    }
}

/// The published state again where the new one differs only by the rounding of a time: two clocks
/// that are read one after the other do not always round alike, and each change of the state is a
/// new bundle.
fn steady(published: Option<Credential>, new: Credential) -> Credential {
    match (&published, &new) {
        (
            Some(Credential::Unavailable { reason, retry_at }),
            Credential::Unavailable { reason: other, retry_at: later },
        ) if reason == other && retry_at.abs_diff(*later) <= 1 => published.unwrap_or(new),
        (Some(Credential::Ready(token)), Credential::Ready(other))
            if token.generation == other.generation
                && token.expires_at.abs_diff(other.expires_at) <= 1 =>
        {
            published.unwrap_or(new)
        }
        _ => new,
    }
}
