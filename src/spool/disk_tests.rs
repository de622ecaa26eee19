//! The spool on a real disk through the ring.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::testing::{extreme, plain, waiting};
use super::{
    Draft, MessageState, Open, Placement, QueueIndex, Recovered, Recovery, Remains, Settings,
    Spool, SpoolError, layout,
};
use crate::message::{Content, Options, QueueId, RecipientStatus, Shown, Timestamp};
use crate::ring;
use futures_lite::future::{self, poll_once};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

fn on_a_shard<F: Future<Output = ()> + 'static>(body: impl Fn() -> F + Send + Clone + 'static) {
    let settings = ring::Settings { depth: 128, preempt: Duration::from_millis(1) };
    let shards = ring::start(&[None], &settings, move |_| body()).unwrap();
    shards.join().unwrap();
}

fn settings(folder: &Path, number: u16) -> Settings {
    Settings {
        directory: folder.to_owned(),
        number,
        segment_bytes: 256 * 1024,
        stream_threshold: 8 * 1024,
        content_bytes_max: 1 << 20,
        outcome_interval: Duration::from_millis(20),
    }
}

/// What a start found.
struct Found {
    messages: Vec<Recovered>,
    set_aside: Vec<String>,
    torn_bytes: u64,
    bytes_read: u64,
}

impl From<Recovery> for Found {
    fn from(recovery: Recovery) -> Found {
        let Recovery { messages, set_aside, torn_bytes, bytes_read, .. } = recovery;
        Found { messages: messages.collect(), set_aside, torn_bytes, bytes_read }
    }
}

async fn open(folder: &Path) -> (Spool, Found) {
    let (spool, recovery) = Spool::open(settings(folder, 0)).await.unwrap();
    (spool, recovery.into())
}

async fn draft(spool: &Spool, content: &[u8]) -> Draft {
    let mut draft = spool.draft();
    for part in content.chunks(1000) {
        draft.extend(part).await.unwrap();
    }
    draft
}

async fn store(spool: &Spool, recipients: usize, content: &[u8]) -> (QueueId, Placement) {
    let mut accepted = plain(0, recipients);
    accepted.id = spool.next_id(Timestamp(1_700_000_000_000));
    let id = accepted.id;
    let draft = draft(spool, content).await;
    let (placement, _) = spool.store(accepted.with_content(draft)).await.unwrap();
    (id, placement)
}

async fn content(spool: &Spool, id: QueueId, at: Placement) -> Vec<u8> {
    match &spool.load(id, at).await.unwrap().content {
        Content::Whole(bytes) => bytes.clone(),
        Content::Streamed(pieces) => {
            let mut all = Vec::new();
            for piece in pieces {
                all.extend(piece.read().await.unwrap());
            }
            all
        }
    }
}

