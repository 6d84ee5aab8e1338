//! How often a worker asks the allocator for memory, for each thing that it does, beside a bare QUIC bridge.
//!
//! `cargo bench --bench allocations` prints the table. `-- --sites WORD` prints instead where the calls of
//! those units come from whose name has the word in it, for the gateway, and `--bare` for the bare bridge.
//!
//! Gateway, backends and clients are one process; only the calls of the one worker's thread count, and of
//! the one thread of the bare bridge. The counts are exact, but how chunks fall together depends on the
//! moment, so those of bulk vary by some percent.
#![allow(clippy::disallowed_types, reason = "drives bare QUIC beside the gateway")]
#![allow(clippy::disallowed_methods, reason = "no gateway's lifecycle covers backends and clients")]
#![allow(clippy::print_stdout, reason = "prints its result")]
#![allow(unreachable_pub, reason = "a program")]

mod backends;
mod bare;
mod client;
mod counter;

use std::{path::Path, time::Duration};

use tidegate::{
    config::Config,
    gateway::{Gateway, Running},
};
use tokio::time::sleep;

use self::{
    backends::{Backends, Target},
    client::Side,
    counter::Count,
};

/// What is counted.
#[derive(Clone, Copy, Debug)]
enum Unit {
    RoundTrip,
    MebibyteUp,
    MebibyteDown,
    DatagramRoundTrip,
    DatagramBurst,
    Stream,
    Session,
    Connection,
}

impl Unit {
    const ALL: [Self; 8] = [
        Self::RoundTrip,
        Self::MebibyteUp,
        Self::MebibyteDown,
        Self::DatagramRoundTrip,
        Self::DatagramBurst,
        Self::Stream,
        Self::Session,
        Self::Connection,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::RoundTrip => "chunk up and down (64 B, one at a time)",
            Self::MebibyteUp => "MiB up",
            Self::MebibyteDown => "MiB down",
            Self::DatagramRoundTrip => "datagram up and down (64 B, one at a time)",
            Self::DatagramBurst => "datagram up and down (64 B, 16 at a time)",
            Self::Stream => "short stream (100 B each way)",
            Self::Session => "session (CONNECT to close, a connection stands)",
            Self::Connection => "connection with a session",
        }
    }

    /// How often it is done.
    fn times(self) -> u64 {
        match self {
            Self::RoundTrip | Self::DatagramRoundTrip => 2000,
            Self::DatagramBurst => 3200,
            // Within what session flow control lets the gateway send: no capsule raises it here.
            Self::MebibyteUp | Self::MebibyteDown => 32,
            Self::Stream => 500,
            Self::Session | Self::Connection => 100,
        }
    }

    fn target(self) -> Target {
        match self {
            Self::MebibyteUp => Target::Sink,
            Self::MebibyteDown => Target::Source,
            _ => Target::Echo,
        }
    }

    /// Does it so often, and counts.
    async fn count(self, side: &Side) -> Count {
        let (target, times) = (self.target(), self.times());
        match self {
            Self::RoundTrip => {
                let lane = side.open(target).await;
                let mut stream = lane.stream().await;
                let round_trips = async |stream: &mut client::Stream, times| {
                    for _ in 0..times {
                        stream.write(&[7; 64]).await;
                        stream.read_exact(64).await;
                    }
                };
                round_trips(&mut stream, WARM_UP).await;
                counted(round_trips(&mut stream, times)).await
            }
            Self::MebibyteUp => {
                let lane = side.open(target).await;
                let mut stream = lane.stream().await;
                stream.write(&BLOCK).await;
                counted(async {
                    for _ in 0..times {
                        stream.write(&BLOCK).await;
                    }
                    stream.finish();
                    stream.read_to_end().await;
                })
                .await
            }
            Self::MebibyteDown => {
                let lane = side.open(target).await;
                let mut stream = lane.stream().await;
                stream.write(&[33]).await;
                stream.read_exact(BLOCK.len()).await;
                counted(async {
                    assert_eq!(stream.read_to_end().await, 32 * BLOCK.len());
                })
                .await
            }
            Self::DatagramRoundTrip => datagrams(side, times, 1).await,
            Self::DatagramBurst => datagrams(side, times, 16).await,
            Self::Stream => {
                let lane = side.open(target).await;
                let streams = async |times| {
                    for _ in 0..times {
                        let mut stream = lane.stream().await;
                        stream.write(&[7; 100]).await;
                        stream.finish();
                        assert_eq!(stream.read_to_end().await, 100);
                    }
                };
                streams(WARM_UP).await;
                counted(streams(times)).await
            }
            Self::Session => {
                let link = side.connect(target).await;
                // With one that stays, the connection does not end between two.
                let _stays = link.open(target).await;
                let sessions = async |times| {
                    for _ in 0..times {
                        link.open(target).await.close().await;
                    }
                };
                sessions(WARM_UP).await;
                counted(sessions(times)).await
            }
            Self::Connection => {
                let connections = async |times| {
                    for _ in 0..times {
                        let link = side.connect(target).await;
                        link.open(target).await.close().await;
                        link.close();
                    }
                };
                connections(WARM_UP).await;
                counted(connections(times)).await
            }
        }
    }
}

