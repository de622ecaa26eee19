//! What a start makes of the bytes it finds. *Pure*: it reads through `Read + Seek` and decides by
//! the table below; files are opened, copied and synced by `folder`.
//!
//! Every record that passes its own checksum is replayed, wherever it lies, unless it cannot be
//! used. The table only decides what is said and done about bytes that do not pass.
//!
//! A sealed segment whose index passes is not read: its index says the same. Bytes that changed in
//! it since are found when they are needed, by `Spool::load`, or by a scan of all bytes.

use super::entry::{self, Entry};
use super::index::{Footer, Growing};
use super::record::{self, Unusable};
use super::replay::Replay;
pub(super) use super::replay::SetAside;
use super::segment::{BATCH_HEADER, BLOCK, BatchHeader, FORMAT, FirstBlock, SegmentHeader, padded};
use crate::message::QueueId;
use std::io::{self, Read, Seek, SeekFrom};

/// What lies where a batch should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A batch, all of whose records pass.
    Whole,
    /// The head of a batch, or its first record, and something that does not pass.
    Damaged,
    /// Nothing of this life of the segment, though the sequence of batches says there was one, or
    /// the first bytes say that one was meant.
    Lost,
    /// Nothing of this life of the segment.
    Nothing,
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Replay its records.
    Replay,
    /// The end of the log, or of this segment.
    End,
    /// A commit that power or a crash cut short, never acknowledged: replay the records that pass,
    /// count the rest as torn, write nothing there again.
    Cut,
    /// The same, done at an earlier start already: say nothing.
    KnownCut,
    /// Acknowledged bytes have changed: replay the records that pass, keep a copy of the rest in
    /// `quarantine/`, report it, go on.
    SetAside,
}

/// One row of the table; `None` matches both.
struct Row {
    found: Found,
    /// A readable batch with a higher sequence comes later: this one had been synced.
    followed: Option<bool>,
    /// A later segment's header says that the log was cut here.
    marked: Option<bool>,
    decision: Decision,
}

const fn row(
    found: Found,
    followed: Option<bool>,
    marked: Option<bool>,
    decision: Decision,
) -> Row {
    Row { found, followed, marked, decision }
}

const TABLE: [Row; 9] = [
    row(Found::Whole, None, None, Decision::Replay),
    row(Found::Nothing, None, None, Decision::End),
    row(Found::Damaged, Some(false), Some(false), Decision::Cut),
    row(Found::Damaged, Some(false), Some(true), Decision::KnownCut),
    row(Found::Damaged, Some(true), Some(true), Decision::KnownCut),
    row(Found::Damaged, Some(true), Some(false), Decision::SetAside),
    row(Found::Lost, Some(false), Some(false), Decision::Cut),
    row(Found::Lost, None, Some(true), Decision::KnownCut),
    row(Found::Lost, Some(true), Some(false), Decision::SetAside),
];

/// The decision of the table.
pub(super) fn decide(found: Found, followed: bool, marked: bool) -> Decision {
    TABLE
        .iter()
        .find(|row| row.matches(found, followed, marked))
        .map_or(Decision::SetAside, |row| row.decision)
}

impl Row {
    fn matches(&self, found: Found, followed: bool, marked: bool) -> bool {
        self.found == found
            && self.followed.is_none_or(|wanted| wanted == followed)
            && self.marked.is_none_or(|wanted| wanted == marked)
    }
}

/// Bytes that did not pass.
#[derive(Clone, Copy, Debug)]
struct Damage {
    found: Found,
    segment: u32,
    offset: u32,
    length: u32,
    /// Batches read before it, in all segments: later ones follow it.
    batches_before: u64,
}

/// Why nothing may be read, or written, here.
#[derive(Debug)]
pub(super) enum Refusal {
    /// A newer version wrote here.
    Newer { segment: u32, what: String },
    /// The disk did not give the bytes: not damage, so nothing is decided.
    Io { segment: u32, error: io::Error },
}

