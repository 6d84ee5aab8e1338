//! Starts that fail.

use std::{fs::File, os::fd::OwnedFd, sync::Arc};

use super::*;
use crate::{
    edge::{Edge, tests::config},
    metrics::Metrics,
};

/// What becomes of a start of three workers, of whom this makes one unable to begin.
fn start(break_one: impl FnOnce(&mut Vec<Worker<Serve>>)) -> io::Error {
    let (config, metrics, lifecycle) = (config(3), Metrics::new(), Lifecycle::new());
    let edge = Edge::bind(&config, &metrics).unwrap();
    let address = edge.addresses()[0].address;
    let clients = Arc::new(Clients::new(config.limits.per_client.clone(), metrics.clients()));
    let memory = Arc::new(Memory::new(config.limits.memory, metrics.memory()));
    let serve: Serve = |_| std::future::ready(());
    let mut workers = edge.into_workers(&lifecycle, &clients, &memory, &serve);
    break_one(&mut workers);
    let error = Workers::start(workers).unwrap_err();
    // No thread of the others has it any more.
    UdpSocket::bind(address).unwrap();
    assert!(lifecycle.is_ready(), "somebody still has a latch");
    error
}

type Serve = fn(Accepted) -> std::future::Ready<()>;

#[test]
fn a_worker_that_lacks_something_fails_the_start_and_says_what() {
    let error = start(|workers| {
        let no_socket = OwnedFd::from(File::open("/dev/null").unwrap());
        workers[1].sockets[0].1 = no_socket.into();
    });
    assert!(error.to_string().starts_with("worker 1: "), "{error}");
}

#[test]
fn a_worker_that_panics_fails_the_start() {
    let error = start(|workers| {
        workers[1].endpoint_config.cid_generator(|| panic!("a test wants this panic"));
    });
    assert_eq!(error.to_string(), "a worker has panicked");
}
