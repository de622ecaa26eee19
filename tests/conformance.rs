//! Holds `tests/conformance.md` to what is there: each test that a row names must exist.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

/// All files below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn every_row_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("tests/conformance.md")).unwrap();
    let mut paths = Vec::new();
    files(&root.join("src"), &mut paths);
    files(&root.join("tests"), &mut paths);
    let is_source = |path: &&PathBuf| {
        path.extension().is_some_and(|extension| extension == "rs" || extension == "py")
    };
    let sources: String =
        paths.iter().filter(is_source).map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut rows = 0;
    let is_head = |line: &str| line.starts_with("| RFC |") || line.starts_with("| --- |");
    for row in table.lines().filter(|line| line.starts_with("| ") && !is_head(line)) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let &[rfc, _, _, test] = cells.as_slice() else { panic!("four cells: {row}") };
        assert!(rfc.bytes().all(|byte| byte.is_ascii_digit()), "the number of an RFC: {row}");
        let name = test.trim_matches('`');
        let exists = match name.ends_with(".smtp") {
            true if name.contains('/') => root.join("tests/fixtures").join(name).is_file(),
            true => root.join("tests/fixtures/session").join(name).is_file(),
            false => {
                sources.contains(&format!("fn {name}()"))
                    || sources.contains(&format!("def {name}()"))
            }
        };
        assert!(exists, "no such test: {name}");
        rows += 1;
    }
    assert!(rows > 0, "the table has rows");
}
