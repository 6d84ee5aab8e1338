//! A file of hashed tokens.
//!
//! One token a line: `NAME:sha256=HEX`, or `sha256=HEX` for one that stands for nobody. Empty lines and those
//! that begin with `#` are passed over. What is wrong with a line is said without showing it: somebody may have
//! written a token there.

use std::collections::HashMap;

use super::super::{Folder, check_name, tls};
use crate::config::{Token, Tokens, problems::Collector, read::HexBytes};

/// Every token is compared with each one shown.
const MOST_TOKENS: usize = 10_000;

pub(super) fn read(
    key: &str,
    file: &str,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Option<Tokens> {
    let (path, bytes) = tls::read(key, file, folder, problems)?;
    let mut wrong = Vec::new();
    let list = match String::from_utf8(bytes) {
        Ok(text) => tokens(&text, &mut wrong),
        Err(_not_text) => {
            wrong.push((1, "is not text".to_owned()));
            Vec::new()
        }
    };
    if list.is_empty() && wrong.is_empty() {
        problems.add(key, format!("{} holds no token", path.display()));
    }
    for (line, message) in &wrong {
        problems.add(key, format!("{}:{line}: {message}", path.display()));
    }
    for name in list.iter().filter_map(|token| token.name.as_deref()) {
        check_name(key, name, problems);
    }
    (!list.is_empty() && wrong.is_empty()).then_some(Tokens { file: path, list })
}

/// The tokens of a text, and what is wrong with which line.
fn tokens(text: &str, wrong: &mut Vec<(usize, String)>) -> Vec<Token> {
    let mut lines = HashMap::new();
    let mut tokens = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let (at, line) = (at + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if tokens.len() == MOST_TOKENS {
            wrong.push((at, format!("more than {MOST_TOKENS} tokens are too many")));
            break;
        }
        let Some(token) = token(line) else {
            let message = "is not NAME:sha256=HEX; `tidegate token hash` makes such a line";
            wrong.push((at, message.to_owned()));
            continue;
        };
        if let Some(first) = lines.insert(token.sha256, at) {
            wrong.push((at, format!("is the same token as in line {first}")));
            continue;
        }
        tokens.push(token);
    }
    tokens
}

fn token(line: &str) -> Option<Token> {
    let (name, digits) = match line.rsplit_once(":sha256=") {
        Some((name, digits)) => (Some(name.to_owned()), digits),
        None => (None, line.strip_prefix("sha256=")?),
    };
    let HexBytes(bytes) = HexBytes::parse(digits).ok()?;
    Some(Token { name, sha256: bytes.try_into().ok()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(byte: u8) -> String {
        format!("{byte:02x}").repeat(32)
    }

    #[test]
    fn each_line_is_a_token_with_or_without_a_name() {
        let text = format!(
            "# robots\r\n\r\nalice:sha256={}\n  sha256={}\n#bob:sha256=x\na:b:sha256={}\n",
            hex(1),
            hex(0xfe).to_uppercase(),
            hex(2),
        );
        let mut wrong = Vec::new();
        let read = tokens(&text, &mut wrong);
        assert_eq!(wrong, []);
        let named = |name: &str, byte| Token { name: Some(name.into()), sha256: [byte; 32] };
        let nobody = Token { name: None, sha256: [0xfe; 32] };
        assert_eq!(read, [named("alice", 1), nobody, named("a:b", 2)]);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line_and_never_shown() {
        let text = format!(
            "s3cret\nalice:s3cret\nalice:sha256=s3cret\nalice:sha256={}\nbob:sha256={}\n",
            hex(1),
            hex(1)
        );
        let mut wrong = Vec::new();
        assert_eq!(tokens(&text, &mut wrong).len(), 1);
        let lines: Vec<_> = wrong.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 3, 5]);
        assert!(wrong[3].1.contains("line 4"), "{wrong:?}");
        assert!(wrong.iter().all(|(_, message)| !message.contains("s3cret")), "{wrong:?}");
    }

    #[test]
    fn there_is_a_bound_on_their_number() {
        let line = |n: usize| format!("sha256={n:064x}\n");
        for (count, fits) in [(MOST_TOKENS, true), (MOST_TOKENS + 1, false)] {
            let text: String = (0..count).map(line).collect();
            let mut wrong = Vec::new();
            tokens(&text, &mut wrong);
            assert_eq!(wrong.is_empty(), fits, "{count}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".*") {
            tokens(&text, &mut Vec::new());
        }
    }
}
