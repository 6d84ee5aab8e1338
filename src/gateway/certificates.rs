//! Certificates while the gateway runs: those that it made are renewed, and the ends of the others told.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, sleep};
use tracing::{error, info};

use super::{Live, chain};
use crate::lifecycle::Lifecycle;

/// Time between two looks. Certificates end by the clock on the wall, which may jump, and which goes on while
/// a machine sleeps; what counts here stands still meanwhile.
const LOOK: Duration = Duration::from_secs(60);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Looks at the clock until the control side ends.
pub(super) async fn look_after(live: Arc<Live>, control: Lifecycle) {
    let mut told = Instant::now();
    loop {
        tokio::select! {
            () = control.draining() => return,
            () = sleep(LOOK) => {}
        }
        live.renew_certificates(SystemTime::now());
        if told.elapsed() >= DAY {
            live.listeners.warn_of_expiry(SystemTime::now());
            told = Instant::now();
        }
    }
}

impl Live {
    /// Puts the next certificate in the place of each that the gateway made, if by this time it has been used
    /// long enough.
    pub fn renew_certificates(&self, now: SystemTime) {
        match self.listeners.renew(now, &self.metrics) {
            Ok(renewed) => {
                for certificate in renewed {
                    let (listener, not_after) = (certificate.listener, certificate.not_after);
                    info!(listener, not_after, "Renewed the certificate that was made here.");
                }
            }
            Err(errors) => {
                for why in errors {
                    error!(reason = chain(&why), "Cannot renew a certificate.");
                }
            }
        }
    }
}
