//! Which recipient is due, for which site, in fair order; retry and expiry. *Pure.*
#![allow(unused_variables, dead_code, clippy::todo, missing_docs)]

use crate::config;
use crate::message::{QueueId, Reason, Timestamp};
use std::rc::Rc;

/// A message in the scheduler's table, until its last recipient ends. Reused after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(pub u32);

/// A recipient domain, interned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DomainId(pub u32);

/// A site, numbered by the shard's table of sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(pub u32);

/// A new or recovered message.
pub struct Admission<'a> {
    pub id: QueueId,
    /// Opaque here: where the spool has it (three words).
    pub placement: [u32; 3],
    pub expires: Timestamp,
    /// -9 to 9.
    pub priority: i8,
    pub tenant: &'a str,
    /// In envelope order.
    pub recipients: &'a [AdmittedRecipient<'a>],
}

pub struct AdmittedRecipient<'a> {
    /// Lower-case domain or address literal.
    pub domain: &'a str,
    pub ended: bool,
    pub attempts: u16,
    pub due: Timestamp,
    pub reason: Option<Rc<Reason>>,
}

/// What the scheduler wants done.
#[derive(Debug, PartialEq)]
pub enum Demand {
    /// Find the site of a domain, then call `routed` or `unroutable`.
    Route(DomainId),
    /// There is work for a site that had none (or whose `take` had said there is no more).
    Offer(SiteId),
    /// These recipients were not delivered in time and have ended: report and record it. (Those out
    /// for delivery end when they come back.)
    Expired { slot: Slot, recipients: Vec<u32> },
}

/// One transaction's worth.
#[derive(Debug, PartialEq)]
pub struct Work {
    pub slot: Slot,
    pub id: QueueId,
    pub placement: [u32; 3],
    /// Indices in the envelope; all for the site asked for.
    pub recipients: Vec<u32>,
}

/// What became of a recipient that came back.
#[derive(Clone, Debug, PartialEq)]
pub enum Settled {
    /// To be tried again at `due`; this was attempt number `attempts`.
    Retry { attempts: u16, due: Timestamp },
    /// Deferred once more, but its time is over: it has ended.
    Expired { attempts: u16 },
    /// It has ended as told.
    Ended { attempts: u16 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Delivered, bounced or removed: it is over.
    Over,
    /// Try again by the retry schedule.
    Later,
    /// Try again at once; counts as no attempt (452 after others; a job handed back).
    Again,
}

pub struct Scheduler {}

impl Scheduler {
    /// `seed` makes the jitter.
    pub fn new(retry: config::Retry, seed: u64) -> Scheduler {
        todo!()
    }
    pub fn admit(&mut self, message: &Admission<'_>, now: Timestamp) -> Slot {
        todo!()
    }
    /// The next thing to do, if any, at `now`. Call until `None`, then again at `wake_at` or after
    /// any other call that changed something.
    pub fn poll(&mut self, now: Timestamp) -> Option<Demand> {
        todo!()
    }
    pub fn wake_at(&self) -> Option<Timestamp> {
        todo!()
    }
    pub fn domain(&self, domain: DomainId) -> &str {
        todo!()
    }
    /// The domain's site was found: its waiting-for-route recipients are ready. The answer also
    /// serves recipients of the domain that become due before `valid_until`.
    pub fn routed(&mut self, domain: DomainId, site: SiteId, valid_until: Timestamp) {
        todo!()
    }
    /// No site: the recipients that waited for it, now out: settle each.
    pub fn unroutable(&mut self, domain: DomainId) -> Vec<(Slot, Vec<u32>)> {
        todo!()
    }
    /// Work for `site`: the next message by fairness and priority, with at most `recipients_max` of
    /// its recipients that are ready for that site; they are out until settled. `None`: there is no
    /// more; an Offer will come when there is.
    pub fn take(&mut self, site: SiteId, now: Timestamp, recipients_max: usize) -> Option<Work> {
        todo!()
    }
    /// A recipient that was out comes back. `None` when it was not out (already over).
    pub fn settle(
        &mut self,
        slot: Slot,
        recipient: u32,
        verdict: Verdict,
        reason: Option<Rc<Reason>>,
        now: Timestamp,
    ) -> Option<Settled> {
        todo!()
    }
    /// True when the last recipient has ended: then the slot is free; use nothing of it any more.
    pub fn finish_if_over(&mut self, slot: Slot) -> bool {
        todo!()
    }
    /// Recipients waiting (in any state).
    pub fn waiting(&self) -> usize {
        todo!()
    }
}
