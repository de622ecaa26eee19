//! Adoption: the live messages of a folder whose shard is no more move into this spool.
//!
//! A message moves as one record that also says what became of its recipients so far, so that a
//! torn commit cannot bring the one without the other. The old folder's files go only when every
//! record is durable here. A crash before that leaves both: the next adoption finds the messages
//! here, alive or ended, and leaves the old copies behind.

use super::draft::{Draft, Waiting};
use super::fold::Kept;
use super::record::{self, Record, SoFar, StoredContent};
use super::{Accepted, Fate, Recovered, Recovery, Spool, SpoolError, content, folder, segment};
use crate::message::QueueId;
use crate::ring;
use std::io;
use std::path::Path;
use std::rc::Rc;

impl Spool {
    /// Takes the live messages of `other`, the folder of a shard that does not run, into this spool
    /// and removes that folder's segments. Ids, attempts and due times stay. Call it before
    /// anything is delivered: a message that a crash left in both folders is known by the one here.
    ///
    /// `before` is what [`Spool::open`] and earlier adoptions gave. After an error nothing is lost
    /// and nothing was removed; it may be called again.
    pub async fn adopt(&self, other: &Path, before: &[Recovery]) -> Result<Recovery, SpoolError> {
        let core = &self.handle.core;
        let read = folder::read(other)?;
        let mut recovery = Recovery {
            set_aside: folder::set_aside(other, &read.findings.set_aside, true),
            torn_bytes: read.findings.torn_bytes,
            segments: read.segments.len(),
            bytes_read: read.scan.bytes_read,
            ..Recovery::default()
        };
        let mut moving = Moving { all: Vec::new(), done: false };
        for (id, kept) in read.scan.fold.into_live() {
            let alive = |one: &Recovery| one.messages.binary_search_by_key(&id, |m| m.id).is_ok();
            let known = core.state.borrow().foreign.contains(&id) || before.iter().any(alive);
            if !known {
                let waiting = self.take_over(other, id, &kept).await?;
                moving.all.push((waiting, id, Some(kept)));
            }
        }
        for (waiting, id, kept) in &mut moving.all {
            let placement = waiting.written().await?;
            if let Some(kept) = kept.take() {
                recovery.messages.push(Recovered { placement, ..kept.recovered(*id) });
            }
        }
        moving.done = true;
        core.state.borrow_mut().foreign.extend(moving.all.iter().map(|(_, id, _)| *id));
        drop(moving);
        folder::remove(other, &read.segments)?;
        Ok(recovery)
    }

    async fn take_over(
        &self,
        other: &Path,
        id: QueueId,
        kept: &Kept,
    ) -> Result<Waiting, SpoolError> {
        let core = &self.handle.core;
        let at = kept.placement;
        let path = segment::path(other, at.segment);
        let unreadable = |error: io::Error| folder::failed(&path, &error);
        let file = ring::File::open(&path).await.map_err(unreadable)?;
        let bytes =
            file.read(u64::from(at.offset), at.length as usize).await.map_err(unreadable)?;
        let damaged = || folder::failed(&path, &io::ErrorKind::InvalidData.into());
        let (header, payload) = record::check(&bytes, at.segment, at.offset).ok_or_else(damaged)?;
        let Ok(Record::Message(stored)) = record::decode(&header, payload) else {
            return Err(damaged());
        };
        let mut draft = Draft::new(Rc::clone(core), self.handle.settings.stream_threshold);
        let mut extents = None;
        if let StoredContent::Chunks(old, pieces) = &stored.content
            && let content::Content::Streamed(pieces) = content::Content::streamed(
                |number| segment::path(other, number).into(),
                *old,
                pieces,
            )
        {
            for piece in &pieces {
                draft.extend(&piece.read().await.map_err(unreadable)?).await?;
            }
            extents = draft.finish_chunks().await?;
        }
        core.wait_for_room().await?;
        let pieces = draft.hand_over();
        let content = match (extents, stored.content) {
            (Some(extents), _) => StoredContent::Chunks(draft.id(), extents),
            (None, StoredContent::Inline(bytes)) => StoredContent::Inline(bytes),
            (None, StoredContent::Chunks(..)) => StoredContent::Inline(draft.bytes()),
        };
        let fates: Vec<(u32, Fate)> = (0..)
            .zip(&kept.recipients)
            .filter_map(|(index, recipient)| Some((index, recipient.fate.clone()?)))
            .collect();
        let accepted = Accepted {
            id,
            received_at: stored.received_at,
            envelope: stored.envelope,
            options: stored.options,
            trace: stored.trace.to_vec(),
            dot_stuffed: stored.dot_stuffed,
            eight_bit: stored.eight_bit,
        };
        let under_way: Vec<u32> = (0..)
            .zip(&kept.recipients)
            .filter_map(|(index, recipient)| recipient.in_doubt.then_some(index))
            .collect();
        let so_far = SoFar { fates, under_way };
        Waiting::append(core, &accepted, &content, &so_far, pieces)
    }
}

/// Messages on their way from one folder to the other. If that is not completed, the copies here
/// are dead: the originals stay, and move another time.
struct Moving {
    all: Vec<(Waiting, QueueId, Option<Kept>)>,
    done: bool,
}

impl Drop for Moving {
    fn drop(&mut self) {
        for (waiting, _, _) in &mut self.all {
            if self.done {
                waiting.keep();
            } else {
                // Not removed: the message lives on in the other folder.
                waiting.give_up();
            }
        }
    }
}
