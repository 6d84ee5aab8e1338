//! Reading whole files, within bounds.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// No file of a configuration is larger: a million tokens are about as much. Somebody's log or disk image in the
/// place of one is a mistake that must not cost a running gateway its memory.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// Reads all of a file.
///
/// # Errors
/// What the system says, or that the file is too large.
pub(crate) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    // What is no file, and what grows meanwhile, shows its size only when it is read.
    if file.metadata()?.len() > MOST_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 {
        0..=MOST_BYTES => Ok(bytes),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_not_read() {
        let path = std::env::temp_dir().join(format!("tidegate-large-{}", std::process::id()));
        // Zeros that take no room on the disk.
        let file = File::create(&path).unwrap();
        for (bytes, is_read) in [(0, true), (7, true), (MOST_BYTES + 1, false), (1 << 40, false)] {
            file.set_len(bytes).unwrap();
            match read_file(&path) {
                Ok(read) => assert!(is_read && read.len() as u64 == bytes, "{bytes}"),
                Err(error) => {
                    assert_eq!((is_read, error.kind()), (false, io::ErrorKind::FileTooLarge));
                }
            }
        }
        std::fs::remove_file(&path).unwrap();
    }

    /// It says nothing of its size.
    #[test]
    fn what_never_ends_is_not_read_to_its_end() {
        let read = read_file(Path::new("/dev/zero"));
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
