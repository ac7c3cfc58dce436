//! The root context: reads the configuration, ticks, and hears the refresher's answers.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use log::error;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{BufferType, ContextType};

use super::limits::Limits;
use super::metrics::Metrics;
use super::source::Source;
use super::stream::Stream;
use crate::config::Config;

/// The first tick comes at once. It cannot come sooner: while an upstream filter is configured,
/// the clusters do not exist, and a call would bring Envoy down.
const AT_ONCE: Duration = Duration::from_millis(1);

/// One plugin configuration in one VM: what its root context and its streams share.
pub struct Plugin {
    /// The configuration.
    pub config: Config,
    /// Where bundles come from.
    pub source: Rc<Source>,
    /// Counters and gauges.
    pub metrics: Rc<Metrics>,
    /// Limits of clients.
    pub limits: Rc<Limits>,
    period: Cell<Duration>,
}

impl Plugin {
    /// Has the root context tick at once, to make a call that a stream has asked for.
    pub fn tick_at_once(&self) {
        self.tick_each(AT_ONCE);
    }

    fn tick_each(&self, period: Duration) {
        if self.period.replace(period) != period {
            let _ = hostcalls::set_tick_period(period);
        }
    }
}

/// The root context of one plugin configuration.
pub struct Root {
    id: u32,
    plugin: Option<Rc<Plugin>>,
}

impl Root {
    /// A root context that still has to be configured.
    pub fn new(id: u32) -> Self {
        Self { id, plugin: None }
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let document = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX);
        let config = match Config::parse(&document.ok().flatten().unwrap_or_default()) {
            Ok(config) => config,
            Err(reason) => {
                error!("torchbearer: {reason}");
                return false;
            }
        };
        let source = Source::of_cluster(&config.refresher.cluster);
        source.adopt_shared();
        let period = Cell::new(Duration::ZERO);
        let (metrics, limits) = (Metrics::shared(), Limits::shared());
        let plugin = Plugin { config, source, metrics, limits, period };
        plugin.tick_at_once();
        self.plugin = Some(Rc::new(plugin));
        true
    }

    fn on_tick(&mut self) {
        if let Some(plugin) = &self.plugin {
            let period = plugin.source.drive(self.id, &plugin.metrics);
            plugin.limits.sign();
            plugin.tick_each(period);
        }
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        // Envoy makes no stream for a plugin that did not configure.
        let plugin = Rc::clone(self.plugin.as_ref()?);
        Some(Box::new(Stream::new(id, plugin)))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Context for Root {
    fn on_http_call_response(
        &mut self,
        token: u32,
        headers: usize,
        _body: usize,
        _trailers: usize,
    ) {
        if let Some(plugin) = &self.plugin {
            plugin.source.answered(self.id, token, headers, &plugin.metrics);
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Some(plugin) = &self.plugin {
            plugin.source.abandon(self.id);
        }
    }
}
