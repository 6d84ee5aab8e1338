//! The sessions that live, seen and ended from outside.

use std::{net::IpAddr, sync::Arc, thread};

use super::support::*;
use crate::{
    backend::tests::dead_address,
    bridge::{Farewell, tests::context},
    metrics::Metrics,
    reason::Ending,
    session::registry::{Page, Registry, Selection},
    transport::memory::{MemoryClient, memory_leg},
};

async fn sessions(gateway: &Gateway, count: usize) -> Vec<MemoryClient> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(gateway.session().await);
    }
    // A client knows of its session a moment before the registry does.
    until(|| page(gateway, &Selection::default()).sessions.len() == count).await;
    clients
}

fn page(gateway: &Gateway, selection: &Selection) -> Page {
    gateway.context.sessions().page(selection, None, 10_000)
}

#[tokio::test]
async fn a_session_is_shown_from_its_acceptance_to_its_end() {
    let gateway = Gateway::new(route(&[dead_address()]));
    assert!(gateway.context.sessions().is_empty());
    let clients = sessions(&gateway, 1).await;

    let shown = page(&gateway, &Selection::default()).sessions;
    let session = &shown[0];
    let place = (session.route(), session.backend(), session.endpoint());
    assert_eq!(place, ("game", "test", "0".to_owned()));
    assert_eq!(session.client().head.path, PATH);
    assert!(session.began().is_some());
    assert_eq!(gateway.context.sessions().get(session.id()).unwrap().id(), session.id());

    clients[0].close(0, "");
    gateway.leaves_nothing_behind().await;
    assert!(gateway.context.sessions().is_empty());
    assert!(gateway.context.sessions().get(session.id()).is_none());
}

#[tokio::test]
async fn a_selection_takes_those_to_which_all_of_it_applies() {
    let gateway = Gateway::new(route(&[dead_address()]));
    let _clients = sessions(&gateway, 1).await;
    let shown = page(&gateway, &Selection::default()).sessions;
    let any = Selection::default;
    let (game, other) = (|| Some("game".to_owned()), || Some("other".to_owned()));
    let ip = |text: &str| text.parse::<IpAddr>().ok();
    for (selection, takes) in [
        (any(), true),
        (Selection { id: Some(shown[0].id()), ..any() }, true),
        (Selection { id: Some(ulid::Ulid::nil()), ..any() }, false),
        (Selection { route: game(), ..any() }, true),
        (Selection { route: other(), ..any() }, false),
        (Selection { backend: Some("test".into()), endpoint: Some("0".into()), ..any() }, true),
        (Selection { backend: other(), ..any() }, false),
        (Selection { endpoint: other(), ..any() }, false),
        (Selection { route: game(), endpoint: other(), ..any() }, false),
        (Selection { subject: other(), ..any() }, false),
        (Selection { client: ip("192.0.2.1"), ..any() }, true),
        (Selection { client: ip("::ffff:192.0.2.1"), ..any() }, true),
        (Selection { client: ip("192.0.2.2"), ..any() }, false),
    ] {
        assert_eq!(selection.takes(&shown[0]), takes, "{selection:?}");
        assert_eq!(page(&gateway, &selection).sessions.len(), usize::from(takes));
    }
}

/// The walk takes its lock many times over for as many.
#[tokio::test]
async fn pages_follow_each_other_without_gap_or_overlap() {
    let mut route = route(&[dead_address()]);
    route.max_sessions = crate::config::Limit::Unlimited;
    let gateway = Gateway::with_limit(route, crate::config::Limit::Unlimited);
    let _clients = sessions(&gateway, 600).await;

    let registry = gateway.context.sessions();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = registry.page(&Selection::default(), after, 250);
        assert!(page.sessions.len() <= 250);
        seen.extend(page.sessions.iter().map(|session| session.id()));
        after = seen.last().copied();
        if !page.has_more {
            break;
        }
    }
    assert_eq!(seen.len(), 600);
    assert!(seen.is_sorted_by(|a, b| a < b), "in the order of their ids");
}

#[tokio::test]
async fn the_sessions_of_a_selection_are_ended_and_told_why() {
    let gateway = Gateway::new(route(&[dead_address()]));
    let clients = sessions(&gateway, 3).await;
    let registry = gateway.context.sessions();
    let one = page(&gateway, &Selection::default()).sessions[0].id();

    let farewell = Farewell { code: 4711, text: "the round is over".into() };
    let why = Ending::EndedByOperator;
    assert_eq!(registry.end(|session| session.id() == one, why, Some(&farewell)), 1);
    until(|| registry.len() == 2).await;
    // Ids of the same millisecond are in no order, so it may be anyone's.
    let (told, others): (Vec<_>, Vec<_>) = clients.iter().partition(|client| client.was_told());
    let [told] = told[..] else { panic!("one was ended, and {} were told", told.len()) };
    assert_eq!(told.closed().await, (4711, "the round is over".into()));

    let everything = Selection { route: Some("game".into()), ..Selection::default() };
    assert_eq!(registry.end(|session| everything.takes(session), why, None), 2);
    assert_eq!(registry.end(|_| true, why, None), 0, "an ended session is not ended again");
    for client in others {
        assert_eq!(client.closed().await, (8, "ended_by_operator".into()));
    }
    gateway.leaves_nothing_behind().await;
    assert_eq!(gateway.route.ends.get(why), 3);
    assert_eq!(gateway.context.cut_sessions(), 0, "the gateway was not stopping");
}

/// Whoever bars a way and then ends those who came by it must not miss who was on it.
#[test]
fn what_is_not_accepted_yet_is_not_shown_and_can_be_ended() {
    let registry = Registry::default();
    let bridges = Arc::new(context(&Metrics::new()));
    let entered = registry.enter(Arc::clone(&bridges));
    assert!(registry.page(&Selection::default(), None, 10).sessions.is_empty());
    assert!(registry.get(bridges.id()).is_none());

    assert_eq!(registry.end(|_| true, Ending::EndedByOperator, None), 1);
    assert_eq!(bridges.ending(), Some(Ending::EndedByOperator));

    entered.accepted(memory_leg());
    assert_eq!(registry.page(&Selection::default(), None, 10).sessions.len(), 1);
    drop(entered);
    assert!(registry.is_empty());
}

/// The list holds what it shows, so that a session which ends meanwhile is whole to the last.
#[test]
fn sessions_come_and_go_while_they_are_listed() {
    let (registry, metrics) = (Registry::default(), Metrics::new());
    let stays = Arc::new(context(&metrics));
    let stays = registry.enter(stays);
    stays.accepted(memory_leg());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let entered = registry.enter(Arc::new(context(&metrics)));
                        entered.accepted(memory_leg());
                    }
                })
            })
            .collect();
        while !workers.iter().all(|worker| worker.is_finished()) {
            let page = registry.page(&Selection::default(), None, 10);
            assert!((1..=3).contains(&page.sessions.len()), "{}", page.sessions.len());
            assert!(page.sessions.iter().all(|session| session.route() == "game"));
        }
    });
    assert_eq!(registry.len(), 1);
}
