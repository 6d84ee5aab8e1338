//! What a version 2 header carries beside the addresses: types, lengths and values.
//!
//! A backend sees exactly what the client sent, or that it was left out: a value that would make the
//! header too long is not cut, but its type is listed in a field of its own.

use std::borrow::Cow;

use crc::{CRC_32_ISCSI, Crc};

use super::MOST_BYTES;
use crate::{backend::ClientInfo, config::ProxyTlv, transport::Tls};

/// Types that the specification has, sections 2.2.1 to 2.2.6.
const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;

/// The gateway's own, in the range that section 2.2.8 gives to applications.
const ROUTE: u8 = 0xe0;
const PATH: u8 = 0xe1;
const ORIGIN: u8 = 0xe2;
const PROTOCOL: u8 = 0xe3;
const SUBJECT: u8 = 0xe4;
const DIALECT: u8 = 0xe5;
/// Its value is the types that were left out, one byte each.
const LEFT_OUT: u8 = 0xef;

/// Type and length.
const HEAD_BYTES: usize = 3;
/// Every field but the checksum. A client can make authority, origin and path too long, an operator the
/// names of application protocols.
const MOST_LEFT_OUT: usize = 10;
/// What the checksum and the list of what was left out may still need.
const RESERVED_BYTES: usize = HEAD_BYTES + 4 + HEAD_BYTES + MOST_LEFT_OUT;

/// Appends what is wanted and known. The checksum, if wanted, is zero and the last four bytes; see [`seal`].
pub(super) fn append(header: &mut Vec<u8>, wanted: &[ProxyTlv], client: &ClientInfo) {
    let mut left_out = Vec::new();
    for wanted in wanted {
        let Some((kind, value)) = field(*wanted, client) else { continue };
        if header.len() + HEAD_BYTES + value.len() + RESERVED_BYTES > MOST_BYTES {
            left_out.push(kind);
        } else {
            push(header, kind, &value);
        }
    }
    if !left_out.is_empty() {
        push(header, LEFT_OUT, &left_out);
    }
    if wanted.contains(&ProxyTlv::Crc32c) {
        push(header, CRC32C, &[0; 4]);
    }
}

/// Puts the checksum over the whole header in its place, the last four bytes (section 2.2.3).
pub(super) fn seal(header: &mut [u8]) {
    /// CRC-32C (RFC 9260 appendix A) goes by this name in catalogues.
    const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
    let checksum = CHECKSUM.checksum(header);
    if let Some(place) = header.last_chunk_mut() {
        *place = checksum.to_be_bytes();
    }
}

/// A field's type and value. `None`: there is no such value, or it comes after all others.
fn field(tlv: ProxyTlv, client: &ClientInfo) -> Option<(u8, Cow<'_, [u8]>)> {
    let (head, tls) = (&client.head, client.head.tls.as_deref());
    let (kind, value) = match tlv {
        ProxyTlv::UniqueId => {
            return Some((UNIQUE_ID, client.session_id.to_string().into_bytes().into()));
        }
        ProxyTlv::Ssl => return Some((SSL, ssl(tls?).into())),
        ProxyTlv::Crc32c => return None,
        ProxyTlv::Alpn => (ALPN, &*tls?.alpn),
        ProxyTlv::Route => (ROUTE, client.route.as_bytes()),
        ProxyTlv::Protocol => (PROTOCOL, client.protocol.as_ref()?.as_bytes()),
        ProxyTlv::Dialect => (DIALECT, head.dialect.as_bytes()),
        ProxyTlv::Subject => (SUBJECT, client.subject.as_ref()?.as_bytes()),
        ProxyTlv::Authority => (AUTHORITY, client.server_name().as_bytes()),
        ProxyTlv::Origin => (ORIGIN, head.origin.as_ref()?.as_bytes()),
        ProxyTlv::Path => (PATH, head.path.as_bytes()),
    };
    Some((kind, value.into()))
}

/// 64 characters of four bytes (RFC 5280 appendix A.1).
const MOST_NAME_BYTES: usize = 256;

