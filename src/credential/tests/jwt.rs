//! Signed tokens: those of other libraries, and those of people who should not be let in.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;
use crate::config::Config;

/// Where the tokens and keys are that another library has made; see `make.py` there.
fn fixtures() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/credential/fixtures"))
}

/// The clock of the fixtures.
fn fixtures_now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

/// The gate of a route with this credential, as a file has it.
fn gate(jwt: &str) -> Gate {
    let text = format!(
        "version = 1\n[[listener]]\nquic = [\"127.0.0.1:0\"]\nself_signed = [\"localhost\"]\n\
         [[route]]\npath = \"/game/{{room}}\"\norigins = \"any\"\nbackend = \"b\"\ncredentials = [\"c\"]\n\
         [backend.b]\nendpoints = [{{ tcp = \"127.0.0.1:1\" }}]\n[credential.c]\n{jwt}\n"
    );
    let config = Config::parse(&text, "test.toml", fixtures()).unwrap_or_else(|p| panic!("{p}"));
    Gate::new(&config.routes[0].credentials)
}

fn check(gate: &Gate, token: &str, now: SystemTime) -> Result<Identity, Refusal> {
    gate.check(&with_token(token), &[], now).map(Option::unwrap)
}

const ALL_KEYS: &str = "[credential.c.jwt]\nkeys = [{ jwks = \"keys.json\" }]\naudience = [\"game\"]\n\
                        issuer = [\"https://login.example.com\"]";

/// Every token of the list, against keys in each of their forms.
#[test]
fn tokens_of_another_library_are_good_and_forged_ones_are_not() {
    let tokens: BTreeMap<String, String> =
        serde_json::from_slice(&fs::read(fixtures().join("tokens.json")).unwrap()).unwrap();
    assert!(tokens.len() > 40);
    let files = "[credential.c.jwt]\naudience = [\"shop-window\", \"game\"]\n\
                 issuer = [\"https://login.example.com\"]\nkeys = [\n\
                 { public_key = \"rs256.pem\", kid = \"rs\" }, { public_key = \"es256.pem\", kid = \"es\" },\n\
                 { public_key = \"eddsa.pem\", kid = \"ed\" }, { secret = { file = \"hs256.secret\" }, kid = \"hs\" },\n]";
    for gate in [gate(ALL_KEYS), gate(files)] {
        for (name, token) in &tokens {
            let found = check(&gate, token, fixtures_now());
            if name.starts_with("good") {
                let identity = found.unwrap_or_else(|why| panic!("{name}: {why}"));
                assert_eq!(identity.subject.as_deref(), Some("alice"), "{name}");
                assert_eq!(identity.claims.value("room"), Some("lobby"), "{name}");
            } else if name.starts_with("expired") {
                assert_eq!(found, Err(Refusal::CredentialExpired), "{name}");
            } else {
                assert_eq!(found, Err(Refusal::CredentialInvalid), "{name}");
            }
        }
    }
}

/// A key without a `kid` is tried for every token of its algorithm, and for no other: not its public part as a
/// secret, not for another algorithm.
#[test]
fn a_lone_key_needs_no_kid() {
    let tokens: BTreeMap<String, String> =
        serde_json::from_slice(&fs::read(fixtures().join("tokens.json")).unwrap()).unwrap();
    let gate =
        gate("[credential.c.jwt]\nkeys = [{ public_key = \"rs256.pem\" }]\naudience = [\"game\"]");
    for (name, token) in &tokens {
        let found = check(&gate, token, fixtures_now());
        assert_eq!(found.is_ok(), name == "good RS256", "{name}");
    }
}

