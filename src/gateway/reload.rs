//! What a running gateway takes from its configuration when that is read again.
//!
//! All of it or nothing: a file with a problem, or a certificate that cannot be used, changes nothing.
//! Everything that can fail comes first, and what changes then changes without waiting. New sessions get the
//! new routes, backends and limits, new connections the new listeners' settings; sessions and
//! connections that live keep what they began with, but for those whose route has gone, if
//! `reload.end_removed` says so. What only a start can take is told, key by key.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use super::{Services, chain, services};
use crate::{
    admin::LogFilter,
    backend::{Backends, Keeper, Resolve},
    config::{self, Config, Difference, Problems},
    edge::{BoundAddress, CertificateInfo, EdgeError, Listeners},
    lifecycle::Lifecycle,
    limit::{Clients, Memory},
    metrics::Metrics,
    route::RouteTable,
    session::{SessionContext, Tables},
};

/// What of a running gateway another configuration changes.
#[derive(Debug)]
pub struct Live {
    /// What is in force.
    pub(super) config: ArcSwap<Config>,
    pub(super) addresses: Vec<BoundAddress>,
    pub(super) listeners: Listeners,
    pub(super) services: Services,
    pub(super) clients: Arc<Clients>,
    pub(super) memory: Arc<Memory>,
    pub(super) context: Arc<SessionContext>,
    pub(super) keeper: Keeper,
    pub(super) resolver: Arc<dyn Resolve>,
    pub(super) lifecycle: Lifecycle,
    pub(super) metrics: Metrics,
    /// What is logged, if the program lets it be changed.
    pub(super) log: Option<Arc<dyn LogFilter>>,
    /// One reload at a time.
    pub(super) turn: Mutex<()>,
}

/// What a reload has changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reloaded {
    /// The certificates that clients have not seen before.
    pub certificates: Vec<CertificateInfo>,
    /// What is different from now on.
    pub changed: Vec<Difference>,
    /// What the file says and only a start takes.
    pub waiting: Vec<Difference>,
    /// Sessions that were ended because their route has gone.
    pub ended: u64,
}

/// Why nothing was reloaded.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file cannot be read or has problems.
    #[error("the configuration has problems")]
    Config(#[from] Problems),
    /// Certificates that cannot be used.
    #[error("certificates cannot be used")]
    Certificates(Vec<EdgeError>),
    /// A log filter that makes no sense.
    #[error("the log filter cannot be used")]
    LogFilter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        why: String,
    },
    /// The gateway is about to end.
    #[error("the gateway is stopping")]
    Stopping,
}

impl ReloadError {
    /// Each problem, in a line of its own.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Config(problems) => problems.to_string().lines().map(str::to_owned).collect(),
            Self::Certificates(errors) => errors.iter().map(|error| chain(error)).collect(),
            Self::LogFilter { filter, why } => {
                vec![format!("log.filter: bad log filter {filter:?}: {why}")]
            }
            Self::Stopping => Vec::new(),
        }
    }
}

impl Live {
    /// The configuration in force: as the file was when it was taken last, but for what waits for a restart.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Where new sessions go now.
    pub fn backends(&self) -> Arc<Backends> {
        self.context.backends()
    }

    /// The certificates in use, in the order of the configuration.
    pub fn certificates(&self) -> Vec<CertificateInfo> {
        self.listeners.certificates()
    }

    /// Takes what can change without a restart from a configuration that `read` yields. Reloads that come at
    /// once are done one after the other, and each reads when its turn has come, so that the last word
    /// stays. Files are read on a thread apart: a file system that hangs holds up no health check. To be
    /// called on the control runtime. Cancelled, it has changed nothing.
    ///
    /// # Errors
    /// Everything that is wrong with it. Then nothing has changed.
    pub async fn reload(
        &self,
        read: impl FnOnce() -> Result<Config, Problems> + Send + 'static,
    ) -> Result<Reloaded, ReloadError> {
        let _turn = self.turn.lock().await;
        let reloaded = self.try_reload(read).await;
        // A drain that has begun says nothing about the file.
        if !matches!(reloaded, Err(ReloadError::Stopping)) {
            self.metrics.reloaded(reloaded.is_ok());
        }
        reloaded
    }

