//! The generations of WebTransport over HTTP/3, in one table.
//!
//! Clients of four generations are in use, and each looks for another setting (`SETTINGS` of RFC 9114
//! section 7.2.4). The gateway sends them all; which of them the client sends decides what is spoken.
//! The wire format of streams, datagrams and the close capsule is the same for all.

use bytes::{Bytes, BytesMut};

use super::{
    codes::{frame, stream},
    flow::SessionCredit,
    varint,
};

/// Settings that are no generation's own.
mod setting {
    pub(super) const QPACK_MAX_TABLE_CAPACITY: u64 = 0x01;
    pub(super) const MAX_FIELD_SECTION_SIZE: u64 = 0x06;
    pub(super) const QPACK_BLOCKED_STREAMS: u64 = 0x07;
    pub(super) const ENABLE_CONNECT_PROTOCOL: u64 = 0x08;
    pub(super) const H3_DATAGRAM: u64 = 0x33;
    /// draft-ietf-masque-h3-datagram-04, which very old clients look for.
    pub(super) const H3_DATAGRAM_DRAFT04: u64 = 0xff_d277;
    pub(super) const WT_INITIAL_MAX_DATA: u64 = 0x2b61;
    pub(super) const WT_INITIAL_MAX_STREAMS_UNI: u64 = 0x2b64;
    pub(super) const WT_INITIAL_MAX_STREAMS_BIDI: u64 = 0x2b65;

    /// Whether HTTP/2 used the setting, which HTTP/3 forbids (RFC 9114 section 7.2.4.1).
    pub(super) const fn is_reserved(id: u64) -> bool {
        matches!(id, 0x00 | 0x02..=0x05)
    }
}

/// A generation of WebTransport over HTTP/3.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Dialect {
    /// Drafts 02 to 06: Chromium, Firefox.
    Draft02,
    /// Drafts 07 to 12: Safari, quiche's bindings.
    Draft07,
    /// Drafts 13 and 14.
    Draft13,
    /// Drafts 15 and 16: `webtransport-h3`.
    Draft15,
}

/// One row of the table.
struct Row {
    dialect: Dialect,
    word: &'static str,
    /// The setting by which both sides say that they speak it, and the value that the gateway sends.
    setting: (u64, Value),
}

/// What the gateway sends as a generation's setting.
#[derive(Clone, Copy)]
enum Value {
    /// That it speaks it.
    Yes,
    /// How many sessions a connection may have.
    Sessions,
}

/// Sessions that a client may have on one connection, as told to drafts 07 to 14. QUIC's stream credit
/// is what really bounds them, since each holds a stream.
const MAX_SESSIONS: u64 = 128;

const TABLE: [Row; 4] = [
    Row { dialect: Dialect::Draft02, word: "draft02", setting: (0x2b60_3742, Value::Yes) },
    Row { dialect: Dialect::Draft07, word: "draft07", setting: (0xc671_706a, Value::Sessions) },
    Row { dialect: Dialect::Draft13, word: "draft13", setting: (0x14e9_cd29, Value::Sessions) },
    Row { dialect: Dialect::Draft15, word: "draft15", setting: (0x2c7c_f000, Value::Yes) },
];

impl Dialect {
    /// The word for logs and metrics.
    pub fn word(self) -> &'static str {
        TABLE.iter().find(|row| row.dialect == self).map_or("unknown", |row| row.word)
    }

    /// What both sides speak, from the client's settings and the `:protocol` of its request.
    ///
    /// A client that asks for a session without having sent any of the settings gets what most of them
    /// would be: refusing it would help nobody.
    pub(crate) fn negotiated(settings: &Settings, protocol: Protocol) -> Self {
        if protocol == Protocol::WebTransportH3 {
            return Self::Draft15;
        }
        // The older token rules out the generation that has a token of its own.
        let older = TABLE.iter().rev().filter(|row| row.dialect != Self::Draft15);
        let spoken = older.into_iter().find(|row| settings.get(row.setting.0).unwrap_or(0) > 0);
        spoken.map_or(Self::Draft07, |row| row.dialect)
    }
}

