//! Whole sessions: a client in memory on one side, real TCP and UDP servers on the other.

mod datagrams;
mod deadlines;
mod endings;
mod fairness;
mod ledger;
mod legs;
mod life;
mod per_session;
mod push;
mod rates;
mod registry;
mod reload;
mod shown;
mod streams;
mod support;
