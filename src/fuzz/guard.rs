//! Request streams in front of h3, and the client's control and QPACK streams.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;

use super::{MOST_SECTION_BYTES, pieces, whole};
use crate::webtransport::{
    codes::{error, frame, stream},
    control::{Fault, SettingsSlot, Source, read_critical},
    dialect::Settings,
    fields,
    guard::{FirstSection, Guard, Sender, Violation},
    in_memory, qpack, varint,
};

/// Any bytes on a stream of HTTP/3. The first byte says which stream, the second how the rest is cut.
pub fn guard(data: &[u8]) {
    let Some(([kind, seed], wire)) = data.split_first_chunk() else { return };
    match kind % 6 {
        0 => request(wire, *seed),
        1 => response(wire, *seed),
        2 => critical(stream::CONTROL, wire, *seed, &CONTROL_FAULTS),
        3 => critical(stream::QPACK_ENCODER, wire, *seed, &[error::QPACK_ENCODER_STREAM_ERROR]),
        4 => critical(stream::QPACK_DECODER, wire, *seed, &[error::QPACK_DECODER_STREAM_ERROR]),
        _ => through_h3(wire),
    }
}

/// What went through a guard.
#[derive(Debug, Eq, PartialEq)]
struct Seen {
    bytes: Vec<u8>,
    first: Option<FirstSection>,
    end: End,
}

/// Where the bytes ended, for the guard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Broken(Violation),
    WithinFrame,
    Boundary,
}

fn follow(sender: Sender, pieces: Vec<Bytes>) -> Seen {
    let mut guard = Guard::new(sender, MOST_SECTION_BYTES);
    let mut bytes = Vec::new();
    for piece in pieces {
        guard.push(piece);
        loop {
            match guard.next() {
                Ok(Some(piece)) => {
                    assert!(!piece.is_empty(), "h3 takes an empty piece for the end");
                    bytes.extend(piece);
                }
                Ok(None) => break,
                Err(violation) => {
                    let end = End::Broken(violation);
                    return Seen { bytes, first: guard.first_section(), end };
                }
            }
        }
        // A buffer that grows as bytes come may be up to twice as large as what is in it.
        let most = 2 * MOST_SECTION_BYTES + 64;
        assert!(guard.held() as u64 <= most, "{} bytes are held", guard.held());
    }
    let end = if guard.at_boundary() { End::Boundary } else { End::WithinFrame };
    Seen { bytes, first: guard.first_section(), end }
}

/// A client's request.
fn request(wire: &[u8], seed: u8) {
    let seen = follow(Sender::Client, whole(wire));
    assert_eq!(follow(Sender::Client, pieces(wire, seed)), seen, "cut otherwise");
    check_passage(wire, &seen);
    if let End::Broken(violation) = seen.end {
        assert!(VIOLATIONS.contains(&violation), "{violation:x?}");
    }
    let frames = Frames::of(&seen.bytes).all;
    let Some(first) = frames.first() else { return assert_eq!(seen.first, None) };
    assert_eq!((first.kind, first.is_whole), (frame::HEADERS, true), "a field section is first");
    let fields = qpack::decode(first.payload, MOST_SECTION_BYTES).expect("what h3 sees is sound");
    let sections = frames.iter().filter(|frame| frame.kind == frame::HEADERS).count();
    assert!(sections <= 2, "a request has one section, and trailers");
    match seen.first.expect("a section has gone through") {
        FirstSection::Request(Some(_)) => {
            assert!(fields.iter().all(|field| *field.name != *b":protocol"));
        }
        FirstSection::Request(None) => {
            fields::check_request(&fields).expect("only sound requests go through");
            let again = follow(Sender::Client, whole(&seen.bytes));
            assert_eq!((again.first, again.bytes), (seen.first, seen.bytes), "once more");
        }
        FirstSection::Malformed | FirstSection::TooLarge => {
            let request = fields::check_request(&fields).expect("it stands in for a request");
            assert!(!request.is_connect);
        }
        FirstSection::Response => unreachable!("a client sends none"),
    }
}

/// What a request may cost.
const VIOLATIONS: [Violation; 5] = [
    Violation::Stream(error::H3_MESSAGE_ERROR),
    Violation::Stream(error::H3_EXCESSIVE_LOAD),
    Violation::Connection(error::H3_FRAME_UNEXPECTED),
    Violation::Connection(error::H3_FRAME_ERROR),
    Violation::Connection(error::QPACK_DECOMPRESSION_FAILED),
];

/// A server's response, which the gateway's own client reads.
fn response(wire: &[u8], seed: u8) {
    let seen = follow(Sender::Server, whole(wire));
    assert_eq!(follow(Sender::Server, pieces(wire, seed)), seen, "cut otherwise");
    check_passage(wire, &seen);
    assert!(matches!(seen.first, None | Some(FirstSection::Response)));
}

