//! What the admin listener sees of a running gateway.

use std::sync::Arc;

use super::Live;
use crate::{
    admin::{LogFilter, Watched},
    backend::Backends,
    edge::Sampler,
    session::registry::Registry,
};

pub(super) struct Watch {
    pub(super) sampler: Sampler,
    pub(super) live: Arc<Live>,
    pub(super) log: Option<Arc<dyn LogFilter>>,
}

impl Watched for Watch {
    fn sample(&self) {
        self.sampler.sample();
    }

    fn backends(&self) -> Arc<Backends> {
        self.live.context.backends()
    }

    fn sessions(&self) -> &Registry {
        self.live.context.sessions()
    }

    fn config(&self) -> String {
        self.live.config().effective()
    }

    fn log(&self) -> Option<&dyn LogFilter> {
        self.log.as_deref()
    }
}
