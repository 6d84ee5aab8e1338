//! Runs a steady scenario: worker threads, their sessions, the pace, and the end.
//!
//! First all workers open their sessions; then all begin at the same time. What the lanes do are futures of
//! the worker's one task, as everywhere in this program.

use std::{
    cell::Cell,
    convert::Infallible,
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
use tokio::time::{Instant, sleep};

use super::{
    Lane, Looked, Place, Turns, Window, Work,
    gathering::{Coming, Gathering},
    pace::{Length, Pace, Schedule, Timer},
    watch::{Observed, Watch},
};
use crate::{
    progress::Live,
    run::Load,
    tally::{Counters, Failure, Tally, Timed, Totals},
    threads,
    transport::{Session, Socket},
};

/// Connections that a worker makes at the same time, before the run begins.
const CONNECTING: usize = 64;

/// Sessions of a worker that end at the same time: a server that answers no end is waited for some seconds each
/// time.
const CLOSING: usize = 1024;

/// In less time a worker's share of the processor says nothing.
const SHORTEST: Duration = Duration::from_millis(100);

/// How long after all sessions are there the run begins, so that no worker is late for it.
const LEAD: Duration = Duration::from_millis(20);

/// What is run, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    pub(crate) pace: Pace,
    /// How long the rate, or the number of lanes at work, grows.
    pub(crate) ramp: Duration,
    /// How long it goes on then, unmeasured.
    pub(crate) warmup: Duration,
    pub(crate) length: Length,
}

impl Course {
    /// From the beginning to the measured part.
    fn lead(&self) -> Duration {
        self.ramp + self.warmup
    }
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
    /// What all workers spent there.
    pub(crate) busy: Duration,
    /// Times that the client's address changed.
    pub(crate) moves: u64,
    /// What was seen of the server, if it was watched.
    pub(crate) server: Option<Result<Observed, String>>,
    pub(crate) interrupted: bool,
}

/// What the workers share.
struct Run<'a, W> {
    load: &'a Load,
    course: Course,
    work: &'a W,
    everybody: Gathering,
    begins: OnceLock<Instant>,
    /// What may still begin in a closed loop that is counted.
    left: Option<AtomicU64>,
    moves: AtomicU64,
    interrupted: AtomicBool,
    looked: Looked,
}

impl<W> Run<'_, W> {
    /// Looks at the server when the measured part begins and when it ends, to the microsecond as far as the
    /// machine allows. `over` is closed when no worker works any more. An error says in words why nothing was seen.
    fn look_on(
        &self,
        watch: &Watch,
        counters: &[Arc<Counters>],
        over: &mpsc::Receiver<Infallible>,
    ) -> Result<Observed, String> {
        let warm = *self.begins.wait() + self.course.lead();
        let is_over_at = |at: Instant| {
            let wait = at.saturating_duration_since(Instant::now());
            over.recv_timeout(wait) == Err(mpsc::RecvTimeoutError::Disconnected)
        };
        if is_over_at(warm) {
            return Err("the run ended before anything was measured".to_owned());
        }
        let first = watch.look_first(counters)?;
        match self.course.length {
            Length::For(time) => _ = is_over_at(warm + time),
            // An error says that it is over.
            Length::Count(_) => _ = over.recv(),
        }
        Ok(Observed::between(&first, &watch.look_last(counters)?))
    }
}

/// What a worker has come to.
struct Part {
    tally: Tally,
    due: u64,
    /// From the end of the warm-up until its last operation was over.
    measured: Duration,
    /// What it had of the processor in that time, and that as a share.
    busy: Duration,
    share: f64,
}