#[test]
fn what_was_stored_is_there_after_a_restart_with_its_fates() {
    on_a_shard(|| async {
        let folder = tempfile::tempdir().unwrap();
        let (spool, recovery) = open(folder.path()).await;
        assert!(recovery.messages.is_empty());
        let large: Vec<u8> = (0..100_000).map(|byte| (byte % 251) as u8).collect();
        let (small_id, small_at) = store(&spool, 3, b"small\r\n").await;
        let (large_id, large_at) = store(&spool, 1, &large).await;
        assert_eq!(content(&spool, small_id, small_at).await, b"small\r\n");
        assert_eq!(content(&spool, large_id, large_at).await, large);
        let mut accepted = extreme();
        accepted.id = spool.next_id(Timestamp(1));
        let (_, stored) = spool.store(accepted.clone().with_content(spool.draft())).await.unwrap();
        assert_eq!(stored.options, accepted.options);

        spool.begun(small_id, &[0, 1, 2]);
        spool.settle(small_id, 0, &RecipientStatus::Delivered);
        spool.settle(small_id, 1, &waiting(4, 77));
        spool.sync().await.unwrap();
        drop(spool);
        ring::sleep(Duration::from_millis(50)).await;

        let (spool, recovery) = open(folder.path()).await;
        assert_eq!(recovery.messages.len(), 3);
        assert_eq!((recovery.set_aside.len(), recovery.torn_bytes), (0, 0));
        let small = &recovery.messages[0];
        assert_eq!((small.id, small.placement), (small_id, small_at));
        assert_eq!(small.options.deliver_by, None);
        let full = recovery.messages.iter().find(|one| one.id == accepted.id).unwrap();
        let mut of_the_queue = Options::default();
        for row in Options::OPTIONS.iter().filter(|row| row.for_queue) {
            match row.shown(&accepted.options).unwrap() {
                Shown::Flag => row.set(&mut of_the_queue, ""),
                Shown::Number(number) => row.set(&mut of_the_queue, &number.to_string()),
                Shown::Text(text) => row.set(&mut of_the_queue, &text),
            }
            .unwrap();
        }
        assert_eq!(full.options, of_the_queue);
        let [first, second, third] = &small.recipients[..] else { panic!() };
        assert!(first.ended && !first.in_doubt);
        assert_eq!((second.attempts, second.due), (4, Some(Timestamp(77))));
        assert!(third.in_doubt && third.due.is_none());
        assert_eq!(content(&spool, large_id, large_at).await, large);
        assert!(spool.next_id(Timestamp(0)) > accepted.id);
        let other = Placement { offset: small_at.offset + 1, ..small_at };
        assert!(matches!(spool.load(small_id, other).await, Err(SpoolError::Damaged { .. })));
    });
}

#[test]
fn an_outcome_is_durable_after_the_interval_without_anybody_asking() {
    on_a_shard(|| async {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path()).await;
        let (id, _) = store(&spool, 1, b"x\r\n").await;
        spool.settle(id, 0, &RecipientStatus::Delivered);
        for _ in 0..500 {
            ring::sleep(Duration::from_millis(10)).await;
            if Spool::inspect(folder.path()).unwrap().messages.len() == 0 {
                return;
            }
        }
        panic!("the outcome never came to the disk");
    });
}

#[test]
fn a_thousand_writers_share_commits_and_dead_segments_are_used_again() {
    on_a_shard(|| async {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path()).await;
        let left = Rc::new(Cell::new(1000));
        for _ in 0..1000 {
            let (spool, left) = (spool.clone(), Rc::clone(&left));
            ring::spawn("writer", async move {
                let (id, at) = store(&spool, 1, &[b'x'; 4000]).await;
                spool.settle(id, 0, &RecipientStatus::Delivered);
                spool.dead(id, at);
                left.set(left.get() - 1);
            });
        }
        while left.get() > 0 {
            ring::sleep(Duration::from_millis(5)).await;
        }
        spool.sync().await.unwrap();
        ring::sleep(Duration::from_millis(300)).await;
        // 4 MB of mail went through segments of 256 KiB; what is dead is used again or removed.
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert!(files <= 6, "{files} segments are left");
        assert!(Spool::inspect(folder.path()).unwrap().messages.len() == 0);
    });
}

#[test]
fn a_writer_that_goes_away_leaves_no_mail() {
    on_a_shard(|| async {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path()).await;
        let (kept, _) = store(&spool, 1, b"kept\r\n").await;
        for pause in [0, 1] {
            let mut accepted = plain(0, 2);
            accepted.id = spool.next_id(Timestamp(1));
            let mut storing =
                pin!(spool.store(accepted.with_content(draft(&spool, &[b'x'; 20_000]).await)));
            for _ in 0..=pause {
                assert!(poll_once(storing.as_mut()).await.is_none());
                future::yield_now().await;
            }
        }
        let half = draft(&spool, &[b'x'; 50_000]).await;
        drop(half);
        spool.sync().await.unwrap();
        let left = Spool::inspect(folder.path()).unwrap().messages;
        assert_eq!(left.map(|message| message.id).collect::<Vec<_>>(), [kept]);
    });
}

