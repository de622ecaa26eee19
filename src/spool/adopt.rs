//! Adoption: the live messages of a folder whose shard is no more move into this spool.
//!
//! A message moves as one record that also says what became of its recipients so far, so that a
//! torn commit cannot bring the one without the other. The old folder's files go only when every
//! record is durable here. A crash before that leaves both: the next adoption finds the messages
//! here, alive or ended, and leaves the old copies behind.

use super::batch::Purpose;
use super::draft::Waiting;
use super::record::{self, PriorStatus};
use super::recovery::Scan;
use super::{Recovered, RecoveredRecipient, Recovery, Spool, SpoolError, folder, segment};
use crate::message::{Content, QueueId, Reason, RecipientStatus};
use crate::ring;
use std::io;
use std::path::Path;

impl Spool {
    /// Takes the live messages of `other`, the folder of a shard that does not run, into this spool
    /// and removes that folder's segments. Ids, attempts and due times stay. Call it before
    /// anything is delivered: a message that a crash left in both folders is known by the one here.
    ///
    /// `before` is what [`Spool::open`] and earlier adoptions gave. After an error nothing is lost
    /// and nothing was removed; it may be called again.
    pub async fn adopt(&self, other: &Path, before: &[Recovery]) -> Result<Recovery, SpoolError> {
        let core = &self.handle.core;
        // Every live record is read anyway, and one that is damaged must not keep the others back.
        let read = folder::read(other, Scan::of_all_bytes())?;
        let mut set_aside = folder::set_aside(other, &read.findings.set_aside, true);
        set_aside.extend(folder::told_missing(other, &read.missing));
        let mut recovery = Recovery {
            set_aside,
            torn_bytes: read.findings.torn_bytes,
            segments: read.segments.len(),
            bytes_read: read.scan.bytes_read,
            ..Recovery::default()
        };
        let mut moving = Moving { all: Vec::new(), done: false };
        for message in read.scan.replay.into_live() {
            let id = message.id;
            let known = core.state.borrow().foreign.contains(&id)
                || before.iter().any(|one| one.messages.has(id));
            if !known {
                let waiting = self.take_over(other, &message).await?;
                moving.all.push((waiting, id, Some(message)));
            }
        }
        let mut messages = Vec::with_capacity(moving.all.len());
        for (waiting, _, message) in &mut moving.all {
            let placement = waiting.written().await?;
            if let Some(message) = message.take() {
                messages.push(Recovered { placement, ..message });
            }
        }
        recovery.messages = messages.into();
        moving.done = true;
        core.state.borrow_mut().foreign.extend(moving.all.iter().map(|(_, id, _)| *id));
        drop(moving);
        folder::remove(other, &read.segments)?;
        Ok(recovery)
    }

    async fn take_over(&self, other: &Path, kept: &Recovered) -> Result<Waiting, SpoolError> {
        let core = &self.handle.core;
        let at = kept.placement;
        let path = segment::path(other, at.segment);
        let unreadable = |error: io::Error| folder::failed(&path, &error);
        let file = ring::File::open(&path).await.map_err(unreadable)?;
        let bytes =
            file.read(u64::from(at.offset), at.length as usize).await.map_err(unreadable)?;
        let damaged = || folder::failed(&path, &io::ErrorKind::InvalidData.into());
        let (header, payload) = record::check(&bytes, at.segment, at.offset).ok_or_else(damaged)?;
        let path_of = |number| segment::path(other, number).into();
        let (message, _) =
            record::decode_message(&header, payload, path_of).map_err(|_| damaged())?;
        let mut draft = self.draft_for(Purpose::Mail);
        let (message, content) = message.split();
        let (content, pieces) = match content {
            Content::Streamed(pieces) => {
                for piece in &pieces {
                    draft.extend(&piece.read().await.map_err(unreadable)?).await?;
                }
                draft.finish().await?
            }
            whole @ Content::Whole(_) => {
                let room = core.wait_for_room(Purpose::Mail, bytes.len()).await;
                room.map_err(|failure| core.error_of(failure))?;
                (whole, Vec::new())
            }
        };
        let message = message.with_content(content);
        let statuses: Vec<(u32, RecipientStatus)> = (0..)
            .zip(&kept.recipients)
            .filter_map(|(index, recipient)| Some((index, status_of(recipient)?)))
            .collect();
        let in_flight: Vec<u32> = (0..)
            .zip(&kept.recipients)
            .filter_map(|(index, recipient)| recipient.in_doubt.then_some(index))
            .collect();
        let so_far = PriorStatus { statuses, in_flight, reported: None };
        Waiting::append(core, Purpose::Mail, &message, &so_far, pieces)
    }
}

/// What the record here says of a recipient; nothing when it was never tried.
fn status_of(recipient: &RecoveredRecipient) -> Option<RecipientStatus> {
    let RecoveredRecipient { ended, attempts, due, reason, .. } = recipient;
    if *ended {
        return Some(RecipientStatus::Over);
    }
    let reason = Reason::clone(reason.as_deref()?);
    Some(RecipientStatus::Waiting { attempts: *attempts, due: (*due)?, reason })
}

/// Messages that move from one folder to the other. If that is not completed, the copies here
/// are dead: the originals stay, and move another time.
struct Moving {
    all: Vec<(Waiting, QueueId, Option<Recovered>)>,
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
