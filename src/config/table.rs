//! Reads the keys of a table, each with its default and its range, and collects all mistakes.
//!
//! The declarations (see `declare`) ask for the keys; a key that none of them asks for is unknown.
//! A wrong value is reported and replaced by its default, so that one run shows every mistake.

use super::error::{Place, Problem};
use super::machine::Machine;
use super::postfix;
use super::source::{Node, Tree, Value, whole_list};
use super::unit::{self, Fault};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Least similarity (Jaro-Winkler, 0 to 1) for a known key to be suggested for an unknown one.
const LIKENESS_MIN: f64 = 0.8;

/// The mistakes found while reading, and the values on which defaults depend.
#[derive(Debug)]
pub(super) struct Report {
    /// Gives the defaults that depend on the machine.
    pub machine: Machine,
    /// The full names of the tables that have a key of this name, each with its head.
    tables_with: fn(&str) -> Vec<(String, String)>,
    /// The default directory of other files; known once `[spool]` has been read.
    spool_directory: RefCell<PathBuf>,
    problems: RefCell<Vec<Problem>>,
    /// Where each key was written, by its full name; once for each table of `[[table]]`s.
    written: RefCell<BTreeMap<String, Vec<Place>>>,
    /// The texts that were written, any of which may name a file.
    texts: RefCell<Vec<WrittenText>>,
}

/// A text, with its key and where it was written.
#[derive(Clone, Debug)]
pub(super) struct WrittenText {
    pub key: String,
    pub place: Place,
    pub text: String,
}

impl Report {
    pub fn new(machine: Machine, tables_with: fn(&str) -> Vec<(String, String)>) -> Report {
        Report {
            machine,
            tables_with,
            spool_directory: RefCell::default(),
            problems: RefCell::default(),
            written: RefCell::default(),
            texts: RefCell::default(),
        }
    }

    /// Adds a problem with the value of `key`, written at `place`.
    pub fn add(&self, place: &Place, key: &str, what: impl Into<String>) {
        let problem = Problem { place: place.clone(), key: key.into(), what: what.into() };
        self.problems.borrow_mut().push(problem);
    }

    /// Adds a problem with two keys whose values conflict; `what` names both. The place is where
    /// the last of them was written. Nothing is added when one of them is wrong by itself.
    pub fn relation(&self, keys: [&str; 2], what: impl Into<String>) {
        if self.problems.borrow().iter().any(|problem| keys.contains(&problem.key.as_str())) {
            return;
        }
        let written = self.written.borrow();
        let places = keys.iter().filter_map(|key| written.get(*key)?.last().cloned());
        self.add(&places.max().unwrap_or(Place::Default), "", what);
    }

    /// Adds a problem with a value that is in its range but still wrong: the `number`th one that
    /// was written for `key`.
    pub fn unfit(&self, key: &str, number: usize, what: impl Into<String>) {
        let written = self.written.borrow();
        let place = written.get(key).and_then(|places| places.get(number)).cloned();
        self.add(&place.unwrap_or(Place::Default), key, what);
    }

    /// Whether there is a problem with a value of `key`.
    pub fn is_wrong(&self, key: &str) -> bool {
        self.problems.borrow().iter().any(|problem| problem.key == key)
    }

    /// The texts that were written.
    pub fn texts(&self) -> Vec<WrittenText> {
        self.texts.borrow().clone()
    }

    /// All problems, in the order of the places where the values were written.
    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        problems
    }
}

/// A table being read.
pub(super) struct Table<'a> {
    report: &'a Report,
    /// The table's full name, `route.rule`; empty for the file as a whole.
    path: String,
    /// Where it begins.
    pub place: Place,
    entries: Tree,
    known: Vec<&'static str>,
    /// Where the keys that have been read were written.
    places: BTreeMap<&'static str, Place>,
}

