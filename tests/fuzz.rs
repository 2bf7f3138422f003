//! Bytes that nobody wrote by hand, for everything that reads bytes from outside: see `fuzz/targets`.
//!
//! Every run mutates the seeds of each target with a new seed of its own and prints it; `RUNFCGI_SEED=<number>` repeats a
//! run, `RUNFCGI_CASES=<number>` makes it longer, and `RUNFCGI_SEEDS=DIRECTORY` writes the seeds there. A failing input is
//! printed in a short form.

#![allow(unsafe_code)] // an allocator is unsafe
#![allow(clippy::print_stdout)]

#[path = "fuzz/corpus.rs"]
mod corpus;
mod notation;
#[path = "fuzz/targets/mod.rs"]
mod targets;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::panic;
use std::path::Path;
use std::sync::Once;

/// Inputs for each target, besides its seeds.
const CASES: u64 = 2000;
/// A target that reads files and /proc takes this many times as long as another.
const SLOW: (&str, u64) = ("rundir", 20);
/// The longest input that is made.
const LONGEST: usize = 12_000;
/// The most that a target may have in memory for such an input: what it keeps itself in order to compare, and more than
/// any buffer. A length field that is believed takes gigabytes.
const MEMORY: isize = 8 << 20;
/// Inputs that are tried to shorten one that fails.
const ATTEMPTS: usize = 2000;

macro_rules! drive {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            drive(stringify!($target));
        })*

        const DRIVEN: &[&str] = &[$(stringify!($target)),*];
    };
}

drive!(fastcgi scgi ajp13 cgi traffic frames request head environ config options status rundir);

#[test]
fn every_target_is_driven_here_and_by_cargo_fuzz() {
    let names: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, DRIVEN);
    let manifest = include_str!("fuzz/Cargo.toml");
    let bins = manifest.split("[[bin]]\nname = \"").skip(1);
    let bins: Vec<&str> = bins.filter_map(|bin| bin.split('"').next()).collect();
    assert_eq!(names, bins);
}

/// Runs a target with its seeds and with what can be made of them.
fn drive(name: &str) {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|v| v.parse::<u64>().expect("a number"))
    };
    let seeds = corpus::seeds(name);
    if let Some(place) = std::env::var_os("RUNFCGI_SEEDS") {
        write(&Path::new(&place).join(name), &seeds);
    }
    seeds.iter().for_each(|bytes| check(name, bytes, None));
    let seed = number("RUNFCGI_SEED").unwrap_or_else(|| RandomState::new().hash_one(name));
    println!("{name}: RUNFCGI_SEED={seed}");
    let mut random = Random(seed | 1);
    let cases = number("RUNFCGI_CASES").unwrap_or(CASES);
    let cases = if name == SLOW.0 {
        cases / SLOW.1
    } else {
        cases
    };
    for _ in 0..cases {
        check(name, &mutated(&seeds, &mut random), Some(seed));
    }
}

fn write(folder: &Path, seeds: &[Vec<u8>]) {
    std::fs::create_dir_all(folder).expect("a directory");
    for (at, bytes) in seeds.iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{at}")), bytes).expect("written");
    }
}

/// Runs a target with this input; shortens it if that fails.
fn check(name: &str, bytes: &[u8], seed: Option<u64>) {
    if failure(name, bytes).is_none() {
        return;
    }
    let bytes = shortened(name, bytes);
    let why = failure(name, &bytes).unwrap_or_default();
    let seed = seed.map_or(String::new(), |seed| format!(", RUNFCGI_SEED={seed}"));
    panic!("{name}{seed}: \"{}\": {why}", bytes.escape_ascii());
}

/// What goes wrong with this input.
fn failure(name: &str, bytes: &[u8]) -> Option<String> {
    quiet_here();
    QUIET.set(true);
    let before = LIVE.get();
    PEAK.set(before);
    let result = panic::catch_unwind(|| targets::run(name, bytes));
    let taken = PEAK.get() - before;
    QUIET.set(false);
    match result {
        Ok(()) if taken > MEMORY => Some(format!("takes {taken} bytes of memory")),
        Ok(()) => None,
        Err(thrown) => {
            let text = thrown.downcast_ref::<String>().cloned();
            let text =
                text.or_else(|| thrown.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(text.unwrap_or_default())
        }
    }
}

/// A short input that fails as well.
fn shortened(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut size = bytes.len().div_ceil(2);
    let mut left = ATTEMPTS;
    while size > 0 && left > 0 {
        let mut at = 0;
        while at < bytes.len() && left > 0 {
            let mut shorter = bytes.clone();
            shorter.drain(at..bytes.len().min(at + size));
            left -= 1;
            match failure(name, &shorter) {
                Some(_) => bytes = shorter,
                None => at += size,
            }
        }
        size /= 2;
    }
    bytes
}

/// Panics of inputs that are tried are not worth a message each.
fn quiet_here() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
}

/// The same numbers for each seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % bound.max(1)
    }

    /// A range within `length`, mostly a short one.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let from = self.below(length + 1);
        let most = [4, 32, 400, length][self.below(4)];
        from..length.min(from + self.below(most + 1))
    }
}

/// One of the seeds after some changes, with parts of others.
fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(6) {
        let range = random.range(bytes.len());
        let at = range.start;
        match random.below(9) {
            0 => bytes.drain(range).for_each(drop),
            1 => {
                let other = &seeds[random.below(seeds.len())];
                let piece = other[random.range(other.len())].to_vec();
                bytes.splice(range, piece).for_each(drop);
            }
            2 => {
                let again = bytes[range].to_vec();
                bytes.splice(at..at, again).for_each(drop);
            }
            3 => {
                let other = &seeds[random.below(seeds.len())];
                bytes.extend(other);
            }
            4 => bytes.truncate(at),
            5 => {
                let noise = (0..range.len())
                    .map(|_| random.below(256) as u8)
                    .collect::<Vec<_>>();
                bytes.splice(range, noise).for_each(drop);
            }
            kind => {
                let Some(byte) = bytes.get_mut(at) else {
                    continue;
                };
                const ODD: [u8; 16] = *b"\0\x01\x02\x7f\x80\xff\n\r\t \"%/.:-";
                *byte = match kind {
                    6 => *byte ^ 1 << random.below(8),
                    7 => ODD[random.below(16)],
                    _ => byte.wrapping_add([1, 255, 16][random.below(3)]),
                };
            }
        }
        bytes.truncate(LONGEST);
    }
    bytes
}

thread_local! {
    /// No message for a panic in this thread.
    static QUIET: Cell<bool> = const { Cell::new(false) };
    /// Bytes that this thread has in memory, and the most so far.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn count(bytes: isize) {
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        unsafe { System.realloc(pointer, layout, size) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
