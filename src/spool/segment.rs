//! The frame around records: a segment's header block, a batch's header, the salted checksum and
//! the files' names. *Pure*; knows nothing of what records mean.
//!
//! ```text
//! 0        4096                      next multiple of 4096
//! | header | batch | records ... | 0 | batch | records ... | 0 | unwritten | index |
//! ```
//!
//! What is unwritten is of a former life, or zeros; `index` says how the last part lies.
//! No block is written twice in one life of a segment, so a torn write cannot reach what an earlier
//! commit made durable. Every checksum is salted with the segment's number and the place in it:
//! bytes of a file's former life, or bytes moved, do not pass.

use crate::message::field::Fields;
use crate::message::{QueueId, Timestamp};
use std::path::{Path, PathBuf};

/// Segments and batches begin at multiples of this, in bytes: what a disk or the page cache writes
/// as one is never shared by two commits.
pub(super) const BLOCK: u32 = 4096;
/// Bytes of a batch header.
pub(super) const BATCH_HEADER: usize = 40;
/// The format that this version writes, and the newest that it reads.
pub(super) const FORMAT: u16 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"RINGSEG\n";
const BATCH_MAGIC: [u8; 4] = *b"RBAT";
const SEGMENT_HEADER: usize = 56;

/// `length` and the padding up to the next block.
pub(super) fn padded(length: u32) -> u32 {
    length.saturating_add(BLOCK - 1) / BLOCK * BLOCK
}

/// CRC-32C of `parts`, salted with where they are.
pub(super) fn checksum(segment: u32, offset: u32, parts: &[&[u8]]) -> u32 {
    let salt = u64::from(segment) << 32 | u64::from(offset);
    parts
        .iter()
        .fold(crc32c::crc32c(&salt.to_le_bytes()), |crc, part| crc32c::crc32c_append(crc, part))
}

/// The first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The spool that wrote it.
    pub(super) spool_number: u16,
    /// This segment's number.
    pub(super) segment: u32,
    pub(super) created: Timestamp,
    /// The highest id given out before, so that no id is given twice even when every record that
    /// bears it is gone and the clock went back.
    pub(super) highest_id: QueueId,
    /// Where a torn commit was cut when the spool was last opened: damage that begins there is
    /// known. Zero segment: nowhere.
    pub(super) cut: (u32, u32),
    /// Where its index ends, if it gets one; the file may be longer. Zero in segments of relays
    /// that wrote no index.
    pub(super) segment_bytes: u32,
}

/// What the first block of a segment file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstBlock {
    /// The header of this segment.
    Current(SegmentHeader),
    /// Written by a version that we do not know.
    Newer(u16),
    /// The intact header of an earlier segment: the file was to be used again and was not yet,
    /// since a header is on the disk before the first batch is written.
    Former,
    /// Zeros.
    Blank,
    /// Anything else, which no relay writes: batches are judged by their own checksums.
    Damaged,
}

impl SegmentHeader {
    /// One whole block.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK as usize);
        block.extend_from_slice(&SEGMENT_MAGIC);
        block.extend_from_slice(&FORMAT.to_le_bytes());
        block.extend_from_slice(&self.spool_number.to_le_bytes());
        block.extend_from_slice(&u64::from(self.segment).to_le_bytes());
        block.extend_from_slice(&self.created.0.to_le_bytes());
        block.extend_from_slice(&self.highest_id.0.to_le_bytes());
        block.extend_from_slice(&self.cut.0.to_le_bytes());
        block.extend_from_slice(&self.cut.1.to_le_bytes());
        block.extend_from_slice(&self.segment_bytes.to_le_bytes());
        // Reserved, to keep the checksum's place.
        block.resize(SEGMENT_HEADER - 4, 0);
        let crc = checksum(self.segment, 0, &[&block]);
        block.extend_from_slice(&crc.to_le_bytes());
        block.resize(BLOCK as usize, 0);
        block
    }

    /// Reads the first block of the file that is named segment `segment`.
    pub(super) fn read(block: &[u8], segment: u32) -> FirstBlock {
        let covered = block.get(..SEGMENT_HEADER - 4).unwrap_or_default();
        let mut fields = Fields::new(block.get(..SEGMENT_HEADER).unwrap_or_default());
        let header = (|| {
            let magic = fields.u64()?.to_le_bytes();
            let format = fields.u16()?;
            let spool_number = fields.u16()?;
            let named = fields.u64()?;
            let created = Timestamp(fields.u64()?);
            let highest_id = QueueId(fields.u64()?);
            let cut = (fields.u32()?, fields.u32()?);
            let segment_bytes = fields.u32()?;
            let _reserved = fields.u32()?;
            let crc = fields.u32()?;
            let own = u32::try_from(named).ok()?;
            let valid = magic == SEGMENT_MAGIC && crc == checksum(own, 0, &[covered]);
            let header =
                SegmentHeader { spool_number, segment, created, highest_id, cut, segment_bytes };
            valid.then_some((format, named, header))
        })();
        match header {
            Some((_, named, _)) if named < u64::from(segment) => FirstBlock::Former,
            // Numbers only rise: the file was copied or renamed.
            Some((_, named, _)) if named > u64::from(segment) => FirstBlock::Damaged,
            Some((format, ..)) if format > FORMAT => FirstBlock::Newer(format),
            Some((_, _, header)) => FirstBlock::Current(header),
            None if block.iter().all(|&byte| byte == 0) => FirstBlock::Blank,
            None => FirstBlock::Damaged,
        }
    }
}

