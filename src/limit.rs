//! Limits that more than one room obeys: how often, and how much for one client address.
//!
//! [`Bucket`] holds something to a [`Rate`](crate::config::Rate). [`Clients`] knows what each client
//! address has open and how fast it came: the edge asks before it lets a connection in, the session room
//! before it accepts a session. Both decide with the clock that they are given; what waits or refuses is
//! the caller's.
//!
//! What always holds: an address is remembered only while it has something open or its bucket is not
//! full again, but for what one sweep leaves behind; and nothing here is asked per packet or byte.

mod address;
mod bucket;
mod clients;

pub use self::{
    bucket::Bucket,
    clients::{Clients, Place, TooMuch},
};
