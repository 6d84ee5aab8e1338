//! tidegate: a WebTransport-to-TCP/UDP reverse proxy gateway.

#[allow(clippy::disallowed_types, reason = "owns quinn and rustls on the client side")]
pub mod client;
pub mod config;
pub mod edge;
pub mod gateway;
pub mod lifecycle;
#[allow(clippy::disallowed_types, reason = "owns prometheus")]
pub mod metrics;
pub mod reason;
pub mod transport;
#[allow(clippy::disallowed_types, reason = "owns h3, and quinn's streams with edge and client")]
pub mod webtransport;
