//! The annotated file says of every number, size and duration in what range it may be.

use super::{MANUAL, machine, uncommented};
use crate::config::{source, table, written};
use std::collections::BTreeMap;

/// What the manual says of each key that it shows with its default: the paragraph over it, and
/// the one over its table.
fn paragraphs() -> BTreeMap<String, String> {
    let (mut table, mut of_table, mut paragraph) = (String::new(), String::new(), String::new());
    let mut found = BTreeMap::new();
    for line in MANUAL.lines() {
        let text = line.strip_prefix('#').unwrap_or_default();
        match text.split_once(' ') {
            _ if line.is_empty() => paragraph.clear(),
            _ if text.starts_with('[') => {
                table = format!("{}.", text.trim_matches(['[', ']']));
                of_table = std::mem::take(&mut paragraph);
            }
            Some((key, value)) if !key.is_empty() && value.starts_with('=') => {
                found.insert(format!("{table}{key}"), format!("{of_table} {paragraph}"));
            }
            _ => paragraph = format!("{paragraph}{text}"),
        }
    }
    found
}

/// Whether `text` has `value` standing by itself: `1s`, and not the end of `11s`.
fn says(text: &str, value: &str) -> bool {
    let goes_on = |c: char| c.is_ascii_alphanumeric();
    text.match_indices(value).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + value.len()..]);
        // A full stop ends a sentence, a point in a number does not.
        let after = after.strip_prefix('.').unwrap_or(after);
        !after.starts_with(goes_on) && !before.ends_with(goes_on) && !before.ends_with('.')
    })
}

#[test]
fn the_manual_gives_the_range_of_every_key() {
    let tree = source::read_file(&uncommented("#"), &"manual".into()).unwrap();
    let report = table::Report::default();
    written::read(tree, &machine(), &report);
    let paragraphs = paragraphs();
    let ranges = report.ranges();
    assert!(ranges.len() > 40, "{ranges:?}");
    for (key, (least, most)) in ranges {
        let text = paragraphs.get(&key).unwrap_or_else(|| panic!("{key} is not in the manual"));
        assert!(says(text, &least) && says(text, &most), "{key}: {least} to {most}: {text}");
    }
}

#[test]
fn a_range_is_found_only_where_it_stands() {
    let text = " Wait: 1s to 10m. Then 0.5 of 4 KiB.";
    for right in ["1s", "10m", "0.5", "4 KiB"] {
        assert!(says(text, right), "{right}");
    }
    for wrong in ["0m", "1", "5", "0", "KiB to"] {
        assert!(!says(text, wrong), "{wrong}");
    }
}