/// RFC 7515, appendices A.1 to A.3: the same claims under three algorithms. They end on 22 March 2011 at 18:43.
#[test]
fn the_examples_of_the_specification_are_good_until_they_end() {
    let body = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let hs = format!(
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{body}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    );
    let es = format!(
        "eyJhbGciOiJFUzI1NiJ9.{body}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    );
    let jwks = r#"{"keys":[
        {"kty":"oct","alg":"HS256","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"},
        {"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    let folder = std::env::temp_dir().join(format!("tidegate-rfc7515-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("keys.json");
    fs::write(&file, jwks).unwrap();
    let gate = gate(&format!(
        "[credential.c.jwt]\nkeys = [{{ jwks = {file:?} }}]\nissuer = [\"joe\"]\nleeway = \"0s\""
    ));
    fs::remove_dir_all(&folder).unwrap();
    let end = UNIX_EPOCH + Duration::from_secs(1_300_819_380);
    for token in [&hs, &es] {
        let good = check(&gate, token, end - Duration::from_millis(1)).unwrap();
        assert_eq!((good.subject, good.ends), (None, Some(end)));
        assert_eq!(good.claims.value("http://example.com/is_root"), Some("true"));
        assert_eq!(check(&gate, token, end), Err(Refusal::CredentialExpired));
    }
}

/// What tokens that are made here are signed with.
pub(crate) const SECRET: &[u8] = b"a-secret-of-the-tests-that-is-long-enough";

/// A token made here, of these claims.
pub(crate) fn token(claims: &str) -> String {
    let message = [r#"{"alg":"HS256"}"#, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let signature = crypto::hs256(SECRET, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The leeway counts at both ends, to the fraction of a second.
#[test]
fn a_token_is_good_between_its_times() {
    let secret = "keys = [{ secret = { file = \"hs256.secret\" } }]";
    let at = |seconds: f64| UNIX_EPOCH + Duration::from_secs_f64(seconds);
    let (good, expired, invalid) =
        (None, Some(Refusal::CredentialExpired), Some(Refusal::CredentialInvalid));
    for (leeway, claims, now, refused, ends) in [
        ("0s", r#"{"exp":1000}"#, 999.9, good, 1000.0),
        ("0s", r#"{"exp":1000}"#, 1000.0, expired, 0.0),
        ("0s", r#"{"exp":1000.5}"#, 1000.4, good, 1000.5),
        ("0s", r#"{"exp":1000.5}"#, 1000.5, expired, 0.0),
        ("10s", r#"{"exp":1000}"#, 1009.9, good, 1010.0),
        ("10s", r#"{"exp":1000}"#, 1010.0, expired, 0.0),
        ("10s", r#"{"exp":2000,"nbf":1000}"#, 990.0, good, 2010.0),
        ("10s", r#"{"exp":2000,"nbf":1000}"#, 989.9, invalid, 0.0),
        ("0s", r#"{"exp":2000,"nbf":1000.5}"#, 1000.4, invalid, 0.0),
        ("0s", r#"{"exp":1e30}"#, 1.0, invalid, 0.0),
    ] {
        let gate = gate(&format!("[credential.c.jwt]\n{secret}\nleeway = \"{leeway}\""));
        match (check(&gate, &token(claims), at(now)), refused) {
            (Ok(identity), None) => assert_eq!(identity.ends, Some(at(ends)), "{claims} {now}"),
            (found, refused) => assert_eq!(found.err(), refused, "{claims} {now}"),
        }
    }
}

#[test]
fn a_token_without_an_end_needs_leave() {
    let secret = "keys = [{ secret = { file = \"hs256.secret\" } }]";
    let strict = gate(&format!("[credential.c.jwt]\n{secret}"));
    assert_eq!(check(&strict, &token("{}"), NOW), Err(Refusal::CredentialInvalid));
    let lenient = gate(&format!("[credential.c.jwt]\n{secret}\nrequire_expiry = false"));
    assert_eq!(check(&lenient, &token("{}"), NOW).unwrap().ends, None);
    // What has an end has to be sound all the same.
    let late = fixtures_now();
    assert_eq!(check(&lenient, &token(r#"{"exp":5}"#), late), Err(Refusal::CredentialExpired));
    assert_eq!(check(&lenient, &token(r#"{"exp":"5"}"#), late), Err(Refusal::CredentialInvalid));
}

/// Whom a token is for is asked for, or nobody is let in with one that says so (RFC 7519 section 4.1.3).
#[test]
fn a_token_for_somebody_else_is_refused_though_nobody_asks() {
    let secret = "keys = [{ secret = { file = \"hs256.secret\" } }]";
    let gate = gate(&format!("[credential.c.jwt]\n{secret}"));
    assert!(check(&gate, &token(r#"{"exp":9}"#), NOW).is_ok());
    for audience in [r#""shop""#, r#"["shop"]"#, r#"["shop",5]"#, "[]", "5", "{}", "null"] {
        let other = token(&format!(r#"{{"exp":9,"aud":{audience}}}"#));
        assert_eq!(check(&gate, &other, NOW), Err(Refusal::CredentialInvalid), "{audience}");
    }
}

/// What is no audience or issuer at all equals none that is wanted.
#[test]
fn an_audience_or_issuer_of_another_kind_lets_nobody_in() {
    let gate = gate(
        "[credential.c.jwt]\nkeys = [{ secret = { file = \"hs256.secret\" } }]\n\
         audience = [\"game\"]\nissuer = [\"login\"]",
    );
    for (audience, issuer, fits) in [
        (r#""game""#, r#""login""#, true),
        (r#"["shop","game"]"#, r#""login""#, true),
        (r#"["game",5]"#, r#""login""#, false),
        (r#"{"game":1}"#, r#""login""#, false),
        ("null", r#""login""#, false),
        ("[]", r#""login""#, false),
        (r#""Game""#, r#""login""#, false),
        (r#""game ""#, r#""login""#, false),
        (r#""game""#, r#"{"login":1}"#, false),
        (r#""game""#, r#"["login",5]"#, false),
        (r#""game""#, "true", false),
        (r#""game""#, "null", false),
    ] {
        let token = token(&format!(r#"{{"exp":9,"aud":{audience},"iss":{issuer}}}"#));
        assert_eq!(check(&gate, &token, NOW).is_ok(), fits, "{audience} {issuer}");
    }
}

/// Claims nested deeper than anybody writes them, and numbers that are no dates.
#[test]
fn odd_claims_of_a_good_signature_are_refused_and_break_nothing() {
    let gate = gate("[credential.c.jwt]\nkeys = [{ secret = { file = \"hs256.secret\" } }]");
    let deep = format!(r#"{{"exp":9,"x":{}{}}}"#, "[".repeat(1500), "]".repeat(1500));
    for claims in [
        deep.as_str(),
        r#"{"exp":-1}"#,
        r#"{"exp":1e400}"#,
        r#"{"exp":1e300}"#,
        r#"{"exp":18446744073709551615}"#,
        r#"{"exp":9,"nbf":1e300}"#,
        r#"{"exp":9,"nbf":"0"}"#,
        r#"{"exp":[9]}"#,
        r#"{"exp":null}"#,
        r#"{"exp":true}"#,
        r#"["exp",9]"#,
        "9",
    ] {
        let found = check(&gate, &token(claims), NOW);
        assert_eq!(found, Err(Refusal::CredentialInvalid), "{}", claims.len());
    }
    let far = check(&gate, &token(r#"{"exp":9007199254740991}"#), NOW).unwrap();
    assert!(far.ends.is_some());
}

#[test]
fn a_claim_limits_the_path() {
    let gate = gate(
        "claims = { room = \"{room}\", role = \"player\" }\n\
         [credential.c.jwt]\nkeys = [{ secret = { file = \"hs256.secret\" } }]",
    );
    for (claims, room, fits) in [
        (r#"{"exp":9,"room":"a b","role":"player"}"#, "a%20b", true),
        (r#"{"exp":9,"room":["x","7"],"role":["admin","player"]}"#, "7", true),
        (r#"{"exp":9,"room":7,"role":"player"}"#, "7", true),
        (r#"{"exp":9,"room":"a%20b","role":"player"}"#, "a%20b", false),
        (r#"{"exp":9,"room":"lobby","role":"player"}"#, "lobby2", false),
        (r#"{"exp":9,"room":"","role":"player"}"#, "", false),
        (r#"{"exp":9,"room":"lobby","role":"players"}"#, "lobby", false),
        (r#"{"exp":9,"room":"lobby"}"#, "lobby", false),
        (r#"{"exp":9,"role":"player"}"#, "lobby", false),
        (r#"{"exp":9,"room":{"lobby":1},"role":"player"}"#, "lobby", false),
    ] {
        let captures = [("room".to_owned(), room.to_owned())];
        let found = gate.check(&with_token(&token(claims)), &captures, NOW);
        assert_eq!(found.err(), (!fits).then_some(Refusal::CredentialForbidden), "{claims} {room}");
    }
}

/// Of several credentials the one that is nearest to entering is told, and a good one lets in whatever the others
/// make of it.
#[test]
fn an_expired_token_is_told_as_such_beside_other_credentials() {
    let jwt = "keys = [{ secret = { file = \"hs256.secret\" } }]\nleeway = \"0s\"";
    let jwt = gate(&format!("[credential.c.jwt]\n{jwt}"));
    let old = token(r#"{"exp":0}"#);
    let both = |settings: &[Arc<Credential>]| {
        let all: Vec<_> = jwt.0.iter().map(|checker| Arc::clone(&checker.settings)).collect();
        Gate::new(&[&all[..], settings].concat())
    };
    let other = both(&[one_token(None, "static-token", &[])]);
    assert_eq!(check(&other, &old, NOW), Err(Refusal::CredentialExpired));
    assert_eq!(
        check(&both(&[one_token(Some("x"), &old, &[])]), &old, NOW).unwrap().subject.as_deref(),
        Some("x")
    );
}

proptest! {
    /// Whatever is sent, the gate answers, and lets nobody in.
    #[test]
    fn no_text_makes_the_verifier_panic(
        header in "(\\{(\"alg\":\"(HS256|ES256|none)\")?,?(\"kid\":(\"es\"|1|null))?,?(\"crit\":\\[\\])?\\}|.{0,20})",
        body in "(\\{(\"exp\":[0-9e.\\-]{0,5})?\\}|.{0,20})",
        signature: Vec<u8>,
    ) {
        let parts = [header.as_bytes(), body.as_bytes(), &signature];
        let token = parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        thread_local! { static GATE: Gate = gate(ALL_KEYS); }
        GATE.with(|gate| {
            prop_assert_eq!(check(gate, &token, NOW), Err(Refusal::CredentialInvalid));
            Ok(())
        })?;
    }

    #[test]
    fn no_token_at_all_makes_the_verifier_panic(token in ".{0,60}") {
        thread_local! { static GATE: Gate = gate(ALL_KEYS); }
        GATE.with(|gate| {
            prop_assert!(check(gate, &token, NOW).is_err());
            Ok(())
        })?;
    }
}
