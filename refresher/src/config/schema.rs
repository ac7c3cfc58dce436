//! The JSON Schema of the configuration file, and of the filter's plugin configuration.

use serde_json::{Map, Value, json};

use super::catalogue::{PROVIDER, SETTINGS};
use super::{MIN_KEY_BYTES, catalogue};

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The schema of the configuration file, which is TOML: a date-time of its own kind counts as a
/// string.
pub fn of_file() -> Value {
    let mut root = table(Map::new());
    for setting in SETTINGS {
        let mut schema = described((setting.schema)(), setting.meaning);
        if let (catalogue::Example::Default(default), Some(schema)) =
            (&setting.example, schema.as_object_mut())
        {
            schema.insert("default".to_owned(), default());
        }
        if let (false, Some(schema)) = (setting.variables.is_empty(), schema.as_object_mut()) {
            let also = format!("Also set by {}.", setting.variables.join(" or "));
            schema.insert("$comment".to_owned(), also.into());
        }
        match setting.path.split_once('.') {
            None => insert(&mut root, setting.path, schema),
            Some((section, name)) => {
                let properties = root.get_mut("properties").and_then(Value::as_object_mut);
                let Some(properties) = properties else { continue };
                let section = properties.entry(section).or_insert_with(|| table(Map::new()));
                insert(section, name, schema);
            }
        }
    }
    let fields = PROVIDER
        .iter()
        .map(|field| (field.name.to_owned(), described((field.schema)(), field.meaning)));
    let providers = json!({
        "type": "object",
        "description": "Providers by name; also to change single fields of a preset.",
        "propertyNames": {"pattern": "^[A-Za-z0-9_-]{1,64}$"},
        "additionalProperties": table(fields.collect()),
    });
    insert(&mut root, "providers", providers);
    insert(&mut root, "client_keys", client_keys());
    if let Some(members) = root.as_object_mut() {
        members.insert("$schema".to_owned(), DIALECT.into());
        members.insert("title".to_owned(), "Configuration of Torchbearer's refresher".into());
    }
    root
}

/// The schema of the filter's plugin configuration.
pub fn of_plugin() -> Value {
    filter::config::schema()
}

fn table(properties: Map<String, Value>) -> Value {
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

fn insert(table: &mut Value, name: &str, schema: Value) {
    if let Some(properties) = table.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert(name.to_owned(), schema);
    }
}

fn described(mut schema: Value, meaning: &str) -> Value {
    if let Some(members) = schema.as_object_mut() {
        members.insert("description".to_owned(), meaning.into());
    }
    schema
}

fn client_keys() -> Value {
    let digest = json!({"type": "string", "pattern": "^[0-9A-Fa-f]{64}$",
        "description": "The SHA-256 of the key, in hexadecimal digits."});
    let moment = || {
        json!({"description": "A date-time with its offset, or Unix seconds.", "anyOf": [
            {"type": "string", "format": "date-time"}, catalogue::integer(0, u64::MAX)]})
    };
    let limit = || catalogue::integer(0, u64::from(u32::MAX));
    let restricted = json!({
        "type": "object",
        "properties": {
            "sha256": digest,
            "subject_alt_name": catalogue::text(),
            "not_before": moment(),
            "not_after": moment(),
            "credential": {"type": "string", "minLength": 1, "default": "default"},
            "paths": catalogue::texts(),
            "models": catalogue::texts(),
            "requests_per_minute": limit(),
            "concurrency": limit(),
        },
        "oneOf": [{"required": ["sha256"]}, {"required": ["subject_alt_name"]}],
        "additionalProperties": false,
    });
    json!({
        "type": "object",
        "description": "Client keys by the client's name: the SHA-256 of a key, or a table with all \
                        that a key can have. Also set by PROXY_API_KEY, with the key itself.",
        "$comment": format!("For a listener that is not on loopback, a key of at least {MIN_KEY_BYTES} characters."),
        "propertyNames": {"pattern": "^[A-Za-z0-9._@-]{1,64}$"},
        "additionalProperties": {"anyOf": [digest, restricted]},
    })
}
