//! Reports to senders: who asked for one, and how it becomes a message of this relay's own.

use super::now;
use super::queue::Queue;
use crate::bounce::{self, Kind, Report, Told};
use crate::event::{self, Event};
use crate::message::{
    Body, DsnReturn, Envelope, Options, QueueId, Reason, Recipient, Stage, Status, Timestamp,
};
use crate::pool::Reports;
use crate::ring;
use crate::scheduler::{Lapsed, Slot};
use crate::spool::{Accepted, Content, Message, SpoolError};
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

/// What there is to tell of a recipient.
pub(super) struct Account {
    pub(super) recipient: u32,
    pub(super) reason: Reason,
    pub(super) attempts: u16,
    /// Given up for its age.
    pub(super) expired: bool,
    /// When it was tried last, if that is known.
    pub(super) last_attempt: Option<Timestamp>,
}

impl Account {
    /// Of one whose attempt has just ended.
    pub(super) fn of_attempt(
        recipient: u32,
        reason: Reason,
        attempts: u16,
        now: Timestamp,
    ) -> Account {
        Account { recipient, reason, attempts, expired: false, last_attempt: Some(now) }
    }

    /// Of one that waits, or did.
    pub(super) fn of_waiting(lapsed: Lapsed) -> Account {
        let Lapsed { index, attempts, reason } = lapsed;
        let reason = reason.map_or_else(never_tried, |reason| (*reason).clone());
        Account { recipient: index, reason, attempts, expired: false, last_attempt: None }
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
        Kind::Delayed { .. } => recipient.notify.is_some_and(|notify| notify.delay),
        Kind::Relayed | Kind::Delivered => recipient.notify.is_some_and(|notify| notify.success),
    }
}

impl Queue {
    /// When the sender of a message that has waited since `begin` is to be told so; `None` when it
    /// did not ask, or that time is past: then it was told, as far as the relay was up.
    pub(super) fn notice(&self, begin: Timestamp, wanted: bool) -> Option<Timestamp> {
        let wait = self.config.retry.delay_report.filter(|_| wanted)?;
        Some(begin.plus(wait)).filter(|&at| at > now())
    }

    /// These recipients were delivered: tells the sender where nobody else does. Their ending is
    /// noted already. A report that cannot be stored is lost: it is worth no second delivery.
    pub(super) fn tell_success(
        self: &Rc<Self>,
        slot: Slot,
        message: &Arc<Message>,
        delivered: Vec<Account>,
        reports: Reports,
    ) {
        let kind = match reports {
            Reports::NextHop => return,
            Reports::Relayed => Kind::Relayed,
            Reports::Delivered => Kind::Delivered,
        };
        let is_wanted = |account: &Account| is_wanted(kind, message, account.recipient);
        if message.envelope.reverse_path.is_none() || !delivered.iter().any(is_wanted) {
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
    pub(super) fn delayed(self: &Rc<Self>, slot: Slot, until: Timestamp, waiting: Vec<Lapsed>) {
        let Some((id, _)) = self.scheduler.borrow().whereabouts(slot) else { return };
        let reporting = Reporting::begin(self, slot, id);
        let queue = Rc::clone(self);
        ring::spawn("delay", async move {
            match queue.message(slot).await {
                Ok(message) => {
                    let waiting: Vec<_> = waiting.into_iter().map(Account::of_waiting).collect();
                    queue.store_reports(&message, Kind::Delayed { until }, &waiting).await;
                }
                // Its next attempt meets the same, and deals with it.
                Err(error) => tracing::warn!(%id, %error, "no report of delay"),
            }
            reporting.end();
        });
    }

    async fn store_reports(self: &Rc<Self>, message: &Message, kind: Kind, all: &[Account]) {
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
        all: &[Account],
    ) -> Result<(), SpoolError> {
        let Some(to) = &message.envelope.reverse_path else { return Ok(()) };
        let wanted = all.iter().filter(|account| is_wanted(kind, message, account.recipient));
        let told: Vec<Told<'_>> = wanted
            .filter_map(|account| {
                Some(Told {
                    recipient: message.envelope.recipients.get(account.recipient as usize)?,
                    reason: &account.reason,
                    attempts: account.attempts,
                    expired: account.expired,
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
        let now = now();
        let id = self.spool.next_id(now);
        let report = bounce::report(&Report {
            host_name: &self.config.host_name,
            to,
            id: message.id,
            received_at: message.received_at,
            envelope_id: options.dsn_envelope_id.as_deref(),
            smtp_utf8: options.smtp_utf8,
            kind,
            told: &told,
            trace: &message.trace,
            content: &start_of(&message.content, whole).await,
            whole,
            dot_stuffed: message.dot_stuffed,
            report_id: id,
            now,
        });
        let mut draft = self.spool.draft();
        draft.extend(&report).await?;
        let eight_bit = !report.is_ascii();
        let accepted = Accepted {
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
            trace: Vec::new(),
            dot_stuffed: true,
            eight_bit,
        };
        let (placement, stored) = self.spool.store(draft, accepted).await?;
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
