//! All figures of a run: as tables, and as JSON.

use std::fmt::Write;

use serde_json::json;

use super::{
    Failure,
    goals::{Figure, GOALS},
    measure::{Cell, Plan},
    memory::Held,
    place::Place,
    scenarios::{Needs, Scenario, Unit},
    servers::{CREDIT, Kind},
    statistics::Spread,
    table::Table,
};

/// Sessions that the goal for idle ones is for.
const IDLE_SESSIONS: f64 = 20_000.0;

/// What was measured, where, and how.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) place: Place,
    pub(crate) plan: Plan,
    pub(crate) cells: Vec<Cell>,
    pub(crate) memory: Vec<Held>,
}

impl Report {
    /// Every figure of every window.
    pub(crate) fn to_json(&self) -> Result<String, Failure> {
        let place: serde_json::Map<_, _> =
            self.place.facts.iter().map(|(name, fact)| (name.to_string(), json!(fact))).collect();
        let all = json!({ "place": place, "cells": self.cells, "memory": self.memory });
        Ok(serde_json::to_string_pretty(&all)?)
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut text = String::new();
        let mut place = Table::of_words(["", ""]);
        for (name, fact) in &self.place.facts {
            place.row([*name, fact]);
        }
        section(&mut text, "Where and how", "", &place);
        section(&mut text, "Scenarios", "", &self.scenarios());
        section(&mut text, "Goals", GOALS_TEXT, &self.goals());
        section(&mut text, "Processor time, by LIMIT's", RATIOS_TEXT, &self.ratios());
        section(&mut text, "Processor time", PROCESSOR_TEXT, &self.processor());
        section(&mut text, "System calls", CALLS_TEXT, &self.calls());
        section(&mut text, "Rate", RATE_TEXT, &self.rates());
        section(&mut text, "Latency", LATENCY_TEXT, &self.latencies());
        section(&mut text, "A second worker", WORKERS_TEXT, &self.workers());
        section(&mut text, "Idle sessions and streams", MEMORY_TEXT, &self.held());
        text
    }

    fn scenarios(&self) -> Table {
        let mut table = Table::of_words(["scenario", "what is done"]);
        for scenario in &self.plan.scenarios {
            table.row([scenario.name, scenario.about]);
        }
        table
    }

    /// What the gateway was held to, as far as it was measured.
    fn goals(&self) -> Table {
        let mut table = Table::new(["figure", "tidegate", "goal", "stretch", ""]);
        for goal in GOALS {
            let Some(figure) = self.figure(goal.figure) else { continue };
            let shown = spread(figure);
            let [limit, stretch] = [goal.goal, goal.stretch].map(|limit| format!("{limit}"));
            table.row([goal.about, &shown, &limit, &stretch, goal.verdict(figure)]);
        }
        table
    }

    fn figure(&self, figure: Figure) -> Option<Spread> {
        let gateway = Kind::Tidegate;
        match figure {
            Figure::Processor(scenario) => self.by_limit(scenario, gateway, |cell| cell.processor),
            Figure::CallsByLimit(scenario) => {
                self.by_limit(scenario, gateway, |cell| cell.system_calls)
            }
            Figure::Calls(scenario) => self.spread(scenario, gateway, |cell| cell.system_calls),
            Figure::P99(scenario) => self.by_limit(scenario, gateway, |cell| Some(cell.p99_us)),
            Figure::AddedP50(scenario) => {
                let pairs = self.pairs(scenario, gateway, Kind::Limit, |cell| Some(cell.p50_us));
                Spread::of(pairs.map(|(figure, limit)| figure - limit))
            }
            Figure::Loss(scenario) => self.spread(scenario, gateway, |cell| Some(cell.loss)),
            Figure::SessionKib(credit) => one(self.held_by(gateway, credit)?.session_kib?),
            Figure::StreamKib(credit) => one(self.held_by(gateway, credit)?.stream_kib?),
            Figure::Idle => {
                let share = |kind| self.held_by(kind, CREDIT)?.idle_share;
                let beyond = share(gateway)? - share(Kind::Limit)?;
                one(beyond * 100.0 * IDLE_SESSIONS / f64::from(self.plan.sessions))
            }
            Figure::Workers => {
                let pairs =
                    self.pairs("workers", Kind::TwoWorkers, Kind::OneWorker, |cell| cell.processor);
                Spread::of(pairs.map(|(two, one)| two / one))
            }
        }
    }

