//! Numbers on the wire: stream types, frame types, capsule types, error codes.
//!
//! Names are those of draft-ietf-webtrans-http3-16, RFC 9114, RFC 9204 and RFC 9297.

/// First varint of a unidirectional WebTransport stream.
pub(crate) const STREAM_UNI: u64 = 0x54;
/// First varint of a bidirectional WebTransport stream.
pub(crate) const STREAM_BIDI: u64 = 0x41;

/// Unidirectional stream types of HTTP/3 (RFC 9114 section 6.2, RFC 9204 section 4.2).
pub(crate) mod stream {
    pub(crate) const CONTROL: u64 = 0x00;
    pub(crate) const PUSH: u64 = 0x01;
    pub(crate) const QPACK_ENCODER: u64 = 0x02;
    pub(crate) const QPACK_DECODER: u64 = 0x03;
}

/// Frame types of HTTP/3 (RFC 9114 section 7.2).
pub(crate) mod frame {
    pub(crate) const DATA: u64 = 0x00;
    pub(crate) const HEADERS: u64 = 0x01;
    pub(crate) const CANCEL_PUSH: u64 = 0x03;
    pub(crate) const SETTINGS: u64 = 0x04;
    pub(crate) const PUSH_PROMISE: u64 = 0x05;
    pub(crate) const GOAWAY: u64 = 0x07;
    pub(crate) const MAX_PUSH_ID: u64 = 0x0d;

    /// Whether HTTP/2 used the type, which HTTP/3 forbids (RFC 9114 section 7.2.8).
    pub(crate) const fn is_reserved(frame: u64) -> bool {
        matches!(frame, 0x02 | 0x06 | 0x08 | 0x09)
    }
}

/// Capsule types (draft section 5.6, RFC 9297 section 3.5).
pub(crate) mod capsule {
    pub(crate) const CLOSE_SESSION: u64 = 0x2843;
    pub(crate) const DRAIN_SESSION: u64 = 0x78ae;
    pub(crate) const MAX_DATA: u64 = 0x190b_4d3d;
    pub(crate) const MAX_STREAM_DATA: u64 = 0x190b_4d3e;
    pub(crate) const MAX_STREAMS_BIDI: u64 = 0x190b_4d3f;
    pub(crate) const MAX_STREAMS_UNI: u64 = 0x190b_4d40;
    pub(crate) const DATA_BLOCKED: u64 = 0x190b_4d41;
    pub(crate) const STREAM_DATA_BLOCKED: u64 = 0x190b_4d42;
    pub(crate) const STREAMS_BLOCKED_BIDI: u64 = 0x190b_4d43;
    pub(crate) const STREAMS_BLOCKED_UNI: u64 = 0x190b_4d44;
}

/// Code with which a session is closed whose other side broke flow control (draft section 9.5). As in
/// every close capsule it is not mapped.
pub(crate) const WT_FLOW_CONTROL_ERROR: u32 = 0x045d_4487;

/// Error codes for streams and connections.
pub(crate) mod error {
    pub(crate) const H3_NO_ERROR: u64 = 0x100;
    pub(crate) const H3_GENERAL_PROTOCOL_ERROR: u64 = 0x101;
    pub(crate) const H3_STREAM_CREATION_ERROR: u64 = 0x103;
    pub(crate) const H3_CLOSED_CRITICAL_STREAM: u64 = 0x104;
    pub(crate) const H3_FRAME_UNEXPECTED: u64 = 0x105;
    pub(crate) const H3_FRAME_ERROR: u64 = 0x106;
    pub(crate) const H3_EXCESSIVE_LOAD: u64 = 0x107;
    pub(crate) const H3_ID_ERROR: u64 = 0x108;
    pub(crate) const H3_SETTINGS_ERROR: u64 = 0x109;
    pub(crate) const H3_MISSING_SETTINGS: u64 = 0x10a;
    pub(crate) const H3_REQUEST_REJECTED: u64 = 0x10b;
    pub(crate) const H3_REQUEST_INCOMPLETE: u64 = 0x10d;
    pub(crate) const H3_MESSAGE_ERROR: u64 = 0x10e;
    pub(crate) const H3_DATAGRAM_ERROR: u64 = 0x33;
    pub(crate) const QPACK_DECOMPRESSION_FAILED: u64 = 0x200;
    pub(crate) const QPACK_ENCODER_STREAM_ERROR: u64 = 0x201;
    pub(crate) const QPACK_DECODER_STREAM_ERROR: u64 = 0x202;
    /// The session of the stream did not come, or too many streams waited for sessions.
    pub(crate) const WT_BUFFERED_STREAM_REJECTED: u64 = 0x3994_bd84;
    /// The session of the stream has ended.
    pub(crate) const WT_SESSION_GONE: u64 = 0x170d_7b68;
}

/// First and last error code that carry an application's code (draft section 4.4).
const FIRST: u64 = 0x52e4_a40f_a8db;
const LAST: u64 = 0x52e5_ac98_3162;

/// An application's stream error code as HTTP/3 carries it: codepoints of the form `0x1f * N + 0x21`
/// are left out, since those are greased.
pub(crate) const fn to_http3(code: u32) -> u64 {
    let code = code as u64;
    FIRST + code + code / 0x1e
}

/// The application's code in an HTTP/3 error code, if it carries one.
pub(crate) fn from_http3(code: u64) -> Option<u32> {
    if !(FIRST..=LAST).contains(&code) || (code - 0x21).is_multiple_of(0x1f) {
        return None;
    }
    let shifted = code - FIRST;
    u32::try_from(shifted - shifted / 0x1f).ok()
}

/// A code as quinn wants it.
pub(crate) fn quic(code: u64) -> quinn::VarInt {
    quinn::VarInt::from_u64(code).expect("every code of this file fits a varint")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn maps_codes_as_the_draft_does() {
        for (code, http3) in [
            (0, 0x52e4_a40f_a8db),
            (29, 0x52e4_a40f_a8f8),
            (30, 0x52e4_a40f_a8fa),
            (59, 0x52e4_a40f_a917),
            (60, 0x52e4_a40f_a919),
            (255, 0x52e4_a40f_a9e2),
            (65_536, 0x52e4_a410_b163),
            (u32::MAX, 0x52e5_ac98_3162),
        ] {
            assert_eq!(to_http3(code), http3);
            assert_eq!(from_http3(http3), Some(code));
        }
    }

    #[test]
    fn codes_outside_the_range_and_greased_ones_carry_no_application_code() {
        for http3 in [0, 0x100, FIRST - 1, LAST + 1, 0x52e4_a40f_a8f9, 0x52e4_a40f_a918] {
            assert_eq!(from_http3(http3), None, "{http3:#x}");
        }
    }

    proptest! {
        #[test]
        fn every_code_comes_back(code in any::<u32>()) {
            prop_assert_eq!(from_http3(to_http3(code)), Some(code));
        }

        #[test]
        fn no_number_makes_it_panic(code in any::<u64>()) {
            if let Some(back) = from_http3(code) {
                prop_assert_eq!(to_http3(back), code);
            }
        }
    }
}
