//! The name of a request that is refused here, by which the client's error and the access log's line
//! are found to be of the same request. What passes gets none: the API gives its own.

/// An id of 128 random bits, in hexadecimal digits. Nothing where the host has no randomness;
/// Envoy's mapper of local replies makes one then.
pub fn fresh() -> Option<String> {
    let [high, low] = [getrandom::u64().ok()?, getrandom::u64().ok()?];
    Some(format!("{high:016x}{low:016x}"))
}
