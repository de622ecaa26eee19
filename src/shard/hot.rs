//! Messages kept in memory between their commit and the first attempt of their last recipient, so
//! that the common way out reads nothing from disk. A cache: what does not fit is loaded from the
//! spool.
//!
//! A message whose recipients belong to many sites is needed once for each of them. So it stays
//! until all of its recipients have had an attempt; but once some have had theirs, it may be that
//! the others wait for a long time, and it makes room for others when there is none.

use crate::message::{Content, Message};
use crate::scheduler::Slot;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What a message takes beside its bytes, about.
const OVERHEAD_BYTES: usize = 512;

/// Bounded by `hot_bytes_max`.
pub(super) struct Hot {
    bytes_max: usize,
    bytes: usize,
    messages: HashMap<Slot, Kept>,
    /// Messages that are dropped when there is no room for another one.
    droppable: BTreeSet<Slot>,
}

struct Kept {
    message: Arc<Message>,
    /// Attempts of recipients after which it is not needed.
    attempts_left: usize,
}

impl Hot {
    pub(super) fn new(bytes_max: usize) -> Hot {
        Hot { bytes_max, bytes: 0, messages: HashMap::new(), droppable: BTreeSet::new() }
    }

    /// Keeps `message`, which has just been stored, if there is room.
    pub(super) fn keep(&mut self, slot: Slot, message: Arc<Message>) {
        let size = size_of(&message);
        while self.bytes + size > self.bytes_max {
            let Some(dropped) = self.droppable.pop_first() else { return };
            self.forget(dropped);
        }
        self.insert(slot, message, size);
    }

    /// Keeps `message`, which was loaded for one of its sites, if there is room and other sites may
    /// need it too.
    pub(super) fn keep_loaded(&mut self, slot: Slot, message: &Arc<Message>) {
        let size = size_of(message);
        if self.bytes + size <= self.bytes_max && may_stay(message) {
            self.insert(slot, Arc::clone(message), size);
            self.droppable.insert(slot);
        }
    }

    fn insert(&mut self, slot: Slot, message: Arc<Message>, size: usize) {
        self.forget(slot);
        self.bytes += size;
        let attempts_left = message.envelope.recipients.len();
        self.messages.insert(slot, Kept { message, attempts_left });
    }

    /// The message, if it was kept.
    pub(super) fn find(&self, slot: Slot) -> Option<Arc<Message>> {
        Some(Arc::clone(&self.messages.get(&slot)?.message))
    }

    /// So many of its recipients have had an attempt.
    pub(super) fn attempted(&mut self, slot: Slot, recipients: usize) {
        let Some(kept) = self.messages.get_mut(&slot) else { return };
        kept.attempts_left = kept.attempts_left.saturating_sub(recipients);
        match kept.attempts_left > 0 && may_stay(&kept.message) {
            true => drop(self.droppable.insert(slot)),
            false => self.forget(slot),
        }
    }

    /// It is not needed any more.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.droppable.remove(&slot);
        if let Some(kept) = self.messages.remove(&slot) {
            self.bytes = self.bytes.saturating_sub(size_of(&kept.message));
        }
    }
}

/// Whether it may stay for further sites. Content that is not in memory holds segments of the
/// spool.
fn may_stay(message: &Message) -> bool {
    message.envelope.recipients.len() > 1 && matches!(message.content, Content::Whole(_))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::message::{Address, ContentFlags, Envelope, Options, QueueId, Recipient, Timestamp};

    fn message(recipients: usize) -> Arc<Message> {
        let to = |n| Recipient::plain(Address::new(format!("b{n}@d{n}.test")));
        Arc::new(Message {
            id: QueueId(1),
            received_at: Timestamp(0),
            envelope: Envelope {
                reverse_path: None,
                recipients: (0..recipients).map(to).collect(),
            },
            options: Options::default(),
            flags: ContentFlags::default(),
            prepended_headers: Vec::new(),
            content: Content::Whole(vec![b'x'; 1000]),
        })
    }

    #[test]
    fn a_message_for_many_sites_is_kept_until_all_have_had_it() {
        let mut hot = Hot::new(1 << 20);
        hot.keep(Slot(7), message(3));
        for _ in 0..2 {
            hot.attempted(Slot(7), 1);
            assert!(hot.find(Slot(7)).is_some());
        }
        hot.attempted(Slot(7), 1);
        assert!(hot.find(Slot(7)).is_none());
        assert_eq!((hot.bytes, hot.droppable.len()), (0, 0));
    }

    #[test]
    fn one_that_was_attempted_makes_room_for_one_that_was_not() {
        let size = size_of(&message(2));
        let mut hot = Hot::new(2 * size);
        hot.keep(Slot(1), message(2));
        hot.keep(Slot(2), message(2));
        hot.keep(Slot(3), message(2));
        assert!(hot.find(Slot(3)).is_none(), "none gives way before its first attempt");
        hot.attempted(Slot(2), 1);
        hot.keep(Slot(3), message(2));
        let kept = [1, 2, 3].map(|slot| hot.find(Slot(slot)).is_some());
        assert_eq!(kept, [true, false, true]);
        assert_eq!(hot.bytes, 2 * size);
    }

    #[test]
    fn one_that_was_loaded_stays_only_where_room_is_left_and_others_need_it() {
        let size = size_of(&message(2));
        let mut hot = Hot::new(2 * size);
        hot.keep_loaded(Slot(1), &message(1));
        assert!(hot.find(Slot(1)).is_none());
        hot.keep_loaded(Slot(2), &message(2));
        hot.keep_loaded(Slot(2), &message(2));
        assert_eq!(hot.bytes, size, "counted once");
        hot.keep(Slot(3), message(2));
        hot.keep_loaded(Slot(4), &message(2));
        assert!(hot.find(Slot(4)).is_none());
        hot.keep(Slot(5), message(2));
        assert!(hot.find(Slot(2)).is_none() && hot.find(Slot(5)).is_some());
    }
}
