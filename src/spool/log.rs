//! Where the next commit goes, which segments hold live mail, and which may be used again. *Pure*:
//! it says what to do ([`Step`], [`MaintenanceTask`]) and gets the result; the committer does it on
//! the disk, a test on a model of one.
//!
//! Order of operations, so that power may fail at any line:
//! 1. a spare segment is made: reserved, its (new, never used) number durable in the folder; then
//!    its blocks are written once with zeros, a piece at a time, unless mail needs it before;
//! 2. it becomes the head: its header is written and synced;
//! 3. batches are written and synced one at a time, each into blocks never written in this life;
//! 4. when it is full, its index goes into its last blocks, beside the commits of the next head;
//! 5. the oldest segment without live mail is renamed to the next number, and the name is durable
//!    before anything else is renamed, removed or written there; back at 2 as a spare.
//!
//! Only the oldest may go: a later segment may hold outcomes of mail in an earlier one. Under the
//! new number no checksum of the former life passes, so an unwritten rest is never taken for mail.

use super::batch::{Batch, Purpose, Sealed};
use super::index::Growing;
use super::live::{Live, LiveRef};
use super::manifest::Manifest;
use super::segment::{BLOCK, SegmentHeader};
use crate::message::{QueueId, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::io;

#[cfg(test)]
mod tests;

/// Spare segments: made before they are needed, and kept of those without live mail; the rest are
/// removed. When no more can be had, they are the reserve for what frees space: see [`Log::takes`].
const SPARES: usize = 4;
/// Of these the last so many are not used for reports: with less, live mail could not move out of a
/// segment that is full of it.
const SPARES_TO_MOVE: usize = 2;
/// Segments may take this many times the bytes of live mail,
const FACTOR: u64 = 2;
/// and so many segments more, before the oldest is cleaned: the head, and what traffic that flows
/// well fills and empties by itself.
const SLACK: u64 = 4;
/// While there is no spare segment, mail leaves one part in this many of the head to outcomes; on a
/// full disk mail that clients send leaves it to reports.
const RESERVE_PARTS: u32 = 4;
/// Mail that moves may take one part in this many more than before: its recipients' statuses go
/// with it, and commits are padded.
const MOVE_MARGIN_PARTS: u64 = 8;

/// What the committer does next.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing waits.
    Idle,
    /// Write these bytes there and sync, then call [`Log::written`]; an index beside all else, then
    /// call [`Log::indexed`].
    Write(Write),
    /// A spare segment is being made, or a piece of it written; ask again when that is done.
    Wait,
    /// No space for the mail that waits: refuse it, then ask again.
    Full,
    /// No space even for outcomes: they wait in memory; ask again after a task or a while.
    Stuck,
}

/// One write with its sync.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) bytes: Vec<u8>,
    /// A batch: its waiters are answered with its result.
    pub(super) is_batch: bool,
    /// The index of a segment that takes no more batches: no caller waits for it, and nothing is
    /// lost when it cannot be written. If neither, a segment's header.
    pub(super) is_index: bool,
}

/// Something to do to the folder, beside the commits; one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MaintenanceTask {
    /// Make a new segment file, its name durable.
    Create { segment: u32 },
    /// Rename a file and make the name durable.
    Recycle { from: u32, to: u32 },
    /// Remove a file and make that durable.
    Delete { segment: u32 },
    /// Write zeros where a spare was never written, until [`Log::is_waited_for`].
    Fill { segment: u32 },
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MaintenanceEnd {
    Done,
    /// The old file is gone, and no spare came of it.
    Gone,
    /// No space on the disk, or another error, which is treated the same: tried again later.
    Failed(io::ErrorKind),
}

/// What recovery found, for the log to go on from.
#[derive(Debug, Default)]
pub(super) struct Resume {
    /// Segments with batches, and the live mail in each.
    pub(super) segments: BTreeMap<u32, Live>,
    /// Segment files without any batch.
    pub(super) blank: Vec<u32>,
    /// Higher than every segment file's.
    pub(super) next_segment: u32,
    /// Higher than every batch's.
    pub(super) next_batch: u64,
    /// Where the tail was cut, if it was.
    pub(super) cut: (u32, u32),
    /// The highest id of this spool's own, seen anywhere.
    pub(super) highest_id: Option<QueueId>,
}