/// The head of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    /// Rises by one from batch to batch over the spool's life.
    pub(super) sequence: u64,
    /// Bytes of records behind the header.
    pub(super) length: u32,
    /// Records.
    pub(super) count: u32,
    /// Over the headers of the records (each of which has a checksum of its own payload): a batch
    /// is whole when every record is, and none was exchanged.
    pub(super) records_crc: u32,
}

impl BatchHeader {
    /// The header of the batch at `offset` of `segment`.
    pub(super) fn encode(&self, segment: u32, offset: u32) -> [u8; BATCH_HEADER] {
        let mut bytes = [0; BATCH_HEADER];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + field.len()) {
                place.copy_from_slice(field);
            }
            at += field.len();
        };
        put(&BATCH_MAGIC);
        put(&u64::from(segment).to_le_bytes());
        put(&self.sequence.to_le_bytes());
        put(&self.length.to_le_bytes());
        put(&self.count.to_le_bytes());
        put(&self.records_crc.to_le_bytes());
        // Four bytes reserved.
        let crc = checksum(segment, offset, &[&bytes[..BATCH_HEADER - 4]]);
        bytes[BATCH_HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header at `offset` of `segment`; `None` when no batch of this life begins there.
    pub(super) fn read(bytes: &[u8], segment: u32, offset: u32) -> Option<BatchHeader> {
        let covered = bytes.get(..BATCH_HEADER - 4)?;
        let mut fields = Fields::new(bytes);
        let magic = fields.u32()?.to_le_bytes();
        let named = fields.u64()?;
        let header = BatchHeader {
            sequence: fields.u64()?,
            length: fields.u32()?,
            count: fields.u32()?,
            records_crc: fields.u32()?,
        };
        let _reserved = fields.u32()?;
        let crc = fields.u32()?;
        let valid = magic == BATCH_MAGIC
            && named == u64::from(segment)
            && crc == checksum(segment, offset, &[covered]);
        valid.then_some(header)
    }

    /// Whether the bytes at the place of a batch header were meant to be one of `segment`: torn or
    /// damaged rather than never written.
    pub(super) fn resembles(bytes: &[u8], segment: u32) -> bool {
        let mut fields = Fields::new(bytes);
        fields.u32().is_some_and(|magic| magic.to_le_bytes() == BATCH_MAGIC)
            && fields.u64() == Some(u64::from(segment))
    }
}

/// The file of segment `segment` in `folder`: `00000001.seg`.
pub(super) fn path(folder: &Path, segment: u32) -> PathBuf {
    folder.join(format!("{segment:08}.seg"))
}

/// The number in a segment file's name; `None` for any other file.
pub(super) fn number(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?.strip_suffix(".seg")?;
    let plain = name.len() >= 8 && name.bytes().all(|byte| byte.is_ascii_digit());
    if plain { name.parse().ok().filter(|&number| number > 0) } else { None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn headers_read_back_and_only_in_their_own_place() {
        let header = SegmentHeader {
            spool_number: 3,
            segment: 7,
            created: Timestamp(5),
            highest_id: QueueId(9),
            cut: (6, 8192),
            segment_bytes: 65536,
        };
        let block = header.encode();
        assert_eq!(block.len(), BLOCK as usize);
        assert_eq!(SegmentHeader::read(&block, 7), FirstBlock::Current(header));
        assert_eq!(SegmentHeader::read(&block, 8), FirstBlock::Former, "a recycled file");
        assert_eq!(SegmentHeader::read(&block, 6), FirstBlock::Damaged, "numbers only rise");
        assert_eq!(SegmentHeader::read(&[0; BLOCK as usize], 6), FirstBlock::Blank);
        assert_eq!(SegmentHeader::read(&[], 6), FirstBlock::Blank);
        assert_eq!(SegmentHeader::read(&[1], 6), FirstBlock::Damaged);

        let batch = BatchHeader { sequence: 1, length: 100, count: 2, records_crc: 4 };
        let bytes = batch.encode(7, 4096);
        assert_eq!(BatchHeader::read(&bytes, 7, 4096), Some(batch));
        assert_eq!(BatchHeader::read(&bytes, 7, 8192), None);
        assert_eq!(BatchHeader::read(&bytes, 6, 4096), None);
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let header = SegmentHeader {
            spool_number: 0,
            segment: 1,
            created: Timestamp(0),
            highest_id: QueueId(0),
            cut: (0, 0),
            segment_bytes: 0,
        };
        let mut block = header.encode();
        block[8] = 2;
        assert_eq!(SegmentHeader::read(&block, 1), FirstBlock::Damaged);
        let crc = checksum(1, 0, &[&block[..SEGMENT_HEADER - 4]]);
        block[SEGMENT_HEADER - 4..SEGMENT_HEADER].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::read(&block, 1), FirstBlock::Newer(2));
    }

    #[test]
    fn only_segment_names_are_segments() {
        assert_eq!(number(&path(Path::new("/spool"), 42)), Some(42));
        for other in ["lock", "00000001.bad", "1.seg", "0000000x.seg", "00000000.seg"] {
            assert_eq!(number(Path::new(other)), None, "{other}");
        }
    }
}
