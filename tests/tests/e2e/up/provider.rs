//! What the configuration file alone says of a provider, as it works through Envoy.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use simulator::{Fault, Target};

use super::{SMALL, Up, machine, up_command};

/// For the provider's table, which is the file's last.
const SETTINGS: &str = r#"upstream_headers = { OpenAI-Organization = "org 1 %REQ(x)%" }
dead_token_statuses = [419]
dead_token_codes = ["token_gone"]
"#;

#[tokio::test]
async fn headers_and_the_look_of_a_refused_token_need_only_configuration() -> Result<()> {
    let stack = machine(true, SMALL).await?;
    let config = stack.dir().join("config.toml");
    std::fs::OpenOptions::new().append(true).open(config)?.write_all(SETTINGS.as_bytes())?;
    let up = Up::start(&stack, &mut up_command(&stack, &[])?).await?;
    let provider = stack.provider();
    let send = async || {
        let request = up.get(&stack, "/v1/models").header("openai-organization", "the client's");
        Ok::<_, anyhow::Error>(request.send().await?.status().as_u16())
    };
    ensure!(send().await? == 200);
    let arrived = provider.requests().pop().context("a request")?;
    let values: Vec<_> = arrived.header("openai-organization").collect();
    ensure!(values == ["org 1 %REQ(x)%"], "{values:?}");

    let answer = |status, body: &str| Fault {
        status: Some(status),
        body: Some(body.to_owned()),
        count: Some(1),
        ..Fault::new(Target::Models)
    };
    for (fault, seen, refreshes) in [
        (answer(419, "{}"), 200, 1),
        (answer(403, r#"{"code": "token_gone:expired"}"#), 200, 1),
        // What the defaults would take for a refused token is none.
        (answer(401, "{}"), 401, 0),
        (answer(403, r#"{"code": "unauthenticated:bad-credentials"}"#), 403, 0),
    ] {
        provider.set_fault(fault.clone());
        let before = provider.summary().refreshes;
        ensure!(send().await? == seen, "{fault:?}");
        ensure!(provider.summary().refreshes == before + refreshes, "{fault:?}");
        provider.clear_faults(None);
    }
    ensure!(provider.summary().spent_twice == 0);
    Ok(())
}
