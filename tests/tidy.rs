//! The architecture, kept by a test: which module may import which, what pure files must not name,
//! and what every source file must and must not have. A failure lists file and line, and what to
//! do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/tables.rs"]
mod tables;

use source::{Source, documents, from_root, paths, root, sources};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use tables::*;

/// File names that say nothing of what is in them.
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "common", "helpers", "manager", "misc"];

const LINE_LENGTH_MAX: usize = 100;

/// The modules that `src/lib.rs` has.
fn modules(lib: &str) -> Vec<&str> {
    let name = |line: &'_ str| -> Option<usize> { line.strip_prefix("pub mod ")?.find(';') };
    lib.lines().filter_map(|line| name(line).map(|end| &line[8..8 + end])).collect()
}

/// The modules that a file names.
fn named_modules(source: &Source, modules: &[&str]) -> Vec<(usize, String)> {
    let mut named = Vec::new();
    for (line, path) in paths(source) {
        let path = from_root(&path, &source.path);
        let Some(first) = path.strip_prefix("crate::").and_then(|path| path.split("::").next())
        else {
            continue;
        };
        if modules.contains(&first) && source.module() != Some(first) {
            named.push((line, first.to_owned()));
        }
    }
    named
}

fn check_walls(source: &Source, table: &[(&str, &[&str])]) -> Vec<String> {
    let Some(module) = source.module() else { return Vec::new() };
    let Some((_, allowed)) = table.iter().find(|(name, _)| *name == module) else {
        return vec![source.at(1, format!("the module {module} has no row in MAY_IMPORT"))];
    };
    let all: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
    let named = named_modules(source, &all).into_iter();
    named
        .filter(|(_, name)| !allowed.contains(&name.as_str()))
        .map(|(line, name)| source.at(line, format!("{module} may not import {name}")))
        .collect()
}

/// Edges of the table that no file needs.
fn unused_edges(sources: &[Source], table: &[(&str, &[&str])]) -> Vec<String> {
    let all: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
    let mut used = BTreeSet::new();
    for source in sources {
        let Some(module) = source.module() else { continue };
        used.extend(named_modules(source, &all).into_iter().map(|(_, to)| (module.to_owned(), to)));
    }
    let edges = table.iter().flat_map(|(from, allowed)| allowed.iter().map(move |to| (from, to)));
    edges
        .filter(|(from, to)| !used.contains(&((**from).to_owned(), (**to).to_owned())))
        .map(|(from, to)| format!("{from} no longer imports {to}: take it out of MAY_IMPORT"))
        .collect()
}

/// Pairs of files that import each other, but for a module and the files below it.
fn mutual_pairs(sources: &[Source]) -> BTreeSet<(String, String)> {
    let names: BTreeMap<String, &str> = sources
        .iter()
        .filter_map(|source| Some((source.path.strip_prefix("src/")?, source.path.as_str())))
        .map(|(path, whole)| {
            let name = path.trim_end_matches(".rs").trim_end_matches("/mod");
            (format!("crate::{}", name.replace('/', "::")), whole)
        })
        .collect();
    // The longest beginning of a path that is a file.
    let file_of = |path: &str| -> Option<&str> {
        let mut path = path.to_owned();
        loop {
            if let Some(file) = names.get(&path) {
                return Some(file);
            }
            path.truncate(path.rfind("::")?);
        }
    };
    let mut edges = BTreeSet::new();
    for source in sources.iter().filter(|source| source.path.starts_with("src/")) {
        for (_, path) in paths(&source.without_tests()) {
            let to = file_of(&from_root(&path, &source.path));
            if let Some(to) = to.filter(|to| *to != source.path) {
                edges.insert((source.path.clone(), to.to_owned()));
            }
        }
    }
    let folder = |path: &str| path.strip_suffix("mod.rs").map(str::to_owned);
    let is_above = |a: &str, b: &str| folder(a).is_some_and(|folder| b.starts_with(&folder));
    let both = edges.iter().filter(|(a, b)| a < b && edges.contains(&(b.clone(), a.clone())));
    both.filter(|(a, b)| !is_above(a, b) && !is_above(b, a)).cloned().collect()
}