/// Whether what went through is made of the frames that may, with all the content that was sent.
fn check_passage(wire: &[u8], seen: &Seen) {
    let (sent, passed) = (Frames::of(wire), Frames::of(&seen.bytes));
    assert!(passed.left.is_empty(), "a head is torn");
    for frame in &passed.all {
        assert!(
            matches!(frame.kind, frame::DATA | frame::HEADERS),
            "{:#x} got through",
            frame.kind
        );
        assert!(frame.kind != frame::DATA || frame.length > 0, "h3 takes it for the end");
        assert!(frame.kind != frame::HEADERS || frame.is_whole, "a torn field section");
    }
    let (sent_content, content) = (sent.content(), passed.content());
    match seen.end {
        End::Broken(_) => assert!(sent_content.starts_with(&content)),
        End::Boundary | End::WithinFrame => {
            assert_eq!(content, sent_content);
            let is_boundary = sent.left.is_empty() && sent.all.iter().all(|frame| frame.is_whole);
            assert_eq!(seen.end == End::Boundary, is_boundary);
        }
    }
}

/// A request that passes the guard and h3, as a session's does. Nothing of it may cost the connection but
/// what the guard has found.
fn through_h3(wire: &[u8]) {
    let seen = follow(Sender::Client, whole(wire));
    let exchange = in_memory::exchange(Bytes::copy_from_slice(wire), MOST_SECTION_BYTES);
    match seen.end {
        End::Broken(Violation::Connection(_)) | End::WithinFrame => {}
        End::Broken(Violation::Stream(_)) | End::Boundary => {
            assert!(!exchange.is_closed, "h3 closes the connection: {:?}", exchange.request);
        }
    }
    if exchange.request.is_ok() {
        assert_eq!(exchange.noted, seen.first);
        let content = Frames::of(wire).content();
        match seen.end {
            End::Boundary => assert_eq!(exchange.content, content, "h3 reads all of it"),
            _ => assert!(content.starts_with(&exchange.content)),
        }
    }
}

/// Frames one after the other, read in the plainest way.
struct Frames<'a> {
    all: Vec<Frame<'a>>,
    /// The part of a head at the end.
    left: &'a [u8],
}

struct Frame<'a> {
    kind: u64,
    length: u64,
    payload: &'a [u8],
    is_whole: bool,
}

impl<'a> Frames<'a> {
    fn of(mut left: &'a [u8]) -> Self {
        let mut all = Vec::new();
        while let Some((kind, n)) = varint::peek(left)
            && let Some((length, m)) = varint::peek(&left[n..])
        {
            let rest = &left[n + m..];
            let end = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
            let is_whole = end as u64 == length;
            all.push(Frame { kind, length, payload: &rest[..end], is_whole });
            left = &rest[end..];
        }
        Self { all, left }
    }

    /// The payload of all DATA frames.
    fn content(&self) -> Vec<u8> {
        let data = self.all.iter().filter(|frame| frame.kind == frame::DATA);
        data.flat_map(|frame| frame.payload.iter().copied()).collect()
    }
}

/// What a control stream may cost, beside its end.
const CONTROL_FAULTS: [u64; 6] = [
    error::H3_EXCESSIVE_LOAD,
    error::H3_MISSING_SETTINGS,
    error::H3_FRAME_ERROR,
    error::H3_SETTINGS_ERROR,
    error::H3_FRAME_UNEXPECTED,
    error::H3_ID_ERROR,
];

/// A critical stream, which ends with what is there.
fn critical(kind: u64, wire: &[u8], seed: u8, faults: &[u64]) {
    let read = read_all(kind, whole(wire));
    assert_eq!(read_all(kind, pieces(wire, seed)), read, "cut otherwise");
    let (Fault(code), settings) = read;
    assert!(code == error::H3_CLOSED_CRITICAL_STREAM || faults.contains(&code), "{code:#x}");
    if let Some(settings) = settings {
        let frames = Frames::of(wire).all;
        let first = frames.first().expect("settings were told");
        assert_eq!((kind, first.kind), (stream::CONTROL, frame::SETTINGS));
        assert_eq!(Settings::parse(first.payload), Ok(settings));
    }
}

/// Why a critical stream ended, and the settings that it told.
pub(super) fn read_all(kind: u64, pieces: Vec<Bytes>) -> (Fault, Option<Settings>) {
    let told = SettingsSlot::default();
    let fault = read_critical(kind, Pieces(pieces.into()), Bytes::new(), Arc::clone(&told));
    let fault = fault.now_or_never().expect("the bytes are there");
    (fault, told.get().cloned())
}

struct Pieces(VecDeque<Bytes>);

impl Source for Pieces {
    async fn read(&mut self) -> Result<Bytes, Fault> {
        let piece = self.0.pop_front().filter(Buf::has_remaining);
        piece.ok_or(Fault(error::H3_CLOSED_CRITICAL_STREAM))
    }
}