/// A segment that may become the head.
#[derive(Clone, Copy, Debug)]
struct Spare {
    segment: u32,
    /// Every block was written once (or there was no time for that): a commit there changes no
    /// metadata that its sync would have to wait for. See `benches/commit_methods.rs`.
    filled: bool,
}

/// The state of the segment files.
#[derive(Debug)]
pub(super) struct Log {
    spool_number: u16,
    segment_bytes: u32,
    outcome_bytes_max: usize,
    /// The segment that is written, and the end of what is written in it. None before the first.
    head: Option<(u32, u32)>,
    header_due: bool,
    spares: VecDeque<Spare>,
    /// The committer can do nothing until a task ends.
    waited_for: bool,
    /// Of the head; `None` when it gets none.
    index: Option<Growing>,
    /// The segment whose index is being written.
    indexing: Option<u32>,
    segments: BTreeMap<u32, Live>,
    blank: Vec<u32>,
    next_segment: u32,
    next_batch: u64,
    cut: (u32, u32),
    task: Option<MaintenanceTask>,
    no_room: bool,
    /// Why the last attempt to have one more segment failed.
    no_room_kind: io::ErrorKind,
    /// The last attempt to have one more segment failed, and there are fewer than [`SPARES`] since.
    is_short: bool,
}

impl Log {
    pub(super) fn new(spool_number: u16, segment_bytes: u32, resume: Resume) -> Log {
        Log {
            spool_number,
            segment_bytes,
            outcome_bytes_max: (segment_bytes / 8).min(8 << 20) as usize,
            head: None,
            header_due: false,
            index: None,
            indexing: None,
            spares: VecDeque::new(),
            waited_for: false,
            segments: resume.segments,
            blank: resume.blank,
            next_segment: resume.next_segment.max(1),
            next_batch: resume.next_batch.max(1),
            cut: resume.cut,
            task: None,
            no_room: false,
            no_room_kind: io::ErrorKind::StorageFull,
            is_short: false,
        }
    }

    /// Mail of this many bytes in one batch is enough: its writer waits for the next.
    pub(super) fn mail_bytes_max(&self) -> usize {
        self.outcome_bytes_max
    }

    /// The longest record that a segment can hold for certain, in bytes.
    pub(super) fn record_bytes_max(&self) -> usize {
        (self.segment_bytes / 4) as usize
    }

    /// Takes what waits in `batch` and says where it goes. `highest_id` is the highest given out.
    pub(super) fn step(&mut self, batch: &mut Batch, now: Timestamp, highest_id: QueueId) -> Step {
        if !batch.has_mail() && !batch.has_outcomes() {
            return Step::Idle;
        }
        let length = batch.sealed_bytes(self.outcome_bytes_max);
        let limit = if batch.has_mail() && self.spares.is_empty() {
            self.segment_bytes - self.segment_bytes / RESERVE_PARTS
        } else {
            self.segment_bytes
        };
        if let Some((segment, end)) = self.head.filter(|_| !self.header_due)
            && length <= limit.saturating_sub(end)
            && self.leaves_index_room(batch, end.saturating_add(length))
        {
            return Step::Write(self.batch(batch, segment, end));
        }
        let needed = match batch.has_mail() {
            true => self.spares_needed(batch.purpose()),
            false => 1,
        };
        let spare = self.spares.front().filter(|_| self.spares.len() >= needed);
        let Some(&Spare { segment, .. }) = spare else {
            self.waited_for = !self.no_room;
            return match (self.no_room, batch.has_mail()) {
                (false, _) => Step::Wait,
                (true, true) => Step::Full,
                (true, false) => Step::Stuck,
            };
        };
        // Not another one, which may be free: heads rise in number.
        if self.task == Some(MaintenanceTask::Fill { segment }) {
            self.waited_for = true;
            return Step::Wait;
        }
        if let Some(index) = self.seal() {
            return Step::Write(index);
        }
        self.spares.pop_front();
        self.waited_for = false;
        self.head = Some((segment, BLOCK));
        self.index = Some(Growing::new(segment, self.segment_bytes));
        self.segments.entry(segment).or_default();
        Step::Write(self.header(segment, now, highest_id))
    }

