//! The Envoy configuration that `up` starts with: the shipped bootstrap with a few values set.
//!
//! What a user who runs Envoy himself edits by hand (the lines marked `set:` in
//! `envoy/bootstrap.yaml`) is set here by path, so there is one bootstrap and no template.

use std::net::SocketAddr;
use std::path::Path;

use filter::client::ClientKey;
use filter::verdict::Rule;
use serde_json::{Value, json};
use url::Url;

const SHIPPED: &str = include_str!("../../envoy/bootstrap.yaml");

const LISTENER: &str = "/static_resources/listeners/0";
const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
const UPSTREAM: &str = "/static_resources/clusters/0";
const REFRESHER: &str = "/static_resources/clusters/1";
const ADDRESS: &str = "load_assignment/endpoints/0/lb_endpoints/0/endpoint/address";
const HTTP: &str =
    "typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const WASM: &str = "typed_config/config";

/// The values that a bootstrap is made of.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Where Envoy listens.
    pub listen: SocketAddr,
    /// The API's origin; a path in it is ignored.
    pub upstream: &'a Url,
    /// The filter's Wasm module.
    pub filter: &'a Path,
    /// The refresher's socket.
    pub socket: &'a Path,
    /// The unix socket of Envoy's admin interface.
    pub admin: &'a Path,
    /// Certificates that the API's is checked against. Default: as in the shipped bootstrap.
    pub trusted_ca: Option<&'a Path>,
    /// Client keys of the gate.
    pub client_keys: &'a [ClientKey],
    /// Headers that every request to the API gets, in place of the client's of that name. Envoy's
    /// admin interface shows them.
    pub upstream_headers: &'a [(String, String)],
    /// Which of the API's answers say that the token was refused.
    pub dead_token: &'a Rule,
}

/// Why no bootstrap can be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The shipped file is not YAML, which its tests exclude.
    #[error("the shipped bootstrap cannot be read: {0}")]
    Yaml(String),
    /// The shipped file lacks a value that is to be set, which its tests exclude.
    #[error("the shipped bootstrap has no value at {path}")]
    Missing {
        /// Where it should be.
        path: String,
    },
    /// The API's address is not an http or https URL with a host.
    #[error("upstream {url} has no host; accepted are https://HOST[:PORT] and http://HOST[:PORT]")]
    Upstream {
        /// The address.
        url: String,
    },
    /// A path that JSON cannot hold.
    #[error("{path} is not UTF-8, which Envoy's configuration needs")]
    Path {
        /// The path, as far as it can be shown.
        path: String,
    },
}

/// Renders the bootstrap as JSON, which Envoy reads as well as YAML.
///
/// # Errors
///
/// When the upstream has no host, or a path is not UTF-8.
pub fn render(settings: &Settings<'_>) -> Result<String, Error> {
    let shipped: Value =
        serde_saphyr::from_str(SHIPPED).map_err(|error| Error::Yaml(error.to_string()))?;
    let mut bootstrap = Bootstrap(shipped);

    bootstrap.set("/admin/address/pipe/path", utf8(settings.admin)?)?;
    let listen = format!("{LISTENER}/address/socket_address");
    bootstrap.set(&format!("{listen}/address"), settings.listen.ip().to_string())?;
    bootstrap.set(&format!("{listen}/port_value"), settings.listen.port())?;
    bootstrap.set(&format!("{REFRESHER}/{ADDRESS}/pipe/path"), utf8(settings.socket)?)?;

    let gate = format!("{MANAGER}/http_filters/0/{WASM}");
    let bearer = format!("{UPSTREAM}/{HTTP}/http_filters/0/{WASM}");
    for wasm in [&gate, &bearer] {
        let code = format!("{wasm}/vm_config/code/local/filename");
        bootstrap.set(&code, utf8(settings.filter)?)?;
    }
    let plugin = json!({"gate": {"client_keys": settings.client_keys}});
    bootstrap.set(&format!("{gate}/configuration/value"), plugin.to_string())?;
    let plugin = json!({"bearer": {"dead_token": settings.dead_token}});
    bootstrap.set(&format!("{bearer}/configuration/value"), plugin.to_string())?;

    bootstrap.set_upstream(settings)?;
    bootstrap.add_headers(settings.upstream_headers)?;
    Ok(bootstrap.0.to_string())
}

