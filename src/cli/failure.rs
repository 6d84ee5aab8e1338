//! Why the program could not do what was asked: one row per kind, each with its exit code.

use std::{
    error::Error,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use tidegate::{config::Problems, edge::CertificateError, gateway::StartError};
use tracing_subscriber::filter::ParseError;

use super::ctl::CtlError;

/// Every failure that ends the program.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The configuration is bad; it prints as one line per problem.
    #[error(transparent)]
    Config(#[from] Problems),
    /// The gateway could not start.
    #[error("cannot start")]
    Start(#[from] StartError),
    /// An address that a flag names could not be bound.
    #[error("cannot bind {address}; choose another address with {flag}, port 0 for any free one")]
    Bind {
        flag: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// The log filter of the command line or the environment makes no sense.
    #[error("{from}: bad log filter {filter:?}")]
    LogFilter {
        from: &'static str,
        filter: String,
        #[source]
        source: ParseError,
    },
    /// The log filter of the configuration makes no sense.
    #[error("log.filter: bad log filter {filter:?}")]
    ConfiguredLogFilter {
        filter: String,
        #[source]
        source: ParseError,
    },
    /// A running gateway could not be asked, or refused.
    #[error(transparent)]
    Ctl(#[from] CtlError),
    /// No certificate can be read from a file.
    #[error("{}: cannot read a certificate in PEM form", file.display())]
    Certificate {
        file: PathBuf,
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// No certificate can be made for the names of the command line.
    #[error(transparent)]
    MakeCertificate(#[from] CertificateError),
    /// What was to be a token is none. It is not shown.
    #[error("what stdin gives is no token: {0}")]
    Token(&'static str),
    /// A file that was asked for cannot be written; one that is there already stays as it is.
    #[error("cannot create {}", file.display())]
    Create {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The system refused something that the program cannot do without.
    #[error("cannot {what}")]
    System {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// Stdout or stderr is closed.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

impl Failure {
    /// The exit code, as listed in `--help` (numbers of `sysexits.h`).
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Output(_) | Self::Create { .. } | Self::Ctl(_) => 1,
            Self::LogFilter { .. } | Self::MakeCertificate(_) | Self::Token(_) => 2,
            Self::Bind { .. } | Self::System { .. } => 71,
            Self::Config(_) | Self::ConfiguredLogFilter { .. } | Self::Certificate { .. } => 78,
            Self::Start(StartError::Certificate { .. }) => 78,
            Self::Start(StartError::Bind { .. } | StartError::System { .. }) => 71,
        }
    }

    /// Prints the failure with all that is behind it, once, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let text = match self {
            // One line per problem, each with its own place: a prefix would only hide the file's name.
            Self::Config(problems) => problems.to_string(),
            failure => format!("tidegate: {}\n", chain(failure)),
        };
        // With stderr gone too, the exit code is all that is left to say it.
        _ = io::stderr().write_all(text.as_bytes());
        ExitCode::from(self.exit_code())
    }
}

/// An error and its sources, outermost first.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken() -> io::Error {
        io::Error::from(io::ErrorKind::AddrInUse)
    }

    #[test]
    fn a_failure_tells_everything_that_is_behind_it() {
        let address = "127.0.0.1:4433".parse().unwrap();
        let start = StartError::Bind { what: "listener edge".into(), address, source: taken() };
        assert_eq!(
            chain(&Failure::from(start)),
            "cannot start: cannot bind listener edge 127.0.0.1:4433: address in use",
        );
    }

    #[test]
    fn exit_codes_say_who_has_to_act() {
        let address = "127.0.0.1:4433".parse().unwrap();
        let certificate =
            StartError::Certificate { listener: "edge".into(), message: "empty".into() };
        let cases = [
            (Failure::from(Problems::default()), 78),
            (Failure::from(certificate), 78),
            (Failure::Bind { flag: "--admin", address, source: taken() }, 71),
            (Failure::System { what: "listen to signals", source: taken() }, 71),
            (Failure::Output(taken()), 1),
            (Failure::Create { file: "privkey.pem".into(), source: taken() }, 1),
            (Failure::from(CertificateError::None), 2),
            (Failure::Token("empty"), 2),
        ];
        for (failure, code) in cases {
            assert_eq!(failure.exit_code(), code, "{failure:?}");
        }
    }
}