/// Reads segments in order and folds them: those that have an index by that.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) replay: Replay,
    pub(super) bytes_read: u64,
    /// Segments in which a batch was found.
    pub(super) written: Vec<u32>,
    /// Segments in which none was.
    pub(super) blank: Vec<u32>,
    /// Highest id in a segment's header.
    pub(super) highest_id: Option<QueueId>,
    /// Batches found, damaged ones too.
    pub(super) batches: u64,
    /// Records that pass.
    pub(super) records: u64,
    /// From each segment's start to the end of its last batch.
    pub(super) written_bytes: u64,
    /// Read every byte, and check every index against it.
    all: bool,
    /// Segments that were taken by their index.
    pub(super) indexed: Vec<u32>,
    /// With `all`: segments whose index does not pass.
    pub(super) bad_indexes: Vec<u32>,
    /// With `all`: what the index of this segment should say.
    expected: Option<Growing>,
    entries: Vec<u8>,
    last_sequence: Option<u64>,
    /// The last batch that was read: its segment, where it begins and where it ends.
    pub(super) last_batch: Option<(u32, u32, u32)>,
    /// Where the segment before this one ended.
    last_end: (u32, u32),
    cuts: Vec<(u32, u32)>,
    /// Files that are shorter than they were made.
    pub(super) cut_short: Vec<SetAside>,
    /// Files without a whole header, and their sizes. One that was being made when the relay went
    /// down is the last of all.
    headless: Vec<(u32, u32)>,
    damages: Vec<Damage>,
    set_aside: Vec<SetAside>,
    buffer: Vec<u8>,
}

/// What the scan of all segments came to, beside the replay.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) set_aside: Vec<SetAside>,
    pub(super) torn_bytes: u64,
    /// Where the newest torn commit begins, for the next header.
    pub(super) cut: (u32, u32),
    /// Higher than every batch's sequence.
    pub(super) next_batch: u64,
}

impl Scan {
    /// Reads every byte that was committed, those of segments that have an index too.
    pub(super) fn of_all_bytes() -> Scan {
        Scan { all: true, ..Scan::default() }
    }

    /// Reads segment `segment` of `size` bytes. Call in rising order of segments.
    pub(super) fn segment<R: Read + Seek>(
        &mut self,
        segment: u32,
        size: u64,
        source: &mut R,
    ) -> Result<(), Refusal> {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let batches_before = self.batches;
        let damages_before = self.damages.len();
        self.replay.enter(segment);
        let first = self.first_block(segment, size, source)?;
        if let FirstBlock::Current(header) = first
            && size < header.segment_bytes
        {
            let cause = "the file was cut short; mail that was there is lost".to_owned();
            let length = header.segment_bytes - size;
            self.cut_short.push(SetAside { segment, offset: size, length, cause });
        }
        if first == FirstBlock::Blank && size < BLOCK {
            self.headless.push((segment, size));
        }
        let footer = match first {
            FirstBlock::Former if !self.all => {
                self.blank.push(segment);
                return Ok(());
            }
            FirstBlock::Current(header) => {
                self.footer(segment, header.segment_bytes, size, source)?
            }
            _ => None,
        };
        if let Some(footer) = footer.filter(|_| !self.all)
            && self.by_index(segment, footer, source)?
        {
            return Ok(());
        }
        self.expected = self.all.then(|| Growing::new(segment, size));
        let mut offset = BLOCK;
        let mut end = BLOCK;
        while let Some(next) = self.batch(segment, offset, size, source)? {
            end = next;
            offset = next;
        }
        // A block that was meant to be a batch, but nothing of it can be read, and no batch behind.
        if self.batches > batches_before || self.damages.len() > damages_before {
            self.written.push(segment);
            self.written_bytes += u64::from(end);
            self.last_end = (segment, end);
            if !matches!(first, FirstBlock::Current(_)) {
                self.first_block_damaged(segment, size.min(BLOCK), "its header is damaged");
            }
        } else {
            if first == FirstBlock::Damaged {
                self.first_block_damaged(segment, size, "this is no segment: overwritten?");
            }
            self.blank.push(segment);
        }
        if let Some(footer) = footer.filter(|_| self.all) {
            self.read(segment, footer.begins, footer.length, source)?;
            let sound = self.damages.len() == damages_before;
            let says = self.expected.take().is_some_and(|expected| self.buffer == expected.said());
            if !footer.passes(&self.buffer, segment) || (sound && !says) {
                self.bad_indexes.push(segment);
            }
        }
        Ok(())
    }

    /// The footer of the segment's index, which ends at `index_end`, if there is one.
    fn footer<R: Read + Seek>(
        &mut self,
        segment: u32,
        index_end: u32,
        size: u32,
        source: &mut R,
    ) -> Result<Option<Footer>, Refusal> {
        let at = index_end.checked_sub(BLOCK).filter(|_| index_end <= size);
        let Some(at) = at.filter(|&at| at >= BLOCK) else { return Ok(None) };
        self.read(segment, at, BLOCK, source)?;
        let whole = self.buffer.len() == BLOCK as usize;
        Ok(Footer::read(&self.buffer, segment, index_end).filter(|_| whole))
    }

