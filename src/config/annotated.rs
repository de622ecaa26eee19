//! The annotated file: every key with its documentation, range and default, from the declarations.
//!
//! Table headers are not commented out, but keys are, with `#`, so that a key that is uncommented
//! is in the table in which it is shown. A table that is only an example is commented out as a
//! whole, with `#   `.

use super::declare::{Apply, Key, Keys, Shape, TableShape, ValueShape};
use super::kinds::{one_of, quoted};
use super::written::{Written, head_of, join};

/// Width of the page in characters.
const WIDTH: usize = 100;

/// Values in the shipped file that differ from the defaults, as the systemd unit needs them.
const SHIPPED: [(&str, &str); 1] = [("spool.directory", "/var/lib/ringpost")];

/// Words that are kept on one line with the number after them, or before them.
const NUMBERED: [&str; 1] = ["RFC"];
const UNITS: [&str; 3] = ["KiB", "MiB", "GiB"];

const HEAD: &str = "\
# Ringpost: the whole configuration, written by `ringpost config annotated`.
#
# Every key is listed below the header of its table, commented out with `#`, with its default, or
# with an example where there is no fixed default. To set a key, remove the `#` and write the value.
# Tables that are only examples are commented out with `#` and three blanks.
#
#   ringpost check --config FILE              shows errors in FILE, or all values
#   ringpost config show retry.first          describes a key and shows its value
#   ringpost --set retry.first=2s             sets any key; overrides the file and all other flags
#
# Commands without --config read the file that RINGPOST_CONFIG names, else
# /etc/ringpost/ringpost.toml. If that does not exist, the defaults apply.
#
# --set replaces all [[tables]] of a name at once; [] removes them:
#   ringpost --set 'access.limit=[{network = \"192.0.2.0/24\", messages_per_hour = 1000}]'
#
# Durations: \"50ms\", \"30s\", \"5m\", \"1h 30m\", \"5d\".
# Sizes: bytes, or \"64 KiB\", \"25 MiB\", \"1 GiB\".
# Paths that do not begin with / are relative to the working directory.
# A change takes effect at the next start, or at SIGHUP where the key says so.
";

/// The annotated file.
pub fn annotated() -> String {
    let mut page = HEAD.to_owned();
    body("", &Written::keys(), "", &mut page);
    page
}

/// Writes the keys of a table, each after its documentation. `mark` begins every line: it comments
/// out an example.
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

/// The description of a key: its documentation, and what follows from its declaration.
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

/// Writes `text` in lines that begin with `lead` and fit the width of the page.
pub(super) fn wrap(text: &str, lead: &str, page: &mut String) {
    // A number and its unit, or an RFC and its number, stay on one line.
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
