//! Raw shape to valid settings, collecting every problem.

use std::path::Path;

use super::{Config, Problems};

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Every problem of the file, or that it cannot be read.
    pub fn read(path: &Path) -> Result<Self, Problems> {
        let _ = path;
        todo!("helper")
    }

    /// Checks a text; `file` is its name in problems, and relative paths in it are taken from `base`.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn parse(text: &str, file: &str, base: &Path) -> Result<Self, Problems> {
        let _ = (text, file, base);
        todo!("helper")
    }
}