    /// Spare segments without which a batch of such mail does not begin the next segment.
    fn spares_needed(&self, purpose: Purpose) -> usize {
        let needed = match purpose {
            _ if !self.is_short => SPARES,
            Purpose::Mail => SPARES,
            Purpose::Report => SPARES_TO_MOVE + 1,
            Purpose::Move => 1,
        };
        // With nothing alive, the head can be used again as soon as another one takes its place.
        let gives_back = self.is_short && self.segments.values().all(|live| live.records == 0);
        (needed - usize::from(gives_back)).max(1)
    }

    /// Whether so many bytes of mail, all that waits included, may be written. When no more
    /// segments can be had, what frees space goes on for longer than what takes it, or a full disk
    /// would stay full:
    ///
    /// | | begins a segment while there are | fills the head while there are |
    /// | --- | --- | --- |
    /// | mail of clients | 4 spares | 3, up to three quarters |
    /// | reports | 3 | 2, up to three quarters |
    /// | live mail that moves | 1, if all of its segment fits (`to_clean`) | any |
    /// | outcomes | 1 | any |
    pub(super) fn takes(&self, purpose: Purpose, bytes: u64) -> bool {
        let needed = self.spares_needed(purpose);
        if !self.is_short || purpose == Purpose::Move || self.spares.len() >= needed {
            return true;
        }
        let used = self.head.map_or(u64::MAX, |(_, end)| u64::from(end));
        self.spares.len() + 1 == needed && used.saturating_add(bytes) <= self.unreserved()
    }

    /// What of the head is not kept for outcomes, in bytes.
    fn unreserved(&self) -> u64 {
        u64::from(self.segment_bytes - self.segment_bytes / RESERVE_PARTS)
    }

    /// A commit waits for the task under way.
    pub(super) fn is_waited_for(&self) -> bool {
        self.waited_for
    }

    fn batch(&mut self, batch: &mut Batch, segment: u32, offset: u32) -> Write {
        let sequence = self.next_batch;
        let Sealed { bytes, alive, count, entries } =
            batch.seal(segment, offset, sequence, self.outcome_bytes_max);
        self.next_batch += 1;
        let end = offset.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.head = Some((segment, end));
        match (&mut self.index, entries) {
            (Some(index), Some(entries)) => index.batch(sequence, offset, end, count, &entries),
            _ => self.index = None,
        }
        let live = self.segments.entry(segment).or_default();
        live.records += alive.records;
        live.bytes += alive.bytes;
        Write { segment, offset, bytes, is_batch: true, is_index: false }
    }

    /// Whether the head's index still fits behind `end` with the entries of `batch`. An index that
    /// grows too large is given up, and one that would keep back what fits nowhere else.
    fn leaves_index_room(&mut self, batch: &Batch, end: u32) -> bool {
        let Some(index) = &self.index else { return true };
        let more = batch.entry_bytes(self.outcome_bytes_max);
        let room = more.and_then(|more| index.room(more));
        if room.is_some_and(|room| end.saturating_add(room) <= self.segment_bytes) {
            return true;
        }
        let nowhere_else = index.is_empty() || (self.no_room && self.spares.is_empty());
        if room.is_none() || nowhere_else {
            self.index = None;
            return true;
        }
        false
    }

    /// The head takes no more batches: its index, if it has one. For the end of all writing; the
    /// log does it by itself when it goes on to another segment.
    pub(super) fn seal(&mut self) -> Option<Write> {
        let (segment, _) = self.head.filter(|_| !self.header_due)?;
        // One at a time: a disk that takes longer for an index than for a segment has better to do.
        let index = self.index.take().filter(|_| self.indexing.is_none())?;
        let (offset, bytes) = index.finish()?;
        self.head = None;
        self.indexing = Some(segment);
        Some(Write { segment, offset, bytes, is_batch: false, is_index: true })
    }

    /// The last index is written, or could not be.
    pub(super) fn indexed(&mut self) {
        self.indexing = None;
    }

    /// The last batch or header is durable.
    pub(super) fn written(&mut self) {
        self.header_due = false;
    }

