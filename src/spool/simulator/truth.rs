//! What the relay was sent and what it answered, and whether what a start found agrees with that.

use super::super::testing::waiting;
use super::super::{Placement, RecipientStatus, Recovered, RecoveredRecipient};
use crate::message::Timestamp;
use std::collections::BTreeMap;

/// An outcome is on the disk this long after it was noted, if nothing failed and the disk was not
/// full: the interval, the commit under way, its own, and a segment made or used again for it.
pub(super) const WINDOW_US: u64 = 100_000;

/// What a message is to those outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Handed over, not answered: may be there or not.
    Offered,
    /// 250.
    Accepted,
    /// 452: is nowhere.
    Refused,
    /// Its client went away, then: ends as removed.
    GivenUp(u64),
    /// A start did not find it, and it had not to.
    Gone,
}

#[derive(Clone, Debug)]
pub(super) struct Mail {
    pub(super) state: State,
    /// A client has its id with a 250.
    pub(super) is_known: bool,
    pub(super) recipients: Vec<Recipient>,
    /// Of the content, which follows from it and the id.
    pub(super) length: usize,
    pub(super) placement: Option<Placement>,
    pub(super) shard: u16,
    /// Waits for long.
    pub(super) patient: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Recipient {
    /// In the order of noting, with the time; the first `durable` are for certain.
    pub(super) statuses: Vec<(Known, u64)>,
    pub(super) durable: usize,
    /// A delivery began then, and no status was noted since.
    pub(super) begun_at: Option<u64>,
    ever_begun: bool,
    /// A delivery is under way in this life.
    pub(super) is_taken: bool,
    /// Reports that say that it has ended, by id: it has if one of them is there.
    pub(super) reports: Vec<u64>,
    /// Those whose writer went away: they may be there without it having ended.
    pub(super) stray_reports: Vec<u64>,
}

/// What is compared of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Ended,
    Waiting { attempts: u16, due: u64 },
}

impl Known {
    fn of(status: &RecipientStatus) -> Known {
        match status {
            RecipientStatus::Waiting { attempts, due, .. } => {
                Known::Waiting { attempts: *attempts, due: due.0 }
            }
            _ => Known::Ended,
        }
    }

    /// As the queue tells the compactor.
    pub(super) fn status(self) -> RecipientStatus {
        match self {
            Known::Ended => RecipientStatus::Over,
            Known::Waiting { attempts, due } => waiting(attempts, due),
        }
    }
}

impl Recipient {
    pub(super) fn ended(&self) -> bool {
        self.statuses.last().is_some_and(|(status, _)| *status == Known::Ended)
    }

    pub(super) fn begin(&mut self, now: u64) {
        self.begun_at.get_or_insert(now);
        self.ever_begun = true;
    }

    pub(super) fn settle(&mut self, status: &RecipientStatus, now: u64) {
        self.begun_at = None;
        self.is_taken = false;
        self.statuses.push((Known::of(status), now));
    }

    /// The statuses that must be on the disk.
    fn durable(&self, certain_before: u64) -> usize {
        let by_time = self.statuses.iter().take_while(|(_, at)| *at < certain_before).count();
        by_time.max(self.durable)
    }

    /// What a start says, after the first `count` statuses.
    fn is_after(&self, count: usize, found: &RecoveredRecipient) -> bool {
        match count.checked_sub(1).and_then(|last| self.statuses.get(last)) {
            None => !found.ended && found.due.is_none(),
            Some((Known::Waiting { attempts, due }, _)) => {
                !found.ended && (found.attempts, found.due) == (*attempts, Some(Timestamp(*due)))
            }
            Some(_) => found.ended,
        }
    }

    fn found(one: &RecoveredRecipient) -> Recipient {
        let status = match (one.ended, one.due) {
            (true, _) => Some(Known::Ended),
            (false, Some(due)) => Some(Known::Waiting { attempts: one.attempts, due: due.0 }),
            (false, None) => None,
        };
        let statuses: Vec<(Known, u64)> = status.into_iter().map(|status| (status, 0)).collect();
        let begun_at = one.in_doubt.then_some(0);
        Recipient {
            durable: statuses.len(),
            statuses,
            begun_at,
            ever_begun: one.in_doubt,
            is_taken: false,
            reports: Vec::new(),
            stray_reports: Vec::new(),
        }
    }
}

/// What a start found, by id.
type ById<'a> = BTreeMap<u64, &'a Recovered>;

impl Mail {
    pub(super) fn over(&self) -> bool {
        self.recipients.iter().all(Recipient::ended)
    }
}

/// Where bytes changed on the disk unnoticed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rot {
    pub(super) shard: u16,
    pub(super) segment: u32,
}

impl Rot {
    /// Whether the record of a message may be unreadable for it. Of streamed mail any piece may.
    fn reaches(&self, mail: &Mail, is_streamed: bool) -> bool {
        let Some(at) = mail.placement else { return true };
        let of_record = mail.shard == self.shard && at.segment == self.segment;
        of_record || is_streamed
    }
}

/// What is known of all mail there ever was.
#[derive(Clone, Debug, Default)]
pub(super) struct Truth {
    pub(super) mails: BTreeMap<u64, Mail>,
    /// Outcomes may be late from here on: no space, or a failure.
    pub(super) late: bool,
    /// Where bytes have rotted so far. An index may hide it until the mail is read or moves.
    pub(super) rots: Vec<Rot>,
    pub(super) stream_threshold: usize,
}

