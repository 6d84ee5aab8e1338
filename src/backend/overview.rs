//! What an operator sees of the backends, and what an operator can do.

use std::sync::Arc;

use serde::Serialize;
use tokio::time::Instant;
use tracing::info;

use super::{Backend, Backends, lock, member::Member};

/// One backend.
#[derive(Clone, Debug, Serialize)]
pub struct BackendOverview {
    name: String,
    endpoints: Vec<EndpointOverview>,
}

/// One endpoint of a backend.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointOverview {
    name: String,
    /// `live` or `draining`.
    state: &'static str,
    weight: u32,
    sessions: u64,
    members: Vec<MemberOverview>,
}

/// One place where an endpoint can be reached.
#[derive(Clone, Debug, Serialize)]
pub struct MemberOverview {
    tcp: Vec<String>,
    udp: Vec<String>,
    /// `live`, `draining`, `down`, `ejected` or `absent`: the first reason why it takes no sessions.
    state: &'static str,
    sessions: u64,
    last_check: Option<CheckOverview>,
}

/// An active check.
#[derive(Clone, Debug, Serialize)]
struct CheckOverview {
    result: &'static str,
    seconds_ago: u64,
}

impl Backends {
    /// All of them, as they are now.
    pub fn overview(&self) -> Vec<BackendOverview> {
        self.0.values().map(|backend| backend.overview()).collect()
    }

    /// Begins or ends the drain of an endpoint: it takes no new sessions, and those that it has are
    /// told and go on. `None`: there is no such backend or endpoint.
    pub fn set_draining(&self, backend: &str, endpoint: &str, draining: bool) -> Option<()> {
        self.get(backend)?.set_draining_of(endpoint, draining)
    }
}

impl Backend {
    pub(super) fn set_draining_of(&self, endpoint: &str, draining: bool) -> Option<()> {
        let endpoint = self.endpoints.iter().find(|e| e.name() == endpoint)?;
        if endpoint.set_draining(draining) {
            let members = self.members().into_iter();
            members
                .filter(|member| Arc::ptr_eq(member.endpoint(), endpoint))
                .for_each(|member| member.tell_sessions());
            self.signals.changed.notify_one();
            let (backend, endpoint) = (self.name(), endpoint.name());
            let what = if draining { "An endpoint is drained." } else { "An endpoint is resumed." };
            info!(backend, endpoint, "{what}");
        }
        Some(())
    }

    /// Those of the roster, then those that are absent.
    pub(super) fn members(&self) -> Vec<Arc<Member>> {
        let known = lock(&self.known);
        let roster = self.roster.load();
        let seated = roster.0.iter().map(|seat| &seat.member);
        seated.chain(&known.absent).map(Arc::clone).collect()
    }

    /// This one, as it is now.
    pub fn overview(&self) -> BackendOverview {
        let members = self.members();
        let now = Instant::now();
        let endpoints = self.endpoints.iter().zip(&self.settings.endpoints);
        let endpoints = endpoints.map(|(endpoint, settings)| {
            let own = members.iter().filter(|m| Arc::ptr_eq(m.endpoint(), endpoint));
            let own: Vec<_> = own.collect();
            EndpointOverview {
                name: endpoint.name().to_owned(),
                state: if endpoint.is_draining() { "draining" } else { "live" },
                weight: settings.weight,
                sessions: own.iter().map(|member| member.sessions()).sum(),
                members: own.iter().map(|member| member_overview(member, now)).collect(),
            }
        });
        BackendOverview { name: self.name().to_owned(), endpoints: endpoints.collect() }
    }
}

fn member_overview(member: &Member, now: Instant) -> MemberOverview {
    let addresses = member.addresses();
    let text = |list: &[std::net::SocketAddr]| list.iter().map(ToString::to_string).collect();
    MemberOverview {
        tcp: text(&addresses.tcp),
        udp: text(&addresses.udp),
        state: member.state().word(),
        sessions: member.sessions(),
        last_check: member.last_check().map(|(result, at)| CheckOverview {
            result: result.word(),
            seconds_ago: (now - at).as_secs(),
        }),
    }
}
