//! quinn's settings, from ours.
//!
//! quinn's own defaults are for trusted peers: here every bound on what a client may make the gateway
//! hold is set.

use std::sync::Arc;

use quinn::{
    EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
    congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig},
    crypto::rustls::QuicServerConfig,
};

use super::{
    cid::{HomeIds, Layout},
    keys::Keys,
};
use crate::config::{ByteSize, Congestion, Transport};

/// Unidirectional streams that HTTP/3 opens for itself, each once: control, QPACK encoder and decoder
/// (RFC 9114 section 6.2). They are added to what sessions may use.
const HTTP3_STREAMS: u32 = 3;

/// Attempts that wait for admission, per endpoint. Admission never waits, so more than a burst of one
/// receive queue cannot pile up; quinn allows 65,536.
const MAX_INCOMING: usize = 4096;

/// Bytes kept for one waiting attempt: a hybrid ClientHello is 2 packets. quinn allows 10 MiB.
const INCOMING_BYTES: u64 = 64 * 1024;

/// Bytes kept for all waiting attempts of an endpoint. quinn allows 100 MiB.
const INCOMING_BYTES_TOTAL: u64 = 32 * 1024 * 1024;

/// How close path MTU discovery (RFC 9000 section 14.3) comes to what a path carries, in bytes, at the most.
const MTU_STEP: u16 = 127;

/// What one worker's endpoints share: its ids and the reset key.
pub(super) fn endpoint_config(layout: &Layout, worker: u8, keys: &Keys) -> EndpointConfig {
    let ids = HomeIds::new(layout.clone(), worker);
    let mut config = EndpointConfig::new(keys.reset());
    config.cid_generator(move || Box::new(ids.clone()));
    config
}

/// What the connections of one listener share.
pub(super) fn server_config(
    tls: QuicServerConfig,
    keys: &Keys,
    listener: &Transport,
) -> ServerConfig {
    let mut config = ServerConfig::new(Arc::new(tls), keys.tokens());
    config
        .transport_config(Arc::new(transport_config(listener)))
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL)
        .migration(true);
    config
}

/// The same with other settings for the connections to come.
pub(super) fn with_transport(config: &ServerConfig, listener: &Transport) -> ServerConfig {
    let mut config = config.clone();
    config.transport_config(Arc::new(transport_config(listener)));
    config
}

fn transport_config(settings: &Transport) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(idle_timeout(settings)))
        .keep_alive_interval(Some(settings.ping_interval))
        .stream_receive_window(varint(settings.stream_window))
        .receive_window(varint(settings.connection_window))
        .send_window(settings.send_window.0)
        .max_concurrent_bidi_streams(settings.initial_bidi_streams.into())
        .max_concurrent_uni_streams(
            settings.initial_uni_streams.saturating_add(HTTP3_STREAMS).into(),
        )
        .datagram_send_buffer_size(settings.datagram_send_buffer.as_usize())
        .datagram_receive_buffer_size(Some(settings.datagram_receive_buffer.as_usize()))
        .initial_mtu(settings.initial_mtu)
        .mtu_discovery_config(mtu_discovery(settings))
        .initial_rtt(settings.initial_rtt)
        .packet_threshold(settings.packet_threshold)
        .congestion_controller_factory(congestion(settings));
    config
}

/// Longer than QUIC can say is as long as QUIC can say.
fn idle_timeout(settings: &Transport) -> IdleTimeout {
    settings.idle_timeout.try_into().unwrap_or_else(|_| VarInt::MAX.into())
}

/// More than QUIC can say is as much as QUIC can say.
fn varint(size: ByteSize) -> VarInt {
    VarInt::from_u64(size.0).unwrap_or(VarInt::MAX)
}

/// None where there is nothing above the first packets' size to discover.
///
/// quinn would halve what is left until it is within 20 bytes: four probes and four round trips to 1452, which
/// most paths carry. With steps that are no smaller than half of the whole it asks for the largest first, and is
/// done with one probe. Paths that carry less may get up to [`MTU_STEP`] bytes less than they could.
fn mtu_discovery(settings: &Transport) -> Option<MtuDiscoveryConfig> {
    let room = settings.max_mtu.checked_sub(settings.initial_mtu).filter(|room| *room > 0)?;
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(settings.max_mtu).minimum_change((room / 2 + 1).min(MTU_STEP));
    Some(discovery)
}

fn congestion(settings: &Transport) -> Arc<dyn ControllerFactory + Send + Sync> {
    /// A controller that begins with the window of the settings.
    macro_rules! beginning {
        ($config:ty) => {{
            let mut config = <$config>::default();
            config.initial_window(settings.initial_window.0);
            Arc::new(config)
        }};
    }
    match settings.congestion {
        Congestion::Cubic => beginning!(CubicConfig),
        Congestion::NewReno => beginning!(NewRenoConfig),
        Congestion::Bbr => beginning!(BbrConfig),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn each_controller_begins_with_the_window_that_was_asked_for() {
        for algorithm in [Congestion::Cubic, Congestion::NewReno, Congestion::Bbr] {
            for bytes in [12_000, 48_000] {
                let settings = Transport {
                    congestion: algorithm,
                    initial_window: ByteSize(bytes),
                    ..Transport::default()
                };
                #[allow(clippy::disallowed_methods, reason = "quinn takes the standard library's")]
                let now = Instant::now();
                let controller = congestion(&settings).build(now, 1200);
                assert_eq!(controller.initial_window(), bytes, "{algorithm:?}");
                assert_eq!(controller.window(), bytes, "{algorithm:?}");
            }
        }
    }

    /// quinn shows its settings and has no other way to ask for them.
    #[test]
    fn what_is_taken_for_lost_and_for_a_round_trip_reaches_quinn() {
        let settings = Transport {
            initial_rtt: Duration::from_millis(70),
            packet_threshold: 21,
            ..Transport::default()
        };
        let shown = format!("{:?}", transport_config(&settings));
        assert!(
            shown.contains("initial_rtt: 70ms") && shown.contains("packet_threshold: 21"),
            "{shown}"
        );
    }
}
