//! Which recipient is due, for which site, in fair order; retry and expiry. *Pure.*
//!
//! A recipient that is not over is in exactly one state, and none is without a timer, a report or a
//! commit that it waits for (`ending` has the states of those that have ended):
//!
//! ```text
//! admit -> Waiting --due--> Routing --routed--> Ready --take--> Out --settle--> ending --> over
//!            ^  timer wheel    |  the route's     |  the site's   |  watchdog
//!            |                 |  lookup          |  lanes        |
//!            +-----------------|------------------|--- deferred --+
//!                              +---- message's expiry (also while Waiting): ending
//! ```
//!
//! While the site of a route key is known, Routing is skipped. Every message stands in an expiry
//! wheel of its own, which ends all its recipients that are not out; those out end when they come
//! back deferred. What does not come back for [`Scheduler::OVERDUE`] is demanded back.
//!
//! Through here pass numbers and times: envelope indices, route keys, tenants, sites as numbers of
//! the shard. No content, no addresses, no sockets, no clock, no randomness of its own.
//!
//! *Cost.* 86 bytes for each message with one recipient left, at every number of them, everything
//! included except what is kept once per route key, tenant, site and reason; 40 bytes for each
//! further recipient (`benches/memory.rs` measures the whole). From admission to the end a message
//! takes about 0.4 us, 0.7 us beside a million others. Every step is constant time, except: `take`
//! looks at no more than [`SCAN_MAX`] recipients of the message; `routed`, `unroutable` and
//! `reroute` cost in proportion to the recipients that they move, an expiry to those of its
//! message; a clock that was set back has the wheels laid out anew and all recipients looked at,
//! once.
//!
//! *Reports.* [`Scheduler::take_report`] gives at most `REPORTS_IN_FLIGHT_MAX` messages at once to
//! be reported on, by slot, whatever has expired or was refused.
//!
//! *Notice.* The same wheel says once when a message has waited so long that its sender wants to
//! know; that time is kept in what was left of the message's 48 bytes.
//!
//! *A time past expiry.* A due time is capped to the message's expiry, and at expiry it is over:
//! there is no last attempt at that moment.

mod clock;
mod ending;
mod entry;
mod expiry;
mod flush;
mod index;
mod inspect;
mod names;
mod ready;
mod retry;
mod slab;
#[cfg(test)]
mod tests;
mod types;
mod wheel;

pub use ending::{DelayNotice, EndedRecipient, Ending, ReportEnd, ReportTask};
pub use entry::aligned;
pub use flush::Flushed;
pub use inspect::{MessageView, RecipientView, SiteView};
pub use ready::Parked;
pub use types::{
    Action, Admission, AdmittedRecipient, AttemptResult, DeliveryUnit, Disposition,
    ExpiredRecipient, RouteId, SiteId, Slot,
};

use crate::config;
use crate::limits::POSTPONED_SECONDS;
use crate::message::{Placement, QueueId, Reason, RouteKey, Stage, Timestamp};
use ending::Reports;
use entry::{Flag, Group, Members, Message, Recipient, State, kept};
use index::Index;
use names::{BorrowedKey, Classes, REASONS_ENDED_MAX, REASONS_MAX, Reasons, Routes};
use ready::{NO_SITE, Sites};
use retry::{Attempt, Curve};
use slab::{NIL, Slab};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use wheel::{TICK_MS, Wheel, tick_at};

/// Recipients of one message that one `take` looks at, from the one whose turn it is on.
const SCAN_MAX: usize = 1024;
/// How often the number of recipients that go together is halved at each attempt after one was lost
/// at RCPT: from a hundred to six, to one.
const SPLIT_HALVINGS: u32 = 4;

/// Entries of a wheel that one `poll` touches before it lets the shard do something else.
const POLL_STEPS_MAX: usize = 8192;

/// Priorities that count (RFC 6710 2).
const PRIORITIES: (i8, i8) = (-9, 9);

/// What waits for trouble of our own to pass is tried again after this.
const POSTPONED: Duration = Duration::from_secs(POSTPONED_SECONDS);

