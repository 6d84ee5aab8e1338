//! QUIC variable-length integers (RFC 9000 section 16).

use bytes::{Buf, BufMut};

/// Largest value: 2^62 - 1.
pub(crate) const MAX: u64 = (1 << 62) - 1;

/// Bytes of the longest encoding.
pub(crate) const MAX_BYTES: usize = 8;

/// Reads one from the front of `bytes`: the value and how many bytes it took. `None` if more bytes are
/// needed.
pub(crate) fn peek(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let rest = bytes.get(1..length)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, b| value << 8 | u64::from(*b));
    Some((value, length))
}

/// Takes one from the front of `bytes`, or leaves them alone and yields `None`.
pub(crate) fn take(bytes: &mut impl Buf) -> Option<u64> {
    // A `Buf` may be in pieces; copying eight bytes is cheaper than caring.
    let mut head = [0; MAX_BYTES];
    let mut filled = 0;
    {
        let first = *bytes.chunk().first()?;
        let length = 1 << (first >> 6);
        if bytes.remaining() < length {
            return None;
        }
        while filled < length {
            head[filled] = bytes.get_u8();
            filled += 1;
        }
    }
    peek(&head[..filled]).map(|(value, _)| value)
}

/// Appends one in its shortest encoding.
///
/// # Panics
/// If `value` is larger than [`MAX`]: a fault of the caller, who never passes numbers from the network.
pub(crate) fn put(to: &mut impl BufMut, value: u64) {
    match value {
        0..=0x3f => to.put_u8(value.to_le_bytes()[0]),
        0x40..=0x3fff => to.put_slice(&(value | 0x4000).to_be_bytes()[6..]),
        0x4000..=0x3fff_ffff => to.put_slice(&(value | 0x8000_0000).to_be_bytes()[4..]),
        0x4000_0000..=MAX => to.put_u64(value | 0xc000_0000_0000_0000),
        _ => unreachable!("larger than a varint"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The examples of RFC 9000 appendix A.1.
    #[test]
    fn reads_the_examples_of_the_specification() {
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ] {
            assert_eq!(peek(bytes), Some((value, bytes.len())));
            assert_eq!(peek(&bytes[..bytes.len() - 1]), None);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in 0..=MAX, trailing in any::<[u8; 3]>()) {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            let length = bytes.len();
            bytes.extend(trailing);
            prop_assert_eq!(peek(&bytes), Some((value, length)));

            let mut buf = &bytes[..];
            prop_assert_eq!(take(&mut buf), Some(value));
            prop_assert_eq!(buf, &trailing[..]);
        }

        #[test]
        fn nothing_is_taken_from_too_few_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..9)) {
            let mut buf = &bytes[..];
            if peek(&bytes).is_none() {
                prop_assert_eq!(take(&mut buf), None);
                prop_assert_eq!(buf.len(), bytes.len());
            }
        }
    }
}
