//! What Linux says of memory. All unsafe code of this room is here.

#![allow(unsafe_code, reason = "sysconf and malloc_trim have no safe wrapper")]

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

/// Where the system says it. `None`: there is no such file, or no descriptor for it.
pub(super) fn open_statm() -> Option<File> {
    File::open("/proc/self/statm").ok()
}

/// Bytes of memory that this process holds now, with the pages of its program.
pub(super) fn resident(statm: &File) -> Option<u64> {
    // Seven numbers of at most 20 digits. Each read from the beginning sees new ones.
    let mut text = [0; 7 * 21];
    let bytes = statm.read_at(&mut text, 0).ok()?;
    let text = str::from_utf8(text.get(..bytes)?).ok()?;
    Some(resident_pages(text)? * page_bytes())
}

/// The second number (proc_pid_statm(5)).
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn page_bytes() -> u64 {
    // SAFETY: it takes a number and gives one; nothing else is touched.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

/// Asks the allocator to give back what it keeps of freed memory. Only glibc's can be asked; others do it by
/// themselves.
pub(super) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it may be called at any time from any thread, and touches nothing that is in use.
        // Whether anything was given back shows in the resident memory.
        let _gave = unsafe { libc::malloc_trim(0) };
    }
}

/// Bytes that this process may have: the machine's, or less if its control groups say so.
pub(super) fn available() -> Option<u64> {
    available_under(Path::new("/"))
}

fn available_under(root: &Path) -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let machine = read(&root.join("proc/meminfo")).and_then(|text| total_bytes(&text));
    let groups = read(&root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(group_files).flat_map(|(mount, path, file)| {
        // A limit of any group further up is one as well. Within a container the path may not be there at all,
        // and its own group is at the top.
        let folder = root.join("sys/fs/cgroup").join(mount);
        let ancestors: Vec<_> =
            Path::new(path).ancestors().map(|group| folder.join(group).join(file)).collect();
        ancestors
    });
    let limits = limits.filter_map(|file| read(&file)?.trim().parse().ok());
    limits.chain(machine).min()
}

/// Where a line of `/proc/self/cgroup` says that a limit is: the mount's folder, the group's path in it, and the
/// file (cgroups(7)). `None`: it is not about memory.
fn group_files(line: &str) -> Option<(&str, &str, &str)> {
    let mut parts = line.splitn(3, ':');
    let (_number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let path = path.trim_start_matches('/');
    match controllers {
        "" => Some(("", path, "memory.max")),
        list if list.split(',').any(|name| name == "memory") => {
            Some(("memory", path, "memory.limit_in_bytes"))
        }
        _ => None,
    }
}

/// The machine's memory (proc_meminfo(5)).
fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::{env, path::PathBuf, process};

    use super::*;

    /// A file's path and what is in it.
    type File = (&'static str, &'static str);

    /// A root of the file system that goes with the test.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[File]) -> Self {
            let root =
                Self(env::temp_dir().join(format!("tidegate-memory-{}-{name}", process::id())));
            for (path, text) in files {
                let path = root.0.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            root
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            _ = fs::remove_dir_all(&self.0);
        }
    }

    const MACHINE: File = ("proc/meminfo", "MemTotal:        1000 kB\nMemFree:  1 kB\n");

    #[test]
    fn the_tightest_of_all_limits_counts() {
        let cases: [(&str, &[File], Option<u64>); 7] = [
            ("none", &[], None),
            ("machine", &[MACHINE], Some(1_024_000)),
            (
                "group",
                &[
                    MACHINE,
                    ("proc/self/cgroup", "0::/a/b\n"),
                    ("sys/fs/cgroup/a/b/memory.max", "4096\n"),
                ],
                Some(4096),
            ),
            (
                "parent",
                &[
                    MACHINE,
                    ("proc/self/cgroup", "0::/a/b\n"),
                    ("sys/fs/cgroup/a/memory.max", "8192\n"),
                    ("sys/fs/cgroup/a/b/memory.max", "max\n"),
                ],
                Some(8192),
            ),
            (
                "container",
                &[MACHINE, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "2048\n")],
                Some(2048),
            ),
            (
                "old",
                &[
                    MACHINE,
                    ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/x\n0::/y\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "16384\n"),
                    ("sys/fs/cgroup/cpu/x/memory.limit_in_bytes", "1\n"),
                ],
                Some(16384),
            ),
            (
                "wide",
                &[
                    MACHINE,
                    ("proc/self/cgroup", "0::/a\n"),
                    ("sys/fs/cgroup/a/memory.max", "9223372036854771712\n"),
                ],
                Some(1_024_000),
            ),
        ];
        for (name, files, expected) in cases {
            let root = Root::new(name, files);
            assert_eq!(available_under(&root.0), expected, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_number() {
        assert_eq!(resident_pages("100 42 7 1 0 9 0\n"), Some(42));
        for text in ["", "100", "100 x 7"] {
            assert_eq!(resident_pages(text), None, "{text:?}");
        }
        for text in ["", "MemTotal: many kB", "MemTotal: 5", "MemTotal: 18446744073709551615 kB"] {
            assert_eq!(total_bytes(text), None, "{text:?}");
        }
        for line in ["", "0", "0:", "3:cpu:/x", "3:memoryless:/x"] {
            assert_eq!(group_files(line), None, "{line:?}");
        }
    }
}
