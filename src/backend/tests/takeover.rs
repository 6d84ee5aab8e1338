//! Another configuration takes over what is known of the endpoints that it has too.

use super::*;
use crate::{
    config::{Check, Payload},
    lifecycle::Lifecycle,
    reason::CheckResult,
};

fn named(backends: &Backends) -> Arc<Backend> {
    Arc::clone(backends.get("test").unwrap())
}

fn all(settings: config::Backend, previous: Option<&Backends>) -> Backends {
    let all = BTreeMap::from([("test".to_owned(), Arc::new(settings))]);
    Backends::new(&all, &Metrics::new(), &no_resolver(), previous)
}

/// As a reload does it.
fn replace(before: &Backends, after: &Backends) {
    after.open(before);
    after.take_over(before);
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
    settings.health.check = Check::Tcp { send: Payload::default(), expect: Payload::default() };
    let after = all(settings, Some(&before));
    replace(&before, &after);
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
    replace(&before, &after);

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

#[tokio::test]
async fn sessions_of_a_backend_that_is_no_longer_configured_are_told() {
    let before = all(three(), None);
    let pin = named(&before).pick(&NOBODY).unwrap();
    let nothing = Backends::new(&BTreeMap::new(), &Metrics::new(), &no_resolver(), Some(&before));
    assert!(now(pin.leaving()).is_none());

    replace(&before, &nothing);
    assert!(now(pin.leaving()).is_some());
    // What its last check says does not bring it back.
    member(&named(&before), 0).checked(&Health::default(), CheckResult::Passed, Instant::now());
    assert!(now(pin.leaving()).is_some());
}

/// Turns, queues and checks go on as if there had been no reload.
#[tokio::test]
async fn a_backend_that_stays_the_same_is_the_same_one() {
    let before = all(three(), None);
    let after = all(three(), Some(&before));
    assert!(Arc::ptr_eq(&named(&before), &named(&after)));
}

#[tokio::test]
async fn another_port_is_another_server() {
    let before = all(settings(&["127.0.0.1:1".parse().unwrap()]), None);
    let pin = named(&before).pick(&NOBODY).unwrap();
    let after = all(settings(&["127.0.0.1:2".parse().unwrap()]), Some(&before));
    replace(&before, &after);

    assert!(now(pin.leaving()).is_some());
    assert_eq!(pin.member().addresses().to_string(), "tcp 127.0.0.1:1");
    let new = named(&after).pick(&NOBODY).unwrap();
    assert_eq!(new.member().addresses().to_string(), "tcp 127.0.0.1:2");
    assert!(now(new.leaving()).is_none());

    // It moves back, and so do its sessions.
    let back = all(settings(&["127.0.0.1:1".parse().unwrap()]), Some(&after));
    replace(&after, &back);
    assert!(now(pin.leaving()).is_none() && now(new.leaving()).is_some());
    assert_eq!(sessions(&named(&back)), [1]);
}

#[tokio::test]
async fn the_last_word_about_a_drain_counts() {
    let drained = |draining| {
        let mut settings = three();
        settings.endpoints[0].draining = draining;
        // So that it is another one each time.
        settings.endpoints[1].weight = if draining { 2 } else { 3 };
        settings
    };
    let mut now_used = all(drained(false), None);
    let change = |used: &mut Backends, settings| {
        let after = all(settings, Some(used));
        replace(used, &after);
        *used = after;
    };
    let state = |used: &Backends| member(&named(used), 0).state().word();
    assert_eq!(state(&now_used), "live");
    change(&mut now_used, drained(true));
    assert_eq!(state(&now_used), "draining");
    now_used.set_draining("test", "0", false).unwrap();
    assert_eq!(state(&now_used), "live");
    let mut same_word = drained(true);
    same_word.endpoints[1].weight = 9;
    change(&mut now_used, same_word);
    assert_eq!(state(&now_used), "live", "the file says nothing new");
    change(&mut now_used, drained(false));
    change(&mut now_used, drained(true));
    assert_eq!(state(&now_used), "draining");
    assert_eq!(member(&named(&all(drained(true), None)), 0).state().word(), "draining");
}

#[tokio::test]
async fn without_checks_nothing_says_that_a_member_is_down() {
    let before = all(three(), None);
    let old = named(&before);
    let pin = old.pick(&NOBODY).unwrap();
    let once = Health { fall: 1, ..Health::default() };
    member(&old, 0).checked(&once, CheckResult::Timeout, Instant::now());
    assert!(now(pin.leaving()).is_some());

    let mut settings = three();
    settings.health.rise = 7;
    let after = all(settings, Some(&before));
    replace(&before, &after);
    assert_eq!(member(&named(&after), 0).state().word(), "live");
    assert!(now(pin.leaving()).is_none());
}

/// New sessions would be refused until the next lookup, which may be half a minute away.
#[tokio::test]
async fn a_new_name_has_its_addresses_before_it_is_used() {
    let names = Arc::new(Names::default());
    names.set("new", &["127.0.0.7"]);
    let resolver: Arc<dyn Resolve> = Arc::clone(&names) as _;
    let before = all(three(), None);
    let mut settings = settings(&[]);
    settings.endpoints.push(endpoint("x", Some(HostPort::Name("new".into(), 1)), None));
    let map = BTreeMap::from([("test".to_owned(), Arc::new(settings))]);
    let after = Backends::new(&map, &Metrics::new(), &resolver, Some(&before));
    after.learn(&before).await;

    assert_eq!(member(&named(&after), 0).addresses().to_string(), "tcp 127.0.0.7:1");
    assert!(
        members(&named(&before)).iter().all(|member| member.is_live()),
        "nothing has changed yet"
    );
}

#[tokio::test]
async fn whoever_has_the_name_is_looked_after_and_nobody_else() {
    let lifecycle = Lifecycle::new();
    let keeper = Keeper::new(lifecycle.clone());
    let before = all(three(), None);
    keeper.keep(&before);
    let mut settings = three();
    settings.endpoints[0].weight = 7;
    let after = all(settings, Some(&before));
    replace(&before, &after);
    keeper.keep(&after);
    keeper.keep(&after);
    // The task holds the one in force, and lets go of the other.
    let old = Arc::downgrade(&named(&before));
    drop(before);
    until(|| old.strong_count() == 0).await;
    assert_eq!(lifecycle.running_tasks(), 1);

    let nothing = Backends::new(&BTreeMap::new(), &Metrics::new(), &no_resolver(), Some(&after));
    keeper.keep(&nothing);
    until(|| lifecycle.running_tasks() == 0).await;
}

/// A request that comes in between goes by the one configuration or the other, and finds an endpoint in each.
#[tokio::test]
async fn what_the_new_ones_use_is_opened_before_anything_is_shut() {
    let with = |used: &[(usize, bool)]| {
        let all = three().endpoints;
        let endpoint = |&(which, draining): &(usize, bool)| {
            let endpoint = all.get(which).unwrap();
            config::Endpoint { draining, ..endpoint.clone() }
        };
        config::Backend { endpoints: used.iter().map(endpoint).collect(), ..three() }
    };
    let finds_one = |all: &Backends| named(all).pick(&NOBODY).is_some();
    let mut used = all(with(&[(0, false), (1, true)]), None);
    for next in [
        // Their drains change places.
        &[(0, true), (1, false)][..],
        &[(0, false), (1, true)],
        // The drained one stays alone.
        &[(1, false)],
        // Another comes in its place, and it comes back.
        &[(0, false)],
        &[(1, false)],
    ] {
        let after = all(with(next), Some(&used));
        after.open(&used);
        assert!(finds_one(&used) && finds_one(&after), "{next:?}");
        after.take_over(&used);
        assert!(finds_one(&after), "{next:?}");
        used = after;
    }
}
