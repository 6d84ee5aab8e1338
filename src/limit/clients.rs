//! What each client address has open, and how fast it came.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::{address::ClientKey, bucket::Bucket};
use crate::{
    config::{Limit, PerClientLimits, Rate},
    metrics::ClientMetrics,
};

/// Locks that the addresses are spread over, so that workers seldom wait for each other. Each is held for
/// a look into a table, once per connection attempt and session request.
const SHARDS: usize = 16;

/// Addresses with nothing open that are remembered for their rate alone, in each shard: 65,536 in all,
/// some 6 MiB. Past it, all of them begin with a full bucket again. Who has so many addresses could use a
/// new one each time just as well.
const MOST_AWAY: usize = 65_536 / SHARDS;

/// A shard that is smaller is not swept.
const LEAST_SWEPT: usize = 64;

/// Every client address that has something open or came fast. One for the process.
#[derive(Debug)]
pub struct Clients {
    limits: ArcSwap<PerClientLimits>,
    shards: [Mutex<Shard>; SHARDS],
    /// Random, so that nobody can choose addresses of one shard.
    hasher: RandomState,
    metrics: ClientMetrics,
}

impl Clients {
    /// Nobody has come yet.
    pub fn new(limits: PerClientLimits, metrics: ClientMetrics) -> Self {
        Self {
            limits: ArcSwap::from_pointee(limits),
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            metrics,
        }
    }

    /// From now on these. Who is there stays and counts, but for those that came while nothing was limited.
    pub fn change(&self, limits: PerClientLimits) {
        self.limits.store(Arc::new(limits));
    }

    /// Whether the address has all the connections that it may.
    pub fn is_full(&self, address: IpAddr) -> bool {
        let most = self.limits.load().connections;
        if most == Limit::Unlimited {
            return false;
        }
        let key = ClientKey::of(address);
        let open = self.shard(key).addresses.get(&key).map_or(0, |client| client.connections);
        !most.allows_one_more(open)
    }

    /// One connection more, if there is room.
    pub fn connection(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let most = self.limits.load().connections;
        if most == Limit::Unlimited {
            return Some(Place { _taken: None });
        }
        let entered = |client: &mut Client| {
            most.allows_one_more(client.connections).then(|| client.connections += 1)
        };
        self.with(ClientKey::of(address), Instant::now(), entered)?;
        Some(self.place(address, |client| &mut client.connections))
    }

    /// One request for a session more, if it does not come too fast. One that does is not counted.
    ///
    /// # Errors
    /// How long until the next one fits.
    pub fn request(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let rate = self.limits.load().session_rate;
        if rate == Rate::Unlimited {
            return Ok(());
        }
        self.with(ClientKey::of(address), now, |client| client.session_rate.take(rate, now))
    }

    /// One session more, if there is room.
    pub fn session(self: &Arc<Self>, address: IpAddr, now: Instant) -> Option<Place> {
        let most = self.limits.load().sessions;
        if most == Limit::Unlimited {
            return Some(Place { _taken: None });
        }
        let entered = |client: &mut Client| {
            most.allows_one_more(client.sessions).then(|| client.sessions += 1)
        };
        self.with(ClientKey::of(address), now, entered)?;
        Some(self.place(address, |client| &mut client.sessions))
    }

    fn place(self: &Arc<Self>, address: IpAddr, which: fn(&mut Client) -> &mut u64) -> Place {
        let taken = Taken { clients: Arc::clone(self), key: ClientKey::of(address), which };
        Place { _taken: Some(taken) }
    }

    /// Changes what is known of an address, and forgets it if that is nothing.
    fn with<T>(&self, key: ClientKey, now: Instant, change: impl FnOnce(&mut Client) -> T) -> T {
        let mut shard = self.shard(key);
        let before = shard.addresses.len();
        let result = shard.change(key, now, change);
        self.metrics.addresses_changed(before, shard.addresses.len());
        result
    }

    fn shard(&self, key: ClientKey) -> MutexGuard<'_, Shard> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        // Nothing that could panic half-way happens under the lock.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for a connection or a session, for as long as it lives.
#[derive(Debug)]
#[must_use = "the room is free again when this is dropped"]
pub struct Place {
    /// `None` where nothing is limited.
    _taken: Option<Taken>,
}

#[derive(Debug)]
struct Taken {
    clients: Arc<Clients>,
    key: ClientKey,
    which: fn(&mut Client) -> &mut u64,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let leave = |client: &mut Client| {
            let open = (self.which)(client);
            *open = open.saturating_sub(1);
        };
        self.clients.with(self.key, Instant::now(), leave);
    }
}

