//! Drives: worker threads, their client sockets, connections and sessions.
//!
//! Each worker is a thread with a current-thread runtime, sockets and connections of its own, as the
//! gateway's are, so that no connection is ever worked on by two processors and nothing is locked. What
//! the worker's sessions do are futures of one task, not tasks: they end when the worker ends.
//!
//! What always holds: no more sessions are open than asked for; every session asked for is counted as
//! completed or failed, unless the run was interrupted; every connection is closed, and the servers know,
//! before the report is made.

use std::{io, num::NonZeroU32, ops::Range, thread, time::Duration};

use futures_util::{StreamExt, stream};
use tidegate::client::RequestOptions;
use tokio::time::Instant;

use crate::{
    args::LoadArgs,
    progress::Live,
    tally::{Failure, Tally, Totals},
    target::{Scheme, Target},
    threads,
    transport::{Connection, Session, Socket},
};

/// Client sockets unless the command line says more.
const USUAL_SOCKETS: u32 = 16;

/// What one session does.
pub(crate) trait Scenario: Sync {
    /// Does the work of a session that has just been opened, and counts it. The session is closed by
    /// the caller; when it ends early, this future is dropped.
    async fn drive(&self, session: &Session, number: u32, tally: &Tally);
}

/// How much is driven, and how it is spread.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) target: Target,
    pub(crate) request: RequestOptions,
    pub(crate) sessions: u32,
    pub(crate) per_connection: u32,
    /// Sessions at once on one connection.
    at_once_per_connection: u32,
    /// Connections at once.
    connections_at_once: u32,
    pub(crate) sockets: u32,
    pub(crate) threads: u32,
    pub(crate) timeout: Duration,
}

impl Load {
    pub(crate) fn new(target: Target, request: RequestOptions, args: &LoadArgs) -> Self {
        let per_connection = args.spread.per_connection.get();
        let connections = args.sessions.div_ceil(per_connection).max(1);
        let at_once_per_connection = per_connection.min(args.concurrency.get());
        let connections_at_once =
            (args.concurrency.get() / at_once_per_connection).min(connections);
        let sockets = match target.scheme {
            Scheme::Https | Scheme::Quic => {
                args.spread.sockets.map_or(USUAL_SOCKETS, NonZeroU32::get)
            }
            // Each has one of its own.
            Scheme::Tls | Scheme::Tcp | Scheme::Udp => connections,
        };
        let sockets = sockets.min(connections);
        let threads = args.spread.threads.or_else(processors).map_or(1, NonZeroU32::get);
        Self {
            target,
            request,
            sessions: args.sessions,
            per_connection,
            at_once_per_connection,
            connections_at_once,
            sockets,
            // A worker without a socket or a connection would have nothing to do.
            threads: threads.min(sockets).min(connections_at_once),
            timeout: args.spread.timeout,
        }
    }

    /// Sessions that may be open at the same time.
    pub(crate) fn sessions_at_once(&self) -> u32 {
        self.connections_at_once.saturating_mul(self.at_once_per_connection).min(self.sessions)
    }

    pub(crate) fn connections(&self) -> u32 {
        self.sessions.div_ceil(self.per_connection)
    }

    /// Binds the client sockets of a worker. They live on its runtime.
    pub(crate) fn sockets(&self, worker: u32) -> io::Result<Vec<Socket>> {
        Socket::bind(self, part(self.sockets, self.threads, worker))
    }

    /// The numbers of a connection's sessions.
    pub(crate) fn sessions_of(&self, connection: u32) -> Range<u32> {
        let first = connection * self.per_connection;
        first..first.saturating_add(self.per_connection).min(self.sessions)
    }
}

fn processors() -> Option<NonZeroU32> {
    thread::available_parallelism().ok()?.try_into().ok()
}

/// What worker `index` of `parts` gets of a whole.
const fn part(whole: u32, parts: u32, index: u32) -> u32 {
    whole / parts + (index < whole % parts) as u32
}

/// A run that is over.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) totals: Totals,
    pub(crate) duration: Duration,
    /// Somebody pressed Ctrl-C.
    pub(crate) interrupted: bool,
}

/// Drives the load to its end.
///
/// # Errors
/// If a worker cannot begin: no thread, no runtime, no socket.
pub(crate) fn run(load: &Load, scenario: &impl Scenario, live: Option<Live>) -> io::Result<Done> {
    let begun = Instant::now();
    let parts = threads::run(&threads::counters(load.threads), live, |index, tally| {
        Worker { load, index, tally }.run(scenario)
    })?;
    let finished = parts.iter().map(|(_, finish)| finish.at).max();
    Ok(Done {
        duration: finished.map_or(Duration::ZERO, |at| at - begun),
        interrupted: parts.iter().any(|(_, finish)| finish.interrupted),
        totals: Totals::of(parts.into_iter().map(|(tally, _)| tally)),
    })
}

/// How a worker came to its end.
struct Finish {
    /// When its last session was over.
    at: Instant,
    interrupted: bool,
}

/// One thread of the run.
struct Worker<'a> {
    load: &'a Load,
    index: u32,
    tally: Tally,
}

impl Worker<'_> {
    fn run(self, scenario: &impl Scenario) -> io::Result<(Tally, Finish)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let finish = runtime.block_on(self.drive(scenario))?;
        Ok((self.tally, finish))
    }

    async fn drive(&self, scenario: &impl Scenario) -> io::Result<Finish> {
        let load = self.load;
        let sockets = load.sockets(self.index)?;
        let at_once = part(load.connections_at_once, load.threads, self.index);
        let mine = (self.index..load.connections()).step_by(load.threads as usize);
        let work = stream::iter(mine.zip(sockets.iter().cycle()))
            .for_each_concurrent(at_once as usize, |(connection, socket)| {
                self.connection(socket, connection, scenario)
            });
        let interrupted = tokio::select! {
            () = work => false,
            // What was under way is left as it stands, neither completed nor failed.
            pressed = tokio::signal::ctrl_c() => pressed.map(|()| true)?,
        };
        let at = Instant::now();
        for socket in &sockets {
            socket.close().await;
        }
        Ok(Finish { at, interrupted })
    }

    async fn connection(&self, socket: &Socket, number: u32, scenario: &impl Scenario) {
        let sessions = self.load.sessions_of(number);
        let connection = match socket.connect(self.load, false, &self.tally).await {
            Ok(connection) => connection,
            Err(Failure { kind, what }) => {
                self.tally.failed(Failure::new(kind, format!("connection {number}: {what}")));
                return self.tally.count().sessions_failed.add(sessions.len() as u64);
            }
        };
        let at_once = self.load.at_once_per_connection as usize;
        stream::iter(sessions)
            .for_each_concurrent(at_once, |number| self.session(&connection, number, scenario))
            .await;
    }

    async fn session(&self, connection: &Connection, number: u32, scenario: &impl Scenario) {
        let done = match connection.open_session(self.load, &self.tally).await {
            Ok(session) => self.work(session, number, scenario).await,
            Err(failure) => Err(failure),
        };
        match done {
            Ok(()) => self.tally.count().sessions_completed.inc(),
            Err(mut failure) => {
                failure.what = format!("session {number}: {}", failure.what);
                self.tally.failed(failure);
                self.tally.count().sessions_failed.inc();
            }
        }
    }

    async fn work(
        &self,
        session: Session,
        number: u32,
        scenario: &impl Scenario,
    ) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = scenario.drive(&session, number, &self.tally) => {}
            // The streams and datagrams under way are neither completed nor failed.
            failure = session.cut() => return Err(failure),
        }
        session.close().await
    }
}

/// An error and all its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
