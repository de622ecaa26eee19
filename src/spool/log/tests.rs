//! The reserve of a full disk: who may use how much of it, and when mail moves.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::message::RecipientStatus;
use crate::spool::Placement;
use crate::spool::record::PriorStatus;
use crate::spool::testing::{inline, plain};

const SEGMENT: u32 = 1 << 20;
const NOW: Timestamp = Timestamp(9);

/// A log on a disk with space for so many segments.
struct Disk {
    log: Log,
    batch: Batch,
    segments: usize,
    next_id: u64,
    placed: Vec<Placement>,
}

impl Disk {
    fn new(segments: usize, resume: Resume) -> Disk {
        let log = Log::new(0, SEGMENT, resume);
        let mut disk =
            Disk { log, batch: Batch::default(), segments, next_id: 1, placed: Vec::new() };
        disk.allocate();
        disk
    }

    fn used(&self) -> usize {
        self.log.segments.len() + self.log.spares.len() + self.log.blank.len()
    }

    /// All tasks, and one more try to get a segment.
    fn allocate(&mut self) {
        self.log.try_again();
        while let Some(task) = self.log.next_task(|_| false) {
            let is_full = self.used() >= self.segments;
            self.log.maintenance_done(match task {
                MaintenanceTask::Create { .. } if is_full => {
                    MaintenanceEnd::Failed(io::ErrorKind::StorageFull)
                }
                _ => MaintenanceEnd::Done,
            });
        }
    }

    /// Writes what waits; whether there was space.
    fn commit(&mut self) -> bool {
        loop {
            match self.log.step(&mut self.batch, NOW, QueueId(1)) {
                Step::Idle => return true,
                Step::Write(write) if write.is_index => self.log.indexed(),
                Step::Write(write) => {
                    if write.is_batch {
                        let offset = write.offset + super::super::segment::BATCH_HEADER as u32;
                        let segment = write.segment;
                        self.placed.push(Placement { segment, offset, length: 0 });
                    }
                    self.log.written();
                }
                Step::Wait => self.allocate(),
                Step::Full => {
                    self.batch.drop_mail();
                    return false;
                }
                Step::Stuck => return false,
            }
            self.allocate();
        }
    }

    /// Stores mail of about 40 KB; where, if there was space for it.
    fn store(&mut self, purpose: Purpose) -> Option<Placement> {
        let content = vec![b'x'; 40_000];
        if !self.log.takes(purpose, (self.batch.mail_bytes() + content.len()) as u64) {
            return None;
        }
        self.batch.set_purpose(purpose);
        let message = inline(plain(self.next_id, 1), &content);
        let slot = self.batch.message(&message, &PriorStatus::default());
        self.next_id += 1;
        self.commit().then_some(())?;
        let at = self.placed.pop()?;
        Some(Placement { length: slot.length, ..at })
    }

    fn store_all(&mut self, purpose: Purpose) -> Vec<Placement> {
        std::iter::from_fn(|| self.store(purpose)).collect()
    }

    /// Outcomes until there is no space for any.
    fn settle_all(&mut self) {
        while self.commit() {
            for recipient in 0..1000 {
                self.batch.settle(QueueId(1), recipient, &RecipientStatus::Delivered);
            }
        }
    }

    fn end(&mut self, all: &[Placement]) {
        for &at in all {
            self.log.release(LiveRef::in_record(at));
        }
        self.allocate();
    }

    fn head_end(&self) -> u32 {
        self.log.head.unwrap().1
    }
}

#[test]
fn what_frees_space_finds_some_after_what_takes_it_finds_none() {
    let mut disk = Disk::new(10, Resume::default());
    let mail = disk.store_all(Purpose::Mail);
    assert!(mail.len() > 5 * 20, "{}", mail.len());
    assert_eq!((disk.log.spares.len(), disk.used()), (3, 10));
    assert!(disk.head_end() <= SEGMENT / 4 * 3);
    let reports = disk.store_all(Purpose::Report);
    assert!(reports.len() > 20, "a segment and a part of the head: {}", reports.len());
    assert_eq!(disk.log.spares.len(), 2);
    assert!(disk.store(Purpose::Mail).is_none());
    let moved = disk.store_all(Purpose::Move);
    assert!(moved.len() > 2 * 20, "{}", moved.len());
    assert_eq!(disk.log.spares.len(), 0);
    assert!(disk.head_end() <= SEGMENT / 4 * 3, "the rest is for outcomes");
    for purpose in [Purpose::Mail, Purpose::Report] {
        assert!(disk.store(purpose).is_none(), "{purpose:?}");
    }
    disk.settle_all();
    assert!(disk.head_end() > SEGMENT / 4 * 3);
    // The oldest segments are freed: the reserve comes first.
    let in_first = |segments: std::ops::RangeInclusive<u32>| {
        let all = mail.iter().copied();
        all.filter(|at| segments.contains(&at.segment)).collect::<Vec<_>>()
    };
    disk.end(&in_first(1..=2));
    assert_eq!(disk.log.spares.len(), 2);
    assert!(disk.store(Purpose::Report).is_none(), "two are for what moves");
    disk.end(&in_first(3..=3));
    assert_eq!(disk.log.spares.len(), 3);
    assert!(disk.store(Purpose::Mail).is_none());
    assert!(disk.store(Purpose::Report).is_some());
}

