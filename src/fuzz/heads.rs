//! The heads of streams and datagrams.

use bytes::Bytes;

use crate::webtransport::{
    codes, datagram,
    head::{self, Kind},
    varint,
};

/// The first bytes of a stream, behind a byte that says of which kind it is.
pub fn stream_header(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let is_bidi = kind & 1 == 0;
    let mut said = None;
    for end in 0..=bytes.len().min(3 * varint::MAX_BYTES) {
        let now = head::parse(&bytes[..end], is_bidi);
        match (said, now) {
            (None, now) => said = now,
            (said, now) => assert_eq!(said, now, "more bytes change what the stream is"),
        }
        if let Some((_, length)) = now {
            assert!(length <= end, "it takes what is not there");
        }
    }
    let Some((kind, length)) = said else {
        return assert!(bytes.len() < 2 * varint::MAX_BYTES, "two varints say all");
    };
    let varints = match kind {
        Kind::WebTransport(_) => 2,
        Kind::Uni(_) => 1,
        Kind::Request => 0,
    };
    assert_eq!(length, length_of(varints, bytes), "what is taken away is the head");
    let mut written = Vec::new();
    match kind {
        Kind::WebTransport(session) => {
            let marker = if is_bidi { codes::STREAM_BIDI } else { codes::STREAM_UNI };
            varint::put(&mut written, marker);
            varint::put(&mut written, session);
        }
        Kind::Uni(kind) => {
            assert!(!is_bidi && kind != codes::STREAM_UNI);
            varint::put(&mut written, kind);
        }
        Kind::Request => {
            assert!(is_bidi);
            written.extend(bytes);
        }
    }
    let taken = if kind == Kind::Request { 0 } else { written.len() };
    assert_eq!(head::parse(&written, is_bidi), Some((kind, taken)), "written and read");
}

/// How long so many varints are that stand at the front.
fn length_of(varints: usize, bytes: &[u8]) -> usize {
    (0..varints).fold(0, |at, _| at + varint::peek(&bytes[at..]).map_or(0, |(_, n)| n))
}

/// A datagram.
pub fn datagram_header(data: &[u8]) {
    let quarter = varint::peek(data).filter(|(quarter, _)| *quarter < 1 << 60);
    let Some((session, payload)) = datagram::parse(Bytes::copy_from_slice(data)) else {
        return assert_eq!(quarter, None, "nothing is wrong with it");
    };
    let (quarter, length) = quarter.expect("a session that can be");
    assert_eq!((session, &payload[..]), (quarter * 4, &data[length..]));
    assert!(session <= varint::MAX, "it can be a stream's id");
    let mut written = Vec::new();
    varint::put(&mut written, session / 4);
    written.extend_from_slice(&payload);
    assert_eq!(datagram::parse(written.into()), Some((session, payload)), "written and read");
}
