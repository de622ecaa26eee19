//! Seeded histories of store, begin, settle, dead, cleaning, recycling and crashes, over a disk in
//! memory that tears what was not synced. The promises of the module documentation are the
//! assertions.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::batch::{Batch, Slot};
use super::log::{Chore, ChoreEnd, Live, Log, Resume, Stake, Step, Write};
use super::record::{self, Extent, Record, SoFar, Stored, StoredContent};
use super::recovery::{Findings, Scan};
use super::testing::{plain, waiting};
use super::{Accepted, Fate, Placement, Recovered};
use crate::message::{QueueId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;

const SEGMENT: u32 = 64 * 1024;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// What the history knows of a recipient.
#[derive(Clone, Default)]
struct Recipient {
    /// In the order of noting; the first `durable` are.
    fates: Vec<Fate>,
    durable: usize,
    in_flight: usize,
    begun_durable: bool,
}

impl Recipient {
    fn ended_by(&self, count: usize) -> bool {
        self.fates.get(..count).unwrap().iter().any(|fate| !matches!(fate, Fate::Waiting { .. }))
    }
    fn ended(&self) -> bool {
        self.ended_by(self.fates.len())
    }
}

#[derive(Clone)]
struct Known {
    /// Until it is sealed, the offset in its batch.
    placement: Placement,
    piece: Option<Piece>,
    recipients: Vec<Recipient>,
}

/// Segment and length of a chunk record.
type Piece = (u32, u32);

/// A record of a known message that is written again, by the cleaner.
struct Moved {
    id: u64,
    slot: Slot,
    place: Option<(u32, u32)>,
    /// Its piece where it is now, if it moved too.
    piece: Option<Piece>,
}

/// A piece that is written again.
struct MovedPiece {
    id: u64,
    draft: QueueId,
    slot: Slot,
    place: Option<(u32, u32)>,
}

impl Known {
    fn new(slot: Slot, piece: Option<Piece>, recipients: usize) -> Known {
        let placement = placement_of(slot, (0, 0));
        Known { placement, piece, recipients: vec![Recipient::default(); recipients] }
    }
    fn stakes(&self) -> Vec<Stake> {
        let piece = self.piece.map(stake);
        piece.into_iter().chain([Stake::in_record(self.placement)]).collect()
    }
    fn over(&self) -> bool {
        self.recipients.iter().all(Recipient::ended)
    }
}

impl Moved {
    fn stakes(&self) -> Vec<Stake> {
        let record = self.place.map(|place| Stake::in_record(placement_of(self.slot, place)));
        record.into_iter().chain(self.piece.map(stake)).collect()
    }
}

fn stake((segment, bytes): Piece) -> Stake {
    Stake { segment, records: 1, bytes }
}

/// Where the record of `slot` is, when its batch is there.
fn placement_of(slot: Slot, (segment, start): (u32, u32)) -> Placement {
    Placement { segment, offset: start + slot.offset, length: slot.length }
}

/// A streamed message: its chunk, then where that went.
struct Drafted {
    id: QueueId,
    offset: u32,
    length: u32,
    at: Option<(u32, u32)>,
}

struct History {
    random: fastrand::Rng,
    disk: BTreeMap<u32, Vec<u8>>,
    log: Log,
    batch: Batch,
    writing: Option<Write>,
    indexing: Option<Write>,
    chore: Option<Chore>,
    next_id: u64,
    /// Acknowledged.
    known: BTreeMap<u64, Known>,
    /// Appended, and in the batch that is written: recipients and segments of pieces.
    appended: Vec<(u64, Known)>,
    in_flight: Vec<(u64, Known)>,
    draft: Option<Drafted>,
    files_max: usize,
    cleaned: Option<u32>,
    moved: Vec<Moved>,
    moved_piece: Option<MovedPiece>,
    moves: usize,
    /// Indexes written, and used by a start.
    indexes: usize,
    used: usize,
    begun: BTreeSet<(u64, u32)>,
    begun_in_flight: BTreeSet<(u64, u32)>,
}

impl History {
    fn new(seed: u64) -> History {
        let mut random = fastrand::Rng::with_seed(seed);
        History {
            files_max: random.usize(3..14),
            random,
            disk: BTreeMap::new(),
            log: Log::new(0, SEGMENT, Resume::default()),
            batch: Batch::default(),
            writing: None,
            indexing: None,
            chore: None,
            next_id: 1,
            known: BTreeMap::new(),
            appended: Vec::new(),
            in_flight: Vec::new(),
            draft: None,
            cleaned: None,
            moved: Vec::new(),
            moved_piece: None,
            moves: 0,
            indexes: 0,
            used: 0,
            begun: BTreeSet::new(),
            begun_in_flight: BTreeSet::new(),
        }
    }

    fn act(&mut self) {
        match self.random.u32(..100) {
            0..18 => self.store(),
            18..25 => self.stream(),
            25..32 => self.begin(),
            32..48 => self.settle(),
            48..58 => self.clean(),
            58..70 => self.write(),
            70..84 => self.complete(),
            84..87 => self.complete_index(),
            87 => self.stop(),
            88..94 => self.start_chore(),
            94..99 => self.end_chore(),
            _ => self.crash(),
        }
        self.audit();
    }

    /// Each segment is known to hold exactly what somebody needs.
    fn audit(&self) {
        let mut all: Vec<Stake> = Vec::new();
        let known = self.known.values().filter(|known| !known.over());
        all.extend(known.flat_map(Known::stakes));
        all.extend(self.in_flight.iter().flat_map(|(_, known)| known.stakes()));
        all.extend(self.appended.iter().filter_map(|(_, known)| known.piece.map(stake)));
        all.extend(self.moved.iter().flat_map(Moved::stakes));
        if let Some(MovedPiece { slot, place: Some((segment, _)), .. }) = self.moved_piece {
            all.push(stake((segment, slot.length)));
        }
        if let Some(Drafted { length, at: Some((segment, _)), .. }) = self.draft {
            all.push(stake((segment, length + record::CHUNK_PREFIX as u32)));
        }
        let mut needed: BTreeMap<u32, Live> = BTreeMap::new();
        for stake in all {
            needed.entry(stake.segment).or_default().add(stake.records, stake.bytes);
        }
        assert!(needed.keys().all(|segment| self.disk.contains_key(segment)));
        for &segment in self.disk.keys() {
            let needed = needed.get(&segment).copied().unwrap_or_default();
            assert_eq!(self.log.alive_in(segment), needed, "segment {segment}");
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn room(&self) -> bool {
        self.batch.mail_bytes() < self.log.mail_bytes_max()
    }

    fn store(&mut self) {
        if !self.room() {
            return;
        }
        let id = self.id();
        let count = self.random.usize(1..4);
        let content = vec![b'x'; self.random.usize(..6000)];
        let content = StoredContent::Inline(&content);
        let slot = self.batch.message(&plain(id, count), &content, &SoFar::default());
        self.appended.push((id, Known::new(slot, None, count)));
    }

    /// Writes a chunk; when it is known where that goes, the message.
    fn stream(&mut self) {
        if !self.room() {
            return;
        }
        match self.draft.take() {
            None => {
                let id = QueueId(self.id());
                let content = vec![b'y'; self.random.usize(..5000)];
                let slot = self.batch.chunk(id, 0, &content);
                let length = content.len() as u32;
                self.draft = Some(Drafted { id, offset: slot.offset, length, at: None });
            }
            Some(Drafted { id: draft, offset, length, at: Some((segment, start)) }) => {
                let id = self.id();
                let extents = vec![Extent { segment, offset: start + offset, length }];
                let content = StoredContent::Chunks(draft, extents);
                let slot = self.batch.message(&plain(id, 1), &content, &SoFar::default());
                let piece = (segment, length + record::CHUNK_PREFIX as u32);
                self.appended.push((id, Known::new(slot, Some(piece), 1)));
            }
            unknown => self.draft = unknown,
        }
    }

    fn pick(&mut self) -> Option<(u64, u32)> {
        let open: Vec<(u64, u32)> = self
            .known
            .iter()
            .flat_map(|(&id, known)| {
                (0..)
                    .zip(&known.recipients)
                    .filter(|(_, recipient)| !recipient.ended())
                    .map(move |(index, _)| (id, index))
            })
            .collect();
        self.random.choice(open)
    }

    fn begin(&mut self) {
        let Some((id, recipient)) = self.pick() else { return };
        self.batch.begin(QueueId(id), &[recipient]);
        self.begun.insert((id, recipient));
    }

    fn settle(&mut self) {
        let Some((id, index)) = self.pick() else { return };
        let fate = match self.random.u32(..5) {
            0 => waiting(self.random.u16(..), self.random.u64(..)),
            1 => Fate::Bounced,
            2 => Fate::Expired,
            _ => Fate::Delivered,
        };
        self.batch.settle(QueueId(id), index, &fate);
        self.begun.remove(&(id, index));
        self.begun_in_flight.remove(&(id, index));
        let known = self.known.get_mut(&id).unwrap();
        let recipient = &mut known.recipients[index as usize];
        recipient.fates.push(fate);
        recipient.begun_durable = false;
        if known.over() {
            let stakes = known.stakes();
            self.release(stakes);
            while let Some(at) = self.moved.iter().position(|moved| moved.id == id) {
                let moved = self.moved.swap_remove(at);
                if moved.place.is_none() {
                    self.batch.forget(moved.slot);
                }
                self.release(moved.stakes());
            }
        }
    }

    fn release(&mut self, stakes: Vec<Stake>) {
        for stake in stakes {
            self.log.release(stake);
        }
    }

    /// One step of the cleaner: a record or a piece of the oldest segment, or the end of it.
    fn clean(&mut self) {
        let Some(segment) = self.cleaned else {
            // Safe at any time, not only when it is worth it.
            self.cleaned = self.log.oldest_alive().map(|(oldest, _)| oldest);
            return;
        };
        if self.log.alive_in(segment).records == 0 {
            self.cleaned = None;
            return;
        }
        let alive: Vec<u64> = self
            .known
            .iter()
            .filter(|(_, known)| known.stakes().iter().any(|stake| stake.segment == segment))
            .map(|(&id, _)| id)
            .collect();
        if !self.room() {
            return;
        }
        if let Some(MovedPiece { id, draft, slot, place: Some((to, start)) }) = self.moved_piece {
            self.moved_piece = None;
            let extent = Extent { segment: to, offset: start + slot.offset, length: slot.length };
            if !self.move_record(id, segment, Some((draft, extent))) {
                self.release(vec![stake((to, slot.length))]);
            }
        } else if self.moved_piece.is_none()
            && let Some(id) = self.random.choice(alive)
        {
            self.move_record(id, segment, None);
        }
    }

    /// Whether the record was written again; `piece` is where its piece was.
    fn move_record(&mut self, id: u64, from: u32, piece: Option<(QueueId, Extent)>) -> bool {
        let Some(known) = self.known.get(&id).filter(|known| !known.over()) else { return false };
        if self.moved.iter().any(|moved| moved.id == id) {
            return false;
        }
        let bytes = self.bytes_at(known.placement);
        let stored = message_in(&bytes, known.placement, id);
        let mut content = stored.content.clone();
        if let StoredContent::Chunks(draft, extents) = &mut content
            && let Some(old) = extents.iter_mut().find(|extent| extent.segment == from)
        {
            let Some((_, new)) = piece else {
                let at = Placement { segment: from, offset: old.offset, length: old.length };
                let at = Placement { length: at.length + record::CHUNK_PREFIX as u32, ..at };
                let piece = self.bytes_at(at);
                let content = &piece[record::CHUNK_PREFIX..];
                let slot = self.batch.chunk(*draft, 0, content);
                self.moved_piece = Some(MovedPiece { id, draft: *draft, slot, place: None });
                return false;
            };
            *old = Extent { length: old.length, ..new };
        }
        let over = |recipient: &Recipient| match recipient.fates.last() {
            Some(_) if recipient.ended() => Some(Fate::Over),
            last => last.cloned(),
        };
        let fates: Vec<(u32, Fate)> = (0..)
            .zip(&known.recipients)
            .filter_map(|(index, recipient)| Some((index, over(recipient)?)))
            .collect();
        let under_way: Vec<u32> = (0..)
            .zip(&known.recipients)
            .filter(|(index, one)| {
                let noted = [&self.begun, &self.begun_in_flight];
                one.begun_durable || noted.iter().any(|noted| noted.contains(&(id, *index)))
            })
            .map(|(index, _)| index)
            .collect();
        let accepted = Accepted { envelope: stored.envelope.clone(), ..plain(id, 0) };
        let so_far = SoFar { fates, under_way };
        let slot = self.batch.message(&accepted, &content, &so_far);
        let piece = piece.map(|(_, extent)| (extent.segment, extent.length));
        self.moved.push(Moved { id, slot, place: None, piece });
        self.moves += 1;
        true
    }

    fn bytes_at(&self, at: Placement) -> Vec<u8> {
        let (from, to) = (at.offset as usize, (at.offset + at.length) as usize);
        self.disk[&at.segment][from..to].to_vec()
    }

    fn write(&mut self) {
        if self.writing.is_some() {
            return;
        }
        match self.log.step(&mut self.batch, Timestamp(1), QueueId(self.next_id)) {
            Step::Write(write) if write.is_index => self.indexing = Some(write),
            Step::Write(write) => {
                if write.is_batch {
                    self.seal(&write);
                }
                self.writing = Some(write);
            }
            Step::Full => {
                self.batch.drop_mail();
                for (_, known) in std::mem::take(&mut self.appended) {
                    self.release(known.piece.map(stake).into_iter().collect());
                }
                let refused: Vec<Moved> =
                    self.moved.extract_if(.., |moved| moved.place.is_none()).collect();
                for moved in refused {
                    self.release(moved.stakes());
                }
                if self.moved_piece.as_ref().is_some_and(|piece| piece.place.is_none()) {
                    self.moved_piece = None;
                }
                if self.draft.as_ref().is_some_and(|draft| draft.at.is_none()) {
                    self.draft = None;
                }
            }
            Step::Idle | Step::Wait | Step::Stuck => self.log.try_again(),
        }
    }

    fn seal(&mut self, write: &Write) {
        assert!(!self.batch.has_outcomes(), "a history's outcomes fit a batch");
        let place = (write.segment, write.offset);
        self.in_flight = std::mem::take(&mut self.appended);
        for (_, known) in &mut self.in_flight {
            known.placement.segment = write.segment;
            known.placement.offset += write.offset;
        }
        for moved in self.moved.iter_mut().filter(|moved| moved.place.is_none()) {
            moved.place = Some(place);
        }
        if let Some(piece) = self.moved_piece.as_mut().filter(|piece| piece.place.is_none()) {
            piece.place = Some(place);
        }
        self.begun_in_flight = std::mem::take(&mut self.begun);
        for recipient in self.known.values_mut().flat_map(|known| &mut known.recipients) {
            recipient.in_flight = recipient.fates.len();
        }
        if let Some(draft) = self.draft.as_mut().filter(|draft| draft.at.is_none()) {
            draft.at = Some(place);
        }
    }

    fn complete(&mut self) {
        let Some(write) = self.writing.take() else { return };
        let at = write.offset as usize;
        let file = self.disk.get_mut(&write.segment).unwrap();
        file[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
        self.log.written();
        if !write.is_batch {
            return;
        }
        self.batch.give_back(write.bytes);
        for recipient in self.known.values_mut().flat_map(|known| &mut known.recipients) {
            recipient.durable = recipient.in_flight;
        }
        for (id, recipient) in std::mem::take(&mut self.begun_in_flight) {
            self.known.get_mut(&id).unwrap().recipients[recipient as usize].begun_durable = true;
        }
        self.known.extend(std::mem::take(&mut self.in_flight));
        let place = Some((write.segment, write.offset));
        let moved: Vec<Moved> = self.moved.extract_if(.., |moved| moved.place == place).collect();
        for Moved { id, slot, piece, .. } in moved {
            let known = self.known.get_mut(&id).unwrap();
            let mut old = vec![Stake::in_record(known.placement)];
            known.placement = placement_of(slot, (write.segment, write.offset));
            if piece.is_some() {
                old.extend(std::mem::replace(&mut known.piece, piece).map(stake));
            }
            self.release(old);
        }
    }

    fn complete_index(&mut self) {
        let Some(write) = self.indexing.take() else { return };
        let at = write.offset as usize;
        let file = self.disk.get_mut(&write.segment).unwrap();
        file[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
        self.log.indexed();
        self.indexes += 1;
    }

    /// A stop in good order, as far as nothing waits, and a start.
    fn stop(&mut self) {
        if self.writing.is_none() && !self.batch.has_mail() && !self.batch.has_outcomes() {
            if let Some(write) = self.log.seal() {
                self.indexing = Some(write);
            }
            if self.random.bool() {
                self.complete_index();
            }
            self.crash();
        }
    }

    fn start_chore(&mut self) {
        if self.chore.is_none() {
            self.chore = self.log.chore(|_| false);
        }
    }

    fn end_chore(&mut self) {
        let Some(chore) = self.chore.take() else { return };
        let end = self.carry_out(chore);
        self.log.chore_done(end);
    }

    fn carry_out(&mut self, chore: Chore) -> ChoreEnd {
        match chore {
            Chore::Create { .. } if self.disk.len() >= self.files_max => return ChoreEnd::Failed,
            Chore::Create { segment } => {
                let replaced = self.disk.insert(segment, vec![0; SEGMENT as usize]);
                assert!(replaced.is_none(), "a number is never used twice");
            }
            Chore::Recycle { from, to } => {
                let file = self.disk.remove(&from).unwrap();
                assert!(self.disk.insert(to, file).is_none(), "a number is never used twice");
            }
            Chore::Delete { segment } => {
                self.disk.remove(&segment).unwrap();
            }
            Chore::Fill { segment } => {
                // What a recycled file had is there; only new blocks are written, with zeros.
                assert!(self.disk.contains_key(&segment));
            }
        }
        ChoreEnd::Done
    }

    /// Power fails: of what was not synced, any sectors are written; a chore under way is done or
    /// not. Then a start, and the promises.
    fn crash(&mut self) {
        for write in self.writing.take().into_iter().chain(self.indexing.take()) {
            let file = self.disk.get_mut(&write.segment).unwrap();
            let odds = self.random.f64();
            for (index, sector) in write.bytes.chunks(SECTOR).enumerate() {
                if self.random.f64() < odds {
                    let at = write.offset as usize + index * SECTOR;
                    file[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        if let Some(chore) = self.chore.take()
            && self.random.bool()
        {
            self.carry_out(chore);
        }
        let mut scan = Scan::default();
        for (&segment, bytes) in &self.disk {
            scan.segment(segment, bytes.len() as u64, &mut Cursor::new(bytes)).unwrap();
        }
        let findings = scan.finish();
        assert_eq!(findings.set_aside, [], "a torn commit is no damage");
        self.used += scan.indexed.len();
        self.without_indexes(&scan, &findings);
        let mut segments = scan.fold.live();
        for &segment in &scan.written {
            segments.entry(segment).or_default();
        }
        let last = self.disk.last_key_value();
        let resume = Resume {
            segments,
            blank: scan.blank.clone(),
            next_segment: last.map_or(1, |(last, _)| last + 1),
            next_batch: findings.next_batch,
            cut: findings.cut,
            highest_id: None,
        };
        self.log = Log::new(0, SEGMENT, resume);
        self.batch = Batch::default();
        let pieces = scan.fold.pieces();
        let recovered = scan.fold.into_live().collect::<Vec<Recovered>>();
        self.judge(&recovered);
        self.cleaned = None;
        self.moved.clear();
        self.moved_piece = None;
        self.appended.clear();
        self.in_flight.clear();
        self.draft = None;
        self.begun.clear();
        self.begun_in_flight.clear();
        self.known.clear();
        for message in recovered {
            let piece = pieces.get(&message.id).map(|all| (all[0].segment, all[0].bytes));
            let placement = message.placement;
            message_in(&self.bytes_at(placement), placement, message.id.0);
            let known = Known { placement, piece, recipients: recipients(&message) };
            self.known.insert(message.id.0, known);
        }
    }

    /// A scan of all bytes comes to the same.
    fn without_indexes(&self, scan: &Scan, findings: &Findings) {
        let mut all = Scan::of_all_bytes();
        for (&segment, bytes) in &self.disk {
            all.segment(segment, bytes.len() as u64, &mut Cursor::new(bytes)).unwrap();
        }
        let other = all.finish();
        assert_eq!((findings.next_batch, findings.cut), (other.next_batch, other.cut));
        assert_eq!((&scan.written, &scan.blank), (&all.written, &all.blank));
        assert_eq!((scan.batches, scan.records), (all.batches, all.records));
        assert!(all.bad_indexes.iter().all(|bad| !scan.indexed.contains(bad)));
        assert_eq!(scan.fold.said(), all.fold.said());
    }

    fn judge(&self, recovered: &[Recovered]) {
        let found: BTreeMap<u64, &Recovered> =
            recovered.iter().map(|message| (message.id.0, message)).collect();
        for id in found.keys() {
            let stored = self.known.contains_key(id)
                || self.in_flight.iter().any(|(in_flight, _)| in_flight == id);
            assert!(stored, "message {id} is invented");
        }
        for (id, known) in &self.known {
            let Some(message) = found.get(id) else {
                assert!(known.over(), "message {id} is lost");
                continue;
            };
            let durably_over = known.recipients.iter().all(|one| one.ended_by(one.durable));
            assert!(!durably_over, "message {id} came back");
            for (found, truth) in message.recipients.iter().zip(&known.recipients) {
                assert!(!found.ended || truth.ended(), "a recipient of {id} is lost");
                assert!(found.ended || !truth.ended_by(truth.durable), "{id} delivered again");
                let settled = truth.durable == truth.fates.len();
                if settled && let Some(Fate::Waiting { attempts, due, .. }) = truth.fates.last() {
                    assert_eq!((found.attempts, found.due), (*attempts, Some(*due)), "{id}");
                }
                assert!(!truth.begun_durable || found.in_doubt, "{id} was under way");
            }
        }
    }
}

fn message_in(bytes: &[u8], at: Placement, id: u64) -> Box<Stored<'_>> {
    let (header, payload) = record::check(bytes, at.segment, at.offset).unwrap();
    assert_eq!(header.id.0, id);
    let Ok(Record::Message(stored)) = record::decode(&header, payload) else { panic!() };
    stored
}

/// What the history knows after a start is what the start found.
fn recipients(message: &Recovered) -> Vec<Recipient> {
    let of = |one: &super::RecoveredRecipient| {
        let fate = match (one.ended, one.due) {
            (true, _) => vec![Fate::Delivered],
            (false, Some(due)) => vec![waiting(one.attempts, due.0)],
            (false, None) => Vec::new(),
        };
        let durable = fate.len();
        Recipient { fates: fate, durable, in_flight: durable, begun_durable: one.in_doubt }
    };
    message.recipients.iter().map(of).collect()
}

#[test]
fn no_history_loses_invents_or_resurrects_mail() {
    for seed in 0..250 {
        let mut history = History::new(seed);
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..800 {
                history.act();
            }
            history.crash();
        }));
        assert!(run.is_ok(), "the history of seed {seed}");
    }
}

#[test]
fn histories_reach_what_they_are_meant_to_reach() {
    let (mut recycled, mut full, mut stored, mut moved) = (false, false, 0, 0);
    let (mut indexes, mut used) = (0, 0);
    for seed in 0..40 {
        let mut history = History::new(seed);
        for _ in 0..800 {
            history.act();
            recycled |= matches!(history.chore, Some(Chore::Recycle { .. }));
            full |= history.log.no_room();
        }
        stored += history.next_id;
        moved += history.moves;
        indexes += history.indexes;
        used += history.used;
    }
    assert!(recycled && full && stored > 1000, "{recycled} {full} {stored}");
    assert!(moved > 100, "{moved}");
    assert!(indexes > 40 && used > 100, "{indexes} {used}");
}
