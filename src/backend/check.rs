//! One active health check: asks a member, and says what came of it.
//!
//! What the backend sends is bounded in bytes and in time, and nothing of it is kept.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    pin::pin,
};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::Empty;
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UdpSocket, UnixStream},
    time::timeout,
};

use super::{DialError, member::Addresses};
use crate::{
    config::{Check, Health, Payload, Statuses},
    reason::CheckResult,
};

/// Asks once.
pub(super) async fn run(health: &Health, addresses: &Addresses) -> CheckResult {
    let asked = timeout(health.timeout, ask(health, addresses)).await;
    match asked.unwrap_or(Err(CheckResult::Timeout)) {
        Ok(()) => CheckResult::Passed,
        Err(why) => why,
    }
}

async fn ask(health: &Health, addresses: &Addresses) -> Result<(), CheckResult> {
    match &health.check {
        Check::Off => Ok(()),
        Check::Tcp { send, expect } => match local(health, addresses) {
            Some(path) => ask_stream(open(path).await?, send, expect).await,
            None => {
                let stream = connect(&targets(&addresses.tcp, health, addresses), health).await?;
                ask_stream(stream, send, expect).await
            }
        },
        Check::Udp { send, expect } => {
            ask_udp(&targets(&addresses.udp, health, addresses), send, expect).await
        }
        Check::Http { path, host, status } => {
            let host = host.as_deref();
            match local(health, addresses) {
                Some(socket) => {
                    // A Unix socket has no name that could be asked for (RFC 9110 section 7.2).
                    ask_http(open(socket).await?, path, host.unwrap_or("localhost"), *status).await
                }
                None => {
                    let targets = targets(&addresses.tcp, health, addresses);
                    let stream = connect(&targets, health).await?;
                    let address = stream.peer_addr().map_err(result_of)?.to_string();
                    ask_http(stream, path, host.unwrap_or(&address), *status).await
                }
            }
        }
    }
}

/// The Unix socket to ask, where streams go to one and no other port is to be asked.
fn local<'a>(health: &Health, addresses: &'a Addresses) -> Option<&'a Path> {
    addresses.unix.as_deref().filter(|_| health.port.is_none())
}

async fn open(path: &Path) -> Result<UnixStream, CheckResult> {
    UnixStream::connect(path).await.map_err(result_of)
}

/// Where to ask: at the member's own addresses, or at another port of its hosts.
fn targets(own: &[SocketAddr], health: &Health, all: &Addresses) -> Vec<SocketAddr> {
    let Some(port) = health.port else { return own.to_vec() };
    let hosts = if own.is_empty() { [&all.tcp[..], &all.udp[..]].concat() } else { own.to_vec() };
    let mut targets: Vec<SocketAddr> = Vec::new();
    for mut address in hosts {
        address.set_port(port);
        if !targets.contains(&address) {
            targets.push(address);
        }
    }
    targets
}

/// The first of the addresses that answers; each gets an equal share of the time.
async fn connect(targets: &[SocketAddr], health: &Health) -> Result<TcpStream, CheckResult> {
    let share = health.timeout / u32::try_from(targets.len().max(1)).unwrap_or(u32::MAX);
    let mut last = CheckResult::Failed;
    for target in targets {
        match timeout(share, TcpStream::connect(target)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = result_of(error),
            Err(_elapsed) => last = CheckResult::Timeout,
        }
    }
    Err(last)
}

fn result_of(error: std::io::Error) -> CheckResult {
    result_of_dial(&error.into())
}

fn result_of_dial(error: &DialError) -> CheckResult {
    match error {
        DialError::Refused => CheckResult::Refused,
        DialError::Timeout => CheckResult::Timeout,
        error if error.is_ours() => CheckResult::OutOfResources,
        _ => CheckResult::Failed,
    }
}

async fn ask_stream(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    send: &Payload,
    expect: &Payload,
) -> Result<(), CheckResult> {
    stream.write_all(&send.0).await.map_err(result_of)?;
    let mut answer = vec![0; expect.0.len()];
    let mut length = 0;
    while length < answer.len() {
        match stream.read(&mut answer[length..]).await.map_err(result_of)? {
            0 => return Err(CheckResult::WrongAnswer),
            more => length += more,
        }
        if !expect.0.starts_with(&answer[..length]) {
            return Err(CheckResult::WrongAnswer);
        }
    }
    Ok(())
}

async fn ask_udp(
    targets: &[SocketAddr],
    send: &Payload,
    expect: &Payload,
) -> Result<(), CheckResult> {
    let target = targets.first().ok_or(CheckResult::Failed)?;
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await;
    let socket = socket.map_err(|error| result_of_dial(&DialError::of_udp_bind(error)))?;
    socket.connect(target).await.map_err(result_of)?;
    socket.send(&send.0).await.map_err(result_of)?;
    // What is longer is cut, and only its beginning is looked at.
    let mut answer = vec![0; expect.0.len().max(1)];
    let length = socket.recv(&mut answer).await.map_err(result_of)?;
    let is_right = answer[..length].starts_with(&expect.0);
    if is_right { Ok(()) } else { Err(CheckResult::WrongAnswer) }
}

/// An answer's head that is larger is wrong. The smallest that hyper takes is 8 KiB.
const MOST_HEAD_BYTES: usize = 16 * 1024;

async fn ask_http(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    host: &str,
    status: Statuses,
) -> Result<(), CheckResult> {
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .expect("the configuration has checked path and host");
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MOST_HEAD_BYTES);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|error| http_result(&error))?;
    let answer = match select(pin!(sender.send_request(request)), pin!(connection)).await {
        Either::Left((answer, _connection)) => answer,
        // It ended, maybe with an answer.
        Either::Right((_ended, answer)) => answer.await,
    };
    // The body is of no interest: dropping it closes the connection.
    let answer = answer.map_err(|error| http_result(&error))?;
    let is_right = status.contains(answer.status().as_u16());
    if is_right { Ok(()) } else { Err(CheckResult::WrongAnswer) }
}

fn http_result(error: &hyper::Error) -> CheckResult {
    if error.is_parse() { CheckResult::WrongAnswer } else { CheckResult::Failed }
}