    /// The next thing to do to the folder, if any and if none is being done. Call after anything
    /// changed. A segment that is still being read (`pinned`) is left alone.
    pub(super) fn next_task(&mut self, pinned: impl Fn(u32) -> bool) -> Option<MaintenanceTask> {
        if self.task.is_some() {
            return None;
        }
        let reusable =
            self.blank.last().copied().or_else(|| self.oldest_dead().filter(|&s| !pinned(s)));
        let task = match reusable {
            Some(segment) if self.spares.len() >= SPARES => MaintenanceTask::Delete { segment },
            Some(from) => MaintenanceTask::Recycle { from, to: self.number()? },
            None if self.spares.len() < SPARES && !self.no_room => {
                MaintenanceTask::Create { segment: self.number()? }
            }
            // A commit that waits takes it as it is.
            None if self.waited_for => return None,
            None => {
                let raw = self.spares.iter().find(|spare| !spare.filled)?;
                MaintenanceTask::Fill { segment: raw.segment }
            }
        };
        self.task = Some(task);
        Some(task)
    }

    /// The task ended.
    pub(super) fn maintenance_done(&mut self, end: MaintenanceEnd) {
        let Some(task) = self.task.take() else { return };
        if let MaintenanceTask::Fill { segment } = task {
            // A file that does not take zeros shall not get mail.
            self.spares.retain(|spare| end == MaintenanceEnd::Done || spare.segment != segment);
            let spare = self.spares.iter_mut().find(|spare| spare.segment == segment);
            spare.into_iter().for_each(|spare| spare.filled = true);
        }
        let failed = match end {
            MaintenanceEnd::Failed(kind) => Some(kind),
            MaintenanceEnd::Done | MaintenanceEnd::Gone => None,
        };
        self.no_room = failed.is_some();
        self.is_short = (self.is_short || self.no_room) && self.spares.len() < SPARES;
        if let Some(kind) = failed {
            self.no_room_kind = kind;
            return;
        }
        if let MaintenanceTask::Recycle { from: gone, .. }
        | MaintenanceTask::Delete { segment: gone } = task
        {
            self.segments.remove(&gone);
            self.blank.retain(|&segment| segment != gone);
        }
        let made = match task {
            MaintenanceTask::Create { segment } | MaintenanceTask::Recycle { to: segment, .. } => {
                Some(segment)
            }
            _ => None,
        };
        if let Some(made) = made
            && end == MaintenanceEnd::Done
        {
            self.spares.push_back(Spare { segment: made, filled: false });
        }
        self.is_short &= self.spares.len() < SPARES;
    }

    /// A while has passed since a task failed: it may be tried again.
    pub(super) fn try_again(&mut self) {
        self.no_room = false;
    }

    /// There are segments to begin with, or no more are to be had.
    pub(super) fn is_prepared(&self) -> bool {
        self.spares.len() >= SPARES || self.no_room
    }

    /// The kind of the error with which a task failed last.
    pub(super) fn no_room_kind(&self) -> io::ErrorKind {
        self.no_room_kind
    }

    /// Whether the last task failed.
    pub(super) fn no_room(&self) -> bool {
        self.no_room
    }

    /// These records are not needed any more. Whether they were the last that lived in their
    /// segment.
    pub(super) fn release(&mut self, live_ref: LiveRef) -> bool {
        let Some(live) = self.segments.get_mut(&live_ref.segment) else {
            debug_assert!(false, "{live_ref:?} in no segment");
            return false;
        };
        debug_assert!(
            live.records >= live_ref.records && live.bytes >= u64::from(live_ref.bytes),
            "{live_ref:?} of {live:?}"
        );
        live.records = live.records.saturating_sub(live_ref.records);
        live.bytes = live.bytes.saturating_sub(u64::from(live_ref.bytes));
        live.records == 0
    }

    /// The oldest segment, when its live mail should move to the head: it keeps more disk than
    /// [`FACTOR`] and [`SLACK`] allow. On average segments are then less than half alive, so that
    /// no more is copied than is won.
    ///
    /// On a full disk, when all of it fits into what is left, and at least half a segment is won:
    /// there, or in later ones, which can be used again only when the older ones are.
    pub(super) fn to_clean(&self) -> Option<u32> {
        let (oldest, live_bytes) = self.oldest_alive()?;
        let wins = match self.is_short {
            true => self.has_space_for(live_bytes) && (self.wins_half() || self.is_over(1)),
            false => self.is_over(1),
        };
        wins.then_some(oldest)
    }