#[test]
fn without_room_mail_is_refused_outcomes_are_kept_and_all_goes_on_later() {
    on_a_shard(|| async {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path()).await;
        // A folder where the next segments should be: they cannot be made.
        let blocked: Vec<_> =
            (5..60).map(|number| folder.path().join(format!("{number:08}.seg"))).collect();
        for path in &blocked {
            std::fs::create_dir(path).unwrap();
        }
        let mut stored = Vec::new();
        let cause = loop {
            let mut accepted = plain(0, 1);
            accepted.id = spool.next_id(Timestamp(1));
            let id = accepted.id;
            match spool.store(accepted.with_content(draft(&spool, &[b'x'; 8000]).await)).await {
                Ok((at, _)) => stored.push((id, at)),
                Err(SpoolError::Full(error)) => break error.to_string(),
                Err(error) => panic!("{error}"),
            }
        };
        assert!(!cause.is_empty());
        assert!(spool.failure().is_none());
        for &(id, at) in &stored {
            spool.settle(id, 0, &RecipientStatus::Delivered);
            spool.dead(id, at);
        }
        spool.sync().await.expect("room is reserved for outcomes");
        for path in &blocked {
            std::fs::remove_dir(path).unwrap();
        }
        // As soon as it is tried again, which is within some seconds.
        for _ in 0..120 {
            ring::sleep(Duration::from_millis(100)).await;
            let mut accepted = plain(0, 1);
            accepted.id = spool.next_id(Timestamp(1));
            if spool.store(accepted.with_content(draft(&spool, b"again").await)).await.is_ok() {
                assert_eq!(Spool::inspect(folder.path()).unwrap().messages.len(), 1);
                return;
            }
        }
        panic!("the spool did not go on");
    });
}

#[test]
fn a_failed_commit_ends_the_intake_for_good_and_what_was_stored_stays() {
    on_a_shard(|| async {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path()).await;
        let (first, at) = store(&spool, 1, b"first\r\n").await;
        let (second, _) = store(&spool, 1, b"second\r\n").await;
        spool.settle(second, 0, &RecipientStatus::Delivered);
        spool.sync().await.unwrap();
        ring::break_disk();
        spool.settle(first, 0, &RecipientStatus::Delivered);
        for content in [10, 50_000] {
            let mut accepted = plain(0, 1);
            accepted.id = spool.next_id(Timestamp(1));
            let mut draft = spool.draft();
            let stored = match draft.extend(&vec![b'x'; content]).await {
                Ok(()) => spool.store(accepted.with_content(draft)).await.map(|_| ()),
                Err(error) => Err(error),
            };
            assert!(matches!(stored, Err(SpoolError::Failed(_))), "{stored:?}");
        }
        assert!(spool.failure().unwrap().contains("00000001.seg"));
        assert!(matches!(spool.sync().await, Err(SpoolError::Failed(_))));
        assert_eq!(content(&spool, first, at).await, b"first\r\n", "it can still be read");
        drop(spool);
        ring::sleep(Duration::from_millis(50)).await;

        let (_spool, recovery) = open(folder.path()).await;
        assert_eq!(recovery.messages.iter().map(|one| one.id).collect::<Vec<_>>(), [first]);
        assert!(!recovery.messages[0].recipients[0].ended, "that it ended could not be written");
    });
}

#[test]
fn a_torn_tail_is_cut_once_and_damage_is_copied_once() {
    on_a_shard(|| async {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path()).await;
        let mut placements = Vec::new();
        for _ in 0..3 {
            placements.push(store(&spool, 1, &[b'x'; 3000]).await);
        }
        drop(spool);
        ring::sleep(Duration::from_millis(50)).await;
        // The second is damaged; of the third, the newest, only a part came to the disk.
        let path = folder.path().join("00000001.seg");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[placements[1].1.offset as usize + 500] ^= 1;
        bytes[placements[2].1.offset as usize + 500] ^= 1;
        // As after a kill: without an index.
        let end = bytes.len();
        bytes[end - 4096..].fill(0);
        std::fs::write(&path, bytes).unwrap();

        let seen = Spool::inspect(folder.path()).unwrap();
        assert_eq!((seen.set_aside.len(), seen.torn_bytes), (1, 4096));
        let (spool, recovery) = open(folder.path()).await;
        assert_eq!((recovery.set_aside.len(), recovery.torn_bytes), (1, 4096));
        assert_eq!(recovery.messages.len(), 1);
        assert_eq!(std::fs::read_dir(folder.path().join("quarantine")).unwrap().count(), 1);
        let folders = [folder.path().to_owned()];
        assert!(super::quarantined(&folders, placements[1].0).is_some(), "in a batch");
        assert_eq!(super::quarantined(&folders, placements[0].0), None);
        store(&spool, 1, b"later\r\n").await;
        drop(spool);
        ring::sleep(Duration::from_millis(50)).await;
        let (_spool, recovery) = open(folder.path()).await;
        assert_eq!((recovery.set_aside.len(), recovery.torn_bytes), (0, 0), "said already");
        assert_eq!(recovery.messages.len(), 2);
    });
}

