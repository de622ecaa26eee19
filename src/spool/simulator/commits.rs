//! What group commit promises beside durability: nothing waits for a timer, and what comes
//! during a commit shares the next one.

use super::life::content_of;
use crate::message::{Message, QueueId, Timestamp};
use crate::ring::simulation::disk::Disk;
use crate::ring::simulation::{self, Simulation};
use crate::ring::{self};
use crate::spool::testing::plain;
use crate::spool::{Settings, Spool, SpoolError};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// The longest that the disk takes for one operation.
const LATENCY_US: u64 = 1000;

fn on_a_disk(seed: u64, body: impl AsyncFnOnce(Rc<Simulation>, Spool) + 'static) {
    let simulation = Simulation::new(seed, Disk::new(seed), 0, LATENCY_US);
    let over = Rc::new(Cell::new(false));
    let (inside, done) = (Rc::clone(&simulation), Rc::clone(&over));
    simulation.enter(|| {
        simulation::spawn(async move {
            let (spool, _) = Spool::open_as_set(settings()).await.unwrap();
            // The head and the spares are made.
            store(&spool, 1).await.unwrap();
            ring::sleep(Duration::from_secs(5)).await;
            body(inside, spool).await;
            done.set(true);
        });
    });
    while !over.get() {
        assert!(simulation.step(), "nothing happens any more");
    }
    simulation.end();
}

pub(super) fn settings() -> Settings {
    Settings {
        directory: Path::new("/spool").to_owned(),
        number: 0,
        segment_bytes: 1 << 20,
        stream_threshold: 1 << 19,
        content_bytes_max: 1 << 20,
        outcome_interval: Duration::from_millis(20),
    }
}

pub(super) async fn store(spool: &Spool, number: u64) -> Result<(), SpoolError> {
    let mut draft = spool.draft();
    draft.extend(&content_of(number, 2000)).await?;
    let id: QueueId = spool.next_id(Timestamp(1_700_000_000_000 + number));
    spool.store(Message { id, ..plain(id.0, 1) }.with_content(draft)).await.map(drop)
}

#[test]
fn a_single_message_waits_for_one_write_and_one_sync_and_nothing_else() {
    on_a_disk(1, async |simulation, spool| {
        for number in 2..50 {
            let (begin, syncs) = (simulation.now_us(), simulation.disk.borrow().syncs);
            store(&spool, number).await.unwrap();
            // A write may be short once and be gone on with.
            let took = simulation.now_us() - begin;
            assert!(took <= 3 * LATENCY_US, "{took} us");
            assert_eq!(simulation.disk.borrow().syncs, syncs + 1);
        }
    });
}

#[test]
fn who_comes_while_a_commit_is_under_way_shares_the_next_one() {
    on_a_disk(2, async |simulation, spool| {
        let syncs = simulation.disk.borrow().syncs;
        let left = Rc::new(Cell::new(100));
        for number in 2..102 {
            let (spool, left) = (spool.clone(), Rc::clone(&left));
            simulation::spawn(async move {
                store(&spool, number).await.unwrap();
                left.set(left.get() - 1);
            });
        }
        while left.get() > 0 {
            ring::sleep(Duration::from_millis(1)).await;
        }
        let syncs = simulation.disk.borrow().syncs - syncs;
        assert!((1..=3).contains(&syncs), "{syncs} syncs for 100 messages at once");
    });
}

#[test]
fn an_idle_spool_does_not_touch_the_disk() {
    on_a_disk(3, async |simulation, spool| {
        store(&spool, 2).await.unwrap();
        ring::sleep(Duration::from_secs(1)).await;
        let changes = simulation.disk.borrow().changes;
        ring::sleep(Duration::from_secs(3600)).await;
        assert_eq!(simulation.disk.borrow().changes, changes);
    });
}