fn check_driver(source: &Source) -> Vec<String> {
    let driver = concat!("glom", "mio");
    if source.module() == Some("ring") {
        return Vec::new();
    }
    let lines = source.text.lines().enumerate().filter(|(_, line)| line.contains(driver));
    lines.map(|(at, _)| source.at(at + 1, format!("{driver} is named outside ring"))).collect()
}

/// Whether a file says that it is pure, or its module is.
fn is_pure(source: &Source) -> bool {
    let mut header = source.text.lines().take_while(|line| line.starts_with("//!"));
    source.module().is_some_and(|module| PURE.contains(&module))
        || source.path.starts_with("src/") && header.any(|line| line.contains("*Pure"))
}

fn check_purity(source: &Source) -> Vec<String> {
    if !is_pure(source) {
        return Vec::new();
    }
    let source = source.without_tests();
    let mut faults = Vec::new();
    let is_below = |path: &str, denied: &str| {
        path.strip_prefix(denied).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    for (number, path) in paths(&source) {
        let path = from_root(&path, &source.path);
        if OUTSIDE.iter().any(|denied| is_below(&path, denied)) {
            faults.push(source.at(number, format!("a pure file names {path}")));
        }
    }
    for (number, line) in source.code() {
        for method in OUTSIDE_METHODS.iter().filter(|method| line.contains(**method)) {
            faults.push(source.at(number, format!("a pure file calls {method}")));
        }
    }
    faults
}

fn check_clocks(source: &Source) -> Vec<String> {
    if source.module().is_none_or(|room| room == "ring") {
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
    if source.text.len() > FILE_BYTES_MAX {
        let bytes = source.text.len();
        faults.push(source.at(1, format!("{bytes} bytes, {FILE_BYTES_MAX} fit: split it")));
    }
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

/// Banned words in any text, by line.
fn check_words(path: &str, text: &str, banned: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let words = line.split(|c: char| !c.is_alphabetic() && c != '_').map(str::to_lowercase);
        for word in words.filter(|word| banned.contains(&word.as_str())) {
            faults.push(format!("{path}:{}: the word {word} is not used here", at + 1));
        }
    }
    faults
}

/// Functions with too many parameters: the name, the line, and how many.
fn functions_with_many_parameters(source: &Source) -> Vec<(usize, String, usize)> {
    let code: String = source.code().iter().map(|(_, line)| format!("{line}\n")).collect();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if at > 0 && code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let after = &code[at + 3..];
        let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if name.is_empty() {
            continue;
        }
        // Generics may stand before the parameters, and hold parentheses of their own.
        let (mut angle, mut depth, mut count, mut any) = (0_i32, 0_i32, 0, false);
        let mut last = ' ';
        let mut has_receiver = false;
        let mut first = String::new();
        for c in after[name.len()..].chars() {
            match c {
                '<' if depth == 0 => angle += 1,
                '>' if depth == 0 && last != '-' => angle -= 1,
                _ if depth == 0 && angle > 0 => {}
                '(' | '[' | '{' => depth += 1,
                '<' if depth > 0 => depth += 1,
                '>' if depth > 1 && last != '-' => depth -= 1,
                ')' | ']' | '}' => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                ',' if depth == 1 => {
                    count += usize::from(any);
                    any = false;
                }
                c if depth >= 1 && !c.is_whitespace() => {
                    any = true;
                    if count == 0 {
                        first.push(c);
                    }
                }
                _ => {}
            }
            last = c;
        }
        count += usize::from(any);
        has_receiver |= first.trim_start_matches(['&', '\'', '_']).contains("self");
        let count = count - usize::from(has_receiver && count > 0);
        if count > PARAMETERS_MAX {
            found.push((code[..at].matches('\n').count() + 1, name, count));
        }
    }
    found
}

/// Files of `modules` in which `what` stands, apart from tests.
fn files_with(sources: &[Source], modules: &[&str], what: &str) -> BTreeSet<String> {
    let inside = sources.iter().filter(|one| one.module().is_some_and(|m| modules.contains(&m)));
    let with = inside.filter(|one| {
        !one.is_test() && one.without_tests().code().iter().any(|(_, line)| line.contains(what))
    });
    with.map(|one| one.path.clone()).collect()
}

/// What was found and is not allowed, and what is allowed and was not found.
fn compare(found: &BTreeSet<String>, allowed: &[&str], what: &str) -> Vec<String> {
    let new = found.iter().filter(|one| !allowed.contains(&one.as_str()));
    let gone = allowed.iter().filter(|one| !found.contains(**one));
    new.map(|one| format!("{one}: {what}"))
        .chain(gone.map(|one| format!("{one} is clean now: take it out of the list")))
        .collect()
}

fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_module_imports_only_what_its_row_allows() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules = modules(&lib);
    assert!(modules.len() >= 10, "src/lib.rs lists the modules: {modules:?}");
    let rows = MAY_IMPORT.iter().map(|(name, _)| *name);
    let stale = rows.filter(|name| !modules.contains(name));
    let mut faults: Vec<String> =
        stale.map(|name| format!("{name} is in MAY_IMPORT and not in src/lib.rs")).collect();
    let sources = sources();
    faults.extend(sources.iter().flat_map(|source| check_walls(source, MAY_IMPORT)));
    faults.extend(unused_edges(&sources, MAY_IMPORT));
    assert_none(faults);
}

