//! Folding: what all records together say about each message. *Pure.*

use super::Placement;
use super::entry::{Entry, MessageSummary, What};
use super::live::{Live, LiveRef};
use super::record::{CHUNK_PREFIX, Extent, Reported};
use super::recovered_entries::{Messages, Names, Reasons, RecoveredEntry, Table};
use crate::message::{QueueId, RecipientStatus};
use hashbrown::HashTable;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Bytes to be copied into the quarantine, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetAside {
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
    pub(super) cause: String,
}

/// What is known of each message so far.
#[derive(Debug, Default)]
pub(super) struct Replay {
    messages: Table,
    /// Places in the table by id.
    places: HashTable<u32>,
    names: Names,
    reasons: Reasons,
    /// Chunk records seen, by draft: a streamed message counts only with all its pieces.
    chunks: HashMap<QueueId, Vec<Extent>>,
    incomplete: Vec<SetAside>,
    /// The oldest segment there is: what lay in an older one was dead when that was recycled.
    oldest: Option<u32>,
    /// Highest id by spool number.
    highest: Vec<(u16, QueueId)>,
}

impl Replay {
    /// Folds what a record says, which lies at `offset` of `segment`.
    pub(super) fn entry(&mut self, entry: Entry<'_>, segment: u32, offset: u32) {
        let Entry { id, length, what } = entry;
        self.see(id);
        match what {
            What::Message(brief) => self.message(id, &brief, Placement { segment, offset, length }),
            What::Chunk(length) => {
                self.chunks.entry(id).or_default().push(Extent { segment, offset, length });
            }
            // A record about a message that is not there speaks of a segment that was used again,
            // or of one whose record was damaged, which is reported already.
            What::Begun(recipients) => {
                if let Some(kept) = self.find(id).and_then(|place| self.messages.get_mut(place)) {
                    kept.begin(&recipients);
                }
            }
            What::Settled(recipient, status) => self.settle(id, recipient, status),
        }
    }

    fn settle(&mut self, id: QueueId, recipient: u32, status: RecipientStatus) {
        if let Some(kept) = self.find(id).and_then(|place| self.messages.get_mut(place)) {
            kept.settle(recipient, status, &mut self.reasons);
        }
    }

    /// Records of `segment` come next; segments come in rising order.
    pub(super) fn enter(&mut self, segment: u32) {
        self.oldest.get_or_insert(segment);
    }

    /// Streamed messages of which a piece is missing.
    pub(super) fn incomplete(&mut self) -> Vec<SetAside> {
        std::mem::take(&mut self.incomplete)
    }

    /// The highest id of spool `number`.
    pub(super) fn highest(&self, number: u16) -> Option<QueueId> {
        self.highest.iter().find(|(of, _)| *of == number).map(|(_, id)| *id)
    }

    /// The ids of all messages that were born in another spool than `number`, ended ones too:
    /// they came by adoption and must not come again.
    pub(super) fn foreign(&self, number: u16) -> HashSet<QueueId> {
        self.messages.iter().map(|kept| kept.id).filter(|id| id.spool_number() != number).collect()
    }

    /// The ids of messages that have ended, as far as their records are still there.
    pub(super) fn ended(&self) -> HashSet<QueueId> {
        self.messages.iter().filter(|kept| kept.open == 0).map(|kept| kept.id).collect()
    }

    /// What each live streamed message needs beside its record.
    pub(super) fn pieces(&self) -> HashMap<QueueId, Vec<LiveRef>> {
        self.alive()
            .filter(|kept| !kept.extents().is_empty())
            .map(|kept| (kept.id, pieces_of(kept.extents())))
            .collect()
    }

    /// The live mail of each segment.
    pub(super) fn live(&self) -> BTreeMap<u32, Live> {
        let mut live: BTreeMap<u32, Live> = BTreeMap::new();
        for kept in self.alive() {
            let record = LiveRef::in_record(kept.placement);
            for live_ref in pieces_of(kept.extents()).into_iter().chain([record]) {
                live.entry(live_ref.segment).or_default().add(live_ref.records, live_ref.bytes);
            }
        }
        live
    }

