//! Capsules on a session's CONNECT stream (RFC 9297 section 3.2, draft section 5.6).
//!
//! They come in DATA frames, cut anywhere. Type and length are read first; a capsule that the gateway
//! does not know is skipped as it comes and never held, whatever length it declares. The largest that
//! is held is WT_CLOSE_SESSION with its reason of at most 1,024 bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{codes::capsule, varint};

/// Longest reason of WT_CLOSE_SESSION, in bytes (draft section 6).
pub(crate) const MAX_REASON_BYTES: usize = 1024;

/// Bytes of the code before the reason.
const CODE_BYTES: usize = 4;

/// A capsule that means something here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Capsule {
    /// The sender ends the session.
    Close {
        /// The application's code; not mapped.
        code: u32,
        /// The application's reason.
        reason: String,
    },
    /// The sender wants the session to end soon.
    Drain,
    /// So much the receiver may send or open in the session's whole life.
    Max(Counted, u64),
    /// The sender would go on, but this limit of the receiver's keeps it from it.
    Blocked(Counted, u64),
}

/// What session flow control counts (draft section 5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Counted {
    /// Payload bytes on all streams of the session.
    Data,
    /// Bidirectional streams that were ever opened.
    Bidi,
    /// Unidirectional streams that were ever opened.
    Uni,
}

/// A capsule that broke a rule: the message is malformed (RFC 9297 section 3.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed capsule")]
pub(crate) struct BadCapsule;

/// Reads capsules from pieces of any size.
#[derive(Debug, Default)]
pub(crate) struct CapsuleReader {
    state: State,
}

#[derive(Debug)]
enum State {
    /// Within type and length.
    Head(BytesMut),
    /// Within a capsule that is skipped; so many bytes are left.
    Skip(u64),
    /// Within a capsule that is held: type, length, what there is.
    Body(u64, usize, BytesMut),
}

impl Default for State {
    fn default() -> Self {
        Self::Head(BytesMut::new())
    }
}

impl CapsuleReader {
    /// Reads from `data` until a capsule is whole, or all of it.
    ///
    /// # Errors
    /// If a known capsule is malformed. Nothing can be read after that.
    pub(crate) fn read(&mut self, data: &mut Bytes) -> Result<Option<Capsule>, BadCapsule> {
        loop {
            match &mut self.state {
                State::Head(head) => {
                    let Some((kind, length)) = read_head(head, data) else { return Ok(None) };
                    self.state = match longest(kind)? {
                        Some(longest) => {
                            let length = usize::try_from(length).map_err(|_too_long| BadCapsule)?;
                            if length > longest {
                                return Err(BadCapsule);
                            }
                            State::Body(kind, length, BytesMut::with_capacity(length))
                        }
                        None => State::Skip(length),
                    };
                }
                State::Skip(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                    data.advance(n);
                    *left -= n as u64;
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.state = State::default();
                }
                State::Body(kind, length, body) => {
                    let n = (*length - body.len()).min(data.len());
                    body.put(data.split_to(n));
                    if body.len() < *length {
                        return Ok(None);
                    }
                    let capsule = parse(*kind, body)?;
                    self.state = State::default();
                    return Ok(Some(capsule));
                }
            }
        }
    }

    /// Bytes that are held, for those who check the bound on them.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn held(&self) -> usize {
        match &self.state {
            State::Head(bytes) | State::Body(_, _, bytes) => bytes.capacity(),
            State::Skip(_) => 0,
        }
    }

    /// Whether the stream may end here: not within a capsule.
    pub(crate) fn at_boundary(&self) -> bool {
        matches!(&self.state, State::Head(head) if head.is_empty())
    }
}

/// Type and length, once both are there. Holds at most 16 bytes.
fn read_head(head: &mut BytesMut, data: &mut Bytes) -> Option<(u64, u64)> {
    loop {
        if let Some((kind, n)) = varint::peek(head)
            && let Some((length, _)) = varint::peek(&head[n..])
        {
            return Some((kind, length));
        }
        if data.is_empty() {
            return None;
        }
        head.put_u8(data.get_u8());
    }
}