/// One shard's scheduler.
pub struct Scheduler {
    messages: Slab<Message>,
    recipients: Slab<Recipient>,
    groups: Slab<Group>,
    /// Slots by queue id.
    index: Index,
    classes: Classes,
    reasons: Reasons,
    routes: Routes,
    sites: Sites,
    /// Recipients Waiting (due) and Out (watchdog).
    due: Wheel,
    /// Messages.
    expiry: Wheel,
    curve: Curve,
    /// Messages that need a report.
    reports: Reports,
    /// The time of the last call.
    told: Timestamp,
}

impl Scheduler {
    /// A recipient that is out for longer than this (at most by half) is demanded back.
    pub const OVERDUE: Duration = Duration::from_secs(2 * 3600);

    /// Recipients that fit: a bound on numbers, about 24 GB. See [`Scheduler::is_full`].
    pub const RECIPIENTS_MAX: usize = 1 << 28;

    /// `seed` makes the jitter, and hashes of names that senders cannot foresee.
    pub fn new(retry: config::Retry, seed: u64) -> Scheduler {
        Scheduler {
            messages: Slab::new(),
            recipients: Slab::new(),
            groups: Slab::new(),
            index: Index::new(),
            classes: Classes::new(seed),
            reasons: Reasons::new(seed),
            routes: Routes::new(seed),
            sites: Sites::new(),
            due: Wheel::new(),
            expiry: Wheel::new(),
            curve: Curve::new(&retry, seed),
            reports: Reports::default(),
            told: Timestamp(0),
        }
    }

    /// Takes a message in. Recipients that are due already go on at once, in the order of calls.
    pub fn admit(&mut self, message: &Admission<'_>, now: Timestamp) -> Slot {
        self.set_now(now);
        let priority = message.priority.clamp(PRIORITIES.0, PRIORITIES.1);
        let class = self.classes.refer(priority, message.tenant);
        let entry =
            Message::new(message.id, message.placement, message.expires, message.notice, class);
        let slot = self.messages.insert(entry);
        self.index.insert(&mut self.messages, slot);
        self.expiry.insert(&mut self.messages, slot);

        let live = message.recipients.iter().filter(|recipient| !recipient.ended).count();
        let mut numbers = Vec::new();
        if live > 1 {
            numbers = vec![NIL; message.recipients.len()];
        }
        let mut only = None;
        for (index, admitted) in message.recipients.iter().enumerate() {
            if admitted.ended {
                continue;
            }
            let route = self.routes.refer(BorrowedKey {
                domain: admitted.domain,
                identity: message.identity,
                demands: message.demands,
            });
            let mut recipient = Recipient::new(slot, index as u32, route);
            recipient.set_attempts(admitted.attempts);
            let mut due = admitted.due.min(message.expires);
            if admitted.attempts > 0 {
                // Reckoned before a restart, by a clock that may have been set back since.
                due = due.min(self.latest_retry(now));
            }
            recipient.set_due(due);
            if let Some(reason) = &admitted.reason {
                recipient.reason = self.reasons.refer(reason, REASONS_MAX);
            }
            let number = self.recipients.insert(recipient);
            only = Some(number);
            if let Some(place) = numbers.get_mut(index) {
                *place = number;
            }
        }
        let members = match only {
            None => Members::None,
            Some(number) if live == 1 => Members::One(number),
            Some(_) => {
                let group = Group::new(numbers.into_boxed_slice(), live as u32);
                Members::Many(self.groups.insert(group))
            }
        };
        self.messages[slot].set_members(members);
        self.each_member(slot, |this, number| {
            if this.recipients[number].due() <= now {
                this.make_due(number, now);
            } else {
                this.due.insert(&mut this.recipients, number);
            }
        });
        Slot(slot)
    }

    /// The next thing to do, if any, at `now`. Call until `None`, then again at `wake_at` or after
    /// any other call that changed something. After very much at once `None` may come with
    /// `wake_at` in the past: let others have a turn, then go on.
    pub fn poll(&mut self, now: Timestamp) -> Option<Action> {
        self.set_now(now);
        let tick = tick_at(now.0);
        let mut budget = POLL_STEPS_MAX;
        loop {
            // Expiry first: what is due at the moment of expiry is over.
            if let Some(slot) = self.expiry.next(&mut self.messages, tick, &mut budget) {
                self.time_is_over(slot, now);
                continue;
            }
            if let Some(site) = self.sites.next_offer() {
                return Some(Action::Offer(site));
            }
            if let Some(route) = self.routes.next_to_ask() {
                return Some(Action::Route(RouteId(route)));
            }
            let number = self.due.next(&mut self.recipients, tick, &mut budget)?;
            match self.recipients[number].state() {
                State::Out => self.watch(number, State::OutLate, now),
                State::OutLate => return Some(self.overdue(number, now)),
                _ => self.make_due(number, now),
            }
            budget = budget.checked_sub(1)?;
        }
    }

