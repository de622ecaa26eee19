//! The files of the repository, and the paths that a Rust file names.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file: its path from the root of the repository, and its text.
pub struct Source {
    pub path: String,
    pub text: String,
}

impl Source {
    /// The module that the file belongs to; `None` for `lib.rs`, `main.rs` and what is not in
    /// `src`.
    pub fn module(&self) -> Option<&str> {
        let (module, _) = self.path.strip_prefix("src/")?.split_once('/')?;
        Some(module)
    }

    /// Whether there is nothing but tests in it.
    pub fn is_test(&self) -> bool {
        let parts = ["/tests.rs", "_tests.rs", "/tests/", "/simulator/", "/simulation/"];
        parts.iter().any(|part| self.path.contains(part))
    }

    /// The file up to the module with its tests.
    pub fn without_tests(&self) -> Source {
        let end = self.text.find("#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        Source { path: self.path.clone(), text: self.text[..end].to_owned() }
    }

    /// The file's lines from 1, with comments blanked.
    pub fn code(&self) -> Vec<(usize, &str)> {
        let code = |line: &'_ str| -> usize {
            if line.trim_start().starts_with("//") {
                0
            } else {
                line.find(" // ").unwrap_or(line.len())
            }
        };
        self.text.lines().enumerate().map(|(at, line)| (at + 1, &line[..code(line)])).collect()
    }

    pub fn at(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents, the annotated configuration and the programs beside the Rust files.
pub fn documents() -> Vec<(String, String)> {
    let mut folders: Vec<PathBuf> =
        ["tuning", "docs", "tests/interop", "loadtest"].map(|name| root().join(name)).into();
    let mut files: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"]
            .map(|name| root().join(name))
            .into();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let ends = ["md", "toml", "py", "service"];
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| ends.iter().any(|one| end == *one)) {
                files.push(path);
            }
        }
    }
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).ok()?;
        Some((path.strip_prefix(root()).unwrap().display().to_string(), text))
    };
    files.into_iter().filter_map(read).collect()
}

/// Every Rust file of the repository.
pub fn sources() -> Vec<Source> {
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

/// All paths that a file names, with their lines: those of its `use` declarations, grouped ones
/// taken apart, and those in its code.
pub fn paths(source: &Source) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let mut open: Vec<String> = Vec::new();
    let mut current = String::new();
    let mut in_use = false;
    for (number, line) in source.code() {
        let mut words = Words::of(line);
        while let Some(word) = words.next() {
            match word {
                "use" if !in_use && current.is_empty() => in_use = true,
                "{" if in_use => {
                    open.push(std::mem::take(&mut current));
                }
                "}" | "," | ";" if in_use => {
                    if !current.is_empty() {
                        paths.push((number, format!("{}{current}", open.concat())));
                        current.clear();
                    }
                    if word == "}" {
                        open.pop();
                    }
                    in_use = word != ";";
                }
                "::" => current.push_str("::"),
                word if current.ends_with("::") => current.push_str(word),
                "as" if in_use => {
                    // The name behind it is another one for the same path.
                    paths.push((number, format!("{}{current}", open.concat())));
                    current = String::new();
                    words.next();
                }
                word => {
                    if !in_use && current.contains("::") {
                        paths.push((number, std::mem::take(&mut current)));
                    }
                    let is_name = word.starts_with(|c: char| c.is_alphanumeric() || c == '_');
                    current = if is_name { word.to_owned() } else { String::new() };
                    if word == "use" {
                        (in_use, current) = (true, String::new());
                    }
                }
            }
        }
        if !in_use {
            if current.contains("::") {
                paths.push((number, std::mem::take(&mut current)));
            }
            current.clear();
        }
    }
    paths
}

/// A path of the crate from its root: `super::` and `self::` resolved. Others stay as they are.
pub fn from_root(path: &str, file: &str) -> String {
    let mut own: Vec<&str> =
        file.trim_start_matches("src/").trim_end_matches(".rs").split('/').collect();
    if own.last() == Some(&"mod") {
        own.pop();
    }
    let mut rest = path;
    let mut relative = false;
    if let Some(tail) = rest.strip_prefix("self::") {
        (rest, relative) = (tail, true);
    }
    while let Some(tail) = rest.strip_prefix("super::") {
        // In a module inside the file one `super` leads to the file only; none is lost by that.
        own.pop();
        (rest, relative) = (tail, true);
    }
    match relative {
        true => format!("crate::{}", own.into_iter().chain([rest]).collect::<Vec<_>>().join("::")),
        false => path.to_owned(),
    }
}

/// Names, `::`, `,`, `;` and braces of a line; the rest is passed over.
pub struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Words<'a> {
        Words { rest: line }
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let name = |c: char| c.is_alphanumeric() || c == '_';
        let first = self.rest.trim_start().chars().next()?;
        self.rest = self.rest.trim_start();
        let length = match first {
            _ if name(first) => self.rest.find(|c| !name(c)).unwrap_or(self.rest.len()),
            ':' if self.rest.starts_with("::") => 2,
            other => other.len_utf8(),
        };
        let (word, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(word)
    }
}
