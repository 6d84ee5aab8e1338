//! Which servers a client believes.

use std::{fmt, io, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedCipherSuite,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, SupportedKxGroup, WebPkiSupportedAlgorithms, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};

#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs::digest;
#[cfg(not(feature = "aws-lc-rs"))]
use ring::digest;

#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs::default_provider;
#[cfg(not(feature = "aws-lc-rs"))]
use rustls::crypto::ring::default_provider;

/// Which servers to believe.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Those whose leaf certificate has one of these SHA-256 hashes, as a browser's
    /// `serverCertificateHashes`.
    Hashes(Vec<[u8; 32]>),
    /// Those whose chain leads to one of these certificates, given as PEM.
    Roots(String),
    /// Everybody. For measurements on a closed network.
    DangerAcceptAny,
}

/// A client's own certificate and its key.
#[derive(Clone)]
pub struct Identity {
    /// The chain as PEM, the leaf first.
    pub chain_pem: String,
    /// The key as PEM.
    pub key_pem: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("chain_pem", &self.chain_pem).finish_non_exhaustive()
    }
}

/// What a client offers in the handshake of TLS. By default all that it has, and to resume.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Offer {
    /// Key exchanges, by the names of RFC 8446 section 4.2.7 and its registry: `x25519`, `X25519MLKEM768`. None: all.
    pub groups: Vec<String>,
    /// Cipher suites, by the names of RFC 8446 appendix B.4: `TLS_AES_128_GCM_SHA256`, which QUIC cannot be
    /// without. None: all.
    pub suites: Vec<String>,
    /// Each handshake is a whole one, and none goes on from an earlier session.
    pub no_resumption: bool,
}

impl Offer {
    fn provider(&self) -> io::Result<CryptoProvider> {
        let mut provider = default_provider();
        let groups = |group: &&'static dyn SupportedKxGroup| format!("{:?}", group.name());
        // rustls has the version in the name.
        let suites =
            |suite: &SupportedCipherSuite| format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
        provider.kx_groups = chosen(&self.groups, provider.kx_groups, groups)?;
        provider.cipher_suites = chosen(&self.suites, provider.cipher_suites, suites)?;
        Ok(provider)
    }
}

/// Those that are named, in that order, or all.
fn chosen<T: Copy>(
    names: &[String],
    all: Vec<T>,
    name: impl Fn(&T) -> String,
) -> io::Result<Vec<T>> {
    if names.is_empty() {
        return Ok(all);
    }
    let one = |wanted: &String| {
        let found = all.iter().find(|each| name(each).eq_ignore_ascii_case(wanted)).copied();
        found.ok_or_else(|| {
            let known: Vec<_> = all.iter().map(&name).collect();
            io::Error::other(format!("TLS has no {wanted} here, but {}", known.join(", ")))
        })
    };
    names.iter().map(one).collect()
}

impl Trust {
    pub(super) fn client_config(
        &self,
        identity: Option<&Identity>,
        offer: &Offer,
    ) -> io::Result<ClientConfig> {
        let provider = Arc::new(offer.provider()?);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?;
        let builder = match self {
            Self::Roots(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    let certificate = certificate.map_err(io::Error::other)?;
                    roots.add(certificate).map_err(io::Error::other)?;
                }
                builder.with_root_certificates(roots)
            }
            Self::Hashes(hashes) => Self::pinned(builder, &provider, Some(hashes.clone())),
            Self::DangerAcceptAny => Self::pinned(builder, &provider, None),
        };
        let mut config = match identity {
            Some(Identity { chain_pem, key_pem }) => {
                let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes());
                let chain = chain.collect::<Result<_, _>>().map_err(io::Error::other)?;
                let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes());
                let key = key.map_err(io::Error::other)?;
                builder.with_client_auth_cert(chain, key).map_err(io::Error::other)?
            }
            None => builder.with_no_client_auth(),
        };
        if offer.no_resumption {
            config.resumption = Resumption::disabled();
        }
        Ok(config)
    }

    fn pinned(
        builder: rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>,
        provider: &CryptoProvider,
        hashes: Option<Vec<[u8; 32]>>,
    ) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let algorithms = provider.signature_verification_algorithms;
        let pinned = Pinned { hashes, algorithms };
        builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned))
    }
}

/// Believes a certificate by its hash alone; `None` believes all.
#[derive(Debug)]
struct Pinned {
    hashes: Option<Vec<[u8; 32]>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let hash = digest::digest(&digest::SHA256, leaf);
        match &self.hashes {
            Some(hashes) if !hashes.iter().any(|h| h == hash.as_ref()) => {
                Err(rustls::CertificateError::ApplicationVerificationFailure.into())
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 was not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_is_what_was_named() {
        let offer = |groups: &[&str], suites: &[&str]| Offer {
            groups: groups.iter().map(|&name| name.to_owned()).collect(),
            suites: suites.iter().map(|&name| name.to_owned()).collect(),
            no_resumption: false,
        };
        let provider = offer(&["x25519"], &["TLS_AES_128_GCM_SHA256"]).provider().unwrap();
        let groups: Vec<_> = provider.kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups, [rustls::NamedGroup::X25519]);
        let suites: Vec<_> = provider.cipher_suites.iter().map(|suite| suite.suite()).collect();
        assert_eq!(suites, [rustls::CipherSuite::TLS13_AES_128_GCM_SHA256]);

        let all = Offer::default().provider().unwrap();
        assert_eq!(all.cipher_suites, default_provider().cipher_suites);
        for wrong in [offer(&["x25518"], &[]), offer(&[], &["TLS_AES_127_GCM_SHA256"])] {
            assert!(wrong.provider().unwrap_err().to_string().starts_with("TLS has no"));
        }
    }
}