    /// Folds what the segment's index says; false, and nothing is done, when it does not pass.
    fn by_index<R: Read + Seek>(
        &mut self,
        segment: u32,
        footer: Footer,
        source: &mut R,
    ) -> Result<bool, Refusal> {
        self.read(segment, footer.begins, footer.length, source)?;
        if !footer.passes(&self.buffer, segment) {
            return Ok(false);
        }
        self.follow(segment, BLOCK, footer.first_sequence);
        let replay = &mut self.replay;
        let replayed = footer.each(&self.buffer, |at, entry| replay.entry(entry, segment, at));
        debug_assert!(replayed.is_some(), "it has passed");
        self.last_sequence = self.last_sequence.max(Some(footer.last_sequence()));
        self.batches += u64::from(footer.batches);
        self.records += u64::from(footer.records);
        self.written.push(segment);
        self.indexed.push(segment);
        self.last_batch = None;
        self.written_bytes += u64::from(footer.end);
        self.last_end = (segment, footer.end);
        Ok(true)
    }

    /// Higher than every batch's sequence.
    pub(super) fn next_batch(&self) -> u64 {
        self.last_sequence.unwrap_or(0) + 1
    }

    /// Decides about all damage, when every segment was read.
    pub(super) fn finish(&mut self) -> Findings {
        let mut findings = Findings {
            set_aside: std::mem::take(&mut self.set_aside),
            next_batch: self.next_batch(),
            ..Findings::default()
        };
        // A cut that an earlier start made must be handed on, or it would be damage the next time.
        findings.cut = self.cuts.last().copied().unwrap_or_default();
        for damage in &self.damages {
            let Damage { found, segment, offset, length, batches_before } = *damage;
            let followed = self.batches > batches_before;
            let marked = self.cuts.contains(&(segment, offset));
            match decide(found, followed, marked) {
                Decision::Cut => {
                    findings.torn_bytes += u64::from(length);
                    findings.cut = (segment, offset);
                }
                Decision::SetAside => findings.set_aside.push(SetAside {
                    segment,
                    offset,
                    length,
                    cause: "changed after it was synced".to_owned(),
                }),
                Decision::Replay | Decision::End | Decision::KnownCut => {}
            }
        }
        findings.set_aside.extend(self.replay.incomplete());
        let newest = self.written.last().copied().unwrap_or_default();
        for (segment, size) in std::mem::take(&mut self.headless) {
            if segment < newest {
                let cause = "the file was cut short; mail that was there is lost".to_owned();
                let length = BLOCK - size;
                self.cut_short.push(SetAside { segment, offset: size, length, cause });
            }
        }
        findings
    }

    /// Set aside whatever comes behind: a header is synced before anything is written there.
    fn first_block_damaged(&mut self, segment: u32, length: u32, cause: &str) {
        let cause = cause.to_owned();
        self.set_aside.push(SetAside { segment, offset: 0, length, cause });
    }

    /// Reads the header.
    fn first_block<R: Read + Seek>(
        &mut self,
        segment: u32,
        size: u32,
        source: &mut R,
    ) -> Result<FirstBlock, Refusal> {
        self.read(segment, 0, size.min(BLOCK), source)?;
        let first = SegmentHeader::read(&self.buffer, segment);
        match first {
            FirstBlock::Current(header) => {
                self.highest_id = self.highest_id.max(Some(header.highest_id));
                if header.cut.0 != 0 {
                    self.cuts.push(header.cut);
                }
                Ok(first)
            }
            FirstBlock::Newer(format) => Err(Refusal::Newer {
                segment,
                what: format!("format {format}, and this relay knows up to {FORMAT}"),
            }),
            FirstBlock::Former | FirstBlock::Blank | FirstBlock::Damaged => Ok(first),
        }
    }

