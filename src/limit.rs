//! Limits that more than one room obeys: how often, and how much for one client address.
//!
//! [`Bucket`] holds something to a [`Rate`](crate::config::Rate), and so does [`Meter`] what many share on the
//! data path. [`Clients`] knows what each client address has open and how fast it came: the edge asks before it
//! lets a connection in, the session room before it looks at what a request shows and before it accepts a session, and both ask [`Memory`] whether there is
//! any for more. All decide with the clock that they are given; what waits or refuses is the caller's.
//!
//! What always holds: an address is remembered only while it has something open or its bucket is not
//! full again, but for what one sweep leaves behind; and nothing but a meter is asked per datagram or chunk, and
//! that only where there is such a limit.

mod address;
mod bucket;
mod clients;
mod memory;
mod meter;

pub use self::{
    bucket::Bucket,
    clients::{Clients, Place},
    memory::{Linux, Memory, System},
    meter::Meter,
};
