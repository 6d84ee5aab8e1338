//! Log lines on their way out: a bounded queue, and one thread that writes.
//!
//! Whoever logs never waits for who reads the log. Lines that find the queue full are dropped, are counted, and
//! are told of in their place once it goes on. Where nobody will ever read, because the pipe was closed, all are
//! dropped.

use std::{
    io::{self, ErrorKind, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tidegate::metrics::Counter;
use tracing_subscriber::fmt::MakeWriter;

/// So many bytes wait at most; as many may be in the writer's hands. Some twenty thousand lines: what everything
/// together logs in the moment until the writer's turn comes, with traces on.
const MOST_BYTES: usize = 4 << 20;

/// How much memory the writer keeps for the next lines.
const KEPT_BYTES: usize = 64 << 10;

/// How soon a writer is asked again that was not ready: stderr may be shared with somebody who has made it
/// non-blocking.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// How long what comes right behind a line is waited for: waking the writer for each costs more than writing it.
const GATHER_TIME: Duration = Duration::from_millis(5);

/// Where lines wait. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<Lines>,
    /// A line has come, and the writer sleeps.
    more: Condvar,
    /// All is written.
    empty: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    waiting: Vec<u8>,
    /// Whether the writer is awake, and looks again by itself.
    is_awake: bool,
    /// Lines that were dropped behind those that wait.
    dropped: u64,
    counted: Counted,
}

/// Lines that were dropped in all.
#[derive(Debug)]
enum Counted {
    /// Nobody shows them yet.
    Here(u64),
    Shown(Counter),
}

impl Default for Counted {
    fn default() -> Self {
        Self::Here(0)
    }
}

impl Counted {
    fn add(&mut self, lines: u64) {
        match self {
            Self::Here(dropped) => *dropped += lines,
            Self::Shown(counter) => counter.inc_by(lines),
        }
    }
}

impl Queue {
    /// A queue, and the thread that empties it into `to` until the process ends. With `tell` it says how many
    /// lines are missing at this place; what that logs is the next line.
    pub(super) fn start(
        to: impl Write + Send + 'static,
        tell: impl Fn(&Self, u64) + Send + 'static,
    ) -> io::Result<Self> {
        let queue = Self::default();
        let writer = queue.clone();
        let write = move || writer.empty(to, tell);
        thread::Builder::new().name("tidegate-log".to_owned()).spawn(write)?;
        Ok(queue)
    }

    /// Counts the lines that are dropped with this, those that were dropped already too.
    pub(super) fn count_with(&self, counter: Counter) {
        let mut lines = self.lines();
        if let Counted::Here(dropped) = lines.counted {
            counter.inc_by(dropped);
        }
        lines.counted = Counted::Shown(counter);
    }

    /// Waits until everything is written, but not for longer than this. Whether it is.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let is_busy = |lines: &mut Lines| lines.is_awake || !lines.waiting.is_empty();
        let waited = self.0.empty.wait_timeout_while(self.lines(), patience, is_busy);
        let (_lines, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    fn push(&self, line: &[u8]) {
        let mut lines = self.lines();
        if lines.waiting.len() + line.len() > MOST_BYTES {
            lines.dropped += 1;
            lines.counted.add(1);
            return;
        }
        lines.waiting.extend_from_slice(line);
        // A writer that is busy looks again by itself, and waking somebody is a system call.
        if !lines.is_awake {
            self.0.more.notify_one();
        }
    }

    /// Writes for ever.
    fn empty(&self, mut to: impl Write, tell: impl Fn(&Self, u64)) {
        let mut batch = Vec::new();
        loop {
            let dropped = self.next(&mut batch);
            if dropped > 0 {
                // Behind what was taken and before what comes: in the place of the lines that are missing.
                tell(self, dropped);
            }
            if let Err(rest) = write(&mut to, &batch) {
                let lines = rest.split_inclusive(|byte| *byte == b'\n').count();
                self.lines().counted.add(lines as u64);
            }
            batch.clear();
            batch.shrink_to(KEPT_BYTES);
        }
    }

    /// Waits for lines and takes all. Yields how many are missing behind them.
    fn next(&self, batch: &mut Vec<u8>) -> u64 {
        let mut lines = self.lines();
        lines.is_awake = false;
        if lines.waiting.is_empty() {
            self.0.empty.notify_all();
        }
        let is_idle = |lines: &mut Lines| lines.waiting.is_empty();
        let waited = self.0.more.wait_while(lines, is_idle);
        let mut lines = waited.unwrap_or_else(PoisonError::into_inner);
        lines.is_awake = true;
        drop(lines);
        thread::sleep(GATHER_TIME);
        let mut lines = self.lines();
        mem::swap(batch, &mut lines.waiting);
        mem::take(&mut lines.dropped)
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        // Nothing that could panic half-way happens under the lock.
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes everything, or yields what could not be written: nobody is there to be told why.
fn write<'a>(to: &mut impl Write, mut bytes: &'a [u8]) -> Result<(), &'a [u8]> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(bytes),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_INTERVAL),
            Err(_closed) => return Err(bytes),
        }
    }
    Ok(())
}

