//! `tidegate token`: static tokens for `[credential.NAME]`, and what the gateway's file has in place of them.

use std::{
    io::{self, Read},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use tidegate::credential::{new_token, token_hash};

use super::{Failure, announce::hex};

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Print a new token: 256 random bits
    ///
    /// Give it to the client, and its hash to the gateway:
    ///
    ///     tidegate token new > alice.token
    ///     tidegate token hash --name alice < alice.token >> robots.tokens
    #[command(verbatim_doc_comment)]
    New,
    /// Read a token from stdin, and print the line that stands for it in a file of tokens
    ///
    /// The file is what `tokens` of a [credential.NAME] names. It holds hashes alone, so whoever reads it
    /// cannot use them.
    Hash(Hash),
}

#[derive(Args, Debug)]
pub(crate) struct Hash {
    /// Whom the token stands for: what the log and backends are told as the session's subject
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Option<String>,
}

impl Token {
    pub(crate) fn execute(self) -> Result<ExitCode, Failure> {
        match self {
            Self::New => {
                let token = new_token()
                    .map_err(|source| Failure::System { what: "make a token", source })?;
                super::print(&format!("{token}\n"))?;
            }
            Self::Hash(Hash { name }) => {
                let token = read_token(io::stdin().lock())?;
                super::print(&line(name.as_deref(), &token))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Who can guess a token is in. A hash that is fast to make keeps secret only what cannot be guessed.
const LEAST_TOKEN_BYTES: usize = 16;

/// As much as the gateway looks at.
const MOST_TOKEN_BYTES: usize = 8 * 1024;

/// One token, with or without a line end behind it. Errors never show it.
fn read_token(from: impl Read) -> Result<String, Failure> {
    let mut text = String::new();
    let limit = u64::try_from(MOST_TOKEN_BYTES + 2).unwrap_or(u64::MAX);
    from.take(limit).read_to_string(&mut text).map_err(|_unread| Failure::Token("no text"))?;
    let token = text.trim_end_matches(['\r', '\n']);
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::Token("more than one word of visible ASCII characters"));
    }
    match token.len() {
        LEAST_TOKEN_BYTES..=MOST_TOKEN_BYTES => Ok(token.to_owned()),
        0..LEAST_TOKEN_BYTES => {
            Err(Failure::Token("less than 16 characters, which can be guessed"))
        }
        _ => Err(Failure::Token("more than 8,192 characters")),
    }
}

fn line(name: Option<&str>, token: &str) -> String {
    let hash = hex(&token_hash(token));
    name.map_or_else(|| format!("sha256={hash}\n"), |name| format!("{name}:sha256={hash}\n"))
}

/// A name as the file of tokens can have it.
fn name(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.is_empty() || text.len() > 128 || text.starts_with(['_', '#']) || !is_plain {
        return Err(
            "1 to 128 visible ASCII characters without blanks, the first not `_` or `#`".into()
        );
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_long_word() {
        let good = "0123456789abcdef";
        for text in [good.to_owned(), format!("{good}\n"), format!("{good}\r\n"), "x".repeat(8192)]
        {
            let token = read_token(text.as_bytes()).unwrap();
            assert_eq!(token, text.trim_end());
        }
        for text in ["", "\n", "short", "two words and more", "é23456789abcdefg", &"x".repeat(8193)]
        {
            let error = read_token(text.as_bytes()).unwrap_err().to_string();
            assert!(text.trim().is_empty() || !error.contains(text), "{error}");
        }
    }

    #[test]
    fn the_line_has_the_name_and_the_hash() {
        // FIPS 180-4, the example "abc".
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(line(None, "abc"), format!("sha256={hash}\n"));
        assert_eq!(line(Some("alice"), "abc"), format!("alice:sha256={hash}\n"));
    }

    #[test]
    fn a_name_is_one_that_the_file_can_have() {
        for good in ["alice", "robot-7@site", "a:b"] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        for bad in ["", "two words", "#x", "_x", "é", &"x".repeat(129)] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
