//! Raw shape to valid settings, collecting every problem.
//!
//! Each section has a function that takes the raw shape and gives settings, or nothing where something
//! that it needs is missing or wrong. It always goes through the whole section first, so that three
//! mistakes give three lines.

mod backend;
mod credential;
mod datagram;
mod destination;
mod introduction;
mod listener;
mod pool;
mod route;
mod server;
mod tls;

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::de::DeTable;

use super::{
    Admin, ByteSize, Config, Drain, Limits, PerClientLimits, PerConnectionLimits, Problem,
    Problems, Reload, Timeouts,
    problems::{Collector, line_at},
    raw::{self, Section},
    read_file,
};

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Every problem of the file, or that it cannot be read.
    pub fn read(path: &Path) -> Result<Self, Problems> {
        Self::read_all(path).0
    }

    /// [`Self::read`], and every file that the outcome depends on: the file itself and those that it names,
    /// also such as cannot be read.
    pub fn read_all(path: &Path) -> (Result<Self, Problems>, BTreeSet<PathBuf>) {
        let file = path.display().to_string();
        let folder = Folder::new(path.parent().unwrap_or_else(|| Path::new("")));
        let text = read_file(path).and_then(|bytes| {
            String::from_utf8(bytes)
                .map_err(|no_text| io::Error::new(io::ErrorKind::InvalidData, no_text))
        });
        let read = match text {
            Ok(text) => Self::parse_in(&text, &file, &folder),
            Err(error) => Err(Problems::of_file(path, format!("cannot read it: {error}"))),
        };
        let mut files = folder.named.into_inner();
        files.insert(path.to_owned());
        (read, files)
    }

    /// Checks a text; `file` is its name in problems, and relative paths in it are taken from `base`.
    ///
    /// # Errors
    /// Every problem of the text. Where it is not TOML, only the first: what follows a broken line
    /// cannot be told from it.
    pub fn parse(text: &str, file: &str, base: &Path) -> Result<Self, Problems> {
        Self::parse_in(text, file, &Folder::new(base))
    }

    fn parse_in(text: &str, file: &str, folder: &Folder) -> Result<Self, Problems> {
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map(|span| line_at(text, span.start));
            let message = format!("not TOML: {}", error.message());
            let problems = vec![Problem { line, key: String::new(), message }];
            Problems { file: file.to_owned(), problems }
        })?;
        let mut problems = Collector::new(text, table.get_ref());
        let raw = raw::File::read_table(table.get_ref(), "", &mut problems);
        let config = config(raw, folder, &mut problems);
        problems.finish(file, config)
    }
}

/// The folder from which the file's relative paths are taken.
struct Folder {
    path: PathBuf,
    /// Files that the text names.
    named: RefCell<BTreeSet<PathBuf>>,
}

impl Folder {
    fn new(base: &Path) -> Self {
        // An empty path is the current folder to everybody but `absolute`.
        let base = if base.as_os_str().is_empty() { Path::new(".") } else { base };
        let path = std::path::absolute(base).unwrap_or_else(|_no_current_folder| base.to_owned());
        Self { path, named: RefCell::default() }
    }

    /// The full path of a file that can be opened.
    fn readable(&self, key: &str, path: &str, problems: &mut Collector<'_>) -> Option<PathBuf> {
        let path = self.path.join(path);
        self.named.borrow_mut().insert(path.clone());
        // Looked at before it is opened: opening a pipe waits until somebody writes into it.
        let opened = fs::metadata(&path).and_then(|found| match found.is_file() {
            true => fs::File::open(&path).map(drop),
            false => Err(io::Error::other("it is not a file")),
        });
        match opened {
            Ok(()) => Some(path),
            Err(error) => {
                problems.add(key, format!("cannot read {}: {error}", path.display()));
                None
            }
        }
    }
}

/// The version of the file's format that this program reads.
const VERSION: u32 = 1;

