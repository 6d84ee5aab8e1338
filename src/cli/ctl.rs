//! `tidegate ctl`: asks a running gateway, by its admin listener.
//!
//! What comes back is for people, or with `--json` as the gateway said it.

mod connection;
mod table;

use std::{io, net::IpAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use serde_json::Value;
use tidegate::admin::client::AskError;

use self::{
    connection::Target,
    table::{Align, Column, bytes, duration, lines, plain, table},
};
use super::Failure;

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Ctl {
    #[command(flatten)]
    target: Target,
    /// Print what the gateway says as it says it, in JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
The token goes unencrypted to where the admin listener is: use it on loopback, or through a tunnel.

Exit codes:
  0   done                   2    bad command line
  1   the gateway cannot     78   bad configuration file (-c)
      be reached, or
      refused";

#[derive(Debug, Subcommand)]
enum Command {
    /// Whether the gateway welcomes clients, and how many sessions it has
    Status,
    /// List the sessions that live, oldest first
    Sessions(List),
    /// Show one session in full
    Session {
        /// Its id, as in the list and in the log
        id: String,
    },
    /// End a session, or all that are selected
    End(End),
    /// List backends with their endpoints
    Backends,
    /// Drain an endpoint: it gets no new sessions, those that it has go on
    Drain {
        #[arg(value_name = "BACKEND/ENDPOINT")]
        endpoint: EndpointName,
    },
    /// Let an endpoint have new sessions again
    Resume {
        #[arg(value_name = "BACKEND/ENDPOINT")]
        endpoint: EndpointName,
    },
    /// Show what is logged, or change it until the next restart
    Log {
        /// A level, or `target=level` pairs
        filter: Option<String>,
    },
    /// Show the configuration in use, in TOML, without its secrets
    Config,
    /// Have the gateway read its configuration file and certificates again
    Reload,
}

#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    selection: Selection,
    /// How many, at most 1000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Those that come after this one
    #[arg(long, value_name = "ID")]
    after: Option<String>,
}

#[derive(Args, Debug)]
struct End {
    /// The session's id
    #[arg(required_unless_present = "Selection", conflicts_with = "Selection")]
    id: Option<String>,
    #[command(flatten)]
    selection: Selection,
    /// The code that clients are told [default: 8]
    #[arg(long, value_name = "N")]
    code: Option<u32>,
    /// The reason that clients are told, at most 1024 bytes [default: `ended_by_operator`]
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Which sessions: those to which all of it applies.
#[derive(Args, Debug)]
#[group(id = "Selection", multiple = true)]
struct Selection {
    /// Those of a route
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Those of a backend
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Those of an endpoint
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    /// Those whose credential names this subject
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// Those of a client's address
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
}

/// Why the gateway was not asked, or did not do it: exit code 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    /// No reply; nobody listening is the likeliest mistake.
    #[error("{}", hint(.0))]
    Ask(#[from] AskError),
    /// A reply that says no.
    #[error("the gateway says {status}: {said}")]
    Refused { status: u16, said: String },
    /// A reply of something else.
    #[error("what answers there is no gateway")]
    NoGateway(#[source] serde_json::Error),
    /// The configuration file has no `[admin]`.
    #[error("the configuration has no [admin], so the gateway cannot be asked")]
    NoAdmin,
    /// The configuration file leaves the port to the system.
    #[error(
        "the configuration has port 0 for the admin listener; say with --admin which port it got"
    )]
    AnyPort,
    /// The token cannot be read.
    #[error("cannot read the token from {}", file.display())]
    Token {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
}

fn hint(error: &AskError) -> String {
    match error {
        AskError::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => {
            "nobody listens there: is the gateway running, and is this its admin listener (--admin)?"
                .to_owned()
        }
        _ => "the gateway cannot be asked".to_owned(),
    }
}

impl Ctl {
    pub(crate) async fn execute(self) -> Result<ExitCode, Failure> {
        let gateway = self.target.connection()?;
        let print = Print { json: self.json };
        match self.command {
            Command::Status => print.value(&gateway.get("/healthz").await?, |v| lines(v, 0)),
            Command::Sessions(list) => print.value(&gateway.get(list.target()).await?, sessions),
            Command::Session { id } => {
                let target = format!("/api/sessions/{}", encoded(&id));
                print.value(&gateway.get(target).await?, |v| lines(v, 0))
            }
            Command::End(end) => print.value(&gateway.post(end.target()).await?, ended),
            Command::Backends => print.value(&gateway.get("/api/backends").await?, backends),
            Command::Drain { endpoint } => {
                print.text(&gateway.post(endpoint.target("drain")).await?)
            }
            Command::Resume { endpoint } => {
                print.text(&gateway.post(endpoint.target("resume")).await?)
            }
            Command::Log { filter } => {
                let said = match filter {
                    Some(filter) => gateway.put("/api/log", &filter).await?,
                    None => gateway.get("/api/log").await?,
                };
                print.value(&said, |value| plain(&value["filter"]) + "\n")
            }
            Command::Reload => print.value(&gateway.post("/api/reload").await?, reloaded),
            Command::Config => print.text(&gateway.get("/api/config").await?),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

/// How to show what the gateway said.
struct Print {
    json: bool,
}

impl Print {
    fn value(&self, said: &[u8], show: impl FnOnce(&Value) -> String) -> Result<(), Failure> {
        let value = serde_json::from_slice(said).map_err(CtlError::NoGateway)?;
        if self.json { self.text(said) } else { super::print(&show(&value)) }
    }

    fn text(&self, said: &[u8]) -> Result<(), Failure> {
        super::print(&String::from_utf8_lossy(said))
    }
}

impl List {
    fn target(&self) -> String {
        let mut query = self.selection.query();
        query.push(("limit", self.limit.to_string()));
        query.extend(self.after.clone().map(|after| ("after", after)));
        format!("/api/sessions{}", query_of(&query))
    }
}

impl End {
    fn target(&self) -> String {
        let mut query = self.selection.query();
        query.extend(self.code.map(|code| ("code", code.to_string())));
        query.extend(self.reason.clone().map(|reason| ("reason", reason)));
        let which = self.id.as_deref().map(|id| encoded(id) + "/").unwrap_or_default();
        format!("/api/sessions/{which}end{}", query_of(&query))
    }
}

impl Selection {
    fn query(&self) -> Vec<(&'static str, String)> {
        let Self { route, backend, endpoint, subject, client } = self;
        let client = client.map(|ip| ip.to_string());
        let all = [
            ("route", route.clone()),
            ("backend", backend.clone()),
            ("endpoint", endpoint.clone()),
            ("subject", subject.clone()),
            ("client", client),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// `BACKEND/ENDPOINT`.
#[derive(Clone, Debug)]
struct EndpointName {
    backend: String,
    endpoint: String,
}

impl std::str::FromStr for EndpointName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((backend, endpoint)) if !backend.is_empty() && !endpoint.is_empty() => {
                Ok(Self { backend: backend.to_owned(), endpoint: endpoint.to_owned() })
            }
            _ => Err("write BACKEND/ENDPOINT"),
        }
    }
}

impl EndpointName {
    fn target(&self, action: &str) -> String {
        let Self { backend, endpoint } = self;
        format!("/api/backends/{}/endpoints/{}/{action}", encoded(backend), encoded(endpoint))
    }
}

fn query_of(parameters: &[(&str, String)]) -> String {
    let pairs = parameters.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
    let query: Vec<_> = pairs.collect();
    if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) }
}

/// With everything percent-encoded but what never means anything (RFC 3986 section 2.3).
fn encoded(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            byte if byte.is_ascii_alphanumeric() => encoded.push(byte.into()),
            // Writing to a string cannot fail.
            byte => _ = write!(encoded, "%{byte:02X}"),
        }
        encoded
    })
}

