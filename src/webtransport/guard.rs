//! A bound on what a client can make h3 hold, in front of h3.
//!
//! h3 0.0.8 collects a frame of any declared length before it looks at it, also one of unknown type,
//! and takes a further read from the stream for each frame that it already has. The guard follows the
//! frames of a request stream (RFC 9114 section 7.1) and lets h3 see no more than one frame, or one
//! piece of a DATA frame, at a time; a field section is held here, up to the configured size; frames of
//! unknown types are skipped as they come. A request's fields are checked here too (`fields`), and so is
//! the order of its frames: h3 would take trailers, or an empty DATA frame, for the end of a session.
//!
//! Pure: bytes in, bytes or a [`Violation`] out.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    codes::{self, error, frame},
    dialect::Protocol,
    fields,
    qpack::{self, BadSection, Field},
    varint,
};

/// A rule that was broken, and how far the consequence goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Violation {
    /// The stream is reset with this code.
    Stream(u64),
    /// The connection is closed with this code.
    Connection(u64),
}

/// What the first field section was that h3 does not tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FirstSection {
    /// A request, with its `:protocol` if there was one.
    Request(Option<Protocol>),
    /// A request that breaks HTTP's rules. h3 sees another in its place.
    Malformed,
    /// A request that is too large to be looked at. h3 sees another in its place.
    TooLarge,
    /// A response, which nothing is checked of.
    Response,
}

/// Whose messages come on the stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sender {
    /// A client's: requests. They are checked.
    Client,
    /// A server's: responses.
    Server,
}

/// Follows the frames of one request stream.
#[derive(Debug)]
pub(crate) struct Guard {
    sender: Sender,
    max_section_bytes: u64,
    first_section: Option<FirstSection>,
    part: Part,
    state: State,
    /// What came and was not looked at.
    unread: VecDeque<Bytes>,
}

/// How much of a request has come (RFC 9114 section 4.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    /// Nothing: a field section must be first.
    Start,
    /// The field section: content or trailers follow.
    Content,
    /// The field section of a CONNECT: only content follows (section 4.4).
    Tunnel,
    /// The trailers: nothing follows.
    Trailers,
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
    pub(crate) fn new(sender: Sender, max_section_bytes: u64) -> Self {
        Self {
            sender,
            max_section_bytes,
            first_section: None,
            part: Part::Start,
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

    /// What the first field section was, once it has gone through.
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
                        let section = std::mem::take(section);
                        self.state = State::Head(BytesMut::new());
                        return self.finish_section(&section).map(Some);
                    };
                    if section.is_empty() && piece.len() == missing {
                        // Mostly all of it has come at once.
                        self.state = State::Head(BytesMut::new());
                        return self.finish_section(&piece).map(Some);
                    }
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

    /// Bytes that are held, for those who check the bound on them.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn held(&self) -> usize {
        let unread: usize = self.unread.iter().map(Bytes::len).sum();
        let begun = match &self.state {
            State::Head(bytes) | State::Section(_, bytes) => bytes.capacity(),
            State::Data(_) | State::Skip(_) => 0,
        };
        unread + begun
    }

    /// Begins a frame; yields its head if h3 shall see it at once.
    fn begin(&mut self, kind: u64, length: u64, head: Bytes) -> Result<Option<Bytes>, Violation> {
        match kind {
            frame::DATA => {
                self.expect(&[Part::Content, Part::Tunnel])?;
                self.state = State::Data(length);
                // h3 takes an empty one for the end of the stream.
                Ok((length > 0).then_some(head))
            }
            frame::HEADERS => {
                self.expect(&[Part::Start, Part::Content])?;
                self.begin_section(length)
            }
            // A WebTransport stream says what it is with its first bytes and nowhere else (draft section
            // 4.3).
            codes::STREAM_BIDI => Err(Violation::Connection(error::H3_FRAME_ERROR)),
            frame::SETTINGS
            | frame::PUSH_PROMISE
            | frame::GOAWAY
            | frame::MAX_PUSH_ID
            | frame::CANCEL_PUSH => Err(UNEXPECTED),
            kind if frame::is_reserved(kind) => Err(UNEXPECTED),
            _ => {
                self.state = State::Skip(length);
                Ok(None)
            }
        }
    }

    /// Whether the next frame may come after what has come. h3 sees to the order of responses.
    fn expect(&self, parts: &[Part]) -> Result<(), Violation> {
        let may_come = self.sender == Sender::Server || parts.contains(&self.part);
        if may_come { Ok(()) } else { Err(UNEXPECTED) }
    }

    fn begin_section(&mut self, length: u64) -> Result<Option<Bytes>, Violation> {
        if length > self.max_section_bytes {
            // Not held, whatever is still to come of it.
            self.state = State::Skip(length);
            return self.too_large().map(Some);
        }
        // Grown as bytes come: a client that declares much and sends little costs little.
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.state = State::Section(length, BytesMut::new());
        Ok(None)
    }

    /// Puts a whole field section into a frame for h3.
    fn finish_section(&mut self, section: &[u8]) -> Result<Bytes, Violation> {
        if self.sender == Sender::Server {
            self.first_section.get_or_insert(FirstSection::Response);
            return Ok(in_frame(section));
        }
        let fields = match qpack::decode(section, self.max_section_bytes) {
            Ok(fields) => fields,
            Err(BadSection::TooLarge) => return self.too_large(),
            Err(BadSection::Undecodable) => {
                return Err(Violation::Connection(error::QPACK_DECOMPRESSION_FAILED));
            }
        };
        if self.part == Part::Start { Ok(self.request(&fields)) } else { self.trailers(&fields) }
    }

    fn request(&mut self, fields: &[Field]) -> Bytes {
        let Ok(request) = fields::check_request(fields) else {
            return self.stand_in(FirstSection::Malformed);
        };
        self.first_section = Some(FirstSection::Request(request.protocol));
        self.part = if request.is_connect { Part::Tunnel } else { Part::Content };
        // h3 does not know every token, and need not know any.
        in_frame(&qpack::encode(fields.iter().filter(|field| *field.name != *b":protocol")))
    }

    fn trailers(&mut self, fields: &[Field]) -> Result<Bytes, Violation> {
        self.part = Part::Trailers;
        fields::check_trailers(fields)
            .map_err(|_malformed| Violation::Stream(error::H3_MESSAGE_ERROR))?;
        Ok(in_frame(&qpack::encode(fields.iter())))
    }

    fn too_large(&mut self) -> Result<Bytes, Violation> {
        if self.sender == Sender::Client && self.part == Part::Start {
            return Ok(self.stand_in(FirstSection::TooLarge));
        }
        Err(Violation::Stream(error::H3_EXCESSIVE_LOAD))
    }

    /// A request that h3 takes, in place of one that it is not to see: only so can it be answered.
    fn stand_in(&mut self, instead_of: FirstSection) -> Bytes {
        self.first_section = Some(instead_of);
        self.part = Part::Content;
        let field = |(name, value): (&'static str, &'static str)| Field {
            name: name.as_bytes().into(),
            value: value.as_bytes().into(),
        };
        let fields =
            [(":method", "GET"), (":scheme", "https"), (":authority", "invalid"), (":path", "/")];
        in_frame(&qpack::encode(fields.map(field).iter()))
    }
}

