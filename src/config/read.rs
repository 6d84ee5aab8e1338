//! From the values of a TOML file to the types of the raw shape, noting what does not fit.
//!
//! Serde would stop at the first mistake. So the parsed file is walked by hand: each type reads its
//! own value, notes a problem if it cannot, and the walk goes on.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    num::{IntErrorKind, NonZeroU32},
};

use serde::Serialize;
use toml::de::{DeTable, DeValue};

use super::{
    certificate_name::CertificateName,
    credential::Wanted,
    host::HostPort,
    host_pattern::HostPattern,
    memory::MemoryLimit,
    origin::OriginPattern,
    path::RoutePath,
    pool::{HashOn, Payload, Statuses},
    preamble::Preamble,
    problems::{Collector, did_you_mean, join},
    rate::{ByteRate, Rate},
    units::{ByteSize, Limit, Patience, Period, UNLIMITED},
};

/// A type of the raw shape.
pub(super) trait Read: Sized {
    /// Reads the value that stands under the key `at`. `None`: it is not usable, and `problems` has
    /// the reason.
    fn read(value: &DeValue<'_>, at: &str, problems: &mut Collector<'_>) -> Option<Self>;

    /// Adds every key that a file may have for a value of this type under the key `at`.
    fn keys(at: &str, keys: &mut Vec<String>) {
        // A list of plain values is one key, not one for each of its elements.
        keys.push(at.trim_end_matches("[]").to_owned());
    }
}

/// The value of `name` in the table `at`, where it has one.
pub(super) fn read_key<T: Read>(
    table: &DeTable<'_>,
    at: &str,
    name: &str,
    problems: &mut Collector<'_>,
) -> Option<T> {
    T::read(table.get(name)?.get_ref(), &join(at, name), problems)
}

/// The value as a table.
pub(super) fn as_table<'v, 'i>(
    value: &'v DeValue<'i>,
    at: &str,
    problems: &mut Collector<'_>,
) -> Option<&'v DeTable<'i>> {
    let table = value.as_table();
    if table.is_none() {
        problems.add(at, format!("expected a table, found {}", found(value)));
    }
    table
}

