//! The schema, the example and `config show` are held to what the file's reader knows.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::catalogue::{PROVIDER, SETTINGS, VARIABLES};
use super::super::show::{self, Origin, Sources};
use super::super::{example, schema};
use super::*;

/// Complains about a document, or not.
pub(super) fn complaints(document: &str) -> Vec<String> {
    let document: toml::Table = document.parse().unwrap();
    let document = serde_json::to_value(json_of(toml::Value::Table(document))).unwrap();
    let validator = jsonschema::validator_for(&schema::of_file()).unwrap();
    validator.iter_errors(&document).map(|error| error.to_string()).collect()
}

/// JSON has no date-times.
fn json_of(value: toml::Value) -> Value {
    match value {
        toml::Value::Datetime(at) => at.to_string().into(),
        toml::Value::Table(table) => {
            table.into_iter().map(|(name, value)| (name, json_of(value))).collect()
        }
        toml::Value::Array(items) => items.into_iter().map(json_of).collect(),
        other => serde_json::to_value(other).unwrap(),
    }
}

/// The settings that the reader accepts in a table, as it says itself of one that it does not know.
fn known_in(table: &str) -> Vec<String> {
    let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
    let message = refusal(&format!("{header}no_such_setting = 1\n"), &[]);
    let line = message.lines().find(|line| line.contains("no_such_setting: unknown")).unwrap();
    let (_, names) = line.split_once("; accepted: ").unwrap();
    names.split(", ").map(str::to_owned).collect()
}

#[test]
fn every_setting_that_the_reader_knows_is_described_and_no_other() {
    let mut known = BTreeSet::new();
    for name in known_in("") {
        let section = format!("[{name}]\n");
        // Tables with the user's names, which have tests of their own; and single values.
        if name == "client_keys" || name == "providers" {
            continue;
        }
        if with(&section, &[]).is_ok() {
            known.extend(known_in(&name).into_iter().map(|key| format!("{name}.{key}")));
        } else {
            known.insert(name);
        }
    }
    let described: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.path.to_owned()).collect();
    assert_eq!(described, known);

    let fields: BTreeSet<_> = PROVIDER.iter().map(|field| field.name.to_owned()).collect();
    assert_eq!(fields, known_in("providers.xai").into_iter().collect());

    let schema = schema::of_file();
    let keys = schema["properties"]["client_keys"]["additionalProperties"]["anyOf"][1].clone();
    let keys: BTreeSet<_> = keys["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, known_in("client_keys.alice").into_iter().collect());
}

#[test]
fn every_variable_that_is_read_is_described() {
    let read = std::cell::RefCell::new(BTreeSet::new());
    let env = |name: &str| {
        read.borrow_mut().insert(name.to_owned());
        (name == "HOME").then(|| "/home/u".to_owned())
    };
    load(&Overrides::default(), &env).unwrap();
    let mut described: BTreeSet<String> =
        ["HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "TORCHBEARER_CONFIG"].map(Into::into).into();
    let settings = SETTINGS.iter().flat_map(|setting| setting.variables);
    let all = settings.chain(VARIABLES.iter().flat_map(|variable| variable.names));
    described.extend(all.map(|name| (*name).to_owned()));
    assert_eq!(read.into_inner(), described);
    // LOG_LEVEL is read before there is a configuration.
    let readme = include_str!("../../../../README.md");
    for name in described.iter().filter(|name| *name != "HOME" && !name.starts_with("XDG_")) {
        assert!(readme.contains(&format!("`{name}`")), "the README lacks {name}");
    }
    for setting in SETTINGS {
        assert!(readme.contains(&format!("| `{}`", setting.path)), "{}", setting.path);
    }
    let first_cells = readme.lines().filter_map(|line| line.strip_prefix("| ")?.split('|').next());
    let first_cells: Vec<_> = first_cells.collect();
    for field in PROVIDER {
        let name = format!("`{}`", field.name);
        assert!(first_cells.iter().any(|cell| cell.contains(&name)), "{name} has no row");
    }
}

#[test]
fn the_example_has_the_defaults_and_all_of_it_can_be_used() {
    let example = example::file();
    assert!(example.lines().all(|line| line.len() <= 105), "{example}");
    let shown = |document: &str| {
        let config = with(document, &[]).unwrap();
        let present = SETTINGS.iter().map(|setting| (setting.present)(&config));
        let fields = PROVIDER.iter().map(|field| (field.present)(&config.provider));
        present.chain(fields).collect::<Vec<_>>()
    };
    assert_eq!(shown(&example), shown(""));
    assert_eq!(complaints(&example), [""; 0]);
    // What stands behind a # is accepted too: a comment is a sentence, these are `name = value` or a
    // table.
    let is_setting = |rest: &str| {
        let name = rest.split(" = ").next().unwrap_or_default();
        rest.starts_with('[') || (rest.contains(" = ") && !name.contains(' '))
    };
    let used: String = example
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| is_setting(rest)).unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect();
    let used = used.replace("\nprovider = \"xai\"", "\nprovider = \"example\"");
    let config = with(&used, &[]).unwrap();
    assert_eq!(config.provider.name, "example");
    assert_eq!(config.client_keys.len(), 2);
    assert_eq!(complaints(&used), [""; 0]);
    for setting in SETTINGS {
        let name = setting.path.rsplit('.').next().unwrap();
        assert!(used.contains(&format!("\n{name} = ")), "{}", setting.path);
    }
    for field in PROVIDER {
        assert!(used.contains(&format!("\n{} = ", field.name)), "{}", field.name);
    }
}

