//! The ways to the bundle besides the socket, for as long as the sidecar serves.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Error;
use crate::config::Config;
use crate::publish::remote;
use crate::publish::server::{Service, Tokens, loopback_router, remote_router};
use crate::publish::tls::Tls;
use crate::{chain, clock};

/// The servers of these ways; they end with this.
#[derive(Debug)]
pub(super) struct Ways(#[expect(dead_code, reason = "held, so that they go on")] JoinSet<()>);

impl Ways {
    /// Opens those that the configuration has.
    ///
    /// # Errors
    ///
    /// When one cannot be listened on, or what TLS needs cannot be used.
    pub(super) async fn open(service: &Service) -> Result<Self, Error> {
        let config = service.config.borrow().clone();
        let mut servers = JoinSet::new();
        if let Some(port) = config.publish.loopback_port {
            let listener = remote::listen_on_loopback(port)?;
            tracing::info!(address = %shown(&listener), "serving whoever connects on this machine");
            servers.spawn(remote::serve_plainly(listener, loopback_router(service.clone())));
        }
        if let Some(settings) = &config.publish.tls {
            let terms = Arc::new(Tls::load(settings, clock::now().unix())?);
            service.publisher.show_certificate(terms.not_after);
            let listener = remote::listen(settings.listen)?;
            tracing::info!(address = %shown(&listener), "serving Envoys by mutual TLS");
            // What has files to watch is not what an Envoy elsewhere has.
            let service = Service { tokens: Tokens::Bundled, ..service.clone() };
            let (changes, current) = watch::channel(terms);
            let changed = service.config.clone();
            servers.spawn(remote::serve(listener, current, remote_router(service.clone())));
            servers.spawn(async move { follow(changed, changes, service).await });
        }
        Ok(Self(servers))
    }
}

/// Reads the files again whenever they, or the settings, have changed. What cannot be used leaves the
/// old in force; the configuration's own alarm says so.
async fn follow(
    mut config: watch::Receiver<Arc<Config>>,
    terms: watch::Sender<Arc<Tls>>,
    service: Service,
) {
    while config.changed().await.is_ok() {
        let settings = config.borrow_and_update().publish.tls.clone();
        let Some(settings) = settings else { continue };
        match Tls::load(&settings, clock::now().unix()) {
            Ok(next) => {
                service.publisher.show_certificate(next.not_after);
                terms.send_replace(Arc::new(next));
                tracing::info!("certificates and names of mutual TLS are in force");
            }
            Err(error) => {
                let error = chain::line(&error);
                tracing::error!(%error, "mutual TLS stays as it was");
            }
        }
    }
}

fn shown(listener: &TcpListener) -> String {
    listener.local_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string())
}