    /// Reads what is at `offset`; where to go on, or `None` at the end of the segment.
    fn batch<R: Read + Seek>(
        &mut self,
        segment: u32,
        offset: u32,
        size: u32,
        source: &mut R,
    ) -> Result<Option<u32>, Refusal> {
        if size.saturating_sub(offset) < BATCH_HEADER as u32 {
            return Ok(None);
        }
        self.read(segment, offset, (size - offset).min(BLOCK), source)?;
        let header = BatchHeader::read(&self.buffer, segment, offset);
        let Some(header) = header else { return self.no_header(segment, offset, size, source) };
        self.follow(segment, offset, header.sequence);
        let length = (BATCH_HEADER as u32).saturating_add(header.length).min(size - offset);
        self.read(segment, offset, length, source)?;
        let buffer = std::mem::take(&mut self.buffer);
        let records = buffer.get(BATCH_HEADER..).unwrap_or_default();
        let walked = self.records(records, segment, offset + BATCH_HEADER as u32);
        self.buffer = buffer;
        let walked = walked?;
        if let Some(expected) = &mut self.expected {
            let (sequence, end) = (header.sequence, offset.saturating_add(padded(length)));
            expected.batch(sequence, offset, end, walked.count, &self.entries);
        }
        let whole = walked.damaged_at.is_none()
            && walked.count == header.count
            && walked.records_crc == header.records_crc;
        self.batches += 1;
        if !whole {
            self.damaged(Found::Damaged, segment, offset, padded(length), self.batches);
        }
        let end = offset.saturating_add(padded(length));
        self.last_batch = Some((segment, offset, end));
        Ok(Some(end))
    }

    /// No batch header passes at `offset`. The records behind one that was damaged may still; else
    /// the next batch is looked for, block by block.
    fn no_header<R: Read + Seek>(
        &mut self,
        segment: u32,
        offset: u32,
        size: u32,
        source: &mut R,
    ) -> Result<Option<u32>, Refusal> {
        let meant = BatchHeader::resembles(&self.buffer, segment);
        let found = self.next_header(segment, offset, size, source)?;
        let end = found.unwrap_or(size);
        // Salvage: records chain by their own checksums as far as they pass.
        let mut at = offset.saturating_add(BATCH_HEADER as u32);
        while end.saturating_sub(at) >= record::HEADER as u32 {
            self.read(segment, at, record::HEADER as u32, source)?;
            let claimed = claimed_length(&self.buffer).filter(|&length| length <= end - at);
            let Some(length) = claimed else { break };
            self.read(segment, at, length, source)?;
            let buffer = std::mem::take(&mut self.buffer);
            let passed = record::check(&buffer, segment, at).is_some();
            let walked = if passed { self.records(&buffer, segment, at).map(drop) } else { Ok(()) };
            self.buffer = buffer;
            walked?;
            if !passed {
                break;
            }
            at = at.saturating_add(length);
        }
        let salvaged = at > offset.saturating_add(BATCH_HEADER as u32);
        if salvaged || meant || found.is_some() {
            let kind = if salvaged { Found::Damaged } else { Found::Lost };
            let length = match found {
                Some(next) => next - offset,
                None => padded(at.saturating_sub(offset)).min(size - offset),
            };
            self.damaged(kind, segment, offset, length, self.batches);
        }
        Ok(found)
    }

    /// The next block behind `offset` at which a batch begins that comes later in the log.
    fn next_header<R: Read + Seek>(
        &mut self,
        segment: u32,
        offset: u32,
        size: u32,
        source: &mut R,
    ) -> Result<Option<u32>, Refusal> {
        let mut at = offset.saturating_add(BLOCK);
        while size.saturating_sub(at) >= BATCH_HEADER as u32 {
            self.read(segment, at, (size - at).min(SEARCH), source)?;
            for (index, block) in self.buffer.chunks(BLOCK as usize).enumerate() {
                let here = at.saturating_add(BLOCK.saturating_mul(index as u32));
                let later = BatchHeader::read(block, segment, here)
                    .is_some_and(|header| self.last_sequence.is_none_or(|s| header.sequence > s));
                if later {
                    return Ok(Some(here));
                }
            }
            at = at.saturating_add(SEARCH);
        }
        Ok(None)
    }

    /// A batch of this sequence follows the last one read: if some are missing between the two, and
    /// not in a gap that is noted already, the end of the segment before has lost them.
    fn follow(&mut self, segment: u32, offset: u32, sequence: u64) {
        let expected = self.last_sequence.map_or(sequence, |last| last + 1);
        let noted = self.damages.iter().any(|damage| damage.batches_before == self.batches);
        if sequence > expected && !noted {
            let (before, end) = self.last_end;
            let (segment, offset) = if offset == BLOCK { (before, end) } else { (segment, offset) };
            self.damaged(Found::Lost, segment, offset, BLOCK, self.batches);
        }
        self.last_sequence = self.last_sequence.max(Some(sequence));
    }

