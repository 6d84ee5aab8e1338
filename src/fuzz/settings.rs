//! What clients set, and what the gateway does.

use std::collections::BTreeMap;

use super::{guard, whole};
use crate::webtransport::{
    SessionCredit,
    codes::{error, frame, stream},
    control::Fault,
    dialect::{self, BadSettings, Dialect, Protocol, Settings},
    varint,
};

/// The payload of a SETTINGS frame.
pub fn settings(payload: &[u8]) {
    let read = Settings::parse(payload);
    let pairs = match plainly(payload) {
        Ok(pairs) => pairs,
        Err(bad) => return assert_eq!(read, Err(bad)),
    };
    let settings = read.expect("nothing is wrong with it");
    check_meaning(&settings, &pairs.iter().copied().collect());
    // No order means anything, nor does the length of a varint.
    let backwards = Settings::parse(&payload_of(pairs.into_iter().rev())).expect("the same");
    assert_eq!(meaning(&backwards), meaning(&settings));
    check_ours(settings.session_credit());
}

/// The settings in their order, read in the plainest way.
fn plainly(payload: &[u8]) -> Result<Vec<(u64, u64)>, BadSettings> {
    let (mut pairs, mut left) = (Vec::<(u64, u64)>::new(), payload);
    while !left.is_empty() {
        let (id, n) = varint::peek(left).ok_or(BadSettings::Cut)?;
        let (value, m) = varint::peek(&left[n..]).ok_or(BadSettings::Cut)?;
        let is_of_http2 = matches!(id, 0 | 2 | 3 | 4 | 5);
        let is_flag = matches!(id, 0x08 | 0x33);
        if is_of_http2 || (is_flag && value > 1) || pairs.iter().any(|(known, _)| *known == id) {
            return Err(BadSettings::Forbidden);
        }
        pairs.push((id, value));
        left = &left[n + m..];
    }
    Ok(pairs)
}

fn payload_of(pairs: impl Iterator<Item = (u64, u64)>) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in pairs {
        varint::put(&mut payload, id);
        varint::put(&mut payload, value);
    }
    payload
}

/// All that is ever asked of settings.
fn meaning(settings: &Settings) -> (bool, bool, SessionCredit, [Dialect; 3]) {
    let spoken = [Protocol::WebTransport, Protocol::WebTransportH3, Protocol::Unknown]
        .map(|protocol| Dialect::negotiated(settings, protocol));
    (settings.datagrams(), settings.webtransport(), settings.session_credit(), spoken)
}

/// The numbers here are the drafts', and not taken from the table.
fn check_meaning(settings: &Settings, values: &BTreeMap<u64, u64>) {
    let value = |id| values.get(&id).copied().unwrap_or(0);
    let credit = SessionCredit { data: value(0x2b61), uni: value(0x2b64), bidi: value(0x2b65) };
    let older = if value(0x14e9_cd29) > 0 {
        Dialect::Draft13
    } else if value(0xc671_706a) == 0 && value(0x2b60_3742) > 0 {
        Dialect::Draft02
    } else {
        Dialect::Draft07
    };
    let of_webtransport = [0x2b60_3742, 0xc671_706a, 0x14e9_cd29, 0x2c7c_f000];
    let wanted = (
        value(0x33) == 1 || value(0xff_d277) == 1,
        of_webtransport.iter().any(|id| value(*id) > 0),
        credit,
        [older, Dialect::Draft15, older],
    );
    assert_eq!(meaning(settings), wanted);
}

/// What the gateway sends is what it would read.
fn check_ours(credit: SessionCredit) {
    let head = dialect::control_stream_head(credit.data, credit);
    let (kind, n) = varint::peek(&head).expect("a stream's type");
    let (first, _) = varint::peek(&head[n..]).expect("a frame's type");
    assert_eq!((kind, first), (stream::CONTROL, frame::SETTINGS));
    let (fault, told) = guard::read_all(kind, whole(&head[n..]));
    assert_eq!(fault, Fault(error::H3_CLOSED_CRITICAL_STREAM), "it ends, and has no other fault");
    let told = told.expect("settings were told");
    assert_eq!(told.session_credit(), credit);
    assert!(told.datagrams() && told.webtransport());
}
