//! A client's streams.

use std::sync::Arc;

use bytes::Bytes;

use crate::webtransport::{
    codes::{self, error},
    flow::Flow,
    stream,
};

/// Bytes that are copied from the application at once.
const COPY_BYTES: usize = 64 * 1024;

/// Why a stream ended otherwise than cleanly.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StreamError {
    /// The server reset or stopped it with an application's code.
    #[error("ended by the server with code {0}")]
    Ended(u32),
    /// Its session has ended (WT_SESSION_GONE).
    #[error("the session has ended")]
    SessionGone,
    /// It came before its session, and that did not come (WT_BUFFERED_STREAM_REJECTED).
    #[error("rejected: no session for it")]
    Rejected,
    /// The server ended it with another code of the protocol.
    #[error("ended by the server with HTTP/3 code {0:#x}")]
    Protocol(u64),
    /// The connection is gone.
    #[error("connection lost")]
    Lost,
}

impl StreamError {
    fn from_code(code: quinn::VarInt) -> Self {
        match code.into_inner() {
            error::WT_SESSION_GONE => Self::SessionGone,
            error::WT_BUFFERED_STREAM_REJECTED => Self::Rejected,
            code => codes::from_http3(code).map_or(Self::Protocol(code), Self::Ended),
        }
    }
}

/// The client's half of a stream. Dropping it finishes it.
#[derive(Debug)]
pub struct SendStream {
    stream: quinn::SendStream,
    flow: Arc<Flow>,
}

impl SendStream {
    pub(super) fn new(stream: quinn::SendStream, flow: Arc<Flow>) -> Self {
        Self { stream, flow }
    }

    /// Writes the stream's own head, which session flow control does not count.
    pub(super) async fn write_head(&mut self, head: &[u8]) -> Result<(), StreamError> {
        self.stream.write_all(head).await.map_err(write_error)
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// If the server stopped the stream or is gone.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        for piece in bytes.chunks(COPY_BYTES) {
            self.write_chunk(Bytes::copy_from_slice(piece)).await?;
        }
        Ok(())
    }

    /// Writes a chunk without copying it.
    ///
    /// # Errors
    /// If the server stopped the stream or is gone.
    pub async fn write_chunk(&mut self, mut chunk: Bytes) -> Result<(), StreamError> {
        stream::write(&mut self.stream, &self.flow, &mut chunk).await.map_err(write_error)
    }

    /// Ends the stream cleanly.
    pub fn finish(&mut self) {
        // An error says that the server stopped the stream, which `stopped` tells as well.
        _ = self.stream.finish();
    }

    /// Ends the stream abnormally, with an application's code.
    pub fn reset(&mut self, code: u32) {
        self.reset_raw(codes::to_http3(code));
    }

    /// Ends the stream abnormally, with any code.
    ///
    /// # Panics
    /// If the code is no QUIC varint.
    pub fn reset_raw(&mut self, code: u64) {
        // An error says that the stream has ended already.
        _ = self.stream.reset(codes::quic(code));
    }

    /// Waits until the server has everything (`None`) or stops the stream.
    pub async fn stopped(&self) -> Option<StreamError> {
        match self.stream.stopped().await {
            Ok(code) => code.map(StreamError::from_code),
            Err(_) => Some(StreamError::Lost),
        }
    }
}

fn write_error(error: quinn::WriteError) -> StreamError {
    match error {
        quinn::WriteError::Stopped(code) => StreamError::from_code(code),
        _ => StreamError::Lost,
    }
}

/// The server's half of a stream. Dropping it asks the server to stop.
#[derive(Debug)]
pub struct RecvStream {
    stream: quinn::RecvStream,
    /// What was read with the stream's head.
    first: Bytes,
    flow: Arc<Flow>,
    ended: bool,
}

impl RecvStream {
    pub(super) fn new(stream: quinn::RecvStream, first: Bytes, flow: Arc<Flow>) -> Self {
        Self { stream, first, flow, ended: false }
    }

    /// Reads what comes next. `None`: the server finished.
    ///
    /// # Errors
    /// If the server reset the stream or is gone.
    pub async fn read(&mut self) -> Result<Option<Bytes>, StreamError> {
        let chunk = if self.first.is_empty() {
            self.read_chunk().await?
        } else {
            Some(std::mem::take(&mut self.first))
        };
        if let Some(chunk) = &chunk {
            self.flow.received(chunk.len() as u64);
        }
        Ok(chunk)
    }

    async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        match self.stream.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => Ok(Some(chunk.bytes)),
            Ok(None) => {
                self.ended = true;
                Ok(None)
            }
            Err(quinn::ReadError::Reset(code)) => {
                self.cut();
                Err(StreamError::from_code(code))
            }
            Err(_) => Err(StreamError::Lost),
        }
    }

    /// The stream ended before all of it was read.
    fn cut(&mut self) {
        if !self.ended {
            self.ended = true;
            self.flow.cut(1);
        }
    }

    /// Reads to the server's clean end, at most `limit` bytes; what is more is left.
    ///
    /// # Errors
    /// If the server reset the stream or is gone.
    pub async fn read_to_end(&mut self, limit: usize) -> Result<Vec<u8>, StreamError> {
        let mut all = Vec::new();
        while all.len() < limit {
            let Some(chunk) = self.read().await? else { break };
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    /// Asks the server to stop sending, with an application's code.
    pub fn stop(&mut self, code: u32) {
        self.cut();
        // An error says that the stream has ended already.
        _ = self.stream.stop(codes::quic(codes::to_http3(code)));
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.cut();
    }
}
