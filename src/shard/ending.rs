//! What an outcome makes of a recipient: another try, or one of the four endings.
//!
//! A report and the failures that it reports become durable in one record, so that a crash neither
//! loses the report nor has it made twice (`Spool::store_report`). A recipient is over when the
//! record of its ending is durable, and until then it is listed as `ending`.

use super::now;
use super::origin::Origin;
use super::report::{FailedRecipient, is_wanted, wants_success_report};
use crate::bounce;
use crate::event::{Event, ForwardPath, Kind};
use crate::message::{Message, Outcome, Reason, RecipientStatus, Stage, Timestamp};
use crate::pool::{Done, Reports};
use crate::scheduler::{AttemptResult, Disposition, Slot};
use crate::tls::Security;
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

impl Origin {
    /// A job came back from the owner of its site. True when content could not be read: it is to
    /// be checked.
    pub(super) fn done(&mut self, done: Done) -> bool {
        let Done { slot, id, site, message, outcomes, again, handling } = done;
        let slot = Slot(slot);
        if !self.is_at(slot, id) {
            tracing::error!(%id, "a delivery came back after its message had ended");
            return false;
        }
        for index in again {
            self.scheduler.settle(slot, index, AttemptResult::Again, None, now());
        }
        let path = DeliveryPath {
            site: Some(site.key.as_str()),
            tls: handling.tls.as_deref(),
            reports: handling.reports,
            elapsed: Some(handling.elapsed),
        };
        self.settle(slot, &message, outcomes, path)
    }

    /// Applies outcomes to recipients that are out. True when content could not be read.
    pub(super) fn settle(
        &mut self,
        slot: Slot,
        message: &Arc<Message>,
        outcomes: Vec<(u32, Outcome)>,
        path: DeliveryPath<'_>,
    ) -> bool {
        if outcomes.is_empty() {
            return false;
        }
        let now = now();
        let mut last: Option<Rc<Reason>> = None;
        let mut unread = false;
        let taken = taken_domains(message, &outcomes);
        let attempted = outcomes.len();
        for (index, outcome) in outcomes {
            let at = Settling { slot, message, index, path, now };
            match outcome {
                Outcome::Deferred(reason) if was_left_out(message, index, &reason, &taken) => {
                    self.scheduler.settle(slot, index, AttemptResult::Again, None, now);
                }
                Outcome::Delivered(reason) => self.delivered(&at, reason),
                Outcome::Refused(reason) => self.refused(&at, share(&mut last, reason)),
                Outcome::Deferred(reason) => {
                    unread |= reason.stage == Stage::Local;
                    self.deferred(&at, share(&mut last, reason));
                }
            }
        }
        self.hot.attempted(slot, attempted);
        unread
    }

    fn delivered(&mut self, at: &Settling<'_>, reason: Reason) {
        let Settling { slot, message, index, path, now } = *at;
        let wanted = wants_success_report(message, index, path.reports);
        let result = match (wanted, path.reports.to_mailboxes) {
            (false, _) => AttemptResult::Over,
            (true, false) => AttemptResult::Relayed,
            (true, true) => AttemptResult::Delivered,
        };
        let reason = Rc::new(reason);
        let kept = wanted.then(|| Rc::clone(&reason));
        let settled = self.scheduler.settle(slot, index, result, kept, now);
        // Given up as lost, and waiting for another attempt or for its report: there must be none.
        let settled = settled
            .or_else(|| self.scheduler.remove(slot, &[index]).pop().map(|(_, settled)| settled));
        let Some(Disposition::Ended { attempts }) = settled else { return };
        self.note_ending(slot, message.id, index, &RecipientStatus::Delivered);
        let attempt = Attempt { reason: &reason, number: attempts, due: None, path };
        self.emit(Kind::Delivered, message, index, &attempt);
    }

    fn refused(&mut self, at: &Settling<'_>, reason: Rc<Reason>) {
        let Settling { slot, message, index, path, now } = *at;
        let wanted = message.envelope.reverse_path.is_some()
            && is_wanted(bounce::Kind::Failed, message, index);
        if wanted {
            self.scheduler.settle(slot, index, AttemptResult::Refused, Some(reason), now);
            self.attempt_took(at);
            return;
        }
        let settled = self.scheduler.settle(slot, index, AttemptResult::Over, None, now);
        let Some(Disposition::Ended { attempts }) = settled else { return };
        let failure = FailedRecipient {
            recipient: index,
            reason,
            attempts,
            expired: false,
            last_attempt: Some(now),
            site: None,
            elapsed: path.elapsed,
        };
        self.record_failure(slot, message, &failure, path);
    }

    fn deferred(&mut self, at: &Settling<'_>, reason: Rc<Reason>) {
        let Settling { slot, message, index, path, now } = *at;
        let kept = Some(Rc::clone(&reason));
        let settled = self.scheduler.settle(slot, index, AttemptResult::Later, kept, now);
        let Some(Disposition::Retry { attempts, due }) = settled else {
            return self.attempt_took(at);
        };
        let status = RecipientStatus::Waiting { attempts, due, reason: (*reason).clone() };
        self.stations.spool.settle(message.id, index, &status);
        let attempt = Attempt { reason: &reason, number: attempts, due: Some(due), path };
        self.emit(Kind::Deferred, message, index, &attempt);
    }

