//! A client leg without a network, for tests: two ends that share memory.
//!
//! It has the semantics that matter to a bridge. Streams carry chunks, block when the reader gives no
//! credit, finish, are reset and stopped; a half that is dropped unfinished is reset. Datagrams have a
//! queue with a bound. [`MemoryClient`] is the client's end; what it waits for has a deadline.

mod stream;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Notify;

pub(crate) use self::stream::{ClientRecv, ClientSend, MemoryRecv, MemorySend, SeenEnd};
use self::stream::{SharedPipe, pipe};
use super::{
    ClientEnd, ClientLeg, DatagramError, Datagrams, LegState, OpenError, RequestHead, Session,
    SessionEvents, SessionRequest, StreamOpener,
};
use crate::reason::{Refusal, Refused};

/// What a test waits for at most. Long, so that a slow machine is no failure.
const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for something that has to come.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("what was waited for did not happen")
}

/// State that both ends see and wait on.
#[derive(Debug, Default)]
struct Shared<T> {
    state: Mutex<T>,
    changed: Notify,
    /// Who [polls](Self::poll).
    polling: Mutex<Vec<Waker>>,
}

impl<T> Shared<T> {
    fn new(state: T) -> Self {
        Self { state: Mutex::new(state), changed: Notify::new(), polling: Mutex::default() }
    }

