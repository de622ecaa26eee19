//! Reads the file and the command line into one tree of values. Each value remembers where it was
//! written.
//!
//! Input: the file's TOML and the command line's overrides; later values replace earlier ones. This
//! module does not know any key.

use super::error::{Place, Problem};
use std::collections::BTreeMap;
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// A value given on the command line, which overrides the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The flag that gives it.
    pub flag: OverrideFlag,
    /// The key it sets, with its tables: `spool.directory`.
    pub key: String,
    /// The value as typed. A list may be written with commas.
    pub value: String,
}

/// The kind of flag that gives an override.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverrideFlag {
    /// A dedicated flag, named with its dashes. The value is always text.
    Dedicated(&'static str),
    /// `--set`. The value is TOML if it can be read as such, else text.
    Set,
}

/// Depth of nested tables in an override, a little more than in the schema: bounds recursion.
const KEY_DEPTH_MAX: usize = 8;

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub value: Value,
    pub place: Place,
    /// The value as typed, if it was given by `--set`: text keys use it unchanged, so that
    /// `--set spool.directory=7` works without quotes.
    pub typed: Option<String>,
}

/// A TOML value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    List(Vec<Node>),
    Table(Tree),
    /// A value that no key accepts: a date, a number beyond 64 bits. Kept as written.
    Other(String),
}

pub(super) type Tree = BTreeMap<String, Node>;

impl Value {
    /// The value as an error message shows it.
    pub fn shown(&self) -> String {
        match self {
            Value::Text(text) => format!("{text:?}"),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Bool(yes) => yes.to_string(),
            Value::List(_) => "a list".into(),
            Value::Table(_) => "a table".into(),
            Value::Other(text) => text.clone(),
        }
    }
}

/// Reads the file's text; error messages call the file `name`. After a syntax error there is no
/// tree: keys after the error might belong to another table than they seem to.
pub(super) fn read_file(text: &str, name: &Arc<str>) -> Result<Tree, Vec<Problem>> {
    let lines = Lines::of(text, name);
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(lines.tree(table.get_ref()));
    }
    // One error for each line: the parser often reports the same mistake several times.
    let mut problems: Vec<Problem> = Vec::new();
    for error in errors {
        let place = lines.place(error.span().map_or(0, |span| span.start));
        if problems.last().is_none_or(|last| last.place != place) {
            let what = match error.message() {
                _ if let Some(word) = bare_word(text, error.span().map_or(0, |at| at.start)) => {
                    format!("not valid TOML: write true or false, not {word} (or text in quotes)")
                }
                // The parser's messages for a file in the format of another program.
                said if ["must be quoted", "expected nothing"]
                    .iter()
                    .any(|it| said.contains(it)) =>
                {
                    "not valid TOML: text must be quoted: key = \"text\"".to_owned()
                }
                "duplicate key" => {
                    let key = error.span().and_then(|span| text.get(span)).unwrap_or_default();
                    format!("not valid TOML: duplicate key {key}")
                }
                said => format!("not valid TOML: {said}"),
            };
            problems.push(Problem { place, key: String::new(), what });
        }
    }
    problems.sort_by(|a, b| a.place.cmp(&b.place));
    problems.dedup_by(|a, b| a.place == b.place);
    Err(problems)
}

/// A word without quotes that means yes or no elsewhere, as the value in the line of this offset.
fn bare_word(text: &str, offset: usize) -> Option<&str> {
    const WORDS: [&str; 6] = ["yes", "no", "on", "off", "true", "false"];
    let begin = text.get(..offset)?.rfind('\n').map_or(0, |end| end + 1);
    let line = text.get(begin..)?.lines().next()?;
    let (_, value) = line.split_once('=')?;
    let word = value.split('#').next()?.trim();
    WORDS.iter().any(|known| word.eq_ignore_ascii_case(known)).then_some(word)
}

