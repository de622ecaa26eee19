//! A queued message that the spool cannot give: put off while that may be for now, ended when its
//! record is damaged, because trying again would not mend it.

use super::now;
use super::queue::{Queue, UNREADABLE, placement};
use crate::event::{Event, Kind};
use crate::message::{QueueId, Reason, Stage, Status};
use crate::ring;
use crate::scheduler::{Settled, Slot, Verdict};
use crate::spool::{Content, Fate, Message, SpoolError};
use std::rc::Rc;
use std::sync::Arc;

const DAMAGED: &str = "the message is damaged on the disk: what is left of it is in the quarantine";

impl Queue {
    /// These recipients of a message are out, and it could not be loaded because of `error`.
    pub(super) async fn unreadable(
        self: &Rc<Self>,
        slot: Slot,
        recipients: &[u32],
        error: &SpoolError,
    ) {
        let whereabouts = self.scheduler.borrow().whereabouts(slot);
        let Some((id, _)) = whereabouts else { return };
        tracing::error!(%id, %error, "a queued message cannot be read");
        if self.is_damaged(id, slot, error).await {
            self.end_damaged(id, slot, recipients);
        } else {
            self.put_off(slot, recipients, UNREADABLE);
        }
    }

    /// Whether the message's record is beyond reading, and kept in the quarantine.
    pub(super) async fn is_damaged(&self, id: QueueId, slot: Slot, error: &SpoolError) -> bool {
        let whereabouts = self.scheduler.borrow().whereabouts(slot);
        let (SpoolError::Damaged { .. }, Some((known, at))) = (error, whereabouts) else {
            return false;
        };
        let set_aside = match known == id {
            true => self.spool.set_aside(id, placement(at)).await,
            false => Ok(false),
        };
        let still = self.scheduler.borrow().whereabouts(slot) == Some((id, at));
        match set_aside {
            Ok(damaged) => damaged && still,
            Err(error) => {
                tracing::error!(%id, %error, "a damaged record cannot be copied to the quarantine");
                false
            }
        }
    }

    /// Streamed content could not be read while it was sent: ends the message if it is damaged.
    pub(super) fn weigh_content(self: &Rc<Self>, slot: Slot, message: &Arc<Message>) {
        let (queue, message) = (Rc::clone(self), Arc::clone(message));
        ring::spawn("damaged content", async move {
            let Content::Streamed(pieces) = &message.content else { return };
            let id = message.id;
            match queue.spool.set_aside_pieces(id, pieces).await {
                Ok(true) => {
                    let whereabouts = queue.scheduler.borrow().whereabouts(slot);
                    if whereabouts.is_some_and(|(known, _)| known == id) {
                        queue.end_damaged(id, slot, &[]);
                    }
                }
                Ok(false) => {}
                Err(error) => tracing::error!(%id, %error, "the content cannot be read"),
            }
        });
    }

    /// Ends these recipients, which are out, and all others that are not. Those out elsewhere have
    /// the message in memory.
    fn end_damaged(self: &Rc<Self>, id: QueueId, slot: Slot, recipients: &[u32]) {
        let mut ended: Vec<(u32, String, u16)> = Vec::new();
        {
            let mut scheduler = self.scheduler.borrow_mut();
            let Some(view) = scheduler.message(slot) else { return };
            let all: Vec<(u32, String)> = view
                .recipients
                .iter()
                .map(|one| (one.index, format!("?@{}", one.domain)))
                .collect();
            for (index, to) in all {
                let settled = match recipients.contains(&index) {
                    true => scheduler.settle(slot, index, Verdict::Over, None, now()),
                    false => scheduler.remove(slot, &[index]).pop().map(|(_, settled)| settled),
                };
                if let Some(Settled::Ended { attempts }) = settled {
                    ended.push((index, to, attempts));
                }
            }
        }
        let reason = Reason::ours(Stage::Local, Status(5, 3, 0), DAMAGED);
        for (index, to, attempts) in &ended {
            self.spool.settle(id, *index, &Fate::Removed);
            let event = Event::new(Kind::SetAside, now()).of(id, None).because(&reason);
            self.events.emit(&Event { from: None, to: Some(to), attempt: *attempts, ..event });
        }
        self.free_if_over(slot, id);
        self.changed();
    }
}
