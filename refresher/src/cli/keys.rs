//! `keys`: client keys that are made, listed, replaced and revoked by command.

mod arguments;

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::time::Duration;

use filter::client::{ClientId, ClientKey, Digest, Proof};
use serde_json::{Value, json};

use super::Exit;
use super::output::{Output, complain};
use super::progress::Progress;
use crate::config::Config;
use crate::import::moment;
use crate::keys::listing::{self, Place, Row};
use crate::keys::{self, KeyFile, change};
use crate::publish::server::{RELOAD_PATH, Reloaded};
use crate::secret::Secret;
use crate::{chain, clock, http};
use arguments::{AddArguments, RotateArguments};

pub(super) use arguments::KeysCommand;

/// How long a running refresher may take to publish.
const NOTICE: Duration = Duration::from_secs(10);

/// What a flag or standard input has is not accepted.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unaccepted(pub(super) String);

pub(super) async fn perform(
    config: &Config,
    command: KeysCommand,
    output: Output,
) -> anyhow::Result<Exit> {
    match command {
        KeysCommand::Add(arguments) => add(config, arguments, output).await,
        KeysCommand::List { json } => list(config, Output { json, ..output }),
        KeysCommand::Revoke { name, json } => {
            revoke(config, &name, Output { json, ..output }).await
        }
        KeysCommand::Rotate(arguments) => rotate(config, &arguments, output).await,
    }
}

async fn add(config: &Config, arguments: AddArguments, output: Output) -> anyhow::Result<Exit> {
    let AddArguments { name, stdin, json, .. } = arguments;
    let (proof, secret) = match arguments.subject_alt_name {
        Some(name) => (Proof::Certificate(name), None),
        None => {
            let secret = obtain(stdin)?;
            (Proof::Key(Digest::of(secret.expose().as_bytes())), Some(secret))
        }
    };
    let now = clock::now().unix();
    let key = ClientKey {
        not_after: arguments.expires.map_or(0, |seconds| now.saturating_add(seconds)),
        credential: arguments.credential,
        paths: arguments.paths,
        models: arguments.models,
        requests_per_minute: arguments.rpm.unwrap_or(0),
        concurrency: arguments.concurrency.unwrap_or(0),
        ..ClientKey::new(name, proof)
    };
    let key = keys::validated(&key).map_err(|reason| Unaccepted(reason.to_string()))?;
    let file = change::add(config, &key, now).await?;
    if let Err(error) = show(&key, secret.as_ref(), stdin, json, now) {
        conclude(config, &file, output).await?;
        return Err(error.context(unseen(&key)));
    }
    let end = match key.not_after {
        0 => String::new(),
        at => format!(", until {}", moment::show(at)),
    };
    output.note(format!("client {} may call{end}", key.id.as_str()));
    explain(secret.as_ref(), stdin, output);
    conclude(config, &file, output).await
}

async fn rotate(
    config: &Config,
    arguments: &RotateArguments,
    output: Output,
) -> anyhow::Result<Exit> {
    let RotateArguments { name, overlap, stdin, json } = arguments;
    let file = change::stored(config, name)?;
    let secret = obtain(*stdin)?;
    let digest = Digest::of(secret.expose().as_bytes());
    let now = clock::now().unix();
    let key = change::rotate(config, &file, name, digest, *overlap, now).await?;
    if let Err(error) = show(&key, Some(&secret), *stdin, *json, now) {
        conclude(config, &file, output).await?;
        return Err(error.context(unseen(&key)));
    }
    let client = name.as_str();
    match overlap {
        0 => output.note(format!("the keys that {client} had have ended")),
        _ => output.note(format!(
            "the keys that {client} had hold until {} at most; with \"--overlap 0\" they would have \
             ended at once",
            moment::show(now.saturating_add(*overlap))
        )),
    }
    explain(Some(&secret), *stdin, output);
    conclude(config, &file, output).await
}

async fn revoke(config: &Config, name: &ClientId, output: Output) -> anyhow::Result<Exit> {
    let file = change::stored(config, name)?;
    let ended = change::revoke(config, &file, name, clock::now().unix()).await?;
    let keys = if ended == 1 { "1 key".to_owned() } else { format!("{ended} keys") };
    let result = json!({"client": name.as_str(), "revoked": ended});
    output.done(&result, &format!("revoked {keys} of client {}", name.as_str()))?;
    if let Some(place) = change::place_of(config, name) {
        output.note(format!(
            "warning: another key of {} stands in {}, and still holds",
            name.as_str(),
            place.words()
        ));
    }
    conclude(config, &file, output).await
}