    /// The oldest segment, when mail lives in it and it is older than the head; the bytes of that.
    /// On a full disk also the head, when half of it is written, and any after a start.
    pub(super) fn oldest_alive(&self) -> Option<(u32, u64)> {
        let newer = match self.head {
            Some(_) if self.header_due => return None,
            Some((head, end)) if self.is_short && end >= self.segment_bytes / 2 => {
                head.saturating_add(1)
            }
            Some((head, _)) => head,
            None if self.is_short => u32::MAX,
            None => return None,
        };
        let (&oldest, live) = self.segments.first_key_value()?;
        (oldest < newer && live.records > 0).then_some((oldest, live.bytes))
    }

    /// Whether mail of so many bytes that moves fits the head and the spares, beside the outcomes
    /// that come meanwhile.
    fn has_space_for(&self, bytes: u64) -> bool {
        let size = u64::from(self.segment_bytes);
        let in_head = self.head.map_or(0, |(_, end)| size.saturating_sub(u64::from(end)));
        let space = in_head + size * self.spares.len() as u64;
        let needed = bytes + bytes / MOVE_MARGIN_PARTS + size / u64::from(RESERVE_PARTS);
        needed <= space
    }

    /// Whether segments that are at least a quarter dead have half a segment of dead bytes.
    fn wins_half(&self) -> bool {
        let size = u64::from(self.segment_bytes);
        let dead = self.segments.iter().map(|(&segment, live)| {
            let end = self.head.filter(|&(head, _)| head == segment);
            end.map_or(size, |(_, end)| u64::from(end)).saturating_sub(live.bytes)
        });
        dead.filter(|&dead| dead >= size / 4).sum::<u64>() >= size / 2
    }

    /// More disk is used than `times` what is allowed beside the live mail.
    pub(super) fn is_over(&self, times: u64) -> bool {
        let size = u64::from(self.segment_bytes);
        let live: u64 = self.segments.values().map(|live| live.bytes).sum();
        let used = size.saturating_mul(self.segments.len() as u64);
        used > (FACTOR * live + SLACK * size).saturating_mul(times)
    }

    /// There are so many segments that one may have to be cleaned.
    pub(super) fn is_crowded(&self) -> bool {
        self.segments.len() as u64 > SLACK || self.is_short
    }

    /// The oldest segment holds nothing any more and waits to be used again.
    pub(super) fn has_dead(&self) -> bool {
        self.oldest_dead().is_some()
    }

    /// The list that a stop leaves. No task may follow it.
    pub(super) fn closed(&self) -> Manifest {
        let written = |segment: u32| self.head.is_none_or(|head| head != (segment, BLOCK));
        let segments = self.segments.iter().filter(|&(&segment, _)| written(segment));
        Manifest {
            next_batch: self.next_batch,
            segments: segments.map(|(&segment, live)| (segment, live.records)).collect(),
        }
    }

    /// The next segments after `from` in which something lives, at most `count`, in order.
    pub(super) fn alive_after(&self, from: u32, count: usize) -> Vec<u32> {
        let behind = self.segments.range(from.saturating_add(1)..);
        let alive = behind.filter(|(_, live)| live.records > 0);
        alive.map(|(&segment, _)| segment).take(count).collect()
    }

    /// What lives in `segment`.
    pub(super) fn alive_in(&self, segment: u32) -> Live {
        self.segments.get(&segment).copied().unwrap_or_default()
    }

    fn header(&mut self, segment: u32, now: Timestamp, highest_id: QueueId) -> Write {
        self.header_due = true;
        let header = SegmentHeader {
            spool_number: self.spool_number,
            segment,
            created: now,
            highest_id,
            cut: self.cut,
            segment_bytes: self.segment_bytes,
        };
        let bytes = header.encode();
        Write { segment, offset: 0, bytes, is_batch: false, is_index: false }
    }

    /// The oldest segment, when nothing lives in it, nothing is written there, and there is a newer
    /// one whose header carries on its highest id: the head, or on a full disk any.
    fn oldest_dead(&self) -> Option<u32> {
        let newer = match self.head {
            Some((head, _)) => Some(head).filter(|_| !self.header_due),
            None => self.segments.last_key_value().map(|(&last, _)| last).filter(|_| self.is_short),
        };
        let (&oldest, live) = self.segments.first_key_value()?;
        let idle = self.indexing != Some(oldest);
        (oldest < newer? && idle && live.records == 0).then_some(oldest)
    }

    /// A number never used before: even one whose creation failed is not used again.
    fn number(&mut self) -> Option<u32> {
        let number = self.next_segment;
        self.next_segment = number.checked_add(1)?;
        Some(number)
    }
}
