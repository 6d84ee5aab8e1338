//! Lanes of small messages, each there and back: on a stream for each lane, on one TLS connection that all lanes
//! share, or as datagrams.
//!
//! An open loop: messages are due at fixed times, and take as long as it is from then until they are back. So a
//! lane whose stream is held up shows it, and so do all lanes when the connection that they share is held up:
//! that is the head-of-line picture.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io::{self, IoSlice},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tidegate::{
    backend::tls::{TlsClient, TlsStream},
    client::{Endpoint, Options, RequestOptions, Session, Trust},
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout_at},
};

/// How long the last messages may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is not measured in the beginning.
const WARMUP: Duration = Duration::from_secs(1);

/// Twice the round trip of the paths here: what takes longer waited for something that was lost.
const LATE_US: u64 = 100_000;

/// What carries the messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Carrier {
    /// A QUIC stream for each lane.
    Streams,
    /// One TLS connection for all lanes.
    Tls,
    /// Datagrams.
    Datagrams,
}

#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// What carries the messages
    #[arg(long)]
    carrier: Carrier,
    #[arg(long)]
    server: SocketAddr,
    #[arg(long, default_value = "16")]
    lanes: u16,
    /// Milliseconds between two messages of a lane; lanes take turns
    #[arg(long, default_value = "320")]
    every: u32,
    /// Seconds that are measured
    #[arg(long, default_value = "5")]
    seconds: u64,
}

/// Lane and number, and a filling that follows from them.
const MESSAGE_BYTES: usize = 100;

/// What was sent and what came back.
struct Course {
    plan: Plan,
    begin: Instant,
    /// How long each measured message took.
    took: RefCell<Vec<Duration>>,
    wrong: RefCell<u64>,
    /// How long after it was due a message went out, at most: the machine was busy with other things.
    held_up: Cell<Duration>,
    /// When something came back last, and the longest time in which nothing did.
    still: Cell<(Instant, Duration)>,
}

/// Runs the plan. Figures in microseconds.
pub(crate) async fn run(plan: Plan) -> io::Result<Value> {
    let mut options = Options::new(Trust::DangerAcceptAny);
    let course = |begin| Course {
        plan,
        begin,
        took: RefCell::default(),
        wrong: RefCell::default(),
        held_up: Cell::default(),
        still: Cell::new((begin, Duration::ZERO)),
    };
    let course = match plan.carrier {
        Carrier::Tls => {
            options.protocol = None;
            let client = TlsClient {
                settings: Arc::new(options.tls()?),
                server: ServerName::from(plan.server.ip()),
            };
            let socket = TcpStream::connect(plan.server).await?;
            socket.set_nodelay(true)?;
            let stream = TlsStream::connect(socket, &client).await.map_err(io::Error::other)?;
            let course = course(Instant::now());
            course.until_over(course.on_tls(&stream)).await?;
            course
        }
        Carrier::Streams | Carrier::Datagrams => {
            let any = SocketAddr::from(([0, 0, 0, 0], 0));
            let endpoint = Endpoint::bind(any, &options)?;
            let name = plan.server.ip().to_string();
            let connection =
                endpoint.connect(plan.server, &name).await.map_err(io::Error::other)?;
            let url = format!("https://{}/echo", plan.server);
            let asked = RequestOptions::default();
            let session = connection.open_session(&url, &asked).await.map_err(io::Error::other)?;
            let course = course(Instant::now());
            if plan.carrier == Carrier::Streams {
                let lanes = (0..plan.lanes).map(|lane| course.on_stream(&session, lane));
                let lanes = async { join_all(lanes).await.into_iter().collect() };
                course.until_over(lanes).await?;
            } else {
                course.until_over(course.on_datagrams(&session)).await?;
            }
            course
        }
    };
    Ok(course.report())
}

impl Course {
    /// Messages of each lane.
    fn count(&self) -> u32 {
        let all = Duration::from_secs(self.plan.seconds) + WARMUP;
        u32::try_from(all.as_millis()).unwrap_or(u32::MAX) / self.plan.every
    }

    /// When a message is due. Lanes take turns.
    fn due(&self, lane: u16, number: u32) -> Instant {
        let every = Duration::from_millis(self.plan.every.into());
        self.begin + every * number + every * u32::from(lane) / u32::from(self.plan.lanes)
    }

    fn is_measured(&self, lane: u16, number: u32) -> bool {
        self.due(lane, number) >= self.begin + WARMUP
    }

    /// Waits until a message is due.
    async fn turn(&self, lane: u16, number: u32) {
        // Who is late for having waited for the network is not late by this.
        let due = self.due(lane, number).max(Instant::now());
        sleep_until(due).await;
        self.held_up.set(self.held_up.get().max(due.elapsed()));
    }

    /// All messages of all lanes, in the order in which they are due.
    fn in_order(&self) -> impl Iterator<Item = (u16, u32)> {
        let lanes = self.plan.lanes;
        (0..self.count()).flat_map(move |number| (0..lanes).map(move |lane| (lane, number)))
    }

