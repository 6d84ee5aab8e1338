//! Pseudo-random bytes that anybody can make again: what is sent and what must come back.
//!
//! Byte `n` of a pattern depends on its seed and on `n` alone, so that a chunk can be checked at its
//! offset without the ones before it. Bytes of different streams, and of different places in one stream,
//! differ nearly everywhere: what is swapped, shifted or repeated is found.

/// Weyl constant of splitmix64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// An endless sequence of bytes, told by its seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pattern {
    seed: u64,
}

impl Pattern {
    /// The pattern of one stream or datagram, named by some numbers.
    pub(crate) fn new(names: &[u64]) -> Self {
        let seed = names.iter().fold(0, |seed: u64, name| mix(seed.wrapping_add(GOLDEN) ^ *name));
        Self { seed }
    }

    /// Writes the pattern's bytes from `offset` on.
    pub(crate) fn fill(self, offset: u64, out: &mut [u8]) {
        let skip = (offset % 8) as usize;
        let first = if skip == 0 { 0 } else { out.len().min(8 - skip) };
        let (head, body) = out.split_at_mut(first);
        head.copy_from_slice(&self.word(offset / 8)[skip..skip + first]);

        let next = (offset + first as u64) / 8;
        for (index, out) in (next..).zip(body.chunks_mut(8)) {
            out.copy_from_slice(&self.word(index)[..out.len()]);
        }
    }

    /// Where `bytes`, which came at `offset`, first differ from the pattern: an offset in the stream.
    pub(crate) fn first_difference(self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let mut expected = [0; 4096];
        let mut at = offset;
        for part in bytes.chunks(expected.len()) {
            let expected = &mut expected[..part.len()];
            self.fill(at, expected);
            if part != expected {
                let same = part.iter().zip(&*expected).take_while(|(a, b)| a == b).count();
                return Some(at + same as u64);
            }
            at += part.len() as u64;
        }
        None
    }

    fn word(self, index: u64) -> [u8; 8] {
        mix(self.seed.wrapping_add(index.wrapping_mul(GOLDEN))).to_le_bytes()
    }
}

/// The output function of splitmix64.
const fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(pattern: Pattern, offset: u64, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        pattern.fill(offset, &mut out);
        out
    }

    proptest! {
        #[test]
        fn a_chunk_is_the_same_wherever_it_is_cut(
            seed: u64, offset in 0_u64..10_000, length in 0_usize..9_000,
        ) {
            let pattern = Pattern::new(&[seed]);
            let start = usize::try_from(offset).unwrap();
            let whole = bytes(pattern, 0, start + length);
            prop_assert_eq!(&whole[start..], bytes(pattern, offset, length));
            prop_assert_eq!(pattern.first_difference(offset, &whole[start..]), None);
        }

        #[test]
        fn one_changed_bit_is_found_where_it_is(
            seed: u64, offset in 0_u64..10_000, at in 0_usize..9_000, bit in 0_u8..8,
        ) {
            let pattern = Pattern::new(&[seed]);
            let mut chunk = bytes(pattern, offset, 9_000);
            chunk[at] ^= 1 << bit;
            prop_assert_eq!(pattern.first_difference(offset, &chunk), Some(offset + at as u64));
        }
    }

    #[test]
    fn patterns_of_different_names_and_places_differ() {
        let one = Pattern::new(&[1, 2]);
        let a = bytes(one, 0, 4096);
        for b in [
            bytes(Pattern::new(&[2, 1]), 0, 4096),
            bytes(Pattern::new(&[1, 3]), 0, 4096),
            bytes(Pattern::new(&[1]), 0, 4096),
            bytes(one, 1, 4096),
            bytes(one, 8, 4096),
        ] {
            let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
            assert!(same < 64, "{same} of 4096 bytes are the same");
        }
    }
}
