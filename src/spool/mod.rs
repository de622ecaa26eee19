//! The segment log of one shard: records, group commit, recovery. Messages and what became of their
//! recipients pass through; it must not know SMTP, nor when anything is delivered.
//!
//! A folder holds numbered segment files; `segment` and `record` say how their bytes lie. One task
//! writes: all that was appended while the last commit was under way becomes the next, one write
//! and one sync for all. What a message may be on the disk, which write moves it on, and what a
//! start makes of it:
//!
//! | state | on the disk | the next write, and what it makes | recovery |
//! | --- | --- | --- | --- |
//! | arriving | nothing, or chunk records | chunk records, as content comes in | dead bytes |
//! | appended | part of a batch, not synced | **the sync of that batch: accepted, 250 may be sent** | what passes its checksums is kept: the client has no reply and may send it again; the rest is cut |
//! | accepted | message record | begun record: under way; settled record: settled | all recipients due at once |
//! | under way | and a begun record | settled record | the same, and said to be in doubt |
//! | settled, some | and settled records | more of them | ended ones stay so; the others have attempts and due time as written |
//! | ended | a settled record for every recipient | its segment is recycled | dropped |
//! | sealed | its segment has an index behind the last batch, not synced with any mail | | the index is read instead of the records; one that does not pass is as good as none, and the segment is read whole |
//! | recycled | its segment has a new number | | nothing passes its checksum any more; records about it elsewhere are ignored |
//! | report accepted | a message record that names recipients of another message | settled records for these | these have ended, as the record says |
//! | moving up | message record, and a later one with the statuses so far | its old segment is recycled | the later place, with all that is known of the recipients |
//! | moved up | the later message record alone | as accepted, under way or settled | its statuses, and what comes behind it |
//! | damaged | a message record that does not pass | found when it is read: a copy in `quarantine/`, then settled records | in a segment without index: the copy is made here, and the message is gone; with one: as accepted, until it is read |
//! | adopted | message record with statuses here, the old records in another folder | the old folder is removed | the one here wins |
//!
//! A settled or begun record may be up to the outcome interval (and a commit) behind the truth: in
//! that window a crash makes a recipient be tried again, and `in_doubt` marks those that may get a
//! second delivery. `clean` moves what stays behind in old segments, so that the disk used keeps to
//! a factor of the mail that lives. The file `closed` (`manifest`) is what a stop leaves to compare
//! with. `log` gives the order of operations when segments change hands, `recovery` the table of
//! what is done about bytes that do not pass.

mod adopt;
mod batch;
mod commit;
mod commit_waiter;
mod compactor;
mod content;
mod draft;
mod entry;
mod folder;
mod index;
mod inspection;
mod live;
pub mod lock;
mod log;
mod manifest;
mod quarantine;
mod readers;
mod record;
mod recovered_entries;
mod recovery;
mod replay;
mod segment;
mod segment_allocator;
mod segment_check;

#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod simulator;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use crate::message::Placement;
pub use draft::Draft;
pub use folder::{layout, missing_above, orphans};
pub use inspection::{Damage, Inspection, holds_segments};
pub use quarantine::{Remains, quarantined};
pub use record::{PriorStatus, Reported};
pub use recovered_entries::Messages;

use crate::message::{Demands, Message, Options, QueueId, Reason, RecipientStatus, Timestamp};
use crate::ring;
use batch::Purpose;
use commit::Core;
use log::{Log, Resume};
use recovery::Scan;
use std::collections::HashSet;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// The smallest segment, in bytes: a quarter of it still holds a message with some hundred
/// recipients.
pub const SEGMENT_BYTES_MIN: u64 = 256 * 1024;
/// The largest: places in it are 32 bits wide.
pub const SEGMENT_BYTES_MAX: u64 = (1 << 32) - segment::BLOCK as u64;

