//! From a gateway that was started to an exit code: announce, wait for a signal, drain.

use std::{pin::pin, process::ExitCode, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use tidegate::{
    edge::CertificateInfo,
    gateway::{Drained, Files, Live, Reload, ReloadError, Reloaded, Running},
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::{Failure, announce::hex, descriptors};

/// The drain's grace was over and sessions were cut (DESIGN section 6).
const SESSIONS_WERE_CUT: u8 = 4;

/// Serves until a signal says stop, then drains. `announce` is called once new clients are welcome,
/// `reload` whenever a signal asks for it, or `changed` resolves.
pub(crate) async fn until_stopped(
    running: Running,
    mut signals: Signals,
    announce: impl FnOnce(&Running) -> Result<(), Failure>,
    reload: impl AsyncFn(&Running),
    changed: impl AsyncFn(&Running),
) -> Result<ExitCode, Failure> {
    let stopped_early = tokio::select! {
        () = running.lifecycle().started() => None,
        signal = signals.stop(async || reload(&running).await, async || changed(&running).await) => Some(signal),
    };
    let signal = match stopped_early {
        Some(signal) => signal,
        None => {
            info!("Serving.");
            announce(&running)?;
            signals.stop(async || reload(&running).await, async || changed(&running).await).await
        }
    };

    let sessions = running.metrics().open_sessions();
    info!(signal, sessions, "Draining. A second signal stops at once.");
    let hurry = async {
        let refuse = async || warn!("SIGHUP: nothing is read again during a drain.");
        let signal = signals.stop(refuse, std::future::pending).await;
        warn!(signal, "Stopping at once.");
    };
    Ok(ended(running.shut_down(hurry).await))
}

/// Reads the configuration file again, and logs what has changed or every problem.
pub(crate) async fn reload(live: &Live, files: &Files) -> Result<Reloaded, ReloadError> {
    let files = files.clone();
    let reloaded = live.reload(move || files.read()).await;
    match &reloaded {
        Ok(reloaded) => {
            log_reloaded(reloaded);
            descriptors::compare(&live.config());
        }
        Err(why) => {
            for problem in why.lines() {
                error!(problem, "Cannot reload.");
            }
            error!(reason = %why, "Nothing was reloaded. What was in use stays in use.");
        }
    }
    reloaded
}

/// The files that are read again when an operator asks the admin listener for it.
#[derive(Debug)]
pub(crate) struct ReloadFile(pub(crate) Files);

impl Reload for ReloadFile {
    fn reload(&self, live: Arc<Live>) -> BoxFuture<'static, Result<Reloaded, ReloadError>> {
        let files = self.0.clone();
        async move { reload(&live, &files).await }.boxed()
    }
}

/// Of a list of differences, so many have a line of their own: a file that was written anew may have
/// thousands.
const MOST_LINES: usize = 100;

fn log_reloaded(Reloaded { certificates, changed, waiting, ended }: &Reloaded) {
    for certificate in certificates {
        let CertificateInfo { listener, names, not_after, .. } = certificate;
        let (names, sha256_hex) = (names.join(", "), hex(&certificate.sha256));
        info!(listener, names, not_after, sha256_hex, "New clients see this certificate.");
    }
    for change in changed.iter().take(MOST_LINES) {
        info!(%change, "The configuration has changed.");
    }
    for change in waiting.iter().take(MOST_LINES) {
        warn!(%change, "This has changed in the file and waits for a restart.");
    }
    let (changed, waiting) = (changed.len(), waiting.len());
    info!(certificates = certificates.len(), changed, waiting, ended, "Reloaded.");
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

    /// Waits for a signal to stop, and tells its name; meanwhile SIGHUP reloads, and so does whatever `changed`
    /// waits for. Cancel-safe.
    async fn stop(&mut self, reload: impl AsyncFn(), changed: impl AsyncFn()) -> &'static str {
        let Self { terminate, interrupt, hangup } = self;
        let mut stop = pin!(async {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        });
        let reload_each = async {
            // Signals that come during a reload are one more reload.
            loop {
                tokio::select! {
                    _ = hangup.recv() => {}
                    () = changed() => {}
                }
                reload().await;
            }
        };
        tokio::select! {
            biased;
            // A reload that is under way is given up, and has changed nothing.
            signal = &mut stop => signal,
            never = reload_each => never,
        }
    }
}
