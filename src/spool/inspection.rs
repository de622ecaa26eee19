//! What a stopped relay's folder holds, in numbers, and where it is damaged. It reads every byte
//! that was ever committed and checks every checksum; it changes nothing.

use super::manifest::{Manifest, Missing};
use super::record::{self, CHUNK_PREFIX};
use super::recovery::{Scan, SetAside};
use super::segment::{self, BATCH_HEADER, BatchHeader};
use super::{Recovered, Spool, SpoolError, folder};
use crate::message::{Content, QueueId};
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Most bytes of a damaged place that are searched for the record that does not pass.
const SEARCHED_BYTES_MAX: u32 = 64 << 20;

/// One folder, read whole.
#[derive(Debug)]
pub struct Inspection {
    /// Which.
    pub folder: PathBuf,
    /// Segment files, blank ones too.
    pub segments: usize,
    /// Commits found in them.
    pub batches: u64,
    /// Records that pass their checksum.
    pub records: u64,
    /// Of segments, up to the end of each one's last batch.
    pub written_bytes: u64,
    /// Segments whose index does not say what their records say: no mail is harmed, and a start
    /// that finds it not to pass reads the segment whole.
    pub bad_indexes: Vec<PathBuf>,
    /// What the segment files take of the disk.
    pub disk_bytes: u64,
    /// Messages with recipients not yet ended, oldest id first.
    pub messages: Vec<Recovered>,
    /// Ids of messages that have ended, and whose records are still there.
    pub ended: HashSet<QueueId>,
    /// Bytes of a commit that was cut short and never acknowledged.
    pub torn_bytes: u64,
    /// Where it begins, when there is one.
    pub torn_at: Option<(PathBuf, u32)>,
    /// Bytes that are not as they were written.
    pub damages: Vec<Damage>,
    /// Live messages whose content is in pieces.
    streamed: HashSet<QueueId>,
}

/// Bytes that are not as they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment file.
    pub path: PathBuf,
    /// Of the first byte in doubt.
    pub offset: u32,
    /// Bytes in doubt.
    pub length: u32,
    /// What is wrong.
    pub cause: String,
    /// The records in them that do not pass: offset, and whose they say they are (if that can be
    /// believed). Empty when it is not a record that is damaged.
    pub records: Vec<(u32, QueueId)>,
}

/// Whether there are segment files in `directory`.
pub fn holds_segments(directory: &Path) -> Result<bool, SpoolError> {
    folder::segments(directory).map(|segments| !segments.is_empty())
}

impl Spool {
    /// Reads a stopped relay's folder whole. `Open` when a file cannot be read, or was written by a
    /// newer relay.
    pub fn examine(directory: &Path) -> Result<Inspection, SpoolError> {
        let unreadable = |path: &Path, error: io::Error| folder::failed(path, &error);
        let numbers = folder::segments(directory)?;
        let mut scan = Scan::of_all_bytes();
        let mut disk_bytes = 0;
        let mut damages = Vec::new();
        for &number in &numbers {
            let path = segment::path(directory, number);
            let mut file = File::open(&path).map_err(|error| unreadable(&path, error))?;
            let metadata = file.metadata().map_err(|error| unreadable(&path, error))?;
            // `st_blocks` counts 512 bytes on every file system.
            disk_bytes += metadata.blocks() * 512;
            folder::scan(&mut scan, directory, number, &mut file, metadata.len())?;
        }
        let mut findings = scan.finish();
        findings.set_aside.append(&mut scan.cut_short);
        for one in &findings.set_aside {
            damages.push(Damage::of(directory, one)?);
        }
        let missing =
            Manifest::read(directory).map_or_else(Vec::new, |closed| closed.missing(&scan));
        damages.extend(missing.into_iter().map(|one| Damage::missing(directory, one)));
        let torn_at = (findings.torn_bytes > 0)
            .then(|| (segment::path(directory, findings.cut.0), findings.cut.1));
        let streamed = scan.replay.pieces().into_keys().collect();
        let ended = scan.replay.ended();
        let bad = scan.bad_indexes.iter();
        let bad_indexes = bad.map(|&number| segment::path(directory, number)).collect();
        let (batches, records) = (scan.batches, scan.records);
        let written_bytes = scan.written_bytes;
        Ok(Inspection {
            folder: directory.to_owned(),
            segments: numbers.len(),
            batches,
            records,
            written_bytes,
            disk_bytes,
            bad_indexes,
            messages: scan.replay.into_live().collect(),
            ended,
            torn_bytes: findings.torn_bytes,
            torn_at,
            damages,
            streamed,
        })
    }
}

impl Inspection {
    /// Bytes of the records that live messages need: their own and those of their pieces.
    pub fn live_bytes(&self) -> Result<u64, SpoolError> {
        let mut bytes = 0;
        for message in &self.messages {
            bytes += u64::from(message.placement.length);
            if self.streamed.contains(&message.id) {
                let stored = Spool::read(&self.folder, message.id, message.placement)?;
                if let Content::Streamed(pieces) = &stored.content {
                    bytes += stored.content.len() + (pieces.len() * CHUNK_PREFIX) as u64;
                }
            }
        }
        Ok(bytes)
    }
}

impl Damage {
    fn missing(directory: &Path, Missing { segment, cause }: Missing) -> Damage {
        let (path, cause) = (segment::path(directory, segment), format!("missing: {cause}"));
        Damage { path, offset: 0, length: 0, cause, records: Vec::new() }
    }