/// How a spool is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This shard's folder.
    pub directory: PathBuf,
    /// 0 to 1023; part of every id born here.
    pub number: u16,
    /// Size of a segment file: [`SEGMENT_BYTES_MIN`] to [`SEGMENT_BYTES_MAX`], rounded down to
    /// whole blocks of 4 KiB.
    pub segment_bytes: u64,
    /// Content beyond this many bytes is written as it arrives, in pieces of this size (of a
    /// sixteenth of a segment or less).
    pub stream_threshold: usize,
    /// Bytes of drafts kept in memory, of all together. Beyond it content is written as it arrives,
    /// but for a few kilobytes of each draft.
    pub content_bytes_max: usize,
    /// An outcome waits at most this long for a commit to ride in.
    pub outcome_interval: Duration,
}

/// Why the spool did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Nothing was lost; it may be asked again when there is space, or when what else keeps the
    /// spool from making a segment has passed: see [`SpoolError::is_disk_full`].
    #[error("{what}: {error}", what = what_is_missing(.0), error = .0)]
    Full(io::Error),
    /// A write or sync failed: what is on disk is unknown; the shard accepts no more.
    #[error("the spool failed and takes nothing more until restart: {0}")]
    Failed(String),
    /// A message's record is not as it was written.
    #[error("{path} byte {offset}: message {id} is not intact there")]
    Damaged {
        /// The segment file.
        path: PathBuf,
        /// Of the record, in bytes.
        offset: u32,
        /// The message.
        id: QueueId,
    },
    /// A file cannot be opened or read, or is not what it should be.
    #[error("{path}: {cause}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

impl SpoolError {
    /// The disk is full, or a quota or a limit on the size of files is exhausted.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, SpoolError::Full(error) if is_shortage_of_space(error))
    }
}

fn is_shortage_of_space(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn what_is_missing(error: &io::Error) -> &'static str {
    match is_shortage_of_space(error) {
        true => "no space on the disk of the spool",
        false => "no segment can be made in the spool",
    }
}

/// A message that recovery found alive.
#[derive(Debug)]
pub struct Recovered {
    /// Its name.
    pub id: QueueId,
    /// Where its record is.
    pub placement: Placement,
    /// When it was accepted.
    pub received_at: Timestamp,
    /// Those of its options that the queue needs (see `Options::OPTIONS`); the others are as if
    /// they were not given.
    pub options: Options,
    /// One per recipient, in envelope order.
    pub recipients: Vec<RecoveredRecipient>,
    /// Its reverse-path is `<>`.
    pub null_reverse_path: bool,
    /// NOTIFY=DELAY was given for some recipient.
    pub delay_wanted: bool,
}

impl Recovered {
    /// What it demands of each hop.
    pub fn demands(&self) -> Demands {
        Demands::new(self.options.require_tls, self.null_reverse_path)
    }
}

/// One recipient of it.
#[derive(Debug)]
pub struct RecoveredRecipient {
    /// Lower-case domain of the forward-path.
    pub domain: Rc<str>,
    /// Delivered, bounced, expired or removed.
    pub ended: bool,
    /// So far.
    pub attempts: u16,
    /// `None`: never tried, due at once.
    pub due: Option<Timestamp>,
    /// Why the last attempt did not end it.
    pub reason: Option<Rc<Reason>>,
    /// A delivery had begun and its outcome is not on disk: may have been delivered.
    pub in_doubt: bool,
}

/// What a start found.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Messages with recipients not yet ended, oldest id first.
    pub messages: Messages,
    /// Corrupt records set aside, each with file and offset, for the log.
    pub set_aside: Vec<String>,
    /// Bytes of a torn commit that were cut.
    pub torn_bytes: u64,
    /// Segment files found.
    pub segments: usize,
    /// Bytes read from them.
    pub bytes_read: u64,
}

