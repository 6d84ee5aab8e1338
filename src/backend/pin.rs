//! The one member of a session.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::{
    Backend, BackendConnection, ClientInfo, DialError, Endpoint, UdpConnection, lock,
    member::Member, preamble, proxy_protocol, udp::Witness, udp_header::UdpHeader,
};

/// Holds a session to one member of its backend.
///
/// As long as nothing was relayed, a failed dial moves it on to the best of the other live members. The
/// first TCP connection that succeeds, or the UDP socket, commits it: from then on the session stays,
/// since its endpoint may keep state for it.
#[derive(Debug)]
pub struct Pin {
    backend: Arc<Backend>,
    /// The hash of the request, for policies that go by it.
    request: u64,
    /// Locked once per stream, never on the data path.
    place: Mutex<Place>,
    moved: Notify,
}

/// What a backend is told of a client, before anything of the client's; empty where it is told nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Told {
    /// First on each TCP connection, before TLS.
    pub proxy_header: Vec<u8>,
    /// Next on each TCP connection, within TLS.
    pub preamble: String,
    /// In front of the first datagram.
    pub datagram_header: Vec<u8>,
}

#[derive(Debug)]
struct Place {
    member: Arc<Member>,
    is_committed: bool,
}

impl Place {
    /// Goes to another member, the count of sessions with it.
    fn go(&mut self, to: Arc<Member>) {
        self.member.session_went();
        to.session_came();
        self.member = to;
    }
}

impl Pin {
    pub(super) fn new(backend: Arc<Backend>, member: Arc<Member>, request: u64) -> Self {
        member.session_came();
        let place = Mutex::new(Place { member, is_committed: false });
        Self { backend, request, place, moved: Notify::new() }
    }

