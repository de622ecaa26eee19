//! Content that arrives, and the one call that makes a message of it.

use super::batch::Purpose;
use super::commit::Core;
use super::commit_waiter::Appended;
use super::live::LiveRef;
use super::record::{CHUNK_PREFIX, Extent, PriorStatus, streamed};
use super::replay::join;
use super::segment::BATCH_HEADER;
use super::{Placement, SpoolError};
use crate::message::field::word;
use crate::message::{Content, Message, QueueId, RecipientStatus};
use crate::ring;
use std::io;
use std::rc::Rc;

/// Each draft may keep so much, in bytes, even when the memory for all drafts is used up: a
/// client that sends byte by byte must not make a chunk of each.
const CROWDED_BYTES_MAX: usize = 4096;

/// Content that arrives. Dropped: forgotten.
pub struct Draft {
    core: Rc<Core>,
    purpose: Purpose,
    stream_threshold: usize,
    /// What is not in a chunk yet.
    bytes: Vec<u8>,
    /// Its memory, as the budget of all drafts has it.
    charged: usize,
    chunks: Vec<Chunk>,
    /// Of the chunks; drawn with the first.
    id: QueueId,
    chunk_bytes: u64,
}

/// A chunk handed to the committer.
struct Chunk {
    appended: Appended,
    /// Of its content, in bytes.
    length: u32,
}

impl Draft {
    pub(super) fn new(core: Rc<Core>, purpose: Purpose, stream_threshold: usize) -> Draft {
        // A chunk must fit a batch of any segment size.
        let most = core.state.borrow().log.mail_bytes_max() - CHUNK_PREFIX - BATCH_HEADER;
        let stream_threshold = stream_threshold.clamp(1, most);
        let (bytes, chunks) = (Vec::new(), Vec::new());
        let id = QueueId(0);
        Draft { core, purpose, stream_threshold, bytes, charged: 0, chunks, id, chunk_bytes: 0 }
    }

    /// Keeps `bytes`; beyond the stream threshold they go to the segment, and this waits until they
    /// are handed to the disk (not for the sync). So they do when the memory of all drafts is used
    /// up: no draft waits for another one, only for the disk.
    pub async fn extend(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        let crowded = !self.core.has_content_room(bytes.len());
        if crowded && self.bytes.len() + bytes.len() > CROWDED_BYTES_MAX {
            if !self.bytes.is_empty() {
                self.write_chunk(self.bytes.len()).await?;
            }
            if bytes.len() > CROWDED_BYTES_MAX {
                for part in bytes.chunks(self.stream_threshold) {
                    self.wait_for_room(part.len()).await?;
                    self.append_chunk(part);
                }
                return Ok(());
            }
        }
        self.bytes.extend_from_slice(bytes);
        self.charge();
        while self.bytes.len() > self.stream_threshold {
            self.write_chunk(self.stream_threshold).await?;
        }
        Ok(())
    }

    /// Forgets everything; the draft may be used again.
    pub fn clear(&mut self) {
        self.bytes = Vec::new();
        self.charge();
        self.drop_chunks();
    }

