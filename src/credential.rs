//! Who may enter: what a client shows, against what its route asks for.
//!
//! A [`Gate`] is made of a route's credentials when the route is. In goes a request, out comes an [`Identity`] or
//! the reason why there is none. Nothing here waits, counts, logs or reads a file.
//!
//! What always holds: a token is taken from the `Authorization` header or from the one query parameter that the
//! credential names, and from nowhere else; it is compared in constant time; nothing that comes out of here, is
//! printed or is told to a client holds any part of it; and what a client shows is looked at in sizes that are
//! bounded before anything is parsed.
//!
//! Specifications: RFC 6750 (bearer tokens).

mod crypto;
mod percent;
mod shown;
mod tokens;

use std::{fmt, sync::Arc};

use self::shown::Shown;
pub use self::tokens::{new_token, token_hash};
use crate::{
    config::{self, ClaimRule, CredentialKind, SUBJECT, Wanted},
    reason::Refusal,
    transport::RequestHead,
};

/// What a route asks for. Clones are cheap.
#[derive(Clone, Default)]
pub struct Gate(Arc<[Arc<config::Credential>]>);

/// Who was let in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The name of the credential that let it in.
    pub credential: String,
    /// Whom it names.
    pub subject: Option<String>,
}

impl Gate {
    /// Asks for any one of these; for nothing where there are none.
    pub fn new(credentials: &[Arc<config::Credential>]) -> Self {
        Self(credentials.into())
    }

    /// Decides on one request. `captures` is what the captures of the route's path stand for.
    ///
    /// # Errors
    /// Why nothing that it shows lets it in. Of several reasons, the one that is nearest to entering.
    pub fn check(
        &self,
        head: &RequestHead,
        captures: &[(String, String)],
    ) -> Result<Option<Identity>, Refusal> {
        let mut refused = None;
        for credential in &*self.0 {
            match check(credential, head, captures) {
                Ok(identity) => return Ok(Some(identity)),
                Err(why) => refused = refused.max(Some(why)),
            }
        }
        refused.map_or(Ok(None), |why| Err(why.into()))
    }

    /// A query without the parameters that carry tokens: what everybody else may see of it.
    pub fn without_tokens(&self, query: &str) -> Option<String> {
        let names = self.0.iter().filter_map(|credential| credential.query.as_deref());
        shown::without(query, &names.collect::<Vec<_>>())
    }
}

/// The names are enough: what a credential is compared with is nobody's business.
impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|credential| &credential.name)).finish()
    }
}

/// Why one credential lets nobody in, the farthest from entering first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Unfit {
    /// Nothing of its kind was shown.
    Missing,
    /// What was shown is not among what is known, or no credential at all.
    Invalid,
    /// It is a good one, but not for this.
    Forbidden,
}

impl From<Unfit> for Refusal {
    fn from(why: Unfit) -> Self {
        match why {
            Unfit::Missing => Self::CredentialMissing,
            Unfit::Invalid => Self::CredentialInvalid,
            Unfit::Forbidden => Self::CredentialForbidden,
        }
    }
}

fn check(
    credential: &config::Credential,
    head: &RequestHead,
    captures: &[(String, String)],
) -> Result<Identity, Unfit> {
    let CredentialKind::Tokens(tokens) = &credential.kind;
    let token = match Shown::of(head, credential.query.as_deref()) {
        Shown::Token(token) => token,
        Shown::Nothing => return Err(Unfit::Missing),
        Shown::Unusable => return Err(Unfit::Invalid),
    };
    let known = tokens::find(tokens, &token).ok_or(Unfit::Invalid)?;
    let identity = Identity { credential: credential.name.clone(), subject: known.name.clone() };
    match credential.claims.iter().all(|rule| fits(rule, &identity, captures)) {
        true => Ok(identity),
        false => Err(Unfit::Forbidden),
    }
}

/// Whether a claim is what the rule wants.
fn fits(rule: &ClaimRule, identity: &Identity, captures: &[(String, String)]) -> bool {
    let claimed = identity.subject.as_deref().filter(|_| rule.claim == SUBJECT);
    let Some(claimed) = claimed else { return false };
    match &rule.wanted {
        Wanted::Text(text) => claimed == text,
        Wanted::Capture(name) => {
            let found = captures.iter().find(|(known, _)| known == name);
            // The path is compared as what it means: `%20` is a blank.
            let decoded = found.and_then(|(_, value)| percent::decoded(value));
            decoded.is_some_and(|value| !value.is_empty() && *value == *claimed.as_bytes())
        }
    }
}

#[cfg(test)]
mod tests;
