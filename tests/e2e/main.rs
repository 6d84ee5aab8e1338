//! End-to-end tests: the whole gateway, real sockets on loopback, one file per behaviour.
//!
//! One binary, so that it is linked once. Ports are the system's choice; nothing sleeps: tests wait for
//! what they expect, with a deadline. [`harness::TestGateway::shut_down`] fails a test that leaves
//! something behind.

#![allow(clippy::disallowed_methods, reason = "tests spawn backends of their own")]
#![allow(clippy::disallowed_types, reason = "tests speak QUIC past the client room")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod admin_api;
mod backends;
mod bad_network;
#[path = "../browser/browser.rs"]
mod browser;
mod browsers;
mod certificates;
mod closes;
mod credentials;
mod datagrams;
#[allow(clippy::disallowed_types, reason = "plays a TLS server")]
mod dialling;
mod drain;
mod endings;
mod explaining;
mod faults;
mod flow;
mod foreign;
#[allow(clippy::disallowed_types, reason = "sets limits that our client does not have")]
mod greeting;
mod harness;
#[allow(clippy::disallowed_types, reason = "breaks rules on QUIC streams that our client keeps")]
mod hostile;
mod introductions;
mod limits;
mod log;
#[allow(clippy::disallowed_types, reason = "breaks rules on QUIC streams that our client keeps")]
mod malformed;
#[allow(clippy::disallowed_types, reason = "pours bytes into streams that our client keeps")]
mod memory;
mod migration;
mod path_mtu;
#[allow(clippy::disallowed_types, reason = "a client without our client")]
mod raw;
mod receivers;
mod reload;
mod routing;
mod sessions;
mod shapes;
mod ssh;
mod stalls;
mod under_load;
