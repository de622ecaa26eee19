//! Messages kept in memory between their commit and their first attempt, so that the common case
//! out reads nothing from disk. A cache: what does not fit is loaded from the spool.

use crate::message::{Content, Message};
use crate::scheduler::Slot;
use std::collections::HashMap;
use std::sync::Arc;

/// What a message takes beside its bytes, about.
const OVERHEAD_BYTES: usize = 512;

/// Bounded by `hot_bytes_max`.
pub(super) struct Hot {
    bytes_max: usize,
    bytes: usize,
    messages: HashMap<Slot, Arc<Message>>,
}

impl Hot {
    pub(super) fn new(bytes_max: usize) -> Hot {
        Hot { bytes_max, bytes: 0, messages: HashMap::new() }
    }

    /// Keeps `message` if the budget allows it.
    pub(super) fn keep(&mut self, slot: Slot, message: Arc<Message>) {
        let size = size_of(&message);
        if self.bytes + size <= self.bytes_max {
            self.bytes += size;
            self.messages.insert(slot, message);
        }
    }

    /// The message, if it was kept.
    pub(super) fn find(&self, slot: Slot) -> Option<Arc<Message>> {
        self.messages.get(&slot).cloned()
    }

    /// Its first attempt is over.
    pub(super) fn forget(&mut self, slot: Slot) {
        if let Some(message) = self.messages.remove(&slot) {
            self.bytes = self.bytes.saturating_sub(size_of(&message));
        }
    }
}

fn size_of(message: &Message) -> usize {
    let content = match &message.content {
        Content::Whole(bytes) => bytes.len(),
        Content::Streamed(_) => 0,
    };
    OVERHEAD_BYTES
        + message.prepended_headers.len()
        + content
        + message.envelope.recipients.len() * 64
}
