//! The application protocols of a session: `WT-Available-Protocols` and `WT-Protocol` (draft section 3.3).
//!
//! Both are structured fields (RFC 9651): a list, and an item. Drafts 13 and later write strings, drafts 10
//! to 12 tokens; a client is answered in the form that it uses. A list with any other member is ignored as
//! a whole, and so are parameters.
//!
//! Pure.

use http::HeaderValue;

use super::dialect::Dialect;

/// What the client offers.
pub(crate) const AVAILABLE: &str = "wt-available-protocols";

/// What the gateway chose.
pub(crate) const CHOSEN: &str = "wt-protocol";

/// How a client writes protocols.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Form {
    #[default]
    Strings,
    Tokens,
}

/// The protocols that a client offers, those that it likes best first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Offer {
    pub(crate) protocols: Vec<String>,
    pub(crate) form: Form,
}

impl Offer {
    /// Reads all lines of the field. Nothing is offered where it breaks a rule.
    pub(crate) fn read<'a>(lines: impl Iterator<Item = &'a HeaderValue>, dialect: Dialect) -> Self {
        let lines: Vec<_> = lines.map(HeaderValue::as_bytes).collect();
        let all = lines.join(&b", "[..]);
        let may_be_tokens = dialect == Dialect::Draft07;
        let members = Parser { left: &all }.list().unwrap_or_default();
        let form_of = |form| members.iter().all(|(_, f)| *f == form).then_some(form);
        let form =
            form_of(Form::Strings).or_else(|| form_of(Form::Tokens).filter(|_| may_be_tokens));
        let Some(form) = form else { return Self::default() };
        Self { protocols: members.into_iter().map(|(protocol, _)| protocol).collect(), form }
    }
}

/// The value of the answer. `None`: no header can carry it, so it is none that a client has offered.
pub(crate) fn answer(protocol: &str, form: Form) -> Option<HeaderValue> {
    let text = match form {
        Form::Strings => format!("\"{}\"", protocol.replace('\\', "\\\\").replace('"', "\\\"")),
        Form::Tokens => protocol.to_owned(),
    };
    HeaderValue::from_str(&text).ok()
}

/// Reads structured fields (RFC 9651 section 4.2). Each function yields `None` where the rules are broken.
struct Parser<'a> {
    left: &'a [u8],
}

