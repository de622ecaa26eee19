//! What the spool's cleaner is told of the queue: where each message is, and what became of its
//! recipients so far.

use super::queue::{Queue, placement};
use crate::message::{Content, QueueId, Reason, RecipientStatus, Stage, Status, Timestamp};
use crate::scheduler::{RecipientView, Slot};
use crate::spool::{MessageState, Open, Placement, QueueIndex, Remains};

impl QueueIndex for Queue {
    fn placement(&self, id: QueueId) -> Option<Placement> {
        let scheduler = self.scheduler.borrow();
        let (_, at) = scheduler.whereabouts(scheduler.find(id)?)?;
        Some(placement(at))
    }

    fn in_segment(&self, segment: u32, cursor: u32) -> (Vec<QueueId>, Option<u32>) {
        self.scheduler.borrow().placed(cursor, |[of_it, ..]| of_it == segment)
    }

    fn message_state(&self, id: QueueId) -> Option<MessageState> {
        let scheduler = self.scheduler.borrow();
        let slot = scheduler.find(id)?;
        let mut open: Vec<Open> = scheduler.message(slot)?.recipients.iter().map(open_of).collect();
        // Over for the scheduler, but their report is not stored yet: a crash must find them open.
        let failing = self.failing.borrow();
        let failing = failing.get(&slot).into_iter().flatten();
        open.extend(failing.map(|&index| Open { index, status: None, in_flight: false }));
        Some(MessageState { open })
    }

    fn moved(&self, id: QueueId, to: Placement) {
        let mut scheduler = self.scheduler.borrow_mut();
        let Some(slot) = scheduler.find(id) else { return };
        scheduler.moved(slot, [to.segment, to.offset, to.length]);
        drop(scheduler);
        // Its pieces would keep the old segment for as long as it waits.
        let mut hot = self.hot.borrow_mut();
        if hot.find(slot).is_some_and(|kept| matches!(kept.content, Content::Streamed(_))) {
            hot.forget(slot);
        }
    }

    fn is_in_memory(&self, id: QueueId) -> bool {
        let slot = self.scheduler.borrow().find(id);
        slot.is_some_and(|slot| self.hot.borrow().find(slot).is_some())
    }

    fn lost(&self, id: QueueId, remains: &Remains) {
        let slot = self.scheduler.borrow().find(id);
        if let Some(slot) = slot {
            self.end_damaged(id, slot, &[], remains);
        }
    }
}

impl Queue {
    /// These recipients fail, and that is not recorded yet.
    pub(super) fn begin_to_fail(&self, slot: Slot, recipients: impl Iterator<Item = u32>) {
        let mut failing = self.failing.borrow_mut();
        let known = failing.entry(slot).or_default();
        recipients.for_each(|index| {
            if !known.contains(&index) {
                known.push(index);
            }
        });
    }

    /// It is recorded.
    pub(super) fn has_failed(&self, slot: Slot, recipient: u32) {
        let mut failing = self.failing.borrow_mut();
        if let Some(known) = failing.get_mut(&slot) {
            known.retain(|&index| index != recipient);
            if known.is_empty() {
                failing.remove(&slot);
            }
        }
    }
}

fn open_of(recipient: &RecipientView<'_>) -> Open {
    let status = (recipient.attempts > 0).then(|| RecipientStatus::Waiting {
        attempts: recipient.attempts,
        // While it is out its time has come already.
        due: recipient.due.unwrap_or(Timestamp(0)),
        reason: recipient.reason.map_or_else(unknown, |reason| (**reason).clone()),
    });
    Open { index: recipient.index, status, in_flight: recipient.due.is_none() }
}

fn unknown() -> Reason {
    Reason::ours(Stage::Local, Status(4, 0, 0), "tried before")
}
