//! tidegate: a WebTransport-to-TCP/UDP reverse proxy gateway.

pub mod config;
pub mod edge;
pub mod gateway;
pub mod lifecycle;
#[allow(clippy::disallowed_types, reason = "owns prometheus")]
pub mod metrics;
pub mod reason;
pub mod transport;
