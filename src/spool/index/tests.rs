//! Starts by index against starts that read every byte: what is damaged, torn, old or mixed.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::super::batch::Batch;
use super::super::log::{Log, MaintenanceEnd, MaintenanceTask, Resume, Step, Write};
use super::super::record::PriorStatus;
use super::super::recovery::{Findings, Scan};
use super::super::segment::{FirstBlock, SegmentHeader};
use super::super::testing::{extreme, in_pieces, inline, plain, waiting};
use super::*;
use crate::message::{Message, Options, QueueId, RecipientStatus, Timestamp};
use std::collections::BTreeMap;
use std::io::Cursor;

const SEGMENT: u32 = 64 * 1024;

type Files = BTreeMap<u32, Vec<u8>>;

/// A log that writes to memory, and synced each write at once.
struct Disk {
    log: Log,
    batch: Batch,
    files: Files,
    last: (u32, u32),
}

impl Disk {
    fn new() -> Disk {
        let log = Log::new(0, SEGMENT, Resume::default());
        Disk { log, batch: Batch::default(), files: Files::new(), last: (0, 0) }
    }

    fn put(&mut self, write: Write) {
        let at = write.offset as usize;
        let file = self.files.get_mut(&write.segment).unwrap();
        file[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
        if write.is_index {
            return self.log.indexed();
        }
        if write.is_batch {
            self.last = (write.segment, write.offset);
        }
        self.log.written();
    }

    fn commit(&mut self) {
        loop {
            if let Some(task) = self.log.next_task(|_| false) {
                match task {
                    MaintenanceTask::Create { segment } => {
                        self.files.insert(segment, vec![0; SEGMENT as usize]);
                    }
                    MaintenanceTask::Fill { .. } => {}
                    other => panic!("nothing has died: {other:?}"),
                }
                self.log.maintenance_done(MaintenanceEnd::Done);
            }
            match self.log.step(&mut self.batch, Timestamp(9), QueueId(9)) {
                Step::Write(write) => self.put(write),
                Step::Idle => return,
                Step::Wait => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn message(&mut self, message: Message<()>, content: usize) {
        let message = inline(message, &vec![b'x'; content]);
        self.batch.message(&message, &PriorStatus::default());
    }

    /// All kinds of records, in so many batches of mail of about 8 KB each.
    fn fill(batches: u64) -> Disk {
        let mut disk = Disk::new();
        for first in (1..=batches).map(|batch| batch * 10) {
            for id in first..first + 3 {
                disk.message(plain(id, (id % 3) as usize + 1), 2000);
            }
            let options =
                Options { priority: 3, expires: Some(Timestamp(77)), ..Options::default() };
            disk.message(Message { options, ..plain(first + 3, 1) }, 10);
            let mut odd = extreme();
            odd.id = QueueId(first + 4);
            disk.message(odd, 10);
            let draft = QueueId(first + 5);
            let slot = disk.batch.chunk(draft, 0, b"a piece");
            disk.commit();
            let (segment, start) = disk.last;
            let place = [segment, start + slot.offset, 7];
            let so_far = PriorStatus {
                statuses: vec![(0, waiting(2, 5))],
                in_flight: vec![0],
                reported: None,
            };
            disk.batch.message(&in_pieces(plain(first + 6, 2), draft.0, &[place]), &so_far);
            disk.batch.settle(QueueId(first), 0, &waiting(3, 99));
            disk.batch.settle(QueueId(first + 1), 0, &RecipientStatus::Delivered);
            disk.batch.begin(QueueId(first + 2), &[0]);
            disk.commit();
        }
        disk
    }

    /// The same, with the index of the last segment.
    fn stop(mut self) -> Files {
        let index = self.log.seal().unwrap();
        self.put(index);
        self.files.retain(|&number, _| number <= self.last.0);
        self.files
    }
}

fn scan(mut scan: Scan, files: &Files) -> (Scan, Findings) {
    for (&segment, bytes) in files {
        scan.segment(segment, bytes.len() as u64, &mut Cursor::new(bytes)).unwrap();
    }
    let findings = scan.finish();
    (scan, findings)
}

/// What a start comes to, however it reads.
fn said(read: (Scan, Findings)) -> (Vec<String>, String) {
    let (scan, findings) = read;
    let log = (&scan.written, &scan.blank, scan.batches, scan.records, scan.written_bytes);
    (scan.replay.said(), format!("{findings:?} {log:?} {:?}", scan.highest_id))
}

fn footer_of(file: &[u8], segment: u32) -> Option<Footer> {
    Footer::read(&file[file.len() - BLOCK as usize..], segment, SEGMENT)
}

/// As a relay wrote it that knew no index.
fn without_index(file: &mut [u8], segment: u32) {
    let FirstBlock::Current(header) = SegmentHeader::read(&file[..BLOCK as usize], segment) else {
        panic!()
    };
    let header = SegmentHeader { segment_bytes: 0, ..header };
    file[..BLOCK as usize].copy_from_slice(&header.encode());
    let begins = footer_of(file, segment).unwrap().begins as usize;
    file[begins..].fill(0);
}

#[test]
fn a_start_by_index_comes_to_what_a_start_by_all_bytes_does() {
    let files = Disk::fill(30).stop();
    assert!(files.len() >= 4);
    let by_index = scan(Scan::default(), &files);
    let by_bytes = scan(Scan::of_all_bytes(), &files);
    assert_eq!(by_index.0.indexed, files.keys().copied().collect::<Vec<_>>());
    assert_eq!((&by_bytes.0.indexed, &by_bytes.0.bad_indexes), (&vec![], &vec![]));
    assert!(by_index.0.bytes_read * 3 < by_bytes.0.bytes_read);
    assert_eq!(said(by_index), said(by_bytes));
}

#[test]
fn no_changed_byte_of_an_index_changes_what_a_start_comes_to() {
    let files = Disk::fill(2).stop();
    let footer = footer_of(&files[&1], 1).unwrap();
    let expected = said(scan(Scan::of_all_bytes(), &files));
    let (begins, end) = (footer.begins as usize, (footer.begins + footer.length) as usize);
    for at in begins..SEGMENT as usize {
        let mut changed = files.clone();
        changed.get_mut(&1).unwrap()[at] ^= [1, 0x10, 0x80, 0xff][at % 4];
        let read = scan(Scan::default(), &changed);
        let in_it = at < end || at >= SEGMENT as usize - FOOTER;
        assert_eq!(read.0.indexed.is_empty(), in_it, "byte {at}");
        assert_eq!(said(read), expected, "byte {at}");
    }
}

#[test]
fn no_torn_or_truncated_index_changes_what_a_start_comes_to() {
    let files = Disk::fill(2).stop();
    let footer = footer_of(&files[&1], 1).unwrap();
    let expected = said(scan(Scan::of_all_bytes(), &files));
    for at in (footer.begins as usize..SEGMENT as usize).step_by(7) {
        let (mut cut, mut front, mut back) = (files.clone(), files.clone(), files.clone());
        cut.get_mut(&1).unwrap().truncate(at);
        front.get_mut(&1).unwrap()[footer.begins as usize..at + 1].fill(0xa5);
        back.get_mut(&1).unwrap()[at..].fill(0);
        for torn in [cut, front, back] {
            let read = scan(Scan::default(), &torn);
            assert!(read.0.indexed.is_empty(), "{at}");
            assert_eq!(said(read), expected, "{at}");
        }
    }
}

#[test]
fn segments_with_and_without_an_index_mix() {
    let mut files = Disk::fill(30).stop();
    let expected = said(scan(Scan::of_all_bytes(), &files));
    let all: Vec<u32> = files.keys().copied().collect();
    for &older in &all[1..all.len() - 1] {
        without_index(files.get_mut(&older).unwrap(), older);
        let read = scan(Scan::default(), &files);
        assert!(!read.0.indexed.contains(&older));
        assert_eq!(said(read), expected);
    }
    files.iter_mut().skip(all.len() - 1).for_each(|(&number, file)| without_index(file, number));
    without_index(files.get_mut(&1).unwrap(), 1);
    let read = scan(Scan::default(), &files);
    assert!(read.0.indexed.is_empty());
    assert_eq!(said(read), expected, "all are of an older relay");
}

#[test]
fn what_a_mix_says_about_cut_and_lost_commits_is_what_all_bytes_say() {
    let files = Disk::fill(30).stop();
    let last = *files.last_key_value().unwrap().0;
    // A torn tail behind sealed segments; a segment lost between them; the last one lost.
    let mut torn = files.clone();
    let end = footer_of(&files[&last], last).unwrap().end as usize;
    without_index(torn.get_mut(&last).unwrap(), last);
    torn.get_mut(&last).unwrap()[end - 4000] ^= 1;
    let (mut gap, mut shorter) = (files.clone(), files);
    gap.remove(&2);
    shorter.remove(&last);
    for (files, torn, set_aside) in [(torn, true, 0), (gap, false, 1), (shorter, false, 0)] {
        let by_index = scan(Scan::default(), &files);
        assert_eq!(by_index.1.torn_bytes > 0, torn);
        assert!(by_index.1.set_aside.len() >= set_aside);
        assert_eq!(said(by_index), said(scan(Scan::of_all_bytes(), &files)));
    }
}

#[test]
fn an_index_of_a_former_life_or_of_another_version_is_none() {
    let files = Disk::fill(2).stop();
    let recycled = Files::from([(2, files[&1].clone())]);
    let (read, findings) = scan(Scan::default(), &recycled);
    assert_eq!((read.blank, findings.set_aside.len()), (vec![2], 0));

    let expected = said(scan(Scan::of_all_bytes(), &files));
    let mut newer = files;
    let file = newer.get_mut(&1).unwrap();
    let at = SEGMENT as usize - FOOTER;
    file[at + 8] += 1;
    let crc = checksum(1, SEGMENT, &[&file[at..at + FOOTER - 4]]);
    file[at + FOOTER - 4..].copy_from_slice(&crc.to_le_bytes());
    let read = scan(Scan::default(), &newer);
    assert!(read.0.indexed.is_empty());
    assert_eq!(said(read), expected);
}

#[test]
fn a_scan_of_all_bytes_tells_an_index_that_does_not_say_what_the_records_say() {
    let mut files = Disk::fill(2).stop();
    let footer = footer_of(&files[&1], 1).unwrap();
    let file = files.get_mut(&1).unwrap();
    file[footer.begins as usize + LEAD + 30] ^= 1;
    assert_eq!(scan(Scan::of_all_bytes(), &files).0.bad_indexes, [1]);
}

#[test]
fn an_index_that_would_be_too_large_is_given_up_and_the_log_goes_on() {
    let mut disk = Disk::new();
    for id in 1..2000 {
        disk.batch.settle(QueueId(id), 0, &waiting(1, id));
        if id % 40 == 0 {
            disk.message(plain(id, 1), 10);
            disk.commit();
        }
    }
    disk.message(plain(1, 1), 10);
    disk.commit();
    assert!(disk.files.len() > 2);
    let files = disk.files;
    let (read, findings) = scan(Scan::default(), &files);
    assert_eq!((read.indexed.len(), findings.torn_bytes), (0, 0));
    assert_eq!(findings.set_aside, []);
}
