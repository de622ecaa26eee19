//! What is kept of a waiting message and of each of its recipients: packed, because millions wait.
//!
//! A message with one recipient left costs one [`Message`] (48 bytes), one [`Recipient`] (36 bytes)
//! and 2 bytes of the index by queue id. Routes, tenants, sites and reasons are kept once, not per
//! recipient.

use super::slab::{Linked, Links, NIL};
use super::wheel::{Timed, tick_from};
use crate::message::{Placement, QueueId, Timestamp};
use std::time::Duration;

const _: () = assert!(size_of::<Message>() == 48);
const _: () = assert!(size_of::<Recipient>() == 36);

/// Times are kept in 48 bits of milliseconds: enough until the year 10889.
const TIME_BITS: u32 = 48;
const TIME_MAX: u64 = (1 << TIME_BITS) - 1;

/// The time that is kept for `at`: itself, unless it lies beyond all reason.
pub(super) fn kept(at: Timestamp) -> Timestamp {
    Timestamp(at.0.min(TIME_MAX))
}

/// Steps are of two minutes: 45 days fit.
const LONG_STEPS: u16 = 0x8000;
const LONG_STEP_MS: u64 = 120_000;

/// What [`Message::notice`] keeps. Steps are rounded down, so that it does not come early.
fn steps_before(expires: Timestamp, notice: Timestamp) -> u16 {
    let before = expires.0.saturating_sub(notice.0);
    match u16::try_from(before / 1000) {
        Ok(seconds) if seconds < LONG_STEPS => seconds,
        _ => (before / LONG_STEP_MS).min(u64::from(!LONG_STEPS)) as u16 | LONG_STEPS,
    }
}

/// The last time not after `expires` beside which `notice` is kept exactly, if there is one: an
/// expiry less than two minutes earlier is harmless.
pub fn aligned(expires: Timestamp, notice: Timestamp) -> Timestamp {
    let before = kept(expires).since(notice).as_millis() as u64;
    let step = if before < u64::from(LONG_STEPS) * 1000 { 1000 } else { LONG_STEP_MS };
    let steps = before / step;
    if steps == 0 || steps > u64::from(!LONG_STEPS) {
        return expires;
    }
    notice.plus(Duration::from_millis(steps * step))
}

/// Where the recipients of a message that have not ended are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Members {
    None,
    /// The number of the only one.
    One(u32),
    /// The number of a [`Group`].
    Many(u32),
}

const MANY: u32 = 0x8000_0000;

/// Flags of a message stand above the number of its class, of which there are fewer.
const FLAGS_SHIFT: u32 = 27;
const CLASS_MAX: u32 = (1 << FLAGS_SHIFT) - 1;

/// What is to be remembered of a message beside its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    /// It stands in a queue of messages that need a report.
    Queued,
    /// A report about it is being made and stored.
    Reporting,
    /// Its notice of delay is due.
    Notice,
    /// A report has given back its full content.
    Returned,
}

impl Flag {
    fn bit(self) -> u32 {
        1 << (FLAGS_SHIFT + self as u32)
    }
}

/// A message. Its links are those of the expiry wheel. Words of 32 bits, so that it needs no
/// padding.
#[derive(Default)]
pub(super) struct Message {
    links: Links,
    /// The next one in its chain of the index by queue id.
    pub next: u32,
    id: [u32; 2],
    pub placement: Placement,
    expires: [u16; 3],
    /// How long before it expires its notice is due, in steps of a second, or of two minutes with
    /// [`LONG_STEPS`]; 0 for none.
    notice: u16,
    /// Flags above ([`FLAGS_SHIFT`]); below priority and tenant, a number in `names::Classes`.
    flags_class: u32,
    members: u32,
}

impl Message {
    pub fn new(
        id: QueueId,
        placement: Placement,
        expires: Timestamp,
        notice: Option<Timestamp>,
        class: u32,
    ) -> Message {
        let at = kept(expires).0;
        Message {
            id: [(id.0 >> 32) as u32, id.0 as u32],
            placement,
            expires: [(at >> 32) as u16, (at >> 16) as u16, at as u16],
            notice: notice.map_or(0, |notice| steps_before(Timestamp(at), notice)),
            flags_class: class & CLASS_MAX,
            next: NIL,
            members: NIL,
            ..Message::default()
        }
    }

