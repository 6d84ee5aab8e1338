//! HPACK's Huffman code (RFC 7541 section 5.2 and appendix B), which QPACK uses as it is.
//!
//! The code is canonical: codes of one length are consecutive numbers, in the order of their symbols, and
//! follow from those of the shorter ones. So the lengths say all, and a code is looked up by comparing
//! numbers.

use std::sync::LazyLock;

/// The symbol that ends a text. It is never sent; only its first bits fill up the last byte.
const END: usize = 256;

/// Bits of the longest code.
const LONGEST: usize = 30;

/// Bits of each symbol's code.
#[rustfmt::skip]
const LENGTHS: [u8; END + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// A text that is not in the code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct BadCode;

/// The codes of one length.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    /// The first of them.
    first: u32,
    /// How many there are.
    count: u32,
    /// Where their symbols begin in `Code::symbols`.
    at: usize,
}

#[derive(Debug)]
struct Code {
    /// By length.
    groups: [Group; LONGEST + 1],
    /// In the order of their codes.
    symbols: Vec<usize>,
}

static CODE: LazyLock<Code> = LazyLock::new(|| {
    let mut code = Code { groups: [Group::default(); LONGEST + 1], symbols: Vec::new() };
    let mut next = 0;
    for (length, group) in code.groups.iter_mut().enumerate().skip(1) {
        next <<= 1;
        let at = code.symbols.len();
        let lengths = LENGTHS.iter().enumerate();
        let symbols = lengths.filter(|(_, l)| usize::from(**l) == length).map(|(symbol, _)| symbol);
        code.symbols.extend(symbols);
        let count = u32::try_from(code.symbols.len() - at).expect("257 symbols at most");
        *group = Group { first: next, count, at };
        next += count;
    }
    code
});

/// Decodes a text. What it yields has at most eight fifths of the bytes that it takes.
pub(super) fn decode(coded: &[u8]) -> Result<Vec<u8>, BadCode> {
    let mut text = Vec::with_capacity(coded.len() * 8 / 5);
    let (mut code, mut length) = (0, 0);
    for bit in coded.iter().flat_map(|byte| (0..8).rev().map(move |i| byte >> i & 1)) {
        code = code << 1 | u32::from(bit);
        length += 1;
        let group = CODE.groups.get(length).ok_or(BadCode)?;
        let Some(nth) = code.checked_sub(group.first).filter(|nth| *nth < group.count) else {
            continue;
        };
        let symbol = CODE.symbols.get(group.at + nth as usize).ok_or(BadCode)?;
        text.push(u8::try_from(*symbol).map_err(|_end| BadCode)?);
        (code, length) = (0, 0);
    }
    // Less than a byte may be left, and of the first bits of the end's code, which are all ones.
    let is_padding = length < 8 && code == (1 << length) - 1;
    if is_padding { Ok(text) } else { Err(BadCode) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 7541 appendix C.4 and C.6.
    #[test]
    fn decodes_the_examples_of_the_specification() {
        for (coded, text) in [
            (
                &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..],
                "www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f], "custom-key"),
            (&[0xae, 0xc3, 0x77, 0x1a, 0x4b], "private"),
            (&[], ""),
        ] {
            assert_eq!(decode(coded), Ok(text.as_bytes().to_vec()));
        }
    }

    #[test]
    fn the_end_and_wrong_padding_are_errors() {
        for coded in [
            &[0xff, 0xff, 0xff, 0xff][..], // the end itself
            &[0xff],                       // a whole byte of padding
            &[0x00],                       // padding of zeros behind `0`
        ] {
            assert_eq!(decode(coded), Err(BadCode), "{coded:x?}");
        }
    }

    proptest! {
        #[test]
        fn what_others_encode_is_decoded(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut coded = Vec::new();
            httlib_huffman::encode(&text, &mut coded).unwrap();
            prop_assert_eq!(decode(&coded), Ok(text));
        }

        #[test]
        fn no_bytes_make_it_panic(coded in proptest::collection::vec(any::<u8>(), 0..100)) {
            _ = decode(&coded);
        }
    }
}
