//! A client leg that costs next to nothing: what a stream brings is there, and what it takes is counted.

use std::{
    collections::VecDeque,
    future::{Future, pending, ready},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use tidegate::{
    reason::Refused,
    transport::{
        ClientEnd, ClientLeg, DatagramError, Datagrams, LegState, OpenError, RecvError, RecvStream,
        RequestHead, SendError, SendStream, Session, SessionEvents, SessionRequest, StreamOpener,
    },
};
use tokio_util::sync::CancellationToken;

type Events = Arc<dyn SessionEvents<Served>>;

/// The client's end of a session.
#[derive(Default)]
pub(crate) struct Client {
    events: OnceLock<Events>,
    datagrams: Arc<AtomicUsize>,
    closed: CancellationToken,
    is_refused: AtomicBool,
}

/// The gateway's end of a request.
pub(crate) struct Asked(pub(crate) RequestHead, pub(crate) Arc<Client>);

/// The gateway's end of a session.
pub(crate) struct Served(Arc<Client>);

impl Client {
    /// What takes what the client opens and sends, once its session is accepted.
    pub(crate) fn events(&self) -> Option<&Events> {
        self.events.get()
    }

    /// Datagrams that have come.
    pub(crate) fn datagrams(&self) -> usize {
        self.datagrams.load(Relaxed)
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.is_refused.load(Relaxed)
    }

    pub(crate) fn close(&self) {
        self.closed.cancel();
    }
}

impl SessionRequest for Asked {
    type Session = Served;

    fn head(&self) -> &RequestHead {
        &self.0
    }

    async fn gone(&mut self) -> ClientEnd {
        pending().await
    }

    fn datagrams(&self) -> Counter {
        Counter(Arc::clone(&self.1.datagrams))
    }

    async fn accept(self, _: Option<&str>, events: Events) -> Result<Served, ClientEnd> {
        // A request is accepted once.
        _ = self.1.events.set(events);
        Ok(Served(self.1))
    }

    async fn refuse(self, _: impl Into<Refused> + Send) {
        self.1.is_refused.store(true, Relaxed);
    }
}

impl Session for Served {
    type Send = Down;
    type Recv = Up;
    type Datagrams = Counter;
    type Opener = NoOpener;

    fn leg(&self) -> Arc<dyn ClientLeg> {
        Arc::new(NoOpener)
    }

    fn opener(&self) -> NoOpener {
        NoOpener
    }

    async fn ended(&mut self) -> ClientEnd {
        self.0.closed.cancelled().await;
        ClientEnd::Closed { code: 0, reason: String::new() }
    }

    async fn drain(&mut self) {}

    async fn close(self, _: u32, _: &str) {}

    async fn leave(self) {}
}

/// The client opens every stream itself, and shows nothing.
#[derive(Clone, Debug)]
pub(crate) struct NoOpener;

impl ClientLeg for NoOpener {
    fn state(&self) -> LegState {
        LegState::default()
    }
}

impl StreamOpener for NoOpener {
    type Send = Down;
    type Recv = Up;

    async fn open_uni(&self) -> Result<Down, OpenError> {
        Err(OpenError::SessionEnded)
    }

    async fn open_bidi(&self) -> Result<(Down, Up), OpenError> {
        Err(OpenError::SessionEnded)
    }
}

/// Takes datagrams and counts them.
#[derive(Clone)]
pub(crate) struct Counter(Arc<AtomicUsize>);

impl Datagrams for Counter {
    fn prefix(&self) -> &[u8] {
        &[0]
    }

    fn max_payload(&self) -> Option<usize> {
        Some(1400)
    }

    fn try_send(&self, _: Bytes) -> Result<(), DatagramError> {
        self.0.fetch_add(1, Relaxed);
        Ok(())
    }

    async fn send(&self, framed: Bytes) -> Result<(), DatagramError> {
        self.try_send(framed)
    }
}

/// The client's half of a stream. Clones are the same stream.
#[derive(Clone, Default)]
pub(crate) struct Up(Arc<Mutex<Said>>);

#[derive(Default)]
struct Said {
    chunks: VecDeque<Bytes>,
    is_all: bool,
    reader: Option<Waker>,
}

impl Up {
    /// Says so many chunks.
    pub(crate) fn say(&self, chunk: &Bytes, times: usize) {
        let mut said = self.lock();
        said.chunks.extend(std::iter::repeat_n(chunk, times).cloned());
        Self::wake(said);
    }

    pub(crate) fn finish(&self) {
        let mut said = self.lock();
        said.is_all = true;
        Self::wake(said);
    }

    fn wake(mut said: MutexGuard<'_, Said>) {
        let reader = said.reader.take();
        drop(said);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecvStream for Up {
    fn poll_read_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, RecvError>> {
        let mut said = self.lock();
        let taken = said.chunks.len().min(chunks.len());
        if taken == 0 && said.is_all {
            return Poll::Ready(Ok(None));
        }
        if taken == 0 {
            said.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        for (to, from) in chunks.iter_mut().zip(said.chunks.drain(..taken)) {
            *to = from;
        }
        Poll::Ready(Ok(Some(taken)))
    }

    async fn lost(&mut self) -> RecvError {
        pending().await
    }

    fn stop(&mut self, _: u32) {}

    fn abandon(&mut self) {}
}

/// The gateway's half of a stream: it takes everything. Clones are the same stream.
#[derive(Clone, Default)]
pub(crate) struct Down(Arc<Heard>);

#[derive(Default)]
struct Heard {
    bytes: AtomicUsize,
    is_all: AtomicBool,
}

impl Down {
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes.load(Relaxed)
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_all.load(Relaxed)
    }
}

impl SendStream for Down {
    async fn write(&mut self, chunk: &mut Bytes) -> Result<(), SendError> {
        self.0.bytes.fetch_add(chunk.len(), Relaxed);
        chunk.clear();
        Ok(())
    }

    fn finish(&mut self) {
        self.0.is_all.store(true, Relaxed);
    }

    fn reset(&mut self, _: u32) {}

    fn delivered(&self) -> impl Future<Output = bool> + Send + 'static {
        ready(true)
    }

    fn stopped(&self) -> impl Future<Output = SendError> + Send + 'static {
        pending()
    }

    fn abandon(&mut self) {}
}
