//! Streams that the gateway opens.
//!
//! A stream needs credit twice: QUIC's, which the client gives for the connection, and the session's where
//! session flow control is on. Its head, the first two varints, is written before anybody gets it; the
//! client's bytes have none (draft-ietf-webtrans-http3-16 section 4.3).

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{
    capsule::Counted,
    codes,
    flow::Flow,
    head,
    stream::{RecvStream, SendStream},
};
use crate::transport::{self, OpenError};

/// Opens streams of one session.
#[derive(Clone, Debug)]
pub struct StreamOpener {
    quic: quinn::Connection,
    session: u64,
    flow: Arc<Flow>,
    /// Cancelled when the session has ended.
    over: CancellationToken,
}

impl StreamOpener {
    pub(crate) fn new(
        quic: quinn::Connection,
        session: u64,
        flow: Arc<Flow>,
        over: CancellationToken,
    ) -> Self {
        Self { quic, session, flow, over }
    }

    /// Opens a stream, unless the session ends first.
    async fn open<T>(
        &self,
        opened: impl Future<Output = Result<T, OpenError>>,
    ) -> Result<T, OpenError> {
        tokio::select! {
            biased;
            () = self.over.cancelled() => Err(OpenError::SessionEnded),
            opened = opened => opened,
        }
    }

    /// Writes the head of a stream that is new. Given up within it, the stream is reset.
    async fn begin(&self, kind: u64, stream: quinn::SendStream) -> Result<SendStream, OpenError> {
        let mut send = SendStream::new(stream, Arc::clone(&self.flow));
        match send.write_head(&head::of(kind, self.session)).await {
            // Who has stopped the stream does not want its head either; who writes to it learns of it.
            Ok(()) | Err(quinn::WriteError::Stopped(_)) => Ok(send),
            Err(_gone) => Err(OpenError::Lost),
        }
    }
}

impl transport::StreamOpener for StreamOpener {
    type Send = SendStream;
    type Recv = RecvStream;

    async fn open_uni(&self) -> Result<SendStream, OpenError> {
        self.open(async {
            let mut credit = self.flow.take_one(Counted::Uni).await;
            let send = self.quic.open_uni().await.map_err(|_gone| OpenError::Lost)?;
            credit.spend(1);
            self.begin(codes::STREAM_UNI, send).await
        })
        .await
    }

    async fn open_bidi(&self) -> Result<(SendStream, RecvStream), OpenError> {
        self.open(async {
            let mut credit = self.flow.take_one(Counted::Bidi).await;
            let (send, recv) = self.quic.open_bi().await.map_err(|_gone| OpenError::Lost)?;
            credit.spend(1);
            // Given up with the head, it stops the client's half.
            let recv = RecvStream::new(recv, Bytes::new(), Arc::clone(&self.flow));
            Ok((self.begin(codes::STREAM_BIDI, send).await?, recv))
        })
        .await
    }
}
