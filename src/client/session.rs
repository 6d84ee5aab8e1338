//! A client's session.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h3::client::RequestStream;
use tokio::sync::{Mutex, mpsc, watch};

use super::{
    connection::Shared,
    stream::{RecvStream, SendStream, StreamError},
};
use crate::webtransport::{
    capsule::{self, Capsule, CapsuleReader, Counted},
    codes, demux,
    flow::{Flow, FlowError, Taken},
    head, varint,
};

/// How long the server may take to answer the end of a session.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// How a session ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Closed {
    /// The server closed it.
    ByServer {
        /// The application's code.
        code: u32,
        /// The application's reason.
        reason: String,
    },
    /// The server reset its CONNECT stream, with this code.
    Reset(u64),
    /// The server broke session flow control, and was told so.
    FlowControl,
    /// The connection is gone.
    Lost,
    /// This side closed it, and the server did not answer in time.
    Unanswered,
}

/// Streams and datagrams that the server sends, as the connection's task hands them over.
pub(super) struct Inbox {
    pub(super) bidi: mpsc::Sender<(SendStream, RecvStream)>,
    pub(super) uni: mpsc::Sender<RecvStream>,
    pub(super) datagrams: mpsc::Sender<Bytes>,
    pub(super) flow: Arc<Flow>,
}

/// Where the session takes them from.
pub(super) struct Outbox {
    bidi: Mutex<mpsc::Receiver<(SendStream, RecvStream)>>,
    uni: Mutex<mpsc::Receiver<RecvStream>>,
    datagrams: Mutex<mpsc::Receiver<Bytes>>,
}

/// Both ends of what the server sends on a session: so many streams and datagrams wait at most.
pub(super) fn inbox(flow: Arc<Flow>) -> (Inbox, Outbox) {
    let (bidi, bidi_taken) = mpsc::channel(256);
    let (uni, uni_taken) = mpsc::channel(256);
    let (datagrams, datagrams_taken) = mpsc::channel(4096);
    let outbox = Outbox {
        bidi: Mutex::new(bidi_taken),
        uni: Mutex::new(uni_taken),
        datagrams: Mutex::new(datagrams_taken),
    };
    (Inbox { bidi, uni, datagrams, flow }, outbox)
}

/// This side's half of a session's CONNECT stream.
type ConnectSend = RequestStream<demux::RequestSend, Bytes>;

/// A WebTransport session. Dropping it resets its CONNECT stream: close it to end it well.
pub struct Session {
    pub(super) id: u64,
    pub(super) shared: Arc<Shared>,
    pub(super) outbox: Outbox,
    pub(super) connect: Arc<Mutex<ConnectSend>>,
    pub(super) flow: Arc<Flow>,
    pub(super) state: watch::Receiver<State>,
    pub(super) response: http::HeaderMap,
}

/// What the session's CONNECT stream has told so far.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) draining: bool,
    /// The highest limit of which the server said that it keeps it from sending.
    pub(super) blocked_at: Option<u64>,
    pub(super) closed: Option<Closed>,
}

impl Session {
    /// The session's id: that of its CONNECT stream.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The header fields of the server's answer.
    pub fn response(&self) -> &http::HeaderMap {
        &self.response
    }

    /// The QUIC connection beneath, for what this client does not show.
    pub fn quic(&self) -> &quinn::Connection {
        &self.shared.quic
    }

    /// Opens a bidirectional stream; waits while the server gives no credit.
    ///
    /// # Errors
    /// If the session has ended or the connection is gone.
    pub async fn open_bidi(&self) -> Result<(SendStream, RecvStream), StreamError> {
        let mut credit = self.stream_credit(Counted::Bidi).await?;
        let opened = self.shared.quic.open_bi().await;
        let (send, recv) = opened.map_err(|_lost| StreamError::Lost)?;
        credit.spend(1);
        let mut send = SendStream::new(send, Arc::clone(&self.flow));
        send.write_head(&head::of(codes::STREAM_BIDI, self.id)).await?;
        Ok((send, RecvStream::new(recv, Bytes::new(), Arc::clone(&self.flow))))
    }

