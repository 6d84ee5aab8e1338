//! What requests and sessions tell their connection's task.
//!
//! A few notes in a session's life, none per stream or datagram, so a mutex is as good as a channel; and
//! it can be told something from a `drop`. Bounded: a request stream leaves three notes at most, and
//! QUIC's stream credit bounds those.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::{flow::Flow, registry::Events};

/// Something that the connection's task must know.
pub(crate) enum Note {
    /// The session was accepted; this is what takes its streams and datagrams, and its account.
    Accepted(u64, Events, Arc<Flow>),
    /// The session has ended: its streams are gone.
    Ended(u64),
    /// The request stream is done with; a session on it has ended.
    Done(u64),
}

/// Notes that wait for the connection's task.
#[derive(Default)]
pub(crate) struct Mailbox {
    notes: Mutex<Vec<Note>>,
    arrived: Notify,
}

impl Mailbox {
    pub(crate) fn post(&self, note: Note) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
        self.arrived.notify_one();
    }

    /// Waits for notes and takes them all. Cancel-safe.
    pub(crate) async fn take(&self) -> Vec<Note> {
        loop {
            let notes =
                std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner));
            if !notes.is_empty() {
                return notes;
            }
            self.arrived.notified().await;
        }
    }
}