/// The list of sessions.
fn sessions(value: &Value) -> String {
    const COLUMNS: &[Column] = &[
        ("ID", Align::Left),
        ("ROUTE", Align::Left),
        ("ENDPOINT", Align::Left),
        ("CLIENT", Align::Left),
        ("SUBJECT", Align::Left),
        ("AGE", Align::Right),
        ("STREAMS", Align::Right),
        ("UP", Align::Right),
        ("DOWN", Align::Right),
        ("DATAGRAMS", Align::Right),
        ("PATH", Align::Left),
    ];
    let number = |session: &Value, key: &str| session[key].as_u64().unwrap_or(0);
    let row = |session: &Value| {
        let text = |key: &str| plain(&session[key]);
        let both = number(session, "datagrams_up") + number(session, "datagrams_down");
        vec![
            text("id"),
            text("route"),
            format!("{}/{}", text("backend"), text("endpoint")),
            text("client"),
            text("subject"),
            duration(number(session, "age_seconds")),
            text("streams_open"),
            bytes(number(session, "bytes_up")),
            bytes(number(session, "bytes_down")),
            both.to_string(),
            text("path"),
        ]
    };
    let rows: Vec<_> = items(&value["sessions"]).iter().map(row).collect();
    if rows.is_empty() {
        return "No sessions.\n".to_owned();
    }
    let more = match &value["next"] {
        Value::String(next) => format!("There are more: --after {next}\n"),
        _ => String::new(),
    };
    table(COLUMNS, &rows) + &more
}

