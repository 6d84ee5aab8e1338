//! A client's connection: the task that hands what the server sends to its sessions.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::{StreamExt, stream::FuturesUnordered};
use h3::client::SendRequest;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use tokio::sync::watch;

use super::{
    ConnectError, STREAM_WINDOW,
    session::{Follower, Inbox, Session, State, inbox},
    stream::{RecvStream, SendStream},
};
use crate::{
    lifecycle::Lifecycle,
    webtransport::{
        SessionCredit,
        capsule::Counted,
        codes::{self, error, stream},
        control, datagram,
        demux::{Demux, Opener, RequestContext},
        dialect,
        flow::Flow,
        greeting::Greeting,
        guard::Sender,
        head::{Kind, Opened, ReadHead},
        queue::Queue,
    },
};

/// Longest header section that is taken from a server.
const MAX_SECTION_BYTES: u64 = 64 * 1024;

/// How long the server may take to say what it speaks, and to complete a stream's head.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection to a server, for any number of sessions. Dropping the last clone closes it.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    /// What this side offers in each session.
    ours: SessionCredit,
    /// What the server offers.
    theirs: SessionCredit,
}

/// What a connection, its task and its sessions share.
pub(super) struct Shared {
    pub(super) quic: quinn::Connection,
    requests: tokio::sync::Mutex<SendRequest<Opener, Bytes>>,
    sessions: Mutex<HashMap<u64, Inbox>>,
    tasks: Lifecycle,
}

/// What a session request says beside its path.
#[derive(Clone, Debug, Default)]
pub struct RequestOptions {
    /// The `Origin` header; browsers always send one.
    pub origin: Option<String>,
    /// Other header fields.
    pub headers: HeaderMap,
}

/// Why a session was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The server answered with a status other than 200.
    #[error("the server answered {status}{}", reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default())]
    Status {
        /// The status.
        status: StatusCode,
        /// The gateway's word for it, if the server is one.
        reason: Option<String>,
        /// The header fields of the answer.
        headers: HeaderMap,
    },
    /// The request cannot be made.
    #[error("bad request: {0}")]
    Request(#[from] http::Error),
    /// The stream or the connection failed.
    #[error("no answer")]
    Stream(#[from] h3::error::StreamError),
}

impl Connection {
    /// Begins HTTP/3 on a QUIC connection and waits for the server's settings.
    pub(super) async fn begin(
        quic: quinn::Connection,
        ours: SessionCredit,
    ) -> Result<Self, ConnectError> {
        let settings = control::SettingsSlot::default();
        // Nothing goes to h3 this way: a server opens no requests.
        let requests = Queue::new(0);
        let context = RequestContext {
            quic: quic.clone(),
            notes: Arc::default(),
            mailbox: Arc::default(),
            max_section_bytes: MAX_SECTION_BYTES,
            sender: Sender::Server,
        };
        let head = dialect::control_stream_head(MAX_SECTION_BYTES, ours);
        let greeting = Greeting::new(quic.clone(), head);
        let built = h3::client::builder()
            .send_grease(false)
            .enable_datagram(true)
            .enable_extended_connect(true)
            .build(Demux::new(context, requests, greeting))
            .await;
        let Ok((h3, requests)) = built else {
            let reason = quic.close_reason();
            return Err(reason.unwrap_or(quinn::ConnectionError::LocallyClosed).into());
        };
        let shared = Arc::new(Shared {
            quic: quic.clone(),
            requests: tokio::sync::Mutex::new(requests),
            sessions: Mutex::default(),
            tasks: Lifecycle::new(),
        });
        let inbound = Inbound {
            quic: quic.clone(),
            shared: Arc::downgrade(&shared),
            settings: Arc::clone(&settings),
        };
        shared.tasks.spawn(inbound.run(h3));

        tokio::select! {
            biased;
            settings = settings.wait() => match settings.webtransport() {
                true => Ok(Self { shared, ours, theirs: settings.session_credit() }),
                false => Err(ConnectError::NotWebTransport),
            },
            reason = quic.closed() => Err(reason.into()),
            () = tokio::time::sleep(PATIENCE) => Err(ConnectError::TimedOut),
        }
    }

    /// The QUIC connection beneath.
    pub fn quic(&self) -> &quinn::Connection {
        &self.shared.quic
    }

    /// Asks for a session. `url` is absolute: `https://host:port/path?query`.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open_session(
        &self,
        url: &str,
        options: &RequestOptions,
    ) -> Result<Session, Refused> {
        let uri: Uri = url.parse().map_err(http::Error::from)?;
        let mut request = Request::builder().method(Method::CONNECT).uri(uri);
        if let Some(origin) = &options.origin {
            request = request.header(http::header::ORIGIN, origin);
        }
        let mut request = request.body(())?;
        request.headers_mut().extend(options.headers.clone());
        request.extensions_mut().insert(h3::ext::Protocol::WEB_TRANSPORT);

        let mut stream = self.shared.requests.lock().await.send_request(request).await?;
        let id = stream.id().into_inner();
        let flow = Arc::new(Flow::new(self.ours, self.theirs, STREAM_WINDOW.into()));
        let (inbox, outbox) = inbox(Arc::clone(&flow));
        self.shared.lock().insert(id, inbox);
        let answer = stream.recv_response().await.inspect_err(|_| self.shared.forget(id))?;
        if answer.status() != StatusCode::OK {
            self.shared.forget(id);
            return Err(refused(&answer));
        }

        let (send, recv) = stream.split();
        let connect = Arc::new(tokio::sync::Mutex::new(send));
        let (state, state_read) = watch::channel(State::default());
        let follower = Follower {
            quic: self.shared.quic.clone(),
            connect: Arc::downgrade(&connect),
            flow: Arc::clone(&flow),
            state,
        };
        self.shared.tasks.spawn(follower.run(recv));
        Ok(Session {
            id,
            shared: Arc::clone(&self.shared),
            outbox,
            connect,
            flow,
            state: state_read,
            response: answer.into_parts().0.headers,
        })
    }

    /// Makes an ordinary request without a body: the status and the body of the answer.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn fetch(&self, method: Method, url: &str) -> Result<(StatusCode, Bytes), Refused> {
        let uri: Uri = url.parse().map_err(http::Error::from)?;
        let request = Request::builder().method(method).uri(uri).body(())?;
        let mut stream = self.shared.requests.lock().await.send_request(request).await?;
        stream.finish().await?;
        let status = stream.recv_response().await?.status();
        let mut body = Vec::new();
        while let Some(mut data) = stream.recv_data().await? {
            body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
        Ok((status, body.into()))
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("quic", &self.shared.quic).finish_non_exhaustive()
    }
}

