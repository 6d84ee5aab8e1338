//! Where a route's sessions go, and whether the file has all of it.

use std::{collections::BTreeMap, sync::Arc};

use super::backend::Backends;
use crate::config::{
    Backend, Destination, Listed, RoutePath, Segment, path_segments,
    problems::{Collector, did_you_mean, join},
    raw::{self, Section},
};

pub(super) fn destination(
    raw: &raw::Route,
    backends: &Backends,
    problems: &mut Collector<'_>,
) -> Option<Destination> {
    let (key, from_key, table_key) =
        (raw.key("backend"), raw.key("backend_from"), raw.key("backends"));
    // A mistake in one of the keys must not count as its absence.
    if !problems.has(&from_key) {
        if problems.has(&table_key) {
            let message = "is obeyed with backend_from alone, which names a capture of the path";
            problems.add(table_key, message);
        }
        let hint = "write the name of a [backend.NAME]";
        let name = problems.required(&key, raw.backend.as_ref(), hint)?;
        return named(&key, name, backends, problems).map(Destination::Always);
    }
    let capture = raw.backend_from.clone().filter(|name| has_capture(name, raw, problems));
    let hint = "list what the capture may stand for: backends = { lobby = \"NAME\" }";
    let table = problems.required(&table_key, raw.backends.as_ref(), hint);
    let table = table.map(|table| listed(&table_key, table, raw, backends, problems));
    let otherwise = raw.backend.as_ref().map(|name| named(&key, name, backends, problems));
    let otherwise = match otherwise {
        Some(otherwise) => Some(otherwise?),
        None if problems.has(&key) => return None,
        None => None,
    };
    Some(Destination::Listed(Listed { capture: capture?, backends: table??, otherwise }))
}

/// The backend of this name. One that the file has but that is not usable is no problem of the route.
fn named(
    key: &str,
    name: &str,
    backends: &Backends,
    problems: &mut Collector<'_>,
) -> Option<Arc<Backend>> {
    if let Some(backend) = backends.get(name) {
        return backend.clone();
    }
    let message = match did_you_mean(name, backends.keys().map(String::as_str)) {
        Some(nearest) => format!("no backend is named {name:?}; did you mean {nearest:?}?"),
        None => {
            format!("no backend is named {name:?}; write a section [{}]", join("backend", name))
        }
    };
    problems.add(key, message);
    None
}

/// Whether the path has the capture; without a usable path nothing can be said.
fn has_capture(name: &str, raw: &raw::Route, problems: &mut Collector<'_>) -> bool {
    let Some(path) = &raw.path else { return false };
    let has_it = path.captures().any(|known| known == name);
    if !has_it {
        let hint = match did_you_mean(name, path.captures()) {
            Some(nearest) => format!("; did you mean {nearest:?}?"),
            None => String::new(),
        };
        problems.add(raw.key("backend_from"), format!("{path} has no capture {name:?}{hint}"));
    }
    has_it
}

/// The table by values in the form in which paths are compared. Nothing where an entry has a problem.
fn listed(
    key: &str,
    table: &BTreeMap<String, String>,
    raw: &raw::Route,
    backends: &Backends,
    problems: &mut Collector<'_>,
) -> Option<BTreeMap<String, Arc<Backend>>> {
    if table.is_empty() && !problems.is_wrong(key) {
        problems.add(key, "this table is empty; it needs at least one value with its backend");
    }
    let is_rest = raw.backend_from.as_ref().zip(raw.path.as_ref()).is_some_and(is_rest);
    let mut written: BTreeMap<String, &str> = BTreeMap::new();
    let mut values = BTreeMap::new();
    let mut is_whole = !table.is_empty() && !problems.is_wrong(key);
    for (text, name) in table {
        let key = join(key, text);
        let backend = named(&key, name, backends, problems);
        let value = value(text, is_rest).map_err(|wrong| problems.add(&key, wrong)).ok();
        let is_new = value.as_ref().is_some_and(|value| {
            let before = written.insert(value.clone(), text);
            if let Some(before) = before {
                problems
                    .add(&key, format!("means the same in a path as {before:?}, which is here"));
            }
            before.is_none()
        });
        match (backend, value) {
            (Some(backend), Some(value)) if is_new => _ = values.insert(value, backend),
            _ => is_whole = false,
        }
    }
    is_whole.then_some(values)
}

fn is_rest((name, path): (&String, &RoutePath)) -> bool {
    path.segments.last() == Some(&Segment::Rest(name.clone()))
}

/// What a capture stands for in a path that has this text there, in the form in which paths are compared.
fn value(text: &str, is_rest: bool) -> Result<String, String> {
    let segments = path_segments(&format!("/{text}"))
        .map_err(|wrong| format!("{text:?} can stand in no path; {wrong}"))?;
    match segments.first() {
        Some(first) if !first.is_empty() && (is_rest || segments.len() == 1) => {
            Ok(segments.join("/"))
        }
        _ => Err(format!("{text:?} is no segment of a path, so the capture never stands for it")),
    }
}
