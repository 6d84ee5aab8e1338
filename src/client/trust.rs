//! Which servers a client believes.

use std::{fmt, io, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature},
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

impl Trust {
    pub(super) fn client_config(&self, identity: Option<&Identity>) -> io::Result<ClientConfig> {
        let provider = Arc::new(default_provider());
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
        match identity {
            Some(Identity { chain_pem, key_pem }) => {
                let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes());
                let chain = chain.collect::<Result<_, _>>().map_err(io::Error::other)?;
                let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes());
                let key = key.map_err(io::Error::other)?;
                builder.with_client_auth_cert(chain, key).map_err(io::Error::other)
            }
            None => Ok(builder.with_no_client_auth()),
        }
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
