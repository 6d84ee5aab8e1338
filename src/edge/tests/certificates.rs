//! Certificates: which one a client sees, and what a reload makes of them.

use super::*;

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named() {
    let mut config = config(1);
    let files = CertificateFiles { chain: "/nowhere/chain.pem".into(), key: "/nowhere/key".into() };
    config.listeners[0].certificate = CertificateSource::Files(vec![files]);

    let error = Edge::bind(&config, &Metrics::new()).unwrap_err();
    assert_eq!(error.to_string(), "listener edge");
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "cannot read /nowhere/chain.pem");
}

#[tokio::test]
async fn the_server_name_chooses_among_certificate_files() {
    let files = Files::new("sni");
    let mut config = config(1);
    config.listeners[0].certificate =
        CertificateSource::Files(vec![files.make("one.example"), files.make("two.example")]);
    let edge = TestEdge::start(&config);

    let [one, two] = &edge.certificates[..] else { panic!("two certificates") };
    assert_eq!(
        (&*one.names, &*two.names),
        (&["one.example".to_owned()][..], &["two.example".to_owned()][..])
    );
    let table = [("one.example", one), ("two.example", two), ("unknown.example", one)];
    for (name, certificate) in table {
        let client = client(edge.address(), certificate.sha256);
        let connected = connect(&client, edge.address(), name).await;
        assert!(connected.is_ok(), "{name}: {connected:?}");
    }
    edge.stop().await;
}

#[tokio::test]
async fn a_reload_changes_certificates_for_new_clients_only() {
    let files = Files::new("reload");
    let mut config = config(1);
    config.listeners[0].certificate = CertificateSource::Files(vec![files.make("one.example")]);
    let edge = TestEdge::start(&config);
    let old = edge.connect().await.unwrap();

    files.make("one.example");
    let reloaded = edge.reload(&config);
    assert_ne!(reloaded[0].sha256, edge.certificates[0].sha256);
    let new = client(edge.address(), reloaded[0].sha256);
    connect(&new, edge.address(), "one.example").await.unwrap();
    edge.connect().await.expect_err("the old certificate is gone");
    assert_eq!(round_trip(&old, b"old").await, b"old");

    std::fs::write(files.0.join("one.example.pem"), "nonsense").unwrap();
    let two = files.make("two.example");
    std::fs::write(&two.key, "nonsense").unwrap();
    let CertificateSource::Files(listed) = &mut config.listeners[0].certificate else { panic!() };
    listed.push(two);
    let errors = edge.listeners.prepare(&config).unwrap_err();
    assert_eq!(errors.len(), 2, "each problem is told: {errors:?}");
    connect(&new, edge.address(), "one.example").await.expect("a bad file replaces nothing");
    edge.stop().await;
}

#[tokio::test]
async fn a_bad_certificate_of_one_listener_keeps_the_others_from_changing() {
    let files = Files::new("all-or-nothing");
    let mut config = config(1);
    config.listeners[0].certificate = CertificateSource::Files(vec![files.make("one.example")]);
    let mut second = config.listeners[0].clone();
    second.name = "second".into();
    second.certificate = CertificateSource::Files(vec![files.make("two.example")]);
    config.listeners.push(second);
    let edge = TestEdge::start(&config);

    files.make("one.example");
    std::fs::write(files.0.join("two.example.pem"), "nonsense").unwrap();
    let errors = edge.listeners.prepare(&config).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    edge.connect().await.expect("the first listener keeps its certificate");
    edge.stop().await;
}

#[tokio::test]
async fn the_expiry_of_a_certificate_is_shown_as_long_as_it_is_in_use() {
    let files = Files::new("expiry");
    let mut config = config(1);
    config.listeners[0].certificate = CertificateSource::Files(vec![files.make("one.example")]);
    let edge = TestEdge::start(&config);
    let shown = |name: &str| {
        let metrics = edge.metrics.render();
        let is_its = |line: &&str| line.contains("certificate_expiry") && line.contains(name);
        metrics.lines().find(is_its).map(|line| line.rsplit_once(' ').unwrap().1.to_owned())
    };
    assert!(shown("one.example.pem").is_some());

    config.listeners[0].certificate = CertificateSource::Files(vec![files.make("two.example")]);
    let reloaded = edge.reload(&config);
    assert_eq!(shown("one.example.pem"), None);
    assert_eq!(shown("two.example.pem"), Some(reloaded[0].not_after.to_string()));
    edge.stop().await;
}

#[tokio::test]
async fn a_certificate_that_was_made_stays_unless_it_is_wanted_for_other_names() {
    let mut config = config(1);
    let edge = TestEdge::start(&config);
    let before = edge.listeners.certificates();
    assert_eq!(edge.reload(&config), []);
    assert_eq!(edge.listeners.certificates(), before, "the next one stays too");

    config.listeners[0].certificate = CertificateSource::SelfSigned(vec!["other".into()]);
    let new = edge.reload(&config);
    assert_eq!(new[0].names, ["other"]);
    let client = client(edge.address(), new[0].sha256);
    connect(&client, edge.address(), "other").await.unwrap();
    edge.stop().await;
}

/// W3C WebTransport takes a certificate by its hash for 14 days at most, and only while it is valid.
#[tokio::test]
async fn a_certificate_that_was_made_is_followed_by_one_whose_hash_is_known() {
    let edge = TestEdge::start(&config(1));
    let (day, start) = (Duration::from_secs(24 * 60 * 60), SystemTime::now());
    let in_use = || edge.listeners.certificates().remove(0);
    let first = in_use();
    let known = first.next.unwrap();
    assert_ne!(known.sha256, first.sha256);

    let early = start + 11 * day - Duration::from_secs(60);
    assert_eq!(edge.listeners.renew(early, &edge.metrics).unwrap(), []);
    assert_eq!(in_use(), first);

    let time = start + 11 * day + Duration::from_secs(60);
    let renewed = edge.listeners.renew(time, &edge.metrics).unwrap();
    assert_eq!(renewed, [in_use()]);
    let second = in_use();
    let expected = (known.sha256, known.not_before, known.not_after);
    assert_eq!((second.sha256, second.not_before, second.not_after), expected);
    let unix = i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
    let (unix, day_seconds) = (unix.unwrap(), 24 * 60 * 60);
    assert!(second.not_before < unix - 3_000, "clients' clocks may be behind");
    assert!(unix < second.not_after - 12 * day_seconds, "and it is good for 12 days more");
    assert_eq!(second.not_after - second.not_before, 13 * day_seconds);
    let client = client(edge.address(), second.sha256);
    connect(&client, edge.address(), "localhost").await.unwrap();
    edge.connect().await.expect_err("the first certificate is gone");
    let shown = format!("{{cert=\"edge (self-signed)\"}} {}", second.not_after);
    assert!(edge.metrics.render().contains(&shown));

    // A machine that slept for months: what was made ahead is of no use any more.
    let late = start + 100 * day;
    let third = edge.listeners.renew(late, &edge.metrics).unwrap().remove(0);
    assert_ne!(Some(third.sha256), second.next.map(|next| next.sha256));
    assert!(third.not_after > second.not_after + 80 * day_seconds);
    edge.stop().await;
}
