//! The fuzz targets with every seed, and with random bytes that look like what they are for.

mod inputs;
mod seeds;

use std::{collections::BTreeSet, env, fs, path::PathBuf};

use proptest::{collection::vec, prelude::*, sample::select};

use self::inputs::{capsules, file, heads, input, lines, pairs, settings, stream};
use super::connect_request::Outcome;
use crate::reason::Refusal;

type Target = fn(&[u8]);

/// Every target by its name, which is that of its folder in `fuzz/seeds`.
const TARGETS: [(&str, Target); 8] = [
    ("capsules", super::capsules),
    ("config", super::config),
    ("connect_request", super::connect_request),
    ("datagram_header", super::datagram_header),
    ("field_section", super::field_section),
    ("guard", super::guard),
    ("settings", super::settings),
    ("stream_header", super::stream_header),
];

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target)
}

#[test]
fn every_seed_passes_its_target() {
    for (name, target) in TARGETS {
        let files = fs::read_dir(folder(name)).unwrap_or_else(|e| panic!("seeds of {name}: {e}"));
        let mut seeds = 0;
        for file in files {
            let path = file.unwrap().path();
            eprintln!("{}", path.display());
            target(&fs::read(path).unwrap());
            seeds += 1;
        }
        assert!(seeds > 5, "{name} has {seeds} seeds");
    }
}

#[test]
fn the_seed_files_are_made_from_the_list() {
    for (target, seeds) in seeds::all() {
        for (name, bytes) in seeds {
            let path = folder(target).join(name);
            if env::var_os("TIDEGATE_WRITE_SEEDS").is_some() {
                fs::create_dir_all(folder(target)).unwrap();
                fs::write(&path, &bytes).unwrap();
            }
            assert!(fs::read(&path).is_ok_and(|file| file == bytes), "{} differs", path.display());
        }
    }
}

/// Seeds that come to nothing would leave a fuzzer in front of the door.
#[test]
fn seeds_of_requests_reach_what_they_are_made_for() {
    let session = |route: &str| Outcome::Session(route.to_owned());
    for (name, wanted) in [
        ("chromium", session("/game/{room}")),
        ("chromium-foreign-origin", Outcome::Refused(Refusal::OriginNotAllowed)),
        ("chromium-null-origin", session("/game/lobby")),
        ("firefox", session("/game/lobby")),
        ("safari", Outcome::Refused(Refusal::OriginMissing)),
        ("draft13", session("/echo")),
        ("draft16", session("/game/{room}/chat")),
        ("draft16-nothing-in-common", Outcome::Refused(Refusal::NoCommonProtocol)),
        ("own-client", session("/echo")),
        ("no-origin", Outcome::Refused(Refusal::OriginMissing)),
        ("no-route", Outcome::Refused(Refusal::NoRoute)),
        ("page", Outcome::Refused(Refusal::NotWebTransport)),
        ("dots", Outcome::Refused(Refusal::BadRequest)),
        ("fragment", Outcome::Malformed),
        ("escapes", session("/game/{room}/chat")),
        ("two-origins", Outcome::Refused(Refusal::BadRequest)),
        ("websocket", Outcome::Refused(Refusal::UnknownProtocol)),
        ("tunnel", Outcome::Refused(Refusal::UnknownProtocol)),
        ("get", Outcome::Page),
        ("options", Outcome::Page),
        ("too-large", Outcome::Refused(Refusal::HeadersTooLarge)),
        ("dynamic-table", Outcome::Undecodable),
    ] {
        let seed = fs::read(folder("connect_request").join(name)).unwrap();
        assert_eq!(super::connect_request::outcome(&seed), wanted, "{name}");
    }
}

/// The shipped file is no seed, since it changes; `fuzz/run` takes it as it is.
#[test]
fn the_shipped_configuration_passes_its_target() {
    let shipped = include_str!("../../config/tidegate.toml");
    assert!(super::config::outcome(shipped).is_ok());
    let is_setting = |line: &&str| line.starts_with(|c: char| c.is_ascii_lowercase());
    let uncommented = shipped.lines().map(|line| match line.strip_prefix('#').filter(is_setting) {
        Some(setting) => format!("{setting}\n"),
        None => format!("{line}\n"),
    });
    // Lines that explain, and examples that exclude each other, are mistakes now.
    super::config(uncommented.collect::<String>().as_bytes());
}

/// Each key with each value: the effective configuration says what was said.
#[test]
fn every_value_that_a_key_takes_is_in_effect() {
    let settings = settings();
    let accepted = settings
        .iter()
        .filter(|setting| super::config::outcome(&file(std::slice::from_ref(setting))).is_ok());
    let accepted: BTreeSet<_> = accepted.map(|(section, key, _)| (section, key)).collect();
    assert!(accepted.len() > 50, "{accepted:?}");
}

proptest! {
    #[test]
    fn capsules_in_any_form(data in input(1, capsules())) {
        super::capsules(&data);
    }

    #[test]
    fn files_with_any_settings(settings in vec(select(settings()), 0..6)) {
        super::config(file(&settings).as_bytes());
    }

    #[test]
    fn files_of_any_text(text in ".{0,200}") {
        super::config(text.as_bytes());
    }

    #[test]
    fn requests_of_any_fields(data in input(1, lines())) {
        super::connect_request(&data);
    }

    #[test]
    fn datagrams_with_any_head(data in input(0, heads())) {
        super::datagram_header(&data);
    }

    #[test]
    fn any_field_section(most in 0..4_u8, data in input(1, lines())) {
        super::field_section(&[&[most][..], &data].concat());
    }

    #[test]
    fn any_frames_on_a_stream(data in input(2, stream())) {
        super::guard(&data);
    }

    #[test]
    fn any_settings(data in input(0, pairs())) {
        super::settings(&data);
    }

    #[test]
    fn streams_with_any_head(data in input(1, heads())) {
        super::stream_header(&data);
    }
}
