//! Folding: what all records together say about each message. *Pure.*

use super::log::{Live, Stake};
use super::record::{CHUNK_PREFIX, Extent, Header, Record, SoFar, Stored, StoredContent};
use super::recovery::SetAside;
use super::{Fate, Placement, Recovered, RecoveredRecipient};
use crate::message::{Options, QueueId, Timestamp};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What is known of each message so far.
#[derive(Debug, Default)]
pub(super) struct Fold {
    messages: HashMap<QueueId, Kept>,
    /// Chunk records seen, by draft: a streamed message counts only with all its pieces.
    chunks: HashMap<QueueId, Vec<Extent>>,
    incomplete: Vec<SetAside>,
    /// The oldest segment there is: what lay in an older one was dead when that was recycled.
    oldest: Option<u32>,
    /// Highest id by spool number.
    highest: HashMap<u16, QueueId>,
}

/// One message.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) placement: Placement,
    /// Where its content is, when that is in pieces.
    extents: Vec<Extent>,
    received_at: Timestamp,
    options: Options,
    null_reverse_path: bool,
    pub(super) recipients: Vec<KeptRecipient>,
    /// Recipients not yet ended. At zero the rest of this is dropped.
    open: usize,
}

/// One recipient of it.
#[derive(Debug)]
pub(super) struct KeptRecipient {
    domain: Box<str>,
    /// `None`: never tried.
    pub(super) fate: Option<Fate>,
    pub(super) in_doubt: bool,
}

impl Fold {
    /// Folds one record, which lies at `offset` of `segment`.
    pub(super) fn record(
        &mut self,
        header: &Header,
        record: Record<'_>,
        segment: u32,
        offset: u32,
    ) {
        let highest = self.highest.entry(header.id.spool_number()).or_insert(header.id);
        *highest = header.id.max(*highest);
        match record {
            Record::Message(stored) => {
                let placement = Placement { segment, offset, length: header.length };
                self.message(header.id, *stored, placement);
            }
            Record::Chunk { content, .. } => {
                let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
                self.chunks.entry(header.id).or_default().push(Extent { segment, offset, length });
            }
            // A record about a message that is not there speaks of a segment that was used again,
            // or of one whose record was damaged, which is reported already.
            Record::Begun(recipients) => {
                if let Some(kept) = self.messages.get_mut(&header.id) {
                    kept.begin(&recipients);
                }
            }
            Record::Settled(recipient, fate) => {
                if let Some(kept) = self.messages.get_mut(&header.id) {
                    kept.settle(recipient, fate);
                }
            }
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
        self.highest.get(&number).copied()
    }

    /// The ids of all messages that were born in another spool than `number`, ended ones too:
    /// they came by adoption and must not come again.
    pub(super) fn foreign(&self, number: u16) -> HashSet<QueueId> {
        self.messages.keys().copied().filter(|id| id.spool_number() != number).collect()
    }

    /// The ids of messages that have ended, as far as their records are still there.
    pub(super) fn ended(&self) -> HashSet<QueueId> {
        let ended = self.messages.iter().filter(|(_, kept)| kept.open == 0);
        ended.map(|(&id, _)| id).collect()
    }

    /// What each live streamed message needs beside its record.
    pub(super) fn pieces(&self) -> HashMap<QueueId, Vec<Stake>> {
        let streamed = self.messages.iter().filter(|(_, kept)| kept.open > 0);
        streamed
            .filter(|(_, kept)| !kept.extents.is_empty())
            .map(|(&id, kept)| (id, pieces_of(&kept.extents)))
            .collect()
    }

    /// The live mail of each segment.
    pub(super) fn live(&self) -> BTreeMap<u32, Live> {
        let mut live: BTreeMap<u32, Live> = BTreeMap::new();
        for kept in self.messages.values().filter(|kept| kept.open > 0) {
            let record = Stake::in_record(kept.placement);
            for stake in pieces_of(&kept.extents).into_iter().chain([record]) {
                live.entry(stake.segment).or_default().add(stake.records, stake.bytes);
            }
        }
        live
    }

    /// The messages with recipients still open, oldest id first.
    pub(super) fn into_live(self) -> Vec<(QueueId, Kept)> {
        let mut live: Vec<(QueueId, Kept)> =
            self.messages.into_iter().filter(|(_, kept)| kept.open > 0).collect();
        live.sort_unstable_by_key(|(id, _)| *id);
        live
    }

    fn message(&mut self, id: QueueId, stored: Stored<'_>, placement: Placement) {
        let mut all_extents = Vec::new();
        if let StoredContent::Chunks(draft, extents) = &stored.content {
            // Not removed: a message that moved names the pieces that stayed where they were again.
            let seen = self.chunks.get(draft).map_or(&[][..], Vec::as_slice);
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
            all_extents.clone_from(extents);
        }
        // The same message a second time (it moved, or a move was cut short and done again): the
        // later copy is the one to read, and says all that the earlier records said, or more.
        if let Some(kept) = self.messages.get_mut(&id) {
            kept.placement = placement;
            kept.extents = all_extents;
            kept.carry_on(stored.so_far);
            return;
        }
        let recipients: Vec<KeptRecipient> = stored
            .envelope
            .recipients
            .iter()
            .map(|recipient| KeptRecipient {
                domain: recipient.address.domain_key().into(),
                fate: None,
                in_doubt: false,
            })
            .collect();
        let mut kept = Kept {
            placement,
            extents: all_extents,
            received_at: stored.received_at,
            options: stored.options,
            null_reverse_path: stored.envelope.reverse_path.is_none(),
            open: recipients.len(),
            recipients,
        };
        kept.carry_on(stored.so_far);
        self.messages.insert(id, kept);
    }
}

/// The chunk records of `extents`, by segment.
pub(super) fn pieces_of(extents: &[Extent]) -> Vec<Stake> {
    let mut pieces = Vec::new();
    for extent in extents {
        let bytes = extent.length.saturating_add(CHUNK_PREFIX as u32);
        join(&mut pieces, Stake { segment: extent.segment, records: 1, bytes });
    }
    pieces
}

/// Adds `stake` to what is there in its segment.
pub(super) fn join(pieces: &mut Vec<Stake>, stake: Stake) {
    match pieces.iter_mut().find(|known| known.segment == stake.segment) {
        Some(known) => {
            known.records += stake.records;
            known.bytes = known.bytes.saturating_add(stake.bytes);
        }
        None => pieces.push(stake),
    }
}

impl Kept {
    /// What the relay is told of it.
    pub(super) fn recovered(self, id: QueueId) -> Recovered {
        Recovered {
            id,
            placement: self.placement,
            received_at: self.received_at,
            options: self.options,
            recipients: self.recipients.into_iter().map(KeptRecipient::recovered).collect(),
            null_reverse_path: self.null_reverse_path,
        }
    }

