//! The command line: arguments in, an exit code out. One file per subcommand.
//!
//! Here alone the program meets its surroundings: arguments, environment, signals, terminal, resource
//! limits. What it says to people goes to stderr as logs or errors; stdout carries only what was asked
//! for, so that it can be piped.

mod announce;
mod cert;
mod check;
mod completions;
mod ctl;
mod descriptors;
mod dev;
mod doctor;
mod explain;
mod failure;
mod logging;
mod run;
mod serve;
mod token;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use self::{failure::Failure, logging::LogOptions};

/// WebTransport-to-TCP/UDP reverse proxy gateway.
///
/// Browsers and native clients speak WebTransport (HTTP/3 over QUIC) to tidegate; behind it stand TCP
/// and UDP servers that know nothing of QUIC. Each reliable stream becomes a TCP connection, each
/// datagram a UDP packet.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    log: LogOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway as a configuration file says
    Run(run::Run),
    /// Check a configuration file, and show what it means
    ///
    /// Names every problem on stderr as `file:line: key: message` and exits with 78. A good file exits
    /// with 0, and stdout shows the effective configuration: every setting, the defaults included.
    Check(check::Check),
    /// Show what would become of a session request, and why
    ///
    /// Runs the decisions of a gateway with this file on one request, and prints each: path, host, route, origin,
    /// protocol, backend, limits, endpoint, and what the backend would be told. Nothing is bound or dialled, and
    /// health checks do not run; names are resolved. Exits with 0 where the request is accepted, and with 1 and
    /// what the client would hear where it is refused.
    Explain(explain::Explain),
    /// Find out whether this host can do what the gateway needs
    ///
    /// Tries out sockets, offload and steering, looks at descriptors, ports, certificates, names, backends and the
    /// clock, and prints what mends each finding. Exits with 1 where the gateway could not start or clients could
    /// not get in, and with 0 otherwise, warnings included.
    Doctor(doctor::Doctor),
    /// Run a gateway for trying things out, with nothing to configure
    ///
    /// Serves WebTransport with a certificate made at start, in front of a TCP and a UDP echo server,
    /// and a playground page for the browser. Open to every origin: meant for this machine alone.
    Dev(dev::Dev),
    /// Ask a running gateway, and change it
    ///
    /// Lists and ends sessions, drains endpoints, changes what is logged, by the gateway's admin listener.
    Ctl(ctl::Ctl),
    /// Work with certificates
    #[command(subcommand)]
    Cert(cert::Cert),
    /// Work with the tokens that clients show
    #[command(subcommand)]
    Token(token::Token),
    /// Print completions for a shell
    Completions(completions::Completions),
}

const AFTER_HELP: &str = "\
Environment:
  TIDEGATE_LOG   what is logged, as --log
  NO_COLOR       no colour in logs

Signals:
  SIGTERM, SIGINT   drain: sessions may end by themselves; a second one stops at once
  SIGHUP            read the configuration file, and the files that it names, again; sessions go on,
                    and what only a restart can change is named in the log

Exit codes:
  0   clean stop             4    the drain's grace was over and sessions were cut
  1   failure while running  71   cannot bind an address, or the system refused
  2   bad command line       78   bad configuration or certificate
For explain 1 means that the request is refused, for doctor that something needed is not there.";

/// Runs the program.
pub(crate) fn run() -> Result<ExitCode, Failure> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(no_command) => return tell(&no_command),
    };
    match cli.command {
        Command::Run(command) => control_thread(command.execute(&cli.log)),
        Command::Dev(command) => control_thread(command.execute(&cli.log)),
        Command::Check(command) => command.execute(&cli.log),
        Command::Ctl(command) => control_thread(command.execute()),
        Command::Doctor(command) => control_thread(command.execute()),
        Command::Explain(command) => control_thread(command.execute()),
        Command::Cert(command) => command.execute(),
        Command::Token(command) => command.execute(),
        Command::Completions(command) => command.execute(),
    }
}

/// `--help`, `--version` or a mistake: the text, and the code that fits.
fn tell(no_command: &clap::Error) -> Result<ExitCode, Failure> {
    no_command.print().map_err(Failure::Output)?;
    Ok(ExitCode::from(u8::try_from(no_command.exit_code()).unwrap_or(2)))
}

/// Runs the control side on this thread: signals, admin, and whatever waits.
fn control_thread(
    work: impl Future<Output = Result<ExitCode, Failure>>,
) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::System { what: "start the runtime", source })?;
    let ended = runtime.block_on(work);
    // Dropped, it would wait for lookups, which the system does not give up before their time.
    runtime.shutdown_background();
    ended
}

/// Writes what was asked for to stdout, whole.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// The system's resolver blocks a thread for half a minute when no server answers, and cannot be told
    /// to stop.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "what blocks here is what the test is about")]
    fn a_lookup_that_hangs_does_not_hold_up_the_end() {
        let (end, hangs) = std::sync::mpsc::channel::<()>();
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let code = control_thread(async {
                let (begun, has_begun) = tokio::sync::oneshot::channel();
                tokio::task::spawn_blocking(move || {
                    _ = begun.send(());
                    hangs.recv()
                });
                has_begun.await.unwrap();
                Ok(ExitCode::SUCCESS)
            });
            _ = done.send(code.is_ok());
        });
        let soon = std::time::Duration::from_secs(20);
        assert_eq!(is_done.recv_timeout(soon), Ok(true), "the program waits for the lookup");
        drop(end);
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn log_options_may_stand_behind_the_command() {
        Cli::try_parse_from(["tidegate", "run", "-c", "a.toml", "--log-format", "json"]).unwrap();
    }
}
