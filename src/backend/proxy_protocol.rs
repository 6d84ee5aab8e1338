//! PROXY protocol: who the client is, in front of what it sends.
//!
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, sections 2.1 (version 1) and 2.2
//! (version 2). On TCP a client on QUIC is announced as a stream over TCP, on UDP as datagrams over UDP:
//! that is what the backend's socket is, and what every reader of these headers knows.

mod tlv;

use std::net::SocketAddr;

use super::client_info::{ClientInfo, as_ipv6};
use crate::config::{self, ProxyProtocol, ProxyTlv};

/// A header is never longer. Readers have a limit of their own, and nginx's is this.
const MOST_BYTES: usize = 4096;

/// The header for one TCP connection, if the backend wants one.
pub(super) fn for_tcp(settings: &config::Backend, client: &ClientInfo) -> Option<Vec<u8>> {
    match settings.proxy_protocol {
        ProxyProtocol::Off => None,
        ProxyProtocol::V1 => Some(v1(client)),
        ProxyProtocol::V2 => Some(v2(client, STREAM, &settings.introduction.tlvs)),
    }
}

/// The header for datagrams.
pub(super) fn for_udp(settings: &config::Backend, client: &ClientInfo) -> Vec<u8> {
    v2(client, DATAGRAM, &settings.introduction.tlvs)
}

/// Source and destination of one family. `None`: the destination is not known, and neither version
/// can name a source alone.
fn endpoints(client: &ClientInfo) -> Option<(SocketAddr, SocketAddr)> {
    let (source, destination) = (client.source(), client.destination()?);
    if source.is_ipv4() == destination.is_ipv4() {
        return Some((source, destination));
    }
    let mapped = |a: SocketAddr| SocketAddr::new(as_ipv6(a.ip()).into(), a.port());
    Some((mapped(source), mapped(destination)))
}

fn v1(client: &ClientInfo) -> Vec<u8> {
    let Some((source, destination)) = endpoints(client) else {
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
/// Address families, and protocols to be added to them.
const IPV4: u8 = 0x10;
const IPV6: u8 = 0x20;
const STREAM: u8 = 0x01;
const DATAGRAM: u8 = 0x02;
/// Where the length of what follows stands, in two bytes.
const LENGTH_AT: usize = 14;

fn v2(client: &ClientInfo, protocol: u8, tlvs: &[ProxyTlv]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.push(PROXY);
    match endpoints(client) {
        None => header.extend([UNSPECIFIED, 0, 0]),
        Some((SocketAddr::V4(source), SocketAddr::V4(destination))) => {
            header.extend([IPV4 | protocol, 0, 0]);
            header.extend(source.ip().octets());
            header.extend(destination.ip().octets());
            header.extend(source.port().to_be_bytes());
            header.extend(destination.port().to_be_bytes());
        }
        Some((source, destination)) => {
            header.extend([IPV6 | protocol, 0, 0]);
            header.extend(as_ipv6(source.ip()).octets());
            header.extend(as_ipv6(destination.ip()).octets());
            header.extend(source.port().to_be_bytes());
            header.extend(destination.port().to_be_bytes());
        }
    }
    tlv::append(&mut header, tlvs, client);
    let rest = u16::try_from(header.len() - LENGTH_AT - 2).expect("MOST_BYTES is below 64 KiB");
    header[LENGTH_AT..LENGTH_AT + 2].copy_from_slice(&rest.to_be_bytes());
    if tlvs.contains(&ProxyTlv::Crc32c) {
        tlv::seal(&mut header);
    }
    header
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            client_info::tests::{client, with_head},
            tests::settings,
        },
        *,
    };

    fn at(client: &str, local: &str) -> ClientInfo {
        with_head(|head| {
            head.client = client.parse().unwrap();
            head.local = local.parse().ok();
        })
    }

    fn header(how: ProxyProtocol, client: &ClientInfo) -> Option<Vec<u8>> {
        let mut settings = settings(&[]);
        settings.proxy_protocol = how;
        for_tcp(&settings, client)
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
            let header = header(ProxyProtocol::V1, &at(client, local)).unwrap();
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
            let header = header(ProxyProtocol::V2, &at(client, local)).unwrap();
            assert_eq!(hex(&header), format!("0d0a0d0a000d0a515549540a{rest}"));
        }
    }

    #[test]
    fn on_udp_a_client_is_announced_as_one_of_datagrams() {
        for (client, local, family) in [
            ("192.0.2.1:5", "203.0.113.9:443", 0x12),
            ("[2001:db8::1]:5", "[2001:db8::2]:443", 0x22),
            ("192.0.2.1:5", "unknown", 0x00),
        ] {
            assert_eq!(for_udp(&settings(&[]), &at(client, local))[13], family);
        }
    }

    #[test]
    fn off_is_nothing() {
        assert_eq!(header(ProxyProtocol::Off, &client()), None);
    }
}
