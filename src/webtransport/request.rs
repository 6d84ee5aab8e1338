//! Requests: read from h3, answered at once or handed on as session requests.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use h3::{
    error::{Code, StreamError},
    server::{RequestResolver, RequestStream},
};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use quinn::crypto::rustls::HandshakeData;
use tokio::time::timeout;

use super::{
    client_certificate,
    control::SettingsSlot,
    datagram::Datagrams,
    demux::{self, Demux, Notes},
    dialect::{Dialect, Protocol},
    flow::{Flow, SessionCredit},
    guard::FirstSection,
    mailbox::{Mailbox, Note},
    protocols::{self, Form, Offer},
    session::{Incoming, Over, Session},
};
use crate::{
    reason::{Refusal, Refused},
    transport::{self, ClientEnd, RequestHead, Tls},
};

/// The answer to `GET /`.
const GREETING: &str = "tidegate: a WebTransport gateway. Open a session on one of its routes.\n";

/// The header that tells a developer why a request was refused.
const REASON_HEADER: &str = "tidegate-reason";

type Stream = RequestStream<demux::RequestStream, Bytes>;

/// What a request turned out to be.
pub(crate) enum Resolved {
    /// A session request, for the session room to decide on.
    Session(SessionRequest),
    /// It was refused here, before any route was looked up.
    Refused(Refusal),
    /// Another request, or none; it has been answered.
    Answered,
}

/// What is needed to read and answer requests of a connection.
#[derive(Clone)]
pub(crate) struct Requests {
    pub(crate) quic: quinn::Connection,
    pub(crate) notes: Arc<Notes>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) settings: SettingsSlot,
    pub(crate) patience: Duration,
    /// The port of the address that the client sent to.
    pub(crate) local: SocketAddr,
    pub(crate) session_credit: SessionCredit,
    pub(crate) stream_window: u64,
}

impl Requests {
    /// Reads one request and answers it, unless it is for a session.
    pub(crate) async fn resolve(self, resolver: RequestResolver<Demux, Bytes>) -> Resolved {
        let id = resolver.frame_stream.id().into_inner();
        let (request, mut stream) = match timeout(self.patience, resolver.resolve_request()).await {
            Ok(Ok(resolved)) => resolved,
            Ok(Err(StreamError::StreamError { code: Code::H3_MESSAGE_ERROR, .. })) => {
                return Resolved::Refused(Refusal::BadRequest);
            }
            // h3 has reset the stream, or the client has; where it takes too long, dropping it does.
            Ok(Err(_)) | Err(_) => return Resolved::Answered,
        };
        match Wanted::of(self.notes.take(id), request.method()) {
            Wanted::Session(protocol) => self.session(&request, stream, protocol).await,
            Wanted::Page => {
                // Past it nobody reads.
                _ = timeout(self.patience, answer(&request, stream)).await;
                Resolved::Answered
            }
            Wanted::Refused(why) => {
                refuse(stream, why, self.patience).await;
                Resolved::Refused(why)
            }
            Wanted::Malformed => {
                stream.stop_stream(Code::H3_MESSAGE_ERROR);
                stream.stop_sending(Code::H3_MESSAGE_ERROR);
                Resolved::Refused(Refusal::BadRequest)
            }
            Wanted::Nothing => Resolved::Answered,
        }
    }