static BLOCK: [u8; 1024 * 1024] = [7; 1024 * 1024];

/// So many before it is counted: what is allocated once is then there.
const WARM_UP: u64 = 32;

async fn datagrams(side: &Side, times: u64, at_once: u64) -> Count {
    let lane = side.open(Target::Echo).await;
    let bursts = async |times| {
        for _ in 0..times / at_once {
            for _ in 0..at_once {
                lane.send_datagram(&[7; 64]);
            }
            for _ in 0..at_once {
                lane.read_datagram().await;
            }
        }
    };
    bursts(WARM_UP).await;
    counted(bursts(times)).await
}

/// What is asked for while this is done and until nothing more follows from it.
async fn counted(what: impl Future<Output = ()>) -> Count {
    settled().await;
    counter::counting(true);
    let before = Count::now();
    what.await;
    settled().await;
    counter::counting(false);
    Count::now().since(before)
}

/// Waits until nothing is asked for any more.
async fn settled() {
    loop {
        let before = Count::now();
        // Longer than a delayed acknowledgement.
        sleep(Duration::from_millis(100)).await;
        if Count::now().calls == before.calls {
            return;
        }
    }
}

fn gateway(backends: Backends) -> Config {
    let mut text = "version = 1\n[server]\nworkers = 1\n\
                    [limits.per_client]\nsessions = \"unlimited\"\nconnections = \"unlimited\"\n\
                    session_rate = \"unlimited\"\n[drain]\ndelay = \"0s\"\ngrace = \"0s\"\n\
                    [[listener]]\nquic = [\"127.0.0.1:0\"]\nself_signed = [\"localhost\"]\n"
        .to_owned();
    for target in Target::ALL {
        let (path, tcp, udp) = (target.path(), backends.tcp(target), backends.udp);
        let name = path.trim_start_matches('/');
        text += &format!(
            "[[route]]\nname = \"{name}\"\npath = \"{path}\"\norigins = \"any\"\nbackend = \"{name}\"\n\
             [backend.{name}]\nendpoints = [{{ tcp = \"{tcp}\", udp = \"{udp}\" }}]\n"
        );
    }
    Config::parse(&text, "bench", Path::new(".")).expect("a good configuration")
}

async fn start(backends: Backends) -> Running {
    let gateway = Gateway::bind(gateway(backends)).await.expect("free sockets");
    let running = gateway.start().expect("threads");
    running.lifecycle().started().await;
    running
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // Cargo says `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut word, mut of_bare) = (None, false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--sites" => word = arguments.next(),
            "--bare" => of_bare = true,
            other => println!("{other} is not known, and is nothing."),
        }
    }

    let backends = Backends::start();
    let bare = Side::bare(bare::start(backends));
    let running = start(backends).await;
    let gateway = Side::gateway(running.quic_addresses()[0].address);
    match word {
        Some(word) => sites(&word, if of_bare { &bare } else { &gateway }).await,
        None => table(&gateway, &bare).await,
    }
    running.shut_down(std::future::pending()).await;
}

/// Prints the counts of both.
async fn table(gateway: &Side, bare: &Side) {
    println!("| calls of the allocator for each | gateway | bare bridge | more | bytes more |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for unit in Unit::ALL {
        let (ours, theirs) = (unit.count(gateway).await, unit.count(bare).await);
        let each = |number: u64| number as f64 / unit.times() as f64;
        let (calls, bare_calls) = (each(ours.calls), each(theirs.calls));
        let bytes = each(ours.bytes) - each(theirs.bytes);
        println!(
            "| {} | {calls:.2} | {bare_calls:.2} | {:.2} | {bytes:.0} |",
            unit.name(),
            calls - bare_calls
        );
    }
}

/// Prints where the calls come from.
async fn sites(word: &str, side: &Side) {
    counter::keep_sites();
    for unit in Unit::ALL.into_iter().filter(|unit| unit.name().contains(word)) {
        println!("{}", unit.name());
        unit.count(side).await;
        let sites = counter::take_sites();
        let kept: u64 = sites.iter().map(|(calls, ..)| calls).sum();
        for (calls, bytes, site) in sites {
            let share = calls as f64 * 100.0 / kept as f64;
            println!("  {share:.1} % of the calls, {} bytes each{site}", bytes as u64 / calls);
        }
    }
}
