//! A disk that is full: what becomes of mail is written down all the same, also after a start, and
//! mail that can only fail makes space by itself, while clients go on sending.

use super::commits::{settings, store};
use super::life::content_of;
use crate::message::{Message, QueueId, RecipientStatus};
use crate::ring::simulation::disk::Disk;
use crate::ring::simulation::{self, Simulation};
use crate::ring::{self};
use crate::spool::testing::plain;
use crate::spool::{
    Draft, MessageState, Open, Placement, QueueIndex, Recovery, Remains, Settings, Spool,
    SpoolError,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
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
    disk.capacity = 9 << 20;
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

/// What is done to a full disk.
#[derive(Clone, Copy, Debug)]
struct Case {
    shards: u16,
    /// Which mail fails first.
    order: Order,
    mail_bytes: usize,
    report_bytes: usize,
    /// One message in so many stays, whatever happens; the oldest ones if `oldest_stay`.
    one_in_stays: u64,
    oldest_stay: bool,
    /// Reports are delivered at once; else when all are made.
    reports_go: bool,
    /// Lives that end by a kill before all is reported.
    kills: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    OldestFirst,
    NewestFirst,
    Any,
}

/// What lives on across restarts.
#[derive(Default)]
struct Known {
    /// Mail that is to fail, and of each report that waits the mail that it is about.
    failing: RefCell<BTreeSet<u64>>,
    reports: RefCell<BTreeMap<u64, u64>>,
    /// Mail that fails never: it waits to the end.
    staying: RefCell<BTreeSet<u64>>,
    random: RefCell<fastrand::Rng>,
}

/// The queue of one shard. Nothing in it was ever tried.
#[derive(Default)]
struct Queue(RefCell<BTreeMap<u64, Placement>>);

impl QueueIndex for Queue {
    fn placement(&self, id: QueueId) -> Option<Placement> {
        self.0.borrow().get(&id.0).copied()
    }

    fn in_segment(&self, segment: u32, _: u32) -> (Vec<QueueId>, Option<u32>) {
        let all = self.0.borrow();
        let here = all.iter().filter(|(_, at)| at.segment == segment);
        (here.map(|(&id, _)| QueueId(id)).collect(), None)
    }

    fn message_state(&self, id: QueueId) -> Option<MessageState> {
        self.placement(id)?;
        Some(MessageState { open: vec![Open { index: 0, status: None, in_flight: false }] })
    }

    fn moved(&self, id: QueueId, to: Placement) {
        self.0.borrow_mut().insert(id.0, to);
    }

    fn is_in_memory(&self, _: QueueId) -> bool {
        false
    }

    fn lost(&self, id: QueueId, remains: &Remains) {
        panic!("{id} is lost: {remains}");
    }
}

/// A shard at work.
struct Shard {
    spool: Spool,
    queue: Rc<Queue>,
    known: Rc<Known>,
}

impl Shard {
    async fn open(number: u16, known: &Rc<Known>) -> (Shard, Recovery) {
        let directory = format!("/spool-{number}").into();
        let own = Settings { directory, number, ..settings() };
        let (spool, recovery) = Spool::open_as_set(own).await.unwrap();
        (Shard { spool, queue: Rc::default(), known: Rc::clone(known) }, recovery)
    }

    fn begin(&self) {
        let queue: Weak<Queue> = Rc::downgrade(&self.queue);
        self.spool.clean_for(queue);
    }

    async fn put(&self, mut draft: Draft, length: usize) -> Result<u64, SpoolError> {
        let id: QueueId = self.spool.next_id(ring::wall_clock());
        draft.extend(&content_of(id.0, length)).await?;
        let stored = self.spool.store(Message { id, ..plain(id.0, 1) }.with_content(draft)).await;
        self.queue.0.borrow_mut().insert(id.0, stored?.0);
        Ok(id.0)
    }

    fn end(&self, id: u64, status: &RecipientStatus) {
        let Some(at) = self.queue.0.borrow_mut().remove(&id) else { panic!("{id} ends twice") };
        self.spool.settle(QueueId(id), 0, status);
        self.spool.dead(QueueId(id), at);
    }

    fn deliver(&self, report: u64) {
        self.end(report, &RecipientStatus::Delivered);
        self.known.reports.borrow_mut().remove(&report);
    }

    /// Mail that is to fail here: the next.
    fn next_failing(&self, order: Order) -> Option<u64> {
        let queue = self.queue.0.borrow();
        let failing = self.known.failing.borrow();
        let mut here = queue.keys().copied().filter(|id| failing.contains(id));
        match order {
            Order::OldestFirst => here.next(),
            Order::NewestFirst => here.next_back(),
            Order::Any => {
                let some: Vec<u64> = here.collect();
                self.known.random.borrow_mut().choice(some)
            }
        }
    }
}

/// Clients that send all the while: what is taken stays.
async fn keep_sending(shard: Rc<Shard>, length: usize, over: Rc<Cell<bool>>) {
    while !over.get() {
        match shard.put(shard.spool.draft(), length).await {
            Ok(id) => drop(shard.known.staying.borrow_mut().insert(id)),
            Err(SpoolError::Full(_)) => {}
            Err(error) => panic!("{error}"),
        }
        ring::sleep(Duration::from_millis(300)).await;
    }
}

/// Fails what is to fail, as the shard does: the report is stored first. At most `most` messages.
async fn fail_all(shard: Rc<Shard>, case: Case, mut most: usize) {
    let mut refused = 0;
    while let Some(id) = shard.next_failing(case.order).filter(|_| most > 0) {
        match shard.put(shard.spool.report_draft(), case.report_bytes).await {
            Ok(report) => {
                shard.known.failing.borrow_mut().remove(&id);
                shard.known.reports.borrow_mut().insert(report, id);
                shard.end(id, &RecipientStatus::Bounced);
                (most, refused) = (most - 1, 0);
                if case.reports_go {
                    shard.deliver(report);
                }
            }
            Err(SpoolError::Full(_)) => {
                refused += 1;
                let left = shard.known.failing.borrow().len();
                assert!(refused < 300, "{case:?}: stuck with {left} that are to fail");
                ring::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// One life on a full disk; the last one ends all and takes mail again.
async fn live_on(known: Rc<Known>, case: Case, most: Option<usize>) {
    let over = Rc::new(Cell::new(false));
    let mut at_work = Vec::new();
    for number in 0..case.shards {
        let (shard, recovery) = Shard::open(number, &known).await;
        let found: BTreeMap<u64, Placement> =
            recovery.messages.map(|one| (one.id.0, one.placement)).collect();
        *shard.queue.0.borrow_mut() = found;
        shard.begin();
        let shard = Rc::new(shard);
        // Of the last moments before a kill not all was durable.
        let here: Vec<u64> = shard.queue.0.borrow().keys().copied().collect();
        for id in here {
            let is_known = known.failing.borrow().contains(&id)
                || known.staying.borrow().contains(&id)
                || known.reports.borrow().contains_key(&id);
            if !is_known {
                known.failing.borrow_mut().insert(id);
            }
        }
        at_work.push(shard);
    }
    let left = Rc::new(Cell::new(at_work.len()));
    for shard in &at_work {
        simulation::spawn(keep_sending(Rc::clone(shard), case.mail_bytes, Rc::clone(&over)));
        let (shard, left) = (Rc::clone(shard), Rc::clone(&left));
        simulation::spawn(async move {
            fail_all(shard, case, most.unwrap_or(usize::MAX)).await;
            left.set(left.get() - 1);
        });
    }
    while left.get() > 0 {
        ring::sleep(Duration::from_secs(1)).await;
    }
    over.set(true);
    if most.is_some() {
        return;
    }
    for shard in &at_work {
        let reports: Vec<u64> = known.reports.borrow().keys().copied().collect();
        for report in reports {
            if shard.queue.0.borrow().contains_key(&report) {
                shard.deliver(report);
            }
        }
        let staying: Vec<u64> = shard.queue.0.borrow().keys().copied().collect();
        assert!(staying.iter().all(|id| known.staying.borrow().contains(id)), "{case:?}");
        for id in staying {
            shard.end(id, &RecipientStatus::Delivered);
        }
        ring::sleep(Duration::from_secs(60)).await;
        for _ in 0..100 {
            shard.put(shard.spool.draft(), case.mail_bytes).await.unwrap();
        }
    }
}

fn empties(case: Case) {
    let mut disk = Disk::new(1);
    disk.capacity = (12 << 20) * u64::from(case.shards);
    let known: Rc<Known> = Rc::default();
    let filling = Rc::clone(&known);
    let mut disk = life(disk, async move || {
        let mut shards = Vec::new();
        for number in 0..case.shards {
            shards.push(Shard::open(number, &filling).await.0);
        }
        for shard in &shards {
            shard.begin();
            let mut count = 0;
            while let Ok(id) = shard.put(shard.spool.draft(), case.mail_bytes).await {
                count += 1;
                let stays = match case.oldest_stay {
                    true => count < (5 << 20) / case.mail_bytes as u64,
                    false => count % case.one_in_stays == 0,
                };
                let all = if stays { &filling.staying } else { &filling.failing };
                all.borrow_mut().insert(id);
            }
            assert!(count > 100, "{count}");
            shard.spool.sync().await.unwrap();
        }
    });
    let part = known.failing.borrow().len() / (case.kills + 1) / usize::from(case.shards);
    for _ in 0..case.kills {
        let known = Rc::clone(&known);
        disk = life(disk, async move || live_on(known, case, Some(part)).await);
    }
    let last = Rc::clone(&known);
    life(disk, async move || live_on(last, case, None).await);
    assert!(known.failing.borrow().is_empty(), "{case:?}");
}

#[test]
fn a_full_disk_of_mail_that_can_only_fail_empties_itself() {
    let case = Case {
        shards: 1,
        order: Order::OldestFirst,
        mail_bytes: 2000,
        report_bytes: 2500,
        one_in_stays: u64::MAX,
        oldest_stay: false,
        reports_go: true,
        kills: 0,
    };
    for order in [Order::OldestFirst, Order::NewestFirst, Order::Any] {
        empties(Case { order, ..case });
        empties(Case { order, one_in_stays: 3, ..case });
        empties(Case { order, oldest_stay: true, ..case });
        empties(Case { order, shards: 2, ..case });
        empties(Case { order, kills: 3, ..case });
        empties(Case { order, mail_bytes: 30_000, reports_go: false, ..case });
        empties(Case { order, mail_bytes: 500, one_in_stays: 5, ..case });
        empties(Case { order, shards: 2, oldest_stay: true, kills: 2, ..case });
    }
}
