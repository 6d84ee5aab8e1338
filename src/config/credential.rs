//! Credentials: what a client may show to be let in.

use std::{fmt, path::PathBuf, time::Duration};

use super::{CertificateNames, Secret};

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
    /// A signed bearer token.
    Jwt(Jwt),
    /// A bearer token that stands, hashed, in a file.
    Tokens(Tokens),
    /// A certificate of the client's own, which its listener has verified.
    Certificates(CertificateNames),
}

/// What signed tokens are held to (RFC 7519).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Jwt {
    /// Where the keys were read.
    pub sources: Vec<KeySource>,
    /// What verifies them; at least one. No two have the same `kid`.
    pub keys: Vec<JwtKey>,
    /// Of whom one must be among those that a token is for (`aud`). Default none: a token that says whom it is for
    /// is refused then.
    pub audience: Vec<String>,
    /// Of whom one must have issued a token (`iss`). Default none: whoever has the key.
    pub issuer: Vec<String>,
    /// How much the clocks of issuer and gateway may differ. Default 30 s.
    pub leeway: Duration,
    /// Whether a token must say when it ends (`exp`). Default true.
    pub require_expiry: bool,
}

impl Jwt {
    pub(super) const LEEWAY: Duration = Duration::from_secs(30);
}

/// Where keys were read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeySource {
    /// A PEM file with one public key.
    PublicKey {
        /// The file.
        file: PathBuf,
        /// Which tokens are to be verified with it.
        kid: Option<String>,
    },
    /// A set of keys in JSON (RFC 7517).
    Jwks {
        /// The file.
        file: PathBuf,
    },
    /// A secret that issuer and gateway share.
    Secret {
        /// Which tokens are to be verified with it.
        kid: Option<String>,
    },
}

/// A key, and which tokens it is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JwtKey {
    /// Its name, as tokens have it.
    pub kid: Option<String>,
    /// The key itself.
    pub material: KeyMaterial,
}

/// A key, bound to its algorithm.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeyMaterial {
    /// HMAC with SHA-256.
    Hs256(Secret),
    /// RSASSA-PKCS1-v1_5 with SHA-256; 2048 to 8192 bits.
    Rs256 {
        /// The modulus.
        n: Vec<u8>,
        /// The exponent.
        e: Vec<u8>,
    },
    /// ECDSA on P-256 with SHA-256; the point in uncompressed form.
    Es256(Vec<u8>),
    /// Ed25519.
    EdDsa(Vec<u8>),
}

impl KeyMaterial {
    /// A secret for HMAC.
    pub(crate) fn secret(bytes: Vec<u8>) -> Self {
        Self::Hs256(Secret(bytes))
    }

    /// The algorithm's name (RFC 7518 section 3.1, RFC 8037 section 3.1).
    pub const fn algorithm(&self) -> &'static str {
        match self {
            Self::Hs256(_) => "HS256",
            Self::Rs256 { .. } => "RS256",
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
        }
    }
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
