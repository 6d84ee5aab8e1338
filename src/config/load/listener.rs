//! The listeners.

use std::{collections::HashMap, net::SocketAddr, ops::RangeInclusive};

use super::{DAY, Folder, HOUR, MILLISECOND, SECOND, all, check_names, tls};
use crate::config::{
    ByteSize, CertificateFiles, CertificateSource, Listener, Transport,
    host::is_certificate_name,
    problems::Collector,
    raw::{self, Section},
};

pub(super) fn listeners(
    raws: Vec<raw::Listener>,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Option<Vec<Listener>> {
    note_address_clashes(&raws, problems);
    let names = names(&raws, problems);
    let named = raws.into_iter().zip(names);
    all(named.map(|(raw, name)| listener(name, raw, folder, problems)))
}

fn names(raws: &[raw::Listener], problems: &mut Collector<'_>) -> Vec<String> {
    let keys = raws.iter().map(|raw| raw.key("name"));
    let names: Vec<_> = raws
        .iter()
        .enumerate()
        .map(|(index, raw)| raw.name.clone().unwrap_or_else(|| index.to_string()))
        .collect();
    check_names(names.iter().map(String::as_str).zip(keys), problems);
    names
}

/// Notes each address that stands twice: packets would reach one of the two listeners at random.
/// Port 0 is another port each time.
fn note_address_clashes(raws: &[raw::Listener], problems: &mut Collector<'_>) {
    let mut seen: HashMap<SocketAddr, &raw::Listener> = HashMap::new();
    for raw in raws {
        for address in raw.quic.iter().flatten().filter(|address| address.port() != 0) {
            let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
            if let Some(first) = seen.insert(canonical, raw) {
                let message = format!("{address} stands in `{}` already", first.key("quic"));
                problems.add(raw.key("quic"), message);
            }
        }
    }
}

fn listener(
    name: String,
    raw: raw::Listener,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Option<Listener> {
    let hint = "write addresses such as [\"0.0.0.0:4433\", \"[::]:4433\"]";
    let quic = problems.required(&raw.key("quic"), raw.quic.clone(), hint);
    let certificate = certificate(&raw, folder, problems);
    let clients_key = raw.key("client_certificates");
    let clients = raw.client_certificates.as_ref();
    let client_certificates =
        clients.and_then(|clients| tls::client_certificates(clients, folder, problems));
    // Left out and not usable are two things.
    let lacks_clients = client_certificates.is_none() && problems.has(&clients_key);
    let transport_key = raw.key("transport");
    let raw_transport = raw.transport.unwrap_or_else(|| raw::Transport::absent(transport_key));
    let transport = transport(&raw_transport, problems);
    note_contradictions(&raw_transport, &transport, problems);
    (!lacks_clients).then_some(())?;
    Some(Listener {
        name,
        quic: quic?,
        certificate: certificate?,
        client_certificates,
        retry: raw.retry.unwrap_or_default(),
        transport,
    })
}

fn certificate(
    raw: &raw::Listener,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Option<CertificateSource> {
    let (files, names) = (raw.key("certificates"), raw.key("self_signed"));
    match (problems.has(&files), problems.has(&names)) {
        (true, false) => {
            let pairs = raw.certificates.as_ref()?.iter();
            let files = all(pairs.map(|pair| certificate_files(pair, folder, problems)));
            files.map(CertificateSource::Files)
        }
        (false, true) => {
            let listed = raw.self_signed.as_ref()?;
            for name in listed.iter().filter(|name| !is_certificate_name(name)) {
                let message = format!("{name:?} is no host name and no IP address");
                problems.add(&names, message);
            }
            Some(CertificateSource::SelfSigned(listed.clone()))
        }
        (true, true) => {
            problems.add(&names, format!("stands beside `{files}`; keep one of the two"));
            None
        }
        (false, false) => {
            let hint = "write certificates = [{ chain = \"PATH\", key = \"PATH\" }], or self_signed \
                        = [\"localhost\"] for one made at start";
            problems.add(&files, format!("is missing; {hint}"));
            None
        }
    }
}

fn certificate_files(
    raw: &raw::Certificate,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Option<CertificateFiles> {
    let mut file = |name, path: &Option<String>| {
        let key = raw.key(name);
        let path = problems.required(&key, path.as_ref(), "write the path of a PEM file")?;
        folder.readable(&key, path, problems)
    };
    let (chain, key) = (file("chain", &raw.chain), file("key", &raw.key));
    Some(CertificateFiles { chain: chain?, key: key? })
}

fn transport(raw: &raw::Transport, problems: &mut Collector<'_>) -> Transport {
    let default = Transport::default();
    /// One setting: what the file says, or the default, if it lies in the range.
    macro_rules! setting {
        ($method:ident $name:ident in $range:expr) => {
            problems.$method(&raw.key(stringify!($name)), raw.$name, default.$name, $range)
        };
    }
    Transport {
        idle_timeout: setting!(period idle_timeout in 100 * MILLISECOND..=DAY),
        ping_interval: setting!(period ping_interval in 10 * MILLISECOND..=HOUR),
        stream_window: setting!(within stream_window in WINDOW),
        connection_window: setting!(within connection_window in WINDOW),
        send_window: setting!(within send_window in WINDOW),
        initial_bidi_streams: setting!(within initial_bidi_streams in 1..=MOST_STREAMS),
        initial_uni_streams: setting!(within initial_uni_streams in LEAST_UNI_STREAMS..=MOST_STREAMS),
        datagram_send_buffer: setting!(within datagram_send_buffer in DATAGRAMS),
        datagram_receive_buffer: setting!(within datagram_receive_buffer in DATAGRAMS),
        initial_mtu: setting!(within initial_mtu in MTU),
        max_mtu: setting!(within max_mtu in MTU),
        congestion: raw.congestion.unwrap_or(default.congestion),
        initial_window: setting!(within initial_window in INITIAL_WINDOW),
        initial_rtt: setting!(period initial_rtt in MILLISECOND..=10 * SECOND),
        packet_threshold: setting!(within packet_threshold in PACKET_THRESHOLD),
        webtransport_profile: raw.webtransport_profile.unwrap_or(default.webtransport_profile),
        receive_buffer: setting!(within receive_buffer in SOCKET),
        send_buffer: setting!(within send_buffer in SOCKET),
    }
}

/// Below one packet nothing moves; above 1 GiB per connection the bound is none.
const WINDOW: RangeInclusive<ByteSize> = ByteSize::kib(2)..=ByteSize::mib(1024);

/// Two of the smallest packets (RFC 9002 section 7.2) to what is a burst on any path.
const INITIAL_WINDOW: RangeInclusive<ByteSize> = ByteSize(2400)..=ByteSize::mib(1);

/// Below 3, packets that only changed places would count as lost (RFC 9002 section 6.1.1).
const PACKET_THRESHOLD: RangeInclusive<u32> = 3..=10_000;

/// At least one full datagram.
const DATAGRAMS: RangeInclusive<ByteSize> = ByteSize::kib(2)..=ByteSize::mib(64);

/// What `setsockopt` takes, which doubles it within 31 bits.
const SOCKET: RangeInclusive<ByteSize> = ByteSize::kib(4)..=ByteSize::mib(512);

/// UDP payloads: what QUIC demands (RFC 9000 section 14) to what UDP can carry.
const MTU: RangeInclusive<u16> = 1200..=65_527;

/// HTTP/3's control stream and the two of QPACK (RFC 9114 section 6.2).
const LEAST_UNI_STREAMS: u32 = 3;

/// Each stream that a client may open costs memory before it is opened: here, 8 MiB a connection.
const MOST_STREAMS: u32 = 100_000;

/// Notes pairs of settings that are valid, but not together.
fn note_contradictions(raw: &raw::Transport, settings: &Transport, problems: &mut Collector<'_>) {
    let mut note = |name: &str, other: &str, message: &str| {
        let (key, other) = (raw.key(name), raw.key(other));
        // A default that stands in for a mistake must not cause a second one.
        if !problems.is_wrong(&key) && !problems.is_wrong(&other) {
            // The key that the file has is the one that can be changed.
            let key = if problems.has(&key) { key } else { other };
            problems.add(key, message);
        }
    };
    if settings.ping_interval >= settings.idle_timeout {
        note(
            "ping_interval",
            "idle_timeout",
            "ping_interval must be shorter than idle_timeout, or silent clients are lost before \
             they are asked",
        );
    }
    if settings.initial_mtu > settings.max_mtu {
        note("initial_mtu", "max_mtu", "initial_mtu must not be larger than max_mtu");
    }
    if settings.stream_window > settings.connection_window {
        note(
            "stream_window",
            "connection_window",
            "stream_window must not be larger than connection_window, which could never fill it",
        );
    }
}
