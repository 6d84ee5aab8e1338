//! Everything that is wrong with a configuration.

use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Line in the file, from 1, where it is known.
    pub line: Option<usize>,
    /// The key, such as `route[0].path`.
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

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            let line = problem.line.unwrap_or(1);
            writeln!(f, "{}:{line}: {}: {}", self.file, problem.key, problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
