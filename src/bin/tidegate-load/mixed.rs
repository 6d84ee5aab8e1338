//! Scenario `mixed`: several scenarios at the same time, from a plan.
//!
//! ```toml
//! [[load]]
//! name = "players"
//! path = "/udp"                                               # else that of --url
//! run = "datagram --sessions 50 --rate 1000/s --slo loss<1%"  # a command line, without its target
//! ```
//!
//! Each has threads, sessions and a report of its own. Whom to drive is said once, to `mixed` itself.

use std::{ffi::OsString, path::Path, thread};

use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::{
    args::{Args, Command, TargetArgs, steady::ScenarioArgs},
    measure,
    progress::{Board, Goal, Live},
    steady::report::Report,
};

/// A plan, read and found right.
#[derive(Debug)]
pub(crate) struct Plan(Vec<(String, Command)>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlan {
    load: Vec<RawLoad>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLoad {
    name: String,
    path: Option<String>,
    run: String,
}

/// What the loads of a plan came to.
#[derive(Debug, Serialize)]
pub(crate) struct MixedReport {
    /// All of them were right.
    pub(crate) ok: bool,
    pub(crate) loads: Vec<Named>,
}

/// The report of one load.
#[derive(Debug, Serialize)]
pub(crate) struct Named {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) report: Report,
}

impl Plan {
    pub(crate) fn read(file: &Path, target: &TargetArgs) -> Result<Self, String> {
        let text = std::fs::read_to_string(file)
            .map_err(|e| format!("cannot read --plan {}: {e}", file.display()))?;
        Self::parse(&text, target).map_err(|e| format!("{}: {e}", file.display()))
    }

    /// Each load has to be one of the scenarios that go on at a pace.
    fn parse(text: &str, target: &TargetArgs) -> Result<Self, String> {
        let raw: RawPlan = toml::from_str(text).map_err(|e| e.to_string())?;
        let loads = raw.load.into_iter().map(|RawLoad { name, path, run }| {
            let words = run.split_whitespace().map(OsString::from);
            let line = [OsString::from("tidegate-load")].into_iter().chain(words);
            let line = line.chain(target.words(path.as_deref()));
            let args = Args::try_parse_from(line).map_err(|e| format!("load {name:?}: {e}"))?;
            match args.command.scenario() {
                Some(ScenarioArgs { results, .. }) if !results.json && !results.csv => {
                    Ok((name, args.command))
                }
                Some(_) => Err(format!("load {name:?}: how to print is for `mixed` itself to say")),
                None => Err(format!("load {name:?}: no scenario that goes on at a pace")),
            }
        });
        loads.collect::<Result<_, _>>().map(Self)
    }

    /// Runs all of it at the same time.
    pub(crate) fn run(&self) -> Result<MixedReport, String> {
        let board = Board::new(self.0.len());
        let reports: Vec<Result<Named, String>> = thread::scope(|scope| {
            let running: Vec<_> = self
                .0
                .iter()
                .enumerate()
                .map(|(place, (name, command))| {
                    let live = Live::beside(&board, (place, name), Goal::Operations);
                    (name, scope.spawn(move || measure(command, live)))
                })
                .collect();
            let named = running.into_iter().map(|(name, running)| match running.join() {
                Ok(Ok(report)) => Ok(Named { name: name.clone(), report }),
                Ok(Err(problem)) => Err(format!("load {name:?}: {problem}")),
                Err(_panic) => Err(format!("load {name:?} panicked")),
            });
            named.collect()
        });
        let loads: Vec<Named> = reports.into_iter().collect::<Result<_, _>>()?;
        Ok(MixedReport { ok: loads.iter().all(|load| load.report.ok), loads })
    }
}

impl MixedReport {
    /// Whether a condition was missed.
    pub(crate) fn missed(&self) -> bool {
        self.loads.iter().any(|load| load.report.missed())
    }

    /// One report below the other.
    pub(crate) fn to_text(&self) -> String {
        let texts = self.loads.iter().map(|Named { name, report }| format!("[{name}]\n{report}"));
        texts.collect::<Vec<_>>().join("\n\n")
    }
}

#[cfg(test)]
mod tests {
    use tidegate::client::Offer;

    use super::*;

    fn target() -> TargetArgs {
        let line = "tidegate-load rr --url https://localhost:4433/echo?x=1 --origin https://a.test \
                    --token-file t --header a:1 --header a:2 --tls-group x25519 --no-resumption \
                    --no-mtu-discovery";
        let hash = format!("--cert-hash {}", "0f".repeat(32));
        let words = line.split(' ').chain(hash.split(' '));
        match Args::parse_from(words).command {
            Command::Rr(args) => args.steady.scenario.target,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_load_drives_the_same_target_on_its_own_path() {
        let text = "[[load]]\nname = \"a\"\nrun = \"rr --size 100\"\n\
                    [[load]]\nname = \"b\"\npath = \"/udp\"\nrun = \"datagram --rate 5/s\"";
        let Plan(loads) = Plan::parse(text, &target()).unwrap();
        let [(a, Command::Rr(rr)), (b, Command::Datagram(datagram))] = &loads[..] else {
            panic!("{loads:?}");
        };
        assert_eq!((a.as_str(), b.as_str(), &*rr.size.to_string()), ("a", "b", "100"));
        let urls = [&rr.steady.scenario.target, &datagram.steady.scenario.target]
            .map(|target| target.whom().unwrap().to_string());
        assert_eq!(urls, ["https://localhost:4433/echo?x=1", "https://localhost:4433/udp"]);
        for target in [&rr.steady.scenario.target, &datagram.steady.scenario.target] {
            assert_eq!(target.trust.cert_hash[0].0, [0x0f; 32]);
            let groups = vec!["x25519".to_owned()];
            assert_eq!(
                target.offer.offer(),
                Offer { groups, suites: Vec::new(), no_resumption: true }
            );
            assert!(target.offer.no_mtu_discovery);
            assert_eq!(target.origin.as_deref(), Some("https://a.test"));
            assert_eq!(target.token_file.as_deref(), Some(Path::new("t")));
            let headers = target.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes()));
            assert_eq!(headers.collect::<Vec<_>>(), [("a", &b"1"[..]), ("a", b"2")]);
        }
    }

    #[test]
    fn what_is_wrong_with_a_plan_is_said_with_its_name() {
        for (text, words) in [
            ("", "missing field `load`"),
            ("[[load]]\nname = \"a\"", "missing field `run`"),
            ("[[load]]\nname = \"a\"\nrun = \"rr\"\nrate = 1", "unknown field `rate`"),
            ("[[load]]\nname = \"a\"\nrun = \"rr --size 0\"", "load \"a\": error: invalid value"),
            ("[[load]]\nname = \"a\"\nrun = \"echo\"", "load \"a\": no scenario"),
            ("[[load]]\nname = \"a\"\nrun = \"rr --json\"", "load \"a\": how to print"),
        ] {
            let problem = Plan::parse(text, &target()).unwrap_err();
            assert!(problem.contains(words), "{text:?}: {problem}");
        }
    }

    #[test]
    fn the_plans_that_are_shipped_are_right() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/loads");
        let mut plans = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let Plan(loads) = Plan::read(&file.unwrap().path(), &target()).unwrap();
            assert!(!loads.is_empty());
            plans += 1;
        }
        assert!(plans > 0);
    }
}
