//! Reports to senders: when one is wanted, and how it becomes a message of this relay's own.
//!
//! At most `REPORTS_IN_FLIGHT_MAX` are made at once, by workers that take the next message from the
//! scheduler when they are done with one. What an error makes of a report:
//!
//! | error | what happens |
//! | --- | --- |
//! | the message's record is damaged | what is left is set aside, and its recipients end |
//! | the message or its content cannot be read (EMFILE, ENFILE, ENOMEM, EINTR, EAGAIN, EIO ...) | it alone is tried again after `REPORT_RETRY_SECONDS` |
//! | no space on the disk (ENOSPC) | all reports wait `REPORT_STALL_SECONDS`, then one tries; the others follow when it succeeds |
//! | the spool has failed | nothing more is recorded: after a restart all this comes again |
//!
//! The recipients are listed as `ending` all the while.

use super::delay::DelayReport;
use super::driver::Driver;
use super::now;
use super::origin::Origin;
use crate::bounce::{self, Kind, Report, ReportedRecipient};
use crate::event::{self, Event};
use crate::intake::{Details, Source};
use crate::message::{
    Body, ByMode, Content, ContentFlags, DeliverBy, DsnNotify, DsnReturn, Envelope, Message,
    Options, Reason, Recipient, RecipientStatus, Stage, Status, Timestamp,
};
use crate::pool::{Reporter, Reports};
use crate::ring;
use crate::route::Site;
use crate::scheduler::{
    EndedRecipient, Ending, ExpiredRecipient, ReportEnd, ReportTask, Slot, aligned,
};
use crate::spool::{Reported, SpoolError};
use std::borrow::Cow;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// While the event log is behind, it is looked at again after this,
const EVENT_PAUSE: Duration = Duration::from_millis(5);
/// and so often.
const EVENT_PAUSES_MAX: usize = 200;
/// Recipients of reports under way, whose events come all at once when a report is stored: some
/// 400 KB, which with `BUFFER_BYTES` is less than the backlog at which mail is refused. One report
/// alone may have more.
const EVENTS_PROMISED_MAX: usize = 1000;
const _: () = assert!(bounce::RECIPIENTS_MAX <= EVENTS_PROMISED_MAX);

/// A recipient to report on.
pub(super) struct FailedRecipient {
    pub(super) recipient: u32,
    pub(super) reason: Rc<Reason>,
    pub(super) attempts: u16,
    /// Given up for its age.
    pub(super) expired: bool,
    /// When it was tried last, if that is known.
    pub(super) last_attempt: Option<Timestamp>,
    /// The site it was for, if that is known.
    pub(super) site: Option<Arc<Site>>,
    /// How long its last attempt took, if that is known.
    pub(super) elapsed: Option<Duration>,
}

impl FailedRecipient {
    /// How it ended, when a report says so.
    pub(super) fn status(&self) -> RecipientStatus {
        if self.expired { RecipientStatus::Expired } else { RecipientStatus::Bounced }
    }

    /// Of one that still waits.
    fn of_waiting(waiting: ExpiredRecipient) -> FailedRecipient {
        let ExpiredRecipient { index, attempts, reason } = waiting;
        let reason = reason.unwrap_or_else(never_tried);
        FailedRecipient {
            recipient: index,
            reason,
            attempts,
            expired: false,
            last_attempt: None,
            site: None,
            elapsed: None,
        }
    }
}

fn never_tried() -> Rc<Reason> {
    let text = "the message expired before it could be tried";
    Rc::new(Reason::ours(Stage::Local, Status(4, 4, 7), text))
}

/// Whether the sender of `message` is to have a report of this kind about `recipient`. Without
/// NOTIFY it gets reports of failures alone (RFC 3461 4.1 leaves delays to the relay).
pub(super) fn is_wanted(kind: Kind, message: &Message, recipient: u32) -> bool {
    let Some(recipient) = message.envelope.recipients.get(recipient as usize) else { return false };
    match kind {
        Kind::Failed => recipient.notify.is_none_or(|notify| notify.failure),
        // RFC 2852 4.1.2: a sender that sets a time need not ask for DELAY, but may decline it.
        Kind::Delayed { .. } if notifies(message) => {
            recipient.notify.is_none_or(|notify| notify.delay)
        }
        Kind::Delayed { .. } => recipient.notify.is_some_and(|notify| notify.delay),
        // Chosen before: see `wants_success_report`.
        Kind::Relayed | Kind::Delivered => true,
    }
}

