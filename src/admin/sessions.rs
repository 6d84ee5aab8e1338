//! `/api/sessions`: the sessions that live, and ending them.

mod details;

use std::{net::IpAddr, time::UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::info;
use ulid::Ulid;

use self::details::Details;
use super::{
    http::{Answer, Change, Get, Verb},
    query::Parameters,
};
use crate::{
    bridge::Farewell,
    reason::Ending,
    session::registry::{LiveSession, Registry, Selection},
};

/// Below it stand the sessions.
const ROOT: &str = "/api/sessions";

/// Sessions of one answer, if nothing is said.
const DEFAULT_LIMIT: usize = 100;

/// What an answer holds at most: with [`MOST_TEXT`] some 2 MB, made in a few milliseconds.
const MOST_LIMIT: usize = 1000;

/// Bytes of each text of the client's in a list. Details have all of it.
const MOST_TEXT: usize = 256;

/// What the protocol carries of a reason (draft-ietf-webtrans-http3-16 section 6).
const MOST_REASON_BYTES: usize = 1024;

/// Answers a GET, if it is for this part.
pub(super) fn get(get: &Get<'_>, sessions: &Registry) -> Option<Answer> {
    let answer = match Place::of(get.path)? {
        Place::All => list(get.query, sessions),
        Place::One(id) => {
            return Some(match sessions.get(id) {
                Some(session) => Answer::json(&Details::of(&session)),
                None => no_session(),
            });
        }
        Place::EndAll | Place::EndOne(_) => return Some(Answer::method_not_allowed("POST")),
    };
    Some(answer.unwrap_or_else(bad_request))
}

/// Answers a POST, if it is for this part.
pub(super) fn change(change: &Change<'_>, sessions: &Registry) -> Option<Answer> {
    let place = Place::of(change.path)?;
    let answer = match (change.verb, place) {
        (Verb::Post, Place::EndOne(id)) => end_one(id, change, sessions),
        (Verb::Post, Place::EndAll) => end_all(change, sessions),
        (_, Place::EndOne(_) | Place::EndAll) => return Some(Answer::method_not_allowed("POST")),
        (_, Place::All | Place::One(_)) => return None,
    };
    Some(answer.unwrap_or_else(bad_request))
}

fn bad_request(why: String) -> Answer {
    Answer::bad_request(why + "\n")
}

fn no_session() -> Answer {
    Answer::not_found_because("no session with this id is there; it may have ended\n")
}

/// What a path means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    All,
    One(Ulid),
    EndAll,
    EndOne(Ulid),
}

impl Place {
    fn of(path: &str) -> Option<Self> {
        let rest = path.strip_prefix(ROOT)?;
        let Some(rest) = rest.strip_prefix('/') else {
            return rest.is_empty().then_some(Self::All);
        };
        match rest.split_once('/') {
            None if rest == "end" => Some(Self::EndAll),
            None => rest.parse().ok().map(Self::One),
            Some((id, "end")) => id.parse().ok().map(Self::EndOne),
            Some(_) => None,
        }
    }
}

fn selection(query: &mut Parameters) -> Result<Selection, String> {
    Ok(Selection {
        id: None,
        route: query.take("route")?,
        backend: query.take("backend")?,
        endpoint: query.take("endpoint")?,
        subject: query.take("subject")?,
        client: query.take_as::<IpAddr>("client", "IP address")?,
    })
}

fn list(query: &str, sessions: &Registry) -> Result<Answer, String> {
    let mut query = Parameters::read(query)?;
    let selection = selection(&mut query)?;
    let after = query.take_as("after", "session id")?;
    let limit = query.take_as("limit", "number")?.unwrap_or(DEFAULT_LIMIT);
    query.end()?;
    if !(1..=MOST_LIMIT).contains(&limit) {
        return Err(format!("limit: write 1 to {MOST_LIMIT}"));
    }
    let page = sessions.page(&selection, after, limit);
    let last = page.sessions.last().filter(|_| page.has_more);
    Ok(Answer::json(&List {
        next: last.map(|session| session.id().to_string()),
        sessions: page.sessions.iter().map(|session| Summary::of(session, MOST_TEXT)).collect(),
    }))
}

