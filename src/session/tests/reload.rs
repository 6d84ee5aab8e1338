//! A reload that comes while a request is decided on.

use std::{sync::Arc, time::Duration};

use super::support::*;
use crate::{
    backend::{
        Backends,
        tests::{dead_address, no_resolver, settings},
    },
    config::{self, Limit, PerClientLimits, Rate},
    reason::Refusal,
    route::RouteTable,
    session::{Decision, Tables},
    transport::{SessionRequest, memory::MemoryClient},
};

/// What a reload does with a configuration of this one route.
fn reload(gateway: &Gateway, route: &config::Route) {
    let before = gateway.context.tables();
    let backends = route.destination.backends();
    let backends = backends.map(|b| (b.name.clone(), Arc::clone(b))).collect();
    let (metrics, previous) = (&gateway.metrics, Some(&*before.backends));
    let backends = Arc::new(Backends::new(&backends, metrics, &no_resolver(), previous));
    backends.open(&before.backends);
    let tables = Tables {
        end_removed: false,
        routes: RouteTable::new(std::slice::from_ref(route), metrics),
        backends: Arc::clone(&backends),
    };
    gateway.context.replace_tables(tables, Limit::Unlimited);
    backends.take_over(&before.backends);
}

/// A route to the one endpoint of this name.
fn to(endpoint: &str) -> config::Route {
    let mut backend = settings(&[dead_address()]);
    endpoint.clone_into(&mut backend.endpoints[0].name);
    route_to(backend)
}

/// Asks for a session, and reloads when all is decided but its endpoint: the one that it gets.
fn ask_during(gateway: &Gateway, reload: impl FnOnce()) -> Result<String, Refusal> {
    let (request, _client) = MemoryClient::asking(PATH);
    let mut reload = Some(reload);
    let decided = gateway.context.explain(request.head(), &mut |decision| {
        if matches!(decision, Decision::Room(Ok(()))) {
            reload.take().into_iter().for_each(|reload| reload());
        }
    });
    assert!(reload.is_none());
    let decided = decided.map_err(|refused| refused.why)?;
    Ok(decided.pin.endpoint().name().to_owned())
}

#[tokio::test]
async fn a_request_that_a_reload_overtakes_finds_the_new_endpoints() {
    let gateway = Gateway::new(to("old"));
    // It may be asked for once, so what is decided again does not count twice.
    let once = Rate::AtMost { events: 1, per: Duration::from_secs(3600) };
    let limits = PerClientLimits {
        connections: Limit::Unlimited,
        sessions: Limit::AtMost(1),
        session_rate: once,
    };
    gateway.context.clients.change(limits);
    assert_eq!(ask_during(&gateway, || reload(&gateway, &to("new"))), Ok("new".to_owned()));
}

#[tokio::test]
async fn a_request_whose_route_goes_meanwhile_is_told_what_is_true_now() {
    let gateway = Gateway::new(to("old"));
    let mut other = to("new");
    other.path = config::RoutePath { segments: Vec::new() };
    assert_eq!(ask_during(&gateway, || reload(&gateway, &other)), Err(Refusal::NoRoute));
}

#[tokio::test]
async fn a_request_for_which_there_is_no_endpoint_before_or_after_is_refused() {
    let gateway = Gateway::new(to("old"));
    let mut none = to("new");
    only_backend(&mut none).endpoints[0].draining = true;
    let refused = Err(Refusal::BackendUnavailable);
    assert_eq!(ask_during(&gateway, || reload(&gateway, &none)), refused);
}
