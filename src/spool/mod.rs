//! The segment log of one shard: records, group commit, recovery.
#![allow(unused_variables, dead_code, clippy::todo, missing_docs)]

use crate::message::{Envelope, Options, QueueId, Reason, Timestamp};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Settings {
    /// This shard's folder.
    pub directory: PathBuf,
    /// 0 to 1023; part of every id born here.
    pub number: u16,
    pub segment_bytes: u64,
    pub stream_threshold: usize,
    pub outcome_interval: Duration,
}

/// Where a message record is. 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    pub segment: u32,
    pub offset: u32,
    pub length: u32,
}

/// A message as stored, in memory: shared by all deliveries of it, on any shard.
#[derive(Debug)]
pub struct Message {
    pub id: QueueId,
    pub received_at: Timestamp,
    pub envelope: Envelope,
    pub options: Options,
    pub dot_stuffed: bool,
    pub eight_bit: bool,
    /// Received field(s) that the relay put on top.
    pub trace: Vec<u8>,
    /// Content in wire form, without the final dot line; ends in CRLF or is empty.
    pub content: Content,
}

#[derive(Debug)]
pub enum Content {
    Whole(Vec<u8>),
    /// In pieces on disk; each is read when needed, by any shard.
    Streamed(Vec<Piece>),
}

#[derive(Clone, Debug)]
pub struct Piece {
    pub path: Arc<std::path::Path>,
    pub offset: u64,
    pub length: u32,
}

impl Content {
    /// Bytes in all.
    pub fn len(&self) -> u64 {
        todo!()
    }
}

impl Piece {
    /// Reads the piece and checks it.
    pub async fn read(&self) -> io::Result<Vec<u8>> {
        todo!()
    }
}

/// Content on its way in. Dropped: forgotten.
pub struct Draft {}

impl Draft {
    /// Keeps `bytes`; beyond the stream threshold they go to the segment, and this waits until they
    /// are handed to the disk (not for the sync).
    pub async fn extend(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        todo!()
    }
    pub fn clear(&mut self) {
        todo!()
    }
    pub fn len(&self) -> u64 {
        todo!()
    }
}

/// What became of a recipient, as stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// Still to be tried.
    Waiting {
        attempts: u16,
        due: Timestamp,
        reason: Reason,
    },
    Delivered,
    Bounced,
    Expired,
    Removed,
}

#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("no room on the disk of the spool: {0}")]
    Full(io::Error),
    /// A write or sync failed: what is on disk is unknown; the shard accepts no more.
    #[error("the spool failed and takes nothing more until restart: {0}")]
    Failed(String),
    #[error("{path}: {cause}")]
    Open { path: PathBuf, cause: String },
}

/// A message that recovery found alive.
#[derive(Debug)]
pub struct Recovered {
    pub id: QueueId,
    pub placement: Placement,
    pub received_at: Timestamp,
    pub options: Options,
    /// One per recipient, in envelope order.
    pub recipients: Vec<RecoveredRecipient>,
    pub null_reverse_path: bool,
}

#[derive(Debug)]
pub struct RecoveredRecipient {
    /// Lower-case domain of the forward-path.
    pub domain: Box<str>,
    pub ended: bool,
    pub attempts: u16,
    /// `None`: never tried, due at once.
    pub due: Option<Timestamp>,
    pub reason: Option<Reason>,
    /// A delivery had begun and its outcome is not on disk: may have been delivered.
    pub in_doubt: bool,
}

#[derive(Debug, Default)]
pub struct Recovery {
    pub messages: Vec<Recovered>,
    /// Corrupt records set aside, each with file and offset, for the log.
    pub set_aside: Vec<String>,
    /// Bytes of a torn commit that were cut.
    pub torn_bytes: u64,
    pub segments: usize,
    pub bytes_read: u64,
}

/// One shard's spool. Clones share it.
#[derive(Clone)]
pub struct Spool {}

impl Spool {
    /// Opens (creating what is missing) and recovers; starts the committer on this shard.
    pub async fn open(settings: Settings) -> Result<(Spool, Recovery), SpoolError> {
        todo!()
    }
    pub fn next_id(&self, now: Timestamp) -> QueueId {
        todo!()
    }
    pub fn draft(&self) -> Draft {
        todo!()
    }
    /// Makes a message durable: returns when the sync of its commit has returned.
    /// `message.content` is taken from the draft.
    pub async fn store(
        &self,
        draft: Draft,
        id: QueueId,
        received_at: Timestamp,
        envelope: Envelope,
        options: Options,
        trace: Vec<u8>,
        dot_stuffed: bool,
        eight_bit: bool,
    ) -> Result<(Placement, Arc<Message>), SpoolError> {
        todo!()
    }
    pub async fn load(&self, id: QueueId, at: Placement) -> Result<Arc<Message>, SpoolError> {
        todo!()
    }
    /// Deliveries to these recipients begin. Written with the next commit if still open then.
    pub fn begun(&self, id: QueueId, recipients: &[u32]) {
        todo!()
    }
    /// What became of a recipient. Rides in the next commit, at the latest after the interval.
    pub fn settle(&self, id: QueueId, recipient: u32, fate: &Fate) {
        todo!()
    }
    /// All recipients have ended: the record at `at` is dead; segments with no live record are
    /// recycled, oldest first.
    pub fn dead(&self, id: QueueId, at: Placement) {
        todo!()
    }
    /// Everything noted so far is durable when this returns.
    pub async fn sync(&self) -> Result<(), SpoolError> {
        todo!()
    }
    /// Why nothing more is taken, when a write or sync has failed.
    pub fn failure(&self) -> Option<String> {
        todo!()
    }
    /// Reads the spool of a stopped relay without changing it.
    pub fn inspect(directory: &std::path::Path) -> Result<Recovery, SpoolError> {
        todo!()
    }
}
