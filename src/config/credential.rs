//! Credentials: what a client may show to be let in.

use std::{fmt, path::PathBuf};

/// One kind of credential under a name, for any number of routes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credential {
    /// Its name: `[credential.NAME]`.
    pub name: String,
    /// What is shown, and what it is compared with.
    pub kind: CredentialKind,
    /// The query parameter that may carry a token in place of the `Authorization` header. Default none.
    pub query: Option<String>,
    /// What must be said of the client for it to use a route. Default nothing.
    pub claims: Vec<ClaimRule>,
}

/// What a credential is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CredentialKind {
    /// A bearer token that stands, hashed, in a file.
    Tokens(Tokens),
}

/// The tokens of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tokens {
    /// Where they were read.
    pub file: PathBuf,
    /// At least one; no two are the same.
    pub list: Vec<Token>,
}

/// One token of a file, as its hash.
#[derive(Clone, Eq, PartialEq)]
pub struct Token {
    /// Whom it stands for.
    pub name: Option<String>,
    /// SHA-256 of the token.
    pub sha256: [u8; 32],
}

/// The hash stays out: of a token that somebody thought up, it can give away all.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The subject, among the claims: what a token's `sub`, the name of a static token or the name in a certificate
/// says.
pub const SUBJECT: &str = "sub";

/// A claim that must be there, and its value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClaimRule {
    /// Its name.
    pub claim: String,
    /// What it must be, or what must be among it.
    pub wanted: Wanted,
}

/// The value of a claim that lets a client in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// This text.
    Text(String),
    /// What this capture of the route's path stands for, percent-decoded.
    Capture(String),
}

impl Wanted {
    /// Reads a text, or `{capture}`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            if !name.is_empty() && !name.contains(['{', '}']) {
                return Ok(Self::Capture(name.to_owned()));
            }
        } else if !text.is_empty() && !text.contains(['{', '}']) {
            return Ok(Self::Text(text.to_owned()));
        }
        Err(format!("{text:?} is no value; write a text, or a capture such as \"{{room}}\""))
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Capture(name) => write!(f, "{{{name}}}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wanted_value_is_a_text_or_one_capture() {
        let (text, capture) = (Wanted::Text, Wanted::Capture);
        for (written, read) in [
            ("player", text("player".into())),
            ("{room}", capture("room".into())),
            ("a b", text("a b".into())),
        ] {
            assert_eq!(Wanted::parse(written), Ok(read.clone()));
            assert_eq!(read.to_string(), written);
        }
        for written in ["", "{}", "{", "}", "room-{room}", "{a}{b}", "{{a}}"] {
            assert!(Wanted::parse(written).is_err(), "{written:?}");
        }
    }

    #[test]
    fn the_hash_of_a_token_is_not_shown() {
        let token = Token { name: Some("alice".into()), sha256: [0xab; 32] };
        let shown = format!("{token:?}");
        assert!(shown.contains("alice") && !shown.contains("171"), "{shown}");
    }
}
