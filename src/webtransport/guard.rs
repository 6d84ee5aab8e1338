//! A bound on what a client can make h3 hold, in front of h3.
//!
//! h3 0.0.8 collects a frame of any declared length before it looks at it, also one of unknown type,
//! and takes a further read from the stream for each frame that it already has. The guard follows the
//! frames of a request stream (RFC 9114 section 7.1) and lets h3 see no more than one frame, or one
//! piece of a DATA frame, at a time; a field section is held here, up to the configured size; frames of
//! unknown types are skipped as they come.
//!
//! Pure: bytes in, bytes or a [`Violation`] out.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    codes::{self, error, frame},
    dialect::Protocol,
    qpack, varint,
};

/// A rule that was broken, and how far the consequence goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Violation {
    /// The stream is reset with this code.
    Stream(u64),
    /// The connection is closed with this code.
    Connection(u64),
}

/// What the first field section said that h3 does not tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FirstSection {
    /// The `:protocol`, if there was one.
    pub(crate) protocol: Option<Protocol>,
}

/// Follows the frames of one request stream.
#[derive(Debug)]
pub(crate) struct Guard {
    max_section_bytes: u64,
    /// Whether the first field section is still to come: only that one has a `:protocol` to read.
    first_section: Option<FirstSection>,
    state: State,
    /// What came and was not looked at.
    unread: VecDeque<Bytes>,
}

#[derive(Debug)]
enum State {
    /// Within type and length of a frame.
    Head(BytesMut),
    /// Within a field section: its length, and what there is of it.
    Section(usize, BytesMut),
    /// Within a DATA frame; so many bytes are left.
    Data(u64),
    /// Within a frame of unknown type; so many bytes are left.
    Skip(u64),
}

impl Guard {
    /// At the start of a request stream.
    pub(crate) fn new(max_section_bytes: u64) -> Self {
        Self {
            max_section_bytes,
            first_section: None,
            state: State::Head(BytesMut::new()),
            unread: VecDeque::new(),
        }
    }

    /// Takes bytes from the stream. Call [`Guard::next`] until it has no more before the next bytes.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.unread.push_back(bytes);
        }
    }

    /// What the first field section said, once it has gone through.
    pub(crate) fn first_section(&self) -> Option<FirstSection> {
        self.first_section
    }

    /// The next bytes that h3 may see. `None`: more bytes are needed.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Violation> {
        loop {
            match &mut self.state {
                State::Head(head) => {
                    let Some((kind, length, bytes)) = read_head(head, &mut self.unread) else {
                        return Ok(None);
                    };
                    if let Some(bytes) = self.begin(kind, length, bytes)? {
                        return Ok(Some(bytes));
                    }
                }
                State::Section(length, section) => {
                    let missing = *length - section.len();
                    let Some(piece) = take(&mut self.unread, missing) else {
                        if missing > 0 {
                            return Ok(None);
                        }
                        let section = std::mem::take(section).freeze();
                        self.state = State::Head(BytesMut::new());
                        return self.finish_section(section).map(Some);
                    };
                    section.put(piece);
                }
                State::Data(0) | State::Skip(0) => self.state = State::Head(BytesMut::new()),
                State::Data(left) => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX);
                    let Some(piece) = take(&mut self.unread, most) else { return Ok(None) };
                    *left -= piece.len() as u64;
                    return Ok(Some(piece));
                }
                State::Skip(left) => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX);
                    let Some(piece) = take(&mut self.unread, most) else { return Ok(None) };
                    *left -= piece.len() as u64;
                }
            }
        }
    }

    /// Whether the stream may end here: not within a frame (RFC 9114 section 7.1).
    pub(crate) fn at_boundary(&self) -> bool {
        match &self.state {
            State::Head(head) => head.is_empty(),
            State::Data(left) | State::Skip(left) => *left == 0,
            State::Section(..) => false,
        }
    }

    /// Begins a frame; yields its head if h3 shall see it at once.
    fn begin(&mut self, kind: u64, length: u64, head: Bytes) -> Result<Option<Bytes>, Violation> {
        let seen = match kind {
            frame::DATA => {
                self.state = State::Data(length);
                Some(head)
            }
            frame::HEADERS => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if length as u64 > self.max_section_bytes {
                    return Err(Violation::Stream(error::H3_EXCESSIVE_LOAD));
                }
                // Grown as bytes come: a client that declares much and sends little costs little.
                self.state = State::Section(length, BytesMut::new());
                None
            }
            // A WebTransport stream says what it is with its first bytes and nowhere else (draft section
            // 4.3).
            codes::STREAM_BIDI => return Err(Violation::Connection(error::H3_FRAME_ERROR)),
            frame::SETTINGS
            | frame::PUSH_PROMISE
            | frame::GOAWAY
            | frame::MAX_PUSH_ID
            | frame::CANCEL_PUSH => return Err(Violation::Connection(error::H3_FRAME_UNEXPECTED)),
            kind if frame::is_reserved(kind) => {
                return Err(Violation::Connection(error::H3_FRAME_UNEXPECTED));
            }
            _ => {
                self.state = State::Skip(length);
                None
            }
        };
        Ok(seen)
    }

    /// Puts a whole field section into a frame for h3.
    fn finish_section(&mut self, section: Bytes) -> Result<Bytes, Violation> {
        let section = if self.first_section.is_none() {
            let (section, protocol) = qpack::read_protocol(section).map_err(|bad| match bad {
                qpack::BadSection::Undecodable => {
                    Violation::Connection(error::QPACK_DECOMPRESSION_FAILED)
                }
                qpack::BadSection::TwoProtocols => Violation::Stream(error::H3_MESSAGE_ERROR),
            })?;
            self.first_section = Some(FirstSection { protocol });
            section
        } else {
            section
        };
        let mut whole = BytesMut::with_capacity(section.len() + 2 * varint::MAX_BYTES);
        varint::put(&mut whole, frame::HEADERS);
        varint::put(&mut whole, section.len() as u64);
        whole.put(section);
        Ok(whole.freeze())
    }
}

