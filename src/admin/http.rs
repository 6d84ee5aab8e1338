//! A small HTTP/1.1 server for pages of our own: GET, HEAD, POST and PUT, requests and answers that fit in
//! memory.
//!
//! In go [`Pages`], usually a function from [`Get`] to [`Answer`]; they must not block. Out come connections that cannot
//! hurt: their number, their headers and bodies, the time for a request and the time of a whole connection
//! are bounded. Nothing above this file sees hyper.

use std::{
    convert::Infallible,
    fmt,
    future::{Future, ready},
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{self, HeaderMap, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tracing::{trace, warn};

use crate::lifecycle::Lifecycle;

/// A bound TCP socket that does not serve yet.
#[derive(Debug)]
pub struct HttpListener {
    socket: TcpListener,
    address: SocketAddr,
}

impl HttpListener {
    /// Binds `address`; port 0 takes a free one. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// What the system said.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = std::net::TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let socket = TcpListener::from_std(socket)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// The address, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests with `pages` until the server is stopped or dropped.
    pub fn serve(self, pages: impl Pages) -> HttpServer {
        let tasks = Lifecycle::new();
        tasks.spawn(accept_all(self.socket, Arc::new(pages), tasks.clone()));
        HttpServer { address: self.address, tasks }
    }
}

/// What a server answers with: any function from [`Get`] to [`Answer`], or more. None of it may block.
pub trait Pages: Send + Sync + 'static {
    /// Answers a GET or a HEAD.
    fn get(&self, get: &Get<'_>) -> impl Future<Output = Answer> + Send;

    /// Answers a POST or a PUT. `None`: nothing here takes one.
    ///
    /// It never comes from a page in a browser.
    fn change(&self, change: &Change<'_>) -> impl Future<Output = Option<Answer>> + Send {
        _ = change;
        ready(None)
    }
}

impl<F: Fn(&Get<'_>) -> Answer + Send + Sync + 'static> Pages for F {
    fn get(&self, get: &Get<'_>) -> impl Future<Output = Answer> + Send {
        ready(self(get))
    }
}

/// A server that runs. Dropping it cuts its connections; [`HttpServer::stop`] lets answers finish.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    /// Of this server alone, so that it can outlive the drain of the process.
    tasks: Lifecycle,
}

impl HttpServer {
    /// The address, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops: answers under way get a second to finish.
    pub async fn stop(self) {
        self.tasks.begin_drain();
        if timeout(STOP_TIME, self.tasks.all_tasks_ended()).await.is_err() {
            self.tasks.begin_kill();
            self.tasks.all_tasks_ended().await;
        }
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.tasks.begin_kill();
    }
}

/// A GET or HEAD request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Get<'a> {
    /// As sent, without the query.
    pub path: &'a str,
    /// What followed the `?`; empty if nothing did.
    pub query: &'a str,
    /// What it says of who asks.
    pub asker: Asker<'a>,
}

/// A POST or PUT request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Change<'a> {
    /// Which of the two.
    pub verb: Verb,
    /// As sent, without the query.
    pub path: &'a str,
    /// What followed the `?`; empty if nothing did.
    pub query: &'a str,
    /// All of it.
    pub body: &'a [u8],
    /// What it says of who asks.
    pub asker: Asker<'a>,
}

/// What a change is asked for with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verb {
    /// Do something.
    Post,
    /// Set something.
    Put,
}

/// What a request says of who asks, and whom.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub struct Asker<'a> {
    /// The host that is asked, with its port where there is one: of the target, else of the header.
    pub host: Option<&'a str>,
    /// The token of `Authorization: Bearer`. Never shown.
    pub bearer: Option<&'a [u8]>,
}

impl fmt::Debug for Asker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bearer = self.bearer.map(|_| "***");
        f.debug_struct("Asker").field("host", &self.host).field("bearer", &bearer).finish()
    }
}

