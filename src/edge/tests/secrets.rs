//! What a gateway has made is good at another one with its secret.

use super::*;

const OLD_SECRET: &[u8] = &[1; 32];
const NEW_SECRET: &[u8] = &[2; 32];

/// A configuration with these secrets, read as they would be from files.
fn config_with_secrets(folder: &Files, secret: &[u8], previous: Option<&[u8]>) -> Config {
    let write = |name: &str, secret: &[u8]| {
        std::fs::write(folder.0.join(name), secret).unwrap();
        format!("{name} = {{ file = {name:?} }}\n")
    };
    let current = write("secret", secret);
    let previous = previous.map(|previous| write("previous_secret", previous)).unwrap_or_default();
    let text = format!(
        "version = 1\n[server]\nworkers = 1\n{current}{previous}\
         [[listener]]\nquic = [\"127.0.0.1:0\"]\nself_signed = [\"localhost\"]\n\
         [[route]]\npath = \"/\"\norigins = \"any\"\nbackend = \"b\"\n\
         [backend.b]\nendpoints = [{{ tcp = \"127.0.0.1:9\" }}]\n"
    );
    let read = Config::parse(&text, "test.toml", &folder.0).unwrap_or_else(|p| panic!("{p}"));
    Config { server: read.server, ..config(1) }
}

/// A ticket is what lets the client in: it believes the first gateway's certificate and no other.
#[tokio::test]
async fn a_ticket_made_with_the_previous_secret_is_good_at_a_gateway_with_a_new_one() {
    for (previous, is_good) in [(Some(OLD_SECRET), true), (None, false)] {
        let folder = Files::new(&format!("ticket-{is_good}"));
        let old = TestEdge::start(&config_with_secrets(&folder, OLD_SECRET, None));
        let new = TestEdge::start(&config_with_secrets(&folder, NEW_SECRET, previous));
        let client = old.client();
        let first = connect(&client, old.address(), "localhost").await.unwrap();
        assert_eq!(round_trip(&first, b"first").await, b"first");

        let second = connect(&client, new.address(), "localhost").await;
        assert_eq!(second.is_ok(), is_good, "{second:?}");
        if let Ok(second) = second {
            assert_eq!(round_trip(&second, b"second").await, b"second");
        }
        old.stop().await;
        new.stop().await;
    }
}

/// An address that was proved to the one need not be proved to the other.
#[tokio::test]
async fn a_token_made_with_the_previous_secret_is_good_at_a_gateway_with_a_new_one() {
    for (previous, retries) in [(Some(OLD_SECRET), 0), (None, 1)] {
        let folder = Files::new(&format!("token-{retries}"));
        let certificate = CertificateSource::Files(vec![folder.make("localhost")]);
        let start = |secret, previous, retry| {
            let mut config = config_with_secrets(&folder, secret, previous);
            config.listeners[0].certificate = certificate.clone();
            config.listeners[0].retry = retry;
            TestEdge::start(&config)
        };
        let old = start(OLD_SECRET, None, RetryPolicy::Never);
        let new = start(NEW_SECRET, previous, RetryPolicy::Always);
        let client = old.client();
        let first = connect(&client, old.address(), "localhost").await.unwrap();
        assert_eq!(round_trip(&first, b"first").await, b"first");

        let second = connect(&client, new.address(), "localhost").await.unwrap();
        assert_eq!(round_trip(&second, b"second").await, b"second");
        assert_eq!(new.numbers().retries.get(), retries);
        old.stop().await;
        new.stop().await;
    }
}