struct Bootstrap(Value);

impl Bootstrap {
    fn at(&mut self, path: &str) -> Result<&mut Value, Error> {
        self.0.pointer_mut(path).ok_or_else(|| Error::Missing { path: path.to_owned() })
    }

    fn set(&mut self, path: &str, value: impl Into<Value>) -> Result<(), Error> {
        *self.at(path)? = value.into();
        Ok(())
    }

    fn remove(&mut self, path: &str, member: &str) -> Result<(), Error> {
        let removed = self.at(path)?.as_object_mut().and_then(|object| object.remove(member));
        removed.map(drop).ok_or_else(|| Error::Missing { path: format!("{path}/{member}") })
    }

    fn add_headers(&mut self, headers: &[(String, String)]) -> Result<(), Error> {
        if headers.is_empty() {
            return Ok(());
        }
        let option = |(name, value): &(String, String)| {
            // A single percent sign begins a command of Envoy's formatter.
            let value = value.replace('%', "%%");
            json!({"header": {"key": name, "value": value},
                   "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"})
        };
        let options: Vec<Value> = headers.iter().map(option).collect();
        let path = format!("{MANAGER}/route_config/virtual_hosts/0");
        if let Some(host) = self.at(&path)?.as_object_mut() {
            host.insert("request_headers_to_add".to_owned(), options.into());
        }
        Ok(())
    }

    fn set_upstream(&mut self, settings: &Settings<'_>) -> Result<(), Error> {
        let url = settings.upstream;
        let known = url.host_str().zip(url.port_or_known_default());
        let (host, port) = known.ok_or_else(|| Error::Upstream { url: url.to_string() })?;
        let address = format!("{UPSTREAM}/{ADDRESS}/socket_address");
        // A URL writes an IPv6 address in brackets, a socket address does not.
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        self.set(&format!("{address}/address"), bare)?;
        self.set(&format!("{address}/port_value"), port)?;
        let authority = url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"));
        let routes = format!("{MANAGER}/route_config/virtual_hosts/0/routes");
        for route in self.at(&routes)?.as_array_mut().into_iter().flatten() {
            if let Some(host) = route.pointer_mut("/route/host_rewrite_literal") {
                *host = authority.clone().into();
            }
        }
        let tls = format!("{UPSTREAM}/transport_socket/typed_config");
        match url.scheme() {
            "https" => {
                self.set(&format!("{tls}/sni"), bare)?;
                if let Some(trusted_ca) = settings.trusted_ca {
                    let filename = "common_tls_context/validation_context/trusted_ca/filename";
                    self.set(&format!("{tls}/{filename}"), utf8(trusted_ca)?)?;
                }
                Ok(())
            }
            "http" => {
                self.remove(UPSTREAM, "transport_socket")?;
                // The choice by ALPN needs TLS.
                let http = format!("{UPSTREAM}/{HTTP}");
                self.remove(&http, "auto_config")?;
                if let Some(options) = self.at(&http)?.as_object_mut() {
                    let explicit = json!({"http_protocol_options": {}});
                    options.insert("explicit_http_config".to_owned(), explicit);
                }
                Ok(())
            }
            _ => Err(Error::Upstream { url: url.to_string() }),
        }
    }
}

