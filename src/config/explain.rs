//! Describes keys for `ringpost config show` and `list`, and makes the JSON Schema of the file.

use super::Config;
use super::annotated::{paragraphs, text_of, wrap};
use super::declare::{Apply, Entries, Key, Keys, Shape, Shown, TableNumber};
use super::postfix;
use super::written::{Declared, Written, declared, join};
use serde_json::{Map, json};
use std::collections::BTreeSet;

/// Largest number of keys that are suggested in place of an unknown one.
const OFFERED_MAX: usize = 3;

/// Why a key cannot be shown.
#[derive(Debug, thiserror::Error)]
#[error("unknown key {name:?}; {advice}")]
pub struct UnknownKey {
    name: String,
    advice: String,
}

impl Config {
    /// Describes the key `name`, or each key of the table `name` (also `name.*`), with its value.
    ///
    /// # Errors
    /// There is no such key or table.
    pub fn explain(&self, name: &str) -> Result<String, UnknownKey> {
        let all = declared();
        let name = name.strip_suffix(".*").unwrap_or(name);
        let in_table = format!("{name}.");
        let wanted: Vec<&Declared> = all
            .iter()
            .filter(|one| one.path() == name || one.path().starts_with(&in_table))
            .collect();
        if wanted.is_empty() {
            return Err(unknown(name, &all));
        }
        let mut page = String::new();
        for one in wanted {
            if !page.is_empty() {
                page.push('\n');
            }
            self.explain_one(one, &mut page);
        }
        Ok(page)
    }

    fn explain_one(&self, one: &Declared, page: &mut String) {
        let path = one.path();
        page.push_str(&format!("{path}\n"));
        let Shape::Value(value) = &one.key.shape else { return };
        for paragraph in paragraphs(one.key.about) {
            wrap(&paragraph, "  ", page);
        }
        page.push('\n');
        let mut fact = |name: &str, text: &str| page.push_str(&format!("  {name:<8} {text}\n"));
        let values = values_of(&path, &self.entries);
        match values.as_slice() {
            [] => fact("value", "not set"),
            [one] => fact("value", one),
            more => more.iter().for_each(|one| fact("values", one)),
        }
        match (&value.default, value.default_note, value.needed) {
            (Some(default), ..) => fact("default", default),
            (None, Some(note), _) => fact("default", note),
            (None, None, true) => fact("default", "none: the key is required"),
            (None, None, false) => fact("default", "none"),
        }
        fact("type", value.type_name);
        if let Some((least, most)) = &value.range {
            fact("range", &format!("{least} to {most}"));
        }
        if !value.choices.is_empty() {
            fact("allowed", &super::kinds::one_of(&value.choices));
        }
        if let Some(example) = &value.example {
            fact("example", &format!("{} = {example}", one.key.name));
        }
        if !one.head.is_empty() {
            let note = if one.is_example { ", which may be missing" } else { "" };
            fact("table", &format!("{}{note}", one.head));
        }
        fact(
            "changes",
            match one.key.apply {
                Apply::Restart => "take effect at the next start",
                Apply::Reload => "take effect at SIGHUP",
            },
        );
    }

    /// Every key on one line, with its value, and with its default where that differs.
    pub fn list(&self) -> String {
        let mut page = String::new();
        for one in declared() {
            let path = one.path();
            let Shape::Value(value) = &one.key.shape else { continue };
            let values = values_of(&path, &self.entries);
            let shown = if values.is_empty() { "-".to_owned() } else { values.join(" | ") };
            let default = value.default.as_deref().filter(|default| *default != shown);
            let default = default.map_or(String::new(), |default| format!("  (default {default})"));
            page.push_str(&format!("{path:<36} {shown}{default}\n"));
        }
        page
    }
}

fn unknown(name: &str, all: &[Declared]) -> UnknownKey {
    let last = name.rsplit('.').next().unwrap_or(name);
    let name = name.to_owned();
    if let Some(advice) = postfix::advice(last) {
        return UnknownKey { name, advice };
    }
    let tables: BTreeSet<&str> = all.iter().map(|one| &*one.table).collect();
    let tables = tables.into_iter().filter(|table| !table.is_empty());
    let tables = tables.map(|table| (strsim::jaro_winkler(&name, table), table.to_owned()));
    let mut near: Vec<(f64, String)> = all
        .iter()
        .map(|one| {
            let likeness = strsim::jaro_winkler(&name, &one.path());
            let same = if one.key.name == last { 1.0 } else { 0.0 };
            (likeness.max(same), one.path())
        })
        .chain(tables)
        .filter(|(likeness, _)| *likeness >= 0.9)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.truncate(OFFERED_MAX);
    let near: Vec<String> = near.into_iter().map(|(_, path)| path).collect();
    let advice = match near.as_slice() {
        [] => "`ringpost config list` shows all".to_owned(),
        some => format!("did you mean {}?", some.join(" or ")),
    };
    UnknownKey { name, advice }
}

/// The values of the key `path`; for a key in `[[table]]`s, one for each table.
fn values_of(path: &str, entries: &Entries) -> Vec<String> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(one, rest)| (one, Some(rest)));
    let found = entries.iter().find(|(key, _)| *key == first).map(|(_, shown)| shown);
    match (found, rest) {
        (Some(Shown::Value(value)), None) => vec![value.clone()],
        (Some(Shown::Table(entries)), Some(rest)) => values_of(rest, entries),
        (Some(Shown::Tables(tables)), Some(rest)) => {
            tables.iter().flat_map(|entries| values_of(rest, entries)).collect()
        }
        _ => Vec::new(),
    }
}

/// The JSON Schema (2020-12) of the file.
pub fn schema() -> serde_json::Value {
    let mut schema = object("", &Written::keys());
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        schema.insert("title".into(), "Ringpost configuration".into());
    }
    schema
}

fn object(path: &str, keys: &[Key]) -> serde_json::Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    add(path, keys, &mut properties, &mut required);
    let mut object = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if let (false, Some(object)) = (required.is_empty(), object.as_object_mut()) {
        object.insert("required".into(), required.into());
    }
    object
}

fn add(
    path: &str,
    keys: &[Key],
    properties: &mut Map<String, serde_json::Value>,
    required: &mut Vec<&'static str>,
) {
    for key in keys {
        match &key.shape {
            Shape::Inline(keys) => add(path, keys, properties, required),
            Shape::Table(shape) => {
                let table = object(&join(path, key.name), &shape.keys);
                let mut table = match shape.number {
                    TableNumber::One | TableNumber::Optional => table,
                    TableNumber::Any => json!({"type": "array", "items": table}),
                    TableNumber::OneOrMore => {
                        json!({"type": "array", "items": table, "minItems": 1})
                    }
                };
                table["description"] = paragraphs(shape.about).join("\n").into();
                properties.insert(key.name.into(), table);
            }
            Shape::Value(value) => {
                let mut schema = value.schema.clone();
                schema["description"] = text_of(key, value).join("\n").into();
                let default = value.default.as_ref().and_then(|default| of_toml(default));
                if let Some(default) = default {
                    schema["default"] = default;
                }
                if value.needed {
                    required.push(key.name);
                }
                properties.insert(key.name.into(), schema);
            }
        }
    }
}

/// A TOML value as JSON.
fn of_toml(text: &str) -> Option<serde_json::Value> {
    let table: toml::Table = format!("value = {text}").parse().ok()?;
    serde_json::to_value(table.get("value")?).ok()
}
