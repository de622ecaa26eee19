//! The house keeps itself: walls between the rooms, and what every source file must and must not
//! have. A failure lists file and line.
//!
//! The rooms and their order are read from `src/lib.rs`: a room may name only rooms below it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms that do no I/O: bytes and the time in, decisions and bytes out.
const PURE: [&str; 8] =
    ["timestamp", "message", "smtp", "sasl", "session", "delivery", "bounce", "scheduler"];

/// What a pure room does not name.
const OUTSIDE: [&str; 9] = [
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "std::fs",
    "thread::sleep",
    "thread::spawn",
];

/// Clocks and chance that `ring` alone asks of the system: elsewhere a simulation could not decide
/// them.
const CLOCKS: [&str; 3] = ["Instant::now", "SystemTime::now", "getrandom"];

/// File names that say nothing of what is in them.
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "common", "helpers", "manager", "misc"];

const LINE_LENGTH_MAX: usize = 100;

/// A source file: its path from the root of the repository, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The room that the file belongs to; `None` for `lib.rs`, `main.rs` and what is not in `src`.
    fn room(&self) -> Option<&str> {
        let (room, _) = self.path.strip_prefix("src/")?.split_once('/')?;
        Some(room)
    }

    /// The file's lines from 1, with comments blanked.
    fn code(&self) -> Vec<(usize, &str)> {
        let code = |line: &'_ str| -> usize {
            if line.trim_start().starts_with("//") {
                0
            } else {
                line.find(" // ").unwrap_or(line.len())
            }
        };
        self.text.lines().enumerate().map(|(at, line)| (at + 1, &line[..code(line)])).collect()
    }

    fn at(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the repository that is ours.
fn sources() -> Vec<Source> {
    let mut folders: Vec<PathBuf> =
        ["src", "tests", "benches", "loadtest", "fuzz"].map(|name| root().join(name)).into();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root()).unwrap().display().to_string();
                sources.push(Source { path, text });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// The rooms from top to bottom.
fn rooms(lib: &str) -> Vec<&str> {
    let name = |line: &'_ str| -> Option<usize> { line.strip_prefix("pub mod ")?.find(';') };
    lib.lines().filter_map(|line| name(line).map(|end| &line[8..8 + end])).collect()
}

/// The rooms that a file names, with the line: `crate::room`, `crate::{room, ...}`, or through
/// `super::` as many times as lead out of its own room.
fn named_rooms(source: &Source, rooms: &[&str]) -> Vec<(usize, String)> {
    let mut named = Vec::new();
    let mut group: Option<usize> = None;
    let depth = depth(&source.path);
    for (number, line) in source.code() {
        let mut words = Words::of(line);
        let mut chain = 0;
        let mut after_crate = false;
        while let Some(word) = words.next() {
            if let Some(level) = group {
                // Inside `crate::{ }`: the names at its top level are rooms.
                match word {
                    "{" => group = Some(level + 1),
                    "}" => group = level.checked_sub(1).filter(|&level| level > 0),
                    word if level == 1 && !words.before_was_path && rooms.contains(&word) => {
                        named.push((number, word.to_string()));
                    }
                    _ => {}
                }
                continue;
            }
            match word {
                "crate" => (after_crate, chain) = (true, 0),
                "super" => chain += 1,
                "::" => {}
                "{" if after_crate && words.before_was_path => group = Some(1),
                word => {
                    let led_out = after_crate || chain >= depth;
                    if led_out && words.before_was_path && rooms.contains(&word) {
                        named.push((number, word.to_string()));
                    }
                    (after_crate, chain) = (false, 0);
                }
            }
        }
    }
    named
}

/// How many `super::` lead from the top of a file out of its room: `src/room/mod.rs` 1, and one
/// more for each step down.
fn depth(path: &str) -> usize {
    let steps = path.matches('/').count();
    if path.ends_with("/mod.rs") { steps - 1 } else { steps }
}

/// Names, `::` and braces of a line; the rest is passed over.
struct Words<'a> {
    rest: &'a str,
    last_was_path: bool,
    before_was_path: bool,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Words<'a> {
        Words { rest: line, last_was_path: false, before_was_path: false }
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let name = |c: char| c.is_alphanumeric() || c == '_';
        loop {
            let first = self.rest.chars().next()?;
            let length = match first {
                _ if name(first) => self.rest.find(|c| !name(c)).unwrap_or(self.rest.len()),
                ':' if self.rest.starts_with("::") => 2,
                '{' | '}' => 1,
                other => {
                    self.last_was_path = false;
                    self.rest = &self.rest[other.len_utf8()..];
                    continue;
                }
            };
            let (word, rest) = self.rest.split_at(length);
            self.rest = rest;
            self.before_was_path = self.last_was_path;
            self.last_was_path = word == "::";
            return Some(word);
        }
    }
}

