//! The bad network of the benches, between a test's client and its gateway.

#[path = "../../../benches/adverse/relay/link.rs"]
mod link;
#[path = "../../../benches/adverse/relay/udp.rs"]
mod udp;

pub(crate) use self::{link::Conditions, udp::Relay};
