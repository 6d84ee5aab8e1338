//! What a route does with datagrams that cannot be sent to the client at once.

use super::MILLISECOND;
use crate::config::{
    ByteSize, DatagramKey, Oversize, Route,
    load::HOUR,
    problems::Collector,
    raw::{self, Section},
};
use std::time::Duration;

/// The keys of a route that begin with `datagram_` and `oversize`.
pub(super) struct DatagramRules {
    pub(super) queue: ByteSize,
    pub(super) ttl: Duration,
    pub(super) key: Option<DatagramKey>,
    pub(super) oversize: Oversize,
    pub(super) oversize_queue: ByteSize,
    pub(super) oversize_streams: u32,
}

pub(super) fn rules(raw: &raw::Route, problems: &mut Collector<'_>) -> DatagramRules {
    DatagramRules {
        queue: problems.within(
            &raw.key("datagram_queue"),
            raw.datagram_queue,
            Route::DATAGRAM_QUEUE,
            ByteSize::kib(2)..=ByteSize::mib(64),
        ),
        ttl: problems.period(
            &raw.key("datagram_ttl"),
            raw.datagram_ttl,
            Route::DATAGRAM_TTL,
            MILLISECOND..=HOUR,
        ),
        key: raw.datagram_latest_per_key.as_ref().and_then(|raw| key(raw, problems)),
        oversize: raw.oversize.unwrap_or_default(),
        // At least one of the largest must fit.
        oversize_queue: problems.within(
            &raw.key("oversize_queue"),
            raw.oversize_queue,
            Route::OVERSIZE_QUEUE,
            ByteSize::kib(64)..=ByteSize::mib(64),
        ),
        oversize_streams: problems.within(
            &raw.key("oversize_streams"),
            raw.oversize_streams,
            Route::OVERSIZE_STREAMS,
            1..=1000,
        ),
    }
}

fn key(raw: &raw::DatagramKey, problems: &mut Collector<'_>) -> Option<DatagramKey> {
    let hint = format!("write how long the key is, 1 to {} bytes", DatagramKey::MAX_BYTES);
    let bytes = problems.required(&raw.key("bytes"), raw.bytes, &hint);
    let most = u32::from(DatagramKey::MAX_BYTES);
    let bytes = bytes.map(|bytes| problems.within(&raw.key("bytes"), Some(bytes), 1, 1..=most));
    // No UDP payload is longer.
    let offset = problems.within(&raw.key("offset"), raw.offset, 0, 0..=65_506);
    Some(DatagramKey { offset: u16::try_from(offset).ok()?, bytes: u8::try_from(bytes?).ok()? })
}