fn refused(answer: &http::Response<()>) -> Refused {
    let headers = answer.headers().clone();
    let reason = headers.get("tidegate-reason").and_then(|r| r.to_str().ok()).map(str::to_owned);
    Refused::Status { status: answer.status(), reason, headers }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Inbox>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more is handed to the session.
    pub(super) fn forget(&self, session: u64) {
        self.lock().remove(&session);
    }
}

/// The connection's task.
struct Inbound {
    quic: quinn::Connection,
    /// Weak, so that the task does not keep the connection open.
    shared: std::sync::Weak<Shared>,
    settings: control::SettingsSlot,
}

impl Inbound {
    async fn run(self, mut h3: h3::client::Connection<Demux, Bytes>) {
        let mut heads = FuturesUnordered::new();
        let mut critical = FuturesUnordered::new();
        loop {
            tokio::select! {
                opened = self.quic.accept_bi() => {
                    let Ok((send, recv)) = opened else { break };
                    heads.push(ReadHead::new(Some(send), recv, PATIENCE));
                }
                opened = self.quic.accept_uni() => {
                    let Ok(recv) = opened else { break };
                    heads.push(ReadHead::new(None, recv, PATIENCE));
                }
                datagram = self.quic.read_datagram() => {
                    let Ok(datagram) = datagram else { break };
                    self.datagram(datagram);
                }
                Some(head) = heads.next() => match head {
                    Ok(Opened { kind: Kind::Uni(kind), recv, first, .. }) if is_critical(kind) => {
                        let settings = Arc::clone(&self.settings);
                        critical.push(control::read_critical(kind, recv, first, settings));
                    }
                    Ok(opened) => self.stream(opened),
                    Err(stream) => self.gave_up(stream),
                },
                Some(fault) = critical.next() => {
                    self.quic.close(codes::quic(fault.0), b"bad control or QPACK stream");
                }
                _ = poll_fn(|cx| h3.poll_close(cx)) => break,
            }
        }
        // Nothing comes any more, and who waits for it shall know.
        if let Some(shared) = self.shared.upgrade() {
            shared.lock().clear();
        }
    }

    /// A stream ended before it said whose it is: it counts in some session's account.
    fn gave_up(&self, stream: u64) {
        let Some(shared) = self.shared.upgrade() else { return };
        // The second bit of a stream's id says that it is unidirectional (RFC 9000 section 2.1).
        let kind = if stream & 2 == 0 { Counted::Bidi } else { Counted::Uni };
        for inbox in shared.lock().values() {
            inbox.flow.lost_head(kind);
        }
    }

    fn stream(&self, opened: Opened) {
        let Kind::WebTransport(session) = opened.kind else { return };
        let Some(shared) = self.shared.upgrade() else { return };
        let sessions = shared.lock();
        let Some(inbox) = sessions.get(&session) else { return };
        let kind = if opened.send.is_some() { Counted::Bidi } else { Counted::Uni };
        if !inbox.flow.opened(kind, 1) {
            // The session's own task hears of it.
            return;
        }
        let recv = RecvStream::new(opened.recv, opened.first, Arc::clone(&inbox.flow));
        // Full or gone: dropping the stream stops it.
        match opened.send {
            Some(send) => {
                let send = SendStream::new(send, Arc::clone(&inbox.flow));
                _ = inbox.bidi.try_send((send, recv));
            }
            None => _ = inbox.uni.try_send(recv),
        }
    }

    fn datagram(&self, datagram: Bytes) {
        let Some((session, payload)) = datagram::parse(datagram) else {
            return self.quic.close(codes::quic(error::H3_DATAGRAM_ERROR), b"bad datagram");
        };
        let Some(shared) = self.shared.upgrade() else { return };
        if let Some(inbox) = shared.lock().get(&session) {
            // Full: the application does not read; a datagram may be lost.
            _ = inbox.datagrams.try_send(payload);
        }
    }
}

const fn is_critical(kind: u64) -> bool {
    matches!(kind, stream::CONTROL | stream::QPACK_ENCODER | stream::QPACK_DECODER)
}
