//! What changes while the gateway runs, and what must not notice.

use std::{fs, path::PathBuf};

use tidegate::{
    client::{self, RequestOptions, Session, Trust},
    edge,
    gateway::{ReloadError, Reloaded},
};

use crate::harness::{Setup, TestGateway, echo_tcp, echo_udp, soon};

/// Certificates, in a folder that goes with the test.
struct Certificates(PathBuf);

impl Certificates {
    fn new(test: &str) -> Self {
        let folder = format!("tidegate-e2e-{test}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// Makes a certificate, in the place of an older one, and tells its hash.
    fn make(&self, name: &str) -> [u8; 32] {
        let made = edge::self_signed(&["localhost".to_owned()]).unwrap();
        fs::write(self.0.join(format!("{name}.pem")), made.certificate_pem).unwrap();
        fs::write(self.0.join(format!("{name}.key")), made.key_pem).unwrap();
        made.sha256
    }

    /// How a listener names them.
    fn toml(&self, names: &[&str]) -> String {
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
    gateway.metric_reaches("tidegate_certificate_reloads_total", &labels, times).await;
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
    let Reloaded { certificates, waiting } = gateway.running().reload(setup.read()).unwrap();

    assert_eq!((certificates[0].sha256, &waiting[..]), (new, &[][..]));
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
    let refused = gateway.running().reload(setup.read()).unwrap_err();

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
    gateway.running().reload(setup.read()).unwrap();
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

    let refused = gateway.running().reload(bad.read()).unwrap_err();

    let lines = refused.lines();
    assert!(lines[0].contains("limits.sessions: 0 would let nothing through"), "{lines:?}");
    assert!(lines[1].contains("limits.colour: unknown key"), "{lines:?}");
    reloads(&gateway, "failed", 1.0).await;
    assert!(is_seen(&gateway, old).await);
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_self_signed_certificate_stays_and_what_waits_for_a_restart_is_named() {
    let setup = setup().await;
    let gateway = setup.clone().start().await;
    let hash = gateway.hash();
    let changed = setup.tables("[limits]\nsessions = 7");

    let reloaded = gateway.running().reload(changed.read()).unwrap();

    assert_eq!(reloaded, Reloaded { certificates: Vec::new(), waiting: vec!["limits"] });
    assert_eq!(gateway.hash(), hash);
    gateway.session("/echo").await;
    // Clients that ask for another path get no other route for it yet.
    let refusal = gateway.refusal("/other", &RequestOptions::default()).await;
    assert_eq!(refusal.0, 404);
    gateway.shut_down().await;
}
