//! A public key in PEM form, which also says for which algorithm it is.

use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use x509_parser::{prelude::FromDer, public_key::PublicKey, x509::SubjectPublicKeyInfo};

use crate::config::KeyMaterial;

/// RFC 8410 section 3.
const ED25519: &str = "1.3.101.112";
/// RFC 5480 section 2.1.1.1.
const P256: &str = "1.2.840.10045.3.1.7";

/// Smaller ones can be broken (RFC 7518 section 3.3); larger ones cost the gateway more than they gain.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 2048 / 8..=8192 / 8;

/// Why there is no key to be had, as the end of a sentence about a file.
pub(super) type Unfit = &'static str;

const NO_PEM: Unfit = "holds no public key in PEM form (-----BEGIN PUBLIC KEY-----); \
                       `openssl pkey -in KEY -pubout` makes one";
const TWO: Unfit =
    "holds more than one public key; write each as a file of its own, or all as a JWKS";
const UNKNOWN: Unfit = "is no key for RS256 (2048 to 8192 bits), ES256 (P-256) or EdDSA (Ed25519)";

/// The one key of a file.
pub(super) fn read(pem: &[u8]) -> Result<KeyMaterial, Unfit> {
    let keys: Result<Vec<_>, _> = SubjectPublicKeyInfoDer::pem_slice_iter(pem).collect();
    match keys.as_deref() {
        Ok([key]) => of_der(key.as_ref()).ok_or(UNKNOWN),
        Ok([_, _, ..]) => Err(TWO),
        Ok([]) | Err(_) => Err(NO_PEM),
    }
}

fn of_der(der: &[u8]) -> Option<KeyMaterial> {
    let (rest, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let kind = info.algorithm.algorithm.to_id_string();
    let parameter = info.algorithm.parameters.as_ref();
    let curve = parameter.and_then(|any| any.clone().oid().ok()).map(|oid| oid.to_id_string());
    match info.parsed() {
        Ok(PublicKey::RSA(key)) => rsa(key.modulus, key.exponent),
        Ok(PublicKey::EC(point)) if curve.as_deref() == Some(P256) => es256(point.data()),
        _ if kind == ED25519 => eddsa(&info.subject_public_key.data),
        _ => None,
    }
}

/// An RSA key, from its modulus and exponent.
pub(super) fn rsa(n: &[u8], e: &[u8]) -> Option<KeyMaterial> {
    let [n, e] = [n, e].map(without_zeros);
    (RSA_BYTES.contains(&n.len()) && (1..=8).contains(&e.len()))
        .then(|| KeyMaterial::Rs256 { n: n.to_vec(), e: e.to_vec() })
}

/// A key on P-256, from its point in uncompressed form.
pub(super) fn es256(point: &[u8]) -> Option<KeyMaterial> {
    (point.len() == 65 && point.first() == Some(&4)).then(|| KeyMaterial::Es256(point.to_vec()))
}

/// A key on Curve25519.
pub(super) fn eddsa(key: &[u8]) -> Option<KeyMaterial> {
    (key.len() == 32).then(|| KeyMaterial::EdDsa(key.to_vec()))
}

/// DER puts a zero in front of a number whose first bit is set.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys that another library has made; see `src/credential/fixtures/make.py`.
    #[test]
    fn a_pem_file_says_what_its_key_is_for() {
        for (pem, algorithm) in [
            (&include_bytes!("../../../credential/fixtures/rs256.pem")[..], "RS256"),
            (include_bytes!("../../../credential/fixtures/es256.pem"), "ES256"),
            (include_bytes!("../../../credential/fixtures/eddsa.pem"), "EdDSA"),
        ] {
            assert_eq!(read(pem).unwrap().algorithm(), algorithm);
            let twice = [pem, pem].concat();
            assert_eq!(read(&twice), Err(TWO));
        }
    }

    #[test]
    fn what_is_no_such_key_is_refused() {
        let made = crate::edge::self_signed(&["localhost".to_owned()]).unwrap();
        for no_key in
            [b"".as_slice(), b"{}", made.key_pem.as_bytes(), made.certificate_pem.as_bytes()]
        {
            assert_eq!(read(no_key), Err(NO_PEM));
        }
        let noise = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        assert_eq!(read(noise), Err(UNKNOWN));
        // 1024 bits, from `openssl genrsa`'s exponent and a number that is as good as any.
        assert_eq!(rsa(&[0xff; 128], &[1, 0, 1]), None);
        assert_eq!(rsa(&[0; 300], &[1, 0, 1]), None);
        assert_eq!(rsa(&[0xff; 256], &[]), None);
        assert_eq!(es256(&[2; 33]), None);
        assert_eq!(eddsa(&[0; 57]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(der: Vec<u8>) {
            _ = of_der(&der);
        }
    }
}
