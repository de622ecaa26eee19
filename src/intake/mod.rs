//! Makes every accepted message, as Postfix's cleanup(8) does: those of SMTP, of `spool import` and
//! the relay's own reports. No other module stores one.
//!
//! ```text
//! begin -> push, push ... (each Observer sees the content) -> commit: 250 may be sent
//! ```
//!
//! Content goes to the spool's draft in wire form and is not rewritten. [`Incoming::commit`] puts
//! the relay's header fields on top, has the message made durable, counts it in the quota, and
//! returns it. On top of a message stand, in this order:
//!
//! | fields | of |
//! | --- | --- |
//! | Received | clients ([`Source::Client`]): `received` |
//! | Date and Message-ID, where they are missing | submission: the observer [`HeaderCheck`] |
//! | signatures and metadata | the place for them is the observers: see [`Observer::fields`] |
//!
//! What is checked, and where:
//!
//! | check | where |
//! | --- | --- |
//! | hop count, size, line length, bare CR and LF, NUL | `smtp::ContentScanner`, which also finds the end of the content: in `session` and in `eml` |
//! | a header that is well-formed and has only addresses that the user may send from | [`HeaderCheck::check`], on submission |
//! | the hourly quota | reserved at MAIL and RCPT; counted by `commit`, given back when there is none |
//!
//! `received` and `header` are *pure*. This module must not know how a message came in, nor when
//! and where it is delivered.

mod header;
mod received;

pub use header::HeaderCheck;
pub use received::{Client, Tls};

use crate::message::{ContentFlags, Envelope, Message, Options, QueueId, Timestamp};
use crate::quota::Reservation;
use crate::spool::{Draft, Placement, PriorStatus, Reported, Spool, SpoolError};
use std::rc::Rc;
use std::sync::Arc;

/// The intake of one spool.
#[derive(Clone)]
pub struct Intake {
    shared: Rc<Shared>,
}

struct Shared {
    spool: Spool,
    host_name: Arc<str>,
}

/// Sees content as it arrives, for example to hash it for a signature. `()` does nothing and costs
/// nothing; of a pair, both see it.
pub trait Observer {
    /// The next piece of content, in wire form, cut anywhere.
    fn observe(&mut self, piece: &[u8]);

    /// The content has ended: appends header fields to go on top of the message, each with its
    /// CRLF. A signature or a metadata field is added here.
    fn fields(&self, _message: &Ended<'_>, _out: &mut Vec<u8>) {}
}

/// A message whose content has ended, as observers see it.
pub struct Ended<'a> {
    /// Its queue id.
    pub id: QueueId,
    /// When its content ended.
    pub received_at: Timestamp,
    /// The relay's name.
    pub host_name: &'a str,
    /// Its sender and its recipients.
    pub envelope: &'a Envelope,
    /// Its options.
    pub options: &'a Options,
}

impl Observer for () {
    fn observe(&mut self, _: &[u8]) {}
}

impl<A: Observer, B: Observer> Observer for (A, B) {
    fn observe(&mut self, piece: &[u8]) {
        self.0.observe(piece);
        self.1.observe(piece);
    }

    fn fields(&self, message: &Ended<'_>, out: &mut Vec<u8>) {
        self.0.fields(message, out);
        self.1.fields(message, out);
    }
}

impl<O: Observer> Observer for Option<O> {
    fn observe(&mut self, piece: &[u8]) {
        if let Some(observer) = self {
            observer.observe(piece);
        }
    }

    fn fields(&self, message: &Ended<'_>, out: &mut Vec<u8>) {
        if let Some(observer) = self {
            observer.fields(message, out);
        }
    }
}

/// Where a message comes from: decides what the relay puts on top of it.
pub enum Source<'a> {
    /// A client: a Received field.
    Client(Client<'a>),
    /// The relay itself: nothing.
    Relay,
    /// An exported message: the fields that were on top of it before.
    File(Vec<u8>),
}

/// What belongs to a message beside its content.
pub struct Details {
    /// Its sender and its recipients.
    pub envelope: Envelope,
    /// Its options.
    pub options: Options,
    /// What the scan of the content found.
    pub flags: ContentFlags,
    /// When the content ended, or was received by an earlier relay.
    pub received_at: Timestamp,
    /// What it takes of an hourly quota. It counts when the message is durable, and is given back
    /// when the message is not accepted.
    pub reservation: Option<Reservation>,
}

impl Intake {
    /// Into `spool`, by the relay of this name.
    pub fn new(spool: Spool, host_name: Arc<str>) -> Intake {
        Intake { shared: Rc::new(Shared { spool, host_name }) }
    }

    /// Where the messages go.
    pub fn spool(&self) -> &Spool {
        &self.shared.spool
    }

    /// A message whose content begins to arrive `now`.
    pub fn begin<O: Observer>(&self, now: Timestamp, observer: O) -> Incoming<O> {
        self.begin_as(self.spool().next_id(now), now, observer)
    }

    /// The same for a message that has an id: [`Spool::restore`] says which ids are allowed.
    pub fn begin_as<O: Observer>(&self, id: QueueId, now: Timestamp, observer: O) -> Incoming<O> {
        let (shared, content) = (Rc::clone(&self.shared), Ok(self.spool().draft()));
        Incoming { shared, id, begun_at: now, content, observer }
    }