/// The `:protocol` of an extended CONNECT request (RFC 9220).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Protocol {
    /// `webtransport`: drafts 02 to 14.
    WebTransport,
    /// `webtransport-h3`: drafts 15 and 16.
    WebTransportH3,
    /// Anything else.
    Unknown,
}

/// The gateway's control stream up to the end of its SETTINGS frame: one write.
///
/// Without credit to offer, a client is told of one session only: a client that is told of more wants to
/// see flow control (draft section 5.1), and Safari does not even ask for a session without.
pub(crate) fn control_stream_head(max_field_section_bytes: u64, credit: SessionCredit) -> Bytes {
    let mut payload = BytesMut::with_capacity(128);
    let mut put = |id, value| {
        varint::put(&mut payload, id);
        varint::put(&mut payload, value);
    };
    put(setting::QPACK_MAX_TABLE_CAPACITY, 0);
    put(setting::QPACK_BLOCKED_STREAMS, 0);
    put(setting::MAX_FIELD_SECTION_SIZE, max_field_section_bytes);
    put(setting::ENABLE_CONNECT_PROTOCOL, 1);
    put(setting::H3_DATAGRAM, 1);
    put(setting::H3_DATAGRAM_DRAFT04, 1);
    for row in &TABLE {
        let value = match row.setting.1 {
            Value::Yes => 1,
            Value::Sessions => {
                if credit.is_offered() {
                    MAX_SESSIONS
                } else {
                    1
                }
            }
        };
        put(row.setting.0, value);
    }
    if credit.is_offered() {
        put(setting::WT_INITIAL_MAX_DATA, credit.data);
        put(setting::WT_INITIAL_MAX_STREAMS_UNI, credit.uni);
        put(setting::WT_INITIAL_MAX_STREAMS_BIDI, credit.bidi);
    }
    // One that means nothing, so that clients keep ignoring what they do not know (RFC 9114 section
    // 7.2.4.1).
    put(0x1f * 0x5_a17e + 0x21, 0);

    let mut head = BytesMut::with_capacity(payload.len() + 4);
    varint::put(&mut head, stream::CONTROL);
    varint::put(&mut head, frame::SETTINGS);
    varint::put(&mut head, payload.len() as u64);
    head.extend_from_slice(&payload);
    head.freeze()
}

/// A SETTINGS frame that broke a rule (RFC 9114 sections 7.1 and 7.2.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum BadSettings {
    /// It ends within a setting.
    #[error("SETTINGS cut within a setting")]
    Cut,
    /// It has a setting twice, or one that must not be, or a value that must not be.
    #[error("forbidden setting")]
    Forbidden,
}

/// What the client set.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Settings {
    values: Vec<(u64, u64)>,
}

impl Settings {
    /// Reads the payload of a SETTINGS frame.
    pub(crate) fn parse(mut payload: &[u8]) -> Result<Self, BadSettings> {
        let mut values = Vec::new();
        while !payload.is_empty() {
            let id = varint::take(&mut payload).ok_or(BadSettings::Cut)?;
            let value = varint::take(&mut payload).ok_or(BadSettings::Cut)?;
            let boolean = matches!(id, setting::ENABLE_CONNECT_PROTOCOL | setting::H3_DATAGRAM);
            let is_double = values.iter().any(|(known, _)| *known == id);
            if setting::is_reserved(id) || (boolean && value > 1) || is_double {
                return Err(BadSettings::Forbidden);
            }
            values.push((id, value));
        }
        Ok(Self { values })
    }

    /// The value of a setting.
    fn get(&self, id: u64) -> Option<u64> {
        self.values.iter().find(|(i, _)| *i == id).map(|(_, value)| *value)
    }

    /// Whether the sender takes HTTP datagrams (RFC 9297 section 2.1.1), by the current or old setting.
    pub(crate) fn datagrams(&self) -> bool {
        [setting::H3_DATAGRAM, setting::H3_DATAGRAM_DRAFT04]
            .iter()
            .any(|id| self.get(*id).unwrap_or(0) == 1)
    }

