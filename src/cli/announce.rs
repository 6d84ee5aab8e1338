//! What a client must know to connect, for people, logs and machines.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;
use tidegate::{edge::CertificateInfo, gateway::Running};
use tracing::info;

/// The facts of `--print json`, in this order.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Facts {
    /// Where a client on this machine can open a session.
    pub(crate) url: String,
    /// SHA-256 of the certificate, lower case.
    pub(crate) cert_hash_hex: Option<String>,
    /// The same, as JavaScript's `atob` takes it.
    pub(crate) cert_hash_base64: Option<String>,
    /// The admin's URL.
    pub(crate) admin: Option<String>,
    /// The playground's URL; only `tidegate dev` has one.
    pub(crate) playground: Option<String>,
    /// This process.
    pub(crate) pid: u32,
}

impl Facts {
    /// The facts of the first listener at its first address.
    pub(crate) fn of(running: &Running, path: Option<&str>) -> Self {
        let first = running.quic_addresses().first();
        let certificates = running.certificates();
        let certificate =
            first.and_then(|bound| certificates.iter().find(|c| c.listener == bound.listener));
        Self {
            url: first.map_or_else(String::new, |bound| {
                format!("https://{}{}", reachable(bound.address), path.unwrap_or("/"))
            }),
            cert_hash_hex: certificate.map(|c| hex(&c.sha256)),
            cert_hash_base64: certificate.map(|c| STANDARD.encode(c.sha256)),
            admin: running.admin_address().map(|a| format!("http://{}", reachable(a))),
            playground: None,
            pid: process::id(),
        }
    }

    /// One line.
    pub(crate) fn json(&self) -> String {
        let mut line = serde_json::to_string(self).expect("strings and a number are JSON");
        line.push('\n');
        line
    }
}

/// Logs where everything is.
pub(crate) fn log(running: &Running) {
    for bound in running.quic_addresses() {
        info!(listener = bound.listener, address = %bound.address, "Bound for QUIC.");
    }
    for certificate in running.certificates().iter().filter(|c| c.self_signed) {
        let CertificateInfo { listener, names, sha256, .. } = certificate;
        info!(
            listener,
            names = names.join(", "),
            sha256_hex = hex(sha256),
            sha256_base64 = STANDARD.encode(sha256),
            "Made a certificate, good for 13 days."
        );
    }
    if let Some(address) = running.admin_address() {
        info!(%address, "Bound for the admin.");
    }
}

/// The address as a client on this machine writes it: loopback where the socket takes any.
pub(crate) fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

/// Lower case, without separators.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}"); // writing to a string cannot fail
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_takes_any_is_announced_as_loopback() {
        for (bound, expected) in [
            ("0.0.0.0:4433", "127.0.0.1:4433"),
            ("[::]:4433", "[::1]:4433"),
            ("192.0.2.1:4433", "192.0.2.1:4433"),
        ] {
            assert_eq!(reachable(bound.parse().unwrap()).to_string(), expected);
        }
    }

    #[test]
    fn facts_are_one_line_with_every_key() {
        let facts = Facts {
            url: "https://127.0.0.1:4433/echo".into(),
            cert_hash_hex: Some(hex(&[0, 255])),
            cert_hash_base64: None,
            admin: None,
            playground: None,
            pid: 7,
        };
        assert_eq!(
            facts.json(),
            "{\"url\":\"https://127.0.0.1:4433/echo\",\"cert_hash_hex\":\"00ff\",\
             \"cert_hash_base64\":null,\"admin\":null,\"playground\":null,\"pid\":7}\n",
        );
    }
}