fn check_walls(source: &Source, rooms: &[&str]) -> Vec<String> {
    let Some(room) = source.room() else { return Vec::new() };
    let Some(own) = rooms.iter().position(|name| *name == room) else {
        return vec![source.at(1, format!("the room {room} is not in src/lib.rs"))];
    };
    let above = &rooms[..own];
    let named = named_rooms(source, rooms).into_iter();
    named
        .filter(|(_, name)| above.contains(&name.as_str()))
        .map(|(line, name)| source.at(line, format!("{room} names {name}, which is above it")))
        .collect()
}

fn check_driver(source: &Source) -> Vec<String> {
    let driver = concat!("glom", "mio");
    if source.room() == Some("ring") {
        return Vec::new();
    }
    let lines = source.text.lines().enumerate().filter(|(_, line)| line.contains(driver));
    lines.map(|(at, _)| source.at(at + 1, format!("{driver} is named outside ring"))).collect()
}

fn check_purity(source: &Source) -> Vec<String> {
    let Some(room) = source.room().filter(|room| PURE.contains(room)) else { return Vec::new() };
    let mut faults = Vec::new();
    for (number, line) in source.code() {
        for word in OUTSIDE.iter().filter(|word| line.contains(**word)) {
            faults.push(source.at(number, format!("{room} is pure, and names {word}")));
        }
    }
    faults
}

fn check_clocks(source: &Source) -> Vec<String> {
    if source.room().is_none_or(|room| room == "ring") {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (number, line) in source.code() {
        for word in CLOCKS.iter().filter(|word| line.contains(**word)) {
            faults.push(source.at(number, format!("{word}: take the clocks and chance of ring")));
        }
        if names_unseeded_randomness(line) {
            faults.push(source.at(number, "chance without a seed: take ring::rng"));
        }
    }
    faults
}

/// `fastrand::Rng` with a seed is arithmetic; everything else of it asks the system.
fn names_unseeded_randomness(line: &str) -> bool {
    let other = |after: &str| {
        !after.starts_with("Rng") || after.starts_with("Rng::new") || after.starts_with("Rng::def")
    };
    line.split("fastrand::").skip(1).any(other) || line.contains("Rng::new()")
}

fn check_style(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    if !source.text.starts_with("//!") {
        faults.push(source.at(1, "begins without a //! that says what the file is"));
    }
    let stem = Path::new(&source.path).file_stem().unwrap().to_str().unwrap();
    if EMPTY_NAMES.contains(&stem) {
        faults.push(source.at(1, format!("the name {stem} says nothing of what is in it")));
    }
    // In pieces, so that this file may be checked as well.
    let unfinished = [
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
    ];
    for (at, line) in source.text.lines().enumerate() {
        let length = line.chars().count();
        if length > LINE_LENGTH_MAX && !is_table_row(line) {
            faults.push(source.at(at + 1, format!("{length} characters, {LINE_LENGTH_MAX} fit")));
        }
        for word in unfinished.iter().filter(|word| line.contains(**word)) {
            faults.push(source.at(at + 1, format!("unfinished: {word}")));
        }
    }
    faults
}

/// A row of a table in documentation: Markdown has no way to go on with it on a second line.
fn is_table_row(line: &str) -> bool {
    let text = line.trim_start();
    text.strip_prefix("//!").or(text.strip_prefix("///")).is_some_and(|text| {
        let text = text.trim();
        text.starts_with('|') && text.ends_with('|')
    })
}

fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn a_room_names_only_rooms_below_it() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rooms = rooms(&lib);
    assert!(rooms.len() >= 10, "src/lib.rs lists the rooms: {rooms:?}");
    assert_none(sources().iter().flat_map(|source| check_walls(source, &rooms)).collect());
}

#[test]
fn only_ring_names_the_driver() {
    let sources = sources();
    let ours = sources.iter().filter(|source| source.path.starts_with("src/"));
    assert_none(ours.flat_map(check_driver).collect());
}

#[test]
fn pure_rooms_reach_for_nothing_outside() {
    let sources = sources();
    for room in PURE {
        assert!(sources.iter().any(|source| source.room() == Some(room)), "no room {room}");
    }
    assert_none(sources.iter().flat_map(check_purity).collect());
}

#[test]
fn clocks_and_chance_come_from_ring() {
    assert_none(sources().iter().flat_map(check_clocks).collect());
}

#[test]
fn every_file_says_what_it_is_and_is_finished() {
    let sources = sources();
    assert!(sources.iter().any(|source| source.path == "src/lib.rs"));
    assert_none(sources.iter().flat_map(check_style).collect());
}

/// The checks themselves: each finds what it is for, and leaves alone what is right.
mod checks {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    const ROOMS: [&str; 4] = ["shard", "session", "smtp", "message"];

    #[test]
    fn rooms_are_read_in_order() {
        assert_eq!(rooms("//! x\npub mod shard;\n\npub mod smtp;\nmod own;\n"), ["shard", "smtp"]);
    }

