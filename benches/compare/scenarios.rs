//! What is measured: each scenario as arguments of the load tool.

/// The name that stands for all figures of resident memory, and of idle sessions.
pub(crate) const MEMORY: &str = "memory";

/// What a figure is given for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unit {
    /// A GiB of payload; system calls are given for a MiB.
    Bytes,
    /// An operation of the load tool.
    Operation,
}

/// The backend that a load needs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Backend {
    Echo,
    Source,
    Sink,
}

/// Whether all servers can do it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Needs {
    Streams,
    Datagrams,
    /// The gateway with one worker and with two, with both processors for everybody.
    Workers,
}

/// A load that every server is put under.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What it is, for the report.
    pub(crate) about: &'static str,
    /// Of the load tool: the scenario and its own arguments.
    pub(crate) load: &'static [&'static str],
    pub(crate) unit: Unit,
    pub(crate) backend: Backend,
    pub(crate) needs: Needs,
    /// As much as goes, in place of a fixed rate or a lone operation: the load must not be what limits it.
    pub(crate) full: bool,
}

impl Scenario {
    const fn new(
        name: &'static str,
        about: &'static str,
        load: &'static [&'static str],
        unit: Unit,
    ) -> Self {
        let (backend, needs) = (Backend::Echo, Needs::Streams);
        Self { name, about, load, unit, backend, needs, full: true }
    }

    const fn behind(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    const fn needs(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    const fn at_ease(self) -> Self {
        Self { full: false, ..self }
    }
}

/// All of them, in the order of the tables.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "bulk-down",
        "bytes down, 1 connection",
        &["bulk-down", "--sessions", "1"],
        Unit::Bytes,
    )
    .behind(Backend::Source),
    Scenario::new(
        "bulk-down-16",
        "bytes down, 16 connections",
        &["bulk-down", "--sessions", "16"],
        Unit::Bytes,
    )
    .behind(Backend::Source),
    Scenario::new(
        "bulk-up",
        "bytes up, 1 connection",
        &["bulk-up", "--sessions", "1"],
        Unit::Bytes,
    )
    .behind(Backend::Sink),
    Scenario::new(
        "rr-64",
        "round trips of 64 B, 16 connections, each at once after the other",
        &["rr", "--size", "64", "--sessions", "16"],
        Unit::Operation,
    ),
    Scenario::new(
        "rr-1k",
        "round trips of 1 KiB, 16 connections, each at once after the other",
        &["rr", "--size", "1KiB", "--sessions", "16"],
        Unit::Operation,
    ),
    Scenario::new(
        "rr-1",
        "round trips of 64 B, 1 connection, each at once after the other",
        &["rr", "--size", "64", "--sessions", "1"],
        Unit::Operation,
    )
    .at_ease(),
    Scenario::new(
        "open-2000",
        "round trips of 64 B at 2,000 a second over 16 connections",
        &["rr", "--size", "64", "--sessions", "16", "--rate", "2000/s"],
        Unit::Operation,
    )
    .at_ease(),
    Scenario::new(
        "datagrams-64",
        "datagrams of 64 B, 16 connections, 16 of each on their way",
        &[
            "datagram",
            "--size",
            "64",
            "--sessions",
            "16",
            "--depth",
            "16",
            "--datagram-timeout",
            "1s",
        ],
        Unit::Operation,
    )
    .needs(Needs::Datagrams),
    Scenario::new(
        "datagrams-1100",
        "datagrams of 1,100 B, 16 connections, 16 of each on their way",
        &[
            "datagram",
            "--size",
            "1100",
            "--sessions",
            "16",
            "--depth",
            "16",
            "--datagram-timeout",
            "1s",
        ],
        Unit::Operation,
    )
    .needs(Needs::Datagrams),
    Scenario::new(
        "datagrams-5000",
        "datagrams of 64 B at 5,000 a second over 16 connections",
        &[
            "datagram",
            "--size",
            "64",
            "--sessions",
            "16",
            "--rate",
            "5000/s",
            "--datagram-timeout",
            "1s",
        ],
        Unit::Operation,
    )
    .needs(Needs::Datagrams)
    .at_ease(),
    Scenario::new(
        "streams",
        "streams of 100 B (open, send, FIN, echo, FIN), 16 connections, 4 of each at once",
        &["streams", "--bytes", "100", "--sessions", "16", "--depth", "4"],
        Unit::Operation,
    ),
    Scenario::new(
        "handshakes",
        "handshake, CONNECT, close; 16 at once",
        // Its connections are over before probes of the path could pay.
        &["handshake", "--sessions", "16", "--no-mtu-discovery"],
        Unit::Operation,
    ),
    Scenario::new(
        "workers",
        "round trips of 64 B, 64 connections, both processors for server and load",
        &["rr", "--size", "64", "--sessions", "64", "--sockets", "64"],
        Unit::Operation,
    )
    .needs(Needs::Workers),
];
