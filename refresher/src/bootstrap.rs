//! The Envoy configuration that `up` starts with: the shipped bootstrap with a few values set.
//!
//! What a user who runs Envoy himself edits by hand (the lines marked `set:` in
//! `envoy/standalone/bootstrap.yaml`) is set here by path, so there is one bootstrap and no template.

use std::net::SocketAddr;
use std::path::Path;

use filter::bundle::DEFAULT_CREDENTIAL;
use filter::client::ClientKey;
use filter::verdict::Rule;
use serde_json::{Value, json};
use url::Url;

use crate::config::Proxy;

const SHIPPED: &str = include_str!("../../envoy/standalone/bootstrap.yaml");

const LISTENER: &str = "/static_resources/listeners/0";
const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
const UPSTREAM: &str = "/static_resources/clusters/0";
const REFRESHER: &str = "/static_resources/clusters/1";
const ADDRESS: &str = "load_assignment/endpoints/0/lb_endpoints/0/endpoint/address";
const HTTP: &str =
    "typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const WASM: &str = "typed_config/config";
const CLUSTERS: &str = "/static_resources/clusters";
const HOST: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0";
const ROUTES: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes";

const MAPPERS: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/local_reply_config/mappers";

/// The name of what only WebSockets use: routes, and the cluster.
const WEBSOCKET: &str = "websocket";

