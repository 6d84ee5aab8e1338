//! PROXY protocol: who the client is, in front of what it sends.
//!
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, sections 2.1 (version 1) and 2.2
//! (version 2). A client on QUIC is announced as a stream over TCP: that is what the backend's
//! connection is, and what every reader of these headers knows.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::config::ProxyProtocol;

/// The ends of the client's connection, as the gateway sees them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClientAddresses {
    /// The client's.
    pub client: SocketAddr,
    /// The gateway's, where the kernel told it.
    pub local: Option<SocketAddr>,
}

/// The header for one connection, if the backend wants one.
pub(super) fn header(how: ProxyProtocol, addresses: &ClientAddresses) -> Option<Vec<u8>> {
    match how {
        ProxyProtocol::Off => None,
        ProxyProtocol::V1 => Some(v1(addresses)),
        ProxyProtocol::V2 => Some(v2(addresses)),
    }
}

/// Source and destination of one family. `None`: the destination is not known, and neither version
/// can name a source alone.
fn endpoints(addresses: &ClientAddresses) -> Option<(SocketAddr, SocketAddr)> {
    // A socket for both families shows IPv4 clients as ::ffff:a.b.c.d.
    let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    let (source, destination) = (canonical(addresses.client), canonical(addresses.local?));
    if source.is_ipv4() == destination.is_ipv4() {
        return Some((source, destination));
    }
    let mapped = |a: SocketAddr| SocketAddr::new(IpAddr::V6(as_ipv6(a.ip())), a.port());
    Some((mapped(source), mapped(destination)))
}

fn as_ipv6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn v1(addresses: &ClientAddresses) -> Vec<u8> {
    let Some((source, destination)) = endpoints(addresses) else {
        return b"PROXY UNKNOWN\r\n".to_vec();
    };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    let (from_port, to_port) = (source.port(), destination.port());
    format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n").into_bytes()
}

/// What begins a version 2 header: twelve bytes that no protocol begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;
/// Address family and protocol: not said; then the reader takes the connection's own addresses.
const UNSPECIFIED: u8 = 0x00;
/// Stream over IPv4.
const TCP4: u8 = 0x11;
/// Stream over IPv6.
const TCP6: u8 = 0x21;

fn v2(addresses: &ClientAddresses) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.push(PROXY);
    match endpoints(addresses) {
        None => header.extend([UNSPECIFIED, 0, 0]),
        Some((SocketAddr::V4(source), SocketAddr::V4(destination))) => {
            header.extend([TCP4, 0, 12]);
            header.extend(source.ip().octets());
            header.extend(destination.ip().octets());
            header.extend(source.port().to_be_bytes());
            header.extend(destination.port().to_be_bytes());
        }
        Some((source, destination)) => {
            header.extend([TCP6, 0, 36]);
            header.extend(as_ipv6(source.ip()).octets());
            header.extend(as_ipv6(destination.ip()).octets());
            header.extend(source.port().to_be_bytes());
            header.extend(destination.port().to_be_bytes());
        }
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(client: &str, local: &str) -> ClientAddresses {
        ClientAddresses { client: client.parse().unwrap(), local: local.parse().ok() }
    }

    #[test]
    fn version_1_is_one_line() {
        for (client, local, line) in [
            ("192.0.2.1:5", "203.0.113.9:443", "PROXY TCP4 192.0.2.1 203.0.113.9 5 443\r\n"),
            ("[2001:db8::1]:5", "[::1]:443", "PROXY TCP6 2001:db8::1 ::1 5 443\r\n"),
            ("[::ffff:192.0.2.1]:5", "[::ffff:1.2.3.4]:6", "PROXY TCP4 192.0.2.1 1.2.3.4 5 6\r\n"),
            ("[::ffff:192.0.2.1]:5", "1.2.3.4:6", "PROXY TCP4 192.0.2.1 1.2.3.4 5 6\r\n"),
            ("192.0.2.1:5", "[2001:db8::9]:6", "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::9 5 6\r\n"),
            ("192.0.2.1:5", "unknown", "PROXY UNKNOWN\r\n"),
        ] {
            let header = header(ProxyProtocol::V1, &addresses(client, local)).unwrap();
            assert_eq!(String::from_utf8(header).unwrap(), line);
        }
    }

    #[test]
    fn version_2_is_byte_for_byte_as_specified() {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        for (client, local, rest) in [
            ("192.0.2.1:5", "203.0.113.9:443", "2111000cc0000201cb007109000501bb"),
            (
                "[2001:db8::1]:5",
                "[2001:db8::2]:443",
                "2121002420010db800000000000000000000000120010db8000000000000000000000002000501bb",
            ),
            (
                "192.0.2.1:5",
                "[2001:db8::2]:443",
                "2121002400000000000000000000ffffc000020120010db8000000000000000000000002000501bb",
            ),
            ("192.0.2.1:5", "unknown", "21000000"),
        ] {
            let header = header(ProxyProtocol::V2, &addresses(client, local)).unwrap();
            assert_eq!(hex(&header), format!("0d0a0d0a000d0a515549540a{rest}"));
        }
    }

    #[test]
    fn off_is_nothing() {
        assert_eq!(header(ProxyProtocol::Off, &addresses("192.0.2.1:5", "1.2.3.4:6")), None);
    }
}
