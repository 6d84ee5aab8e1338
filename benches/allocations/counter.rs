//! The system's allocator, which counts what the thread under measurement asks of it.
//!
//! Crates that count do so for the whole process or for the calling thread; here the thread that is looked
//! at is another one, known by its name, and each call can be asked where it came from.
#![allow(unsafe_code, reason = "an allocator cannot be written without; it hands everything on")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    backtrace::Backtrace,
    cell::Cell,
    collections::HashMap,
    fmt::Write as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
};

/// What the names of counted threads begin with: the gateway's workers, and the bare bridge.
const COUNTED: [&[u8]; 2] = [b"tidegate-w", super::bare::THREAD.as_bytes()];

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls whose place is kept, the first ones: finding out what a backtrace means takes a millisecond.
const MOST_SITES: usize = 2000;

static CALLS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static IS_ASKED: AtomicBool = AtomicBool::new(false);
static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static SITES: Mutex<Vec<(Backtrace, usize)>> = Mutex::new(Vec::new());

thread_local! {
    /// Looks at the thread's name that are left until it is believed to be no counted one. The first
    /// allocations of a thread come before it has its name.
    static LOOKS: Cell<u8> = const { Cell::new(16) };
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread is within the books themselves.
    static IS_BOOKING: Cell<bool> = const { Cell::new(false) };
}

/// What was asked of the allocator. Growing something counts as asking for it anew.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) calls: u64,
    pub(crate) bytes: u64,
}

impl Count {
    /// What counted threads have asked for so far.
    pub(crate) fn now() -> Self {
        Self { calls: CALLS.load(Relaxed), bytes: BYTES.load(Relaxed) }
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self { calls: self.calls - before.calls, bytes: self.bytes - before.bytes }
    }
}

/// Keeps, of what is counted, where each call came from.
pub(crate) fn keep_sites() {
    IS_ASKED.store(true, Relaxed);
}

/// Says whether what happens now is what is counted.
pub(crate) fn counting(now: bool) {
    IS_COUNTING.store(now, Relaxed);
}

/// Where the calls came from that were kept, most frequent first: how many, of how many bytes, and the
/// functions that they were within, innermost first, but for those of the standard library.
pub(crate) fn take_sites() -> Vec<(u64, usize, String)> {
    let kept = std::mem::take(&mut *SITES.lock().unwrap_or_else(PoisonError::into_inner));
    let mut sites: HashMap<String, (u64, usize)> = HashMap::new();
    for (trace, bytes) in kept {
        let (calls, sum) = sites.entry(site(&trace.to_string())).or_default();
        (*calls, *sum) = (*calls + 1, *sum + bytes);
    }
    let mut sites: Vec<_> =
        sites.into_iter().map(|(site, (calls, bytes))| (calls, bytes, site)).collect();
    sites.sort_unstable_by_key(|(calls, ..)| std::cmp::Reverse(*calls));
    sites
}

/// The innermost frames of a backtrace that say something, each with its place.
fn site(trace: &str) -> String {
    let mut site = String::new();
    let mut frames = 0;
    let mut lines = trace.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        let at = lines.next_if(|next| next.starts_with("at ")).unwrap_or_default();
        let Some((_, name)) = line.split_once(": ") else { continue };
        if is_plumbing(name, at) {
            continue;
        }
        // The types that a name has in it can be longer than a screen.
        let name: String = name.chars().take(80).collect();
        _ = write!(site, "\n      {name} ({})", place(at));
        frames += 1;
        if frames == 7 {
            break;
        }
    }
    site
}

/// Whether a frame is of the standard library or of this file. Names of what was inlined have no path, and
/// what was not built here has no file.
fn is_plumbing(name: &str, at: &str) -> bool {
    ["std::", "<std::", "core::", "<core::", "alloc::", "<alloc::", "__rust", "_R"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
        || at.contains("/library/")
        || at.contains(file!())
}

/// A file and its line, behind the name of its crate.
fn place(at: &str) -> &str {
    let Some(source) = at.rfind("/src/") else { return at };
    let start = at.get(..source).and_then(|before| before.rfind('/')).map_or(0, |slash| slash + 1);
    at.get(start..).unwrap_or(at)
}

struct Counting;

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        book(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        book(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        book(size);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(memory, layout) }
    }
}

fn book(bytes: usize) {
    if !is_counted() || IS_BOOKING.get() {
        return;
    }
    CALLS.fetch_add(1, Relaxed);
    BYTES.fetch_add(bytes as u64, Relaxed);
    if IS_COUNTING.load(Relaxed) && IS_ASKED.load(Relaxed) {
        IS_BOOKING.set(true);
        let mut sites = SITES.lock().unwrap_or_else(PoisonError::into_inner);
        if sites.len() < MOST_SITES {
            sites.push((Backtrace::force_capture(), bytes));
        }
        drop(sites);
        IS_BOOKING.set(false);
    }
}

fn is_counted() -> bool {
    let left = LOOKS.get();
    if left > 0 && !IS_COUNTED.get() && !IS_BOOKING.get() {
        LOOKS.set(left - 1);
        // Asking for a thread's name may allocate.
        IS_BOOKING.set(true);
        let thread = thread::current();
        let name = thread.name().unwrap_or_default().as_bytes();
        IS_COUNTED.set(COUNTED.iter().any(|counted| name.starts_with(counted)));
        drop(thread);
        IS_BOOKING.set(false);
    }
    IS_COUNTED.get()
}
