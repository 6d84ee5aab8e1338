//! `tidegate check`: the same reading as at start, and nothing started.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use tidegate::config::Config;

use super::{Failure, LogOptions, logging};

#[derive(Args, Debug)]
pub(crate) struct Check {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

impl Check {
    pub(crate) fn execute(self, log: &LogOptions) -> Result<ExitCode, Failure> {
        let config = Config::read(&self.config)?;
        logging::filter(log, &config.log)?;
        super::print(&config.effective())?;
        Ok(ExitCode::SUCCESS)
    }
}