    fn look(&self) -> MutexGuard<'_, T> {
        // A panic that a test wants must not become another one in a destructor.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.look());
        self.tell();
        result
    }

    fn tell(&self) {
        self.changed.notify_waiters();
        let polling = std::mem::take(&mut *self.wakers());
        polling.into_iter().for_each(Waker::wake);
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.polling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Self::wait`] does, for who keeps no future.
    fn poll<R>(&self, cx: &Context<'_>, ready: impl FnOnce(&mut T) -> Option<R>) -> Poll<R> {
        let mut state = self.look();
        let Some(found) = ready(&mut state) else {
            // Before anybody else has the state, so that no change between the two is missed.
            self.wakers().push(cx.waker().clone());
            return Poll::Pending;
        };
        drop(state);
        self.tell();
        Poll::Ready(found)
    }

    /// Waits until `ready` gives something, and tells the other end, since what is given may be taken.
    /// Until then `ready` must change nothing that the other end waits for.
    async fn wait<R>(&self, mut ready: impl FnMut(&mut T) -> Option<R>) -> R {
        loop {
            // Enabled before the look, so that no change between the two is missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let found = ready(&mut self.look());
            if let Some(found) = found {
                self.tell();
                return found;
            }
            changed.await;
        }
    }
}

/// What the gateway did with a session.
#[derive(Debug, Default)]
struct SessionState {
    /// Streams that the gateway has opened and the client has not taken.
    bidi: VecDeque<(ClientSend, ClientRecv)>,
    uni: VecDeque<ClientRecv>,
    /// The client gives no credit for streams.
    no_credit: bool,
    lost: bool,
    refused: Option<Refusal>,
    accepted: bool,
    end: Option<ClientEnd>,
    drained: bool,
    closed: Option<(u32, String)>,
    dropped: bool,
    poisoned: bool,
    drain_blocks: bool,
    refusal_blocks: bool,
}

/// The way for datagrams.
#[derive(Debug)]
struct DatagramState {
    queue: VecDeque<Bytes>,
    room: usize,
    max_payload: Option<usize>,
}

/// What stands before each payload.
const PREFIX: &[u8] = &[0x40, 0x07];

/// The gateway's way for datagrams to the client.
#[derive(Clone, Debug)]
pub(crate) struct MemoryDatagrams(Arc<Shared<DatagramState>>);

impl DatagramState {
    fn put(&mut self, framed: Bytes) -> Result<(), DatagramError> {
        match self.max_payload {
            None => Err(DatagramError::Closed),
            Some(most) if framed.len() - PREFIX.len() > most => Err(DatagramError::TooLarge),
            Some(_) if self.queue.len() >= self.room => Err(DatagramError::Full(framed)),
            Some(_) => {
                self.queue.push_back(framed);
                Ok(())
            }
        }
    }
}

impl Datagrams for MemoryDatagrams {
    fn prefix(&self) -> &[u8] {
        PREFIX
    }

    fn max_payload(&self) -> Option<usize> {
        self.0.look().max_payload
    }

    fn try_send(&self, framed: Bytes) -> Result<(), DatagramError> {
        self.0.change(|state| state.put(framed))
    }

    async fn send(&self, framed: Bytes) -> Result<(), DatagramError> {
        self.0
            .wait(|state| match state.put(framed.clone()) {
                Err(DatagramError::Full(_)) => None,
                result => Some(result),
            })
            .await
    }
}

/// The gateway's end of a session request.
#[derive(Debug)]
pub(crate) struct MemoryRequest {
    head: RequestHead,
    client: MemoryClient,
}

/// The gateway's end of a session.
#[derive(Debug)]
pub(crate) struct MemorySession(MemoryClient);

impl SessionRequest for MemoryRequest {
    type Session = MemorySession;

    fn head(&self) -> &RequestHead {
        &self.head
    }

    async fn gone(&mut self) -> ClientEnd {
        self.client.session.wait(|state| state.end.clone()).await
    }

    fn datagrams(&self) -> MemoryDatagrams {
        self.client.datagrams.clone()
    }

    async fn accept(
        self,
        _: Option<&str>,
        events: Arc<dyn SessionEvents<MemorySession>>,
    ) -> Result<MemorySession, ClientEnd> {
        *self.client.events.lock().unwrap() = Some(events);
        self.client.session.change(|state| state.accepted = true);
        Ok(MemorySession(self.client))
    }

    async fn refuse(self, refused: impl Into<Refused> + Send) {
        let refused = refused.into();
        self.client.session.change(|state| state.refused = Some(refused.why));
        self.client.session.wait(|state| (!state.refusal_blocks).then_some(())).await;
    }
}

/// Opens streams to the client.
#[derive(Clone, Debug)]
pub(crate) struct MemoryOpener(MemoryClient);

impl MemoryOpener {
    /// Waits for leave to open a stream, and opens it.
    async fn open(&self, open: impl Fn(&mut SessionState)) -> Result<(), OpenError> {
        self.0
            .session
            .wait(|state| match state {
                state if state.lost => Some(Err(OpenError::Lost)),
                state if state.is_over() => Some(Err(OpenError::SessionEnded)),
                state if state.no_credit => None,
                state => {
                    open(state);
                    Some(Ok(()))
                }
            })
            .await
    }
}

impl StreamOpener for MemoryOpener {
    type Send = MemorySend;
    type Recv = MemoryRecv;

    async fn open_uni(&self) -> Result<MemorySend, OpenError> {
        let down = self.0.pipe();
        self.open(|state| state.uni.push_back(ClientRecv(Arc::clone(&down)))).await?;
        Ok(MemorySend(down))
    }

    async fn open_bidi(&self) -> Result<(MemorySend, MemoryRecv), OpenError> {
        let (up, down) = (self.0.pipe(), self.0.pipe());
        let client = || (ClientSend(Arc::clone(&up)), ClientRecv(Arc::clone(&down)));
        self.open(|state| state.bidi.push_back(client())).await?;
        Ok((MemorySend(down), MemoryRecv(up)))
    }
}

impl SessionState {
    fn is_over(&self) -> bool {
        self.end.is_some() || self.closed.is_some() || self.dropped
    }
}

/// The way to a client in memory.
pub(crate) fn memory_leg() -> Arc<dyn ClientLeg> {
    Arc::new(MemoryLeg)
}

/// Nothing takes time in memory, and nothing is lost.
#[derive(Debug)]
struct MemoryLeg;

impl ClientLeg for MemoryLeg {
    fn state(&self) -> LegState {
        LegState { mtu: u16::MAX, ..LegState::default() }
    }
}

impl Session for MemorySession {
    type Send = MemorySend;
    type Recv = MemoryRecv;
    type Datagrams = MemoryDatagrams;
    type Opener = MemoryOpener;

    fn leg(&self) -> Arc<dyn ClientLeg> {
        memory_leg()
    }

    fn opener(&self) -> MemoryOpener {
        // Without the events, which may hold the opener: neither would ever be dropped.
        MemoryOpener(MemoryClient { events: Arc::default(), ..self.0.clone() })
    }

    async fn ended(&mut self) -> ClientEnd {
        self.0
            .session
            .wait(|state| {
                assert!(!state.poisoned, "a test wants this panic");
                state.end.clone()
            })
            .await
    }

    async fn drain(&mut self) {
        self.0.session.change(|state| state.drained = true);
        self.0.session.wait(|state| (!state.drain_blocks).then_some(())).await;
    }

    async fn close(self, code: u32, reason: &str) {
        self.0.session.change(|state| state.closed = Some((code, reason.to_owned())));
    }

    async fn leave(self) {}
}

impl Drop for MemorySession {
    fn drop(&mut self) {
        self.0.session.change(|state| state.dropped = true);
    }
}

type Events = Arc<dyn SessionEvents<MemorySession>>;

/// The client's end of a session. Clones are the same client.
#[derive(Clone)]
pub(crate) struct MemoryClient {
    session: Arc<Shared<SessionState>>,
    datagrams: MemoryDatagrams,
    events: Arc<Mutex<Option<Events>>>,
    pipes: Arc<Mutex<Vec<SharedPipe>>>,
    credit: Arc<AtomicUsize>,
}

impl std::fmt::Debug for MemoryClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryClient").field("session", &self.session).finish_non_exhaustive()
    }
}

/// Credit of a stream, each way, unless a test gives less.
pub(crate) const CREDIT: usize = 256 * 1024;

impl MemoryClient {
    /// A request for this path that shows this token, and the client that made it.
    pub(crate) fn showing(token: &str, path: &str) -> (MemoryRequest, Self) {
        let (mut request, client) = Self::asking(path);
        request.head.authorization = Some(format!("Bearer {token}")).into();
        (request, client)
    }

    /// A request for this path, and the client that made it.
    pub(crate) fn asking(path: &str) -> (MemoryRequest, Self) {
        let head = RequestHead {
            authority: "gateway.test".into(),
            path: path.into(),
            query: Some("token=secret".into()),
            authorization: Default::default(),
            origin: Some("https://play.test".into()),
            client: "192.0.2.1:50000".parse().unwrap(),
            local: "203.0.113.9:443".parse().ok(),
            protocols: Vec::new(),
            dialect: "draft02",
            tls: None,
        };
        let datagrams = DatagramState { queue: VecDeque::new(), room: 64, max_payload: Some(1200) };
        let datagrams = Shared::new(datagrams);
        let client = Self {
            session: Arc::default(),
            datagrams: MemoryDatagrams(Arc::new(datagrams)),
            events: Arc::default(),
            pipes: Arc::default(),
            credit: Arc::new(AtomicUsize::new(CREDIT)),
        };
        (MemoryRequest { head, client: client.clone() }, client)
    }

    /// Waits until the session is accepted.
    pub(crate) async fn accepted(&self) {
        soon(self.session.wait(|state| state.accepted.then_some(()))).await;
    }

    /// Waits until the session is refused.
    pub(crate) async fn refused(&self) -> Refusal {
        soon(self.session.wait(|state| state.refused)).await
    }

    fn events(&self) -> Events {
        Arc::clone(self.events.lock().unwrap().as_ref().expect("the session is accepted"))
    }

    fn pipe(&self) -> SharedPipe {
        let pipe = pipe(self.credit.load(Ordering::Relaxed));
        self.pipes.lock().unwrap().push(Arc::clone(&pipe));
        pipe
    }

    /// Opens a bidirectional stream.
    pub(crate) fn open_bidi(&self) -> (ClientSend, ClientRecv) {
        let (up, down) = (self.pipe(), self.pipe());
        let (send, recv) = (MemorySend(Arc::clone(&down)), MemoryRecv(Arc::clone(&up)));
        self.events().bidi(send, recv);
        (ClientSend(up), ClientRecv(down))
    }

    /// Opens a unidirectional stream.
    pub(crate) fn open_uni(&self) -> ClientSend {
        let up = self.pipe();
        self.events().uni(MemoryRecv(Arc::clone(&up)));
        ClientSend(up)
    }

    /// The next bidirectional stream that the gateway opens.
    pub(crate) async fn accept_bidi(&self) -> (ClientSend, ClientRecv) {
        soon(self.session.wait(|state| state.bidi.pop_front())).await
    }

    /// The next unidirectional stream that the gateway opens.
    pub(crate) async fn accept_uni(&self) -> ClientRecv {
        soon(self.session.wait(|state| state.uni.pop_front())).await
    }

    /// Gives streams that are opened from now on so many bytes of credit, each way.
    pub(crate) fn give_byte_credit(&self, bytes: usize) {
        self.credit.store(bytes, Ordering::Relaxed);
    }

    /// Lets the gateway open streams, or not any more.
    pub(crate) fn give_stream_credit(&self, gives: bool) {
        self.session.change(|state| state.no_credit = !gives);
    }

    /// Whether the gateway has opened a stream that was not taken.
    pub(crate) fn has_streams(&self) -> bool {
        let state = self.session.look();
        !state.bidi.is_empty() || !state.uni.is_empty()
    }

    /// Streams that the gateway counts as open.
    pub(crate) fn open_bidi_streams(&self) -> u64 {
        self.events().open_bidi_streams()
    }

    /// Sends a datagram.
    pub(crate) fn send_datagram(&self, payload: &'static [u8]) {
        self.send_datagrams(&[payload]);
    }

    /// Sends datagrams that come together.
    pub(crate) fn send_datagrams(&self, payloads: &[&'static [u8]]) {
        let payloads: Vec<Bytes> = payloads.iter().copied().map(Bytes::from_static).collect();
        self.events().datagrams(&payloads);
    }

    /// The payload of the next datagram.
    pub(crate) async fn datagram(&self) -> Bytes {
        let framed = soon(self.datagrams.0.wait(|state| state.queue.pop_front())).await;
        assert_eq!(&framed[..PREFIX.len()], PREFIX);
        framed.slice(PREFIX.len()..)
    }

    /// How many datagrams may wait for the client, and how large they may be.
    pub(crate) fn take_datagrams(&self, room: usize, max_payload: Option<usize>) {
        self.datagrams.0.change(|state| (state.room, state.max_payload) = (room, max_payload));
    }

    /// Closes the session.
    pub(crate) fn close(&self, code: u32, reason: &str) {
        self.end(ClientEnd::Closed { code, reason: reason.to_owned() });
    }

    /// Ends the session in any way.
    pub(crate) fn end(&self, end: ClientEnd) {
        self.session.change(|state| state.end = Some(end));
    }

    /// Goes away with its connection.
    pub(crate) fn lose_connection(&self) {
        for pipe in self.pipes.lock().unwrap().iter() {
            pipe.change(|pipe| pipe.lost = true);
        }
        self.session.change(|state| state.lost = true);
        self.end(ClientEnd::ConnectionLost);
    }

    /// Makes the session's task panic.
    pub(crate) fn poison(&self) {
        self.session.change(|state| state.poisoned = true);
    }

    /// Takes nothing more on the session's own stream, so that the request to end stays half said.
    pub(crate) fn block_drain(&self) {
        self.session.change(|state| state.drain_blocks = true);
    }

    /// Takes nothing of its refusal, so that it stays half said.
    pub(crate) fn block_refusal(&self) {
        self.session.change(|state| state.refusal_blocks = true);
    }

    /// Waits until the gateway asks to end.
    pub(crate) async fn asked_to_end(&self) {
        soon(self.session.wait(|state| state.drained.then_some(()))).await;
    }

    /// Code and reason with which the gateway closed the session.
    pub(crate) async fn closed(&self) -> (u32, String) {
        soon(self.session.wait(|state| state.closed.clone())).await
    }

    /// Whether the gateway told the client of the end.
    pub(crate) fn was_told(&self) -> bool {
        self.session.look().closed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{RecvStream, SendStream};
    use futures_util::FutureExt;

    async fn session() -> (MemoryClient, MemorySession) {
        struct Deaf;
        impl SessionEvents<MemorySession> for Deaf {
            fn bidi(&self, _: MemorySend, _: MemoryRecv) {}
            fn uni(&self, _: MemoryRecv) {}
            fn datagrams(&self, _: &[Bytes]) {}
            fn open_bidi_streams(&self) -> u64 {
                0
            }
            fn max_bidi_streams(&self) -> u64 {
                0
            }
        }
        let (request, client) = MemoryClient::asking("/");
        let session = request.accept(None, Arc::new(Deaf)).await.unwrap();
        (client, session)
    }

    #[tokio::test]
    async fn the_gateway_opens_streams_when_the_client_lets_it() {
        let (client, session) = session().await;
        let opener = session.opener();
        let (mut send, mut recv) = opener.open_bidi().await.unwrap();
        let (client_send, client_recv) = client.accept_bidi().await;
        client_send.write("up").await;
        send.write(&mut "down".into()).await.unwrap();
        let mut chunks = [Bytes::new()];
        assert_eq!(recv.read_chunks(&mut chunks).await, Ok(Some(1)));
        assert_eq!(
            (&chunks[0][..], &client_recv.read_exact(4).await[..]),
            (&b"up"[..], &b"down"[..])
        );

        client.give_stream_credit(false);
        assert!(opener.open_uni().now_or_never().is_none());
        assert!(!client.has_streams());
        client.give_stream_credit(true);
        opener.open_uni().await.unwrap().finish();
        assert_eq!(client.accept_uni().await.read_to_end().await, (Vec::new(), SeenEnd::Finished));

        client.close(0, "");
        assert_eq!(opener.open_uni().await.map(drop), Err(OpenError::SessionEnded));
    }
}