#[test]
fn a_spool_of_a_newer_relay_is_refused() {
    on_a_shard(|| async {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path()).await;
        store(&spool, 1, b"x\r\n").await;
        let path = folder.path().join("00000001.seg");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8] = 2;
        let crc = super::segment::checksum(1, 0, &[&bytes[..52]]);
        bytes[52..56].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let refused = Spool::inspect(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("newer"), "{refused}");
    });
}

#[test]
fn an_orphan_folder_is_adopted_once_whatever_crashes() {
    on_a_shard(|| async {
        let root = tempfile::tempdir().unwrap();
        let (own, orphan) = (root.path().join("shard-0"), root.path().join("shard-1"));
        let large = vec![b'l'; 60_000];
        let (other, _) = Spool::open(settings(&orphan, 1)).await.unwrap();
        let (first, _) = store(&other, 2, b"first\r\n").await;
        let (second, _) = store(&other, 1, &large).await;
        other.settle(first, 0, &RecipientStatus::Delivered);
        other.settle(first, 1, &waiting(3, 99));
        other.begun(second, &[0]);
        other.sync().await.unwrap();
        drop(other);
        assert_eq!(layout(root.path()).unwrap(), [(0, own.clone()), (1, orphan.clone())][1..]);

        // A copy of the folder: what a crash before its removal would leave.
        let again = root.path().join("again");
        std::fs::create_dir(&again).unwrap();
        for entry in std::fs::read_dir(&orphan).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), again.join(entry.file_name())).unwrap();
        }
        let (spool, _) = open(&own).await;
        let adopted = Found::from(spool.adopt(&orphan, &[]).await.unwrap());
        assert!(!orphan.exists());
        assert_eq!(adopted.messages.len(), 2);
        let (one, two) = (&adopted.messages[0], &adopted.messages[1]);
        assert_eq!((one.id, two.id), (first, second));
        assert!(one.recipients[0].ended);
        assert_eq!(one.recipients[1].attempts, 3);
        assert!(two.recipients[0].in_doubt);
        assert_eq!(content(&spool, two.id, two.placement).await, large);
        spool.settle(first, 1, &RecipientStatus::Delivered);
        spool.sync().await.unwrap();
        drop(spool);
        ring::sleep(Duration::from_millis(50)).await;

        let (spool, recovery) = open(&own).await;
        assert_eq!(recovery.messages.iter().map(|one| one.id).collect::<Vec<_>>(), [second]);
        assert!(recovery.messages[0].recipients[0].in_doubt);
        let adopted = Found::from(spool.adopt(&again, &[]).await.unwrap());
        assert!(adopted.messages.is_empty(), "the ended one and the live one are known");
        assert!(!again.exists());
    });
}

/// The queue of a test.
#[derive(Default)]
struct Waiting {
    messages: RefCell<HashMap<QueueId, (Placement, MessageState)>>,
    moves: Cell<usize>,
    in_memory: Cell<Option<QueueId>>,
    lost: RefCell<Vec<(QueueId, Remains)>>,
}

