//! A text about the client in front of what it sends, after the configuration's template.
//!
//! What clients send cannot change its shape: a value holds no byte but those of
//! [`Preamble::is_plain`] and the percent signs of those that are encoded.

use std::{borrow::Cow, fmt::Write};

use super::ClientInfo;
use crate::config::{Field, Piece, Preamble};

/// The preamble for one connection.
pub(super) fn render(preamble: &Preamble, client: &ClientInfo) -> String {
    let mut text = String::new();
    for piece in &preamble.pieces {
        match piece {
            Piece::Text(plain) => text.push_str(plain),
            Piece::Field(field) => text.push_str(&value(field, client)),
        }
    }
    text
}

/// How a value stands for itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    /// Any text. Decoding what is told gives it back.
    Text,
    /// A part of a URL, which has its own percent-encoding: that is left as it is.
    Url,
}

fn value(field: &Field, client: &ClientInfo) -> String {
    let head = &client.head;
    let text = |value: Option<&'_ str>| told(value, Form::Text);
    let url = |value: Option<&'_ str>| told(value, Form::Url);
    match field {
        Field::SessionId => client.session_id.to_string(),
        Field::ClientIp => client.source().ip().to_string(),
        Field::ClientPort => client.source().port().to_string(),
        Field::Authority => text(Some(&head.authority)),
        Field::Route => text(Some(&client.route)),
        Field::Path => url(Some(&head.path)),
        Field::Query => url(head.query.as_deref()),
        Field::Origin => text(head.origin.as_deref()),
        Field::Protocol => text(client.protocol.as_deref()),
        Field::Dialect => text(Some(head.dialect)),
        Field::Subject => text(client.subject.as_deref()),
        Field::Capture(name) => url(client.capture(name)),
    }
}

/// A value as it is told. An empty one counts as absent, since a reader that splits at blanks would lose
/// its place.
fn told(value: Option<&str>, form: Form) -> String {
    let value = value.unwrap_or_default();
    if value.is_empty() {
        return Preamble::ABSENT.to_owned();
    }
    if value == Preamble::ABSENT {
        return "%2D".to_owned();
    }
    let told = encoded(value, form);
    if told.len() > Preamble::MOST_VALUE_BYTES {
        Preamble::TOO_LONG.to_owned()
    } else {
        told.into()
    }
}

fn encoded(value: &str, form: Form) -> Cow<'_, str> {
    let keeps = |byte: u8| Preamble::is_plain(byte) || (byte == b'%' && form == Form::Url);
    if value.bytes().all(keeps) {
        return value.into();
    }
    let mut told = String::new();
    for byte in value.bytes() {
        if keeps(byte) {
            told.push(char::from(byte));
        } else {
            write!(told, "%{byte:02X}").expect("strings take everything");
        }
    }
    told.into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::{
        super::client_info::tests::{client, with_head},
        *,
    };
    use crate::config::Config;

    /// A template as a file's reader takes it.
    fn template(text: &str) -> Preamble {
        let text = format!(
            "version = 1\n[[listener]]\nquic = [\"127.0.0.1:0\"]\nself_signed = [\"localhost\"]\n\
             [[route]]\npath = \"/game/{{room}}\"\norigins = \"any\"\nbackend = \"b\"\n\
             [backend.b]\npreamble = {text:?}\nendpoints = [{{ tcp = \"127.0.0.1:1\" }}]\n"
        );
        let config = Config::parse(&text, "test.toml", Path::new("")).unwrap();
        config.backends["b"].introduction.preamble.clone().unwrap()
    }

    fn rendered(text: &str, client: &ClientInfo) -> String {
        render(&template(text), client)
    }

    #[test]
    fn each_field_is_told() {
        let client = ClientInfo { subject: Some("alice".into()), ..client() };
        for (field, wanted) in [
            ("session_id", "01ARZ3NDEKTSV4RRFFQ69G5FAV"),
            ("client_ip", "192.0.2.1"),
            ("client_port", "5"),
            ("authority", "play.test:4433"),
            ("route", "game"),
            ("path", "/game/a%20b"),
            ("query", "token=secret"),
            ("origin", "https://play.test"),
            ("protocol", "chat-v2"),
            ("dialect", "draft13"),
            ("subject", "alice"),
            ("capture.room", "a%20b"),
        ] {
            assert_eq!(rendered(&format!("<{{{field}}}>\r\n"), &client), format!("<{wanted}>\r\n"));
        }
    }

    #[test]
    fn what_is_not_there_or_too_long_has_a_sign_that_no_value_can_be() {
        for (origin, wanted) in [
            (None, "-"),
            (Some(String::new()), "-"),
            (Some("-".to_owned()), "%2D"),
            (Some("*".to_owned()), "%2A"),
            (Some("x".repeat(1024)), &"x".repeat(1024)),
            (Some("x".repeat(1025)), "*"),
            (Some("%".repeat(342)), "*"),
        ] {
            let client = with_head(|head| head.origin = origin);
            assert_eq!(rendered("{origin}\n", &client), format!("{wanted}\n"));
        }
    }

    /// Every byte for itself or percent-encoded.
    fn decoded(value: &str) -> Vec<u8> {
        let mut bytes = value.bytes();
        let mut decoded = Vec::new();
        while let Some(byte) = bytes.next() {
            decoded.push(if byte == b'%' {
                let mut digit = || char::from(bytes.next().unwrap()).to_digit(16).unwrap();
                u8::try_from(digit() * 16 + digit()).unwrap()
            } else {
                byte
            });
        }
        decoded
    }

    proptest! {
        /// Blanks and line ends are the template's alone, and what stands between them is what was sent.
        #[test]
        fn no_client_can_change_the_shape_of_a_line(
            authority in "\\PC{1,40}",
            origin in proptest::option::of(any::<String>()),
            protocol in proptest::option::of("[ -~]{1,40}"),
            path in "/[ -~\r\n\0]{0,40}",
            query in proptest::option::of("[\\x00-\\x7f]{0,40}"),
        ) {
            let client = ClientInfo { protocol, ..with_head(|head| {
                head.authority = authority;
                head.origin = origin;
                head.path = path;
                head.query = query;
            }) };
            let line = rendered(
                "HELLO {session_id} {authority} {origin} {protocol} {path} {query}\r\n",
                &client,
            );
            prop_assert!(line.is_ascii());
            let line = line.strip_suffix("\r\n").unwrap();
            prop_assert!(line.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
            let words: Vec<&str> = line.split(' ').collect();
            prop_assert_eq!(words.len(), 7);
            prop_assert_eq!((words[0], words[1]), ("HELLO", "01ARZ3NDEKTSV4RRFFQ69G5FAV"));
            let head = &client.head;
            for (word, sent) in [
                (words[2], Some(&head.authority)),
                (words[3], head.origin.as_ref()),
                (words[4], client.protocol.as_ref()),
            ] {
                match sent.filter(|sent| !sent.is_empty()) {
                    None => prop_assert_eq!(word, "-"),
                    Some(sent) => prop_assert_eq!(decoded(word), sent.as_bytes()),
                }
            }
        }
    }
}
