//! What this host can do for the edge, tried out on sockets of its own: for `tidegate doctor`.
//!
//! Each probe does what the gateway does at a start or under traffic, on loopback, and leaves nothing behind.

use std::{
    io::{self, IoSliceMut},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    path::Path,
    time::{Duration, SystemTime},
};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::{
    EdgeError, certificate,
    cid::Layout,
    socket::{Buffers, Group},
    steering,
};
use crate::config::{self, CertificateSource};

/// Kernel buffers of UDP sockets, in bytes: what was asked for and what was granted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GrantedBuffers {
    /// Asked and granted for receiving.
    pub receive: (usize, usize),
    /// Asked and granted for sending.
    pub send: (usize, usize),
}

/// What the kernel grants of the buffers that a listener asks for.
///
/// # Errors
/// What the system said to a socket on loopback.
pub fn probe_buffers(transport: &config::Transport) -> io::Result<GrantedBuffers> {
    let asked = Buffers {
        receive: transport.receive_buffer.as_usize(),
        send: transport.send_buffer.as_usize(),
    };
    let Group { granted, .. } = Group::bind(LOOPBACK, 1, asked)?;
    Ok(GrantedBuffers {
        receive: (asked.receive, granted.receive),
        send: (asked.send, granted.send),
    })
}

/// Any free port of this machine alone.
const LOOPBACK: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// Small: a probe needs no room.
const SMALL: Buffers = Buffers { receive: 256 * 1024, send: 256 * 1024 };

/// Datagrams that one system call can carry, each way; 1 means that it is off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Offload {
    /// Generic segmentation offload: sending.
    pub gso_segments: usize,
    /// Generic receive offload.
    pub gro_segments: usize,
    /// Whether datagrams that were sent in one call arrived one by one, or together, but whole.
    pub is_sound: bool,
}

/// Whether several datagrams can be sent and received at once, tried out with as many as one call carries,
/// up to ten.
///
/// # Errors
/// What the system said to sockets on loopback.
pub fn probe_offload() -> io::Result<Offload> {
    let (sender, receiver) = (UdpSocket::bind(LOOPBACK)?, UdpSocket::bind(LOOPBACK)?);
    let (send, receive) =
        (UdpSocketState::new((&sender).into())?, UdpSocketState::new((&receiver).into())?);
    // What the states have made of them waits for nothing; a probe would rather wait.
    receiver.set_nonblocking(false)?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let segments = send.max_gso_segments().min(10);
    let payload = [7; SEGMENT_BYTES * 10];
    let contents = payload.get(..SEGMENT_BYTES * segments).unwrap_or_default();
    let transmit = Transmit {
        destination: receiver.local_addr()?,
        ecn: None,
        contents,
        segment_size: (segments > 1).then_some(SEGMENT_BYTES),
        src_ip: None,
    };
    send.try_send((&sender).into(), &transmit)?;
    let arrived = arrived(&receive, &receiver, contents.len())?;
    Ok(Offload {
        gso_segments: send.max_gso_segments(),
        gro_segments: receive.gro_segments(),
        is_sound: arrived == contents.len(),
    })
}

/// Fits any path.
const SEGMENT_BYTES: usize = 1_200;

