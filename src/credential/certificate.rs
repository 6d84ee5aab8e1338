//! Whom a client's certificate names.

use crate::{
    config::CertificateNames,
    transport::{AlternativeName, ClientCertificate},
};

/// The names by which a certificate lets in, the likeliest first. Where every certificate does, one that has no
/// name of use is its common name's or nobody's.
pub(super) fn subjects<'c>(
    wanted: &'c CertificateNames,
    shown: &'c ClientCertificate,
) -> impl Iterator<Item = Option<String>> + 'c {
    let is_wanted = move |name: &&AlternativeName| match wanted {
        CertificateNames::Any => true,
        CertificateNames::List(list) => list.iter().any(|pattern| pattern.is(name)),
    };
    let named = shown.names.iter().filter(is_wanted).map(|name| Some(name.to_string()));
    let nameless = *wanted == CertificateNames::Any && shown.names.is_empty();
    named.chain(nameless.then(|| shown.common_name.clone()))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::config::CertificateName;

    #[test]
    fn the_names_that_are_wanted_are_the_clients() {
        let dns = |name: &str| AlternativeName::Dns(name.to_owned());
        let shown = |names: &[AlternativeName], common_name: Option<&str>| ClientCertificate {
            names: names.to_vec(),
            common_name: common_name.map(str::to_owned),
            ends: UNIX_EPOCH,
        };
        let list = CertificateNames::List(vec![
            CertificateName::Wildcard("fleet.test".into()),
            CertificateName::Dns("b.test".into()),
        ]);
        let any = CertificateNames::Any;
        let both = [dns("a.test"), dns("b.test"), dns("r.fleet.test")];
        for (wanted, certificate, subjects) in [
            (
                &any,
                shown(&both, Some("cn")),
                &[Some("a.test"), Some("b.test"), Some("r.fleet.test")][..],
            ),
            (&any, shown(&[], Some("cn")), &[Some("cn")]),
            (&any, shown(&[], None), &[None]),
            (&list, shown(&both, None), &[Some("b.test"), Some("r.fleet.test")]),
            (&list, shown(&both[..1], Some("b.test")), &[]),
            (&list, shown(&[], Some("b.test")), &[]),
        ] {
            let found: Vec<_> = super::subjects(wanted, &certificate).collect();
            let found: Vec<_> = found.iter().map(Option::as_deref).collect();
            assert_eq!(found, subjects, "{certificate:?}");
        }
    }
}
