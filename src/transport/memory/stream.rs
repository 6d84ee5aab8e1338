//! Streams that share memory: a pipe each way, and the two ends of each.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;

use super::{Shared, soon};
use crate::transport::{RecvError, RecvStream, SendError, SendStream};

/// One direction of a stream.
#[derive(Debug)]
pub(super) struct Pipe {
    chunks: VecDeque<Bytes>,
    held: usize,
    /// Bytes that may be held unread.
    credit: usize,
    finished: bool,
    reset: Option<Option<u32>>,
    stopped: Option<Option<u32>>,
    /// The gateway let go because the session had ended.
    abandoned: bool,
    /// The connection is gone.
    pub(super) lost: bool,
    /// The next use by the gateway panics.
    poisoned: bool,
    /// A writer waits for credit now.
    blocked: bool,
}

pub(super) type SharedPipe = Arc<Shared<Pipe>>;

pub(super) fn pipe(credit: usize) -> SharedPipe {
    Arc::new(Shared::new(Pipe {
        chunks: VecDeque::new(),
        held: 0,
        credit,
        finished: false,
        reset: None,
        stopped: None,
        abandoned: false,
        lost: false,
        poisoned: false,
        blocked: false,
    }))
}

impl Pipe {
    fn check_poison(&self) {
        assert!(!self.poisoned, "a test wants this panic");
    }

    /// Takes what fits of `chunk`. `Some` when all is taken or nothing more will be.
    fn put(&mut self, chunk: &mut Bytes) -> Option<Result<(), SendError>> {
        if self.lost {
            return Some(Err(SendError::Lost));
        }
        if let Some(code) = self.stopped {
            return Some(Err(SendError::Stopped(code)));
        }
        let fits = chunk.len().min(self.credit - self.held);
        if fits > 0 {
            self.chunks.push_back(chunk.split_to(fits));
            self.held += fits;
        }
        self.blocked = !chunk.is_empty();
        chunk.is_empty().then_some(Ok(()))
    }

    /// Whether another [`Self::put`] makes sense.
    fn has_room_or_end(&self) -> Option<()> {
        (self.lost || self.stopped.is_some() || self.held < self.credit).then_some(())
    }

    fn pop(&mut self) -> Option<Bytes> {
        let chunk = self.chunks.pop_front()?;
        self.held -= chunk.len();
        Some(chunk)
    }

    fn take(&mut self, chunks: &mut [Bytes]) -> Option<Result<Option<usize>, RecvError>> {
        if let Some(error) = self.lost_or_reset() {
            return Some(Err(error));
        }
        let taken = self.chunks.len().min(chunks.len());
        chunks[..taken].fill_with(|| self.pop().expect("there are as many"));
        if taken > 0 {
            return Some(Ok(Some(taken)));
        }
        self.finished.then_some(Ok(None))
    }

    fn lost_or_reset(&self) -> Option<RecvError> {
        if self.lost { Some(RecvError::Lost) } else { self.reset.map(RecvError::Reset) }
    }

    fn end(&self) -> Option<SeenEnd> {
        let finished = self.finished.then_some(SeenEnd::Finished);
        self.reset.map(SeenEnd::Reset).or(finished)
    }

    /// What was not read is gone, as in QUIC.
    fn reset(&mut self, code: Option<u32>) {
        while self.pop().is_some() {}
        self.reset = self.reset.or(Some(code));
    }
}

/// Puts all of `chunk` in, as room comes.
async fn write(pipe: &SharedPipe, chunk: &mut Bytes) -> Result<(), SendError> {
    loop {
        if let Some(result) = pipe.change(|pipe| pipe.put(chunk)) {
            return result;
        }
        pipe.wait(|pipe| pipe.has_room_or_end()).await;
    }
}

/// The gateway's end of what it sends.
#[derive(Debug)]
pub(crate) struct MemorySend(pub(super) SharedPipe);

impl SendStream for MemorySend {
    async fn write(&mut self, chunk: &mut Bytes) -> Result<(), SendError> {
        self.0.look().check_poison();
        write(&self.0, chunk).await
    }

    fn finish(&mut self) {
        self.0.change(|pipe| pipe.finished = true);
    }

    fn reset(&mut self, code: u32) {
        self.0.change(|pipe| pipe.reset(Some(code)));
    }

    fn delivered(&self) -> impl Future<Output = bool> + Send + 'static {
        let pipe = Arc::clone(&self.0);
        async move {
            pipe.wait(|pipe| {
                let is_cut = pipe.lost || pipe.stopped.is_some() || pipe.reset.is_some();
                let is_over = is_cut || (pipe.finished && pipe.chunks.is_empty());
                is_over.then_some(!is_cut)
            })
            .await
        }
    }

    fn stopped(&self) -> impl Future<Output = SendError> + Send + 'static {
        let pipe = Arc::clone(&self.0);
        async move {
            pipe.wait(|pipe| {
                let stopped = pipe.stopped.map(SendError::Stopped);
                if pipe.lost { Some(SendError::Lost) } else { stopped }
            })
            .await
        }
    }

    fn abandon(&mut self) {
        self.0.change(|pipe| {
            pipe.abandoned = true;
            pipe.reset(None);
        });
    }
}

