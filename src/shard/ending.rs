//! What an outcome makes of a recipient: another try, or one of the four endings.
//!
//! The order of writes is what keeps the promise that nothing is lost: a report is durable before
//! the failure that it reports is recorded. If power fails between the two, the failure happens
//! again and is reported twice; the other order could lose the report.

use super::now;
use super::queue::{Queue, placement};
use super::report::{FailedRecipient, Reporting, hears_of_delivery, is_wanted};
use crate::bounce;
use crate::event::{Event, Kind};
use crate::message::{Message, Outcome, QueueId, Reason, RecipientStatus, Stage, Timestamp};
use crate::pool::{Done, Reports};
use crate::ring;
use crate::scheduler::{AttemptResult, Disposition, ExpiredRecipient, Slot};
use crate::spool::SpoolError;
use crate::tls::Security;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A report that could not be stored is tried again after this.
const REPORT_RETRY: Duration = Duration::from_secs(10);

impl Queue {
    /// A job came back from the home of its site.
    pub(super) fn done(self: &Rc<Self>, done: Done) {
        let Done { slot, id, site, message, outcomes, again, tls, reports } = done;
        let slot = Slot(slot);
        let known = self.scheduler.borrow().whereabouts(slot);
        if known.is_none_or(|(known, _)| known != id) {
            tracing::error!(%id, "a delivery came back after its message had ended");
            return;
        }
        let mut expired = Vec::new();
        for index in again {
            let settled =
                self.scheduler.borrow_mut().settle(slot, index, AttemptResult::Again, None, now());
            if let Some(Disposition::Expired { attempts }) = settled {
                expired.push(ExpiredRecipient { index, attempts, reason: None });
            }
        }
        if !expired.is_empty() {
            self.expired(slot, expired);
        }
        let via = DeliveryPath { site: Some(site.key.as_str()), tls: tls.as_deref(), reports };
        self.settle(slot, &message, outcomes, via);
        self.changed();
    }

    /// Applies outcomes to recipients that are out.
    pub(super) fn settle(
        self: &Rc<Self>,
        slot: Slot,
        message: &Arc<Message>,
        outcomes: Vec<(u32, Outcome)>,
        via: DeliveryPath<'_>,
    ) {
        if outcomes.is_empty() {
            return;
        }
        let now = now();
        let (mut failures, mut successes) = (Vec::new(), Vec::new());
        let mut last: Option<Rc<Reason>> = None;
        let mut unread = false;
        for (recipient, outcome) in outcomes {
            match outcome {
                Outcome::Delivered(reason) => {
                    let settled = self.over(slot, recipient, now);
                    // Given up as lost and waiting for another attempt: there must be none.
                    let settled = settled.or_else(|| self.over_after_all(slot, recipient));
                    let Some(attempts) = settled else { continue };
                    self.spool.settle(message.id, recipient, &RecipientStatus::Delivered);
                    let attempt = Attempt { reason: &reason, number: attempts, due: None, via };
                    self.tell(Kind::Delivered, message, recipient, &attempt);
                    if hears_of_delivery(message, recipient, via.reports) {
                        successes
                            .push(FailedRecipient::of_attempt(recipient, reason, attempts, now));
                    }
                }
                Outcome::Refused(reason) => {
                    let Some(attempts) = self.over(slot, recipient, now) else { continue };
                    failures.push(FailedRecipient::of_attempt(recipient, reason, attempts, now));
                }
                Outcome::Deferred(reason) => {
                    unread |= reason.stage == Stage::Local;
                    let shared = share(&mut last, reason);
                    let settled = self.scheduler.borrow_mut().settle(
                        slot,
                        recipient,
                        AttemptResult::Later,
                        Some(Rc::clone(&shared)),
                        now,
                    );
                    match settled {
                        Some(Disposition::Retry { attempts, due }) => {
                            let status = RecipientStatus::Waiting {
                                attempts,
                                due,
                                reason: (*shared).clone(),
                            };
                            self.spool.settle(message.id, recipient, &status);
                            let (number, due) = (attempts, Some(due));
                            let attempt = Attempt { reason: &shared, number, due, via };
                            self.tell(Kind::Deferred, message, recipient, &attempt);
                        }
                        Some(Disposition::Expired { attempts }) => {
                            let reason = (*shared).clone();
                            let tried =
                                FailedRecipient::of_attempt(recipient, reason, attempts, now);
                            failures.push(FailedRecipient { expired: true, ..tried });
                        }
                        Some(Disposition::Ended { .. }) | None => {}
                    }
                }
            }
        }
        self.hot.borrow_mut().forget(slot);
        if unread {
            self.weigh_content(slot, message);
        }
        self.tell_success(slot, message, successes, via.reports);
        if failures.is_empty() {
            self.free_if_over(slot, message.id);
        } else {
            self.fail(slot, Arc::clone(message), failures, via.site);
        }
    }

