//! The TOML file.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use filter::client::ClientKey;
use filter::management::{self, PublicPaths};
use toml::Table;

use super::problem::Problems;
use super::section::Section;
use super::{Envoy, Error, Publish, StatusPage, client, proxy, publish, status_page, value};
use crate::provider::preset::Fields;

/// The file's settings, each valid or absent.
#[derive(Default)]
pub(super) struct File {
    pub(super) provider: Option<String>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) socket: Option<PathBuf>,
    pub(super) host: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) client_keys: Vec<ClientKey>,
    pub(super) window_s: Option<u64>,
    pub(super) spacing_s: Option<u64>,
    pub(super) hermes: Option<PathBuf>,
    pub(super) poll_interval_s: Option<u64>,
    pub(super) proxy: proxy::Stated,
    pub(super) check_path: Option<String>,
    pub(super) envoy: Envoy,
    pub(super) status_page: StatusPage,
    pub(super) publish: Publish,
    pub(super) providers: Vec<(String, Fields)>,
}

/// Reads the file; bad settings go on the list.
pub(super) fn read(document: &str, problems: &mut Problems) -> Result<File, Error> {
    let table: Table = document.parse().map_err(|error| syntax(document, &error))?;
    let mut root = Section::new("", table);
    let mut file = File {
        provider: root.text("provider", problems),
        state_dir: root.text("state_dir", problems).map(Into::into),
        socket: root.text("socket", problems).map(Into::into),
        ..File::default()
    };
    let mut listener = root.section("listener", problems);
    if let Some(host) = listener.text("host", problems) {
        file.host = problems.take("listener.host", value::host(&host));
    }
    let port = listener.number("port", 0..=u64::from(u16::MAX), value::PORT, problems);
    file.port = port.and_then(|port| u16::try_from(port).ok());
    let buffer = listener.number("buffer_bytes", value::BUFFER, value::BUFFER_RULE, problems);
    listener.finish(problems);

    file.client_keys = client::read(&mut root, problems);

    let mut rotation = root.section("rotation", problems);
    file.window_s =
        rotation.number("window", value::MIN_WINDOW_S..=u64::MAX, value::WINDOW, problems);
    file.spacing_s = rotation.number("spacing", 1..=86_400, "seconds from 1 to 86400", problems);
    rotation.finish(problems);

    let mut import = root.section("import", problems);
    file.hermes = import.text("hermes", problems).map(Into::into);
    file.poll_interval_s =
        import.number("poll_interval", value::MIN_POLL_S..=86_400, value::POLL, problems);
    import.finish(problems);

    file.proxy = proxy::read(&mut root, problems);
    file.proxy.buffer_bytes = buffer.and_then(|bytes| u32::try_from(bytes).ok());

    let mut health = root.section("health", problems);
    let public = health.texts("public", problems).unwrap_or_default();
    match PublicPaths::of(&public) {
        Some(paths) => file.proxy.public_paths = paths,
        None => problems.unaccepted("health.public", &format!("{public:?}"), management::ACCEPTED),
    }
    if let Some(path) = health.text("check_path", problems) {
        file.check_path = problems.take("health.check_path", value::check_path(&path));
    }
    health.finish(problems);

    let mut envoy = root.section("envoy", problems);
    let concurrency = envoy.number("concurrency", 1..=1024, "a number from 1 to 1024", problems);
    let default = Envoy::default();
    let (stop, reload) = ("seconds from 0 to 86400", "seconds from 10 to 604800");
    let drain_timeout = envoy.number("drain_timeout", 0..=86_400, stop, problems);
    let reload_timeout = envoy.number("reload_timeout", 10..=604_800, reload, problems);
    let (bytes, files) = ("bytes from 65536 to 1073741824", "a number from 2 to 100");
    let log_max_bytes = envoy.number("log_max_bytes", 0x1_0000..=0x4000_0000, bytes, problems);
    let log_files = envoy.number("log_files", 2..=100, files, problems);
    file.envoy = Envoy {
        bin: envoy.text("bin", problems).map(Into::into),
        filter: envoy.text("filter", problems).map(Into::into),
        concurrency: concurrency.and_then(|number| u32::try_from(number).ok()),
        trusted_ca: envoy.text("trusted_ca", problems).map(Into::into),
        admin: envoy
            .text("admin", problems)
            .and_then(|admin| problems.take("envoy.admin", value::admin(&admin))),
        drain_timeout: drain_timeout.map_or(default.drain_timeout, Duration::from_secs),
        reload_timeout: reload_timeout.map_or(default.reload_timeout, Duration::from_secs),
        log_max_bytes: log_max_bytes.unwrap_or(default.log_max_bytes),
        log_files: log_files.and_then(|n| u32::try_from(n).ok()).unwrap_or(default.log_files),
    };
    envoy.finish(problems);

    file.status_page = status_page::read(&mut root, problems);
    file.publish = publish::read(&mut root, problems);

    for (name, section) in root.sections("providers", problems) {
        let fields = provider(section, problems);
        if crate::store::is_name(&name) {
            file.providers.push((name, fields));
        } else {
            let accepted = crate::store::NAME_RULE;
            problems.unaccepted("providers", &format!("{name:?}"), accepted);
        }
    }
    root.finish(problems);
    Ok(file)
}

fn provider(mut section: Section, problems: &mut Problems) -> Fields {
    const PARAMS: &str = "parameter names with strings";
    const HEADERS: &str = "header names with strings";
    let fields = Fields {
        issuer: section.text("issuer", problems),
        authorization_endpoint: section.text("authorization_endpoint", problems),
        token_endpoint: section.text("token_endpoint", problems),
        device_authorization_endpoint: section.text("device_authorization_endpoint", problems),
        revocation_endpoint: section.text("revocation_endpoint", problems),
        client_id: section.text("client_id", problems),
        client_secret_file: section.text("client_secret_file", problems),
        token_endpoint_auth_method: section.text("token_endpoint_auth_method", problems),
        scopes: section.texts("scopes", problems),
        redirect_ports: section.ports("redirect_ports", problems),
        redirect_path: section.text("redirect_path", problems),
        authorize_params: section
            .map("authorize_params", PARAMS, problems)
            .map(|pairs| pairs.into_iter().collect()),
        token_params: section
            .map("token_params", PARAMS, problems)
            .map(|pairs| pairs.into_iter().collect()),
        callback_origins: section.texts("callback_origins", problems),
        upstream: section.text("upstream", problems),
        ca_file: section.text("ca_file", problems),
        upstream_headers: section.map("upstream_headers", HEADERS, problems),
        dead_token_statuses: section.statuses("dead_token_statuses", problems),
        dead_token_codes: section.texts("dead_token_codes", problems),
    };
    section.finish(problems);
    fields
}

fn syntax(document: &str, error: &toml::de::Error) -> Error {
    let offset = error.span().map_or(0, |span| span.start);
    let line = 1 + document.bytes().take(offset).filter(|&byte| byte == b'\n').count();
    let message = error.message().lines().next().unwrap_or_default().to_owned();
    Error::Syntax { line, message }
}
