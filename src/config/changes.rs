//! Compares two configurations key by key, for a reload.

use super::Config;
use super::declare::{Apply, Entries, Shape, Shown};
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
            (Some(Shown::Tables(before)), Some(Shown::Tables(after))) if before != after => {
                let (before, after) = difference(&path, &before, &after);
                changes.push(Change { key: path, before, after, apply: Apply::Restart });
            }
            (before, after) if before != after => {
                let (before, after) = (shown(&before), shown(&after));
                changes.push(Change { key: path, before, after, apply: Apply::Restart });
            }
            _ => {}
        }
    }
}

/// The tables that only one of two lists has, each on one line. Of a table that is in both with
/// other values, only the first key, which names it, and those that differ are shown.
fn difference(path: &str, before: &[Entries], after: &[Entries]) -> (String, String) {
    let only = |of: &[Entries], other: &[Entries]| -> Vec<Entries> {
        of.iter().filter(|table| !other.contains(table)).cloned().collect()
    };
    let (mut gone, mut new) = (only(before, after), only(after, before));
    if gone.is_empty() && new.is_empty() {
        let count = |tables: &[Entries]| format!("{} tables", tables.len());
        return (count(before), format!("{} of the same values, in another order", count(after)));
    }
    for table in &mut gone {
        match new.iter_mut().find(|other| !table.is_empty() && other.first() == table.first()) {
            Some(other) => {
                let whole = (table.clone(), other.clone());
                let name = table.first().map(|(key, _)| *key);
                table.retain(|entry| Some(entry.0) == name || !whole.1.contains(entry));
                other.retain(|entry| Some(entry.0) == name || !whole.0.contains(entry));
            }
            None => leave_out_defaults(path, table),
        }
    }
    let changed = |table: &Entries| gone.iter().any(|other| other.first() == table.first());
    let added: Vec<bool> = new.iter().map(|table| !changed(table)).collect();
    for (table, _) in new.iter_mut().zip(added).filter(|(_, added)| *added) {
        leave_out_defaults(path, table);
    }
    let list = |tables: &[Entries]| match tables {
        [] => "none".to_owned(),
        some => some.iter().map(inline).collect::<Vec<_>>().join(", "),
    };
    (list(&gone), list(&new))
}

/// Keeps the first entry, which names the table, and those that do not have their default.
fn leave_out_defaults(path: &str, table: &mut Entries) {
    let declared = declared();
    let is_default = |key: &str, value: &str| {
        declared.iter().filter(|one| one.table == path && one.key.name == key).any(|one| {
            matches!(&one.key.shape, Shape::Value(shape) if shape.default.as_deref() == Some(value))
        })
    };
    let name = table.first().map(|(key, _)| *key);
    table.retain(|(key, shown)| {
        Some(*key) == name || !matches!(shown, Shown::Value(value) if is_default(key, value))
    });
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
