//! Percent-encoding (RFC 3986 section 2.1).

use std::borrow::Cow;

/// The bytes that a text stands for. `None`: a percent sign without two hexadecimal digits. A plus sign is
/// itself.
pub(super) fn decoded(text: &str) -> Option<Cow<'_, [u8]>> {
    if !text.contains('%') {
        return Some(text.as_bytes().into());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => digit(bytes.next())? << 4 | digit(bytes.next())?,
            plain => plain,
        });
    }
    Some(decoded.into())
}

fn digit(byte: Option<u8>) -> Option<u8> {
    u8::try_from(char::from(byte?).to_digit(16)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_escape_is_one_byte_and_a_broken_one_spoils_all() {
        for (text, wanted) in [
            ("", Some(&b""[..])),
            ("a+b", Some(b"a+b")),
            ("a%20b%2fc%C3%a9", Some(b"a b/c\xc3\xa9")),
            ("%2525", Some(b"%25")),
            ("%", None),
            ("%a", None),
            ("%g0", None),
            ("%+1", None),
        ] {
            assert_eq!(decoded(text).as_deref(), wanted, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[%0-9a-zé]{0,12}") {
            _ = decoded(&text);
        }
    }
}
