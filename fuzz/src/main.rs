//! Hostile bytes for all code that reads bytes from outside.
//!
//! ```text
//! ringpost-fuzz [--seconds N] [--seed N] [TARGET...]      all targets, 5 seconds each, a new seed
//! ringpost-fuzz --replay TARGET FILE                      one input again
//! ```
//!
//! Each target takes bytes and checks what must hold for all inputs: no panic, no dependence on how
//! the input was split, and accepted input has the promised form. Inputs are those of
//! `fuzz/corpus/TARGET` and mutations of them. One that fails is written to `fuzz/failures`; when
//! the fault is understood, it is added to the corpus. It needs the same toolchain as the relay.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod inputs;
mod sessions;
mod words;

use inputs::Inputs;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Checks one input; panics when a check fails. The number varies how it is split.
type Target = fn(&[u8], u64);

const TARGETS: [(&str, Target); 7] = [
    ("scanner", words::scanner),
    ("content", words::content),
    ("commands", words::commands),
    ("addresses", words::addresses),
    ("replies", words::replies),
    ("proxy", words::proxy),
    ("sessions", sessions::sessions),
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let mut seconds = 5;
    let mut seed = fastrand::u64(..);
    let mut wanted = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seconds" => seconds = number(words.next()),
            "--seed" => seed = number(words.next()),
            "--replay" => {
                let name = words.next().expect("a target");
                let path = words.next().expect("a file");
                target(&name)(&fs::read(path).expect("a readable file"), seed);
                return ExitCode::SUCCESS;
            }
            name => wanted.push(name.to_owned()),
        }
    }
    wanted.iter().for_each(|name| _ = target(name));
    let mut failed = false;
    for (name, check) in TARGETS {
        if wanted.is_empty() || wanted.iter().any(|one| one == name) {
            failed |= !run(name, check, Duration::from_secs(seconds), seed);
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn number(word: Option<String>) -> u64 {
    word.and_then(|word| word.parse().ok()).expect("a number")
}

fn target(name: &str) -> Target {
    let known = TARGETS.iter().find(|(known, _)| *known == name);
    known.map(|(_, check)| *check).unwrap_or_else(|| panic!("there is no target {name}"))
}

/// Runs one target for a time; whether all checks succeeded.
fn run(name: &str, check: Target, time: Duration, seed: u64) -> bool {
    let mut inputs = Inputs::read(&folder().join("corpus").join(name), seed);
    let began = Instant::now();
    let mut tried = 0_u64;
    while began.elapsed() < time || tried < inputs.kept() {
        let input = inputs.next();
        if catch_unwind(AssertUnwindSafe(|| check(&input, seed ^ tried))).is_err() {
            let path = keep(name, &input);
            println!("FAILED {name}: --seed {seed}, input {tried}: {}", path.display());
            return false;
        }
        tried += 1;
    }
    println!("ok     {name}: {tried} inputs, {} of them kept, seed {seed}", inputs.kept());
    true
}

fn keep(name: &str, input: &[u8]) -> PathBuf {
    let sum = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let path = folder().join("failures").join(format!("{name}-{sum:016x}"));
    fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).expect("a folder");
    fs::write(&path, input).expect("a writable folder");
    path
}