impl<'a> Asker<'a> {
    fn of(request: &'a Request<Incoming>) -> Self {
        let header = request.headers().get(header::HOST);
        // A host that is no text is none that anybody has.
        let header = header.map(|host| host.to_str().unwrap_or("?"));
        let target = request.uri().authority().map(|authority| authority.as_str());
        Self { host: target.or(header), bearer: bearer(request.headers()) }
    }
}

/// RFC 6750 section 2.1; the scheme's name has no case.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// What goes back. Never cached by anyone.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
    extra: Option<(HeaderName, HeaderValue)>,
}

impl Answer {
    /// 200 with a body of this type.
    pub fn ok(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, content_type, body: body.into(), extra: None }
    }

    /// 200 with plain text.
    pub fn text(body: impl Into<Bytes>) -> Self {
        Self::ok(TEXT, body)
    }

    /// 200 with a value as JSON, in one line.
    ///
    /// # Panics
    /// When the value cannot be JSON.
    pub fn json(value: &impl serde::Serialize) -> Self {
        let mut text = serde_json::to_string(value).expect("words and numbers are JSON");
        text.push('\n');
        Self::ok("application/json", text)
    }

    /// 400 with what is wrong, in plain text.
    pub fn bad_request(body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, ..Self::text(body) }
    }

    /// 401 with the reason in plain text: a token is wanted.
    pub fn unauthorized(body: impl Into<Bytes>) -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            extra: Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            ..Self::text(body)
        }
    }

    /// 413 with plain text.
    fn too_large() -> Self {
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, ..Self::text("the body is too large\n") }
    }

    /// 408 with plain text.
    fn too_slow() -> Self {
        Self {
            status: StatusCode::REQUEST_TIMEOUT,
            ..Self::text("the body did not come in time\n")
        }
    }

    /// 503 with plain text.
    pub fn unavailable(body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, ..Self::text(body) }
    }

    /// 404 with plain text.
    pub fn not_found() -> Self {
        Self::not_found_because("not found\n")
    }

    /// 404 with what is not there, in plain text.
    pub fn not_found_because(body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::NOT_FOUND, ..Self::text(body) }
    }

    /// Adds what the page may load and do (Content Security Policy).
    ///
    /// # Panics
    /// When `policy` cannot stand in a header.
    #[must_use]
    pub fn with_content_policy(mut self, policy: &str) -> Self {
        let value = HeaderValue::from_str(policy).expect("a policy is visible ASCII");
        self.extra = Some((header::CONTENT_SECURITY_POLICY, value));
        self
    }

    /// Lets pages of every origin read it. For what everybody may know.
    #[must_use]
    pub fn for_every_page(mut self) -> Self {
        let every = HeaderValue::from_static("*");
        self.extra = Some((header::ACCESS_CONTROL_ALLOW_ORIGIN, every));
        self
    }

    /// 403 with the reason in plain text.
    pub fn forbidden(body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::FORBIDDEN, ..Self::text(body) }
    }

    /// 405 with the methods that are allowed.
    pub fn method_not_allowed(allowed: &'static str) -> Self {
        Self {
            status: StatusCode::METHOD_NOT_ALLOWED,
            extra: Some((header::ALLOW, HeaderValue::from_static(allowed))),
            ..Self::text(format!("only {allowed}\n"))
        }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.extend(self.extra);
        response
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

/// Far more than scrapers, probes and a person need together.
const MAX_CONNECTIONS: usize = 64;

/// A browser sends about 15; the smallest buffer that hyper takes is 8 KiB.
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// A reason of 1 KiB takes at most 6 KiB in JSON; a log filter takes less.
const MAX_BODY_BYTES: usize = 8 * 1024;

/// From the end of the previous answer to the end of a request's headers, and from there to that of its body.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// After this a connection ends with its current answer, so that nobody keeps a place for ever.
const CONNECTION_TIME: Duration = Duration::from_secs(60);

/// For the current answer of a connection whose time is over.
const LAST_ANSWER_TIME: Duration = Duration::from_secs(10);

const STOP_TIME: Duration = Duration::from_secs(1);

/// Keeps a shortage of file descriptors from becoming a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

async fn accept_all(socket: TcpListener, pages: Arc<impl Pages>, tasks: Lifecycle) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut spare = None;
    loop {
        spare = spare.or_else(|| spare_descriptor(&socket));
        let accepted = tokio::select! {
            () = tasks.draining() => return,
            // Cancelled, it leaves the connection in the kernel's queue, which closes with the socket.
            accepted = accept_in_need(&socket, &places, &mut spare) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let (pages, this) = (Arc::clone(&pages), tasks.clone());
                tasks.spawn(async move {
                    serve_connection(stream, pages, this).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "Cannot accept an HTTP connection.");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A descriptor to give up when there is no other, so that one connection at least can be accepted: this is
/// where an operator looks when descriptors have run out.
fn spare_descriptor(socket: &TcpListener) -> Option<OwnedFd> {
    socket.as_fd().try_clone_to_owned().ok()
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Accepts with the spare descriptor if there is no other.
async fn accept_in_need(
    socket: &TcpListener,
    places: &Arc<Semaphore>,
    spare: &mut Option<OwnedFd>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    match accept(socket, places).await {
        Err(error) if is_shortage(&error) && spare.take().is_some() => accept(socket, places).await,
        accepted => accepted,
    }
}

/// Takes a place first: above the limit, clients wait in the kernel's queue.
async fn accept(
    socket: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.expect("nobody closes the semaphore");
    let (stream, _) = socket.accept().await?;
    Ok((stream, place))
}

async fn serve_connection(stream: TcpStream, pages: Arc<impl Pages>, tasks: Lifecycle) {
    let service = service_fn(move |request| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(respond(request, &*pages).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIME)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);

    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = last_answer_is_due(&tasks) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                // What is cut here has had its time; the client sees a short body.
                () = tasks.killed() => return,
                () = sleep(LAST_ANSWER_TIME) => return,
            }
        }
    };
    if let Err(error) = ended {
        trace!(%error, "HTTP connection broke.");
    }
}

async fn last_answer_is_due(tasks: &Lifecycle) {
    tokio::select! {
        () = tasks.draining() => {}
        () = sleep(CONNECTION_TIME) => {}
    }
}

async fn respond(mut request: Request<Incoming>, pages: &impl Pages) -> Response<Full<Bytes>> {
    answer(&mut request, pages).await.into_response()
}

async fn answer(request: &mut Request<Incoming>, pages: &impl Pages) -> Answer {
    let verb = match *request.method() {
        Method::GET | Method::HEAD => {
            let uri = request.uri();
            let query = uri.query().unwrap_or_default();
            let get = Get { path: uri.path(), query, asker: Asker::of(request) };
            return pages.get(&get).await;
        }
        Method::POST => Verb::Post,
        Method::PUT => Verb::Put,
        _ => return Answer::method_not_allowed(READ),
    };
    // A browser says where a request comes from that changes something, and sends some for any page, also
    // to loopback.
    if request.headers().contains_key(header::ORIGIN) {
        return Answer::forbidden("not from a page in a browser\n");
    }
    // One that says its length need not be waited for.
    if request.body().size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Answer::too_large();
    }
    let body = Limited::new(request.body_mut(), MAX_BODY_BYTES);
    let body = match timeout(REQUEST_TIME, body.collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_too_large_or_cut)) => return Answer::too_large(),
        Err(_elapsed) => return Answer::too_slow(),
    };
    let uri = request.uri();
    let query = uri.query().unwrap_or_default();
    let change = Change { verb, path: uri.path(), query, body: &body, asker: Asker::of(request) };
    pages.change(&change).await.unwrap_or_else(|| Answer::method_not_allowed(READ))
}

