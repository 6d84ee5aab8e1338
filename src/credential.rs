//! Who may enter: what a client shows, against what its route asks for.
//!
//! A [`Gate`] is made of a route's credentials when the route is. In goes a request, out comes an [`Identity`] or
//! the reason why there is none. Nothing here waits, counts, logs or reads a file.
//!
//! What always holds: a token is taken from the `Authorization` header or from the one query parameter that the
//! credential names, and from nowhere else; it is compared in constant time; nothing that comes out of here, is
//! printed or is told to a client holds any part of it; and what a client shows is looked at in sizes that are
//! bounded before anything is parsed. Certificates are TLS's to verify; here it is decided whom they let in.
//!
//! Specifications: RFC 6750 (bearer tokens), RFC 7519, 7515, 7518 and 8037 (signed ones), RFC 8725 (what goes wrong
//! with those).

mod certificate;
mod claims;
mod crypto;
mod jwt;
mod percent;
#[cfg(not(feature = "aws-lc-rs"))]
mod ring;
mod shown;
mod tokens;

use std::{borrow::Cow, fmt, sync::Arc, time::SystemTime};

pub use self::claims::Claims;
use self::shown::Shown;
pub use self::tokens::{new_token, token_hash};
use crate::{
    config::{self, CredentialKind, SUBJECT},
    reason::Refusal,
    transport::RequestHead,
};

/// What a route asks for. Clones are cheap.
#[derive(Clone, Default)]
pub struct Gate(Arc<[Checker]>);

/// Who was let in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The name of the credential that let it in.
    pub credential: String,
    /// Whom it names.
    pub subject: Option<String>,
    /// What else is known of it.
    pub claims: Claims,
    /// Until when it is let in.
    pub ends: Option<SystemTime>,
}

impl Gate {
    /// Asks for any one of these; for nothing where there are none.
    pub fn new(credentials: &[Arc<config::Credential>]) -> Self {
        Self(credentials.iter().map(Checker::new).collect())
    }

    /// Decides on one request, made now. `captures` is what the captures of the route's path stand for.
    ///
    /// # Errors
    /// Why nothing that it shows lets it in. Of several reasons, the one that is nearest to entering.
    pub fn check(
        &self,
        head: &RequestHead,
        captures: &[(String, String)],
        now: SystemTime,
    ) -> Result<Option<Identity>, Refusal> {
        let mut refused = None;
        for checker in &*self.0 {
            match checker.check(head, captures, now) {
                Ok(identity) => return Ok(Some(identity)),
                Err(why) => refused = refused.max(Some(why)),
            }
        }
        refused.map_or(Ok(None), |why| Err(why.into()))
    }

    /// A query without the parameters that carry tokens: what everybody else may see of it.
    pub fn without_tokens(&self, query: &str) -> Option<String> {
        let names = self.0.iter().filter_map(|checker| checker.settings.query.as_deref());
        shown::without(query, &names.collect::<Vec<_>>())
    }
}

/// The names are enough: what a credential is compared with is nobody's business.
impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|checker| &checker.settings.name)).finish()
    }
}

/// Why one credential lets nobody in, the farthest from entering first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Unfit {
    /// Nothing of its kind was shown.
    Missing,
    /// What was shown is not among what is known, or no credential at all.
    Invalid,
    /// It was a good one.
    Expired,
    /// It is a good one, but not for this.
    Forbidden,
}

impl From<Unfit> for Refusal {
    fn from(why: Unfit) -> Self {
        match why {
            Unfit::Missing => Self::CredentialMissing,
            Unfit::Invalid => Self::CredentialInvalid,
            Unfit::Expired => Self::CredentialExpired,
            Unfit::Forbidden => Self::CredentialForbidden,
        }
    }
}

/// Compares what clients show with one credential.
struct Checker {
    settings: Arc<config::Credential>,
    kind: Kind,
}

enum Kind {
    Jwt(jwt::Verifier),
    Tokens(config::Tokens),
    Certificates(config::CertificateNames),
}

/// Whom a log line and a backend can be told of.
const MOST_SUBJECT_BYTES: usize = 1024;

impl Checker {
    fn new(settings: &Arc<config::Credential>) -> Self {
        let kind = match &settings.kind {
            CredentialKind::Jwt(jwt) => Kind::Jwt(jwt::Verifier::new(jwt)),
            CredentialKind::Tokens(tokens) => Kind::Tokens(tokens.clone()),
            CredentialKind::Certificates(names) => Kind::Certificates(names.clone()),
        };
        Self { settings: Arc::clone(settings), kind }
    }

    fn check(
        &self,
        head: &RequestHead,
        captures: &[(String, String)],
        now: SystemTime,
    ) -> Result<Identity, Unfit> {
        match &self.kind {
            Kind::Jwt(verifier) => {
                let (claims, ends) = verifier.verify(&self.token(head)?, now)?;
                self.admit(Claims::of_token(claims), ends, captures)
            }
            Kind::Tokens(tokens) => {
                let known = tokens::find(tokens, &self.token(head)?).ok_or(Unfit::Invalid)?;
                self.admit(Claims::one(SUBJECT, known.name.clone()), None, captures)
            }
            Kind::Certificates(names) => {
                let shown = head.tls.as_ref().and_then(|tls| tls.client.as_ref());
                let shown = shown.ok_or(Unfit::Missing)?;
                if shown.ends <= now {
                    return Err(Unfit::Expired);
                }
                // Of several names, the one that fits the path is the client's.
                let admit =
                    |name| self.admit(Claims::one(SUBJECT, name), Some(shown.ends), captures);
                let mut admitted = certificate::subjects(names, shown).map(admit);
                let first = admitted.next().unwrap_or(Err(Unfit::Forbidden));
                first.or_else(|why| admitted.find_map(Result::ok).ok_or(why))
            }
        }
    }

    fn token<'h>(&self, head: &'h RequestHead) -> Result<Cow<'h, str>, Unfit> {
        match Shown::of(head, self.settings.query.as_deref()) {
            Shown::Token(token) => Ok(token),
            Shown::Nothing => Err(Unfit::Missing),
            Shown::Unusable => Err(Unfit::Invalid),
        }
    }

    /// Lets a client in of whom this is known, if it is what is wanted.
    fn admit(
        &self,
        claims: Claims,
        ends: Option<SystemTime>,
        captures: &[(String, String)],
    ) -> Result<Identity, Unfit> {
        let subject = claims.value(SUBJECT).map(str::to_owned);
        if subject.as_ref().is_some_and(|subject| subject.len() > MOST_SUBJECT_BYTES) {
            return Err(Unfit::Invalid);
        }
        if !self.settings.claims.iter().all(|rule| claims.fit(rule, captures)) {
            return Err(Unfit::Forbidden);
        }
        Ok(Identity { credential: self.settings.name.clone(), subject, claims, ends })
    }
}

#[cfg(test)]
pub(crate) mod tests;
