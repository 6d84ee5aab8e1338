//! What counts as one client.

use std::net::IpAddr;

/// A client, as far as an address tells: many people may share one, and some have many.
///
/// All of an IPv4 address, and the first 64 bits of an IPv6 address, of which every household and every
/// machine has as many as it likes behind them (RFC 6177). An IPv4 address in IPv6's clothes is itself.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum ClientKey {
    V4([u8; 4]),
    V6([u16; 4]),
}

impl ClientKey {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_counts_by_address_and_ipv6_by_network() {
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            // Not an IPv4 address, though it ends like one.
            ("::192.0.2.1", "192.0.2.1", false),
            ("::", "0.0.0.0", false),
        ] {
            let key = |address: &str| ClientKey::of(address.parse().unwrap());
            assert_eq!(key(one) == key(other), same, "{one} and {other}");
        }
    }
}
