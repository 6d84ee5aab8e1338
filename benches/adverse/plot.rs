//! Bars as SVG, for pages that are light and pages that are dark.
//!
//! By hand, as the style follows the reader's colours (`prefers-color-scheme`), which no plotting crate
//! writes, and as bars with their figures above them are all that is needed.

use std::fmt::Write;

use crate::results::Figures;

/// What stands around the bars.
pub(crate) struct Labels<'a> {
    pub(crate) title: &'a str,
    /// What the bars' height is, with its unit.
    pub(crate) axis: &'a str,
    /// Each step up is ten times as much, from 1.
    pub(crate) logarithmic: bool,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 34.0;

/// To be told apart with any colour vision, and on white as on black.
const COLOURS: [&str; 6] = ["#2f7ebc", "#e08214", "#2a9d6f", "#9b6fc4", "#c9534f", "#8a8a8a"];

const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1f2328}.t{font-size:15px;font-weight:600}\
    .v{font-size:10px;text-anchor:middle}.p{text-anchor:middle}.a{text-anchor:end}line{stroke:#8884}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}}";

/// A group of bars for each path, and in it a bar for each whom.
pub(crate) fn bars(labels: &Labels<'_>, figures: &Figures<'_>) -> String {
    let values = figures
        .paths
        .iter()
        .flat_map(|path| figures.who.iter().filter_map(|who| figures.value(path, who)));
    let scale = Scale::for_values(values.fold(0.0, f64::max), labels.logarithmic);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\
         <title>{title}</title><style>{STYLE}</style>\n\
         <text class=\"t\" x=\"8\" y=\"22\">{title}</text><text x=\"8\" y=\"{above}\">{axis}</text>\n",
        title = labels.title,
        axis = labels.axis,
        above = TOP - 12.0,
    );
    legend(&mut svg, &figures.who);
    for mark in scale.marks() {
        let y = scale.y(mark);
        // A string takes everything, here and below.
        _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"a\" x=\"{x}\" y=\"{below:.1}\">{mark}</text>",
            x = LEFT - 6.0,
            below = y + 4.0
        );
    }
    let group = (WIDTH - LEFT) / figures.paths.len().max(1) as f64;
    let bar = group * 0.84 / figures.who.len().max(1) as f64;
    for (nth, path) in figures.paths.iter().enumerate() {
        let left = LEFT + group * (nth as f64 + 0.08);
        let middle = LEFT + group * (nth as f64 + 0.5);
        _ = writeln!(
            svg,
            "<text class=\"p\" x=\"{middle:.1}\" y=\"{:.1}\">{path}</text>",
            HEIGHT - 12.0
        );
        for (column, (who, colour)) in figures.who.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let Some(value) = figures.value(path, who) else { continue };
            let (x, y) = (left + bar * column as f64, scale.y(value));
            _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\">\
                 <title>{path}, {who}: {value}</title></rect>\
                 <text class=\"v\" x=\"{centre:.1}\" y=\"{above:.1}\">{short}</text>",
                width = bar * 0.92,
                height = HEIGHT - BOTTOM - y,
                centre = x + bar * 0.46,
                above = y - 3.0,
                short = short(value),
            );
        }
    }
    svg + "</svg>\n"
}

/// One square and one name for each whom, in a row.
fn legend(svg: &mut String, who: &[&str]) {
    let mut x = LEFT;
    for (who, colour) in who.iter().zip(COLOURS.iter().cycle()) {
        _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"31\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
             <text x=\"{text:.1}\" y=\"40\">{who}</text>",
            text = x + 14.0
        );
        // Letters of 12 px are some 6.6 px wide.
        x += 32.0 + 6.6 * who.chars().count() as f64;
    }
}

/// Two digits are what such measurements are good for.
fn short(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// Values to heights.
struct Scale {
    top: f64,
    step: f64,
    logarithmic: bool,
}

impl Scale {
    fn for_values(largest: f64, logarithmic: bool) -> Self {
        if logarithmic {
            return Self {
                top: 10_f64.powf(largest.max(10.0).log10().ceil()),
                step: 10.0,
                logarithmic,
            };
        }
        // 1, 2 or 5 times a power of ten, so that there are four to ten steps.
        let largest = largest.max(0.1) * 1.05;
        let power = 10_f64.powf((largest / 4.0).log10().floor());
        let step =
            power * [5.0, 2.0, 1.0].into_iter().find(|n| n * power * 4.0 <= largest).unwrap_or(1.0);
        Self { top: (largest / step).ceil() * step, step, logarithmic }
    }

    fn y(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            value.max(1.0).log10() / self.top.log10()
        } else {
            value / self.top
        };
        HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
    }

    fn marks(&self) -> Vec<f64> {
        let next = |mark: &f64| {
            let next = if self.logarithmic { mark * self.step } else { mark + self.step };
            (next <= self.top * 1.001).then_some(next)
        };
        let first = if self.logarithmic { 1.0 } else { 0.0 };
        std::iter::successors(Some(first), next).collect()
    }
}
