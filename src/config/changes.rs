//! Compares two configurations key by key, for a reload.

use super::Config;
use super::declare::{Apply, Entries, Shown};
use super::written::{declared, join};

/// A key whose value has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key with its tables, or the `[[table]]` that was changed.
    pub key: String,
    /// Its old value, as written in the file; `not set` when it has none.
    pub before: String,
    /// Its new value.
    pub after: String,
    /// When the new value takes effect.
    pub apply: Apply,
}

impl Config {
    /// The keys whose value in `after` differs.
    pub fn changes(&self, after: &Config) -> Vec<Change> {
        let mut changes = Vec::new();
        compare("", &self.entries, &after.entries, &mut changes);
        let declared = declared();
        for change in &mut changes {
            let in_table = format!("{}.", change.key);
            let is_meant = |path: &str| path == change.key || path.starts_with(&in_table);
            let mut keys = declared.iter().filter(|one| is_meant(&one.path()));
            if keys.all(|one| one.key.apply == Apply::Reload) {
                change.apply = Apply::Reload;
            }
        }
        changes
    }
}

fn compare(path: &str, before: &Entries, after: &Entries, changes: &mut Vec<Change>) {
    let of = |entries: &Entries, key: &str| {
        entries.iter().find(|(name, _)| *name == key).map(|(_, shown)| shown.clone())
    };
    let mut keys: Vec<&str> = before.iter().map(|(key, _)| *key).collect();
    let added = after.iter().map(|(key, _)| *key).filter(|key| of(before, key).is_none());
    keys.extend(added);
    for key in keys {
        let path = join(path, key);
        match (of(before, key), of(after, key)) {
            (Some(Shown::Table(before)), Some(Shown::Table(after))) => {
                compare(&path, &before, &after, changes);
            }
            (before, after) if before != after => {
                let (before, after) = (shown(&before), shown(&after));
                changes.push(Change { key: path, before, after, apply: Apply::Restart });
            }
            _ => {}
        }
    }
}

/// A value, a table or tables on one line.
fn shown(value: &Option<Shown>) -> String {
    match value {
        None => "not set".to_owned(),
        Some(Shown::Value(value)) => value.clone(),
        Some(Shown::Table(entries)) => inline(entries),
        Some(Shown::Tables(tables)) => {
            let tables: Vec<String> = tables.iter().map(inline).collect();
            format!("[{}]", tables.join(", "))
        }
    }
}

fn inline(entries: &Entries) -> String {
    let pairs: Vec<String> = entries
        .iter()
        .map(|(key, value)| format!("{key} = {}", shown(&Some(value.clone()))))
        .collect();
    format!("{{{}}}", pairs.join(", "))
}