    fn carry_on(&mut self, so_far: SoFar) {
        for (recipient, fate) in so_far.fates {
            self.settle(recipient, fate);
        }
        self.begin(&so_far.under_way);
    }

    fn begin(&mut self, recipients: &[u32]) {
        for &recipient in recipients {
            if let Some(one) = self.recipients.get_mut(recipient as usize) {
                one.in_doubt = !one.ended();
            }
        }
    }

    /// An ending is for good: nothing after it opens the recipient again.
    fn settle(&mut self, recipient: u32, fate: Fate) {
        let Some(one) = self.recipients.get_mut(recipient as usize) else { return };
        if one.ended() {
            return;
        }
        one.in_doubt = false;
        one.fate = Some(fate);
        if one.ended() {
            self.open -= 1;
            if self.open == 0 {
                // Known as ended; its details are needed no more.
                self.recipients = Vec::new();
                self.options = Options::default();
            }
        }
    }
}

impl KeptRecipient {
    fn ended(&self) -> bool {
        !matches!(self.fate, None | Some(Fate::Waiting { .. }))
    }

    fn recovered(self) -> RecoveredRecipient {
        let ended = self.ended();
        let (attempts, due, reason) = match self.fate {
            Some(Fate::Waiting { attempts, due, reason }) => (attempts, Some(due), Some(reason)),
            _ => (0, None, None),
        };
        let in_doubt = self.in_doubt;
        RecoveredRecipient { domain: self.domain, ended, attempts, due, reason, in_doubt }
    }
}