    /// These recipients waited too long; the scheduler has ended them.
    pub(super) fn expired(self: &Rc<Self>, slot: Slot, recipients: Vec<ExpiredRecipient>) {
        self.begin_to_fail(slot, recipients.iter().map(|expired| expired.index));
        let failures: Vec<FailedRecipient> = recipients
            .into_iter()
            .map(|expired| FailedRecipient {
                expired: true,
                ..FailedRecipient::of_waiting(expired)
            })
            .collect();
        let Some((id, _)) = self.scheduler.borrow().whereabouts(slot) else { return };
        let reporting = Reporting::begin(self, slot, id);
        let queue = Rc::clone(self);
        ring::spawn("expiry", async move {
            match queue.message(slot).await {
                Ok(message) => {
                    queue.hot.borrow_mut().forget(slot);
                    queue.fail(slot, message, failures, None);
                    reporting.end();
                }
                Err(error) => {
                    queue.log_unreadable(id, &failures, &error);
                    if queue.set_aside(id, slot, &error).await.is_some() {
                        for failure in &failures {
                            queue.spool.settle(id, failure.recipient, &RecipientStatus::Expired);
                            queue.has_failed(slot, failure.recipient);
                        }
                        reporting.end();
                    }
                }
            }
        });
    }

    /// Waits until no report is being stored.
    pub(super) async fn settle_reports(&self) {
        while self.reporting.get() > 0 {
            ring::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The time of these recipients is over, and the spool cannot give their message: nobody can be
    /// told but the log. Unless it is damaged for good the record stays, and after a restart all
    /// this comes again.
    fn log_unreadable(&self, id: QueueId, failures: &[FailedRecipient], error: &SpoolError) {
        tracing::error!(%id, %error, "an expired message cannot be read: no report is sent");
        for failure in failures {
            let event = Event::new(Kind::Expired, now()).of(id, None).because(&failure.reason);
            self.events.emit(&Event { attempt: failure.attempts, ..event });
        }
    }

    /// Ends recipients without delivery: first the report, then the record of the ending.
    fn fail(
        self: &Rc<Self>,
        slot: Slot,
        message: Arc<Message>,
        failures: Vec<FailedRecipient>,
        site: Option<&str>,
    ) {
        let wants_report = message.envelope.reverse_path.is_some()
            && failures
                .iter()
                .any(|failure| is_wanted(bounce::Kind::Failed, &message, failure.recipient));
        if !wants_report {
            self.record_failures(slot, &message, &failures, site);
            return;
        }
        self.begin_to_fail(slot, failures.iter().map(|failure| failure.recipient));
        let reporting = Reporting::begin(self, slot, message.id);
        let site = site.map(Box::<str>::from);
        let queue = Rc::clone(self);
        ring::spawn("report", async move {
            if queue.report(slot, message, &failures, site.as_deref()).await {
                reporting.end();
            }
        });
    }

    /// Stores reports, and records the failures that each of them is about; whether all are.
    async fn report(
        self: &Rc<Self>,
        slot: Slot,
        mut message: Arc<Message>,
        failures: &[FailedRecipient],
        site: Option<&str>,
    ) -> bool {
        let id = message.id;
        for failures in failures.chunks(bounce::RECIPIENTS_MAX) {
            while let Err(error) = self.store_report(&message, bounce::Kind::Failed, failures).await
            {
                tracing::error!(%id, %error, "a report cannot be stored");
                if matches!(error, SpoolError::Failed(_)) {
                    // The failure is not recorded either: after a restart both happen again.
                    return false;
                }
                // Many may wait for room on the disk: none of them holds its message in memory.
                drop(message);
                message = loop {
                    ring::sleep(REPORT_RETRY).await;
                    if let Ok(message) = self.message(slot).await {
                        break message;
                    }
                };
            }
            self.record_failures(slot, &message, failures, site);
        }
        true
    }

    fn record_failures(
        &self,
        slot: Slot,
        message: &Message,
        failures: &[FailedRecipient],
        site: Option<&str>,
    ) {
        let is_report = message.envelope.reverse_path.is_none();
        for failure in failures {
            let (kind, status) = match (failure.expired, is_report) {
                (true, _) => (Kind::Expired, RecipientStatus::Expired),
                (false, true) => (Kind::Dropped, RecipientStatus::Bounced),
                (false, false) => (Kind::Bounced, RecipientStatus::Bounced),
            };
            self.spool.settle(message.id, failure.recipient, &status);
            self.has_failed(slot, failure.recipient);
            let FailedRecipient { recipient, reason, attempts, .. } = failure;
            let via = DeliveryPath { site, ..DeliveryPath::default() };
            let attempt = Attempt { reason, number: *attempts, due: None, via };
            self.tell(kind, message, *recipient, &attempt);
        }
        self.free_if_over(slot, message.id);
    }

    /// Ends a recipient in the scheduler: the number of its attempts, or `None` when it was over.
    fn over(&self, slot: Slot, recipient: u32, now: Timestamp) -> Option<u16> {
        match self.scheduler.borrow_mut().settle(slot, recipient, AttemptResult::Over, None, now)? {
            Disposition::Ended { attempts }
            | Disposition::Expired { attempts }
            | Disposition::Retry { attempts, .. } => Some(attempts),
        }
    }

    /// Ends a recipient that is not out, but has been delivered.
    fn over_after_all(&self, slot: Slot, recipient: u32) -> Option<u16> {
        match self.scheduler.borrow_mut().remove(slot, &[recipient]).first()? {
            (_, Disposition::Ended { attempts }) => Some(*attempts),
            _ => None,
        }
    }

    /// Forgets a message whose last recipient has ended. Not while a report about it is being
    /// stored: until that is durable, its record is all that there is of the failure.
    pub(super) fn free_if_over(&self, slot: Slot, id: QueueId) {
        if self.reported.borrow().contains_key(&slot) {
            return;
        }
        let mut scheduler = self.scheduler.borrow_mut();
        let Some((known, at)) = scheduler.whereabouts(slot) else { return };
        if known == id && scheduler.finish_if_over(slot) {
            drop(scheduler);
            self.hot.borrow_mut().forget(slot);
            self.spool.dead(id, placement(at));
        }
    }

    fn tell(&self, kind: Kind, message: &Message, recipient: u32, attempt: &Attempt<'_>) {
        let envelope = &message.envelope;
        let to = envelope.recipients.get(recipient as usize);
        let event = Event::new(kind, now())
            .of(message.id, envelope.reverse_path.as_ref())
            .because(attempt.reason);
        self.events.emit(&Event {
            to: to.map(|to| to.address.as_str()),
            tenant: &message.options.tenant,
            campaign: &message.options.campaign,
            size: Some(message.content.len()),
            site: attempt.via.site.unwrap_or(""),
            tls: attempt.via.tls.map_or("", |tls| tls.version),
            cipher: attempt.via.tls.map_or("", |tls| &tls.cipher),
            attempt: attempt.number,
            due: attempt.due,
            ..event
        });
    }
}

/// What an event says of the attempt that it is about.
struct Attempt<'a> {
    reason: &'a Reason,
    number: u16,
    due: Option<Timestamp>,
    via: DeliveryPath<'a>,
}

/// Which way an attempt went.
#[derive(Clone, Copy, Default)]
pub(super) struct DeliveryPath<'a> {
    /// The site's key; none when no attempt was made.
    site: Option<&'a str>,
    /// What protected the connection.
    tls: Option<&'a Security>,
    /// Who reports on those delivered.
    reports: Reports,
}

/// Recipients of one job are mostly deferred for the same reason: they share one.
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
