//! What holds of any bytes that come from outside: each target is a function of bytes that panics where it does not.
//!
//! `tests/fuzz.rs` drives them in `cargo test`, a few seconds long, with mutated transcripts. cargo-fuzz, which needs a
//! nightly toolchain, drives the same functions by coverage, for as long as one likes:
//! ```text
//! cargo install cargo-fuzz
//! RUNFCGI_SEEDS=tests/fuzz/corpus cargo test --test fuzz       writes what it begins with
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz fastcgi -- -max_total_time=60 -max_len=16384
//! ```
//! Input that breaks a target becomes a transcript in `tests/wire`, or a unit test.

mod codecs;
mod environ;
pub(crate) mod files;
mod head;
mod naive;
mod settings;
mod traffic;
mod wire;

/// A function that panics if something does not hold of these bytes.
pub(crate) type Target = fn(&[u8]);

/// All targets by name.
pub(crate) const TARGETS: [(&str, Target); 13] = [
    ("fastcgi", codecs::fastcgi),
    ("scgi", codecs::scgi),
    ("ajp13", codecs::ajp13),
    ("cgi", codecs::cgi),
    ("traffic", traffic::traffic),
    ("frames", wire::frames),
    ("request", wire::request),
    ("head", head::head),
    ("environ", environ::environ),
    ("config", settings::config),
    ("options", settings::options),
    ("status", files::status),
    ("rundir", files::rundir),
];

/// Runs the target of this name.
pub(crate) fn run(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS
        .iter()
        .find(|(known, _)| *known == name)
        .expect("a target");
    target(bytes);
}

/// Pieces of `bytes`, of a length that the bytes themselves give.
fn cut(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut state = bytes.len() as u64 | 1;
    std::iter::from_fn(move || {
        let (first, _) = bytes.split_first()?;
        state = state
            .wrapping_add(u64::from(*first))
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let (piece, rest) = bytes.split_at(bytes.len().min(1 + (state >> 58) as usize));
        bytes = rest;
        Some(piece)
    })
}

/// Names and values that are separated by NUL; a name without a value has an empty one.
fn pairs(bytes: &[u8]) -> runfcgi::pairs::Pairs {
    let mut pairs = runfcgi::pairs::Pairs::new();
    let mut texts = bytes.split(|byte| *byte == 0);
    while let Some(name) = texts.next() {
        pairs.push(name, texts.next().unwrap_or_default());
    }
    pairs
}