/// Each call is one line.
impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tidegate::metrics::Metrics;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Takes what is written only when it is told to: each permit lets one write through.
    struct Slow {
        permits: mpsc::Receiver<io::Result<()>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // With nobody left to permit anything, everything goes.
            self.permits.recv().unwrap_or(Ok(()))?;
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Reader {
        permit: mpsc::Sender<io::Result<()>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    fn text(written: &Mutex<Vec<u8>>) -> String {
        String::from_utf8(written.lock().unwrap().clone()).unwrap()
    }

    /// What is dropped is told as `(so many)`.
    fn slow() -> (Queue, Reader) {
        let ((permit, permits), written) = (mpsc::channel(), Arc::default());
        let tell = |queue: &Queue, dropped| say(queue, &format!("({dropped})\n"));
        let queue = Queue::start(Slow { permits, written: Arc::clone(&written) }, tell).unwrap();
        (queue, Reader { permit, written })
    }

    fn say(mut queue: &Queue, line: &str) {
        queue.write_all(line.as_bytes()).unwrap();
    }

    #[test]
    fn lines_are_written_in_their_order_and_a_flush_waits_for_them() {
        let (queue, Reader { permit, written }) = slow();
        let lines: Vec<_> = (0..10_000).map(|line| format!("{line}\n")).collect();
        let (first, others) = lines.split_first().unwrap();
        say(&queue, first);
        assert!(!queue.flush(Duration::from_millis(1)), "nobody has read");
        others.iter().for_each(|line| say(&queue, line));
        drop(permit);
        assert!(queue.flush(LONG));
        assert_eq!(text(&written), lines.concat());
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read_and_what_is_dropped_is_told_in_its_place() {
        let (queue, Reader { permit, written }) = slow();
        say(&queue, "first\n");
        while !queue.lines().waiting.is_empty() {
            thread::yield_now();
        }
        let (line, most) = ("x".repeat(1023) + "\n", MOST_BYTES / 1024);
        (0..most + 7).for_each(|_| say(&queue, &line));
        let shown = Metrics::new().log_lines_dropped();
        queue.count_with(shown.clone());
        assert_eq!(shown.get(), 7);
        say(&queue, &line);
        assert_eq!(shown.get(), 8);

        drop(permit);
        assert!(queue.flush(LONG));
        say(&queue, "later\n");
        assert!(queue.flush(LONG));
        let written = text(&written);
        assert!(written == format!("first\n{}(8)\nlater\n", line.repeat(most)));
        assert_eq!(shown.get(), 8);
    }

    #[test]
    fn a_closed_pipe_drops_lines_and_holds_up_nobody() {
        let (queue, Reader { permit, written }) = slow();
        let shown = Metrics::new().log_lines_dropped();
        queue.count_with(shown.clone());
        permit.send(Err(ErrorKind::BrokenPipe.into())).unwrap();
        say(&queue, "one\n");
        assert!(queue.flush(LONG));
        assert_eq!((text(&written).as_str(), shown.get()), ("", 1));
        // What comes later may be read again, and is written once it can be.
        for kind in [ErrorKind::WouldBlock, ErrorKind::Interrupted] {
            permit.send(Err(kind.into())).unwrap();
        }
        permit.send(Ok(())).unwrap();
        say(&queue, "two\n");
        assert!(queue.flush(LONG));
        assert_eq!((text(&written).as_str(), shown.get()), ("two\n", 1));
    }
}
