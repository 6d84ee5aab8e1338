//! Holds the files that are shipped to the code: an operator may believe every line of them.
//!
//! The example configuration comes first, then the README, the systemd unit, and the list of tests.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a test that fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tidegate::{
    config::{self, Config, HostPort},
    credential, edge,
    gateway::Gateway,
    reason::{Ending, Loss, Refusal, StreamEnd},
};
use toml::de::{DeTable, DeValue};

const TEXT: &str = include_str!("../config/tidegate.toml");

/// Before a line whose value is the default.
const DEFAULT: &str = "#";
/// Before a line whose key has no default.
const EXAMPLE: &str = "#example: ";
/// Before a line that could stand in the place of the one below it.
const INSTEAD: &str = "#instead: ";

/// The lines of the file, with those uncommented that stand behind one of the marks.
fn uncommented(marks: &[&str]) -> String {
    let line = |line: &str| {
        let setting =
            marks.iter().find_map(|mark| line.strip_prefix(mark).filter(|s| is_setting(s)));
        setting.unwrap_or(line).to_owned() + "\n"
    };
    TEXT.lines().map(line).collect()
}

/// The file with each line of the mark "instead" in the place of the line below it.
fn with_alternatives() -> String {
    let mut lines = TEXT.lines();
    let mut text = String::new();
    while let Some(line) = lines.next() {
        let alternative = line.strip_prefix(INSTEAD).inspect(|_| {
            let key = |line: &str| line.split(" = ").next().unwrap().to_owned();
            let below = lines.next().unwrap();
            assert_eq!(key(below), key(line.strip_prefix(INSTEAD).unwrap()));
        });
        text = text + alternative.unwrap_or(line) + "\n";
    }
    text
}

/// Whether this is a section's heading or `key = value`: prose stands one blank behind its mark.
fn is_setting(text: &str) -> bool {
    text.starts_with('[')
        || text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.split_once(" = ").is_some_and(|(key, _)| !key.contains([' ', ':']))
}

fn parse(text: &str) -> Config {
    Config::parse(text, "tidegate.toml", Path::new("config")).unwrap_or_else(|p| panic!("{p}"))
}

#[test]
fn the_shipped_file_is_valid() {
    let config = parse(TEXT);
    assert_eq!(config.routes.len(), 1);
    let endpoint = &config.backends["echo"].endpoints[0];
    assert_eq!(endpoint.tcp, Some(HostPort::Address("127.0.0.1:7777".parse().unwrap())));
}

#[test]
fn what_it_shows_as_defaults_are_the_defaults() {
    let spelled_out = uncommented(&[DEFAULT]);
    assert_ne!(spelled_out, TEXT, "no default was found in the file");
    assert_eq!(parse(&spelled_out), parse(TEXT));
}

#[test]
fn what_it_shows_as_alternatives_is_valid() {
    assert_ne!(parse(&with_alternatives()), parse(TEXT), "no alternative was found in the file");
}

#[test]
fn it_shows_every_key() {
    let mut shown = BTreeSet::new();
    for text in [uncommented(&[DEFAULT, EXAMPLE]), with_alternatives()] {
        note_keys(DeTable::parse(&text).unwrap().get_ref(), "", &mut shown);
    }
    let known: BTreeSet<_> = config::known_keys().into_iter().collect();
    assert_eq!(known.difference(&shown).collect::<Vec<_>>(), Vec::<&String>::new(), "not shown");
    assert_eq!(shown.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "not known");
}

/// Adds the keys of a table, written as `known_keys` writes them.
fn note_keys(table: &DeTable<'_>, at: &str, keys: &mut BTreeSet<String>) {
    for (key, value) in table {
        // The names of backends and credentials are the operator's, and so is what paths say in their place; those
        // of claims belong to who issues them.
        let names = ["backend", "route[].backends", "credential"];
        let is_free = names.contains(&at) || at.ends_with(".claims");
        let name = if is_free { "*" } else { key.get_ref() };
        let at = if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
        note_value(value.get_ref(), &at, keys);
    }
}