#[test]
fn no_module_imports_one_that_imports_it() {
    let allows = |from: &str, to: &str| {
        MAY_IMPORT.iter().any(|(name, allowed)| *name == from && allowed.contains(&to))
    };
    // Along all edges: nothing leads back.
    let mut faults = Vec::new();
    for (start, _) in MAY_IMPORT {
        let (mut seen, mut next) = (BTreeSet::new(), vec![*start]);
        while let Some(module) = next.pop() {
            for (to, _) in MAY_IMPORT.iter().filter(|(to, _)| allows(module, to)) {
                if to == start {
                    faults.push(format!("{start} leads back to itself through {module}"));
                }
                if seen.insert(*to) {
                    next.push(to);
                }
            }
        }
    }
    assert_none(faults);
}

#[test]
fn pure_modules_import_only_pure_ones_and_the_configuration() {
    let is_fit = |to: &&&str| PURE.contains(*to) || ["config", "limits"].contains(*to);
    let pure = MAY_IMPORT.iter().filter(|(name, _)| PURE.contains(name));
    let faults = pure.flat_map(|(name, allowed)| {
        allowed
            .iter()
            .filter(|to| !is_fit(to))
            .map(move |to| format!("{name} is pure, {to} is not"))
    });
    assert_none(faults.collect());
}

#[test]
fn no_two_files_import_each_other() {
    let found = mutual_pairs(&sources());
    let allowed: BTreeSet<(String, String)> =
        MUTUAL.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let mut faults: Vec<String> = found
        .difference(&allowed)
        .map(|(a, b)| format!("{a} and {b} import each other: what both need goes to a third"))
        .collect();
    faults.extend(
        allowed.difference(&found).map(|(a, b)| format!("{a}, {b}: take it out of MUTUAL")),
    );
    assert_none(faults);
}

#[test]
fn only_ring_names_the_driver() {
    let sources = sources();
    let own = sources.iter().filter(|source| source.path.starts_with("src/"));
    assert_none(own.flat_map(check_driver).collect());
}