/// Runs the scenario to its end.
///
/// # Errors
/// If a worker cannot begin: no thread, no runtime, no socket.
pub(crate) fn run(
    load: &Load,
    course: Course,
    work: &impl Work,
    watch: Option<&Watch>,
    live: Option<Live>,
) -> io::Result<Done> {
    let run = Run {
        load,
        course,
        work,
        everybody: Gathering::new(load.threads),
        begins: OnceLock::new(),
        left: match (course.pace, course.length) {
            (Pace::Closed { .. }, Length::Count(count)) => Some(AtomicU64::new(count)),
            _ => None,
        },
        moves: AtomicU64::new(0),
        interrupted: AtomicBool::new(false),
        looked: Looked::default(),
    };
    let counters = threads::counters(load.threads);
    let (working, over) = mpsc::channel();
    let (parts, server) = thread::scope(|scope| {
        let (run, counters) = (&run, &counters);
        let looking = watch.map(|watch| {
            scope.spawn(move || {
                let observed = run.look_on(watch, counters, &over);
                run.looked.happened();
                observed
            })
        });
        if looking.is_none() {
            run.looked.happened();
        }
        let parts = threads::run(counters, live, |index, tally| {
            let working = Cell::new(Some(working.clone()));
            Worker { run, index, tally, working }.run()
        });
        drop(working);
        // Nobody waits for what could not begin.
        run.begins.get_or_init(Instant::now);
        // It does not panic; if it did there would be no word of the server.
        (parts, looking.and_then(|looking| looking.join().ok()))
    });
    let parts: Vec<Part> = parts?.into_iter().flatten().collect();
    let longest = parts.iter().map(|part| part.measured).max().unwrap_or_default();
    Ok(Done {
        measured: match course.length {
            Length::For(time) if !run.interrupted.load(Ordering::Relaxed) => time,
            _ => longest,
        },
        due: parts.iter().map(|part| part.due).sum(),
        busiest: parts.iter().map(|part| part.share).fold(0.0, f64::max),
        busy: parts.iter().map(|part| part.busy).sum(),
        moves: run.moves.load(Ordering::Relaxed),
        server,
        interrupted: run.interrupted.load(Ordering::Relaxed),
        totals: Totals::of(parts.into_iter().map(|part| part.tally)),
    })
}

/// One thread of the run.
struct Worker<'a, W> {
    run: &'a Run<'a, W>,
    index: u32,
    tally: Tally,
    /// Dropped when its operations are over.
    working: Cell<Option<mpsc::Sender<Infallible>>>,
}

