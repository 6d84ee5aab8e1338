//! What differs between two configurations, key by key.
//!
//! Both are compared as the effective configuration shows them, so every key takes part as soon as it
//! exists, and what is masked there does not show here. What is equal there and yet not the same differs in the
//! files that it names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use toml::{Table, Value};

use super::{Config, Route};

/// One thing that differs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Difference {
    /// The key: `limits.sessions`, `route[game].origins`, `backend.game.endpoints[a]`. What has a name stands
    /// under it and not under its place.
    pub key: String,
    /// What is different.
    pub change: Change,
}

/// What is different.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// Only the new one has it.
    Added,
    /// Only the old one has it.
    Removed,
    /// Both have it, with these values, as the file would have them.
    Value {
        /// The old one.
        from: String,
        /// The new one.
        to: String,
    },
    /// The same is written, and something else is in the files or the environment.
    Contents,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.change {
            Change::Added => write!(f, "{key}: added"),
            Change::Removed => write!(f, "{key}: removed"),
            Change::Value { from, to } => write!(f, "{key}: {from} -> {to}"),
            Change::Contents => write!(f, "{key}: other contents"),
        }
    }
}

impl Config {
    /// What is different in `new`, by key.
    pub fn differences(&self, new: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        tables("", &self.table(), &new.table(), &mut found);
        self.contents(new, &mut found);
        found
    }

    fn table(&self) -> Table {
        Table::try_from(self.to_raw()).expect("numbers, strings, lists and tables have a TOML form")
    }

    /// What no text shows: the files and variables that it names.
    fn contents(&self, new: &Self, found: &mut Vec<Difference>) {
        let mut note = |key: String, differs: bool| {
            let is_noted = |found: &Vec<Difference>| found.iter().any(|d| is_within(&d.key, &key));
            if differs && !is_noted(found) {
                found.push(Difference { key, change: Change::Contents });
            }
        };
        let (old_server, new_server) = (&self.server, &new.server);
        note("server.secret".to_owned(), old_server.secret != new_server.secret);
        let previous = old_server.previous_secret != new_server.previous_secret;
        note("server.previous_secret".to_owned(), previous);
        note("admin".to_owned(), self.admin != new.admin);
        for (name, old) in &self.backends {
            let differs = new.backends.get(name).is_some_and(|new| new != old);
            note(within("backend", name), differs);
        }
        for (name, old) in &self.credentials {
            let differs = new.credentials.get(name).is_some_and(|new| new != old);
            note(within("credential", name), differs);
        }
        for old in &self.listeners {
            let new = new.listeners.iter().find(|new| new.name == old.name);
            let differs = new.is_some_and(|new| new.client_certificates != old.client_certificates);
            note(format!("listener[{}].client_certificates", old.name), differs);
        }
        for old in &self.routes {
            let Some(new) = new.routes.iter().find(|new| new.name == old.name) else { continue };
            // A route holds its backends, which have been compared, and so have their names.
            let old = Route { destination: new.destination.clone(), ..old.clone() };
            note(format!("route[{}]", old.name), old != *new);
        }
    }
}

