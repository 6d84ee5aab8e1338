//! Sessions that end because their time is over.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::support::*;
use crate::{
    backend::tests::dead_address,
    config::{self, Credential, CredentialKind, Jwt, JwtKey, KeyMaterial},
    credential::tests::jwt::{SECRET, token},
    reason::Ending,
    session::run,
    transport::memory::{MemoryClient, SeenEnd},
};

const SECOND: Duration = Duration::from_secs(1);

fn ten_seconds() -> config::Route {
    config::Route { session_lifetime: Some(10 * SECOND), ..route(&[dead_address()]) }
}

async fn is_closed(client: &MemoryClient, gateway: &Gateway, why: Ending) {
    assert_eq!(client.closed().await, (why.code(), why.to_string()));
    gateway.leaves_nothing_behind().await;
    assert_eq!(gateway.route.ends.get(why), 1);
    assert_eq!(gateway.context.cut_sessions(), 0, "it was not the operator");
}

#[tokio::test(start_paused = true)]
async fn a_session_is_asked_to_end_and_then_closed_at_its_lifetime() {
    let gateway = Gateway::new(ten_seconds());
    let client = gateway.session().await;
    let began = Instant::now();
    client.asked_to_end().await;
    assert_eq!(began.elapsed(), 9 * SECOND);
    assert!(!client.was_told(), "it goes on");
    is_closed(&client, &gateway, Ending::SessionLifetime).await;
    assert_eq!(began.elapsed(), 10 * SECOND);
}

/// Asking to end needs the client's credit, which it may withhold.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_does_not_outlive_its_time() {
    let gateway = Gateway::new(ten_seconds());
    let client = gateway.session().await;
    let began = Instant::now();
    client.block_drain();
    is_closed(&client, &gateway, Ending::SessionLifetime).await;
    assert_eq!(began.elapsed(), 10 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_drained_already_has_no_more_time_for_it() {
    let gateway = Gateway::new(ten_seconds());
    let client = gateway.session().await;
    let began = Instant::now();
    gateway.lifecycle.begin_drain();
    client.asked_to_end().await;
    is_closed(&client, &gateway, Ending::SessionLifetime).await;
    assert_eq!(began.elapsed(), 10 * SECOND);
}

#[tokio::test]
async fn a_session_whose_open_streams_carry_nothing_is_idle() {
    let server = Server::new().await;
    let mut route = route(&[server.address()]);
    route.session_idle = Some(Duration::from_millis(50));
    let gateway = Gateway::new(route);
    let client = gateway.session().await;
    let (send, recv) = client.open_bidi();
    send.write("one").await;
    let mut connection = server.accept().await;
    connection.read_exact(3).await;

    assert_eq!(recv.read_to_end().await, (Vec::new(), SeenEnd::Reset(None)));
    assert_reset(connection.read_to_end().await.1);
    is_closed(&client, &gateway, Ending::SessionIdle).await;
}

/// The leeway is the session's too. What the token's date means was decided when it was looked at: the clock of
/// the machine may be set meanwhile.
#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_credential_and_its_leeway() {
    let credential = Credential {
        name: "players".into(),
        kind: CredentialKind::Jwt(Jwt {
            sources: Vec::new(),
            keys: vec![JwtKey { kid: None, material: KeyMaterial::secret(SECRET.to_vec()) }],
            audience: Vec::new(),
            issuer: Vec::new(),
            leeway: 8 * SECOND,
            require_expiry: true,
        }),
        query: None,
        claims: Vec::new(),
    };
    let credentials = vec![Arc::new(credential)];
    let gateway = Gateway::new(config::Route { credentials, ..route(&[dead_address()]) });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let exp = (now + 2 * SECOND).as_secs_f64();
    let (request, client) =
        MemoryClient::showing(&token(&format!(r#"{{"sub":"alice","exp":{exp}}}"#)), PATH);
    gateway.lifecycle.spawn(run(request, Arc::clone(&gateway.context)));
    client.accepted().await;
    let began = Instant::now();
    // What has passed on the machine's clock meanwhile is not the paused one's.
    let is_about = |wanted: Duration| (wanted - 5 * SECOND..=wanted).contains(&began.elapsed());
    client.asked_to_end().await;
    assert!(is_about(9 * SECOND), "{:?}", began.elapsed());
    is_closed(&client, &gateway, Ending::CredentialExpired).await;
    assert!(is_about(10 * SECOND), "{:?}", began.elapsed());
}