/// Notes each key of `table` that is not among `known`, and what it may have been meant to be.
pub(super) fn note_unknown_keys(
    table: &DeTable<'_>,
    at: &str,
    known: &[&'static str],
    problems: &mut Collector<'_>,
) {
    for key in table.keys().map(|key| key.get_ref().as_ref()) {
        if known.contains(&key) {
            continue;
        }
        let message = match (did_you_mean(key, known.iter().copied()), home_of(key)) {
            (Some(nearest), _) => format!("unknown key; did you mean `{nearest}`?"),
            (None, Some(home)) => format!("unknown key here; it belongs in `{home}`"),
            (None, None) => format!("unknown key; known here: {}", known.join(", ")),
        };
        problems.add(join(at, key), message);
    }
}

/// The section in which a key of this name is known.
fn home_of(name: &str) -> Option<String> {
    super::known_keys().iter().find_map(|key| {
        let (home, last) = key.rsplit_once('.')?;
        (last == name).then(|| home.to_owned())
    })
}

impl<T: Read> Read for Vec<T> {
    fn read(value: &DeValue<'_>, at: &str, problems: &mut Collector<'_>) -> Option<Self> {
        let Some(array) = value.as_array() else {
            let hint = match value {
                DeValue::Table(_) => format!("; write [[{at}]]"),
                _ => String::new(),
            };
            problems.add(at, format!("expected a list, found {}{hint}", found(value)));
            return None;
        };
        if array.is_empty() {
            problems.add(at, "this list is empty; it needs at least one element");
            return None;
        }
        let elements = array.iter().enumerate();
        Some(
            elements
                .filter_map(|(i, e)| T::read(e.get_ref(), &format!("{at}[{i}]"), problems))
                .collect(),
        )
    }

    fn keys(at: &str, keys: &mut Vec<String>) {
        T::keys(&format!("{at}[]"), keys);
    }
}

impl<T: Read> Read for BTreeMap<String, T> {
    fn read(value: &DeValue<'_>, at: &str, problems: &mut Collector<'_>) -> Option<Self> {
        let table = as_table(value, at, problems)?;
        let names = table.keys().map(|key| key.get_ref().as_ref());
        Some(
            names
                .filter_map(|name| Some((name.to_owned(), read_key(table, at, name, problems)?)))
                .collect(),
        )
    }

    fn keys(at: &str, keys: &mut Vec<String>) {
        T::keys(&format!("{at}.*"), keys);
    }
}

/// A type that is written as a TOML string.
pub(super) trait FromText: Sized {
    /// What would do, for those who wrote something else than a string.
    const WANTED: &'static str;

    /// Reads the string, or says what is wrong with it.
    fn from_text(text: &str) -> Result<Self, String>;
}

/// Reads a value that must be a string.
pub(super) fn read_text<T: FromText>(
    value: &DeValue<'_>,
    at: &str,
    problems: &mut Collector<'_>,
) -> Option<T> {
    let read = match value {
        DeValue::String(text) => T::from_text(text),
        other => Err(format!("expected {}, found {}", T::WANTED, found(other))),
    };
    read.map_err(|message| problems.add(at, message)).ok()
}

/// Implements [`Read`] for types that are written as strings.
macro_rules! read_as_text {
    ($($type:ty: $wanted:literal, $parse:expr;)*) => { $(
        impl FromText for $type {
            const WANTED: &'static str = $wanted;
            fn from_text(text: &str) -> Result<Self, String> {
                ($parse)(text)
            }
        }

        impl Read for $type {
            fn read(value: &DeValue<'_>, at: &str, problems: &mut Collector<'_>) -> Option<Self> {
                read_text(value, at, problems)
            }
        }
    )* };
}

read_as_text! {
    String: "a string", |text: &str| Ok(text.to_owned());
    Period: "a duration such as \"15s\"", Period::parse;
    Patience: "a duration such as \"15s\", or \"unlimited\"", Patience::parse;
    SocketAddr: "an address and port such as \"127.0.0.1:4433\"", |text: &str| text.parse().map_err(
        |_syntax| format!(
            "{text:?} is no IP address with port; write one such as \"0.0.0.0:4433\" or \"[::]:4433\""
        )
    );
    IpAddr: "an IP address such as \"10.0.0.5\"", |text: &str| text.parse().map_err(
        |_syntax| format!("{text:?} is no IP address; write one such as \"10.0.0.5\" or \"fd00::5\"")
    );
    HostPort: "a host and port such as \"127.0.0.1:7777\"", HostPort::parse;
    OriginPattern: "an origin such as \"https://play.example.com\"", |text: &str| OriginPattern::parse(text)
        .map_err(|wrong| format!("{text:?} is no origin; {wrong}"));
    RoutePath: "a path such as \"/game/{room}\"", |text: &str| RoutePath::parse(text)
        .map_err(|wrong| format!("{text:?} is no path; {wrong}"));
    Preamble: "a text such as \"HELLO {session_id}\\r\\n\"", |text: &str| Preamble::parse(text)
        .map_err(|wrong| format!("{text:?} is no preamble: {wrong}"));
    HostPattern: "a host such as \"play.example.com\"", |text: &str| HostPattern::parse(text)
        .map_err(|wrong| format!("{text:?} is no host; {wrong}"));
    Rate: "a rate such as \"100/s\", or \"unlimited\"", Rate::parse;
    ByteRate: "a rate of bytes such as \"10MiB/s\", or \"unlimited\"", ByteRate::parse;
    MemoryLimit: "a share such as \"80%\", a size such as \"2GiB\", or \"unlimited\"", MemoryLimit::parse;
    HashOn: "what to hash, such as \"client-address\" or \"capture:room\"", HashOn::parse;
    CertificateName: "a name such as \"*.fleet.example.com\"", CertificateName::parse;
    Wanted: "a text, or a capture such as \"{room}\"", Wanted::parse;
    Payload: "a text such as \"PING\\\\r\\\\n\"", Payload::parse;
    Statuses: "statuses such as \"200\" or \"200-399\"", Statuses::parse;
    HexBytes: "hexadecimal digits such as \"0a1b\"", HexBytes::parse;
}

impl Read for bool {
    fn read(value: &DeValue<'_>, at: &str, problems: &mut Collector<'_>) -> Option<Self> {
        if value.as_bool().is_none() {
            problems.add(at, format!("expected true or false, found {}", found(value)));
        }
        value.as_bool()
    }
}

/// Implements [`Read`] for whole numbers.
macro_rules! read_as_number {
    ($($type:ty),*) => { $(
        impl Read for $type {
            fn read(value: &DeValue<'_>, at: &str, problems: &mut Collector<'_>) -> Option<Self> {
                let number = number(value, "a whole number").and_then(|number| {
                    Self::try_from(number).map_err(|_out_of_range| {
                        format!("{number} is out of range; write {} to {}", Self::MIN, Self::MAX)
                    })
                });
                number.map_err(|message| problems.add(at, message)).ok()
            }
        }
    )* };
}

read_as_number!(u8, u16, u32);

impl Read for ByteSize {
    fn read(value: &DeValue<'_>, at: &str, problems: &mut Collector<'_>) -> Option<Self> {
        let size = match value {
            DeValue::String(text) => Self::parse(text),
            other => number(other, "a number of bytes or a size such as \"64KiB\"").and_then(|n| {
                u64::try_from(n).map(Self).map_err(|_negative| format!("{n} is less than nothing"))
            }),
        };
        size.map_err(|message| problems.add(at, message)).ok()
    }
}

impl Read for Limit {
    fn read(value: &DeValue<'_>, at: &str, problems: &mut Collector<'_>) -> Option<Self> {
        let limit = match value {
            DeValue::String(text) if text == UNLIMITED => Ok(Self::Unlimited),
            other => number(other, "a whole number or \"unlimited\"").and_then(|number| {
                match u64::try_from(number) {
                    Ok(0) => {
                        Err("0 would let nothing through; write \"unlimited\" if there shall \
                                  be no limit, or at least 1"
                            .to_owned())
                    }
                    Ok(most) => Ok(Self::AtMost(most)),
                    Err(_negative) => {
                        Err(format!("{number} is less than nothing; write at least 1"))
                    }
                }
            }),
        };
        limit.map_err(|message| problems.add(at, message)).ok()
    }
}

/// How many workers there shall be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Workers {
    /// One per core.
    Auto,
    /// This many.
    Count(NonZeroU32),
}