/// Whether a key is this one or stands below it.
fn is_within(key: &str, above: &str) -> bool {
    let rest = key.strip_prefix(above);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn within(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

fn tables(at: &str, old: &Table, new: &Table, found: &mut Vec<Difference>) {
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for key in keys {
        values(&within(at, key), old.get(key), new.get(key), found);
    }
}

fn values(at: &str, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<Difference>) {
    let mut note = |change| found.push(Difference { key: at.to_owned(), change });
    match (old, new) {
        (None, None) => {}
        (None, Some(Value::Array(new))) if named(new).is_some() => {
            values_named(at, &[], new, found)
        }
        (Some(Value::Array(old)), None) if named(old).is_some() => {
            values_named(at, old, &[], found)
        }
        (None, Some(Value::Table(_) | Value::Array(_))) => note(Change::Added),
        (Some(Value::Table(_) | Value::Array(_)), None) => note(Change::Removed),
        (Some(Value::Table(old)), Some(Value::Table(new))) => tables(at, old, new, found),
        (Some(Value::Array(old)), Some(Value::Array(new)))
            if named(old).is_some() && named(new).is_some() =>
        {
            values_named(at, old, new, found);
        }
        (old, new) if old == new => {}
        (old, new) => note(Change::Value { from: text(old), to: text(new) }),
    }
}

/// The elements of a list of tables by their names, if each has one.
fn named(list: &[Value]) -> Option<BTreeMap<&str, &Value>> {
    list.iter().map(|value| Some((value.get("name")?.as_str()?, value))).collect()
}

fn values_named(at: &str, old: &[Value], new: &[Value], found: &mut Vec<Difference>) {
    let (old, new) = (named(old).unwrap_or_default(), named(new).unwrap_or_default());
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for name in names {
        let at = format!("{at}[{name}]");
        values(&at, old.get(*name).copied(), new.get(*name).copied(), found);
    }
}

/// A value as the file would have it. What is absent has no default that could be written.
fn text(value: Option<&Value>) -> String {
    value.map_or_else(|| "none".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TEXT: &str = r#"version = 1
[[listener]]
name = "edge"
quic = ["127.0.0.1:0"]
self_signed = ["localhost"]
[limits]
sessions = 5
[[route]]
name = "a"
path = "/a"
origins = ["https://a.example"]
backend = "b"
[[route]]
name = "z"
path = "/z"
origins = "any"
backend = "b"
[backend.b]
endpoints = [{ name = "e", tcp = "127.0.0.1:9" }, { name = "f", tcp = "127.0.0.1:8", weight = 3 }]
"#;

    fn parse(text: &str) -> Config {
        Config::parse(text, "t.toml", Path::new("")).unwrap_or_else(|p| panic!("{p}"))
    }

    /// What is said after this change of the text.
    fn after(old: &str, new: &str) -> Vec<String> {
        assert!(TEXT.contains(old), "{old}");
        let differences = parse(TEXT).differences(&parse(&TEXT.replacen(old, new, 1)));
        differences.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_difference_is_told_by_its_key() {
        for (old, new, said) in [
            ("sessions = 5", "sessions = 5", &[][..]),
            ("sessions = 5", "sessions = \"unlimited\"", &["limits.sessions: 5 -> \"unlimited\""]),
            (
                "sessions = 5",
                "connections = 7",
                &["limits.connections: 100000 -> 7", "limits.sessions: 5 -> 100000"],
            ),
            ("\"/z\"", "\"/y\"", &["route[z].path: \"/z\" -> \"/y\""]),
            ("name = \"z\"", "name = \"y\"", &["route[y]: added", "route[z]: removed"]),
            (
                "[\"https://a.example\"]",
                "\"any\"",
                &[
                    "route[a].allow_missing_origin: false -> true",
                    "route[a].origins: [\"https://a.example\"] -> \"any\"",
                ],
            ),
            (", weight = 3", "", &["backend.b.endpoints[f].weight: 3 -> 1"]),
            (
                "\"f\", tcp",
                "\"g\", tcp",
                &["backend.b.endpoints[f]: removed", "backend.b.endpoints[g]: added"],
            ),
            (
                "{ name = \"e\", tcp",
                "{ name = \"e\", udp = \"127.0.0.1:7\", tcp",
                &["backend.b.endpoints[e].udp: none -> \"127.0.0.1:7\""],
            ),
            ("[limits]", "[admin]\nlisten = \"127.0.0.1:1\"\n[limits]", &["admin: added"]),
            (
                "\"localhost\"",
                "\"other\"",
                &["listener[edge].self_signed: [\"localhost\"] -> [\"other\"]"],
            ),
        ] {
            assert_eq!(after(old, new), said, "{new}");
        }
    }

    #[test]
    fn the_order_of_what_has_a_name_is_no_difference() {
        let e = "{ name = \"e\", tcp = \"127.0.0.1:9\" }";
        let f = "{ name = \"f\", tcp = \"127.0.0.1:8\", weight = 3 }";
        let turned = TEXT.replace(&format!("[{e}, {f}]"), &format!("[{f}, {e}]"));
        assert_ne!(turned, TEXT);
        let said: Vec<_> = parse(TEXT).differences(&parse(&turned));
        assert_eq!(said, [Difference { key: "backend.b".into(), change: Change::Contents }]);
    }

    #[test]
    fn a_secret_is_told_to_differ_and_never_shown() {
        let with = |secret: &[u8]| {
            let mut config = parse(TEXT);
            config.server.secret = Some(super::super::Secret(secret.to_vec()));
            config
        };
        let said = with(b"old and dear").differences(&with(b"new and dearer"));
        let said: Vec<_> = said.iter().map(ToString::to_string).collect();
        assert_eq!(said, ["server.secret: other contents"]);
        let said = parse(TEXT).differences(&with(b"new and dearer"));
        let said: Vec<_> = said.iter().map(ToString::to_string).collect();
        assert_eq!(said, ["server.secret: none -> \"***\""]);
    }
}