/// Who keeps the queue: the spool's compactor asks it what to write about messages that it moves.
pub trait QueueIndex {
    /// Where the queue believes the record of `id` to be; `None` when the message is not in it, and
    /// from [`Spool::dead`] on.
    fn placement(&self, id: QueueId) -> Option<Placement>;
    /// Messages whose record is in `segment`: those that are found from `cursor` (first 0) on in a
    /// bounded amount of work, and the cursor to go on with; `None` at the end. A message that
    /// stays there the whole time is among them.
    fn in_segment(&self, segment: u32, cursor: u32) -> (Vec<QueueId>, Option<u32>);
    /// What became of its recipients so far. It may know more than was noted here, but must not
    /// take for ended what [`Spool::settle`] was not called for. `None` while a report on it is
    /// being stored: it is not moved now.
    fn message_state(&self, id: QueueId) -> Option<MessageState>;
    /// The record of `id` is at `to` now.
    fn moved(&self, id: QueueId, to: Placement);
    /// Whether the message is in memory, so that an attempt needs no record.
    fn is_in_memory(&self, id: QueueId) -> bool;
    /// The record of `id` is damaged, and this is what remains of it: the message ends.
    fn lost(&self, id: QueueId, remains: &Remains);
}

/// What became of a message so far.
#[derive(Clone, Debug, Default)]
pub struct MessageState {
    /// Recipients that have not ended. All others have.
    pub open: Vec<Open>,
}

/// A recipient that has not ended.
#[derive(Clone, Debug)]
pub struct Open {
    /// Its index in the envelope.
    pub index: u32,
    /// `Waiting`, or `None` when it was never tried.
    pub status: Option<RecipientStatus>,
    /// A delivery has begun.
    pub in_flight: bool,
}

/// One shard's spool. Clones share it.
#[derive(Clone)]
pub struct Spool {
    handle: Rc<Handle>,
}

/// When the last handle goes, the committer writes what waits and ends.
struct Handle {
    core: Rc<Core>,
    settings: Settings,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl Spool {
    /// Opens (creating what is missing) and recovers; starts the committer on this shard. Reads the
    /// indexes of sealed segments and all of the others, and blocks the shard
    /// meanwhile, which has nothing else to do yet.
    pub async fn open(mut settings: Settings) -> Result<(Spool, Recovery), SpoolError> {
        let block = u64::from(segment::BLOCK);
        settings.segment_bytes =
            settings.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX) / block * block;
        let (spool, recovery) = Spool::open_as_set(settings).await?;
        spool.handle.core.prepared().await;
        Ok((spool, recovery))
    }

    /// The same with segments of any number of whole blocks.
    async fn open_as_set(settings: Settings) -> Result<(Spool, Recovery), SpoolError> {
        let folder = settings.directory.clone();
        folder::make(&folder).map_err(|error| folder::failed(&folder, &error))?;
        let read = folder::read(&folder, Scan::default())?;
        folder::settle_down(&folder, &read.scan)?;
        let mut set_aside = folder::set_aside(&folder, &read.findings.set_aside, true);
        set_aside.extend(folder::told_missing(&folder, &read.missing));
        manifest::forget(&folder).map_err(|error| folder::failed(&folder, &error))?;
        let resume = Resume::of(&read, settings.number);
        let highest_id = resume.highest_id;
        // Within SEGMENT_BYTES_MAX by the clamp above.
        let segment_bytes = u32::try_from(settings.segment_bytes).unwrap_or(u32::MAX);
        let log = Log::new(settings.number, segment_bytes, resume);
        let core = Core::new(&settings, log, highest_id);
        {
            let mut state = core.state.borrow_mut();
            state.pieces = read.scan.replay.pieces();
            state.foreign = read.scan.replay.foreign(settings.number);
        }
        ring::spawn_vital("spool commit", commit::commit(Rc::clone(&core)));
        let allocator = segment_allocator::keep(Rc::clone(&core));
        ring::spawn_vital("spool segment allocator", allocator);
        let recovery = recovery_of(read, set_aside);
        Ok((Spool { handle: Rc::new(Handle { core, settings }) }, recovery))
    }

    /// The id of a message received `now`: larger than every id given out here before.
    pub fn next_id(&self, now: Timestamp) -> QueueId {
        self.handle.core.next_id(now)
    }

    /// An empty draft. Costs nothing until bytes come.
    pub fn draft(&self) -> Draft {
        self.draft_for(Purpose::Mail)
    }

    /// The same for a report of this relay, for which there is space when there is none any more
    /// for mail of clients.
    pub fn report_draft(&self) -> Draft {
        self.draft_for(Purpose::Report)
    }