impl Drop for MemorySend {
    fn drop(&mut self) {
        self.0.change(|pipe| {
            if !pipe.finished {
                pipe.reset(None);
            }
        });
    }
}

/// The gateway's end of what it receives.
#[derive(Debug)]
pub(crate) struct MemoryRecv(pub(super) SharedPipe);

impl RecvStream for MemoryRecv {
    fn poll_read_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, RecvError>> {
        self.0.poll(cx, |pipe| {
            pipe.check_poison();
            pipe.take(chunks)
        })
    }

    async fn lost(&mut self) -> RecvError {
        self.0.wait(|pipe| pipe.lost_or_reset()).await
    }

    fn stop(&mut self, code: u32) {
        self.0.change(|pipe| pipe.stopped = pipe.stopped.or(Some(Some(code))));
    }

    fn abandon(&mut self) {
        self.0.change(|pipe| {
            pipe.abandoned = true;
            pipe.stopped = pipe.stopped.or(Some(None));
        });
    }
}

impl Drop for MemoryRecv {
    fn drop(&mut self) {
        self.0.change(|pipe| {
            if !pipe.finished {
                pipe.stopped = pipe.stopped.or(Some(None));
            }
        });
    }
}

/// The client's end of what it sends.
#[derive(Debug)]
pub(crate) struct ClientSend(pub(super) SharedPipe);

impl ClientSend {
    /// Hands over everything, waiting for credit.
    pub(crate) async fn write(&self, bytes: impl Into<Bytes>) {
        soon(write(&self.0, &mut bytes.into())).await.expect("the gateway takes it");
    }

    /// Hands over what there is room for. Yields how much that was.
    pub(crate) fn write_some(&self, bytes: impl Into<Bytes>) -> usize {
        let mut chunk = bytes.into();
        let all = chunk.len();
        self.0.change(|pipe| pipe.put(&mut chunk));
        all - chunk.len()
    }

    pub(crate) fn finish(&self) {
        self.0.change(|pipe| pipe.finished = true);
    }

    pub(crate) fn reset(&self, code: u32) {
        self.0.change(|pipe| pipe.reset(Some(code)));
    }

    /// Makes the gateway's next use of the stream panic.
    pub(crate) fn poison(&self) {
        self.0.change(|pipe| pipe.poisoned = true);
    }

    /// The code with which the gateway asks to stop.
    pub(crate) async fn stopped(&self) -> Option<u32> {
        soon(self.0.wait(|pipe| pipe.stopped)).await
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.0.look().stopped.is_some()
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.0.look().abandoned
    }

    /// Bytes that the gateway has not read.
    pub(crate) fn unread(&self) -> usize {
        self.0.look().held
    }
}

/// How the gateway ended what it sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SeenEnd {
    Finished,
    Reset(Option<u32>),
}

/// The client's end of what it receives.
#[derive(Debug)]
pub(crate) struct ClientRecv(pub(super) SharedPipe);

impl ClientRecv {
    /// All bytes up to the end, and the end.
    pub(crate) async fn read_to_end(&self) -> (Vec<u8>, SeenEnd) {
        let mut all = Vec::new();
        loop {
            let next = |pipe: &mut Pipe| match pipe.pop() {
                Some(chunk) => Some(Ok(chunk)),
                None => pipe.end().map(Err),
            };
            match soon(self.0.wait(next)).await {
                Ok(chunk) => all.extend_from_slice(&chunk),
                Err(end) => return (all, end),
            }
        }
    }

    /// Exactly so many bytes.
    pub(crate) async fn read_exact(&self, bytes: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < bytes {
            let chunk = soon(self.0.wait(Pipe::pop)).await;
            all.extend_from_slice(&chunk);
        }
        assert_eq!(all.len(), bytes, "more came than was asked for");
        all
    }

    /// The code with which the gateway reset the stream.
    pub(crate) async fn reset(&self) -> Option<u32> {
        soon(self.0.wait(|pipe| pipe.reset)).await
    }

    pub(crate) fn stop(&self, code: u32) {
        self.0.change(|pipe| {
            pipe.stopped = Some(Some(code));
            while pipe.pop().is_some() {}
        });
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.0.look().abandoned
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.0.look().finished
    }

    /// Makes the gateway's next write to the stream panic.
    pub(crate) fn poison(&self) {
        self.0.change(|pipe| pipe.poisoned = true);
    }

    /// Waits until the gateway has to wait for credit.
    pub(crate) async fn blocked(&self) {
        soon(self.0.wait(|pipe| pipe.blocked.then_some(()))).await;
    }
}
