//! What is thrown at everything that reads foreign bytes: one function for each fuzz target.
//!
//! Each takes any bytes, gives them to a parser as the network or a file would, and holds what comes out
//! to what must always be true: cut in another way it is the same, what is written is read back, no
//! length that somebody declares makes the gateway hold more than it may, every fault has a code of the
//! list. A panic is a finding. `fuzz/` runs the targets with libFuzzer; the tests here run them with
//! proptest, and with every seed of `fuzz/seeds`.
//!
//! No part of the library: there only in tests, and with `--cfg fuzzing`, which cargo-fuzz sets.

#![allow(clippy::missing_panics_doc, reason = "a panic is a finding")]

mod capsules;
mod config;
#[allow(clippy::disallowed_types, reason = "looks at what h3 makes of a request")]
mod connect_request;
mod field_section;
mod guard;
mod heads;
mod settings;

#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use self::{
    capsules::capsules,
    config::config,
    connect_request::connect_request,
    field_section::field_section,
    guard::guard,
    heads::{datagram_header, stream_header},
    settings::settings,
};

/// Most bytes of a field section in the targets: small, so that a fuzzer finds the limit.
const MOST_SECTION_BYTES: u64 = 1024;

/// Cuts bytes into pieces of at most `seed` bytes, or of one byte; one seed always cuts in one way.
fn pieces(bytes: &[u8], seed: u8) -> Vec<Bytes> {
    let (mut pieces, mut left, mut state) = (Vec::new(), bytes, u32::from(seed));
    while !left.is_empty() {
        // The usual numbers of a linear congruential generator; its upper bits are the better ones.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let length = 1 + (state >> 16) as usize % usize::from(seed.max(1));
        let (piece, rest) = left.split_at(length.min(left.len()));
        pieces.push(Bytes::copy_from_slice(piece));
        left = rest;
    }
    pieces
}

/// All of it in one piece.
fn whole(bytes: &[u8]) -> Vec<Bytes> {
    vec![Bytes::copy_from_slice(bytes)]
}