    #[test]
    fn a_wall_is_seen_however_it_is_crossed() {
        for (path, text, line) in [
            ("src/smtp/mod.rs", "//! x\nuse crate::session::Session;", 2),
            ("src/smtp/mod.rs", "fn f() { crate::session::f(); }", 1),
            ("src/smtp/mod.rs", "use crate::{message::Address, session};", 1),
            (
                "src/smtp/mod.rs",
                "use crate::{\n    message::{Address, Body},\n    session::S,\n};",
                3,
            ),
            ("src/smtp/mod.rs", "use crate::{message::{A, B}, session};", 1),
            ("src/smtp/mod.rs", "use super::session;", 1),
            ("src/smtp/line.rs", "use super::super::session::S;", 1),
            ("src/smtp/line.rs", "let x = f(super::super::session::f());", 1),
            ("src/smtp/mod.rs", "pub(crate) use crate::session;", 1),
        ] {
            let expected = format!("{path}:{line}: smtp names session, which is above it");
            assert_eq!(check_walls(&source(path, text), &ROOMS), [expected], "{text}");
        }
    }

    #[test]
    fn what_crosses_no_wall_is_left_alone() {
        for (path, text) in [
            ("src/smtp/mod.rs", "use crate::message::Address;\nuse crate::smtp::line;"),
            ("src/smtp/mod.rs", "/// See [`crate::session`].\n// crate::session"),
            ("src/smtp/mod.rs", "use crate::{message, smtp::session};"),
            ("src/smtp/mod.rs", "use crate::message::{session, other};"),
            ("src/smtp/line.rs", "use super::session;"),
            ("src/smtp/mod.rs", "pub(crate) fn session() {}\nlet shard = session;"),
            ("src/session/mod.rs", "use crate::{message, smtp};"),
            ("src/main.rs", "use ringpost::shard;"),
            ("tests/relay.rs", "use crate::shard;"),
        ] {
            assert_eq!(check_walls(&source(path, text), &ROOMS), [""; 0], "{text}");
        }
        let new = check_walls(&source("src/attic/mod.rs", "//! x"), &ROOMS);
        assert_eq!(new, ["src/attic/mod.rs:1: the room attic is not in src/lib.rs"]);
    }

    #[test]
    fn the_driver_is_seen_outside_its_room() {
        let text = concat!("//! x\nuse glom", "mio::Task;");
        assert_eq!(check_driver(&source("src/pool/mod.rs", text)).len(), 1);
        assert_eq!(check_driver(&source("src/ring/mod.rs", text)), [""; 0]);
    }

    #[test]
    fn a_pure_room_that_reaches_outside_is_seen() {
        for text in ["use std::net::{IpAddr, TcpStream};", "std::fs::read(path)"] {
            assert_eq!(check_purity(&source("src/smtp/mod.rs", text)).len(), 1, "{text}");
            assert_eq!(check_purity(&source("src/pool/mod.rs", text)), [""; 0], "{text}");
        }
        assert_eq!(check_purity(&source("src/smtp/mod.rs", "use std::net::IpAddr;")), [""; 0]);
    }

    #[test]
    fn a_clock_or_chance_outside_ring_is_seen() {
        for text in [
            "let now = Instant::now();",
            "let now = SystemTime::now();",
            "getrandom::fill(&mut key)",
            "let n = fastrand::u64(..);",
            "let rng = fastrand::Rng::new();",
            "use fastrand::Rng; let rng = Rng::new();",
        ] {
            assert_eq!(check_clocks(&source("src/pool/mod.rs", text)).len(), 1, "{text}");
            assert_eq!(check_clocks(&source("src/ring/clock.rs", text)), [""; 0], "{text}");
        }
        for text in [
            "// never Instant::now()",
            "let rng = fastrand::Rng::with_seed(7);",
            "use fastrand::Rng;",
            "let at = ring::wall_clock();",
        ] {
            assert_eq!(check_clocks(&source("src/smtp/mod.rs", text)), [""; 0], "{text}");
        }
    }

    #[test]
    fn an_untidy_file_is_seen() {
        let long = format!("//! {}", "x".repeat(LINE_LENGTH_MAX - 3));
        for (path, text, expected) in [
            ("src/a.rs", "use x;", "src/a.rs:1: begins without a //! that says what the file is"),
            ("src/misc.rs", "//! x", "src/misc.rs:1: the name misc says nothing of what is in it"),
            ("src/a.rs", &long, "src/a.rs:1: 101 characters, 100 fit"),
            (
                "src/a.rs",
                concat!("//! x\n// FIX", "ME"),
                concat!("src/a.rs:2: unfinished: FIX", "ME"),
            ),
            (
                "src/a.rs",
                concat!("//! x\nto", "do!()"),
                concat!("src/a.rs:2: unfinished: to", "do!("),
            ),
        ] {
            assert_eq!(check_style(&source(path, text)), [expected]);
        }
        assert_eq!(check_style(&source("src/a.rs", "//! x\nfn f() {}\n")), [""; 0]);
        // A row of a table cannot be broken; a line of code with bars can.
        let row = format!("//! | {} |", "x".repeat(LINE_LENGTH_MAX));
        assert_eq!(check_style(&source("src/a.rs", &row)), [""; 0]);
        let bars = format!("//! x\n| {} |", "x".repeat(LINE_LENGTH_MAX));
        assert_eq!(check_style(&source("src/a.rs", &bars)).len(), 1);
    }
}
