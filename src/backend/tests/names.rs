//! Names that resolve, change and stop resolving.

use super::{super::dial::tests::Hanging, *};
use crate::lifecycle::Lifecycle;
use crate::reason::CheckResult;

/// A backend of one endpoint, the host `a`, whose addresses the test sets.
fn named(names: &Arc<Names>, port: u16) -> Arc<Backend> {
    let mut settings = settings(&[]);
    settings.endpoints.push(endpoint("x", Some(HostPort::Name("a".into(), port)), None));
    let resolver: Arc<dyn Resolve> = Arc::clone(names) as _;
    Arc::new(Backend::new(Arc::new(settings), &Metrics::new(), resolver, None))
}

fn where_to(pin: &Pin) -> String {
    members_text(std::slice::from_ref(&pin.member()))
}

fn members_text(members: &[Arc<Member>]) -> String {
    let ips = members.iter().flat_map(|m| m.addresses().ips().collect::<Vec<_>>());
    ips.map(|ip| ip.to_string()).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn names_are_resolved_before_serving() {
    let (_listener, address) = listening();
    let mut settings = settings(&[]);
    let localhost = HostPort::Name("localhost".into(), address.port());
    settings.endpoints.push(endpoint("a", Some(localhost), None));
    let all = BTreeMap::from([("test".to_owned(), Arc::new(settings))]);
    let resolver: Arc<dyn Resolve> = Arc::new(SystemResolver);
    let backends = Backends::new(&all, &Metrics::new(), &resolver, None);
    assert!(backends.get("test").unwrap().pick(&NOBODY).is_none());

    backends.resolve().await;
    let pin = backends.get("test").unwrap().pick(&NOBODY).unwrap();
    // localhost may be ::1 first, where nobody listens: the next address is tried.
    pin.dial(&client()).await.unwrap();
}

/// They share one queue: whoever was not let in at one need not stand in it again for the next.
#[tokio::test(start_paused = true)]
async fn a_turn_that_does_not_come_is_waited_for_once_whatever_members_an_endpoint_has() {
    let hanging = Hanging::new();
    let names = Arc::new(Names::default());
    let mut settings = settings(&[]);
    let name = HostPort::Name("a".into(), hanging.address().port());
    settings.endpoints.push(endpoint("x", Some(name), None));
    settings.connect_timeout = Duration::from_secs(60);
    let queue_timeout = Duration::from_secs(1);
    settings.dial = config::Dial { concurrent: 1, queue: 5, queue_timeout };
    let resolver: Arc<dyn Resolve> = Arc::clone(&names) as _;
    let backend = Arc::new(Backend::new(Arc::new(settings), &Metrics::new(), resolver, None));
    names.set("a", &["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    backend.resolve().await;

    let (first, client) = (backend.pick(&NOBODY).unwrap(), client());
    let mut hangs = Box::pin(first.dial(&client));
    assert!(now(hangs.as_mut()).is_none());
    let began = Instant::now();
    let late = backend.pick(&NOBODY).unwrap().dial(&client).await.unwrap_err();
    assert!(matches!(late, DialError::QueueTimeout), "{late:?}");
    assert_eq!(began.elapsed(), queue_timeout);
    assert_eq!(backend.endpoints[0].metrics.dial.queue_timeout.get(), 1);
}

/// A failed lookup must not take a working backend away.
#[tokio::test]
async fn the_old_answer_is_kept_when_resolving_fails() {
    let names = Arc::new(Names::default());
    let backend = named(&names, 7);
    names.set("a", &["127.0.0.1"]);
    backend.resolve().await;
    names.forget("a");
    backend.resolve().await;
    assert_eq!(where_to(&backend.pick(&NOBODY).unwrap()), "127.0.0.1");

    names.set("a", &["127.0.0.2"]);
    backend.resolve().await;
    assert_eq!(where_to(&backend.pick(&NOBODY).unwrap()), "127.0.0.2");
}

#[tokio::test]
async fn each_address_of_a_name_takes_its_share() {
    let names = Arc::new(Names::default());
    let backend = named(&names, 7);
    names.set("a", &["127.0.0.3", "127.0.0.1", "127.0.0.2"]);
    backend.resolve().await;
    let pins: Vec<_> = (0..6).map(|_| backend.pick(&NOBODY).unwrap()).collect();
    let order: Vec<_> = pins.iter().map(where_to).collect();
    assert_eq!(order[..3], ["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    assert_eq!(order[3..], order[..3]);
    assert_eq!(backend.endpoints[0].pool.up.get(), 3);
}

#[tokio::test]
async fn a_dial_goes_to_the_other_address_of_a_name() {
    let (_listener, address) = listening();
    let names = Arc::new(Names::default());
    let backend = named(&names, address.port());
    names.set("a", &["127.0.0.9", "127.0.0.1"]);
    backend.resolve().await;
    for _ in 0..2 {
        let pin = backend.pick(&NOBODY).unwrap();
        pin.dial(&client()).await.unwrap();
        assert_eq!(where_to(&pin), "127.0.0.1");
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_gone_gets_no_new_sessions_and_later_tells_the_old_ones() {
    let names = Arc::new(Names::default());
    let backend = named(&names, 7);
    names.set("a", &["127.0.0.1", "127.0.0.2"]);
    backend.resolve().await;
    let pins = [backend.pick(&NOBODY).unwrap(), backend.pick(&NOBODY).unwrap()];

    names.set("a", &["127.0.0.2"]);
    backend.resolve().await;
    let newer = backend.pick(&NOBODY).unwrap();
    assert_eq!([where_to(&pins[0]), where_to(&newer)], ["127.0.0.1", "127.0.0.2"]);
    assert!(now(pins[0].leaving()).is_none(), "an answer may leave somebody out for once");

    tokio::time::advance(backend.settings.resolve_interval * 2).await;
    backend.resolve().await;
    assert!(now(pins[0].leaving()).is_some());
    assert!(now(pins[1].leaving()).is_none() && now(newer.leaving()).is_none());
    assert_eq!(sessions(&backend), [2]);
}

#[tokio::test]
async fn an_address_that_comes_back_is_what_it_was() {
    let names = Arc::new(Names::default());
    let backend = named(&names, 7);
    names.set("a", &["127.0.0.1", "127.0.0.2"]);
    backend.resolve().await;
    let pin = backend.pick(&NOBODY).unwrap();
    let once = Health { fall: 1, ..Health::default() };
    members(&backend)[0].checked(&once, CheckResult::Timeout, Instant::now());

    names.set("a", &["127.0.0.2"]);
    backend.resolve().await;
    assert_eq!(members_text(&members(&backend)), "127.0.0.2");
    names.set("a", &["127.0.0.1", "127.0.0.2"]);
    backend.resolve().await;
    let member = member(&backend, 0);
    assert!(Arc::ptr_eq(&member, &pin.member()));
    assert_eq!((member.state().word(), member.sessions()), ("down", 1));
}

/// Otherwise a name with a thousand addresses, a few at a time, would be held in full.
#[tokio::test]
async fn only_so_many_absent_addresses_are_remembered() {
    let names = Arc::new(Names::default());
    let backend = named(&names, 7);
    names.set("a", &["127.1.0.0"]);
    backend.resolve().await;
    let pin = backend.pick(&NOBODY).unwrap();
    for i in 1..200 {
        names.set("a", &[&format!("127.1.0.{i}")]);
        backend.resolve().await;
    }
    assert_eq!(lock(&backend.known).absent.len(), 64);
    assert!(now(pin.leaving()).is_some(), "who is forgotten is told");
}

#[tokio::test(start_paused = true)]
async fn a_failed_dial_has_names_resolved_soon_but_not_each_time() {
    let names = Arc::new(Names::default());
    let backend = named(&names, dead_address().port());
    names.set("a", &["127.0.0.9"]);
    backend.resolve().await;
    let lifecycle = Lifecycle::new();
    let all = Arc::new(Backends([("test".to_owned(), Arc::clone(&backend))].into()));
    let keeper = Keeper::new(lifecycle.clone());
    keeper.keep(&all);

    names.set("a", &["127.0.0.8"]);
    let began = Instant::now();
    backend.pick(&NOBODY).unwrap().dial(&client()).await.unwrap_err();
    while where_to(&backend.pick(&NOBODY).unwrap()) != "127.0.0.8" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    lifecycle.begin_drain();
    lifecycle.all_tasks_ended().await;
}

#[tokio::test(start_paused = true)]
async fn tending_resolves_again_and_stops_with_the_drain() {
    let names = Arc::new(Names::default());
    let backend = named(&names, 7);
    let all = Arc::new(Backends([("test".to_owned(), Arc::clone(&backend))].into()));
    let lifecycle = Lifecycle::new();
    let keeper = Keeper::new(lifecycle.clone());
    keeper.keep(&all);
    names.set("a", &["127.0.0.1"]);
    while backend.pick(&NOBODY).is_none() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    lifecycle.begin_drain();
    lifecycle.all_tasks_ended().await;
}

/// Sessions are given away by the workers while the control side takes an answer over.
#[tokio::test]
async fn a_session_that_comes_while_an_answer_changes_finds_an_address() {
    let names = Arc::new(Names::default());
    let backend = named(&names, 1);
    names.set("a", &["127.0.0.1"]);
    backend.resolve().await;
    let picks = {
        let backend = Arc::clone(&backend);
        std::thread::spawn(move || (0..100_000).filter(|_| backend.pick(&NOBODY).is_some()).count())
    };
    let mut last = 1;
    while !picks.is_finished() {
        last = 3 - last;
        names.set("a", &[&format!("127.0.0.{last}")]);
        backend.resolve().await;
    }
    assert_eq!(picks.join().unwrap(), 100_000);
}