impl<'a> Table<'a> {
    /// The file as a whole.
    pub fn whole(entries: Tree, report: &'a Report) -> Table<'a> {
        Table::new(report, String::new(), Place::Default, entries)
    }

    fn new(report: &'a Report, path: String, place: Place, entries: Tree) -> Table<'a> {
        Table { report, path, place, entries, known: Vec::new(), places: BTreeMap::new() }
    }

    /// The problems found so far.
    pub fn report(&self) -> &'a Report {
        self.report
    }

    /// The default directory of other files.
    pub fn spool_directory(&self) -> PathBuf {
        self.report.spool_directory.borrow().clone()
    }

    /// Sets the default directory of other files.
    pub fn set_spool_directory(&self, directory: &std::path::Path) {
        *self.report.spool_directory.borrow_mut() = directory.to_owned();
    }

    /// The full name of `key`, with its tables.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    /// The value of `key`, if it was written.
    pub fn take(&mut self, key: &'static str) -> Option<Node> {
        self.known.push(key);
        let node = self.entries.remove(key);
        if let Some(node) = &node {
            self.places.insert(key, node.place.clone());
            let mut written = self.report.written.borrow_mut();
            written.entry(self.path_of(key)).or_default().push(node.place.clone());
            if let Value::Text(text) = &node.value {
                let (key, place, text) = (self.path_of(key), node.place.clone(), text.clone());
                self.report.texts.borrow_mut().push(WrittenText { key, place, text });
            }
        }
        node
    }

    /// Adds a problem with the value of `key`, written at `place`.
    pub fn fault(&self, place: &Place, key: &str, what: impl Into<String>) {
        self.report.add(place, &self.path_of(key), what);
    }

    /// The table `key`; empty when it was not written.
    pub fn table(&mut self, key: &'static str) -> Table<'a> {
        self.known.push(key);
        let path = self.path_of(key);
        let node = self.entries.remove(key);
        let (place, entries) = match node {
            Some(Node { value: Value::Table(entries), place, .. }) => (place, entries),
            Some(node) => {
                let what = format!("must be a table: [{path}], not {}", node.value.shown());
                self.report.add(&node.place, &path, what);
                (node.place, Tree::new())
            }
            None => (Place::Default, Tree::new()),
        };
        Table::new(self.report, path, place, entries)
    }

    /// The tables `[[key]]`; `None` when none was written, or none is valid.
    pub fn tables(&mut self, key: &'static str) -> Option<Vec<Table<'a>>> {
        self.known.push(key);
        let path = self.path_of(key);
        let node = self.entries.remove(key)?;
        // `core = 2`.
        let meant = self
            .nearest(key)
            .map_or_else(String::new, |other| format!("; did you mean `{}`?", self.path_of(other)));
        let fault = |place: &Place, value: &Value| {
            let what = match place {
                Place::Set(_) => whole_list(&path),
                _ => format!("must be tables: [[{path}]], not {}{}", value.shown(), meant),
            };
            self.report.add(place, &path, what);
        };
        let Value::List(items) = node.value else {
            fault(&node.place, &node.value);
            return None;
        };
        let written = items.len();
        let mut tables = Vec::new();
        for Node { value, place, .. } in items {
            match value {
                Value::Table(entries) => {
                    tables.push(Table::new(self.report, path.clone(), place, entries));
                }
                other => fault(&place, &other),
            }
        }
        (written == 0 || !tables.is_empty()).then_some(tables)
    }

    /// Turns text with commas on the command line into one `[[key]]` for each part, with the part
    /// as the value of `inner`.
    pub fn tables_from_text(&mut self, key: &str, inner: &str) {
        let Some(node) = self.entries.get_mut(key) else { return };
        let texts = match (&node.value, &node.typed) {
            (Value::Text(text), Some(_)) => split_at_commas(text, &node.place),
            _ => return,
        };
        let table = |(text, place): (String, Place)| {
            let value = Value::Text(text);
            let typed = None;
            let inside = Node { value, place: place.clone(), typed };
            let value = Value::Table(Tree::from([(inner.to_string(), inside)]));
            Node { value, place, typed: None }
        };
        node.value = Value::List(texts.into_iter().map(table).collect());
    }

    /// An empty `[[key]]`, with every key at its default.
    pub fn none_of(&self, key: &'static str) -> Table<'a> {
        Table::new(self.report, self.path_of(key), Place::Default, Tree::new())
    }

    /// Where `key` was written.
    pub fn place_of(&self, key: &str) -> Place {
        let unread = self.entries.get(key).map(|node| &node.place);
        unread.or_else(|| self.places.get(key)).cloned().unwrap_or(Place::Default)
    }

    /// Whether `key` was written.
    pub fn has(&self, key: &str) -> bool {
        self.place_of(key) != Place::Default
    }

    /// Whether the value of `key` is wrong, so that its default is used.
    pub fn is_wrong(&self, key: &str) -> bool {
        let (place, path) = (self.place_of(key), self.path_of(key));
        let problems = self.report.problems.borrow();
        problems.iter().any(|problem| problem.key == path && problem.place == place)
    }

    /// The text of `key`, before it is read.
    pub fn unread_text(&self, key: &str) -> Option<&str> {
        match &self.entries.get(key)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text of `key`.
    pub fn text(&mut self, key: &'static str) -> Option<(String, Place)> {
        let node = self.take(key)?;
        match (node.value, node.typed) {
            (Value::Text(text), _) => Some((text, node.place)),
            (value, Some(typed)) if !matches!(value, Value::List(_) | Value::Table(_)) => {
                Some((typed, node.place))
            }
            (value, _) => {
                self.fault(&node.place, key, format!("must be text, not {}", value.shown()));
                None
            }
        }
    }

    /// The text of `key`, parsed by `read`.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl Fn(&str) -> Result<T, Fault>,
    ) -> T {
        let Some((text, place)) = self.text(key) else { return default };
        read(&text).unwrap_or_else(|what| {
            self.fault(&place, key, what);
            default
        })
    }

    /// A list of texts, each parsed by `read`; `None` when none was written, or no item is valid.
    /// On the command line it may be written with commas.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, Fault>,
    ) -> Option<Vec<(T, Place)>> {
        let node = self.take(key)?;
        let mut wrong_items = false;
        let texts: Vec<(String, Place)> = match (node.value, &node.typed) {
            (Value::List(items), _) => {
                let mut item = |item: Node| match item.value {
                    Value::Text(text) => Some((text, item.place)),
                    other => {
                        wrong_items = true;
                        let what = format!("must be a list of texts, not of {}", other.shown());
                        self.fault(&item.place, key, what);
                        None
                    }
                };
                items.into_iter().filter_map(&mut item).collect()
            }
            (_, Some(typed)) => split_at_commas(typed, &node.place),
            (other, None) => {
                let what = match &other {
                    Value::Text(text) => format!("must be a list; write {}", as_list(text)),
                    _ => format!("must be a list: [\"...\"], not {}", other.shown()),
                };
                self.fault(&node.place, key, what);
                return None;
            }
        };
        let empty = texts.is_empty() && !wrong_items;
        let mut read_items = Vec::new();
        for (text, place) in texts {
            match read(&text) {
                Ok(item) => read_items.push((item, place)),
                Err(what) => self.fault(&place, key, what),
            }
        }
        (empty || !read_items.is_empty()).then_some(read_items)
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Node { value: Value::Bool(yes), .. }) => yes,
            Some(node) => {
                let what = format!("must be true or false, not {}", node.value.shown());
                self.fault(&node.place, key, what);
                default
            }
        }
    }

    /// A duration.
    pub fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        allowed: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(node) = self.take(key) else { return default };
        let read = match (&node.value, &node.typed) {
            (Value::Text(text), _) => unit::read_duration(text),
            (Value::Integer(number), _) => {
                Err(format!("{number} has no unit; write \"{number}s\" for seconds"))
            }
            (other, _) => Err(format!("must be a duration such as \"5m\", not {}", other.shown())),
        };
        self.within(&node, key, default, &allowed, read, |at| unit::show_duration(*at))
    }

