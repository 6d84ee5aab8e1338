//! Everything that is wrong with a configuration, and where.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    ops::RangeInclusive,
    path::Path,
    time::Duration,
};

use toml::de::{DeTable, DeValue};

use super::units::Period;

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Line in the file, from 1, where it is known.
    pub line: Option<usize>,
    /// The key, such as `route[0].path`; empty where the whole file is meant.
    pub key: String,
    /// What is wrong and what would do.
    pub message: String,
}

/// All that is wrong, in the order of the file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Problems {
    /// The file's name.
    pub file: String,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl Problems {
    /// One of the whole file.
    pub(crate) fn of_file(path: &Path, message: String) -> Self {
        let problems = vec![Problem { line: None, key: String::new(), message }];
        Self { file: path.display().to_string(), problems }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            let line = problem.line.unwrap_or(1);
            write!(f, "{}:{line}: ", self.file)?;
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            writeln!(f, "{}", Printable(&problem.message))?;
        }
        Ok(())
    }
}

/// A message on one line. What a file says may have any characters; none of them is to make one problem
/// look like two, or to reach a terminal that obeys it.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c.is_control() {
            true => write!(f, "{}", c.escape_debug()),
            false => f.write_char(c),
        })
    }
}

impl std::error::Error for Problems {}

/// Collects problems while a file is read. It knows where each key stands, so that whoever finds a
/// problem names the key and nothing else.
#[derive(Debug)]
pub(super) struct Collector<'t> {
    text: &'t str,
    /// Where each key and each element of a list stands, in bytes.
    offsets: HashMap<String, usize>,
    problems: Vec<Problem>,
}

impl<'t> Collector<'t> {
    /// With the places of all keys of `table`, which was read from `text`.
    pub(super) fn new(text: &'t str, table: &DeTable<'_>) -> Self {
        let mut collector = Self { text, offsets: HashMap::new(), problems: Vec::new() };
        collector.note_places(table, "");
        collector
    }

    fn note_places(&mut self, table: &DeTable<'_>, at: &str) {
        for (key, value) in table {
            let at = join(at, key.get_ref());
            self.note_elements(value.get_ref(), &at);
            self.offsets.insert(at, key.span().start);
        }
    }

    fn note_elements(&mut self, value: &DeValue<'_>, at: &str) {
        match value {
            DeValue::Table(table) => self.note_places(table, at),
            DeValue::Array(array) => {
                for (index, element) in array.iter().enumerate() {
                    let at = format!("{at}[{index}]");
                    self.note_elements(element.get_ref(), &at);
                    self.offsets.insert(at, element.span().start);
                }
            }
            _ => {}
        }
    }

    /// Notes a problem with a key, whether or not the file has it.
    pub(super) fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        let (key, message) = (key.into(), message.into());
        self.problems.push(Problem { line: self.line(&key), key, message });
    }

    /// The line of a key, or of the closest table around it that the file has.
    fn line(&self, key: &str) -> Option<usize> {
        let mut key = key;
        loop {
            if let Some(offset) = self.offsets.get(key) {
                return Some(line_at(self.text, *offset));
            }
            (key, _) = key.rsplit_once(['.', '['])?;
        }
    }

    /// Whether the file has this key, valid or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.offsets.contains_key(key)
    }

    /// Whether a problem with this key, or with something below it, was noted.
    pub(super) fn is_wrong(&self, key: &str) -> bool {
        self.problems.iter().any(|problem| problem.key.starts_with(key))
    }

    /// A value that must be there. Where it is `None` but the file has its key, what is wrong with it
    /// was noted before.
    pub(super) fn required<T>(&mut self, key: &str, value: Option<T>, hint: &str) -> Option<T> {
        if value.is_none() && !self.has(key) {
            self.add(key, format!("is missing; {hint}"));
        }
        value
    }

    /// The value, or the default where the file is silent, if it lies in the range.
    pub(super) fn within<T: Copy + PartialOrd + fmt::Display>(
        &mut self,
        key: &str,
        value: Option<T>,
        default: T,
        range: RangeInclusive<T>,
    ) -> T {
        let value = value.unwrap_or(default);
        if !range.contains(&value) {
            let (least, most) = range.into_inner();
            self.add(key, format!("{value} is out of range; write {least} to {most}"));
        }
        value
    }

    /// [`Self::within`] for lengths of time.
    pub(super) fn period(
        &mut self,
        key: &str,
        value: Option<Period>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let (least, most) = range.into_inner();
        self.within(key, value, Period(default), Period(least)..=Period(most)).0
    }

    /// The value, if nothing was wrong; else everything that was, in the order of the file.
    pub(super) fn finish<T>(self, file: &str, value: Option<T>) -> Result<T, Problems> {
        let mut problems = self.problems;
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => {
                problems.sort_by_key(|problem| problem.line);
                Err(Problems { file: file.to_owned(), problems })
            }
        }
    }
}

/// Line of a place in a text, from 1.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The key of `name` in the table `at`, quoted where TOML wants it.
pub(super) fn join(at: &str, name: &str) -> String {
    let is_bare = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let name = match !name.is_empty() && name.bytes().all(is_bare) {
        true => name.to_owned(),
        false => format!("{name:?}"),
    };
    if at.is_empty() { name } else { format!("{at}.{name}") }
}

/// `message`, with the word that was probably meant if one of `known` is close to `found`.
pub(super) fn did_you_mean<'k>(
    found: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<&'k str> {
    let found = found.to_ascii_lowercase();
    let distance = |word: &&str| strsim::damerau_levenshtein(&found, word);
    let nearest = known.into_iter().min_by_key(distance)?;
    // A third of the letters may be wrong; with more, the guess would be a joke.
    (distance(&nearest) * 3 <= nearest.len().max(3)).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_close_words_are_suggested() {
        let known = ["origins", "path", "tcp", "udp"];
        for (found, wanted) in [
            ("origin", Some("origins")),
            ("Paths", Some("path")),
            ("tpc", Some("tcp")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(did_you_mean(found, known), wanted, "{found}");
        }
    }

    #[test]
    fn no_word_of_a_file_reaches_the_terminal_as_a_command() {
        let message = "cannot read a\u{1b}[31mb\nc\0: ä".to_owned();
        let problems = vec![Problem { line: Some(2), key: "log".to_owned(), message }];
        let printed = Problems { file: "t.toml".to_owned(), problems }.to_string();
        assert_eq!(printed, "t.toml:2: log: cannot read a\\u{1b}[31mb\\nc\\0: ä\n");
    }

    #[test]
    fn strange_names_are_quoted_in_keys() {
        assert_eq!(join("", "limits"), "limits");
        assert_eq!(join("backend", "game-2"), "backend.game-2");
        assert_eq!(join("backend", "a.b"), "backend.\"a.b\"");
        assert_eq!(join("backend", ""), "backend.\"\"");
    }
}
