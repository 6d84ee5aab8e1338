//! The admin listener: metrics, health and what an operator may do, over plain HTTP.
//!
//! What it tells comes from [`Metrics`], [`Lifecycle`] and [`Watched`]. It stays up while the process
//! drains, so that the end can be watched, and is stopped last and on its own. Who may see and change what
//! is decided in `access`; keep it on loopback or behind a firewall all the same, since nothing is
//! encrypted.
//!
//! Which library speaks HTTP is hidden in `http`, whose small server others may use for pages of
//! their own.

mod access;
mod backends;
mod certificates;
pub mod client;
mod http;
mod query;
mod sessions;
mod settings;
mod token;

use std::{io, net::SocketAddr, sync::Arc};

use serde::Serialize;
use tokio::time::Instant;

use self::{
    access::{Access, Wants},
    token::Token,
};
pub use self::{
    certificates::{CertificateHash, CertificateHashes},
    http::{Answer, Asker, Change, Get, HttpListener, HttpServer, Pages, Verb},
    settings::{LogFilter, ReloadReport},
};
use crate::{
    backend::Backends, config, lifecycle::Lifecycle, metrics::Metrics, session::registry::Registry,
};

/// What there is to see and to change in a running gateway.
pub trait Watched: Send + Sync + 'static {
    /// Brings up to date the numbers that nobody counts by the way, such as the kernel's drops. Called
    /// before each rendering of the metrics.
    fn sample(&self);

    /// Where new sessions go now.
    fn backends(&self) -> Arc<Backends>;

    /// The sessions that live.
    fn sessions(&self) -> &Registry;

    /// The hashes of the certificates in use, and of those that will come in their place.
    fn certificates(&self) -> Vec<CertificateHashes>;

    /// The configuration in use, with every default and without secrets.
    fn config(&self) -> String;

    /// Reads the configuration again and takes what it can. Yields what has changed, or every problem, and
    /// then nothing has; `None`: there is nothing to read.
    fn reload(&self) -> impl Future<Output = Option<Result<ReloadReport, Vec<String>>>> + Send;

    /// What is logged, if the program lets it be changed.
    fn log(&self) -> Option<&dyn LogFilter>;
}

/// The admin listener, bound but not serving yet.
#[derive(Debug)]
pub struct Admin {
    listener: HttpListener,
    access: Access,
    bound_at: Instant,
}

impl Admin {
    /// Binds the address; port 0 takes a free one. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// What the system said.
    pub fn bind(settings: &config::Admin) -> io::Result<Self> {
        let listener = HttpListener::bind(settings.listen)?;
        let is_loopback = listener.address().ip().to_canonical().is_loopback();
        let token = settings.token.as_ref().map(Token::new).transpose()?;
        let access = Access { is_loopback, token };
        Ok(Self { listener, access, bound_at: Instant::now() })
    }

    /// The address, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Serves until the returned server is stopped, which the drain of `lifecycle` does not do.
    pub fn run(self, lifecycle: Lifecycle, metrics: Metrics, watched: impl Watched) -> HttpServer {
        let Self { listener, access, bound_at: since } = self;
        listener.serve(View { lifecycle, metrics, watched, access, since })
    }
}

/// What the pages are made of.
struct View<W> {
    lifecycle: Lifecycle,
    metrics: Metrics,
    watched: W,
    access: Access,
    since: Instant,
}

impl<W: Watched> Pages for View<W> {
    async fn get(&self, get: &Get<'_>) -> Answer {
        if let Err(denied) = self.access.check(Wants::to_see(get.path), &get.asker) {
            return denied.answer();
        }
        match get.path {
            "/" => Answer::text(INDEX),
            "/metrics" => {
                self.watched.sample();
                Answer::ok(PROMETHEUS_TEXT, self.metrics.render())
            }
            // Whoever reads this has reached the control thread, and that is all it promises.
            "/livez" => Answer::text("ok\n"),
            "/readyz" => self.ready(get),
            "/healthz" => Answer::json(&self.health()),
            path => backends::get(path, &self.watched.backends())
                .or_else(|| sessions::get(get, self.watched.sessions()))
                .or_else(|| certificates::get(path, || self.watched.certificates()))
                .or_else(|| settings::get(path, || self.watched.config(), self.watched.log()))
                .unwrap_or_else(Answer::not_found),
        }
    }