fn list(config: &Config, output: Output) -> anyhow::Result<Exit> {
    let now = clock::now().unix();
    // To look is no reason to create anything.
    let ring = match KeyFile::find(&config.state_dir)? {
        Some(file) => file.load(now)?,
        None => None,
    };
    let rows = listing::rows(config, ring.as_ref(), now);
    let text = if !rows.is_empty() {
        listing::table(&rows).to_string()
    } else if ring.is_some() {
        "no client keys; one is required all the same\n".to_owned()
    } else {
        "no client keys; on loopback none is required\n".to_owned()
    };
    output.result(&serde_json::to_value(&rows)?, &text)?;
    Ok(Exit::Done)
}

/// The key that the client is to have: the user's, or one of ours.
fn obtain(stdin: bool) -> anyhow::Result<Secret> {
    if !stdin {
        return Ok(keys::encode(&*clock::random_bits()?));
    }
    let mut input = zeroize::Zeroizing::new(Vec::with_capacity(2048));
    // With an end of line; and one byte more than fits, so that what is too long is seen to be.
    let most = u64::try_from(keys::MAX_BROUGHT_BYTES + 3).unwrap_or(u64::MAX);
    std::io::stdin().take(most).read_to_end(&mut input)?;
    let refused =
        || Unaccepted(format!("standard input: not a key; accepted: {}", keys::BROUGHT_RULE));
    Ok(keys::brought(&input).ok_or_else(refused)?)
}

/// Prints the key alone, or all about it as JSON. One that the user brought is not shown again.
fn show(
    key: &ClientKey,
    secret: Option<&Secret>,
    brought: bool,
    json: bool,
    now: u64,
) -> anyhow::Result<()> {
    let secret = secret.filter(|_| !brought);
    let mut out = std::io::stdout();
    if json {
        let mut row = serde_json::to_value(Row::new(key, Place::Store, Some(now), now))?;
        if let (Some(secret), Value::Object(members)) = (secret, &mut row) {
            members.insert("key".to_owned(), json!(secret));
        }
        writeln!(out, "{row:#}")?;
    } else if let Some(secret) = secret {
        writeln!(out, "{}", secret.expose())?;
    }
    Ok(out.flush()?)
}

/// What to do where a key is stored that nobody has seen.
fn unseen(key: &ClientKey) -> String {
    let name = key.id.as_str();
    format!(
        "the key is in force, but could not be shown: \"refresher keys rotate {name}\" makes another"
    )
}

fn explain(secret: Option<&Secret>, brought: bool, output: Output) {
    let shown = if std::io::stdout().is_terminal() { "above" } else { "on standard output" };
    match secret {
        Some(_) if brought => {}
        Some(_) => output.note(format!(
            "the key is {shown}, and nowhere else: only its digest is kept. The client \
             sends it as \"Authorization: Bearer KEY\" or \"X-Proxy-Api-Key: KEY\""
        )),
        None => output.note(
            "Envoy has to verify the certificate: its listener needs a \
             DownstreamTlsContext with a trusted_ca",
        ),
    }
}

/// Has a running refresher publish what the file says now, and waits for that.
async fn conclude(config: &Config, file: &KeyFile, output: Output) -> anyhow::Result<Exit> {
    let socket = config.socket.display();
    let asked = http::ask_socket(&config.socket, RELOAD_PATH, true, NOTICE);
    let waits = "waiting for the refresher to publish it";
    let problem = match Progress::new(output).during(waits, asked).await {
        Err(http::Error::NotSent(_)) => {
            output.note(format!("in force as soon as a refresher serves; none does on {socket}"));
            return Ok(Exit::Done);
        }
        Err(error) => format!("it does not answer: {}", chain::line(&error)),
        Ok(answer) => match serde_json::from_slice::<Reloaded>(&answer.body) {
            Ok(Reloaded { client_keys_alarm: Some(alarm), .. }) => alarm,
            Ok(reloaded) => {
                let ours = keys::file::resolved(file.path());
                if reloaded.client_keys_file == ours {
                    output.note("in force");
                    return Ok(Exit::Done);
                }
                format!("its client keys are in {}, not in {ours}", reloaded.client_keys_file)
            }
            Err(_) => "it is of another release; restart it".to_owned(),
        },
    };
    complain(format_args!(
        "the change is stored, but the refresher that serves on {socket} has not made it: {problem}"
    ));
    Ok(Exit::Other)
}