    async fn try_reload(
        &self,
        read: impl FnOnce() -> Result<Config, Problems> + Send + 'static,
    ) -> Result<Reloaded, ReloadError> {
        self.still_serves()?;
        let (before, running) = (self.config(), self.listeners.clone());
        let has_log = self.log.is_some();
        let prepare = {
            let before = Arc::clone(&before);
            move || {
                let new = read()?;
                let config = in_force(&before, &new, has_log);
                let prepared = running.prepare(&config).map_err(ReloadError::Certificates)?;
                Ok::<_, ReloadError>((new, config, prepared))
            }
        };
        let (new, config, listeners) = apart(prepare).await?;
        let tables = self.context.tables();
        let backends =
            Backends::new(&config.backends, &self.metrics, &self.resolver, Some(&tables.backends));
        backends.learn(&tables.backends).await;
        self.still_serves()?;
        self.change_log_filter(&before, &config)?;

        // From here on nothing fails and nothing waits.
        let certificates = self.listeners.take(listeners, &self.metrics);
        let services = services(&config, &self.addresses, &self.lifecycle, &self.metrics);
        self.services.store(Arc::new(services));
        self.clients.change(config.limits.per_client.clone());
        self.memory.set_limit(config.limits.memory);
        let ended = self.replace_tables(&config, &tables, Arc::new(backends));
        let changed = before.differences(&config);
        let waiting = config.differences(&new);
        self.config.store(Arc::new(config));
        Ok(Reloaded { certificates, changed, waiting, ended })
    }

    /// Once it stops, what it does is to be what it was when it was told to.
    fn still_serves(&self) -> Result<(), ReloadError> {
        if self.lifecycle.is_stopping() { Err(ReloadError::Stopping) } else { Ok(()) }
    }

    /// A filter that stays in the file leaves alone what an operator has changed meanwhile.
    fn change_log_filter(&self, before: &Config, config: &Config) -> Result<(), ReloadError> {
        let filter = &config.log.filter;
        let Some(log) = self.log.as_ref().filter(|_| before.log.filter != *filter) else {
            return Ok(());
        };
        log.configure(filter).map_err(|why| ReloadError::LogFilter { filter: filter.clone(), why })
    }

    /// How many sessions ended with their route.
    fn replace_tables(&self, config: &Config, before: &Tables, backends: Arc<Backends>) -> u64 {
        let tables = Tables {
            routes: RouteTable::after(Some(&before.routes), &config.routes, &self.metrics),
            backends: Arc::clone(&backends),
            end_removed: config.reload.end_removed,
        };
        backends.open(&before.backends);
        let ended = self.context.replace_tables(tables, config.limits.sessions);
        backends.take_over(&before.backends);
        self.keeper.keep(&backends);
        self.metrics.forget_unused();
        ended
    }
}

/// Does on a thread apart what may block. For the control side alone.
pub(super) async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    #[expect(
        clippy::disallowed_methods,
        reason = "no worker waits for it, and nothing else can read files"
    )]
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

/// What of a new configuration can be taken while `running` is in force; the rest stays as it is. Whether the
/// program has a log whose filter can be changed is its own affair.
fn in_force(running: &Config, new: &Config, has_log: bool) -> Config {
    let listener = |running: &config::Listener| {
        let named = new.listeners.iter().find(|new| new.name == running.name);
        named.map_or_else(|| running.clone(), |new| listener_in_force(running, new))
    };
    Config {
        server: running.server.clone(),
        log: config::Log {
            format: running.log.format,
            filter: if has_log { &new.log } else { &running.log }.filter.clone(),
        },
        admin: running.admin.clone(),
        listeners: running.listeners.iter().map(listener).collect(),
        ..new.clone()
    }
}

