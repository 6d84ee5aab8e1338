//! What changes while the gateway runs, and what must not notice.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use futures_util::{FutureExt, future::BoxFuture};
use tidegate::{
    client::{self, Closed, Refused, RequestOptions, Session, Trust},
    config, edge,
    gateway::{Live, Reload, ReloadError, Reloaded},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};

use crate::harness::{
    Setup, TcpBackend, TestGateway, echo_tcp, echo_udp, expect_reset, expect_text, soon,
};

/// Certificates, in a folder that goes with the test.
pub(crate) struct Certificates(PathBuf);

impl Certificates {
    pub(crate) fn new(test: &str) -> Self {
        let folder = format!("tidegate-e2e-{test}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// Makes a certificate, in the place of an older one, and tells its hash.
    pub(crate) fn make(&self, name: &str) -> [u8; 32] {
        let made = edge::self_signed(&["localhost".to_owned()]).unwrap();
        fs::write(self.0.join(format!("{name}.pem")), made.certificate_pem).unwrap();
        fs::write(self.0.join(format!("{name}.key")), made.key_pem).unwrap();
        made.sha256
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// How a listener names them.
    pub(crate) fn toml(&self, names: &[&str]) -> String {
        let folder = self.0.display();
        let pair = |name: &&str| {
            format!("{{ chain = \"{folder}/{name}.pem\", key = \"{folder}/{name}.key\" }}")
        };
        let pairs: Vec<_> = names.iter().map(pair).collect();
        format!("certificates = [{}]", pairs.join(", "))
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        // What is left harms nobody.
        _ = fs::remove_dir_all(&self.0);
    }
}

async fn setup() -> Setup {
    Setup::new().route("/echo", Some(echo_tcp().await), Some(echo_udp().await))
}

/// Whether a new client that believes this certificate alone can connect.
async fn is_seen(gateway: &TestGateway, hash: [u8; 32]) -> bool {
    let endpoint = gateway.endpoint_with(&client::Options::new(Trust::Hashes(vec![hash])));
    soon(endpoint.connect(gateway.address(), "localhost")).await.is_ok()
}

async fn reloads(gateway: &TestGateway, result: &str, times: f64) {
    let labels = [("result", result)];
    gateway.metric_reaches("tidegate_config_reloads_total", &labels, times).await;
}

/// Gives the gateway another configuration.
pub(crate) async fn reload(gateway: &TestGateway, setup: &Setup) -> Result<Reloaded, ReloadError> {
    let setup = setup.clone();
    soon(gateway.running().live().reload(move || setup.read())).await
}

async fn echoes(session: &Session) {
    let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
    send.write(b"opened after it").await.unwrap();
    send.finish();
    assert_eq!(soon(recv.read_to_end(100)).await.unwrap(), b"opened after it");
    session.send_datagram(b"sent after it").unwrap();
    assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"sent after it"[..]);
}

/// S23.
#[tokio::test]
async fn a_new_certificate_is_for_new_clients_and_sessions_go_on() {
    let certificates = Certificates::new("new");
    let old = certificates.make("a");
    let setup = setup().await.certificate(&certificates.toml(&["a"]));
    let gateway = setup.clone().start().await;
    let session = gateway.session("/echo").await;
    let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
    send.write(b"begun before it, ").await.unwrap();

    let new = certificates.make("a");
    assert!(is_seen(&gateway, old).await, "a file alone changes nothing");
    let Reloaded { certificates, changed, waiting, .. } = reload(&gateway, &setup).await.unwrap();

    assert_eq!((certificates[0].sha256, changed, waiting), (new, vec![], vec![]));
    assert_eq!(gateway.hash(), new);
    assert!(is_seen(&gateway, new).await && !is_seen(&gateway, old).await);
    reloads(&gateway, "reloaded", 1.0).await;
    let expiry = gateway.metric("tidegate_tls_certificate_expiry_timestamp_seconds", &[]);
    assert!((expiry - certificates[0].not_after as f64).abs() < 0.5, "{expiry}");

    send.write(b"finished after it").await.unwrap();
    send.finish();
    let read = soon(recv.read_to_end(100)).await.unwrap();
    assert_eq!(read, b"begun before it, finished after it");
    echoes(&session).await;
    gateway.shut_down().await;
}

/// S23. One bad pair of two, and neither is taken.
#[tokio::test]
async fn a_bad_certificate_changes_nothing_and_every_problem_is_told() {
    let certificates = Certificates::new("bad");
    let (old, _) = (certificates.make("a"), certificates.make("b"));
    let setup = setup().await.certificate(&certificates.toml(&["a", "b", "c"]));
    certificates.make("c");
    let gateway = setup.clone().start().await;
    let session = gateway.session("/echo").await;

    let new = certificates.make("a");
    // The key of another, and half of a file.
    fs::copy(certificates.0.join("a.key"), certificates.0.join("b.key")).unwrap();
    fs::write(certificates.0.join("c.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    let refused = reload(&gateway, &setup).await.unwrap_err();

    let ReloadError::Certificates(_) = &refused else { panic!("{refused:?}") };
    let [mismatch, cut] = &refused.lines()[..] else { panic!("{:?}", refused.lines()) };
    assert!(
        mismatch.contains("listener edge: the key in") && mismatch.contains("b.key"),
        "{mismatch}"
    );
    assert!(cut.contains("listener edge: cannot read") && cut.contains("c.pem"), "{cut}");
    reloads(&gateway, "failed", 1.0).await;
    assert!(is_seen(&gateway, old).await && !is_seen(&gateway, new).await);
    assert_eq!(gateway.hash(), old);
    echoes(&session).await;

    // When it is mended, all of it is taken.
    certificates.make("b");
    certificates.make("c");
    reload(&gateway, &setup).await.unwrap();
    assert!(is_seen(&gateway, new).await);
    reloads(&gateway, "reloaded", 1.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_bad_configuration_changes_nothing_and_every_problem_is_told() {
    let certificates = Certificates::new("config");
    let old = certificates.make("a");
    let setup = setup().await.certificate(&certificates.toml(&["a"]));
    let gateway = setup.clone().start().await;
    certificates.make("a");
    let bad = setup.tables("[limits]\nsessions = 0\ncolour = 1");

    let refused = reload(&gateway, &bad).await.unwrap_err();

    let lines = refused.lines();
    assert!(lines[0].contains("limits.sessions: 0 would let nothing through"), "{lines:?}");
    assert!(lines[1].contains("limits.colour: unknown key"), "{lines:?}");
    reloads(&gateway, "failed", 1.0).await;
    assert!(is_seen(&gateway, old).await);
    gateway.shut_down().await;
}

/// What a reload says that it has changed, and what waits.
fn told(reloaded: &Reloaded) -> (Vec<String>, Vec<String>) {
    let lines =
        |differences: &[config::Difference]| differences.iter().map(ToString::to_string).collect();
    (lines(&reloaded.changed), lines(&reloaded.waiting))
}

#[tokio::test]
async fn what_waits_for_a_restart_is_named_and_a_self_signed_certificate_stays() {
    let setup = setup().await;
    let gateway = setup.clone().start().await;
    let hash = gateway.hash();
    let changed = setup.workers(2).tables("[limits]\nsessions = 7");

    let reloaded = reload(&gateway, &changed).await.unwrap();

    assert_eq!(reloaded.certificates, []);
    let (changed, waiting) = told(&reloaded);
    assert_eq!(changed, ["limits.sessions: 100000 -> 7"]);
    assert_eq!(waiting, ["server.workers: 1 -> 2"]);
    assert_eq!(gateway.hash(), hash);
    assert!((gateway.metric("tidegate_config_last_reload_successful", &[]) - 1.0).abs() < 0.5);
    gateway.session("/echo").await;
    gateway.shut_down().await;
}

/// What was there stays with those who have it, and nobody new gets it.
#[tokio::test]
async fn routes_come_and_go_and_sessions_keep_theirs() {
    let (tcp, udp) = (echo_tcp().await, echo_udp().await);
    let before = Setup::new().route("/old", Some(tcp), Some(udp));
    let after = Setup::new().route("/new", Some(tcp), Some(udp));
    let gateway = before.start().await;
    let session = gateway.session("/old").await;

    let reloaded = reload(&gateway, &after).await.unwrap();

    let (changed, waiting) = told(&reloaded);
    let wanted =
        ["backend.new: added", "backend.old: removed", "route[new]: added", "route[old]: removed"];
    assert_eq!((&changed[..], &waiting[..]), (&wanted.map(str::to_owned)[..], &[][..]));
    let refusal = gateway.refusal("/old", &RequestOptions::default()).await;
    assert_eq!(refusal.0, 404);
    echoes(&gateway.session("/new").await).await;
    // Its endpoint has gone, so it is told, and goes on.
    soon(session.draining()).await;
    echoes(&session).await;
    assert!((gateway.metric("tidegate_sessions", &[("route", "old")]) - 1.0).abs() < 0.5);
    let up = gateway.running().metrics().render();
    assert!(!up.contains(r#"tidegate_backend_up{backend="old""#), "nobody is to be called for it");
    session.close(0, "").await;
    gateway.session_ends("client_closed", 1.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn sessions_of_a_removed_route_end_with_it_if_the_file_says_so() {
    let (tcp, udp) = (echo_tcp().await, echo_udp().await);
    let stays = Setup::new().route("/stays", Some(tcp), Some(udp));
    let gateway = stays.clone().route("/goes", Some(tcp), Some(udp)).start().await;
    let (stays_open, goes) = (gateway.session("/stays").await, gateway.session("/goes").await);

    let reloaded = reload(&gateway, &stays.tables("[reload]\nend_removed = true")).await.unwrap();

    assert_eq!(reloaded.ended, 1);
    let closed = soon(goes.closed()).await;
    assert_eq!(closed, Closed::ByServer { code: 7, reason: "route_removed".to_owned() });
    gateway.session_ends("route_removed", 1.0).await;
    echoes(&stays_open).await;
    gateway.shut_down().await;
}

/// Nothing is refused meanwhile, nobody is moved, and what comes later goes to the new place.
#[tokio::test]
async fn an_endpoint_that_moves_keeps_its_sessions_and_tells_them() {
    let (first, second) = (TcpBackend::bind().await, TcpBackend::bind().await);
    let setup = |backend: &TcpBackend| Setup::new().route("/game", Some(backend.address()), None);
    let gateway = setup(&first).start().await;
    let session = gateway.session("/game").await;
    let _greeted = session.open_bidi().await.unwrap();
    let mut at_first = first.accept().await;

    let reloaded = reload(&gateway, &setup(&second)).await.unwrap();

    let (from, to) = (first.address(), second.address());
    let said = format!("backend.game.endpoints[0].tcp: \"{from}\" -> \"{to}\"");
    assert_eq!(told(&reloaded).0, [said]);
    soon(session.draining()).await;
    let (mut send, _recv) = session.open_bidi().await.unwrap();
    send.write(b"where I was").await.unwrap();
    expect_text(&mut first.accept().await, b"where I was").await;
    let new = gateway.session("/game").await;
    let (mut send, _recv) = new.open_bidi().await.unwrap();
    send.write(b"where it is").await.unwrap();
    expect_text(&mut second.accept().await, b"where it is").await;
    session.close(0, "").await;
    expect_reset(&mut at_first).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn an_endpoint_that_the_file_drains_moves_no_session() {
    let (tcp, udp) = (echo_tcp().await, echo_udp().await);
    let setup = |draining: bool| {
        Setup::new().tables(&format!(
            "[[route]]\npath = \"/echo\"\norigins = \"any\"\nbackend = \"b\"\n[backend.b]\nendpoints = [\
             {{ name = \"a\", tcp = \"{tcp}\", udp = \"{udp}\", draining = {draining} }},\
             {{ name = \"z\", tcp = \"{tcp}\", udp = \"{udp}\" }}]\n"
        ))
    };
    let gateway = setup(false).start().await;
    let (on_a, on_z) = (gateway.session("/echo").await, gateway.session("/echo").await);

    let reloaded = reload(&gateway, &setup(true)).await.unwrap();

    assert_eq!(told(&reloaded).0, ["backend.b.endpoints[a].draining: false -> true"]);
    soon(on_a.draining()).await;
    echoes(&on_a).await;
    assert!((gateway.metric("tidegate_backend_up", &[("endpoint", "a")])).abs() < 0.5);
    for _ in 0..4 {
        let session = gateway.session("/echo").await;
        echoes(&session).await;
        session.close(0, "").await;
    }
    gateway.session_ends("client_closed", 4.0).await;
    let made = [("endpoint", "a"), ("result", "connected")];
    assert!((gateway.metric("tidegate_backend_connects_total", &made) - 1.0).abs() < 0.5);
    echoes(&on_z).await;

    reload(&gateway, &setup(false)).await.unwrap();
    gateway.metric_reaches("tidegate_backend_up", &[("endpoint", "a")], 1.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn limits_are_those_of_the_last_file_and_count_who_is_there() {
    let setup = setup().await;
    let gateway = setup.clone().start().await;
    let first = gateway.session("/echo").await;
    let refusal = async |reason: &str| {
        let refusal = gateway.refusal("/echo", &RequestOptions::default()).await;
        assert_eq!(refusal.1, reason);
    };
    for (limits, reason) in [
        ("[limits]\nsessions = 1", "too_many_sessions"),
        ("[limits.per_client]\nsessions = 1", "client_sessions"),
    ] {
        reload(&gateway, &setup.clone().tables(limits)).await.unwrap();
        refusal(reason).await;
    }
    let route = "limits = { sessions = 1 }";
    let full = Setup::new().route_with("/echo", Some(echo_tcp().await), None, route);
    reload(&gateway, &full).await.unwrap();
    refusal("route_full").await;

    echoes(&first).await;
    reload(&gateway, &setup).await.unwrap();
    gateway.session("/echo").await;
    gateway.shut_down().await;
}

/// What this very process holds is more than a mebibyte. It is looked at each second.
#[tokio::test]
async fn a_limit_of_memory_that_is_passed_already_lets_nobody_in_and_cuts_nobody() {
    let setup = setup().await;
    let gateway = setup.clone().start().await;
    let (connection, url) = (gateway.connect().await, gateway.url("/echo"));
    let ask = async || soon(connection.open_session(&url, &RequestOptions::default())).await;
    let session = ask().await.unwrap();

    let little = setup.clone().tables("[limits]\nmemory = \"1MiB\"");
    reload(&gateway, &little).await.unwrap();
    gateway.metric_reaches("tidegate_memory_short", &[], 1.0).await;
    match ask().await.unwrap_err() {
        Refused::Status { status, reason, headers } => {
            assert_eq!((status.as_u16(), reason.as_deref()), (503, Some("memory_shed")));
            assert!(headers.contains_key("retry-after"), "it is told when to come again");
        }
        other => panic!("no refusal: {other}"),
    }
    let labels = [("reason", "memory_shed"), ("route", "echo")];
    gateway.metric_reaches("tidegate_session_rejects_total", &labels, 1.0).await;
    echoes(&session).await;

    let enough = setup.clone().tables("[limits]\nmemory = \"unlimited\"");
    reload(&gateway, &enough).await.unwrap();
    gateway.metric_reaches("tidegate_memory_short", &[], 0.0).await;
    echoes(&ask().await.unwrap()).await;
    gateway.shut_down().await;
}

/// Those that come at once are done one after the other, and the last that reads is the last that counts.
#[tokio::test]
async fn reloads_that_overlap_take_turns() {
    let setup = setup().await;
    let gateway = setup.clone().start().await;
    let running = Mutex::new(0);
    let running = Arc::new(running);
    let reload = |sessions: u32| {
        let (setup, running) = (setup.clone(), Arc::clone(&running));
        let read = move || {
            *running.lock().unwrap() += 1;
            assert_eq!(*running.lock().unwrap(), 1, "two read at once");
            let read = setup.tables(&format!("[limits]\nsessions = {sessions}")).read();
            *running.lock().unwrap() -= 1;
            read
        };
        gateway.running().live().reload(read)
    };
    let all = futures_util::future::join_all((1..=50).map(reload));
    let changes: Vec<_> = soon(all).await.into_iter().map(|done| done.unwrap().changed).collect();

    assert!(changes.iter().all(|changed| changed.len() == 1));
    let last = changes.last().unwrap()[0].to_string();
    assert_eq!(last, "limits.sessions: 49 -> 50");
    reloads(&gateway, "reloaded", 50.0).await;
    gateway.shut_down().await;
}

/// Reads when it is let, and tells when it begins and what became of it.
#[derive(Debug, Default)]
struct Slow {
    setup: Mutex<Option<Setup>>,
    begun: Notify,
    go_on: Arc<Notify>,
}

impl Reload for Slow {
    fn reload(&self, live: Arc<Live>) -> BoxFuture<'static, Result<Reloaded, ReloadError>> {
        let setup = self.setup.lock().unwrap().take().expect("asked once");
        let go_on = Arc::clone(&self.go_on);
        self.begun.notify_one();
        async move {
            go_on.notified().await;
            live.reload(move || setup.read()).await
        }
        .boxed()
    }
}

/// The files count as read from when they are looked at: were the reload given up then, whoever watches them
/// would never take what they say.
#[tokio::test]
async fn a_reload_goes_on_though_whoever_asked_for_it_goes_away() {
    let setup = setup().await;
    let slow = Arc::new(Slow::default());
    *slow.setup.lock().unwrap() = Some(setup.clone().tables("[limits]\nsessions = 7"));
    let gateway = setup.start_reloading(Arc::clone(&slow) as _).await;

    let admin = gateway.running().admin_address().unwrap();
    let mut asker = soon(TcpStream::connect(admin)).await.unwrap();
    let request = format!("POST /api/reload HTTP/1.1\r\nhost: {admin}\r\n\r\n");
    soon(asker.write_all(request.as_bytes())).await.unwrap();
    soon(slow.begun.notified()).await;
    drop(asker);
    // Whoever asks next is answered after the gateway has seen that this one has gone.
    let mut other = soon(TcpStream::connect(admin)).await.unwrap();
    let request = format!("GET /livez HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    soon(other.write_all(request.as_bytes())).await.unwrap();
    soon(other.read_to_string(&mut String::new())).await.unwrap();
    slow.go_on.notify_one();

    reloads(&gateway, "reloaded", 1.0).await;
    assert_eq!(gateway.running().live().config().limits.sessions, config::Limit::AtMost(7));
    gateway.shut_down().await;
}

/// What it waits for may never come.
#[tokio::test]
async fn a_reload_under_way_holds_up_no_drain() {
    let setup = setup().await;
    let slow = Arc::new(Slow::default());
    *slow.setup.lock().unwrap() = Some(setup.clone());
    let gateway = setup.start_reloading(Arc::clone(&slow) as _).await;
    let admin = gateway.running().admin_address().unwrap();
    let mut asker = soon(TcpStream::connect(admin)).await.unwrap();
    let request = format!("POST /api/reload HTTP/1.1\r\nhost: {admin}\r\n\r\n");
    soon(asker.write_all(request.as_bytes())).await.unwrap();
    soon(slow.begun.notified()).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn nothing_is_reloaded_once_the_gateway_stops() {
    let setup = Setup::with_drain("delay = \"1h\"");
    let setup = setup.route("/echo", Some(echo_tcp().await), Some(echo_udp().await));
    let gateway = setup.clone().start().await;
    gateway.running().lifecycle().begin_stop();

    let refused = reload(&gateway, &setup.tables("[limits]\nsessions = 7")).await.unwrap_err();

    assert!(matches!(refused, ReloadError::Stopping), "{refused:?}");
    for result in ["reloaded", "failed"] {
        reloads(&gateway, result, 0.0).await;
    }
    gateway.shut_down_when(std::future::ready(())).await;
}
