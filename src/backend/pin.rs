//! The one endpoint of a session.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{
    Backend, ClientInfo, DialError, Endpoint, TcpConnection, UdpConnection, proxy_protocol,
    udp_header::UdpHeader,
};

/// Holds a session to one endpoint of its backend.
///
/// As long as nothing was relayed, a failed dial moves it on to the next endpoint. The first TCP
/// connection that succeeds, or the UDP socket, commits it: from then on the session stays, since its
/// endpoint may keep state for it.
#[derive(Debug)]
pub struct Pin {
    backend: Arc<Backend>,
    /// Index of the endpoint that was picked.
    first: usize,
    /// A [`Place`].
    place: AtomicUsize,
}

/// How often a pin has moved, and whether it may still move. The count only rises until the pin is
/// committed, so two dials that fail at the same place move it once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Place {
    moves: usize,
    committed: bool,
}

impl Place {
    const fn pack(self) -> usize {
        self.moves << 1 | self.committed as usize
    }

    const fn unpack(packed: usize) -> Self {
        Self { moves: packed >> 1, committed: packed & 1 == 1 }
    }
}

impl Pin {
    pub(super) fn new(backend: Arc<Backend>, first: usize) -> Self {
        let pin = Self { backend, first, place: AtomicUsize::new(0) };
        pin.endpoint().sessions.fetch_add(1, Ordering::Relaxed);
        pin
    }

    /// The backend.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Where the session goes, as things stand.
    pub fn endpoint(&self) -> &Endpoint {
        self.at(self.place())
    }

    /// Connects by TCP, trying each endpoint at most once while the pin may move.
    ///
    /// # Errors
    /// Why the last endpoint that was tried could not be reached.
    pub async fn dial(&self, client: &ClientInfo) -> Result<TcpConnection, DialError> {
        let settings = &self.backend.settings;
        let introduction = proxy_protocol::for_tcp(settings, client).unwrap_or_default();
        let mut tries = self.backend.endpoints.len();
        loop {
            let place = self.place();
            match self.at(place).connect(settings, &introduction).await {
                Ok(mut tcp) if self.commit(place) => {
                    tcp.send_preamble(settings, client)?;
                    return Ok(tcp);
                }
                // Another stream of the session was quicker, at another endpoint. Nothing of the client's
                // was sent on this connection: it is reset, and the next round goes where the session is.
                Ok(_elsewhere) => {}
                Err(error) => {
                    tries -= 1;
                    if tries == 0 || error.is_everywhere() || !self.move_on(place) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Opens the session's UDP socket. Commits the pin, since a datagram that nobody takes gives no
    /// failure to move on at.
    ///
    /// # Errors
    /// What the system said, or that the endpoint has no address for UDP.
    pub fn open_udp(&self, client: &ClientInfo) -> std::io::Result<UdpConnection> {
        let place = self.place();
        let header = || UdpHeader::new(&self.backend.settings, client);
        let socket = self.at(place).open_udp(header())?;
        if self.commit(place) {
            return Ok(socket);
        }
        // Committed elsewhere in this very moment, and a committed pin does not move again.
        self.endpoint().open_udp(header())
    }

    fn place(&self) -> Place {
        Place::unpack(self.place.load(Ordering::Acquire))
    }

    fn index(&self, place: Place) -> usize {
        self.first.wrapping_add(place.moves) % self.backend.endpoints.len()
    }

    fn at(&self, place: Place) -> &Endpoint {
        &self.backend.endpoints[self.index(place)]
    }

    /// Leaves an endpoint that cannot be reached. Whether there is somewhere else to try.
    fn move_on(&self, from: Place) -> bool {
        if from.committed {
            return false;
        }
        // If it is not there any more, another stream has moved it, and that place is still to be tried.
        self.replace(from, Place { moves: from.moves + 1, committed: false });
        true
    }

    /// Binds the session to this place for good. Whether it is, or was bound to another before.
    fn commit(&self, at: Place) -> bool {
        loop {
            let now = self.place();
            if now.committed {
                return self.index(now) == self.index(at);
            }
            if self.replace(now, Place { moves: at.moves, committed: true }) {
                return true;
            }
        }
    }

    /// Compare and swap, the endpoints' session counts with it.
    fn replace(&self, from: Place, to: Place) -> bool {
        let (ordering, failure) = (Ordering::AcqRel, Ordering::Acquire);
        let swapped =
            self.place.compare_exchange(from.pack(), to.pack(), ordering, failure).is_ok();
        if swapped && self.index(from) != self.index(to) {
            self.at(from).sessions.fetch_sub(1, Ordering::Relaxed);
            self.at(to).sessions.fetch_add(1, Ordering::Relaxed);
        }
        swapped
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.endpoint().sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::backend_of, *};

    fn names(pin: &Pin) -> (&str, Vec<u64>) {
        (pin.endpoint().name(), pin.backend.endpoints.iter().map(Endpoint::sessions).collect())
    }

    #[test]
    fn two_failures_at_one_place_move_it_once() {
        let pin = backend_of(3).pick().unwrap();
        let (one, other) = (pin.place(), pin.place());

        assert!(pin.move_on(one));
        assert!(pin.move_on(other), "there is a place to try");
        assert_eq!(names(&pin), ("1", vec![0, 1, 0]));
    }

    #[test]
    fn a_committed_session_stays() {
        let pin = backend_of(3).pick().unwrap();
        assert!(pin.commit(pin.place()));

        assert!(!pin.move_on(pin.place()));
        assert_eq!(names(&pin), ("0", vec![1, 0, 0]));
    }

    /// One stream fails and moves on while another succeeds where it was: the session is there.
    #[test]
    fn the_first_success_binds_all_streams() {
        let pin = backend_of(3).pick().unwrap();
        let slow = pin.place();
        assert!(pin.move_on(slow));
        let quick = pin.place();

        assert!(pin.commit(slow));
        assert!(!pin.commit(quick), "it has to dial again");
        assert_eq!(names(&pin), ("0", vec![1, 0, 0]));
        assert!(pin.commit(pin.place()));
    }

    #[test]
    fn the_count_of_sessions_goes_with_the_pin() {
        let backend = backend_of(2);
        let pin = backend.pick().unwrap();
        assert!(pin.move_on(pin.place()));
        drop(pin);
        assert!(backend.endpoints.iter().all(|e| e.sessions() == 0));
    }
}