/// What is known of one address.
#[derive(Clone, Copy, Debug, Default)]
struct Client {
    connections: u64,
    sessions: u64,
    session_rate: Bucket,
}

impl Client {
    fn is_away(&self) -> bool {
        self.connections == 0 && self.sessions == 0
    }

    /// Whether nobody could tell it from an address that never came.
    fn is_nothing(&self, now: Instant) -> bool {
        self.is_away() && self.session_rate.is_full(now)
    }
}

/// A part of all addresses.
#[derive(Debug)]
struct Shard {
    addresses: HashMap<ClientKey, Client>,
    /// At so many addresses it is swept.
    sweep_at: usize,
}

impl Default for Shard {
    fn default() -> Self {
        Self { addresses: HashMap::new(), sweep_at: LEAST_SWEPT }
    }
}

impl Shard {
    fn change<T>(
        &mut self,
        key: ClientKey,
        now: Instant,
        change: impl FnOnce(&mut Client) -> T,
    ) -> T {
        let client = self.addresses.entry(key).or_default();
        let result = change(client);
        if client.is_nothing(now) {
            self.addresses.remove(&key);
        } else if self.addresses.len() >= self.sweep_at {
            self.sweep(now);
        }
        result
    }

    /// Forgets those whose bucket has become full since they left, and where too many are left of those
    /// who are away, all of them. Next time is when there are twice as many, so that it costs each
    /// newcomer the same, however many there are.
    fn sweep(&mut self, now: Instant) {
        self.addresses.retain(|_, client| !client.is_nothing(now));
        let away = self.addresses.values().filter(|client| client.is_away()).count();
        if away > MOST_AWAY {
            self.addresses.retain(|_, client| !client.is_away());
        }
        self.addresses.shrink_to(LEAST_SWEPT);
        self.sweep_at = (2 * self.addresses.len()).max(LEAST_SWEPT);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::metrics::Metrics;

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    fn clients(connections: u64, sessions: u64, session_rate: Rate) -> Arc<Clients> {
        let limits = PerClientLimits {
            connections: Limit::AtMost(connections),
            sessions: Limit::AtMost(sessions),
            session_rate,
        };
        Arc::new(Clients::new(limits, Metrics::new().clients()))
    }

    fn remembered(clients: &Clients) -> usize {
        clients.shards.iter().map(|shard| shard.lock().unwrap().addresses.len()).sum()
    }

    #[test]
    fn each_address_has_connections_of_its_own() {
        let clients = clients(2, 1, Rate::Unlimited);
        let first = clients.connection(A).unwrap();
        assert!(!clients.is_full(A));
        let _second = clients.connection(A).unwrap();
        assert!(clients.is_full(A) && clients.connection(A).is_none());
        assert!(!clients.is_full(B) && clients.connection(B).is_some());
        drop(first);
        assert!(!clients.is_full(A) && clients.connection(A).is_some());
    }

    #[test]
    fn each_address_has_sessions_of_its_own() {
        let (clients, now) = (clients(1, 2, Rate::Unlimited), Instant::now());
        let first = clients.session(A, now).unwrap();
        let _second = clients.session(A, now).unwrap();
        assert!(clients.session(A, now).is_none());
        assert!(clients.session(B, now).is_some());
        assert!(clients.connection(A).is_some(), "connections are counted apart");
        drop(first);
        assert!(clients.session(A, now).is_some());
    }

    #[test]
    fn the_rate_counts_requests_and_tells_when_the_next_may_come() {
        let (clients, now) = (clients(1, 2, Rate::per_second(4)), Instant::now());
        for _ in 0..4 {
            assert_eq!(clients.request(A, now), Ok(()));
        }
        let quarter = Duration::from_millis(250);
        for _ in 0..10 {
            assert_eq!(clients.request(A, now), Err(quarter), "what is refused is not counted");
        }
        assert!(clients.session(A, now).is_some(), "sessions are counted apart");
        assert_eq!(clients.request(B, now), Ok(()));
        assert_eq!(clients.request(A, now + quarter), Ok(()));
    }

    #[test]
    fn an_address_with_nothing_open_and_a_full_bucket_is_forgotten() {
        let (clients, now) = (clients(9, 9, Rate::per_second(1)), Instant::now());
        let connection = clients.connection(A).unwrap();
        assert_eq!(remembered(&clients), 1);
        drop(connection);
        assert_eq!(remembered(&clients), 0);

        // Its bucket is not full, so it is remembered; and it is the same address.
        clients.request(A, now).unwrap();
        assert_eq!(remembered(&clients), 1);
        assert!(clients.request(A, now).is_err());
        drop(clients.connection(A).unwrap());
        assert_eq!(remembered(&clients), 1, "another way in loses nothing");
    }

    #[test]
    fn other_limits_count_who_is_there() {
        let (clients, now) = (clients(9, 9, Rate::Unlimited), Instant::now());
        let held = [clients.session(A, now).unwrap(), clients.session(A, now).unwrap()];
        let fewer = PerClientLimits { sessions: Limit::AtMost(2), ..PerClientLimits::default() };
        clients.change(fewer.clone());
        assert!(clients.session(A, now).is_none());

        // While nothing is limited nobody counts; whose place was counted gives it back all the same.
        let limits = PerClientLimits {
            connections: Limit::Unlimited,
            sessions: Limit::Unlimited,
            session_rate: Rate::Unlimited,
        };
        clients.change(limits);
        let _uncounted = clients.session(A, now).unwrap();
        drop(held);
        clients.change(fewer);
        let _two = [clients.session(A, now).unwrap(), clients.session(A, now).unwrap()];
        assert!(clients.session(A, now).is_none());
    }

    /// Ten an hour are used up; then a hundred a second are allowed.
    #[test]
    fn who_waits_for_a_slow_rate_need_not_wait_once_there_is_a_faster_one() {
        let slow = Rate::AtMost { events: 10, per: Duration::from_secs(3600) };
        let (clients, now) = (clients(9, 9, slow), Instant::now());
        for _ in 0..10 {
            clients.request(A, now).unwrap();
        }
        assert_eq!(clients.request(A, now), Err(Duration::from_secs(360)));
        let fast =
            PerClientLimits { session_rate: Rate::per_second(100), ..PerClientLimits::default() };
        clients.change(fast);
        let hundredth = Duration::from_millis(10);
        assert_eq!(clients.request(A, now), Err(hundredth));
        assert_eq!(clients.request(A, now + hundredth), Ok(()));
    }

    #[test]
    fn looking_and_being_refused_leaves_nothing_behind() {
        let clients = clients(9, 9, Rate::per_second(1));
        assert!(!clients.is_full(A));
        assert_eq!(remembered(&clients), 0);
    }

    #[test]
    fn without_limits_nothing_is_remembered() {
        let limits = PerClientLimits {
            connections: Limit::Unlimited,
            sessions: Limit::Unlimited,
            session_rate: Rate::Unlimited,
        };
        let clients = Arc::new(Clients::new(limits, Metrics::new().clients()));
        let now = Instant::now();
        let _held = (clients.connection(A), clients.session(A, now), clients.request(A, now));
        assert_eq!(remembered(&clients), 0);
    }

    fn network(number: u64) -> IpAddr {
        Ipv6Addr::from_bits(u128::from(number) << 64).into()
    }

    /// A client that never comes twice from the same address.
    #[test]
    fn those_who_only_pass_are_forgotten_in_time() {
        let (clients, begun) = (clients(9, 9, Rate::per_second(100)), Instant::now());
        let _stays: Vec<_> = (0..1000).map(|i| clients.connection(network(i)).unwrap()).collect();
        for i in 0..200_000 {
            // A hundred a second, each of whose buckets is full again after 10 ms.
            let now = begun + Duration::from_millis(10 * i);
            clients.request(network(1000 + i), now).unwrap();
        }
        let most = 2 * 1000 + SHARDS * LEAST_SWEPT;
        assert!(remembered(&clients) <= most, "{}", remembered(&clients));
        assert!(clients.connection(network(5)).is_some());
    }

    /// Worse: buckets that are not full for an hour.
    #[test]
    fn those_who_are_away_are_never_too_many_to_remember() {
        let slow = Rate::AtMost { events: 1, per: Duration::from_secs(3600) };
        let (clients, now) = (clients(9, 9, slow), Instant::now());
        let _stays = clients.session(A, now).unwrap();
        clients.request(A, now).unwrap();
        let mut most = 0;
        for i in 0..400_000 {
            clients.request(network(i), now).unwrap();
            if i % 1000 == 0 {
                most = most.max(remembered(&clients));
            }
        }
        assert!(most > 65_536, "{most} are not yet too many");
        assert!(most <= 2 * 65_536 + SHARDS * LEAST_SWEPT, "{most}");
        assert!(clients.request(A, now).is_err(), "who is there is never forgotten");
    }

    #[test]
    fn the_number_of_addresses_is_shown() {
        let metrics = Metrics::new();
        let limits = PerClientLimits::default();
        let clients = Arc::new(Clients::new(limits, metrics.clients()));
        let held = (clients.connection(A), clients.connection(A), clients.connection(B));
        assert!(metrics.render().contains("tidegate_client_addresses 2\n"));
        drop(held);
        assert!(metrics.render().contains("tidegate_client_addresses 0\n"));
    }
}
