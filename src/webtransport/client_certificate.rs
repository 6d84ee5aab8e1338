//! What a client's certificate says. TLS has verified it; here it is only read.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::transport::{AlternativeName, ClientCertificate};

/// Names beyond these are not looked at.
const MOST_NAMES: usize = 64;

/// The certificate of the client of a connection, if it has shown one.
pub(super) fn of(quic: &quinn::Connection) -> Option<ClientCertificate> {
    let chain = quic.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    read(chain.first()?)
}

fn read(der: &[u8]) -> Option<ClientCertificate> {
    let (_, leaf) = X509Certificate::from_der(der).ok()?;
    let alternative = leaf.subject_alternative_name().ok()?;
    let names = alternative.iter().flat_map(|found| &found.value.general_names);
    let common_name = leaf.subject().iter_common_name().next();
    let last = u64::try_from(leaf.validity().not_after.timestamp()).ok()?;
    Some(ClientCertificate {
        names: names.filter_map(name).take(MOST_NAMES).collect(),
        common_name: common_name.and_then(|name| name.as_str().ok()).map(str::to_owned),
        // The last second counts (RFC 5280 section 4.1.2.5).
        ends: end(last)?,
    })
}

fn end(last: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(last.checked_add(1)?))
}

fn name(general: &GeneralName<'_>) -> Option<AlternativeName> {
    match general {
        GeneralName::DNSName(name) => Some(AlternativeName::Dns((*name).to_owned())),
        GeneralName::URI(uri) => Some(AlternativeName::Uri((*uri).to_owned())),
        GeneralName::RFC822Name(mailbox) => Some(AlternativeName::Email((*mailbox).to_owned())),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| v6()).ok().map(AlternativeName::Ip)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn a_certificate_says_its_names_of_each_kind_and_its_end() {
        let mut params =
            CertificateParams::new(vec!["robot.example.com".into(), "10.0.0.5".into()]).unwrap();
        params
            .subject_alt_names
            .push(SanType::URI("spiffe://example.com/robot".try_into().unwrap()));
        params.subject_alt_names.push(SanType::Rfc822Name("ops@example.com".try_into().unwrap()));
        params.distinguished_name.push(DnType::CommonName, "robot 7");
        params.not_after = time::OffsetDateTime::from_unix_timestamp(2_000_000_000).unwrap();
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = read(made.der()).unwrap();
        assert_eq!(
            read.names,
            [
                AlternativeName::Dns("robot.example.com".into()),
                AlternativeName::Ip("10.0.0.5".parse().unwrap()),
                AlternativeName::Uri("spiffe://example.com/robot".into()),
                AlternativeName::Email("ops@example.com".into()),
            ]
        );
        assert_eq!(read.common_name.as_deref(), Some("robot 7"));
        assert_eq!(read.ends, UNIX_EPOCH + Duration::from_secs(2_000_000_001));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(der: Vec<u8>) {
            _ = read(&der);
        }
    }
}
