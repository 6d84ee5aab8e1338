//! Which of the candidates gets the next session. Pure: no socket, no clock, no counter.
//!
//! A [`Candidate`] is a member of the backend that would take the session now. Each policy obeys the
//! weights: twice the weight is twice the sessions.

use std::{cmp::Ordering, net::IpAddr};

use crate::{config::HashOn, credential::Claims};

/// What a session request is told apart by. All of it is the client's word but for the address.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// What the captures of the route's path stand for.
    pub captures: &'a [(String, String)],
    /// What followed the `?`.
    pub query: Option<&'a str>,
    /// What its credential says of it, if it has shown one.
    pub claims: Option<&'a Claims>,
}

impl RequestFacts<'_> {
    /// The hash that picks a member under `balance = "hash"`. A request that lacks what is hashed goes
    /// by the client's address.
    pub(super) fn hash(&self, on: &HashOn) -> u64 {
        let value = match on {
            HashOn::ClientAddress => None,
            HashOn::Capture(name) => {
                self.captures.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
            }
            HashOn::Query(name) => self.parameter(name),
            HashOn::Claim(name) => self.claims.and_then(|claims| claims.value(name)),
        };
        // A socket for both families shows IPv4 clients as ::ffff:a.b.c.d.
        match (value.filter(|value| !value.is_empty()), self.client.to_canonical()) {
            (Some(value), _) => hash(value.as_bytes()),
            (None, IpAddr::V4(ip)) => hash(&ip.octets()),
            (None, IpAddr::V6(ip)) => hash(&ip.octets()),
        }
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        let mut pairs = self.query?.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}

/// A member that would take the session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Its place in the roster, by which it is named.
    pub(super) seat: usize,
    /// Its share compared with the others'. At least 1.
    pub(super) weight: u32,
    /// Sessions that it has.
    pub(super) sessions: u64,
    /// The hash of its name.
    pub(super) key: u64,
}

/// Smooth weighted round robin: each turn everyone gains its weight, and whoever has most goes and
/// pays what all have gained. A heavy member's turns are spread among the others' that way.
#[derive(Debug, Default)]
pub(super) struct Turns(Vec<i64>);

impl Turns {
    /// The seat whose turn it is. Equal weights take turns in the order of the seats.
    pub(super) fn next(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let seats = candidates.iter().map(|c| c.seat + 1).max()?;
        if self.0.len() < seats {
            self.0.resize(seats, 0);
        }
        let mut chosen = None;
        for candidate in candidates {
            self.0[candidate.seat] += i64::from(candidate.weight);
            let credit = self.0[candidate.seat];
            if chosen.is_none_or(|(_, most)| credit > most) {
                chosen = Some((candidate.seat, credit));
            }
        }
        let (seat, _) = chosen?;
        self.0[seat] -= candidates.iter().map(|c| i64::from(c.weight)).sum::<i64>();
        Some(seat)
    }

    /// Begins anew: the seats are others now.
    pub(super) fn restart(&mut self) {
        self.0.clear();
    }
}

/// The seat with the fewest sessions for its weight. Among equals the first from `start` on, so that a
/// caller who raises it makes them take turns.
pub(super) fn fewest_sessions(candidates: &[Candidate], start: usize) -> Option<usize> {
    let count = candidates.len().max(1);
    let from = |i: usize| candidates[(start % count + i) % count];
    (0..candidates.len()).map(from).min_by(by_load).map(|c| c.seat)
}

/// Compares how loaded two members would be with one session more.
fn by_load(a: &Candidate, b: &Candidate) -> Ordering {
    let load = |of: &Candidate, other: &Candidate| {
        (u128::from(of.sessions) + 1) * u128::from(other.weight)
    };
    load(a, b).cmp(&load(b, a))
}

/// The less loaded of two different seats, each drawn by weight.
pub(super) fn better_of_two(candidates: &[Candidate], mut random: u64) -> Option<usize> {
    let first = draw(candidates, random)?;
    random = mix(random);
    let others: Vec<_> = candidates.iter().filter(|c| c.seat != first.seat).copied().collect();
    match draw(&others, random) {
        Some(second) if by_load(&second, &first) == Ordering::Less => Some(second.seat),
        _ => Some(first.seat),
    }
}

/// One candidate, with a chance that goes by its weight.
fn draw(candidates: &[Candidate], random: u64) -> Option<Candidate> {
    let total: u64 = candidates.iter().map(|c| u64::from(c.weight)).sum();
    // The bias of the remainder is below one in 2^40 for any real number of members.
    let mut at = random.checked_rem(total)?;
    candidates.iter().copied().find(|candidate| {
        let is_here = at < u64::from(candidate.weight);
        at = at.saturating_sub(candidate.weight.into());
        is_here
    })
}

