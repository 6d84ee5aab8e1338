//! Files that a configuration names: the secrets, and what TLS to backends needs.

use std::{process, sync::mpsc, thread};

use super::*;

#[test]
fn a_file_that_cannot_be_read_is_a_problem() {
    let problems = Config::read(Path::new("/no/such/tidegate.toml")).unwrap_err().to_string();
    assert!(problems.starts_with("/no/such/tidegate.toml:1: cannot read it: "), "{problems}");
}

#[test]
fn a_secret_is_read_without_its_line_end_and_never_shown() {
    let folder = Scratch::new("secret");
    let secret = b"0123456789abcdef0123456789abcdef";
    folder.file("secret", &[secret.as_slice(), b"\r\n"].concat());
    let text = VALID.replace("workers = 2", "secret = { file = \"secret\" }");
    let config = Config::parse(&text, "t.toml", &folder.0).unwrap_or_else(|p| panic!("{p}"));

    assert_eq!(config.server.secret.as_ref().unwrap().expose(), secret);
    for shown in [config.effective(), format!("{config:?}")] {
        assert!(shown.contains("***") && !shown.contains("0123456789"), "{shown}");
    }
}

/// Opening a pipe waits for somebody who writes into it, which may be never.
#[test]
fn a_pipe_is_no_file_and_is_not_waited_for() {
    let folder = Scratch::new("pipe");
    let pipe = folder.0.join("pipe");
    assert!(process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let text = VALID.replace("workers = 2", "secret = { file = \"pipe\" }");
    let base = folder.0.clone();
    let (done, read) = mpsc::channel();
    thread::spawn(move || {
        let problems = Config::parse(&text, "t.toml", &base).unwrap_err();
        done.send(problems.to_string()).unwrap();
    });

    let problems = read.recv_timeout(Duration::from_secs(10)).expect("an answer");

    assert!(problems.contains("pipe: it is not a file"), "{problems}");
}

#[test]
fn a_previous_secret_stands_beside_another_one_and_is_never_shown_either() {
    let folder = Scratch::new("previous-secret");
    folder.file("new", b"0123456789abcdef0123456789abcdef\n");
    folder.file("old", b"fedcba9876543210fedcba9876543210\n");
    let parse = |keys| Config::parse(&VALID.replace("workers = 2", keys), "t.toml", &folder.0);

    let both = "secret.file = \"new\"\nprevious_secret.file = \"old\"";
    let config = parse(both).unwrap_or_else(|p| panic!("{p}"));
    let previous = config.server.previous_secret.as_ref().unwrap();
    assert_eq!(previous.expose(), b"fedcba9876543210fedcba9876543210");
    for shown in [config.effective(), format!("{config:?}")] {
        assert!(shown.contains("***") && !shown.contains("fedcba98"), "{shown}");
    }

    for (keys, wanted) in [
        ("previous_secret.file = \"old\"", "previous_secret: stands without `server.secret`"),
        (
            "secret.file = \"new\"\nprevious_secret.file = \"new\"",
            "previous_secret: is the same as `server.secret`",
        ),
        (
            "secret.file = \"new\"\nprevious_secret = {}",
            "previous_secret: write either file or env",
        ),
    ] {
        let problems = parse(keys).unwrap_err().to_string();
        assert!(problems.contains(wanted), "{problems}");
        assert_eq!(problems.lines().count(), 1, "{problems}");
    }
}

#[test]
fn the_admins_token_is_read_fit_for_a_header_and_never_shown() {
    let folder = Scratch::new("admin-token");
    folder.file("good", b"0123456789abcdef0123456789abcdef\n");
    folder.file("blank", b"0123456789abcdef 0123456789abcdef\n");
    folder.file("short", b"0123456789abcdef\n");
    let read = |name: &str| {
        let admin = format!("[admin]\ntoken.file = \"{name}\"");
        Config::parse(&VALID.replace("[admin]", &admin), "t.toml", &folder.0)
    };
    let config = read("good").unwrap();
    let token = config.admin.as_ref().unwrap().token.as_ref().unwrap();
    assert_eq!(token.expose(), b"0123456789abcdef0123456789abcdef");
    for shown in [config.effective(), format!("{config:?}")] {
        assert!(shown.contains("***") && !shown.contains("0123456789abcdef"), "{shown}");
    }
    for (name, said) in [("blank", "admin.token: is not fit"), ("short", "admin.token: 16 bytes")] {
        let problems = read(name).unwrap_err().to_string();
        assert!(problems.contains(said) && !problems.contains("0123"), "{problems}");
    }
}

#[test]
fn a_short_secret_is_refused_without_being_shown() {
    let folder = Scratch::new("short-secret");
    folder.file("secret", b"0123456789\n");
    let text = VALID.replace("workers = 2", "secret = { file = \"secret\" }");
    let problems = Config::parse(&text, "t.toml", &folder.0).unwrap_err().to_string();
    assert!(problems.contains("10 bytes are too short"), "{problems}");
    assert!(!problems.contains("0123"), "{problems}");
}

/// A file with a backend that speaks TLS, in a folder with what it names.
fn with_tls(folder: &Scratch, keys: &str) -> Result<Config, Problems> {
    let made = crate::edge::self_signed(&["localhost".to_owned()]).unwrap();
    let other = crate::edge::self_signed(&["localhost".to_owned()]).unwrap();
    folder.file("chain.pem", made.certificate_pem.as_bytes());
    folder.file("key.pem", made.key_pem.as_bytes());
    folder.file("other.pem", other.key_pem.as_bytes());
    folder.file("empty.pem", b"");
    let noise = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    folder.file("noise.pem", noise);
    let text = VALID.replace("[backend.game]", &format!("[backend.game]\ntls = {{ {keys} }}"));
    Config::parse(&text, "t.toml", &folder.0)
}

#[test]
fn tls_to_a_backend_is_read_with_its_files_and_printed_again() {
    let folder = Scratch::new("tls");
    for keys in [
        "roots = \"chain.pem\"",
        "danger_accept_any = true",
        "roots = \"chain.pem\", server_name = \"a.example\", alpn = [\"h2\", \"game/1\"], \
         certificate = \"chain.pem\", key = \"key.pem\"",
    ] {
        let made = folder.0.join("chain.pem");
        let config = with_tls(&folder, keys).unwrap_or_else(|p| panic!("{p}"));
        assert!(config.backends["game"].tls.is_some());
        let effective = config.effective();
        assert_eq!(valid(&effective), config, "{effective}");
        // What is in a file belongs to it: a backend with another root is another backend.
        let again = with_tls(&folder, keys).unwrap();
        assert_eq!(again == config, keys.starts_with("danger"), "{}", made.display());
    }
}

#[test]
fn files_of_tls_to_a_backend_are_tried_at_once() {
    let folder = Scratch::new("tls-bad");
    for (keys, wanted) in [
        ("roots = \"empty.pem\"", "tls.roots: FOLDER/empty.pem holds no certificate"),
        ("roots = \"key.pem\"", "tls.roots: FOLDER/key.pem holds no certificate"),
        ("roots = \"noise.pem\"", "tls.roots: FOLDER/noise.pem holds no root: "),
        ("roots = \".\"", "tls.roots: cannot read FOLDER/.: it is not a file"),
        (
            "danger_accept_any = true, certificate = \"chain.pem\", key = \"chain.pem\"",
            "tls.key: FOLDER/chain.pem holds no private key",
        ),
        (
            "danger_accept_any = true, certificate = \"chain.pem\", key = \"other.pem\"",
            "tls.key: cannot be used with `backend.game.tls.certificate`: ",
        ),
    ] {
        let wanted = wanted.replace("FOLDER", &folder.0.display().to_string());
        let problems = with_tls(&folder, keys).unwrap_err().to_string();
        assert!(problems.starts_with(&format!("t.toml:30: backend.game.{wanted}")), "{problems}");
        assert_eq!(problems.lines().count(), 1, "{problems}");
    }
}

#[test]
fn tls_is_spoken_to_hosts_that_a_certificate_can_name_and_over_tcp() {
    let folder = Scratch::new("tls-where");
    let keys = "danger_accept_any = true";
    let text = VALID.replace("[backend.game]", &format!("[backend.game]\ntls = {{ {keys} }}"));
    let text = text.replace("tcp = \"game-b.internal:7777\"", "unix = \"b.sock\"");
    let problems = Config::parse(&text, "t.toml", &folder.0).unwrap_err().to_string();
    let wanted = "t.toml:33: backend.game.endpoints[1].unix: TLS is spoken over TCP alone";
    assert!(problems.starts_with(wanted), "{problems}");
}

/// A file with a route that asks for a credential, in a folder with tokens.
fn with_credential(folder: &Scratch, route: &str, credential: &str) -> Result<Config, Problems> {
    let line =
        |name: &str, byte: u8| format!("{name}sha256={}\n", format!("{byte:02x}").repeat(32));
    folder.file("robots", (line("alice:", 1) + &line("bob:", 2)).as_bytes());
    folder.file("nameless", line("", 1).as_bytes());
    folder.file("bad", (line("alice:", 1) + "s3cret\n" + &line("a b:", 2)).as_bytes());
    folder.file("named", line("_x:", 1).as_bytes());
    folder.file("empty", b"# none\n");
    folder.file("es256.pem", include_bytes!("../../../credential/fixtures/es256.pem"));
    folder.file("keys.json", br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"b","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#);
    folder.file("secret", b"0123456789abcdef0123456789abcdef");
    folder.file("short", b"0123456789");
    let text =
        VALID.replace("path = \"/game/{room}\"", &format!("path = \"/game/{{room}}\"\n{route}"));
    Config::parse(&format!("{text}{credential}"), "t.toml", &folder.0)
}

#[test]
fn credentials_are_read_with_their_files_and_printed_again() {
    let folder = Scratch::new("credentials");
    for credential in [
        "[credential.robots]\ntokens = \"robots\"",
        "[credential.robots]\ntokens = \"nameless\"\nquery = \"token\"",
        "[credential.robots]\ntokens = \"robots\"\nclaims = { sub = \"{room}\" }",
        "[credential.robots.jwt]\nkeys = [{ public_key = \"es256.pem\", kid = \"a\" }, { jwks = \"keys.json\" }]\n\
         audience = [\"game\"]\nissuer = [\"me\"]\nleeway = \"1m\"\nrequire_expiry = false",
    ] {
        let config = with_credential(&folder, "credentials = [\"robots\"]", credential);
        let config = config.unwrap_or_else(|p| panic!("{p}"));
        assert_eq!(config.routes[0].credentials, [Arc::clone(&config.credentials["robots"])]);
        assert_eq!(config.routes[1].credentials, []);
        let effective = config.effective();
        assert_eq!(valid(&effective), config, "{effective}");
        assert!(!format!("{effective}{config:?}").contains("0101"), "{effective}");
    }
}

/// Each credential of a route, and the one thing that is said of it.
fn are_wrong(name: &str, cases: &[(&str, &str, &str)]) {
    let folder = Scratch::new(name);
    for (route, credential, wanted) in cases {
        let wanted = wanted.replace("FOLDER", &folder.0.display().to_string());
        let problems = with_credential(&folder, route, credential).unwrap_err().to_string();
        assert!(problems.contains(&format!(": {wanted}")), "{problems}, not {wanted}");
        assert_eq!(problems.lines().count(), 1, "{problems}");
    }
}

#[test]
fn credentials_that_make_no_sense_are_named_by_their_key() {
    let robots = "credentials = [\"robots\"]";
    are_wrong(
        "credentials-bad",
        &[
            (robots, "[credential.robots]", "credential.robots: says nothing of what clients show"),
            (
                robots,
                "[credential.robots]\ntokens = 1",
                "credential.robots.tokens: expected a string",
            ),
            (
                robots,
                "[credential.robots]\ntokens = \"empty\"",
                "credential.robots.tokens: FOLDER/empty holds no token",
            ),
            (
                robots,
                "[credential.robots]\ntokens = \"missing\"",
                "credential.robots.tokens: cannot read FOLDER/missing",
            ),
            (
                robots,
                "[credential.robots]\ntokens = \"named\"",
                "credential.robots.tokens: \"_x\" is no name",
            ),
            (
                robots,
                "[credential.robots]\ntokens = \"robots\"\nquery = \"a b\"",
                "credential.robots.query: \"a b\" is no parameter",
            ),
            (
                robots,
                "[credential.robots]\ntokens = \"robots\"\nclaims = { room = \"{room}\" }",
                "credential.robots.claims.room: nothing but its name is known of it",
            ),
            (
                robots,
                "[credential.robots]\ntokens = \"nameless\"\nclaims = { sub = \"{room}\" }",
                "credential.robots.claims.sub: no token of the file has a name",
            ),
            (
                robots,
                "[credential.robots]\ntokens = \"robots\"\nclaims = { sub = \"{seat}\" }",
                "route[0].credentials[0]: /game/{room} has no capture \"seat\"",
            ),
            (
                robots,
                "[credential.robots]\ntokens = \"robots\"\nclaims = { sub = \"a{room}\" }",
                "credential.robots.claims.sub: \"a{room}\" is no value",
            ),
            (
                "credentials = [\"robot\"]",
                "[credential.robots]\ntokens = \"robots\"",
                "route[0].credentials[0]: no credential is named \"robot\"; did you mean \"robots\"?",
            ),
            (
                "credentials = [\"robots\", \"robots\"]",
                "[credential.robots]\ntokens = \"robots\"",
                "route[0].credentials[1]: \"robots\" stands here twice",
            ),
            (
                "credentials = []",
                "[credential.robots]\ntokens = \"robots\"",
                "route[0].credentials: this list is empty",
            ),
        ],
    );
}

#[test]
fn keys_that_verify_nothing_are_named_by_their_key() {
    let robots = "credentials = [\"robots\"]";
    are_wrong(
        "keys-bad",
        &[
            (
                robots,
                "[credential.robots]\ntokens = \"robots\"\njwt = { keys = [{ public_key = \"es256.pem\" }] }",
                "credential.robots.tokens: stands beside `credential.robots.jwt`",
            ),
            (robots, "[credential.robots.jwt]", "credential.robots.jwt.keys: is missing"),
            (
                robots,
                "[credential.robots.jwt]\nkeys = [{ kid = \"a\" }]",
                "credential.robots.jwt.keys[0]: write exactly one of public_key, jwks and secret",
            ),
            (
                robots,
                "[credential.robots.jwt]\nkeys = [{ public_key = \"es256.pem\", jwks = \"keys.json\" }]",
                "credential.robots.jwt.keys[0]: write exactly one of public_key, jwks and secret",
            ),
            (
                robots,
                "[credential.robots.jwt]\nkeys = [{ public_key = \"secret\" }]",
                "credential.robots.jwt.keys[0].public_key: FOLDER/secret holds no public key in PEM form",
            ),
            (
                robots,
                "[credential.robots.jwt]\nkeys = [{ jwks = \"secret\" }]",
                "credential.robots.jwt.keys[0].jwks: FOLDER/secret: is no set of keys: line 1",
            ),
            (
                robots,
                "[credential.robots.jwt]\nkeys = [{ jwks = \"keys.json\", kid = \"a\" }]",
                "credential.robots.jwt.keys[0].kid: stands beside a JWKS file",
            ),
            (
                robots,
                "[credential.robots.jwt]\nkeys = [{ secret = { file = \"short\" } }]",
                "credential.robots.jwt.keys[0].secret: 10 bytes are too short; at least 32",
            ),
            (
                robots,
                "[credential.robots.jwt]\nkeys = [{ secret = { file = \"es256.pem\" } }]",
                "credential.robots.jwt.keys[0].secret: is a PEM file; a public key is no secret",
            ),
            (
                robots,
                "[credential.robots.jwt]\nkeys = [{ secret = \"0123456789abcdef0123456789abcdef\" }]",
                "credential.robots.jwt.keys[0].secret: a secret does not stand in the file itself",
            ),
            (
                robots,
                "[credential.robots.jwt]\nkeys = [{ public_key = \"es256.pem\" }, { public_key = \"es256.pem\", kid = \"a\" }]",
                "credential.robots.jwt.keys: the same ES256 key stands there twice",
            ),
            (
                robots,
                "[credential.robots.jwt]\nkeys = [{ public_key = \"es256.pem\", kid = \"b\" }, { jwks = \"keys.json\" }]",
                "credential.robots.jwt.keys: two keys have the kid \"b\"",
            ),
            (
                robots,
                "[credential.robots.jwt]\nkeys = [{ public_key = \"es256.pem\" }]\nleeway = \"2h\"",
                "credential.robots.jwt.leeway: ",
            ),
        ],
    );
}

/// Somebody may have written the token itself there.
#[test]
fn a_bad_line_of_a_file_of_tokens_is_named_and_not_shown() {
    let folder = Scratch::new("credentials-lines");
    let robots = "credentials = [\"robots\"]";
    let bad = "[credential.robots]\ntokens = \"bad\"";
    let problems = with_credential(&folder, robots, bad).unwrap_err().to_string();
    assert!(problems.contains("/bad:2: is not NAME:sha256=HEX"), "{problems}");
    assert!(!problems.contains("s3cret"), "{problems}");
}

#[test]
fn a_listener_that_asks_for_certificates_reads_its_roots() {
    let folder = Scratch::new("client-roots");
    let made = crate::edge::self_signed(&["localhost".to_owned()]).unwrap();
    folder.file("roots.pem", made.certificate_pem.as_bytes());
    folder.file("key.pem", made.key_pem.as_bytes());
    let parse = |keys: &str| {
        let listener = format!("self_signed = [\"localhost\"]\nclient_certificates = {{ {keys} }}");
        let text = VALID.replace("self_signed = [\"localhost\"]", &listener)
            + "[credential.fleet]\ncertificates = [\"*.fleet.test\", \"spiffe://a/b\", \"10.0.0.5\"]\n";
        let text = text.replace("path = \"/echo\"", "path = \"/echo\"\ncredentials = [\"fleet\"]");
        Config::parse(&text, "t.toml", &folder.0)
    };
    for keys in ["roots = \"roots.pem\"", "roots = \"roots.pem\", required = true"] {
        let config = parse(keys).unwrap_or_else(|p| panic!("{p}"));
        let clients = config.listeners[0].client_certificates.as_ref().unwrap();
        assert_eq!(clients.required, keys.contains("required"));
        let effective = config.effective();
        assert_eq!(valid(&effective), config, "{effective}");
    }
    for (keys, wanted) in [
        ("required = true", "client_certificates.roots: is missing; write the path of a PEM file"),
        ("roots = \"key.pem\"", "client_certificates.roots: FOLDER/key.pem holds no certificate"),
        ("roots = \"none.pem\"", "client_certificates.roots: cannot read FOLDER/none.pem"),
    ] {
        let wanted = wanted.replace("FOLDER", &folder.0.display().to_string());
        let problems = parse(keys).unwrap_err().to_string();
        assert!(problems.contains(&wanted), "{problems}, not {wanted}");
        assert_eq!(problems.lines().count(), 1, "{problems}");
    }
}
