//! Writes the effective configuration as a TOML file.
//!
//! The file reads back as the same configuration.

use super::Config;
use super::declare::{Entries, Shown};
use super::written::join;
use std::fmt::Write;

impl Config {
    /// The whole configuration as TOML, every key with its effective value.
    pub fn render(&self) -> String {
        let mut page = String::new();
        render("", &self.entries, &mut page);
        page
    }
}

/// Values come before tables, as TOML requires.
fn render(path: &str, entries: &Entries, page: &mut String) {
    for (key, shown) in entries {
        if let Shown::Value(value) = shown {
            // Writing to a string does not fail.
            let _ = writeln!(page, "{key} = {value}");
        }
    }
    for (key, shown) in entries {
        let path = join(path, key);
        match shown {
            Shown::Value(_) => {}
            Shown::Table(entries) => {
                let _ = writeln!(page, "\n[{path}]");
                render(&path, entries, page);
            }
            Shown::Tables(tables) => {
                for entries in tables {
                    let _ = writeln!(page, "\n[[{path}]]");
                    render(&path, entries, page);
                }
            }
        }
    }
}
