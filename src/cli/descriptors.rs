//! File descriptors: as many as the system gives, and whether the configuration may need more.

use tidegate::config::{Config, DatagramsMode, Limit, PushMode, Route, StreamsMode, UniMode};
use tracing::{info, warn};

/// Raises the limit of open files as far as it goes. `None`: the system refused, and has said why.
pub(crate) fn raise() -> Option<u64> {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => {
            info!(limit, "Limit of open files (RLIMIT_NOFILE).");
            Some(limit)
        }
        // The gateway runs with what it has; a shortage later has a reason and a counter of its own.
        Err(error) => {
            warn!(%error, "Cannot raise the limit of open files.");
            None
        }
    }
}

/// Raises the limit of open files and compares it with what the configuration may need.
pub(crate) fn raise_for(config: &Config) {
    if let Some(limit) = raise() {
        compare_with(limit, config);
    }
}

/// Compares the limit of open files, which was raised at the start, with what the configuration may need.
pub(crate) fn compare(config: &Config) {
    // An error was told at the start.
    if let Ok((limit, _)) = rlimit::getrlimit(rlimit::Resource::NOFILE) {
        compare_with(limit, config);
    }
}

fn compare_with(limit: u64, config: &Config) {
    let needed = worst_case(config);
    if needed > limit {
        let needed = if needed == UNLIMITED { Limit::Unlimited } else { Limit::AtMost(needed) };
        warn!(
            limit, %needed,
            "The configuration's limits allow more open files than the system does. Beyond that, \
             streams are reset with `out_of_descriptors`. Raise the system's hard limit or lower \
             limits.sessions, or a route's sessions or streams_per_session."
        );
    }
}

/// In sums of limits: more than anything.
const UNLIMITED: u64 = u64::MAX;

/// Standard streams, event queues, timers, the admin's connections, files while they are read.
const OVERHEAD: u64 = 128;

/// Descriptors in use when every limit is reached.
pub(crate) fn worst_case(config: &Config) -> u64 {
    let addresses: usize = config.listeners.iter().map(|listener| listener.quic.len()).sum();
    let sockets = u64::try_from(addresses)
        .unwrap_or(UNLIMITED)
        .saturating_mul(u64::from(config.server.workers.get()));
    let uni = config.listeners.iter().map(|l| l.transport.initial_uni_streams).max().unwrap_or(0);

    let demands = config.routes.iter().map(|route| Demand::of(route, uni.into())).collect();
    OVERHEAD.saturating_add(sockets).saturating_add(most(demands, config.limits.sessions))
}

/// What one route may ask for.
#[derive(Clone, Copy, Debug)]
struct Demand {
    sessions: u64,
    each: u64,
}

impl Demand {
    fn of(route: &Route, uni_streams: u64) -> Self {
        let bidi = match route.streams {
            StreamsMode::PerStream => number(route.max_streams_per_session),
            StreamsMode::PerSession => 1,
            StreamsMode::Refuse => 0,
        };
        let uni = match route.uni {
            UniMode::Backend => uni_streams,
            UniMode::Refuse => 0,
        };
        let udp = u64::from(route.datagrams == DatagramsMode::Udp);
        let push = u64::from(route.push != PushMode::Off);
        let each = bidi.saturating_add(uni).saturating_add(udp).saturating_add(push);
        Self { sessions: number(route.max_sessions), each }
    }
}

/// The most that `sessions` in all can ask for: the greediest routes get theirs first.
fn most(mut demands: Vec<Demand>, sessions: Limit) -> u64 {
    demands.sort_by_key(|demand| std::cmp::Reverse(demand.each));
    let mut left = number(sessions);
    let mut sum: u64 = 0;
    for demand in demands {
        let sessions = demand.sessions.min(left);
        sum = sum.saturating_add(sessions.saturating_mul(demand.each));
        left = left.saturating_sub(sessions);
    }
    sum
}

const fn number(limit: Limit) -> u64 {
    match limit {
        Limit::AtMost(most) => most,
        Limit::Unlimited => UNLIMITED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greediest_routes_fill_the_limit_of_sessions() {
        let small = Demand { sessions: 100, each: 1 };
        let large = Demand { sessions: 10, each: 257 };
        let endless = Demand { sessions: UNLIMITED, each: 2 };
        for (demands, sessions, expected) in [
            (vec![], Limit::Unlimited, 0),
            (vec![small, large], Limit::Unlimited, 100 + 2570),
            (vec![small, large], Limit::AtMost(20), 10 + 2570),
            (vec![small, large], Limit::AtMost(5), 5 * 257),
            (vec![endless, large], Limit::AtMost(1000), 2570 + 990 * 2),
            (vec![endless], Limit::Unlimited, UNLIMITED),
        ] {
            assert_eq!(most(demands.clone(), sessions), expected, "{demands:?} in {sessions}");
        }
    }
}
