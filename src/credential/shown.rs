//! What token a request shows, and what is left of its query without one.

use std::borrow::Cow;

use super::percent::decoded;
use crate::transport::RequestHead;

/// Longer ones are refused unread. Tokens with a picture in them are no good idea.
const MOST_TOKEN_BYTES: usize = 8 * 1024;

/// The token of a request. No `Debug`: it is never to be shown.
pub(super) enum Shown<'a> {
    /// None.
    Nothing,
    /// This one.
    Token(Cow<'a, str>),
    /// Something that cannot be one, or two at once: nobody could say which of them counts.
    Unusable,
}

impl<'a> Shown<'a> {
    /// As `Authorization: Bearer TOKEN` (RFC 6750 section 2.1) or, where the name of one is given, as a query
    /// parameter (section 2.3): a browser's `new WebTransport(url)` has no way to set headers.
    pub(super) fn of(head: &'a RequestHead, parameter: Option<&str>) -> Self {
        let from_header =
            head.authorization.expose().and_then(bearer).map(|token| Some(token.into()));
        let query = head.query.as_deref().unwrap_or_default();
        let from_query = parameter.into_iter().flat_map(|name| {
            let values = pairs(query).filter(move |(found, _)| is_name(found, name));
            values.map(|(_, value)| text(value))
        });
        // An empty one is what a page sends that has none.
        let is_there = |token: &Option<Cow<'_, str>>| token.as_deref() != Some("");
        let mut all = from_header.into_iter().chain(from_query).filter(is_there);
        match (all.next(), all.next()) {
            (None, _) => Self::Nothing,
            (Some(Some(token)), None) if token.len() <= MOST_TOKEN_BYTES => Self::Token(token),
            (Some(_), _) => Self::Unusable,
        }
    }
}

/// What stands behind `Bearer`, in any case (RFC 9110 section 11.1).
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ').unwrap_or((authorization, ""));
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
}

/// A query without the parameters of these names; `None` where nothing is left.
pub(super) fn without(query: &str, names: &[&str]) -> Option<String> {
    let is_token = |pair: &&str| {
        let (found, _) = pair.split_once('=').unwrap_or((pair, ""));
        names.iter().any(|name| is_name(found, name))
    };
    let left: Vec<_> = query.split('&').filter(|pair| !is_token(pair)).collect();
    Some(left.join("&")).filter(|left| !left.is_empty())
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Whether a parameter has this name: `%74oken` is `token`, too, or a token could slip past who takes it away.
fn is_name(found: &str, name: &str) -> bool {
    decoded(found).is_some_and(|found| *found == *name.as_bytes())
}

fn text(value: &str) -> Option<Cow<'_, str>> {
    match decoded(value)? {
        Cow::Borrowed(_) => Some(value.into()),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The token of a request with these; `Err` if it has none that can be used, with whether it has any.
    fn shown(
        authorization: Option<&str>,
        query: Option<&str>,
        name: Option<&str>,
    ) -> Result<String, bool> {
        let head = RequestHead {
            authorization: authorization.map(str::to_owned).into(),
            query: query.map(str::to_owned),
            ..RequestHead::for_tests()
        };
        match Shown::of(&head, name) {
            Shown::Token(token) => Ok(token.into_owned()),
            Shown::Nothing => Err(false),
            Shown::Unusable => Err(true),
        }
    }

    #[test]
    fn a_token_is_taken_from_the_header_or_from_the_parameter() {
        let long = "x".repeat(MOST_TOKEN_BYTES);
        let too_long = format!("{long}x");
        let bearer_long = format!("Bearer {long}");
        let bearer_too_long = format!("Bearer {too_long}");
        let query_too_long = format!("t={too_long}");
        for (header, query, name, wanted) in [
            (Some("Bearer abc"), None, None, Ok("abc")),
            (Some("bEARER  abc "), None, None, Ok("abc")),
            (Some(&*bearer_long), None, None, Ok(&*long)),
            (Some(&*bearer_too_long), None, None, Err(true)),
            (Some("Bearer"), None, None, Err(false)),
            (Some("Bearer "), None, None, Err(false)),
            (Some("Bearerabc"), None, None, Err(false)),
            (Some("Basic abc"), None, None, Err(false)),
            (Some("Basic abc"), Some("t=abc"), Some("t"), Ok("abc")),
            (None, None, Some("t"), Err(false)),
            (None, Some("t=abc"), None, Err(false)),
            (None, Some("a=1&t=abc&b"), Some("t"), Ok("abc")),
            (None, Some("%74=a%62c"), Some("t"), Ok("abc")),
            (None, Some("t=a+b/c="), Some("t"), Ok("a+b/c=")),
            (None, Some("tt=abc&T=abc"), Some("t"), Err(false)),
            (None, Some("t="), Some("t"), Err(false)),
            (None, Some("t"), Some("t"), Err(false)),
            (None, Some("t=%zz"), Some("t"), Err(true)),
            (None, Some("t=%ff"), Some("t"), Err(true)),
            (None, Some("t=a&t=b"), Some("t"), Err(true)),
            (None, Some("t=a&%74=a"), Some("t"), Err(true)),
            (None, Some(&*query_too_long), Some("t"), Err(true)),
            (Some("Bearer abc"), Some("t=abc"), Some("t"), Err(true)),
            (Some("Bearer abc"), Some("t="), Some("t"), Ok("abc")),
        ] {
            let found = shown(header, query, name);
            assert_eq!(found.as_deref(), wanted.as_ref().copied(), "{header:?} {query:?} {name:?}");
        }
    }

    #[test]
    fn nothing_of_a_token_is_left_in_the_query() {
        for (query, wanted) in [
            ("t=secret", None),
            ("a=1&t=secret&b=2", Some("a=1&b=2")),
            ("%74=secret&a", Some("a")),
            ("t&t=&t=secret", None),
            ("u=secret&a=1", Some("a=1")),
            ("T=1&tt=2", Some("T=1&tt=2")),
            ("a=1", Some("a=1")),
            ("", None),
        ] {
            assert_eq!(without(query, &["t", "u"]).as_deref(), wanted, "{query}");
        }
        assert_eq!(without("t=1", &[]).as_deref(), Some("t=1"));
    }

    proptest! {
        /// Whatever could be taken for a token is also taken away.
        #[test]
        fn what_is_left_shows_no_token(query in "([t%]|74|=|&|a){0,12}") {
            let left = without(&query, &["t"]);
            prop_assert_eq!(shown(None, left.as_deref(), Some("t")), Err(false));
        }
    }
}