/// On loopback what is sent is there at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes that arrive, up to those that were sent, in datagrams of the right size.
fn arrived(state: &UdpSocketState, socket: &UdpSocket, sent: usize) -> io::Result<usize> {
    let mut arrived = 0;
    while arrived < sent {
        let mut buffer = vec![0; 64 * 1024];
        let mut meta = [RecvMeta::default()];
        let received = state.recv(socket.into(), &mut [IoSliceMut::new(&mut buffer)], &mut meta);
        match received {
            Ok(_) if meta[0].stride == SEGMENT_BYTES => arrived += meta[0].len,
            Ok(_) => break,
            Err(error) if is_over(&error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(arrived)
}

fn is_over(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Whether the kernel gives packets to the socket that their connection id names: tried out with one packet
/// for each of four sockets.
///
/// # Errors
/// What the system said, or that a packet went astray.
pub fn probe_steering() -> io::Result<()> {
    const SOCKETS: u8 = 4;
    let group = Group::bind(LOOPBACK, SOCKETS, SMALL)?;
    let layout = Layout::new(0, &[], SOCKETS);
    steering::attach(&group.sockets[0], layout.home_offset())?;
    let client = UdpSocket::bind(LOOPBACK)?;
    for (worker, socket) in (0..SOCKETS).zip(&group.sockets) {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        // A short header: the first byte, then the id (RFC 9000 section 17.3).
        let mut packet = [0x40; 32];
        packet[1 + layout.home_offset()] = worker;
        client.send_to(&packet, group.address)?;
        let mut buffer = [0; 64];
        match socket.recv(&mut buffer) {
            Ok(_) => {}
            Err(error) if is_over(&error) => {
                return Err(io::Error::other("a packet went to another socket than its own"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether an address can be bound as a listener does it.
///
/// # Errors
/// What the system said.
pub fn probe_address(address: SocketAddr) -> io::Result<()> {
    Group::bind(address, 1, SMALL).map(drop)
}

/// What a certificate file's leaf says about itself, as far as clients mind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFacts {
    /// The file.
    pub file: String,
    /// Unix time.
    pub not_before: i64,
    /// Unix time.
    pub not_after: i64,
    /// Whether it has an ECDSA key on P-256.
    pub is_p256: bool,
    /// Whether it is of X.509 version 3.
    pub is_v3: bool,
    /// Whether it was issued by itself, so that no authority stands behind it.
    pub is_self_issued: bool,
    /// The names it is for.
    pub names: Vec<String>,
}

/// Reads all certificates of a listener with their keys, as a start does. Those that the gateway would make
/// itself are none.
///
/// # Errors
/// What is wrong with each that cannot be used.
pub fn inspect_certificates(
    listener: &config::Listener,
) -> Result<Vec<CertificateFacts>, Vec<EdgeError>> {
    let CertificateSource::Files(files) = &listener.certificate else { return Ok(Vec::new()) };
    let unusable = |source| EdgeError::Certificate { listener: listener.name.clone(), source };
    let loaded = certificate::load(&listener.name, &listener.certificate, SystemTime::now())
        .map_err(|errors| errors.into_iter().map(unusable).collect::<Vec<_>>())?;
    let chains = files.iter().map(|files| files.chain.as_path());
    let facts = loaded.iter().zip(chains);
    // What was loaded can be read.
    Ok(facts.filter_map(|(loaded, file)| facts_of(file, &loaded.leaf.names)).collect())
}

fn facts_of(file: &Path, names: &[String]) -> Option<CertificateFacts> {
    let der = CertificateDer::from_pem_file(file).ok()?;
    let (_, leaf) = X509Certificate::from_der(&der).ok()?;
    let key = &leaf.public_key().algorithm;
    let curve = key.parameters.as_ref().and_then(|any| any.as_oid().ok());
    let is_p256 = key.algorithm.to_id_string() == EC_KEY
        && curve.is_some_and(|curve| curve.to_id_string() == P_256);
    Some(CertificateFacts {
        file: file.display().to_string(),
        not_before: leaf.validity().not_before.timestamp(),
        not_after: leaf.validity().not_after.timestamp(),
        is_p256,
        is_v3: leaf.version() == X509Version::V3,
        is_self_issued: leaf.issuer() == leaf.subject(),
        names: names.to_vec(),
    })
}

/// Object identifiers of RFC 5480.
const EC_KEY: &str = "1.2.840.10045.2.1";
const P_256: &str = "1.2.840.10045.3.1.7";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_works_here_is_found_to_work() {
        // The tests of the edge rely on the same.
        probe_steering().unwrap();
        let offload = probe_offload().unwrap();
        assert!(offload.is_sound, "{offload:?}");
        assert!(offload.gso_segments >= 1 && offload.gro_segments >= 1);
    }

    #[test]
    fn buffers_are_told_as_they_were_granted() {
        let transport = config::Transport {
            receive_buffer: config::ByteSize(1 << 30),
            send_buffer: config::ByteSize(65_536),
            ..config::Transport::default()
        };
        let GrantedBuffers { receive, send } = probe_buffers(&transport).unwrap();
        assert_eq!((receive.0, send), (1 << 30, (65_536, 65_536)));
        assert!(receive.1 < receive.0);
    }

    #[test]
    fn an_address_in_use_is_found() {
        let owner = UdpSocket::bind(LOOPBACK).unwrap();
        let taken = probe_address(owner.local_addr().unwrap()).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        probe_address(LOOPBACK).unwrap();
    }
}
