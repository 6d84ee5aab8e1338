//! A client's session.

use std::{sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h3::client::RequestStream;
use tokio::sync::{Mutex, mpsc, watch};

use super::{
    connection::Shared,
    stream::{RecvStream, SendStream, StreamError},
};
use crate::webtransport::{
    capsule::{self, Capsule, CapsuleReader},
    codes, demux, varint,
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
}

/// Where the session takes them from.
pub(super) struct Outbox {
    bidi: Mutex<mpsc::Receiver<(SendStream, RecvStream)>>,
    uni: Mutex<mpsc::Receiver<RecvStream>>,
    datagrams: Mutex<mpsc::Receiver<Bytes>>,
}

/// Both ends of what the server sends on a session: so many streams and datagrams wait at most.
pub(super) fn inbox() -> (Inbox, Outbox) {
    let (bidi, bidi_taken) = mpsc::channel(256);
    let (uni, uni_taken) = mpsc::channel(256);
    let (datagrams, datagrams_taken) = mpsc::channel(4096);
    let outbox = Outbox {
        bidi: Mutex::new(bidi_taken),
        uni: Mutex::new(uni_taken),
        datagrams: Mutex::new(datagrams_taken),
    };
    (Inbox { bidi, uni, datagrams }, outbox)
}

/// A WebTransport session. Dropping it resets its CONNECT stream: close it to end it well.
pub struct Session {
    pub(super) id: u64,
    pub(super) shared: Arc<Shared>,
    pub(super) outbox: Outbox,
    pub(super) connect: Mutex<RequestStream<demux::RequestSend, Bytes>>,
    pub(super) state: watch::Receiver<State>,
    pub(super) response: http::HeaderMap,
}

/// What the session's CONNECT stream has told so far.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) draining: bool,
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
    /// If the connection is gone.
    pub async fn open_bidi(&self) -> Result<(SendStream, RecvStream), StreamError> {
        let opened = self.shared.quic.open_bi().await;
        let (send, recv) = opened.map_err(|_lost| StreamError::Lost)?;
        let mut send = SendStream(send);
        send.write(&self.head(codes::STREAM_BIDI)).await?;
        Ok((send, RecvStream { stream: recv, first: Bytes::new() }))
    }

    /// Opens a unidirectional stream; waits while the server gives no credit.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn open_uni(&self) -> Result<SendStream, StreamError> {
        let opened = self.shared.quic.open_uni().await;
        let mut send = SendStream(opened.map_err(|_lost| StreamError::Lost)?);
        send.write(&self.head(codes::STREAM_UNI)).await?;
        Ok(send)
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

    fn head(&self, kind: u64) -> BytesMut {
        let mut head = BytesMut::with_capacity(2 * varint::MAX_BYTES);
        varint::put(&mut head, kind);
        varint::put(&mut head, self.id);
        head
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

/// Reads a session's CONNECT stream to its end.
pub(super) async fn read_capsules(
    mut connect: RequestStream<demux::RequestRecv, Bytes>,
    quic: quinn::Connection,
    state: watch::Sender<State>,
) {
    let mut reader = CapsuleReader::default();
    let closed = loop {
        match connect.recv_data().await {
            Ok(Some(mut data)) => {
                let mut data = data.copy_to_bytes(data.remaining());
                match read_piece(&mut reader, &mut data, &state) {
                    Some(closed) => break closed,
                    None => continue,
                }
            }
            Ok(None) => break Closed::ByServer { code: 0, reason: String::new() },
            Err(_) if quic.close_reason().is_some() => break Closed::Lost,
            Err(h3::error::StreamError::RemoteTerminate { code }) => {
                break Closed::Reset(code.value());
            }
            Err(_) => break Closed::Lost,
        }
    };
    state.send_modify(|state| state.closed = Some(closed));
}

fn read_piece(
    reader: &mut CapsuleReader,
    data: &mut Bytes,
    state: &watch::Sender<State>,
) -> Option<Closed> {
    loop {
        match reader.read(data) {
            Ok(Some(Capsule::Close { code, reason })) => {
                return Some(Closed::ByServer { code, reason });
            }
            Ok(Some(Capsule::Drain)) => state.send_modify(|state| state.draining = true),
            Ok(None) => return None,
            Err(_malformed) => return Some(Closed::Lost),
        }
    }
}