fn notifies(message: &Message) -> bool {
    message.options.deliver_by.is_some_and(|by| by.mode == ByMode::Notify)
}

/// Whether this relay reports to the sender that `recipient` was delivered.
pub(super) fn wants_success_report(message: &Message, recipient: u32, reports: Reports) -> bool {
    let Some(recipient) = message.envelope.recipients.get(recipient as usize) else { return false };
    let notify = recipient.notify;
    if reports.on_success != Reporter::NextHop && notify.is_some_and(|notify| notify.success) {
        return true;
    }
    // RFC 2852 4.1.4: of every hop with T, and of one that cannot tell of the time (4.1.4.2).
    let Some(by) = message.options.deliver_by.filter(|_| !reports.to_mailboxes) else {
        return false;
    };
    let is_last = by.mode == ByMode::Notify && !reports.keeps_time;
    (by.trace || is_last) && !notify.is_some_and(DsnNotify::is_never)
}

impl Origin {
    /// When a message is given up, and when a notice of delay is due: at the time of BY, or after
    /// the wait that the operator has set. `None` when the sender did not ask for it, or that time
    /// is past: then it was sent, as far as the relay was up, or the hop before sent it (a by-time
    /// that is not greater than 0, RFC 2852 4.1.2).
    pub(super) fn times(
        &self,
        received_at: Timestamp,
        options: &Options,
        delay: DelayReport,
    ) -> (Timestamp, Option<Timestamp>) {
        let retry = &self.stations.config.retry;
        let expires = options.expires_at(received_at, retry.expire);
        if delay == DelayReport::NoSender {
            return (expires, None);
        }
        let by = options.deliver_by.and_then(DeliverBy::notifies_at);
        let begin = options.not_before.map_or(received_at, |time| time.max(received_at));
        let wait = retry.delay_report.filter(|_| delay == DelayReport::Requested);
        let notice = by.or_else(|| Some(begin.plus(wait?))).filter(|&at| at > now());
        match (by, notice) {
            (Some(_), Some(at)) if at < expires => (aligned(expires, at), notice),
            (Some(_), _) => (expires, None),
            (None, _) => (expires, notice),
        }
    }
    /// What is to be reported of a message, by kind of report.
    fn due_reports(&mut self, task: &ReportTask) -> Vec<(Kind, Vec<FailedRecipient>)> {
        if let Some(notice) = &task.delayed {
            let waiting = notice.recipients.iter().cloned().map(FailedRecipient::of_waiting);
            return vec![(Kind::Delayed { until: notice.until }, waiting.collect())];
        }
        let kinds = [Kind::Failed, Kind::Relayed, Kind::Delivered];
        let mut all: Vec<(Kind, Vec<FailedRecipient>)> = kinds.map(|kind| (kind, vec![])).into();
        for ended in self.scheduler.ended(task.slot) {
            let EndedRecipient { index, ending, attempts, reason, tried_at, site, elapsed } = ended;
            let kind = match ending {
                Ending::Refused | Ending::Expired => 0,
                Ending::Relayed => 1,
                Ending::Delivered => 2,
            };
            if let Some((_, recipients)) = all.get_mut(kind) {
                recipients.push(FailedRecipient {
                    recipient: index,
                    reason: reason.unwrap_or_else(never_tried),
                    attempts,
                    expired: ending == Ending::Expired,
                    last_attempt: tried_at,
                    site: site.and_then(|site| self.sites.site(site).cloned()),
                    elapsed,
                });
            }
        }
        all.retain(|(_, recipients)| !recipients.is_empty());
        all
    }

    /// The report that these were delivered is stored.
    fn success_reported(&mut self, task: &ReportTask, recipients: &[FailedRecipient]) {
        for one in recipients {
            self.scheduler.noted(task.slot, one.recipient);
            self.scheduler.over(task.slot, one.recipient);
        }
    }
}

impl Driver {
    /// Has a worker for each report that may be made now.
    pub(super) fn begin_reports(self: &Rc<Self>) {
        loop {
            let task = self.origin.borrow_mut().scheduler.take_report(now());
            let Some(task) = task else { return };
            let worker = ReportWorker { driver: Rc::clone(self), task: Some(task) };
            ring::spawn("report", worker.run());
        }
    }

    /// Waits until no report is under way or due. On a full disk it does not wait for space: what
    /// is not stored then is made after the restart. Whether all are stored.
    pub(super) async fn settle_reports(&self) -> bool {
        self.origin.borrow_mut().scheduler.close_reports();
        self.changed();
        loop {
            {
                let scheduler = &self.origin.borrow().scheduler;
                if scheduler.unreported() == 0 || scheduler.reports_stall() {
                    return scheduler.unreported() == 0;
                }
            }
            self.reported.wait().await;
        }
    }