/// The longest body of a capsule that is known. `None`: it is not.
fn longest(kind: u64) -> Result<Option<usize>, BadCapsule> {
    match kind {
        capsule::CLOSE_SESSION | capsule::DRAIN_SESSION => Ok(Some(CODE_BYTES + MAX_REASON_BYTES)),
        // QUIC itself limits single streams; in HTTP/3 these break the rules (draft section 5.4).
        capsule::MAX_STREAM_DATA | capsule::STREAM_DATA_BLOCKED => Err(BadCapsule),
        kind => Ok(flow_control(kind).map(|_| varint::MAX_BYTES)),
    }
}

/// A capsule that carries a limit, by its type.
fn flow_control(kind: u64) -> Option<fn(u64) -> Capsule> {
    Some(match kind {
        capsule::MAX_DATA => |limit| Capsule::Max(Counted::Data, limit),
        capsule::MAX_STREAMS_BIDI => |limit| Capsule::Max(Counted::Bidi, limit),
        capsule::MAX_STREAMS_UNI => |limit| Capsule::Max(Counted::Uni, limit),
        capsule::DATA_BLOCKED => |limit| Capsule::Blocked(Counted::Data, limit),
        capsule::STREAMS_BLOCKED_BIDI => |limit| Capsule::Blocked(Counted::Bidi, limit),
        capsule::STREAMS_BLOCKED_UNI => |limit| Capsule::Blocked(Counted::Uni, limit),
        _ => return None,
    })
}

fn parse(kind: u64, body: &BytesMut) -> Result<Capsule, BadCapsule> {
    if let Some(capsule) = flow_control(kind) {
        return match varint::peek(body) {
            Some((limit, length)) if length == body.len() => Ok(capsule(limit)),
            _ => Err(BadCapsule),
        };
    }
    if kind == capsule::DRAIN_SESSION {
        return if body.is_empty() { Ok(Capsule::Drain) } else { Err(BadCapsule) };
    }
    let (code, reason) = body.split_first_chunk::<CODE_BYTES>().ok_or(BadCapsule)?;
    let reason = std::str::from_utf8(reason).map_err(|_not_utf8| BadCapsule)?;
    Ok(Capsule::Close { code: u32::from_be_bytes(*code), reason: reason.to_owned() })
}

/// WT_CLOSE_SESSION, with the reason cut at a character's border to what may be sent.
pub(crate) fn close(code: u32, reason: &str) -> Bytes {
    let reason = cut(reason, MAX_REASON_BYTES);
    let mut bytes = BytesMut::with_capacity(8 + CODE_BYTES + reason.len());
    varint::put(&mut bytes, capsule::CLOSE_SESSION);
    varint::put(&mut bytes, (CODE_BYTES + reason.len()) as u64);
    bytes.put_u32(code);
    bytes.put_slice(reason.as_bytes());
    bytes.freeze()
}

/// A capsule that means nothing (RFC 9297 section 5.4). Some receivers take an empty DATA frame for the
/// end of the stream, so this is what is sent where there is nothing to say.
pub(crate) fn grease() -> Bytes {
    Bytes::from_static(&[0x17, 0])
}

/// WT_DRAIN_SESSION.
pub(crate) fn drain() -> Bytes {
    let mut bytes = BytesMut::with_capacity(8);
    varint::put(&mut bytes, capsule::DRAIN_SESSION);
    varint::put(&mut bytes, 0);
    bytes.freeze()
}

/// Appends WT_MAX_DATA or WT_MAX_STREAMS.
pub(crate) fn put_max(to: &mut BytesMut, what: Counted, limit: u64) {
    let kind = match what {
        Counted::Data => capsule::MAX_DATA,
        Counted::Bidi => capsule::MAX_STREAMS_BIDI,
        Counted::Uni => capsule::MAX_STREAMS_UNI,
    };
    put_limit(to, kind, limit);
}

/// Appends WT_DATA_BLOCKED or WT_STREAMS_BLOCKED.
pub(crate) fn put_blocked(to: &mut BytesMut, what: Counted, limit: u64) {
    let kind = match what {
        Counted::Data => capsule::DATA_BLOCKED,
        Counted::Bidi => capsule::STREAMS_BLOCKED_BIDI,
        Counted::Uni => capsule::STREAMS_BLOCKED_UNI,
    };
    put_limit(to, kind, limit);
}

fn put_limit(to: &mut BytesMut, kind: u64, limit: u64) {
    let mut body = BytesMut::with_capacity(varint::MAX_BYTES);
    varint::put(&mut body, limit);
    varint::put(to, kind);
    varint::put(to, body.len() as u64);
    to.extend_from_slice(&body);
}

fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads everything, in pieces of `step` bytes.
    fn read_all(bytes: &[u8], step: usize) -> Result<Vec<Capsule>, BadCapsule> {
        let mut reader = CapsuleReader::default();
        let mut found = Vec::new();
        for piece in bytes.chunks(step) {
            let mut data = Bytes::copy_from_slice(piece);
            while let Some(capsule) = reader.read(&mut data)? {
                found.push(capsule);
            }
        }
        Ok(found)
    }

    fn raw(kind: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        varint::put(&mut bytes, kind);
        varint::put(&mut bytes, body.len() as u64);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn reads_capsules_however_they_are_cut() {
        let grease = raw(0x29 * 7 + 0x17, b"grease that means nothing");
        let bytes = [grease, drain().to_vec(), close(7, "bye").to_vec()].concat();
        for step in 1..=bytes.len() {
            let closed = Capsule::Close { code: 7, reason: "bye".to_owned() };
            assert_eq!(read_all(&bytes, step), Ok(vec![Capsule::Drain, closed]), "{step}");
        }
    }

    #[test]
    fn limits_are_read_as_they_are_written() {
        let (mut bytes, mut wanted) = (BytesMut::new(), Vec::new());
        for what in [Counted::Data, Counted::Bidi, Counted::Uni] {
            for limit in [0, 63, 64, 1 << 60, varint::MAX] {
                put_max(&mut bytes, what, limit);
                put_blocked(&mut bytes, what, limit);
                wanted.extend([Capsule::Max(what, limit), Capsule::Blocked(what, limit)]);
            }
        }
        for step in [1, 2, 7, bytes.len()] {
            assert_eq!(read_all(&bytes, step).as_ref(), Ok(&wanted), "{step}");
        }
    }

    /// Types and bytes as the draft has them, so that two errors of ours cannot cancel out.
    #[test]
    fn limits_look_on_the_wire_as_the_draft_says() {
        let mut bytes = BytesMut::new();
        put_max(&mut bytes, Counted::Data, 5);
        put_blocked(&mut bytes, Counted::Uni, 0x40);
        let wire = [0x99, 0x0b, 0x4d, 0x3d, 1, 5, 0x99, 0x0b, 0x4d, 0x44, 2, 0x40, 0x40];
        assert_eq!(&bytes[..], wire);
    }

    #[test]
    fn malformed_capsules_are_errors() {
        for bytes in [
            raw(capsule::MAX_DATA, b""),
            raw(capsule::MAX_DATA, &[0x40]),
            raw(capsule::MAX_STREAMS_UNI, &[1, 0]),
            raw(capsule::STREAMS_BLOCKED_BIDI, &[0xc0, 0, 0, 0, 0, 0, 0, 0, 0]),
            raw(capsule::MAX_STREAM_DATA, &[0, 1]),
            raw(capsule::STREAM_DATA_BLOCKED, &[0, 1]),
            raw(capsule::DRAIN_SESSION, b"x"),
            raw(capsule::CLOSE_SESSION, b"abc"),
            raw(capsule::CLOSE_SESSION, b"\0\0\0\x01\xff\xfe"),
            raw(capsule::CLOSE_SESSION, &[b'x'; CODE_BYTES + MAX_REASON_BYTES + 1]),
        ] {
            assert_eq!(read_all(&bytes, 1), Err(BadCapsule));
        }
    }

    #[test]
    fn an_endless_unknown_capsule_is_never_held() {
        let mut reader = CapsuleReader::default();
        let mut head = Bytes::from([&[0x21][..], &varint::MAX.to_be_bytes()].concat());
        // The length is 2^62 - 1 with the two length bits set.
        head = [&head[..1], &[0xff], &head[2..]].concat().into();
        assert_eq!(reader.read(&mut head), Ok(None));
        for _ in 0..1000 {
            let mut data = Bytes::from_static(&[0; 4096]);
            assert_eq!(reader.read(&mut data), Ok(None));
            assert!(data.is_empty());
        }
        assert!(!reader.at_boundary());
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let long = "ä".repeat(600);
        let mut bytes = close(1, &long);
        let read = CapsuleReader::default().read(&mut bytes).unwrap().unwrap();
        assert_eq!(read, Capsule::Close { code: 1, reason: "ä".repeat(512) });
        assert_eq!(cut("aä", 2), "a");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            step in 1..20_usize,
        ) {
            _ = read_all(&bytes, step);
        }
    }
}
