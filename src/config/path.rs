//! Paths: patterns of literal segments, `{capture}` and a last `{rest...}`, and the one form in which
//! a pattern and a request's path are compared.
//!
//! That form is the path as sent, with one change: percent-encoded unreserved characters are decoded
//! and other escapes are written in upper case (RFC 3986 section 6.2.2.2). What two programs could
//! read as two different paths is refused and never repaired: dot segments, empty segments,
//! backslashes, slashes and backslashes in disguise, control characters, broken escapes, and escapes that
//! are no UTF-8, among them the overlong ones that careless readers take for dots and slashes. Nothing is
//! decoded twice: `%252e` is a percent sign and two characters. A slash at
//! the end means something: `/game/` has a last, empty segment, and `/game` has not.

use std::fmt;

/// A path pattern.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RoutePath {
    /// What stands between the slashes.
    pub segments: Vec<Segment>,
}

/// What may stand between two slashes of a path pattern.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Segment {
    /// Exactly this; empty only at the end, where the pattern ends with a slash.
    Literal(String),
    /// Any one segment that is not empty, known by this name.
    Capture(String),
    /// All that follows, known by this name; only at the end. It begins with a segment that is not
    /// empty: `/files/{rest...}` takes neither `/files` nor `/files/`.
    Rest(String),
}

impl RoutePath {
    /// Reads a pattern such as `/game/{room}`.
    ///
    /// # Errors
    /// What keeps the text from being a pattern.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let parts = text.strip_prefix('/').ok_or(PathError::NoSlash)?.split('/');
        let segments: Vec<_> = parts.map(Segment::parse).collect::<Result<_, _>>()?;
        let (_, inner) = segments.split_last().ok_or(PathError::EmptySegment)?;
        if inner.contains(&Segment::Literal(String::new())) {
            return Err(PathError::EmptySegment);
        }
        if inner.iter().any(|segment| matches!(segment, Segment::Rest(_))) {
            return Err(PathError::RestNotLast);
        }
        let names: Vec<_> = segments.iter().filter_map(Segment::name).collect();
        if names.iter().enumerate().any(|(at, name)| names.iter().take(at).any(|n| n == name)) {
            return Err(PathError::NameTwice);
        }
        Ok(Self { segments })
    }

    /// The names of its captures.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(Segment::name)
    }

    /// Whether every path that one takes is taken by the other, and with the same precedence.
    pub fn equals_but_for_names(&self, other: &Self) -> bool {
        self.segments.len() == other.segments.len()
            && self.segments.iter().zip(&other.segments).all(|pair| match pair {
                (Segment::Literal(one), Segment::Literal(other)) => one == other,
                (Segment::Capture(_), Segment::Capture(_)) => true,
                (Segment::Rest(_), Segment::Rest(_)) => true,
                _ => false,
            })
    }
}

impl fmt::Display for RoutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::Capture(name) => write!(f, "/{{{name}}}")?,
                Segment::Rest(name) => write!(f, "/{{{name}...}}")?,
            }
        }
        Ok(())
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, PathError> {
        let Some(inside) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) else {
            if text.contains(['{', '}']) {
                return Err(PathError::Braces);
            }
            return comparable(text).map(Self::Literal);
        };
        let (name, is_rest) = match inside.strip_suffix("...") {
            Some(name) => (name, true),
            None => (inside, false),
        };
        let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        match (is_name, is_rest) {
            (false, _) => Err(PathError::Name),
            (true, true) => Ok(Self::Rest(name.to_owned())),
            (true, false) => Ok(Self::Capture(name.to_owned())),
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Literal(_) => None,
            Self::Capture(name) | Self::Rest(name) => Some(name),
        }
    }
}

/// The segments of a request's path (without the query), in the form in which they are compared.
///
/// # Errors
/// What makes the path unfit to be compared.
pub fn path_segments(path: &str) -> Result<Vec<String>, PathError> {
    let parts = path.strip_prefix('/').ok_or(PathError::NoSlash)?.split('/');
    let segments: Vec<_> = parts.map(comparable).collect::<Result<_, _>>()?;
    match segments.split_last() {
        Some((_, inner)) if !inner.iter().any(String::is_empty) => Ok(segments),
        _ => Err(PathError::EmptySegment),
    }
}

