//! What has ended and is not finished: recipients whose report is still to be stored, and those
//! whose ending is not durable yet. They stay in the table until then, so that every message is in
//! a list for as long as its record lives.
//!
//! ```text
//! Out ------ refused --------> Refused --+                       (report stored or not wanted,
//! any ------ message expires -> Expired -+-- take_report, noted ->  failure written)
//! Out ------ delivered, sender wants to know -> Relayed, Delivered   |
//! Out ------ delivered ----------------------------------------> Noted -- over (durable)
//! ```
//!
//! A message that needs a report stands in one of three queues by its slot alone. So a million
//! messages that expire at once cost 4 bytes each beside what they cost before, and reports are
//! made at the pace at which [`Scheduler::take_report`] is called.

use super::entry::{Flag, State};
use super::ready::NO_SITE;
use super::{ExpiredRecipient, Scheduler, SiteId, Slot};
use crate::limits::{
    REPORT_RETRY_SECONDS, REPORT_STALL_SECONDS, REPORT_WINDOW_MS, REPORTS_IN_FLIGHT_MAX,
};
use crate::message::{QueueId, Reason, Timestamp};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

const WINDOW: Duration = Duration::from_millis(REPORT_WINDOW_MS);
const RETRY: Duration = Duration::from_secs(REPORT_RETRY_SECONDS);
const STALL: Duration = Duration::from_secs(REPORT_STALL_SECONDS);

/// A message about which a report is to be made now. Answer with [`Scheduler::report_done`].
#[derive(Clone, Debug, PartialEq)]
pub struct ReportTask {
    /// The message.
    pub slot: Slot,
    /// Its name.
    pub id: QueueId,
    /// Its notice of delay is due: what still waits. `None`: report what [`Scheduler::ended`] says.
    pub delayed: Option<DelayNotice>,
}

/// What a notice of delay says.
#[derive(Clone, Debug, PartialEq)]
pub struct DelayNotice {
    /// When the recipients are given up.
    pub until: Timestamp,
    /// Those that have not ended.
    pub recipients: Vec<ExpiredRecipient>,
}

/// How a recipient ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Refused for good.
    Refused,
    /// Not delivered in time.
    Expired,
    /// Handed to the next host, and its sender asked for a report of that.
    Relayed,
    /// Handed to its mailbox, and its sender asked for a report of that.
    Delivered,
}

/// A recipient that has ended and was not reported yet.
#[derive(Clone, Debug, PartialEq)]
pub struct EndedRecipient {
    /// Its index in the envelope.
    pub index: u32,
    /// How it ended.
    pub ending: Ending,
    /// Attempts in all.
    pub attempts: u16,
    /// What it met; `None` when it was never tried and nothing kept it.
    pub reason: Option<Rc<Reason>>,
    /// When it was tried last, if that is known.
    pub tried_at: Option<Timestamp>,
    /// The site it was for, if that is known.
    pub site: Option<SiteId>,
    /// How long its last attempt took, if that is known.
    pub elapsed: Option<Duration>,
}

/// How an attempt to report ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportEnd {
    /// All that was taken is stored or not wanted.
    Stored,
    /// The message cannot be read at present: it alone is put off.
    PutOff,
    /// Reports find no space on the disk: all wait a moment, and then one tries.
    NoRoom,
}

/// The messages that need a report.
#[derive(Default)]
pub(super) struct Reports {
    /// Now, in order.
    due: VecDeque<u32>,
    /// When more of their recipients had time to end; times rise.
    gathering: VecDeque<(Timestamp, u32)>,
    /// When they may be readable again; times rise.
    put_off: VecDeque<(Timestamp, u32)>,
    /// Taken, and not done.
    in_flight: usize,
    /// There was no space: until when none is tried.
    stalled: Option<Timestamp>,
    /// Nothing more is gathered.
    closing: bool,
    /// No more is begun.
    halted: bool,
}

impl Reports {
    /// Moves what has waited long enough to the queue of what is due.
    fn collect(&mut self, now: Timestamp) {
        for (queue, wait) in [(&mut self.gathering, WINDOW), (&mut self.put_off, RETRY)] {
            while let Some(&(at, slot)) = queue.front()
                // A clock that was set back does not make reports wait.
                && (at <= now || at > now.plus(wait) || self.closing)
            {
                self.due.push_back(slot);
                queue.pop_front();
            }
        }
    }

