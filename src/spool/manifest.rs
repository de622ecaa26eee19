//! What a stop leaves beside the segments: the list of those that hold something, so that the next
//! start sees whether one went missing while no relay ran. Damage within a segment shows by its
//! checksums, and a segment that is gone from between two others by the numbers of their commits;
//! the first and the last show only here.
//!
//! The list is read once, and then removed: after a crash there is none, and nothing is compared.
//! One that commits were made behind, by a relay that does not know of lists, says nothing.

use super::recovery::Scan;
use crate::ring::disk::{self, File};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

const NAME: &str = "closed";
/// The same while it is written.
const DRAFT: &str = "closed.new";
/// The first line: what this is, and the version that is written and read.
const TITLE: &str = "ringpost spool closed 1";
/// More is not read: a line for each of a million segments.
const BYTES_MAX: u64 = 32 << 20;

/// What there was when the spool was closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Higher than every batch's sequence.
    pub(super) next_batch: u64,
    /// Segments with batches, and the records of live mail in each.
    pub(super) segments: BTreeMap<u32, u32>,
}

/// A segment that is not there, or not all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) segment: u32,
    pub(super) cause: String,
}

impl Manifest {
    /// Leaves the list in `folder`, whole or not at all.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let draft = folder.join(DRAFT);
        let mut file = File::create(&draft)?;
        file.write_all(&self.encode())?;
        file.sync_all()?;
        disk::rename(&draft, folder.join(NAME))?;
        File::open(folder)?.sync_all()
    }

    /// The list in `folder`; `None` when there is none that can be read.
    pub(super) fn read(folder: &Path) -> Option<Manifest> {
        let mut bytes = Vec::new();
        File::open(folder.join(NAME)).ok()?.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Manifest::decode(&bytes)
    }

    /// What of it `scan`, which has read all segments, has not found.
    pub(super) fn missing(&self, scan: &Scan) -> Vec<Missing> {
        let next_batch = scan.next_batch();
        if next_batch > self.next_batch {
            return Vec::new();
        }
        let gone = self.segments.iter().filter(|(number, _)| !scan.written.contains(number));
        let mut missing: Vec<Missing> = gone
            .map(|(&segment, &records)| {
                let held = match records {
                    0 => "what became of earlier mail".to_owned(),
                    1 => "1 record of live mail".to_owned(),
                    _ => format!("{records} records of live mail"),
                };
                let cause = format!(
                    "it held {held} when the relay was stopped, and is removed or overwritten; if \
                     there is a copy, stop the relay and put it back"
                );
                Missing { segment, cause }
            })
            .collect();
        // Its end may be gone while its begin is there.
        if next_batch < self.next_batch && missing.is_empty() {
            let segment = self.segments.last_key_value().map_or(0, |(&last, _)| last);
            let commits = self.next_batch - next_batch;
            let cause = format!("its last commits ({commits}) are gone: cut short or overwritten");
            missing.push(Missing { segment, cause });
        }
        missing
    }

    fn encode(&self) -> Vec<u8> {
        let mut text = format!("{TITLE}\nnext-batch {}\n", self.next_batch);
        for (segment, records) in &self.segments {
            text.push_str(&format!("segment {segment} {records}\n"));
        }
        let crc = crc32c::crc32c(text.as_bytes());
        text.push_str(&format!("crc32c {crc:08x}\n"));
        text.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Manifest> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (said, crc) = text.strip_suffix('\n')?.rsplit_once("crc32c ")?;
        let crc = u32::from_str_radix(crc, 16).ok()?;
        if crc != crc32c::crc32c(said.as_bytes()) {
            return None;
        }
        let mut lines = said.strip_prefix(TITLE)?.strip_prefix('\n')?.lines();
        let next_batch = lines.next()?.strip_prefix("next-batch ")?.parse().ok()?;
        let segments = lines.map(|line| {
            let (segment, records) = line.strip_prefix("segment ")?.split_once(' ')?;
            Some((segment.parse().ok()?, records.parse().ok()?))
        });
        Some(Manifest { next_batch, segments: segments.collect::<Option<_>>()? })
    }
}

/// Removes the list from `folder`, durably, before anything there changes.
pub(super) fn forget(folder: &Path) -> io::Result<()> {
    let mut gone = false;
    for name in [NAME, DRAFT] {
        match disk::remove_file(folder.join(name)) {
            Ok(()) => gone = true,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if gone { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_list_reads_back_and_a_damaged_one_says_nothing() {
        let closed = Manifest { next_batch: 77, segments: BTreeMap::from([(3, 0), (12, 4711)]) };
        let bytes = closed.encode();
        assert_eq!(Manifest::decode(&bytes), Some(closed));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(Manifest::decode(&changed), None, "byte {at}");
            assert_eq!(Manifest::decode(&bytes[..at]), None, "cut at {at}");
        }
        let empty = Manifest { next_batch: 1, segments: BTreeMap::new() };
        assert_eq!(Manifest::decode(&empty.encode()), Some(empty));
    }
}
