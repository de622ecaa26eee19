//! The cleaner: the live mail of the oldest segment moves to the head, so that a few messages that
//! wait for days do not keep the disk that millions have passed through since.
//!
//! A message moves as one record that also says what became of its recipients so far (as it does
//! when a folder is adopted); of streamed content only the pieces in the oldest segment move, under
//! their old name. Order of operations, so that power may fail at any line:
//! 1. records and pieces are appended to the batch that fills, like mail;
//! 2. when their commit is durable, the queue is told the new place, and the old one is dead;
//! 3. when nothing lives in the segment any more, it is recycled.
//!
//! Until 3 both copies are there, and a start takes the later one. A message that ends between 1 and 2 is dead in both places: its last ending comes
//! behind the later copy. What is being read keeps its segment: see [`Core::path`].

use super::batch::Slot;
use super::commit::{Core, State};
use super::content::Content;
use super::draft::placement_of;
use super::fold::pieces_of;
use super::record::{self, Extent, Record, SoFar, Stored, StoredContent};
use super::ticket::{Failure, Ticket};
use super::{Accepted, Fate, Placement, Register};
use crate::limits::{SPOOL_MOVE_BYTES_PER_SECOND, SPOOL_MOVE_STEP_BYTES};
use crate::message::QueueId;
use crate::ring;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// While more segments exist than are always there, the cleaner looks at them so often.
const LOOK: Duration = Duration::from_secs(1);

/// A message whose new record is on its way.
pub(super) struct Moving {
    pub(super) ticket: Rc<Ticket>,
    pub(super) slot: Slot,
    from: Placement,
    /// All pieces of it, moved or not: segments and bytes.
    pub(super) pieces: Vec<(u32, u32)>,
}

/// Why a message was not moved.
enum Stay {
    /// It is not in the queue (yet, or any more), or cannot be read.
    Here,
    /// The spool has no room, or has failed.
    Failed,
}

impl From<Failure> for Stay {
    fn from(_: Failure) -> Stay {
        Stay::Failed
    }
}

/// Cleans for as long as the spool is open.
pub(super) async fn clean(core: Rc<Core>, register: Weak<dyn Register>) {
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
    async fn clean_segment(self: &Rc<Core>, segment: u32, register: &Weak<dyn Register>) -> bool {
        let all = self.state.borrow().log.alive_in(segment);
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
        self.wake_keeper();
        result.is_ok() && self.state.borrow().log.alive_in(segment).is_empty()
    }

    /// Appends one message again, if the queue has it.
    async fn move_one(
        self: &Rc<Core>,
        id: QueueId,
        segment: u32,
        register: &Weak<dyn Register>,
        step: &mut Step,
    ) -> Result<(), Stay> {
        let placement = || register.upgrade().and_then(|register| register.placement(id));
        let at = placement().ok_or(Stay::Here)?;
        let file = self.reader(at.segment).await.map_err(|_| Stay::Here)?;
        let read = file.read(u64::from(at.offset), at.length as usize).await;
        let bytes = read.map_err(|_| Stay::Here)?;
        let (header, payload) = record::check(&bytes, at.segment, at.offset).ok_or(Stay::Here)?;
        let Ok(Record::Message(stored)) = record::decode(&header, payload) else {
            return Err(Stay::Here);
        };
        if header.id != id {
            return Err(Stay::Here);
        }
        let mut chunks = Chunks { core: self, draft: QueueId(0), all: Vec::new() };
        let content = match &stored.content {
            StoredContent::Inline(bytes) => StoredContent::Inline(bytes),
            StoredContent::Chunks(draft, extents) => {
                chunks.draft = *draft;
                let moved = self.move_pieces(segment, extents, &mut chunks, step).await?;
                StoredContent::Chunks(*draft, moved)
            }
        };
        self.wait_for_room().await?;
        // From here on nothing waits: what the queue says now is what the record says.
        let standing = register.upgrade().and_then(|register| register.standing(id));
        let standing = standing.filter(|_| placement() == Some(at)).ok_or(Stay::Here)?;
        let state = &mut *self.state.borrow_mut();
        if !state.log.holds_in(at.segment, id) {
            return Err(Stay::Here);
        }
        let recipients = stored.envelope.recipients.len();
        let fates = fates(recipients, standing.open.iter().map(|one| (one.index, &one.fate)));
        let under_way =
            standing.open.iter().filter(|one| one.under_way).map(|one| one.index).collect();
        let so_far = SoFar { fates, under_way };
        let (ticket, slot) =
            state.append_moved(&accepted(id, stored), &content, &so_far).ok_or(Stay::Here)?;
        let pieces = match &content {
            StoredContent::Inline(_) => Vec::new(),
            StoredContent::Chunks(_, extents) => pieces_of(extents),
        };
        chunks.become_of(state, id);
        state.moving.insert(id, Moving { ticket, slot, from: at, pieces });
        step.ids.push(id);
        step.bytes += slot.length as usize;
        self.wake_committer();
        Ok(())
    }

    /// Appends the pieces that lie in `segment` again: where all pieces are then.
    async fn move_pieces(
        &self,
        segment: u32,
        extents: &[Extent],
        chunks: &mut Chunks<'_>,
        step: &mut Step,
    ) -> Result<Vec<Extent>, Stay> {
        let mut places = extents.to_vec();
        let Content::Streamed(pieces) =
            Content::streamed(|number| self.path(number), chunks.draft, extents)
        else {
            return Err(Stay::Here);
        };
        for (index, (extent, piece)) in (0..).zip(extents.iter().zip(pieces)) {
            if extent.segment != segment {
                continue;
            }
            let content = piece.read().await.map_err(|_| Stay::Here)?;
            self.wait_for_room().await?;
            let (ticket, slot) = self.chunk(chunks.draft, index, &content);
            chunks.all.push((Rc::clone(&ticket), slot, *extent));
            let (segment, start) = ticket.wait_for_place().await?;
            if let Some(place) = places.get_mut(index as usize) {
                place.segment = segment;
                place.offset = start.saturating_add(slot.offset);
            }
            step.bytes += content.len();
            step.pace().await;
        }
        Ok(places)
    }
}

