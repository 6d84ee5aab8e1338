//! The live line: how far a run is, on a terminal only; of several loads one for each.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    report::human_bytes,
    tally::{Counter, Counters, sum},
};

/// Time between two drawings.
pub(crate) const INTERVAL: Duration = Duration::from_millis(200);

/// Clears the rest of the line, and all below (ECMA-48 EL and ED).
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Cuts lines at the terminal's edge instead of going on below, and no more (DECAWM).
const CUT: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// The lines on standard error, one for each load that runs.
#[derive(Debug)]
pub(crate) struct Board(Mutex<Vec<String>>);

impl Board {
    pub(crate) fn new(loads: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![String::new(); loads])))
    }

    /// Changes a line, and draws all of them where they were.
    fn show(&self, place: usize, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shown) = lines.get_mut(place) {
            *shown = line;
        }
        // A terminal that has gone away takes the lines with it, and not the run.
        _ = io::stderr().write_all(frame(&lines).as_bytes());
    }

    /// Takes the lines away.
    pub(crate) fn clear(&self) {
        // As above.
        _ = write!(io::stderr(), "\r{CLEAR_BELOW}");
    }
}

/// Leaves the cursor in the first of the lines.
fn frame(lines: &[String]) -> String {
    let drawn: Vec<String> = lines.iter().map(|line| format!("\r{CLEAR_LINE}{line}")).collect();
    let back = match lines.len() {
        0 | 1 => String::new(),
        several => format!("\x1b[{}A", several - 1),
    };
    format!("{CUT}{}{WRAP}{back}", drawn.join("\n"))
}

/// The line of one load.
#[derive(Debug)]
pub(crate) struct Live {
    board: Arc<Board>,
    place: usize,
    /// Stands in front, where there are several.
    name: String,
    goal: Goal,
    begun: Instant,
    /// When it was drawn last, and what had been done by then.
    last: (Instant, u64, u64),
}

/// What the line counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// So many sessions, each of so many streams and datagrams.
    Echo { sessions: u32, streams: u32, datagrams: u32 },
    /// Operations that go on.
    Operations,
}

impl Live {
    /// A line that begins now, alone.
    pub(crate) fn new(goal: Goal) -> Self {
        Self::beside(&Board::new(1), (0, ""), goal)
    }

    /// A line at its place on a board, with its name.
    pub(crate) fn beside(board: &Arc<Board>, (place, name): (usize, &str), goal: Goal) -> Self {
        let name = if name.is_empty() { String::new() } else { format!("{name}: ") };
        let now = Instant::now();
        Self { board: Arc::clone(board), place, name, goal, begun: now, last: (now, 0, 0) }
    }

    /// Draws the line anew.
    pub(crate) fn draw(&mut self, workers: &[Arc<Counters>]) {
        let line = self.line(workers, Instant::now());
        self.board.show(self.place, line);
    }

    /// Takes the line away, and those beside it until they are drawn again.
    pub(crate) fn clear(self) {
        self.board.clear();
    }

    fn line(&mut self, workers: &[Arc<Counters>], now: Instant) -> String {
        let get = |counter: fn(&Counters) -> &Counter| sum(workers, counter);
        let seconds = (now - self.begun).as_secs_f64();
        let (name, errors) = (&self.name, get(|c| &c.failures));
        let (then, operations_then, bytes_then) = self.last;
        match self.goal {
            Goal::Echo { sessions, streams, datagrams } => {
                let bytes = get(|c| &c.bytes_checked);
                self.last = (now, 0, bytes);
                let all = |each: u32| u64::from(sessions) * u64::from(each);
                format!(
                    "{name}{seconds:.1}s  sessions {}/{sessions}  streams {}/{}  datagrams {}/{}  {}  {}/s  \
                     errors {errors}",
                    get(|c| &c.sessions_completed),
                    get(|c| &c.streams_completed),
                    all(streams),
                    get(|c| &c.datagrams_returned),
                    all(datagrams),
                    human_bytes(bytes as f64),
                    human_bytes(per_second(bytes - bytes_then, now - then)),
                )
            }
            Goal::Operations => {
                let (operations, bytes) = (get(|c| &c.operations), get(|c| &c.operation_bytes));
                self.last = (now, operations, bytes);
                format!(
                    "{name}{seconds:.1}s  connections {}  operations {operations}  {:.0}/s  {}/s  errors {errors}",
                    get(|c| &c.connections),
                    per_second(operations - operations_then, now - then),
                    human_bytes(per_second(bytes - bytes_then, now - then)),
                )
            }
        }
    }
}

/// A rate; nothing per second if no time has passed.
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_pace_says_how_fast_it_is_now() {
        let mut live = Live::beside(&Board::new(2), (1, "lobby"), Goal::Operations);
        let workers: [Arc<Counters>; 2] = Default::default();
        workers[0].connections.add(4);
        workers[1].operations.add(100);
        live.line(&workers, live.begun + Duration::from_secs(1));
        workers[0].operations.add(50);
        workers[0].operation_bytes.add(4096);
        workers[1].failures.inc();

        assert_eq!(
            live.line(&workers, live.begun + Duration::from_secs(3)),
            "lobby: 3.0s  connections 4  operations 150  25/s  2.0 KiB/s  errors 1"
        );
    }

    #[test]
    fn the_line_says_how_far_it_is_and_how_fast_now() {
        let mut live = Live::new(Goal::Echo { sessions: 10, streams: 2, datagrams: 3 });
        let (a, b): (Arc<Counters>, Arc<Counters>) = Default::default();
        a.sessions_completed.add(4);
        b.streams_completed.add(9);
        b.datagrams_returned.add(12);
        a.bytes_checked.add(1024);
        let workers = [a, b];
        let begun = live.begun;
        live.line(&workers, begun + Duration::from_secs(1));
        workers[1].bytes_checked.add(2048);
        workers[1].failures.inc();

        assert_eq!(
            live.line(&workers, begun + Duration::from_secs(2)),
            "2.0s  sessions 4/10  streams 9/20  datagrams 12/30  3.0 KiB  2.0 KiB/s  errors 1"
        );
    }

    #[test]
    fn the_lines_stand_below_each_other_and_stay_where_they_are() {
        let one = frame(&["a".to_owned()]);
        assert_eq!(one, "\x1b[?7l\r\x1b[Ka\x1b[?7h");
        let two = frame(&["a".to_owned(), "b".to_owned()]);
        assert_eq!(two, "\x1b[?7l\r\x1b[Ka\n\r\x1b[Kb\x1b[?7h\x1b[1A");
    }
}
