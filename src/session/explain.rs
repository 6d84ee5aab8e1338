//! A decision on a request that nobody waits for, with each of its steps.

use std::sync::Arc;

use super::{Admission, SessionContext};
use crate::{
    backend::{ClientInfo, Pin},
    reason::{Refusal, Refused},
    route::{Route, Step},
    transport::RequestHead,
};

/// One decision on a session request, told when it is made. The first that is an error is the last.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'a> {
    /// Which route has it, and whether that route takes it.
    Route(Step<'a>),
    /// Whether its client asks too often.
    Rate(Result<(), Refused>),
    /// Whether the limits leave room for it.
    Room(Result<(), Refused>),
    /// Where it goes.
    Endpoint(Result<&'a Pin, Refusal>),
}

/// A request that would become a session.
#[derive(Debug)]
pub struct Admitted {
    /// Its route.
    pub route: Arc<Route>,
    /// Its client, as backends are told of it.
    pub client: ClientInfo,
    /// Where it would go.
    pub pin: Pin,
}

impl SessionContext {
    /// Decides on a request as [`super::run`] does, and tells each decision. No session begins: what was
    /// reserved is free again.
    ///
    /// # Errors
    /// What the client would hear.
    pub fn explain(
        &self,
        head: &RequestHead,
        watch: &mut dyn FnMut(Decision<'_>),
    ) -> Result<Admitted, Refused> {
        let admitted = self.admit(head, watch).map_err(|(_route, refused)| refused)?;
        let Admission { route, identity, query, protocol, captures, pin, permits: _ } = admitted;
        let head = Arc::new(head.to_keep(query));
        let subject = identity.and_then(|identity| identity.subject);
        let client = ClientInfo::new(head, &route.settings.name, captures, protocol);
        Ok(Admitted { route, client: ClientInfo { subject, ..client }, pin })
    }
}