    /// The backend.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Where the session goes, as things stand.
    pub fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(self.member().endpoint())
    }

    /// Resolves once the session had better go elsewhere, because its member is down, drained or gone.
    /// Cancel-safe.
    pub async fn leaving(&self) {
        loop {
            let (moved, member) = (self.moved.notified(), self.member());
            tokio::select! {
                biased;
                // First: where it was is no matter any more.
                () = moved => {}
                () = member.leaving() => return,
            }
        }
    }

    /// Connects by TCP, trying each live member at most once while the pin may move.
    ///
    /// # Errors
    /// Why the last member that was tried could not be reached.
    pub async fn dial(&self, client: &ClientInfo) -> Result<BackendConnection, DialError> {
        let settings = &self.backend.settings;
        let introduction = proxy_protocol::for_tcp(settings, client).unwrap_or_default();
        self.leave_the_dead();
        let mut tried = Vec::new();
        loop {
            let member = self.member();
            let dialler = self.backend.dialler(&member).ok_or(DialError::Unresolved)?;
            match member.connect(dialler, settings, &introduction).await {
                Ok(mut tcp) => {
                    member.worked();
                    if self.commit(&member) {
                        tcp.send_preamble(settings, client)?;
                        return Ok(tcp);
                    }
                    // Another stream of the session was quicker, at another member. Nothing of the client's
                    // was sent on this connection: it is reset, and the next round goes where the session
                    // is.
                }
                Err(error) => {
                    if error.is_the_endpoints() {
                        self.backend.member_failed(&member);
                    }
                    if error.is_the_queues() {
                        // Its other members are dialled through the same queue.
                        tried.extend(self.backend.members_of(member.endpoint()));
                    }
                    tried.push(member);
                    if error.is_everywhere() || !self.move_on(&tried) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// What the backend would be told of this client.
    pub fn told(&self, client: &ClientInfo) -> Told {
        let settings = &self.backend.settings;
        let preamble = settings.introduction.preamble.as_ref();
        Told {
            proxy_header: proxy_protocol::for_tcp(settings, client).unwrap_or_default(),
            preamble: preamble.map_or_else(String::new, |text| preamble::render(text, client)),
            datagram_header: UdpHeader::new(settings, client).next().to_vec(),
        }
    }

    /// Opens the session's UDP socket. Commits the pin, since a datagram that nobody takes gives no
    /// failure to move on at.
    ///
    /// # Errors
    /// What the gateway lacks, that the endpoint has no address for UDP, or that no way leads there.
    pub fn open_udp(&self, client: &ClientInfo) -> Result<UdpConnection, DialError> {
        self.leave_the_dead();
        let member = self.member();
        let socket = self.udp_to(&member, client)?;
        if self.commit(&member) {
            return Ok(socket);
        }
        // Committed elsewhere in this very moment, and a committed pin does not move again.
        self.udp_to(&self.member(), client)
    }

    fn udp_to(
        &self,
        member: &Arc<Member>,
        client: &ClientInfo,
    ) -> Result<UdpConnection, DialError> {
        let header = UdpHeader::new(&self.backend.settings, client);
        let witness = Witness { backend: Arc::clone(&self.backend), member: Arc::clone(member) };
        let dialler = self.backend.dialler(member).ok_or(DialError::Unresolved)?;
        UdpConnection::open(&member.addresses().udp, dialler.sources(), header, witness)
    }

    pub(super) fn member(&self) -> Arc<Member> {
        Arc::clone(&lock(&self.place).member)
    }

    /// Leaves a member that has stopped working since it was picked, if there is a better one. One that
    /// is only drained still serves those that were picked for it.
    fn leave_the_dead(&self) {
        let member = self.member();
        if member.has_stopped() {
            self.move_on(&[member]);
        }
    }

    /// Leaves the last of those that were tried. Whether there is another one to try.
    pub(super) fn move_on(&self, tried: &[Arc<Member>]) -> bool {
        let was_tried = |member| tried.iter().any(|tried| Arc::ptr_eq(tried, member));
        let mut place = lock(&self.place);
        // If it is not there any more, another stream has moved it, and that place may still be tried.
        if !was_tried(&place.member) {
            return true;
        }
        let next = match place.is_committed {
            true => None,
            false => self.backend.choose(self.request, tried),
        };
        let Some(next) = next else { return false };
        place.go(next);
        self.moved.notify_waiters();
        true
    }

    /// Binds the session to this member for good. Whether it is, or was bound to another before.
    fn commit(&self, member: &Arc<Member>) -> bool {
        let mut place = lock(&self.place);
        let is_here = Arc::ptr_eq(&place.member, member);
        if !is_here && !place.is_committed {
            place.go(Arc::clone(member));
            self.moved.notify_waiters();
        }
        let stays = is_here || !place.is_committed;
        place.is_committed = true;
        stays
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.member().session_went();
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{NOBODY, backend_of, sessions},
        *,
    };

    fn pin() -> (Pin, Arc<Backend>) {
        let backend = backend_of(3);
        (backend.pick(&NOBODY).unwrap(), backend)
    }

    #[test]
    fn two_failures_at_one_place_move_it_once() {
        let (pin, backend) = pin();
        let (one, other) = ([pin.member()], [pin.member()]);

        assert!(pin.move_on(&one));
        assert!(pin.move_on(&other), "there is a place to try");
        assert_eq!((pin.endpoint().name(), sessions(&backend)), ("1", vec![0, 1, 0]));
    }

    #[test]
    fn a_committed_session_stays() {
        let (pin, backend) = pin();
        assert!(pin.commit(&pin.member()));

        assert!(!pin.move_on(&[pin.member()]));
        assert_eq!((pin.endpoint().name(), sessions(&backend)), ("0", vec![1, 0, 0]));
    }

    /// One stream fails and moves on while another succeeds where it was: the session is there.
    #[test]
    fn the_first_success_binds_all_streams() {
        let (pin, backend) = pin();
        let slow = pin.member();
        assert!(pin.move_on(&[Arc::clone(&slow)]));
        let quick = pin.member();

        assert!(pin.commit(&slow));
        assert!(!pin.commit(&quick), "it has to dial again");
        assert_eq!((pin.endpoint().name(), sessions(&backend)), ("0", vec![1, 0, 0]));
        assert!(pin.commit(&pin.member()));
    }

    #[test]
    fn the_count_of_sessions_goes_with_the_pin() {
        let (pin, backend) = pin();
        assert!(pin.move_on(&[pin.member()]));
        drop(pin);
        assert_eq!(sessions(&backend), [0, 0, 0]);
    }

    #[test]
    fn nobody_is_tried_twice() {
        let (pin, _backend) = pin();
        let mut tried = vec![pin.member()];
        while pin.move_on(&tried) {
            assert!(!tried.iter().any(|tried| Arc::ptr_eq(tried, &pin.member())));
            tried.push(pin.member());
        }
        assert_eq!(tried.len(), 3);
    }
}