    /// Opens a unidirectional stream; waits while the server gives no credit.
    ///
    /// # Errors
    /// If the session has ended or the connection is gone.
    pub async fn open_uni(&self) -> Result<SendStream, StreamError> {
        let mut credit = self.stream_credit(Counted::Uni).await?;
        let opened = self.shared.quic.open_uni().await;
        let send = opened.map_err(|_lost| StreamError::Lost)?;
        credit.spend(1);
        let mut send = SendStream::new(send, Arc::clone(&self.flow));
        send.write_head(&head::of(codes::STREAM_UNI, self.id)).await?;
        Ok(send)
    }

    /// Leave to open one stream.
    async fn stream_credit(&self, kind: Counted) -> Result<Taken<'_>, StreamError> {
        tokio::select! {
            biased;
            credit = self.flow.take_one(kind) => Ok(credit),
            closed = self.closed() => Err(match closed {
                Closed::Lost => StreamError::Lost,
                _ => StreamError::SessionGone,
            }),
        }
    }

    /// Waits for a bidirectional stream of the server's. `None`: the connection is gone.
    pub async fn accept_bidi(&self) -> Option<(SendStream, RecvStream)> {
        self.outbox.bidi.lock().await.recv().await
    }

    /// Waits for a unidirectional stream of the server's. `None`: the connection is gone.
    pub async fn accept_uni(&self) -> Option<RecvStream> {
        self.outbox.uni.lock().await.recv().await
    }

    /// Sends a datagram, as far as the path takes it.
    ///
    /// # Errors
    /// If it is too large, or the server takes none, or the connection is gone.
    pub fn send_datagram(&self, payload: &[u8]) -> Result<(), quinn::SendDatagramError> {
        self.shared.quic.send_datagram(self.framed(payload))
    }

    /// Sends a datagram when there is room for it.
    ///
    /// # Errors
    /// If it is too large, or the server takes none, or the connection is gone.
    pub async fn send_datagram_wait(&self, payload: &[u8]) -> Result<(), quinn::SendDatagramError> {
        self.shared.quic.send_datagram_wait(self.framed(payload)).await
    }

    /// Waits for a datagram. `None`: the connection is gone.
    pub async fn read_datagram(&self) -> Option<Bytes> {
        self.outbox.datagrams.lock().await.recv().await
    }

    /// Largest datagram payload that fits now. `None`: the server takes none.
    pub fn max_datagram_payload(&self) -> Option<usize> {
        let room = self.shared.quic.max_datagram_size()?;
        room.checked_sub(self.framed(b"").len())
    }

    /// Waits until the server asks for the session to end soon. False: it ended first.
    pub async fn draining(&self) -> bool {
        let mut state = self.state.clone();
        let told = state.wait_for(|state| state.draining || state.closed.is_some()).await;
        told.is_ok_and(|state| state.draining)
    }

    /// Waits until the server says that a limit on data of `limit` bytes or more keeps it from sending.
    /// False: the session ended first.
    pub async fn server_blocked_at(&self, limit: u64) -> bool {
        let mut state = self.state.clone();
        let is_blocked = |state: &State| state.blocked_at.is_some_and(|at| at >= limit);
        let told = state.wait_for(|state| is_blocked(state) || state.closed.is_some()).await;
        told.is_ok_and(|state| is_blocked(&state))
    }

    /// Waits until the session has ended.
    pub async fn closed(&self) -> Closed {
        let mut state = self.state.clone();
        let told = state.wait_for(|state| state.closed.is_some()).await;
        told.ok().and_then(|state| state.closed.clone()).unwrap_or(Closed::Lost)
    }

    /// Ends the session, and waits for the server's answer to it.
    pub async fn close(self, code: u32, reason: &str) -> Closed {
        let told = async {
            let mut connect = self.connect.lock().await;
            // Errors say that the server has ended it, which is what is waited for.
            _ = connect.send_data(capsule::close(code, reason)).await;
            _ = connect.finish().await;
            self.closed().await
        };
        tokio::time::timeout(CLOSE_PATIENCE, told).await.unwrap_or(Closed::Unanswered)
    }

    /// Writes raw bytes into a DATA frame of the CONNECT stream: what tests want to say.
    ///
    /// # Errors
    /// If the server stopped the stream or is gone.
    pub async fn send_capsule_bytes(&self, bytes: Bytes) -> Result<(), StreamError> {
        let sent = self.connect.lock().await.send_data(bytes).await;
        sent.map_err(|_ended| StreamError::Lost)
    }

    /// Ends the CONNECT stream without a word.
    pub async fn finish(&self) {
        // An error says that the server has ended it.
        _ = self.connect.lock().await.finish().await;
    }

    /// Resets the CONNECT stream.
    pub async fn abort(&self, code: u64) {
        self.connect.lock().await.stop_stream(code.into());
    }

    fn framed(&self, payload: &[u8]) -> Bytes {
        let mut framed = BytesMut::with_capacity(varint::MAX_BYTES + payload.len());
        varint::put(&mut framed, self.id / 4);
        framed.put_slice(payload);
        framed.freeze()
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.forget(self.id);
    }
}