fn note_value(value: &DeValue<'_>, at: &str, keys: &mut BTreeSet<String>) {
    match value {
        DeValue::Table(table) => note_keys(table, at, keys),
        DeValue::Array(array) if array.iter().any(|element| element.get_ref().is_table()) => {
            for element in array {
                note_value(element.get_ref(), &format!("{at}[]"), keys);
            }
        }
        _ => _ = keys.insert(at.to_owned()),
    }
}

const README: &str = include_str!("../README.md");

#[test]
fn every_configuration_in_the_readme_is_valid() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme");
    fs::create_dir_all(&folder).unwrap();
    let made = edge::self_signed(&["localhost".to_owned()]).unwrap();
    fs::write(folder.join("fullchain.pem"), made.certificate_pem).unwrap();
    fs::write(folder.join("privkey.pem"), made.key_pem).unwrap();

    let token = credential::token_hash("token").map(|byte| format!("{byte:02x}")).concat();
    fs::copy(folder.join("fullchain.pem"), folder.join("fleet-ca.pem")).unwrap();
    fs::copy("src/credential/fixtures/eddsa.pem", folder.join("site.pem")).unwrap();
    fs::write(folder.join("robots.tokens"), format!("alice:sha256={token}\n")).unwrap();

    let blocks = code_blocks("toml");
    assert!(!blocks.is_empty(), "no configuration was found");
    for block in blocks {
        if let Err(problems) = Config::parse(block, "README.md", &folder) {
            panic!("{problems}in\n{block}");
        }
    }
}

/// What stands between the README's fences of a language.
fn code_blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let opened = README.split(&fence).skip(1);
    opened.map(|block| block.split("```").next().unwrap()).collect()
}

/// A row that is wrong is shown as it should be.
#[tokio::test]
async fn the_readme_lists_the_metrics_that_a_gateway_shows_and_no_others() {
    let shown = exposition_of_a_gateway().await;
    let wanted: BTreeSet<String> = families(&shown).iter().map(Family::row).collect();
    let listed: BTreeSet<String> =
        rows("| metric | labels | meaning |").iter().map(|row| row.join(" | ")).collect();
    assert_eq!(wanted.difference(&listed).collect::<Vec<_>>(), Vec::<&String>::new(), "missing");
    assert_eq!(listed.difference(&wanted).collect::<Vec<_>>(), Vec::<&String>::new(), "wrong");
}

/// What Prometheus reads from a gateway with one route to which nobody has come yet.
async fn exposition_of_a_gateway() -> String {
    let text = r#"version = 1
[[listener]]
quic = ["127.0.0.1:0"]
self_signed = ["localhost"]
[[route]]
path = "/echo"
origins = "any"
backend = "echo"
[backend.echo]
endpoints = [{ tcp = "127.0.0.1:9", udp = "127.0.0.1:9" }]
"#;
    let running = Gateway::bind(parse(text)).await.unwrap().start().unwrap();
    let shown = running.metrics().render();
    running.shut_down(std::future::ready(())).await;
    shown
}

/// A metric with all its series.
struct Family<'t> {
    name: &'t str,
    help: &'t str,
    labels: BTreeSet<&'t str>,
}

impl Family<'_> {
    /// As it stands in the README.
    fn row(&self) -> String {
        let Self { name, help, labels } = self;
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        format!("`{name}` | {} | {help}", labels.join(", "))
    }
}

/// The gateway's own metrics in Prometheus' text.
fn families(text: &str) -> Vec<Family<'_>> {
    let mut families: Vec<Family<'_>> = Vec::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            families.push(Family { name, help, labels: BTreeSet::new() });
        } else if !line.starts_with('#') {
            let series_of = families.last_mut().expect("help comes before the series");
            series_of.labels.extend(label_names(line));
        }
    }
    families.retain(|family| family.name.starts_with("tidegate_"));
    families
}

