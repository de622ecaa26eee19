//! Deadlines of receives and sends, and the heartbeat of a shard: one table and one ticker each.
//!
//! A timer of the driver for each receive costs about a tenth of the CPU time of a small message.
//! Almost no deadline is ever reached, so each is only noted when the wait really begins, and
//! checked at each [`BEAT`]: it may be late by that much, plus one turn of the shard.
//!
//! The ticker never rests, because the driver needs a heartbeat. If its preempt timer fires before
//! the first task runs (the thread was off its CPU for that long), it takes "no task was run" for
//! "no task is runnable", and sleeps with a full queue until the next event. The beats are such
//! events. Several are set ahead, because the ticker itself may be one of the tasks in the queue;
//! and one for each second of the next minute, because on a host with busy CPUs this happens
//! several times in a row. They are set before anything else runs.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use glommio::timer::Timer;

#[cfg(test)]
use super::simulation;
use super::task::keep_waker;
use super::watchdog::Watchdog;

/// How often deadlines are checked, and how long a shard may sleep although tasks are runnable.
const BEAT: Duration = Duration::from_millis(25);
/// Beats that are set ahead.
const BEATS_AHEAD: usize = 4;
/// The slower beat. A shard can sleep on only if all beats set ahead, fast and slow, have passed
/// before the ticker runs.
const SLOW_BEAT: Duration = Duration::from_secs(1);
const SLOW_BEATS_AHEAD: usize = 60;

thread_local! {
    static TABLE: RefCell<Table> = RefCell::default();
}

#[derive(Default)]
struct Table {
    slots: Vec<Slot>,
    /// Places in `slots` that are not in use.
    free: Vec<usize>,
    /// No slot has an earlier deadline: until then no slot needs to be checked.
    earliest: Option<Instant>,
}

#[derive(Default)]
struct Slot {
    /// `None` when free, when fired, and for a wait without a deadline.
    deadline: Option<Instant>,
    waker: Option<Waker>,
    fired: bool,
}

/// One wait with a deadline, from its start until it is dropped.
pub(super) struct Wait {
    place: usize,
    /// The deadline by the clock of a simulation; the table then has none.
    #[cfg(test)]
    simulated: Option<RefCell<simulation::Sleep>>,
}

impl Wait {
    /// Starts to wait for at most `timeout`; if that is beyond the range of the clock, for ever.
    pub(super) fn new(timeout: Duration) -> Wait {
        let deadline = Instant::now().checked_add(timeout);
        #[cfg(test)]
        let simulated = simulation::runs().then(|| RefCell::new(simulation::sleep(timeout)));
        #[cfg(test)]
        let deadline = deadline.filter(|_| simulated.is_none());
        let place = with_table(|table| {
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
            place
        });
        Wait {
            place,
            #[cfg(test)]
            simulated,
        }
    }

    /// Whether the deadline has passed; if not, `waker` is woken when it does.
    pub(super) fn poll(&self, waker: &Waker) -> bool {
        #[cfg(test)]
        if let Some(sleep) = &self.simulated
            && Pin::new(&mut *sleep.borrow_mut()).poll(&mut Context::from_waker(waker)).is_ready()
        {
            return true;
        }
        with_table(|table| match table.slots.get_mut(self.place) {
            Some(slot) if slot.fired => true,
            Some(slot) => {
                keep_waker(&mut slot.waker, waker);
                false
            }
            None => false,
        })
    }

    /// The index for [`wake`], valid until this wait is dropped.
    pub(super) fn place(&self) -> usize {
        self.place
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let slot = with_table(|table| {
            table.free.push(self.place);
            table.slots.get_mut(self.place).map(std::mem::take)
        });
        drop(slot);
    }
}

/// Wakes the task that waits at `place`, before the deadline.
pub(super) fn wake(place: usize) {
    let waker = with_table(|table| table.slots.get_mut(place)?.waker.take());
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The ticker of a shard.
pub(super) struct Ticker {
    watchdog: Arc<Watchdog>,
    beats: VecDeque<Timer>,
    slow_beats: VecDeque<Timer>,
}

impl Ticker {
    pub(super) fn new(watchdog: Arc<Watchdog>) -> Ticker {
        Ticker { watchdog, beats: VecDeque::new(), slow_beats: VecDeque::new() }
    }

    /// Sets missing beats, for the task of `context`; whether a beat has passed.
    pub(super) fn look(&mut self, context: &mut Context<'_>) -> bool {
        self.watchdog.listen(context.waker());
        look(&mut self.beats, BEATS_AHEAD, BEAT, context)
            | look(&mut self.slow_beats, SLOW_BEATS_AHEAD, SLOW_BEAT, context)
    }

    /// Ticks for as long as the shard lives.
    pub(super) async fn run(mut self) {
        loop {
            poll_fn(|context| match self.look(context) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            })
            .await;
            self.watchdog.heartbeat();
            fire(Instant::now()).into_iter().for_each(Waker::wake);
        }
    }
}

/// Whether one of `beats` has passed. Each new one is set one beat later than the last of the
/// others.
fn look(
    beats: &mut VecDeque<Timer>,
    ahead: usize,
    heartbeat: Duration,
    context: &mut Context<'_>,
) -> bool {
    beats.retain_mut(|heartbeat| Pin::new(heartbeat).poll(context).is_pending());
    let is_over = beats.len() < ahead;
    while beats.len() < ahead {
        let later = u32::try_from(beats.len()).unwrap_or_default() + 1;
        let mut timer = Timer::new(heartbeat * later);
        if Pin::new(&mut timer).poll(context).is_ready() {
            break;
        }
        beats.push_back(timer);
    }
    is_over
}

/// Marks the deadlines that have passed by `now`, and returns the wakers that wait for them.
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

/// Wakers are neither woken nor dropped inside `act`: both may run code that calls this again. The
/// table may be gone when a thread ends: then there is no task to wake.
fn with_table<T: Default>(act: impl FnOnce(&mut Table) -> T) -> T {
    TABLE.try_with(|table| act(&mut table.borrow_mut())).unwrap_or_default()
}
