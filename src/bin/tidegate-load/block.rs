//! The bytes of bulk transfers: a short block of the pattern, over and over.
//!
//! Byte `n` is that of the block at `n` modulo its length, so that a chunk is checked at its offset by comparing
//! memory, and sent without making or copying it: the generator and the test backends share their processors
//! with what is measured. The block's length is a prime number: what is lost, doubled or swapped would have to be
//! a multiple of it to go unnoticed.

use std::sync::LazyLock;

use bytes::Bytes;

use crate::pattern::Pattern;

/// Length of the block, the largest prime number below 64 KiB: it and what is compared with it stay in a
/// processor's second cache.
const BLOCK_BYTES: usize = 65_521;

/// How many blocks stand behind each other in memory.
const BLOCKS: usize = 4;

/// The longest piece that can be had, from wherever it begins.
pub(crate) const MAX_PIECE_BYTES: usize = BLOCK_BYTES * (BLOCKS - 1);

static MEMORY: LazyLock<Bytes> = LazyLock::new(|| {
    let mut block = vec![0; BLOCK_BYTES];
    Pattern::new(&[]).fill(0, &mut block);
    block.repeat(BLOCKS).into()
});

fn start(offset: u64) -> usize {
    usize::try_from(offset % BLOCK_BYTES as u64).unwrap_or_default()
}

/// The bytes from `offset` on, so many but at most [`MAX_PIECE_BYTES`], without a copy.
pub(crate) fn piece(offset: u64, length: u64) -> Bytes {
    let start = start(offset);
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(MAX_PIECE_BYTES);
    MEMORY.slice(start..start + length)
}

/// Where `bytes`, which came at `offset`, first differ: an offset in the stream.
pub(crate) fn first_difference(offset: u64, bytes: &[u8]) -> Option<u64> {
    let mut at = offset;
    for part in bytes.chunks(MAX_PIECE_BYTES) {
        let expected = piece(at, part.len() as u64);
        if part != expected {
            let same = part.iter().zip(&expected).take_while(|(a, b)| a == b).count();
            return Some(at + same as u64);
        }
        at += part.len() as u64;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_piece_is_the_same_wherever_it_is_cut(offset in 0_u64..500_000, length in 0_u64..300_000) {
            let whole = piece(offset, length);
            prop_assert_eq!(whole.len(), usize::try_from(length).unwrap().min(MAX_PIECE_BYTES));
            for (at, byte) in (offset..).zip(&whole).step_by(997) {
                prop_assert_eq!(&piece(at, 1)[..], &[*byte]);
            }
            prop_assert_eq!(first_difference(offset, &whole), None);
        }

        #[test]
        fn a_changed_bit_and_a_lost_byte_are_found_where_they_are(
            offset in 0_u64..500_000, at in 0_usize..150_000, bit in 0_u8..8,
        ) {
            let mut bytes = piece(offset, 160_000).to_vec();
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(first_difference(offset, &bytes), Some(offset + at as u64));
            bytes[at] ^= 1 << bit;
            bytes.remove(at);
            // The next byte may happen to be the same.
            let found = first_difference(offset, &bytes).unwrap();
            prop_assert!((offset + at as u64..offset + at as u64 + 8).contains(&found));
        }
    }

    #[test]
    fn what_is_longer_than_the_block_is_checked_to_its_end() {
        let mut long = [piece(0, u64::MAX), piece(MAX_PIECE_BYTES as u64, u64::MAX)].concat();
        assert_eq!(first_difference(0, &long), None);
        *long.last_mut().unwrap() ^= 1;
        assert_eq!(first_difference(0, &long), Some(long.len() as u64 - 1));
    }
}