impl Parser<'_> {
    fn list(mut self) -> Option<Vec<(String, Form)>> {
        self.skip(b" ");
        let mut members = Vec::new();
        while !self.left.is_empty() {
            members.push(self.member()?);
            self.skip(b" \t");
            if self.left.is_empty() {
                break;
            }
            self.expect(b',')?;
            self.skip(b" \t");
            // A comma at the end is an error.
            self.left.first()?;
        }
        Some(members)
    }

    /// A string or a token with parameters.
    fn member(&mut self) -> Option<(String, Form)> {
        let member = match self.left.first()? {
            b'"' => (self.string()?, Form::Strings),
            _ => (self.token()?, Form::Tokens),
        };
        while self.left.first() == Some(&b';') {
            self.expect(b';')?;
            self.skip(b" ");
            self.parameter()?;
        }
        Some(member)
    }

    fn string(&mut self) -> Option<String> {
        self.expect(b'"')?;
        let mut text = String::new();
        loop {
            match self.next()? {
                b'"' => return Some(text),
                b'\\' => match self.next()? {
                    escaped @ (b'"' | b'\\') => text.push(escaped.into()),
                    _ => return None,
                },
                byte @ 0x20..0x7f => text.push(byte.into()),
                _ => return None,
            }
        }
    }

    fn token(&mut self) -> Option<String> {
        self.left.first().filter(|first| first.is_ascii_alphabetic() || **first == b'*')?;
        let token = self.take_while(|byte| {
            byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte)
        });
        Some(token)
    }

    /// A key, and a value of any type. What it means is nobody's business here, so a value that is no
    /// string is only required to consist of what numbers, tokens, dates, booleans and bytes are made of.
    fn parameter(&mut self) -> Option<()> {
        self.left.first().filter(|first| first.is_ascii_lowercase() || **first == b'*')?;
        self.take_while(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)
        });
        if self.left.first() != Some(&b'=') {
            return Some(());
        }
        self.expect(b'=')?;
        if self.left.first() == Some(&b'"') {
            return self.string().map(drop);
        }
        let value = self.take_while(|byte| {
            byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/=?@".contains(&byte)
        });
        (!value.is_empty()).then_some(())
    }

    fn take_while(&mut self, is_wanted: impl Fn(u8) -> bool) -> String {
        let end = self.left.iter().position(|byte| !is_wanted(*byte)).unwrap_or(self.left.len());
        let (taken, left) = self.left.split_at(end);
        self.left = left;
        taken.iter().copied().map(char::from).collect()
    }

    fn skip(&mut self, any_of: &[u8]) {
        while let Some((first, rest)) = self.left.split_first()
            && any_of.contains(first)
        {
            self.left = rest;
        }
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.left.split_first()?;
        self.left = rest;
        Some(*first)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offered(lines: &[&str], dialect: Dialect) -> (Vec<String>, Form) {
        let lines: Vec<_> = lines.iter().map(|l| HeaderValue::from_str(l).unwrap()).collect();
        let Offer { protocols, form } = Offer::read(lines.iter(), dialect);
        (protocols, form)
    }

    /// S9.
    #[test]
    fn strings_are_read_in_the_clients_order() {
        for (lines, wanted) in [
            (&[][..], &[][..]),
            (&[""], &[]),
            (&[r#""a", "b""#], &["a", "b"]),
            (&[r#""a""#, r#""b""#], &["a", "b"]),
            (&["  \"a\" \t,\t\"b\"  "], &["a", "b"]),
            (&[r#""a";q=0.5;x;y="z, \"";d=:YQ==:, "b""#], &["a", "b"]),
            (&[r#""with \"quotes\" and \\""#], &[r#"with "quotes" and \"#]),
        ] {
            assert_eq!(offered(lines, Dialect::Draft15).0, wanted, "{lines:?}");
        }
    }

    /// S9.
    #[test]
    fn a_field_with_any_other_member_is_ignored_whole() {
        for line in [
            r#""a", b"#,
            r#""a", 1"#,
            r#""a", ("b")"#,
            r#""a", :YQ==:"#,
            r#""a","#,
            r#""a" "b""#,
            r#""a"#,
            r#""a\x""#,
            r#""a";Q"#,
            r#""a";q="#,
            "a, b",
        ] {
            assert_eq!(offered(&[line], Dialect::Draft15).0, [""; 0], "{line}");
        }
    }

    #[test]
    fn drafts_10_to_12_may_write_tokens_and_are_answered_with_one() {
        let tokens = (vec!["a".to_owned(), "b/2".to_owned()], Form::Tokens);
        assert_eq!(offered(&["a, b/2"], Dialect::Draft07), tokens);
        assert_eq!(offered(&[r#"a, "b""#], Dialect::Draft07).0, [""; 0]);
        assert_eq!(answer("a", Form::Tokens).unwrap(), "a");
        assert_eq!(answer(r#"a"\"#, Form::Strings).unwrap(), r#""a\"\\""#);
    }

    proptest! {
        #[test]
        fn what_is_answered_is_what_was_offered(protocol in "[ -~]{0,40}") {
            let line = answer(&protocol, Form::Strings).unwrap();
            let offer = Offer::read([&line].into_iter(), Dialect::Draft13);
            prop_assert_eq!(offer.protocols, vec![protocol]);
        }

        #[test]
        fn no_field_makes_it_panic(line in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(line) = HeaderValue::from_bytes(&line) {
                _ = Offer::read([&line].into_iter(), Dialect::Draft07);
            }
        }
    }
}
