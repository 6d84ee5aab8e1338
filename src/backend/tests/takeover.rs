//! Another configuration takes over what is known of the endpoints that it has too.

use super::*;
use crate::reason::CheckResult;

fn named(backends: &Backends) -> Arc<Backend> {
    Arc::clone(backends.get("test").unwrap())
}

fn all(settings: config::Backend, previous: Option<&Backends>) -> Backends {
    let all = BTreeMap::from([("test".to_owned(), Arc::new(settings))]);
    Backends::new(&all, &Metrics::new(), &no_resolver(), previous)
}

fn three() -> config::Backend {
    settings(&["127.0.0.1:1", "127.0.0.2:1", "127.0.0.3:1"].map(|a| a.parse().unwrap()))
}

#[tokio::test]
async fn sessions_health_ejections_and_drains_survive() {
    let before = all(three(), None);
    let old = named(&before);
    let _pins = [old.pick(&NOBODY).unwrap(), old.pick(&NOBODY).unwrap()];
    let once = Health { fall: 1, ..Health::default() };
    members(&old)[0].checked(&once, CheckResult::Timeout, Instant::now());
    let end = members(&old)[1].eject(&old.settings.ejection, Instant::now());
    old.set_draining_of("2", true);

    let mut settings = three();
    settings.endpoints[0].weight = 7;
    settings.balance = Balance::LeastSessions;
    let after = all(settings, Some(&before));
    after.resolve().await;
    let new = named(&after);

    let states: Vec<_> = members(&new).iter().map(|member| member.state().word()).collect();
    assert_eq!(states, ["down", "ejected", "draining"]);
    assert_eq!(sessions(&new), [1, 1, 0]);
    assert_eq!(new.readmit(Instant::now()), Some(end));
    assert_eq!(new.roster.load().0[0].weight, 7);
}

/// A file that is not taken in the end must leave everything as it was.
#[tokio::test]
async fn a_configuration_that_is_only_read_changes_nothing() {
    let before = all(three(), None);
    let old = named(&before);
    let pin = old.pick(&NOBODY).unwrap();
    let mut settings = three();
    settings.endpoints.remove(0);
    drop(all(settings, Some(&before)));

    assert!(now(pin.leaving()).is_none());
    assert!(members(&old).iter().all(|member| member.is_live()));
}

#[tokio::test]
async fn sessions_of_an_endpoint_that_is_no_longer_configured_are_told() {
    let before = all(three(), None);
    let old = named(&before);
    let (gone, stays) = (old.pick(&NOBODY).unwrap(), old.pick(&NOBODY).unwrap());
    let mut settings = three();
    settings.endpoints.remove(0);
    let after = all(settings, Some(&before));
    named(&after).settle(Instant::now());

    assert!(now(gone.leaving()).is_some());
    assert!(now(stays.leaving()).is_none());
    assert_eq!(sessions(&named(&after)), [1, 0]);
}

#[tokio::test]
async fn a_names_last_answer_survives() {
    let names = Arc::new(Names::default());
    let resolver: Arc<dyn Resolve> = Arc::clone(&names) as _;
    let mut settings = settings(&[]);
    settings.endpoints.push(endpoint("x", Some(HostPort::Name("a".into(), 1)), None));
    let map = BTreeMap::from([("test".to_owned(), Arc::new(settings))]);
    let before = Backends::new(&map, &Metrics::new(), &resolver, None);
    names.set("a", &["127.0.0.1"]);
    before.resolve().await;
    names.forget("a");

    let after = Backends::new(&map, &Metrics::new(), &resolver, Some(&before));
    after.resolve().await;
    assert!(Arc::ptr_eq(&members(&named(&after))[0], &members(&named(&before))[0]));
}
