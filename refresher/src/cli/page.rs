//! `page`: opens the status page of a refresher that runs.

use std::io::Write as _;
use std::time::Duration;

use url::Url;

use super::Exit;
use super::output::complain;
use crate::config::Config;
use crate::login::opener;
use crate::page::access::Invitation;
use crate::publish::server::PAGE_PATH;
use crate::{http, page, store};

/// How long a running refresher may take to answer.
const DEADLINE: Duration = Duration::from_secs(3);

/// Why the page cannot be opened.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// Nobody answers.
    #[error(
        "no refresher serves on {socket}: start \"refresher up\", or \"refresher serve\" with status_page.enabled = true"
    )]
    NotServing {
        /// The socket.
        socket: String,
        /// Why.
        source: http::Error,
    },
    /// It has none.
    #[error(
        "the refresher that serves has no status page: set status_page.enabled = true and restart it"
    )]
    NoPage,
}

pub(super) async fn perform(config: &Config, no_browser: bool) -> anyhow::Result<Exit> {
    let answer = http::ask_socket(&config.socket, PAGE_PATH, true, DEADLINE).await;
    let answer = answer.map_err(|source| Error::NotServing {
        socket: config.socket.display().to_string(),
        source,
    })?;
    let invitation: Option<Invitation> = serde_json::from_slice(&answer.body).ok();
    let url = invitation.filter(|_| answer.status == 200).ok_or(Error::NoPage)?.url();
    let mut out = std::io::stdout();
    writeln!(out, "{}", url.expose())?;
    out.flush()?;
    if no_browser {
        return Ok(Exit::Done);
    }
    // Everybody can see the arguments of the browser that is started, so it gets a file of ours.
    let path = std::path::absolute(config.state_dir.join(page::FORWARDING))?;
    store::replace_private(&path, page::forwarding(&url).expose().as_bytes())?;
    let opened = Url::from_file_path(&path).is_ok_and(|file| opener::open(file.as_str()));
    if opened {
        complain("your browser should open; if not, open the address above, once");
    } else {
        complain("no browser could be started; open the address above, once");
    }
    Ok(Exit::Done)
}