    /// Waits for the client's settings, which say what it speaks (draft section 3.1): they are on
    /// another stream and may come later than the request.
    async fn session(self, request: &Request<()>, stream: Stream, protocol: Protocol) -> Resolved {
        let Ok(settings) = timeout(self.patience, self.settings.wait()).await else {
            refuse(stream, Refusal::SettingsTimeout, self.patience).await;
            return Resolved::Refused(Refusal::SettingsTimeout);
        };
        let dialect = Dialect::negotiated(settings, protocol);
        let offered = request.headers().get_all(protocols::AVAILABLE).iter();
        let Offer { protocols, form } = Offer::read(offered, dialect);
        let client = self.quic.remote_address();
        let local = self.quic.local_ip().map(|ip| SocketAddr::new(ip, self.local.port()));
        let Some(head) = head(request, dialect, protocols, client, local) else {
            refuse(stream, Refusal::BadRequest, self.patience).await;
            return Resolved::Refused(Refusal::BadRequest);
        };
        let head = RequestHead { tls: tls(&self.quic).map(Arc::new), ..head };
        let id = stream.id().into_inner();
        let datagrams = Datagrams::new(self.quic.clone(), id, settings.datagrams());
        // Without flow control on both sides a connection should have one session, and further requests be
        // rejected (draft section 5.1). They are served all the same: clients of the older drafts, which
        // know no flow control, put several sessions on a connection, and QUIC's limits bound all of them
        // together.
        let theirs = settings.session_credit();
        let flow = Arc::new(Flow::new(self.session_credit, theirs, self.stream_window));
        let (send, recv) = stream.split();
        Resolved::Session(SessionRequest(Box::new(Asked {
            head,
            id,
            send,
            incoming: Incoming::new(recv, self.quic),
            flow,
            mailbox: self.mailbox,
            datagrams,
            form,
            says_draft02: request.headers().contains_key("sec-webtransport-http3-draft02"),
            patience: self.patience,
        })))
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wanted {
    /// A session, by this `:protocol`.
    Session(Protocol),
    /// What ordinary requests get.
    Page,
    /// What the gateway does not do.
    Refused(Refusal),
    /// Nothing that could be told: it breaks the rules of HTTP.
    Malformed,
    /// It is no request.
    Nothing,
}

impl Wanted {
    /// From what the guard noted of a request, and the method that h3 has read.
    pub(crate) fn of(noted: Option<FirstSection>, method: &Method) -> Self {
        match noted {
            Some(FirstSection::Request(_)) if method != Method::CONNECT => Self::Page,
            Some(FirstSection::Request(Some(
                protocol @ (Protocol::WebTransport | Protocol::WebTransportH3),
            ))) => Self::Session(protocol),
            // A plain CONNECT asks for a tunnel, which the gateway is not, either (RFC 9220 section 3).
            Some(FirstSection::Request(_)) => Self::Refused(Refusal::UnknownProtocol),
            Some(FirstSection::TooLarge) => Self::Refused(Refusal::HeadersTooLarge),
            Some(FirstSection::Malformed) => Self::Malformed,
            Some(FirstSection::Response) | None => Self::Nothing,
        }
    }
}

/// What QUIC's handshake told of TLS.
fn tls(quic: &quinn::Connection) -> Option<Tls> {
    let data = quic.handshake_data()?.downcast::<HandshakeData>().ok()?;
    let HandshakeData { protocol, server_name, .. } = *data;
    // QUIC has no other version (RFC 9001 section 4.2).
    let client = client_certificate::of(quic);
    Some(Tls { version: "TLSv1.3", alpn: protocol.unwrap_or_default(), server_name, client })
}

/// What the routes are asked, but for what TLS says. `None`: the request is a bad one.
pub(crate) fn head(
    request: &Request<()>,
    dialect: Dialect,
    protocols: Vec<String>,
    client: SocketAddr,
    local: Option<SocketAddr>,
) -> Option<RequestHead> {
    let uri = request.uri();
    let path_and_query = uri.path_and_query()?;
    if uri.scheme_str() != Some("https") || path_and_query.path().is_empty() {
        return None;
    }
    let origin = single(request, &header::ORIGIN)?;
    let authorization = single(request, &header::AUTHORIZATION)?;
    Some(RequestHead {
        authority: uri.authority()?.as_str().to_owned(),
        path: path_and_query.path().to_owned(),
        query: path_and_query.query().map(str::to_owned),
        authorization: authorization.into(),
        protocols,
        origin,
        client,
        local,
        dialect: dialect.word(),
        tls: None,
    })
}

/// The value of a header that a request has at most once. `None`: it has two, of which neither could be
/// trusted, or one that is no text.
fn single(request: &Request<()>, name: &HeaderName) -> Option<Option<String>> {
    let mut values = request.headers().get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Some(None),
        (Some(value), None) => Some(Some(value.to_str().ok()?.to_owned())),
        (Some(_), Some(_)) => None,
    }
}

/// Answers an ordinary request. Errors mean that the client is not there to read it.
async fn answer(request: &Request<()>, mut stream: Stream) {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_root = request.uri().path() == transport::PAGE_PATH;
    let (status, body) = match (is_root, is_read) {
        (true, true) => (StatusCode::OK, GREETING),
        (true, false) => (StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD.\n"),
        (false, _) => (StatusCode::NOT_FOUND, "Nothing here but WebTransport routes.\n"),
    };
    let mut response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
        .header(header::CONTENT_LENGTH, body.len());
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response = response.header(header::ALLOW, "GET, HEAD");
    }
    let response = response.body(()).expect("all of it is fixed");
    if stream.send_response(response).await.is_ok() {
        if request.method() != Method::HEAD {
            _ = stream.send_data(Bytes::from_static(body.as_bytes())).await;
        }
        _ = stream.finish().await;
    }
}

/// Refuses a session. Errors mean that the client is not there to read it, and so does credit that it does
/// not give in time.
async fn refuse<S: h3::quic::SendStream<Bytes>>(
    mut stream: RequestStream<S, Bytes>,
    refused: impl Into<Refused>,
    patience: Duration,
) {
    let Refused { why, retry_after_seconds } = refused.into();
    let status = StatusCode::from_u16(why.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::builder()
        .status(status)
        .header(REASON_HEADER, HeaderValue::from_static(why.word()));
    if let Some(seconds) = retry_after_seconds {
        response = response.header(header::RETRY_AFTER, seconds);
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response = response.header(header::ALLOW, "GET, HEAD");
    }
    if let Some(challenge) = why.challenge() {
        response = response.header(header::WWW_AUTHENTICATE, challenge);
    }
    let response = response.body(()).expect("all of it is from closed lists");
    let told = async {
        if stream.send_response(response).await.is_ok() {
            _ = stream.finish().await;
        }
    };
    _ = timeout(patience, told).await;
}

/// A client's request for a WebTransport session.
///
/// Boxed: tasks and futures that it goes through would have room for it long after it has gone on.
pub struct SessionRequest(Box<Asked>);

struct Asked {
    head: RequestHead,
    id: u64,
    send: RequestStream<demux::RequestSend, Bytes>,
    incoming: Incoming,
    mailbox: Arc<Mailbox>,
    datagrams: Datagrams,
    /// How the client writes application protocols.
    form: Form,
    flow: Arc<Flow>,
    says_draft02: bool,
    /// How long the client may give no credit for the answer.
    patience: Duration,
}

impl transport::SessionRequest for SessionRequest {
    type Session = Session;

    fn head(&self) -> &RequestHead {
        &self.0.head
    }

    async fn gone(&mut self) -> ClientEnd {
        let asked = &mut *self.0;
        let over = asked.incoming.read_to_end(&asked.flow).await;
        if !matches!(over, Over::Ended(_)) {
            asked.incoming.break_off(&mut asked.send);
        }
        ClientEnd::from(&over)
    }

    fn datagrams(&self) -> Datagrams {
        self.0.datagrams.clone()
    }

    async fn accept(
        self,
        protocol: Option<&str>,
        events: Arc<dyn transport::SessionEvents<Session>>,
    ) -> Result<Session, ClientEnd> {
        let mut response = Response::builder().status(StatusCode::OK);
        if self.0.says_draft02 {
            response = response.header("sec-webtransport-http3-draft", "draft02");
        }
        if let Some(value) = protocol.and_then(|chosen| protocols::answer(chosen, self.0.form)) {
            response = response.header(protocols::CHOSEN, value);
        }
        let response = response.body(()).expect("the one value that is not fixed has been checked");
        let Asked { id, mut send, incoming, mailbox, flow, patience, .. } = *self.0;
        // Streams and datagrams that came early go to the session before any that come now.
        mailbox.post(Note::Accepted(id, events, Arc::clone(&flow)));
        match timeout(patience, send.send_response(response)).await {
            Ok(Ok(())) => Ok(Session::new(id, send, incoming, mailbox, flow)),
            Ok(Err(error)) => Err(incoming.end(&error)),
            // A session that it does not know of would keep its place for as long as it likes.
            Err(_elapsed) => Err(ClientEnd::ConnectionLost),
        }
    }

    async fn refuse(self, refused: impl Into<Refused> + Send) {
        refuse(self.0.send, refused, self.0.patience).await;
    }
}
