//! TLS session tickets that every instance with the same secret can open (RFC 8446 section 4.6.1).
//!
//! A ticket is: the epoch in which it was made (4 bytes), a random salt (16 bytes), and the session
//! sealed with AES-256-GCM under a key made of both. The key is new for each ticket, so there is no
//! nonce to run out of, and it changes with the epoch, so a ticket dies with its epoch's neighbour.
//!
//! What a stolen secret gives away: the contents of tickets, not the traffic of resumed sessions,
//! because TLS 1.3 here always adds a fresh key exchange and 0-RTT is off.

use std::fmt;

use rustls::{pki_types::UnixTime, server::ProducesTickets};

use super::{
    crypto::{aead, fill_random, hkdf},
    keys::{Roots, one_time_key, zero_nonce},
};

/// How long a ticket is good for at least, and at most twice that. rustls' own tickets do the same.
const EPOCH_SECONDS: u32 = 6 * 60 * 60;

const EPOCH_BYTES: usize = 4;
const SALT_BYTES: usize = 16;

/// Seals and opens tickets.
pub(super) struct Tickets(Roots);

impl Tickets {
    pub(super) fn new(roots: Roots) -> Self {
        Self(roots)
    }

    fn seal(&self, epoch: u32, session: &[u8]) -> Option<Vec<u8>> {
        let epoch = epoch.to_be_bytes();
        let mut salt = [0; SALT_BYTES];
        fill_random(&mut salt).ok()?;

        let mut sealed = session.to_vec();
        one_time_key(&self.0.current, &[&epoch, &salt])
            .seal_in_place_append_tag(zero_nonce(), aead::Aad::empty(), &mut sealed)
            .ok()?;
        Some([&epoch[..], &salt, &sealed].concat())
    }

    /// Opens a ticket that was made with either root.
    fn open(&self, now: u32, ticket: &[u8]) -> Option<Vec<u8>> {
        let Roots { current, previous } = &self.0;
        open_with(current, now, ticket).or_else(|| open_with(previous.as_ref()?, now, ticket))
    }
}

/// The epoch on either side is accepted too: tickets live on after their own, and the clocks of
/// two instances differ.
fn open_with(root: &hkdf::Prk, now: u32, ticket: &[u8]) -> Option<Vec<u8>> {
    let (epoch, rest) = ticket.split_first_chunk::<EPOCH_BYTES>()?;
    let (salt, sealed) = rest.split_first_chunk::<SALT_BYTES>()?;
    if u32::from_be_bytes(*epoch).abs_diff(now) > 1 {
        return None;
    }
    let mut session = sealed.to_vec();
    let length = one_time_key(root, &[epoch, salt])
        .open_in_place(zero_nonce(), aead::Aad::empty(), &mut session)
        .ok()?
        .len();
    session.truncate(length);
    Some(session)
}

fn current_epoch() -> u32 {
    let epoch = UnixTime::now().as_secs() / u64::from(EPOCH_SECONDS);
    u32::try_from(epoch).unwrap_or(u32::MAX)
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        EPOCH_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(current_epoch(), plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(current_epoch(), ticket)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets(***)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tickets() -> Tickets {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"test");
        Tickets::new(Roots { current: salt.extract(b"secret"), previous: None })
    }

    #[test]
    fn a_ticket_is_good_in_its_epoch_and_the_next() {
        let ticket = tickets().seal(100, b"session").unwrap();
        for (now, good) in [(98, false), (99, true), (100, true), (101, true), (102, false)] {
            assert_eq!(tickets().open(now, &ticket).is_some(), good, "in epoch {now}");
        }
    }

    #[test]
    fn a_ticket_cannot_be_moved_to_another_epoch() {
        let mut ticket = tickets().seal(100, b"session").unwrap();
        ticket[3] += 1;
        assert_eq!(tickets().open(101, &ticket), None);
    }

    #[test]
    fn two_tickets_of_one_session_look_unlike() {
        let (a, b) = (tickets().seal(1, b"session"), tickets().seal(1, b"session"));
        assert_ne!(a, b);
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_never_a_ticket(ticket: Vec<u8>) {
            prop_assert_eq!(tickets().open(0, &ticket), None);
        }
    }
}
