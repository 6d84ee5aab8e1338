//! An accepted session: its CONNECT stream and the capsules on it.

use std::{sync::Arc, time::Duration};

use bytes::{Buf, Bytes};
use h3::{error::StreamError, server::RequestStream};
use tokio::time::timeout;

use super::{
    capsule::{self, Capsule, CapsuleReader},
    codes::error,
    datagram::Datagrams,
    demux,
    mailbox::{Mailbox, Note},
    stream::{RecvStream, SendStream},
};
use crate::transport::{self, ClientEnd};

/// How long a client that was told of its session's end may take to say that it has read it. Chromium
/// answers at once; a client that does not only costs the gateway this wait.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// A WebTransport session, as its session task has it.
pub struct Session {
    send: RequestStream<demux::RequestSend, Bytes>,
    recv: RequestStream<demux::RequestRecv, Bytes>,
    id: u64,
    quic: quinn::Connection,
    mailbox: Arc<Mailbox>,
    capsules: CapsuleReader,
    /// What was read of the CONNECT stream and not looked at.
    unread: Bytes,
}

impl Session {
    pub(crate) fn new(
        stream: RequestStream<demux::RequestStream, Bytes>,
        quic: quinn::Connection,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        let id = stream.id().into_inner();
        let (send, recv) = stream.split();
        let (capsules, unread) = (CapsuleReader::default(), Bytes::new());
        Self { send, recv, id, quic, mailbox, capsules, unread }
    }

    /// Reads capsules until the client ends the session. Cancel-safe: what was read is kept.
    async fn read_to_end(&mut self) -> ClientEnd {
        loop {
            match self.capsules.read(&mut self.unread) {
                Ok(Some(Capsule::Close { code, reason })) => {
                    return ClientEnd::Closed { code, reason };
                }
                // A client has nothing to drain; that it says so changes nothing.
                Ok(Some(Capsule::Drain)) => continue,
                Ok(None) => {}
                Err(_malformed) => return ClientEnd::ProtocolError,
            }
            match self.recv.recv_data().await {
                Ok(Some(mut data)) => self.unread = data.copy_to_bytes(data.remaining()),
                // A FIN without a capsule is a close without code and reason (draft section 6).
                Ok(None) if self.capsules.at_boundary() => {
                    return ClientEnd::Closed { code: 0, reason: String::new() };
                }
                Ok(None) => return ClientEnd::ProtocolError,
                Err(error) => return client_end(&self.quic, &error),
            }
        }
    }

    /// Answers the client's end of the session at once, whatever the backends do.
    async fn answer_end(&mut self, end: &ClientEnd) {
        // Nothing may follow the close capsule (draft section 6).
        let is_well_formed = *end != ClientEnd::ProtocolError && self.unread.is_empty();
        if is_well_formed {
            // An error says that the client is gone.
            _ = self.send.finish().await;
        } else {
            self.break_off();
        }
    }

    /// Ends both halves of a CONNECT stream that carries what it must not.
    fn break_off(&mut self) {
        self.send.stop_stream(error::H3_MESSAGE_ERROR.into());
        self.recv.stop_sending(error::H3_MESSAGE_ERROR.into());
    }
}

impl transport::Session for Session {
    type Send = SendStream;
    type Recv = RecvStream;
    type Datagrams = Datagrams;

    async fn ended(&mut self) -> ClientEnd {
        let end = self.read_to_end().await;
        self.mailbox.post(Note::Ended(self.id));
        self.answer_end(&end).await;
        end
    }

    async fn drain(&mut self) {
        // An error says that the client is gone, which `ended` tells as well.
        _ = self.send.send_data(capsule::drain()).await;
    }

    async fn close(mut self, code: u32, reason: &str) {
        self.mailbox.post(Note::Ended(self.id));
        let capsule = capsule::close(code, reason);
        let told = async {
            if self.send.send_data(capsule).await.is_ok() && self.send.finish().await.is_ok() {
                // The client's FIN or reset says that it has read it; capsules do not matter any more.
                while let Ok(Some(_)) = self.recv.recv_data().await {}
            }
        };
        // Past it the client is as good as gone: the connection's linger sees to the rest.
        _ = timeout(CLOSE_PATIENCE, told).await;
    }

    async fn leave(mut self) {
        let rest = async {
            while let Ok(Some(data)) = self.recv.recv_data().await {
                if data.has_remaining() {
                    return self.break_off();
                }
            }
        };
        // Past it, dropping the stream tells the client that nobody listens any more.
        _ = timeout(CLOSE_PATIENCE, rest).await;
    }
}

/// How a session ended whose CONNECT stream failed.
pub(crate) fn client_end(quic: &quinn::Connection, error: &StreamError) -> ClientEnd {
    match quic.close_reason() {
        None => match error {
            StreamError::RemoteTerminate { .. } => ClientEnd::Reset,
            _ => ClientEnd::ProtocolError,
        },
        Some(
            quinn::ConnectionError::ApplicationClosed(_)
            | quinn::ConnectionError::ConnectionClosed(_),
        ) => ClientEnd::ConnectionClosed,
        // The gateway closes a connection with a session only because a rule was broken.
        Some(quinn::ConnectionError::LocallyClosed | quinn::ConnectionError::TransportError(_)) => {
            ClientEnd::ProtocolError
        }
        Some(_) => ClientEnd::ConnectionLost,
    }
}
