//! A queued message that the spool cannot give: put off while that may pass, ended when its record
//! is damaged, because trying again would not mend it.

use super::driver::{Driver, UNREADABLE};
use super::now;
use super::origin::Origin;
use crate::event::{Event, ForwardPath, Kind};
use crate::message::{Content, Message, QueueId, Reason, RecipientStatus, Stage, Status};
use crate::ring;
use crate::scheduler::{AttemptResult, Disposition, Slot};
use crate::spool::{Remains, SpoolError};
use std::rc::Rc;
use std::sync::Arc;

impl Driver {
    /// These recipients of a message are out, and it could not be loaded because of `error`.
    pub(super) async fn unreadable(&self, slot: Slot, recipients: &[u32], error: &SpoolError) {
        let whereabouts = self.origin.borrow().scheduler.whereabouts(slot);
        let Some((id, _)) = whereabouts else { return };
        let copy = self.set_aside(id, slot, error).await;
        let origin = &mut *self.origin.borrow_mut();
        match copy {
            Some(copy) => {
                tracing::error!(%id, %error, "a queued message cannot be read");
                origin.end_damaged(id, slot, recipients, &copy);
            }
            None => {
                origin.trouble.note(&format!("message {id} cannot be read: {error}"), now());
                origin.put_off(slot, recipients, AttemptResult::Postponed, UNREADABLE);
            }
        }
        self.changed();
    }

    /// If the message's record is beyond reading: what is left of it.
    pub(super) async fn set_aside(
        &self,
        id: QueueId,
        slot: Slot,
        error: &SpoolError,
    ) -> Option<Remains> {
        let whereabouts = self.origin.borrow().scheduler.whereabouts(slot);
        let (SpoolError::Damaged { .. }, Some((known, at))) = (error, whereabouts) else {
            return None;
        };
        let set_aside = match known == id {
            true => self.stations.spool.set_aside(id, at).await,
            false => Ok(None),
        };
        let still = self.origin.borrow().scheduler.whereabouts(slot) == Some((id, at));
        match set_aside {
            Ok(remains) => remains.filter(|_| still),
            Err(error) => {
                tracing::error!(%id, %error, "a damaged record cannot be copied to the quarantine");
                None
            }
        }
    }

    /// Streamed content could not be read while it was sent: ends the message if it is damaged. One
    /// at a time; what is passed over is found again by the next attempt.
    pub(super) fn check_content(self: &Rc<Self>, slot: Slot, message: Arc<Message>) {
        let Some(permit) = self.checking.try_acquire() else { return };
        let driver = Rc::clone(self);
        ring::spawn("content check", async move {
            let _permit = permit;
            let Content::Streamed(pieces) = &message.content else { return };
            let id = message.id;
            match driver.stations.spool.set_aside_pieces(id, pieces).await {
                Ok(Some(copy)) => {
                    let origin = &mut *driver.origin.borrow_mut();
                    if origin.is_at(slot, id) {
                        origin.end_damaged(id, slot, &[], &copy);
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::error!(%id, %error, "the content cannot be read"),
            }
        });
    }
}

impl Origin {
    /// Ends these recipients, which are out, and all others that are not. Those out elsewhere have
    /// the message in memory.
    pub(super) fn end_damaged(
        &mut self,
        id: QueueId,
        slot: Slot,
        recipients: &[u32],
        remains: &Remains,
    ) {
        let mut ended: Vec<(u32, String, u16)> = Vec::new();
        let Some(view) = self.scheduler.message(slot) else { return };
        let all: Vec<(u32, String)> =
            view.recipients.iter().map(|one| (one.index, format!("?@{}", one.domain))).collect();
        for (index, to) in all {
            let settled = match recipients.contains(&index) {
                true => self.scheduler.settle(slot, index, AttemptResult::Over, None, now()),
                false => self.scheduler.remove(slot, &[index]).pop().map(|(_, settled)| settled),
            };
            if let Some(Disposition::Ended { attempts }) = settled {
                ended.push((index, to, attempts));
            }
        }
        let text = format!("the message is damaged on the disk: {remains}");
        let reason = Reason::ours(Stage::Local, Status(5, 3, 0), text);
        for (index, to, attempts) in &ended {
            self.note_ending(slot, id, *index, &RecipientStatus::Removed);
            let event = Event::new(Kind::SetAside, now()).of(id, None).because(&reason);
            let (to, attempt) = (Some(ForwardPath(to)), Some(*attempts));
            self.stations.events.emit(&Event { from: None, to, attempt, ..event });
        }
    }
}
