//! What is shipped for monitoring: it parses, and every series and label that it names is on a real
//! page, after the things have happened that it is about.

mod promql;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use simulator::{Fault, Target};
use tests::{Metrics, Plan, Stack, eventually};

use super::{ALICE, SOON, asked, series, serves, told};
use crate::trap;

/// What Prometheus adds to every series that it scrapes.
const OF_PROMETHEUS: [&str; 2] = ["instance", "job"];

fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy/monitoring").join(file)
}

/// Runs `promtool` in the folder of what is shipped.
fn promtool(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("promtool");
    let output = command.args(arguments).current_dir(shipped("")).output();
    let output = output.context("promtool is missing; run `apt-get install prometheus`")?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    Ok(())
}

fn alerts() -> Result<Vec<String>> {
    let rules: Value = serde_saphyr::from_str(&std::fs::read_to_string(shipped("alerts.yaml"))?)?;
    let rules = rules["groups"][0]["rules"].as_array().context("rules")?;
    let expression = |rule: &Value| rule["expr"].as_str().map(str::to_owned);
    rules.iter().map(|rule| expression(rule).context("an expression")).collect()
}

/// The expressions of the dashboard, with what Grafana puts in for its variables.
fn dashboard() -> Result<Vec<String>> {
    let dashboard: Value =
        serde_json::from_str(&std::fs::read_to_string(shipped("dashboard.json"))?)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let expression = |target: &Value| {
        ensure!(target["datasource"]["uid"] == "${datasource}", "{target}");
        let text = target["expr"].as_str().context("an expression")?;
        let text = text.replace("$__rate_interval", "5m").replace("$instance", ".*");
        ensure!(!text.contains("$"), "a variable that nobody sets: {text}");
        Ok(text)
    };
    let mut expressions = targets.map(expression).collect::<Result<Vec<_>>>()?;
    let variables = dashboard["templating"]["list"].as_array().context("variables")?;
    for query in variables.iter().filter_map(|variable| variable["query"]["query"].as_str()) {
        let inner = query.strip_prefix("label_values(").and_then(|it| it.strip_suffix(')'));
        let (series, label) = inner.and_then(|it| it.split_once(", ")).context("label_values")?;
        expressions.push(format!("count by ({label}) ({series})"));
    }
    ensure!(expressions.len() > 20, "{expressions:?}");
    Ok(expressions)
}

#[test]
fn the_alert_rules_do_what_they_say() -> Result<()> {
    promtool(&["check", "rules", "alerts.yaml"])?;
    promtool(&["test", "rules", "alerts.test.yaml"])
}

#[test]
fn the_dashboards_expressions_parse() -> Result<()> {
    let rule = |expression: String| json!({"record": "some:expression", "expr": expression});
    let rules: Vec<_> = dashboard()?.into_iter().map(rule).collect();
    // Rules that are all of one name are worth a warning only.
    let rules: Vec<_> = rules
        .into_iter()
        .enumerate()
        .map(|(number, mut rule)| {
            rule["labels"] = json!({"number": number.to_string()});
            rule
        })
        .collect();
    let file = tempfile::NamedTempFile::with_suffix(".yaml")?;
    let document = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    std::fs::write(file.path(), document.to_string())?;
    promtool(&["check", "rules", file.path().to_str().context("a path")?])
}

/// Has everything happen that a series tells of.
async fn eventful() -> Result<(Stack, tempfile::TempDir)> {
    let dir = tempfile::TempDir::new()?;
    let filter = Some(trap::trapping_module(dir.path())?);
    let client_keys = vec![("alice", ALICE)];
    let stack = told(Plan { workers: 1, client_keys, filter, ..Plan::default() }).await?;
    serves(&stack).await?;
    ensure!(asked(&stack, "/health?deep=1").await?.0 == 200);
    let body = json!({"model": "grok-4", "messages": [{"role": "user", "content": "x"}]});
    let chat = stack.client.post(stack.url("/v1/chat/completions")).bearer_auth(ALICE);
    chat.json(&body).send().await?.bytes().await?;
    let get = async |path: &str| {
        let request = stack.client.get(stack.url(path)).bearer_auth(ALICE);
        anyhow::Ok(request.send().await?.status().as_u16())
    };
    for (path, status) in [("/v1/status/404", 404), ("/v1/status/500", 500), ("/v1//x", 400)] {
        assert_eq!(get(path).await?, status, "{path}");
    }
    assert_eq!(stack.client.get(stack.url("/v1/models")).send().await?.status(), 401);
    // A token that is refused and replaced, then one that cannot be replaced.
    stack.provider().kill_access_token();
    serves(&stack).await?;
    stack.provider().set_fault(Fault { status: Some(500), ..Fault::new(Target::Token) });
    stack.provider().kill_access_token();
    assert_eq!(get("/v1/models").await?, 503);
    stack.provider().clear_faults(None);
    serves(&stack).await?;
    trap::trap(&stack, trap::Place::Gate).await?;
    serves(&stack).await?;
    Ok((stack, dir))
}

/// Series and labels of an expression that are not on the page.
fn missing(metrics: &Metrics, expression: &str) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let used = promql::references(expression)?;
    ensure!(!used.selectors.is_empty(), "no series in {expression}");
    let mut known: BTreeSet<String> = OF_PROMETHEUS.map(str::to_owned).into();
    for (name, matchers) in &used.selectors {
        let samples: Vec<_> = metrics.of(name).collect();
        if samples.is_empty() {
            missing.push(name.clone());
        }
        known.extend(samples.iter().flat_map(|sample| sample.labels.keys().cloned()));
        for (label, operator, value) in matchers {
            let fits = |found: &String| operator != "=" || found == value;
            let there = samples.iter().any(|sample| sample.labels.get(label).is_some_and(fits));
            if !there && !OF_PROMETHEUS.contains(&label.as_str()) {
                missing.push(format!("{name}{{{label}{operator}{value:?}}}"));
            }
        }
    }
    let unknown = used.grouping.iter().filter(|label| !known.contains(*label));
    missing.extend(unknown.map(|label| format!("{label} in {expression}")));
    Ok(missing)
}

#[tokio::test]
async fn every_series_and_label_that_is_named_is_on_a_real_page() -> Result<()> {
    let (stack, _dir) = eventful().await?;
    let expressions = [alerts()?, dashboard()?].concat();
    let mut absent = Vec::new();
    let found = eventually(SOON, async || {
        let metrics = series(&stack).await.ok()?;
        let missing = expressions.iter().map(|it| missing(&metrics, it));
        absent = missing.collect::<Result<Vec<_>>>().ok()?.concat();
        absent.is_empty().then_some(())
    });
    found.await.with_context(|| format!("not on the page: {absent:#?}"))?;
    // The check finds what is not there.
    let metrics = series(&stack).await?;
    for (expression, absent) in [
        ("no_such_series", "no_such_series"),
        ("sum by (nobody) (torchbearer_envoy_up)", "nobody in sum by"),
        ("torchbearer_envoy_up{no=\"x\"}", "torchbearer_envoy_up{no="),
        ("proxy_requests_total{status=\"599\"}", "proxy_requests_total{status="),
    ] {
        let missing = missing(&metrics, expression)?;
        ensure!(missing.len() == 1 && missing[0].starts_with(absent), "{expression}: {missing:?}");
    }
    let reloads = metrics.of("torchbearer_envoy_wasm_reloads_total");
    ensure!(reloads.map(|sample| sample.value).sum::<f64>() >= 1.0, "the reload is not counted");
    Ok(())
}
