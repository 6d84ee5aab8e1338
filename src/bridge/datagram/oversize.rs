//! Datagrams that are larger than the client's path allows, each on a unidirectional stream of its own.
//!
//! There is no queue: each has its stream, or waits for leave to open it, or is lost. How many are on
//! their way and how large they are together is bounded.

use std::sync::OnceLock;

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::{BoxFuture, FutureExt},
    stream::FuturesUnordered,
};
use tokio::time::timeout;

use super::{Context, Loss};
use crate::{
    config::Oversize,
    transport::{SendError, SendStream, StreamOpener},
};

/// The datagrams of one session that are on their way on streams.
pub(super) struct Streams<'a, O> {
    context: &'a Context,
    /// There once the session is accepted.
    opener: &'a OnceLock<O>,
    /// Each yields its size when it is sent or lost. Made with the first.
    sending: Option<FuturesUnordered<BoxFuture<'a, usize>>>,
    bytes: usize,
}

impl<'a, O: StreamOpener> Streams<'a, O> {
    pub(super) fn new(context: &'a Context, opener: &'a OnceLock<O>) -> Self {
        Self { context, opener, sending: None, bytes: 0 }
    }

    /// Sends a datagram on a stream, if the route says so and there is room; else it is lost.
    pub(super) fn send(&mut self, payload: &[u8]) {
        match self.admit(payload.len()) {
            Ok(opener) => {
                // Cancelled, it is so because the session has ended.
                let fate = Err(Loss::SessionEnded);
                let parcel = Parcel { context: self.context, bytes: payload.len(), fate };
                let sending = send(opener, parcel, Bytes::copy_from_slice(payload)).boxed();
                self.sending.get_or_insert_default().push(sending);
                self.bytes += payload.len();
            }
            Err(why) => self.context.lost_down(payload.len() as u64, why),
        }
    }

    /// Decides on one more of so many bytes.
    fn admit(&self, bytes: usize) -> Result<O, Loss> {
        let settings = &self.context.route.settings;
        let opener = match settings.oversize {
            Oversize::Stream => self.opener.get().ok_or(Loss::Oversize)?,
            Oversize::Drop => return Err(Loss::Oversize),
        };
        let is_full = self.sending.as_ref().map_or(0, FuturesUnordered::len)
            >= settings.oversize_streams as usize
            || self.bytes + bytes > settings.oversize_queue.as_usize();
        if is_full { Err(Loss::QueueFull) } else { Ok(opener.clone()) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sending.as_ref().is_none_or(FuturesUnordered::is_empty)
    }

    /// Waits until one of them is sent or lost. Cancel-safe.
    pub(super) async fn settle(&mut self) {
        let Some(sending) = &mut self.sending else { return };
        if let Some(bytes) = sending.next().await {
            self.bytes -= bytes;
        }
    }
}

/// A datagram on its way, which is passed on or lost when this is dropped.
struct Parcel<'a> {
    context: &'a Context,
    bytes: usize,
    fate: Result<(), Loss>,
}

impl Drop for Parcel<'_> {
    fn drop(&mut self) {
        let bytes = self.bytes as u64;
        match self.fate {
            Ok(()) => {
                self.context.metrics().datagram_streams.inc();
                self.context.datagram_down(bytes);
            }
            Err(why) => self.context.lost_down(bytes, why),
        }
    }
}
/// Carries a datagram to its fate. Yields its size.
async fn send<O: StreamOpener>(opener: O, mut parcel: Parcel<'_>, payload: Bytes) -> usize {
    let context = parcel.context;
    parcel.fate = deliver(context, &opener, payload).await;
    parcel.bytes
}

/// Opens a stream, and sends the datagram and the end on it.
///
/// It is too old only as long as there is no stream: who has begun to read is to get all of it.
async fn deliver<O: StreamOpener>(
    context: &Context,
    opener: &O,
    mut payload: Bytes,
) -> Result<(), Loss> {
    let patience = context.route.settings.datagram_ttl;
    let opened = tokio::select! {
        biased;
        () = context.ended() => return Err(Loss::SessionEnded),
        opened = timeout(patience, opener.open_uni()) => opened,
    };
    let opened = opened.map_err(|_elapsed| Loss::Expired)?;
    let mut stream = opened.map_err(|_gone| Loss::SessionEnded)?;
    let written = tokio::select! {
        biased;
        () = context.ended() => {
            stream.abandon();
            return Err(Loss::SessionEnded);
        }
        written = stream.write(&mut payload) => written,
    };
    match written {
        Ok(()) => {
            stream.finish();
            Ok(())
        }
        Err(SendError::Stopped(code)) => {
            // RFC 9000 section 3.5: who is asked to stop resets, with the code it was given.
            stream.reset(code.unwrap_or(0));
            Err(Loss::ClientStopped)
        }
        Err(SendError::Lost) => Err(Loss::SessionEnded),
    }
}
