//! Damage, torn commits, recycled files, and histories with crashes: the committer's logic driven
//! against a disk in memory instead of the ring.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::batch::Batch;
use super::log::{Log, MaintenanceEnd, MaintenanceTask, Resume, Step};
use super::record::PriorStatus;
use super::recovery::{Findings, Refusal, Scan};
use super::segment::BLOCK;
use super::testing::{inline, plain};
use super::{RecipientStatus, Recovered};
use crate::message::{QueueId, Timestamp};
use std::collections::BTreeMap;
use std::io::Cursor;

pub(super) const SEGMENT: u32 = 256 * 1024;

fn scan(files: &BTreeMap<u32, Vec<u8>>) -> Result<(Scan, Findings), Refusal> {
    let mut scan = Scan::default();
    for (&segment, bytes) in files {
        scan.segment(segment, bytes.len() as u64, &mut Cursor::new(bytes))?;
    }
    let findings = scan.finish();
    Ok((scan, findings))
}

fn live(scan: Scan) -> Vec<Recovered> {
    scan.replay.into_live().collect()
}

fn ids(files: &BTreeMap<u32, Vec<u8>>) -> Vec<u64> {
    live(scan(files).unwrap().0).iter().map(|message| message.id.0).collect()
}

/// The first segment, with three batches of two messages each.
pub(super) fn small_segment() -> Vec<u8> {
    segment_after(Resume::default(), &[1, 3, 5])
}