    /// When `poll` has something to do, at the earliest; `None` when nothing waits for a time.
    pub fn wake_at(&self) -> Option<Timestamp> {
        if self.sites.has_offers() || self.routes.has_to_ask() {
            return Some(Timestamp(0));
        }
        let ticks = [self.due.wake_at(), self.expiry.wake_at()];
        let due = ticks.into_iter().flatten().map(|tick| Timestamp(tick * TICK_MS));
        due.chain(self.reports.wake_at()).min()
    }

    /// The key whose site is wanted; `None` when it is unknown.
    pub fn route_key(&self, route: RouteId) -> Option<&RouteKey> {
        self.routes.key(route.0)
    }

    /// The site of a key was found: its waiting-for-route recipients are ready. The answer also
    /// serves recipients with this key that become due before `valid_until`. It does nothing unless
    /// the site was asked for.
    pub fn routed(&mut self, route: RouteId, site: SiteId, valid_until: Timestamp) {
        if !self.routes.get(route.0).is_some_and(|known| known.asked) {
            return;
        }
        self.routes.get_mut(route.0).site = Some((site, valid_until));
        while let Some(number) = self.next_routing(route.0) {
            self.make_ready(number, site);
        }
        self.routes.answered(route.0);
    }

    /// No site: the recipients that waited for it, now out: settle each. Once for each message.
    pub fn unroutable(&mut self, route: RouteId) -> Vec<(Slot, Vec<u32>)> {
        if !self.routes.get(route.0).is_some_and(|known| known.asked) {
            return Vec::new();
        }
        let mut all = Vec::new();
        while let Some(number) = self.next_routing(route.0) {
            self.recipients[number].place = NO_SITE;
            self.watch(number, State::Out, self.told);
            all.push((Slot(self.recipients[number].message), self.recipients[number].index()));
        }
        self.routes.get_mut(route.0).site = None;
        self.routes.answered(route.0);
        all.sort_unstable();
        let same_slot = |one: &(Slot, u32), other: &(Slot, u32)| one.0 == other.0;
        all.chunk_by(same_slot)
            .filter_map(|chunk| {
                Some((chunk.first()?.0, chunk.iter().map(|(_, index)| *index).collect()))
            })
            .collect()
    }

    /// Work for `site`: the next message by fairness and priority, with at most `recipients_max`
    /// (at least 1) of its recipients that are ready for that site; they are out until settled.
    /// `None`: there is no more; an Offer will come when there is.
    pub fn take(
        &mut self,
        site: SiteId,
        now: Timestamp,
        recipients_max: usize,
    ) -> Option<DeliveryUnit> {
        self.set_now(now);
        let number = self.sites.next(site.0)?;
        let slot = self.recipients[number].message;
        let priority = self.classes.get(self.messages[slot].class()).priority;
        let (mut recipients, mut untried) = (Vec::new(), true);
        let taken = match self.messages[slot].members() {
            Members::Many(group) => {
                self.companions(group, number, self.recipients_at_once(number, recipients_max))
            }
            _ => vec![number],
        };
        for number in taken {
            self.sites.remove(&mut self.recipients, number, priority);
            self.sites.went_out(site.0);
            self.recipients[number].place = site.0;
            self.watch(number, State::Out, now);
            untried &= self.recipients[number].attempts() == 0;
            recipients.push(self.recipients[number].index());
        }
        recipients.sort_unstable();
        let message = &self.messages[slot];
        let (id, placement) = (message.id(), message.placement);
        Some(DeliveryUnit { slot: Slot(slot), id, placement, recipients, untried })
    }