fn end_one(id: Ulid, change: &Change<'_>, sessions: &Registry) -> Result<Answer, String> {
    let mut query = Parameters::read(change.query)?;
    let farewell = farewell(change.body, &mut query)?;
    query.end()?;
    let Some(session) = sessions.get(id) else { return Ok(no_session()) };
    let ended = u64::from(session.end(Ending::EndedByOperator, farewell.as_ref()));
    let (code, text) = said(farewell.as_ref());
    info!(session_id = %id, ended, code, text, "An operator ended a session.");
    Ok(Answer::json(&Ended { ended }))
}

fn end_all(change: &Change<'_>, sessions: &Registry) -> Result<Answer, String> {
    let mut query = Parameters::read(change.query)?;
    let selection = selection(&mut query)?;
    let farewell = farewell(change.body, &mut query)?;
    query.end()?;
    if selection.is_everything() {
        return Err("say which: route, backend, endpoint, subject or client".to_owned());
    }
    let takes = |session: &LiveSession| selection.takes(session);
    let ended = sessions.end(takes, Ending::EndedByOperator, farewell.as_ref());
    let (code, text) = said(farewell.as_ref());
    let Selection { route, backend, endpoint, subject, client, .. } = &selection;
    let client = client.map(tracing::field::display);
    info!(
        route,
        backend, endpoint, subject, client, ended, code, text, "An operator ended sessions."
    );
    Ok(Answer::json(&Ended { ended }))
}

fn said(farewell: Option<&Farewell>) -> (Option<u32>, Option<&str>) {
    (farewell.map(|said| said.code), farewell.map(|said| said.text.as_str()))
}

/// Code and reason for the client: of the body, a JSON object, or of the query.
fn farewell(body: &[u8], query: &mut Parameters) -> Result<Option<Farewell>, String> {
    let in_query =
        Words { code: query.take_as("code", "number of 32 bits")?, reason: query.take("reason")? };
    let words = if body.trim_ascii().is_empty() {
        in_query
    } else if in_query.code.is_some() || in_query.reason.is_some() {
        return Err("write code and reason in the query or in the body, not in both".to_owned());
    } else {
        serde_json::from_slice(body).map_err(|error| format!("the body: {error}"))?
    };
    if words.reason.as_ref().is_some_and(|reason| reason.len() > MOST_REASON_BYTES) {
        return Err(format!("reason: more than {MOST_REASON_BYTES} bytes cannot be told"));
    }
    if words.code.is_none() && words.reason.is_none() {
        return Ok(None);
    }
    let default = Ending::EndedByOperator;
    Ok(Some(Farewell {
        code: words.code.unwrap_or_else(|| default.code()),
        text: words.reason.unwrap_or_else(|| default.word().to_owned()),
    }))
}

/// What the client is told.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    code: Option<u32>,
    reason: Option<String>,
}

/// The answer to an end.
#[derive(Serialize)]
struct Ended {
    ended: u64,
}

/// The body of `GET /api/sessions`.
#[derive(Serialize)]
struct List {
    sessions: Vec<Summary>,
    /// `after` of the next page; null at the end.
    next: Option<String>,
}

/// One session in short.
#[derive(Serialize)]
struct Summary {
    id: String,
    route: String,
    backend: String,
    endpoint: String,
    client: String,
    subject: Option<String>,
    origin: Option<String>,
    authority: String,
    path: String,
    dialect: &'static str,
    protocol: Option<String>,
    began_unix_seconds: u64,
    age_seconds: u64,
    streams: u64,
    streams_open: u64,
    bytes_up: u64,
    bytes_down: u64,
    bytes_lost: u64,
    datagrams_up: u64,
    datagrams_down: u64,
    datagrams_lost: u64,
}

