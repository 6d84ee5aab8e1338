//! Field sections without a dynamic table (RFC 9204 section 4.5): bytes to fields and back.
//!
//! The gateway decodes every request's section by itself and hands h3 a plain copy of it, so that no
//! field means one thing here and another there: h3 0.0.8 takes a pseudo-header twice or after the
//! others, and does not know the token `webtransport-h3`. What the fields must be is not decided here
//! (see `fields`).
//!
//! Pure. What is decoded is bounded as SETTINGS_MAX_FIELD_SECTION_SIZE counts it (RFC 9114 section
//! 4.2.2), while it is decoded.

mod huffman;
mod table;

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use self::table::STATIC;

/// What each field costs beside its bytes (RFC 9114 section 4.2.2).
pub(crate) const FIELD_OVERHEAD: usize = 32;

/// Most fields of a section, however large it may be: h3 collects them in `http`'s map, which panics
/// when it is to hold more than 24,576.
pub(super) const MOST_FIELDS: usize = 16_384;

/// As many as requests for sessions mostly have: room for them costs one allocation.
const USUAL_FIELDS: usize = 8;

/// A field line, decoded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: Cow<'static, [u8]>,
    pub(crate) value: Cow<'static, [u8]>,
}

/// Why a section has no fields.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum BadSection {
    /// It cannot be decoded (RFC 9204 section 2.2).
    #[error("field section cannot be decoded")]
    Undecodable,
    /// Its fields are larger than allowed, or too many.
    #[error("field section is too large")]
    TooLarge,
}

/// Decodes a section whose fields may take `most` bytes.
pub(crate) fn decode(section: &[u8], most: u64) -> Result<Vec<Field>, BadSection> {
    let mut walk = Walk { section, at: 0 };
    // The gateway's dynamic table has no room, so no section can need entries of it.
    let (_, required_insert_count) = walk.integer(8)?;
    _ = walk.integer(7)?;
    if required_insert_count != 0 {
        return Err(BadSection::Undecodable);
    }
    let (mut fields, mut size) = (Vec::with_capacity(USUAL_FIELDS), 0);
    while walk.at < section.len() {
        let field = walk.field()?;
        size += (field.name.len() + field.value.len() + FIELD_OVERHEAD) as u64;
        if size > most || fields.len() == MOST_FIELDS {
            return Err(BadSection::TooLarge);
        }
        fields.push(field);
    }
    Ok(fields)
}

/// Encodes fields as plainly as can be: literal names, literal values, no Huffman code.
pub(crate) fn encode<'a>(fields: impl Iterator<Item = &'a Field> + Clone) -> BytesMut {
    let bytes = fields.clone().map(|field| field.name.len() + field.value.len() + MOST_LENGTHS);
    let mut section = BytesMut::with_capacity(2 + bytes.sum::<usize>());
    // Required Insert Count and Base (RFC 9204 section 4.5.1).
    section.put_slice(&[0, 0]);
    for field in fields {
        put_integer(&mut section, 0x20, 3, field.name.len());
        section.put_slice(&field.name);
        put_integer(&mut section, 0, 7, field.value.len());
        section.put_slice(&field.value);
    }
    section
}

/// Bytes of the two lengths of a field line. Those of a megabyte and more take some more, and there is room for
/// that where it is needed.
const MOST_LENGTHS: usize = 2 * 4;

/// An integer in the last `bits` bits of a byte that begins with `flags` (RFC 7541 section 5.1).
fn put_integer(to: &mut BytesMut, flags: u8, bits: u32, value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        to.put_u8(flags | low_byte(value));
        return;
    }
    to.put_u8(flags | low_byte(most));
    let mut left = value - most;
    while left > 0x7f {
        to.put_u8(0x80 | low_byte(left & 0x7f));
        left >>= 7;
    }
    to.put_u8(low_byte(left));
}

fn low_byte(value: usize) -> u8 {
    value.to_le_bytes()[0]
}

struct Walk<'a> {
    section: &'a [u8],
    at: usize,
}

