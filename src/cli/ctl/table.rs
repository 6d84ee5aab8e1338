//! Tables and values for people.

use std::{fmt::Write, iter::repeat_n};

use serde_json::Value;

/// One column: its title, and whether it holds numbers, which stand to the right.
pub(super) type Column = (&'static str, Align);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Columns as wide as they have to be, two blanks between them.
pub(super) fn table(columns: &[Column], rows: &[Vec<String>]) -> String {
    let titles: Vec<String> = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&titles).chain(rows).collect();
    let width = |at: usize| lines.iter().filter_map(|l| l.get(at)).map(|c| len(c)).max();
    let widths: Vec<usize> = (0..columns.len()).map(|at| width(at).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let mut laid = String::new();
        for ((cell, width), (_, align)) in line.iter().zip(&widths).zip(columns) {
            let blanks = repeat_n(' ', width.saturating_sub(len(cell)));
            match align {
                Align::Left => laid.extend(cell.chars().chain(blanks)),
                Align::Right => laid.extend(blanks.chain(cell.chars())),
            }
            laid.push_str("  ");
        }
        text.push_str(laid.trim_end());
        text.push('\n');
    }
    text
}

fn len(cell: &str) -> usize {
    cell.chars().count()
}

/// A value in one line. What a client has chosen must not command the terminal.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => {
            text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
        }
        other => other.to_string(),
    }
}

/// An object in lines of key and value, what is in it indented below.
pub(super) fn lines(value: &Value, indent: usize) -> String {
    let mut text = String::new();
    let Value::Object(fields) = value else { return format!("{:indent$}{}\n", "", plain(value)) };
    let (nested, flat): (Vec<_>, Vec<_>) =
        fields.iter().partition(|(_, value)| value.is_object() || value.is_array());
    let width = flat.iter().map(|(key, _)| len(key)).max().unwrap_or(0);
    for (key, value) in flat {
        // Writing to a string cannot fail.
        _ = writeln!(text, "{:indent$}{key:width$}  {}", "", plain(value));
    }
    for (key, value) in nested {
        _ = writeln!(text, "{:indent$}{key}", "");
        match value {
            Value::Array(items) if items.is_empty() => _ = writeln!(text, "{:indent$}  none", ""),
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    if at > 0 && item.is_object() {
                        text.push('\n');
                    }
                    text.push_str(&lines(item, indent + 2));
                }
            }
            value => text.push_str(&lines(value, indent + 2)),
        }
    }
    text
}

/// Seconds in their two largest units.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// Bytes in the unit that leaves at most four digits before the point.
pub(super) fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut unit, mut tenths) = (0, u128::from(bytes) * 10);
    while tenths >= 10_240 && unit + 1 < units.len() {
        tenths = (tenths + 512) / 1024;
        unit += 1;
    }
    let unit_word = units.get(unit).copied().unwrap_or_default();
    if unit == 0 {
        format!("{bytes}{unit_word}")
    } else {
        format!("{}.{}{unit_word}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_have_to_be() {
        let rows = [["a", "1", "x"], ["long-name", "100", ""]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        let columns = [("NAME", Align::Left), ("N", Align::Right), ("LAST", Align::Left)];
        let wanted = "NAME         N  LAST\na            1  x\nlong-name  100\n";
        assert_eq!(table(&columns, &rows), wanted);
    }

    #[test]
    fn an_object_is_shown_with_what_is_in_it() {
        let value =
            json!({ "id": 7, "leg": { "rtt": "3ms" }, "list": [{"a": 1}, {"a": 2}], "none": [] });
        let wanted = "id  7\nleg\n  rtt  3ms\nlist\n  a  1\n\n  a  2\nnone\n  none\n";
        assert_eq!(lines(&value, 0), wanted);
    }

    /// A path may hold whatever a client likes.
    #[test]
    fn nothing_of_a_clients_commands_the_terminal() {
        assert_eq!(plain(&json!("/a\u{1b}[2J\u{9b}m")), "/a\u{fffd}[2J\u{fffd}m");
    }

    #[test]
    fn times_and_sizes_are_short() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (61, "1m1s"), (3_600, "1h0m"), (90_061, "1d1h")]
        {
            assert_eq!(duration(seconds), text);
        }
        for (count, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0KiB"),
            (1536, "1.5KiB"),
            (5 * 1024 * 1024, "5.0MiB"),
            (u64::MAX, "16777216.0TiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
