//! What goes into the scheduler and what comes out of it.

use crate::message::{Demands, IdentityId, Placement, QueueId, Reason, Timestamp};
use std::rc::Rc;

/// A message in the scheduler's table, until its last recipient ends. Reused after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// A route key, interned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteId(pub u32);

/// A site, numbered by the shard's table of sites. A number must keep its meaning as long as the
/// scheduler may know it: until its last recipient is settled and the last `valid_until` is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(pub u32);

/// A new or recovered message.
pub struct Admission<'a> {
    /// Its name.
    pub id: QueueId,
    /// Opaque here: where the spool has it (three words).
    pub placement: Placement,
    /// When its recipients are given up.
    pub expires: Timestamp,
    /// When a notice of delay is due, if ever: not before that time, and within two
    /// minutes of it.
    pub notice: Option<Timestamp>,
    /// -9 to 9; clamped to that.
    pub priority: i8,
    /// The tenant that the mail is of; may be empty.
    pub tenant: &'a str,
    /// As which sender it goes out.
    pub identity: IdentityId,
    /// What it demands of each hop.
    pub demands: Demands,
    /// In envelope order.
    pub recipients: &'a [AdmittedRecipient<'a>],
}

/// One recipient of an [`Admission`].
pub struct AdmittedRecipient<'a> {
    /// Lower-case domain or address literal.
    pub domain: &'a str,
    /// It is over already: only its place in the envelope counts.
    pub ended: bool,
    /// Attempts so far.
    pub attempts: u16,
    /// When to try it (again).
    pub due: Timestamp,
    /// Why it waits, if it was tried before.
    pub reason: Option<Rc<Reason>>,
}

/// What the scheduler wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Find the site of a route key, then call `routed` or `unroutable`.
    Route(RouteId),
    /// There is work for a site that had none (or whose `take` had said there is no more).
    Offer(SiteId),
    /// These recipients are out for longer than any delivery may take: log it and settle them
    /// `Later`. Repeated while they stay out.
    Overdue {
        /// Their message.
        slot: Slot,
        /// Indices in the envelope.
        recipients: Vec<u32>,
    },
}

/// A recipient that still waits.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpiredRecipient {
    /// Its index in the envelope.
    pub index: u32,
    /// Attempts in all.
    pub attempts: u16,
    /// Why it waited, if it was ever tried.
    pub reason: Option<Rc<Reason>>,
}

/// One transaction's worth.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryUnit {
    /// The message.
    pub slot: Slot,
    /// Its name.
    pub id: QueueId,
    /// Where the spool has it.
    pub placement: Placement,
    /// Indices in the envelope, rising; all for the site asked for.
    pub recipients: Vec<u32>,
    /// None of them was tried before.
    pub untried: bool,
}

/// What became of a recipient that came back.
#[derive(Clone, Debug, PartialEq)]
pub enum Disposition {
    /// To be tried again at `due`; this was attempt number `attempts`.
    Retry {
        /// Attempts so far.
        attempts: u16,
        /// Exactly when it is due.
        due: Timestamp,
    },
    /// Refused, or deferred once more when its time is over: it is reported first, and then noted.
    Failed {
        /// Attempts in all.
        attempts: u16,
    },
    /// It has ended so: record it, and call `over` when that is durable.
    Ended {
        /// Attempts in all.
        attempts: u16,
    },
}

/// What the shard makes of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// Delivered, removed, or refused where no report is wanted: it has ended.
    Over,
    /// Handed to the next host; its sender wants a report of that from here.
    Relayed,
    /// Handed to its mailbox; its sender wants a report of that from here.
    Delivered,
    /// Refused for good; its sender wants a report.
    Refused,
    /// Try again by the retry schedule.
    Later,
    /// Try again at once; counts as no attempt (452 after others; a job handed back).
    Again,
    /// Try again in a moment; counts as no attempt (trouble of our own that may pass).
    Postponed,
}
