//! `tidegate run`: the gateway as a file says.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::{Args, ValueEnum};
use tidegate::{
    config::{RoutePath, Segment},
    gateway::{Files, Gateway, Running},
};

use super::{Failure, LogOptions, announce, announce::Facts, descriptors, logging, serve};

#[derive(Args, Debug)]
pub(crate) struct Run {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Print one line on stdout once everything serves: URL, certificate hash, admin address, pid
    #[arg(long, value_name = "FORMAT")]
    print: Option<Print>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Print {
    /// One JSON object
    Json,
}

impl Run {
    pub(crate) async fn execute(self, log: &LogOptions) -> Result<ExitCode, Failure> {
        let files = Files::new(self.config.clone());
        let config = files.read()?;
        let logs = logging::start(log, &config.log)?;
        descriptors::raise_for(&config);
        let path = config.routes.iter().find_map(|r| plain_path(&r.path));
        let signals = serve::Signals::new()?;
        let reload_file = Arc::new(serve::ReloadFile(files.clone()));

        let running = Gateway::bind(config)
            .await?
            .with_log(logs.filter())
            .with_reload(reload_file)
            .start()?;
        logs.count_in(running.metrics());
        announce::log(&running);
        let announce = |running: &_| match self.print {
            Some(Print::Json) => super::print(&Facts::of(running, path.as_deref()).json()),
            None => Ok(()),
        };
        let reload = async |running: &Running| _ = serve::reload(running.live(), &files).await;
        let changed = async |running: &Running| files.changed(running.live()).await;
        serve::until_stopped(running, signals, announce, reload, changed).await
    }
}

/// The path as a client would write it, if every segment is fixed.
fn plain_path(path: &RoutePath) -> Option<String> {
    let segments: Option<String> = path
        .segments
        .iter()
        .map(|segment| match segment {
            Segment::Literal(text) => Some(format!("/{text}")),
            Segment::Capture(_) | Segment::Rest(_) => None,
        })
        .collect();
    segments.map(|path| if path.is_empty() { "/".to_owned() } else { path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fixed_paths_are_announced() {
        let literal = |text: &str| Segment::Literal(text.into());
        let plain = |segments| plain_path(&RoutePath { segments });
        assert_eq!(plain(vec![literal("a"), literal("b")]).as_deref(), Some("/a/b"));
        assert_eq!(plain(vec![literal("a"), Segment::Capture("room".into())]), None);
    }
}