    /// What the sender lets the other side do in each session at first (draft section 5.5).
    pub(crate) fn session_credit(&self) -> SessionCredit {
        let value = |id| self.get(id).unwrap_or(0);
        SessionCredit {
            data: value(setting::WT_INITIAL_MAX_DATA),
            bidi: value(setting::WT_INITIAL_MAX_STREAMS_BIDI),
            uni: value(setting::WT_INITIAL_MAX_STREAMS_UNI),
        }
    }

    /// Whether the sender takes WebTransport sessions: what a client wants to know of a server.
    pub(crate) fn webtransport(&self) -> bool {
        TABLE.iter().any(|row| self.get(row.setting.0).unwrap_or(0) > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings(values: &[(u64, u64)]) -> Settings {
        Settings { values: values.to_vec() }
    }

    fn ours(credit: SessionCredit) -> Settings {
        let head = control_stream_head(16_384, credit);
        let (length, n) = varint::peek(&head[2..]).unwrap();
        let payload = &head[2 + n..];
        assert_eq!(payload.len() as u64, length);
        Settings::parse(payload).unwrap()
    }

    #[test]
    fn every_generation_finds_its_setting() {
        let credit = SessionCredit { data: 1000, bidi: 20, uni: 10 };
        let ours = ours(credit);
        assert_eq!(ours.get(0x2b60_3742), Some(1), "Chromium wants exactly 1");
        assert_eq!(ours.get(0x2c7c_f000), Some(1), "draft 15 wants exactly 1");
        for id in [0xc671_706a, 0x14e9_cd29, 0x2b61, 0x2b64, 0x2b65] {
            assert!(ours.get(id).unwrap() > 0, "{id:#x}");
        }
        assert!(ours.datagrams() && ours.webtransport());
        assert_eq!(ours.session_credit(), credit);
    }

    /// Safari refuses more than one session without flow control.
    #[test]
    fn without_credit_one_session_is_offered_and_no_flow_control() {
        let ours = ours(SessionCredit::default());
        for id in [0x2b60_3742, 0xc671_706a, 0x14e9_cd29, 0x2c7c_f000] {
            assert_eq!(ours.get(id), Some(1), "{id:#x}");
        }
        for id in [0x2b61, 0x2b64, 0x2b65] {
            assert_eq!(ours.get(id), None, "{id:#x}");
        }
    }

    #[test]
    fn the_newest_generation_of_both_wins() {
        for (sent, protocol, dialect) in [
            (&[(0x2b60_3742, 1)][..], Protocol::WebTransport, Dialect::Draft02),
            (&[(0x2b60_3742, 1), (0xc671_706a, 1)], Protocol::WebTransport, Dialect::Draft07),
            (&[(0x14e9_cd29, 4), (0xc671_706a, 4)], Protocol::WebTransport, Dialect::Draft13),
            (&[(0x2c7c_f000, 1)], Protocol::WebTransportH3, Dialect::Draft15),
            (&[(0x2c7c_f000, 1), (0x2b60_3742, 1)], Protocol::WebTransport, Dialect::Draft02),
            (&[], Protocol::WebTransportH3, Dialect::Draft15),
            (&[], Protocol::WebTransport, Dialect::Draft07),
            (&[(0x2b60_3742, 0)], Protocol::WebTransport, Dialect::Draft07),
        ] {
            assert_eq!(Dialect::negotiated(&settings(sent), protocol), dialect, "{sent:x?}");
        }
    }

    #[test]
    fn forbidden_and_cut_settings_are_errors() {
        for payload in [
            &[0x02, 0x01][..],
            &[0x05, 0x01],
            &[0x08, 0x02],
            &[0x33, 0x02],
            &[0x21, 0x01, 0x21, 0x01],
        ] {
            assert_eq!(Settings::parse(payload), Err(BadSettings::Forbidden), "{payload:x?}");
        }
        assert_eq!(Settings::parse(&[0x08]), Err(BadSettings::Cut));
        assert!(Settings::parse(&[]).unwrap().values.is_empty());
    }

    proptest! {
        #[test]
        fn no_payload_makes_it_panic(payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            _ = Settings::parse(&payload);
        }
    }
}
