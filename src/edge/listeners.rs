//! Listeners that run: what a configuration changes of them, and certificates that are renewed.
//!
//! A change is prepared first, which can fail and changes nothing, and taken afterwards, which cannot. Only
//! new handshakes see it. Sockets stay: what is bound, and with which buffers, is for a start to change.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tracing::warn;

use super::{
    CertificateError, CertificateInfo, EdgeError, Listener, Live, NextCertificate,
    certificate::{self, Certificate},
    expiry::{Notice, notice, unix},
    quic,
    tls::Chosen,
};
use crate::{
    config::{CertificateSource, ClientCertificates, Config},
    metrics::Metrics,
};

/// How long a certificate that the gateway made is used. It is valid for 13 days from an hour before it is
/// used, so a page that was given its hash in its last moment finds it valid for two days more; and whoever
/// was given this hash and the next one need not ask again before the next one's time is over.
const SELF_SIGNED_USE: Duration = Duration::from_secs(11 * 24 * 60 * 60);

/// The running listeners. Clones share them.
#[derive(Clone, Debug)]
pub struct Listeners(Arc<[Arc<Listener>]>);

/// A change that can be taken.
#[derive(Debug)]
#[must_use = "nothing changes until it is taken"]
pub struct Prepared(Vec<Change>);

#[derive(Debug)]
struct Change {
    listener: Arc<Listener>,
    /// `None`: those in use stay.
    certificates: Option<Chosen>,
    /// Whose certificates of clients are believed.
    clients: Option<ClientCertificates>,
    live: Live,
}

impl Listeners {
    pub(super) fn new(listeners: Vec<Arc<Listener>>) -> Self {
        Self(listeners.into())
    }

    /// The certificates in use, in the order of the configuration.
    pub fn certificates(&self) -> Vec<CertificateInfo> {
        self.0.iter().flat_map(|listener| describe(listener)).collect()
    }

    /// Reads all certificate files of the running listeners again, and makes ready whatever else a
    /// configuration says of them. Listeners that do not run are left out. A certificate that the gateway made
    /// stays as long as it is wanted for the same names: clients know it by its hash.
    ///
    /// # Errors
    /// Each certificate that cannot be used.
    pub fn prepare(&self, config: &Config) -> Result<Prepared, Vec<EdgeError>> {
        let (mut changes, mut errors) = (Vec::new(), Vec::new());
        for settings in &config.listeners {
            let Some(listener) = self.0.iter().find(|running| *running.name == *settings.name)
            else {
                continue;
            };
            let source = &settings.certificate;
            let stays = matches!(source, CertificateSource::SelfSigned(_))
                && listener.certificates.now().source == *source;
            let certificates = match stays {
                true => None,
                false => match load(&settings.name, source, SystemTime::now()) {
                    Ok(chosen) => Some(chosen),
                    Err(unusable) => {
                        errors.extend(unusable);
                        None
                    }
                },
            };
            let running = listener.live.load();
            let server_config = match running.transport == settings.transport {
                true => Arc::clone(&running.server_config),
                false => {
                    Arc::new(quic::with_transport(&running.server_config, &settings.transport))
                }
            };
            let live = Live::new(server_config, settings, config);
            let clients = settings.client_certificates.clone();
            changes.push(Change { listener: Arc::clone(listener), certificates, clients, live });
        }
        if errors.is_empty() { Ok(Prepared(changes)) } else { Err(errors) }
    }

    /// Uses what was prepared for new connections. Yields the certificates that clients have not seen before.
    pub fn take(&self, Prepared(changes): Prepared, metrics: &Metrics) -> Vec<CertificateInfo> {
        let before = self.certificates();
        let labels = self.labels();
        for Change { listener, certificates, clients, live } in changes {
            if let Some(chosen) = certificates {
                listener.certificates.swap(chosen);
            }
            // To begin or cease to ask takes a start.
            if let (Some(verifier), Some(clients)) = (&listener.clients, clients) {
                verifier.swap(clients);
            }
            listener.live.store(Arc::new(live));
        }
        self.show_expiry(metrics, &labels);
        self.warn_of_expiry(SystemTime::now());
        let mut now = self.certificates();
        now.retain(|certificate| !before.contains(certificate));
        now
    }

    /// Puts the next certificate in the place of each that the gateway made and has used long enough, and
    /// makes the one after it. Yields those that clients see from now on.
    ///
    /// # Errors
    /// Those that could not be made; what is in use stays.
    pub fn renew(
        &self,
        now: SystemTime,
        metrics: &Metrics,
    ) -> Result<Vec<CertificateInfo>, Vec<EdgeError>> {
        let (mut renewed, mut errors) = (Vec::new(), Vec::new());
        for listener in self.0.iter() {
            match renewed_chosen(&listener.name, &listener.certificates.now(), now) {
                None => {}
                Some(Ok(chosen)) => {
                    listener.certificates.swap(chosen);
                    renewed.extend(describe(listener));
                }
                Some(Err(unusable)) => errors.extend(unusable),
            }
        }
        if !renewed.is_empty() {
            self.show_expiry(metrics, &[]);
        }
        if errors.is_empty() { Ok(renewed) } else { Err(errors) }
    }

