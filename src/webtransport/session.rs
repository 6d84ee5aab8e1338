//! An accepted session: its CONNECT stream and the capsules on it.

use std::{sync::Arc, time::Duration};

use bytes::{Buf, Bytes};
use h3::{error::StreamError, server::RequestStream};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    capsule::{self, Capsule, CapsuleReader},
    codes::{WT_FLOW_CONTROL_ERROR, error},
    datagram::Datagrams,
    demux,
    flow::{Flow, FlowError},
    mailbox::{Mailbox, Note},
    opener::StreamOpener,
    stream::{RecvStream, SendStream},
};
use crate::{
    reason::Ending,
    transport::{self, ClientEnd, ClientLeg, LegState},
};

/// How long a client that was told of its session's end may take to say that it has read it. Chromium
/// answers at once; a client that does not only costs the gateway this wait.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// A WebTransport session, as its session task has it.
pub struct Session {
    send: RequestStream<demux::RequestSend, Bytes>,
    incoming: Incoming,
    id: u64,
    mailbox: Arc<Mailbox>,
    flow: Arc<Flow>,
    /// Tells who opens streams that there is no session any more.
    over: DropGuard,
    /// Whether a frame was handed over and may not be with QUIC yet.
    is_sending: bool,
    /// How the client ended it, once it has.
    end: Option<ClientEnd>,
}

/// The client's half of the CONNECT stream.
pub(crate) struct Incoming {
    recv: RequestStream<demux::RequestRecv, Bytes>,
    quic: quinn::Connection,
    capsules: CapsuleReader,
    /// What was read and not looked at.
    unread: Bytes,
}

/// Why nothing more is expected of the client.
#[derive(Debug)]
pub(crate) enum Over {
    /// It ended the session, or is gone.
    Ended(ClientEnd),
    /// What it sent on the CONNECT stream breaks the rules.
    Malformed,
    /// It opened, sent or announced what session flow control forbids.
    FlowControl,
}

impl From<&Over> for ClientEnd {
    fn from(over: &Over) -> Self {
        match over {
            Over::Ended(end) => end.clone(),
            Over::Malformed | Over::FlowControl => Self::ProtocolError,
        }
    }
}

impl From<FlowError> for Over {
    fn from(_: FlowError) -> Self {
        Self::FlowControl
    }
}

impl Session {
    pub(crate) fn new(
        id: u64,
        send: RequestStream<demux::RequestSend, Bytes>,
        incoming: Incoming,
        mailbox: Arc<Mailbox>,
        flow: Arc<Flow>,
    ) -> Self {
        let over = CancellationToken::new().drop_guard();
        Self { send, incoming, id, mailbox, flow, over, is_sending: false, end: None }
    }

    /// Lets go of what the session has, before anything is waited for.
    fn give_up_streams(&self) {
        self.over.token().cancel();
        self.mailbox.post(Note::Ended(self.id));
    }

    /// Gives credit and reads capsules until the client ends the session. Cancel-safe: what was read is
    /// kept, and what was being sent is sent before anything else.
    async fn until_over(&mut self) -> Over {
        tokio::select! {
            over = self.incoming.read_to_end(&self.flow) => over,
            over = send_due(&mut self.send, &self.flow, &mut self.is_sending) => over,
        }
    }

    /// Answers the client's end of the session at once, whatever the backends do.
    async fn answer(&mut self, over: &Over) {
        // Errors say that the client is gone.
        match over {
            // Nothing may follow the close capsule (draft section 6).
            Over::Ended(_) if self.incoming.unread.is_empty() => _ = self.send.finish().await,
            Over::FlowControl => {
                let capsule = capsule::close(WT_FLOW_CONTROL_ERROR, Ending::ProtocolError.word());
                if self.send.send_data(capsule).await.is_ok() {
                    _ = self.send.finish().await;
                }
            }
            Over::Ended(_) | Over::Malformed => self.incoming.break_off(&mut self.send),
        }
    }
}

impl Incoming {
    /// Of a request stream whose header section was read.
    pub(crate) fn new(
        recv: RequestStream<demux::RequestRecv, Bytes>,
        quic: quinn::Connection,
    ) -> Self {
        Self { recv, quic, capsules: CapsuleReader::default(), unread: Bytes::new() }
    }

    /// Ends both halves of a CONNECT stream that carries what it must not.
    pub(crate) fn break_off(&mut self, send: &mut RequestStream<demux::RequestSend, Bytes>) {
        send.stop_stream(error::H3_MESSAGE_ERROR.into());
        self.recv.stop_sending(error::H3_MESSAGE_ERROR.into());
    }

    /// How a session ended whose CONNECT stream failed.
    pub(crate) fn end(&self, error: &StreamError) -> ClientEnd {
        match self.quic.close_reason() {
            None => match error {
                StreamError::RemoteTerminate { .. } => ClientEnd::Reset,
                _ => ClientEnd::ProtocolError,
            },
            Some(
                quinn::ConnectionError::ApplicationClosed(_)
                | quinn::ConnectionError::ConnectionClosed(_),
            ) => ClientEnd::ConnectionClosed,
            // The gateway closes a connection with a session only because a rule was broken.
            Some(
                quinn::ConnectionError::LocallyClosed | quinn::ConnectionError::TransportError(_),
            ) => ClientEnd::ProtocolError,
            Some(_) => ClientEnd::ConnectionLost,
        }
    }

