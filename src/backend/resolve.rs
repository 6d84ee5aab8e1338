//! Host names to addresses, on the control side.

use std::{fmt, net::SocketAddr, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::timeout;

/// Who knows the addresses of host names.
pub trait Resolve: fmt::Debug + Send + Sync {
    /// Every address of a host, in any order; the ports say nothing. The error is for the log.
    fn look_up<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<SocketAddr>, String>>;
}

/// The system's resolver. It blocks threads of the runtime's pool, so it is for the control runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn look_up<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<SocketAddr>, String>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await;
            found.map(Iterator::collect).map_err(|error| error.to_string())
        })
    }
}

/// After this a lookup counts as failed. The system's resolver itself may try for half a minute, and
/// the start waits for the first lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// At least one address of the host, or why there is none.
pub(super) async fn look_up(resolver: &dyn Resolve, host: &str) -> Result<Vec<SocketAddr>, String> {
    match timeout(LOOKUP_TIMEOUT, resolver.look_up(host)).await {
        Ok(Ok(found)) if found.is_empty() => Err("no address".to_owned()),
        Ok(found) => found,
        Err(_elapsed) => Err(format!("no answer in {LOOKUP_TIMEOUT:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_knows_localhost_and_what_never_resolves() {
        let found = look_up(&SystemResolver, "localhost").await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback()));
        // RFC 6761 section 6.4: this name never resolves, and no packet leaves for it.
        assert!(look_up(&SystemResolver, "nowhere.invalid").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_says_nothing_is_given_up() {
        #[derive(Debug)]
        struct Mute;
        impl Resolve for Mute {
            fn look_up<'a>(
                &'a self,
                _host: &'a str,
            ) -> BoxFuture<'a, Result<Vec<SocketAddr>, String>> {
                Box::pin(std::future::pending())
            }
        }
        assert_eq!(look_up(&Mute, "a").await.unwrap_err(), "no answer in 5s");
    }
}
