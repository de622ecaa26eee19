//! The way of a message into the spool (Postfix's cleanup(8) is its model). `spool import` comes
//! through it; listeners and the relay's own reports still make their messages themselves.
//!
//! Content goes through it to the spool's draft, in wire form and untouched, and each [`Observer`]
//! sees it on the way. When it has ended, [`Incoming::commit`] puts the relay's header fields on
//! top, has the message made durable, and returns it: only then may 250 be sent. `received`, which
//! writes the Received field, is *pure*.
//!
//! It must not know how a message came in, nor when and where it is delivered.

mod received;

pub use received::{Client, Tls};

use crate::message::{ContentFlags, Envelope, Message, Options, QueueId, Timestamp};
use crate::spool::{Draft, Placement, PriorStatus, Spool, SpoolError};
use std::sync::Arc;

/// One shard's way into its spool.
#[derive(Clone)]
pub struct Intake {
    spool: Spool,
    host_name: Arc<str>,
}

/// Watches content as it arrives, such as for a signature over it. `()` watches nothing, and costs
/// nothing; a pair watches one after the other.
pub trait Observer {
    /// The next piece of content, in wire form, cut anywhere.
    fn observe(&mut self, piece: &[u8]);

    /// The content has ended: appends header fields that go on top of the message, each with its
    /// CRLF.
    fn fields(&self, _message: &Ended<'_>, _out: &mut Vec<u8>) {}
}

/// A message whose content has ended, as observers see it.
pub struct Ended<'a> {
    /// Its name.
    pub id: QueueId,
    /// When its content ended.
    pub received_at: Timestamp,
    /// The relay's name.
    pub host_name: &'a str,
    /// Its sender and its recipients.
    pub envelope: &'a Envelope,
    /// What was asked for it.
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

/// Where a message comes from: what the relay puts on top of it.
pub enum Source<'a> {
    /// A client: a Received field.
    Client(Client<'a>),
    /// The relay itself: nothing.
    Relay,
    /// A file that has kept what a relay had put on top before.
    File(Vec<u8>),
}

/// What belongs to a message beside its content.
pub struct Details {
    /// Its sender and its recipients.
    pub envelope: Envelope,
    /// What was asked for it.
    pub options: Options,
    /// What was found out about the content.
    pub flags: ContentFlags,
    /// When the content ended, or was received by an earlier relay.
    pub received_at: Timestamp,
}

impl Intake {
    /// Into `spool`, by the relay of this name.
    pub fn new(spool: Spool, host_name: Arc<str>) -> Intake {
        Intake { spool, host_name }
    }

    /// Where the messages go.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// A message whose content begins to arrive `now`.
    pub fn begin<O: Observer>(&self, now: Timestamp, observer: O) -> Incoming<O> {
        self.begin_as(self.spool.next_id(now), now, observer)
    }

    /// The same of a message that has a name already: see [`Spool::restore`] for which it may be.
    pub fn begin_as<O: Observer>(&self, id: QueueId, now: Timestamp, observer: O) -> Incoming<O> {
        let (intake, content) = (self.clone(), Ok(self.spool.draft()));
        Incoming { intake, id, begun_at: now, content, observer }
    }
}

/// A message on its way in. Dropped: forgotten.
pub struct Incoming<O = ()> {
    intake: Intake,
    id: QueueId,
    begun_at: Timestamp,
    /// Or why it cannot be kept.
    content: Result<Draft, SpoolError>,
    observer: O,
}

impl<O: Observer> Incoming<O> {
    /// Its name.
    pub fn id(&self) -> QueueId {
        self.id
    }

    /// Who watches its content.
    pub fn observer(&self) -> &O {
        &self.observer
    }

    /// Takes the next piece of content, in wire form. Waits while the disk is slower than the
    /// sender. When it cannot be kept, [`Incoming::commit`] says why: a client is told so at the
    /// end of its content, and not before.
    pub async fn push(&mut self, piece: &[u8]) {
        let Ok(draft) = &mut self.content else { return };
        self.observer.observe(piece);
        if let Err(error) = draft.extend(piece).await {
            tracing::debug!(id = %self.id, %error, "content not kept");
            self.content = Err(error);
        }
    }

    /// Makes the message durable. If the caller goes away before that, it ends as removed.
    ///
    /// # Errors
    /// The message is not accepted.
    pub async fn commit(
        self,
        source: Source<'_>,
        details: Details,
    ) -> Result<(Placement, Arc<Message>), SpoolError> {
        let spool = self.intake.spool.clone();
        spool.store(self.message(source, details)?).await
    }

    /// The same with what became of the message's recipients before.
    ///
    /// # Errors
    /// The message is not accepted.
    pub async fn restore(
        self,
        source: Source<'_>,
        details: Details,
        so_far: &PriorStatus,
    ) -> Result<Placement, SpoolError> {
        let spool = self.intake.spool.clone();
        spool.restore(self.message(source, details)?, so_far).await
    }

    fn message(self, source: Source<'_>, details: Details) -> Result<Message<Draft>, SpoolError> {
        let Incoming { intake, id, begun_at, content, observer } = self;
        let Details { envelope, options, flags, received_at } = details;
        let content = content?;
        // A message for no recipient would be in no list, and never end.
        assert!(!envelope.recipients.is_empty(), "message {id} has no recipients");
        let host_name = &*intake.host_name;
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
        Ok(Message { id, received_at, envelope, options, flags, prepended_headers, content })
    }
}