/// Applies an override to the tree.
pub(super) fn lay_over(tree: &mut Tree, over: &Override) -> Result<(), Problem> {
    let (place, value, typed) = match over.flag {
        OverrideFlag::Dedicated(flag) => {
            (Place::Flag(flag), Value::Text(over.value.clone()), over.value.clone())
        }
        OverrideFlag::Set => {
            let place = Place::Set(over.key.clone());
            let value = read_value(&over.value, &place);
            (place, value, over.value.clone())
        }
    };
    let steps: Vec<&str> = over.key.split('.').map(str::trim).collect();
    let fault = |what: &str| Problem {
        place: place.clone(),
        key: over.key.clone(),
        what: what.to_string(),
    };
    if steps.iter().any(|step| step.is_empty()) || steps.len() > KEY_DEPTH_MAX {
        return Err(fault("not a key; write TABLE.KEY=VALUE, such as retry.first=5m"));
    }
    let mut new = Node { value, place: place.clone(), typed: Some(typed) };
    for step in steps.iter().skip(1).rev() {
        let table = Tree::from([(step.to_string(), new)]);
        new = Node { value: Value::Table(table), place: place.clone(), typed: None };
    }
    let first = steps.first().copied().unwrap_or_default();
    merge(tree, first, new).map_err(|list| fault(&whole_list(&list)))
}

/// The advice for a `--set` that does not give the list of tables `path` as a whole.
pub(super) fn whole_list(path: &str) -> String {
    let how = match path {
        "listener" => "write --listen ADDR:PORT, or give",
        _ => "give",
    };
    format!(
        "[[{path}]] is a list of tables; {how} all of them at once as TOML, \
         '{path}=[{{KEY = VALUE, ...}}]', or write them in the file"
    )
}

/// Merges tables key by key; any other value replaces the old one. `Err`: the list of tables into
/// which the path of the new value leads.
fn merge(tree: &mut Tree, key: &str, new: Node) -> Result<(), String> {
    let old = tree.get_mut(key);
    match (old.map(|node| &mut node.value), new.value) {
        (Some(Value::Table(old)), Value::Table(new)) => {
            new.into_iter().try_for_each(|(at, node)| {
                merge(old, &at, node).map_err(|below| format!("{key}.{below}"))
            })
        }
        // A table without typed text is one step of a path, not a table that was written.
        (Some(Value::List(_)), Value::Table(_)) if new.typed.is_none() => Err(key.to_string()),
        (_, value) => {
            tree.insert(key.to_string(), Node { value, ..new });
            Ok(())
        }
    }
}

/// The value of a `--set`.
fn read_value(typed: &str, place: &Place) -> Value {
    match DeValue::parse(typed.trim()) {
        Ok(value) => Lines::one_place(place).value(value.get_ref()),
        Err(_) => Value::Text(typed.to_string()),
    }
}

/// Copies the parser's values into the tree, and turns their offsets into line numbers.
struct Lines<'a> {
    starts: Vec<usize>,
    name: Option<&'a Arc<str>>,
    fixed: Place,
}

impl<'a> Lines<'a> {
    fn of(text: &str, name: &'a Arc<str>) -> Lines<'a> {
        let ends = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
        let starts = std::iter::once(0).chain(ends.map(|(offset, _)| offset + 1)).collect();
        Lines { starts, name: Some(name), fixed: Place::Default }
    }

    fn one_place(place: &Place) -> Lines<'a> {
        Lines { starts: Vec::new(), name: None, fixed: place.clone() }
    }

    fn place(&self, offset: usize) -> Place {
        match self.name {
            Some(name) => Place::File {
                name: Arc::clone(name),
                line: self.starts.partition_point(|&start| start <= offset),
            },
            None => self.fixed.clone(),
        }
    }

    fn tree(&self, table: &DeTable<'_>) -> Tree {
        let node = |key: &Spanned<_>, value: &Spanned<DeValue<'_>>| Node {
            value: self.value(value.get_ref()),
            place: self.place(key.span().start),
            typed: None,
        };
        table.iter().map(|(key, value)| (key.get_ref().to_string(), node(key, value))).collect()
    }

    fn list(&self, list: &DeArray<'_>) -> Vec<Node> {
        let node = |item: &Spanned<DeValue<'_>>| Node {
            value: self.value(item.get_ref()),
            place: self.place(item.span().start),
            typed: None,
        };
        list.iter().map(node).collect()
    }

    fn value(&self, value: &DeValue<'_>) -> Value {
        let other = || Value::Other(value.type_str().to_string());
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| Value::Other(number.to_string()), Value::Integer),
            DeValue::Float(number) => {
                number.as_str().parse().map_or_else(|_| other(), Value::Float)
            }
            DeValue::Boolean(yes) => Value::Bool(*yes),
            DeValue::Datetime(time) => Value::Other(time.to_string()),
            DeValue::Array(list) => Value::List(self.list(list)),
            DeValue::Table(table) => Value::Table(self.tree(table)),
        }
    }
}
