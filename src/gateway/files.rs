//! The files of a configuration: read, looked at, and read again when they have changed.
//!
//! They are compared by their contents, every few seconds. Unlike the system's notices of changes that works on
//! every file system, costs no descriptor, and sees what is behind a symbolic link that was swapped.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{BuildHasher, RandomState},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::sleep;

use super::{Live, reload::apart};
use crate::config::{Config, Problems, read_file};

/// A configuration file and those that it names. Clones share what they know.
#[derive(Clone, Debug)]
pub struct Files(Arc<Mutex<Looks>>);

impl Files {
    /// The file at this path, not read yet.
    pub fn new(file: PathBuf) -> Self {
        Self(Arc::new(Mutex::new(Looks::new(file))))
    }

    /// Reads all of them. May block.
    ///
    /// # Errors
    /// As for [`Config::read`].
    pub fn read(&self) -> Result<Config, Problems> {
        self.lock().read()
    }

    /// Resolves once files are other than those that were read last, and have settled; if the configuration in
    /// force says that they are looked at. Cancel-safe. For the control side.
    pub async fn changed(&self, live: &Live) {
        loop {
            // Looked up each time: a reload may have switched it on.
            let settings = live.config().reload.clone();
            sleep(settings.interval).await;
            let files = self.clone();
            if settings.watch && apart(move || files.lock().have_changed()).await {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Looks> {
        // What a panic leaves behind is an older look, and the next one puts it right.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What files held, or why they could not be read.
type Contents = BTreeMap<PathBuf, Result<u64, io::ErrorKind>>;

/// What is there and no file. Reading a pipe would wait until somebody writes into it.
const NO_FILE: Result<u64, io::ErrorKind> = Err(io::ErrorKind::InvalidInput);

#[derive(Debug)]
struct Looks {
    file: PathBuf,
    /// The file and those that it named when it was read last.
    all: BTreeSet<PathBuf>,
    /// Before they were read last.
    read: Contents,
    /// At the last look.
    seen: Contents,
    hasher: RandomState,
}

/// How often reading begins anew because other files are named than a moment ago.
const MOST_READINGS: usize = 3;

impl Looks {
    fn new(file: PathBuf) -> Self {
        Self {
            all: BTreeSet::from([file.clone()]),
            file,
            read: Contents::new(),
            seen: Contents::new(),
            hasher: RandomState::new(),
        }
    }

    /// Reads the configuration, after a look at every file that it depends on: what changes meanwhile differs
    /// from that look, and so is never missed.
    ///
    /// The first time the file may be a pipe. Later nobody may be there to write into it, and reading would wait for
    /// ever.
    fn read(&mut self) -> Result<Config, Problems> {
        let (mut readings, is_first) = (0, self.read.is_empty());
        loop {
            self.read = self.contents();
            if !is_first && self.read.get(&self.file) == Some(&NO_FILE) {
                self.seen = self.read.clone();
                let message = "cannot read it again: it is not a file";
                return Err(Problems::of_file(&self.file, message.to_owned()));
            }
            let (config, all) = Config::read_all(&self.file);
            let is_looked_at = all.is_subset(&self.all);
            self.all = all;
            readings += 1;
            if is_looked_at || readings == MOST_READINGS {
                self.read.retain(|file, _| self.all.contains(file));
                self.seen = self.read.clone();
                return config;
            }
        }
    }

    /// Whether files are other than those that were read last, and the same as at the look before: nobody is
    /// writing them just now.
    fn have_changed(&mut self) -> bool {
        let now = self.contents();
        let have_settled = now == self.seen;
        let have_changed = now != self.read;
        self.seen = now;
        have_settled && have_changed
    }

    fn contents(&self) -> Contents {
        let content = |file: &PathBuf| {
            let read = match fs::metadata(file) {
                Ok(found) if !found.is_file() => return (file.clone(), NO_FILE),
                _ => read_file(file).map_err(|error| error.kind()),
            };
            (file.clone(), read.map(|bytes| self.hasher.hash_one(bytes)))
        };
        self.all.iter().map(content).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, path::Path, process::Command};

    use super::*;
    use crate::edge::self_signed;

    /// A folder that goes when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("tidegate-files-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let file = self.0.join(name);
            fs::write(&file, text).unwrap();
            file
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            _ = fs::remove_dir_all(&self.0);
        }
    }

    const TEXT: &str = "version = 1\n[[listener]]\nquic = [\"127.0.0.1:0\"]\nself_signed = [\"a\"]\n\
        [[route]]\npath = \"/a\"\norigins = \"any\"\nbackend = \"b\"\n\
        [backend.b]\nendpoints = [{ tcp = \"127.0.0.1:9\" }]\n";

    /// The text with a secret in a file, whose changes need no certificate.
    fn with_secret(file: &str) -> String {
        format!("{TEXT}[server.secret]\nfile = \"{file}\"\n")
    }

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    fn looks(folder: &Folder) -> Looks {
        Looks::new(folder.0.join("tidegate.toml"))
    }

    #[test]
    fn a_change_counts_once_it_has_settled_and_then_no_more() {
        let folder = Folder::new("settles");
        folder.write("tidegate.toml", TEXT);
        let mut looks = looks(&folder);
        looks.read().unwrap();
        assert!(!looks.have_changed() && !looks.have_changed());

        for half in [10, 20, 30] {
            folder.write("tidegate.toml", TEXT.get(..half).unwrap());
            assert!(!looks.have_changed(), "it is being written");
        }
        folder.write("tidegate.toml", &TEXT.replace("/a", "/b"));
        assert!(!looks.have_changed() && looks.have_changed());
        assert_eq!(looks.read().unwrap().routes[0].path.to_string(), "/b");
        assert!(!looks.have_changed() && !looks.have_changed());

        // Written again, and the same.
        folder.write("tidegate.toml", &TEXT.replace("/a", "/b"));
        assert!(!looks.have_changed() && !looks.have_changed());
    }

    #[test]
    fn a_bad_file_is_read_once_and_again_when_it_is_mended() {
        let folder = Folder::new("bad");
        folder.write("tidegate.toml", TEXT);
        let mut looks = looks(&folder);
        looks.read().unwrap();
        folder.write("tidegate.toml", "version = 7");
        assert!(!looks.have_changed() && looks.have_changed());
        looks.read().unwrap_err();
        assert!(!looks.have_changed() && !looks.have_changed());

        folder.write("tidegate.toml", TEXT);
        assert!(!looks.have_changed() && looks.have_changed());
        looks.read().unwrap();
    }

    #[test]
    fn files_that_it_names_count_also_while_they_are_missing() {
        let folder = Folder::new("named");
        let secret = folder.write("secret", SECRET);
        folder.write("tidegate.toml", &with_secret("secret"));
        let mut looks = looks(&folder);
        looks.read().unwrap();
        fs::write(&secret, OTHER).unwrap();
        assert!(!looks.have_changed() && looks.have_changed());
        looks.read().unwrap();

        folder.write("tidegate.toml", &with_secret("later"));
        assert!(!looks.have_changed() && looks.have_changed());
        looks.read().unwrap_err();
        assert!(!looks.have_changed() && !looks.have_changed());
        folder.write("later", SECRET);
        assert!(!looks.have_changed() && looks.have_changed());
        looks.read().unwrap();

        // What it names no more does not count.
        fs::write(&secret, SECRET).unwrap();
        assert!(!looks.have_changed() && !looks.have_changed());
    }

    /// Whoever is to be let in no longer is not, soon after the file says so.
    #[test]
    fn files_that_say_who_may_enter_count() {
        let credential = |keys: &str| {
            let route = TEXT.replace("origins", "credentials = [\"c\"]\norigins");
            format!("{route}[credential.c{keys}\n")
        };
        let listener = "client_certificates = { roots = \"roots\" }\nself_signed";
        let token = |digit: &str| format!("alice:sha256={}\n", digit.repeat(64));
        let key = |letter: &str| {
            let k = letter.repeat(44);
            format!(r#"{{"keys":[{{"kty":"oct","alg":"HS256","kid":"a","k":"{k}"}}]}}"#)
        };
        let root = || self_signed(&["ca".to_owned()]).unwrap().certificate_pem;
        for (name, text, contents) in [
            ("tokens", credential("]\ntokens = \"tokens\""), [token("1"), token("2")]),
            ("keys", credential(".jwt]\nkeys = [{ jwks = \"keys\" }]"), [key("A"), key("B")]),
            (
                "hs256",
                credential(".jwt]\nkeys = [{ secret.file = \"hs256\" }]"),
                [SECRET.to_owned(), OTHER.to_owned()],
            ),
            ("roots", TEXT.replace("self_signed", listener), [root(), root()]),
        ] {
            let folder = Folder::new(name);
            folder.write("tidegate.toml", &text);
            let [old, new] = contents;
            folder.write(name, &old);
            let mut looks = looks(&folder);
            let before = looks.read().unwrap_or_else(|problems| panic!("{name}: {problems}"));
            assert!(!looks.have_changed() && !looks.have_changed(), "{name}");

            folder.write(name, &new);
            assert!(!looks.have_changed() && looks.have_changed(), "{name}");
            let after = looks.read().unwrap_or_else(|problems| panic!("{name}: {problems}"));
            assert!(!before.differences(&after).is_empty(), "{name}: nothing would be said of it");
            assert!(!looks.have_changed() && !looks.have_changed(), "{name}");
        }
    }

    /// Whether it is told once and then no more, and what was there is taken when it is back.
    #[test]
    fn what_is_no_file_any_more_is_a_problem_and_is_not_waited_for() {
        let folder = Folder::new("pipe");
        let file = folder.write("tidegate.toml", TEXT);
        let mut looks = looks(&folder);
        looks.read().unwrap();
        for make in ["mkfifo", "mkdir"] {
            fs::remove_file(&file).unwrap();
            assert!(Command::new(make).arg(&file).status().unwrap().success());
            assert!(!looks.have_changed() && looks.have_changed());
            let problems = looks.read().unwrap_err().to_string();
            assert!(problems.contains("cannot read it again: it is not a file"), "{problems}");
            assert!(!looks.have_changed() && !looks.have_changed());

            _ = fs::remove_file(&file).or_else(|_a_folder| fs::remove_dir(&file));
            folder.write("tidegate.toml", TEXT);
            assert!(!looks.have_changed() && looks.have_changed());
            looks.read().unwrap();
        }
    }

    /// Kubernetes mounts a secret as links to `..data`, itself a link to a folder, and swaps that one.
    #[test]
    fn a_mounted_secret_that_is_swapped_is_a_change() {
        let folder = Folder::new("mounted");
        for (version, secret) in [("..1", SECRET), ("..2", OTHER)] {
            fs::create_dir_all(folder.0.join(version)).unwrap();
            folder.write(&format!("{version}/secret"), secret);
        }
        symlink("..1", folder.0.join("..data")).unwrap();
        symlink(Path::new("..data/secret"), folder.0.join("secret")).unwrap();
        folder.write("tidegate.toml", &with_secret("secret"));
        let mut looks = looks(&folder);
        let before = looks.read().unwrap();

        symlink("..2", folder.0.join("..data_tmp")).unwrap();
        fs::rename(folder.0.join("..data_tmp"), folder.0.join("..data")).unwrap();
        assert!(!looks.have_changed() && looks.have_changed());
        assert_ne!(looks.read().unwrap().server, before.server);
    }
}
