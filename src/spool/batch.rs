//! What waits for the next commit. *Pure*: it collects records, and [`Batch::seal`] makes of them
//! the bytes of one commit.
//!
//! Mail (message and chunk records) goes first, then what became of recipients, then the deliveries
//! begun and still open: a fold of the records in that order is right for each recipient.

use super::entry;
use super::live::Live;
use super::record;
use super::segment::{BATCH_HEADER, BatchHeader, padded};
use crate::message::field::word;
use crate::message::{Message, QueueId, RecipientStatus};
use std::collections::{HashSet, VecDeque};

/// Outcomes kept in memory while the disk has no space, in bytes. At the bound, outcomes that only
/// say "later" are dropped (after a crash such a recipient is tried earlier); endings are kept:
/// each is 25 bytes, and there is one for each recipient on the disk at most.
pub(super) const OUTCOME_BYTES_MAX: usize = 64 << 20;

/// What a mail record is written for. While the disk fills, the first finds space no more when the
/// others still do, and so on: what frees space comes last (see `Log::takes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// Mail that a client sends.
    Mail,
    /// A report that this relay makes: without it failed mail cannot end.
    Report,
    /// Live mail that moves out of an old segment: without it that cannot be used again.
    Move,
}

/// Where an appended mail record will be: bytes behind the start of its batch, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// Records that wait for the next commit.
#[derive(Debug)]
pub(super) struct Batch {
    /// Space for the batch header, then mail records.
    mail: Vec<u8>,
    /// The mail records that are needed: what will live in the segment.
    alive: Vec<Slot>,
    /// The first of what they are for.
    purpose: Option<Purpose>,
    /// What the segment's index will say of the mail; `None` when it cannot.
    entries: Option<Vec<u8>>,
    /// Where the last of them begins.
    last_entry: usize,
    /// Settled records, one after the other; older ones may be left for a later batch.
    outcomes: VecDeque<u8>,
    /// Deliveries begun, not written, not settled since.
    begun: HashSet<(QueueId, u32)>,
    /// A buffer that a commit gave back.
    reusable: Vec<u8>,
    scratch: Vec<u8>,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch {
            mail: Vec::new(),
            alive: Vec::new(),
            purpose: None,
            entries: Some(Vec::new()),
            last_entry: 0,
            outcomes: VecDeque::new(),
            begun: HashSet::new(),
            reusable: Vec::new(),
            scratch: Vec::new(),
        }
    }
}

/// A sealed batch.
#[derive(Debug)]
pub(super) struct Sealed {
    /// All of it, padded to whole blocks.
    pub(super) bytes: Vec<u8>,
    /// Mail records in it that are needed, and their bytes.
    pub(super) alive: Live,
    /// Records in it.
    pub(super) count: u32,
    /// What an index says of them; `None` when it cannot.
    pub(super) entries: Option<Vec<u8>>,
}

impl Batch {
    /// Appends a message.
    pub(super) fn message(&mut self, message: &Message, so_far: &record::PriorStatus) -> Slot {
        let offset = self.mail_room();
        let length = record::put_message(&mut self.mail, message, so_far);
        self.appended(Slot { offset, length })
    }

    /// Appends a piece of streamed content.
    pub(super) fn chunk(&mut self, draft: QueueId, index: u32, content: &[u8]) -> Slot {
        let offset = self.mail_room();
        let length = record::put_chunk(&mut self.mail, draft, index, content);
        self.appended(Slot { offset, length })
    }

    /// What is appended next is for this.
    pub(super) fn set_purpose(&mut self, purpose: Purpose) {
        self.purpose = Some(self.purpose.map_or(purpose, |first| first.min(purpose)));
    }

    /// What the mail is for: of several purposes, the one that finds the least space.
    pub(super) fn purpose(&self) -> Purpose {
        self.purpose.unwrap_or(Purpose::Mail)
    }

    /// Takes back the record that was appended last.
    pub(super) fn undo(&mut self, slot: Slot) {
        self.alive.pop();
        self.mail.truncate(slot.offset as usize);
        if let Some(entries) = &mut self.entries {
            entries.truncate(self.last_entry);
        }
        if self.alive.is_empty() {
            self.mail.clear();
        }
    }

    /// Notes that deliveries begin.
    pub(super) fn begin(&mut self, id: QueueId, recipients: &[u32]) {
        self.begun.extend(recipients.iter().map(|&recipient| (id, recipient)));
    }

    /// Notes what became of a recipient; false when there was no space to note a mere "later".
    pub(super) fn settle(&mut self, id: QueueId, recipient: u32, status: &RecipientStatus) -> bool {
        self.begun.remove(&(id, recipient));
        let full = self.outcomes.len() >= OUTCOME_BYTES_MAX;
        if full && matches!(status, RecipientStatus::Waiting { .. }) {
            return false;
        }
        self.scratch.clear();
        record::put_settled(&mut self.scratch, id, recipient, status);
        self.outcomes.extend(&self.scratch);
        true
    }

