//! The two socket options that no crate wraps. All unsafe code of the edge is here.
#![allow(unsafe_code, reason = "SO_ATTACH_REUSEPORT_CBPF and SO_MEMINFO have no safe wrapper")]

use std::{io, net::UdpSocket};

use super::steering::Instruction;

/// Attaches a classic BPF program that chooses among the sockets of `member`'s group.
#[cfg(target_os = "linux")]
pub(super) fn attach_reuseport_program(
    member: &UdpSocket,
    program: &[Instruction],
) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let mut filters: Vec<libc::sock_filter> = program
        .iter()
        .map(|i| libc::sock_filter {
            code: i.code,
            jt: i.jump_true,
            jf: i.jump_false,
            k: i.operand,
        })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(filters.len()).map_err(io::Error::other)?,
        filter: filters.as_mut_ptr(),
    };
    // SAFETY: `program` is a live sock_fprog of the size given, and its `filter` points to `len` live
    // instructions. The kernel copies both before it returns.
    let result = unsafe {
        libc::setsockopt(
            member.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            length(&program),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Packets that the kernel dropped at this socket since it was made. Wraps around.
#[cfg(target_os = "linux")]
pub(super) fn dropped_packets(socket: &UdpSocket) -> io::Result<u32> {
    use std::os::fd::AsRawFd;

    const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;
    let mut numbers = [0u32; DROPS + 1];
    let mut length = length(&numbers);
    // SAFETY: `numbers` is live and writable for `length` bytes, and the kernel writes no more than
    // that. Every bit pattern is a u32.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(numbers[DROPS]) } else { Err(io::Error::last_os_error()) }
}

#[cfg(target_os = "linux")]
fn length<T>(value: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of_val(value)).expect("option values are small")
}

/// Other systems have no such program.
#[cfg(not(target_os = "linux"))]
pub(super) fn attach_reuseport_program(_: &UdpSocket, _: &[Instruction]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Other systems do not say.
#[cfg(not(target_os = "linux"))]
pub(super) fn dropped_packets(_: &UdpSocket) -> io::Result<u32> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn drops_are_counted_when_the_buffer_is_full() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&receiver).set_recv_buffer_size(4096).unwrap();
        assert_eq!(dropped_packets(&receiver).unwrap(), 0);

        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            sender.send_to(&[0; 1000], receiver.local_addr().unwrap()).unwrap();
        }
        let mut received = 0;
        receiver.set_nonblocking(true).unwrap();
        while receiver.recv(&mut [0; 1000]).is_ok() {
            received += 1;
        }
        assert_eq!(dropped_packets(&receiver).unwrap(), 100 - received);
        assert!(received < 100);
    }
}
