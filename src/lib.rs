//! tidegate: a WebTransport-to-TCP/UDP reverse proxy gateway.
//!
//! Browsers and native clients speak WebTransport (HTTP/3, QUIC) to it; behind it stand TCP and UDP
//! servers that know nothing of QUIC. This library is the gateway; the programs `tidegate` and
//! `tidegate-load` are thin.
//!
//! # The walk of a session
//!
//! A UDP packet reaches a worker's socket and endpoint ([`edge`]: admit, ask for proof of the address, or
//! refuse). The handshake done, HTTP/3 runs on the connection ([`webtransport`]) and yields a session
//! request. The path and the origin pick a route ([`route`]), which may ask the client to show who it is
//! ([`credential`]). The session room ([`session`]) checks limits,
//! picks an endpoint and accepts or refuses. Each stream of the client's gets a bridge to a TCP
//! connection, all datagrams one to a UDP socket ([`bridge`], [`backend`]). When the session ends, it has one
//! reason ([`reason`]), in one log line and one counter.
//!
//! Beside the walk: [`metrics`] handles travel in the route, [`lifecycle`] owns every task, [`admin`] looks
//! on, [`gateway`] puts all of it together from a [`config`].
//!
//! # Rooms
//!
//! | room | what it does | outside libraries that it names |
//! | --- | --- | --- |
//! | [`gateway`] | assembly: bind all, run all, stop all | |
//! | [`config`] | text to valid settings, every problem at once | serde, toml; rustls for TLS to backends |
//! | [`edge`] | workers, sockets, steering, connection ids, TLS, admission | quinn, rustls, socket2 |
//! | [`webtransport`] | QUIC connection to session requests to sessions | h3 and its family; quinn's connections and streams |
//! | [`route`] | path and origin to a route or a refusal | |
//! | [`credential`] | what a client shows to an identity or a refusal | |
//! | [`session`] | one session's life: limits, deadlines, why it ended | |
//! | [`bridge`] | bytes and datagrams both ways, with every ending and every loss | |
//! | [`backend`] | name to endpoint to connection: balancing, health, resolving, TLS, what a backend learns of the client | socket2, rustls; hyper for health checks |
//! | [`transport`] | the client leg as session, bridge and backend know it | |
//! | [`admin`] | metrics, health, sessions and what an operator may do, over HTTP | hyper |
//! | [`limit`] | rates, and what one client address may have | |
//! | [`metrics`] | every metric, by name | prometheus |
//! | [`reason`] | the closed lists of reasons | |
//! | [`lifecycle`] | readiness, drain, kill, waiting for tasks | tokio-util's tracker |
//! | [`lane`] | what each worker has for itself of what all count | |
//! | [`client`] | a WebTransport client for the load generator and the tests | h3, quinn, rustls |
//!
//! Imports go downwards: gateway to edge, session and admin, of which admin looks at session; those to bridge,
//! route; those to webtransport, backend, credential; those to transport, limit, config, metrics, reason, lifecycle and lane, which import nothing but each other's
//! plain types. The client stands aside and takes from webtransport what both ends share. `clippy` holds the borders
//! to the outside libraries.
//!
//! What is no room: `main.rs` and `cli/` are the program `tidegate` (clap, tracing-subscriber), `bin/tidegate-load/`
//! the load generator, and `fuzz` throws bytes at everything that reads foreign ones; it is there only in tests and
//! with `--cfg fuzzing`.

#[allow(clippy::disallowed_types, reason = "owns hyper")]
pub mod admin;
#[allow(
    clippy::disallowed_types,
    reason = "owns the sockets to backends, and asks their health over HTTP"
)]
pub mod backend;
pub mod bridge;
#[allow(clippy::disallowed_types, reason = "owns quinn and rustls on the client side")]
pub mod client;
pub mod config;
pub mod credential;
#[allow(clippy::disallowed_types, reason = "owns quinn, rustls and socket2")]
pub mod edge;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod gateway;
pub mod lane;
pub mod lifecycle;
pub mod limit;
#[allow(clippy::disallowed_types, reason = "owns prometheus")]
pub mod metrics;
pub mod reason;
pub mod route;
pub mod session;
pub mod transport;
#[allow(clippy::disallowed_types, reason = "owns h3, and quinn's streams with edge and client")]
pub mod webtransport;
