//! The gate as a whole.

pub(crate) mod jwt;

use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::{
    config::{CertificateName, CertificateNames, ClaimRule, Credential, Token, Tokens, Wanted},
    transport::{AlternativeName, ClientCertificate, Tls},
};

/// The clock of these tests.
const NOW: SystemTime = UNIX_EPOCH;

/// A credential of one token, which stands for this name.
fn one_token(name: Option<&str>, token: &str, claims: &[(&str, Wanted)]) -> Arc<Credential> {
    let rule = |(claim, wanted): &(&str, Wanted)| ClaimRule {
        claim: (*claim).to_owned(),
        wanted: wanted.clone(),
    };
    let token = Token { name: name.map(str::to_owned), sha256: token_hash(token) };
    Arc::new(Credential {
        name: format!("of-{}", name.unwrap_or("nobody")),
        kind: CredentialKind::Tokens(Tokens { file: "tokens".into(), list: vec![token] }),
        query: None,
        claims: claims.iter().map(rule).collect(),
    })
}

fn with_token(token: &str) -> RequestHead {
    RequestHead {
        authorization: Some(format!("Bearer {token}")).into(),
        ..RequestHead::for_tests()
    }
}

#[test]
fn a_route_without_credentials_asks_for_nothing() {
    let gate = Gate::new(&[]);
    assert_eq!(gate.check(&RequestHead::for_tests(), &[], NOW), Ok(None));
    assert_eq!(gate.check(&with_token("any"), &[], NOW), Ok(None));
}

#[test]
fn any_of_the_credentials_lets_in_and_the_nearest_miss_is_told() {
    let closed = [("sub", Wanted::Text("nobody".into()))];
    let gate = Gate::new(&[
        one_token(Some("alice"), "first", &[]),
        one_token(Some("bob"), "second", &[]),
        one_token(Some("carol"), "third", &closed),
    ]);
    let check = |head: &RequestHead| gate.check(head, &[], NOW);
    let identity = |name: &str| Identity {
        credential: format!("of-{name}"),
        subject: Some(name.to_owned()),
        claims: Claims::one("sub", [name.to_owned()]),
        ends: None,
    };
    assert_eq!(check(&with_token("first")), Ok(Some(identity("alice"))));
    assert_eq!(check(&with_token("second")), Ok(Some(identity("bob"))));
    assert_eq!(check(&with_token("third")), Err(Refusal::CredentialForbidden));
    assert_eq!(check(&with_token("fourth")), Err(Refusal::CredentialInvalid));
    assert_eq!(check(&RequestHead::for_tests()), Err(Refusal::CredentialMissing));
}

/// `/game/{user}` for the user alone, however the path is written.
#[test]
fn a_subject_limits_the_path_as_it_is_meant() {
    let own = [("sub", Wanted::Capture("user".into()))];
    for (subject, capture, fits) in [
        (Some("alice"), "alice", true),
        (Some("a b"), "a%20b", true),
        (Some("a%20b"), "a%2520b", true),
        (Some("a%20b"), "a%20b", false),
        (Some("é"), "%C3%A9", true),
        (Some("alice"), "Alice", false),
        (Some("alice"), "alice%20", false),
        (Some("alice"), "alicea", false),
        (Some("a/b"), "a/b", true),
        (Some(""), "", false),
        (None, "alice", false),
    ] {
        let gate = Gate::new(&[one_token(subject, "first", &own)]);
        let captures = [("room".to_owned(), "alice".to_owned()), ("user".into(), capture.into())];
        let found = gate.check(&with_token("first"), &captures, NOW);
        assert_eq!(found.is_ok(), fits, "{subject:?} {capture}");
        if !fits {
            assert_eq!(found, Err(Refusal::CredentialForbidden));
        }
        // Without the capture nothing fits.
        assert!(gate.check(&with_token("first"), &[], NOW).is_err());
    }
}

#[test]
fn nothing_that_is_compared_is_shown() {
    let gate = Gate::new(&[one_token(Some("alice"), "first", &[])]);
    let shown = format!("{gate:?} {:?}", with_token("first"));
    assert!(shown.contains("of-alice") && !shown.contains("first"), "{shown}");
}

/// A certificate has been verified by TLS; what is left is whom it names, and until when.
#[test]
fn a_certificate_lets_in_by_the_name_that_fits_until_it_ends() {
    let credential = |certificates, claims: &[(&str, Wanted)]| {
        let rule = |(claim, wanted): &(&str, Wanted)| ClaimRule {
            claim: (*claim).to_owned(),
            wanted: wanted.clone(),
        };
        Arc::new(Credential {
            name: "fleet".into(),
            kind: CredentialKind::Certificates(certificates),
            query: None,
            claims: claims.iter().map(rule).collect(),
        })
    };
    let end = NOW + Duration::from_secs(10);
    let names = ["a.fleet.test", "b.fleet.test"].map(|name| AlternativeName::Dns(name.into()));
    let client = ClientCertificate { names: names.to_vec(), common_name: None, ends: end };
    let tls = |client| Tls { version: "TLSv1.3", alpn: Vec::new(), server_name: None, client };
    let with =
        |client| RequestHead { tls: Some(Arc::new(tls(client))), ..RequestHead::for_tests() };
    let wanted = |name: &str| CertificateNames::List(vec![CertificateName::Dns(name.into())]);
    let own = [("sub", Wanted::Capture("robot".into()))];
    let captures = |robot: &str| [("robot".to_owned(), robot.to_owned())];
    for (certificates, claims, robot, now, admitted) in [
        (CertificateNames::Any, &[][..], "x", NOW, Ok("a.fleet.test")),
        (wanted("b.fleet.test"), &[], "x", NOW, Ok("b.fleet.test")),
        (wanted("c.fleet.test"), &[], "x", NOW, Err(Refusal::CredentialForbidden)),
        (CertificateNames::Any, &own, "b.fleet.test", NOW, Ok("b.fleet.test")),
        (CertificateNames::Any, &own, "c.fleet.test", NOW, Err(Refusal::CredentialForbidden)),
        (CertificateNames::Any, &[], "x", end, Err(Refusal::CredentialExpired)),
    ] {
        let gate = Gate::new(&[credential(certificates, claims)]);
        let found = gate.check(&with(Some(client.clone())), &captures(robot), now);
        let found = found.map(|identity| identity.map(|i| (i.subject.unwrap(), i.ends)));
        assert_eq!(found, admitted.map(|name| Some((name.to_owned(), Some(end)))), "{robot}");
        let missing = Err(Refusal::CredentialMissing);
        assert_eq!(gate.check(&with(None), &captures(robot), now), missing);
        assert_eq!(gate.check(&RequestHead::for_tests(), &captures(robot), now), missing);
        // A token is no certificate.
        assert_eq!(gate.check(&with_token("a.fleet.test"), &captures(robot), now), missing);
    }
}