    /// A recipient that was out comes back. `None` when it was not out (already over). Without a
    /// `reason` the one it had stays. One that has ended stays in the table: see `take_report`,
    /// `noted` and `over`.
    pub fn settle(
        &mut self,
        slot: Slot,
        recipient: u32,
        result: AttemptResult,
        reason: Option<Rc<Reason>>,
        now: Timestamp,
    ) -> Option<Disposition> {
        let number = self.member(slot, recipient)?;
        if !self.recipients[number].is_out() {
            return None;
        }
        self.set_now(now);
        let site = self.recipients[number].place;
        self.detach(number);
        let entry = &mut self.recipients[number];
        if !matches!(result, AttemptResult::Again | AttemptResult::Postponed) {
            entry.set_attempts(entry.attempts().saturating_add(1));
        }
        let attempts = entry.attempts();
        let expires = self.messages[slot.0].expires();
        let ended = match result {
            AttemptResult::Over => Some(State::Noted),
            AttemptResult::Relayed => Some(State::Relayed),
            AttemptResult::Delivered => Some(State::Delivered),
            AttemptResult::Refused => Some(State::Refused),
            AttemptResult::Later | AttemptResult::Again | AttemptResult::Postponed => {
                (expires <= now).then_some(State::Expired)
            }
        };
        // An ending that needs no report is not explained any more.
        if ended != Some(State::Noted) && reason.is_some() {
            let most = if ended.is_some() { REASONS_ENDED_MAX } else { REASONS_MAX };
            self.set_reason(number, reason.as_ref(), most);
        }
        if let Some(state) = ended {
            self.begin_to_end(number, state, site, now);
            return Some(match state {
                State::Refused | State::Expired => Disposition::Failed { attempts },
                _ => Disposition::Ended { attempts },
            });
        }
        // Gone from there only when the clock stood later once; no state is without a timer.
        if !self.messages.is_linked(slot.0) {
            self.expiry.insert(&mut self.messages, slot.0);
        }
        if result == AttemptResult::Again {
            self.recipients[number].set_due(now);
            self.make_due(number, now);
            return Some(Disposition::Retry { attempts, due: now });
        }
        let id = self.messages[slot.0].id();
        let due = match result {
            AttemptResult::Postponed => now.plus(POSTPONED),
            _ => self.curve.due(Attempt { id, site, attempts }, now),
        };
        let due = kept(due).min(expires);
        let entry = &mut self.recipients[number];
        entry.set_due(due);
        entry.set_state(State::Waiting);
        // What was put off was not tried.
        entry.set_last_attempt((result != AttemptResult::Postponed).then_some(now));
        self.due.insert(&mut self.recipients, number);
        Some(Disposition::Retry { attempts, due })
    }

    /// Ends recipients without a report. Those out for delivery cannot be called back and are left
    /// alone. Gives those that ended, with [`Disposition::Ended`]; call `over` when that is
    /// durable.
    pub fn remove(&mut self, slot: Slot, recipients: &[u32]) -> Vec<(u32, Disposition)> {
        let mut ended = Vec::new();
        for &index in recipients {
            if let Some(number) = self.member(slot, index)
                && !self.recipients[number].is_out()
                && self.recipients[number].state() != State::Noted
            {
                self.detach(number);
                self.begin_to_end(number, State::Noted, NO_SITE, Timestamp(0));
                let attempts = self.recipients[number].attempts();
                ended.push((index, Disposition::Ended { attempts }));
            }
        }
        ended
    }

    /// All ready recipients of a site are routed again, and what was known of their routes
    /// is forgotten: for a site whose hosts cannot be had any more.
    pub fn reroute(&mut self, site: SiteId) {
        while let Some(number) = self.sites.any(site.0) {
            self.detach(number);
            let route = self.recipients[number].route;
            let known = self.routes.get_mut(route);
            if known.site.is_some_and(|(old, _)| old == site) {
                known.site = None;
            }
            self.make_routing(number);
        }
    }

    /// Notes that a site is not tried until `until`, for explanations. Does not stop `take`.
    pub fn park(&mut self, site: SiteId, until: Timestamp, reason: Arc<Reason>, now: Timestamp) {
        self.sites.park(site.0, Parked { since: now, until, reason });
    }

    /// Notes that a site is tried again.
    pub fn unpark(&mut self, site: SiteId) {
        self.sites.unpark(site.0);
    }

    /// The message's record moved in the spool.
    pub fn moved(&mut self, slot: Slot, placement: Placement) {
        if self.messages.get(slot.0).is_some() {
            self.messages[slot.0].placement = placement;
        }
    }

