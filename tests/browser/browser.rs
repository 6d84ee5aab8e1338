//! Real browsers for tests: finds one, shows it a page, and collects what the page reports.
//!
//! Included by `#[path]` from the end-to-end tests. [`PageServer`] serves `page.html` and the cases to
//! run; [`Window`] shows it in a fresh profile, and takes its processes and files away when dropped.
#![allow(clippy::disallowed_methods, reason = "a test's helper tasks end with its runtime")]
#![allow(clippy::panic, reason = "a test fails by panicking, its helpers too")]

use std::{
    collections::HashMap,
    env, fs, io,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Mutex, Notify, mpsc},
    time::timeout,
};

/// A browser that has WebTransport.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Browser {
    Chromium,
    Firefox,
}

impl Browser {
    /// The program, or `None` where it is missing and that is allowed: at the desk, with a line that
    /// says so. With `TIDEGATE_REQUIRE_BROWSER=1`, as in CI, it is an error.
    pub(crate) fn or_skip(self) -> Option<PathBuf> {
        let found = self.find();
        if found.is_none() {
            let required = env::var("TIDEGATE_REQUIRE_BROWSER").is_ok_and(|value| value == "1");
            assert!(!required, "no {self:?}, and TIDEGATE_REQUIRE_BROWSER=1");
            eprintln!("SKIPPED: no {self:?} here (apt-get install {})", self.names()[0]);
        }
        found
    }

    fn find(self) -> Option<PathBuf> {
        let path = env::var_os("PATH")?;
        self.names().iter().find_map(|name| {
            env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file())
        })
    }

    /// What its program is called, Debian's name first.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Chromium => &["chromium", "chromium-browser", "google-chrome"],
            Self::Firefox => &["firefox-esr", "firefox"],
        }
    }

    /// No window, a fresh profile, and no chatter.
    fn arguments(self, profile: &Path) -> Vec<String> {
        match self {
            Self::Chromium => {
                let flags = CHROMIUM_FLAGS.iter().map(|flag| (*flag).to_owned());
                flags.chain([format!("--user-data-dir={}", profile.display())]).collect()
            }
            Self::Firefox => {
                let profile = profile.display().to_string();
                ["--headless", "--no-remote", "--profile", &profile].map(str::to_owned).to_vec()
            }
        }
    }
}

/// A browser that runs. Dropping it kills all of its processes and removes its profile.
pub(crate) struct Window {
    process: Child,
    profile: PathBuf,
}

impl Window {
    /// Starts the browser without a window, with further arguments, and shows `url`.
    pub(crate) fn show(browser: Browser, program: &Path, more: &[String], url: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let profile =
            env::temp_dir().join(format!("tidegate-browser-{}-{number}", std::process::id()));
        fs::create_dir_all(&profile).expect("a folder for the profile");
        let said = fs::File::create(profile.join(SAID)).expect("a file for what the browser says");
        let process = Command::new(program)
            .args(browser.arguments(&profile))
            .args(more)
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .process_group(0)
            .spawn()
            .expect("the browser starts");
        Self { process, profile }
    }

    /// What the browser wrote to stderr, for a test that failed.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.profile.join(SAID)).unwrap_or_default()
    }
}

const SAID: &str = "stderr.txt";

/// No window, no sandbox (CI runs as root), no chatter, and no proxy between us.
const CHROMIUM_FLAGS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
];

impl Drop for Window {
    fn drop(&mut self) {
        // The group: the wrapper script, the browser and its helpers.
        let group = format!("kill -KILL -{}", self.process.id());
        _ = Command::new("sh").args(["-c", &group]).stderr(Stdio::null()).status();
        _ = self.process.wait();
        _ = fs::remove_dir_all(&self.profile);
    }
}

/// What the page tells, in the order in which it does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Report {
    /// A case ended.
    Result(CaseResult),
    /// A case has come to a point where the test may act.
    Event {
        /// Which case.
        case: String,
        /// Which point.
        event: String,
    },
    /// The page was left: the browser asked for the next one.
    Left,
    /// Every case has ended.
    Done,
}

/// How a case ended.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct CaseResult {
    /// Which case.
    pub(crate) case: String,
    /// Whether all was as the page expects.
    pub(crate) ok: bool,
    /// What was not.
    pub(crate) error: Option<String>,
    /// What else the page saw.
    pub(crate) facts: Value,
    /// How long it took, in milliseconds.
    pub(crate) ms: u64,
}

/// Serves the page and the configuration, and collects the reports.
pub(crate) struct PageServer {
    address: SocketAddr,
    reports: mpsc::Receiver<Report>,
    gates: Arc<Gates>,
}