impl<W: Work> Worker<'_, W> {
    /// `None`: another worker could not begin, and says why.
    fn run(self) -> io::Result<Option<Part>> {
        let coming = self.run.everybody.coming();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let Some((due, measured, busy)) = runtime.block_on(self.drive(coming))? else {
            return Ok(None);
        };
        let share =
            if measured < SHORTEST { 0.0 } else { busy.as_secs_f64() / measured.as_secs_f64() };
        Ok(Some(Part { tally: self.tally, due, measured, busy, share: share.min(1.0) }))
    }

    /// How many operations were due, how long that took, and what it took of the processor.
    async fn drive(&self, coming: Coming<'_>) -> io::Result<Option<(u64, Duration, Duration)>> {
        let sockets = self.run.load.sockets(self.index)?;
        let opened = match self.run.work.has_sessions() {
            true => self.open_all(&sockets).await,
            false => Vec::new(),
        };
        if !coming.all().await {
            return Ok(None);
        }
        let start = *self.run.begins.get_or_init(|| Instant::now() + LEAD);

        let window = self.window(start);
        let released = Cell::new(0);
        let turns = self.turns(start, self.lanes(&opened).len(), &released);
        let lanes: Vec<Lane<'_>> = self
            .lanes(&opened)
            .into_iter()
            .zip(0..)
            .map(|(number, index)| {
                // They come one after the other.
                let part = f64::from(number) / f64::from(self.run.load.sessions.max(1));
                let begins = start + self.run.course.ramp.mul_f64(part);
                Lane::new(number, index, &self.tally, window, &turns, begins)
            })
            .collect();

        let busy_before = Cell::new(Duration::ZERO);
        let warm = async {
            tokio::time::sleep_until(window.warm).await;
            busy_before.set(thread_time());
            future::pending::<()>().await;
        };
        let work = self.work(&sockets, &opened, &lanes);
        tokio::select! {
            () = work => {}
            result = release(&turns, &lanes, &self.tally) => result?,
            result = self.move_about(&sockets) => result?,
            () = warm => {}
            // What was under way is left as it stands.
            pressed = tokio::signal::ctrl_c() => {
                pressed?;
                self.run.interrupted.store(true, Ordering::Relaxed);
            }
        }
        let measured = Instant::now().saturating_duration_since(window.warm);
        let busy = thread_time().saturating_sub(busy_before.get());
        self.working.take();
        let due = match &turns {
            Turns::Open { schedule, .. } => schedule.measured(),
            Turns::Closed { .. } => self.tally.count().operations_begun.get(),
        };
        drop(lanes);
        // What follows is no part of what the server did for the operations.
        self.run.looked.wait().await;
        self.close_all(opened).await;
        for socket in &sockets {
            socket.close().await;
        }
        Ok(Some((due, measured, busy)))
    }

    fn window(&self, start: Instant) -> Window {
        let warm = start + self.run.course.lead();
        let end = match self.run.course.length {
            Length::For(time) => Some(warm + time),
            Length::Count(_) => None,
        };
        Window { warm, end }
    }

    fn turns<'a>(&'a self, start: Instant, lanes: usize, released: &'a Cell<u64>) -> Turns<'a> {
        let Course { ramp, warmup, length, pace } = self.run.course;
        match pace {
            Pace::Open { events, per } => Turns::Open {
                schedule: Schedule::new(
                    start,
                    (ramp, warmup, length),
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
    fn lanes(&self, opened: &[(u32, Session)]) -> Vec<u32> {
        if self.run.work.has_sessions() {
            return opened.iter().map(|(number, _)| *number).collect();
        }
        let load = self.run.load;
        (self.index..load.sessions).step_by(load.threads as usize).collect()
    }

    /// Opens the worker's sessions. What cannot be opened is counted, and has no lane.
    async fn open_all(&self, sockets: &[Socket]) -> Vec<(u32, Session)> {
        let load = self.run.load;
        let mine = (self.index..load.connections()).step_by(load.threads as usize);
        stream::iter(mine.zip(sockets.iter().cycle()))
            .map(|(number, socket)| self.open(socket, number))
            .buffered(CONNECTING)
            .flat_map(stream::iter)
            .collect()
            .await
    }

    /// Makes a connection with its sessions.
    async fn open(&self, socket: &Socket, number: u32) -> Vec<(u32, Session)> {
        let (load, tally) = (self.run.load, &self.tally);
        let numbers = load.sessions_of(number);
        let connection = match socket.connect(load, self.run.work.dials_ahead(), tally).await {
            Ok(connection) => connection,
            Err(failure) => {
                tally.count().sessions_failed.add(numbers.len() as u64);
                tally.failed(failure);
                return Vec::new();
            }
        };
        let mut opened = Vec::new();
        for number in numbers {
            match connection.open_session(load, tally).await {
                Ok(session) => opened.push((number, session)),
                Err(failure) => {
                    tally.count().sessions_failed.inc();
                    tally.failed(failure);
                }
            }
        }
        opened
    }

    /// Lets every lane work, until all have done or given up.
    async fn work(&self, sockets: &[Socket], opened: &[(u32, Session)], lanes: &[Lane<'_>]) {
        let places = lanes.iter().enumerate().map(|(i, lane)| {
            let session = opened.get(i).map(|(_, session)| session);
            (lane, session, sockets.get(i % sockets.len().max(1)))
        });
        let mut running: FuturesUnordered<_> = places
            .filter_map(|(lane, session, socket)| Some((lane, session, socket?)))
            .map(|(lane, session, socket)| self.lane(lane, session, socket))
            .collect();
        while running.next().await.is_some() {}
    }

    async fn lane(&self, lane: &Lane<'_>, session: Option<&Session>, socket: &Socket) {
        let load = self.run.load;
        let place = Place { load, socket, session, looked: &self.run.looked };
        let lost = async {
            match session {
                Some(session) => session.cut().await,
                None => future::pending().await,
            }
        };
        // A lane of connections is not stuck while they are there; what one does has its own deadlines.
        let stuck = async {
            match session {
                Some(_) if !self.run.work.has_deadlines() => lane.stuck(load.timeout).await,
                _ => future::pending().await,
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

    async fn close_all(&self, opened: Vec<(u32, Session)>) {
        let closing = opened.into_iter().map(|(_, session)| async move {
            match session.close().await {
                Ok(()) => self.tally.count().sessions_completed.inc(),
                Err(failure) => {
                    self.tally.count().sessions_failed.inc();
                    self.tally.failed(failure);
                }
            }
        });
        stream::iter(closing).for_each_concurrent(CLOSING, |closing| closing).await;
    }

    /// Changes the addresses of the worker's connections, as often as the work wants.
    async fn move_about(&self, sockets: &[Socket]) -> io::Result<()> {
        let Some(every) = self.run.work.moves_every() else { return future::pending().await };
        loop {
            sleep(every).await;
            for socket in sockets {
                socket.change_address()?;
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