/// Sockets stay as they were bound, and whether clients are asked for certificates.
fn listener_in_force(running: &config::Listener, new: &config::Listener) -> config::Listener {
    let is_asked = |listener: &config::Listener| listener.client_certificates.is_some();
    let asking = if is_asked(running) == is_asked(new) { new } else { running };
    config::Listener {
        quic: running.quic.clone(),
        client_certificates: asking.client_certificates.clone(),
        transport: config::Transport {
            receive_buffer: running.transport.receive_buffer,
            send_buffer: running.transport.send_buffer,
            ..new.transport.clone()
        },
        ..new.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TEXT: &str = r#"version = 1
[server]
workers = 1
[log]
format = "text"
[[listener]]
quic = ["127.0.0.1:0"]
self_signed = ["localhost"]
[listener.transport]
idle_timeout = "45s"
[limits]
sessions = 5
[drain]
grace = "1s"
[[route]]
path = "/a"
origins = "any"
backend = "b"
[backend.b]
endpoints = [{ tcp = "127.0.0.1:9" }]
"#;

    fn parse(text: &str) -> Config {
        Config::parse(text, "t.toml", Path::new("config")).unwrap_or_else(|p| panic!("{p}"))
    }

    #[test]
    fn each_key_is_taken_or_told_to_wait_for_a_restart() {
        for (old, new, taken, waits) in [
            ("/a", "/a", &[][..], &[][..]),
            ("workers = 1", "workers = 2", &[], &["server.workers"]),
            ("\"text\"", "\"json\"", &[], &["log.format"]),
            ("\"text\"", "\"text\"\nfilter = \"debug\"", &["log.filter"], &[]),
            ("127.0.0.1:0", "127.0.0.2:0", &[], &["listener[0].quic"]),
            ("[limits]", "[admin]\nlisten = \"127.0.0.1:0\"\n[limits]", &[], &["admin"]),
            (
                "idle_timeout = \"45s\"",
                "idle_timeout = \"50s\"\nreceive_buffer = \"1MiB\"",
                &["listener[0].transport.idle_timeout"],
                &["listener[0].transport.receive_buffer"],
            ),
            ("\"localhost\"", "\"other\"", &["listener[0].self_signed"], &[]),
            ("sessions = 5", "sessions = 6", &["limits.sessions"], &[]),
            ("grace = \"1s\"", "grace = \"2s\"", &["drain.grace"], &[]),
            ("path = \"/a\"", "name = \"/a\"\npath = \"/b\"", &["route[/a].path"], &[]),
            (":9", ":10", &["backend.b.endpoints[0].tcp"], &[]),
            (
                "[limits]",
                "[[listener]]\nname = \"x\"\nquic = [\"127.0.0.1:0\"]\nself_signed = [\"x\"]\n[limits]",
                &[],
                &["listener[x]"],
            ),
        ] {
            let (running, new_config) = (parse(TEXT), parse(&TEXT.replacen(old, new, 1)));
            let in_force = in_force(&running, &new_config, true);
            let keys = |differences: Vec<Difference>| -> Vec<String> {
                differences.into_iter().map(|difference| difference.key).collect()
            };
            assert_eq!(keys(running.differences(&in_force)), taken, "{new}");
            assert_eq!(keys(in_force.differences(&new_config)), waits, "{new}");
        }
    }
    #[test]
    fn without_a_log_that_can_be_changed_its_filter_waits_for_a_restart() {
        let (running, new) =
            (parse(TEXT), parse(&TEXT.replacen("[log]", "[log]\nfilter = \"debug\"", 1)));
        assert_eq!(in_force(&running, &new, false).log, running.log);
        assert_eq!(in_force(&running, &new, true).log, new.log);
    }
}