fn config(raw: raw::File, folder: &Folder, problems: &mut Collector<'_>) -> Option<Config> {
    version(raw.version, problems);
    let listeners = problems.required(
        "listener",
        raw.listener,
        "without a [[listener]] nobody can reach the gateway",
    );
    let routes =
        problems.required("route", raw.route, "without a [[route]] every session is refused");
    let backends = backend::backends(raw.backend.unwrap_or_default(), folder, problems);
    let listeners = listener::listeners(listeners.unwrap_or_default(), folder, problems);
    let credentials = credential::credentials(raw.credential.unwrap_or_default(), folder, problems);
    credential::check_listeners(&credentials, listeners.as_deref(), problems);
    let routes = route::routes(routes.unwrap_or_default(), &backends, &credentials, problems);
    introduction::check_captures(&backends, routes.as_deref(), problems);
    Some(Config {
        server: server::server(
            raw.server.unwrap_or_else(|| raw::Server::absent("server".to_owned())),
            folder,
            problems,
        ),
        log: server::log(raw.log.unwrap_or_else(|| raw::Log::absent("log".to_owned())), problems),
        admin: raw.admin.and_then(|raw| admin(raw, folder, problems)),
        limits: limits(
            raw.limits.unwrap_or_else(|| raw::Limits::absent("limits".to_owned())),
            problems,
        ),
        timeouts: timeouts(
            raw.timeouts.unwrap_or_else(|| raw::Timeouts::absent("timeouts".to_owned())),
            problems,
        ),
        drain: drain(raw.drain.unwrap_or_else(|| raw::Drain::absent("drain".to_owned())), problems),
        reload: reload(
            &raw.reload.unwrap_or_else(|| raw::Reload::absent("reload".to_owned())),
            problems,
        ),
        listeners: listeners?,
        routes: routes?,
        backends: backends
            .into_iter()
            .map(|(name, backend)| Some((name, backend?)))
            .collect::<Option<_>>()?,
        credentials: credentials
            .into_iter()
            .map(|(name, credential)| Some((name, credential?)))
            .collect::<Option<_>>()?,
    })
}

fn version(version: Option<u32>, problems: &mut Collector<'_>) {
    match problems.required("version", version, "write version = 1 at the top of the file") {
        Some(VERSION) | None => {}
        Some(other) => problems.add(
            "version",
            format!("version {other} is not known; this program reads version {VERSION}"),
        ),
    }
}

fn admin(raw: raw::Admin, folder: &Folder, problems: &mut Collector<'_>) -> Option<Admin> {
    let hint = "write an address such as \"127.0.0.1:9090\"";
    let listen = problems.required(&raw.key("listen"), raw.listen, hint);
    let token = raw.token.as_ref().and_then(|token| server::secret(&token.0, folder, problems));
    if token.as_ref().is_some_and(|token| !token.expose().iter().all(u8::is_ascii_graphic)) {
        let message = "is not fit for a header; write visible ASCII characters without blanks";
        problems.add(raw.key("token"), message);
    }
    Some(Admin { listen: listen?, token })
}

fn limits(raw: raw::Limits, problems: &mut Collector<'_>) -> Limits {
    let default = Limits::default();
    Limits {
        connections: raw.connections.unwrap_or(default.connections),
        handshakes: raw.handshakes.unwrap_or(default.handshakes),
        retry_above_handshakes: raw
            .retry_above_handshakes
            .unwrap_or(default.retry_above_handshakes),
        sessions: raw.sessions.unwrap_or(default.sessions),
        memory: raw.memory.unwrap_or(default.memory),
        header_bytes: problems.within(
            &raw.key("header_bytes"),
            raw.header_bytes,
            default.header_bytes,
            ByteSize::kib(1)..=ByteSize::mib(1),
        ),
        early_streams: problems.within(
            &raw.key("early_streams"),
            raw.early_streams,
            default.early_streams,
            0..=MOST_EARLY,
        ),
        early_datagrams: problems.within(
            &raw.key("early_datagrams"),
            raw.early_datagrams,
            default.early_datagrams,
            0..=MOST_EARLY,
        ),
        per_client: per_client(raw.per_client.unwrap_or_default()),
        per_connection: per_connection(&raw.per_connection.unwrap_or_default()),
    }
}

