//! What is seen of the server from outside while operations are measured: what its processes cost (`--pid`), and what
//! its metrics have counted (`--metrics`).

use std::{collections::BTreeMap, sync::Arc};

use super::{
    metrics::{Counted, MetricsUrl},
    process::{Cost, Processes, Seen},
};
use crate::tally::Counters;

/// Whom to look at.
#[derive(Debug)]
pub(crate) struct Watch {
    processes: Option<Processes>,
    metrics: Option<MetricsUrl>,
}

/// The server at one time.
#[derive(Debug)]
pub(crate) struct Look {
    seen: Option<Seen>,
    counted: Option<Counted>,
}

/// What was seen between two looks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) cost: Option<Cost>,
    /// What each series has risen by, without those that have not.
    pub(crate) metrics: Option<BTreeMap<String, f64>>,
}

impl Watch {
    /// `None`: there is nothing to look at.
    ///
    /// # Errors
    /// What cannot be looked at, in words.
    pub(crate) fn new(pids: &[u32], metrics: Option<&MetricsUrl>) -> Result<Option<Self>, String> {
        let processes = match pids {
            [] => None,
            pids => Some(Processes::find(pids).map_err(|e| format!("cannot look at --pid: {e}"))?),
        };
        let watch = Self { processes, metrics: metrics.cloned() };
        watch.look_first(&[])?;
        Ok((watch.processes.is_some() || watch.metrics.is_some()).then_some(watch))
    }

    /// Metrics first: to make them is no part of what is measured.
    pub(crate) fn look_first(&self, workers: &[Arc<Counters>]) -> Result<Look, String> {
        let counted = self.count()?;
        Ok(Look { seen: self.see(workers)?, counted })
    }

    /// Metrics last.
    pub(crate) fn look_last(&self, workers: &[Arc<Counters>]) -> Result<Look, String> {
        let seen = self.see(workers)?;
        Ok(Look { seen, counted: self.count()? })
    }

    fn see(&self, workers: &[Arc<Counters>]) -> Result<Option<Seen>, String> {
        let seen = self.processes.as_ref().map(|processes| processes.look(workers));
        seen.transpose().map_err(|e| format!("cannot look at --pid: {e}"))
    }

    fn count(&self) -> Result<Option<Counted>, String> {
        self.metrics.as_ref().map(MetricsUrl::read).transpose()
    }
}

impl Observed {
    pub(crate) fn between(first: &Look, last: &Look) -> Self {
        let seen = first.seen.as_ref().zip(last.seen.as_ref());
        let counted = first.counted.as_ref().zip(last.counted.as_ref());
        Self {
            cost: seen.and_then(|(first, last)| Cost::between(first, last)),
            metrics: counted.map(|(before, after)| after.since(before)),
        }
    }
}
