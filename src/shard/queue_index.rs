//! What the spool's compactor asks of the queue: where each message is, and what became of its
//! recipients so far.

use super::driver::Driver;
use crate::message::{Content, QueueId, Reason, RecipientStatus, Stage, Status, Timestamp};
use crate::scheduler::RecipientView;
use crate::spool::{MessageState, Open, Placement, QueueIndex, Remains};

impl QueueIndex for Driver {
    fn placement(&self, id: QueueId) -> Option<Placement> {
        let origin = self.origin.borrow();
        let (_, at) = origin.scheduler.whereabouts(origin.scheduler.find(id)?)?;
        Some(at)
    }

    fn in_segment(&self, segment: u32, cursor: u32) -> (Vec<QueueId>, Option<u32>) {
        self.origin.borrow().scheduler.placed(cursor, |at| at.segment == segment)
    }

    fn message_state(&self, id: QueueId) -> Option<MessageState> {
        let origin = self.origin.borrow();
        let slot =
            origin.scheduler.find(id).filter(|&slot| !origin.scheduler.is_reporting(slot))?;
        let view = origin.scheduler.message(slot)?;
        // Those whose ending was not written yet, though they have ended, must be found open.
        let open = view.recipients.iter().filter(|one| !one.noted).map(open_of);
        Some(MessageState { open: open.collect() })
    }

    fn moved(&self, id: QueueId, to: Placement) {
        let origin = &mut *self.origin.borrow_mut();
        let Some(slot) = origin.scheduler.find(id) else { return };
        origin.scheduler.moved(slot, to);
        // Its pieces would keep the old segment for as long as it waits.
        let kept = origin.hot.find(slot);
        if kept.is_some_and(|kept| matches!(kept.content, Content::Streamed(_))) {
            origin.hot.forget(slot);
        }
    }

    fn is_in_memory(&self, id: QueueId) -> bool {
        let origin = self.origin.borrow();
        origin.scheduler.find(id).is_some_and(|slot| origin.hot.find(slot).is_some())
    }

    fn lost(&self, id: QueueId, remains: &Remains) {
        let origin = &mut *self.origin.borrow_mut();
        if let Some(slot) = origin.scheduler.find(id) {
            origin.end_damaged(id, slot, &[], remains);
        }
    }
}

fn open_of(recipient: &RecipientView<'_>) -> Open {
    let status = (recipient.attempts > 0).then(|| RecipientStatus::Waiting {
        attempts: recipient.attempts,
        // While it is out, or about to end, its time has come already.
        due: recipient.due.unwrap_or(Timestamp(0)),
        reason: recipient.reason.map_or_else(unknown, |reason| (**reason).clone()),
    });
    Open { index: recipient.index, status, in_flight: recipient.state == "out" }
}

fn unknown() -> Reason {
    Reason::ours(Stage::Local, Status(4, 0, 0), "tried before")
}