    /// The messages with recipients still open, oldest id first.
    pub(super) fn into_live(self) -> Messages {
        self.messages.into_live(self.names)
    }

    /// All that it came to, in the order of records.
    #[cfg(test)]
    pub(super) fn said(&self) -> Vec<String> {
        let chunks: BTreeMap<_, _> = self.chunks.iter().collect();
        let kept = self.messages.iter().map(|kept| format!("{kept:?}"));
        kept.chain([format!("{chunks:?} {:?}", self.highest)]).collect()
    }

    fn alive(&self) -> impl Iterator<Item = &RecoveredEntry> {
        self.messages.iter().filter(|kept| kept.open > 0)
    }

    fn find(&self, id: QueueId) -> Option<u32> {
        let is = |&place: &u32| self.messages.get(place).is_some_and(|kept| kept.id == id);
        self.places.find(spread(id), is).copied()
    }

    fn see(&mut self, id: QueueId) {
        let number = id.spool_number();
        match self.highest.iter_mut().find(|(of, _)| *of == number) {
            Some((_, highest)) => *highest = id.max(*highest),
            None => self.highest.push((number, id)),
        }
    }

    fn message(&mut self, id: QueueId, brief: &MessageSummary<'_>, placement: Placement) {
        let mut all_extents = Vec::new();
        if let Some((draft, extents)) = brief.extents() {
            // Not removed: a message that moved names the pieces that stayed where they were again.
            let seen = self.chunks.get(&draft).map_or(&[][..], Vec::as_slice);
            let recycled = |extent: &Extent| self.oldest.is_some_and(|o| extent.segment < o);
            if extents.iter().any(recycled) {
                return;
            }
            if let Some(missing) = extents.iter().find(|extent| !seen.contains(extent)) {
                self.incomplete.push(SetAside {
                    segment: placement.segment,
                    offset: placement.offset,
                    length: placement.length,
                    cause: format!(
                        "message {id} lacks the piece of its content at segment {} byte {}",
                        missing.segment, missing.offset
                    ),
                });
                return;
            }
            all_extents = extents;
        }
        // The same message a second time (it moved, or a move was cut short and done again): the
        // later copy is the one to read, and says all that the earlier records said, or more.
        let place = self.find(id).unwrap_or_else(|| {
            let place =
                self.messages.push(RecoveredEntry::new(id, brief, placement, &mut self.names));
            let messages = &self.messages;
            let hash = |&other: &u32| messages.get(other).map_or(0, |kept| spread(kept.id));
            self.places.insert_unique(spread(id), place, hash);
            place
        });
        let Some(kept) = self.messages.get_mut(place) else { return };
        kept.placement = placement;
        kept.set_extents(all_extents);
        for (recipient, status) in brief.statuses() {
            kept.settle(recipient, status, &mut self.reasons);
        }
        kept.begin(&brief.in_flight());
        // A report that lacks a piece of its content does not come so far: it is made again.
        if let Some(Reported { id, statuses }) = brief.reported() {
            statuses.into_iter().for_each(|(one, status)| self.settle(id, one, status));
        }
    }
}

/// A hash of an id. Ids are given out here, by the clock, and no client chooses them.
fn spread(id: QueueId) -> u64 {
    let product = id.0.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    product ^ product >> 32
}

/// The chunk records of `extents`, by segment.
pub(super) fn pieces_of(extents: &[Extent]) -> Vec<LiveRef> {
    let mut pieces = Vec::new();
    for extent in extents {
        let bytes = extent.length.saturating_add(CHUNK_PREFIX as u32);
        join(&mut pieces, LiveRef { segment: extent.segment, records: 1, bytes });
    }
    pieces
}

/// Adds `live_ref` to what is there in its segment.
pub(super) fn join(pieces: &mut Vec<LiveRef>, live_ref: LiveRef) {
    match pieces.iter_mut().find(|known| known.segment == live_ref.segment) {
        Some(known) => {
            known.records += live_ref.records;
            known.bytes = known.bytes.saturating_add(live_ref.bytes);
        }
        None => pieces.push(live_ref),
    }
}
