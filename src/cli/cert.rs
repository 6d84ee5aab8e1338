//! `tidegate cert`: a certificate to begin with, and what browsers want to know of one.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::{Args, Subcommand};
#[cfg(not(feature = "aws-lc-rs"))]
use ring::digest;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tidegate::{config, edge};
use time::OffsetDateTime;

use super::{Failure, announce::hex};

#[derive(Debug, Subcommand)]
pub(crate) enum Cert {
    /// Make a certificate that browsers accept by its hash, and its key
    ///
    /// Writes fullchain.pem and privkey.pem, as the configuration's `certificates` takes them, and
    /// prints the certificate's SHA-256 and its end. It has an ECDSA P-256 key, no authority behind it,
    /// and lasts 13 days, since browsers take 14 at most. Files that exist are never overwritten.
    New(New),
    /// Print the SHA-256 of the first certificate in a PEM file, in hex and in base64
    ///
    /// It is what `serverCertificateHashes` of a browser's WebTransport wants. Browsers take it for
    /// certificates that last 14 days at most and have an ECDSA P-256 key.
    Hash(Hash),
}

#[derive(Args, Debug)]
pub(crate) struct New {
    /// Host names and IP addresses that it is for; may be repeated
    #[arg(long = "name", value_name = "NAME", required = true, num_args = 1.., value_parser = name)]
    names: Vec<String>,
    /// Folder for the two files; made where it is missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Hash {
    /// PEM file, the leaf first
    file: PathBuf,
}

impl Cert {
    pub(crate) fn execute(self) -> Result<ExitCode, Failure> {
        match self {
            Self::New(new) => new.execute(),
            Self::Hash(hash) => hash.execute(),
        }
    }
}

impl New {
    fn execute(self) -> Result<ExitCode, Failure> {
        let made = edge::self_signed(&self.names)?;
        let create = |file: &Path| {
            let file = file.to_owned();
            move |source| Failure::Create { file, source }
        };
        let (chain, key) = (self.out.join("fullchain.pem"), self.out.join("privkey.pem"));

        fs::create_dir_all(&self.out).map_err(create(&self.out))?;
        write_new(&key, OWNER_ALONE, &made.key_pem).map_err(create(&key))?;
        if let Err(source) = write_new(&chain, EVERYBODY_READS, &made.certificate_pem) {
            // A key without its chain would only stand in the way of the next attempt. If it cannot be
            // removed, that attempt says so.
            _ = fs::remove_file(&key);
            return Err(create(&chain)(source));
        }

        let not_after = OffsetDateTime::from_unix_timestamp(made.not_after)
            .expect("13 days from now are a date");
        let hash = describe_hash(&made.sha256);
        super::print(&format!("{hash}not_after  {}\n", rfc3339(not_after)))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Hash {
    fn execute(self) -> Result<ExitCode, Failure> {
        let leaf = CertificateDer::from_pem_file(&self.file)
            .map_err(|source| Failure::Certificate { file: self.file, source })?;
        super::print(&describe_hash(digest::digest(&digest::SHA256, &leaf).as_ref()))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The same names as in the configuration's `self_signed`.
fn name(text: &str) -> Result<String, String> {
    if config::is_certificate_name(text) {
        Ok(text.to_owned())
    } else {
        Err("no host name and no IP address".to_owned())
    }
}

const OWNER_ALONE: u32 = 0o600;
const EVERYBODY_READS: u32 = 0o644;

/// Writes a file that must not be there yet; what could not be written whole is removed.
fn write_new(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // The first error says what is wrong; this one would say no more.
        _ = fs::remove_file(path);
    }
    written
}

fn describe_hash(sha256: &[u8]) -> String {
    format!("hex        {}\nbase64     {}\n", hex(sha256), STANDARD.encode(sha256))
}

/// UTC, in whole seconds, as in logs.
fn rfc3339(at: OffsetDateTime) -> String {
    let (date, time) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_told_in_hex_and_base64() {
        // FIPS 180-4, the example "abc".
        assert_eq!(
            describe_hash(digest::digest(&digest::SHA256, b"abc").as_ref()),
            "hex        ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n\
             base64     ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=\n",
        );
    }

    #[test]
    fn dates_are_written_as_in_logs() {
        let at = OffsetDateTime::from_unix_timestamp(951_782_400 + 3_723).unwrap();
        assert_eq!(rfc3339(at), "2000-02-29T01:02:03Z");
    }

    #[test]
    fn only_what_a_client_can_type_is_a_name() {
        for good in ["localhost", "gate.example.com", "192.0.2.7", "::1"] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        for bad in ["", "two words", "127.0.0.1:443", "https://a", "caf\u{e9}"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
