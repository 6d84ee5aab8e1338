//! What the admin listener sees of a running gateway.

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::{Live, ReloadError, Reloaded};
use crate::{
    admin::{CertificateHash, CertificateHashes, LogFilter, ReloadReport, Watched},
    backend::Backends,
    edge::{CertificateInfo, Sampler},
    session::registry::Registry,
};

/// Where the program reads the configuration again, and what else it does then.
pub trait Reload: fmt::Debug + Send + Sync {
    /// Has the gateway take what the configuration says now.
    ///
    /// # Errors
    /// Everything that is wrong with it. Then nothing has changed.
    fn reload(&self, live: Arc<Live>) -> BoxFuture<'static, Result<Reloaded, ReloadError>>;
}

pub(super) struct Watch {
    pub(super) sampler: Sampler,
    pub(super) live: Arc<Live>,
    pub(super) reload: Option<Arc<dyn Reload>>,
}

impl Watched for Watch {
    fn sample(&self) {
        self.sampler.sample();
    }

    fn backends(&self) -> Arc<Backends> {
        self.live.context.backends()
    }

    fn sessions(&self) -> &Registry {
        self.live.context.sessions()
    }

    fn certificates(&self) -> Vec<CertificateHashes> {
        self.live.certificates().into_iter().map(hashes).collect()
    }

    fn config(&self) -> String {
        self.live.config().effective()
    }

    /// On a task of its own: whoever asked may go away. Files count as read from when they are looked at, so a
    /// reload that was given up half-way would leave nothing for [`super::Files::changed`] to find.
    async fn reload(&self) -> Option<Result<ReloadReport, Vec<String>>> {
        let reloading = self.reload.as_ref()?.reload(Arc::clone(&self.live));
        let (tell, told) = oneshot::channel();
        let lifecycle = self.live.lifecycle.clone();
        self.live.lifecycle.spawn(async move {
            let reloaded = tokio::select! {
                biased;
                () = lifecycle.draining() => Err(ReloadError::Stopping),
                reloaded = reloading => reloaded,
            };
            // An error says that nobody waits for it any more.
            _ = tell.send(reloaded);
        });
        // Nothing comes where it has panicked.
        Some(match told.await.unwrap_or(Err(ReloadError::Stopping)) {
            Ok(Reloaded { certificates, changed, waiting, ended }) => Ok(ReloadReport {
                changed: changed.iter().map(ToString::to_string).collect(),
                waiting: waiting.iter().map(ToString::to_string).collect(),
                certificates: certificates.len() as u64,
                ended,
            }),
            Err(why) => Err([vec![why.to_string()], why.lines()].concat()),
        })
    }

    fn log(&self) -> Option<&dyn LogFilter> {
        self.live.log.as_deref()
    }
}

fn hashes(info: CertificateInfo) -> CertificateHashes {
    let next =
        info.next.map(|next| CertificateHash::new(&next.sha256, next.not_before, next.not_after));
    CertificateHashes {
        listener: info.listener,
        self_signed: info.self_signed,
        current: CertificateHash::new(&info.sha256, info.not_before, info.not_after),
        next,
    }
}
