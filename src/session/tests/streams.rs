//! How fast a session may open streams.

use std::time::Duration;

use tokio::time::Instant;

use super::support::*;
use crate::{
    backend::tests::dead_address,
    config::{self, Rate, StreamsMode, UniMode},
    reason::StreamEnd,
};

fn route_with(stream_rate: Rate) -> config::Route {
    config::Route { stream_rate, ..route(&[dead_address()]) }
}

/// Streams are refused here, so that nothing but the clock plays a part.
#[tokio::test(start_paused = true)]
async fn streams_above_the_rate_wait_for_their_turn_in_order() {
    let route = route_with(Rate::per_second(4));
    let gateway =
        Gateway::new(config::Route { streams: StreamsMode::Refuse, uni: UniMode::Refuse, ..route });
    let client = gateway.session().await;
    let refused = || gateway.route.stream_ends.get(StreamEnd::Refused);
    let begun = Instant::now();
    let bidi: Vec<_> = (0..5).map(|_| client.open_bidi()).collect();
    let uni = client.open_uni();
    assert_eq!((refused(), gateway.route.slowed_streams.get()), (4, 2), "the burst, and the rest");

    assert_eq!(bidi[4].1.reset().await, Some(StreamEnd::Refused.code()));
    assert_eq!((begun.elapsed().as_millis(), refused()), (250, 5));
    assert_eq!(uni.stopped().await, Some(StreamEnd::Refused.code()));
    assert_eq!((begun.elapsed().as_millis(), refused()), (500, 6));

    // After a pause there is a whole burst again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let again: Vec<_> = (0..4).map(|_| client.open_bidi()).collect();
    assert_eq!((refused(), gateway.route.slowed_streams.get()), (10, 2));
    drop(again);
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn sessions_do_not_share_their_rate() {
    let gateway = Gateway::new(route_with(Rate::AtMost { events: 1, per: HOUR }));
    for _ in 0..3 {
        let client = gateway.session().await;
        client.open_bidi();
        client.close(0, "");
    }
    assert_eq!(gateway.route.slowed_streams.get(), 0);
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn a_stream_that_waits_ends_with_its_session() {
    let gateway = Gateway::new(route_with(Rate::AtMost { events: 1, per: HOUR }));
    let client = gateway.session().await;
    let first = client.open_bidi();
    gateway.first_stream_ends(StreamEnd::BackendUnreachable).await;
    let (bidi, uni) = (client.open_bidi(), client.open_uni());
    assert_eq!(gateway.route.slowed_streams.get(), 2);
    assert_eq!(client.open_bidi_streams(), 0, "who waits raises no credit");

    client.close(0, "");
    gateway.leaves_nothing_behind().await;
    assert_eq!(gateway.route.stream_ends.get(StreamEnd::SessionEnded), 2);
    assert!(bidi.0.is_abandoned() && bidi.1.is_abandoned() && uni.is_abandoned());
    drop(first);
}

const HOUR: Duration = Duration::from_secs(3600);
