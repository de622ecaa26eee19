//! The compactor: the live mail of the oldest segment moves to the head, so that a few messages
//! that wait for days do not keep the disk that millions have passed through since.
//!
//! A message moves as one record that also says what became of its recipients so far (as it does
//! when a folder is adopted); of streamed content only the pieces in the oldest segment move, under
//! their old name. Order of operations, so that power may fail at any line:
//! 1. records and pieces are appended to the batch that fills, like mail;
//! 2. when their commit is durable, the queue gets the new place, and the old one is dead;
//! 3. when nothing lives in the segment any more, it is recycled.
//!
//! Until 3 both copies are there, and a start takes the later one. A message that ends between 1
//! and 2 is dead in both places: its last ending comes behind the later copy. What is being read
//! keeps its segment: see [`Core::path`].

use super::batch::Purpose;
use super::commit::{Core, Moving, State};
use super::commit_waiter::{Appended, Failure};
use super::live::LiveRef;
use super::record::{self, PriorStatus};
use super::replay::join;
use super::{Placement, QueueIndex};
use crate::limits::{SPOOL_MOVE_BYTES_PER_SECOND, SPOOL_MOVE_STEP_BYTES};
use crate::message::{Content, Piece, QueueId, RecipientStatus};
use crate::ring;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// While more segments exist than are always there, the compactor looks at them so often.
const LOOK: Duration = Duration::from_secs(1);

/// Why a message was not moved.
enum Stay {
    /// It is not in the queue (yet, or any more), or cannot be read.
    Here,
    /// The spool has no space, or has failed.
    Failed,
}

impl From<Failure> for Stay {
    fn from(_: Failure) -> Stay {
        Stay::Failed
    }
}

/// Cleans for as long as the spool is open.
pub(super) async fn clean(core: Rc<Core>, register: Weak<dyn QueueIndex>) {
    loop {
        let (segment, crowded, over) = {
            let state = core.state.borrow();
            (state.log.to_clean(), state.log.is_crowded(), state.is_over())
        };
        if over || register.strong_count() == 0 {
            return;
        }
        let done = match segment {
            Some(segment) => core.clean_segment(segment, &register).await,
            None => false,
        };
        // With live mail that cannot move yet there is no hurry to look at it again.
        match (done, crowded) {
            (true, _) => {}
            (false, true) => {
                core.cleaning.wait_for(LOOK).await;
            }
            (false, false) => core.cleaning.wait().await,
        }
    }
}

impl Core {
    /// Moves what lives in `segment`; whether nothing does any more.
    async fn clean_segment(self: &Rc<Core>, segment: u32, register: &Weak<dyn QueueIndex>) -> bool {
        let all = self.who_lives_in(segment, register).await;
        let mut step = Step { core: Rc::clone(self), ids: Vec::new(), bytes: 0 };
        let mut result = Ok(());
        for id in all {
            match self.move_one(id, segment, register, &mut step).await {
                Ok(()) | Err(Stay::Here) => {}
                Err(Stay::Failed) => {
                    result = Err(Stay::Failed);
                    break;
                }
            }
            if step.bytes >= SPOOL_MOVE_STEP_BYTES {
                result = step.finish(register).await;
            }
            if result.is_err() {
                break;
            }
        }
        if result.is_ok() {
            result = step.finish(register).await;
        }
        drop(step);
        self.wake_allocator();
        result.is_ok() && self.state.borrow().log.alive_in(segment).records == 0
    }