    fn ratios(&self) -> Table {
        self.table(|scenario, kind| {
            let ratio = self.by_limit(scenario.name, kind, |cell| cell.processor);
            let marks = self.marks(scenario, kind);
            let shown = ratio.map_or_else(|| "-".to_owned(), spread);
            (shown != "-" || !marks.is_empty()).then(|| format!("{shown}{marks}"))
        })
    }

    fn processor(&self) -> Table {
        self.table(|scenario, kind| {
            let low = self.spread(scenario.name, kind, |cell| cell.processor)?.low;
            let unit = if scenario.unit == Unit::Bytes { "s/GiB" } else { "us" };
            Some(format!("{} {unit}", digits(low)))
        })
    }

    fn calls(&self) -> Table {
        self.table(|scenario, kind| {
            let calls = self.spread(scenario.name, kind, |cell| cell.system_calls)?.median;
            let unit = if scenario.unit == Unit::Bytes { "/MiB" } else { "" };
            Some(format!("{}{unit}", digits(calls)))
        })
    }

    fn rates(&self) -> Table {
        self.table(|scenario, kind| {
            let rate = self.spread(scenario.name, kind, |cell| Some(cell.rate))?.median;
            let unit = if scenario.unit == Unit::Bytes { "MiB/s" } else { "/s" };
            let loss = self.spread(scenario.name, kind, |cell| Some(cell.loss))?.median;
            let lost = if loss > 0.0 && scenario.needs == Needs::Datagrams {
                format!(", {:.2} % lost", loss * 100.0)
            } else {
                String::new()
            };
            Some(format!("{rate:.0} {unit}{lost}"))
        })
    }

    fn latencies(&self) -> Table {
        self.table(|scenario, kind| {
            if scenario.unit == Unit::Bytes {
                return None;
            }
            let at =
                |figure: fn(&Cell) -> f64| self.spread(scenario.name, kind, |c| Some(figure(c)));
            let (p50, p99) = (at(|cell| cell.p50_us)?.median, at(|cell| cell.p99_us)?.median);
            Some(format!("{p50:.0} / {p99:.0}"))
        })
    }

    fn workers(&self) -> Table {
        let mut table = Table::new(["", "processor", "rate", "p50 / p99 us"]);
        for kind in Kind::WORKERS {
            let at = |figure: fn(&Cell) -> Option<f64>| self.spread("workers", kind, figure);
            let row = || {
                let processor = format!("{} us", digits(at(|cell| cell.processor)?.low));
                let rate = format!("{:.0} /s", at(|cell| Some(cell.rate))?.median);
                let (p50, p99) = (at(|cell| Some(cell.p50_us))?, at(|cell| Some(cell.p99_us))?);
                let latency = format!("{:.0} / {:.0}", p50.median, p99.median);
                Some([kind.name().to_owned(), processor, rate, latency])
            };
            if let Some(row) = row() {
                table.row(row);
            }
        }
        table
    }

