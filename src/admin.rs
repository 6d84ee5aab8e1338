//! The admin listener: metrics and health over plain HTTP.
//!
//! What it tells comes from [`Metrics`], [`Lifecycle`] and [`Backends`]. It stays up while the process
//! drains, so that the end can be watched, and is stopped last and on its own. It has no access
//! control; keep it on loopback or behind a firewall. What changes something is done on loopback
//! alone.
//!
//! Which library speaks HTTP is hidden in `http`, whose small server others may use for pages of
//! their own.

mod backends;
mod http;

use std::{io, net::SocketAddr, sync::Arc};

use serde::Serialize;
use tokio::time::Instant;

pub use self::http::{Answer, Get, HttpListener, HttpServer, Pages};
use crate::{backend::Backends, lifecycle::Lifecycle, metrics::Metrics};

/// The admin listener, bound but not serving yet.
#[derive(Debug)]
pub struct Admin {
    listener: HttpListener,
    bound_at: Instant,
}

impl Admin {
    /// Binds `address`; port 0 takes a free one. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// What the system said.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: HttpListener::bind(address)?, bound_at: Instant::now() })
    }

    /// The address, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Serves until the returned server is stopped, which the drain of `watched` does not do.
    ///
    /// `sample` runs before each rendering of the metrics: it brings up to date the numbers that
    /// nobody counts by the way, such as the kernel's drops. `backends` gives those that new sessions
    /// go to now.
    pub fn run(
        self,
        watched: Lifecycle,
        metrics: Metrics,
        sample: impl Fn() + Send + Sync + 'static,
        backends: impl Fn() -> Arc<Backends> + Send + Sync + 'static,
    ) -> HttpServer {
        let is_loopback = self.address().ip().to_canonical().is_loopback();
        let view = View { watched, metrics, sample, backends, is_loopback, since: self.bound_at };
        self.listener.serve(view)
    }
}

/// What the pages are made of.
struct View<S, B> {
    watched: Lifecycle,
    metrics: Metrics,
    sample: S,
    backends: B,
    is_loopback: bool,
    since: Instant,
}

impl<S, B> Pages for View<S, B>
where
    S: Fn() + Send + Sync + 'static,
    B: Fn() -> Arc<Backends> + Send + Sync + 'static,
{
    fn get(&self, get: &Get<'_>) -> Answer {
        match get.path {
            "/" => Answer::text(INDEX),
            "/metrics" => {
                (self.sample)();
                Answer::ok(PROMETHEUS_TEXT, self.metrics.render())
            }
            // Whoever reads this has reached the control thread, and that is all it promises.
            "/livez" => Answer::text("ok\n"),
            "/readyz" => self.ready(get),
            "/healthz" => Answer::ok("application/json", self.health()),
            path => backends::get(path, &(self.backends)()).unwrap_or_else(Answer::not_found),
        }
    }

    fn post(&self, path: &str) -> Option<Answer> {
        backends::post(path, &(self.backends)(), self.is_loopback)
    }
}

impl<S, B> View<S, B> {
    fn ready(&self, get: &Get<'_>) -> Answer {
        let stage = Stage::of(&self.watched);
        let text = if get.query.split('&').any(|q| q == "verbose" || q.starts_with("verbose=")) {
            stage.checks()
        } else {
            format!("{}\n", stage.word())
        };
        if stage == Stage::Ready { Answer::text(text) } else { Answer::unavailable(text) }
    }

    fn health(&self) -> String {
        let stage = Stage::of(&self.watched);
        let health = Health {
            status: stage.word(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: self.since.elapsed().as_secs(),
            sessions: self.metrics.open_sessions(),
            draining: stage == Stage::Draining,
        };
        let mut text = serde_json::to_string(&health).expect("words and numbers are JSON");
        text.push('\n');
        text
    }
}

const INDEX: &str = "\
tidegate admin

/metrics          Prometheus text format
/livez            200 while the process runs
/readyz           200 while new clients are welcome, else 503; ?verbose lists the checks
/healthz          summary in JSON, always 200
/api/backends     backends, endpoints and their addresses in JSON

POST /api/backends/BACKEND/endpoints/ENDPOINT/drain, and .../resume: on loopback alone
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
    use crate::backend::tests::{no_resolver, settings};

    static SAMPLES: AtomicU64 = AtomicU64::new(0);

    struct Running {
        server: HttpServer,
        lifecycle: Lifecycle,
        metrics: Metrics,
        backends: Arc<Backends>,
    }

    fn admin() -> Running {
        let (lifecycle, metrics) = (Lifecycle::new(), Metrics::new());
        let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let sample = || _ = SAMPLES.fetch_add(1, Ordering::Relaxed);
        let backends = backends();
        let all = Arc::clone(&backends);
        let get = move || Arc::clone(&all);
        let server = admin.run(lifecycle.clone(), metrics.clone(), sample, get);
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
            let mut stream = TcpStream::connect(self.server.address()).await.unwrap();
            let request =
                format!("{what} HTTP/1.1\r\nhost: a\r\n{header}connection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            (status, head.to_owned(), body.to_owned())
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
        for endpoint in ["/metrics", "/livez", "/readyz", "/healthz"] {
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
        let backends = backends();
        let path = "/api/backends/test/endpoints/0/drain";
        let answer = backends::post(path, &backends, false).unwrap();
        assert!(format!("{answer:?}").contains("403"), "{answer:?}");
        let overview = serde_json::to_string(&backends.overview()).unwrap();
        assert!(!overview.contains("draining"), "{overview}");
    }
}