#[test]
fn the_schema_refuses_what_the_reader_refuses() {
    for document in [
        "provder = \"xai\"\n",
        "state_dir = 7\n",
        "socket = \"\"\n",
        "[listener]\nport = 70000\n",
        "[listener]\nprot = 1\n",
        "[listener]\nbuffer_bytes = 65535\n",
        "[rotation]\nwindow = 29\n",
        "[rotation]\nspacing = 0\n",
        "[retry]\nattempts = 11\n",
        "[retry]\ndelay = 0\n",
        "[replay]\nmax_body_bytes = 0\n",
        "[usage]\nenabled = 1\n",
        "[websocket]\npaths = [\"v1\"]\n",
        "[import]\npoll_interval = 4\n",
        "[envoy]\nconcurrency = 0\n",
        "[providers.xai]\nx = 1\n",
        "[providers.xai]\nissuer = \"ftp://auth.x.ai\"\n",
        "[providers.xai]\ndead_token_statuses = [500]\n",
        "[providers.xai]\ntoken_endpoint_auth_method = \"none\"\n",
        "[providers.\"a b\"]\n",
        "[client_keys]\nalice = \"my-plain-key\"\n",
        "[client_keys]\n\"a b\" = \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"\n",
        "[client_keys.alice]\nconcurrency = 1\n",
        "[client_keys.alice]\nsubject_alt_name = \"a\"\nx = 1\n",
    ] {
        assert!(with(document, &[]).is_err(), "the reader accepts {document}");
        assert!(!complaints(document).is_empty(), "the schema accepts {document}");
    }
}

#[test]
fn the_readmes_configurations_are_accepted() {
    let readme = include_str!("../../../../README.md");
    let snippets: Vec<&str> =
        readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(snippets.len() >= 2);
    for snippet in snippets {
        // Digits to be filled in.
        let snippet = snippet.replace("…64 hexadecimal digits…", DIGEST);
        assert_eq!(complaints(&snippet), [""; 0], "{snippet}");
        with(&snippet, &[]).unwrap_or_else(|error| panic!("{error}: {snippet}"));
    }
}

