//! The launchd property list: launchd.plist(5).

use std::path::Path;

use plist::{Dictionary, Value};

use super::Error;
use super::plan::{LABEL, Plan, Scope, plain};

/// The shortest time between two starts, in seconds.
const THROTTLE_S: i64 = 10;

/// 0077, which a property list writes in decimal.
const UMASK: i64 = 0o077;

/// Renders the property list, as XML.
///
/// # Errors
///
/// When a path or value does not fit in.
pub fn list(plan: &Plan) -> Result<String, Error> {
    let text =
        |what: &str, path: &Path| Ok::<_, Error>(Value::String(plain(what, path)?.to_owned()));
    let mut list = Dictionary::new();
    list.insert("Label".to_owned(), LABEL.into());
    let words: Result<Vec<_>, _> = plan.command.iter().map(|word| text("command", word)).collect();
    list.insert("ProgramArguments".to_owned(), Value::Array(words?));
    let mut environment = Dictionary::new();
    for (name, value) in &plan.environment {
        environment.insert(name.clone(), text(name, Path::new(value))?);
    }
    if !environment.is_empty() {
        list.insert("EnvironmentVariables".to_owned(), environment.into());
    }
    list.insert("RunAtLoad".to_owned(), true.into());
    // Again when it failed, not when it was told to end.
    let keep: Dictionary =
        [("SuccessfulExit".to_owned(), Value::from(false))].into_iter().collect();
    list.insert("KeepAlive".to_owned(), keep.into());
    list.insert("ThrottleInterval".to_owned(), THROTTLE_S.into());
    list.insert("ExitTimeOut".to_owned(), plan.stop_s.into());
    list.insert("Umask".to_owned(), UMASK.into());
    list.insert("ProcessType".to_owned(), "Adaptive".into());
    if let Some(state) = plan.writable.first() {
        for stream in ["StandardOutPath", "StandardErrorPath"] {
            list.insert(stream.to_owned(), text(stream, &state.join("refresher.log"))?);
        }
    }
    if let (Scope::System, Some(user)) = (plan.scope, &plan.user) {
        list.insert("UserName".to_owned(), text("user", Path::new(user))?);
    }
    let mut bytes = Vec::new();
    Value::Dictionary(list).to_writer_xml(&mut bytes)?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    text.push('\n');
    Ok(text)
}