impl Walk<'_> {
    /// Reads one field line.
    fn field(&mut self) -> Result<Field, BadSection> {
        let first = self.peek()?;
        match first {
            // Indexed: 1Txxxxxx.
            0x80.. => {
                let (name, value) = self.entry(6, first & 0x40 != 0)?;
                Ok(Field { name: name.as_bytes().into(), value: value.as_bytes().into() })
            }
            // Literal with a name of the table: 01NTxxxx.
            0x40.. => {
                let (name, _) = self.entry(4, first & 0x10 != 0)?;
                Ok(Field { name: name.as_bytes().into(), value: self.text(7)?.into() })
            }
            // Literal with a literal name: 001NHxxx.
            0x20.. => {
                let name = self.text(3)?;
                Ok(Field { name: name.into(), value: self.text(7)?.into() })
            }
            // References to the dynamic table after the base.
            _ => Err(BadSection::Undecodable),
        }
    }

    fn entry(
        &mut self,
        bits: u32,
        is_static: bool,
    ) -> Result<(&'static str, &'static str), BadSection> {
        let (_, index) = self.integer(bits)?;
        STATIC.get(index).copied().filter(|_| is_static).ok_or(BadSection::Undecodable)
    }

    /// A string literal whose length has so many bits in its first byte, after the Huffman flag.
    fn text(&mut self, bits: u32) -> Result<Vec<u8>, BadSection> {
        let (flags, length) = self.integer(bits)?;
        let end = self.at.checked_add(length).ok_or(BadSection::Undecodable)?;
        let bytes = self.section.get(self.at..end).ok_or(BadSection::Undecodable)?;
        self.at = end;
        if flags & 1 == 0 {
            return Ok(bytes.to_vec());
        }
        huffman::decode(bytes).map_err(|_bad| BadSection::Undecodable)
    }

    /// An integer with a prefix of so many bits (RFC 7541 section 5.1), and the bits before it. Larger
    /// ones than any length or index that can be right are errors, so nothing overflows.
    fn integer(&mut self, bits: u32) -> Result<(u8, usize), BadSection> {
        let first = self.byte()?;
        let mask = u8::MAX >> (8 - bits);
        let flags = if bits == 8 { 0 } else { first >> bits };
        let mut value = usize::from(first & mask);
        if first & mask < mask {
            return Ok((flags, value));
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((flags, value));
            }
        }
        Err(BadSection::Undecodable)
    }

    fn byte(&mut self) -> Result<u8, BadSection> {
        let byte = self.peek()?;
        self.at += 1;
        Ok(byte)
    }

    fn peek(&self) -> Result<u8, BadSection> {
        self.section.get(self.at).copied().ok_or(BadSection::Undecodable)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: u64 = 4096;

    /// A field for tests of this room.
    pub(in crate::webtransport) fn field(name: &str, value: &str) -> Field {
        Field { name: name.as_bytes().to_vec().into(), value: value.as_bytes().to_vec().into() }
    }

    #[test]
    fn reads_every_kind_of_field_line() {
        for (line, wanted) in [
            (&[0xcf][..], field(":method", "CONNECT")),
            (&[0x51, 0x02, b'/', b'a'], field(":path", "/a")),
            (&[0x71, 0x02, b'/', b'a'], field(":path", "/a")), // never to be indexed
            (&[0x51, 0x82, 0x61, 0xff], field(":path", "/9")), // in Huffman's code
            (&[0x21, b'x', 0x01, b'y'], field("x", "y")),
            (&[0x27, 0x00, b'w', b't', b'-', b'p', b'r', b'o', b't', 0x00], field("wt-prot", "")),
            // RFC 7541 C.4.3: `custom-key: custom-value`, both in Huffman's code.
            (
                &[
                    0x2f, 0x01, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f, 0x89, 0x25, 0xa8,
                    0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf,
                ],
                field("custom-key", "custom-value"),
            ),
        ] {
            let section = [&[0, 0][..], line].concat();
            assert_eq!(decode(&section, MAX), Ok(vec![wanted]), "{line:x?}");
        }
    }

    #[test]
    fn sections_that_cannot_be_decoded_are_refused() {
        for bytes in [
            &[][..],
            &[0],
            &[1, 0],                                        // needs the dynamic table
            &[0, 0, 0x80],                                  // dynamic entry
            &[0, 0, 0x40, 0],                               // name of a dynamic entry
            &[0, 0, 0x10],                                  // dynamic entry after the base
            &[0, 0, 0xff, 36],                              // static entry 99 does not exist
            &[0, 0, 0x27, 0xff, 0xff, 0xff, 0xff, 0xff, 1], // endless length
            &[0, 0, 0x23, b'a'],                            // cut
            &[0, 0, 0x51, 0x81, 0xff],                      // no Huffman code
        ] {
            assert_eq!(decode(bytes, MAX), Err(BadSection::Undecodable), "{bytes:x?}");
        }
    }

    #[test]
    fn fields_are_counted_with_their_overhead() {
        let section = encode([field("a", "b"), field("c", "d")].iter());
        assert_eq!(decode(&section, 68).map(|fields| fields.len()), Ok(2));
        assert_eq!(decode(&section, 67), Err(BadSection::TooLarge));
    }

    proptest! {
        #[test]
        fn no_section_makes_it_panic_or_take_more_than_it_may(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Ok(fields) = decode(&[&[0, 0][..], &bytes].concat(), 100) {
                prop_assert!(fields.len() <= 3);
            }
        }

        #[test]
        fn what_is_encoded_is_decoded(
            fields in proptest::collection::vec((".{0,300}", ".{0,300}"), 0..4),
        ) {
            let fields: Vec<_> = fields.iter().map(|(name, value)| field(name, value)).collect();
            prop_assert_eq!(decode(&encode(fields.iter()), u64::MAX), Ok(fields));
        }
    }
}
