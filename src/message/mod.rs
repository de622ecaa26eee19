//! What is carried: the envelope, its options, each recipient and its fate so far. *Pure.*
//!
//! Everything above speaks in these words; this room knows none of them: no wire format, no disk
//! layout, no clock.

mod envelope;
mod id;
mod outcome;

pub use crate::timestamp::Timestamp;
pub use envelope::{
    Address, Body, ByMode, DeliverBy, DsnNotify, DsnReturn, Envelope, Options, Recipient,
    ReversePath, domain_key, domain_of, expiry, wished_end,
};
pub use id::{QueueId, QueueIdSource};
pub use outcome::{Outcome, Reason, Stage, Status};
