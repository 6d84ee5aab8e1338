//! QPACK, and what the fields of a request must be.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue};

use crate::webtransport::{
    fields::{self, Malformed, Request},
    qpack::{self, BadSection, Field},
};

/// A field section, behind two bytes that say how large its fields may be.
pub fn field_section(data: &[u8]) {
    let Some((most, section)) = data.split_first_chunk() else { return };
    let most = u64::from(u16::from_be_bytes(*most));
    let within = qpack::decode(section, most);
    let unbounded = qpack::decode(section, u64::MAX);
    match &within {
        Ok(fields) => {
            assert!(size(fields) <= most, "more than may be");
            assert_eq!(within, unbounded, "the limit changes what is read");
        }
        // What comes after the limit is not looked at, and may be anything.
        Err(BadSection::TooLarge) => assert!(unbounded.is_err() || unbounded != within),
        Err(BadSection::Undecodable) => assert_eq!(within, unbounded),
    }
    let Ok(fields) = unbounded else { return };
    let encoded = qpack::encode(fields.iter());
    assert_eq!(qpack::decode(&encoded, size(&fields)).as_ref(), Ok(&fields), "written and read");
    check_trailers(&fields);
    if let Ok(request) = fields::check_request(&fields) {
        check_request(&fields, request);
        check_changes(&fields);
    }
}

/// As SETTINGS_MAX_FIELD_SECTION_SIZE counts it.
fn size(fields: &[Field]) -> u64 {
    fields.iter().map(|field| field.name.len() as u64 + field.value.len() as u64 + 32).sum()
}

/// What `http`, and with it h3, would refuse must not pass.
fn check_trailers(fields: &[Field]) {
    if fields::check_trailers(fields).is_ok() {
        assert!(fields.iter().all(is_field));
    }
}

fn is_field(field: &Field) -> bool {
    HeaderName::from_lowercase(&field.name).is_ok() && HeaderValue::from_bytes(&field.value).is_ok()
}

/// What a sound request looks like, said in another way than where it is checked.
fn check_request(fields: &[Field], request: Request) {
    let pseudo = fields.iter().take_while(|field| field.name.starts_with(b":")).count();
    let (pseudo, regular) = fields.split_at(pseudo);
    assert!(regular.iter().all(is_field));
    let one = |name: &str| {
        let mut found = fields.iter().filter(|field| *field.name == *name.as_bytes());
        let value = found.next().map(|field| &*field.value);
        assert!(found.next().is_none(), "{name} comes twice");
        value
    };
    let [method, scheme, authority, path, protocol, host] =
        [":method", ":scheme", ":authority", ":path", ":protocol", "host"].map(one);
    let known = [method, scheme, authority, path, protocol].into_iter().flatten();
    assert_eq!(known.clone().count(), pseudo.len(), "another pseudo-header");
    assert!(known.clone().flatten().all(u8::is_ascii_graphic), "blanks");
    assert!(known.into_iter().all(|value| !value.is_empty()));
    assert_eq!(request.is_connect, method == Some(b"CONNECT"));
    assert_eq!(request.protocol.is_some(), protocol.is_some());
    assert!(request.is_connect || protocol.is_none());
    let is_tunnel = request.is_connect && protocol.is_none();
    assert_eq!((scheme.is_some(), path.is_some()), (!is_tunnel, !is_tunnel));
    let target = authority.or(host).expect("whom it is for");
    assert!(host.is_none_or(|host| host == target), "two hosts");
    assert!(!target.contains(&b'@') && path.is_none_or(|path| !path.contains(&b'#')));
}

/// A sound request that is changed in one of these ways is sound no more.
fn check_changes(fields: &[Field]) {
    let field = |name: &'static str, value: &'static str| Field {
        name: Cow::Borrowed(name.as_bytes()),
        value: Cow::Borrowed(value.as_bytes()),
    };
    let first = fields.first().expect("a method at least").clone();
    for more in [
        first,
        field(":status", "200"),
        field("Upper", "x"),
        field("connection", "close"),
        field("x", "a\nb"),
    ] {
        let changed: Vec<_> = fields.iter().cloned().chain([more]).collect();
        assert_eq!(fields::check_request(&changed), Err(Malformed), "{:?}", changed.last());
    }
}