/// The seat that a request's hash belongs to: rendezvous hashing (Thaler and Ravishankar, 1998) with
/// weights by the logarithm method (Schindelhauer and Schomaker, 2005).
///
/// When a member goes, only its own requests go elsewhere; when one comes, it takes its share
/// evenly from all. Instances that have the same members agree without talking.
pub(super) fn highest_score(candidates: &[Candidate], request: u64) -> Option<usize> {
    let score = |c: &Candidate| -f64::from(c.weight) / unit(mix(request ^ c.key)).ln();
    candidates.iter().max_by(|a, b| score(a).total_cmp(&score(b))).map(|c| c.seat)
}

/// A hash as a number above 0 and below 1.
fn unit(hash: u64) -> f64 {
    // 53 bits are what a double holds exactly; the half keeps both ends out.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let bits = (hash >> 11) as f64;
    (bits + 0.5) / (1_u64 << 53) as f64
}

/// A fixed hash, the same in each version, process and machine: FNV-1a in 64 bits, then mixed. No
/// secret is in it: whoever chooses what is hashed can choose the endpoint.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let fnv =
        bytes.iter().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
    mix(fnv)
}

/// Makes each bit of the result depend on all bits of the input: the output function of SplitMix64.
pub(super) fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        let candidate = |(seat, weight): (usize, &u32)| Candidate {
            seat,
            weight: *weight,
            sessions: 0,
            key: hash(format!("endpoint-{seat}").as_bytes()),
        };
        weights.iter().enumerate().map(candidate).collect()
    }

    /// How many of `count` sessions each seat gets.
    fn shares(
        weights: &[u32],
        count: u32,
        mut choose: impl FnMut(&[Candidate], u64) -> Option<usize>,
    ) -> Vec<u64> {
        let mut candidates = candidates(weights);
        for i in 0..count {
            let seat = choose(&candidates, mix(i.into())).unwrap();
            candidates[seat].sessions += 1;
        }
        candidates.iter().map(|c| c.sessions).collect()
    }

    /// Whether each share is within so many percent of what the weights give.
    fn are_near(shares: &[u64], weights: &[u32], percent: u64) -> bool {
        let (total, sum) = (shares.iter().sum::<u64>(), weights.iter().sum::<u32>());
        shares.iter().zip(weights).all(|(share, weight)| {
            let fair = total * u64::from(*weight) / u64::from(sum);
            share.abs_diff(fair) * 100 <= fair * percent
        })
    }

    #[test]
    fn turns_are_spread_smoothly_by_weight() {
        for (weights, order) in [
            (&[1, 1, 1][..], &[0, 1, 2, 0, 1, 2][..]),
            (&[5, 1, 1], &[0, 0, 1, 0, 2, 0, 0]),
            (&[1, 3], &[1, 0, 1, 1, 1, 0, 1, 1]),
            (&[7], &[0, 0, 0]),
        ] {
            let (mut turns, candidates) = (Turns::default(), candidates(weights));
            let taken: Vec<_> = order.iter().map(|_| turns.next(&candidates).unwrap()).collect();
            assert_eq!(taken, order, "{weights:?}");
        }
    }

    #[test]
    fn turns_of_one_that_is_out_are_shared_by_weight() {
        let (mut turns, all) = (Turns::default(), candidates(&[2, 1, 3]));
        turns.next(&all);
        let left: Vec<_> = all.into_iter().filter(|c| c.seat != 1).collect();
        let taken: Vec<_> = (0..50).map(|_| turns.next(&left).unwrap()).collect();
        let first = taken.iter().filter(|seat| **seat == 0).count();
        assert!(first.abs_diff(20) <= 1 && !taken.contains(&1), "{taken:?}");
    }

    #[test]
    fn fewest_sessions_counts_by_weight_and_takes_turns_among_equals() {
        for (sessions, weights, start, seat) in [
            ([0, 0, 0], [1, 1, 1], 0, 0),
            ([0, 0, 0], [1, 1, 1], 1, 1),
            ([0, 0, 0], [1, 1, 1], 5, 2),
            ([2, 1, 2], [1, 1, 1], 0, 1),
            ([0, 0, 0], [1, 4, 1], 0, 1),
            ([1, 3, 1], [1, 4, 1], 0, 1),
            ([0, 4, 1], [1, 4, 1], 0, 0),
            ([u64::MAX, u64::MAX, 0], [1000, 1000, 1], 0, 2),
        ] {
            let mut candidates = candidates(&weights);
            for (candidate, sessions) in candidates.iter_mut().zip(sessions) {
                candidate.sessions = sessions;
            }
            let chosen = fewest_sessions(&candidates, start);
            assert_eq!(chosen, Some(seat), "{sessions:?} {weights:?} {start}");
        }
    }

    #[test]
    fn every_policy_obeys_the_weights() {
        let weights = [1, 2, 5, 8];
        let mut turns = Turns::default();
        let turns = shares(&weights, 16_000, |c, _| turns.next(c));
        assert!(are_near(&turns, &weights, 0), "round-robin: {turns:?}");
        let mut start = (0..7).cycle();
        let fewest = shares(&weights, 16_000, |c, _| fewest_sessions(c, start.next().unwrap()));
        assert!(are_near(&fewest, &weights, 1), "least-sessions: {fewest:?}");
        let two = shares(&weights, 16_000, better_of_two);
        assert!(are_near(&two, &weights, 1), "random-two: {two:?}");
        let hashed = shares(&weights, 16_000, highest_score);
        assert!(are_near(&hashed, &weights, 8), "hash: {hashed:?}");
    }

    /// Without the second draw it would be a plain draw by weight.
    #[test]
    fn random_two_avoids_the_loaded_one() {
        let mut candidates = candidates(&[1, 1]);
        candidates[0].sessions = 5;
        assert!((0..100).all(|i| better_of_two(&candidates, mix(i)) == Some(1)));
    }

    /// What instances and versions must agree on. Whoever changes these numbers moves all sessions.
    #[test]
    fn hashes_never_change() {
        for (text, value) in [
            ("", 0xc381_7c01_6ba4_ff30),
            ("a", 0x5f29_c2aa_dd9b_8527),
            ("game/42", 0xfc42_9a6c_12a4_2145),
            ("endpoint-0", 0x736a_c343_943d_5243),
        ] {
            assert_eq!(hash(text.as_bytes()), value, "{text:?}");
        }
        let candidates = candidates(&[1, 2, 3]);
        let seats: Vec<_> = (0..12).map(|i| highest_score(&candidates, mix(i)).unwrap()).collect();
        assert_eq!(seats, [2, 0, 1, 2, 2, 1, 2, 1, 2, 2, 2, 2]);
    }

    #[test]
    fn what_is_hashed_is_what_was_configured() {
        let captures = [("room".to_owned(), "42".to_owned())];
        let claims = Claims::of_token(
            serde_json::from_str(r#"{"sub":"alice","room":42,"rooms":["a","b"]}"#).unwrap(),
        );
        let claim = |name: &str| HashOn::Claim(name.to_owned());
        let facts = |client: &str, query| RequestFacts {
            claims: Some(&claims),
            client: client.parse().unwrap(),
            captures: &captures,
            query,
        };
        let (capture, query) = (HashOn::Capture("room".into()), HashOn::Query("p".into()));
        let address = hash(&[192, 0, 2, 1]);
        for (on, client, text, wanted) in [
            (&HashOn::ClientAddress, "192.0.2.1", None, address),
            (&HashOn::ClientAddress, "::ffff:192.0.2.1", Some("p=1"), address),
            (&capture, "192.0.2.1", None, hash(b"42")),
            (&query, "192.0.2.1", Some("a=1&p=x%20y&p=2"), hash(b"x%20y")),
            (&query, "192.0.2.1", Some("pp=1&p"), address),
            (&query, "192.0.2.1", Some("p=&q"), address),
            (&query, "192.0.2.1", None, address),
            (&HashOn::Capture("seat".into()), "192.0.2.1", None, address),
            (&claim("sub"), "192.0.2.1", None, hash(b"alice")),
            (&claim("room"), "192.0.2.1", None, hash(b"42")),
            (&claim("rooms"), "192.0.2.1", None, address),
            (&claim("seat"), "192.0.2.1", None, address),
        ] {
            assert_eq!(facts(client, text).hash(on), wanted, "{on} {client} {text:?}");
        }
        // The whole of an IPv6 address, not only its network.
        let [one, other] = ["2001:db8::1", "2001:db8::2"]
            .map(|client| facts(client, None).hash(&HashOn::ClientAddress));
        assert_ne!(one, other);
    }

    #[test]
    fn nobody_is_chosen_from_nobody() {
        assert_eq!(Turns::default().next(&[]), None);
        assert_eq!(fewest_sessions(&[], 3), None);
        assert_eq!(better_of_two(&[], 3), None);
        assert_eq!(highest_score(&[], 3), None);
    }

    proptest! {
        /// The promise of rendezvous hashing: nobody moves who does not have to.
        #[test]
        fn a_member_that_goes_moves_its_own_requests_alone(
            weights in proptest::collection::vec(1_u32..=1000, 2..10),
            gone in any::<prop::sample::Index>(),
            requests in proptest::collection::vec(any::<u64>(), 1..100),
        ) {
            let all = candidates(&weights);
            let gone = gone.index(all.len());
            let left: Vec<_> = all.iter().filter(|c| c.seat != gone).copied().collect();
            for request in requests {
                let before = highest_score(&all, request);
                if before != Some(gone) {
                    prop_assert_eq!(highest_score(&left, request), before);
                }
            }
        }

        #[test]
        fn every_policy_chooses_a_candidate(
            weights in proptest::collection::vec(1_u32..=1000, 1..10),
            random in any::<u64>(),
        ) {
            // As if the first seats were out.
            let mut candidates = candidates(&weights);
            candidates.iter_mut().for_each(|c| c.seat += 3);
            let seats: Vec<_> = candidates.iter().map(|c| c.seat).collect();
            let start = usize::try_from(random % 1_000_000).unwrap();
            for chosen in [
                Turns::default().next(&candidates),
                fewest_sessions(&candidates, start),
                better_of_two(&candidates, random),
                highest_score(&candidates, random),
            ] {
                prop_assert!(chosen.is_some_and(|seat| seats.contains(&seat)));
            }
        }
    }
}
