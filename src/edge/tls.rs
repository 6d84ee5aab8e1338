//! TLS: version 1.3, the protocol `h3`, a certificate chosen by server name.
//!
//! 0-RTT is off: a replayed session request would open a backend connection each time.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use quinn::crypto::rustls::QuicServerConfig;
use rustls::{
    ServerConfig,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS13,
};

use super::{certificate::Certificate, clients, crypto, keys::Keys};
use crate::config::CertificateSource;

/// The only application protocol (RFC 9114 section 3.1).
const ALPN_H3: &[u8] = b"h3";

/// TLS for one listener.
///
/// Where clients are asked for certificates no session is resumed: it would keep what was verified once, also when
/// a root is believed no longer, and a ticket of another listener would bring none at all.
pub(super) fn server_config(
    certificates: Arc<Certificates>,
    clients: Option<Arc<clients::Verifier>>,
    keys: &Keys,
) -> QuicServerConfig {
    let asks_clients = clients.is_some();
    let builder = ServerConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider speaks TLS 1.3");
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.alpn_protocols = vec![ALPN_H3.to_vec()];
    config.max_early_data_size = 0;
    if asks_clients {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = keys.tickets();
    }
    config.try_into().expect("the provider has the cipher suite of Initial packets")
}

/// The certificates of a listener. They can be swapped while connections are being made.
#[derive(Debug)]
pub(super) struct Certificates(ArcSwap<Chosen>);

impl Certificates {
    pub(super) fn new(chosen: Chosen) -> Self {
        Self(ArcSwap::from_pointee(chosen))
    }

    /// Those in use.
    pub(super) fn now(&self) -> Arc<Chosen> {
        self.0.load_full()
    }

    /// From now on new handshakes see these.
    pub(super) fn swap(&self, chosen: Chosen) {
        self.0.store(Arc::new(chosen));
    }
}

/// Certificates by server name.
#[derive(Debug)]
pub(super) struct Chosen {
    /// The default first.
    pub(super) all: Vec<Certificate>,
    /// What comes in the place of one that the gateway made, already made.
    pub(super) next: Option<Certificate>,
    /// Where they are from.
    pub(super) source: CertificateSource,
    by_name: HashMap<String, Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
}

impl Chosen {
    /// The first is the default. Where two are for the same name, the earlier one wins.
    pub(super) fn new(
        source: CertificateSource,
        all: Vec<Certificate>,
        next: Option<Certificate>,
    ) -> Option<Self> {
        let mut by_name = HashMap::new();
        for certificate in &all {
            for name in &certificate.leaf.names {
                by_name.entry(name.clone()).or_insert_with(|| Arc::clone(&certificate.certified));
            }
        }
        let default = Arc::clone(&all.first()?.certified);
        Some(Self { all, next, source, by_name, default })
    }

    /// By the name itself, then by a wildcard for its first label (RFC 9525 section 6.3), then the
    /// default, which is also for clients that ask for an address and so send no name.
    fn by_server_name(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let Some(name) = name else { return &self.default };
        let wildcard = || {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        };
        self.by_name.get(name).or_else(wildcard).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls gives the name in lower case.
        Some(Arc::clone(self.0.load().by_server_name(hello.server_name())))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::edge::certificate;

    fn chosen(all: &[Certificate]) -> Option<Chosen> {
        Chosen::new(CertificateSource::Files(Vec::new()), all.to_vec(), None)
    }

    fn certificate(names: &[&str]) -> Certificate {
        let names = names.iter().map(ToString::to_string).collect();
        certificate::load("test", &CertificateSource::SelfSigned(names), SystemTime::now())
            .unwrap()
            .remove(0)
    }

    #[test]
    fn the_server_name_chooses_the_certificate() {
        let all = [
            certificate(&["first.example"]),
            certificate(&["Play.Example", "*.play.example"]),
            certificate(&["play.example", "eu.play.example"]),
        ];
        let chosen = chosen(&all).unwrap();
        let table = [
            (None, 0),
            (Some("unknown.example"), 0),
            (Some("first.example"), 0),
            (Some("play.example"), 1),
            (Some("us.play.example"), 1),
            (Some("eu.play.example"), 2),
            (Some("deep.us.play.example"), 0),
            (Some("localhost"), 0),
        ];
        for (name, index) in table {
            let found = chosen.by_server_name(name);
            assert!(Arc::ptr_eq(found, &all[index].certified), "{name:?}");
        }
    }

    #[test]
    fn without_a_certificate_there_is_nothing_to_serve() {
        assert!(chosen(&[]).is_none());
    }
}