impl QueueIndex for Waiting {
    fn placement(&self, id: QueueId) -> Option<Placement> {
        self.messages.borrow().get(&id).map(|(at, _)| *at)
    }
    fn in_segment(&self, segment: u32, _cursor: u32) -> (Vec<QueueId>, Option<u32>) {
        let messages = self.messages.borrow();
        let there = messages.iter().filter(|(_, (at, _))| at.segment == segment);
        (there.map(|(&id, _)| id).collect(), None)
    }
    fn message_state(&self, id: QueueId) -> Option<MessageState> {
        self.messages.borrow().get(&id).map(|(_, standing)| standing.clone())
    }
    fn moved(&self, id: QueueId, to: Placement) {
        self.moves.set(self.moves.get() + 1);
        self.messages.borrow_mut().get_mut(&id).unwrap().0 = to;
    }
    fn is_in_memory(&self, id: QueueId) -> bool {
        self.in_memory.get() == Some(id)
    }
    fn lost(&self, id: QueueId, remains: &Remains) {
        self.messages.borrow_mut().remove(&id);
        self.lost.borrow_mut().push((id, remains.clone()));
    }
}

fn open_recipient(index: u32, status: Option<RecipientStatus>) -> Open {
    Open { index, status, in_flight: false }
}

fn segments(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|end| end == "seg")).count()
}

/// Lets `count` messages pass through; the most segments that there were.
async fn pass_through(spool: &Spool, folder: &Path, count: usize) -> usize {
    let mut most = 0;
    let done = Rc::new(Cell::new(0));
    for _ in 0..16 {
        let (spool, done) = (spool.clone(), Rc::clone(&done));
        ring::spawn("writer", async move {
            for _ in 0..count / 16 {
                let (id, at) = store(&spool, 1, &[b'x'; 900]).await;
                spool.settle(id, 0, &RecipientStatus::Delivered);
                spool.dead(id, at);
            }
            done.set(done.get() + 1);
        });
    }
    while done.get() < 16 {
        ring::sleep(Duration::from_millis(20)).await;
        most = most.max(segments(folder));
    }
    most
}

#[test]
fn a_few_that_wait_do_not_keep_the_disk_that_many_passed_through() {
    on_a_shard(|| async {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path()).await;
        let queue = Rc::new(Waiting::default());
        let register: Rc<dyn QueueIndex> = Rc::<Waiting>::clone(&queue);
        spool.clean_for(Rc::downgrade(&register));
        let large: Vec<u8> = (0..60_000_u32).map(|at| (at / 7) as u8).collect();
        let mut waiting_ids = Vec::new();
        for index in 0..10 {
            let content: &[u8] = if index % 5 == 0 { &large } else { b"small\r\n" };
            let (id, at) = store(&spool, 2, content).await;
            spool.settle(id, 0, &RecipientStatus::Bounced);
            spool.settle(id, 1, &waiting(7, 99));
            let open = vec![open_recipient(1, Some(waiting(7, 99)))];
            queue.messages.borrow_mut().insert(id, (at, MessageState { open }));
            waiting_ids.push(id);
        }
        let first_place = queue.placement(waiting_ids[0]).unwrap();
        let reader = spool.load(waiting_ids[0], first_place).await.unwrap();

        // Half a segment lives: twice that and four more segments may be used, and spares.
        let most = pass_through(&spool, folder.path(), 16_000).await;
        assert!(most > 20, "a reader keeps its segment, and all later ones: {most}");
        let Content::Streamed(pieces) = &reader.content else { panic!() };
        for piece in pieces {
            piece.read().await.expect("what is being read stays");
        }
        drop(reader);
        for _ in 0..100 {
            ring::sleep(Duration::from_millis(100)).await;
            if segments(folder.path()) <= 4 + 1 + 2 * 2 {
                break;
            }
        }
        let most = pass_through(&spool, folder.path(), 32_000).await;
        // Of nearly two hundred that are written; the compactor may be behind on a busy machine.
        assert!(most <= 60, "{most} segments");
        assert!(queue.moves.get() >= 20, "they move again and again: {}", queue.moves.get());

        for (index, &id) in waiting_ids.iter().enumerate() {
            let expected: &[u8] = if index % 5 == 0 { &large } else { b"small\r\n" };
            assert_eq!(content(&spool, id, queue.placement(id).unwrap()).await, expected);
            assert_eq!(content(&spool, id, first_place).await, expected, "asked by an old place");
        }
        drop(spool);
        ring::sleep(Duration::from_millis(100)).await;
        let (_spool, recovery) = open(folder.path()).await;
        assert_eq!(recovery.messages.iter().map(|one| one.id).collect::<Vec<_>>(), waiting_ids);
        for message in &recovery.messages {
            assert!(message.recipients[0].ended);
            assert_eq!((message.recipients[1].attempts, message.recipients[1].ended), (7, false));
        }
    });
}