#[test]
fn pure_files_reach_for_nothing_outside() {
    let sources = sources();
    for module in PURE {
        assert!(sources.iter().any(|source| source.module() == Some(module)), "no module {module}");
    }
    assert!(sources.iter().filter(|source| is_pure(source)).count() > 20);
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

#[test]
fn the_words_are_those_of_the_field() {
    let mut faults = Vec::new();
    let rust = sources().into_iter().map(|source| (source.path, source.text));
    for (path, text) in rust.chain(documents()) {
        if !path.starts_with("tests/tidy") {
            // The account that daemons run as is no word.
            faults.extend(check_words(&path, &text.replace("\"nobody", "\""), BANNED));
        }
    }
    assert_none(faults);
}

#[test]
fn a_function_takes_few_parameters() {
    let mut found = BTreeSet::new();
    let mut faults = Vec::new();
    for source in sources() {
        for (line, name, count) in functions_with_many_parameters(&source) {
            let place = format!("{} {name}", source.path);
            if !MANY_PARAMETERS.contains(&place.as_str()) {
                let what = format!("{name} takes {count} parameters, {PARAMETERS_MAX} are enough");
                faults.push(source.at(line, what));
            }
            found.insert(place);
        }
    }
    let gone = MANY_PARAMETERS.iter().filter(|place| !found.contains(**place));
    faults.extend(gone.map(|place| format!("{place}: take it out of MANY_PARAMETERS")));
    assert_none(faults);
}

#[test]
fn policy_is_no_boxed_callback() {
    let found = files_with(&sources(), &NO_BOXED_CALLBACKS, "Box<dyn Fn");
    assert_none(compare(&found, BOXED_CALLBACKS, "Box<dyn Fn: make it a step that is answered"));
}

#[test]
fn messages_are_made_by_intake_alone() {
    let modules = MAY_IMPORT.iter().map(|(module, _)| *module);
    let modules: Vec<&str> = modules.filter(|module| *module != "spool").collect();
    let found = files_with(&sources(), &modules, ".draft()");
    assert_none(compare(&found, DRAFTS, "a draft: let `intake` make the message"));
}

#[test]
fn state_is_shared_by_drivers_alone() {
    let found = files_with(&sources(), &NO_SHARED_CELLS, "RefCell<");
    assert_none(compare(&found, DRIVERS, "RefCell: let one driver own the state"));
}

/// The checks themselves: each finds what it is for, and leaves alone what is right.
mod checks {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    const TABLE: &[(&str, &[&str])] = &[
        ("shard", &["session"]),
        ("session", &["smtp"]),
        ("smtp", &["message"]),
        ("message", &[]),
    ];

    #[test]
    fn modules_are_read() {
        assert_eq!(
            modules("//! x\npub mod shard;\n\npub mod smtp;\nmod own;\n"),
            ["shard", "smtp"]
        );
    }

    #[test]
    fn paths_are_taken_apart() {
        let text = "use a::{b::{c, d as e}, f};\nlet x = std::fs::read(p::q); use g;\n\
                    // no::comment\npub use\n    h::i;";
        let found: Vec<String> =
            paths(&source("src/a.rs", text)).into_iter().map(|p| p.1).collect();
        assert_eq!(found, ["a::b::c", "a::b::d", "a::f", "std::fs::read", "p::q", "g", "h::i"]);
        for (path, file, expected) in [
            ("super::b::C", "src/x/a.rs", "crate::x::b::C"),
            ("super::b::C", "src/x/mod.rs", "crate::b::C"),
            ("super::super::y::C", "src/x/a.rs", "crate::y::C"),
            ("self::b::C", "src/x/mod.rs", "crate::x::b::C"),
            ("std::fs", "src/x/mod.rs", "std::fs"),
        ] {
            assert_eq!(from_root(path, file), expected);
        }
    }

    #[test]
    fn an_edge_that_is_not_in_the_table_is_seen_however_it_is_written() {
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
            let expected = format!("{path}:{line}: smtp may not import session");
            assert_eq!(check_walls(&source(path, text), TABLE), [expected], "{text}");
        }
    }

    #[test]
    fn what_the_table_allows_is_left_alone() {
        for (path, text) in [
            ("src/smtp/mod.rs", "use crate::message::Address;\nuse crate::smtp::line;"),
            ("src/smtp/mod.rs", "/// See [`crate::session`].\n// crate::session"),
            ("src/smtp/mod.rs", "use crate::{message, smtp::session};"),
            ("src/smtp/mod.rs", "use crate::message::{session, other};"),
            ("src/smtp/line.rs", "use super::session;"),
            ("src/smtp/mod.rs", "pub(crate) fn session() {}\nlet shard = session;"),
            ("src/session/mod.rs", "use crate::smtp;"),
            ("src/main.rs", "use ringpost::shard;"),
            ("tests/relay.rs", "use crate::shard;"),
        ] {
            assert_eq!(check_walls(&source(path, text), TABLE), [""; 0], "{text}");
        }
        let new = check_walls(&source("src/attic/mod.rs", "//! x"), TABLE);
        assert_eq!(new, ["src/attic/mod.rs:1: the module attic has no row in MAY_IMPORT"]);
        let unused = unused_edges(&[source("src/smtp/mod.rs", "use crate::message;")], &TABLE[2..]);
        assert_eq!(unused, [""; 0]);
        assert_eq!(unused_edges(&[], &TABLE[2..]).len(), 1);
    }

    #[test]
    fn two_files_that_import_each_other_are_seen() {
        let pair = |one: &str, other: &str| {
            mutual_pairs(&[source("src/x/a.rs", one), source("src/x/b.rs", other)]).len()
        };
        assert_eq!(pair("use super::b::B;", "use super::a::A;"), 1);
        assert_eq!(pair("use super::b::B;", "use crate::x::a::A;"), 1);
        assert_eq!(pair("use super::b::B;", "use super::c::A;"), 0);
        let above = [
            source("src/x/mod.rs", "use a::A;\nuse self::a::B;"),
            source("src/x/a.rs", "use super::C;"),
        ];
        assert_eq!(mutual_pairs(&above).len(), 0, "a module and what is below it");
    }

    #[test]
    fn banned_words_are_seen_whole() {
        let found = check_words("a.md", "The rooms\nof a Room; roommate, room_x", &["room"]);
        assert_eq!(found, ["a.md:2: the word room is not used here"]);
    }

    #[test]
    fn parameters_are_counted() {
        let many = |text: &str| functions_with_many_parameters(&source("src/a.rs", text)).len();
        let seven = "a: A, b: B, c: C, d: D, e: E, f: F, g: G";
        assert_eq!(many(&format!("fn f({seven}) {{}}")), 1);
        assert_eq!(many(&format!("fn f<T: Fn(A, B) -> C>(\n    &self,\n    {seven},\n) {{}}")), 1);
        assert_eq!(many("fn f(&mut self, a: A, b: B, c: C, d: D, e: E, f: F) {}"), 0);
        assert_eq!(
            many("fn f(a: (A, B), b: HashMap<C, D>, c: impl Fn(E, F) -> G, d: [u8; 3]) {}"),
            0
        );
    }

    #[test]
    fn the_driver_is_seen_outside_its_module() {
        let text = concat!("//! x\nuse glom", "mio::Task;");
        assert_eq!(check_driver(&source("src/pool/mod.rs", text)).len(), 1);
        assert_eq!(check_driver(&source("src/ring/mod.rs", text)), [""; 0]);
    }

    #[test]
    fn a_pure_file_that_reaches_outside_is_seen() {
        for text in [
            "use std::net::{IpAddr, TcpStream};",
            "use std::{fmt, fs};",
            "use std::{\n    fmt,\n    net::{IpAddr, UdpSocket},\n};",
            "std::fs::read(path)",
            "use crate::ring;",
            "use crate::{message::A, ring::Stream};",
            "let found = name.to_socket_addrs();",
            "let now = Instant::now();",
            "getrandom::fill(&mut key)",
        ] {
            assert_eq!(check_purity(&source("src/smtp/mod.rs", text)).len(), 1, "{text}");
            assert_eq!(check_purity(&source("src/pool/mod.rs", text)), [""; 0], "{text}");
            let marked = format!("//! A table. *Pure.*\n\n{text}");
            assert_eq!(check_purity(&source("src/pool/site.rs", &marked)).len(), 1, "{text}");
        }
        let text =
            "use std::net::{IpAddr, SocketAddr};\n#[cfg(test)]\nmod tests {\n    use std::fs;";
        assert_eq!(check_purity(&source("src/smtp/mod.rs", text)), [""; 0]);
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
