//! Deadlines of receives and sends: one table and one ticker for each shard.
//!
//! A timer of the driver for each receive costs about a tenth of the CPU time of a small message.
//! Almost no deadline is ever reached, so each is only written down, when the wait really begins,
//! and looked at every [`TICK`]: it is kept up to that much late.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::task::keep_waker;

/// How often deadlines are looked at.
pub(super) const TICK: Duration = Duration::from_millis(100);

thread_local! {
    static TABLE: RefCell<Table> = RefCell::default();
}

#[derive(Default)]
struct Table {
    slots: Vec<Slot>,
    /// Places in `slots` that nobody uses.
    free: Vec<usize>,
    /// Slots in use.
    waits: usize,
    /// No slot has an earlier deadline: until then there is nothing to look through.
    earliest: Option<Instant>,
    /// The ticker, when it waits for a first wait.
    ticker: Option<Waker>,
}

#[derive(Default)]
struct Slot {
    /// `None` when free, when fired, and for a wait without an end.
    deadline: Option<Instant>,
    waker: Option<Waker>,
    fired: bool,
}

/// One wait with a deadline, from its start until it is dropped.
pub(super) struct Wait {
    place: usize,
}

impl Wait {
    /// Starts to wait for at most `timeout`; one beyond what the clock can hold never ends.
    pub(super) fn new(timeout: Duration) -> Wait {
        let deadline = Instant::now().checked_add(timeout);
        let (place, ticker) = with_table(|table| {
            table.waits += 1;
            table.earliest = match (table.earliest, deadline) {
                (Some(earliest), Some(deadline)) => Some(earliest.min(deadline)),
                (earliest, deadline) => earliest.or(deadline),
            };
            let slot = Slot { deadline, waker: None, fired: false };
            let place = match table.free.pop() {
                Some(place) => place,
                None => {
                    table.slots.push(Slot::default());
                    table.slots.len() - 1
                }
            };
            if let Some(free) = table.slots.get_mut(place) {
                *free = slot;
            }
            (place, table.ticker.take())
        });
        if let Some(ticker) = ticker {
            ticker.wake();
        }
        Wait { place }
    }

    /// Whether the deadline has passed; if not, `waker` is woken when it does.
    pub(super) fn poll(&self, waker: &Waker) -> bool {
        with_table(|table| match table.slots.get_mut(self.place) {
            Some(slot) if slot.fired => true,
            Some(slot) => {
                keep_waker(&mut slot.waker, waker);
                false
            }
            None => false,
        })
    }

    /// A name for [`wake`] that stays good until this wait is dropped.
    pub(super) fn place(&self) -> usize {
        self.place
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let slot = with_table(|table| {
            table.waits = table.waits.saturating_sub(1);
            table.free.push(self.place);
            table.slots.get_mut(self.place).map(std::mem::take)
        });
        drop(slot);
    }
}

/// Wakes whoever waits at `place`, before the deadline.
pub(super) fn wake(place: usize) {
    let waker = with_table(|table| table.slots.get_mut(place)?.waker.take());
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The ticker of a shard. It sleeps without a timer as long as nobody waits.
pub(super) async fn tick() {
    loop {
        poll_fn(|context| {
            with_table(|table| {
                if table.waits > 0 {
                    return Poll::Ready(());
                }
                keep_waker(&mut table.ticker, context.waker());
                Poll::Pending
            })
        })
        .await;
        glommio::timer::sleep(TICK).await;
        fire(Instant::now()).into_iter().for_each(Waker::wake);
    }
}

/// Forgets the ticker, whose executor is about to go.
pub(super) fn clear() {
    let ticker = with_table(|table| table.ticker.take());
    drop(ticker);
}

/// Marks what has passed by `now`, and gives back who waits for it.
fn fire(now: Instant) -> Vec<Waker> {
    with_table(|table| {
        if table.earliest.is_none_or(|earliest| now < earliest) {
            return Vec::new();
        }
        let mut wakers = Vec::new();
        let mut earliest: Option<Instant> = None;
        for slot in &mut table.slots {
            let Some(deadline) = slot.deadline else { continue };
            if deadline <= now {
                slot.deadline = None;
                slot.fired = true;
                wakers.extend(slot.waker.take());
            } else {
                earliest = Some(earliest.map_or(deadline, |earliest| earliest.min(deadline)));
            }
        }
        table.earliest = earliest;
        wakers
    })
}

/// Wakers are neither woken nor dropped inside: both may run code that comes back here.
fn with_table<T>(act: impl FnOnce(&mut Table) -> T) -> T {
    TABLE.with(|table| act(&mut table.borrow_mut()))
}
