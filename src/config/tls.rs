//! TLS to a backend: what the configuration says, and what rustls makes of it.
//!
//! Files are read and tried here, so that a bad one is a problem of the configuration and not of the
//! first stream.

use std::{fmt, path::PathBuf, sync::Arc};

#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs::default_provider;
#[cfg(not(feature = "aws-lc-rs"))]
use rustls::crypto::ring::default_provider;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    server::{VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, UnixTime};

use super::{CertificateFiles, HostPort, Roots};

/// TLS to the endpoints of a backend.
#[derive(Clone)]
pub struct BackendTls {
    /// Which certificates are believed. Default: those that lead to the system's roots.
    pub roots: Roots,
    /// The name that a certificate must be for, where it is not the host of the endpoint's address.
    pub server_name: Option<String>,
    /// Application protocols that are offered, in order of preference. Default none.
    pub alpn: Vec<String>,
    /// What the gateway shows of itself to backends that ask. Default nothing.
    pub certificate: Option<CertificateFiles>,
    pub(super) client: Arc<ClientConfig>,
    /// Of what was in the files.
    pub(super) fingerprint: u64,
}

/// A chain, leaf first, and its key.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl BackendTls {
    /// What rustls needs for a connection.
    pub fn client(&self) -> &Arc<ClientConfig> {
        &self.client
    }

    /// Whom the certificate of an endpoint has to name.
    ///
    /// # Errors
    /// The host is a name that no certificate can be for. Not for endpoints of a valid configuration.
    pub fn server(&self, endpoint: &HostPort) -> Result<ServerName<'static>, InvalidDnsNameError> {
        match (&self.server_name, endpoint) {
            (Some(name), _) | (None, HostPort::Name(name, _)) => server_name(name),
            (None, HostPort::Address(address)) => Ok(address.ip().into()),
        }
    }
}

#[cfg(test)]
impl BackendTls {
    /// With what no file has to hold.
    pub(crate) fn for_tests(
        roots: Option<RootCertStore>,
        identity: Option<Identity>,
        alpn: &[String],
    ) -> Self {
        let client = Arc::new(client_config(roots, identity, alpn).unwrap());
        Self {
            roots: Roots::System,
            server_name: None,
            alpn: alpn.to_vec(),
            certificate: None,
            client,
            fingerprint: 0,
        }
    }
}

impl fmt::Debug for BackendTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { roots, server_name, alpn, certificate, client: _, fingerprint: _ } = self;
        f.debug_struct("BackendTls")
            .field("roots", roots)
            .field("server_name", server_name)
            .field("alpn", alpn)
            .field("certificate", certificate)
            .finish_non_exhaustive()
    }
}

/// Equal if the same was written and the same was in the files.
impl PartialEq for BackendTls {
    fn eq(&self, other: &Self) -> bool {
        let all = |tls: &Self| {
            let Self { roots, server_name, alpn, certificate, client: _, fingerprint } =
                tls.clone();
            (roots, server_name, alpn, certificate, fingerprint)
        };
        all(self) == all(other)
    }
}

impl Eq for BackendTls {}

/// What a listener asks of the certificates of clients.
#[derive(Clone)]
pub struct ClientCertificates {
    /// The PEM file with the roots that they must lead to.
    pub roots: PathBuf,
    /// Whether a client without one gets no connection. Default false: routes decide.
    pub required: bool,
    verifier: Arc<dyn ClientCertVerifier>,
    /// Of what was in the file.
    fingerprint: u64,
}

impl ClientCertificates {
    pub(super) fn new(
        roots: PathBuf,
        store: RootCertStore,
        required: bool,
        fingerprint: u64,
    ) -> Result<Self, VerifierBuilderError> {
        let provider = Arc::new(default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build()?;
        Ok(Self { roots, required, verifier, fingerprint })
    }

    /// What rustls asks.
    pub fn verifier(&self) -> &Arc<dyn ClientCertVerifier> {
        &self.verifier
    }
}

impl fmt::Debug for ClientCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificates")
            .field("roots", &self.roots)
            .field("required", &self.required)
            .finish_non_exhaustive()
    }
}

/// Equal if the same was written and the same was in the file.
impl PartialEq for ClientCertificates {
    fn eq(&self, other: &Self) -> bool {
        let all = |one: &Self| (one.roots.clone(), one.required, one.fingerprint);
        all(self) == all(other)
    }
}

impl Eq for ClientCertificates {}

/// A host name or address as certificates have it: without the dot at the end.
pub(super) fn server_name(name: &str) -> Result<ServerName<'static>, InvalidDnsNameError> {
    ServerName::try_from(name.strip_suffix('.').unwrap_or(name).to_owned())
}

/// Makes of it what rustls needs. Without roots, every certificate is believed.
pub(super) fn client_config(
    roots: Option<RootCertStore>,
    identity: Option<Identity>,
    alpn: &[String],
) -> Result<ClientConfig, Error> {
    let provider = Arc::new(default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = match roots {
        Some(roots) => builder.with_root_certificates(roots),
        None => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(algorithms)))
        }
    };
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect();
    Ok(config)
}

/// Believes every certificate; that its owner has the key is still checked.
#[derive(Debug)]
struct AcceptAny(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
