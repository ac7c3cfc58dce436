//! What the README tells users of clients, with the real programs: which base address leads where.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{Plan, Process, Stack, eventually, free_port, python};

use crate::clients::{sdk_at, sdk_of};

/// How long a client may take: LiteLLM alone needs some seconds to be loaded.
const LIMIT: Duration = Duration::from_secs(120);

const TEXT: &str = "word0 word1 word2 word3 ";

fn paths(stack: &Stack) -> Vec<String> {
    let paths = stack.provider().requests().into_iter().map(|request| request.path).collect();
    stack.provider().clear();
    paths
}

#[tokio::test]
async fn a_base_address_needs_its_v1_and_may_end_in_a_slash() -> Result<()> {
    let stack = Stack::start(Plan::default()).await?;
    for base in ["/v1", "/v1/"] {
        let seen = sdk_at(&stack, base, "unused", "chat").await?;
        ensure!(seen["text"] == TEXT, "{base}: {seen}");
        ensure!(paths(&stack) == ["/v1/chat/completions"], "{base}");
    }
    // Without it, the path is passed on as it is, and what the API says to it as well.
    for base in ["", "/"] {
        let seen = sdk_at(&stack, base, "unused", "error").await?;
        ensure!(seen["class"] == "NotFoundError" && seen["status"] == 404, "{base}: {seen}");
        ensure!(paths(&stack) == ["/models"], "{base}");
    }
    // What a client makes by joining text has one slash too many, and goes no further.
    let url = stack.url("/v1/") + "/chat/completions";
    let answer: Value = stack.client.get(url).send().await?.json().await?;
    ensure!(answer["error"]["code"] == "ambiguous_path", "{answer}");
    ensure!(paths(&stack).is_empty());
    Ok(())
}

#[tokio::test]
async fn the_openai_sdk_shows_the_id_of_a_refused_request() -> Result<()> {
    let stack = Stack::start(Plan { login: false, ..Plan::default() }).await?;
    let seen = sdk_at(&stack, "/v1", "unused", "error").await?;
    ensure!(seen["code"] == "login_required", "{seen}");
    ensure!(seen["request_id"].as_str().is_some_and(|id| id.len() == 32), "{seen}");
    Ok(())
}

#[tokio::test]
async fn litellm_gets_answers_and_streams() -> Result<()> {
    const KEY: &str = "key-of-alice-0123456789";
    let plan = Plan { client_keys: vec![("alice", KEY)], ..Plan::default() };
    let stack = Stack::start(plan).await?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/litellm_sdk.py");
    let mut command = Process::command(python()?);
    command.env("HOME", stack.dir()).env("OPENAI_API_KEY", KEY);
    command.arg(script).arg(stack.url("/v1/")).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.context("no end")??;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}");
    let printed = String::from_utf8(output.stdout)?;
    let seen: Value = serde_json::from_str(printed.lines().last().unwrap_or_default())?;
    let expected = json!({"text": TEXT, "completion_tokens": 9, "streamed": TEXT});
    ensure!(seen == expected, "{seen}");
    ensure!(paths(&stack) == ["/v1/chat/completions", "/v1/chat/completions"]);
    Ok(())
}

/// The recipe of the documentation, with the real program in front of a real Envoy.
#[tokio::test]
async fn litellm_as_a_proxy_in_front_sends_no_key_of_its_own_to_the_api() -> Result<()> {
    const KEY: &str = "sk-of-litellm-0123456789";
    let stack = Stack::start(Plan::default()).await?;
    let recipe = include_str!("../../../README.md").split_once("```yaml\nmodel_list:");
    let recipe = recipe.and_then(|(_, rest)| rest.split_once("```")).context("no recipe")?.0;
    ensure!(recipe.contains("http://127.0.0.1:9996/v1"), "{recipe}");
    let recipe = recipe.replace("http://127.0.0.1:9996/v1", &stack.url("/v1"));
    let config = stack.dir().join("config.yaml");
    std::fs::write(&config, format!("model_list:{recipe}"))?;
    let port = free_port()?.to_string();
    let mut command = Process::command(python()?);
    // Its own key is what its clients have to show; its table of prices is not to be fetched.
    command.env("LITELLM_MASTER_KEY", KEY).env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
    command.env("HOME", stack.dir()).args(["-m", "litellm.proxy.proxy_cli", "--config"]);
    command.arg(config).args(["--host", "127.0.0.1", "--port", &port, "--telemetry", "False"]);
    let mut litellm = Process::start("litellm", stack.dir(), &mut command)?;
    let base = format!("http://127.0.0.1:{port}");
    let ready = eventually(LIMIT, async || {
        if litellm.ended().is_some() {
            return Some(false);
        }
        let answer = stack.client.get(format!("{base}/health/liveliness")).send().await.ok()?;
        answer.status().is_success().then_some(true)
    });
    ensure!(ready.await == Some(true), "LiteLLM does not serve: {}", litellm.log());
    for case in ["chat", "chat_stream"] {
        let seen = sdk_of(&stack, &format!("{base}/v1"), KEY, case).await?;
        ensure!(seen["text"] == TEXT, "{case}: {seen}");
    }
    let refused = sdk_of(&stack, &format!("{base}/v1"), "another", "error").await?;
    ensure!(refused["status"] != 200, "LiteLLM asks for no key: {refused}");
    // It may look for models by itself.
    let requests = stack.provider().requests();
    let chats = requests.iter().filter(|request| request.path == "/v1/chat/completions");
    ensure!(chats.count() == 2, "{requests:?}");
    for request in requests {
        ensure!(request.authorization.len() == 1 && request.jti.is_some(), "{request:?}");
        ensure!(!format!("{request:?}").contains(KEY), "{request:?}");
    }
    litellm.stop().await?;
    Ok(())
}