    /// The same for a report of the relay's own, for which there is space when there is none any
    /// more for other mail.
    pub fn begin_report(&self, now: Timestamp) -> Incoming {
        let (spool, shared) = (self.spool(), Rc::clone(&self.shared));
        let (id, content) = (spool.next_id(now), Ok(spool.report_draft()));
        Incoming { shared, id, begun_at: now, content, observer: () }
    }
}

/// A message on its way in. Dropped before `commit`, it is discarded.
pub struct Incoming<O = ()> {
    shared: Rc<Shared>,
    id: QueueId,
    begun_at: Timestamp,
    /// Or why it cannot be kept.
    content: Result<Draft, SpoolError>,
    observer: O,
}

impl<O: Observer> Incoming<O> {
    /// Its queue id.
    pub fn id(&self) -> QueueId {
        self.id
    }

    /// The observer of its content.
    pub fn observer(&self) -> &O {
        &self.observer
    }

    /// Whether all content so far is kept. If not, [`Incoming::commit`] returns the error.
    pub fn is_kept(&self) -> bool {
        self.content.is_ok()
    }

    /// Takes the next piece of content, in wire form. Waits while the disk is slower than the
    /// sender. An error is kept for [`Incoming::commit`]: the client gets its reply at the end of
    /// the content.
    pub async fn push(&mut self, piece: &[u8]) {
        let Ok(draft) = &mut self.content else { return };
        self.observer.observe(piece);
        if let Err(error) = draft.extend(piece).await {
            tracing::debug!(id = %self.id, %error, "content not kept");
            self.content = Err(error);
        }
    }

    /// Makes the message durable. If the future is dropped before that, the message ends as
    /// removed.
    ///
    /// # Errors
    /// The message is not accepted.
    pub async fn commit(
        self,
        source: Source<'_>,
        details: Details,
    ) -> Result<(Placement, Arc<Message>), SpoolError> {
        let (shared, reservation, message) = self.message(source, details)?;
        let stored = shared.spool.store(message).await?;
        if let Some(reservation) = reservation {
            reservation.commit();
        }
        Ok(stored)
    }

    /// The same for a report: with it the recipients that it reports have ended.
    ///
    /// # Errors
    /// The report is not stored, and they have not ended.
    pub async fn commit_report(
        self,
        details: Details,
        reported: Reported,
    ) -> Result<(Placement, Arc<Message>), SpoolError> {
        let (shared, _, message) = self.message(Source::Relay, details)?;
        shared.spool.store_report(message, reported).await
    }

    /// The same for a message that was tried before: with the status of its recipients.
    ///
    /// # Errors
    /// The message is not accepted.
    pub async fn restore(
        self,
        source: Source<'_>,
        details: Details,
        so_far: &PriorStatus,
    ) -> Result<Placement, SpoolError> {
        let (shared, _, message) = self.message(source, details)?;
        shared.spool.restore(message, so_far).await
    }

    fn message(self, source: Source<'_>, details: Details) -> Result<Made, SpoolError> {
        let Incoming { shared, id, begun_at, content, observer } = self;
        let Details { envelope, options, flags, received_at, reservation } = details;
        let content = content?;
        // A message without recipients would be in no list, and never end.
        assert!(!envelope.recipients.is_empty(), "message {id} has no recipients");
        let host_name = &*shared.host_name;
        let mut prepended_headers = match source {
            Source::Client(client) => {
                let stamp = received::Stamp { host_name, id, at: begun_at };
                received::field(&client, &stamp, &envelope, options.priority)
            }
            Source::Relay => Vec::new(),
            Source::File(prepended_headers) => prepended_headers,
        };
        let ended = Ended { id, received_at, host_name, envelope: &envelope, options: &options };
        observer.fields(&ended, &mut prepended_headers);
        let message =
            Message { id, received_at, envelope, options, flags, prepended_headers, content };
        Ok((shared, reservation, message))
    }
}

type Made = (Rc<Shared>, Option<Reservation>, Message<Draft>);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Length(usize);

    impl Observer for Length {
        fn observe(&mut self, piece: &[u8]) {
            self.0 += piece.len();
        }

        fn fields(&self, message: &Ended<'_>, out: &mut Vec<u8>) {
            let field = format!("X-Length: {} of {}\r\n", self.0, message.id);
            out.extend_from_slice(field.as_bytes());
        }
    }

    #[test]
    fn observers_see_each_piece_once_and_add_their_fields_in_order() {
        let mut observers = (Some(Length::default()), ((), (None::<Length>, Length(5))));
        for piece in [&b"Subject: x\r\n"[..], b"", b"\r\nbody\r\n"] {
            observers.observe(piece);
        }
        let envelope = Envelope { reverse_path: None, recipients: Vec::new() };
        let ended = Ended {
            id: QueueId(0),
            received_at: Timestamp(0),
            host_name: "relay.example",
            envelope: &envelope,
            options: &Options::default(),
        };
        let mut out = Vec::new();
        observers.fields(&ended, &mut out);
        let fields = "X-Length: 20 of 0000000000000\r\nX-Length: 25 of 0000000000000\r\n";
        assert_eq!(String::from_utf8_lossy(&out), fields);
    }

    #[test]
    fn no_observer_takes_no_memory() {
        assert_eq!(size_of::<Incoming<()>>(), size_of::<Incoming<((), ())>>());
        let bare = size_of::<(Rc<Shared>, QueueId, Timestamp, Result<Draft, SpoolError>)>();
        assert_eq!(size_of::<Incoming<()>>(), bare);
    }
}