    /// The name of the message in `slot` and where the spool has it; `None` when the slot is free.
    pub fn whereabouts(&self, slot: Slot) -> Option<(QueueId, Placement)> {
        self.messages.get(slot.0).map(|message| (message.id(), message.placement))
    }

    /// True when the last recipient is over and no report about the message is under way: then the
    /// slot is free; use nothing of it any more. False also for a slot that was free.
    pub fn finish_if_over(&mut self, slot: Slot) -> bool {
        let Some(message) = self.messages.get(slot.0) else { return false };
        if message.members() != Members::None || message.has(Flag::Reporting) {
            return false;
        }
        if self.messages.is_linked(slot.0) {
            self.expiry.remove(&mut self.messages, slot.0);
        }
        self.index.remove(&mut self.messages, slot.0);
        let message = self.messages.remove(slot.0);
        self.classes.release(message.class());
        true
    }

    /// The slot of a message.
    pub fn find(&self, id: QueueId) -> Option<Slot> {
        self.index.find(&self.messages, id).map(Slot)
    }

    /// Recipients that are not over (in any state).
    pub fn waiting(&self) -> usize {
        self.recipients.len()
    }

    /// Messages of which a recipient waits, or whose end was not yet finished.
    pub fn messages(&self) -> usize {
        self.messages.len()
    }

    /// No more is to be admitted: the listener must answer 452 until deliveries have freed memory.
    pub fn is_full(&self) -> bool {
        self.waiting() >= Scheduler::RECIPIENTS_MAX
    }

    /// Memory held for messages and recipients, in bytes.
    pub fn bytes(&self) -> usize {
        self.messages.bytes() + self.recipients.bytes() + self.groups.bytes() + self.index.bytes()
    }

    fn set_now(&mut self, now: Timestamp) {
        let before = std::mem::replace(&mut self.told, now);
        let tick = tick_at(now.0);
        self.due.set_now(&mut self.recipients, tick);
        self.expiry.set_now(&mut self.messages, tick);
        self.note_step_back(before, now);
    }

    /// The number of a recipient that has not ended.
    fn member(&self, slot: Slot, index: u32) -> Option<u32> {
        match self.messages.get(slot.0)?.members() {
            Members::None => None,
            Members::One(number) => (self.recipients[number].index() == index).then_some(number),
            Members::Many(group) => {
                let number = *self.groups[group].recipients.get(index as usize)?;
                (number != NIL).then_some(number)
            }
        }
    }

    /// Calls `act` for each recipient of the message that has not ended; `act` may end it.
    fn each_member(&mut self, slot: u32, mut act: impl FnMut(&mut Scheduler, u32)) {
        match self.messages[slot].members() {
            Members::None => {}
            Members::One(number) => act(self, number),
            Members::Many(group) => {
                // The group goes with its last recipient, which is seen last.
                for index in 0..self.groups[group].recipients.len() {
                    if self.messages[slot].members() != Members::Many(group) {
                        return;
                    }
                    let number = self.groups[group].recipients[index];
                    if number != NIL {
                        act(self, number);
                    }
                }
            }
        }
    }

    /// How many recipients of a message go out together with `number`, which is one of them. A host
    /// that closes the connection over one RCPT ends the transaction for all: then fewer go
    /// together at each attempt, and soon each alone, so that one does not hold up the others.
    fn recipients_at_once(&self, number: u32, recipients_max: usize) -> usize {
        let entry = &self.recipients[number];
        let reason = (entry.reason != NIL).then(|| self.reasons.get(entry.reason)).flatten();
        match reason {
            Some(reason) if reason.stage == Stage::Recipient && reason.code == 0 => {
                let halvings = SPLIT_HALVINGS * u32::from(entry.attempts());
                recipients_max.checked_shr(halvings).unwrap_or(0).max(1)
            }
            _ => recipients_max,
        }
    }

    /// The recipients of a group in the same lane as `first`, and it.
    fn companions(&self, group: u32, first: u32, recipients_max: usize) -> Vec<u32> {
        let lane = self.recipients[first].place;
        let all = &self.groups[group].recipients;
        let from = self.recipients[first].index() as usize;
        let (before, after) = all.split_at(from.min(all.len()));
        let in_lane = |number: &u32| {
            *number != NIL
                && self.recipients[*number].state() == State::Ready
                && self.recipients[*number].place == lane
        };
        let scanned = after.iter().chain(before).take(SCAN_MAX).copied();
        scanned.filter(in_lane).take(recipients_max.max(1)).collect()
    }