    fn may_begin(&self, now: Timestamp) -> bool {
        if self.halted {
            return false;
        }
        match self.stalled {
            Some(until) => self.in_flight == 0 && (until <= now || until > now.plus(STALL)),
            None => self.in_flight < REPORTS_IN_FLIGHT_MAX,
        }
    }

    /// When there is something to begin; `None`: not before one that is under way is done.
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        let blocked = match self.stalled {
            Some(_) => self.in_flight > 0,
            None => self.in_flight >= REPORTS_IN_FLIGHT_MAX,
        };
        if blocked {
            return None;
        }
        let first = match self.due.is_empty() {
            true => [&self.gathering, &self.put_off]
                .into_iter()
                .filter_map(|queue| Some(queue.front()?.0))
                .min()?,
            false => Timestamp(0),
        };
        Some(self.stalled.map_or(first, |until| first.max(until)))
    }
}

impl Scheduler {
    /// The next message to report on, while fewer than [`REPORTS_IN_FLIGHT_MAX`] are under way.
    pub fn take_report(&mut self, now: Timestamp) -> Option<ReportTask> {
        self.set_now(now);
        if !self.reports.may_begin(now) {
            return None;
        }
        self.reports.collect(now);
        while let Some(slot) = self.reports.due.pop_front() {
            let Some(message) = self.messages.get_mut(slot) else { continue };
            if !message.clear(Flag::Queued) {
                continue;
            }
            let (id, until) = (message.id(), message.expires());
            let noticed = message.clear(Flag::Notice);
            let delayed = (noticed && until > now)
                .then(|| DelayNotice { until, recipients: self.still_waiting(slot) })
                .filter(|notice| !notice.recipients.is_empty());
            if delayed.is_none() && !self.has_unreported(slot) {
                continue;
            }
            self.messages[slot].set(Flag::Reporting);
            self.reports.in_flight += 1;
            return Some(ReportTask { slot: Slot(slot), id, delayed });
        }
        None
    }

    /// What of a message has ended and was not reported.
    pub fn ended(&mut self, slot: Slot) -> Vec<EndedRecipient> {
        let mut ended = Vec::new();
        if self.messages.get(slot.0).is_none() {
            return ended;
        }
        self.each_member(slot.0, |this, number| {
            let entry = &this.recipients[number];
            let ending = match entry.state() {
                State::Refused => Ending::Refused,
                State::Expired => Ending::Expired,
                State::Relayed => Ending::Relayed,
                State::Delivered => Ending::Delivered,
                _ => return,
            };
            ended.push(EndedRecipient {
                index: entry.index(),
                ending,
                attempts: entry.attempts(),
                reason: this.reasons.get(entry.reason).cloned(),
                tried_at: Some(entry.due()).filter(|at| at.0 > 0),
                site: Some(entry.place).filter(|site| *site != NO_SITE).map(SiteId),
                elapsed: entry.attempt_time(),
            });
        });
        ended
    }

    /// The attempt with which a recipient has just ended took so long.
    pub fn attempt_took(&mut self, slot: Slot, recipient: u32, elapsed: Duration) {
        if let Some(number) = self.member(slot, recipient)
            && self.recipients[number].is_unreported()
        {
            self.recipients[number].set_attempt_time(elapsed);
        }
    }

    /// The recipient's ending is reported, as far as that is wanted, and written: what is left is
    /// that it becomes durable. False when that was so already.
    pub fn noted(&mut self, slot: Slot, recipient: u32) -> bool {
        let Some(number) = self.member(slot, recipient) else { return false };
        if !self.recipients[number].is_unreported() {
            return false;
        }
        self.detach(number);
        self.begin_to_end(number, State::Noted, NO_SITE, Timestamp(0));
        true
    }

    /// That the recipient has ended is durable: it is over. Then call `finish_if_over`.
    pub fn over(&mut self, slot: Slot, recipient: u32) {
        if let Some(number) = self.member(slot, recipient)
            && self.recipients[number].state() == State::Noted
        {
            self.detach(number);
            self.end(number);
        }
    }