    fn damaged(&mut self, found: Found, segment: u32, offset: u32, length: u32, before: u64) {
        self.damages.push(Damage { found, segment, offset, length, batches_before: before });
    }

    /// Folds the records that chain through `records`, which lie at `first`.
    fn records(&mut self, records: &[u8], segment: u32, first: u32) -> Result<Walked, Refusal> {
        let mut walked = Walked::default();
        let mut at = 0;
        self.entries.clear();
        while let Some(rest) = records.get(at..).filter(|rest| !rest.is_empty()) {
            let offset = first.saturating_add(at as u32);
            if let Some((header, payload)) = record::check(rest, segment, offset) {
                walked.count += 1;
                self.records += 1;
                let head = rest.get(..record::HEADER).unwrap_or_default();
                walked.records_crc = crc32c::crc32c_append(walked.records_crc, head);
                if self.expected.is_some() {
                    entry::put(&mut self.entries, rest);
                }
                match Entry::of(&header, payload) {
                    Ok(entry) => self.replay.entry(entry, segment, offset),
                    Err(unusable) => self.unusable(unusable, segment, offset, header.length)?,
                }
                at += header.length as usize;
            } else {
                walked.damaged_at.get_or_insert(at);
                // Its length may still be true: then the next record passes, or is damaged as well.
                // Nowhere else is looked for records: content is the sender's to choose.
                match record::length_at(records, at) {
                    Some(length) => at += length as usize,
                    None => break,
                }
            }
        }
        Ok(walked)
    }

    fn unusable(
        &mut self,
        unusable: Unusable,
        segment: u32,
        offset: u32,
        length: u32,
    ) -> Result<(), Refusal> {
        let cause = match unusable {
            Unusable::Newer(version) => {
                let known = record::VERSION;
                let what = format!(
                    "a record of version {version} at byte {offset}, and this relay knows up to \
                     {known}"
                );
                return Err(Refusal::Newer { segment, what });
            }
            Unusable::UnknownFlags(flags) => {
                let what = format!(
                    "a record at byte {offset} with flags {flags:#x} that this relay does not know"
                );
                return Err(Refusal::Newer { segment, what });
            }
            Unusable::UnknownOption(tag) => {
                let what = format!(
                    "a message at byte {offset} with option {tag}, which this relay does not know"
                );
                return Err(Refusal::Newer { segment, what });
            }
            Unusable::UnknownKind(kind) => format!("a record of unknown kind {kind}"),
            Unusable::Malformed => "a record that contradicts itself".to_owned(),
        };
        self.set_aside.push(SetAside { segment, offset, length, cause });
        Ok(())
    }

    fn read<R: Read + Seek>(
        &mut self,
        segment: u32,
        offset: u32,
        length: u32,
        source: &mut R,
    ) -> Result<(), Refusal> {
        self.buffer.clear();
        self.bytes_read += u64::from(length);
        source
            .seek(SeekFrom::Start(u64::from(offset)))
            .and_then(|_| source.by_ref().take(u64::from(length)).read_to_end(&mut self.buffer))
            .map(drop)
            .map_err(|error| Refusal::Io { segment, error })
    }
}

/// Bytes read at once when looking for the next batch.
const SEARCH: u32 = 256 * BLOCK;

fn claimed_length(head: &[u8]) -> Option<u32> {
    let length = crate::message::field::Fields::new(head).u32()?;
    (length as usize >= record::HEADER).then_some(length)
}

/// What walking a batch's records came to.
#[derive(Debug, Default)]
struct Walked {
    count: u32,
    records_crc: u32,
    damaged_at: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_total_and_its_rows_are_disjoint() {
        for found in [Found::Whole, Found::Damaged, Found::Lost, Found::Nothing] {
            for followed in [false, true] {
                for marked in [false, true] {
                    let rows = TABLE.iter().filter(|row| row.matches(found, followed, marked));
                    assert_eq!(rows.count(), 1, "{found:?} followed {followed} marked {marked}");
                }
            }
        }
    }

    #[test]
    fn only_a_tail_is_ever_cut() {
        assert_eq!(decide(Found::Damaged, false, false), Decision::Cut);
        assert_eq!(decide(Found::Damaged, true, false), Decision::SetAside);
        assert_eq!(decide(Found::Lost, true, false), Decision::SetAside);
        assert_eq!(decide(Found::Damaged, true, true), Decision::KnownCut);
    }
}