/// Why a text is no path, or no pattern of paths.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("a path begins with `/`")]
    NoSlash,
    /// Two slashes follow each other.
    #[error("`//` is not allowed in a path")]
    EmptySegment,
    /// A segment means "here" or "one up", written out or percent-encoded.
    #[error("the segments `.` and `..` are not allowed in a path")]
    DotSegment,
    /// A percent sign without two hexadecimal digits.
    #[error("`%` must be followed by two hexadecimal digits")]
    Escape,
    /// A slash, backslash or control character in percent-encoding.
    #[error("`%2F`, `%5C` and control characters are not allowed in a path")]
    EscapedSeparator,
    /// Percent-encoded bytes that are no text, such as an overlong form of a dot.
    #[error("what is percent-encoded in a path must be UTF-8")]
    NotUtf8,
    /// A character that must be percent-encoded or cannot be there at all.
    #[error("a path is plain ASCII without blanks, `\\`, `?` and `#`; percent-encode the rest")]
    Character,
    /// Braces that do not enclose a whole segment.
    #[error("braces enclose a whole segment: `/{{room}}`, not `/room-{{number}}`")]
    Braces,
    /// A capture's name has a wrong form.
    #[error("a capture's name is made of a-z, 0-9 and `_` and begins with a letter: `{{room}}`")]
    Name,
    /// Two captures have the same name.
    #[error("two captures have the same name")]
    NameTwice,
    /// `{rest...}` is not the last segment.
    #[error("`{{name...}}` can only be the last segment")]
    RestNotLast,
}

/// One segment in the form in which segments are compared.
fn comparable(segment: &str) -> Result<String, PathError> {
    if segment.bytes().all(is_plain) {
        return not_of_dots(segment.to_owned());
    }
    let mut normal = String::with_capacity(segment.len());
    // What the segment means: only whether it is a text is asked of it.
    let mut decoded = Vec::new();
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let (high, low) = (hex_digit(bytes.next())?, hex_digit(bytes.next())?);
                let byte = high << 4 | low;
                push_escaped(byte, &mut normal)?;
                decoded.push(byte);
            }
            byte if is_plain(byte) => {
                normal.push(char::from(byte));
                decoded.push(byte);
            }
            _ => return Err(PathError::Character),
        }
    }
    if std::str::from_utf8(&decoded).is_err() {
        return Err(PathError::NotUtf8);
    }
    not_of_dots(normal)
}

/// What stands for itself in a path.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~') && !matches!(byte, b'%' | b'\\' | b'?' | b'#')
}

fn not_of_dots(segment: String) -> Result<String, PathError> {
    match segment.as_str() {
        "." | ".." => Err(PathError::DotSegment),
        _ => Ok(segment),
    }
}

fn push_escaped(byte: u8, normal: &mut String) -> Result<(), PathError> {
    match byte {
        b'/' | b'\\' => return Err(PathError::EscapedSeparator),
        byte if byte.is_ascii_control() => return Err(PathError::EscapedSeparator),
        byte if is_unreserved(byte) => normal.push(char::from(byte)),
        byte => normal.push_str(&format!("%{byte:02X}")),
    }
    Ok(())
}