/// What a start found.
#[derive(Default)]
pub(super) struct Found {
    /// With the shard that has it.
    pub(super) messages: Vec<(u16, Recovered)>,
    /// What was set aside.
    pub(super) damage: Vec<String>,
    /// A tail was cut.
    pub(super) has_torn: bool,
    /// Something was set aside, perhaps by an earlier start.
    pub(super) has_quarantine: bool,
}

impl Truth {
    pub(super) fn has_rotted(&self) -> bool {
        !self.rots.is_empty()
    }

    /// Messages that wait at `shard`.
    pub(super) fn waiting_at(&self, shard: u16) -> Vec<u64> {
        let here = self.mails.iter().filter(|(_, mail)| {
            mail.shard == shard && mail.state == State::Accepted && !mail.over()
        });
        here.map(|(&id, _)| id).collect()
    }

    /// Panics when what a start at `now` found breaks a promise.
    pub(super) fn judge(&self, found: &Found, now: u64) {
        let certain_before = if self.late { 0 } else { now.saturating_sub(WINDOW_US) };
        let mut by_id = BTreeMap::new();
        for (_, message) in &found.messages {
            let twice = by_id.insert(message.id.0, message);
            assert!(twice.is_none(), "message {} is there twice", message.id);
        }
        let torn = !found.damage.is_empty() && !self.has_rotted();
        assert!(!torn, "a torn commit is no damage: {:?}", found.damage);
        let is_told = found.has_torn || found.has_quarantine || !found.damage.is_empty();
        let rotten = is_told && self.has_rotted();
        for (id, message) in &by_id {
            let Some(mail) = self.mails.get(id) else {
                panic!("message {} is invented", message.id);
            };
            mail.judge_found(message, certain_before, rotten, &by_id);
        }
        for (id, mail) in self.mails.iter().filter(|(id, _)| !by_id.contains_key(id)) {
            let is_streamed = mail.length > self.stream_threshold;
            let is_there = |report: &u64| by_id.contains_key(report);
            let over = |one: &Recipient| {
                one.ended() || one.reports.iter().chain(&one.stray_reports).any(is_there)
            };
            let lost = mail.state == State::Accepted && !mail.recipients.iter().all(over);
            let may = rotten && self.rots.iter().any(|rot| rot.reaches(mail, is_streamed));
            assert!(!lost || may, "message {id:x} is lost: {mail:?}, rots {:?}", self.rots);
        }
    }

    /// From here on the truth is what a start found.
    pub(super) fn resume(&mut self, found: &Found) {
        for mail in self.mails.values_mut() {
            (mail.state, mail.placement) = (State::Gone, None);
        }
        for (shard, message) in &found.messages {
            let Some(mail) = self.mails.get_mut(&message.id.0) else { continue };
            mail.state = State::Accepted;
            mail.is_known = true;
            mail.shard = *shard;
            mail.placement = Some(message.placement);
            mail.recipients = message.recipients.iter().map(Recipient::found).collect();
        }
        self.late = false;
    }
}

impl Mail {
    fn judge_found(&self, message: &Recovered, certain_before: u64, rotten: bool, all: &ById<'_>) {
        let id = message.id;
        assert!(self.state != State::Refused, "message {id} was refused and is there");
        // One that a stray report ended may have moved behind that report, and outlives it.
        let is_stray = self.recipients.iter().any(|one| !one.stray_reports.is_empty());
        let may_come = rotten || is_stray;
        assert!(self.state != State::Gone || may_come, "message {id} came back: {self:?}");
        if let State::GivenUp(at) = self.state {
            assert!(at >= certain_before || rotten, "message {id} was given up and is there");
        }
        assert_eq!(message.recipients.len(), self.recipients.len(), "recipients of {id}");
        if rotten {
            return;
        }
        for (found, truth) in message.recipients.iter().zip(&self.recipients) {
            let durable = truth.durable(certain_before);
            let is_reported = truth.reports.iter().any(|report| all.contains_key(report));
            assert!(!is_reported || found.ended, "{id}: a report is there twice: {truth:?}");
            let mut stray = truth.stray_reports.iter();
            let may_end = is_reported || stray.any(|report| all.contains_key(report));
            if may_end && found.ended {
                continue;
            }
            let agrees = (durable..=truth.statuses.len()).any(|count| truth.is_after(count, found));
            let given_up = matches!(self.state, State::GivenUp(_));
            assert!(agrees || given_up, "{id}: {found:?} is not {truth:?}, {durable} durable");
            assert!(!found.in_doubt || truth.ever_begun, "nothing had begun for {id}");
            let begun = truth.begun_at.is_some_and(|at| at < certain_before);
            assert!(!begun || found.in_doubt, "a delivery of {id} had begun: {truth:?}");
        }
        let over = |one: &Recipient| {
            let durable = one.durable(certain_before);
            one.statuses
                .get(..durable)
                .is_some_and(|all| all.iter().any(|(status, _)| *status == Known::Ended))
        };
        let ended = !self.recipients.is_empty() && self.recipients.iter().all(over);
        assert!(!ended, "message {id} came back: {self:?}");
    }
}
