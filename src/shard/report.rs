//! Reports to senders: who asked for one, and how it becomes a message of this relay's own.

use super::now;
use super::queue::Queue;
use crate::bounce::{self, Kind, Report, ReportedRecipient};
use crate::event::{self, Event};
use crate::message::{
    Body, ByMode, Content, ContentFlags, DeliverBy, DsnNotify, DsnReturn, Envelope, Message,
    Options, QueueId, Reason, Recipient, Stage, Status, Timestamp, expiry, wished_end,
};
use crate::pool::{Reporter, Reports};
use crate::ring;
use crate::scheduler::{ExpiredRecipient, Slot, aligned};
use crate::spool::SpoolError;
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

/// What decides when a message is given up, and its sender told.
pub(super) struct Asked {
    pub(super) received_at: Timestamp,
    pub(super) not_before: Option<Timestamp>,
    pub(super) expires: Option<Timestamp>,
    pub(super) deliver_by: Option<DeliverBy>,
    /// NOTIFY=DELAY was given for some recipient.
    pub(super) delay_wanted: bool,
    /// Nobody can be told.
    pub(super) is_report: bool,
}

/// What there is to tell of a recipient.
pub(super) struct FailedRecipient {
    pub(super) recipient: u32,
    pub(super) reason: Reason,
    pub(super) attempts: u16,
    /// Given up for its age.
    pub(super) expired: bool,
    /// When it was tried last, if that is known.
    pub(super) last_attempt: Option<Timestamp>,
}

impl FailedRecipient {
    /// Of one whose attempt has just ended.
    pub(super) fn of_attempt(
        recipient: u32,
        reason: Reason,
        attempts: u16,
        now: Timestamp,
    ) -> FailedRecipient {
        FailedRecipient { recipient, reason, attempts, expired: false, last_attempt: Some(now) }
    }

    /// Of one that waits, or did.
    pub(super) fn of_waiting(expired: ExpiredRecipient) -> FailedRecipient {
        let ExpiredRecipient { index, attempts, reason } = expired;
        let reason = reason.map_or_else(never_tried, |reason| (*reason).clone());
        FailedRecipient { recipient: index, reason, attempts, expired: false, last_attempt: None }
    }
}

fn never_tried() -> Reason {
    Reason::ours(Stage::Local, Status(4, 4, 7), "its time was over before it could be tried")
}

/// Whether the sender of `message` is to have a report of this kind about `recipient`. Without
/// NOTIFY it hears of failures alone (RFC 3461 4.1 leaves delays to the relay).
pub(super) fn is_wanted(kind: Kind, message: &Message, recipient: u32) -> bool {
    let Some(recipient) = message.envelope.recipients.get(recipient as usize) else { return false };
    match kind {
        Kind::Failed => recipient.notify.is_none_or(|notify| notify.failure),
        // RFC 2852 4.1.2: who sets a time need not ask for DELAY, but may say that he wants none.
        Kind::Delayed { .. } if notifies(message) => {
            recipient.notify.is_none_or(|notify| notify.delay)
        }
        Kind::Delayed { .. } => recipient.notify.is_some_and(|notify| notify.delay),
        // Chosen before: see `hears_of_delivery`.
        Kind::Relayed | Kind::Delivered => true,
    }
}

fn notifies(message: &Message) -> bool {
    message.options.deliver_by.is_some_and(|by| by.mode == ByMode::Notify)
}