#[test]
fn many_large_drafts_together_keep_to_the_memory_that_is_theirs() {
    on_a_shard(|| async {
        const DRAFTS: usize = 200;
        const BUDGET: usize = 256 * 1024;
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { content_bytes_max: BUDGET, ..settings(folder.path(), 0) };
        let (spool, _) = Spool::open(settings).await.unwrap();
        let (done, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        for number in 0..DRAFTS {
            let (spool, done, most) = (spool.clone(), Rc::clone(&done), Rc::clone(&most));
            ring::spawn("writer", async move {
                let bytes: Vec<u8> = (0..100_000).map(|at| (at / 99 + number) as u8).collect();
                let mut draft = spool.draft();
                // Some send in small parts, some in large ones.
                for part in bytes.chunks(if number % 10 == 0 { 50 } else { 3000 }) {
                    draft.extend(part).await.unwrap();
                    let kept = spool.handle.core.state.borrow().content_bytes;
                    most.set(most.get().max(kept));
                    ring::yield_now().await;
                }
                let mut accepted = plain(0, 1);
                accepted.id = spool.next_id(Timestamp(1));
                let id = accepted.id;
                let (at, _) = spool.store(accepted.with_content(draft)).await.unwrap();
                assert_eq!(content(&spool, id, at).await, bytes);
                done.set(done.get() + 1);
            });
        }
        while done.get() < DRAFTS {
            ring::sleep(Duration::from_millis(10)).await;
        }
        let most = most.get();
        assert!(most > BUDGET / 2, "{most}");
        assert!(most <= BUDGET + DRAFTS * 8192, "{most}");
        assert_eq!(spool.handle.core.state.borrow().content_bytes, 0);
    });
}

#[test]
fn a_start_reads_the_indexes_of_sealed_segments_and_not_their_mail() {
    on_a_shard(|| async {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path()).await;
        let mut stored = Vec::new();
        for number in 0..1000 {
            let content = vec![b'a' + (number % 26) as u8; 3000];
            stored.push((store(&spool, 1, &content).await, content));
        }
        spool.settle(stored[0].0.0, 0, &waiting(2, 99));
        spool.close().await;
        let written = Spool::examine(folder.path()).unwrap();
        assert_eq!((written.damages.len(), written.bad_indexes.len()), (0, 0));

        let (spool, recovery) = open(folder.path()).await;
        assert_eq!(recovery.messages.len(), 1000);
        assert_eq!(recovery.messages[0].recipients[0].attempts, 2);
        // One or two unused spares are looked through as well.
        let read = recovery.bytes_read - 256 * 1024;
        assert!(read * 4 < written.written_bytes, "{read} of {}", written.written_bytes);
        for ((id, at), expected) in &stored[900..] {
            assert_eq!(&content(&spool, *id, *at).await, expected);
        }
    });
}

#[test]
fn a_record_that_proves_damaged_is_copied_to_the_quarantine_once() {
    on_a_shard(|| async {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path()).await;
        let (id, at) = store(&spool, 1, &[b'x'; 3000]).await;
        let (whole, whole_at) = store(&spool, 1, b"whole\r\n").await;
        spool.close().await;
        let path = folder.path().join("00000001.seg");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at.offset as usize + 500] ^= 1;
        std::fs::write(&path, &bytes).unwrap();

        let (spool, recovery) = open(folder.path()).await;
        assert_eq!((recovery.messages.len(), recovery.set_aside.len()), (2, 0), "not read yet");
        assert!(matches!(spool.load(id, at).await, Err(SpoolError::Damaged { .. })));
        let folders = [folder.path().to_owned()];
        assert_eq!(super::quarantined(&folders, id), None);
        let remains = spool.set_aside(id, at).await.unwrap();
        let Some(Remains::Copy(copy)) = remains.clone() else { panic!("{remains:?}") };
        assert_eq!(spool.set_aside(id, at).await.unwrap(), remains);
        assert_eq!(spool.set_aside(whole, whole_at).await.unwrap(), None);
        assert_eq!(
            (super::quarantined(&folders, id), super::quarantined(&folders, whole)),
            (Some(copy), None)
        );
        let kept: Vec<_> = std::fs::read_dir(folder.path().join("quarantine"))
            .unwrap()
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect();
        let (from, to) = (at.offset as usize, (at.offset + at.length) as usize);
        assert_eq!(kept, [bytes[from..to].to_vec()]);
    });
}

