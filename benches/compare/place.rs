//! Where and with what was measured: everything that someone needs who repeats it.

use std::{
    env, fs,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    measure::Plan,
    servers::{Bench, Kind, installed},
};

/// The machine, the versions and the command.
#[derive(Debug)]
pub(crate) struct Place {
    /// What it is, and what it was.
    pub(crate) facts: Vec<(&'static str, String)>,
}

impl Place {
    pub(crate) fn look(bench: &Bench, plan: &Plan) -> Self {
        let arguments: Vec<String> =
            env::args().skip(1).filter(|argument| argument != "--bench").collect();
        let command = ["benches/run".to_owned()].into_iter().chain(arguments);
        let mut facts = vec![
            ("command", command.collect::<Vec<_>>().join(" ")),
            ("commit", commit()),
            ("date", date(SystemTime::now())),
            ("processor", processor()),
            ("memory", memory()),
            ("kernel", first_line("uname", &["-sr"])),
            ("compiler", first_line("rustc", &["--version"])),
            ("profile", bench.programs.profile.clone()),
            ("gateway", bench.programs.gateway.display().to_string()),
        ];
        for (kind, flag) in [(Kind::Nginx, "-v"), (Kind::Haproxy, "-v")] {
            if plan.kinds.contains(&kind) {
                facts.push((kind.name(), version(kind, flag)));
            }
        }
        let Plan { rounds, window, seed, sessions, .. } = plan;
        facts.push(("rounds", format!("{rounds} of {window:?} for each scenario, seed {seed}")));
        if plan.memory {
            facts.push(("idle sessions", sessions.to_string()));
        }
        Self { facts }
    }
}

/// `-dirty` where the tree has changes that are in no commit.
fn commit() -> String {
    first_line(
        "git",
        &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--abbrev=10"],
    )
}

/// The processor's name and how many there are.
fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |line: &str| line.split_once(':').map(|(_name, value)| value.trim().to_owned());
    let name = info.lines().find(|line| line.starts_with("model name")).and_then(value);
    let count = info.lines().filter(|line| line.starts_with("processor")).count();
    format!("{count} x {}", name.unwrap_or_else(|| "unknown".to_owned()))
}

fn memory() -> String {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or_else(|| "unknown".to_owned(), |kib| format!("{} MiB", kib / 1024))
}

fn version(kind: Kind, flag: &str) -> String {
    let Some(program) = installed(kind.name()) else { return "not installed".to_owned() };
    first_line(&program.display().to_string(), &[flag])
}

/// What a program says first, on whichever output.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output();
    let said = done.map(|done| [done.stdout, done.stderr].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&said);
    text.lines().next().filter(|line| !line.is_empty()).unwrap_or("unknown").to_owned()
}

/// The day, in UTC.
fn date(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let days = i64::try_from(seconds / 86_400).unwrap_or_default();
    let epoch = time::Date::from_julian_day(2_440_588);
    let date = epoch.ok().and_then(|epoch| epoch.checked_add(time::Duration::days(days)));
    date.map_or_else(
        || "unknown".to_owned(),
        |date| format!("{}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day()),
    )
}
