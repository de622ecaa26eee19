//! What happens when a message has waited too long, or so long that its sender wants to know.

use super::entry::{Flag, State};
use super::names::REASONS_ENDED_MAX;
use super::ready::NO_SITE;
use super::{ExpiredRecipient, Scheduler};
use crate::message::{Reason, Timestamp};
use std::rc::Rc;

impl Scheduler {
    /// The message came out of the expiry wheel: it has expired, or its notice is due.
    pub(super) fn time_is_over(&mut self, slot: u32, now: Timestamp) {
        let message = &mut self.messages[slot];
        let noticed = message.take_notice();
        if message.expires() <= now {
            return self.expire(slot, now);
        }
        self.expiry.insert(&mut self.messages, slot);
        if noticed {
            self.messages[slot].set(Flag::Notice);
            self.queue_report(slot);
        }
    }

    /// The recipients of a message that have not ended.
    pub(super) fn still_waiting(&mut self, slot: u32) -> Vec<ExpiredRecipient> {
        let mut waiting = Vec::new();
        self.each_member(slot, |this, number| {
            let entry = &this.recipients[number];
            if !entry.is_ending() {
                let (index, attempts) = (entry.index(), entry.attempts());
                waiting.push(ExpiredRecipient { index, attempts, reason: this.why(number) });
            }
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
            Some(Rc::new((*site.parked.as_ref()?.reason).clone()))
        })
    }

    /// The site that a recipient waits for, as far as it is known.
    fn site_of(&self, number: u32, now: Timestamp) -> u32 {
        let entry = &self.recipients[number];
        match entry.state() {
            State::Ready => self.sites.site_of(entry.place),
            State::Waiting => {
                let route = self.routes.get(entry.route).and_then(|known| known.site);
                route.filter(|(_, until)| *until > now).map_or(NO_SITE, |(site, _)| site.0)
            }
            _ => NO_SITE,
        }
    }

    /// The recipients that are not out begin to end.
    fn expire(&mut self, slot: u32, now: Timestamp) {
        self.each_member(slot, |this, number| {
            let entry = &this.recipients[number];
            if entry.is_out() || entry.is_ending() {
                return;
            }
            let (reason, site) = (this.why(number), this.site_of(number, now));
            this.detach(number);
            this.set_reason(number, reason.as_ref(), REASONS_ENDED_MAX);
            this.begin_to_end(number, State::Expired, site, Timestamp(0));
        });
    }
}