    /// For the event that comes when the report of this failure is stored.
    fn attempt_took(&mut self, at: &Settling<'_>) {
        if let Some(elapsed) = at.path.elapsed {
            self.scheduler.attempt_took(at.slot, at.index, elapsed);
        }
    }

    /// Records that these recipients ended without delivery. What was delivered after all while its
    /// report was stored is left out.
    pub(super) fn record_failures(
        &mut self,
        slot: Slot,
        message: &Message,
        failures: &[FailedRecipient],
    ) {
        for failure in failures {
            if self.scheduler.noted(slot, failure.recipient) {
                let site = failure.site.as_ref().map(|site| site.key.as_str());
                let path =
                    DeliveryPath { site, elapsed: failure.elapsed, ..DeliveryPath::default() };
                self.record_failure(slot, message, failure, path);
            }
        }
    }

    fn record_failure(
        &mut self,
        slot: Slot,
        message: &Message,
        failure: &FailedRecipient,
        path: DeliveryPath<'_>,
    ) {
        let is_report = message.envelope.reverse_path.is_none();
        let kind = match (failure.expired, is_report) {
            (true, _) => Kind::Expired,
            (false, true) => Kind::Dropped,
            (false, false) => Kind::Bounced,
        };
        self.note_ending(slot, message.id, failure.recipient, &failure.status());
        let attempt =
            Attempt { reason: &failure.reason, number: failure.attempts, due: None, path };
        self.emit(kind, message, failure.recipient, &attempt);
    }

    fn emit(&self, kind: Kind, message: &Message, recipient: u32, attempt: &Attempt<'_>) {
        let envelope = &message.envelope;
        let to = envelope.recipients.get(recipient as usize);
        let event = Event::new(kind, now())
            .of(message.id, envelope.reverse_path.as_ref())
            .because(attempt.reason)
            .with_options(&message.options);
        self.stations.events.emit(&Event {
            to: to.map(|to| ForwardPath(to.address.as_str())),
            size: Some(message.content.len()),
            site: attempt.path.site,
            tls: attempt.path.tls.map(|tls| tls.version),
            cipher: attempt.path.tls.map(|tls| &*tls.cipher),
            attempt: Some(attempt.number),
            due: attempt.due,
            attempt_ms: attempt.path.elapsed.map(millis),
            ..event
        });
    }
}

/// A recipient whose outcome is applied.
struct Settling<'a> {
    slot: Slot,
    message: &'a Arc<Message>,
    index: u32,
    path: DeliveryPath<'a>,
    now: Timestamp,
}

/// What an event says of the attempt that it is about.
struct Attempt<'a> {
    reason: &'a Reason,
    number: u16,
    due: Option<Timestamp>,
    path: DeliveryPath<'a>,
}

/// How an attempt was made.
#[derive(Clone, Copy, Default)]
pub(super) struct DeliveryPath<'a> {
    /// The site's key; none when no attempt was made.
    site: Option<&'a str>,
    /// What protected the connection.
    tls: Option<&'a Security>,
    /// Which host reports on those delivered.
    reports: Reports,
    /// How long the attempt took.
    elapsed: Option<Duration>,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The recipient domains that a transaction was good for.
fn taken_domains<'a>(message: &'a Message, outcomes: &[(u32, Outcome)]) -> Vec<Cow<'a, str>> {
    let mut domains: Vec<Cow<'a, str>> = Vec::new();
    for (index, outcome) in outcomes {
        let recipient = message.envelope.recipients.get(*index as usize);
        if let (Outcome::Delivered(_), Some(recipient)) = (outcome, recipient)
            && !domains.contains(&recipient.address.domain_key())
        {
            domains.push(recipient.address.domain_key());
        }
    }
    domains
}

/// Whether a recipient was deferred because the next hop takes one domain (or a few) in a
/// transaction: it refused RCPT for now, and took recipients of other domains. Such a recipient is
/// tried again at once. Each transaction that does so has delivered something, so this ends.
fn was_left_out(message: &Message, index: u32, reason: &Reason, taken: &[Cow<'_, str>]) -> bool {
    let Some(recipient) = message.envelope.recipients.get(index as usize) else { return false };
    reason.stage == Stage::Recipient
        && matches!(reason.code, 450..=452)
        && !taken.is_empty()
        && !taken.contains(&recipient.address.domain_key())
}

/// Recipients of one job mostly meet the same reason: they share one.
fn share(last: &mut Option<Rc<Reason>>, reason: Reason) -> Rc<Reason> {
    if let Some(known) = last
        && **known == reason
    {
        return Rc::clone(known);
    }
    let shared = Rc::new(reason);
    *last = Some(Rc::clone(&shared));
    shared
}
