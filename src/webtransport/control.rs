//! The client's control and QPACK streams.
//!
//! h3 keeps the QPACK streams but never reads them, and drops the settings that it does not know, which
//! are the ones that WebTransport is about; so these streams are read here. Each is critical: it must
//! not end while the connection lives (RFC 9114 section 6.2.1, RFC 9204 section 4.2).

use std::{future::poll_fn, pin::pin, sync::Arc};

use bytes::{Buf, Bytes};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::SetOnce;

use super::{
    codes::{self, error, frame, stream},
    dialect::{BadSettings, Settings},
    varint,
};

/// Longest SETTINGS payload that is taken. Real ones have less than 100 bytes.
const MAX_SETTINGS_BYTES: u64 = 4096;

/// Most bytes that are taken from a critical stream at once.
const READ_BYTES: usize = 4096;

/// Why a critical stream costs the connection: the code to close it with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Fault(pub(crate) u64);

/// Where the client's settings are told.
pub(crate) type SettingsSlot = Arc<SetOnce<Settings>>;

/// Where the bytes of a critical stream come from.
pub(crate) trait Source {
    /// The next bytes, or what it costs that there are none. Cancel-safe.
    fn read(&mut self) -> impl Future<Output = Result<Bytes, Fault>> + Send;
}

impl Source for quinn::RecvStream {
    /// If the connection is gone, this waits for ever: then nobody minds.
    async fn read(&mut self) -> Result<Bytes, Fault> {
        match self.read_chunk(READ_BYTES, true).await {
            Ok(Some(chunk)) => Ok(chunk.bytes),
            Err(quinn::ReadError::ConnectionLost(_)) => std::future::pending().await,
            Ok(None) | Err(_) => Err(Fault(error::H3_CLOSED_CRITICAL_STREAM)),
        }
    }
}

/// Reads a critical stream for as long as the connection lives. Resolves only with a fault.
pub(crate) fn read_critical(
    kind: u64,
    source: impl Source + Send + 'static,
    first: Bytes,
    settings: SettingsSlot,
) -> BoxFuture<'static, Fault> {
    let bytes = Reader { source, unread: first };
    let fault = |Err(fault): Forever| fault;
    // Each in a box of its own size: a connection keeps all three for as long as it lives.
    match kind {
        stream::CONTROL => read_control(bytes, settings).map(fault).boxed(),
        stream::QPACK_ENCODER => read_encoder(bytes).map(fault).boxed(),
        _ => read_decoder(bytes).map(fault).boxed(),
    }
}

/// What a function yields that only ends with a fault.
type Forever = Result<std::convert::Infallible, Fault>;

/// Follows the frames of the control stream (RFC 9114 section 7.2).
async fn read_control(mut bytes: Reader<impl Source>, slot: SettingsSlot) -> Forever {
    let settings = match (bytes.varint().await?, bytes.varint().await?) {
        (frame::SETTINGS, length) if length <= MAX_SETTINGS_BYTES => bytes.take(length).await?,
        (frame::SETTINGS, _) => return Err(Fault(error::H3_EXCESSIVE_LOAD)),
        _ => return Err(Fault(error::H3_MISSING_SETTINGS)),
    };
    let settings = Settings::parse(&settings).map_err(|bad| match bad {
        BadSettings::Cut => Fault(error::H3_FRAME_ERROR),
        BadSettings::Forbidden => Fault(error::H3_SETTINGS_ERROR),
    })?;
    // A second control stream is an error, so nobody was here before.
    _ = slot.set(settings);

    let mut ids = Ids::default();
    loop {
        match (bytes.varint().await?, bytes.varint().await?) {
            (kind @ (frame::GOAWAY | frame::MAX_PUSH_ID | frame::CANCEL_PUSH), length) => {
                if length > varint::MAX_BYTES as u64 {
                    return Err(Fault(error::H3_FRAME_ERROR));
                }
                let payload = bytes.take(length).await?;
                ids.check(kind, &payload)?;
            }
            (frame::DATA | frame::HEADERS | frame::SETTINGS | frame::PUSH_PROMISE, _) => {
                return Err(Fault(error::H3_FRAME_UNEXPECTED));
            }
            // What begins a WebTransport stream is no frame (draft section 4.3).
            (codes::STREAM_BIDI, _) => return Err(Fault(error::H3_FRAME_ERROR)),
            (kind, _) if frame::is_reserved(kind) => {
                return Err(Fault(error::H3_FRAME_UNEXPECTED));
            }
            (_, length) => bytes.skip(length).await?,
        }
    }
}