    fn held(&self) -> Table {
        let mut table = Table::new([
            "server",
            "streams allowed",
            "KiB a session",
            "KiB more a stream",
            "idle, %",
        ]);
        for held in &self.memory {
            let credit =
                if held.server.has_datagrams() { held.credit.to_string() } else { "-".to_owned() };
            let shown = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), digits);
            let mark = if held.error.is_some() { " !" } else { "" };
            table.row([
                format!("{}{mark}", held.server),
                credit,
                shown(held.session_kib),
                shown(held.stream_kib),
                shown(held.idle_share.map(|share| share * 100.0)),
            ]);
        }
        table
    }

    /// A row for each scenario and a column for each server.
    fn table(&self, cell: impl Fn(&Scenario, Kind) -> Option<String>) -> Table {
        let names = self.plan.kinds.iter().map(|kind| kind.name());
        let mut table = Table::new(["scenario"].into_iter().chain(names));
        for scenario in &self.plan.scenarios {
            let cells: Vec<_> = self.plan.kinds.iter().map(|kind| cell(scenario, *kind)).collect();
            if cells.iter().any(Option::is_some) {
                let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".to_owned()));
                table.row([scenario.name.to_owned()].into_iter().chain(cells));
            }
        }
        table
    }

    /// Those of a server in a scenario whose figures count.
    fn good(&self, scenario: &str, kind: Kind) -> impl Iterator<Item = &Cell> {
        let cells = self.cells.iter();
        cells.filter(move |cell| {
            (cell.scenario, cell.server) == (scenario, kind) && cell.error.is_none()
        })
    }

    fn spread(
        &self,
        scenario: &str,
        kind: Kind,
        figure: impl Fn(&Cell) -> Option<f64>,
    ) -> Option<Spread> {
        Spread::of(self.good(scenario, kind).filter_map(figure))
    }

    /// A figure of two servers, from each round that has both.
    fn pairs(
        &self,
        scenario: &str,
        kind: Kind,
        other: Kind,
        figure: impl Fn(&Cell) -> Option<f64>,
    ) -> impl Iterator<Item = (f64, f64)> {
        self.good(scenario, kind).filter_map(move |cell| {
            let same = self.good(scenario, other).find(|there| there.round == cell.round)?;
            figure(cell).zip(figure(same))
        })
    }

    fn by_limit(
        &self,
        scenario: &str,
        kind: Kind,
        figure: impl Fn(&Cell) -> Option<f64>,
    ) -> Option<Spread> {
        let pairs = self.pairs(scenario, kind, Kind::Limit, figure);
        Spread::of(pairs.map(|(figure, limit)| figure / limit))
    }

    /// `!`: a window had errors and does not count. `*`: in most windows the load was slower than the server.
    fn marks(&self, scenario: &Scenario, kind: Kind) -> &'static str {
        let all = || {
            let cells = self.cells.iter();
            cells.filter(|cell| (cell.scenario, cell.server) == (scenario.name, kind))
        };
        let failed = all().any(|cell| cell.error.is_some());
        let limited = all().filter(|cell| cell.load_limited).count() * 2 > all().count();
        match (failed, limited) {
            (false, false) => "",
            (true, false) => " !",
            (false, true) => " *",
            (true, true) => " !*",
        }
    }

    fn held_by(&self, kind: Kind, credit: u32) -> Option<&Held> {
        self.memory.iter().find(|held| (held.server, held.credit) == (kind, credit))
    }
}

const GOALS_TEXT: &str =
    "Ratios are to LIMIT in the same round: median [quartiles]. Less is better.";

const RATIOS_TEXT: &str = "Ratio in the same round: median [quartiles]. `!`: windows with errors, which do not count. \
                           `*`: the load was slower than the server in most windows.";

const PROCESSOR_TEXT: &str = "Of the server, for each GiB or operation: lower quartile.";

const CALLS_TEXT: &str =
    "Of the server, for each operation or MiB: median, in windows of their own.";

const RATE_TEXT: &str =
    "Median. Beside each other on two processors, so the load's share is in it.";

const LATENCY_TEXT: &str = "p50 / p99 in microseconds: median of the windows' percentiles.";

const WORKERS_TEXT: &str = "The gateway under `workers`: lower quartile of processor time for each operation, medians of the rest.";

const MEMORY_TEXT: &str = "Resident memory by which a fresh server grows; what all idle sessions together take of a \
                           processor, signs of life included.";

