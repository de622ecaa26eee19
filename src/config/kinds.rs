//! The types of configuration values: the right side of a key's declaration.
//!
//! Each is a small struct with a default and a range, built by the function of its name.

use super::declare::{Entries, Keys, Setting, Shape, Shown, TableNumber, TableShape, ValueShape};
use super::error::Place;
use super::postfix;
use super::table::Table;
use super::unit::{self, Fault};
use serde_json::json;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const TIB: u64 = 1 << 40;

pub(super) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}
pub(super) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
pub(super) const fn minutes(count: u64) -> Duration {
    seconds(60 * count)
}
pub(super) const fn hours(count: u64) -> Duration {
    minutes(60 * count)
}
pub(super) const fn days(count: u64) -> Duration {
    hours(24 * count)
}

/// Text as a TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn quoted_list(texts: impl Iterator<Item = String>) -> String {
    toml::Value::from(texts.map(toml::Value::from).collect::<Vec<_>>()).to_string()
}

/// The shape of a value with a default and nothing else.
fn value(type_name: &'static str, default: String, schema: serde_json::Value) -> ValueShape {
    ValueShape {
        type_name,
        range: None,
        choices: Vec::new(),
        default: Some(default),
        default_note: None,
        example: None,
        needed: false,
        schema,
    }
}

// --- durations ---

/// A duration.
pub(super) struct Span {
    default: Duration,
    allowed: RangeInclusive<Duration>,
}

/// A duration, such as `"5m"`.
pub(super) fn duration(default: Duration, allowed: RangeInclusive<Duration>) -> Span {
    Span { default, allowed }
}

impl Setting<Duration> for Span {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> Duration {
        table.duration(key, self.default, self.allowed.clone())
    }

    fn show(&self, value: &Duration, key: &'static str, into: &mut Entries) {
        into.push((key, Shown::Value(quoted(&unit::show_duration(*value)))));
    }

    fn shape(&self) -> Shape {
        let default = quoted(&unit::show_duration(self.default));
        let (least, most) = (self.allowed.start(), self.allowed.end());
        let range = (unit::show_duration(*least), unit::show_duration(*most));
        let value = value("duration", default, json!({"type": "string"}));
        Shape::Value(ValueShape { range: Some(range), ..value })
    }
}

/// A duration, or `"off"`.
pub(super) struct SpanOrOff(Span);

/// A duration, or `"off"` for none.
pub(super) fn duration_or_off(default: Duration, allowed: RangeInclusive<Duration>) -> SpanOrOff {
    SpanOrOff(duration(default, allowed))
}

impl SpanOrOff {
    fn read_text(&self, text: &str) -> Result<Option<Duration>, Fault> {
        if text == "off" {
            return Ok(None);
        }
        let wait = unit::read_duration(text).map_err(|what| format!("{what}; or write \"off\""))?;
        if self.0.allowed.contains(&wait) {
            return Ok(Some(wait));
        }
        let show = |wait: &Duration| unit::show_duration(*wait);
        let (least, most) = (show(self.0.allowed.start()), show(self.0.allowed.end()));
        Err(format!("{text} is out of range; allowed: {least} to {most}, or \"off\""))
    }
}

impl Setting<Option<Duration>> for SpanOrOff {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> Option<Duration> {
        table.parsed(key, Some(self.0.default), |text| self.read_text(text))
    }

    fn show(&self, value: &Option<Duration>, key: &'static str, into: &mut Entries) {
        let shown = value.map_or("off".to_owned(), unit::show_duration);
        into.push((key, Shown::Value(quoted(&shown))));
    }

    fn shape(&self) -> Shape {
        match self.0.shape() {
            Shape::Value(value) => {
                Shape::Value(ValueShape { type_name: "duration, or \"off\"", ..value })
            }
            other => other,
        }
    }
}

// --- sizes and numbers ---

/// A size in bytes.
pub(super) struct Size {
    default: u64,
    allowed: RangeInclusive<u64>,
}

/// A size in bytes, such as `"64 KiB"`.
pub(super) fn size(default: u64, allowed: RangeInclusive<u64>) -> Size {
    Size { default, allowed }
}

