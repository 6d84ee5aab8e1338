//! Several datagrams to a backend with one system call: the kernel cuts one buffer into segments of equal
//! size (UDP_SEGMENT, "generic segmentation offload"), as late as it can, and the last may be shorter.
//!
//! On the wire nothing shows. It costs one walk through the kernel instead of one for each datagram, and all
//! of them are sent or none, so that an error is never that of some in the middle, as it would be with
//! sendmmsg: that keeps back the error that made it stop, and ICMP's refusals would be lost with it.

use std::{
    io::{self, IoSlice},
    os::fd::{AsRawFd, RawFd},
    sync::atomic::{AtomicU16, Ordering},
};

use bytes::Bytes;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// Most segments of one call: UDP_MAX_SEGMENTS of all kernels that know segments at all.
const MOST_SEGMENTS: usize = 64;

/// Most bytes of one call: what one IPv4 packet has room for, though none so large is ever sent.
const MOST_BYTES: usize = 65_507;

/// What a socket's way to its backend takes in segments.
#[derive(Debug)]
pub(super) struct Segments {
    /// The largest segment that is worth trying. Below it lies what the kernel has refused: segments cannot be
    /// fragmented, and some devices and tunnels take none at all.
    largest: AtomicU16,
}

impl Default for Segments {
    fn default() -> Self {
        Self { largest: AtomicU16::new(u16::MAX) }
    }
}

impl Segments {
    /// Sends the first datagrams that can go as segments, each behind the header, and yields how many they are.
    /// `None`: the first is to be sent alone.
    pub(super) fn send(
        &self,
        socket: &impl AsRawFd,
        header: &[u8],
        datagrams: &[Bytes],
    ) -> Option<io::Result<usize>> {
        let size = header.len() + datagrams.first()?.len();
        let segment = u16::try_from(size).ok()?;
        if segment > self.largest.load(Ordering::Relaxed) {
            return None;
        }
        let sizes = datagrams.iter().map(|datagram| header.len() + datagram.len());
        let run = datagrams.get(..run(sizes)).filter(|run| run.len() > 1)?;
        match send(socket.as_raw_fd(), header, run, segment) {
            Ok(()) => Some(Ok(run.len())),
            Err(error) => self.learn(segment, error).map(Err),
        }
    }

    /// Takes note of segments that were refused. `None`: only as such, so each may still go alone.
    fn learn(&self, segment: u16, error: io::Error) -> Option<io::Error> {
        let largest = match error.raw_os_error() {
            // Too large for the way: EMSGSIZE, and EINVAL of older kernels. Fragments may still do.
            Some(libc::EMSGSIZE | libc::EINVAL) => segment - 1,
            // The device cannot add up checksums, or IPsec is on the way.
            Some(libc::EIO | libc::EOPNOTSUPP) => 0,
            _ => return Some(error),
        };
        self.largest.store(largest, Ordering::Relaxed);
        None
    }
}

fn send(socket: RawFd, header: &[u8], datagrams: &[Bytes], segment: u16) -> io::Result<()> {
    let mut slices = [IoSlice::new(&[]); 2 * MOST_SEGMENTS];
    let mut used = 0;
    let parts = datagrams.iter().flat_map(|datagram| [header, datagram]);
    for (slice, part) in slices.iter_mut().zip(parts.filter(|part| !part.is_empty())) {
        *slice = IoSlice::new(part);
        used += 1;
    }
    let segments = [ControlMessage::UdpGsoSegments(&segment)];
    sendmsg::<()>(socket, &slices[..used], &segments, MsgFlags::empty(), None)?;
    Ok(())
}

/// How many of the first sizes can be segments of one buffer: all of one size, but for a shorter last one.
/// An empty datagram can be no segment.
fn run(sizes: impl IntoIterator<Item = usize>) -> usize {
    let mut sizes = sizes.into_iter().take(MOST_SEGMENTS);
    let Some(size) = sizes.next() else { return 0 };
    let (mut run, mut bytes) = (1, size);
    for next in sizes {
        bytes += next;
        if size == 0 || next == 0 || next > size || bytes > MOST_BYTES {
            break;
        }
        run += 1;
        if next < size {
            break;
        }
    }
    run
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_of_one_size_but_for_its_last() {
        for (sizes, expected) in [
            (&[][..], 0),
            (&[5], 1),
            (&[5, 5, 5], 3),
            (&[5, 5, 4, 4], 3),
            (&[5, 6], 1),
            (&[5, 5, 6], 2),
            (&[5, 0, 5], 1),
            (&[0, 0], 1),
            (&[1; 100], MOST_SEGMENTS),
            (&[1_200; 60], 54),
            (&[32_753, 32_754], 1),
            (&[32_754, 32_753], 2),
            (&[32_754, 32_754], 1),
        ] {
            assert_eq!(run(sizes.iter().copied()), expected, "{sizes:?}");
        }
    }

    /// The segments that were refused go alone, and are not tried again; what says nothing of segments is told.
    #[test]
    fn what_the_system_refuses_in_segments_goes_alone_from_then_on() {
        for (errno, largest, is_told) in [
            (libc::EMSGSIZE, 999, false),
            (libc::EINVAL, 999, false),
            (libc::EIO, 0, false),
            (libc::EOPNOTSUPP, 0, false),
            (libc::EAGAIN, u16::MAX, true),
            (libc::ECONNREFUSED, u16::MAX, true),
            (libc::ENETUNREACH, u16::MAX, true),
        ] {
            let segments = Segments::default();
            let told = segments.learn(1000, io::Error::from_raw_os_error(errno));
            let now = segments.largest.load(Ordering::Relaxed);
            assert_eq!((now, told.is_some()), (largest, is_told), "{errno}");
        }
    }

    #[test]
    fn what_is_larger_than_the_way_takes_in_segments_is_not_tried() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(socket.local_addr().unwrap()).unwrap();
        let segments = Segments { largest: AtomicU16::new(999) };
        for (header, payload, tried) in [(0, 999, true), (0, 1000, false), (10, 990, false)] {
            let datagrams = [vec![0; payload].into(), vec![0; payload].into()];
            let sent = segments.send(&socket, &vec![0; header], &datagrams);
            assert_eq!(sent.is_some(), tried, "{header} + {payload}");
        }
    }
}