    /// Begins no more reports, and waits until those under way are done, so that what ends with
    /// them has its events.
    pub(super) async fn halt_reports(&self) {
        self.origin.borrow_mut().scheduler.halt_reports();
        while self.origin.borrow().scheduler.reports_in_flight() > 0 {
            self.reported.wait().await;
        }
    }

    /// Makes and stores what is to be reported of one message.
    async fn report(&self, task: &ReportTask) -> ReportEnd {
        let message = match self.message(task.slot).await {
            Ok(message) => message,
            Err(error) => return self.unreportable(task, &error).await,
        };
        let all = self.origin.borrow_mut().due_reports(task);
        for (kind, recipients) in all {
            for some in recipients.chunks(bounce::RECIPIENTS_MAX) {
                let promise = match kind {
                    Kind::Failed => Some(self.promise_events(some.len()).await),
                    _ => None,
                };
                if let Err(error) = self.store_report(task.slot, &message, kind, some).await {
                    let text = format!("a report cannot be stored: {error}");
                    self.origin.borrow_mut().trouble.note(&text, now());
                    return match error {
                        SpoolError::Full(_) => ReportEnd::NoRoom,
                        _ => ReportEnd::PutOff,
                    };
                }
                // What failed has ended with the report's record. Written again, it outlives that.
                match kind {
                    Kind::Failed => {
                        self.origin.borrow_mut().record_failures(task.slot, &message, some);
                    }
                    // Their ending is written already.
                    Kind::Relayed | Kind::Delivered => {
                        self.origin.borrow_mut().success_reported(task, some);
                    }
                    Kind::Delayed { .. } => {}
                }
                drop(promise);
            }
        }
        ReportEnd::Stored
    }

    /// Waits while the event log is behind, so that it drops no lines of what ends in thousands;
    /// not for long, because what frees a disk must not wait for an event file on it.
    /// Other reports under way will write events, too: their number is bounded.
    async fn promise_events(&self, recipients: usize) -> Promise<'_> {
        for _ in 0..EVENT_PAUSES_MAX {
            let is_behind = self.stations.events.is_behind();
            if !is_behind && have_place(self.events_promised.get(), recipients) {
                break;
            }
            ring::sleep(EVENT_PAUSE).await;
            self.stations.events.flush();
        }
        self.events_promised.set(self.events_promised.get() + recipients);
        Promise { driver: self, recipients }
    }

    /// The message that is to be reported on cannot be read.
    async fn unreportable(&self, task: &ReportTask, error: &SpoolError) -> ReportEnd {
        match self.set_aside(task.id, task.slot, error).await {
            Some(copy) => {
                tracing::error!(id = %task.id, %error, "no report: the message is damaged");
                self.origin.borrow_mut().end_damaged(task.id, task.slot, &[], &copy);
                ReportEnd::Stored
            }
            None => {
                let text = format!("message {} cannot be read for its report: {error}", task.id);
                self.origin.borrow_mut().trouble.note(&text, now());
                ReportEnd::PutOff
            }
        }
    }

    /// Stores the report about those of `all` that are to be reported; none if there are none.
    ///
    /// # Errors
    /// It is not stored.
    async fn store_report(
        &self,
        slot: Slot,
        message: &Message,
        kind: Kind,
        all: &[FailedRecipient],
    ) -> Result<(), SpoolError> {
        let Some(to) = &message.envelope.reverse_path else { return Ok(()) };
        let wanted = all.iter().filter(|account| is_wanted(kind, message, account.recipient));
        let now = now();
        let reported: Vec<ReportedRecipient<'_>> = wanted
            .filter_map(|account| {
                Some(ReportedRecipient {
                    recipient: message.envelope.recipients.get(account.recipient as usize)?,
                    reason: &account.reason,
                    attempts: account.attempts,
                    expired: account.expired,
                    late: is_late(kind, message, account, now),
                    last_attempt: account.last_attempt,
                })
            })
            .collect();
        if reported.is_empty() {
            return Ok(());
        }
        let options = &message.options;
        // RFC 8689 5: RET=FULL does not count with REQUIRETLS.
        let whole = self.origin.borrow().scheduler.may_return_content(slot)
            && options.dsn_return == Some(DsnReturn::Full)
            && matches!(kind, Kind::Failed)
            && !options.require_tls
            && message.content.len() <= bounce::FULL_BYTES_MAX as u64;
        let content = start_of(&message.content, whole).await?;
        let mut incoming = self.stations.intake.begin_report(now);
        let id = incoming.id();
        let report = bounce::report(&Report {
            host_name: &self.stations.config.host_name,
            to,
            message,
            kind,
            recipients: &reported,
            content: &content,
            whole,
            report_id: id,
            now,
        });
        incoming.push(&report).await;
        let eight_bit = !report.is_ascii();
        let details = Details {
            received_at: now,
            envelope: Envelope {
                reverse_path: None,
                recipients: vec![Recipient::plain(to.clone())],
            },
            options: Options {
                body: if eight_bit { Body::EightBitMime } else { Body::SevenBit },
                require_tls: options.require_tls,
                ..Options::default()
            },
            flags: ContentFlags { dot_stuffed: true, eight_bit },
            reservation: None,
        };
        let (placement, stored) = match kind {
            // One record: a crash leaves the report and the failures, or neither.
            Kind::Failed => {
                let statuses = all.iter().map(|one| (one.recipient, one.status())).collect();
                incoming.commit_report(details, Reported { id: message.id, statuses }).await?
            }
            Kind::Delayed { .. } | Kind::Relayed | Kind::Delivered => {
                incoming.commit(Source::Relay, details).await?
            }
        };
        let event =
            Event::new(event::Kind::Received, now).of(id, None).to_all(&stored.envelope.recipients);
        self.stations.events.emit(&Event {
            size: Some(stored.content.len()),
            about: Some(message.id),
            received: None,
            queued_ms: None,
            ..event
        });
        self.admit(stored, placement);
        if whole {
            self.origin.borrow_mut().scheduler.content_returned(slot);
        }
        Ok(())
    }
}

