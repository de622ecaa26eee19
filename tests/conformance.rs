//! Holds `tests/conformance.md` to what is there: each test that a row names must exist, and what
//! is not held has its reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The tables, by the heading before each, and the number of their cells; the test is the last.
const TABLES: [(&str, usize); 2] = [("What holds", 4), ("What is done otherwise", 5)];
/// The table of what needs no test: its last cell is the reason.
const UNCONCERNED: &str = "What does not concern us";

/// All files below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// The rows of the table below this heading, as cells.
fn rows<'a>(text: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, rest) = text.split_once(&format!("\n## {heading}\n")).expect(heading);
    let table = rest.split("\n## ").next().unwrap();
    let is_head = |line: &str| line.starts_with("| RFC |") || line.starts_with("| --- |");
    let rows = table.lines().filter(|line| line.starts_with("| ") && !is_head(line));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

fn checked<'a>(row: &[&'a str], cells: usize) -> &'a str {
    assert_eq!(row.len(), cells, "cells of {row:?}");
    assert!(row[0].bytes().all(|byte| byte.is_ascii_digit()), "the number of an RFC: {row:?}");
    assert!(row.iter().all(|cell| !cell.is_empty()), "all cells: {row:?}");
    row[cells - 1]
}

#[test]
fn every_row_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("tests/conformance.md")).unwrap();
    let mut paths = Vec::new();
    files(&root.join("src"), &mut paths);
    files(&root.join("tests"), &mut paths);
    let is_source = |path: &&PathBuf| {
        path.extension().is_some_and(|extension| extension == "rs" || extension == "py")
    };
    let sources: String =
        paths.iter().filter(is_source).map(|path| fs::read_to_string(path).unwrap()).collect();
    for (heading, cells) in TABLES {
        let rows = rows(&text, heading);
        assert!(!rows.is_empty(), "{heading} has rows");
        for row in rows {
            let name = checked(&row, cells).trim_matches('`');
            let exists = match name.ends_with(".smtp") {
                true if name.contains('/') => root.join("tests/fixtures").join(name).is_file(),
                true => root.join("tests/fixtures/session").join(name).is_file(),
                false => {
                    sources.contains(&format!("fn {name}()"))
                        || sources.contains(&format!("def {name}()"))
                }
            };
            assert!(exists, "no such test: {name}");
        }
    }
}

#[test]
fn what_does_not_concern_us_has_its_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("tests/conformance.md")).unwrap();
    let rows = rows(&text, UNCONCERNED);
    assert!(!rows.is_empty());
    rows.iter().for_each(|row| _ = checked(row, 4));
}

#[test]
fn no_demand_stands_twice() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("tests/conformance.md")).unwrap();
    let mut seen = BTreeSet::new();
    for heading in [TABLES[0].0, TABLES[1].0, UNCONCERNED] {
        for row in rows(&text, heading) {
            assert!(seen.insert(row[..3].to_vec()), "twice: {row:?}");
        }
    }
}