    /// A size in bytes.
    pub fn size(&mut self, key: &'static str, default: u64, allowed: RangeInclusive<u64>) -> u64 {
        let Some(node) = self.take(key) else { return default };
        let read = match &node.value {
            Value::Text(text) => unit::read_size(text),
            Value::Integer(number) => u64::try_from(*number)
                .map_err(|_| outside(number, &allowed, |bytes| unit::show_size(*bytes))),
            other => Err(format!("must be a size such as \"64 KiB\", not {}", other.shown())),
        };
        self.within(&node, key, default, &allowed, read, |bytes| unit::show_size(*bytes))
    }

    /// A whole number.
    pub fn number(&mut self, key: &'static str, default: u32, allowed: RangeInclusive<u32>) -> u32 {
        let Some(node) = self.take(key) else { return default };
        let read = match &node.value {
            Value::Integer(number) => u32::try_from(*number)
                .map_err(|_| outside(number, &allowed, |number| number.to_string())),
            other => Err(format!("must be a whole number, not {}", other.shown())),
        };
        self.within(&node, key, default, &allowed, read, |number| number.to_string())
    }

    /// A number that need not be whole.
    pub fn real(&mut self, key: &'static str, default: f64, allowed: RangeInclusive<f64>) -> f64 {
        let Some(node) = self.take(key) else { return default };
        let read = match &node.value {
            Value::Float(number) => Ok(*number),
            // A number beyond i32 is outside every range here, and so is the bound of i32.
            Value::Integer(number) => {
                Ok(f64::from(i32::try_from(*number).unwrap_or(i32::MAX * number.signum() as i32)))
            }
            other => Err(format!("must be a number, not {}", other.shown())),
        };
        self.within(&node, key, default, &allowed, read, |number| number.to_string())
    }