/// What means the same with and without percent-encoding (RFC 3986 section 2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn hex_digit(byte: Option<u8>) -> Result<u8, PathError> {
    match byte {
        Some(digit @ b'0'..=b'9') => Ok(digit - b'0'),
        Some(digit @ b'a'..=b'f') => Ok(digit - b'a' + 10),
        Some(digit @ b'A'..=b'F') => Ok(digit - b'A' + 10),
        _ => Err(PathError::Escape),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> Segment {
        Segment::Literal(text.to_owned())
    }

    #[test]
    fn patterns_are_read_and_written_back() {
        for (text, segments) in [
            ("/", vec![literal("")]),
            ("/game", vec![literal("game")]),
            ("/game/", vec![literal("game"), literal("")]),
            ("/game/{room}", vec![literal("game"), Segment::Capture("room".into())]),
            (
                "/{a}/x/{b...}",
                vec![Segment::Capture("a".into()), literal("x"), Segment::Rest("b".into())],
            ),
        ] {
            let path = RoutePath::parse(text).unwrap();
            assert_eq!(path.segments, segments, "{text}");
            assert_eq!(path.to_string(), text);
        }
    }

    #[test]
    fn broken_patterns_say_what_is_wrong() {
        for (text, wrong) in [
            ("", PathError::NoSlash),
            ("game", PathError::NoSlash),
            ("//", PathError::EmptySegment),
            ("/a//b", PathError::EmptySegment),
            ("/a/../b", PathError::DotSegment),
            ("/room-{n}", PathError::Braces),
            ("/{a}{b}", PathError::Name),
            ("/{", PathError::Braces),
            ("/{}", PathError::Name),
            ("/{Room}", PathError::Name),
            ("/{1}", PathError::Name),
            ("/{...}", PathError::Name),
            ("/{a}/{a}", PathError::NameTwice),
            ("/{a}/{a...}", PathError::NameTwice),
            ("/{a...}/b", PathError::RestNotLast),
            ("/a?b", PathError::Character),
            ("/ä", PathError::Character),
        ] {
            assert_eq!(RoutePath::parse(text), Err(wrong), "{text:?}");
        }
    }

    #[test]
    fn request_paths_are_decoded_only_where_it_changes_nothing() {
        for (path, segments) in [
            ("/", vec![""]),
            ("/game/42", vec!["game", "42"]),
            ("/game/", vec!["game", ""]),
            ("/%67ame/%7Ex", vec!["game", "~x"]),
            ("/a%20b", vec!["a%20b"]),
            ("/%c3%a4", vec!["%C3%A4"]),
            // Once, and never again.
            ("/%252e%252e", vec!["%252e%252e"]),
            ("/a%252fb/%25", vec!["a%252fb", "%25"]),
            // Parameters are a part of the segment (RFC 3986 section 3.3), so these are no dot segments.
            ("/a;x=1/..;/b", vec!["a;x=1", "..;", "b"]),
            ("/a%3bx", vec!["a%3Bx"]),
            // Looks like a slash, and is none.
            ("/a%ef%bc%8fb", vec!["a%EF%BC%8Fb"]),
            ("/a.b/...", vec!["a.b", "..."]),
        ] {
            assert_eq!(path_segments(path).unwrap(), segments, "{path}");
        }
    }

    #[test]
    fn paths_that_can_be_read_in_two_ways_are_refused() {
        for (path, wrong) in [
            ("", PathError::NoSlash),
            ("*", PathError::NoSlash),
            ("https://host/a", PathError::NoSlash),
            ("http:/a", PathError::NoSlash),
            ("%2fa", PathError::NoSlash),
            ("//a", PathError::EmptySegment),
            ("/a//", PathError::EmptySegment),
            ("/.", PathError::DotSegment),
            ("/a/..", PathError::DotSegment),
            ("/a/%2e%2E/b", PathError::DotSegment),
            ("/a/.%2e/b", PathError::DotSegment),
            ("/a%2Fb", PathError::EscapedSeparator),
            ("/a%5cb", PathError::EscapedSeparator),
            ("/a%00", PathError::EscapedSeparator),
            ("/a%7f", PathError::EscapedSeparator),
            ("/a%0d%0a", PathError::EscapedSeparator),
            // Overlong forms of `.` and `/`, a half of a pair, and a lone byte of Latin-1.
            ("/a/%c0%ae%c0%ae/b", PathError::NotUtf8),
            ("/a%c0%afb", PathError::NotUtf8),
            ("/a%e0%80%af", PathError::NotUtf8),
            ("/a%f0%80%80%af", PathError::NotUtf8),
            ("/a%ed%a0%80", PathError::NotUtf8),
            ("/caf%e9", PathError::NotUtf8),
            ("/%c3/%a4", PathError::NotUtf8),
            ("/a\\b", PathError::Character),
            ("/a\0", PathError::Character),
            ("/a b", PathError::Character),
            ("/a?b", PathError::Character),
            ("/a#b", PathError::Character),
            ("/ä", PathError::Character),
            ("/%u002e%u002e", PathError::Escape),
            ("/%", PathError::Escape),
            ("/%4", PathError::Escape),
            ("/%4g", PathError::Escape),
            ("/%+1", PathError::Escape),
        ] {
            assert_eq!(path_segments(path), Err(wrong), "{path:?}");
        }
    }
}
