//! How a configuration key is declared: once, in the [`table!`] of its table, with its name, type,
//! unit, range, default and documentation, and whether a change needs a restart.
//!
//! From that declaration come the field of the checked configuration, the parser, the list of known
//! keys, the output of `ringpost check`, the annotated file, the JSON Schema and `config show`.
//! Relations between the keys of a table are checked by a function that the declaration names.

use super::machine::Machine;
use super::source::Tree;
use super::table::{Report, Table};

/// When a changed value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apply {
    /// At the next start.
    Restart,
    /// At SIGHUP.
    Reload,
}

/// A declared key.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name within its table.
    pub name: &'static str,
    /// What it means: the lines of its documentation.
    pub about: &'static [&'static str],
    /// When a changed value takes effect.
    pub apply: Apply,
    /// What may be written.
    pub shape: Shape,
}

/// What may be written for a key.
#[derive(Clone, Debug)]
pub enum Shape {
    /// A single value or a list of values.
    Value(ValueShape),
    /// Keys that several tables share, written as if they were declared in this table.
    Inline(Vec<Key>),
    /// A table of its own.
    Table(TableShape),
}

/// A value: its type, range and default.
#[derive(Clone, Debug)]
pub struct ValueShape {
    /// The type in a word or two: `duration`, `size in bytes`.
    pub type_name: &'static str,
    /// The least and the greatest value.
    pub range: Option<(String, String)>,
    /// The words that may be written, where only some may.
    pub choices: Vec<&'static str>,
    /// The default as written in the file; `None` when there is none or it depends on the machine.
    pub default: Option<String>,
    /// The source of a default that is not fixed.
    pub default_note: Option<&'static str>,
    /// What the annotated file shows where there is no fixed default.
    pub example: Option<String>,
    /// The key must be written.
    pub needed: bool,
    /// The JSON Schema of the value.
    pub schema: serde_json::Value,
}

/// A table of keys.
#[derive(Clone, Debug)]
pub struct TableShape {
    /// What the table is for.
    pub about: &'static [&'static str],
    /// Its keys, in the order in which the annotated file has them.
    pub keys: Vec<Key>,
    /// How often it may be written.
    pub number: TableNumber,
}

/// How often a table may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableNumber {
    /// `[table]`, whose keys all have defaults or may be missing.
    One,
    /// `[table]`, whose presence means something.
    Optional,
    /// `[[table]]`; the default is one that has only defaults.
    OneOrMore,
    /// `[[table]]`; the default is none.
    Any,
}

impl TableNumber {
    /// Whether the annotated file has the table only as an example, since it may be missing.
    pub fn is_example(self) -> bool {
        matches!(self, TableNumber::Optional | TableNumber::Any)
    }
}

/// The value of a key, as written in the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    /// A value, as TOML.
    Value(String),
    /// A table.
    Table(Entries),
    /// A list of tables.
    Tables(Vec<Entries>),
}

/// The keys of a table that have a value, in the order of their declaration.
pub type Entries = Vec<(&'static str, Shown)>;

/// A declared table: see [`table!`].
pub(super) trait Keys: Sized {
    /// What the table is for.
    const ABOUT: &'static [&'static str];

    /// Reads every key.
    fn read(table: &mut Table<'_>) -> Self;
    /// The declarations.
    fn keys() -> Vec<Key>;
    /// Every key that has a value.
    fn show(&self, into: &mut Entries);
    /// Checks relations between keys; one item for each time that the table was written.
    fn check(items: &[Self], tables: &[Table<'_>]);
}

/// A table with every key at its default.
pub(super) fn of_defaults<T: Keys>() -> T {
    let report = Report::new(Machine::unknown(), |_| Vec::new());
    T::read(&mut Table::whole(Tree::new(), &report))
}

/// The type of a key's value: how it is read and shown. Its forms are in `kinds`.
pub(super) trait Setting<T> {
    /// Takes the key out of the table. A wrong value is reported and replaced by the default.
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> T;
    /// Adds the value as written in the file, if there is one.
    fn show(&self, value: &T, key: &'static str, into: &mut Entries);
    /// What may be written.
    fn shape(&self) -> Shape;
}

/// Declares a table: a struct, one field for each key.
///
/// ```text
/// table! {
///     /// What the table is for.
///     pub struct Retry {
///         /// What the key means, for operators and programmers.
///         first: Duration = duration(minutes(5), seconds(1)..=days(1));
///         /// The key has another name than the field, and a change takes effect at SIGHUP.
///         limits("limit"): Vec<Limit> = tables(1000), Reload;
///     }
///     check = check_retry
/// }
/// ```
///
/// The right side of a key is a function of `kinds`. `check` may be left out.
macro_rules! table {
    (
        $(#[doc = $about:literal])*
        $(#[derive($($derive:ident),*)])?
        $visibility:vis struct $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $field:ident $(($key:literal))? : $type:ty = $kind:expr $(, $apply:ident)?;
            )*
        }
        $(check = $check:path)?
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq)]
        $(#[derive($($derive),*)])?
        $visibility struct $name {
            $( $(#[doc = $doc])* pub $field: $type, )*
        }

        impl $crate::config::declare::Keys for $name {
            const ABOUT: &'static [&'static str] = &[$($about),*];

            fn read(table: &mut $crate::config::table::Table<'_>) -> $name {
                use $crate::config::declare::{Setting, key_name};
                $name {
                    $( $field: Setting::<$type>::read(&$kind, table, key_name!($field $($key)?)), )*
                }
            }

            fn keys() -> Vec<$crate::config::declare::Key> {
                use $crate::config::declare::{Key, Setting, apply, key_name};
                vec![$( Key {
                    name: key_name!($field $($key)?),
                    about: &[$($doc),*],
                    apply: apply!($($apply)?),
                    shape: Setting::<$type>::shape(&$kind),
                } ),*]
            }

            fn show(&self, into: &mut $crate::config::declare::Entries) {
                use $crate::config::declare::{Setting, key_name};
                $( Setting::<$type>::show(
                    &$kind, &self.$field, key_name!($field $($key)?), into,
                ); )*
            }

            fn check(items: &[$name], tables: &[$crate::config::table::Table<'_>]) {
                let _ = (items, tables);
                $( $check(items, tables); )?
            }
        }

        impl Default for $name {
            /// Every key at its default.
            fn default() -> $name {
                $crate::config::declare::of_defaults()
            }
        }
    };
}

/// The name of a key: that of its field unless another is given.
macro_rules! key_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:literal) => {
        $key
    };
}

/// When a change takes effect: at a restart unless the declaration says otherwise.
macro_rules! apply {
    () => {
        $crate::config::declare::Apply::Restart
    };
    ($apply:ident) => {
        $crate::config::declare::Apply::$apply
    };
}

pub(super) use {apply, key_name, table};
