//! `[event]`: the event log.

use super::declare::table;
use super::kinds::{KIB, MIB, TIB, Words, choice, count, path_in_spool, size};
use std::path::PathBuf;

/// The event log.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Where events go.
    pub output: EventOutput,
    /// A file is rotated at this size in bytes.
    pub rotate_bytes: u64,
    /// Rotated files kept.
    pub keep: usize,
}

/// Where events go.
#[derive(Clone, Debug, PartialEq)]
pub enum EventOutput {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// A file; rotated ones get `.1`, `.2` ... behind the name.
    File(PathBuf),
}

/// Where events go, as written in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    File,
    Stdout,
    Off,
}

impl Words for Output {
    const WORDS: &'static [(&'static str, Output)] =
        &[("file", Output::File), ("stdout", Output::Stdout), ("off", Output::Off)];
}

table! {
    /// The event log: one JSON object a line for everything that happens to a message.
    pub(super) struct EventKeys {
        /// Where events go: to a file, to standard output, or nowhere.
        output: Output = choice(Output::File);
        /// The file. It is created with mode 0640, minus the umask: readable by the relay's user
        /// and group only.
        file: PathBuf = path_in_spool("events.jsonl");
        /// At this size the file is renamed to FILE.1, after FILE.1 to FILE.2 and so on.
        rotate_bytes: u64 = size(256 * MIB, 64 * KIB..=TIB);
        /// Renamed files that are kept. The oldest is deleted.
        keep: usize = count(8, 0..=1000);
    }
}

impl From<&EventKeys> for Event {
    fn from(keys: &EventKeys) -> Event {
        Event {
            output: match keys.output {
                Output::File => EventOutput::File(keys.file.clone()),
                Output::Stdout => EventOutput::Stdout,
                Output::Off => EventOutput::Off,
            },
            rotate_bytes: keys.rotate_bytes,
            keep: keys.keep,
        }
    }
}