    /// The record is not needed that waits in `slot`: its bytes will be dead.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.alive.retain(|other| *other != slot);
    }

    /// Drops the mail; outcomes stay.
    pub(super) fn drop_mail(&mut self) {
        self.mail.clear();
        self.alive.clear();
        self.purpose = None;
        self.entries = Some(Vec::new());
    }

    /// Drops everything.
    pub(super) fn drop_all(&mut self) {
        self.drop_mail();
        self.outcomes = VecDeque::new();
        self.begun = HashSet::new();
    }

    /// Bytes of mail that wait.
    pub(super) fn mail_bytes(&self) -> usize {
        self.mail.len()
    }

    /// Bytes of outcomes that wait.
    pub(super) fn outcome_bytes(&self) -> usize {
        self.outcomes.len()
    }

    pub(super) fn has_mail(&self) -> bool {
        !self.mail.is_empty()
    }

    pub(super) fn has_outcomes(&self) -> bool {
        !self.outcomes.is_empty() || !self.begun.is_empty()
    }

    /// Bytes on disk that the next batch needs at most, with outcomes of `outcome_bytes_max`.
    pub(super) fn sealed_bytes(&self, outcome_bytes_max: usize) -> u32 {
        let outcomes = self.outcomes.len().min(outcome_bytes_max);
        // A begun record alone for each recipient: header, count, index.
        let begun = (self.begun.len() * (record::HEADER + 8)).min(outcome_bytes_max);
        let bytes = BATCH_HEADER.max(self.mail.len()) + outcomes + begun;
        padded(word(bytes))
    }

    /// Bytes that an index needs at most for the entries of the next batch; `None` when it cannot
    /// have them. No entry of an outcome is longer than its record.
    pub(super) fn entry_bytes(&self, outcome_bytes_max: usize) -> Option<usize> {
        let others = self.outcomes.len() + self.begun.len() * (record::HEADER + 8);
        Some(self.entries.as_ref()?.len() + others.min(2 * outcome_bytes_max))
    }

    /// Takes what waits as batch `sequence`, to be written at `offset` of `segment`. Of outcomes it
    /// takes whole records up to `outcome_bytes_max`; deliveries begun only if no outcome is left
    /// behind, since an outcome left behind would seem to end them.
    pub(super) fn seal(
        &mut self,
        segment: u32,
        offset: u32,
        sequence: u64,
        outcome_bytes_max: usize,
    ) -> Sealed {
        self.mail_room();
        let reusable = std::mem::take(&mut self.reusable);
        let mut bytes = std::mem::replace(&mut self.mail, reusable);
        let mut alive = Live::default();
        self.alive.drain(..).for_each(|slot| alive.add(1, slot.length));
        self.purpose = None;
        let mut entries = self.entries.replace(Vec::new());
        let mail_end = bytes.len();
        self.take_outcomes(&mut bytes, outcome_bytes_max);
        if self.outcomes.is_empty() {
            self.take_begun(&mut bytes, outcome_bytes_max);
        }
        if let Some(known) = &mut entries
            && entries_of(known, &bytes[mail_end..]).is_none()
        {
            entries = None;
        }
        let records = &mut bytes[BATCH_HEADER..];
        let first = offset.saturating_add(BATCH_HEADER as u32);
        let length = word(records.len());
        let (count, records_crc) = record::seal(records, segment, first);
        let header = BatchHeader { sequence, length, count, records_crc }.encode(segment, offset);
        bytes[..BATCH_HEADER].copy_from_slice(&header);
        let whole = padded(word(bytes.len()));
        bytes.resize(whole as usize, 0);
        Sealed { bytes, alive, count, entries }
    }

    /// Takes back the buffer of a commit, to be filled again.
    pub(super) fn give_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.reusable = buffer;
    }

    /// A mail record has been appended.
    fn appended(&mut self, slot: Slot) -> Slot {
        self.alive.push(slot);
        if let Some(entries) = &mut self.entries {
            self.last_entry = entries.len();
            if entry::put(entries, &self.mail[slot.offset as usize..]).is_none() {
                self.entries = None;
            }
        }
        slot
    }

    /// Where the next mail record begins; leaves space for the header first.
    fn mail_room(&mut self) -> u32 {
        if self.mail.is_empty() {
            self.mail.resize(BATCH_HEADER, 0);
        }
        word(self.mail.len())
    }

    fn take_outcomes(&mut self, bytes: &mut Vec<u8>, outcome_bytes_max: usize) {
        let all = self.outcomes.make_contiguous();
        let mut end = 0;
        while let Some(length) = record::length_at(all, end) {
            if end + length as usize > outcome_bytes_max {
                break;
            }
            end += length as usize;
        }
        bytes.extend_from_slice(&all[..end]);
        self.outcomes.drain(..end);
    }

    fn take_begun(&mut self, bytes: &mut Vec<u8>, outcome_bytes_max: usize) {
        let fits = outcome_bytes_max / (record::HEADER + 8);
        let mut open: Vec<(QueueId, u32)> = self.begun.iter().copied().take(fits).collect();
        for delivery in &open {
            self.begun.remove(delivery);
        }
        open.sort_unstable();
        let mut recipients = Vec::new();
        for of_one in open.chunk_by(|one, other| one.0 == other.0) {
            recipients.clear();
            recipients.extend(of_one.iter().map(|&(_, recipient)| recipient));
            if let Some(&(id, _)) = of_one.first() {
                record::put_begun(bytes, id, &recipients);
            }
        }
    }
}

/// Appends the entries of `records` that follow one another.
fn entries_of(entries: &mut Vec<u8>, records: &[u8]) -> Option<()> {
    let mut at = 0;
    while let Some(length) = record::length_at(records, at) {
        entry::put(entries, records.get(at..)?)?;
        at += length as usize;
    }
    Some(())
}