    /// An attempt to report has ended. What has ended meanwhile is taken later.
    pub fn report_done(&mut self, task: &ReportTask, end: ReportEnd, now: Timestamp) {
        let slot = task.slot.0;
        let Some(message) = self.messages.get_mut(slot) else { return };
        if message.id() != task.id || !message.clear(Flag::Reporting) {
            return;
        }
        self.reports.in_flight = self.reports.in_flight.saturating_sub(1);
        match end {
            ReportEnd::Stored => self.reports.stalled = None,
            ReportEnd::NoRoom => self.reports.stalled = Some(now.plus(STALL)),
            ReportEnd::PutOff => {}
        }
        if end != ReportEnd::Stored && task.delayed.is_some() {
            message.set(Flag::Notice);
        }
        if !self.messages[slot].has(Flag::Notice) && !self.has_unreported(slot)
            || self.messages[slot].set(Flag::Queued)
        {
            return;
        }
        match end {
            ReportEnd::PutOff => self.reports.put_off.push_back((now.plus(RETRY), slot)),
            ReportEnd::NoRoom => self.reports.due.push_back(slot),
            ReportEnd::Stored => self.reports.gathering.push_back((now.plus(WINDOW), slot)),
        }
    }

    /// Whether a report on the message is being made.
    pub fn is_reporting(&self, slot: Slot) -> bool {
        self.messages.get(slot.0).is_some_and(|message| message.has(Flag::Reporting))
    }

    /// Whether a report may give back the full content of the message: only the first one does.
    pub fn may_return_content(&self, slot: Slot) -> bool {
        self.messages.get(slot.0).is_some_and(|message| !message.has(Flag::Returned))
    }

    /// A report that gives back the full content is stored.
    pub fn content_returned(&mut self, slot: Slot) {
        if let Some(message) = self.messages.get_mut(slot.0) {
            message.set(Flag::Returned);
        }
    }

    /// The relay stops: what has ended is reported without waiting for more.
    pub fn close_reports(&mut self) {
        self.reports.closing = true;
    }

    /// No report is begun from now on.
    pub fn halt_reports(&mut self) {
        self.reports.halted = true;
    }

    /// Reports under way.
    pub fn reports_in_flight(&self) -> usize {
        self.reports.in_flight
    }

    /// The last report found no space on the disk.
    pub fn reports_stall(&self) -> bool {
        self.reports.stalled.is_some()
    }

    /// Reports under way, and messages that wait for one.
    pub fn unreported(&self) -> usize {
        let Reports { due, gathering, put_off, in_flight, .. } = &self.reports;
        in_flight + due.len() + gathering.len() + put_off.len()
    }

    /// A detached recipient begins to end.
    pub(super) fn begin_to_end(
        &mut self,
        number: u32,
        state: State,
        site: u32,
        tried_at: Timestamp,
    ) {
        let entry = &mut self.recipients[number];
        entry.set_state(state);
        entry.set_due(tried_at);
        entry.place = site;
        self.sites.began_to_end(site);
        let slot = entry.message;
        if state != State::Noted {
            self.queue_report(slot);
        }
    }

    /// The message needs a report: at once, or when what is under way had a little time to end too,
    /// so that it stands in the same report.
    pub(super) fn queue_report(&mut self, slot: u32) {
        let message = &mut self.messages[slot];
        // What is being reported is looked at again when that is done.
        if message.has(Flag::Reporting) || message.set(Flag::Queued) {
            return;
        }
        match self.is_moving(slot) && !self.reports.closing {
            true => self.reports.gathering.push_back((self.told.plus(WINDOW), slot)),
            false => self.reports.due.push_back(slot),
        }
    }

    fn is_moving(&mut self, slot: u32) -> bool {
        let mut moving = false;
        self.each_member(slot, |this, number| {
            let state = this.recipients[number].state();
            moving |= matches!(state, State::Routing | State::Ready | State::Out | State::OutLate);
        });
        moving
    }

    fn has_unreported(&mut self, slot: u32) -> bool {
        let mut found = false;
        self.each_member(slot, |this, number| found |= this.recipients[number].is_unreported());
        found
    }
}
