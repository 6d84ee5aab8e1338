//! The `:protocol` of a field section, read and replaced without decoding the rest.
//!
//! h3 0.0.8 knows the token `webtransport` but neither `webtransport-h3`, which drafts 15 and 16 use,
//! nor tokens that should be answered with 501; it takes a request with those for malformed. So the
//! token is read before h3 sees the section, and one that h3 knows is put in its place. The section is
//! walked field line by field line, by length alone (RFC 9204 section 4.5): values are not decoded, but
//! a section that h3 could stumble over is refused here.

use bytes::{BufMut, Bytes, BytesMut};

use super::dialect::Protocol;

/// Names and tokens, as they are and in Huffman's code (RFC 7541 appendix B); encoders may choose.
const NAME: [&[u8]; 2] = [b":protocol", &[0xb9, 0x5d, 0x87, 0x49, 0xc8, 0x7a, 0x3f]];
const WEBTRANSPORT: [&[u8]; 2] =
    [b"webtransport", &[0xf0, 0x58, 0xd3, 0x60, 0xea, 0x45, 0x67, 0xb1, 0x3f]];
const WEBTRANSPORT_H3: [&[u8]; 2] =
    [b"webtransport-h3", &[0xf0, 0x58, 0xd3, 0x60, 0xea, 0x45, 0x67, 0xb1, 0x2b, 0x4e, 0xcf]];

/// Tokens that h3 can read, to be put in the place of those that it cannot.
const READABLE: &[u8] = b"webtransport";
const READABLE_UNKNOWN: &[u8] = b"connect-udp";

/// A field section that no request may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum BadSection {
    /// It cannot be decoded (RFC 9204 section 2.2).
    #[error("field section cannot be decoded")]
    Undecodable,
    /// It says its `:protocol` twice (RFC 9114 section 4.3).
    #[error("two :protocol pseudo-headers")]
    TwoProtocols,
}

/// Reads the `:protocol` of a field section and makes the section readable for h3.
pub(crate) fn read_protocol(section: Bytes) -> Result<(Bytes, Option<Protocol>), BadSection> {
    let Some((line, protocol)) = find_protocol(&section)? else { return Ok((section, None)) };
    let readable = match protocol {
        Protocol::WebTransport => return Ok((section, Some(protocol))),
        Protocol::WebTransportH3 => READABLE,
        Protocol::Unknown => READABLE_UNKNOWN,
    };
    let mut rewritten = BytesMut::with_capacity(section.len() + 32);
    rewritten.put_slice(&section[..line.start]);
    put_literal(&mut rewritten, NAME[0], readable);
    rewritten.put_slice(&section[line.end..]);
    Ok((rewritten.freeze(), Some(protocol)))
}

/// A literal field line with a literal name, neither in Huffman's code (RFC 9204 section 4.5.6).
fn put_literal(to: &mut BytesMut, name: &[u8], value: &[u8]) {
    debug_assert!(name.len() >= 7 && value.len() < 127, "the lengths as encoded here");
    // The name's length has three bits: 7 and the rest.
    to.put_u8(0x27);
    to.put_u8(u8::try_from(name.len() - 7).unwrap_or_default());
    to.put_slice(name);
    to.put_u8(u8::try_from(value.len()).unwrap_or_default());
    to.put_slice(value);
}

/// Where the field line with the `:protocol` is, and what it says.
fn find_protocol(section: &[u8]) -> Result<Option<(std::ops::Range<usize>, Protocol)>, BadSection> {
    let mut walk = Walk { section, at: 0 };
    // The gateway's dynamic table has no room, so no section can need entries of it.
    let (_, required_insert_count) = walk.integer(8)?;
    _ = walk.integer(7)?;
    if required_insert_count != 0 {
        return Err(BadSection::Undecodable);
    }

    let mut found = None;
    while walk.at < section.len() {
        let start = walk.at;
        let Some((name, value)) = walk.field_line()? else { continue };
        if !is_one_of(NAME, name) {
            continue;
        }
        let protocol = match value {
            value if is_one_of(WEBTRANSPORT, value) => Protocol::WebTransport,
            value if is_one_of(WEBTRANSPORT_H3, value) => Protocol::WebTransportH3,
            _ => Protocol::Unknown,
        };
        if found.replace((start..walk.at, protocol)).is_some() {
            return Err(BadSection::TwoProtocols);
        }
    }
    Ok(found)
}

fn is_one_of([plain, coded]: [&[u8]; 2], (huffman, bytes): Text<'_>) -> bool {
    bytes == if huffman { coded } else { plain }
}

/// A string literal: whether it is in Huffman's code, and its bytes.
type Text<'a> = (bool, &'a [u8]);

/// Entries of QPACK's static table (RFC 9204 appendix A).
const STATIC_ENTRIES: usize = 99;

