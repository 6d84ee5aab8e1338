//! Host names to addresses, on the control side.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tracing::{info, warn};

use super::Trouble;
use crate::config::HostPort;

/// After this a lookup counts as failed. The system's resolver itself may try for half a minute, and
/// the start waits for the first lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The addresses of one host and port, as far as known.
#[derive(Debug)]
pub(super) struct Addresses {
    of: Option<HostPort>,
    known: ArcSwap<Vec<SocketAddr>>,
    trouble: Trouble,
}

impl Addresses {
    /// An address is known at once, a name when it is resolved, nothing never.
    pub(super) fn new(of: Option<HostPort>) -> Self {
        let known = match &of {
            Some(HostPort::Address(address)) => vec![*address],
            Some(HostPort::Name(..)) | None => Vec::new(),
        };
        Self { of, known: ArcSwap::from_pointee(known), trouble: Trouble::default() }
    }

    /// What is known now, in the order to try.
    pub(super) fn known(&self) -> Arc<Vec<SocketAddr>> {
        self.known.load_full()
    }

    /// Whether the system has to be asked.
    pub(super) fn is_name(&self) -> bool {
        matches!(self.of, Some(HostPort::Name(..)))
    }

    /// Asks the system for a name's addresses. The old answer is kept when there is no new one.
    pub(super) async fn resolve(&self, backend: &str) {
        let Some(HostPort::Name(host, port)) = &self.of else { return };
        match look_up(host, *port).await {
            Ok(addresses) => {
                if self.trouble.ends() {
                    info!(backend, host, ?addresses, "A host name resolves again.");
                }
                if *addresses != **self.known.load() {
                    self.known.store(Arc::new(addresses));
                }
            }
            Err(error) if self.trouble.begins() => {
                let kept = self.known();
                warn!(backend, host, error, ?kept, "A host name does not resolve.");
            }
            // Said already.
            Err(_) => {}
        }
    }
}

async fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    match tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => {
            let addresses: Vec<_> = found.collect();
            if addresses.is_empty() { Err("no address".into()) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err(format!("no answer in {LOOKUP_TIMEOUT:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_becomes_addresses() {
        let addresses = Addresses::new(Some(HostPort::Name("localhost".into(), 7)));
        assert!(addresses.known().is_empty());

        addresses.resolve("test").await;
        assert!(addresses.known().iter().all(|a| a.ip().is_loopback() && a.port() == 7));
        assert!(!addresses.known().is_empty());
    }

    /// A failed lookup must not take a working backend away.
    #[tokio::test]
    async fn the_old_answer_is_kept_when_resolving_fails() {
        // RFC 6761 section 6.4: this name never resolves, and no packet leaves for it.
        let addresses = Addresses::new(Some(HostPort::Name("nowhere.invalid".into(), 7)));
        let old: SocketAddr = "127.0.0.1:7".parse().unwrap();
        addresses.known.store(Arc::new(vec![old]));

        addresses.resolve("test").await;
        assert_eq!(*addresses.known(), [old]);
        assert!(!addresses.trouble.begins(), "the failure was not noted");
    }
}