    /// Runs until everything is back, or what is left is given up.
    async fn until_over(&self, done: impl Future<Output = io::Result<()>>) -> io::Result<()> {
        let over = self.due(0, self.count()) + PATIENCE;
        // What has not come by then counts as missing.
        timeout_at(over, done).await.unwrap_or(Ok(()))
    }

    async fn on_stream(&self, session: &Session, lane: u16) -> io::Result<()> {
        let (mut send, mut recv) = session.open_bidi().await.map_err(io::Error::other)?;
        let sending = async {
            for number in 0..self.count() {
                self.turn(lane, number).await;
                send.write(&message(lane, number)).await.map_err(io::Error::other)?;
            }
            send.finish();
            Ok(())
        };
        let receiving = async {
            let mut came = Vec::new();
            while let Some(bytes) = recv.read().await.map_err(io::Error::other)? {
                came.extend_from_slice(&bytes);
                self.take_from(&mut came);
            }
            Ok(())
        };
        tokio::try_join!(sending, receiving).map(drop)
    }

    async fn on_datagrams(&self, session: &Session) -> io::Result<()> {
        let sending = async {
            for (lane, number) in self.in_order() {
                self.turn(lane, number).await;
                session.send_datagram(&message(lane, number)).map_err(io::Error::other)?;
            }
            // What comes late is waited for; what is lost does not come.
            tokio::time::sleep(Duration::from_secs(1)).await;
            Err::<(), io::Error>(io::ErrorKind::TimedOut.into())
        };
        let receiving = async {
            while let Some(datagram) = session.read_datagram().await {
                self.take(&datagram);
            }
            Err::<(), io::Error>(io::ErrorKind::ConnectionAborted.into())
        };
        match tokio::try_join!(sending, receiving) {
            Err(e) if e.kind() != io::ErrorKind::TimedOut => Err(e),
            _ => Ok(()),
        }
    }

    async fn on_tls(&self, stream: &TlsStream) -> io::Result<()> {
        let sending = async {
            for (lane, number) in self.in_order() {
                self.turn(lane, number).await;
                write(stream, &message(lane, number)).await?;
            }
            Ok(())
        };
        let receiving = async {
            let (mut came, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
            let mut left = self.in_order().count();
            while left > 0 {
                let length = poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await?;
                if length == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                came.extend_from_slice(&buffer[..length]);
                left -= self.take_from(&mut came);
            }
            Ok(())
        };
        tokio::try_join!(sending, receiving).map(drop)
    }

    /// Takes the whole messages of what came: how many.
    fn take_from(&self, came: &mut Vec<u8>) -> usize {
        let whole = came.len() / MESSAGE_BYTES;
        for message in came.drain(..whole * MESSAGE_BYTES).as_slice().chunks(MESSAGE_BYTES) {
            self.take(message);
        }
        whole
    }

    fn take(&self, came: &[u8]) {
        let (last, longest) = self.still.get();
        self.still.set((Instant::now(), longest.max(last.elapsed())));
        let head = came.first_chunk::<6>().copied().unwrap_or_default();
        let lane = u16::from_be_bytes([head[0], head[1]]);
        let number = u32::from_be_bytes([head[2], head[3], head[4], head[5]]);
        if came != message(lane, number) || lane >= self.plan.lanes || number >= self.count() {
            *self.wrong.borrow_mut() += 1;
        } else if self.is_measured(lane, number) {
            self.took.borrow_mut().push(self.due(lane, number).elapsed());
        }
    }

    fn report(&self) -> Value {
        let sent =
            self.in_order().filter(|(lane, number)| self.is_measured(*lane, *number)).count();
        let mut took: Vec<u64> = self.took.borrow().iter().copied().map(micros).collect();
        took.sort_unstable();
        let at = |per_mille: usize| {
            took.get((took.len() * per_mille / 1000).min(took.len().max(1) - 1)).copied()
        };
        json!({
            "sent": sent,
            "came": took.len(),
            "wrong": *self.wrong.borrow(),
            "late": took.iter().filter(|took| **took > LATE_US).count(),
            "p50_us": at(500),
            "p95_us": at(950),
            "p99_us": at(990),
            "max_us": took.last(),
            "still_us": micros(self.still.get().1),
            "held_up_us": micros(self.held_up.get()),
        })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn message(lane: u16, number: u32) -> [u8; MESSAGE_BYTES] {
    let mut message = [0; MESSAGE_BYTES];
    for (byte, at) in message.iter_mut().zip(0_u32..) {
        *byte = number.wrapping_mul(31).wrapping_add(at + u32::from(lane)).to_be_bytes()[3];
    }
    message[..2].copy_from_slice(&lane.to_be_bytes());
    message[2..6].copy_from_slice(&number.to_be_bytes());
    message
}

async fn write(stream: &TlsStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(&[IoSlice::new(bytes)]) {
            Ok(written) => bytes = &bytes[written..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => stream.socket().writable().await?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
