//! The annotated file: every key with its documentation, range and default, from the declarations.
//!
//! The headers of tables stand as they are and the keys behind `#`, so that a key that is
//! uncommented is in the table that it is shown in. A table that is only an example is commented as
//! a whole, behind `#   `.

use super::declare::{Apply, Key, Keys, Shape, TableShape, ValueShape};
use super::kinds::{one_of, quoted};
use super::written::{Written, head_of, join};

/// The widest line.
const WIDTH: usize = 100;

/// Values of the shipped file that are no defaults: what the systemd unit has.
const SHIPPED: [(&str, &str); 1] = [("spool.directory", "/var/lib/ringpost")];

/// What a number follows, and what follows a number.
const NUMBERED: [&str; 1] = ["RFC"];
const UNITS: [&str; 3] = ["KiB", "MiB", "GiB"];

const HEAD: &str = "\
# Ringpost: the whole configuration, made by `ringpost config annotated`.
#
# Every key stands below the header of its table, behind `#` and with its default, or with an
# example where there is no fixed default. To set one, remove the `#` and write the value. Tables
# that are examples as a whole stand behind `#` and three blanks.
#
#   ringpost check --config FILE              what is wrong in FILE, or what it means
#   ringpost config show retry.first          what a key means, and its value
#   ringpost --set retry.first=2s             sets any key; this beats the file and every other flag
#
# Commands without --config read the file that RINGPOST_CONFIG names, else
# /etc/ringpost/ringpost.toml. If that is missing, the defaults hold.
#
# [[tables]] are set all at once, in place of those in the file; [] leaves none:
#   ringpost --set 'access.limit=[{network = \"192.0.2.0/24\", messages_per_hour = 1000}]'
#
# Durations: \"50ms\", \"30s\", \"5m\", \"1h 30m\", \"5d\".
# Sizes: bytes, or \"64 KiB\", \"25 MiB\", \"1 GiB\".
# Paths that do not begin with / are below the working directory.
# A change takes effect at the next start, or at SIGHUP where that is said.
";

/// The annotated file.
pub fn annotated() -> String {
    let mut page = HEAD.to_owned();
    body("", &Written::keys(), "", &mut page);
    page
}

/// The keys of a table, each after its documentation. `mark` begins every line: it comments out an
/// example.
fn body(path: &str, keys: &[Key], mark: &str, page: &mut String) {
    for key in keys {
        match &key.shape {
            Shape::Inline(keys) => body(path, keys, mark, page),
            Shape::Value(value) => {
                if mark.is_empty() {
                    page.push('\n');
                }
                let lead = format!("{mark}# ");
                for paragraph in text_of(key, value) {
                    wrap(&paragraph, &lead, page);
                }
                let name = key.name;
                let shipped = SHIPPED.iter().find(|(of, _)| *of == join(path, name));
                let line = match (shipped, &value.default, &value.example) {
                    (Some((_, shipped)), ..) => format!("{name} = {}", quoted(shipped)),
                    (_, Some(shown), _) | (_, None, Some(shown)) if mark.is_empty() => {
                        format!("#{name} = {shown}")
                    }
                    (_, default, example) => {
                        let shown = example.as_ref().or(default.as_ref());
                        format!("{mark}{name} = {}", shown.map_or("", String::as_str))
                    }
                };
                page.push_str(&line);
                page.push('\n');
            }
            Shape::Table(_) => {}
        }
    }
    for key in keys {
        if let Shape::Table(shape) = &key.shape {
            table(&join(path, key.name), shape, page);
        }
    }
}

fn table(path: &str, shape: &TableShape, page: &mut String) {
    page.push('\n');
    for paragraph in paragraphs(shape.about) {
        wrap(&paragraph, "# ", page);
    }
    let head = head_of(path, shape.number);
    let mark = if shape.number.is_example() { "#   " } else { "" };
    page.push_str(&format!("{mark}{head}\n"));
    body(path, &shape.keys, mark, page);
}

/// What is said of a key: its documentation, and what follows from its declaration.
pub(super) fn text_of(key: &Key, value: &ValueShape) -> Vec<String> {
    let mut text = paragraphs(key.about);
    let mut facts = Vec::new();
    if value.needed {
        facts.push("Required.".to_owned());
    }
    if !value.choices.is_empty() {
        facts.push(format!("Values: {}.", one_of(&value.choices)));
    }
    if let Some((least, most)) = &value.range {
        facts.push(format!("Range: {least} to {most}."));
    }
    if let Some(note) = value.default_note {
        facts.push(format!("Default: {note}."));
    } else if value.default.is_none() && !value.needed {
        facts.push("Default: none.".to_owned());
    }
    if key.apply == Apply::Reload {
        facts.push("Changes at SIGHUP.".to_owned());
    }
    if !facts.is_empty() {
        let facts = facts.join(" ");
        match text.last_mut() {
            Some(last) => *last = format!("{last} {facts}"),
            None => text.push(facts),
        }
    }
    text
}

/// The documentation as paragraphs, each on one line.
pub(super) fn paragraphs(about: &[&str]) -> Vec<String> {
    let text: Vec<&str> = about.iter().map(|line| line.trim()).collect();
    let paragraphs = text.split(|line| line.is_empty());
    paragraphs.filter(|lines| !lines.is_empty()).map(|lines| lines.join(" ")).collect()
}

/// Writes `text` in lines that begin with `lead` and are at most as wide as the page.
pub(super) fn wrap(text: &str, lead: &str, page: &mut String) {
    // A number and its unit, or a document, stay on one line.
    let text = NUMBERED.iter().fold(text.to_owned(), |text, name| {
        text.replace(&format!("{name} "), &format!("{name}\u{a0}"))
    });
    let text = UNITS
        .iter()
        .fold(text, |text, unit| text.replace(&format!(" {unit}"), &format!("\u{a0}{unit}")));
    let mut line = String::new();
    for word in text.split(' ').map(|word| word.replace('\u{a0}', " ")) {
        if !line.is_empty() && lead.len() + line.len() + 1 + word.len() > WIDTH {
            page.push_str(&format!("{lead}{line}\n"));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    page.push_str(&format!("{lead}{line}\n"));
}
