//! From a gateway that was started to an exit code: announce, wait for a signal, drain.

use std::process::ExitCode;

use tidegate::gateway::{Drained, Running};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use super::Failure;

/// The drain's grace was over and sessions were cut (DESIGN section 6).
const SESSIONS_WERE_CUT: u8 = 4;

/// Serves until a signal says stop, then drains. `announce` is called once new clients are welcome.
pub(crate) async fn until_stopped(
    running: Running,
    mut signals: Signals,
    announce: impl FnOnce(&Running) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    let stopped_early = tokio::select! {
        () = running.lifecycle().started() => None,
        signal = signals.stop() => Some(signal),
    };
    let signal = match stopped_early {
        Some(signal) => signal,
        None => {
            info!("Serving.");
            announce(&running)?;
            signals.stop().await
        }
    };

    let sessions = running.metrics().open_sessions();
    info!(signal, sessions, "Draining. A second signal stops at once.");
    let hurry = async {
        let signal = signals.stop().await;
        warn!(signal, "Stopping at once.");
    };
    Ok(ended(running.shut_down(hurry).await))
}

fn ended(drained: Drained) -> ExitCode {
    let Drained { cut } = drained;
    if cut > 0 {
        warn!(cut, "Stopped. Sessions that had not ended were cut.");
        ExitCode::from(SESSIONS_WERE_CUT)
    } else {
        info!(cut, "Stopped. Every session had ended.");
        ExitCode::SUCCESS
    }
}

/// The signals that the program obeys. From [`Signals::new`] on, none of them kills the process.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes the signals over from the system's defaults.
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|source| Failure::System { what: "listen to signals", source })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal to stop, and tells its name. Cancel-safe.
    async fn stop(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => {
                    warn!("SIGHUP: the configuration is not read again; changes need a restart.");
                }
            }
        }
    }
}