/// The names in `name{a="..",b=".."} 0`, but for the one that numbers a histogram's buckets.
fn label_names(series: &str) -> impl Iterator<Item = &str> {
    let labels = series.split_once('{').map_or("", |(_, labels)| labels);
    // Outside of the quotes there are names and punctuation.
    let outside = labels.split('"').step_by(2);
    outside.filter_map(|text| text.trim_start_matches(',').strip_suffix('=')).filter(|n| *n != "le")
}

/// A misspelt name would never raise the alarm.
#[tokio::test]
async fn the_alerts_ask_for_metrics_and_labels_that_a_gateway_shows() {
    let rules = include_str!("../deploy/prometheus/tidegate.rules.yml");
    let shown = exposition_of_a_gateway().await;
    let families: BTreeMap<_, _> =
        families(&shown).into_iter().map(|family| (family.name, family.labels)).collect();
    let words = |text: &'static str| text.split(|c: char| c != '_' && !c.is_ascii_alphanumeric());

    for alert in rules.split("- alert: ").skip(1) {
        let asked: Vec<_> = words(alert).filter(|word| word.starts_with("tidegate_")).collect();
        assert!(!asked.is_empty(), "no metric in {alert}");
        let told = alert.split("$labels.").skip(1).map(|rest| words(rest).next().unwrap());
        let told: Vec<_> = told.filter(|label| *label != "instance").collect();
        for name in asked {
            let labels = families.get(name).unwrap_or_else(|| panic!("{name} is not shown"));
            let missing = told.iter().find(|label| !labels.contains(*label));
            assert_eq!(missing, None, "{name} has no such label");
        }
    }
}

#[test]
fn the_readme_has_every_code_of_a_stream() {
    let listed: BTreeMap<u32, String> = rows("| code | reason | meaning |")
        .into_iter()
        .map(|row| (row[0].parse().unwrap(), row[1].trim_matches('`').to_owned()))
        .collect();
    let sent = StreamEnd::ALL.iter().filter(|end| end.code() != 0);
    let sent: BTreeMap<u32, String> = sent.map(|end| (end.code(), end.to_string())).collect();
    assert_eq!(listed, sent);
}

#[test]
fn the_readme_has_every_code_of_a_session() {
    for end in Ending::ALL.iter().filter(|end| end.code() != 0) {
        let pair = format!("{} `{end}`", end.code());
        assert!(README.contains(&pair), "{pair} is missing");
    }
}

#[test]
fn the_readme_has_every_refusal_with_its_status() {
    let mut listed = BTreeSet::new();
    for row in rows("| status | reasons | `Retry-After` |") {
        for reason in row[1].split(", ") {
            listed.insert((row[0].clone(), reason.trim_matches('`').to_owned(), row[2].clone()));
        }
    }
    let known = Refusal::ALL.iter().map(|why| {
        let later = match why {
            // Each client is told its own time.
            Refusal::ClientSessionRate => "until the next fits".to_owned(),
            why => why.retry_after_seconds().map_or_else(String::new, |s| format!("{s} s")),
        };
        (why.status().to_string(), why.to_string(), later)
    });
    assert_eq!(listed, known.collect());
}

#[test]
fn the_readme_has_every_reason_for_the_loss_of_a_datagram() {
    let listed: Vec<String> = rows("| reason | a datagram was lost because |")
        .into_iter()
        .map(|row| row[0].trim_matches('`').to_owned())
        .collect();
    let known: Vec<String> = Loss::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(listed, known);
}