#[test]
fn the_plugin_schema_accepts_what_the_filter_accepts_and_no_more() {
    let validator = jsonschema::validator_for(&schema::of_plugin()).unwrap();
    let digest = DIGEST;
    for (document, good) in [
        (json!({"gate": {}}), true),
        (json!({"refresher": {"cluster": "r"}, "bearer": {"wait_ms": 0}, "usage": {}}), true),
        (
            json!({"gate": {"client_keys": [{"id": "a", "sha256": digest, "not_after": 7,
            "models": ["grok-4*"], "concurrency": 4}], "headers": {"strip": ["x-*"], "keep": ["cookie"]},
            "max_inspected_body_bytes": 1}}),
            true,
        ),
        (json!({"bearer": {"dead_token": {"statuses": [401, 403], "codes": []}}}), true),
        (json!({}), false),
        (json!({"usage": {}}), false),
        (json!({"gait": {}}), false),
        (json!({"gate": {"keys": []}}), false),
        (json!({"gate": {"headers": {"strip": ["a b"]}}}), false),
        (json!({"gate": {"headers": {"drop": []}}}), false),
        (json!({"gate": {"max_inspected_body_bytes": 0}}), false),
        (json!({"gate": {"max_inspected_body_bytes": 67_108_865}}), false),
        (json!({"gate": {"client_keys": [{"id": "a", "sha256": "x"}]}}), false),
        (json!({"gate": {"client_keys": [{"id": "a b", "sha256": digest}]}}), false),
        (json!({"gate": {}, "usage": {"max_models": 0}}), false),
        (json!({"gate": {}, "usage": {"max_models": 1001}}), false),
        (json!({"bearer": {"wait_ms": 10_001}}), false),
        (json!({"bearer": {"wait": 1}}), false),
        (json!({"bearer": {}, "refresher": {"cluster": ""}}), false),
    ] {
        let text = document.to_string();
        assert_eq!(filter::config::Config::parse(text.as_bytes()).is_ok(), good, "filter: {text}");
        assert_eq!(validator.is_valid(&document), good, "schema: {text}");
    }
    let schema = schema::of_plugin().to_string();
    for default in
        ["\"default\":1048576", "\"default\":2000", "\"default\":32", "\"default\":\"refresher\""]
    {
        assert!(schema.contains(default), "{default}: {schema}");
    }
}

#[test]
fn what_holds_is_shown_with_its_origin_and_without_secrets() {
    let document = format!(
        "provider = \"xai\"\n\n[listener]\nport = 7000\nhost = \"127.0.0.2\"\n\n[client_keys]\n\
         alice = \"{DIGEST}\"\n\n[providers.xai]\ntoken_params = {{ audience = \"planted-a\" }}\n\
         authorize_params = {{ plan = \"planted-b\" }}\nupstream_headers = {{ x-team = \"planted-c\" }}\n"
    );
    let flags = Overrides { socket: Some("/s".into()), ..Overrides::default() };
    let env = |name: &str| match name {
        "HOME" => Some("/home/u".to_owned()),
        "PROXY_HOST" => Some("127.0.0.3".to_owned()),
        "PROXY_API_KEY" => Some("planted-d-0123456789".to_owned()),
        "XAI_PROXY_TOKEN_PATH" => Some("/t/tokens.json".to_owned()),
        _ => None,
    };
    let config = resolve(&document, &flags, &env).unwrap();
    let file = Some((Path::new("/c.toml"), document.as_str()));
    let all = show::effective(&config, &Sources { file, flags: &flags, env: &env });
    let of = |name: &str| {
        let found = all.iter().find(|shown| shown.setting == name);
        found.map(|shown| (shown.value.clone(), shown.origin.to_string())).unwrap()
    };
    assert_eq!(of("socket"), (json!("/s"), "--socket".to_owned()));
    assert_eq!(of("listener.host"), (json!("127.0.0.3"), "PROXY_HOST".to_owned()));
    assert_eq!(of("listener.port"), (json!(7000), "/c.toml:4".to_owned()));
    assert_eq!(of("rotation.spacing"), (json!(60), "default".to_owned()));
    assert_eq!(of("envoy.bin"), (Value::Null, "default".to_owned()));
    assert_eq!(of("grant_file"), (json!("/t/tokens.json"), "XAI_PROXY_TOKEN_PATH".to_owned()));
    assert_eq!(of("api_key"), (json!("[redacted]"), "PROXY_API_KEY".to_owned()));
    assert_eq!(of("providers.xai.client_id").1, "preset");
    assert_eq!(of("providers.xai.token_params").0, json!({"audience": "[redacted]"}));
    assert_eq!(of("client_keys.alice").0["sha256"], "[redacted]");
    assert_eq!(of("client_keys.alice").1, "/c.toml:8");
    assert!(all.iter().any(|shown| matches!(shown.origin, Origin::Flag { name: "--socket" })));

    // Every setting is there, none of it tells a secret, and it can be read back.
    for setting in SETTINGS {
        of(setting.path);
    }
    for field in PROVIDER {
        of(&format!("providers.xai.{}", field.name));
    }
    let text = show::toml(&all);
    for shown in [&text, &serde_json::to_string(&all).unwrap()] {
        assert!(!shown.contains("planted-") && !shown.contains(DIGEST), "{shown}");
    }
    let read: toml::Table = text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(read["listener"]["port"].as_integer(), Some(7000));
    assert!(text.contains("\n# bin: unset"), "{text}");
}