/// The ids of GOAWAY and MAX_PUSH_ID may go only one way (RFC 9114 sections 5.2 and 7.2.7).
#[derive(Debug, Default)]
struct Ids {
    goaway: Option<u64>,
    max_push: Option<u64>,
}

impl Ids {
    fn check(&mut self, kind: u64, payload: &[u8]) -> Result<(), Fault> {
        let Some((id, length)) = varint::peek(payload) else {
            return Err(Fault(error::H3_FRAME_ERROR));
        };
        if length != payload.len() {
            return Err(Fault(error::H3_FRAME_ERROR));
        }
        let is_wrong = match kind {
            frame::GOAWAY => self.goaway.replace(id).is_some_and(|before| id > before),
            frame::MAX_PUSH_ID => self.max_push.replace(id).is_some_and(|before| id < before),
            // The gateway promises nothing, so there is nothing to cancel (section 7.2.3).
            _ => true,
        };
        if is_wrong { Err(Fault(error::H3_ID_ERROR)) } else { Ok(()) }
    }
}

/// With a table without room, an encoder can only say that its capacity is 0 (RFC 9204 section 4.3.1).
async fn read_encoder(mut bytes: Reader<impl Source>) -> Forever {
    const SET_CAPACITY_ZERO: u8 = 0x20;
    loop {
        if bytes.byte().await? != SET_CAPACITY_ZERO {
            return Err(Fault(error::QPACK_ENCODER_STREAM_ERROR));
        }
    }
}

/// The gateway inserts nothing, so a decoder can only cancel streams (RFC 9204 section 4.4.2).
async fn read_decoder(mut bytes: Reader<impl Source>) -> Forever {
    const CANCELLATION: u8 = 0x40;
    const PREFIX: u8 = 0x3f;
    loop {
        let first = bytes.byte().await?;
        if first & !PREFIX != CANCELLATION {
            return Err(Fault(error::QPACK_DECODER_STREAM_ERROR));
        }
        if first & PREFIX == PREFIX {
            while bytes.byte().await? & 0x80 != 0 {}
        }
    }
}

/// Reads a stream that must not end.
struct Reader<S> {
    source: S,
    unread: Bytes,
}

impl<S: Source> Reader<S> {
    /// Waits for bytes. The source's future is made anew each time it is polled: kept, it would be most of what
    /// the reader of a stream takes that says nothing any more.
    async fn fill(&mut self) -> Result<(), Fault> {
        while self.unread.is_empty() {
            self.unread = poll_fn(|cx| pin!(self.source.read()).poll(cx)).await?;
        }
        Ok(())
    }

    async fn byte(&mut self) -> Result<u8, Fault> {
        self.fill().await?;
        Ok(self.unread.get_u8())
    }

    async fn varint(&mut self) -> Result<u64, Fault> {
        let mut bytes = Vec::with_capacity(varint::MAX_BYTES);
        loop {
            bytes.push(self.byte().await?);
            if let Some((value, _)) = varint::peek(&bytes) {
                return Ok(value);
            }
        }
    }

    /// The next bytes; the caller has bounded their number.
    async fn take(&mut self, length: u64) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        for _ in 0..length {
            bytes.push(self.byte().await?);
        }
        Ok(bytes)
    }

    async fn skip(&mut self, mut length: u64) -> Result<(), Fault> {
        while length > 0 {
            self.fill().await?;
            let n = usize::try_from(length).unwrap_or(usize::MAX).min(self.unread.len());
            self.unread.advance(n);
            length -= n as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_only_one_way() {
        let mut ids = Ids::default();
        assert_eq!(ids.check(frame::GOAWAY, &[8]), Ok(()));
        assert_eq!(ids.check(frame::GOAWAY, &[4]), Ok(()));
        assert_eq!(ids.check(frame::GOAWAY, &[5]), Err(Fault(error::H3_ID_ERROR)));
        assert_eq!(ids.check(frame::MAX_PUSH_ID, &[4]), Ok(()));
        assert_eq!(ids.check(frame::MAX_PUSH_ID, &[3]), Err(Fault(error::H3_ID_ERROR)));
        assert_eq!(ids.check(frame::CANCEL_PUSH, &[0]), Err(Fault(error::H3_ID_ERROR)));
        assert_eq!(ids.check(frame::GOAWAY, &[]), Err(Fault(error::H3_FRAME_ERROR)));
        assert_eq!(ids.check(frame::GOAWAY, &[0, 0]), Err(Fault(error::H3_FRAME_ERROR)));
    }
}