    fn draft_for(&self, purpose: Purpose) -> Draft {
        let core = Rc::clone(&self.handle.core);
        Draft::new(core, purpose, self.handle.settings.stream_threshold)
    }

    /// Makes a message durable: returns when the sync of its commit has returned, and only then may
    /// 250 be sent. If the caller goes away before that, the message ends as removed.
    ///
    /// Waits while a bounded amount is queued. `Full`: the message is nowhere, later ones may fit.
    pub async fn store(
        &self,
        message: Message<Draft>,
    ) -> Result<(Placement, Arc<Message>), SpoolError> {
        let (placement, message) = draft::store(message, &PriorStatus::default()).await?;
        Ok((placement, Arc::new(message)))
    }

    /// Makes a report durable, and in the same record that the recipients which it reports have
    /// ended: a crash leaves both or neither. Then call [`Spool::settle`] for them: the report may
    /// be gone long before the message. Until then [`QueueIndex::message_state`] must not say that
    /// they wait: the message would move, and outlive the report. Errors as with [`Spool::store`].
    pub async fn store_report(
        &self,
        message: Message<Draft>,
        reported: Reported,
    ) -> Result<(Placement, Arc<Message>), SpoolError> {
        let so_far = PriorStatus { reported: Some(reported), ..PriorStatus::default() };
        let (placement, message) = draft::store(message, &so_far).await?;
        Ok((placement, Arc::new(message)))
    }

    /// Makes a message durable together with what became of its recipients so far, in one record:
    /// one that comes back from outside (see `eml`). Errors as with [`Spool::store`].
    ///
    /// The id must not be known to any spool of the relay, nor be given out again by one: it is one
    /// that this spool gave out, or one that is older than now.
    pub async fn restore(
        &self,
        message: Message<Draft>,
        so_far: &PriorStatus,
    ) -> Result<Placement, SpoolError> {
        let (placement, _) = draft::store(message, so_far).await?;
        Ok(placement)
    }

    /// Cleans old segments in the background from now on, as `register` has them: call it when all
    /// that was recovered is known there. Ends with the register.
    pub fn clean_for(&self, register: Weak<dyn QueueIndex>) {
        let core = &self.handle.core;
        *core.register.borrow_mut() = Some(Weak::clone(&register));
        core.state.borrow_mut().foreign = HashSet::new();
        let spool = Rc::downgrade(&self.handle);
        ring::spawn("spool check", segment_check::run(spool, Weak::clone(&register)));
        ring::spawn_vital("spool compactor", compactor::clean(Rc::clone(core), register));
    }

    /// Reads a message back. `Damaged` when its record is not at `at`, intact, nor where it has
    /// moved to since, also because the file is cut or gone; `Open` when the disk does not give it.
    pub async fn load(&self, id: QueueId, mut at: Placement) -> Result<Arc<Message>, SpoolError> {
        let core = &self.handle.core;
        loop {
            let loaded = self.load_at(id, at).await;
            // Streamed content holds on to its segments from here on, but they may have gone while
            // the record was read. No message moves so often that this has no end.
            match core.placement(id).filter(|&now| now != at) {
                Some(now) => at = now,
                None => return loaded,
            }
        }
    }

    async fn load_at(&self, id: QueueId, at: Placement) -> Result<Arc<Message>, SpoolError> {
        let core = &self.handle.core;
        let path = segment::path(&core.folder, at.segment);
        let unreadable = |error: io::Error| match error.kind() {
            // Cut, or removed from a folder that is there.
            io::ErrorKind::UnexpectedEof => core.damaged(id, at),
            io::ErrorKind::NotFound if core.is_present() => core.damaged(id, at),
            _ => folder::failed(&path, &error),
        };
        let file = core.reader(at.segment).await.map_err(unreadable)?;
        let bytes =
            file.read(u64::from(at.offset), at.length as usize).await.map_err(unreadable)?;
        decode(|segment| core.path(segment), &core.folder, id, at, &bytes)
    }

