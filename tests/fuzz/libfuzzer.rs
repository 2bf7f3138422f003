//! Each target of `targets` as a program of cargo-fuzz; the program's name says which.

#![no_main]

mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::run(env!("CARGO_BIN_NAME"), bytes));