/// Small sizes are shown as plain numbers.
fn shown_size(bytes: u64) -> String {
    if bytes < KIB { bytes.to_string() } else { quoted(&unit::show_size(bytes)) }
}

impl Setting<u64> for Size {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> u64 {
        table.size(key, self.default, self.allowed.clone())
    }

    fn show(&self, value: &u64, key: &'static str, into: &mut Entries) {
        into.push((key, Shown::Value(shown_size(*value))));
    }

    fn shape(&self) -> Shape {
        let (least, most) = (self.allowed.start(), self.allowed.end());
        let range = (unit::show_size(*least), unit::show_size(*most));
        let schema = json!({"type": ["integer", "string"]});
        let value = value("size in bytes", shown_size(self.default), schema);
        Shape::Value(ValueShape { range: Some(range), ..value })
    }
}

impl Setting<usize> for Size {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> usize {
        usize::try_from(Setting::<u64>::read(self, table, key)).unwrap_or(usize::MAX)
    }

    fn show(&self, value: &usize, key: &'static str, into: &mut Entries) {
        Setting::<u64>::show(self, &(*value as u64), key, into);
    }

    fn shape(&self) -> Shape {
        Setting::<u64>::shape(self)
    }
}

/// A whole number.
pub(super) struct Count {
    default: u32,
    allowed: RangeInclusive<u32>,
}

/// A whole number.
pub(super) fn count(default: u32, allowed: RangeInclusive<u32>) -> Count {
    Count { default, allowed }
}

impl Setting<u32> for Count {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> u32 {
        table.number(key, self.default, self.allowed.clone())
    }

    fn show(&self, value: &u32, key: &'static str, into: &mut Entries) {
        into.push((key, Shown::Value(value.to_string())));
    }

    fn shape(&self) -> Shape {
        let (least, most) = (self.allowed.start(), self.allowed.end());
        let schema = json!({"type": "integer", "minimum": least, "maximum": most});
        let value = value("number", self.default.to_string(), schema);
        Shape::Value(ValueShape { range: Some((least.to_string(), most.to_string())), ..value })
    }
}

impl Setting<usize> for Count {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> usize {
        Setting::<u32>::read(self, table, key) as usize
    }

    fn show(&self, value: &usize, key: &'static str, into: &mut Entries) {
        into.push((key, Shown::Value(value.to_string())));
    }

    fn shape(&self) -> Shape {
        Setting::<u32>::shape(self)
    }
}

/// A number that need not be whole.
pub(super) struct Real {
    default: f64,
    allowed: RangeInclusive<f64>,
}

/// A number that need not be whole.
pub(super) fn real(default: f64, allowed: RangeInclusive<f64>) -> Real {
    Real { default, allowed }
}

impl Setting<f64> for Real {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> f64 {
        table.real(key, self.default, self.allowed.clone())
    }

    fn show(&self, value: &f64, key: &'static str, into: &mut Entries) {
        into.push((key, Shown::Value(format!("{value:?}"))));
    }

    fn shape(&self) -> Shape {
        let (least, most) = (self.allowed.start(), self.allowed.end());
        let schema = json!({"type": "number", "minimum": least, "maximum": most});
        let value = value("number", format!("{:?}", self.default), schema);
        Shape::Value(ValueShape { range: Some((least.to_string(), most.to_string())), ..value })
    }
}

// --- yes or no, and one of several words ---

/// `true` or `false`.
pub(super) struct Flag(bool);

/// `true` or `false`.
pub(super) fn flag(default: bool) -> Flag {
    Flag(default)
}

impl Setting<bool> for Flag {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> bool {
        table.flag(key, self.0)
    }

    fn show(&self, value: &bool, key: &'static str, into: &mut Entries) {
        into.push((key, Shown::Value(value.to_string())));
    }

    fn shape(&self) -> Shape {
        Shape::Value(value("true or false", self.0.to_string(), json!({"type": "boolean"})))
    }
}

/// A type whose values each have a word.
pub(super) trait Words: Copy + PartialEq + 'static {
    /// Every value with its word.
    const WORDS: &'static [(&'static str, Self)];

    /// The word of a value.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }
}