    /// A recipient in no list, whose time has come.
    fn make_due(&mut self, number: u32, now: Timestamp) {
        let route = self.recipients[number].route;
        match self.routes.get(route).and_then(|known| known.site) {
            Some((site, valid_until)) if valid_until > now => self.make_ready(number, site),
            _ => self.make_routing(number),
        }
    }

    fn make_ready(&mut self, number: u32, site: SiteId) {
        let class = self.messages[self.recipients[number].message].class();
        let priority = self.classes.get(class).priority;
        self.sites.push(&mut self.recipients, number, site.0, class, priority);
    }

    fn make_routing(&mut self, number: u32) {
        let entry = &mut self.recipients[number];
        // Of one that was ready or out, the place is a lane or a site.
        entry.set_last_attempt(entry.last_attempt());
        entry.set_state(State::Routing);
        let route = self.recipients[number].route;
        self.routes.get_mut(route).routing.push_back(&mut self.recipients, number, 0);
        self.routes.ask(route);
    }

    fn next_routing(&mut self, route: u32) -> Option<u32> {
        self.routes.get_mut(route).routing.pop_front(&mut self.recipients)
    }

    /// Out from now on, or still; the wheel looks at it after half of the watchdog's time. Two
    /// halves, so that a clock set forward does not make every delivery under way overdue.
    fn watch(&mut self, number: u32, state: State, now: Timestamp) {
        let entry = &mut self.recipients[number];
        entry.set_state(state);
        entry.set_due(now.plus(Scheduler::OVERDUE / 2));
        self.due.insert(&mut self.recipients, number);
    }

    /// Demands back all recipients of the message whose time out is over.
    fn overdue(&mut self, number: u32, now: Timestamp) -> Action {
        let slot = self.recipients[number].message;
        let mut recipients = Vec::new();
        self.each_member(slot, |this, other| {
            let entry = &this.recipients[other];
            let is_late = entry.state() == State::OutLate && entry.due() <= now;
            if other == number || is_late {
                recipients.push(entry.index());
                if other != number {
                    this.due.remove(&mut this.recipients, other);
                }
                this.watch(other, State::OutLate, now);
            }
        });
        Action::Overdue { slot: Slot(slot), recipients }
    }

    /// Takes a recipient out of the list or wheel it is in.
    fn detach(&mut self, number: u32) {
        let entry = &self.recipients[number];
        match entry.state() {
            State::Waiting => self.due.remove(&mut self.recipients, number),
            State::Routing => {
                let route = self.routes.get_mut(entry.route);
                route.routing.unlink(&mut self.recipients, number);
            }
            State::Ready => {
                let class = self.messages[entry.message].class();
                let priority = self.classes.get(class).priority;
                self.sites.remove(&mut self.recipients, number, priority);
            }
            State::Out | State::OutLate => {
                self.sites.came_back(entry.place);
                self.due.remove(&mut self.recipients, number);
            }
            State::Refused | State::Expired | State::Relayed | State::Delivered | State::Noted => {
                self.sites.ended(entry.place)
            }
        }
    }

    /// Why a recipient waits, or ended.
    fn set_reason(&mut self, number: u32, reason: Option<&Rc<Reason>>, most: usize) {
        let new = reason.map_or(NIL, |reason| self.reasons.refer(reason, most));
        let old = std::mem::replace(&mut self.recipients[number].reason, new);
        if old != NIL {
            self.reasons.release(old);
        }
    }

    /// A detached recipient is over; gives its attempts.
    fn end(&mut self, number: u32) -> u16 {
        let entry = self.recipients.remove(number);
        self.routes.release(entry.route);
        if entry.reason != NIL {
            self.reasons.release(entry.reason);
        }
        let message = &mut self.messages[entry.message];
        match message.members() {
            Members::Many(group) => {
                let members = &mut self.groups[group];
                members.recipients[entry.index() as usize] = NIL;
                members.live -= 1;
                if members.live == 0 {
                    message.set_members(Members::None);
                    self.groups.remove(group);
                }
            }
            _ => message.set_members(Members::None),
        }
        entry.attempts()
    }
}