    pub fn id(&self) -> QueueId {
        QueueId(u64::from(self.id[0]) << 32 | u64::from(self.id[1]))
    }

    pub fn expires(&self) -> Timestamp {
        let [high, middle, low] = self.expires.map(u64::from);
        Timestamp(high << 32 | middle << 16 | low)
    }

    /// When its notice is due.
    pub fn notice(&self) -> Option<Timestamp> {
        let steps = u64::from(self.notice & !LONG_STEPS);
        let milliseconds = if self.notice & LONG_STEPS == 0 { 1000 } else { LONG_STEP_MS };
        (steps > 0).then(|| Timestamp(self.expires().0.saturating_sub(steps * milliseconds)))
    }

    /// There is no notice any more; whether there was one.
    pub fn take_notice(&mut self) -> bool {
        std::mem::take(&mut self.notice) & !LONG_STEPS > 0
    }

    /// Priority and tenant: a number in `names::Classes`.
    pub fn class(&self) -> u32 {
        self.flags_class & CLASS_MAX
    }

    pub fn has(&self, flag: Flag) -> bool {
        self.flags_class & flag.bit() != 0
    }

    /// Sets the flag; whether it was set.
    pub fn set(&mut self, flag: Flag) -> bool {
        let was = self.has(flag);
        self.flags_class |= flag.bit();
        was
    }

    /// Clears the flag; whether it was set.
    pub fn clear(&mut self, flag: Flag) -> bool {
        let was = self.has(flag);
        self.flags_class &= !flag.bit();
        was
    }

    pub fn members(&self) -> Members {
        match self.members {
            NIL => Members::None,
            group if group & MANY != 0 => Members::Many(group & !MANY),
            one => Members::One(one),
        }
    }

    pub fn set_members(&mut self, members: Members) {
        self.members = match members {
            Members::None => NIL,
            Members::One(recipient) => recipient,
            Members::Many(group) => group | MANY,
        };
    }
}