/// The task of a session: follows its CONNECT stream, and gives credit.
pub(super) struct Follower {
    pub(super) quic: quinn::Connection,
    /// Weak, so that dropping the session resets the stream.
    pub(super) connect: Weak<Mutex<ConnectSend>>,
    pub(super) flow: Arc<Flow>,
    pub(super) state: watch::Sender<State>,
}

impl Follower {
    pub(super) async fn run(self, connect: RequestStream<demux::RequestRecv, Bytes>) {
        let closed = tokio::select! {
            closed = self.read_capsules(connect) => closed,
            error = self.send_due() => Err(error),
        };
        let closed = match closed {
            Ok(closed) => closed,
            Err(FlowError) => {
                self.complain().await;
                Closed::FlowControl
            }
        };
        self.state.send_modify(|state| state.closed = Some(closed));
    }

    /// Reads the server's half to its end.
    async fn read_capsules(
        &self,
        mut connect: RequestStream<demux::RequestRecv, Bytes>,
    ) -> Result<Closed, FlowError> {
        let mut reader = CapsuleReader::default();
        loop {
            match connect.recv_data().await {
                Ok(Some(mut data)) => {
                    let mut data = data.copy_to_bytes(data.remaining());
                    if let Some(closed) = self.read_piece(&mut reader, &mut data)? {
                        return Ok(closed);
                    }
                }
                Ok(None) => return Ok(Closed::ByServer { code: 0, reason: String::new() }),
                Err(_) if self.quic.close_reason().is_some() => return Ok(Closed::Lost),
                Err(h3::error::StreamError::RemoteTerminate { code }) => {
                    return Ok(Closed::Reset(code.value()));
                }
                Err(_) => return Ok(Closed::Lost),
            }
        }
    }

    fn read_piece(
        &self,
        reader: &mut CapsuleReader,
        data: &mut Bytes,
    ) -> Result<Option<Closed>, FlowError> {
        loop {
            match reader.read(data) {
                Ok(Some(Capsule::Close { code, reason })) => {
                    return Ok(Some(Closed::ByServer { code, reason }));
                }
                Ok(Some(Capsule::Drain)) => self.state.send_modify(|state| state.draining = true),
                Ok(Some(Capsule::Max(what, limit))) => self.flow.raise(what, limit)?,
                Ok(Some(Capsule::Blocked(what, limit))) => self.blocked(what, limit)?,
                Ok(None) => return Ok(None),
                Err(_malformed) => return Ok(Some(Closed::Lost)),
            }
        }
    }

    fn blocked(&self, what: Counted, limit: u64) -> Result<(), FlowError> {
        self.flow.blocked(what, limit)?;
        if what == Counted::Data {
            self.state.send_modify(|state| state.blocked_at = state.blocked_at.max(Some(limit)));
        }
        Ok(())
    }

    /// Sends what flow control has to say, until the server breaks it.
    async fn send_due(&self) -> FlowError {
        loop {
            let capsules = match self.flow.due().await {
                Ok(capsules) => capsules,
                Err(error) => return error,
            };
            let sent = match self.connect.upgrade() {
                Some(connect) => connect.lock().await.send_data(capsules).await.is_ok(),
                None => false,
            };
            if !sent {
                // The session was dropped, or the server is gone, and whoever reads hears why.
                return std::future::pending().await;
            }
        }
    }

    /// Closes the session. Errors say that the server has.
    async fn complain(&self) {
        let Some(connect) = self.connect.upgrade() else { return };
        let mut connect = connect.lock().await;
        _ = connect.send_data(capsule::close(codes::WT_FLOW_CONTROL_ERROR, "")).await;
        _ = connect.finish().await;
    }
}