struct Walk<'a> {
    section: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    /// Steps over one field line; yields name and value if both are literal.
    fn field_line(&mut self) -> Result<Option<(Text<'a>, Text<'a>)>, BadSection> {
        let first = self.peek()?;
        match first {
            // Indexed: 1Txxxxxx.
            0x80.. => {
                self.static_index(6, first & 0x40 != 0)?;
                Ok(None)
            }
            // Literal with a name of the table: 01NTxxxx.
            0x40.. => {
                self.static_index(4, first & 0x10 != 0)?;
                self.text(7)?;
                Ok(None)
            }
            // Literal with a literal name: 001NHxxx.
            0x20.. => {
                let name = self.text(3)?;
                Ok(Some((name, self.text(7)?)))
            }
            // References to the dynamic table after the base.
            _ => Err(BadSection::Undecodable),
        }
    }

    fn static_index(&mut self, bits: u32, is_static: bool) -> Result<(), BadSection> {
        let (_, index) = self.integer(bits)?;
        if is_static && index < STATIC_ENTRIES { Ok(()) } else { Err(BadSection::Undecodable) }
    }

    /// A string literal whose length has so many bits in its first byte, after the Huffman flag.
    fn text(&mut self, bits: u32) -> Result<Text<'a>, BadSection> {
        let (flags, length) = self.integer(bits)?;
        let end = self.at.checked_add(length).ok_or(BadSection::Undecodable)?;
        let bytes = self.section.get(self.at..end).ok_or(BadSection::Undecodable)?;
        self.at = end;
        Ok((flags & 1 == 1, bytes))
    }

    /// An integer with a prefix of so many bits (RFC 7541 section 5.1), and the bits before it. Larger
    /// ones than any length or index that can be right are errors, so nothing overflows, here or in h3.
    fn integer(&mut self, bits: u32) -> Result<(u8, usize), BadSection> {
        let first = self.peek()?;
        self.at += 1;
        let mask = u8::MAX >> (8 - bits);
        let flags = if bits == 8 { 0 } else { first >> bits };
        let mut value = usize::from(first & mask);
        if first & mask < mask {
            return Ok((flags, value));
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.peek()?;
            self.at += 1;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((flags, value));
            }
        }
        Err(BadSection::Undecodable)
    }

    fn peek(&self) -> Result<u8, BadSection> {
        self.section.get(self.at).copied().ok_or(BadSection::Undecodable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `:method: CONNECT`, `:scheme: https`, `:path: /`, all from the static table.
    const OTHERS: [u8; 3] = [0x80 | 0x40 | 15, 0x80 | 0x40 | 23, 0x80 | 0x40 | 1];

    fn section(lines: &[&[u8]]) -> Bytes {
        [&[0, 0][..], &OTHERS, &lines.concat()].concat().into()
    }

    fn literal(value: &[u8]) -> Vec<u8> {
        let mut line = BytesMut::new();
        put_literal(&mut line, NAME[0], value);
        line.to_vec()
    }

    fn huffman(value: &[u8]) -> Vec<u8> {
        let mut line = vec![0x28 | 7];
        line.extend([0, 0xb9, 0x5d, 0x87, 0x49, 0xc8, 0x7a, 0x3f]);
        line.push(0x80 | u8::try_from(value.len()).unwrap());
        line.extend(value);
        line
    }

    #[test]
    fn reads_the_token_plain_and_coded() {
        for (line, protocol) in [
            (literal(b"webtransport"), Protocol::WebTransport),
            (huffman(WEBTRANSPORT[1]), Protocol::WebTransport),
            (literal(b"webtransport-h3"), Protocol::WebTransportH3),
            (huffman(WEBTRANSPORT_H3[1]), Protocol::WebTransportH3),
            (literal(b"websocket"), Protocol::Unknown),
        ] {
            let (readable, read) = read_protocol(section(&[&line, &[0xc1]])).unwrap();
            assert_eq!(read, Some(protocol));
            // What h3 gets is one of its own tokens, between the same neighbours.
            assert!(readable.starts_with(&section(&[])[..]) && readable.ends_with(&[0xc1]));
            let known = [WEBTRANSPORT[0], WEBTRANSPORT[1], READABLE_UNKNOWN];
            assert!(known.iter().any(|t| readable.windows(t.len()).any(|w| w == *t)), "{line:x?}");
        }
    }

    #[test]
    fn a_token_elsewhere_in_the_section_is_left_alone() {
        // A header called `x` whose value is the very bytes of the field line.
        let inner = literal(b"webtransport-h3");
        let mut line = vec![0x21, b'x', u8::try_from(inner.len()).unwrap()];
        line.extend(&inner);
        let whole = section(&[&line]);
        assert_eq!(read_protocol(whole.clone()), Ok((whole, None)));
    }

    #[test]
    fn sections_that_cannot_be_decoded_are_refused() {
        for bytes in [
            &[][..],
            &[0],
            &[1, 0],                                        // needs the dynamic table
            &[0, 0, 0x80],                                  // dynamic entry
            &[0, 0, 0x10],                                  // dynamic entry after the base
            &[0, 0, 0xff, 36],                              // static entry 99 does not exist
            &[0, 0, 0x27, 0xff, 0xff, 0xff, 0xff, 0xff, 1], // endless length
            &[0, 0, 0x23, b'a'],                            // cut
        ] {
            let read = read_protocol(Bytes::copy_from_slice(bytes));
            assert_eq!(read, Err(BadSection::Undecodable), "{bytes:x?}");
        }
        let line = literal(b"webtransport");
        let twice = read_protocol(section(&[&line, &line]));
        assert_eq!(twice, Err(BadSection::TwoProtocols));
    }

    proptest! {
        #[test]
        fn no_section_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            _ = read_protocol(bytes.into());
        }

        #[test]
        fn what_it_makes_it_can_read(
            token in proptest::collection::vec(any::<u8>(), 0..30),
        ) {
            let (readable, _) = read_protocol(section(&[&literal(&token)])).unwrap();
            let (again, read) = read_protocol(readable.clone()).unwrap();
            prop_assert_eq!(again, readable);
            prop_assert!(read.is_some());
        }
    }
}