/// Whether it is reported because the time of BY is over.
fn is_late(kind: Kind, message: &Message, account: &FailedRecipient, now: Timestamp) -> bool {
    let Some(by) = message.options.deliver_by.filter(|by| by.at <= now) else { return false };
    match kind {
        Kind::Failed => by.mode == ByMode::Return && account.expired,
        Kind::Delayed { .. } => by.mode == ByMode::Notify,
        Kind::Relayed | Kind::Delivered => false,
    }
}

/// The first piece of the content, or all of it. What is damaged is left out.
///
/// # Errors
/// It cannot be read at present, for want of a descriptor or of memory.
async fn start_of(content: &Content, whole: bool) -> Result<Cow<'_, [u8]>, SpoolError> {
    let pieces = match content {
        Content::Whole(bytes) => return Ok(Cow::Borrowed(bytes)),
        Content::Streamed(pieces) => pieces,
    };
    let mut all = Vec::new();
    for piece in pieces.iter().take(if whole { usize::MAX } else { 1 }) {
        match piece.read().await {
            Ok(read) => all.extend(read),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let (path, cause) = (piece.path.to_path_buf(), error.to_string());
                return Err(SpoolError::Open { path, cause });
            }
            Err(_) => {}
        }
    }
    Ok(Cow::Owned(all))
}

/// The events of these recipients are still to be written.
struct Promise<'a> {
    driver: &'a Driver,
    recipients: usize,
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        let promised = &self.driver.events_promised;
        promised.set(promised.get().saturating_sub(self.recipients));
    }
}

/// Whether events of `recipients` more may be promised.
pub(super) fn have_place(promised: usize, recipients: usize) -> bool {
    promised == 0 || promised + recipients <= EVENTS_PROMISED_MAX
}

/// One of the workers that make reports. It takes one message after the other.
struct ReportWorker {
    driver: Rc<Driver>,
    /// What it is at. If it ends in the middle, that is tried again.
    task: Option<ReportTask>,
}

impl ReportWorker {
    async fn run(mut self) {
        while let Some(task) = self.task.clone() {
            let end = self.driver.report(&task).await;
            self.end(end);
            self.task = self.driver.origin.borrow_mut().scheduler.take_report(now());
        }
    }

    fn end(&mut self, end: ReportEnd) {
        let Some(task) = self.task.take() else { return };
        let origin = &mut *self.driver.origin.borrow_mut();
        origin.scheduler.report_done(&task, end, now());
        origin.free_if_over(task.slot);
        self.driver.reported.set();
        self.driver.changed();
    }
}

impl Drop for ReportWorker {
    fn drop(&mut self) {
        self.end(ReportEnd::PutOff);
    }
}
