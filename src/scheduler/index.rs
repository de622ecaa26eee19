//! Slots by queue id: a hash table without a moment in which it is copied.
//!
//! It grows by one bucket at a time (linear hashing), and each bucket is a chain through the
//! messages themselves, the newest first. So it costs two bytes a message, and four in the message,
//! at every size; a table that doubles costs up to twice that, and three times while it doubles.

use super::entry::Message;
use super::ready::spread;
use super::slab::{NIL, Slab};
use crate::message::QueueId;

/// Messages per bucket, on average.
const LOAD: usize = 2;

const BLOCK_SHIFT: u32 = 12;
const BLOCK: usize = 1 << BLOCK_SHIFT;

pub(super) struct Index {
    /// The first message of each bucket's chain.
    blocks: Vec<Box<[u32]>>,
    /// Bits of the hash that name one of the buckets that were there when this round of splitting
    /// began.
    bits: u32,
    /// Buckets split in this round: they have a bit more.
    split: usize,
    len: usize,
}

impl Index {
    pub fn new() -> Index {
        Index { blocks: vec![vec![NIL; BLOCK].into()], bits: 0, split: 0, len: 0 }
    }

    /// Memory held, in bytes.
    pub fn bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<Box<[u32]>>()
            + self.blocks.len() * BLOCK * size_of::<u32>()
    }

    /// Puts in the message of `slot`, which is not in it.
    pub fn insert(&mut self, messages: &mut Slab<Message>, slot: u32) {
        let bucket = self.bucket_of(messages[slot].id());
        let first = self.first_mut(bucket);
        messages[slot].next = *first;
        *first = slot;
        self.len += 1;
        if self.len > self.buckets() * LOAD {
            self.split_one(messages);
        }
    }

    /// Takes out the message of `slot`.
    pub fn remove(&mut self, messages: &mut Slab<Message>, slot: u32) {
        let bucket = self.bucket_of(messages[slot].id());
        let after = messages[slot].next;
        let mut at = self.first(bucket);
        if at == slot {
            *self.first_mut(bucket) = after;
            self.len -= 1;
            return;
        }
        while at != NIL {
            let next = messages[at].next;
            if next == slot {
                messages[at].next = after;
                self.len -= 1;
                return;
            }
            at = next;
        }
    }

    /// The slot of the message `id`.
    pub fn find(&self, messages: &Slab<Message>, id: QueueId) -> Option<u32> {
        let mut at = self.first(self.bucket_of(id));
        while at != NIL {
            let message = &messages[at];
            if message.id() == id {
                return Some(at);
            }
            at = message.next;
        }
        None
    }

    fn buckets(&self) -> usize {
        (1 << self.bits) + self.split
    }

    fn bucket_of(&self, id: QueueId) -> usize {
        let hash = spread(id.0) as usize;
        let bucket = hash & ((1 << self.bits) - 1);
        if bucket < self.split { hash & ((2 << self.bits) - 1) } else { bucket }
    }

    fn first(&self, bucket: usize) -> u32 {
        self.blocks[bucket >> BLOCK_SHIFT][bucket % BLOCK]
    }

    fn first_mut(&mut self, bucket: usize) -> &mut u32 {
        &mut self.blocks[bucket >> BLOCK_SHIFT][bucket % BLOCK]
    }

    /// Shares out the next bucket of this round between itself and a new one at the end.
    fn split_one(&mut self, messages: &mut Slab<Message>) {
        let (old, new) = (self.split, self.buckets());
        if new >> BLOCK_SHIFT == self.blocks.len() {
            self.blocks.push(vec![NIL; BLOCK].into());
        }
        self.split += 1;
        let mut at = std::mem::replace(self.first_mut(old), NIL);
        let mut last = [NIL; 2];
        while at != NIL {
            let next = std::mem::replace(&mut messages[at].next, NIL);
            let bucket = self.bucket_of(messages[at].id());
            // In the order of the old chain: the newest stay first.
            match std::mem::replace(&mut last[usize::from(bucket == new)], at) {
                NIL => *self.first_mut(bucket) = at,
                before => messages[before].next = at,
            }
            at = next;
        }
        if self.split == 1 << self.bits {
            self.bits += 1;
            self.split = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Placement, Timestamp};
    use std::collections::HashMap;

    fn message(id: u64) -> Message {
        Message::new(QueueId(id), Placement::default(), Timestamp(0), None, 0)
    }

    #[test]
    fn it_finds_what_is_in_it_and_nothing_else_at_every_size() {
        let mut random = fastrand::Rng::with_seed(1);
        let (mut index, mut messages) = (Index::new(), Slab::new());
        let mut model: HashMap<u64, u32> = HashMap::new();
        let mut ids = Vec::new();
        for step in 0..60_000_u64 {
            // More come than go, then more go than come.
            if random.u64(..60_000) > step / 2 + 5_000 || ids.is_empty() {
                let id = random.u64(..);
                let slot = messages.insert(message(id));
                index.insert(&mut messages, slot);
                model.insert(id, slot);
                ids.push(id);
            } else {
                let id = ids.swap_remove(random.usize(..ids.len()));
                let slot = model.remove(&id).unwrap_or(NIL);
                index.remove(&mut messages, slot);
                messages.remove(slot);
                assert_eq!(index.find(&messages, QueueId(id)), None);
            }
            if let Some(&id) = random.choice(&ids) {
                assert_eq!(index.find(&messages, QueueId(id)), model.get(&id).copied());
            }
            assert_eq!(index.len, model.len());
        }
        assert!(model.len() > 5_000);
        for (&id, &slot) in &model {
            assert_eq!(index.find(&messages, QueueId(id)), Some(slot));
        }
    }

    #[test]
    fn ids_that_follow_each_other_make_short_chains() {
        let (mut index, mut messages) = (Index::new(), Slab::new());
        for number in 0..300_000 {
            let slot = messages.insert(message(1_800_000_000_000_000 + number * 13));
            index.insert(&mut messages, slot);
        }
        let length = |bucket: usize| {
            let mut at = index.first(bucket);
            let mut length = 0;
            while at != NIL {
                length += 1;
                at = messages[at].next;
            }
            length
        };
        let longest = (0..index.buckets()).map(length).max();
        assert!(longest < Some(24), "{longest:?}");
        assert!(index.bytes() < 300_000 * 2 + 3 * BLOCK * 4, "{}", index.bytes());
    }
}