    /// The messages that need something in `segment`, oldest first, as far as the queue has them.
    async fn who_lives_in(&self, segment: u32, register: &Weak<dyn QueueIndex>) -> Vec<QueueId> {
        let streamed = |state: &State| -> Vec<QueueId> {
            let in_it =
                |pieces: &[LiveRef]| pieces.iter().any(|live_ref| live_ref.segment == segment);
            let all = state.pieces.iter().filter(|(_, pieces)| in_it(pieces));
            all.map(|(&id, _)| id).collect()
        };
        let mut all = streamed(&self.state.borrow());
        let mut cursor = Some(0);
        while let Some(from) = cursor {
            let Some(register) = register.upgrade() else { break };
            let (found, next) = register.in_segment(segment, from);
            all.extend(found);
            cursor = next;
            drop(register);
            ring::yield_now().await;
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Appends one message again, if the queue has it.
    async fn move_one(
        self: &Rc<Core>,
        id: QueueId,
        segment: u32,
        register: &Weak<dyn QueueIndex>,
        step: &mut Step,
    ) -> Result<(), Stay> {
        let placement = || register.upgrade().and_then(|register| register.placement(id));
        let at = placement().ok_or(Stay::Here)?;
        let file = self.reader(at.segment).await.map_err(|_| Stay::Here)?;
        let read = file.read(u64::from(at.offset), at.length as usize).await;
        let bytes = read.map_err(|_| Stay::Here)?;
        drop(file);
        let (header, payload) = record::check(&bytes, at.segment, at.offset).ok_or(Stay::Here)?;
        if header.id != id {
            return Err(Stay::Here);
        }
        let decoded = record::decode_message(&header, payload, |number| self.path(number));
        let (mut message, _) = decoded.map_err(|_| Stay::Here)?;
        drop(bytes);
        let mut chunks = Chunks { core: self, all: Vec::new() };
        if let Content::Streamed(pieces) = &mut message.content {
            self.move_pieces(segment, pieces, &mut chunks, step).await?;
        }
        self.wait_for_room(Purpose::Move, 0).await?;
        // From here on nothing waits: what the queue says now is what the record says.
        let standing = register.upgrade().and_then(|register| register.message_state(id));
        let standing = standing.filter(|_| placement() == Some(at)).ok_or(Stay::Here)?;
        let state = &mut *self.state.borrow_mut();
        let recipients = message.envelope.recipients.len();
        let statuses =
            statuses(recipients, standing.open.iter().map(|one| (one.index, &one.status)));
        let in_flight =
            standing.open.iter().filter(|one| one.in_flight).map(|one| one.index).collect();
        let so_far = PriorStatus { statuses, in_flight, reported: None };
        let appended = state.append_moved(&message, &so_far).ok_or(Stay::Here)?;
        step.ids.push(id);
        step.bytes += appended.slot.length as usize;
        let pieces = chunks.hand_over();
        state.moving.insert(id, Moving { appended, from: at, segment, pieces });
        // Most of a step shares a commit: each one is padded, and that is space on a full disk.
        if state.batch.mail_bytes() >= state.log.mail_bytes_max() / 2 {
            self.wake_committer();
        }
        Ok(())
    }

    /// Appends those of `pieces` that lie in `segment` again, and notes where they are then.
    async fn move_pieces(
        &self,
        segment: u32,
        pieces: &mut [Piece],
        chunks: &mut Chunks<'_>,
        step: &mut Step,
    ) -> Result<(), Stay> {
        for piece in pieces.iter_mut().filter(|piece| piece.segment == segment) {
            let content = piece.read().await.map_err(|_| Stay::Here)?;
            self.wait_for_room(Purpose::Move, content.len()).await?;
            chunks.all.push(self.chunk(Purpose::Move, piece.draft, piece.index, &content));
            step.bytes += content.len();
            step.pace().await;
        }
        let moved = pieces.iter_mut().filter(|piece| piece.segment == segment);
        for (piece, appended) in moved.zip(&chunks.all) {
            let Appended { waiter, slot } = appended;
            let (segment, start) = waiter.wait_for_place().await?;
            piece.path = self.path(segment);
            piece.segment = segment;
            piece.offset = start.saturating_add(slot.offset);
        }
        Ok(())
    }
}

/// Moves that are not durable yet, in one commit or a few.
struct Step {
    core: Rc<Core>,
    ids: Vec<QueueId>,
    bytes: usize,
}

impl Step {
    /// Waits until all are durable, and says so to the queue.
    async fn finish(&mut self, register: &Weak<dyn QueueIndex>) -> Result<(), Stay> {
        self.core.wake_committer();
        while let Some(&id) = self.ids.last() {
            let waiter = {
                let state = self.core.state.borrow();
                state.moving.get(&id).map(|moving| Rc::clone(&moving.appended.waiter))
            };
            // Not there: it has ended meanwhile.
            if let Some(waiter) = waiter {
                waiter.wait().await?;
                let moved = self.core.state.borrow_mut().moved(id);
                if let (Some(placement), Some(register)) = (moved, register.upgrade()) {
                    register.moved(id, placement);
                }
            }
            self.ids.pop();
        }
        self.pace().await;
        Ok(())
    }

    /// Keeps to the share of the disk, unless the disk fills faster than that.
    async fn pace(&mut self) {
        if self.bytes < SPOOL_MOVE_STEP_BYTES && !self.ids.is_empty() {
            return;
        }
        let late = self.core.state.borrow().log.is_over(2);
        let bytes = std::mem::take(&mut self.bytes);
        if !late {
            let wait = bytes as f64 / SPOOL_MOVE_BYTES_PER_SECOND as f64;
            ring::sleep(Duration::from_secs_f64(wait)).await;
        }
    }
}

/// A step that is not finished leaves the old records to be the ones.
impl Drop for Step {
    fn drop(&mut self) {
        if let Ok(mut state) = self.core.state.try_borrow_mut() {
            for id in self.ids.drain(..) {
                if let Some(moving) = state.moving.remove(&id) {
                    state.give_up_move(moving);
                }
            }
        }
    }
}

/// Pieces that were appended again and belong to no record yet.
struct Chunks<'a> {
    core: &'a Core,
    all: Vec<Appended>,
}

impl Chunks<'_> {
    /// They are a message's from now on.
    fn hand_over(&mut self) -> Vec<LiveRef> {
        let mut pieces = Vec::new();
        let live_refs = self.all.drain(..).filter_map(Appended::into_live_ref);
        live_refs.for_each(|live_ref| join(&mut pieces, live_ref));
        pieces
    }
}

impl Drop for Chunks<'_> {
    fn drop(&mut self) {
        if !self.all.is_empty() {
            self.core.give_up(self.all.drain(..));
        }
    }
}

impl State {
    /// The new record of `id` is durable: where it is. `None` when the message has ended.
    fn moved(&mut self, id: QueueId) -> Option<Placement> {
        let Moving { appended, from, segment, pieces } = self.moving.remove(&id)?;
        let to = appended.placement()?;
        self.log.release(LiveRef::in_record(from));
        if let Some(known) = self.pieces.get_mut(&id) {
            let left: Vec<LiveRef> =
                known.extract_if(.., |live_ref| live_ref.segment == segment).collect();
            pieces.into_iter().for_each(|live_ref| join(known, live_ref));
            self.release(left);
        }
        Some(to)
    }
}

fn statuses<'a>(
    recipients: usize,
    open: impl Iterator<Item = (u32, &'a Option<RecipientStatus>)>,
) -> Vec<(u32, RecipientStatus)> {
    let mut statuses: Vec<Option<RecipientStatus>> = vec![Some(RecipientStatus::Over); recipients];
    for (index, status) in open {
        if let Some(place) = statuses.get_mut(index as usize) {
            place.clone_from(status);
        }
    }
    (0..).zip(statuses).filter_map(|(index, status)| Some((index, status?))).collect()
}
