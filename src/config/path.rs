//! Route paths: literal segments, `{capture}` and a last `{rest...}`.

/// A path pattern.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RoutePath {
    /// What stands between the slashes.
    pub segments: Vec<Segment>,
}

/// What may stand between two slashes of a path pattern.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Segment {
    /// Exactly this.
    Literal(String),
    /// Any one segment that is not empty, known by this name.
    Capture(String),
    /// All that follows, known by this name; only at the end.
    Rest(String),
}
