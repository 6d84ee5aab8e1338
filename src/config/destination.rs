//! Where a route's sessions go: always to one backend, or to the one that a table names.

use std::{collections::BTreeMap, sync::Arc};

use super::Backend;

/// Where a route's sessions go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Destination {
    /// All of them to this backend.
    Always(Arc<Backend>),
    /// Each to the backend that the table has for what the client wrote.
    Listed(Listed),
}

/// Backends by what a capture of the route's path stands for. A client chooses among them and can name no
/// other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed {
    /// The name of the capture.
    pub capture: String,
    /// The backends by its value, which is in the form in which paths are compared.
    pub backends: BTreeMap<String, Arc<Backend>>,
    /// The backend for every other value. `None`: those are refused.
    pub otherwise: Option<Arc<Backend>>,
}

impl Destination {
    /// The backend of a request with these captures. `None`: the table has none for it.
    pub fn of(&self, captures: &[(String, String)]) -> Option<&Arc<Backend>> {
        match self {
            Self::Always(backend) => Some(backend),
            Self::Listed(Listed { capture, backends, otherwise }) => {
                let (_, value) = captures.iter().find(|(name, _)| name == capture)?;
                backends.get(value).or(otherwise.as_ref())
            }
        }
    }

    /// Every backend that a session may go to. One that stands in a table several times comes as often.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        let (always, listed) = match self {
            Self::Always(backend) => (Some(backend), None),
            Self::Listed(listed) => (listed.otherwise.as_ref(), Some(listed.backends.values())),
        };
        always.into_iter().chain(listed.into_iter().flatten())
    }
}