/// Whether the sender is to hear from this relay that `recipient` was delivered.
pub(super) fn hears_of_delivery(message: &Message, recipient: u32, reports: Reports) -> bool {
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

impl Queue {
    /// When a message is given up, and when its sender is to be told that it still waits: at the
    /// time of BY, or after the wait that the operator has set. `None` when it did not ask, or that
    /// time is past: then it was told, as far as the relay was up, or by the hop before (a by-time
    /// that is not greater than 0, RFC 2852 4.1.2).
    pub(super) fn times(&self, asked: &Asked) -> (Timestamp, Option<Timestamp>) {
        let retry = &self.config.retry;
        let wished = wished_end(asked.expires, asked.deliver_by);
        let expires = expiry(asked.received_at, asked.not_before, wished, retry.expire);
        let by = asked.deliver_by.and_then(DeliverBy::notifies_at);
        let begin = asked.not_before.unwrap_or_default().max(asked.received_at);
        let ordinary = || Some(begin.plus(retry.delay_report.filter(|_| asked.delay_wanted)?));
        let notice = by.or_else(ordinary).filter(|&at| !asked.is_report && at > now());
        match (by, notice) {
            (Some(_), Some(at)) if at < expires => (aligned(expires, at), notice),
            (Some(_), _) => (expires, None),
            (None, _) => (expires, notice),
        }
    }

    /// These recipients were delivered, and the sender is to hear of it from here. Their ending is
    /// noted already. A report that cannot be stored is lost: it is worth no second delivery.
    pub(super) fn tell_success(
        self: &Rc<Self>,
        slot: Slot,
        message: &Arc<Message>,
        delivered: Vec<FailedRecipient>,
        reports: Reports,
    ) {
        let kind = if reports.to_mailboxes { Kind::Delivered } else { Kind::Relayed };
        if message.envelope.reverse_path.is_none() || delivered.is_empty() {
            return;
        }
        let reporting = Reporting::begin(self, slot, message.id);
        let (queue, message) = (Rc::clone(self), Arc::clone(message));
        ring::spawn("report", async move {
            queue.store_reports(&message, kind, &delivered).await;
            reporting.end();
        });
    }

    /// These recipients still wait, and it is time to say so to a sender who asked for that.
    pub(super) fn delayed(
        self: &Rc<Self>,
        slot: Slot,
        until: Timestamp,
        waiting: Vec<ExpiredRecipient>,
    ) {
        let Some((id, _)) = self.scheduler.borrow().whereabouts(slot) else { return };
        let reporting = Reporting::begin(self, slot, id);
        let queue = Rc::clone(self);
        ring::spawn("delay", async move {
            match queue.message(slot).await {
                Ok(message) => {
                    let waiting: Vec<_> =
                        waiting.into_iter().map(FailedRecipient::of_waiting).collect();
                    queue.store_reports(&message, Kind::Delayed { until }, &waiting).await;
                }
                // Its next attempt meets the same, and deals with it.
                Err(error) => tracing::warn!(%id, %error, "no report of delay"),
            }
            reporting.end();
        });
    }

    async fn store_reports(
        self: &Rc<Self>,
        message: &Message,
        kind: Kind,
        all: &[FailedRecipient],
    ) {
        for some in all.chunks(bounce::RECIPIENTS_MAX) {
            if let Err(error) = self.store_report(message, kind, some).await {
                tracing::error!(id = %message.id, %error, "a report cannot be stored");
            }
        }
    }

    /// Stores the report about those of `all` for whom it is wanted; none if there are none.
    ///
    /// # Errors
    /// It is not stored.
    pub(super) async fn store_report(
        self: &Rc<Self>,
        message: &Message,
        kind: Kind,
        all: &[FailedRecipient],
    ) -> Result<(), SpoolError> {
        let Some(to) = &message.envelope.reverse_path else { return Ok(()) };
        let wanted = all.iter().filter(|account| is_wanted(kind, message, account.recipient));
        let now = now();
        let told: Vec<ReportedRecipient<'_>> = wanted
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
        if told.is_empty() {
            return Ok(());
        }
        let options = &message.options;
        // RFC 8689 5: RET=FULL does not count with REQUIRETLS.
        let whole = options.dsn_return == Some(DsnReturn::Full)
            && matches!(kind, Kind::Failed)
            && !options.require_tls
            && message.content.len() <= bounce::FULL_BYTES_MAX as u64;
        let id = self.spool.next_id(now);
        let report = bounce::report(&Report {
            host_name: &self.config.host_name,
            to,
            id: message.id,
            received_at: message.received_at,
            envelope_id: options.dsn_envelope_id.as_deref(),
            deliver_by: options.deliver_by.map(|by| by.at),
            smtp_utf8: options.smtp_utf8,
            kind,
            told: &told,
            prepended_headers: &message.prepended_headers,
            content: &start_of(&message.content, whole).await,
            whole,
            dot_stuffed: message.flags.dot_stuffed,
            report_id: id,
            now,
        });
        let mut draft = self.spool.draft();
        draft.extend(&report).await?;
        let eight_bit = !report.is_ascii();
        let accepted = Message {
            id,
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
            prepended_headers: Vec::new(),
            content: draft,
        };
        let (placement, stored) = self.spool.store(accepted).await?;
        let event =
            Event::new(event::Kind::Received, now).of(id, None).to_all(&stored.envelope.recipients);
        self.events.emit(&Event {
            size: Some(stored.content.len()),
            about: Some(message.id),
            queued_ms: None,
            ..event
        });
        self.admit(stored, placement);
        Ok(())
    }
}

/// Whether it is told of because the time of BY is over.
fn is_late(kind: Kind, message: &Message, account: &FailedRecipient, now: Timestamp) -> bool {
    let Some(by) = message.options.deliver_by.filter(|by| by.at <= now) else { return false };
    match kind {
        Kind::Failed => by.mode == ByMode::Return && account.expired,
        Kind::Delayed { .. } => by.mode == ByMode::Notify,
        Kind::Relayed | Kind::Delivered => false,
    }
}

/// The first piece of the content, or all of it. What cannot be read is left out.
async fn start_of(content: &Content, whole: bool) -> Cow<'_, [u8]> {
    let pieces = match content {
        Content::Whole(bytes) => return Cow::Borrowed(bytes),
        Content::Streamed(pieces) => pieces,
    };
    let mut read = Vec::new();
    for piece in pieces.iter().take(if whole { usize::MAX } else { 1 }) {
        read.extend(piece.read().await.unwrap_or_default());
    }
    Cow::Owned(read)
}

/// A report that is being stored, or will be: counts, and holds the message's place and record. If
/// it is dropped before [`Reporting::end`], they stay held: after a restart it happens again.
pub(super) struct Reporting {
    queue: Rc<Queue>,
    slot: Slot,
    id: QueueId,
}

impl Reporting {
    pub(super) fn begin(queue: &Rc<Queue>, slot: Slot, id: QueueId) -> Reporting {
        queue.reporting.set(queue.reporting.get() + 1);
        *queue.reported.borrow_mut().entry(slot).or_default() += 1;
        Reporting { queue: Rc::clone(queue), slot, id }
    }

    /// All is recorded.
    pub(super) fn end(self) {
        {
            let mut reported = self.queue.reported.borrow_mut();
            if let Some(count) = reported.get_mut(&self.slot) {
                *count -= 1;
                if *count == 0 {
                    reported.remove(&self.slot);
                }
            }
        }
        self.queue.free_if_over(self.slot, self.id);
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.queue.reporting.set(self.queue.reporting.get().saturating_sub(1));
    }
}
