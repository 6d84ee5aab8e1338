//! How much memory the process holds, and whether that leaves room for more.
//!
//! What counts is what the system counts: the resident memory of the whole process, with every buffer of
//! QUIC, TLS and the allocator in it. It is looked at each second on the control side. While it is above the
//! limit, nothing new is let in; whoever is in goes on. Asking costs one load.

mod system;

use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::{
    config::{ByteSize, MemoryLimit},
    metrics::MemoryMetrics,
};

/// How often it is looked at. In so much time a gateway of a thousand new sessions a second grows by some
/// tens of MiB, which the room above the limit has to take.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often at most the allocator is asked to give back what it does not use. It holds up who allocates
/// meanwhile, for milliseconds.
const GIVE_BACK_INTERVAL: Duration = Duration::from_secs(10);

/// Whether there is memory for more. One for the process.
#[derive(Debug)]
pub struct Memory {
    /// In bytes; [`NO_LIMIT`] where there is none.
    limit: AtomicU64,
    is_short: AtomicBool,
    metrics: MemoryMetrics,
}

const NO_LIMIT: u64 = u64::MAX;

/// What the process may be asked, and asked for. The system's, or a test's.
pub trait System: Send + 'static {
    /// Bytes of memory that the process holds.
    fn resident(&mut self) -> Option<u64>;

    /// Gives back to the system what the allocator has and nobody uses.
    fn give_back(&mut self);
}

/// The system itself.
#[derive(Debug, Default)]
pub struct Linux {
    /// Kept open: a process that has run out of descriptors is the last that should not know what it holds.
    statm: Option<File>,
}

impl System for Linux {
    fn resident(&mut self) -> Option<u64> {
        if self.statm.is_none() {
            self.statm = system::open_statm();
        }
        system::resident(self.statm.as_ref()?)
    }

    fn give_back(&mut self) {
        system::give_back();
    }
}

impl Memory {
    /// Room for all, until it was looked at.
    pub fn new(limit: MemoryLimit, metrics: MemoryMetrics) -> Self {
        let memory =
            Self { limit: AtomicU64::new(NO_LIMIT), is_short: AtomicBool::new(false), metrics };
        memory.set_limit(limit);
        memory
    }

    /// Changes the limit, from the next look on. A share of what nobody tells leaves it as it was.
    pub fn set_limit(&self, limit: MemoryLimit) {
        self.set_limit_of(limit, system::available());
    }

    fn set_limit_of(&self, limit: MemoryLimit, available: Option<u64>) {
        let is_unknown = matches!(limit, MemoryLimit::Share(_)) && available.is_none();
        if is_unknown && self.limit.load(Relaxed) != NO_LIMIT {
            warn!("The system does not say how much memory there is; the limit stays as it was.");
            return;
        }
        let bytes = in_bytes(limit, available);
        self.limit.store(bytes.unwrap_or(NO_LIMIT), Relaxed);
        self.metrics.set_limit(bytes);
    }

    /// Whether nothing new is to be let in.
    pub fn is_short(&self) -> bool {
        self.is_short.load(Relaxed)
    }

    /// Looks each second, for ever; the first time at once.
    pub async fn watch(self: Arc<Self>, mut system: impl System) {
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut gave_back = None;
        loop {
            ticks.tick().await;
            self.look(&mut system, &mut gave_back);
        }
    }

    /// Looks once, and asks the allocator for what it does not use before anybody is turned away for it.
    pub fn look(&self, system: &mut impl System, gave_back: &mut Option<Instant>) {
        let Some(mut resident) = system.resident() else { return self.cannot_see() };
        let now = Instant::now();
        let is_due = gave_back.is_none_or(|last| now - last >= GIVE_BACK_INTERVAL);
        if is_due && self.sheds(resident) {
            system.give_back();
            *gave_back = Some(now);
            resident = system.resident().unwrap_or(resident);
        }
        self.decide(Some(resident));
    }

    /// Without a number there is nothing to go by, unless none is wanted.
    fn cannot_see(&self) {
        if self.limit.load(Relaxed) == NO_LIMIT {
            self.decide(None);
        }
    }

    fn sheds(&self, resident: u64) -> bool {
        sheds(self.limit.load(Relaxed), resident, self.is_short())
    }

    fn decide(&self, resident: Option<u64>) {
        let is_short = resident.is_some_and(|resident| self.sheds(resident));
        let was_short = self.is_short.swap(is_short, Relaxed);
        self.metrics.looked(resident, is_short);
        if is_short == was_short {
            return;
        }
        let limit = self.limit.load(Relaxed);
        if is_short {
            warn!(resident, limit, "Short of memory: new sessions and connections are refused.");
        } else {
            info!(resident, limit, "There is memory again.");
        }
    }
}

/// Whether nothing new is to be let in. Pure.
///
/// Once it is so, it stays so until a twentieth of the limit is free: one session that ends is not to let in
/// one that is refused a second later.
fn sheds(limit: u64, resident: u64, sheds_already: bool) -> bool {
    let bound = if sheds_already { limit - limit / 20 } else { limit };
    limit != NO_LIMIT && resident >= bound
}

