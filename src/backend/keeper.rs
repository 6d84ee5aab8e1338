//! Looks after the backends that are in force, and stops when others come in their place.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;

use super::{Backend, Backends, lock};
use crate::lifecycle::Lifecycle;

/// Keeps backends up to date until the drain of a lifecycle: resolves names, checks health, takes back what
/// was ejected. For the control runtime.
///
/// There is one task for each name. A backend that is replaced and the one in its place share what they know
/// and how they are told of it, so the task lets go of the one before it begins with the other. One that
/// stays the same is not disturbed: were its checks begun anew with each reload, frequent reloads would put
/// them off for ever.
#[derive(Debug)]
pub struct Keeper {
    lifecycle: Lifecycle,
    kept: Mutex<BTreeMap<String, watch::Sender<Arc<Backend>>>>,
}

impl Keeper {
    /// Nobody is looked after yet.
    pub fn new(lifecycle: Lifecycle) -> Self {
        Self { lifecycle, kept: Mutex::default() }
    }

    /// Looks after these from now on, and after no others. Must be called on the control runtime.
    pub fn keep(&self, backends: &Backends) {
        let mut kept = lock(&self.kept);
        kept.retain(|name, _| backends.get(name).is_some());
        for (name, backend) in &backends.0 {
            let Some(now) = kept.get(name) else {
                let (sender, receiver) = watch::channel(Arc::clone(backend));
                self.lifecycle.spawn(keep(receiver, self.lifecycle.clone()));
                kept.insert(name.clone(), sender);
                continue;
            };
            now.send_if_modified(|now| {
                let is_other = !Arc::ptr_eq(now, backend);
                *now = Arc::clone(backend);
                is_other
            });
        }
    }
}

/// Looks after whichever backend has the name now, until none has it.
async fn keep(mut now: watch::Receiver<Arc<Backend>>, lifecycle: Lifecycle) {
    loop {
        let backend = Arc::clone(&now.borrow_and_update());
        tokio::select! {
            biased;
            () = lifecycle.draining() => return,
            changed = now.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = backend.tend() => {}
        }
    }
}
