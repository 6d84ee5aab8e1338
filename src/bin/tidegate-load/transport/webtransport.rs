//! Sessions of WebTransport: asked for, ended, and how they ended otherwise.

use tidegate::client::{Closed, Connection, Refused, Session};
use tokio::time::timeout;

use crate::{
    run::{Load, chain},
    tally::{Failure, Kind},
};

/// The code of a clean end of a connection (RFC 9114 section 8.1).
const H3_NO_ERROR: u64 = 0x100;

/// Asks for a session.
pub(super) async fn open(connection: &Connection, load: &Load) -> Result<Session, Failure> {
    let asked = connection.open_session(&load.target.url, &load.request);
    match timeout(load.timeout, asked).await {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(refused)) => {
            let kind = match refused {
                Refused::Status { status, .. } => Kind::SessionRefused(status),
                Refused::Request(_) | Refused::Stream(_) => Kind::SessionUnanswered,
            };
            Err(Failure::new(kind, chain(&refused)))
        }
        Err(_elapsed) => {
            let what = format!("no answer in {:?}", load.timeout);
            Err(Failure::new(Kind::SessionUnanswered, what))
        }
    }
}

/// Ends a session, which the server has to answer.
pub(super) async fn close(connection: &Connection, session: Session) -> Result<(), Failure> {
    match session.close(0, "").await {
        Closed::ByServer { code: 0, .. } => Ok(()),
        // Servers of one session to a connection answer by ending the connection without error, and
        // may reset the session's own stream just before.
        Closed::Reset(H3_NO_ERROR) => Ok(()),
        Closed::Lost if closed_without_error(connection) => Ok(()),
        Closed::Unanswered => {
            Err(Failure::new(Kind::CloseUnanswered, "the server did not answer its end"))
        }
        closed => Err(cut(connection, &closed)),
    }
}

/// A session that has ended otherwise than it should.
pub(super) fn cut(connection: &Connection, closed: &Closed) -> Failure {
    Failure::new(Kind::SessionCut, ending(connection, closed))
}

fn closed_without_error(connection: &Connection) -> bool {
    match connection.quic().close_reason() {
        Some(quinn::ConnectionError::ApplicationClosed(close)) => {
            close.error_code.into_inner() == H3_NO_ERROR
        }
        _ => false,
    }
}

/// How a session ended, in words.
fn ending(connection: &Connection, closed: &Closed) -> String {
    match closed {
        Closed::ByServer { code, reason } if reason.is_empty() => {
            format!("the server closed it with code {code}")
        }
        Closed::ByServer { code, reason } => {
            format!("the server closed it with code {code} ({reason})")
        }
        Closed::Reset(code) => format!("the server reset it with HTTP/3 code {code:#x}"),
        Closed::Lost => match connection.quic().close_reason() {
            Some(reason) => format!("the connection ended: {}", chain(&reason)),
            None => "its stream broke".to_owned(),
        },
        Closed::FlowControl => "the server broke session flow control".to_owned(),
        Closed::Unanswered => "the server did not answer its end".to_owned(),
    }
}
