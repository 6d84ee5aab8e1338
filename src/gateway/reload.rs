//! What a running gateway takes from its configuration when that is read again.
//!
//! All of it or nothing: a file with a problem, or a certificate that cannot be used, changes nothing, and
//! sessions never notice. So far certificates are what is taken; what else has changed in the file is named,
//! and waits for a restart.

use std::sync::Arc;

use super::{Running, chain};
use crate::{
    config::{self, CertificateSource, Config, Problems},
    edge::{CertificateInfo, EdgeError},
};

/// What a reload has changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reloaded {
    /// The certificates that were read again. Self-signed ones stay as they are.
    pub certificates: Vec<CertificateInfo>,
    /// Sections of the file that have changed since the start, and wait for a restart.
    pub waiting: Vec<&'static str>,
}

/// Why nothing was reloaded.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file cannot be read or has problems.
    #[error("the configuration has problems")]
    Config(#[from] Problems),
    /// Certificates that cannot be used.
    #[error("certificates cannot be used")]
    Certificates(Vec<EdgeError>),
}

impl ReloadError {
    /// Each problem, in a line of its own.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Config(problems) => problems.to_string().lines().map(str::to_owned).collect(),
            Self::Certificates(errors) => errors.iter().map(|error| chain(error)).collect(),
        }
    }
}

impl Running {
    /// Takes what can change without a restart from a configuration that was read again.
    ///
    /// # Errors
    /// Everything that is wrong with it. Then nothing has changed.
    pub fn reload(&self, config: Result<Config, Problems>) -> Result<Reloaded, ReloadError> {
        let reloaded = self.try_reload(config);
        self.metrics.certificates_reloaded(reloaded.is_ok());
        reloaded
    }

    fn try_reload(&self, config: Result<Config, Problems>) -> Result<Reloaded, ReloadError> {
        let config = config?;
        let certificates = self
            .workers
            .reload_certificates(&config, &self.metrics)
            .map_err(ReloadError::Certificates)?;
        self.note_certificates(&certificates);
        Ok(Reloaded { certificates, waiting: waiting(&self.config, &config) })
    }

    /// Puts new certificates in the place of those of the same listener.
    fn note_certificates(&self, new: &[CertificateInfo]) {
        let before = self.certificates();
        let listeners = self.config.listeners.iter().map(|listener| &listener.name);
        let now = listeners.flat_map(|name| {
            let of_it = |all: &[CertificateInfo]| -> Vec<_> {
                all.iter().filter(|info| info.listener == *name).cloned().collect()
            };
            Some(of_it(new)).filter(|new| !new.is_empty()).unwrap_or_else(|| of_it(&before))
        });
        self.certificates.store(Arc::new(now.collect()));
    }
}

/// The sections that differ and that only a start takes.
fn waiting(running: &Config, new: &Config) -> Vec<&'static str> {
    let sections = [
        ("server", running.server != new.server),
        ("log", running.log != new.log),
        ("listener", !are_same_listeners(&running.listeners, &new.listeners)),
        ("admin", running.admin != new.admin),
        ("limits", running.limits != new.limits),
        ("timeouts", running.timeouts != new.timeouts),
        ("drain", running.drain != new.drain),
        ("route", running.routes != new.routes),
        ("backend", running.backends != new.backends),
    ];
    sections.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

/// Whether nothing but certificate files differs.
fn are_same_listeners(running: &[config::Listener], new: &[config::Listener]) -> bool {
    let is_same = |running: &config::Listener, new: &config::Listener| {
        let mut taken = running.clone();
        if let CertificateSource::Files(_) = new.certificate {
            taken.certificate = new.certificate.clone();
        }
        taken == *new
    };
    running.len() == new.len()
        && running.iter().zip(new).all(|(running, new)| is_same(running, new))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TEXT: &str = r#"version = 1
[server]
workers = 1
[[listener]]
quic = ["127.0.0.1:0"]
self_signed = ["localhost"]
[limits]
sessions = 5
[[route]]
path = "/a"
origins = "any"
backend = "b"
[backend.b]
endpoints = [{ tcp = "127.0.0.1:9" }]
"#;

    fn parse(text: &str) -> Config {
        Config::parse(text, "t.toml", Path::new("config")).unwrap_or_else(|p| panic!("{p}"))
    }

    #[test]
    fn what_waits_for_a_restart_is_named_by_its_section() {
        let files = r#"certificates = [{ chain = "tidegate.toml", key = "tidegate.toml" }]"#;
        for (old, new, sections) in [
            ("/a", "/a", &[][..]),
            ("workers = 1", "workers = 2", &["server"]),
            ("sessions = 5", "sessions = 6\n[log]\nfilter = \"off\"", &["log", "limits"]),
            ("path = \"/a\"", "path = \"/b\"", &["route"]),
            // A route holds its backend.
            (":9", ":10", &["route", "backend"]),
            ("127.0.0.1:0", "127.0.0.2:0", &["listener"]),
            ("self_signed = [\"localhost\"]", "self_signed = [\"other\"]", &["listener"]),
            ("self_signed = [\"localhost\"]", files, &[]),
        ] {
            let changed = parse(&TEXT.replace(old, new));
            assert_eq!(waiting(&parse(TEXT), &changed), sections, "{new}");
        }
        let with_files = parse(&TEXT.replace("self_signed = [\"localhost\"]", files));
        assert_eq!(waiting(&with_files, &parse(TEXT)), ["listener"], "none is made while it runs");
    }
}
