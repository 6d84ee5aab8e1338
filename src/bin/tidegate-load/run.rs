//! Drives: worker threads, their client sockets, connections and sessions.
//!
//! Each worker is a thread with a current-thread runtime, sockets and connections of its own, as the
//! gateway's are, so that no connection is ever worked on by two processors and nothing is locked. What
//! the worker's sessions do are futures of one task, not tasks: they end when the worker ends.
//!
//! What always holds: no more sessions are open than asked for; every session asked for is counted as
//! completed or failed, unless the run was interrupted; every connection is closed, and the servers know,
//! before the report is made.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    ops::Range,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tidegate::client::{Closed, Connection, Endpoint, Options, Refused, RequestOptions, Session};
use tokio::time::{Instant, timeout};

use crate::{
    args::LoadArgs,
    progress::{self, Live},
    tally::{Counters, Failure, Kind, Tally, Timed, Totals},
    target::Target,
};

/// Client sockets unless the command line says more.
const USUAL_SOCKETS: u32 = 16;

/// The code of a clean end of a connection (RFC 9114 section 8.1).
const H3_NO_ERROR: u64 = 0x100;

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
        let per_connection = args.per_connection.get();
        let connections = args.sessions.div_ceil(per_connection).max(1);
        let at_once_per_connection = per_connection.min(args.concurrency.get());
        let connections_at_once =
            (args.concurrency.get() / at_once_per_connection).min(connections);
        let sockets = args.sockets.map_or(USUAL_SOCKETS, NonZeroU32::get).min(connections);
        let threads = args.threads.or_else(processors).map_or(1, NonZeroU32::get);
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
            timeout: args.timeout,
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
    pub(crate) fn endpoints(&self, worker: u32) -> io::Result<Vec<Endpoint>> {
        let local = match self.target.address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let mut options = Options::new(self.target.trust.clone());
        options.connect_timeout = self.timeout;
        // Long enough that a stalled stream is told as such before its connection is.
        options.idle_timeout = options.idle_timeout.max(self.timeout.saturating_mul(2));
        let sockets = part(self.sockets, self.threads, worker);
        (0..sockets).map(|_| Endpoint::bind(local, &options)).collect()
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
pub(crate) fn run(
    load: &Load,
    scenario: &impl Scenario,
    mut live: Option<Live>,
) -> io::Result<Done> {
    let begun = Instant::now();
    let counters: Vec<Arc<Counters>> = (0..load.threads).map(|_| Arc::default()).collect();
    let (ended, workers_ended) = mpsc::channel();
    let results = thread::scope(|scope| {
        for (index, counters) in (0..).zip(&counters) {
            let (ended, counters) = (ended.clone(), Arc::clone(counters));
            thread::Builder::new().name(format!("load-{index}")).spawn_scoped(
                scope,
                move || {
                    // The receiver waits for all senders.
                    _ = ended
                        .send(Worker { load, index, tally: Tally::new(counters) }.run(scenario));
                },
            )?;
        }
        drop(ended);
        let mut results = Vec::new();
        loop {
            match workers_ended.recv_timeout(progress::INTERVAL) {
                Ok(result) => results.push(result),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok::<_, io::Error>(results),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            if let Some(live) = &mut live {
                live.draw(&counters);
            }
        }
    })?;
    if let Some(live) = live {
        live.clear();
    }
    let parts: Vec<(Tally, Finish)> = results.into_iter().collect::<io::Result<_>>()?;
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
        let endpoints = load.endpoints(self.index)?;
        let at_once = part(load.connections_at_once, load.threads, self.index);
        let mine = (self.index..load.connections()).step_by(load.threads as usize);
        let work = stream::iter(mine.zip(endpoints.iter().cycle()))
            .for_each_concurrent(at_once as usize, |(connection, endpoint)| {
                self.connection(endpoint, connection, scenario)
            });
        let interrupted = tokio::select! {
            () = work => false,
            // What was under way is left as it stands, neither completed nor failed.
            pressed = tokio::signal::ctrl_c() => pressed.map(|()| true)?,
        };
        let at = Instant::now();
        for endpoint in &endpoints {
            endpoint.close().await;
        }
        Ok(Finish { at, interrupted })
    }

    async fn connection(&self, endpoint: &Endpoint, number: u32, scenario: &impl Scenario) {
        let sessions = self.load.sessions_of(number);
        let connection = match connect(endpoint, self.load, &self.tally).await {
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
        let done = match open_session(connection, self.load, &self.tally).await {
            Ok(session) => self.work(connection, session, number, scenario).await,
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
        connection: &Connection,
        session: Session,
        number: u32,
        scenario: &impl Scenario,
    ) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = scenario.drive(&session, number, &self.tally) => {}
            // The streams and datagrams under way are neither completed nor failed.
            closed = session.closed() => {
                return Err(cut(connection, &closed));
            }
        }
        close(connection, session).await
    }
}

/// Makes a connection and counts it.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    load: &Load,
    tally: &Tally,
) -> Result<Connection, Failure> {
    let begun = Instant::now();
    match endpoint.connect(load.target.address, &load.target.server_name).await {
        Ok(connection) => {
            tally.took(Timed::Handshake, begun.elapsed());
            tally.count().connections.inc();
            Ok(connection)
        }
        Err(error) => {
            tally.count().connections_failed.inc();
            Err(Failure::new(Kind::Handshake, chain(&error)))
        }
    }
}