/// A headline, a text, and a table that has rows.
fn section(text: &mut String, head: &str, about: &str, table: &Table) {
    if table.is_empty() {
        return;
    }
    let about = if about.is_empty() { String::new() } else { format!("{about}\n\n") };
    // A string takes everything.
    _ = write!(text, "### {head}\n\n{about}{table}\n");
}

/// A figure that was measured once.
fn one(figure: f64) -> Option<Spread> {
    Spread::of([figure])
}

/// `0.98 [0.95-1.02]`, or without quartiles where there is one figure.
fn spread(spread: Spread) -> String {
    let Spread { low, median, high } = spread;
    if low == high {
        return digits(median);
    }
    format!("{} [{}-{}]", digits(median), digits(low), digits(high))
}

/// Three digits that count.
fn digits(figure: f64) -> String {
    match figure.abs() {
        size if size >= 99.95 => format!("{figure:.0}"),
        size if size >= 9.995 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

#[cfg(test)]
#[allow(
    dead_code,
    unused_imports,
    reason = "tests/benches.rs runs them; this program is built without"
)]
mod tests {
    use std::time::Duration;

    use super::super::scenarios::SCENARIOS;
    use super::*;

    fn cell(server: Kind, round: u32, processor: f64) -> Cell {
        Cell {
            scenario: "rr-64",
            server,
            round,
            system_calls: None,
            processor: Some(processor),
            share: Some(1.0),
            rate: 1000.0,
            p50_us: 10.0,
            p99_us: 20.0,
            loss: 0.0,
            error: None,
            load_limited: false,
        }
    }

    fn report(cells: Vec<Cell>) -> Report {
        let plan = Plan {
            rounds: 3,
            window: Duration::from_millis(600),
            seed: 1,
            kinds: vec![Kind::Limit, Kind::Tidegate],
            scenarios: SCENARIOS.iter().filter(|scenario| scenario.name == "rr-64").collect(),
            sessions: 1000,
            memory: false,
        };
        Report { place: Place { facts: Vec::new() }, plan, cells, memory: Vec::new() }
    }

    /// A slow round is slow for everybody, and ratios of rounds do not see it.
    #[test]
    fn ratios_are_taken_inside_a_round() {
        let mut cells = Vec::new();
        for (round, limit, gateway) in [(1, 10.0, 11.0), (2, 100.0, 100.0), (3, 20.0, 18.0)] {
            cells.push(cell(Kind::Tidegate, round, gateway));
            cells.push(cell(Kind::Limit, round, limit));
        }
        let ratio = report(cells).by_limit("rr-64", Kind::Tidegate, |cell| cell.processor).unwrap();
        let expected = [0.95, 1.0, 1.05];
        for (figure, expected) in [ratio.low, ratio.median, ratio.high].iter().zip(expected) {
            assert!((figure - expected).abs() < 1e-9, "{ratio:?}");
        }
    }

    #[test]
    fn a_window_with_errors_is_marked_and_does_not_count() {
        let mut cells = vec![cell(Kind::Limit, 1, 10.0), cell(Kind::Tidegate, 1, 10.0)];
        for round in [2, 3] {
            let limited = Cell { load_limited: true, ..cell(Kind::Tidegate, round, 30.0) };
            cells.push(cell(Kind::Limit, round, 10.0));
            cells.push(Cell { error: Some("a stream was cut".to_owned()), ..limited });
        }
        let report = report(cells);
        let row = report.ratios().to_string();
        assert!(row.ends_with("| rr-64    |  1.00 |  1.00 !* |\n"), "{row}");
        let goals = report.goals().to_string();
        assert!(goals.contains("| round trips of 64 B, processor |     1.00 | 1.08 |"), "{goals}");
        assert!(report.to_json().unwrap().contains("a stream was cut"));
    }

    #[test]
    fn figures_have_the_digits_that_count() {
        for (figure, shown) in
            [(0.0, "0.00"), (1.054, "1.05"), (-1.0, "-1.00"), (42.37, "42.4"), (361.4, "361")]
        {
            assert_eq!(digits(figure), shown);
        }
    }
}