impl Read for Workers {
    fn read(value: &DeValue<'_>, at: &str, problems: &mut Collector<'_>) -> Option<Self> {
        let workers = match value {
            DeValue::String(text) if text == "auto" => Ok(Self::Auto),
            other => number(other, "\"auto\" or a whole number").and_then(|number| {
                let count = u32::try_from(number).ok().and_then(NonZeroU32::new);
                count
                    .map(Self::Count)
                    .ok_or_else(|| format!("{number} workers are not possible; write 1 to 64"))
            }),
        };
        workers.map_err(|message| problems.add(at, message)).ok()
    }
}

impl Serialize for Workers {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Count(count) => count.serialize(serializer),
        }
    }
}

/// Bytes, written as hexadecimal digits.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct HexBytes(pub(super) Vec<u8>);

impl HexBytes {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let digit = |c: char| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let digits: Option<Vec<u8>> = text.chars().map(digit).collect();
        match digits.as_deref().map(<[u8]>::as_chunks::<2>) {
            Some((pairs, [])) => {
                Ok(Self(pairs.iter().map(|[high, low]| high << 4 | low).collect()))
            }
            _ => Err(format!("{text:?} is not made of pairs of hexadecimal digits")),
        }
    }
}

impl Serialize for HexBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&digits)
    }
}

/// The value as a whole number, or what was `wanted` instead.
fn number(value: &DeValue<'_>, wanted: &str) -> Result<i64, String> {
    let DeValue::Integer(digits) = value else {
        return Err(format!("expected {wanted}, found {}", found(value)));
    };
    i64::from_str_radix(digits.as_str(), digits.radix()).map_err(|error| match error.kind() {
        IntErrorKind::NegOverflow => format!("{digits} is too small"),
        _ => format!("{digits} is too large"),
    })
}

/// A value in words, for messages.
fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {text:?}"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
