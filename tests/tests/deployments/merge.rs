//! How protocol buffers are merged, in their JSON form: what Istio does with a patch.

use serde_json::Value;

/// The maps of `Any` among a cluster's and a route's fields: their entries are replaced as a whole.
const MAPS: [&str; 2] = ["typed_extension_protocol_options", "typed_per_filter_config"];

/// Merges a patch into a message: fields one by one, lists by appending.
pub fn merge(message: &mut Value, patch: &Value) {
    match (message, patch) {
        (Value::Object(message), Value::Object(patch)) => {
            for (name, value) in patch {
                let own = message.entry(name).or_insert(Value::Null);
                if let (Value::Object(own), Value::Object(value), true) =
                    (&mut *own, value, MAPS.contains(&name.as_str()))
                {
                    own.extend(value.clone());
                } else {
                    merge(own, value);
                }
            }
        }
        (Value::Array(message), Value::Array(patch)) => message.extend(patch.iter().cloned()),
        // What has its default in a patch is not in the patch.
        (_, Value::Bool(false)) => {}
        (message, patch) => *message = patch.clone(),
    }
}

#[test]
fn a_patch_is_merged_as_protocol_buffers_are() {
    let mut message = serde_json::json!({
        "a": 1, "list": [1], "flag": true,
        "typed_extension_protocol_options": {"x": {"kept": 1}, "y": {"gone": 1}}
    });
    merge(
        &mut message,
        &serde_json::json!({
            "a": 2, "b": {"c": 3}, "list": [2], "flag": false,
            "typed_extension_protocol_options": {"y": {"new": 1}}
        }),
    );
    let merged = serde_json::json!({
        "a": 2, "b": {"c": 3}, "list": [1, 2], "flag": true,
        "typed_extension_protocol_options": {"x": {"kept": 1}, "y": {"new": 1}}
    });
    assert_eq!(message, merged);
}
