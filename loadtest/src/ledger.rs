//! The ledgers on disk: what was accepted, and what arrived.
//!
//! Plain lines, appended, so that a ledger survives the relay and is readable by people:
//! `ID RECIPIENTS` for an accepted message, `ID RECIPIENT intact|corrupt|refused` for an arrival
//! or a refusal at the sink (`*` for all recipients, when the sender was refused). A last line
//! without its line end is incomplete and ignored.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use crate::count::{Accepted, PairCount, PairCounts};
use crate::id::{Id, Pair, digits};

/// A ledger open for appending. Each `append` is one write, so that lines of several threads, each
/// with its own handle, do not mix.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    path: PathBuf,
}

impl Ledger {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// The error of the file system, with the path.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|e| format!("ledger {}: {e}", path.display()))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Appends whole lines.
    ///
    /// # Errors
    /// The error of the file system, with the path; the ledger is then no longer complete.
    pub fn append(&mut self, lines: &[u8]) -> Result<(), String> {
        self.file.write_all(lines).map_err(|e| format!("ledger {}: {e}", self.path.display()))
    }
}

/// Reads what was accepted: the number of recipients of each message.
///
/// # Errors
/// The file cannot be read, or a line is malformed.
pub fn read_accepted(path: &Path) -> Result<Accepted, String> {
    let mut accepted = HashMap::new();
    read(path, |line| {
        let (id, recipients) = line.split_once(' ')?;
        let recipients = u32::try_from(digits(recipients)?).ok()?;
        accepted.insert(Id::parse(id.as_bytes())?, recipients);
        Some(())
    })?;
    Ok(accepted)
}

/// Reads what arrived or was refused.
///
/// # Errors
/// As [`read_accepted`].
pub fn read_arrived(path: &Path) -> Result<PairCounts, String> {
    let mut pair_counts = HashMap::new();
    read(path, |line| {
        let mut words = line.split(' ');
        let id = Id::parse(words.next()?.as_bytes())?;
        let recipient = match words.next()? {
            "*" => Pair::ALL,
            number => u32::try_from(digits(number)?).ok()?,
        };
        let pair_count: &mut PairCount = pair_counts.entry(Pair { id, recipient }).or_default();
        match words.next()? {
            "intact" => drop(pair_count.arrive(true)),
            "corrupt" => drop(pair_count.arrive(false)),
            "refused" => pair_count.refused = true,
            _ => return None,
        }
        words.next().is_none().then_some(())
    })?;
    Ok(pair_counts)
}

fn read(path: &Path, mut take: impl FnMut(&str) -> Option<()>) -> Result<(), String> {
    /// Much longer than any line that is written.
    const LINE_MAX: usize = 4096;
    let name = path.display();
    let mut file = BufReader::new(File::open(path).map_err(|e| format!("ledger {name}: {e}"))?);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let mut bounded = std::io::Read::take(&mut file, LINE_MAX as u64);
        let read = bounded.read_until(b'\n', &mut line).map_err(|e| format!("{name}: {e}"))?;
        let Some(text) = line.strip_suffix(b"\n") else {
            if read >= LINE_MAX {
                return Err(format!("ledger {name}, line {number}: too long for a ledger"));
            }
            break;
        };
        let taken = std::str::from_utf8(text).ok().and_then(&mut take);
        if taken.is_none() {
            return Err(format!("ledger {name}, line {number}: not a line of this kind of ledger"));
        }
    }
    Ok(())
}