#[test]
fn a_disk_that_is_not_full_refuses_nothing() {
    let mut disk = Disk::new(1000, Resume::default());
    for _ in 0..300 {
        for purpose in [Purpose::Mail, Purpose::Report, Purpose::Move] {
            disk.store(purpose).unwrap();
        }
    }
    assert!(!disk.log.is_short);
}

#[test]
fn mail_of_all_purposes_in_a_batch_finds_as_little_space_as_the_first_of_them() {
    for (other, expected) in [(Purpose::Mail, Purpose::Mail), (Purpose::Report, Purpose::Report)] {
        let mut batch = Batch::default();
        for purpose in [Purpose::Move, other, Purpose::Move] {
            batch.set_purpose(purpose);
            batch.message(&inline(plain(1, 1), b"x"), &PriorStatus::default());
        }
        assert_eq!(batch.purpose(), expected);
        batch.drop_mail();
        batch.set_purpose(Purpose::Move);
        assert_eq!(batch.purpose(), Purpose::Move, "what was refused counts no more");
    }
}

/// After a start on a full disk with segments of which so many percent live.
fn resumed(live: &[u64], blank: u32) -> Disk {
    let mut resume = Resume { next_batch: 100, ..Resume::default() };
    for (segment, percent) in (1..).zip(live) {
        let bytes = u64::from(SEGMENT) * percent / 100;
        resume.segments.insert(segment, Live { records: (bytes > 0).into(), bytes });
    }
    let first = live.len() as u32 + 1;
    resume.blank = (first..first + blank).collect();
    resume.next_segment = first + blank;
    Disk::new(live.len() + blank as usize, resume)
}

#[test]
fn on_a_full_disk_mail_moves_where_that_wins_space_and_is_sure_to_fit() {
    for (live, blank, expected, what) in [
        ([40, 90, 90], 2, Some(1), "the oldest is half dead"),
        ([90, 90, 90], 2, None, "there is nothing to win"),
        ([90, 20, 90], 2, Some(1), "a later one is dead, and waits for the oldest"),
        ([100, 100, 0], 2, Some(1), "the same with a whole one"),
        ([70, 70, 90], 2, Some(1), "two that are a quarter dead"),
        ([90, 80, 85], 2, None, "what moving would not win for long"),
        ([100, 20, 90], 1, None, "it would not fit"),
        ([60, 20, 90], 1, Some(1), "it just fits"),
        ([10, 20, 90], 0, None, "there is no place at all"),
    ] {
        let disk = resumed(&live, blank);
        assert!(disk.log.is_short && disk.log.head.is_none());
        assert_eq!(disk.log.to_clean(), expected, "{what}");
    }
    // With space for more, only the factor counts.
    let mut disk = resumed(&[40, 90, 90], 2);
    disk.segments = 100;
    disk.allocate();
    assert!(!disk.log.is_short);
    assert_eq!(disk.log.to_clean(), None);
}

#[test]
fn a_head_that_is_full_of_dead_mail_makes_place_on_the_smallest_disk() {
    // The head and three spares: not one more can be had, ever.
    let mut disk = Disk::new(4, Resume::default());
    for _ in 0..10 {
        let mail = disk.store_all(Purpose::Mail);
        assert!(!mail.is_empty());
        assert!(disk.store(Purpose::Mail).is_none());
        disk.end(&mail);
    }
    // A quarter of it waits: that moves.
    let mut disk = Disk::new(4, Resume::default());
    let mail = disk.store_all(Purpose::Mail);
    let (ended, _) = mail.split_at(mail.len() * 3 / 4);
    disk.end(ended);
    assert_eq!(disk.log.to_clean(), Some(mail[0].segment));
}