/// Opens a session and counts it.
pub(crate) async fn open_session(
    connection: &Connection,
    load: &Load,
    tally: &Tally,
) -> Result<Session, Failure> {
    let begun = Instant::now();
    let asked = connection.open_session(&load.target.url, &load.request);
    let session = match timeout(load.timeout, asked).await {
        Ok(Ok(session)) => session,
        Ok(Err(refused)) => {
            let kind = match refused {
                Refused::Status { status, .. } => Kind::SessionRefused(status),
                Refused::Request(_) | Refused::Stream(_) => Kind::SessionUnanswered,
            };
            return Err(Failure::new(kind, chain(&refused)));
        }
        Err(_elapsed) => {
            let what = format!("no answer in {:?}", load.timeout);
            return Err(Failure::new(Kind::SessionUnanswered, what));
        }
    };
    tally.took(Timed::Session, begun.elapsed());
    tally.count().sessions_opened.inc();
    Ok(session)
}

/// Ends a session, which the server has to answer.
pub(crate) async fn close(connection: &Connection, session: Session) -> Result<(), Failure> {
    match session.close(0, "").await {
        Closed::ByServer { code: 0, .. } => Ok(()),
        // Servers of one session to a connection answer by ending the connection without error, and
        // may reset the session's own stream just before.
        Closed::Reset(H3_NO_ERROR) => Ok(()),
        Closed::Lost if closed_without_error(connection) => Ok(()),
        Closed::Unanswered => {
            Err(Failure::new(Kind::CloseUnanswered, "the server did not answer its end"))
        }
        closed => Err(cut(connection, &closed)),
    }
}

/// A session that has ended otherwise than it should.
pub(crate) fn cut(connection: &Connection, closed: &Closed) -> Failure {
    Failure::new(Kind::SessionCut, ending(connection, closed))
}

fn closed_without_error(connection: &Connection) -> bool {
    match connection.quic().close_reason() {
        Some(quinn::ConnectionError::ApplicationClosed(close)) => {
            close.error_code.into_inner() == H3_NO_ERROR
        }
        _ => false,
    }
}

/// How a session ended, in words.
fn ending(connection: &Connection, closed: &Closed) -> String {
    match closed {
        Closed::ByServer { code, reason } if reason.is_empty() => {
            format!("the server closed it with code {code}")
        }
        Closed::ByServer { code, reason } => {
            format!("the server closed it with code {code} ({reason})")
        }
        Closed::Reset(code) => format!("the server reset it with HTTP/3 code {code:#x}"),
        Closed::Lost => match connection.quic().close_reason() {
            Some(reason) => format!("the connection ended: {}", chain(&reason)),
            None => "its stream broke".to_owned(),
        },
        Closed::FlowControl => "the server broke session flow control".to_owned(),
        Closed::Unanswered => "the server did not answer its end".to_owned(),
    }
}

/// An error and all its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
