//! The index of a sealed segment: what a start needs of its records, in the last blocks of the
//! file. *Pure.*
//!
//! ```text
//! ... | last batch | unwritten | 64 zeros | group | group | ... | zeros | footer |
//!                                ^ a block begins                        the file ends ^
//! ```
//!
//! A group is a batch: {offset u32, records u32}, then the `entry` of each record, in order. The
//! footer tells where all that is, and its checksums are salted with the segment's number: what a
//! recycled file had there before passes for nothing. An index that is missing, torn or damaged
//! costs the time to read the segment, and nothing else.

use super::entry::Entry;
use super::segment::{BATCH_HEADER, BLOCK, checksum, padded};
use crate::message::field::Fields;

/// A scan that goes on behind the last batch finds no record in an index that begins so.
const LEAD: usize = 64;
const FOOTER: usize = 64;
const MAGIC: [u8; 8] = *b"RINGIDX\n";
/// The version that is written, and the only one that is used.
const VERSION: u16 = 4;
/// An index takes one part in this many of its segment at most, and so much memory while the
/// segment fills. One that would take more saves too little, and is given up.
const PARTS: u32 = 4;

/// The index of the segment that is written, as it grows.
#[derive(Debug)]
pub(super) struct Growing {
    segment: u32,
    segment_bytes: u32,
    bytes: Vec<u8>,
    batches: u32,
    records: u32,
    first_sequence: u64,
    end: u32,
}

/// The end of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    /// Of the index's first block, in the file.
    pub(super) begins: u32,
    /// Of lead and groups, in bytes.
    pub(super) length: u32,
    crc: u32,
    pub(super) batches: u32,
    pub(super) records: u32,
    /// Of the first batch. The others follow one by one.
    pub(super) first_sequence: u64,
    /// Where the last batch ends.
    pub(super) end: u32,
}

impl Growing {
    pub(super) fn new(segment: u32, segment_bytes: u32) -> Growing {
        Growing {
            segment,
            segment_bytes,
            bytes: vec![0; LEAD],
            batches: 0,
            records: 0,
            first_sequence: 0,
            end: BLOCK,
        }
    }

    /// Bytes on the disk that it needs with `more` bytes of entries; `None` when it is not worth
    /// it.
    pub(super) fn room(&self, more: usize) -> Option<u32> {
        let bytes = u32::try_from(self.bytes.len() + 8 + more + FOOTER).ok()?;
        Some(padded(bytes)).filter(|&room| room <= self.segment_bytes / PARTS)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches == 0
    }

    /// A batch that ends at `end` has these entries.
    pub(super) fn batch(
        &mut self,
        sequence: u64,
        offset: u32,
        end: u32,
        records: u32,
        entries: &[u8],
    ) {
        if self.batches == 0 {
            self.first_sequence = sequence;
        }
        self.bytes.extend_from_slice(&offset.to_le_bytes());
        self.bytes.extend_from_slice(&records.to_le_bytes());
        self.bytes.extend_from_slice(entries);
        self.batches += 1;
        self.records += records;
        self.end = end;
    }

    /// Where it goes, and all of it in whole blocks. `None` when there is nothing to say, or no
    /// space behind the last batch.
    pub(super) fn finish(mut self) -> Option<(u32, Vec<u8>)> {
        let room = self.room(0)?;
        let begins = self.segment_bytes.checked_sub(room)?;
        if self.batches == 0 || begins < self.end {
            return None;
        }
        let footer = self.footer(begins)?.encode(self.segment, self.segment_bytes);
        self.bytes.resize(room as usize - FOOTER, 0);
        self.bytes.extend_from_slice(&footer);
        Some((begins, self.bytes))
    }

    /// Lead and groups: for comparison.
    pub(super) fn said(&self) -> &[u8] {
        &self.bytes
    }

    fn footer(&self, begins: u32) -> Option<Footer> {
        Some(Footer {
            begins,
            length: u32::try_from(self.bytes.len()).ok()?,
            crc: checksum(self.segment, begins, &[&self.bytes]),
            batches: self.batches,
            records: self.records,
            first_sequence: self.first_sequence,
            end: self.end,
        })
    }
}

impl Footer {
    /// The last bytes of a segment of `segment_bytes`.
    fn encode(&self, segment: u32, segment_bytes: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FOOTER);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        // Reserved.
        bytes.extend_from_slice(&[0; 6]);
        for word in [segment, self.begins, self.length, self.records, self.crc, self.batches] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&self.first_sequence.to_le_bytes());
        bytes.extend_from_slice(&self.last_sequence().to_le_bytes());
        bytes.extend_from_slice(&self.end.to_le_bytes());
        let crc = checksum(segment, segment_bytes, &[&bytes]);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the last block of a segment of `segment_bytes`; `None` when there is no index of this
    /// segment that this version knows.
    pub(super) fn read(block: &[u8], segment: u32, segment_bytes: u32) -> Option<Footer> {
        let bytes = block.get(block.len().checked_sub(FOOTER)?..)?;
        let mut fields = Fields::new(bytes);
        let magic = fields.u64()?.to_le_bytes();
        let (version, _reserved) = (fields.u16()?, (fields.u16()?, fields.u32()?));
        let (named, begins, length) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (records, crc, batches) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (first_sequence, last_sequence) = (fields.u64()?, fields.u64()?);
        let end = fields.u32()?;
        let own_crc = fields.u32()?;
        let footer = Footer { begins, length, crc, batches, records, first_sequence, end };
        let last = segment_bytes.checked_sub(FOOTER as u32)?;
        let sound = magic == MAGIC
            && version == VERSION
            && named == segment
            && own_crc == checksum(segment, segment_bytes, &[bytes.get(..FOOTER - 4)?])
            && batches > 0
            && last_sequence == footer.last_sequence()
            && begins >= end
            && begins.checked_add(length)? <= last;
        sound.then_some(footer)
    }

    /// Of the last batch.
    pub(super) fn last_sequence(&self) -> u64 {
        self.first_sequence.saturating_add(u64::from(self.batches)).saturating_sub(1)
    }

    /// Hands over each entry of lead and groups `bytes`, with the record's place in the segment.
    /// `None` at the first field that is not valid.
    pub(super) fn each<'a>(
        &self,
        bytes: &'a [u8],
        mut take: impl FnMut(u32, Entry<'a>),
    ) -> Option<()> {
        let mut fields = Fields::new(bytes.get(LEAD..)?);
        let (mut end, mut records) = (BLOCK, 0_u32);
        for _ in 0..self.batches {
            let (offset, count) = (fields.u32()?, fields.u32()?);
            let mut at = offset.checked_add(BATCH_HEADER as u32).filter(|_| offset == end)?;
            for _ in 0..count {
                let entry = Entry::read(&mut fields)?;
                let next = at.checked_add(entry.length)?;
                take(at, entry);
                at = next;
            }
            records = records.checked_add(count)?;
            end = padded(at);
        }
        (fields.is_empty() && records == self.records && end == self.end).then_some(())
    }

    /// Whether lead and groups `bytes` of `segment` are as they were written.
    pub(super) fn passes(&self, bytes: &[u8], segment: u32) -> bool {
        bytes.len() == self.length as usize
            && checksum(segment, self.begins, &[bytes]) == self.crc
            && self.each(bytes, |_, _| {}).is_some()
    }
}

#[cfg(test)]
mod tests;