/// What has changed, a line each.
fn reloaded(value: &Value) -> String {
    let list = |key: &str, what: &str| -> String {
        items(&value[key]).iter().map(|line| format!("{what}: {}\n", plain(line))).collect()
    };
    let certificates = plain(&value["certificates"]);
    let ended = plain(&value["ended"]);
    list("changed", "changed")
        + &list("waiting", "waits for a restart")
        + &format!("Reloaded: {certificates} new certificates, {ended} sessions ended.\n")
}

fn ended(value: &Value) -> String {
    match value["ended"].as_u64() {
        Some(1) => "1 session ended.\n".to_owned(),
        _ => format!("{} sessions ended.\n", plain(&value["ended"])),
    }
}

/// The list of backends, a line for each place where an endpoint can be reached.
fn backends(value: &Value) -> String {
    const COLUMNS: &[Column] = &[
        ("ENDPOINT", Align::Left),
        ("STATE", Align::Left),
        ("SESSIONS", Align::Right),
        ("WEIGHT", Align::Right),
        ("ADDRESSES", Align::Left),
        ("LAST CHECK", Align::Left),
    ];
    let mut rows = Vec::new();
    for backend in items(&value["backends"]) {
        for endpoint in items(&backend["endpoints"]) {
            let name = format!("{}/{}", plain(&backend["name"]), plain(&endpoint["name"]));
            let members = items(&endpoint["members"]);
            if members.is_empty() {
                let (state, weight) = (plain(&endpoint["state"]), plain(&endpoint["weight"]));
                rows.push(vec![name, state, "0".into(), weight, "-".into(), "-".into()]);
                continue;
            }
            rows.extend(members.iter().map(|member| {
                vec![
                    name.clone(),
                    plain(&member["state"]),
                    plain(&member["sessions"]),
                    plain(&endpoint["weight"]),
                    addresses(member),
                    last_check(&member["last_check"]),
                ]
            }));
        }
    }
    table(COLUMNS, &rows)
}

fn addresses(member: &Value) -> String {
    let of = |kind: &str| {
        let list = items(&member[kind]).iter().map(|address| format!("{kind} {}", plain(address)));
        list.collect::<Vec<_>>()
    };
    let all = [of("tcp"), of("udp")].concat();
    if all.is_empty() { "-".to_owned() } else { all.join(", ") }
}

fn last_check(check: &Value) -> String {
    match check["seconds_ago"].as_u64() {
        Some(seconds) => format!("{} {} ago", plain(&check["result"]), duration(seconds)),
        None => "-".to_owned(),
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_encoded_whole() {
        assert_eq!(encoded("a/b c?d&é~"), "a%2Fb%20c%3Fd%26%C3%A9~");
        let name: EndpointName = "game/a/b".parse().unwrap();
        assert_eq!(name.target("drain"), "/api/backends/game/endpoints/a%2Fb/drain");
        assert!("game".parse::<EndpointName>().is_err());
    }

    #[test]
    fn backends_have_a_line_for_each_member() {
        let value = json!({ "backends": [{ "name": "game", "endpoints": [
            { "name": "a", "state": "live", "weight": 1, "sessions": 3, "members": [
                { "tcp": ["10.0.0.5:1"], "udp": ["10.0.0.5:2"], "state": "live", "sessions": 3,
                  "last_check": { "result": "passed", "seconds_ago": 61 } },
            ] },
            { "name": "b", "state": "draining", "weight": 2, "sessions": 0, "members": [] },
        ] }] });
        let wanted = "\
ENDPOINT  STATE     SESSIONS  WEIGHT  ADDRESSES                       LAST CHECK
game/a    live             3       1  tcp 10.0.0.5:1, udp 10.0.0.5:2  passed 1m1s ago
game/b    draining         0       2  -                               -
";
        assert_eq!(backends(&value), wanted);
    }

    #[test]
    fn a_list_that_goes_on_says_how() {
        let session = json!({
            "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "route": "game", "backend": "game", "endpoint": "a",
            "client": "192.0.2.1:5", "subject": null, "age_seconds": 5, "streams_open": 2,
            "bytes_up": 2048, "bytes_down": 0, "datagrams_up": 1, "datagrams_down": 2, "path": "/game",
        });
        let text =
            sessions(&json!({ "sessions": [session], "next": "01ARZ3NDEKTSV4RRFFQ69G5FAV" }));
        let wanted = "\
ID                          ROUTE  ENDPOINT  CLIENT       SUBJECT  AGE  STREAMS      UP  DOWN  DATAGRAMS  PATH
01ARZ3NDEKTSV4RRFFQ69G5FAV  game   game/a    192.0.2.1:5  -         5s        2  2.0KiB    0B          3  /game
There are more: --after 01ARZ3NDEKTSV4RRFFQ69G5FAV
";
        assert_eq!(text, wanted);
        assert_eq!(sessions(&json!({ "sessions": [], "next": null })), "No sessions.\n");
    }
}