#[test]
fn what_goes_missing_while_no_relay_runs_is_told_once() {
    on_a_shard(|| async {
        for gone in ["00000001.seg removed", "00000001.seg zeroed", "last removed", "last zeroed"] {
            let folder = tempfile::tempdir().unwrap();
            let (spool, _) = open(folder.path()).await;
            for _ in 0..200 {
                store(&spool, 1, &[b'x'; 3000]).await;
            }
            spool.close().await;
            let sound = Spool::examine(folder.path()).unwrap();
            assert_eq!((sound.messages.len(), sound.damages.len()), (200, 0));
            let newest = sound.messages.iter().map(|message| message.placement.segment).max();
            let (which, how) = gone.split_once(' ').unwrap();
            let name = which.replace("last", &format!("{:08}.seg", newest.unwrap()));
            let path = folder.path().join(name);
            match how {
                "removed" => std::fs::remove_file(&path).unwrap(),
                _ => std::fs::write(&path, vec![0; 256 * 1024]).unwrap(),
            }

            let seen = Spool::examine(folder.path()).unwrap();
            assert!(seen.messages.len() < 200);
            assert_eq!((seen.damages.len(), &seen.damages[0].path), (1, &path), "{gone}");
            let (spool, recovery) = open(folder.path()).await;
            assert_eq!(recovery.messages.len(), seen.messages.len());
            assert_eq!(recovery.set_aside.len(), 1, "{gone}: {:?}", recovery.set_aside);
            assert!(recovery.set_aside[0].contains("records of live mail"), "{gone}");
            store(&spool, 1, b"later\r\n").await;
            spool.close().await;
            let (_spool, recovery) = open(folder.path()).await;
            assert_eq!((recovery.set_aside.len(), recovery.torn_bytes), (0, 0), "{gone}");
        }
    });
}

#[test]
fn a_list_of_segments_from_before_the_last_commits_says_nothing() {
    on_a_shard(|| async {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path()).await;
        let (id, at) = store(&spool, 1, b"first\r\n").await;
        spool.close().await;
        let list = folder.path().join("closed");
        let former = std::fs::read(&list).unwrap();
        let (spool, _) = open(folder.path()).await;
        assert!(!list.exists(), "it is for one start");
        store(&spool, 1, b"second\r\n").await;
        spool.settle(id, 0, &RecipientStatus::Delivered);
        spool.sync().await.unwrap();
        spool.dead(id, at);
        spool.close().await;
        std::fs::write(&list, former).unwrap();
        let (_spool, recovery) = open(folder.path()).await;
        assert_eq!((recovery.messages.len(), recovery.set_aside.len()), (1, 0));
    });
}

