//! A look at a connection from another thread, for as long as the connection is there.
//!
//! The descriptor is lent under a lock, and the connection takes it back under the same lock before it closes
//! it: what is looked at is never another file that got the number since. A copy of the descriptor would not
//! do, since it would hold up the end of the connection and cost a place in the process's table. The lock is
//! taken when a connection begins and ends, and by who looks; the bytes never meet it.
#![allow(
    unsafe_code,
    reason = "TCP_INFO and a descriptor that is lent under a lock have no safe wrapper"
)]

use std::{
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use socket2::{SockAddr, SockRef};

/// Where to look at a connection, if there is one.
#[derive(Debug, Default)]
pub struct Sight(Mutex<Option<RawFd>>);

/// What the kernel knows of a connection.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConnectionState {
    /// Its address on this machine.
    pub local: Option<String>,
    /// The backend's address, or the path of its Unix socket.
    pub peer: Option<String>,
    /// How TCP does, where it is TCP and the system is Linux.
    pub tcp: Option<TcpState>,
}

/// How a TCP connection does (`TCP_INFO` in tcp(7)).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TcpState {
    /// The state of RFC 9293 section 3.3.2, in the kernel's word.
    pub state: &'static str,
    /// The round trip as it is estimated.
    pub rtt: Duration,
    /// How much it varies.
    pub rtt_variance: Duration,
    /// Segments that were sent again since the connection began.
    pub retransmits: u32,
    /// Segments that the backend has not acknowledged yet.
    pub unacked: u32,
    /// Segments that may be on their way at once.
    pub congestion_window: u32,
}

impl Sight {
    /// What the kernel says now. `None`: there is no connection yet, or none any more.
    pub fn look(&self) -> Option<ConnectionState> {
        let lent = self.lock();
        // SAFETY: whoever lent the descriptor closes it only after it has taken it back, for which it needs the
        // lock that is held here until the look is over.
        let socket = (*lent).map(|fd| unsafe { BorrowedFd::borrow_raw(fd) })?;
        let at = SockRef::from(&socket);
        Some(ConnectionState {
            local: at.local_addr().ok().and_then(|address| text(&address)),
            peer: at.peer_addr().ok().and_then(|address| text(&address)),
            tcp: tcp_state(socket),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<RawFd>> {
        // Nothing that could panic half-way happens under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket that may be looked at. It is closed only when nobody can look any more.
#[derive(Debug)]
pub(super) struct Seen<S> {
    /// Whoever replaces it has to hide it before.
    pub(super) socket: S,
    sights: Option<Arc<Sight>>,
}

impl<S> Seen<S> {
    pub(super) fn new(socket: S) -> Self {
        Self { socket, sights: None }
    }

    /// Lends the socket's descriptor, which `of` finds.
    pub(super) fn show(&mut self, sight: &Arc<Sight>, of: impl FnOnce(&S) -> BorrowedFd<'_>) {
        self.hide();
        *sight.lock() = Some(of(&self.socket).as_raw_fd());
        self.sights = Some(Arc::clone(sight));
    }

    fn hide(&mut self) {
        if let Some(sight) = self.sights.take() {
            *sight.lock() = None;
        }
    }
}

/// Comes before the socket itself is dropped, and so closed.
impl<S> Drop for Seen<S> {
    fn drop(&mut self) {
        self.hide();
    }
}

fn text(address: &SockAddr) -> Option<String> {
    let path = || Some(address.as_pathname()?.display().to_string());
    address.as_socket().map(|address| address.to_string()).or_else(path)
}

#[cfg(target_os = "linux")]
fn tcp_state(socket: BorrowedFd<'_>) -> Option<TcpState> {
    // SAFETY: it is made of integers alone, of which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).ok()?;
    // SAFETY: `info` is live and writable for `length` bytes, and the kernel writes no more than that. Every bit
    // pattern is a `tcp_info`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    let micros = |number: u32| Duration::from_micros(number.into());
    (result == 0).then(|| TcpState {
        state: state_word(info.tcpi_state),
        rtt: micros(info.tcpi_rtt),
        rtt_variance: micros(info.tcpi_rttvar),
        retransmits: info.tcpi_total_retrans,
        unacked: info.tcpi_unacked,
        congestion_window: info.tcpi_snd_cwnd,
    })
}

/// Other systems have other words for it.
#[cfg(not(target_os = "linux"))]
fn tcp_state(_: BorrowedFd<'_>) -> Option<TcpState> {
    None
}

/// The numbers of Linux (`include/net/tcp_states.h`).
#[cfg(target_os = "linux")]
fn state_word(state: u8) -> &'static str {
    match state {
        1 => "established",
        2 => "syn_sent",
        3 => "syn_recv",
        4 => "fin_wait_1",
        5 => "fin_wait_2",
        6 => "time_wait",
        7 => "close",
        8 => "close_wait",
        9 => "last_ack",
        11 => "closing",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::fd::AsFd,
        os::unix::net::UnixStream,
    };

    use super::*;

    #[test]
    fn a_connection_is_seen_until_it_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let local = stream.local_addr().unwrap().to_string();
        let sight = Arc::new(Sight::default());
        assert_eq!(sight.look(), None, "there is none yet");

        let mut seen = Seen::new(stream);
        seen.show(&sight, |stream| stream.as_fd());
        let state = sight.look().unwrap();
        assert_eq!(state.local, Some(local));
        assert_eq!(state.peer, Some(listener.local_addr().unwrap().to_string()));
        #[cfg(target_os = "linux")]
        {
            let tcp = state.tcp.unwrap();
            assert_eq!((tcp.state, tcp.unacked), ("established", 0));
            assert!(tcp.congestion_window > 0 && !tcp.rtt.is_zero(), "{tcp:?}");
        }

        drop(seen);
        // Its number belongs to this one now, which is none of the onlooker's business.
        let _other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(sight.look(), None);
    }

    #[test]
    fn a_unix_socket_has_no_tcp() {
        let (stream, _peer) = UnixStream::pair().unwrap();
        let sight = Arc::new(Sight::default());
        let mut seen = Seen::new(stream);
        seen.show(&sight, |stream| stream.as_fd());
        assert_eq!(sight.look(), Some(ConnectionState::default()));
    }
}
