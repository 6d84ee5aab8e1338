//! Panics, as lines of the log.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    panic::{self, PanicHookInfo},
    thread,
    time::Duration,
};

use tracing::error;

use super::queue::Queue;

/// How long who panics waits until the log is written: perhaps nothing comes after it. A worker may go on, so it
/// is not held up for long where nobody reads.
const PATIENCE: Duration = Duration::from_millis(100);

/// Lets each panic be a line. The library's own way would write to stderr itself, and wait for who reads it.
pub(super) fn log(queue: Queue) {
    panic::set_hook(Box::new(move |panic| {
        let thread = thread::current();
        let (thread, at) = (thread.name(), panic.location().map(tracing::field::display));
        // As RUST_BACKTRACE says.
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
        let backtrace = backtrace.as_ref().map(tracing::field::display);
        error!(thread, at, why = message(panic), backtrace, "A thread panicked.");
        queue.flush(PATIENCE);
    }));
}

fn message<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref().map(String::as_str)).unwrap_or("it does not say")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Takes everything at once.
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_a_line_with_its_place_and_its_words() {
        let kept = Arc::default();
        let queue = Queue::start(Kept(Arc::clone(&kept)), |_, _| {}).unwrap();
        let subscriber = tracing_subscriber::fmt().json().flatten_event(true);
        let subscriber = subscriber.with_writer(queue.clone()).finish();
        let before = panic::take_hook();
        log(queue);
        tracing::subscriber::with_default(subscriber, || {
            _ = panic::catch_unwind(|| panic!("one"));
            _ = panic::catch_unwind(|| panic!("{}", 2));
            _ = panic::catch_unwind(|| panic::panic_any(3));
        });
        panic::set_hook(before);

        // Each was written before its panic went on.
        let text = String::from_utf8(kept.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let why: Vec<_> = lines.iter().map(|line| line["why"].as_str().unwrap()).collect();
        assert_eq!(why, ["one", "2", "it does not say"]);
        for line in &lines {
            assert_eq!(
                (&line["level"], &line["message"]),
                (&"ERROR".into(), &"A thread panicked.".into())
            );
            assert!(line["at"].as_str().unwrap().starts_with("src/cli/logging/panics.rs:"));
        }
    }
}
