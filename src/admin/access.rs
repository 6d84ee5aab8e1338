//! Who may do what on the admin listener.
//!
//! | | on loopback | elsewhere |
//! | --- | --- | --- |
//! | numbers, health, backends | everyone | everyone |
//! | sessions, configuration, log filter | everyone | whoever shows the token |
//! | changes, without a token configured | everyone | nobody |
//! | changes, with one | whoever shows it | whoever shows it |
//!
//! Browsers are kept out otherwise: a change that has an `Origin` never comes this far (`http`), and on
//! loopback nothing below `/api/` is told or changed under a host's name that anybody could have pointed at
//! this machine (DNS rebinding).

use std::net::IpAddr;

use super::{
    http::{Answer, Asker},
    token::Token,
};

/// What a request wants to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wants {
    /// See numbers and health.
    Numbers,
    /// See the API's part of them.
    Overview,
    /// See sessions or settings.
    Details,
    /// Change something.
    Change,
}

impl Wants {
    /// What a GET of this path wants.
    pub(super) fn to_see(path: &str) -> Self {
        match path.strip_prefix("/api/") {
            None => Self::Numbers,
            Some(rest) if rest == "backends" || rest.starts_with("backends/") => Self::Overview,
            Some(_) => Self::Details,
        }
    }
}

/// What is known of the listener.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) is_loopback: bool,
    pub(super) token: Option<Token>,
}

/// Why somebody may not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Denied {
    /// Under the name of a host that could be anyone's.
    ForeignHost,
    /// Not on loopback, and there is no token to ask for.
    NobodyMay,
    /// A token is wanted and not shown.
    NoToken,
    /// Another token was shown.
    WrongToken,
}

impl Access {
    /// Decides on one request.
    pub(super) fn check(&self, wants: Wants, asker: &Asker<'_>) -> Result<(), Denied> {
        if wants == Wants::Numbers {
            return Ok(());
        }
        if self.is_loopback && !asker.host.is_none_or(is_own_host) {
            return Err(Denied::ForeignHost);
        }
        let is_open = match wants {
            Wants::Numbers | Wants::Overview => true,
            Wants::Details => self.is_loopback,
            Wants::Change => self.is_loopback && self.token.is_none(),
        };
        match (&self.token, asker.bearer) {
            _ if is_open => Ok(()),
            (None, _) => Err(Denied::NobodyMay),
            (Some(_), None) => Err(Denied::NoToken),
            (Some(token), Some(shown)) if token.is(shown) => Ok(()),
            (Some(_), Some(_)) => Err(Denied::WrongToken),
        }
    }
}

impl Denied {
    pub(super) fn answer(self) -> Answer {
        match self {
            Self::ForeignHost => Answer::forbidden(
                "on loopback this is for localhost and addresses alone, not for other hosts' names\n",
            ),
            Self::NobodyMay => Answer::forbidden(
                "the admin listener is not on loopback and has no `admin.token`: it shows no more \
                 than numbers and changes nothing\n",
            ),
            Self::NoToken => Answer::unauthorized("show the token: Authorization: Bearer TOKEN\n"),
            Self::WrongToken => Answer::unauthorized("this is not the token\n"),
        }
    }
}

/// Whether a `Host` cannot be a name that somebody else has pointed here: an address, or localhost, which
/// browsers resolve by themselves.
fn is_own_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::secret;

    #[test]
    fn who_may_do_what() {
        const TOKEN: &str = "0123456789abcdef0123456789abcdef";
        use Denied::{NoToken, NobodyMay, WrongToken};
        use Wants::{Change, Details, Numbers, Overview};
        let token = Token::new(&secret(TOKEN)).unwrap();
        assert!(!format!("{token:?}").contains(TOKEN));
        let (right, wrong) = (Some(TOKEN), Some("0123456789abcdef0123456789abcdeg"));
        for (is_loopback, has_token, wants, shown, verdict) in [
            (true, false, Numbers, None, Ok(())),
            (true, false, Details, None, Ok(())),
            (true, false, Change, None, Ok(())),
            (true, false, Change, wrong, Ok(())),
            (true, true, Details, None, Ok(())),
            (true, true, Change, None, Err(NoToken)),
            (true, true, Change, wrong, Err(WrongToken)),
            (true, true, Change, Some(""), Err(WrongToken)),
            (true, true, Change, right, Ok(())),
            (false, false, Numbers, None, Ok(())),
            (false, false, Overview, None, Ok(())),
            (false, false, Details, None, Err(NobodyMay)),
            (false, false, Change, right, Err(NobodyMay)),
            (false, true, Overview, None, Ok(())),
            (false, true, Details, None, Err(NoToken)),
            (false, true, Details, right, Ok(())),
            (false, true, Change, wrong, Err(WrongToken)),
            (false, true, Change, right, Ok(())),
        ] {
            let access = Access { is_loopback, token: has_token.then(|| token.clone()) };
            let asker = Asker { host: Some("127.0.0.1:9090"), bearer: shown.map(str::as_bytes) };
            let found = access.check(wants, &asker);
            assert_eq!(
                found, verdict,
                "loopback {is_loopback}, token {has_token}, {wants:?}, {shown:?}"
            );
        }
    }

    #[test]
    fn a_name_that_anybody_could_point_here_gets_nothing_on_loopback() {
        for (host, is_own) in [
            (Some("127.0.0.1"), true),
            (Some("127.0.0.1:9090"), true),
            (Some("[::1]:9090"), true),
            (Some("[::1]"), true),
            (Some("LocalHost:9090"), true),
            (Some("10.0.0.1:80"), true),
            (Some("evil.test:9090"), false),
            (Some("localhost.evil.test"), false),
            (Some("127.0.0.1.evil.test:9090"), false),
            (Some(""), false),
            (Some("?"), false),
            // Before HTTP/1.1; no browser.
            (None, true),
        ] {
            let asker = Asker { host, bearer: None };
            let mut access = Access { is_loopback: true, token: None };
            for wants in [Wants::Overview, Wants::Details, Wants::Change] {
                let verdict = if is_own { Ok(()) } else { Err(Denied::ForeignHost) };
                assert_eq!(access.check(wants, &asker), verdict, "{host:?}");
            }
            assert_eq!(access.check(Wants::Numbers, &asker), Ok(()));
            access.is_loopback = false;
            assert_eq!(access.check(Wants::Overview, &asker), Ok(()));
        }
    }

    #[test]
    fn what_a_path_shows() {
        for (path, wants) in [
            ("/metrics", Wants::Numbers),
            ("/", Wants::Numbers),
            ("/api/backends", Wants::Overview),
            ("/api/backends/a/endpoints/b/drain", Wants::Overview),
            ("/api/backendsx", Wants::Details),
            ("/api/sessions", Wants::Details),
            ("/api/config", Wants::Details),
            ("/api/anything", Wants::Details),
        ] {
            assert_eq!(Wants::to_see(path), wants, "{path}");
        }
    }
}
