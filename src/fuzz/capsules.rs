//! Capsules on a session's CONNECT stream, and what session flow control makes of them.

use bytes::{Bytes, BytesMut};

use super::{pieces, whole};
use crate::webtransport::{
    SessionCredit,
    capsule::{self, BadCapsule, Capsule, CapsuleReader, Counted, MAX_REASON_BYTES},
    flow::Flow,
    varint,
};

/// The content of a CONNECT stream, behind a byte that says how it is cut.
pub fn capsules(data: &[u8]) {
    let Some((seed, wire)) = data.split_first() else { return };
    let read = read(whole(wire));
    assert_eq!(self::read(pieces(wire, *seed)), read, "cut otherwise");
    let mut written = BytesMut::new();
    for capsule in &read.capsules {
        check(capsule);
        write(capsule, &mut written);
    }
    let again = Read { capsules: read.capsules.clone(), end: Ok(true) };
    assert_eq!(self::read(whole(&written)), again, "written and read");
    account(&read.capsules);
}

#[derive(Debug, Eq, PartialEq)]
struct Read {
    capsules: Vec<Capsule>,
    /// Whether the last one was whole, if none was malformed.
    end: Result<bool, BadCapsule>,
}

fn read(pieces: Vec<Bytes>) -> Read {
    let (mut reader, mut capsules) = (CapsuleReader::default(), Vec::new());
    for mut piece in pieces {
        loop {
            match reader.read(&mut piece) {
                Ok(Some(capsule)) => capsules.push(capsule),
                Ok(None) => break,
                Err(bad) => return Read { capsules, end: Err(bad) },
            }
        }
        assert!(piece.is_empty(), "all of it is read");
        assert!(reader.held() <= MAX_REASON_BYTES + 64, "{} bytes are held", reader.held());
    }
    Read { capsules, end: Ok(reader.at_boundary()) }
}

fn check(capsule: &Capsule) {
    match capsule {
        Capsule::Close { reason, .. } => assert!(reason.len() <= MAX_REASON_BYTES),
        Capsule::Drain => {}
        Capsule::Max(_, limit) | Capsule::Blocked(_, limit) => assert!(*limit <= varint::MAX),
    }
}

fn write(capsule: &Capsule, to: &mut BytesMut) {
    match capsule {
        Capsule::Close { code, reason } => to.extend_from_slice(&capsule::close(*code, reason)),
        Capsule::Drain => to.extend_from_slice(&capsule::drain()),
        Capsule::Max(what, limit) => capsule::put_max(to, *what, *limit),
        Capsule::Blocked(what, limit) => capsule::put_blocked(to, *what, *limit),
    }
}

/// The gateway never does more than the client's last limit lets it, and limits only rise.
fn account(capsules: &[Capsule]) {
    let first = SessionCredit { data: 100, bidi: 10, uni: 1 };
    let flow = Flow::new(first, first, 1000);
    for what in [Counted::Data, Counted::Bidi, Counted::Uni] {
        let highest = if what == Counted::Data { varint::MAX } else { 1 << 60 };
        let (mut limit, mut used) = (first_limit(first, what), 0);
        for capsule in capsules {
            match capsule {
                Capsule::Max(of, new) if *of == what => {
                    let may_be = *new > limit && *new <= highest;
                    assert_eq!(flow.raise(what, *new).is_ok(), may_be, "{limit} and then {new}");
                    limit = if may_be { *new } else { limit };
                }
                Capsule::Blocked(of, at) if *of == what => {
                    assert_eq!(flow.blocked(what, *at).is_ok(), *at <= highest);
                }
                _ => {}
            }
            if let Some(mut taken) = flow.take(what, 1 << 20) {
                let some = taken.left();
                taken.spend(some);
                used += some;
            }
            assert!(used <= limit, "{used} of {limit} used");
        }
    }
}

fn first_limit(credit: SessionCredit, what: Counted) -> u64 {
    match what {
        Counted::Data => credit.data,
        Counted::Bidi => credit.bidi,
        Counted::Uni => credit.uni,
    }
}