/// The limit as a number. Where nobody says how much there is, a share of it bounds nothing.
fn in_bytes(limit: MemoryLimit, available: Option<u64>) -> Option<u64> {
    match limit {
        // Divided first: it is not to overflow, and the difference is less than a hundred bytes.
        MemoryLimit::Share(share) => available.map(|bytes| bytes / 100 * u64::from(share)),
        MemoryLimit::AtMost(ByteSize(bytes)) => Some(bytes),
        MemoryLimit::Unlimited => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    /// Bytes in use, and bytes that the allocator keeps.
    #[derive(Default)]
    struct Fake {
        used: u64,
        kept: u64,
        asked: u32,
    }

    impl System for Fake {
        fn resident(&mut self) -> Option<u64> {
            Some(self.used + self.kept)
        }

        fn give_back(&mut self) {
            self.asked += 1;
            self.kept = 0;
        }
    }

    /// Says nothing, as where there is no /proc.
    struct Mute;

    impl System for Mute {
        fn resident(&mut self) -> Option<u64> {
            None
        }

        fn give_back(&mut self) {}
    }

    fn memory(bytes: u64) -> (Memory, Metrics) {
        let metrics = Metrics::new();
        (Memory::new(MemoryLimit::AtMost(ByteSize(bytes)), metrics.memory()), metrics)
    }

    #[test]
    fn it_sheds_from_the_limit_on_until_a_twentieth_is_free() {
        for (limit, resident, already, expected) in [
            (1_000, 0, false, false),
            (1_000, 999, false, false),
            (1_000, 1_000, false, true),
            (1_000, 999, true, true),
            (1_000, 950, true, true),
            (1_000, 949, true, false),
            (1, 1, false, true),
            (1, 0, true, false),
            (NO_LIMIT, u64::MAX, false, false),
            (NO_LIMIT, u64::MAX, true, false),
        ] {
            assert_eq!(
                sheds(limit, resident, already),
                expected,
                "{resident} of {limit}, {already}"
            );
        }
    }

    #[test]
    fn a_share_is_one_of_what_there_is() {
        let share = |share, available| in_bytes(MemoryLimit::Share(share), available);
        assert_eq!(share(80, Some(1_000)), Some(800));
        assert_eq!(share(100, Some(u64::MAX)), Some(u64::MAX / 100 * 100));
        assert_eq!(share(80, None), None);
        assert_eq!(in_bytes(MemoryLimit::AtMost(ByteSize(7)), Some(5)), Some(7));
        assert_eq!(in_bytes(MemoryLimit::Unlimited, Some(5)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_looked_at_each_second_and_at_once() {
        let (memory, metrics) = memory(1_000);
        let memory = Arc::new(memory);
        let watch = Arc::clone(&memory).watch(Fake { used: 1_000, ..Fake::default() });
        assert!(tokio::time::timeout(Duration::from_millis(1), watch).await.is_err());
        assert!(memory.is_short());
        let text = metrics.render();
        for line in [
            "tidegate_memory_resident_bytes 1000",
            "tidegate_memory_limit_bytes 1000",
            "tidegate_memory_short 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in {text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_allocator_keeps_turns_nobody_away() {
        let (memory, _metrics) = memory(1_000);
        let (mut system, mut gave_back) = (Fake { used: 500, kept: 600, asked: 0 }, None);
        memory.look(&mut system, &mut gave_back);
        assert_eq!((memory.is_short(), system.asked), (false, 1));

        // It is not asked all the time.
        system.kept = 600;
        memory.look(&mut system, &mut gave_back);
        assert_eq!((memory.is_short(), system.asked), (true, 1));
        tokio::time::advance(GIVE_BACK_INTERVAL).await;
        memory.look(&mut system, &mut gave_back);
        assert_eq!((memory.is_short(), system.asked), (false, 2));

        // And not at all while there is room.
        tokio::time::advance(GIVE_BACK_INTERVAL).await;
        system.kept = 400;
        memory.look(&mut system, &mut gave_back);
        assert_eq!((memory.is_short(), system.asked), (false, 2));
    }

    #[test]
    fn a_new_limit_counts_from_the_next_look_on() {
        let (memory, metrics) = memory(1_000);
        let (mut system, mut gave_back) = (Fake { used: 1_000, ..Fake::default() }, None);
        memory.look(&mut system, &mut gave_back);
        assert!(memory.is_short());
        memory.set_limit(MemoryLimit::Unlimited);
        memory.look(&mut system, &mut gave_back);
        assert!(!memory.is_short());
        assert!(metrics.render().contains("tidegate_memory_limit_bytes inf"));
    }

    /// A reload must not lift the bound because a file could not be read at that moment.
    #[test]
    fn a_share_of_what_nobody_tells_leaves_the_limit_as_it_was() {
        let (memory, metrics) = memory(1_000);
        memory.set_limit_of(MemoryLimit::Share(80), None);
        assert!(metrics.render().contains("tidegate_memory_limit_bytes 1000"));
        memory.set_limit_of(MemoryLimit::Share(80), Some(10_000));
        assert!(metrics.render().contains("tidegate_memory_limit_bytes 8000"));
    }

    /// The look that found memory short was the last that could be had.
    #[test]
    fn who_cannot_be_asked_any_more_changes_nothing_but_no_limit_is_no_limit() {
        let (memory, _) = memory(1_000);
        memory.look(&mut Fake { used: 1_000, ..Fake::default() }, &mut None);
        memory.look(&mut Mute, &mut None);
        assert!(memory.is_short());
        memory.set_limit(MemoryLimit::Unlimited);
        memory.look(&mut Mute, &mut None);
        assert!(!memory.is_short());
    }

    /// The numbers are those of this very process.
    #[test]
    fn the_system_says_what_this_process_holds() {
        let mut linux = Linux::default();
        let before = linux.resident().unwrap();
        let much = vec![1_u8; 64 << 20];
        let after = linux.resident().unwrap();
        assert!(after >= before + (32 << 20), "{before} and {after}");
        drop(much);
        linux.give_back();
        assert!(system::available().unwrap() > 64 << 20);
    }
}
