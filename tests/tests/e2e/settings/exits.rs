//! Exit codes, `--quiet` and `--json`.

use super::*;
use rustix::process::Signal;

#[tokio::test]
async fn every_exit_code_of_the_documentation_is_met() -> Result<()> {
    let provider = Options { approve_device: false, ..Options::default() };
    let stack = Stack::prepare(Plan { login: false, provider, ..Plan::default() }).await?;
    ends(&mut command(&stack, &["config", "example"])?, 0).await?;
    let rubbish = stack.dir().join("rubbish.json");
    std::fs::write(&rubbish, "{}")?;
    let path = rubbish.display().to_string();
    ends(&mut command(&stack, &["import", &path])?, 1).await?;
    ends(&mut command(&stack, &["--no-such-flag"])?, 2).await?;
    ends(command(&stack, &["status"])?.env("PROXY_PORT", "x"), 2).await?;
    ends(&mut command(&stack, &["status"])?, 3).await?;
    ends(&mut command(&stack, &["up"])?, 3).await?;

    let log_in = |name: &str| {
        let mut login = command(&stack, &["login", "--device"])?;
        Process::start(name, stack.dir(), &mut login)
    };
    let mut denied = log_in("denied")?;
    let asked = async || stack.provider().pending_device();
    let code = eventually(LIMIT, asked).await.context("no code")?;
    ensure!(stack.provider().deny_device(code.as_str()));
    ensure!(denied.wait(LIMIT).await?.code() == Some(4), "{}", denied.log());
    let browser = ["login", "--no-browser", "--timeout", "1"];
    ends(&mut command(&stack, &browser)?, 5).await?;
    let mut interrupted = log_in("interrupted")?;
    eventually(LIMIT, asked).await.context("no code")?;
    interrupted.signal(Signal::INT)?;
    ensure!(interrupted.wait(LIMIT).await?.code() == Some(130), "{}", interrupted.log());

    // Nobody there.
    let config = std::fs::read_to_string(stack.dir().join("config.toml"))?;
    let nobody = format!("http://127.0.0.1:{}", tests::free_port()?);
    let file = stack.dir().join("nobody.toml");
    std::fs::write(&file, config.replace(stack.provider_url(), &nobody))?;
    let program = stack.refresher_command(&[])?;
    let mut unreachable = Process::command(program.as_std().get_program());
    unreachable.env("HOME", stack.dir()).arg("--config").arg(&file);
    ends(unreachable.args(["login", "--device"]), 6).await?;

    let documented = include_str!("../../../../README.md");
    for code in
        ["0 done", "1 failed", "2 a flag", "3 a login", "4 the login", "5 it", "6 the", "130"]
    {
        ensure!(documented.contains(code), "{code}");
    }
    Ok(())
}

#[tokio::test]
async fn quiet_commands_say_only_what_was_asked_for_and_json_is_one_object() -> Result<()> {
    let stack = Stack::prepare(Plan { login: false, ..Plan::default() }).await?;
    let object = |said: &str| serde_json::from_str::<Value>(said).context(said.to_owned());
    let (said, errors) = ends(&mut command(&stack, &["login", "--device", "--json"])?, 0).await?;
    ensure!(object(&said)?["credential"] == "default" && errors.contains("enter the code"));
    // What one has to do for a login is said all the same, and that it waits for it is not.
    let quiet = ["login", "--device", "-q", "--credential", "quiet"];
    let (said, errors) = ends(&mut command(&stack, &quiet)?, 0).await?;
    ensure!(said.contains("enter the code") && errors.is_empty(), "{said}{errors}");
    ensure!(!said.contains("waiting") && !said.contains("logged in"), "{said}");
    let (mut terminal, _keyboard) =
        Process::start_on_terminal("quiet", stack.dir(), command(&stack, &quiet)?)?;
    ensure!(terminal.wait(LIMIT).await?.success(), "{}", terminal.log());
    let shown = terminal.log();
    ensure!(shown.contains("enter the code") && !shown.contains("waiting"), "{shown}");
    let (key, errors) = ends(&mut command(&stack, &["-q", "keys", "add", "alice"])?, 0).await?;
    ensure!(key.trim().len() > 40 && errors.is_empty(), "{errors}");
    let (said, errors) = ends(&mut command(&stack, &["keys", "revoke", "alice", "-q"])?, 0).await?;
    ensure!(said.is_empty() && errors.is_empty(), "{said}{errors}");
    let (_, errors) = ends(&mut command(&stack, &["-q", "keys", "revoke", "bob"])?, 1).await?;
    ensure!(errors.contains("bob"), "{errors}");
    ends(&mut command(&stack, &["keys", "add", "carol"])?, 0).await?;
    let (said, _) = ends(&mut command(&stack, &["keys", "revoke", "carol", "--json"])?, 0).await?;
    ensure!(object(&said)?["revoked"] == 1, "{said}");
    let (said, errors) = ends(&mut command(&stack, &["logout", "--json", "-q"])?, 0).await?;
    ensure!(object(&said)?["provider_told"] == true && errors.is_empty(), "{said}{errors}");
    // No colours, whatever is asked for.
    let mut check = command(&stack, &["config", "check"])?;
    let (said, _) = ends(check.env("CLICOLOR_FORCE", "1"), 0).await?;
    ensure!(!said.contains('\u{1b}'), "{said:?}");
    Ok(())
}

/// A provider that does not answer is what there is to wait for.
#[tokio::test]
async fn what_takes_long_is_said_on_standard_error_unless_all_is_to_be_quiet() -> Result<()> {
    let stack = Stack::prepare(Plan { login: false, ..Plan::default() }).await?;
    stack.provider().set_fault(Fault { silence: true, ..Fault::new(Target::Discovery) });
    let port = tests::free_port()?.to_string();
    let doctor = |arguments: &[&str]| {
        let mut command = command(&stack, &[&["doctor"], arguments].concat())?;
        command.env("PROXY_PORT", &port);
        anyhow::Ok(command)
    };
    let waits = "looking at: clock";
    let (mut json, mut plain, mut quiet) =
        (doctor(&["--json"])?, doctor(&[])?, doctor(&["--json", "--quiet"])?);
    let (json, plain, quiet) =
        tokio::join!(ends(&mut json, 1), ends(&mut plain, 1), ends(&mut quiet, 1));
    let (said, errors) = json?;
    let document: Value = serde_json::from_str(&said).context(said)?;
    ensure!(document["all_good"] == false, "{document}");
    ensure!(errors.matches(waits).count() == 1 && !errors.contains(['\r', '\u{1b}']), "{errors}");
    let (said, errors) = plain?;
    ensure!(!said.contains(waits) && errors.contains(waits), "{said}{errors}");
    let (said, errors) = quiet?;
    ensure!(serde_json::from_str::<Value>(&said).is_ok() && errors.is_empty(), "{said}{errors}");

    // On a terminal it is one line, which gives way to what is found.
    let mut command = doctor(&[])?;
    command.env("TERM", "xterm");
    let (mut terminal, _keyboard) = Process::start_on_terminal("doctor", stack.dir(), command)?;
    ensure!(terminal.wait(LIMIT).await?.code() == Some(1), "{}", terminal.log());
    let shown = terminal.log();
    let drawn = format!("\r\u{1b}[K{waits} … 1 s\r\u{1b}[K");
    ensure!(shown.contains(&drawn), "{shown:?}");
    Ok(())
}