/// The next segment, with a batch of two messages for each of `first_ids`.
pub(super) fn segment_after(resume: Resume, first_ids: &[u64]) -> Vec<u8> {
    let mut log = Log::new(0, SEGMENT, resume);
    for _ in 0..4 {
        let Some(MaintenanceTask::Create { .. }) = log.next_task(|_| false) else { panic!() };
        log.maintenance_done(MaintenanceEnd::Done);
    }
    let mut batch = Batch::default();
    let mut file = vec![0; BLOCK as usize * 5];
    for &id in first_ids {
        batch.message(&inline(plain(id, 1), b"one\r\n"), &PriorStatus::default());
        batch.message(&inline(plain(id + 1, 2), b"two\r\n"), &PriorStatus::default());
        batch.settle(QueueId(id + 1), 0, &RecipientStatus::Delivered);
        while let Step::Write(write) = log.step(&mut batch, Timestamp(9), QueueId(id)) {
            let at = write.offset as usize;
            file[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
            log.written();
        }
    }
    file
}

fn only(file: Vec<u8>) -> BTreeMap<u32, Vec<u8>> {
    BTreeMap::from([(1, file)])
}

#[test]
fn a_segment_reads_back() {
    let (scan, findings) = scan(&only(small_segment())).unwrap();
    assert_eq!(findings.torn_bytes, 0);
    assert_eq!(findings.set_aside, []);
    assert_eq!(findings.next_batch, 4);
    let messages = live(scan);
    assert_eq!(messages.len(), 6);
    let two = &messages[1].recipients;
    assert!(two[0].ended && !two[1].ended);
    assert_eq!(&*two[0].domain, "example.org");
}

#[test]
fn no_single_changed_byte_invents_or_loses_more_than_it_hits() {
    let good = small_segment();
    for at in 0..good.len() {
        let mut file = good.clone();
        file[at] ^= [1, 0x10, 0x80, 0xff][at % 4];
        let found = ids(&only(file));
        assert!(found.iter().all(|id| (1..=6).contains(id)), "invented by byte {at}");
        let block = at / BLOCK as usize;
        let batch = block.saturating_sub(1).min(3) as u64;
        let before = (1..=batch * 2).collect::<Vec<u64>>();
        assert!(found.starts_with(&before), "byte {at}: {found:?}");
        // What comes after the damaged batch is found as well.
        if (1..4).contains(&block) {
            let after = (batch * 2 + 3..=6).collect::<Vec<u64>>();
            assert!(found.ends_with(&after), "byte {at}: {found:?}");
            assert!(found.len() >= 4, "byte {at}: {found:?}");
        } else {
            assert_eq!(found.len(), 6, "byte {at}");
        }
    }
}

#[test]
fn every_truncation_keeps_what_comes_before_it() {
    let good = small_segment();
    for length in 0..good.len() {
        let found = ids(&only(good[..length].to_vec()));
        assert!(found.iter().zip(1..).all(|(&id, expected)| id == expected), "{length}: {found:?}");
        let whole = (length / BLOCK as usize).saturating_sub(1).min(3);
        assert!(found.len() >= whole * 2, "{length}: {found:?}");
    }
}

#[test]
fn damage_in_the_middle_is_set_aside_and_at_the_end_it_is_a_torn_commit() {
    let block = BLOCK as usize;
    let mut middle = small_segment();
    middle[block * 2 + 100] ^= 1;
    let (_, findings) = scan(&only(middle)).unwrap();
    assert_eq!(findings.set_aside.len(), 1);
    assert_eq!((findings.set_aside[0].offset, findings.torn_bytes), (BLOCK * 2, 0));

    let mut end = small_segment();
    end[block * 3 + 100] ^= 1;
    let (_, findings) = scan(&only(end)).unwrap();
    assert_eq!(findings.set_aside, []);
    assert_eq!((findings.torn_bytes, findings.cut), (u64::from(BLOCK), (1, BLOCK * 3)));
}

#[test]
fn a_lost_batch_is_noticed() {
    let block = BLOCK as usize;
    let mut file = small_segment();
    file[block * 2..block * 3].fill(0);
    let (read, findings) = scan(&only(file)).unwrap();
    assert_eq!(live(read).len(), 4);
    assert_eq!(findings.set_aside.len(), 1);
}

#[test]
fn a_batch_lost_at_the_end_of_a_full_segment_is_noticed_when_another_follows() {
    let block = BLOCK as usize;
    let resume = Resume { next_segment: 2, next_batch: 4, ..Resume::default() };
    let mut files = only(small_segment());
    files.insert(2, segment_after(resume, &[7]));
    let (_, findings) = scan(&files).unwrap();
    assert_eq!((findings.set_aside.len(), findings.torn_bytes), (0, 0));

    files.get_mut(&1).unwrap()[block * 3..block * 4].fill(0);
    let (read, findings) = scan(&files).unwrap();
    assert_eq!(live(read).len(), 6);
    assert_eq!(findings.set_aside.len(), 1);
    assert_eq!((findings.set_aside[0].segment, findings.set_aside[0].offset), (1, BLOCK * 3));
}

/// Neither its checksums nor the numbers of commits tell of a first segment that is empty.
#[test]
fn an_empty_segment_is_noticed_when_a_later_one_was_written() {
    let resume = Resume { next_segment: 2, next_batch: 4, ..Resume::default() };
    let later = segment_after(resume, &[7]);
    for (files, expected) in [
        (BTreeMap::from([(1, Vec::new()), (2, later.clone())]), &[1][..]),
        (BTreeMap::from([(1, vec![0; 100]), (2, later.clone())]), &[1]),
        // One that was being made when the relay went down.
        (BTreeMap::from([(2, later.clone()), (3, Vec::new())]), &[]),
        (BTreeMap::from([(1, Vec::new())]), &[]),
        // One that was made and not written yet.
        (BTreeMap::from([(1, vec![0; later.len()]), (2, later.clone())]), &[]),
    ] {
        let (scan, _) = scan(&files).unwrap();
        // The files of these tests end behind their batches.
        let headless = scan.cut_short.iter().filter(|one| one.offset < BLOCK);
        let cut: Vec<u32> = headless.map(|one| one.segment).collect();
        assert_eq!(cut, expected);
        assert!(scan.cut_short.iter().all(|one| one.cause.contains("cut short")));
    }
}

#[test]
fn a_recycled_file_with_old_content_is_blank() {
    let (read, findings) = scan(&BTreeMap::from([(2, small_segment())])).unwrap();
    assert_eq!(read.blank, [2]);
    assert_eq!((findings.set_aside.len(), findings.torn_bytes), (0, 0));
    assert!(live(read).is_empty());
}