    async fn change(&self, change: &Change<'_>) -> Option<Answer> {
        if let Err(denied) = self.access.check(Wants::Change, &change.asker) {
            return Some(denied.answer());
        }
        if let Some(answer) = settings::reload(change, self.watched.reload()).await {
            return Some(answer);
        }
        backends::change(change, &self.watched.backends())
            .or_else(|| sessions::change(change, self.watched.sessions()))
            .or_else(|| settings::change(change, self.watched.log()))
    }
}

impl<W> View<W> {
    fn ready(&self, get: &Get<'_>) -> Answer {
        let stage = Stage::of(&self.lifecycle);
        let text = if get.query.split('&').any(|q| q == "verbose" || q.starts_with("verbose=")) {
            stage.checks()
        } else {
            format!("{}\n", stage.word())
        };
        if stage == Stage::Ready { Answer::text(text) } else { Answer::unavailable(text) }
    }

    fn health(&self) -> Health {
        let stage = Stage::of(&self.lifecycle);
        Health {
            status: stage.word(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: self.since.elapsed().as_secs(),
            sessions: self.metrics.open_sessions(),
            draining: stage == Stage::Draining,
        }
    }
}

const INDEX: &str = "\
tidegate admin

/metrics          Prometheus text format
/livez            200 while the process runs
/readyz           200 while new clients are welcome, else 503; ?verbose lists the checks
/healthz          summary in JSON, always 200
/certificate-hashes  hashes of certificates in JSON, for pages: those in use and those to come
/api/backends     backends, endpoints and their addresses in JSON
/api/sessions     sessions in JSON; ?route=, backend=, endpoint=, subject=, client=, limit=, after=
/api/sessions/ID  one session in full
/api/config       the configuration in use in TOML, secrets left out
/api/log          what is logged

POST /api/backends/BACKEND/endpoints/ENDPOINT/drain, and .../resume
POST /api/sessions/ID/end, with code= and reason= for the client
POST /api/sessions/end?route=, or another of the filters: ends all of them
POST /api/reload: reads the configuration file and its certificates again
PUT  /api/log, with the new filter as the body

Sessions, configuration and log are shown, and changes made, on loopback; elsewhere to whoever
shows the token (admin.token), which changes need on loopback too if there is one.
";

/// The version is part of the type's name (Prometheus exposition formats).
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The body of `/healthz`.
#[derive(Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
    uptime_seconds: u64,
    sessions: u64,
    draining: bool,
}

/// Whether new clients are welcome, and if not, why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Starting,
    Ready,
    Draining,
}

impl Stage {
    fn of(lifecycle: &Lifecycle) -> Self {
        if lifecycle.is_stopping() {
            Self::Draining
        } else if lifecycle.is_ready() {
            Self::Ready
        } else {
            Self::Starting
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ok",
            Self::Draining => "draining",
        }
    }

