//! A filter that makes one call of the host again and again on each request. Its configuration is
//! the call's name and how often it is made, as `headers 20`.

#[cfg(target_os = "wasi")]
mod calls;