/// What everything takes that takes nothing else.
const READ: &str = "GET, HEAD";

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn hello() -> HttpServer {
        let any_port = "127.0.0.1:0".parse().unwrap();
        HttpListener::bind(any_port).unwrap().serve(|get: &Get<'_>| match get.path {
            "/hello" => Answer::text(format!("hello {}\n", get.query)),
            _ => Answer::not_found(),
        })
    }

    /// Sends raw bytes and returns all that comes back until the server closes.
    async fn exchange(server: &HttpServer, request: &str) -> String {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_page_is_answered_with_its_type_and_length() {
        let answer =
            exchange(&hello(), "GET /hello?you HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                .await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("content-type: text/plain; charset=utf-8\r\n"), "{answer}");
        assert!(answer.contains("cache-control: no-store\r\n"), "{answer}");
        assert!(answer.contains("content-length: 10\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nhello you\n"), "{answer}");
    }

    #[tokio::test]
    async fn head_gets_the_headers_of_get_and_no_body() {
        let answer =
            exchange(&hello(), "HEAD /hello?you HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                .await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("content-length: 10\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn other_methods_are_refused_with_those_that_are_allowed() {
        let answer = exchange(
            &hello(),
            "POST /hello HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{answer}");
        assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn a_connection_serves_many_requests() {
        let answer = exchange(
            &hello(),
            "GET /hello?1 HTTP/1.1\r\nhost: a\r\n\r\n\
             GET /nowhere HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        )
        .await;
        assert!(answer.contains("hello 1\n"), "{answer}");
        assert!(answer.contains("HTTP/1.1 404 Not Found\r\n"), "{answer}");
    }

    /// Takes changes, and tells what it was sent.
    struct Echo;

    impl Pages for Echo {
        async fn get(&self, _: &Get<'_>) -> Answer {
            Answer::not_found()
        }

        async fn change(&self, change: &Change<'_>) -> Option<Answer> {
            let Change { verb, path, query, body, asker } = change;
            let body = String::from_utf8_lossy(body);
            Some(Answer::text(format!("{verb:?} {path} {query} {body} {asker:?}")))
        }
    }

    fn echo() -> HttpServer {
        HttpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap().serve(Echo)
    }

    #[tokio::test]
    async fn a_change_is_read_whole_and_shows_no_token() {
        let answer = exchange(
            &echo(),
            "PUT /log?a=b HTTP/1.1\r\nhost: a:1\r\nauthorization: BEARER s3cret\r\n\
             content-length: 5\r\nconnection: close\r\n\r\nhello",
        )
        .await;
        let wanted = "Put /log a=b hello Asker { host: Some(\"a:1\"), bearer: Some(\"***\") }";
        assert!(answer.ends_with(wanted), "{answer}");
    }

    #[tokio::test]
    async fn a_body_beyond_the_bound_is_refused() {
        for head in [
            "content-length: 100000000\r\n\r\n".to_owned(),
            format!("transfer-encoding: chunked\r\n\r\n2001\r\n{}", "x".repeat(0x2001)),
        ] {
            let request = format!("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{head}");
            let answer = exchange(&echo(), &request).await;
            assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let answer = exchange(
            &echo(),
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhel",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }

    /// Without the bound, 64 such clients would shut everyone else out for ever.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_ends_its_headers_is_cut() {
        let answer = exchange(&hello(), "GET /hello HTTP/1.1\r\nhost:").await;
        assert!(!answer.contains("200"), "{answer}");
    }

    #[tokio::test]
    async fn headers_beyond_the_bound_are_refused() {
        let server = hello();
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let huge = format!("GET /hello HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(100_000));

        // The server may close before it has read everything: a reset is as good as a refusal.
        let mut answer = Vec::new();
        _ = stream.write_all(huge.as_bytes()).await;
        _ = stream.read_to_end(&mut answer).await;

        assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    }

    #[tokio::test]
    async fn stopping_closes_idle_connections_and_the_port() {
        let server = hello();
        let address = server.address();
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET /hello?1 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut first = [0; 15];
        idle.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");

        server.stop().await;

        idle.read_to_end(&mut Vec::new()).await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