    /// One line per check, in the manner of Kubernetes' own components.
    fn checks(self) -> String {
        let mark = |good| if good { "[+]" } else { "[-]" };
        format!(
            "{} started\n{} not draining\n{}\n",
            mark(self != Self::Starting),
            mark(self != Self::Draining),
            self.word(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::{
        backend::tests::{no_resolver, settings},
        config::tests::secret,
    };

    static SAMPLES: AtomicU64 = AtomicU64::new(0);

    struct Seen {
        backends: Arc<Backends>,
        sessions: Registry,
    }

    impl Watched for Seen {
        fn sample(&self) {
            SAMPLES.fetch_add(1, Ordering::Relaxed);
        }

        fn backends(&self) -> Arc<Backends> {
            Arc::clone(&self.backends)
        }

        fn sessions(&self) -> &Registry {
            &self.sessions
        }

        fn certificates(&self) -> Vec<CertificateHashes> {
            vec![CertificateHashes {
                listener: "edge".to_owned(),
                self_signed: true,
                current: CertificateHash::new(&[0; 32], 10, 20),
                next: Some(CertificateHash::new(&[255; 32], 15, 25)),
            }]
        }

        fn config(&self) -> String {
            "version = 1\n".to_owned()
        }

        async fn reload(&self) -> Option<Result<ReloadReport, Vec<String>>> {
            None
        }

        fn log(&self) -> Option<&dyn LogFilter> {
            None
        }
    }

    struct Running {
        server: HttpServer,
        lifecycle: Lifecycle,
        metrics: Metrics,
        backends: Arc<Backends>,
    }

    fn admin() -> Running {
        admin_with("127.0.0.1:0", None)
    }

    fn admin_with(listen: &str, token: Option<&str>) -> Running {
        let (lifecycle, metrics) = (Lifecycle::new(), Metrics::new());
        let settings = config::Admin { listen: listen.parse().unwrap(), token: token.map(secret) };
        let admin = Admin::bind(&settings).unwrap();
        let backends = backends();
        let seen = Seen { backends: Arc::clone(&backends), sessions: Registry::default() };
        let server = admin.run(lifecycle.clone(), metrics.clone(), seen);
        Running { server, lifecycle, metrics, backends }
    }

    /// One backend, "test", of the endpoints "0" and "1".
    fn backends() -> Arc<Backends> {
        let settings = settings(&["127.0.0.1:9".parse().unwrap(), "127.0.0.2:9".parse().unwrap()]);
        let settings = [("test".to_owned(), Arc::new(settings))].into();
        Arc::new(Backends::new(&settings, &Metrics::new(), &no_resolver(), None))
    }

    impl Running {
        /// Status, headers and body of one GET.
        async fn get(&self, target: &str) -> (u16, String, String) {
            self.ask(&format!("GET {target}"), "").await
        }

        /// Status and body of one POST, with a header.
        async fn post(&self, target: &str, header: &str) -> (u16, String) {
            let (status, _, body) = self.ask(&format!("POST {target}"), header).await;
            (status, body)
        }

        async fn ask(&self, what: &str, header: &str) -> (u16, String, String) {
            let port = self.server.address().port();
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let host = if header.contains("host:") { "" } else { "host: 127.0.0.1\r\n" };
            let request = format!("{what} HTTP/1.1\r\n{host}{header}connection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            (status, head.to_owned(), body.to_owned())
        }
    }

    /// A page that is served elsewhere has to know them before it can connect here.
    #[tokio::test]
    async fn every_page_may_read_the_hashes_of_certificates_and_nothing_else() {
        let admin = admin();
        let elsewhere = "origin: https://play.example.com\r\n";
        let (status, head, body) = admin.ask("GET /certificate-hashes", elsewhere).await;
        let (zeros, ones) = (format!("{}=", "A".repeat(43)), format!("{}8=", "/".repeat(42)));
        let wanted = serde_json::json!({ "certificates": [{
            "listener": "edge", "self_signed": true,
            "current": { "algorithm": "sha-256", "hex": "00".repeat(32), "base64": zeros,
                "not_before": 10, "not_after": 20 },
            "next": { "algorithm": "sha-256", "hex": "ff".repeat(32), "base64": ones,
                "not_before": 15, "not_after": 25 },
        }] });
        let told: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, told), (200, wanted));
        assert!(head.contains("access-control-allow-origin: *\r\n"), "{head}");
        assert!(head.contains("cache-control: no-store\r\n"), "{head}");

        for path in ["/", "/metrics", "/healthz", "/api/backends", "/api/sessions", "/api/config"] {
            let (_, head, _) = admin.ask(&format!("GET {path}"), elsewhere).await;
            assert!(!head.contains("access-control"), "{path}: {head}");
        }
    }

    #[tokio::test]
    async fn metrics_are_sampled_and_rendered_for_prometheus() {
        let admin = admin();
        let route = admin.metrics.route("game");
        let _open = route.session_opened("draft02");
        let before = SAMPLES.load(Ordering::Relaxed);

        let (status, head, body) = admin.get("/metrics").await;

        assert_eq!(status, 200);
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        assert!(body.contains("tidegate_sessions{route=\"game\"} 1\n"), "{body}");
        assert!(SAMPLES.load(Ordering::Relaxed) > before);
    }

    #[tokio::test]
    async fn readiness_follows_the_lifecycle_and_liveness_does_not() {
        let admin = admin();
        let latch = admin.lifecycle.latch();
        let answer = |(status, _, body): (u16, String, String)| (status, body);
        assert_eq!(answer(admin.get("/readyz").await), (503, "starting\n".into()));

        drop(latch);
        assert_eq!(answer(admin.get("/readyz").await), (200, "ok\n".into()));

        admin.lifecycle.begin_stop();
        assert_eq!(answer(admin.get("/readyz").await), (503, "draining\n".into()));
        let verbose = "[+] started\n[-] not draining\ndraining\n";
        assert_eq!(answer(admin.get("/readyz?verbose").await), (503, verbose.into()));
        assert_eq!(answer(admin.get("/livez").await), (200, "ok\n".into()));
    }

    /// Whoever watches a drain needs the numbers until the last session is gone.
    #[tokio::test]
    async fn the_admin_outlives_drain_and_kill() {
        let admin = admin();
        admin.lifecycle.begin_kill();
        admin.lifecycle.all_tasks_ended().await;
        assert_eq!(admin.get("/metrics").await.0, 200);
    }

    #[tokio::test]
    async fn the_summary_tells_sessions_and_stage() {
        let admin = admin();
        let (game, chat) = (admin.metrics.route("game"), admin.metrics.route("chat"));
        let _open = [&game, &game, &chat].map(|route| route.session_opened("draft02"));
        admin.lifecycle.begin_drain();

        let (status, head, body) = admin.get("/healthz").await;

        assert_eq!(status, 200);
        assert!(head.contains("content-type: application/json"), "{head}");
        let health: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(health["status"], "draining");
        assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(health["sessions"], 3);
        assert_eq!(health["draining"], true);
        assert!(health["uptime_seconds"].is_u64());
    }

    #[tokio::test]
    async fn the_index_lists_the_endpoints_and_the_rest_is_not_found() {
        let admin = admin();
        let (status, _, body) = admin.get("/").await;
        assert_eq!(status, 200);
        for endpoint in [
            "/metrics",
            "/livez",
            "/readyz",
            "/healthz",
            "/api/sessions",
            "/api/config",
            "/api/log",
        ] {
            assert!(body.contains(endpoint), "{body}");
        }
        assert_eq!(admin.get("/admin").await.0, 404);
    }

    #[tokio::test]
    async fn the_backends_are_listed_with_what_is_known_of_them() {
        let admin = admin();
        admin.post("/api/backends/test/endpoints/1/drain", "").await;

        let (status, head, body) = admin.get("/api/backends").await;

        assert_eq!(status, 200);
        assert!(head.contains("content-type: application/json"), "{head}");
        let found: serde_json::Value = serde_json::from_str(&body).unwrap();
        let endpoint = |name, ip, state| {
            serde_json::json!({
                "name": name, "state": state, "weight": 1, "sessions": 0,
                "members": [{
                    "tcp": [format!("{ip}:9")], "udp": [], "state": state, "sessions": 0,
                    "last_check": null,
                }],
            })
        };
        let endpoints =
            [endpoint("0", "127.0.0.1", "live"), endpoint("1", "127.0.0.2", "draining")];
        let wanted =
            serde_json::json!({ "backends": [{ "name": "test", "endpoints": endpoints }] });
        assert_eq!(found, wanted);
    }

    #[tokio::test]
    async fn an_endpoint_is_drained_and_resumed() {
        let admin = admin();
        let state = || {
            serde_json::to_value(admin.backends.overview()).unwrap()[0]["endpoints"][0]["state"]
                .clone()
        };
        let answer = admin.post("/api/backends/test/endpoints/0/drain", "").await;
        assert_eq!((answer, state()), ((200, "draining\n".into()), "draining".into()));
        let answer = admin.post("/api/backends/test/endpoints/0/resume", "").await;
        assert_eq!((answer, state()), ((200, "live\n".into()), "live".into()));

        for (path, status) in [
            ("/api/backends/test/endpoints/2/drain", 404),
            ("/api/backends/nobody/endpoints/0/drain", 404),
            ("/api/backends/test/endpoints/0/stop", 405),
            ("/metrics", 405),
        ] {
            assert_eq!(admin.post(path, "").await.0, status, "{path}");
        }
        let (status, head, _) = admin.get("/api/backends/test/endpoints/0/drain").await;
        assert_eq!(status, 405);
        assert!(head.contains("allow: POST"), "{head}");
    }

    /// Any page that an operator visits can have the browser send a POST to this machine.
    #[tokio::test]
    async fn a_page_in_a_browser_changes_nothing() {
        let admin = admin();
        let path = "/api/backends/test/endpoints/0/drain";
        let (status, body) = admin.post(path, "origin: http://evil.test\r\n").await;
        assert_eq!((status, body.as_str()), (403, "not from a page in a browser\n"));
        assert!(!admin.get("/api/backends").await.2.contains("draining"));
    }

    #[tokio::test]
    async fn nothing_is_changed_by_a_listener_that_others_can_reach() {
        let admin = admin_with("0.0.0.0:0", None);
        let (status, body) = admin.post("/api/backends/test/endpoints/0/drain", "").await;
        assert_eq!(status, 403, "{body}");
        let (status, _, body) = admin.get("/api/backends").await;
        assert_eq!(status, 200);
        assert!(!body.contains("draining"), "{body}");
        for path in ["/api/sessions", "/api/config", "/api/log"] {
            assert_eq!(admin.get(path).await.0, 403, "{path}");
        }
    }

    #[tokio::test]
    async fn whoever_shows_the_token_may_change_things() {
        let token = "s3cret-s3cret-s3cret-s3cret-s3cret";
        let path = "/api/backends/test/endpoints/0/drain";
        for listen in ["127.0.0.1:0", "0.0.0.0:0"] {
            let admin = admin_with(listen, Some(token));
            assert_eq!(admin.post(path, "").await.0, 401);
            assert_eq!(admin.post(path, "authorization: Bearer other\r\n").await.0, 401);
            assert_eq!(admin.post(path, &format!("authorization: Basic {token}\r\n")).await.0, 401);
            assert!(!admin.get("/api/backends").await.2.contains("draining"));
            let right = format!("authorization: bearer {token}\r\n");
            assert_eq!(admin.post(path, &right).await.0, 200);
            let (status, head, body) = admin.ask("GET /api/config", "").await;
            if listen == "127.0.0.1:0" {
                assert_eq!((status, body.as_str()), (200, "version = 1\n"));
            } else {
                assert_eq!(status, 401, "{body}");
                assert!(head.contains("www-authenticate: Bearer"), "{head}");
                assert_eq!(admin.ask("GET /api/config", &right).await.0, 200);
            }
        }
    }

    /// A page may have its own name point at this machine, and is then the same origin to the browser.
    #[tokio::test]
    async fn a_foreign_name_for_this_machine_is_refused() {
        let admin = admin();
        let evil = "host: evil.test:9090\r\n";
        assert_eq!(admin.ask("GET /api/sessions", evil).await.0, 403);
        assert_eq!(admin.post("/api/backends/test/endpoints/0/drain", evil).await.0, 403);
        assert_eq!(admin.ask("GET http://evil.test/api/sessions", "").await.0, 403);
        assert_eq!(admin.ask("GET /metrics", evil).await.0, 200);
        assert_eq!(admin.ask("GET /api/sessions", "host: localhost\r\n").await.0, 200);
    }

    #[tokio::test]
    async fn questions_that_make_no_sense_are_told_so() {
        let admin = admin();
        let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
        for (what, status, said) in [
            ("GET /api/sessions", 200, "{\"sessions\":[],\"next\":null}\n"),
            ("GET /api/sessions?rout=a", 400, "\"rout\" is no parameter of this\n"),
            ("GET /api/sessions?limit=0", 400, "limit: write 1 to 1000\n"),
            ("GET /api/sessions?limit=1001", 400, "limit: write 1 to 1000\n"),
            ("GET /api/sessions?client=a", 400, "client: \"a\" is no IP address\n"),
            ("GET /api/sessions?after=a", 400, "after: \"a\" is no session id\n"),
            ("GET /api/sessions/end", 405, "only POST\n"),
            ("PUT /api/sessions/end", 405, "only POST\n"),
            ("POST /api/sessions", 405, "only GET, HEAD\n"),
            (
                "POST /api/sessions/end",
                400,
                "say which: route, backend, endpoint, subject or client\n",
            ),
            ("POST /api/sessions/end?route=a", 200, "{\"ended\":0}\n"),
            ("GET /api/reload", 405, "only POST\n"),
            ("PUT /api/reload", 405, "only POST\n"),
            ("POST /api/reload", 404, "this program has no configuration file to read again\n"),
            ("POST /api/log", 405, "only GET, HEAD, PUT\n"),
            ("PUT /api/log", 404, "this program does not let its log be changed\n"),
        ] {
            let (found, _, body) = admin.ask(what, "").await;
            assert_eq!((found, body.as_str()), (status, said), "{what}");
        }
        let (status, _, body) = admin.get(&format!("/api/sessions/{id}")).await;
        assert_eq!(status, 404, "{body}");
        assert_eq!(admin.post(&format!("/api/sessions/{id}/end"), "").await.0, 404);
        assert_eq!(admin.get("/api/sessions/x").await.0, 404);
    }
}
