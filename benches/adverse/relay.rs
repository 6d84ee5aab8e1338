//! Bad networks in user space: one core that decides what becomes of packets, and two ways to it.

#[allow(dead_code, reason = "its tests run where there is a harness for them, in tests/e2e")]
pub(crate) mod link;
pub(crate) mod tun;
#[allow(dead_code, reason = "its tests run where there is a harness for them, in tests/e2e")]
pub(crate) mod udp;