    /// The same from a stopped relay's spool, without changing it.
    pub fn read(directory: &Path, id: QueueId, at: Placement) -> Result<Arc<Message>, SpoolError> {
        let path = segment::path(directory, at.segment);
        let unreadable = |error: io::Error| folder::failed(&path, &error);
        let file = std::fs::File::open(&path).map_err(unreadable)?;
        let mut bytes = vec![0; at.length as usize];
        file.read_exact_at(&mut bytes, u64::from(at.offset)).map_err(unreadable)?;
        decode(|number| segment::path(directory, number).into(), directory, id, at, &bytes)
    }

    /// Deliveries to these recipients begin. Written with the next commit if still open then.
    pub fn begun(&self, id: QueueId, recipients: &[u32]) {
        self.handle.core.begin(id, recipients);
    }

    /// What became of a recipient. Rides in the next commit, at the latest after the interval. It
    /// is durable when [`Spool::durable_beyond`] gives the number returned here, or a higher one.
    pub fn settle(&self, id: QueueId, recipient: u32, status: &RecipientStatus) -> u64 {
        self.handle.core.settle(id, recipient, status)
    }

    /// Waits until more than `known` (first 0) outcomes are durable, and says how many are.
    pub async fn durable_beyond(&self, known: u64) -> u64 {
        self.handle.core.durable_beyond(known).await
    }

    /// All recipients have ended: the record at `at`, where it is now, is dead; segments with no
    /// live record are recycled, oldest first. To be called once for each message.
    pub fn dead(&self, id: QueueId, at: Placement) {
        self.handle.core.dead(id, at);
    }

    /// Everything noted so far is durable when this returns.
    pub async fn sync(&self) -> Result<(), SpoolError> {
        let core = &self.handle.core;
        core.sync().await.map_err(|failure| core.error_of(failure))
    }

    /// Ends the spool, which is not used again: what was noted is committed, and the segment that
    /// was written gets its index.
    pub async fn close(&self) {
        self.handle.core.closed().await;
    }

    /// Why nothing more is taken, nor written down, when a write or sync has failed.
    pub fn failure(&self) -> Option<String> {
        self.handle.core.failure()
    }

    /// Why mail of clients finds no space on the disk now.
    pub fn is_full(&self) -> Option<String> {
        self.handle.core.is_full()
    }

    /// Reads the spool of a stopped relay without changing it.
    pub fn inspect(directory: &Path) -> Result<Recovery, SpoolError> {
        let read = folder::read(directory, Scan::default())?;
        let mut set_aside = folder::set_aside(directory, &read.findings.set_aside, false);
        set_aside.extend(folder::told_missing(directory, &read.missing));
        Ok(recovery_of(read, set_aside))
    }
}

/// The message in a record's bytes; `Damaged` when they are not that message, intact.
fn decode(
    path_of: impl FnMut(u32) -> Arc<Path>,
    folder: &Path,
    id: QueueId,
    at: Placement,
    bytes: &[u8],
) -> Result<Arc<Message>, SpoolError> {
    let message = match record::check(bytes, at.segment, at.offset) {
        Some((header, payload)) if header.id == id => {
            record::decode_message(&header, payload, path_of).ok()
        }
        _ => None,
    };
    let Some((message, _)) = message else {
        let path = segment::path(folder, at.segment);
        return Err(SpoolError::Damaged { path, offset: at.offset, id });
    };
    Ok(Arc::new(message))
}

impl Resume {
    fn of(read: &folder::Contents, number: u16) -> Resume {
        let (scan, findings) = (&read.scan, &read.findings);
        let mut segments = scan.replay.live();
        for &segment in &scan.written {
            segments.entry(segment).or_default();
        }
        let own_header = scan.highest_id.filter(|id| id.spool_number() == number);
        Resume {
            segments,
            blank: scan.blank.clone(),
            next_segment: read.segments.last().map_or(1, |last| last.saturating_add(1)),
            next_batch: findings.next_batch,
            cut: findings.cut,
            highest_id: scan.replay.highest(number).max(own_header),
        }
    }
}

fn recovery_of(read: folder::Contents, set_aside: Vec<String>) -> Recovery {
    Recovery {
        messages: read.scan.replay.into_live(),
        set_aside,
        torn_bytes: read.findings.torn_bytes,
        segments: read.segments.len(),
        bytes_read: read.scan.bytes_read,
    }
}