/// One of several words.
pub(super) struct Choice<T>(T);

/// One of several words.
pub(super) fn choice<T: Words>(default: T) -> Choice<T> {
    Choice(default)
}

/// `"a", "b" or "c"`.
pub(super) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn words<T: Words>() -> Vec<&'static str> {
    T::WORDS.iter().map(|(word, _)| *word).collect()
}

impl<T: Words> Setting<T> for Choice<T> {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> T {
        table.parsed(key, self.0, |text| {
            let known = T::WORDS.iter().find(|(word, _)| *word == text);
            known.map(|(_, value)| *value).ok_or_else(|| {
                let words = words::<T>();
                match postfix::word_of(text, &words) {
                    Some(word) => format!(
                        "{text:?} is not a valid value; what Postfix calls {text} is \"{word}\" \
                         here"
                    ),
                    None => format!("{text:?} is not a valid value; write {}", one_of(&words)),
                }
            })
        })
    }

    fn show(&self, value: &T, key: &'static str, into: &mut Entries) {
        into.push((key, Shown::Value(quoted(value.word()))));
    }

    fn shape(&self) -> Shape {
        let choices = words::<T>();
        let schema = json!({"type": "string", "enum": choices});
        Shape::Value(ValueShape { choices, ..value("word", quoted(self.0.word()), schema) })
    }
}

// --- text that is read by a function ---

/// Text that a function reads.
pub(super) struct Parsed<T> {
    type_name: &'static str,
    default: T,
    read: fn(&str) -> Result<T, Fault>,
    show: fn(&T) -> String,
}

/// Text that `read` understands and `show` writes; `type_name` says what it is.
pub(super) fn parsed<T>(
    type_name: &'static str,
    default: T,
    read: fn(&str) -> Result<T, Fault>,
    show: fn(&T) -> String,
) -> Parsed<T> {
    Parsed { type_name, default, read, show }
}

impl<T: Clone> Setting<T> for Parsed<T> {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> T {
        table.parsed(key, self.default.clone(), self.read)
    }

    fn show(&self, value: &T, key: &'static str, into: &mut Entries) {
        into.push((key, Shown::Value(quoted(&(self.show)(value)))));
    }

    fn shape(&self) -> Shape {
        let default = quoted(&(self.show)(&self.default));
        Shape::Value(value(self.type_name, default, json!({"type": "string"})))
    }
}

/// Reads a path that is not empty.
fn read_path(text: &str) -> Result<PathBuf, Fault> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("{text:?} is not a path"));
    }
    Ok(PathBuf::from(text))
}

fn show_path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A path.
pub(super) fn path(default: &str) -> Parsed<PathBuf> {
    parsed("path", default.into(), read_path, |path| show_path(path))
}

/// Reads printable text that is not empty.
fn read_words(text: &str) -> Result<Box<str>, Fault> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(format!("{text:?} is not usable text; write printable characters"));
    }
    Ok(text.into())
}

/// Printable text.
pub(super) fn text(default: &str) -> Parsed<Box<str>> {
    parsed("text", default.into(), read_words, |text| text.to_string())
}

