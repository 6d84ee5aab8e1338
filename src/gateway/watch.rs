//! What the admin listener sees of a running gateway.

use std::sync::Arc;

use crate::{
    admin::{LogFilter, Watched},
    backend::Backends,
    config::Config,
    edge::Sampler,
    session::{SessionContext, registry::Registry},
};

pub(super) struct Watch {
    pub(super) sampler: Sampler,
    pub(super) context: Arc<SessionContext>,
    pub(super) config: Arc<Config>,
    pub(super) log: Option<Arc<dyn LogFilter>>,
}

impl Watched for Watch {
    fn sample(&self) {
        self.sampler.sample();
    }

    fn backends(&self) -> Arc<Backends> {
        self.context.backends()
    }

    fn sessions(&self) -> &Registry {
        self.context.sessions()
    }

    fn config(&self) -> String {
        self.config.effective()
    }

    fn log(&self) -> Option<&dyn LogFilter> {
        self.log.as_deref()
    }
}