/// That the client came over TLS, in which version, and with what certificate (section 2.2.6).
fn ssl(tls: &Tls) -> Vec<u8> {
    /// The client connected over TLS.
    const CLIENT_SSL: u8 = 0x01;
    /// It has shown a certificate on this connection, and in this TLS session: none is resumed where listeners
    /// ask for certificates.
    const CLIENT_CERT: u8 = 0x02 | 0x04;
    /// Not zero: no certificate of the client's was verified.
    const NOT_VERIFIED: u32 = 1;
    let (flags, verify) = if tls.client.is_some() {
        (CLIENT_SSL | CLIENT_CERT, 0)
    } else {
        (CLIENT_SSL, NOT_VERIFIED)
    };
    let mut value = vec![flags];
    value.extend(verify.to_be_bytes());
    push(&mut value, SSL_VERSION, tls.version.as_bytes());
    let name = tls.client.as_ref().and_then(|client| client.common_name.as_deref());
    // X.520 has no longer ones.
    if let Some(name) = name.filter(|name| name.len() <= MOST_NAME_BYTES) {
        push(&mut value, SSL_CN, name.as_bytes());
    }
    value
}

fn push(header: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let length = u16::try_from(value.len()).expect("a header is below 64 KiB");
    header.push(kind);
    header.extend(length.to_be_bytes());
    header.extend(value);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use proxy_header::{ParseConfig, ProxyHeader, Tlv};

    use super::{
        super::{
            super::{
                client_info::tests::{client, with_head},
                tests::settings,
            },
            for_tcp,
        },
        *,
    };
    use crate::{config::ProxyProtocol, transport::ClientCertificate};

    const ALL: [ProxyTlv; 11] = [
        ProxyTlv::UniqueId,
        ProxyTlv::Alpn,
        ProxyTlv::Ssl,
        ProxyTlv::Route,
        ProxyTlv::Protocol,
        ProxyTlv::Dialect,
        ProxyTlv::Subject,
        ProxyTlv::Authority,
        ProxyTlv::Origin,
        ProxyTlv::Path,
        ProxyTlv::Crc32c,
    ];

    fn header(client: &ClientInfo, tlvs: &[ProxyTlv]) -> Vec<u8> {
        let mut settings = settings(&[]);
        settings.proxy_protocol = ProxyProtocol::V2;
        settings.introduction.tlvs = tlvs.to_vec();
        for_tcp(&settings, client).unwrap()
    }

    /// As a parser that is not ours reads it.
    fn parsed(header: &[u8]) -> ProxyHeader<'_> {
        let (parsed, length) = ProxyHeader::parse(header, ParseConfig::default()).unwrap();
        assert_eq!(length, header.len(), "the length is wrong");
        parsed
    }

    fn custom(header: &ProxyHeader<'_>, kind: u8) -> Option<Vec<u8>> {
        header.tlvs().find_map(|tlv| match tlv.unwrap() {
            Tlv::Custom(found, value) if found == kind => Some(value.into_owned()),
            _ => None,
        })
    }

    #[test]
    fn each_field_arrives_as_it_is() {
        let mut client = client();
        client.subject = Some("alice".into());
        let header = header(&client, &ALL);
        let header = parsed(&header);
        let address = header.proxied_address().unwrap();
        assert_eq!(address.source, client.head.client);
        assert_eq!(Some(address.destination), client.head.local);
        assert_eq!(header.unique_id(), Some(client.session_id.to_string().as_bytes()));
        assert_eq!(header.alpn(), Some(&b"h3"[..]));
        assert_eq!(header.authority(), Some("play.test"));
        let ssl = header.ssl().unwrap();
        assert_eq!((ssl.client_ssl(), ssl.version()), (true, Some("TLSv1.3")));
        assert_eq!(
            (ssl.client_cert_conn(), ssl.client_cert_sess(), ssl.cn()),
            (false, false, None)
        );
        assert_ne!(ssl.verify(), 0, "no certificate was verified");
        for (kind, wanted) in [
            (0xe0, "game"),
            (0xe1, "/game/a%20b"),
            (0xe2, "https://play.test"),
            (0xe3, "chat-v2"),
            (0xe4, "alice"),
            (0xe5, "draft13"),
        ] {
            assert_eq!(custom(&header, kind).as_deref(), Some(wanted.as_bytes()), "{kind:x}");
        }
    }

    #[test]
    fn a_clients_certificate_is_told() {
        let certificate = |common_name: Option<String>| ClientCertificate {
            names: Vec::new(),
            common_name,
            ends: std::time::UNIX_EPOCH,
        };
        let long = "x".repeat(MOST_NAME_BYTES + 1);
        for (name, told) in [(Some("robot 7"), Some("robot 7")), (None, None), (Some(&*long), None)]
        {
            let tls = Tls {
                version: "TLSv1.3",
                alpn: b"h3".to_vec(),
                server_name: None,
                client: Some(certificate(name.map(str::to_owned))),
            };
            let client = with_head(|head| head.tls = Some(Arc::new(tls)));
            let header = header(&client, &ALL);
            let header = parsed(&header);
            let ssl = header.ssl().unwrap();
            assert!(ssl.client_ssl() && ssl.client_cert_conn() && ssl.client_cert_sess());
            assert_eq!((ssl.verify(), ssl.cn()), (0, told));
        }
    }

    #[test]
    fn what_is_not_wanted_or_not_known_is_not_there() {
        let unknown = with_head(|head| (head.origin, head.tls) = (None, None));
        let unknown = ClientInfo { protocol: None, ..unknown };
        let header = header(&unknown, &ALL);
        let header = parsed(&header);
        assert_eq!((header.alpn(), header.ssl().is_none()), (None, true));
        for kind in [ORIGIN, PROTOCOL, SUBJECT, LEFT_OUT] {
            assert_eq!(custom(&header, kind), None, "{kind:x}");
        }
        let header = self::header(&client(), &[]);
        assert_eq!(parsed(&header).tlvs().count(), 0);
    }

    /// Calculated apart from the crate, bit by bit (RFC 9260 appendix A).
    fn crc32c(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc: u32, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
            })
        })
    }

    #[test]
    fn the_checksum_covers_the_header_with_zeros_in_its_place() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the catalogue's check value");
        let mut header = header(&client(), &ALL);
        let said = parsed(&header).crc32c();
        let place = header.len() - 4..;
        header[place].fill(0);
        assert_eq!(said, Some(crc32c(&header)));
    }

    #[test]
    fn what_is_too_long_is_left_out_and_listed() {
        for (tlvs, length, left_out) in [
            (&ALL[..], 3000, None),
            (&ALL, 4096, Some(&[PATH][..])),
            (&[ProxyTlv::Path], MOST_BYTES - 28 - HEAD_BYTES - RESERVED_BYTES, None),
            (&[ProxyTlv::Path], MOST_BYTES - 27 - HEAD_BYTES - RESERVED_BYTES, Some(&[PATH])),
        ] {
            let long = format!("/{}", "x".repeat(length - 1));
            let client = with_head(|head| head.path.clone_from(&long));
            let header = header(&client, tlvs);
            assert!(header.len() <= MOST_BYTES, "{}", header.len());
            let header = parsed(&header);
            assert_eq!(custom(&header, LEFT_OUT).as_deref(), left_out, "{length}");
            let path = left_out.is_none().then_some(long.as_bytes());
            assert_eq!(custom(&header, PATH).as_deref(), path);
        }
    }

    proptest! {
        /// Whatever a client sends, a reader sees all of it or that it was left out.
        #[test]
        fn no_client_can_make_a_header_that_is_too_long_or_tells_less(
            path in ".{0,3000}",
            origin in proptest::option::of(".{0,3000}"),
            authority in ".{0,3000}",
            subject in proptest::option::of(".{0,300}"),
            wanted in proptest::sample::subsequence(&ALL[..], 0..=ALL.len()),
        ) {
            let client = ClientInfo { subject, ..with_head(|head| {
                head.path = path;
                head.origin = origin;
                let tls = Tls { version: "TLSv1.3", alpn: b"h3".to_vec(), server_name: Some(authority), client: None };
                head.tls = Some(Arc::new(tls));
            }) };
            let header = header(&client, &wanted);
            prop_assert!(header.len() <= MOST_BYTES);
            let header = parsed(&header);
            let left_out = custom(&header, LEFT_OUT).unwrap_or_default();
            prop_assert!(left_out.iter().all(|kind| [AUTHORITY, ORIGIN, PATH].contains(kind)));
            for tlv in wanted {
                let Some((kind, value)) = field(tlv, &client) else { continue };
                let mut told = header.tlvs().map(Result::unwrap).filter(|tlv| tlv.kind() == kind);
                if left_out.contains(&kind) {
                    prop_assert!(told.next().is_none());
                    continue;
                }
                let mut bytes = Vec::new();
                told.next().unwrap().encode(&mut bytes);
                prop_assert_eq!(&bytes[3..], &value[..]);
            }
        }
    }
}