/// A path whose default is in the spool directory.
pub(super) struct SpoolPath(&'static str);

/// A path; the default is `name` in `spool.directory`.
pub(super) fn path_in_spool(name: &'static str) -> SpoolPath {
    SpoolPath(name)
}

impl Setting<PathBuf> for SpoolPath {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> PathBuf {
        let default = table.spool_directory().join(self.0);
        table.parsed(key, default, read_path)
    }

    fn show(&self, value: &PathBuf, key: &'static str, into: &mut Entries) {
        into.push((key, Shown::Value(quoted(&show_path(value)))));
    }

    fn shape(&self) -> Shape {
        let example = Some(quoted(&format!("/var/lib/ringpost/{}", self.0)));
        let default_note = Some("the file of this name in spool.directory");
        let value = value("path", String::new(), json!({"type": "string"}));
        Shape::Value(ValueShape { default: None, default_note, example, ..value })
    }
}

// --- lists of texts ---

/// A list of texts that a function reads.
pub(super) struct List<T> {
    type_name: &'static str,
    default: Vec<T>,
    read: fn(&str) -> Result<T, Fault>,
    show: fn(&T) -> String,
}

/// A list of texts, each of which `read` understands and `show` writes.
pub(super) fn list<T>(
    type_name: &'static str,
    default: Vec<T>,
    read: fn(&str) -> Result<T, Fault>,
    show: fn(&T) -> String,
) -> List<T> {
    List { type_name, default, read, show }
}

impl<T: Clone> Setting<Vec<T>> for List<T> {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> Vec<T> {
        match table.list(key, self.read) {
            Some(read) => read.into_iter().map(|(item, _)| item).collect(),
            None => self.default.clone(),
        }
    }

    fn show(&self, value: &Vec<T>, key: &'static str, into: &mut Entries) {
        into.push((key, Shown::Value(quoted_list(value.iter().map(self.show)))));
    }

    fn shape(&self) -> Shape {
        let default = quoted_list(self.default.iter().map(self.show));
        let schema = json!({"type": "array", "items": {"type": "string"}});
        Shape::Value(value(self.type_name, default, schema))
    }
}

// --- values that may, or must not, be missing ---

/// A value that may be missing.
pub(super) struct Optional<S>(S);

/// A value that may be missing; the default of `inner` is the example in the annotated file.
pub(super) fn optional<S>(inner: S) -> Optional<S> {
    Optional(inner)
}

fn without_default(shape: Shape, needed: bool) -> Shape {
    match shape {
        Shape::Value(value) => {
            let example = value.default;
            Shape::Value(ValueShape { default: None, example, needed, ..value })
        }
        other => other,
    }
}

impl<T, S: Setting<T>> Setting<Option<T>> for Optional<S> {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> Option<T> {
        let is_written = table.place_of(key) != Place::Default;
        let value = self.0.read(table, key);
        is_written.then_some(value)
    }

    fn show(&self, value: &Option<T>, key: &'static str, into: &mut Entries) {
        if let Some(value) = value {
            self.0.show(value, key, into);
        }
    }

    fn shape(&self) -> Shape {
        without_default(self.0.shape(), false)
    }
}

/// A value that must be written.
pub(super) struct Needed<S>(S);

/// A value that must be written; the default of `inner` is the example in messages and in the
/// annotated file.
pub(super) fn needed<S>(inner: S) -> Needed<S> {
    Needed(inner)
}

impl<T, S: Setting<T>> Setting<T> for Needed<S> {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> T {
        if table.place_of(key) == Place::Default {
            let example = match self.0.shape() {
                Shape::Value(value) => value.default.unwrap_or_default(),
                _ => String::new(),
            };
            table.fault(&table.place, key, format!("missing; write {key} = {example}"));
        }
        self.0.read(table, key)
    }

    fn show(&self, value: &T, key: &'static str, into: &mut Entries) {
        self.0.show(value, key, into);
    }

    fn shape(&self) -> Shape {
        without_default(self.0.shape(), true)
    }
}

/// A value whose default is not fixed.
pub(super) struct Noted<S>(&'static str, S);

/// A value whose default is described by `note`; the default of `inner` is only an example.
pub(super) fn noted<S>(note: &'static str, inner: S) -> Noted<S> {
    Noted(note, inner)
}

impl<T, S: Setting<T>> Setting<T> for Noted<S> {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> T {
        self.1.read(table, key)
    }

    fn show(&self, value: &T, key: &'static str, into: &mut Entries) {
        self.1.show(value, key, into);
    }

    fn shape(&self) -> Shape {
        match self.1.shape() {
            Shape::Value(value) => {
                let example = value.default.or(value.example);
                let default_note = Some(self.0);
                Shape::Value(ValueShape { default: None, default_note, example, ..value })
            }
            other => other,
        }
    }
}

// --- tables ---

/// Keys that several tables share.
pub(super) struct Inline<T>(PhantomData<T>);

/// Keys that several tables share, written as if they were declared in this table.
pub(super) fn inline<T: Keys>() -> Inline<T> {
    Inline(PhantomData)
}

impl<T: Keys> Setting<T> for Inline<T> {
    fn read(&self, table: &mut Table<'_>, _: &'static str) -> T {
        T::read(table)
    }

    fn show(&self, value: &T, _: &'static str, into: &mut Entries) {
        value.show(into);
    }

    fn shape(&self) -> Shape {
        Shape::Inline(T::keys())
    }
}

fn entries<T: Keys>(value: &T) -> Entries {
    let mut entries = Entries::new();
    value.show(&mut entries);
    entries
}

fn table_shape<T: Keys>(number: TableNumber) -> Shape {
    Shape::Table(TableShape { about: T::ABOUT, keys: T::keys(), number })
}

/// Reads and checks a whole table.
fn read_table<T: Keys>(mut table: Table<'_>) -> T {
    let read = T::read(&mut table);
    T::check(std::slice::from_ref(&read), std::slice::from_ref(&table));
    table.end();
    read
}

/// A table `[key]`.
pub(super) struct Section<T>(PhantomData<T>);

/// A table `[key]`, whose keys all have defaults or may be missing.
pub(super) fn section<T: Keys>() -> Section<T> {
    Section(PhantomData)
}

impl<T: Keys> Setting<T> for Section<T> {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> T {
        read_table(table.table(key))
    }

    fn show(&self, value: &T, key: &'static str, into: &mut Entries) {
        into.push((key, Shown::Table(entries(value))));
    }

    fn shape(&self) -> Shape {
        table_shape::<T>(TableNumber::One)
    }
}

/// A table `[key]` that may be missing as a whole.
pub(super) struct OptionalSection<T>(PhantomData<T>);

/// A table `[key]` that may be missing as a whole.
pub(super) fn optional_section<T: Keys>() -> OptionalSection<T> {
    OptionalSection(PhantomData)
}

impl<T: Keys> Setting<Option<T>> for OptionalSection<T> {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> Option<T> {
        let is_written = table.place_of(key) != Place::Default;
        let table = table.table(key);
        is_written.then(|| read_table(table))
    }

    fn show(&self, value: &Option<T>, key: &'static str, into: &mut Entries) {
        if let Some(value) = value {
            into.push((key, Shown::Table(entries(value))));
        }
    }

    fn shape(&self) -> Shape {
        table_shape::<T>(TableNumber::Optional)
    }
}

/// Tables `[[key]]`.
pub(super) struct Tables<T> {
    number: TableNumber,
    most: usize,
    of: PhantomData<T>,
}

/// Tables `[[key]]`, none by default and at most `most`.
pub(super) fn tables<T: Keys>(most: usize) -> Tables<T> {
    Tables { number: TableNumber::Any, most, of: PhantomData }
}

/// Tables `[[key]]`, at least one and at most `most`; by default one that has every default.
pub(super) fn one_or_more_tables<T: Keys>(most: usize) -> Tables<T> {
    Tables { number: TableNumber::OneOrMore, most, of: PhantomData }
}

impl<T: Keys> Setting<Vec<T>> for Tables<T> {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> Vec<T> {
        let place = table.place_of(key);
        let mut tables = match (table.tables(key), self.number) {
            (Some(tables), TableNumber::OneOrMore) if tables.is_empty() => {
                table.fault(&place, key, format!("at least one [[{key}]] is needed"));
                tables
            }
            (Some(tables), _) => tables,
            (None, TableNumber::OneOrMore) => vec![table.none_of(key)],
            (None, _) => Vec::new(),
        };
        if tables.len() > self.most {
            let path = table.path_of(key);
            table.fault(&place, key, format!("at most {} tables [[{path}]]", self.most));
        }
        let items: Vec<T> = tables.iter_mut().map(|table| T::read(table)).collect();
        T::check(&items, &tables);
        tables.into_iter().for_each(Table::end);
        items
    }

    fn show(&self, value: &Vec<T>, key: &'static str, into: &mut Entries) {
        into.push((key, Shown::Tables(value.iter().map(entries).collect())));
    }

    fn shape(&self) -> Shape {
        table_shape::<T>(self.number)
    }
}