fn per_client(raw: raw::PerClientLimits) -> PerClientLimits {
    let default = PerClientLimits::default();
    PerClientLimits {
        connections: raw.connections.unwrap_or(default.connections),
        sessions: raw.sessions.unwrap_or(default.sessions),
        session_rate: raw.session_rate.unwrap_or(default.session_rate),
    }
}

fn per_connection(raw: &raw::PerConnectionLimits) -> PerConnectionLimits {
    let default = PerConnectionLimits::default();
    PerConnectionLimits { stream_rate: raw.stream_rate.unwrap_or(default.stream_rate) }
}

/// Bounds what a client can make the gateway hold before it has a session.
const MOST_EARLY: u32 = 4_096;

fn timeouts(raw: raw::Timeouts, problems: &mut Collector<'_>) -> Timeouts {
    let default = Timeouts::default();
    let mut period = |name, value, default, most| {
        problems.period(&raw.key(name), value, default, MILLISECOND..=most)
    };
    Timeouts {
        handshake: period("handshake", raw.handshake, default.handshake, 5 * MINUTE),
        request: period("request", raw.request, default.request, 5 * MINUTE),
        idle_connection: period(
            "idle_connection",
            raw.idle_connection,
            default.idle_connection,
            HOUR,
        ),
        early: period("early", raw.early, default.early, MINUTE),
        linger: problems.period(
            &raw.key("linger"),
            raw.linger,
            default.linger,
            Duration::ZERO..=MOST_LINGER,
        ),
    }
}

/// Chromium never closes a connection by itself; a longer linger would only pile them up.
const MOST_LINGER: Duration = Duration::from_secs(2);

fn drain(raw: raw::Drain, problems: &mut Collector<'_>) -> Drain {
    let default = Drain::default();
    let (delay, grace) = (raw.key("delay"), raw.key("grace"));
    Drain {
        delay: problems.period(&delay, raw.delay, default.delay, Duration::ZERO..=HOUR),
        grace: problems.period(&grace, raw.grace, default.grace, Duration::ZERO..=DAY),
    }
}

fn reload(raw: &raw::Reload, problems: &mut Collector<'_>) -> Reload {
    let default = Reload::default();
    Reload {
        end_removed: raw.end_removed.unwrap_or(default.end_removed),
        watch: raw.watch.unwrap_or(default.watch),
        interval: problems.period(
            &raw.key("interval"),
            raw.interval,
            default.interval,
            10 * MILLISECOND..=HOUR,
        ),
    }
}

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// All of them, or nothing where one is missing. It goes through all before it gives up, so that each
/// can note its problems.
fn all<T>(items: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    let items: Vec<_> = items.collect();
    items.into_iter().collect()
}

/// Notes each name that is not fit to be one, and each that stands twice, at its second place.
fn check_names<'n>(
    names: impl IntoIterator<Item = (&'n str, String)>,
    problems: &mut Collector<'_>,
) {
    let mut seen = HashMap::new();
    for (name, key) in names {
        check_name(&key, name, problems);
        if let Some(first) = seen.get(name) {
            problems.add(key, format!("{name:?} is also `{first}`; names must differ"));
        } else {
            seen.insert(name, key);
        }
    }
}

/// Notes a name that is not fit for logs, metrics and addresses of the admin interface.
fn check_name(key: &str, name: &str, problems: &mut Collector<'_>) {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_graphic());
    // A first underscore marks the gateway's own names, such as `_none` for "no route".
    if name.is_empty() || name.len() > MOST_NAME_BYTES || name.starts_with('_') || !is_plain {
        let message = format!(
            "{name:?} is no name; write 1 to {MOST_NAME_BYTES} visible ASCII characters without \
             blanks, the first of them not `_`"
        );
        problems.add(key, message);
    }
}

/// Names are metric labels: a longer one would be paid for with every series.
const MOST_NAME_BYTES: usize = 128;

#[cfg(test)]
mod tests;
