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
