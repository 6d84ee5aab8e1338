//! Certificates: usable, in time, and fit to be known by their hash.

use tidegate::{
    config::{CertificateSource, Config},
    edge::{self, CertificateFacts},
};

use super::finding::Finding;

const CHECK: &str = "certificate";
const DAY: i64 = 24 * 60 * 60;

/// Browsers take a certificate by its hash up to this (W3C WebTransport, `serverCertificateHashes`).
const MOST_PINNED: i64 = 14 * DAY;
/// Authorities' certificates are renewed long before.
const SOON: i64 = 7 * DAY;
/// Those that are known by their hash last 14 days in all.
const SOON_PINNED: i64 = 2 * DAY;

pub(super) fn findings(config: &Config, now: i64) -> Vec<Finding> {
    let mut findings = Vec::new();
    for listener in &config.listeners {
        if let CertificateSource::SelfSigned(names) = &listener.certificate {
            let says = format!("the gateway makes one for {} at each start", names.join(", "));
            findings.push(Finding::ok(CHECK, says));
        }
        match edge::inspect_certificates(listener) {
            Ok(facts) => findings.extend(facts.iter().map(|facts| judge(facts, now))),
            Err(errors) => findings.extend(errors.iter().map(|error| {
                let says = super::super::failure::chain(error);
                Finding::fail(
                    CHECK,
                    says,
                    "Name the chain, leaf first, and the key that belongs to the leaf.",
                )
            })),
        }
    }
    findings
}

fn judge(facts: &CertificateFacts, now: i64) -> Finding {
    let CertificateFacts { file, not_before, not_after, is_self_issued, .. } = facts;
    let renew = if *is_self_issued {
        "tidegate cert new makes another; pages need its hash, and SIGHUP makes the gateway take it"
    } else {
        "Renew it (certbot renew, or as you got it); SIGHUP makes the gateway take it."
    };
    let left = not_after - now;
    let obstacles = obstacles(facts);
    if *not_before > now {
        let mend = "Set the clock, if it is behind: timedatectl set-ntp true";
        Finding::fail(CHECK, format!("{file} is not valid yet"), mend)
    } else if left < 0 {
        Finding::fail(CHECK, format!("{file} has ended: no client takes it"), renew)
    } else if left < if obstacles.is_empty() { SOON_PINNED } else { SOON } {
        Finding::warn(CHECK, format!("{file} ends in {} hours", left / 3_600), renew)
    } else if *is_self_issued && !obstacles.is_empty() {
        Finding::warn(
            CHECK,
            format!(
                "{file} has no authority behind it, and browsers do not take it by its hash: {}",
                obstacles.join(", ")
            ),
            "tidegate cert new makes one that they take; one of an authority needs no hash",
        )
    } else {
        let names = facts.names.join(", ");
        let hash = if obstacles.is_empty() { "; browsers take it by its hash" } else { "" };
        Finding::ok(CHECK, format!("{file} is for {names}, {} days more{hash}", left / DAY))
    }
}

/// What keeps browsers from taking a certificate by its hash.
fn obstacles(facts: &CertificateFacts) -> Vec<&'static str> {
    let rules = [
        (facts.is_p256, "its key is not ECDSA on P-256"),
        (facts.not_after - facts.not_before <= MOST_PINNED, "it lasts longer than 14 days"),
        (facts.is_v3, "it is not of X.509 version 3"),
    ];
    rules.into_iter().filter_map(|(holds, obstacle)| (!holds).then_some(obstacle)).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::finding::State::{self, Fail, Ok as Fine, Warn},
        *,
    };

    const NOW: i64 = 1_800_000_000;

    /// One that began a day ago.
    fn lasting(days: i64, is_self_issued: bool) -> CertificateFacts {
        CertificateFacts {
            file: "chain.pem".to_owned(),
            not_before: NOW - DAY,
            not_after: NOW - DAY + days * DAY,
            is_p256: true,
            is_v3: true,
            is_self_issued,
            names: vec!["a.test".to_owned()],
        }
    }

    #[test]
    fn certificates_are_judged_by_time_and_by_the_rules_for_hashes() {
        let pinned = lasting(13, true);
        for (facts, state, says) in [
            (pinned.clone(), Fine, "12 days more; browsers take it by its hash"),
            (lasting(14, true), Fine, "by its hash"),
            (lasting(15, true), Warn, "it lasts longer than 14 days"),
            (CertificateFacts { is_p256: false, ..pinned.clone() }, Warn, "not ECDSA on P-256"),
            (CertificateFacts { is_v3: false, ..pinned.clone() }, Warn, "not of X.509 version 3"),
            (lasting(90, false), Fine, "for a.test, 89 days more"),
            (CertificateFacts { is_p256: false, ..lasting(90, false) }, Fine, "89 days more"),
            (lasting(2, true), Warn, "ends in 24 hours"),
            (CertificateFacts { not_before: 0, ..lasting(7, false) }, Warn, "ends in 144 hours"),
            (lasting(1, true), Warn, "ends in 0 hours"),
            (lasting(0, true), Fail, "has ended"),
            (CertificateFacts { not_before: NOW + 1, ..pinned }, Fail, "is not valid yet"),
        ] {
            let found = judge(&facts, NOW);
            let state: State = state;
            assert_eq!(found.state, state, "{facts:?}");
            assert!(found.says.contains(says), "{found:?} does not say {says:?}");
        }
    }
}
