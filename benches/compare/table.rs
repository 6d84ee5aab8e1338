//! Tables in markdown that can be read in a terminal too.

use std::fmt;

/// Rows of as many cells as the head has.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    /// Columns from the left that are text and not figures.
    words: usize,
}

impl Table {
    pub(crate) fn new(head: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { rows: vec![head.into_iter().map(Into::into).collect()], words: 1 }
    }

    /// The same with words in every column.
    pub(crate) fn of_words(head: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { words: usize::MAX, ..Self::new(head) }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Whether there is nothing but the head.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }
}

/// Words to the left, figures to the right.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let edge = if column == 0 { "|" } else { "" };
                if column < self.words {
                    write!(f, "{edge} {cell:width$} |")?;
                } else {
                    write!(f, "{edge} {cell:>width$} |")?;
                }
            }
            writeln!(f)?;
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let edge = if column == 0 { "|" } else { "" };
                    if column < self.words {
                        write!(f, "{edge} {} |", "-".repeat(*width))?;
                    } else {
                        write!(f, "{edge} {}: |", "-".repeat(width - 1))?;
                    }
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(
    dead_code,
    unused_imports,
    reason = "tests/benches.rs runs them; this program is built without"
)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["what", "limit"]);
        assert!(table.is_empty());
        table.row(["µs", "12.5"]);
        table.row(["longer", "1"]);
        assert!(!table.is_empty());
        let text =
            "| what   | limit |\n| ------ | ----: |\n| µs     |  12.5 |\n| longer |     1 |\n";
        assert_eq!(table.to_string(), text);

        let mut words = Table::of_words(["a", "b"]);
        words.row(["1", "two"]);
        assert_eq!(words.to_string(), "| a   | b   |\n| --- | --- |\n| 1   | two |\n");
    }
}
