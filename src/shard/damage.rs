//! A queued message that the spool cannot give: put off while that may be for now, ended when its
//! record is damaged, because trying again would not mend it.

use super::now;
use super::queue::{Queue, UNREADABLE, placement};
use crate::event::{Event, Kind};
use crate::message::{Content, Message, QueueId, Reason, RecipientStatus, Stage, Status};
use crate::ring;
use crate::scheduler::{AttemptResult, Disposition, Slot};
use crate::spool::{Remains, SpoolError};
use std::rc::Rc;
use std::sync::Arc;

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
        match self.set_aside(id, slot, error).await {
            Some(copy) => self.end_damaged(id, slot, recipients, &copy),
            None => self.put_off(slot, recipients, UNREADABLE),
        }
    }

    /// If the message's record is beyond reading: what is left of it.
    pub(super) async fn set_aside(
        &self,
        id: QueueId,
        slot: Slot,
        error: &SpoolError,
    ) -> Option<Remains> {
        let whereabouts = self.scheduler.borrow().whereabouts(slot);
        let (SpoolError::Damaged { .. }, Some((known, at))) = (error, whereabouts) else {
            return None;
        };
        let set_aside = match known == id {
            true => self.spool.set_aside(id, placement(at)).await,
            false => Ok(None),
        };
        let still = self.scheduler.borrow().whereabouts(slot) == Some((id, at));
        match set_aside {
            Ok(remains) => remains.filter(|_| still),
            Err(error) => {
                tracing::error!(%id, %error, "a damaged record cannot be copied to the quarantine");
                None
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
                Ok(Some(copy)) => {
                    let whereabouts = queue.scheduler.borrow().whereabouts(slot);
                    if whereabouts.is_some_and(|(known, _)| known == id) {
                        queue.end_damaged(id, slot, &[], &copy);
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::error!(%id, %error, "the content cannot be read"),
            }
        });
    }

    /// Ends these recipients, which are out, and all others that are not. Those out elsewhere have
    /// the message in memory.
    pub(super) fn end_damaged(
        &self,
        id: QueueId,
        slot: Slot,
        recipients: &[u32],
        remains: &Remains,
    ) {
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
                    true => scheduler.settle(slot, index, AttemptResult::Over, None, now()),
                    false => scheduler.remove(slot, &[index]).pop().map(|(_, settled)| settled),
                };
                if let Some(Disposition::Ended { attempts }) = settled {
                    ended.push((index, to, attempts));
                }
            }
        }
        let words = format!("the message is damaged on the disk: {remains}");
        let reason = Reason::ours(Stage::Local, Status(5, 3, 0), words);
        for (index, to, attempts) in &ended {
            self.spool.settle(id, *index, &RecipientStatus::Removed);
            let event = Event::new(Kind::SetAside, now()).of(id, None).because(&reason);
            self.events.emit(&Event { from: None, to: Some(to), attempt: *attempts, ..event });
        }
        self.free_if_over(slot, id);
        self.changed();
    }
}