impl PageServer {
    /// Serves on a free port of loopback. `config` is what `page.html` says of `/config.json`.
    pub(crate) async fn start(config: &Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let (sender, reports) = mpsc::channel(REPORTS);
        let gates = Arc::new(Gates::default());
        let site = Arc::new(Site { config: config.to_string(), sender, gates: Arc::clone(&gates) });
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("the listener works");
                let site = Arc::clone(&site);
                tokio::spawn(async move {
                    // A browser opens connections that it never uses, and cuts others when it leaves.
                    _ = site.answer(stream).await;
                });
            }
        });
        Self { address, reports, gates }
    }

    /// Where the page is: `localhost`, which browsers take for secure without a certificate.
    pub(crate) fn url(&self) -> String {
        format!("http://localhost:{}/", self.address.port())
    }

    /// The next report.
    ///
    /// # Panics
    /// When the page says nothing for a minute.
    pub(crate) async fn next(&mut self, browser: &Window) -> Report {
        let next = timeout(SILENCE, self.reports.recv()).await;
        let Ok(Some(report)) = next else {
            panic!("the page fell silent; the browser says:\n{}", browser.said())
        };
        report
    }

    /// The result of `case`, which must be the next report.
    ///
    /// # Panics
    /// When it is not, or when the page found something wrong.
    pub(crate) async fn passed(&mut self, browser: &Window, case: &str) -> CaseResult {
        match self.next(browser).await {
            Report::Result(result) if result.case == case && result.ok => result,
            other => panic!("{case} should have passed, but: {other:?}"),
        }
    }

    /// Waits for `event` of `case`, which must be the next report.
    ///
    /// # Panics
    /// When it is not.
    pub(crate) async fn event(&mut self, browser: &Window, case: &str, event: &str) {
        let expected = Report::Event { case: case.into(), event: event.into() };
        assert_eq!(self.next(browser).await, expected);
    }

    /// Lets a case go on that waits until the test has checked its half.
    pub(crate) async fn go_on(&self, case: &str) {
        self.gates.of(case).await.notify_one();
    }
}

/// Far more than a page reports before the test reads on.
const REPORTS: usize = 256;

/// Longer than any case may take.
const SILENCE: Duration = Duration::from_secs(60);

/// Points at which the page waits for the test.
#[derive(Default)]
struct Gates(Mutex<HashMap<String, Arc<Notify>>>);

impl Gates {
    async fn of(&self, case: &str) -> Arc<Notify> {
        Arc::clone(self.0.lock().await.entry(case.to_owned()).or_default())
    }
}

/// What browsers want to be told of a module.
const SCRIPT: &str = "text/javascript";

struct Site {
    config: String,
    sender: mpsc::Sender<Report>,
    gates: Arc<Gates>,
}

impl Site {
    /// Answers one request and closes.
    async fn answer(&self, stream: TcpStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let Some((target, body)) = read_request(&mut stream).await? else { return Ok(()) };
        let (status, content_type, answer) = match target.split_once('?').unwrap_or((&target, "")) {
            ("/", _) => ("200 OK", "text/html", include_str!("page.html")),
            ("/session.js", _) => ("200 OK", SCRIPT, include_str!("session.js")),
            ("/cases/endings.js", _) => ("200 OK", SCRIPT, include_str!("cases/endings.js")),
            ("/cases/requests.js", _) => ("200 OK", SCRIPT, include_str!("cases/requests.js")),
            ("/cases/traffic.js", _) => ("200 OK", SCRIPT, include_str!("cases/traffic.js")),
            ("/config.json", _) => ("200 OK", "application/json", self.config.as_str()),
            ("/left", _) => {
                self.report(Report::Left).await;
                ("200 OK", "text/html", "<!doctype html><title>left</title>The page was left.")
            }
            ("/go-on", case) => {
                self.gates.of(case).await.notified().await;
                ("200 OK", "text/plain", "go on")
            }
            (path @ ("/event" | "/result" | "/done"), _) => {
                self.report(parse_report(path, &body)).await;
                ("200 OK", "text/plain", "noted")
            }
            _ => ("404 Not Found", "text/plain", "not found"),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {content_type}; charset=utf-8\r\ncontent-length: {}\r\n\
             cache-control: no-store\r\nconnection: close\r\n\r\n",
            answer.len(),
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    }

    async fn report(&self, report: Report) {
        // A test that has seen enough no longer listens.
        _ = self.sender.send(report).await;
    }
}

/// Target and body of a request; `None` if the browser closed without one.
async fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().expect("browsers send numbers here");
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some((target, body)))
}

fn parse_report(path: &str, body: &[u8]) -> Report {
    let body: Value = serde_json::from_slice(body).expect("the page reports in JSON");
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    match path {
        "/done" => Report::Done,
        "/event" => Report::Event { case: text("case"), event: text("event") },
        _ => Report::Result(serde_json::from_value(body).expect("a result as page.html says")),
    }
}
