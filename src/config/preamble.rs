//! Preambles: a text with named fields, for backends that want to read who the client is.

use std::fmt;

use super::problems::did_you_mean;

/// A text with fields, such as `"HELLO {session_id} {client_ip}\r\n"`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Preamble {
    /// Texts and fields, in turn.
    pub pieces: Vec<Piece>,
}

/// A part of a preamble.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Piece {
    /// The same for every session.
    Text(String),
    /// What stands for this session there.
    Field(Field),
}

/// What a preamble can tell.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Field {
    /// The session's id, as in the log.
    SessionId,
    /// The client's IP address.
    ClientIp,
    /// The client's UDP port.
    ClientPort,
    /// Host and port, as the client's request has them.
    Authority,
    /// The route's name.
    Route,
    /// The path as sent, without the query.
    Path,
    /// What followed the path's `?`.
    Query,
    /// The `Origin` header.
    Origin,
    /// The session's application protocol.
    Protocol,
    /// The generation of WebTransport that the client speaks.
    Dialect,
    /// Whom the client's token names.
    Subject,
    /// What this capture of the route's path stands for.
    Capture(String),
}

/// Every field but the captures, by name.
const FIELDS: [(&str, Field); 11] = [
    ("session_id", Field::SessionId),
    ("client_ip", Field::ClientIp),
    ("client_port", Field::ClientPort),
    ("authority", Field::Authority),
    ("route", Field::Route),
    ("path", Field::Path),
    ("query", Field::Query),
    ("origin", Field::Origin),
    ("protocol", Field::Protocol),
    ("dialect", Field::Dialect),
    ("subject", Field::Subject),
];

/// Before the name of a capture.
const CAPTURE: &str = "capture.";

/// Together with [`Preamble::MOST_VALUE_BYTES`] for each field this bounds a preamble at 17 KiB, for which
/// a new socket always has room.
const MOST_TEXT_BYTES: usize = 1024;
const MOST_FIELDS: usize = 16;

impl Preamble {
    /// A value that would take more is told as [`Self::TOO_LONG`].
    pub const MOST_VALUE_BYTES: usize = 1024;
    /// Stands for a value that is not there. A value that is this text itself is escaped.
    pub const ABSENT: &str = "-";
    /// Stands for a value that is there but too long. No value holds this character.
    pub const TOO_LONG: &str = "*";

    /// Whether a byte stands for itself in a value. Every other byte is percent-encoded, so that whatever
    /// a client sends, no value holds a blank, a line end, a quote, a comma, a semicolon or a bar.
    pub const fn is_plain(byte: u8) -> bool {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'@')
            || matches!(byte, b'[' | b']' | b'?' | b'&' | b'=' | b'+')
    }

    /// Reads a template.
    ///
    /// # Errors
    /// What keeps the text from being one, and what would do.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let preamble = Self { pieces: pieces(text)? };
        let fields = preamble.pieces.iter().filter(|piece| matches!(piece, Piece::Field(_)));
        if fields.count() > MOST_FIELDS {
            return Err(format!("more than {MOST_FIELDS} fields are too many"));
        }
        if text.len() > MOST_TEXT_BYTES {
            return Err(format!(
                "{} bytes are too long; write at most {MOST_TEXT_BYTES}",
                text.len()
            ));
        }
        match preamble.pieces.last() {
            None => Err("is empty; leave the key out where nothing shall be said".to_owned()),
            Some(Piece::Text(text)) if text.ends_with(ends_a_value) => Ok(preamble),
            Some(_) => {
                Err("must end with a character that no value can hold, such as \"\\n\"; else \
                            the client's first bytes could go on with the last value"
                    .to_owned())
            }
        }
    }

    /// The names of the captures that it tells.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Field(Field::Capture(name)) => Some(name.as_str()),
            _ => None,
        })
    }
}

/// Whether no value can hold this character.
fn ends_a_value(c: char) -> bool {
    let marks = ['%', '*'];
    !marks.contains(&c) && !u8::try_from(c).is_ok_and(Preamble::is_plain)
}

fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, brace) = rest.split_at(at);
        plain.push_str(before);
        if let Some(after) = brace.strip_prefix("{{") {
            plain.push('{');
            rest = after;
        } else if let Some(after) = brace.strip_prefix("}}") {
            plain.push('}');
            rest = after;
        } else if let Some((name, after)) = brace.strip_prefix('{').and_then(|b| b.split_once('}'))
        {
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Field(field(name)?));
            rest = after;
        } else {
            return Err(
                "has a brace without its other half; a brace itself is written {{ or }}".to_owned()
            );
        }
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

fn field(name: &str) -> Result<Field, String> {
    if let Some(capture) = name.strip_prefix(CAPTURE) {
        return Ok(Field::Capture(capture.to_owned()));
    }
    if let Some((_, field)) = FIELDS.iter().find(|(known, _)| *known == name) {
        return Ok(field.clone());
    }
    let names = FIELDS.iter().map(|(name, _)| *name);
    Err(match did_you_mean(name, names.clone()) {
        Some(nearest) => format!("no field is named {name:?}; did you mean {nearest:?}?"),
        None => {
            let known: Vec<_> = names.collect();
            format!("no field is named {name:?}; there are {} and capture.NAME", known.join(", "))
        }
    })
}

/// The template, as it is written in a file.
impl fmt::Display for Preamble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}"))?,
                Piece::Field(field) => write!(f, "{{{field}}}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Capture(name) = self {
            return write!(f, "{CAPTURE}{name}");
        }
        let known = FIELDS.iter().find(|(_, field)| field == self);
        f.write_str(known.map_or("", |(name, _)| name))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_template_is_texts_and_fields() {
        let text = |text: &str| Piece::Text(text.to_owned());
        let preamble = Preamble::parse("{{{route}}} {capture.room}\r\n").unwrap();
        assert_eq!(
            preamble.pieces,
            [
                text("{"),
                Piece::Field(Field::Route),
                text("} "),
                Piece::Field(Field::Capture("room".to_owned())),
                text("\r\n"),
            ]
        );
        assert_eq!(preamble.captures().collect::<Vec<_>>(), ["room"]);
    }

    #[test]
    fn every_field_can_be_written() {
        for (name, field) in FIELDS {
            let preamble = Preamble::parse(&format!("{{{name}}}\n")).unwrap();
            assert_eq!(preamble.pieces[0], Piece::Field(field));
        }
    }

    #[test]
    fn what_is_no_template_is_refused_with_the_reason() {
        for (text, wanted) in [
            ("{sesion_id}\n", "did you mean \"session_id\"?"),
            ("{colour}\n", "there are session_id, client_ip"),
            ("{\n", "a brace without its other half"),
            ("}\n", "a brace without its other half"),
            ("", "is empty"),
            ("{path}", "must end with"),
            ("{path}/", "must end with"),
            ("{path}*", "must end with"),
            ("hello", "must end with"),
            (&"{path} ".repeat(MOST_FIELDS + 1), "too many"),
            (&"\n".repeat(MOST_TEXT_BYTES + 1), "too long"),
        ] {
            let message = Preamble::parse(text).unwrap_err();
            assert!(message.contains(wanted), "{text:?}: {message}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_as_the_same(text in "([a-z ]|\\{\\{|\\}\\}|\\{route\\}|\\{capture\\.a\\}){0,20}\n") {
            let preamble = Preamble::parse(&text).unwrap();
            prop_assert_eq!(Preamble::parse(&preamble.to_string()).unwrap(), preamble);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            _ = Preamble::parse(&text);
        }
    }
}