/// Type and length of a frame and their bytes, once all are there. Holds at most 16 bytes.
fn read_head(head: &mut BytesMut, unread: &mut VecDeque<Bytes>) -> Option<(u64, u64, Bytes)> {
    loop {
        if let Some((kind, n)) = varint::peek(head)
            && let Some((length, _)) = varint::peek(&head[n..])
        {
            return Some((kind, length, std::mem::take(head).freeze()));
        }
        let byte = take(unread, 1)?;
        head.put(byte);
    }
}

/// Up to `most` bytes from the front, without copying; `None` if there are none or none are wanted.
fn take(unread: &mut VecDeque<Bytes>, most: usize) -> Option<Bytes> {
    let front = unread.front_mut()?;
    if most == 0 {
        return None;
    }
    let piece = front.split_to(most.min(front.len()));
    if !front.has_remaining() {
        unread.pop_front();
    }
    Some(piece)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: u64 = 100;

    /// An empty section, as h3 may get it: no required entries, base 0, `:method: CONNECT`.
    const SECTION: [u8; 3] = [0, 0, 0xcf];

    fn frame_of(kind: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        varint::put(&mut bytes, kind);
        varint::put(&mut bytes, payload.len() as u64);
        bytes.extend(payload);
        bytes
    }

    /// What h3 would see of `bytes`, given in pieces of `step`.
    fn seen(bytes: &[u8], step: usize) -> Result<Vec<u8>, Violation> {
        let mut guard = Guard::new(MAX);
        let mut seen = Vec::new();
        for piece in bytes.chunks(step) {
            guard.push(Bytes::copy_from_slice(piece));
            while let Some(bytes) = guard.next()? {
                seen.extend(&bytes);
            }
        }
        Ok(seen)
    }

    #[test]
    fn sections_and_data_go_through_and_unknown_frames_do_not() {
        let headers = frame_of(frame::HEADERS, &SECTION);
        let data = frame_of(frame::DATA, b"hello");
        let grease = frame_of(0x21 + 0x1f * 5, &[7; 300]);
        let bytes = [&grease[..], &headers, &data, &grease, &frame_of(frame::DATA, b"")].concat();
        for step in 1..=bytes.len() {
            let wanted = [&headers[..], &data, &[0, 0]].concat();
            assert_eq!(seen(&bytes, step), Ok(wanted), "{step}");
        }
    }

    #[test]
    fn a_section_may_be_as_long_as_configured_and_no_longer() {
        let longest = [&SECTION[..], &[0xcf; 97]].concat();
        let fits = frame_of(frame::HEADERS, &longest);
        assert_eq!(seen(&fits, 9), Ok(fits.clone()));
        let too_long = frame_of(frame::HEADERS, &[0; 101]);
        let refused = Err(Violation::Stream(error::H3_EXCESSIVE_LOAD));
        assert_eq!(seen(&too_long[..3], 1), refused, "by its declared length alone");
    }

    #[test]
    fn frames_that_no_request_may_have_close_the_connection() {
        let unexpected = Err(Violation::Connection(error::H3_FRAME_UNEXPECTED));
        for kind in [0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0d] {
            assert_eq!(seen(&frame_of(kind, b""), 1), unexpected, "{kind:#x}");
        }
        let late = [frame_of(frame::HEADERS, &SECTION), frame_of(codes::STREAM_BIDI, b"")].concat();
        assert_eq!(seen(&late, 3), Err(Violation::Connection(error::H3_FRAME_ERROR)));
    }

    #[test]
    fn an_endless_frame_is_never_held() {
        let mut guard = Guard::new(MAX);
        let mut head = BytesMut::new();
        varint::put(&mut head, 0x21);
        varint::put(&mut head, varint::MAX);
        guard.push(head.freeze());
        for _ in 0..1000 {
            guard.push(Bytes::from_static(&[0; 4096]));
            assert_eq!(guard.next(), Ok(None));
            assert!(guard.unread.is_empty() && !guard.at_boundary());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_hold_more_than_a_section(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            step in 1..50_usize,
        ) {
            let mut guard = Guard::new(MAX);
            for piece in bytes.chunks(step) {
                guard.push(Bytes::copy_from_slice(piece));
                while let Ok(Some(_)) = guard.next() {}
                if let State::Section(_, held) = &guard.state {
                    prop_assert!(held.len() as u64 <= MAX);
                }
            }
        }
    }
}
