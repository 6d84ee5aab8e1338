//! The other end of the admin listener: asks one question of a running gateway.

use std::{io, time::Duration};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request,
    client::conn::http1,
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// One request.
#[derive(Clone, Debug)]
pub struct Question {
    /// `GET`, `POST` or `PUT`.
    pub method: &'static str,
    /// Path and query, percent-encoded.
    pub target: String,
    /// Empty for none.
    pub body: String,
}

/// What the gateway says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// All of the body.
    pub body: Vec<u8>,
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there, or there is no way to it.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The address or the token cannot stand in a request.
    #[error("cannot stand in an HTTP request")]
    Request(#[from] http::Error),
    /// What answers there breaks off, or is no HTTP server.
    #[error("no proper answer")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is larger than any of a gateway's.
    #[error("the answer is larger than {MOST_REPLY_BYTES} bytes")]
    TooLarge,
    /// It took too long.
    #[error("no answer within {} s", TIME.as_secs())]
    Timeout,
}

/// For all of it: a gateway answers within milliseconds, but when it is to read its files and resolve names.
const TIME: Duration = Duration::from_secs(60);

/// A long list of sessions has some 2 MB, the numbers of many routes some more.
const MOST_REPLY_BYTES: usize = 64 * 1024 * 1024;

/// Asks the gateway whose admin listener is at `address`, a host and a port.
///
/// # Errors
/// Why there is no reply. A refusal is a reply.
pub async fn ask(
    address: &str,
    token: Option<&[u8]>,
    question: Question,
) -> Result<Reply, AskError> {
    timeout(TIME, exchange(address, token, question)).await.unwrap_or(Err(AskError::Timeout))
}

async fn exchange(
    address: &str,
    token: Option<&[u8]>,
    question: Question,
) -> Result<Reply, AskError> {
    let mut request = Request::builder()
        .method(question.method)
        .uri(question.target)
        .header(header::HOST, address)
        .header(header::USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close");
    if let Some(token) = token {
        let value = HeaderValue::from_bytes(&[b"Bearer ", token].concat());
        let mut value = value.map_err(http::Error::from)?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    let request = request.body(Full::new(Bytes::from(question.body)))?;

    let connect = |source| AskError::Connect { address: address.to_owned(), source };
    let stream = TcpStream::connect(address).await.map_err(connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MOST_REPLY_BYTES).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                AskError::TooLarge
            } else {
                AskError::Broken(error)
            }
        })?;
        Ok(Reply { status, body: body.to_bytes().into() })
    };
    match select(Box::pin(answer), Box::pin(connection)).await {
        Either::Left((answer, _connection)) => answer,
        // It ended, maybe with an answer.
        Either::Right((_ended, answer)) => answer.await,
    }
}

fn broken(error: hyper::Error) -> AskError {
    AskError::Broken(error.into())
}