impl Summary {
    fn of(session: &LiveSession, most_text: usize) -> Self {
        let (client, totals) = (session.client(), session.totals());
        let short = |text: &str| shortened(text, most_text);
        let began = session.began().and_then(|began| began.duration_since(UNIX_EPOCH).ok());
        Self {
            id: session.id().to_string(),
            route: session.route().to_owned(),
            backend: session.backend().to_owned(),
            endpoint: session.endpoint(),
            client: client.source().to_string(),
            subject: client.subject.as_deref().map(short),
            origin: client.head.origin.as_deref().map(short),
            authority: short(&client.head.authority),
            path: short(&client.head.path),
            dialect: client.head.dialect,
            protocol: client.protocol.as_deref().map(short),
            began_unix_seconds: began.unwrap_or_default().as_secs(),
            age_seconds: session.age().as_secs(),
            streams: totals.streams.get(),
            streams_open: session.open_bidi_streams() + session.open_uni_streams(),
            bytes_up: totals.up.stream_bytes.delivered.get(),
            bytes_down: totals.down.stream_bytes.delivered.get(),
            bytes_lost: totals.lost_stream_bytes(),
            datagrams_up: totals.up.datagrams.delivered.get(),
            datagrams_down: totals.down.datagrams.delivered.get(),
            datagrams_lost: totals.lost_datagrams(),
        }
    }
}

/// The text, or as much of it as whole characters fit, with a sign that there was more.
fn shortened(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    let start = text.get(..end).unwrap_or_default();
    format!("{start}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    #[test]
    fn paths_name_one_session_or_all() {
        let id = ID.parse().unwrap();
        for (path, place) in [
            ("/api/sessions".to_owned(), Some(Place::All)),
            (format!("/api/sessions/{ID}"), Some(Place::One(id))),
            (format!("/api/sessions/{ID}/end"), Some(Place::EndOne(id))),
            ("/api/sessions/end".to_owned(), Some(Place::EndAll)),
            ("/api/sessions/".to_owned(), None),
            ("/api/sessionsx".to_owned(), None),
            ("/api/sessions/nobody".to_owned(), None),
            (format!("/api/sessions/{ID}/stop"), None),
            (format!("/api/sessions/{ID}/end/"), None),
        ] {
            assert_eq!(Place::of(&path), place, "{path}");
        }
    }

    #[test]
    fn code_and_reason_come_from_the_query_or_from_the_body() {
        let own = |code, text: &str| Ok(Some(Farewell { code, text: text.into() }));
        let long = "x".repeat(1025);
        for (query, body, wanted) in [
            ("", "", Ok(None)),
            ("", " \n", Ok(None)),
            ("code=7", "", own(7, "ended_by_operator")),
            ("reason=over+now", "", own(8, "over now")),
            ("code=4294967295&reason=", "", own(u32::MAX, "")),
            ("", r#"{"code": 0, "reason": "bye"}"#, own(0, "bye")),
            ("code=7", "{}", Err("write code and reason in the query or in the body, not in both")),
            ("code=4294967296", "", Err("code: \"4294967296\" is no number of 32 bits")),
            ("", r#"{"cod": 1}"#, Err("the body: unknown field `cod`")),
            ("", "[", Err("the body: EOF")),
            (&format!("reason={long}"), "", Err("reason: more than 1024 bytes")),
        ] {
            let found = farewell(body.as_bytes(), &mut Parameters::read(query).unwrap());
            match (found, wanted) {
                (Ok(found), Ok(wanted)) => assert_eq!(found, wanted, "{query} {body}"),
                (Err(found), Err(wanted)) => assert!(found.starts_with(wanted), "{found}"),
                (found, _) => panic!("{query} {body}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("abcd", 3), "abc…");
        assert_eq!(shortened("aéb", 2), "a…");
    }
}
