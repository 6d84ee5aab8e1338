//! Sessions of a page that allows them to share a connection.
//!
//! Hashes of certificates forbid that, so the browser has to trust the certificate in another way.

use std::{fs, path::PathBuf};

use base64::Engine;
use rcgen::PublicKeyData;
use serde_json::json;

use crate::{
    browser::{Browser, PageServer, Window},
    harness::{Setup, TestGateway, echo_tcp, echo_udp},
    raw::sha256,
};

/// Sessions of the page.
const SESSIONS: u32 = 3;

/// Chromium 156 does not look at `allowPooling`, and gives each session a connection of its own. One that
/// does look at it may share them, and the end of one session must leave the others alone all the same.
#[tokio::test]
async fn chromium_shares_no_connection_though_the_page_allows_it() {
    let Some(program) = Browser::Chromium.or_skip() else { return };
    let certificate = Certificate::new();
    let gateway = certificate.gateway().await;
    let address = gateway.running().quic_addresses()[1].address;
    let trusts = [
        format!("--ignore-certificate-errors-spki-list={}", certificate.key_hash),
        // Without it Chromium takes only what public authorities have signed.
        format!("--origin-to-force-quic-on={address}"),
    ];
    let page = json!({
        "gateways": { "main": { "url": format!("https://{address}"), "hash": "" } },
        "cases": [{ "case": "pooling", "path": "/echo", "sessions": SESSIONS, "bytes": 10_000 }],
    });
    let mut page = PageServer::start(&page).await;
    let browser = Window::show(Browser::Chromium, &program, &trusts, &page.url());

    let pooling = page.passed(&browser, "pooling").await;
    gateway.session_ends("client_closed", SESSIONS.into()).await;
    let is_asked = pooling.facts["asked"].as_bool().unwrap();
    let labels = [("listener", "trusted"), ("result", "established")];
    let connections = gateway.metric("tidegate_quic_connections_total", &labels);
    let most = f64::from(SESSIONS);
    let least = if is_asked { 1.0 } else { most };
    assert!((least..=most).contains(&connections), "{connections} connections, asked: {is_asked}");
    drop(browser);
    gateway.shut_down().await;
}

/// A certificate in files, and what Chromium knows it by.
struct Certificate {
    folder: PathBuf,
    key_hash: String,
}

impl Certificate {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("tidegate-pooling-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        fs::write(folder.join("chain.pem"), made.cert.pem()).unwrap();
        fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let key_hash = sha256(&made.signing_key.subject_public_key_info());
        let key_hash = base64::engine::general_purpose::STANDARD.encode(key_hash);
        Self { folder, key_hash }
    }

    /// A gateway that has it on its second listener.
    async fn gateway(&self) -> TestGateway {
        let [chain, key] = ["chain.pem", "key.pem"].map(|name| self.folder.join(name));
        let listener = format!(
            "[[listener]]\nname = \"trusted\"\nquic = [\"127.0.0.1:0\"]\n\
             certificates = [{{ chain = {chain:?}, key = {key:?} }}]",
        );
        let setup = Setup::new().route("/echo", Some(echo_tcp().await), Some(echo_udp().await));
        setup.tables(&listener).start().await
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        // What is left is small, and in the system's folder for such.
        _ = fs::remove_dir_all(&self.folder);
    }
}