impl Linked for Message {
    fn links(&self) -> &Links {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl Timed for Message {
    fn tick(&self) -> u64 {
        tick_from(self.notice().unwrap_or(self.expires()).0)
    }
}

/// The recipients of a message with several: by index in the envelope, [`NIL`] for those that have
/// ended. Its links are used by the table only.
#[derive(Default)]
pub(super) struct Group {
    links: Links,
    pub recipients: Box<[u32]>,
    pub live: u32,
}

impl Group {
    pub fn new(recipients: Box<[u32]>, live: u32) -> Group {
        Group { links: Links::default(), recipients, live }
    }
}

impl Linked for Group {
    fn links(&self) -> &Links {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// Where a recipient is. It is in exactly one list or wheel, which its links belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// In the wheel, until its time comes.
    Waiting,
    /// In the list of its route key, until that has a site.
    Routing,
    /// In a lane of a site: `place` is the lane.
    Ready,
    /// Taken, and in the wheel for the watchdog: `place` is the site.
    Out,
    /// Taken, and has been away for half of the watchdog's time.
    OutLate,
    /// Refused, and not reported yet. From here on in no list or wheel: `place` is the site, and
    /// the due time that of the attempt.
    Refused,
    /// Given up for its age, and not reported yet.
    Expired,
    /// Handed to the next host; its sender asked for a report of that, which is not stored yet.
    Relayed,
    /// The same of one that was handed to its mailbox.
    Delivered,
    /// Reported if that was wanted; that it has ended is not durable yet.
    Noted,
}

const STATE_SHIFT: u32 = 28;
/// Largest index of a recipient in an envelope that fits beside its state.
pub(super) const INDEX_MAX: u32 = (1 << STATE_SHIFT) - 1;

/// A recipient that has not ended.
#[derive(Default)]
pub(super) struct Recipient {
    links: Links,
    /// Due time above, attempts in the lowest 16 bits: upper and lower word.
    due_attempts: [u32; 2],
    /// Why the last attempt did not end it: a number in `names::Reasons`, or [`NIL`].
    pub reason: u32,
    /// The slot of its message.
    pub message: u32,
    /// State above, index in the envelope below.
    state_index: u32,
    pub route: u32,
    /// A lane or a site, by the state; of one that waits or is being routed see
    /// [`Recipient::last_attempt`].
    pub place: u32,
}

impl Recipient {
    pub fn new(message: u32, index: u32, route: u32) -> Recipient {
        debug_assert!(index <= INDEX_MAX);
        let state_index = index & INDEX_MAX;
        Recipient { message, state_index, route, reason: NIL, ..Recipient::default() }
    }

    pub fn index(&self) -> u32 {
        self.state_index & INDEX_MAX
    }

    pub fn state(&self) -> State {
        match self.state_index >> STATE_SHIFT {
            0 => State::Waiting,
            1 => State::Routing,
            2 => State::Ready,
            3 => State::Out,
            4 => State::OutLate,
            5 => State::Refused,
            6 => State::Expired,
            7 => State::Relayed,
            8 => State::Delivered,
            _ => State::Noted,
        }
    }

    pub fn set_state(&mut self, state: State) {
        self.state_index = self.index() | (state as u32) << STATE_SHIFT;
    }

    pub fn is_out(&self) -> bool {
        matches!(self.state(), State::Out | State::OutLate)
    }

    /// It has ended, and that is not finished.
    pub fn is_ending(&self) -> bool {
        self.state() as u32 >= State::Refused as u32
    }

    /// A report about it may be wanted.
    pub fn is_unreported(&self) -> bool {
        self.is_ending() && self.state() != State::Noted
    }

    /// When it was or will be due; while out, when the watchdog looks at it.
    pub fn due(&self) -> Timestamp {
        Timestamp(self.due_attempts() >> 16)
    }

    pub fn set_due(&mut self, due: Timestamp) {
        self.set_due_attempts(kept(due).0 << 16 | self.due_attempts() & 0xFFFF);
    }

    pub fn attempts(&self) -> u16 {
        (self.due_attempts() & 0xFFFF) as u16
    }

    pub fn set_attempts(&mut self, attempts: u16) {
        self.set_due_attempts(self.due_attempts() & !0xFFFF | u64::from(attempts));
    }

    /// When its last attempt ended, to the second; as long as it waits after it, and is routed for
    /// the next one.
    pub fn last_attempt(&self) -> Option<Timestamp> {
        let is_kept = matches!(self.state(), State::Waiting | State::Routing) && self.place > 0;
        is_kept.then(|| Timestamp(u64::from(self.place) * 1000))
    }

    /// Kept in the place, which one that waits does not need.
    pub fn set_last_attempt(&mut self, at: Option<Timestamp>) {
        self.place = at.map_or(0, |at| u32::try_from(at.0 / 1000).unwrap_or(0));
    }

    /// How long its last attempt took, if it has ended with that.
    pub fn attempt_time(&self) -> Option<Duration> {
        self.links.kept().map(|ms| Duration::from_millis(ms.into()))
    }

    /// Kept in the links, which one that has ended does not need; up to seven weeks.
    pub fn set_attempt_time(&mut self, elapsed: Duration) {
        self.links.keep(u32::try_from(elapsed.as_millis()).unwrap_or(u32::MAX - 1));
    }

    fn due_attempts(&self) -> u64 {
        u64::from(self.due_attempts[0]) << 32 | u64::from(self.due_attempts[1])
    }

    fn set_due_attempts(&mut self, both: u64) {
        self.due_attempts = [(both >> 32) as u32, both as u32];
    }
}

impl Linked for Recipient {
    fn links(&self) -> &Links {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl Timed for Recipient {
    fn tick(&self) -> u64 {
        tick_from(self.due().0)
    }
}