    fn of(directory: &Path, one: &SetAside) -> Result<Damage, SpoolError> {
        let path = segment::path(directory, one.segment);
        let bytes = File::open(&path)
            .and_then(|file| read_at(&file, one.offset, one.length.min(SEARCHED_BYTES_MAX)))
            .map_err(|error| folder::failed(&path, &error))?;
        let records = damaged_records(&bytes, one.segment, one.offset);
        let (offset, length) = (one.offset, one.length);
        Ok(Damage { path, offset, length, cause: one.cause.clone(), records })
    }
}

/// The records that do not pass in a batch whose header does, and which begins `bytes`.
pub(super) fn damaged_records(bytes: &[u8], segment: u32, offset: u32) -> Vec<(u32, QueueId)> {
    let mut damaged = Vec::new();
    let Some(header) = BatchHeader::read(bytes, segment, offset) else { return damaged };
    let end = BATCH_HEADER + header.length as usize;
    let records = bytes.get(..end).unwrap_or(bytes);
    let mut at = BATCH_HEADER;
    while records.len().saturating_sub(at) >= record::HEADER {
        let place = offset.saturating_add(at as u32);
        let rest = records.get(at..).unwrap_or_default();
        if record::check(rest, segment, place).is_none() {
            damaged.push((place, record::claimed_id(rest).unwrap_or(QueueId(0))));
        }
        match record::length_at(records, at) {
            Some(length) => at += length as usize,
            None => break,
        }
    }
    damaged
}

fn read_at(file: &File, offset: u32, length: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, u64::from(offset) + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::log::Resume;
    use super::super::segment::BLOCK;
    use super::super::tests::{SEGMENT, segment_after, small_segment};
    use super::*;

    const BLOCK_BYTES: usize = BLOCK as usize;

    fn folder_with(files: &[(u32, Vec<u8>)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (number, bytes) in files {
            let path = segment::path(folder.path(), *number);
            std::fs::write(&path, bytes).unwrap();
            // As long as its header says: a shorter file is damage.
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(SEGMENT.into()).unwrap();
        }
        folder
    }

    #[test]
    fn a_clean_folder_is_counted() {
        let folder = folder_with(&[(1, small_segment())]);
        let found = Spool::examine(folder.path()).unwrap();
        assert_eq!((found.segments, found.batches, found.records), (1, 3, 9));
        assert_eq!((found.messages.len(), found.ended.len()), (6, 0));
        assert_eq!((found.damages.len(), found.torn_bytes), (0, 0));
        assert_eq!(found.written_bytes, u64::from(BLOCK) * 4);
        let live = found.live_bytes().unwrap();
        assert!(live > 600 && live < 3 * u64::from(BLOCK), "{live}");
    }

    #[test]
    fn a_changed_byte_is_told_with_its_record() {
        let mut file = small_segment();
        let header = BatchHeader::read(&file[BLOCK_BYTES..], 1, BLOCK).unwrap();
        let first = record::length_at(&file[..BLOCK_BYTES * 2], BLOCK_BYTES + BATCH_HEADER);
        let second = BLOCK_BYTES + BATCH_HEADER + first.unwrap() as usize;
        assert!(second < BLOCK_BYTES + header.length as usize);
        file[second + 30] ^= 1;
        let folder = folder_with(&[(1, file)]);
        let found = Spool::examine(folder.path()).unwrap();
        assert_eq!((found.messages.len(), found.damages.len()), (5, 1));
        let damage = &found.damages[0];
        assert_eq!((damage.offset, damage.path.clone()), (BLOCK, segment::path(folder.path(), 1)));
        assert_eq!(damage.records, [(u32::try_from(second).unwrap(), QueueId(2))]);
    }

    #[test]
    fn a_damaged_header_of_a_segment_is_told() {
        let mut file = small_segment();
        file[20] ^= 1;
        let folder = folder_with(&[(1, file)]);
        let found = Spool::examine(folder.path()).unwrap();
        assert_eq!((found.messages.len(), found.damages.len()), (6, 1));
        assert_eq!((found.damages[0].offset, found.damages[0].records.len()), (0, 0));
    }

    #[test]
    fn a_torn_commit_is_no_damage_and_a_former_life_counts_for_nothing() {
        let mut torn = small_segment();
        torn[BLOCK_BYTES * 3 + 100] ^= 1;
        // Segment 2 is a recycled file, still with what it held as segment 1.
        let folder = folder_with(&[(1, torn), (2, small_segment())]);
        let found = Spool::examine(folder.path()).unwrap();
        assert_eq!((found.segments, found.damages.len()), (2, 0));
        assert_eq!(found.torn_bytes, u64::from(BLOCK));
        assert_eq!(found.torn_at, Some((segment::path(folder.path(), 1), BLOCK * 3)));
        assert_eq!(found.written_bytes, u64::from(BLOCK) * 4);
    }

    #[test]
    fn ended_messages_are_known() {
        let mut log_end = segment_after(Resume::default(), &[1]);
        log_end.truncate(BLOCK_BYTES * 2);
        let folder = folder_with(&[(1, log_end)]);
        let found = Spool::examine(folder.path()).unwrap();
        // Message 1 has one recipient open, message 2 one of two.
        assert_eq!((found.messages.len(), found.ended.len()), (2, 0));
    }
}
