//! What happens when a message has waited too long, or so long that its sender wants to know.

use super::entry::State;
use super::{Action, ExpiredRecipient, Scheduler, Slot};
use crate::message::{Reason, Timestamp};
use std::rc::Rc;

impl Scheduler {
    /// The message came out of the expiry wheel: it is over, or its notice is due. `None` when
    /// that concerns nobody.
    pub(super) fn time_is_over(&mut self, slot: u32, now: Timestamp) -> Option<Action> {
        let message = &mut self.messages[slot];
        let until = message.expires();
        if message.take_notice() && until > now {
            self.expiry.insert(&mut self.messages, slot);
            let recipients = self.still_there(slot);
            let told = Action::Delayed { slot: Slot(slot), until, recipients };
            return (!matches!(&told, Action::Delayed { recipients, .. } if recipients.is_empty()))
                .then_some(told);
        }
        let recipients = self.expire(slot);
        (!recipients.is_empty()).then_some(Action::Expired { slot: Slot(slot), recipients })
    }

    fn still_there(&mut self, slot: u32) -> Vec<ExpiredRecipient> {
        let mut waiting = Vec::new();
        self.each_member(slot, |this, number| {
            let entry = &this.recipients[number];
            let (index, attempts) = (entry.index(), entry.attempts());
            waiting.push(ExpiredRecipient { index, attempts, reason: this.why(number) });
        });
        waiting
    }

    /// Why a recipient waits: what its last attempt met, or else what keeps its site from being
    /// tried.
    fn why(&self, number: u32) -> Option<Rc<Reason>> {
        let entry = &self.recipients[number];
        let own = self.reasons.get(entry.reason).cloned();
        own.or_else(|| {
            let lane = (entry.state() == State::Ready).then_some(entry.place)?;
            let site = self.sites.get(self.sites.site_of(lane))?;
            Some(Rc::clone(&site.parked.as_ref()?.reason))
        })
    }

    /// Ends the recipients that are not out.
    fn expire(&mut self, slot: u32) -> Vec<ExpiredRecipient> {
        let mut ended = Vec::new();
        self.each_member(slot, |this, number| {
            let entry = &mut this.recipients[number];
            if !entry.is_out() {
                let index = entry.index();
                let reason = this.reasons.get(entry.reason).cloned();
                this.detach(number);
                ended.push(ExpiredRecipient { index, attempts: this.end(number), reason });
            }
        });
        ended
    }
}