    fn within<T: PartialOrd>(
        &self,
        node: &Node,
        key: &str,
        default: T,
        allowed: &RangeInclusive<T>,
        read: Result<T, Fault>,
        show: impl Fn(&T) -> String,
    ) -> T {
        let what = match read {
            Ok(value) if allowed.contains(&value) => return value,
            Ok(_) => outside(&node.value.shown(), allowed, show),
            Err(what) => what,
        };
        self.fault(&node.place, key, what);
        default
    }

    /// Reports every key that no declaration asked for.
    pub fn end(self) {
        for (key, node) in &self.entries {
            let path = self.path_of(key);
            let elsewhere = (self.report.tables_with)(key);
            let what = match (self.nearest(key), &node.place) {
                _ if let Some(advice) = postfix::advice(key).filter(|_| elsewhere.is_empty()) => {
                    format!("unknown key; {advice}")
                }
                (_, Place::Set(_)) if !elsewhere.is_empty() => {
                    let keys: Vec<String> =
                        elsewhere.iter().map(|(table, _)| format!("`{table}.{key}`")).collect();
                    format!("unknown key; did you mean {}?", keys.join(" or "))
                }
                _ if !elsewhere.is_empty() => {
                    let heads: Vec<&str> = elsewhere.iter().map(|(_, head)| &**head).collect();
                    format!("unknown key; it belongs to {}", heads.join(" or "))
                }
                (Some(known), _) => {
                    format!("unknown key; did you mean `{}`?", self.suggestion(&path, known, node))
                }
                _ if self.path.is_empty() => {
                    format!("unknown key; there are {}", self.known.join(", "))
                }
                _ => format!("unknown key; [{}] has {}", self.path, self.known.join(", ")),
            };
            self.report.add(&node.place, &path, what);
        }
    }

    /// The other known key that is most similar to `key`, if any is similar enough.
    fn nearest(&self, key: &str) -> Option<&'static str> {
        let others = self.known.iter().filter(|known| **known != key);
        let like = others.map(|known| (strsim::jaro_winkler(key, known), *known));
        let (likeness, known) = like.max_by(|a, b| a.0.total_cmp(&b.0))?;
        (likeness >= LIKENESS_MIN).then_some(known)
    }

    /// The full name of the suggested key: for `--set retyr.first`, with the rest after the wrong
    /// part.
    fn suggestion(&self, path: &str, known: &str, node: &Node) -> String {
        let rest = match &node.place {
            Place::Set(key) => key.strip_prefix(path).unwrap_or_default(),
            _ => "",
        };
        format!("{}{rest}", self.path_of(known))
    }
}

fn outside<T>(
    written: &dyn Display,
    allowed: &RangeInclusive<T>,
    show: impl Fn(&T) -> String,
) -> Fault {
    let (least, most) = (show(allowed.start()), show(allowed.end()));
    format!("{written} is out of range; allowed: {least} to {most}")
}

/// Text with commas or spaces, as Postfix writes lists, as a list of TOML.
fn as_list(text: &str) -> String {
    let parts = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|part| !part.is_empty());
    let parts: Vec<String> = parts.map(|part| format!("{part:?}")).collect();
    format!("[{}]", parts.join(", "))
}

fn split_at_commas(typed: &str, place: &Place) -> Vec<(String, Place)> {
    let parts = typed.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| (part.to_string(), place.clone())).collect()
}
