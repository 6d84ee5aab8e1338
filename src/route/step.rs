//! The decisions on a request, for those who want to see each of them.

use super::Route;
use crate::{
    config::{self, PathError},
    credential::Identity,
    reason::Refusal,
};

/// One decision, told when it is made. The first that is an error is the last.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// The path's segments, in the form in which paths are compared.
    Path(Result<&'a [String], PathError>),
    /// The host, in the form in which hosts are compared.
    Host(Result<&'a str, Refusal>),
    /// The route that host and path lead to.
    Route(Result<&'a Route, Refusal>),
    /// Whether the route lets the request's origin in.
    Origin(Result<(), Refusal>),
    /// Who the client is, where the route asks; with what it has shown kept out of it.
    Credential(Result<Option<&'a Identity>, Refusal>),
    /// The application protocol, if client and route have one in common.
    Protocol(Result<Option<&'a str>, Refusal>),
    /// The backend, which the path may choose.
    Backend(Result<&'a config::Backend, Refusal>),
}
