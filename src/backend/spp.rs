//! Cloudflare's Simple Proxy Protocol: who the client is, in front of each datagram.
//!
//! <https://developers.cloudflare.com/spectrum/reference/simple-proxy-protocol-header/>. The backend
//! puts the same header in front of each datagram that it sends.

use std::net::{Ipv6Addr, SocketAddr};

use super::client_info::{ClientInfo, as_ipv6};

const MAGIC: u16 = 0x56ec;

/// Magic, two addresses, two ports.
const HEADER_BYTES: usize = 2 + 16 + 16 + 2 + 2;

/// The header of a session. Where the gateway's own address is not known, it is `::` and port 0.
pub(super) fn header(client: &ClientInfo) -> Vec<u8> {
    let unknown = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let (source, proxy) = (client.source(), client.destination().unwrap_or(unknown));
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend(MAGIC.to_be_bytes());
    header.extend(as_ipv6(source.ip()).octets());
    header.extend(as_ipv6(proxy.ip()).octets());
    header.extend(source.port().to_be_bytes());
    header.extend(proxy.port().to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::{super::client_info::tests::with_head, *};

    #[test]
    fn the_header_is_byte_for_byte_as_documented() {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        for (client, local, addresses, ports) in [
            (
                "192.0.2.1:5",
                "203.0.113.9:443",
                "00000000000000000000ffffc000020100000000000000000000ffffcb007109",
                "000501bb",
            ),
            (
                "[2001:db8::1]:5",
                "[2001:db8::2]:443",
                "20010db800000000000000000000000120010db8000000000000000000000002",
                "000501bb",
            ),
            (
                "[::ffff:192.0.2.1]:5",
                "unknown",
                "00000000000000000000ffffc000020100000000000000000000000000000000",
                "00050000",
            ),
        ] {
            let client = with_head(|head| {
                head.client = client.parse().unwrap();
                head.local = local.parse().ok();
            });
            let header = header(&client);
            assert_eq!(header.len(), HEADER_BYTES);
            assert_eq!(hex(&header), format!("56ec{addresses}{ports}"));
        }
    }
}
