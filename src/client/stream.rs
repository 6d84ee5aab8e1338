//! A client's streams.

use bytes::Bytes;

use crate::webtransport::codes::{self, error};

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
pub struct SendStream(pub(super) quinn::SendStream);

impl SendStream {
    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// If the server stopped the stream or is gone.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.0.write_all(bytes).await.map_err(write_error)
    }

    /// Writes a chunk without copying it.
    ///
    /// # Errors
    /// If the server stopped the stream or is gone.
    pub async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), StreamError> {
        self.0.write_chunk(chunk).await.map_err(write_error)
    }

    /// Ends the stream cleanly.
    pub fn finish(&mut self) {
        // An error says that the server stopped the stream, which `stopped` tells as well.
        _ = self.0.finish();
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
        _ = self.0.reset(codes::quic(code));
    }

    /// Waits until the server has everything (`None`) or stops the stream.
    pub async fn stopped(&self) -> Option<StreamError> {
        match self.0.stopped().await {
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
    pub(super) stream: quinn::RecvStream,
    pub(super) first: Bytes,
}

impl RecvStream {
    /// Reads what comes next. `None`: the server finished.
    ///
    /// # Errors
    /// If the server reset the stream or is gone.
    pub async fn read(&mut self) -> Result<Option<Bytes>, StreamError> {
        if !self.first.is_empty() {
            return Ok(Some(std::mem::take(&mut self.first)));
        }
        match self.stream.read_chunk(usize::MAX, true).await {
            Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
            Err(quinn::ReadError::Reset(code)) => Err(StreamError::from_code(code)),
            Err(_) => Err(StreamError::Lost),
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
        // An error says that the stream has ended already.
        _ = self.stream.stop(codes::quic(codes::to_http3(code)));
    }
}
