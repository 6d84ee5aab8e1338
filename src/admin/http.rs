//! A small HTTP/1.1 server for pages of our own: GET, HEAD and bare POST, answers made in memory.
//!
//! In go [`Pages`], usually a function from [`Get`] to [`Answer`]; they must not block. Out come connections that cannot
//! hurt: their number, their headers, the time for a request and the time of a whole connection are
//! bounded. Nothing above this file sees hyper.

use std::{
    convert::Infallible, future::ready, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
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
    fn get(&self, get: &Get<'_>) -> Answer;

    /// Answers a POST to this path; its body is not read. `None`: nothing here takes one.
    ///
    /// It never comes from a page in a browser.
    fn post(&self, path: &str) -> Option<Answer> {
        _ = path;
        None
    }
}

impl<F: Fn(&Get<'_>) -> Answer + Send + Sync + 'static> Pages for F {
    fn get(&self, get: &Get<'_>) -> Answer {
        self(get)
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

    /// 503 with plain text.
    pub fn unavailable(body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, ..Self::text(body) }
    }

    /// 404 with plain text.
    pub fn not_found() -> Self {
        Self { status: StatusCode::NOT_FOUND, ..Self::text("not found\n") }
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

/// From the end of the previous answer to the end of a request's headers.
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
    loop {
        let accepted = tokio::select! {
            () = tasks.draining() => return,
            // Cancelled, it leaves the connection in the kernel's queue, which closes with the socket.
            accepted = accept(&socket, &places) => accepted,
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
    let service = service_fn(move |request| ready(Ok::<_, Infallible>(respond(&request, &*pages))));
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

fn respond(request: &Request<Incoming>, pages: &impl Pages) -> Response<Full<Bytes>> {
    let uri = request.uri();
    let answer = match *request.method() {
        Method::GET | Method::HEAD => {
            pages.get(&Get { path: uri.path(), query: uri.query().unwrap_or_default() })
        }
        // A browser says where a POST comes from, and sends it for any page, also to loopback.
        Method::POST if request.headers().contains_key(header::ORIGIN) => {
            Answer::forbidden("not from a page in a browser\n")
        }
        Method::POST => pages.post(uri.path()).unwrap_or_else(|| Answer::method_not_allowed(READ)),
        _ => Answer::method_not_allowed(READ),
    };
    answer.into_response()
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