    /// Reads capsules until the client ends the session. Cancel-safe.
    pub(crate) async fn read_to_end(&mut self, flow: &Flow) -> Over {
        loop {
            match self.capsules.read(&mut self.unread) {
                Ok(Some(capsule)) => match heed(capsule, flow) {
                    Ok(None) => continue,
                    Ok(Some(end)) => return Over::Ended(end),
                    Err(error) => return error.into(),
                },
                Ok(None) => {}
                Err(_malformed) => return Over::Malformed,
            }
            match self.recv.recv_data().await {
                Ok(Some(mut data)) => self.unread = data.copy_to_bytes(data.remaining()),
                // A FIN without a capsule is a close without code and reason (draft section 6).
                Ok(None) if self.capsules.at_boundary() => {
                    return Over::Ended(ClientEnd::Closed { code: 0, reason: String::new() });
                }
                Ok(None) => return Over::Malformed,
                Err(error) => return Over::Ended(self.end(&error)),
            }
        }
    }
}

/// Does what a capsule asks for. Yields how the session ended, if it did.
fn heed(capsule: Capsule, flow: &Flow) -> Result<Option<ClientEnd>, FlowError> {
    match capsule {
        Capsule::Close { code, reason } => return Ok(Some(ClientEnd::Closed { code, reason })),
        // A client has nothing to drain; that it says so changes nothing.
        Capsule::Drain => {}
        Capsule::Max(what, limit) => flow.raise(what, limit)?,
        Capsule::Blocked(what, limit) => flow.blocked(what, limit)?,
    }
    Ok(None)
}

/// Sends what session flow control has to say, until the client breaks it. Cancel-safe: a frame that is
/// half sent stays with the stream, and `is_sending` tells the next call to see it on its way.
async fn send_due(
    send: &mut RequestStream<demux::RequestSend, Bytes>,
    flow: &Flow,
    is_sending: &mut bool,
) -> Over {
    loop {
        // Frames go in order: one that means nothing sees the one before it on its way.
        let was_given_up = std::mem::replace(is_sending, false);
        let capsules = if was_given_up { Ok(capsule::grease()) } else { flow.due().await };
        let capsules = match capsules {
            Ok(capsules) => capsules,
            Err(error) => return error.into(),
        };
        *is_sending = true;
        // Boxed: it is seldom, and a session that waits is not to have room for it.
        if Box::pin(send.send_data(capsules)).await.is_err() {
            // The client is gone, or does not listen; who reads from it hears why.
            return std::future::pending().await;
        }
        *is_sending = false;
    }
}

/// A session's connection, for whoever looks on.
#[derive(Debug)]
struct QuicLeg(quinn::Connection);

impl ClientLeg for QuicLeg {
    fn state(&self) -> LegState {
        let stats = self.0.stats();
        let path = stats.path;
        LegState {
            client: Some(self.0.remote_address()),
            rtt: path.rtt,
            min_rtt: path.min_rtt,
            congestion_window: path.cwnd,
            congestion_events: path.congestion_events,
            mtu: path.current_mtu,
            packets_sent: path.sent_packets,
            packets_lost: path.lost_packets,
            bytes_lost: path.lost_bytes,
            bytes_sent: stats.udp_tx.bytes,
            bytes_received: stats.udp_rx.bytes,
            datagram_room: self.0.datagram_send_buffer_space() as u64,
        }
    }
}

impl transport::Session for Session {
    type Send = SendStream;
    type Recv = RecvStream;
    type Datagrams = Datagrams;
    type Opener = StreamOpener;

    fn leg(&self) -> Arc<dyn ClientLeg> {
        Arc::new(QuicLeg(self.incoming.quic.clone()))
    }

    fn opener(&self) -> StreamOpener {
        let (quic, flow) = (self.incoming.quic.clone(), Arc::clone(&self.flow));
        StreamOpener::new(quic, self.id, flow, self.over.token().clone())
    }

    async fn ended(&mut self) -> ClientEnd {
        if let Some(end) = &self.end {
            return end.clone();
        }
        let over = self.until_over().await;
        let end = ClientEnd::from(&over);
        self.end = Some(end.clone());
        self.give_up_streams();
        // Past it the client takes nothing, not even that it is over. Boxed, since a session that lives is not
        // to have room for its end.
        _ = Box::pin(timeout(CLOSE_PATIENCE, self.answer(&over))).await;
        end
    }

    async fn drain(&mut self) {
        // An error says that the client is gone, which `ended` tells as well.
        _ = self.send.send_data(capsule::drain()).await;
    }

    async fn close(mut self, code: u32, reason: &str) {
        self.give_up_streams();
        let capsule = capsule::close(code, reason);
        let told = async {
            if self.send.send_data(capsule).await.is_ok() && self.send.finish().await.is_ok() {
                // The client's FIN or reset says that it has read it; capsules do not matter any more.
                while let Ok(Some(_)) = self.incoming.recv.recv_data().await {}
            }
        };
        // Past it the client is as good as gone: the connection's linger sees to the rest.
        _ = timeout(CLOSE_PATIENCE, told).await;
    }

    async fn leave(mut self) {
        let rest = async {
            while let Ok(Some(data)) = self.incoming.recv.recv_data().await {
                if !data.has_remaining() {
                    continue;
                }
                drop(data);
                // Where the gateway has closed the session, a reset would overtake what it said.
                if matches!(self.end, Some(ClientEnd::Closed { .. })) {
                    self.incoming.break_off(&mut self.send);
                }
                return;
            }
        };
        // Past it, dropping the stream tells the client that nobody listens any more.
        _ = timeout(CLOSE_PATIENCE, rest).await;
    }
}
