//! Tables of entries named by a `u32`, and the lists that run through them.
//!
//! A table grows by whole blocks, so it wastes no memory on doubling and never stops the shard to
//! copy itself; only its first block doubles, so that a small table is small. Every entry carries
//! one pair of links, because it is in at most one list at a time. Knows nothing of mail.

use std::ops::{Index, IndexMut};

/// No entry. Numbers of entries and lists lie below it; [`END`] is the bit above them.
pub(super) const NIL: u32 = 0x7FFF_FFFF;

/// Marks a link that leads out of the list; the other bits are the list's tag.
pub(super) const END: u32 = 0x8000_0000;

const UNLINKED: Links = Links { prev: u32::MAX, next: u32::MAX };
const VACANT: u32 = u32::MAX - 1;
/// Of a block, in bytes: with what the allocator puts before it, it fills two huge pages and leaves
/// no gap to the next. (mimalloc 3: slices of 64 KiB, one of them its own.) Blocks of a power of
/// two cost a tenth more memory, because gaps in a huge page are resident.
const BLOCK_BYTES: usize = (4 << 20) - (64 << 10);

/// Where an entry is in its list: the neighbours' numbers, or [`END`] with the list's tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Links {
    prev: u32,
    next: u32,
}

impl Default for Links {
    fn default() -> Links {
        UNLINKED
    }
}

impl Links {
    fn is_linked(self) -> bool {
        self.prev != UNLINKED.prev
    }

    /// Keeps a number, until the entry goes to a list. Does nothing in a list.
    pub fn keep(&mut self, number: u32) {
        if !self.is_linked() {
            self.next = number;
        }
    }

    /// The number that is kept; `None` in a list, and when none is.
    pub fn kept(self) -> Option<u32> {
        (!self.is_linked() && self.next != UNLINKED.next).then_some(self.next)
    }
}

/// An entry of a [`Slab`].
pub(super) trait Linked: Default {
    fn links(&self) -> &Links;
    fn links_mut(&mut self) -> &mut Links;
}

/// A table whose freed places are used again, the last one first.
pub(super) struct Slab<T> {
    blocks: Vec<Vec<T>>,
    vacant: u32,
    len: usize,
    places: u32,
}

impl<T> Slab<T> {
    /// Entries of a block.
    const ENTRIES: usize = BLOCK_BYTES / size_of::<T>();
}

impl<T: Linked> Slab<T> {
    pub fn new() -> Slab<T> {
        Slab { blocks: Vec::new(), vacant: NIL, len: 0, places: 0 }
    }

    /// Entries in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Places ever used: the numbers of entries lie below.
    pub fn places(&self) -> u32 {
        self.places
    }

    /// Memory held, in bytes.
    pub fn bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<Vec<T>>()
            + self.blocks.iter().map(|block| block.capacity() * size_of::<T>()).sum::<usize>()
    }

    pub fn insert(&mut self, entry: T) -> u32 {
        self.len += 1;
        if self.vacant != NIL {
            let number = self.vacant;
            self.vacant = self[number].links().next;
            self[number] = entry;
            return number;
        }
        let number = self.places;
        debug_assert!(number < NIL);
        if self.blocks.last().is_none_or(|block| block.len() == Self::ENTRIES) {
            let entries = if self.blocks.is_empty() { 0 } else { Self::ENTRIES };
            self.blocks.push(Vec::with_capacity(entries));
        }
        if let Some(block) = self.blocks.last_mut() {
            if block.len() == block.capacity() {
                block.reserve_exact(block.len().max(16).min(Self::ENTRIES - block.len()));
            }
            block.push(entry);
        }
        self.places += 1;
        number
    }

    /// Takes an entry out, which must be in use and in no list.
    pub fn remove(&mut self, number: u32) -> T {
        debug_assert!(!self.is_linked(number));
        let entry = std::mem::take(&mut self[number]);
        let next = self.vacant;
        *self[number].links_mut() = Links { prev: VACANT, next };
        self.vacant = number;
        self.len -= 1;
        entry
    }

    /// The entry, unless `number` (from outside) names none.
    pub fn get(&self, number: u32) -> Option<&T> {
        let block = self.blocks.get(number as usize / Self::ENTRIES)?;
        let entry = block.get(number as usize % Self::ENTRIES)?;
        (entry.links().prev != VACANT).then_some(entry)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.get(number)?;
        Some(&mut self[number])
    }

    /// Whether the entry is in a list.
    pub fn is_linked(&self, number: u32) -> bool {
        self[number].links().is_linked()
    }
}

// Numbers from inside are right by construction; those from outside go through `get` first.
impl<T: Linked> Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, number: u32) -> &T {
        &self.blocks[number as usize / Self::ENTRIES][number as usize % Self::ENTRIES]
    }
}

impl<T: Linked> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.blocks[number as usize / Self::ENTRIES][number as usize % Self::ENTRIES]
    }
}

/// A list through entries of one slab, first in, first out. Its tag (below [`NIL`]) stands in the
/// links at both ends, so that an entry there tells which of several lists it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    first: u32,
    last: u32,
}

impl Default for List {
    fn default() -> List {
        List { first: NIL, last: NIL }
    }
}

impl List {
    pub fn is_empty(&self) -> bool {
        self.first == NIL
    }

    pub fn first(&self) -> Option<u32> {
        (self.first != NIL).then_some(self.first)
    }

    /// Puts an entry that is in no list at the end.
    pub fn push_back<T: Linked>(&mut self, table: &mut Slab<T>, number: u32, tag: u32) {
        debug_assert!(!table.is_linked(number));
        let end = END | tag;
        let prev = if self.last == NIL { end } else { self.last };
        *table[number].links_mut() = Links { prev, next: end };
        if self.last == NIL {
            self.first = number;
        } else {
            table[self.last].links_mut().next = number;
        }
        self.last = number;
    }

    pub fn pop_front<T: Linked>(&mut self, table: &mut Slab<T>) -> Option<u32> {
        let number = self.first()?;
        self.unlink(table, number);
        Some(number)
    }

    /// Takes out an entry that is in this list.
    pub fn unlink<T: Linked>(&mut self, table: &mut Slab<T>, number: u32) {
        let Links { prev, next } = splice_out(table, number);
        if prev & END != 0 {
            self.first = if next & END == 0 { next } else { NIL };
        }
        if next & END != 0 {
            self.last = if prev & END == 0 { prev } else { NIL };
        }
    }
}

/// The tag of the list whose first or last entry this is; `None` when it has neighbours on both
/// sides (then [`splice_out`] alone takes it out).
pub(super) fn tag_at_end<T: Linked>(table: &Slab<T>, number: u32) -> Option<u32> {
    let Links { prev, next } = *table[number].links();
    [prev, next].into_iter().find(|link| link & END != 0).map(|link| link & !END)
}

/// Joins the neighbours of an entry; gives the links that it had.
pub(super) fn splice_out<T: Linked>(table: &mut Slab<T>, number: u32) -> Links {
    let links = std::mem::take(table[number].links_mut());
    debug_assert!(links.is_linked());
    if links.prev & END == 0 {
        table[links.prev].links_mut().next = links.next;
    }
    if links.next & END == 0 {
        table[links.next].links_mut().prev = links.prev;
    }
    links
}
