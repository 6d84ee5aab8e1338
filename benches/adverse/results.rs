//! Figures, as rows of a table that is kept beside the plots made of it.

use std::{fs, io, path::Path};

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// What was measured: `down`, `messages` and so on.
    pub(crate) scenario: String,
    /// On which path: `1 % loss`.
    pub(crate) path: String,
    /// Of whom: `QUIC, CUBIC`.
    pub(crate) who: String,
    /// Which figure, with its unit: `mbit_s`, `p99_ms`.
    pub(crate) figure: String,
    pub(crate) value: f64,
}

const HEAD: &str = "scenario;path;who;figure;value";

/// All figures of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table(pub(crate) Vec<Row>);

impl Table {
    pub(crate) fn add(&mut self, scenario: &str, path: &str, who: &str, figure: &str, value: f64) {
        let [scenario, path, who, figure] = [scenario, path, who, figure].map(str::to_owned);
        self.0.push(Row { scenario, path, who, figure, value });
    }

    pub(crate) fn read(file: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(file)?;
        let rows = text.lines().skip(1).map(|line| {
            let mut fields = line.split(';').map(str::to_owned);
            let mut next = || fields.next();
            let (scenario, path, who, figure) = (next()?, next()?, next()?, next()?);
            Some(Row { scenario, path, who, figure, value: next()?.parse().ok()? })
        });
        let rows: Option<Vec<Row>> = rows.collect();
        rows.map(Self).ok_or_else(|| io::Error::other("this is no table of figures"))
    }

    pub(crate) fn write(&self, file: &Path) -> io::Result<()> {
        let rows = self.0.iter().map(|row| {
            let Row { scenario, path, who, figure, value } = row;
            format!("{scenario};{path};{who};{figure};{value:.2}\n")
        });
        fs::write(file, format!("{HEAD}\n{}", rows.collect::<String>()))
    }

    /// The figures of a scenario by path and by whom, each in the order in which they came.
    pub(crate) fn figures(&self, scenario: &str, figure: &str) -> Figures<'_> {
        let rows = self.0.iter().filter(|row| row.scenario == scenario && row.figure == figure);
        let mut figures = Figures { paths: Vec::new(), who: Vec::new(), rows: rows.collect() };
        for row in &figures.rows {
            if !figures.paths.contains(&row.path.as_str()) {
                figures.paths.push(&row.path);
            }
            if !figures.who.contains(&row.who.as_str()) {
                figures.who.push(&row.who);
            }
        }
        figures
    }
}

/// The figures of one plot.
pub(crate) struct Figures<'a> {
    pub(crate) paths: Vec<&'a str>,
    pub(crate) who: Vec<&'a str>,
    rows: Vec<&'a Row>,
}

impl Figures<'_> {
    /// A figure, if it was measured.
    pub(crate) fn value(&self, path: &str, who: &str) -> Option<f64> {
        self.rows.iter().find(|row| row.path == path && row.who == who).map(|row| row.value)
    }
}
