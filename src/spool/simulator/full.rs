//! A disk that is full when the relay starts: what becomes of mail is written down all the same.

use super::commits::{settings, store};
use crate::message::RecipientStatus;
use crate::ring::simulation::disk::Disk;
use crate::ring::simulation::{self, Simulation};
use crate::ring::{self};
use crate::spool::{Spool, SpoolError};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Runs one life on `disk`: what it leaves after a kill.
fn life(disk: Disk, body: impl AsyncFnOnce() + 'static) -> Disk {
    let simulation = Simulation::new(1, disk, 0, 500);
    let over = Rc::new(Cell::new(false));
    let done = Rc::clone(&over);
    simulation.enter(|| {
        simulation::spawn(async move {
            body().await;
            done.set(true);
        });
    });
    while !over.get() {
        assert!(simulation.step(), "nothing happens any more");
    }
    simulation.end();
    let disk = simulation.disk.borrow_mut().take_failed().unwrap();
    disk.after_kill()
}

#[test]
fn after_starts_on_a_full_disk_outcomes_are_still_recorded() {
    let mut disk = Disk::new(1);
    disk.capacity = 7 << 20;
    let stored = Rc::new(Cell::new(0));
    let count = Rc::clone(&stored);
    let mut disk = life(disk, async move || {
        let (spool, _) = Spool::open_as_set(settings()).await.unwrap();
        loop {
            match store(&spool, count.get()).await {
                Ok(()) => count.set(count.get() + 1),
                Err(SpoolError::Full(_)) => break,
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert!(stored.get() > 1000, "{}", stored.get());
    // Three starts, each of which delivers a part and is killed.
    for start in 0..3 {
        let left = Rc::new(Cell::new(0));
        let found = Rc::clone(&left);
        disk = life(disk, async move || {
            let (spool, recovery) = Spool::open_as_set(settings()).await.unwrap();
            let all: Vec<_> = recovery.messages.collect();
            found.set(all.len() as u64);
            let part = if start == 2 { all.len() } else { all.len() / 10 };
            for message in all.iter().take(part) {
                spool.settle(message.id, 0, &RecipientStatus::Delivered);
                spool.dead(message.id, message.placement);
            }
            ring::sleep(Duration::from_secs(10)).await;
            spool.sync().await.unwrap();
        });
        let before = stored.get();
        assert_eq!(left.get(), before, "start {start}");
        stored.set(if start == 2 { 0 } else { before - before / 10 });
    }
    life(disk, async move || {
        let (spool, recovery) = Spool::open_as_set(settings()).await.unwrap();
        assert_eq!(recovery.messages.count(), 0);
        ring::sleep(Duration::from_secs(5)).await;
        store(&spool, 1_000_000).await.unwrap();
    });
}
