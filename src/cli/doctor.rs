//! `tidegate doctor`: whether this host can do what the gateway needs, and what mends it where it cannot.

mod backends;
mod certificates;
mod finding;
mod host;
mod ports;

use std::{path::PathBuf, process::ExitCode, time::SystemTime};

use clap::Args;
use tidegate::config::Config;

use self::finding::{Finding, State};
use super::Failure;

/// Something that the gateway needs is not there.
const FAILED: u8 = 1;

#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// Configuration file; without one the host alone is looked at, with the defaults
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(crate) async fn execute(self) -> Result<ExitCode, Failure> {
        let config = self.config.as_deref().map(Config::read).transpose()?;
        let findings = findings(config.as_ref()).await;
        let text = if self.json { finding::json(&findings) } else { finding::in_words(&findings) };
        super::print(&text)?;
        let failed = findings.iter().any(|finding| finding.state == State::Fail);
        Ok(if failed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    }
}

/// All of it, one check after the other.
async fn findings(config: Option<&Config>) -> Vec<Finding> {
    let mut findings = host::findings(config);
    if let Some(config) = config {
        findings.extend(ports::listeners(config));
        findings.extend(certificates::findings(config, unix_now()));
        findings.extend(ports::sources(config));
        findings.extend(backends::findings(config).await);
    }
    findings
}

/// A clock before 1970 is as wrong as one at 1970.
fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
