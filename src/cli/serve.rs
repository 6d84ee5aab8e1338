//! From a gateway that was started to an exit code: announce, wait for a signal, drain.

use std::{path::Path, process::ExitCode};

use tidegate::{
    config::Config,
    edge::CertificateInfo,
    gateway::{Drained, Reloaded, Running},
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::{Failure, announce::hex};

/// The drain's grace was over and sessions were cut (DESIGN section 6).
const SESSIONS_WERE_CUT: u8 = 4;

/// Serves until a signal says stop, then drains. `announce` is called once new clients are welcome,
/// `reload` whenever a signal asks for it.
pub(crate) async fn until_stopped(
    running: Running,
    mut signals: Signals,
    announce: impl FnOnce(&Running) -> Result<(), Failure>,
    reload: impl Fn(&Running),
) -> Result<ExitCode, Failure> {
    let stopped_early = tokio::select! {
        () = running.lifecycle().started() => None,
        signal = signals.stop(|| reload(&running)) => Some(signal),
    };
    let signal = match stopped_early {
        Some(signal) => signal,
        None => {
            info!("Serving.");
            announce(&running)?;
            signals.stop(|| reload(&running)).await
        }
    };

    let sessions = running.metrics().open_sessions();
    info!(signal, sessions, "Draining. A second signal stops at once.");
    let hurry = async {
        let signal = signals.stop(|| warn!("SIGHUP: nothing is read again during a drain.")).await;
        warn!(signal, "Stopping at once.");
    };
    Ok(ended(running.shut_down(hurry).await))
}

/// Reads the configuration file again, and logs what has changed or every problem.
pub(crate) fn reload(running: &Running, file: &Path) {
    let Reloaded { certificates, waiting } = match running.reload(Config::read(file)) {
        Ok(reloaded) => reloaded,
        Err(why) => {
            for problem in why.lines() {
                error!(problem, "Cannot reload.");
            }
            return error!(reason = %why, "Nothing was reloaded. What was in use stays in use.");
        }
    };
    for certificate in &certificates {
        let CertificateInfo { listener, names, not_after, .. } = certificate;
        let (names, sha256_hex) = (names.join(", "), hex(&certificate.sha256));
        info!(listener, names, not_after, sha256_hex, "New clients see this certificate.");
    }
    if !waiting.is_empty() {
        let sections = waiting.join(", ");
        warn!(sections, "These sections have changed since the start and wait for a restart.");
    }
    info!(certificates = certificates.len(), "Reloaded.");
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

    /// Waits for a signal to stop, and tells its name; meanwhile SIGHUP reloads. Cancel-safe.
    async fn stop(&mut self, reload: impl Fn()) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => reload(),
            }
        }
    }
}