fn utf8(path: &Path) -> Result<&str, Error> {
    path.to_str().ok_or_else(|| Error::Path { path: path.display().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(upstream: &str, client_keys: &[ClientKey]) -> Result<Value, Error> {
        let upstream: Url = upstream.parse().unwrap();
        let rendered = render(&Settings {
            listen: "127.0.0.2:1234".parse().unwrap(),
            upstream: &upstream,
            filter: Path::new("/lib/filter.wasm"),
            socket: Path::new("/state/refresher.sock"),
            admin: Path::new("/state/admin.sock"),
            trusted_ca: Some(Path::new("/etc/ca.pem")),
            client_keys,
            upstream_headers: &[],
            dead_token: &Rule::default(),
        })?;
        Ok(serde_json::from_str(&rendered).unwrap())
    }

    #[test]
    fn every_value_is_set_and_none_of_the_shipped_ones_is_left() {
        let bootstrap = rendered("https://api.example.com", &[]).unwrap();
        let text = bootstrap.to_string();
        for shipped in ["api.x.ai", "9996", "target/filter.wasm", "/run/torchbearer", "/etc/ssl"] {
            assert!(!text.contains(shipped), "{shipped}");
        }
        for (value, times) in [
            ("api.example.com", 4),
            ("127.0.0.2", 1),
            ("/lib/filter.wasm", 2),
            ("/state/refresher.sock", 1),
            ("/state/admin.sock", 1),
            ("/etc/ca.pem", 1),
        ] {
            assert_eq!(text.matches(value).count(), times, "{value}");
        }
    }

    #[test]
    fn an_api_without_tls_gets_no_tls() {
        let bootstrap = rendered("http://127.0.0.1:8080", &[]).unwrap();
        let upstream = bootstrap.pointer(UPSTREAM).unwrap();
        assert_eq!(upstream.get("transport_socket"), None);
        let http = upstream.pointer(&format!("/{HTTP}")).unwrap();
        assert!(http.get("auto_config").is_none() && http.get("explicit_http_config").is_some());
        assert!(bootstrap.to_string().contains("\"host_rewrite_literal\":\"127.0.0.1:8080\""));
    }

    #[test]
    fn an_ipv6_api_is_addressed_without_brackets() {
        let bootstrap = rendered("http://[::1]:8080", &[]).unwrap();
        let address = format!("{UPSTREAM}/{ADDRESS}/socket_address/address");
        assert_eq!(bootstrap.pointer(&address), Some(&json!("::1")));
    }

    #[test]
    fn keys_and_rule_reach_the_filter_in_the_form_that_it_reads() {
        let key = ClientKey::of_key("alice".parse().unwrap(), b"key-of-alice");
        let bootstrap = rendered("https://api.example.com", std::slice::from_ref(&key)).unwrap();
        let value = format!("{MANAGER}/http_filters/0/{WASM}/configuration/value");
        let document = bootstrap.pointer(&value).unwrap().as_str().unwrap();
        let config = filter::config::Config::parse(document.as_bytes()).unwrap();
        assert_eq!(config.gate.unwrap().client_keys, [key]);
        let value = format!("{UPSTREAM}/{HTTP}/http_filters/0/{WASM}/configuration/value");
        let document = bootstrap.pointer(&value).unwrap().as_str().unwrap();
        let config = filter::config::Config::parse(document.as_bytes()).unwrap();
        assert_eq!(config.bearer.unwrap().dead_token, Rule::default());
    }

    #[test]
    fn headers_for_the_api_replace_the_clients_and_are_taken_literally() {
        let upstream: Url = "https://api.example.com".parse().unwrap();
        let rule = Rule::default();
        let settings = Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            upstream: &upstream,
            filter: Path::new("/f"),
            socket: Path::new("/s"),
            admin: Path::new("/a"),
            trusted_ca: None,
            client_keys: &[],
            upstream_headers: &[],
            dead_token: &rule,
        };
        let headers = [("x-team".to_owned(), "50%REQ(authorization)%".to_owned())];
        let with = render(&Settings { upstream_headers: &headers, ..settings }).unwrap();
        let with: Value = serde_json::from_str(&with).unwrap();
        let path = format!("{MANAGER}/route_config/virtual_hosts/0/request_headers_to_add");
        let expected = json!([{"header": {"key": "x-team", "value": "50%%REQ(authorization)%%"},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]);
        assert_eq!(with.pointer(&path), Some(&expected));
        let without: Value = serde_json::from_str(&render(&settings).unwrap()).unwrap();
        assert_eq!(without.pointer(&path), None);
    }

    #[test]
    fn an_upstream_that_is_not_http_is_refused() {
        assert!(matches!(rendered("ftp://example.com", &[]), Err(Error::Upstream { .. })));
    }
}
