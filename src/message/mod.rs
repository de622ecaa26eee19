//! What is carried: a message, its envelope and options, each recipient and its status so far.
//! *Pure.*
//!
//! One type for each of these, and every module above uses them: the owner of a message holds an
//! `Arc<Message>`, and names its recipients by their index in the envelope. This module knows no
//! wire format, no disk layout, no clock.

pub(crate) mod codec;
mod content;
mod envelope;
pub(crate) mod field;
mod id;
mod options;
mod outcome;
mod placement;
mod route_key;
pub(crate) mod tagged;

pub use crate::timestamp::Timestamp;
pub use content::{Content, ContentFlags, Piece};
pub use envelope::{Address, Envelope, Recipient, ReversePath, domain_key, domain_of};
pub use id::{QueueId, QueueIdSource};
pub use options::{Body, ByMode, DeliverBy, DsnNotify, DsnReturn, Options};
pub use outcome::{HostAttempt, Outcome, Reason, RecipientStatus, Stage, Status};
pub use placement::Placement;
pub use route_key::{Demands, IdentityId, RouteKey};
pub use tagged::{InEvents, OptionSpec, Shown};

/// A message as it is stored and delivered. It does not change once it is durable, and is shared
/// by all deliveries of it, on any shard.
///
/// `C` is where the content is: while a message comes in that is the spool's draft.
#[derive(Clone, Debug, PartialEq)]
pub struct Message<C = Content> {
    /// Its name.
    pub id: QueueId,
    /// When the end of data came.
    pub received_at: Timestamp,
    /// Its sender and its recipients.
    pub envelope: Envelope,
    /// What the client asked for with it.
    pub options: Options,
    /// What was found out about the content while it arrived.
    pub flags: ContentFlags,
    /// Header fields that the relay put on top: Received, and what a submission lacked.
    pub prepended_headers: Vec<u8>,
    /// Content in wire form, without the final dot line; ends in CRLF or is empty.
    pub content: C,
}

impl<C> Message<C> {
    /// The recipient with this index in the envelope.
    pub fn recipient(&self, index: u32) -> Option<&Recipient> {
        self.envelope.recipients.get(index as usize)
    }

    /// What it demands of the way to a host.
    pub fn demands(&self) -> Demands {
        Demands::new(self.options.require_tls, self.envelope.reverse_path.is_none())
    }

    /// The same message with this content.
    pub fn with_content<D>(self, content: D) -> Message<D> {
        let Message { id, received_at, envelope, options, flags, prepended_headers, .. } = self;
        Message { id, received_at, envelope, options, flags, prepended_headers, content }
    }

    /// The message without its content, and the content.
    pub fn split(self) -> (Message<()>, C) {
        let Message { id, received_at, envelope, options, flags, prepended_headers, content } =
            self;
        let rest =
            Message { id, received_at, envelope, options, flags, prepended_headers, content: () };
        (rest, content)
    }
}

impl Message {
    /// Bytes of prepended headers and content.
    pub fn size(&self) -> u64 {
        self.prepended_headers.len() as u64 + self.content.len()
    }
}
