//! Connecting to a Unix socket.

use std::{io, path::Path, time::Duration};

use tokio::{net::UnixStream, time::sleep};

use super::DialError;

/// How soon a listener whose backlog is full is asked again; doubled each time, up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(64);

/// Connects. Where the backlog is full it tries again and again, for Linux says so at once and has
/// nothing to wait for; the caller has a deadline.
pub(super) async fn connect(path: &Path) -> Result<UnixStream, DialError> {
    let mut pause = FIRST_PAUSE;
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => sleep(pause).await,
                // No socket is there, or nobody listens on it any more.
                io::ErrorKind::NotFound => return Err(DialError::Refused),
                _ => return Err(error.into()),
            },
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use socket2::SockRef;

    use super::*;

    /// Linux refuses at once then, where TCP would wait.
    #[tokio::test]
    async fn a_full_backlog_is_waited_for() {
        let path = std::env::temp_dir().join(format!("tidegate-full-{}", std::process::id()));
        _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        SockRef::from(&listener).listen(0).unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = UnixStream::connect(&path).await {
            queued.push(stream);
            assert!(queued.len() < 16, "the backlog is never full");
        }

        let mut waiting = Box::pin(connect(&path));
        let pause = Duration::from_millis(100);
        tokio::time::timeout(pause, &mut waiting).await.expect_err("there was no room");
        listener.accept().unwrap();
        let soon = Duration::from_secs(20);
        tokio::time::timeout(soon, waiting).await.unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_or_that_nobody_serves_refuses() {
        let path = std::env::temp_dir().join(format!("tidegate-dead-{}", std::process::id()));
        _ = std::fs::remove_file(&path);
        assert!(matches!(connect(&path).await, Err(DialError::Refused)));
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(connect(&path).await, Err(DialError::Refused)));
        std::fs::remove_file(&path).unwrap();
    }
}