/// The cells of the README's table with this heading.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let after = README.split_once(heading).unwrap_or_else(|| panic!("no table has {heading}")).1;
    // The rest of the heading's line and the rule below it come first.
    let rows = after.lines().skip(2).map_while(|line| line.strip_prefix('|')?.strip_suffix('|'));
    rows.map(|row| row.split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// With `--help` behind them, the arguments are read and nothing is done.
#[test]
fn the_service_starts_the_program_as_it_wants_to_be_started() {
    let unit = include_str!("../deploy/systemd/tidegate.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let mut arguments = start.split(' ');
    assert_eq!(arguments.next(), Some("/usr/local/bin/tidegate"));

    let program = env!("CARGO_BIN_EXE_tidegate");
    let read = Command::new(program).args(arguments).arg("--help").output().unwrap();

    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
}

/// Pictures are looked at where they are explained, and weigh little in a clone.
#[test]
fn every_plot_is_shown_in_the_readme_of_the_benches_and_is_small() {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
    let readme = fs::read_to_string(benches.join("README.md")).unwrap();
    let files = fs::read_dir(benches.join("plots")).unwrap().map(|entry| entry.unwrap().path());
    let plots: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|ending| ending == "svg")).collect();
    assert!(!plots.is_empty());
    for plot in plots {
        let name = plot.file_name().unwrap().to_str().unwrap();
        assert!(readme.contains(&format!("](plots/{name})")), "{name} is shown nowhere");
        assert!(fs::metadata(&plot).unwrap().len() < 30_000, "{name} is too large");
    }
}

/// Tests are named there as `module::test`, with modules left out that tell nothing; after the first of a file
/// by the test alone; or as `module` (all of it).
#[test]
fn every_test_that_the_list_of_tests_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = include_str!("README.md");
    let mut there = BTreeSet::new();
    for folder in ["src", "tests", "tests/e2e", "benches/adverse"] {
        for file in sources(&root.join(folder)) {
            let path = file.strip_prefix(root.join(folder)).unwrap().with_extension("");
            let modules = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            note_items(modules, &fs::read_to_string(&file).unwrap(), &mut there);
        }
    }

    let named = names_of_tests(list);
    assert!(named.len() > 100, "{named:?}");
    let missing = named.iter().filter(|name| !there.iter().any(|item| is_short_for(name, item)));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&&str>::new());
}

/// All Rust files of a folder and those in it.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|ending| ending == "rs")).collect()
}

/// Adds the paths of a file's functions and modules. The sources are formatted, so a module's brace stands below
/// its first letter.
fn note_items(mut at: Vec<String>, text: &str, items: &mut BTreeSet<Vec<String>>) {
    let mut ends: Vec<String> = Vec::new();
    items.insert(at.clone());
    for line in text.lines() {
        let words = line.trim_start();
        let item = words.trim_start_matches("pub(crate) ").trim_start_matches("async ");
        if let Some(name) = item.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(" {")) {
            ends.push(line.replace(words, "}"));
            at.push(name.to_owned());
            items.insert(at.clone());
        } else if let Some((name, _)) =
            item.strip_prefix("fn ").and_then(|rest| rest.split_once(['(', '<']))
        {
            items.insert([&at[..], &[name.to_owned()]].concat());
        } else if ends.last().is_some_and(|end| end == line) {
            _ = (ends.pop(), at.pop());
        }
    }
}

/// What stands between backticks and is a path, the name of a whole module, or as long as a test's name.
fn names_of_tests(list: &str) -> Vec<&str> {
    let parts: Vec<&str> = list.split('`').collect();
    let quoted = parts.windows(2).skip(1).step_by(2);
    let is_test = |name: &str, after: &str| {
        name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c))
            && (name.contains("::")
                || name.matches('_').count() >= 4
                || after.starts_with(" (all of it)"))
    };
    quoted.filter(|pair| is_test(pair[0], pair[1])).map(|pair| pair[0]).collect()
}

/// Whether `name` is this item's path, with modules left out.
fn is_short_for(name: &str, item: &[String]) -> bool {
    let mut parts = name.rsplit("::").peekable();
    let mut item = item.iter().rev();
    if item.next().map(String::as_str) != parts.next() {
        return false;
    }
    for module in item {
        _ = parts.next_if(|part| *part == module.as_str());
    }
    parts.peek().is_none()
}