/// The values that a bootstrap is made of.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Where Envoy listens.
    pub listen: SocketAddr,
    /// The API's origin.
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
    /// What is done with requests.
    pub proxy: &'a Proxy,
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
    let proxy = settings.proxy;
    let plugin = json!({"gate": {
        "client_keys": settings.client_keys,
        "headers": proxy.header_policy(),
        "max_inspected_body_bytes": proxy.buffer_bytes,
        "public_paths": proxy.public_paths.targets(),
    }});
    bootstrap.set(&format!("{gate}/configuration/value"), plugin.to_string())?;
    bootstrap.set(&format!("{LISTENER}/per_connection_buffer_limit_bytes"), proxy.buffer_bytes)?;
    let mut plugin = json!({"bearer": {"dead_token": settings.dead_token}});
    if let Some(plugin) = plugin.as_object_mut().filter(|_| proxy.usage) {
        plugin.insert("usage".to_owned(), json!({}));
    }
    let injected = plugin.pointer_mut("/bearer").and_then(Value::as_object_mut);
    if let Some(bearer) = injected.filter(|_| proxy.sds_dir.is_some()) {
        bearer.insert("credential_injector".to_owned(), DEFAULT_CREDENTIAL.into());
    }
    bootstrap.set(&format!("{bearer}/configuration/value"), plugin.to_string())?;

    if let Some(directory) = &proxy.sds_dir {
        bootstrap.inject_by_envoy(utf8(directory)?)?;
    }
    bootstrap.set_upstream(settings)?;
    bootstrap.set_retries(proxy)?;
    bootstrap.allow_websockets(&proxy.websocket_paths)?;
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
        if let Some(host) = self.at(HOST)?.as_object_mut() {
            host.insert("request_headers_to_add".to_owned(), options.into());
        }
        Ok(())
    }

    /// The routes have names, so that they can be told apart here and in Envoy's outputs.
    fn route(&mut self, name: &str) -> Result<&mut Value, Error> {
        let named = |route: &&mut Value| route.get("name").and_then(Value::as_str) == Some(name);
        let routes = self.at(ROUTES)?.as_array_mut();
        let route = routes.and_then(|routes| routes.iter_mut().find(named));
        route.ok_or_else(|| Error::Missing { path: format!("{ROUTES}/{name}") })
    }

    fn set_retries(&mut self, proxy: &Proxy) -> Result<(), Error> {
        self.set(&format!("{HOST}/request_body_buffer_limit"), proxy.max_replay_body_bytes)?;
        let attempts = proxy.retry_attempts;
        let delay = format!("{}s", proxy.retry_delay.as_secs_f64());
        let policies = [
            // The one replay after a refused token is an attempt, too.
            (
                "reading",
                attempts.max(1),
                Some(json!({"base_interval": delay, "max_interval": delay})),
            ),
            ("generating", attempts + 1, None),
        ];
        for (name, num_retries, back_off) in policies {
            let route = self.route(name)?;
            let path = "/route/retry_policy";
            let missing = || Error::Missing { path: format!("{ROUTES}/{name}{path}") };
            let policy = route.pointer_mut(path).and_then(Value::as_object_mut);
            let policy = policy.ok_or_else(missing)?;
            policy.insert("num_retries".to_owned(), num_retries.into());
            if let Some(back_off) = back_off {
                policy.insert("retry_back_off".to_owned(), back_off);
            }
            if attempts == 0 {
                policy.insert("retry_on".to_owned(), "retriable-headers".into());
            }
        }
        Ok(())
    }

    /// Has Envoy's own filter put in the token, from a file that the refresher writes, behind the
    /// bearer, which has been told so.
    fn inject_by_envoy(&mut self, directory: &str) -> Result<(), Error> {
        let name = DEFAULT_CREDENTIAL;
        let injector = json!({
            "name": "envoy.filters.http.credential_injector",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
                "overwrite": true,
                "credential": {
                    "name": "envoy.http.injected_credentials.generic",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic",
                        "credential": {
                            "name": name,
                            "sds_config": {
                                "resource_api_version": "V3",
                                "path_config_source": {
                                    "path": format!("{directory}/{name}.json"),
                                    "watched_directory": {"path": directory},
                                },
                            },
                        },
                    },
                },
            },
        });
        let refused = json!({
            "filter": {"status_code_filter": {"comparison": {"op": "EQ",
                "value": {"default_value": 401, "runtime_key": "torchbearer.credential_not_injected"}}}},
            "status_code": 503,
            "headers_to_add": [{
                "header": {"key": "x-request-id", "value": "%UNIQUE_ID%"},
                "append_action": "ADD_IF_ABSENT",
            }],
            "body_format_override": {"json_format": {"error": {
                "code": "credential_not_injected",
                "type": "server_error",
                "message": "Envoy has no access token to put in; the refresher has not written one to publish.sds_dir.",
            }}},
        });
        if let Some(filters) = self.at(&format!("{UPSTREAM}/{HTTP}/http_filters"))?.as_array_mut() {
            filters.insert(1, injector);
        }
        // The first mapper is for the filter's own answers, of which one is a 401, too.
        if let Some(mappers) = self.at(MAPPERS)?.as_array_mut() {
            mappers.insert(1, refused);
        }
        Ok(())
    }

    /// A WebSocket has a route of its own, and a cluster that speaks HTTP/1.1: few APIs take the
    /// handshake over HTTP/2 (RFC 8441).
    fn allow_websockets(&mut self, paths: &[String]) -> Result<(), Error> {
        if paths.is_empty() {
            return Ok(());
        }
        let mut cluster = self.at(UPSTREAM)?.clone();
        if let Some(members) = cluster.as_object_mut() {
            members.insert("name".to_owned(), WEBSOCKET.into());
        }
        let alpn = "/transport_socket/typed_config/common_tls_context/alpn_protocols";
        if let Some(alpn) = cluster.pointer_mut(alpn) {
            *alpn = json!(["http/1.1"]);
        }
        if let Some(http) = cluster.pointer_mut(&format!("/{HTTP}")).and_then(Value::as_object_mut)
        {
            http.remove("auto_config");
            let explicit = json!({"http_protocol_options": {}});
            http.insert("explicit_http_config".to_owned(), explicit);
        }
        if let Some(clusters) = self.at(CLUSTERS)?.as_array_mut() {
            clusters.push(cluster);
        }
        let generating = self.route("generating")?.clone();
        let routes = paths.iter().map(|path| {
            let mut route = generating.clone();
            let upgrade = json!({"name": "upgrade",
                "string_match": {"exact": "websocket", "ignore_case": true}});
            if let Some(members) = route.as_object_mut() {
                members.insert("name".to_owned(), WEBSOCKET.into());
                members.insert("match".to_owned(), json!({"prefix": path, "headers": [upgrade]}));
            }
            if let Some(action) = route.get_mut("route").and_then(Value::as_object_mut) {
                action.insert("cluster".to_owned(), WEBSOCKET.into());
                action.insert("upgrade_configs".to_owned(), json!([{"upgrade_type": "websocket"}]));
            }
            route
        });
        let routes: Vec<Value> = routes.collect();
        if let Some(known) = self.at(ROUTES)?.as_array_mut() {
            known.splice(0..0, routes);
        }
        // Over HTTP/2 the handshake is an extended CONNECT.
        let http2 = self.at(&format!("{MANAGER}/http2_protocol_options"))?;
        if let Some(options) = http2.as_object_mut() {
            options.insert("allow_connect".to_owned(), true.into());
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
        for route in self.at(ROUTES)?.as_array_mut().into_iter().flatten() {
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
mod tests;