    /// Says which certificates have ended or are about to. Those that the gateway renews itself are left out.
    pub fn warn_of_expiry(&self, now: SystemTime) {
        for (listener, certificate) in self.each().filter(|(_, c)| !c.self_signed) {
            let (listener, label) = (&*listener.name, &certificate.label);
            let (begins, ends) = (certificate.leaf.not_before, certificate.leaf.not_after);
            match notice(begins, ends, unix(now)) {
                None => {}
                Some(Notice::Ended) => {
                    warn!(listener, certificate = label, "This certificate has ended.");
                }
                Some(Notice::Ends { days }) => warn!(
                    listener,
                    certificate = label,
                    days,
                    "This certificate ends soon. Put a new one in its place and reload."
                ),
                Some(Notice::NotYet) => {
                    warn!(listener, certificate = label, "This certificate is not valid yet.");
                }
            }
        }
    }

    /// Brings the metric up to date, which had these labels.
    pub(super) fn show_expiry(&self, metrics: &Metrics, before: &[String]) {
        for (_, certificate) in self.each() {
            metrics.set_certificate_expiry(&certificate.label, certificate.leaf.not_after);
        }
        let now: HashSet<_> = self.labels().into_iter().collect();
        before
            .iter()
            .filter(|label| !now.contains(*label))
            .for_each(|gone| metrics.forget_certificate(gone));
    }

    fn labels(&self) -> Vec<String> {
        self.each().map(|(_, certificate)| certificate.label).collect()
    }

    fn each(&self) -> impl Iterator<Item = (&Listener, Certificate)> {
        let all = |listener: &Arc<Listener>| listener.certificates.now().all.clone();
        self.0.iter().flat_map(move |listener| all(listener).into_iter().map(|c| (&**listener, c)))
    }
}

/// The certificates of a source, ready to choose from. For one that the gateway makes, the next one too.
///
/// # Errors
/// At least one.
pub(super) fn load(
    listener: &str,
    source: &CertificateSource,
    now: SystemTime,
) -> Result<Chosen, Vec<EdgeError>> {
    let unusable = |source| EdgeError::Certificate { listener: listener.to_owned(), source };
    let all_unusable = |errors: Vec<_>| errors.into_iter().map(unusable).collect::<Vec<_>>();
    let all = certificate::load(listener, source, now).map_err(all_unusable)?;
    let next = match source {
        CertificateSource::Files(_) => None,
        CertificateSource::SelfSigned(names) => Some(
            certificate::make(listener, names, now + SELF_SIGNED_USE)
                .map_err(|error| vec![unusable(error)])?,
        ),
    };
    Chosen::new(source.clone(), all, next).ok_or_else(|| vec![unusable(CertificateError::None)])
}

/// What comes in the place of a certificate that the gateway made, if it is time.
fn renewed_chosen(
    listener: &str,
    used: &Chosen,
    now: SystemTime,
) -> Option<Result<Chosen, Vec<EdgeError>>> {
    let (CertificateSource::SelfSigned(names), Some(next)) = (&used.source, &used.next) else {
        return None;
    };
    // Where clocks are right it is valid for an hour by then.
    let begin = certificate::use_of(&next.leaf);
    if now < begin {
        return None;
    }
    if now >= begin + SELF_SIGNED_USE {
        // Nobody looked for so long: the machine has slept.
        return Some(load(listener, &used.source, now));
    }
    let made = certificate::make(listener, names, begin + SELF_SIGNED_USE);
    let unusable = |source| vec![EdgeError::Certificate { listener: listener.to_owned(), source }];
    Some(made.map_err(unusable).map(|after| {
        Chosen::new(used.source.clone(), vec![next.clone()], Some(after))
            .expect("there is one certificate")
    }))
}

fn describe(listener: &Listener) -> Vec<CertificateInfo> {
    let chosen = listener.certificates.now();
    let next = chosen.next.as_ref().map(|next| NextCertificate {
        sha256: next.leaf.sha256,
        not_before: next.leaf.not_before,
        not_after: next.leaf.not_after,
    });
    let info = |certificate: &Certificate| CertificateInfo {
        listener: listener.name.to_string(),
        names: certificate.leaf.names.clone(),
        sha256: certificate.leaf.sha256,
        not_before: certificate.leaf.not_before,
        not_after: certificate.leaf.not_after,
        self_signed: certificate.self_signed,
        next,
    };
    chosen.all.iter().map(info).collect()
}
