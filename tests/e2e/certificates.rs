//! Clients that show certificates of their own.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use tidegate::client::{self, Closed, Identity, Options, RequestOptions, Trust};

use crate::{
    credentials::Dir,
    harness::{Setup, TcpBackend, TestGateway, echo_tcp, expect_text, soon},
};

/// Somebody who issues certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A client's certificate for this name.
    fn identity(&self, name: &str) -> Identity {
        self.identity_with(name, |_| {})
    }

    /// One that is good until then, which it says in whole seconds.
    fn identity_until(&self, name: &str, end: SystemTime) -> Identity {
        self.identity_with(name, |params| params.not_after = end.into())
    }

    fn identity_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        params.distinguished_name.push(DnType::CommonName, format!("cn of {name}"));
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { chain_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }
}

/// A client that shows this.
fn client(gateway: &TestGateway, identity: Option<Identity>) -> client::Endpoint {
    let trust = Trust::Hashes(vec![gateway.hash()]);
    gateway.endpoint_with(&Options { identity, ..Options::new(trust) })
}

/// What a listener says to ask for certificates of these roots.
fn asks(roots: &str, required: bool) -> String {
    format!("client_certificates = {{ roots = {roots:?}, required = {required} }}")
}

#[tokio::test]
async fn a_certificate_with_a_listed_name_lets_in_and_names_the_client() {
    let (dir, authority) = (Dir::new("certificates"), Authority::new());
    let backend = TcpBackend::bind().await;
    let setup = Setup::new()
        .route_with("/robots/{robot}", Some(backend.address()), None, "credentials = [\"fleet\"]")
        .tables("preamble = \"{subject}\\n\"")
        .tables(
            "[credential.fleet]\ncertificates = [\"*.fleet.test\"]\nclaims = { sub = \"{robot}\" }",
        )
        .listener(&asks(&dir.write("roots.pem", &authority.pem), false));
    let gateway = setup.start().await;
    let url = gateway.url("/robots/r7.fleet.test");

    let endpoint = client(&gateway, Some(authority.identity("r7.fleet.test")));
    let connection = soon(endpoint.connect(gateway.address(), "localhost")).await.unwrap();
    let session = soon(connection.open_session(&url, &RequestOptions::default())).await.unwrap();
    let (mut send, _recv) = soon(session.open_bidi()).await.unwrap();
    send.write(b"hello").await.unwrap();
    expect_text(&mut backend.accept().await, b"r7.fleet.test\nhello").await;
    session.close(0, "").await;

    for (identity, status, reason) in [
        (None, 401, "credential_missing"),
        (Some(authority.identity("r8.fleet.test")), 403, "credential_forbidden"),
        (Some(authority.identity("r7.other.test")), 403, "credential_forbidden"),
    ] {
        let endpoint = client(&gateway, identity);
        let connection = soon(endpoint.connect(gateway.address(), "localhost")).await.unwrap();
        let refused = soon(connection.open_session(&url, &RequestOptions::default())).await;
        match refused.unwrap_err() {
            client::Refused::Status { status: found, reason: word, .. } => {
                assert_eq!((found.as_u16(), word.as_deref()), (status, Some(reason)));
            }
            other => panic!("{other}"),
        }
    }
    gateway.shut_down().await;
}

/// The client is told why, as with a token that is over; and nobody gets a new session by it.
#[tokio::test]
async fn a_session_ends_with_its_clients_certificate() {
    let (dir, authority) = (Dir::new("ending"), Authority::new());
    let setup = Setup::new()
        .route_with("/x", Some(echo_tcp().await), None, "credentials = [\"fleet\"]")
        .tables("[credential.fleet]\ncertificates = \"any\"")
        .listener(&asks(&dir.write("roots.pem", &authority.pem), true));
    let gateway = setup.start().await;
    // On a busy machine a certificate may be over before it is looked at; then with a longer one.
    let mut life = Duration::from_secs(1);
    let (connection, session) = loop {
        let identity = authority.identity_until("a.test", SystemTime::now() + life);
        let endpoint = client(&gateway, Some(identity));
        if let Ok(connection) = soon(endpoint.connect(gateway.address(), "localhost")).await {
            let options = RequestOptions::default();
            let session = soon(connection.open_session(&gateway.url("/x"), &options)).await;
            if let Ok(session) = session {
                break (connection, session);
            }
        }
        life *= 2;
    };
    let closed = soon(session.closed()).await;
    assert_eq!(closed, Closed::ByServer { code: 4, reason: "credential_expired".into() });
    gateway.session_ends("credential_expired", 1.0).await;
    // The connection stands for a moment longer.
    let again = soon(connection.open_session(&gateway.url("/x"), &RequestOptions::default())).await;
    match again.unwrap_err() {
        client::Refused::Status { status, reason, .. } => {
            assert_eq!((status.as_u16(), reason.as_deref()), (401, Some("credential_expired")));
        }
        other => panic!("{other}"),
    }
    gateway.shut_down().await;
}

/// A listener may insist, and believes no other authority either way.
#[tokio::test]
async fn certificates_of_other_authorities_get_no_connection() {
    let (dir, authority) = (Dir::new("authorities"), Authority::new());
    let roots = dir.write("roots.pem", &authority.pem);
    for (required, nobody_is_let_in) in [(false, true), (true, false)] {
        let backend = TcpBackend::bind().await;
        let setup = Setup::new().route("/x", Some(backend.address()), None);
        let gateway = setup.listener(&asks(&roots, required)).start().await;
        let connects = async |identity| {
            let endpoint = client(&gateway, identity);
            soon(endpoint.connect(gateway.address(), "localhost")).await.is_ok()
        };
        assert!(connects(Some(authority.identity("a.test"))).await);
        assert!(!connects(Some(Authority::new().identity("a.test"))).await);
        assert_eq!(connects(None).await, nobody_is_let_in, "required: {required}");
        let failed = if nobody_is_let_in { 1.0 } else { 2.0 };
        let labels = [("result", "handshake_failed")];
        gateway.metric_reaches("tidegate_quic_connections_total", &labels, failed).await;
        gateway.shut_down().await;
    }
}

/// A root that is believed no longer lets nobody in, also nobody who was in before: nothing is resumed.
#[tokio::test]
async fn a_reload_changes_whose_certificates_are_believed() {
    let (dir, old, new) = (Dir::new("roots"), Authority::new(), Authority::new());
    let backend = TcpBackend::bind().await;
    let roots = dir.write("roots.pem", &old.pem);
    let setup =
        Setup::new().route("/x", Some(backend.address()), None).listener(&asks(&roots, true));
    let gateway = setup.clone().start().await;
    let [before, after] = [&old, &new].map(|one| client(&gateway, Some(one.identity("a.test"))));
    let connects = async |endpoint: &client::Endpoint| {
        soon(endpoint.connect(gateway.address(), "localhost")).await.is_ok()
    };
    assert_eq!((connects(&before).await, connects(&after).await), (true, false));
    dir.write("roots.pem", &new.pem);
    soon(gateway.running().live().reload(move || setup.read())).await.unwrap();
    assert_eq!((connects(&before).await, connects(&after).await), (false, true));
    gateway.shut_down().await;
}
