//! Certificates: from PEM files, or made at start.
//!
//! What comes out can be used: the chain is not empty, the key belongs to its leaf, and the leaf could
//! be read. What is wrong is said with the file's name.

use std::{
    fmt,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::{
    InconsistentKeys,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::crypto;
use crate::config::{CertificateFiles, CertificateSource};

/// How long a self-signed certificate is valid in all. Browsers accept a certificate by its hash only
/// up to 14 days (W3C WebTransport, `serverCertificateHashes`); a day is left for clocks.
const SELF_SIGNED_VALIDITY: Duration = Duration::from_secs(13 * 24 * 60 * 60);

/// How far back the validity begins, for clients whose clock is behind.
const CLOCK_SLACK: Duration = Duration::from_secs(60 * 60);

/// A certificate with its key, ready to be used.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) leaf: Leaf,
    /// What metrics and logs call it.
    pub(super) label: String,
    pub(super) self_signed: bool,
}

/// What a leaf says about itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Leaf {
    /// DNS names in lower case and IP addresses, as in its subject alternative names.
    pub(super) names: Vec<String>,
    /// SHA-256 of its DER.
    pub(super) sha256: [u8; 32],
    /// Unix time.
    pub(super) not_before: i64,
    /// Unix time.
    pub(super) not_after: i64,
}

/// A fresh self-signed certificate and its key.
#[derive(Clone)]
pub struct SelfSigned {
    /// The certificate, as PEM.
    pub certificate_pem: String,
    /// Its key, as PEM (PKCS#8).
    pub key_pem: String,
    /// SHA-256 of the certificate's DER: what `serverCertificateHashes` wants.
    pub sha256: [u8; 32],
    /// When it ends, Unix time.
    pub not_after: i64,
    chain: CertificateDer<'static>,
    key: Vec<u8>,
}

impl fmt::Debug for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelfSigned").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The configuration names none.
    #[error("no certificate is configured")]
    None,
    /// A file cannot be read as PEM.
    #[error("cannot read {}", file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// A chain file has no certificate.
    #[error("{} holds no certificate", file.display())]
    EmptyChain {
        /// The file.
        file: PathBuf,
    },
    /// A key file has no private key.
    #[error("{} holds no private key", file.display())]
    NoKey {
        /// The file.
        file: PathBuf,
    },
    /// The first certificate of a chain is not one.
    #[error("the first certificate of {origin} cannot be read: {problem}")]
    Leaf {
        /// The file.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A key is of a kind that TLS cannot use here.
    #[error("the key in {} cannot be used", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
    /// A key is not that of the certificate.
    #[error("the key in {} is not that of the first certificate in {}", key.display(), chain.display())]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The chain's file.
        chain: PathBuf,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate for {}", names.join(", "))]
    SelfSigned {
        /// What it was to be for.
        names: Vec<String>,
        /// What is wrong.
        #[source]
        source: rcgen::Error,
    },
}

/// All certificates of a listener, the default first; or what is wrong with each that cannot be used.
pub(super) fn load(
    listener: &str,
    source: &CertificateSource,
    now: SystemTime,
) -> Result<Vec<Certificate>, Vec<CertificateError>> {
    let (mut usable, mut errors) = (Vec::new(), Vec::new());
    let mut keep = |made| match made {
        Ok(certificate) => usable.push(certificate),
        Err(error) => errors.push(error),
    };
    match source {
        CertificateSource::Files(files) => files.iter().map(from_files).for_each(keep),
        CertificateSource::SelfSigned(names) => keep(make(listener, names, now)),
    }
    if errors.is_empty() { Ok(usable) } else { Err(errors) }
}

/// Makes a certificate to be used from `begin` on.
pub(super) fn make(
    listener: &str,
    names: &[String],
    begin: SystemTime,
) -> Result<Certificate, CertificateError> {
    let made = self_signed_from(names, begin)?;
    let key = PrivatePkcs8KeyDer::from(made.key);
    let key = crypto::provider()
        .key_provider
        .load_private_key(key.into())
        .expect("the provider can use a P-256 key");
    Ok(Certificate {
        leaf: read_leaf(&made.chain, "the certificate made for it")?,
        certified: Arc::new(CertifiedKey::new(vec![made.chain], key)),
        label: format!("{listener} (self-signed)"),
        self_signed: true,
    })
}

/// Makes a certificate for these DNS names and IP addresses that browsers accept by its hash: ECDSA on
/// P-256, valid from an hour ago for 13 days in all.
///
/// # Errors
/// A name that a certificate cannot hold, or the provider failed.
pub fn self_signed(names: &[String]) -> Result<SelfSigned, CertificateError> {
    self_signed_from(names, SystemTime::now())
}

fn self_signed_from(names: &[String], begin: SystemTime) -> Result<SelfSigned, CertificateError> {
    let failed = |source| CertificateError::SelfSigned { names: names.to_vec(), source };
    let not_before = begin - CLOCK_SLACK;

    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "tidegate self-signed");
    params.not_before = not_before.into();
    params.not_after = (not_before + SELF_SIGNED_VALIDITY).into();

    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(SelfSigned {
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
        sha256: crypto::sha256(certificate.der()),
        not_after: params.not_after.unix_timestamp(),
        chain: certificate.der().clone(),
        key: key.serialize_der(),
    })
}

/// When a certificate that was made here is to be used first: it is valid from an hour before.
pub(super) fn use_of(leaf: &Leaf) -> SystemTime {
    let not_before = u64::try_from(leaf.not_before).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(not_before) + CLOCK_SLACK
}

