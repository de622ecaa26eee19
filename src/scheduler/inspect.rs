//! Views for the operator: what waits, where, since when and why. Each call does a bounded amount
//! of work, so that a listing of millions does not stop the mail.

use super::entry::{Members, State};
use super::slab::NIL;
use super::{Parked, Scheduler, SiteId, Slot};
use crate::message::{Placement, QueueId, Reason, Timestamp};
use std::rc::Rc;

/// Places that one call of [`Scheduler::placed`] looks at, and free ones that one of
/// [`Scheduler::messages_from`] passes over.
const PLACES_MAX: usize = 4096;

/// A message that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageView<'a> {
    /// Its name.
    pub id: QueueId,
    /// Its place in the table.
    pub slot: Slot,
    /// Where the spool has it.
    pub placement: Placement,
    /// When its recipients are given up.
    pub expires: Timestamp,
    /// -9 to 9.
    pub priority: i8,
    /// The tenant that the mail is of; may be empty.
    pub tenant: &'a str,
    /// Those that have not ended, in envelope order.
    pub recipients: Vec<RecipientView<'a>>,
}

/// A recipient that has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct RecipientView<'a> {
    /// Its index in the envelope.
    pub index: u32,
    /// Its domain.
    pub domain: &'a str,
    /// `waiting`, `routing`, `ready`, `out`, or `ending` (its report or the record of its ending is
    /// not stored yet).
    pub state: &'static str,
    /// The site it is ready for or out to.
    pub site: Option<SiteId>,
    /// Attempts that have ended.
    pub attempts: u16,
    /// It is written that it has ended, though that may not be durable yet.
    pub noted: bool,
    /// When it is or was due; `None` while it is out, and when it has ended.
    pub due: Option<Timestamp>,
    /// When its last attempt ended; known while it waits after it.
    pub last_attempt: Option<Timestamp>,
    /// Why it waits, if it was tried before.
    pub reason: Option<&'a Rc<Reason>>,
}

/// A site with mail, or one that is known to back off.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteView<'a> {
    /// Its number.
    pub site: SiteId,
    /// Recipients ready for it.
    pub ready: usize,
    /// Recipients out to it.
    pub out: usize,
    /// Recipients that ended there and are not reported yet.
    pub ending: usize,
    /// The site was offered, and not all of its work is taken yet.
    pub offered: bool,
    /// Its back-off, as its owner last said.
    pub parked: Option<&'a Parked>,
}

impl Scheduler {
    /// At most `limit` messages from the place `cursor` (first 0) on, and the cursor to go on with;
    /// `None` at the end. A message that stays the whole time is seen exactly once.
    pub fn messages_from(&self, cursor: u32, limit: usize) -> (Vec<MessageView<'_>>, Option<u32>) {
        let end = self.messages.places();
        let mut views = Vec::new();
        let mut passed = 0;
        for place in cursor..end {
            if views.len() >= limit.max(1) || passed >= PLACES_MAX {
                return (views, Some(place));
            }
            match self.message(Slot(place)) {
                Some(view) => views.push(view),
                None => passed += 1,
            }
        }
        (views, None)
    }

    /// The ids of messages whose placement is `wanted`, from the place `cursor` (first 0) on, and
    /// the cursor to go on with; `None` at the end. A message that stays the whole time is seen
    /// exactly once.
    pub fn placed(
        &self,
        cursor: u32,
        wanted: impl Fn(Placement) -> bool,
    ) -> (Vec<QueueId>, Option<u32>) {
        let end = self.messages.places().min(cursor.saturating_add(PLACES_MAX as u32));
        let messages = (cursor..end).filter_map(|place| self.messages.get(place));
        let ids = messages.filter(|message| wanted(message.placement)).map(super::Message::id);
        (ids.collect(), (end < self.messages.places()).then_some(end))
    }

    /// One message; `None` when the slot is free.
    pub fn message(&self, slot: Slot) -> Option<MessageView<'_>> {
        let message = self.messages.get(slot.0)?;
        let class = self.classes.get(message.class());
        let recipients = match message.members() {
            Members::None => Vec::new(),
            Members::One(number) => vec![self.recipient_view(number)],
            Members::Many(group) => {
                let all = self.groups[group].recipients.iter();
                all.filter(|number| **number != NIL).map(|n| self.recipient_view(*n)).collect()
            }
        };
        Some(MessageView {
            id: message.id(),
            slot,
            placement: message.placement,
            expires: message.expires(),
            priority: class.priority,
            tenant: &class.tenant,
            recipients,
        })
    }

    /// All sites with mail ready or out, and those that back off, in no order.
    pub fn sites(&self) -> impl Iterator<Item = SiteView<'_>> {
        self.sites.iter().map(|(site, state)| site_view(site, state))
    }

    /// What is known of one site; `None` when nothing is.
    pub fn site_state(&self, site: SiteId) -> Option<SiteView<'_>> {
        let state = self.sites.get(site.0)?;
        Some(site_view(site, state))
    }

    /// Route keys known at present.
    pub fn routes(&self) -> usize {
        self.routes.len()
    }

    fn recipient_view(&self, number: u32) -> RecipientView<'_> {
        let recipient = &self.recipients[number];
        let state = recipient.state();
        let (name, site) = match state {
            State::Waiting => ("waiting", None),
            State::Routing => ("routing", None),
            State::Ready => ("ready", Some(SiteId(self.sites.site_of(recipient.place)))),
            State::Out | State::OutLate => {
                let site = Some(recipient.place).filter(|site| *site != super::ready::NO_SITE);
                ("out", site.map(SiteId))
            }
            State::Refused | State::Expired | State::Relayed | State::Delivered | State::Noted => {
                let site = Some(recipient.place).filter(|site| *site != super::ready::NO_SITE);
                ("ending", site.map(SiteId))
            }
        };
        RecipientView {
            index: recipient.index(),
            domain: self.routes.domain(recipient.route),
            state: name,
            site,
            attempts: recipient.attempts(),
            noted: matches!(state, State::Noted | State::Relayed | State::Delivered),
            due: (!recipient.is_out() && !recipient.is_ending()).then(|| recipient.due()),
            last_attempt: recipient.last_attempt(),
            reason: self.reasons.get(recipient.reason),
        }
    }
}

fn site_view(site: SiteId, state: &super::ready::Site) -> SiteView<'_> {
    SiteView {
        site,
        ready: state.ready,
        out: state.out,
        ending: state.ending,
        offered: state.offered,
        parked: state.parked.as_ref(),
    }
}