const UNEXPECTED: Violation = Violation::Connection(error::H3_FRAME_UNEXPECTED);

fn in_frame(section: &[u8]) -> Bytes {
    let mut whole = BytesMut::with_capacity(section.len() + 2 * varint::MAX_BYTES);
    varint::put(&mut whole, frame::HEADERS);
    varint::put(&mut whole, section.len() as u64);
    whole.put(section);
    whole.freeze()
}

/// Type and length of a frame and their bytes, once all are there. Holds at most 16 bytes.
fn read_head(head: &mut BytesMut, unread: &mut VecDeque<Bytes>) -> Option<(u64, u64, Bytes)> {
    if head.is_empty()
        && let Some((kind, length, bytes)) = unread.front().and_then(|front| peek_head(front))
    {
        // Mostly all of it has come at once.
        return take(unread, bytes).map(|head| (kind, length, head));
    }
    loop {
        if let Some((kind, length, _)) = peek_head(head) {
            return Some((kind, length, std::mem::take(head).freeze()));
        }
        let byte = take(unread, 1)?;
        head.put(byte);
    }
}

/// Type and length of a frame at the front of these bytes, and of how many bytes they are.
fn peek_head(bytes: &[u8]) -> Option<(u64, u64, usize)> {
    let (kind, n) = varint::peek(bytes)?;
    let (length, m) = varint::peek(bytes.get(n..)?)?;
    Some((kind, length, n + m))
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
        if unread.is_empty() {
            // A session's stream says nothing more for as long as it lives.
            *unread = VecDeque::new();
        }
    }
    Some(piece)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            in_memory,
            qpack::{MOST_FIELDS, tests::field},
        },
        *,
    };
    use proptest::prelude::*;

    const MAX: u64 = 300;

    fn section(fields: &[(&str, &str)]) -> Bytes {
        let fields: Vec<_> = fields.iter().map(|(name, value)| field(name, value)).collect();
        qpack::encode(fields.iter()).freeze()
    }

    const GET: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "https"), (":authority", "a.org"), (":path", "/")];

    /// A request's first frame, as h3 gets it.
    fn get() -> Vec<u8> {
        frame_of(frame::HEADERS, &section(&GET))
    }

    fn connect() -> Vec<u8> {
        let tunnel = section(&[(":method", "CONNECT"), (":authority", "a.org")]);
        frame_of(frame::HEADERS, &tunnel)
    }

    fn frame_of(kind: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        varint::put(&mut bytes, kind);
        varint::put(&mut bytes, payload.len() as u64);
        bytes.extend(payload);
        bytes
    }

    /// What h3 would see of `bytes`, given in pieces of `step`.
    fn seen(bytes: &[u8], step: usize) -> Result<Vec<u8>, Violation> {
        let mut guard = Guard::new(Sender::Client, MAX);
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
    fn sections_and_data_go_through_and_unknown_or_empty_frames_do_not() {
        let headers = get();
        let data = frame_of(frame::DATA, b"hello");
        let grease = frame_of(0x21 + 0x1f * 5, &[7; 300]);
        let trailers = frame_of(frame::HEADERS, &section(&[("x", "y")]));
        let bytes = [&grease[..], &headers, &data, &grease, &frame_of(frame::DATA, b""), &trailers]
            .concat();
        for step in 1..=bytes.len() {
            let wanted = [&headers[..], &data, &trailers].concat();
            assert_eq!(seen(&bytes, step), Ok(wanted), "{step}");
        }
    }

    /// What the guard notes of a first section, and what h3 sees of it.
    fn noted(section: &[u8]) -> (Option<FirstSection>, Vec<u8>) {
        let mut guard = Guard::new(Sender::Client, MAX);
        guard.push(frame_of(frame::HEADERS, section).into());
        let seen = guard.next().unwrap().unwrap_or_default().to_vec();
        (guard.first_section(), seen)
    }

    #[test]
    fn a_request_that_h3_is_not_to_see_is_noted_and_replaced() {
        let twice = [&GET[..], &GET[3..]].concat();
        let (what, seen) = noted(&section(&twice));
        assert_eq!(what, Some(FirstSection::Malformed));
        assert!(seen.windows(7).any(|text| text == b"invalid"));

        let large = [&GET[..], &[("x", "0123456789012345678901234567890123456789")]].concat();
        assert!((section(&large).len() as u64) < MAX, "but larger with the fields' overhead");
        let declared = vec![0; 301];
        for section in [&section(&[&large[..], &large[4..]].concat())[..], &declared] {
            let (what, seen) = noted(section);
            assert_eq!(what, Some(FirstSection::TooLarge));
            assert!(seen.windows(7).any(|text| text == b"invalid"));
        }
    }

    /// With `limits.header_bytes` near its highest, a request had room for more fields than h3's map, and a
    /// client could make the connection's task panic.
    #[test]
    fn a_request_with_more_fields_than_h3_can_take_is_too_large() {
        const MEBIBYTE: u64 = 1 << 20;
        for (more, wanted) in [
            (25_000, FirstSection::TooLarge),
            (MOST_FIELDS - GET.len() + 1, FirstSection::TooLarge),
            (MOST_FIELDS - GET.len(), FirstSection::Request(None)),
        ] {
            let fields: Vec<_> = GET.into_iter().chain((0..more).map(|_| ("x", ""))).collect();
            let request = frame_of(frame::HEADERS, &section(&fields));
            let exchange = in_memory::exchange(request.into(), MEBIBYTE);
            assert_eq!(exchange.noted, Some(wanted), "{more}");
            assert!(exchange.request.is_ok());
        }
    }

    #[test]
    fn the_protocol_is_noted_and_taken_away() {
        let mut fields = GET.to_vec();
        fields[0].1 = "CONNECT";
        fields.push((":protocol", "webtransport-h3"));
        let (what, seen) = noted(&section(&fields));
        assert_eq!(what, Some(FirstSection::Request(Some(Protocol::WebTransportH3))));
        fields.pop();
        assert_eq!(seen, frame_of(frame::HEADERS, &section(&fields)));
    }

    #[test]
    fn frames_that_no_request_may_have_close_the_connection() {
        for kind in [0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0d] {
            assert_eq!(seen(&frame_of(kind, b""), 1), Err(UNEXPECTED), "{kind:#x}");
        }
        let late = [get(), frame_of(codes::STREAM_BIDI, b"")].concat();
        assert_eq!(seen(&late, 3), Err(Violation::Connection(error::H3_FRAME_ERROR)));
    }

    #[test]
    fn frames_come_in_their_order() {
        let data = frame_of(frame::DATA, b"x");
        let trailers = frame_of(frame::HEADERS, &section(&[("x", "y")]));
        for frames in [
            [&data[..], &get(), &data],
            [&get(), &trailers, &data],
            [&get(), &trailers, &trailers],
            [&connect(), &data, &trailers],
        ] {
            assert_eq!(seen(&frames.concat(), 1), Err(UNEXPECTED));
        }
        let bad_trailers = frame_of(frame::HEADERS, &section(&GET));
        let malformed = Err(Violation::Stream(error::H3_MESSAGE_ERROR));
        assert_eq!(seen(&[get(), bad_trailers].concat(), 1), malformed);
    }

    #[test]
    fn an_endless_frame_is_never_held() {
        let mut guard = Guard::new(Sender::Client, MAX);
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
            let mut guard = Guard::new(Sender::Client, MAX);
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