    /// Bytes kept, in memory and on the disk.
    pub fn len(&self) -> u64 {
        self.chunk_bytes + self.bytes.len() as u64
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the content: where all of it is, and what a message of it needs beside its record: the
    /// pieces are that message's from now on. Waits until it is known where they go, and until
    /// there is space for a record.
    pub(super) async fn finish(&mut self) -> Result<(Content, Vec<LiveRef>), SpoolError> {
        let extents = self.finish_chunks().await?;
        self.wait_for_room(self.bytes.len()).await?;
        let content = match extents {
            Some(extents) => streamed(|segment| self.core.path(segment), self.id, &extents),
            // The budget is charged for it until the draft goes.
            None => Content::Whole(std::mem::take(&mut self.bytes)),
        };
        let mut pieces = Vec::new();
        let live = self.chunks.drain(..).filter_map(|chunk| chunk.appended.into_live_ref());
        live.for_each(|live| join(&mut pieces, live));
        Ok((content, pieces))
    }

    /// Writes the rest of a streamed draft and waits until it is known where its pieces go; `None`
    /// when it is all in memory.
    async fn finish_chunks(&mut self) -> Result<Option<Vec<Extent>>, SpoolError> {
        if self.chunks.is_empty() {
            return Ok(None);
        }
        if !self.bytes.is_empty() {
            self.write_chunk(self.bytes.len()).await?;
        }
        let mut extents = Vec::with_capacity(self.chunks.len());
        for chunk in &self.chunks {
            let Appended { waiter, slot } = &chunk.appended;
            let place = waiter.wait_for_place().await;
            let (segment, start) = place.map_err(|failure| self.core.error_of(failure))?;
            let offset = start.saturating_add(slot.offset);
            extents.push(Extent { segment, offset, length: chunk.length });
        }
        Ok(Some(extents))
    }

    async fn wait_for_room(&self, bytes: usize) -> Result<(), SpoolError> {
        let room = self.core.wait_for_room(self.purpose, bytes).await;
        room.map_err(|failure| self.core.error_of(failure))
    }

    async fn write_chunk(&mut self, length: usize) -> Result<(), SpoolError> {
        self.wait_for_room(length).await?;
        let mut bytes = std::mem::take(&mut self.bytes);
        let length = length.min(bytes.len());
        self.append_chunk(&bytes[..length]);
        if length < bytes.len() {
            bytes.drain(..length);
            self.bytes = bytes;
        }
        self.charge();
        Ok(())
    }

    fn append_chunk(&mut self, content: &[u8]) {
        if self.chunks.is_empty() {
            self.id = self.core.next_id(ring::wall_clock());
        }
        let index = word(self.chunks.len());
        let appended = self.core.chunk(self.purpose, self.id, index, content);
        let length = word(content.len());
        self.chunks.push(Chunk { appended, length });
        self.chunk_bytes += content.len() as u64;
    }

    /// Tells the budget what memory it has now.
    fn charge(&mut self) {
        let now = self.bytes.capacity();
        self.core.charge_content(self.charged, now);
        self.charged = now;
    }

    fn drop_chunks(&mut self) {
        self.core.give_up(self.chunks.drain(..).map(|chunk| chunk.appended));
        self.chunk_bytes = 0;
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.core.charge_content(self.charged, 0);
        self.drop_chunks();
    }
}

/// Makes a message durable: where its record is.
pub(super) async fn store(
    message: Message<Draft>,
    so_far: &PriorStatus,
) -> Result<(Placement, Message), SpoolError> {
    let (message, mut draft) = message.split();
    let (content, pieces) = draft.finish().await?;
    let message = message.with_content(content);
    let waiting = Waiting::append(&draft.core, draft.purpose, &message, so_far, pieces)?;
    Ok((waiting.stored().await?, message))
}

/// A message record that is not durable yet. If its writer goes away before it is durable, the
/// client has no 250 and the queue does not know the message: it ends as removed. A report stays:
/// recipients have ended with it. If it is not needed after all, it is sent twice after a crash.
pub(super) struct Waiting {
    core: Rc<Core>,
    /// `None`: it is durable, or given up.
    appended: Option<Appended>,
    id: QueueId,
    recipients: u32,
    is_report: bool,
}

impl Waiting {
    /// Hands the record to the committer. The message needs `pieces` from now on.
    pub(super) fn append(
        core: &Rc<Core>,
        purpose: Purpose,
        message: &Message,
        so_far: &PriorStatus,
        pieces: Vec<LiveRef>,
    ) -> Result<Waiting, SpoolError> {
        let appended = core.message(purpose, message, so_far, pieces).ok_or_else(|| {
            let cause = "the message's envelope does not fit a segment";
            SpoolError::Full(io::Error::new(io::ErrorKind::FileTooLarge, cause))
        })?;
        let recipients = word(message.envelope.recipients.len());
        let (core, appended) = (Rc::clone(core), Some(appended));
        let is_report = so_far.reported.is_some();
        Ok(Waiting { core, appended, id: message.id, recipients, is_report })
    }

    /// Waits until the record is durable: where it is.
    pub(super) async fn stored(mut self) -> Result<Placement, SpoolError> {
        let result = self.written().await;
        match result {
            Ok(_) => self.appended = None,
            Err(_) => self.give_up(),
        }
        result
    }

    /// The same, and the record may still be given up.
    pub(super) async fn written(&self) -> Result<Placement, SpoolError> {
        if let Some(appended) = &self.appended {
            let done = appended.waiter.wait().await;
            done.map_err(|failure| self.core.error_of(failure))?;
            if let Some(placement) = appended.placement() {
                return Ok(placement);
            }
        }
        Err(SpoolError::Failed("a record went astray".to_owned()))
    }

    /// The queue is responsible for the durable record from now on.
    pub(super) fn keep(&mut self) {
        self.appended = None;
    }

    /// The record and its pieces are dead, wherever they are.
    pub(super) fn give_up(&mut self) {
        if let Some(appended) = self.appended.take() {
            self.core.give_up_message(self.id, appended);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.appended.is_none() {
            return;
        }
        let removed = if self.is_report { 0 } else { self.recipients };
        for recipient in 0..removed {
            self.core.settle(self.id, recipient, &RecipientStatus::Removed);
        }
        self.give_up();
    }
}
