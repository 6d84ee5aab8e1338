//! Runs a steady scenario: worker threads, their sessions, the pace, and the end.
//!
//! First all workers open their sessions; then all begin at the same time. What the lanes do are futures of
//! the worker's one task, as everywhere in this program.

use std::{
    cell::Cell,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use futures_util::{
    StreamExt, future,
    stream::{self, FuturesUnordered},
};
use nix::time::{ClockId, clock_gettime};
use tidegate::client::{Connection, Endpoint, Session};
use tokio::{
    sync::Barrier,
    time::{Instant, sleep},
};

use super::{
    Lane, Place, Turns, Window, Work,
    pace::{Length, Pace, Schedule, Timer},
    process::{Cost, Watch},
};
use crate::{
    progress::{self, LivePace},
    run::{Load, close, connect, cut, open_session},
    tally::{Counters, Failure, Tally, Timed, Totals, sum},
};

/// Connections that a worker makes at the same time, before the run begins.
const CONNECTING: usize = 64;

/// In less time a worker's share of the processor says nothing.
const SHORTEST: Duration = Duration::from_millis(100);

/// How long after all sessions are there the run begins, so that no worker is late for it.
const LEAD: Duration = Duration::from_millis(20);

/// What is run, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    pub(crate) pace: Pace,
    pub(crate) warmup: Duration,
    pub(crate) length: Length,
}

/// A run that is over.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) totals: Totals,
    /// What was measured, without the warm-up.
    pub(crate) measured: Duration,
    /// Operations that were due in that time; in a closed loop those that began.
    pub(crate) due: u64,
    /// The share of its time that the busiest worker spent on the processor.
    pub(crate) busiest: f64,
    /// Times that the client's address changed.
    pub(crate) moves: u64,
    /// What the server's process cost, if it was watched.
    pub(crate) server: Option<Cost>,
    pub(crate) interrupted: bool,
}

/// What the workers share.
struct Run<'a, W> {
    load: &'a Load,
    course: Course,
    work: &'a W,
    everybody: Barrier,
    begins: OnceLock<Instant>,
    /// What may still begin in a closed loop that is counted.
    left: Option<AtomicU64>,
    moves: AtomicU64,
    interrupted: AtomicBool,
}

impl<W> Run<'_, W> {
    /// Whether the warm-up is over and the end has not come.
    fn is_measuring(&self, now: Instant) -> bool {
        let Some(begins) = self.begins.get() else { return false };
        let warm = *begins + self.course.warmup;
        match self.course.length {
            Length::For(time) => (warm..warm + time).contains(&now),
            Length::Count(_) => now >= warm,
        }
    }
}

/// What a worker has come to.
struct Part {
    tally: Tally,
    due: u64,
    /// From the end of the warm-up until its last operation was over, and the processor's share of that.
    measured: Duration,
    busy: f64,
}

/// Runs the scenario to its end.
///
/// # Errors
/// If a worker cannot begin: no thread, no runtime, no socket.
pub(crate) fn run(
    load: &Load,
    course: Course,
    work: &impl Work,
    mut watch: Option<Watch>,
    mut live: Option<LivePace>,
) -> io::Result<Done> {
    let run = Run {
        load,
        course,
        work,
        everybody: Barrier::new(load.threads as usize),
        begins: OnceLock::new(),
        left: match (course.pace, course.length) {
            (Pace::Closed { .. }, Length::Count(count)) => Some(AtomicU64::new(count)),
            _ => None,
        },
        moves: AtomicU64::new(0),
        interrupted: AtomicBool::new(false),
    };
    let counters: Vec<Arc<Counters>> = (0..load.threads).map(|_| Arc::default()).collect();
    let (ended, workers_ended) = mpsc::channel();
    let results = thread::scope(|scope| {
        for (index, counters) in (0..).zip(&counters) {
            let (ended, tally, run) = (ended.clone(), Tally::new(Arc::clone(counters)), &run);
            let worker = move || {
                // The receiver waits for all senders.
                _ = ended.send(Worker { run, index, tally }.run());
            };
            thread::Builder::new().name(format!("load-{index}")).spawn_scoped(scope, worker)?;
        }
        drop(ended);
        let mut results = Vec::new();
        loop {
            match workers_ended.recv_timeout(progress::INTERVAL) {
                Ok(result) => results.push(result),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok::<_, io::Error>(results),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            if let Some(watch) = &mut watch
                && run.is_measuring(Instant::now())
            {
                watch.look(sum(&counters, |c| &c.operations));
            }
            if let Some(live) = &mut live {
                live.draw(&counters);
            }
        }
    })?;
    if let Some(live) = live {
        live.clear();
    }
    let parts: Vec<Part> = results.into_iter().collect::<io::Result<_>>()?;
    let longest = parts.iter().map(|part| part.measured).max().unwrap_or_default();
    Ok(Done {
        measured: match course.length {
            Length::For(time) if !run.interrupted.load(Ordering::Relaxed) => time,
            _ => longest,
        },
        due: parts.iter().map(|part| part.due).sum(),
        busiest: parts.iter().map(|part| part.busy).fold(0.0, f64::max),
        moves: run.moves.load(Ordering::Relaxed),
        server: watch.as_ref().and_then(Watch::cost),
        interrupted: run.interrupted.load(Ordering::Relaxed),
        totals: Totals::of(parts.into_iter().map(|part| part.tally)),
    })
}

/// One thread of the run.
struct Worker<'a, W> {
    run: &'a Run<'a, W>,
    index: u32,
    tally: Tally,
}

