//! TLS to a backend, with its files.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    sync::Arc,
};

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::Folder;
use crate::config::{
    BackendTls, CertificateFiles, ClientCertificates, Endpoint, Roots,
    problems::Collector,
    raw::{self, Section},
    read_file,
    tls::{Identity, client_config, server_name},
};

/// What stands for the system's roots in place of a file.
const SYSTEM: &str = "system";

pub(super) fn backend_tls(
    raw: raw::BackendTls,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Option<BackendTls> {
    let mut fingerprint = DefaultHasher::new();
    if let Some(name) = &raw.server_name
        && server_name(name).is_err()
    {
        problems.add(raw.key("server_name"), format!("{name:?} is no host name or IP address"));
    }
    let alpn = raw.alpn.clone().unwrap_or_default();
    for (at, protocol) in alpn.iter().enumerate() {
        // RFC 7301 section 3.1.
        if !(1..=255).contains(&protocol.len()) {
            let key = format!("{}[{at}]", raw.key("alpn"));
            problems.add(key, "a protocol's name has 1 to 255 bytes");
        }
    }
    let roots = roots(&raw, folder, &mut fingerprint, problems);
    let certificate = certificate(&raw, folder, &mut fingerprint, problems);
    // What else is wrong has been noted; the file as a whole is not usable then.
    let ((roots, store), certificate) = (roots?, certificate?);
    let (certificate, identity) = certificate.unzip();
    match client_config(store, identity, &alpn) {
        Ok(client) => Some(BackendTls {
            roots,
            server_name: raw.server_name,
            alpn,
            certificate,
            client: Arc::new(client),
            fingerprint: fingerprint.finish(),
        }),
        Err(error) => {
            let message = format!("cannot be used with `{}`: {error}", raw.key("certificate"));
            problems.add(raw.key("key"), message);
            None
        }
    }
}

/// What a listener asks of the certificates of clients.
pub(super) fn client_certificates(
    raw: &raw::ClientCertificates,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Option<ClientCertificates> {
    let key = raw.key("roots");
    let hint = "write the path of a PEM file with the roots of clients' certificates";
    let file = problems.required(&key, raw.roots.as_ref(), hint)?;
    let mut fingerprint = DefaultHasher::new();
    let (path, store) = roots_of_file(&key, file, folder, &mut fingerprint, problems)?;
    let required = raw.required.unwrap_or_default();
    let made = ClientCertificates::new(path, store, required, fingerprint.finish());
    made.map_err(|error| problems.add(key, format!("cannot be used: {error}"))).ok()
}

/// Notes each endpoint whose certificate could not be checked, or to which TLS is not spoken.
pub(super) fn check_endpoints(
    tls: &BackendTls,
    at: &str,
    endpoints: &[Endpoint],
    problems: &mut Collector<'_>,
) {
    for (index, endpoint) in endpoints.iter().enumerate() {
        let key = |name: &str| format!("{at}[{index}].{name}");
        if endpoint.unix.is_some() {
            problems
                .add(key("unix"), "TLS is spoken over TCP alone; leave out the backend's `tls`");
        }
        if let Some(Err(_)) = endpoint.tcp.as_ref().map(|tcp| tls.server(tcp)) {
            let message = "no certificate can be for this host; write `tls.server_name`";
            problems.add(key("tcp"), message);
        }
    }
}

fn roots(
    raw: &raw::BackendTls,
    folder: &Folder,
    fingerprint: &mut impl Hasher,
    problems: &mut Collector<'_>,
) -> Option<(Roots, Option<RootCertStore>)> {
    let key = raw.key("roots");
    if raw.danger_accept_any == Some(true) {
        if raw.roots.is_some() {
            problems.add(key, "with danger_accept_any = true no root is looked at; leave one out");
        }
        return Some((Roots::DangerAcceptAny, None));
    }
    if problems.has(&key) && raw.roots.is_none() {
        return None;
    }
    match raw.roots.as_deref().unwrap_or(SYSTEM) {
        SYSTEM => {
            let found = rustls_native_certs::load_native_certs();
            let mut store = RootCertStore::empty();
            // What a system collects over the years is not all sound; the rest will do.
            store.add_parsable_certificates(found.certs.iter().cloned());
            if store.is_empty() {
                let why = found.errors.first().map_or_else(String::new, |e| format!(" ({e})"));
                let message = format!(
                    "the system has no root certificates{why}; install them (ca-certificates) or \
                     name a file"
                );
                problems.add(key, message);
                return None;
            }
            found.certs.hash(fingerprint);
            Some((Roots::System, Some(store)))
        }
        file => {
            let (path, store) = roots_of_file(&key, file, folder, fingerprint, problems)?;
            Some((Roots::File(path), Some(store)))
        }
    }
}

/// The roots of a PEM file; at least one.
fn roots_of_file(
    key: &str,
    file: &str,
    folder: &Folder,
    fingerprint: &mut impl Hasher,
    problems: &mut Collector<'_>,
) -> Option<(PathBuf, RootCertStore)> {
    let (path, certificates) = read_chain(key, file, folder, problems)?;
    certificates.hash(fingerprint);
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        if let Err(error) = store.add(certificate) {
            problems.add(key, format!("{} holds no root: {error}", path.display()));
            return None;
        }
    }
    Some((path, store))
}

/// What the gateway shows of itself, if anything. `None`: something is wrong with it.
fn certificate(
    raw: &raw::BackendTls,
    folder: &Folder,
    fingerprint: &mut impl Hasher,
    problems: &mut Collector<'_>,
) -> Option<Option<(CertificateFiles, Identity)>> {
    let (chain_key, key_key) = (raw.key("certificate"), raw.key("key"));
    let (chain, key) = match (&raw.certificate, &raw.key) {
        (None, None) if problems.has(&chain_key) || problems.has(&key_key) => return None,
        (None, None) => return Some(None),
        (Some(chain), Some(key)) => (chain, key),
        (Some(_), None) => {
            problems.required(&key_key, None::<()>, "a certificate is shown with its key");
            return None;
        }
        (None, Some(_)) => {
            problems.required(&chain_key, None::<()>, "a key is of no use without its certificate");
            return None;
        }
    };
    let chain = read_chain(&chain_key, chain, folder, problems);
    let key = read_key(&key_key, key, folder, problems);
    let ((chain, certificates), (key, private)) = (chain?, key?);
    certificates.hash(fingerprint);
    private.secret_der().hash(fingerprint);
    Some(Some((CertificateFiles { chain, key }, (certificates, private))))
}

/// The certificates of a PEM file; at least one.
fn read_chain(
    key: &str,
    file: &str,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Option<(PathBuf, Vec<CertificateDer<'static>>)> {
    let (path, text) = read(key, file, folder, problems)?;
    match CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if certificates.is_empty() => {
            problems.add(key, format!("{} holds no certificate", path.display()));
            None
        }
        Ok(certificates) => Some((path, certificates)),
        Err(error) => {
            problems.add(key, format!("{} is not sound PEM: {error}", path.display()));
            None
        }
    }
}

fn read_key(
    key: &str,
    file: &str,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Option<(PathBuf, PrivateKeyDer<'static>)> {
    let (path, text) = read(key, file, folder, problems)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(private) => Some((path, private)),
        Err(error) => {
            problems.add(key, format!("{} holds no private key: {error}", path.display()));
            None
        }
    }
}

pub(super) fn read(
    key: &str,
    file: &str,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Option<(PathBuf, Vec<u8>)> {
    let path = folder.readable(key, file, problems)?;
    let unreadable = |error| problems.add(key, format!("cannot read {}: {error}", path.display()));
    let text = read_file(&path).map_err(unreadable).ok()?;
    Some((path, text))
}