/// Moves on their way in one commit or a few.
struct Step {
    core: Rc<Core>,
    ids: Vec<QueueId>,
    bytes: usize,
}

impl Step {
    /// Waits until all are durable, and says so to the queue.
    async fn finish(&mut self, register: &Weak<dyn Register>) -> Result<(), Stay> {
        while let Some(&id) = self.ids.last() {
            let ticket = {
                let state = self.core.state.borrow();
                state.moving.get(&id).map(|moving| Rc::clone(&moving.ticket))
            };
            // Not there: it has ended meanwhile.
            if let Some(ticket) = ticket {
                let (segment, offset) = ticket.wait().await?;
                let moved = {
                    let state = &mut *self.core.state.borrow_mut();
                    state.moved(id, segment, offset)
                };
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
                state.stays(id);
            }
        }
    }
}

/// Pieces that were appended again and belong to no record yet.
struct Chunks<'a> {
    core: &'a Core,
    draft: QueueId,
    all: Vec<(Rc<Ticket>, Slot, Extent)>,
}

impl Chunks<'_> {
    /// They are the message's now, at their new place too.
    fn become_of(&mut self, state: &mut State, id: QueueId) {
        for (ticket, slot, extent) in self.all.drain(..) {
            if let Some((segment, _)) = ticket.place() {
                state.log.release(segment, self.draft, u64::from(slot.length));
                state.log.hold(segment, id, extent.length);
            }
        }
    }
}

impl Drop for Chunks<'_> {
    fn drop(&mut self) {
        for (ticket, slot, _) in self.all.drain(..) {
            self.core.forget(self.draft, &ticket, slot.length);
        }
    }
}

impl State {
    /// The new record of `id` is durable: where it is. `None` when the message has ended.
    fn moved(&mut self, id: QueueId, segment: u32, offset: u32) -> Option<Placement> {
        let moving = self.moving.remove(&id)?;
        let old = self.holdings(id, moving.from);
        let to = placement_of(moving.slot, segment, offset);
        for (held, bytes) in old {
            let kept = moving.pieces.iter().find(|(segment, _)| *segment == held);
            match kept {
                // The record lay beside pieces that stay, or the new one does.
                Some(&(_, kept)) => self.log.shrink(held, bytes.saturating_sub(u64::from(kept))),
                None if held == segment => self.log.shrink(held, bytes),
                None => {
                    self.log.release(held, id, bytes);
                }
            }
        }
        if !moving.pieces.is_empty() {
            self.pieces.insert(id, moving.pieces);
        }
        Some(to)
    }

    /// The new record of `id` is not to be: the old one stays.
    fn stays(&mut self, id: QueueId) {
        let Some(moving) = self.moving.remove(&id) else { return };
        let old = self.holdings(id, moving.from);
        self.drop_moving(id, &moving, &old);
    }
}

fn fates<'a>(
    recipients: usize,
    open: impl Iterator<Item = (u32, &'a Option<Fate>)>,
) -> Vec<(u32, Fate)> {
    let mut fates: Vec<Option<Fate>> = vec![Some(Fate::Over); recipients];
    for (index, fate) in open {
        if let Some(place) = fates.get_mut(index as usize) {
            place.clone_from(fate);
        }
    }
    (0..).zip(fates).filter_map(|(index, fate)| Some((index, fate?))).collect()
}

fn accepted(id: QueueId, stored: Box<Stored<'_>>) -> Accepted {
    Accepted {
        id,
        received_at: stored.received_at,
        envelope: stored.envelope,
        options: stored.options,
        trace: stored.trace.to_vec(),
        dot_stuffed: stored.dot_stuffed,
        eight_bit: stored.eight_bit,
    }
}