/// A session with what it needs to be ended well.
struct Opened {
    connection: Connection,
    session: Session,
}

impl<W: Work> Worker<'_, W> {
    fn run(self) -> io::Result<Part> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (due, measured, busy) = runtime.block_on(self.drive())?;
        Ok(Part { tally: self.tally, due, measured, busy })
    }

    async fn drive(&self) -> io::Result<(u64, Duration, f64)> {
        let endpoints = self.run.load.endpoints(self.index);
        let opened = match &endpoints {
            Ok(endpoints) if self.run.work.has_sessions() => self.open_all(endpoints).await,
            _ => Vec::new(),
        };
        // Whoever could not begin must not leave the others waiting.
        self.run.everybody.wait().await;
        let endpoints = endpoints?;
        let start = *self.run.begins.get_or_init(|| Instant::now() + LEAD);

        let window = self.window(start);
        let released = Cell::new(0);
        let turns = self.turns(start, self.lanes(&opened).len(), &released);
        let lanes: Vec<Lane<'_>> = self
            .lanes(&opened)
            .into_iter()
            .zip(0..)
            .map(|(number, index)| Lane::new(number, index, &self.tally, window, &turns))
            .collect();

        let busy_before = Cell::new(Duration::ZERO);
        let warm = async {
            tokio::time::sleep_until(window.warm).await;
            busy_before.set(thread_time());
            future::pending::<()>().await;
        };
        let work = self.work(&endpoints, &opened, &lanes);
        tokio::select! {
            () = work => {}
            result = release(&turns, &lanes, &self.tally) => result?,
            result = self.move_about(&endpoints) => result?,
            () = warm => {}
            // What was under way is left as it stands.
            pressed = tokio::signal::ctrl_c() => {
                pressed?;
                self.run.interrupted.store(true, Ordering::Relaxed);
            }
        }
        let measured = Instant::now().saturating_duration_since(window.warm);
        let busy = thread_time().saturating_sub(busy_before.get());
        let share =
            if measured < SHORTEST { 0.0 } else { busy.as_secs_f64() / measured.as_secs_f64() };
        let due = match &turns {
            Turns::Open { schedule, .. } => schedule.measured(),
            Turns::Closed { .. } => self.tally.count().operations_begun.get(),
        };
        drop(lanes);
        self.close_all(opened).await;
        for endpoint in &endpoints {
            endpoint.close().await;
        }
        Ok((due, measured, share.min(1.0)))
    }

    fn window(&self, start: Instant) -> Window {
        let Course { warmup, length, pace } = self.run.course;
        let warm = start + warmup;
        let end = match (length, pace) {
            (Length::For(time), _) => Some(warm + time),
            (Length::Count(_), _) => None,
        };
        Window { warm, end }
    }

    fn turns<'a>(&'a self, start: Instant, lanes: usize, released: &'a Cell<u64>) -> Turns<'a> {
        let Course { warmup, length, pace } = self.run.course;
        match pace {
            Pace::Open { events, per } => Turns::Open {
                schedule: Schedule::new(
                    (start, warmup, length),
                    (events, per),
                    (self.index, self.run.load.threads),
                ),
                released,
                lanes: lanes.max(1) as u64,
            },
            Pace::Closed { depth } => Turns::Closed { depth, left: self.run.left.as_ref() },
        }
    }

    /// The numbers of the worker's lanes.
    fn lanes(&self, opened: &[(u32, Opened)]) -> Vec<u32> {
        if self.run.work.has_sessions() {
            return opened.iter().map(|(number, _)| *number).collect();
        }
        let load = self.run.load;
        (self.index..load.sessions).step_by(load.threads as usize).collect()
    }

    /// Opens the worker's sessions. What cannot be opened is counted, and has no lane.
    async fn open_all(&self, endpoints: &[Endpoint]) -> Vec<(u32, Opened)> {
        let load = self.run.load;
        let mine = (self.index..load.connections()).step_by(load.threads as usize);
        stream::iter(mine.zip(endpoints.iter().cycle()))
            .map(|(number, endpoint)| self.open(endpoint, number))
            .buffered(CONNECTING)
            .flat_map(stream::iter)
            .collect()
            .await
    }

    /// Makes a connection with its sessions.
    async fn open(&self, endpoint: &Endpoint, number: u32) -> Vec<(u32, Opened)> {
        let (load, tally) = (self.run.load, &self.tally);
        let numbers = load.sessions_of(number);
        let connection = match connect(endpoint, load, tally).await {
            Ok(connection) => connection,
            Err(failure) => {
                tally.count().sessions_failed.add(numbers.len() as u64);
                tally.failed(failure);
                return Vec::new();
            }
        };
        let mut opened = Vec::new();
        for number in numbers {
            match open_session(&connection, load, tally).await {
                Ok(session) => {
                    opened.push((number, Opened { connection: connection.clone(), session }));
                }
                Err(failure) => {
                    tally.count().sessions_failed.inc();
                    tally.failed(failure);
                }
            }
        }
        opened
    }

    /// Lets every lane work, until all have done or given up.
    async fn work(&self, endpoints: &[Endpoint], opened: &[(u32, Opened)], lanes: &[Lane<'_>]) {
        let places = lanes.iter().enumerate().map(|(i, lane)| {
            let opened = opened.get(i).map(|(_, opened)| opened);
            (lane, opened, endpoints.get(i % endpoints.len().max(1)))
        });
        let mut running: FuturesUnordered<_> = places
            .filter_map(|(lane, opened, endpoint)| Some((lane, opened, endpoint?)))
            .map(|(lane, opened, endpoint)| self.lane(lane, opened, endpoint))
            .collect();
        while running.next().await.is_some() {}
    }

    async fn lane(&self, lane: &Lane<'_>, opened: Option<&Opened>, endpoint: &Endpoint) {
        let load = self.run.load;
        let place = Place { load, endpoint, session: opened.map(|opened| &opened.session) };
        let lost = async {
            match opened {
                Some(Opened { connection, session }) => cut(connection, &session.closed().await),
                None => future::pending().await,
            }
        };
        // A lane of connections is not stuck while they are there; what one does has its own deadlines.
        let stuck = async {
            match opened {
                Some(_) => lane.stuck(load.timeout).await,
                None => future::pending().await,
            }
        };
        let ended = tokio::select! {
            biased;
            ended = self.run.work.run(place, lane) => ended,
            failure = lost => Err(failure),
            failure = stuck => Err(failure),
        };
        if let Err(Failure { kind, what }) = ended {
            let what = format!("lane {}: {what}", lane.number);
            self.tally.failed(Failure { kind, what });
        }
    }

    async fn close_all(&self, opened: Vec<(u32, Opened)>) {
        let closing = opened.into_iter().map(|(_, Opened { connection, session })| async move {
            match close(&connection, session).await {
                Ok(()) => self.tally.count().sessions_completed.inc(),
                Err(failure) => {
                    self.tally.count().sessions_failed.inc();
                    self.tally.failed(failure);
                }
            }
        });
        stream::iter(closing).for_each_concurrent(CONNECTING, |closing| closing).await;
    }

    /// Changes the addresses of the worker's connections, as often as the work wants.
    async fn move_about(&self, endpoints: &[Endpoint]) -> io::Result<()> {
        let Some(every) = self.run.work.moves_every() else { return future::pending().await };
        loop {
            sleep(every).await;
            for endpoint in endpoints {
                endpoint.change_address()?;
                self.run.moves.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Hands out turns when they are due. Never resolves, but when the timer fails.
async fn release(turns: &Turns<'_>, lanes: &[Lane<'_>], tally: &Tally) -> io::Result<()> {
    let Turns::Open { schedule, released, .. } = turns else { return future::pending().await };
    let timer = Timer::new()?;
    for (index, lane) in (0..schedule.len()).zip(lanes.iter().cycle()) {
        let due = schedule.due(index);
        timer.until(due).await?;
        if lane.is_measured(due) {
            tally.took(Timed::Late, due.elapsed());
        }
        released.set(index + 1);
        lane.wake();
    }
    future::pending().await
}

/// What this thread has had of the processor.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