fn from_files(files: &CertificateFiles) -> Result<Certificate, CertificateError> {
    let CertificateFiles { chain: chain_file, key: key_file } = files;
    let chain = read_chain(chain_file)?;
    let key = read_key(key_file)?;
    let leaf = read_leaf(&chain[0], &chain_file.display().to_string())?;
    let unusable = |source| CertificateError::Key { file: key_file.clone(), source };

    let key = crypto::provider().key_provider.load_private_key(key).map_err(unusable)?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => {}
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let (key, chain) = (key_file.clone(), chain_file.clone());
            return Err(CertificateError::Mismatch { key, chain });
        }
        Err(source) => return Err(unusable(source)),
    }
    Ok(Certificate {
        certified: Arc::new(certified),
        leaf,
        label: chain_file.display().to_string(),
        self_signed: false,
    })
}

fn read_chain(file: &PathBuf) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let unreadable = |source| CertificateError::Pem { file: file.clone(), source };
    let chain: Vec<_> = CertificateDer::pem_file_iter(file)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if chain.is_empty() {
        return Err(CertificateError::EmptyChain { file: file.clone() });
    }
    Ok(chain)
}

fn read_key(file: &PathBuf) -> Result<PrivateKeyDer<'static>, CertificateError> {
    PrivateKeyDer::from_pem_file(file).map_err(|source| match source {
        pem::Error::NoItemsFound => CertificateError::NoKey { file: file.clone() },
        source => CertificateError::Pem { file: file.clone(), source },
    })
}

fn read_leaf(der: &CertificateDer<'_>, origin: &str) -> Result<Leaf, CertificateError> {
    let unreadable =
        |problem: String| CertificateError::Leaf { origin: origin.to_owned(), problem };
    let (_, leaf) = X509Certificate::from_der(der).map_err(|e| unreadable(e.to_string()))?;
    let alternative = leaf.subject_alternative_name().map_err(|e| unreadable(e.to_string()))?;
    let names = alternative.iter().flat_map(|found| &found.value.general_names);
    Ok(Leaf {
        names: names.filter_map(name).collect(),
        sha256: crypto::sha256(der),
        not_before: leaf.validity().not_before.timestamp(),
        not_after: leaf.validity().not_after.timestamp(),
    })
}

/// Other kinds of names are of no use to a client that looks for a host.
fn name(general: &GeneralName<'_>) -> Option<String> {
    match general {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| v6()).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// A directory that is removed at the end.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("tidegate-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let file = self.0.join(name);
            fs::write(&file, text).unwrap();
            file
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            _ = fs::remove_dir_all(&self.0);
        }
    }

    fn made() -> SelfSigned {
        self_signed(&["localhost".into(), "127.0.0.1".into(), "::1".into()]).unwrap()
    }

    fn load_files(chain: &Path, key: &Path) -> Result<Certificate, String> {
        from_files(&CertificateFiles { chain: chain.to_owned(), key: key.to_owned() })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_self_signed_certificate_is_what_browsers_accept_by_hash() {
        let made = made();
        let (_, x509) = X509Certificate::from_der(&made.chain).unwrap();

        let validity = x509.validity();
        let seconds = validity.not_after.timestamp() - validity.not_before.timestamp();
        assert_eq!(seconds, 13 * 24 * 60 * 60);
        assert!(validity.is_valid());
        let key = &x509.public_key().algorithm;
        let curve = key.parameters.as_ref().unwrap().as_oid().unwrap();
        assert_eq!(key.algorithm.to_id_string(), "1.2.840.10045.2.1", "an EC key");
        assert_eq!(curve.to_id_string(), "1.2.840.10045.3.1.7", "on P-256");
        assert_eq!(x509.version.0, 2, "X.509 version 3");

        let leaf = read_leaf(&made.chain, "test").unwrap();
        assert_eq!(leaf.names, ["localhost", "127.0.0.1", "::1"]);
        assert_eq!((leaf.sha256, leaf.not_after), (made.sha256, made.not_after));
    }

    #[test]
    fn its_pem_files_load_as_the_same_certificate() {
        let (dir, made) = (Dir::new("pem"), made());
        let chain = dir.write("chain.pem", &made.certificate_pem);
        let key = dir.write("key.pem", &made.key_pem);

        let loaded = load_files(&chain, &key).unwrap();
        assert_eq!(loaded.leaf.sha256, made.sha256);
        assert_eq!(loaded.label, chain.display().to_string());
        assert!(!loaded.self_signed);
    }

    #[test]
    fn errors_say_which_file_and_what_is_wrong() {
        let (dir, made) = (Dir::new("bad"), made());
        let chain = dir.write("chain.pem", &made.certificate_pem);
        let key = dir.write("key.pem", &made.key_pem);
        let other_key = dir.write("other.pem", &self_signed(&["x".into()]).unwrap().key_pem);
        let empty = dir.write("empty.pem", "");
        let cut = dir.write("cut.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
        let noise = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let noise = dir.write("noise.pem", noise);
        let missing = dir.0.join("missing.pem");

        let table = [
            (&empty, &key, "empty.pem holds no certificate"),
            (&key, &key, "key.pem holds no certificate"),
            (&cut, &key, "cannot read"),
            (&missing, &key, "missing.pem"),
            (&noise, &key, "noise.pem cannot be read"),
            (&chain, &empty, "empty.pem holds no private key"),
            (&chain, &chain, "chain.pem holds no private key"),
            (&chain, &missing, "missing.pem"),
            (&chain, &other_key, "is not that of the first certificate in"),
        ];
        for (chain, key, wanted) in table {
            let said = load_files(chain, key).unwrap_err();
            assert!(said.contains(wanted), "{said:?} does not say {wanted:?}");
        }
    }

    #[test]
    fn a_name_that_no_certificate_can_hold_is_an_error() {
        let error = self_signed(&["caf\u{e9}".into()]).unwrap_err();
        assert_eq!(error.to_string(), "cannot make a certificate for caf\u{e9}");
    }
}