#[test]
fn no_message_is_accepted_into_a_folder_that_is_gone() {
    on_a_shard(|| async {
        for what in ["removed", "replaced", "truncated", "folder removed"] {
            let above = tempfile::tempdir().unwrap();
            let folder = above.path().join("shard-0");
            let (spool, _) = open(&folder).await;
            let (_, at) = store(&spool, 1, b"first\r\n").await;
            let head = super::segment::path(&folder, at.segment);
            match what {
                "removed" => std::fs::remove_file(&head).unwrap(),
                "replaced" => {
                    std::fs::copy(&head, folder.join("copy")).unwrap();
                    std::fs::rename(folder.join("copy"), &head).unwrap();
                }
                "truncated" => {
                    std::fs::OpenOptions::new()
                        .write(true)
                        .open(&head)
                        .and_then(|file| file.set_len(u64::from(at.offset)))
                        .unwrap();
                }
                _ => std::fs::remove_dir_all(&folder).unwrap(),
            }
            let mut accepted = plain(0, 1);
            accepted.id = spool.next_id(Timestamp(1));
            let second = draft(&spool, b"second\r\n").await;
            let stored = spool.store(accepted.with_content(second)).await;
            assert!(matches!(stored, Err(SpoolError::Failed(_))), "{what}: {stored:?}");
            let cause = spool.failure().unwrap();
            let word = what.strip_prefix("folder ").unwrap_or(what);
            assert!(cause.contains(word) && cause.contains(".seg"), "{what}: {cause}");
        }
    });
}

#[test]
fn mail_in_a_segment_that_is_cut_is_named_while_the_relay_runs() {
    on_a_shard(|| async {
        for whole_file in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let (spool, _) = open(folder.path()).await;
            let queue = Rc::new(Waiting::default());
            let mut stored = Vec::new();
            while stored.last().is_none_or(|(_, at): &(QueueId, Placement)| at.segment < 3) {
                let (id, at) = store(&spool, 1, &[b'x'; 3000]).await;
                let state = MessageState { open: vec![open_recipient(0, None)] };
                queue.messages.borrow_mut().insert(id, (at, state));
                stored.push((id, at));
            }
            let register: Rc<dyn QueueIndex> = queue.clone();
            spool.clean_for(Rc::downgrade(&register));
            // The first round only takes down the sizes.
            ring::sleep(Duration::from_millis(50)).await;
            let first: Vec<_> = stored.iter().filter(|(_, at)| at.segment == 1).collect();
            let (hot, middle) = (first[first.len() - 1].0, first[first.len() / 2]);
            queue.in_memory.set(Some(hot));
            let end = if whole_file { 0 } else { u64::from(middle.1.offset) + 7 };
            let path = super::segment::path(folder.path(), 1);
            match whole_file {
                true => std::fs::remove_file(&path).unwrap(),
                false => {
                    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                    file.set_len(end).unwrap();
                }
            }
            let is_gone = |at: &Placement| {
                at.segment == 1 && u64::from(at.offset) + u64::from(at.length) > end
            };
            let gone: Vec<QueueId> = first
                .iter()
                .filter(|(id, at)| is_gone(at) && *id != hot)
                .map(|one| one.0)
                .collect();
            for _ in 0..500 {
                ring::sleep(Duration::from_millis(10)).await;
                if queue.lost.borrow().len() == gone.len() {
                    break;
                }
            }
            let mut lost = queue.lost.borrow().clone();
            lost.sort_by_key(|(id, _)| *id);
            assert_eq!(lost.iter().map(|(id, _)| *id).collect::<Vec<_>>(), gone);
            let copies = lost.iter().filter(|(_, remains)| *remains != Remains::Nothing).count();
            assert_eq!(copies, usize::from(!whole_file), "the one that is cut in the middle");
            for (id, at) in &stored {
                let loaded = spool.load(*id, *at).await;
                match is_gone(at) && !whole_file {
                    true => assert!(matches!(loaded, Err(SpoolError::Damaged { .. })), "{id}"),
                    // A file that was open for reading gives its bytes for as long as it is.
                    false if is_gone(at) => {}
                    false => assert!(loaded.is_ok(), "{id}: {loaded:?}"),
                }
            }
            // The others are not touched, and mail is taken.
            store(&spool, 1, b"later\r\n").await;
            spool.close().await;
            let (_spool, recovery) = open(folder.path()).await;
            let words = if whole_file { "missing" } else { "cut short" };
            let said = recovery.set_aside.iter().filter(|line| line.contains(words)).count();
            assert_eq!(said, 1, "{:?}", recovery.set_aside);
            let ids: Vec<QueueId> = recovery.messages.iter().map(|message| message.id).collect();
            for (id, at) in &stored {
                assert_eq!(ids.contains(id), !is_gone(at), "{id}");
            }
        }
    });
}
