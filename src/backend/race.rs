//! One connection to whichever of several addresses answers first (RFC 8305, without its resolver).

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::timeout;

use super::DialError;

/// Time that an address has to itself before the next one is tried beside it: what RFC 8305 section 8
/// recommends. One that refuses is not waited for.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Begins attempts in the order of [`alternate`] and returns the first that succeeds. The others are
/// dropped. If none does: what the last one said that could be asked.
pub(super) async fn race<T, F>(
    addresses: &[SocketAddr],
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, DialError>
where
    F: Future<Output = Result<T, DialError>>,
{
    if let [only] = addresses {
        return attempt(*only).await;
    }
    let mut waiting = alternate(addresses);
    let mut attempts = FuturesUnordered::new();
    let mut last = DialError::Unresolved;
    loop {
        match waiting.pop_front() {
            Some(address) => attempts.push(attempt(address)),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        let alone = if waiting.is_empty() { Duration::MAX } else { ATTEMPT_DELAY };
        match timeout(alone, attempts.next()).await {
            Ok(Some(Ok(connection))) => return Ok(connection),
            // What the endpoint itself said at another address says more.
            Ok(Some(Err(DialError::NoSource(_)))) if last.is_the_endpoints() => {}
            Ok(Some(Err(error))) => last = error,
            // It may still answer; the next one gets its chance.
            Ok(None) | Err(_) => {}
        }
    }
}

/// The addresses with the two families taking turns, the first one's first (RFC 8305 section 4), so that
/// a family which leads nowhere costs one delay and not one for each of its addresses.
fn alternate(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let leads = |address: &SocketAddr| addresses.first().is_some_and(|a| same_family(a, address));
    let (first, second): (Vec<_>, Vec<_>) = addresses.iter().copied().partition(leads);
    let longest = first.len().max(second.len());
    (0..longest).flat_map(|i| [first.get(i), second.get(i)]).flatten().copied().collect()
}

fn same_family(one: &SocketAddr, other: &SocketAddr) -> bool {
    matches!(
        (one.ip(), other.ip()),
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_))
    )
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio::time::{Instant, sleep};

    use super::*;

    fn addresses(ports: &[u16]) -> Vec<SocketAddr> {
        ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect()
    }

    #[test]
    fn the_families_take_turns_and_the_first_addresss_family_leads() {
        let parse = |text: &str| -> Vec<SocketAddr> {
            text.split_whitespace().map(|a| a.parse().unwrap()).collect()
        };
        for (given, wanted) in [
            ("", ""),
            ("[::1]:1", "[::1]:1"),
            ("[::1]:1 [::1]:2 1.1.1.1:1 1.1.1.1:2", "[::1]:1 1.1.1.1:1 [::1]:2 1.1.1.1:2"),
            ("1.1.1.1:1 [::1]:1 [::1]:2 [::1]:3", "1.1.1.1:1 [::1]:1 [::1]:2 [::1]:3"),
            ("[::1]:1 1.1.1.1:1 [::1]:2 1.1.1.1:2", "[::1]:1 1.1.1.1:1 [::1]:2 1.1.1.1:2"),
        ] {
            assert_eq!(Vec::from(alternate(&parse(given))), parse(wanted), "{given}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_address_starts_when_one_fails_or_after_the_delay() {
        let began = Instant::now();
        let starts = std::sync::Mutex::new(Vec::new());
        let attempt = async |address: SocketAddr| {
            starts.lock().unwrap().push((address.port(), began.elapsed().as_millis()));
            match address.port() {
                // Refuses after 100 ms.
                1 => {
                    sleep(Duration::from_millis(100)).await;
                    Err(DialError::Refused)
                }
                // Says nothing.
                2 => pending().await,
                port => Ok(port),
            }
        };
        let minute = Duration::from_secs(60);
        let won = timeout(minute, race(&addresses(&[1, 2, 3]), attempt)).await.unwrap();
        assert_eq!(won.unwrap(), 3);
        assert_eq!(*starts.lock().unwrap(), [(1, 0), (2, 100), (3, 350)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_slow_may_still_win() {
        let attempt = async |address: SocketAddr| match address.port() {
            1 => {
                sleep(Duration::from_millis(400)).await;
                Ok(1)
            }
            _ => pending().await,
        };
        assert_eq!(race(&addresses(&[1, 2, 3]), attempt).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn each_address_is_tried_once_and_the_last_word_is_told() {
        let tried = AtomicUsize::new(0);
        let attempt = async |address: SocketAddr| -> Result<(), _> {
            tried.fetch_add(1, Ordering::Relaxed);
            Err(if address.port() == 2 { DialError::Timeout } else { DialError::Refused })
        };
        let error = race(&addresses(&[1, 2]), &attempt).await.unwrap_err();
        assert!(matches!(error, DialError::Timeout), "{error:?}");
        assert_eq!(tried.load(Ordering::Relaxed), 2);

        let error = race(&[], &attempt).await.unwrap_err();
        assert!(matches!(error, DialError::Unresolved), "{error:?}");
    }

    /// Else an endpoint that fails would pass for a gateway that lacks something, and never be left out.
    #[tokio::test]
    async fn that_a_family_has_no_source_is_told_only_if_nothing_else_is() {
        let no_source = || DialError::NoSource(std::io::ErrorKind::AddrNotAvailable.into());
        let attempt = async |address: SocketAddr| -> Result<(), _> {
            Err(if address.port() == 1 { DialError::Refused } else { no_source() })
        };
        for (ports, is_the_endpoints) in
            [(&[1, 2][..], true), (&[2, 1], true), (&[2, 3], false), (&[2, 1, 3], true)]
        {
            let error = race(&addresses(ports), attempt).await.unwrap_err();
            assert_eq!(error.is_the_endpoints(), is_the_endpoints, "{ports:?}: {error:?}");
        }
    }
}
