//! The simulated ring, for unit tests: tasks, timers and a disk of one process on one thread, all
//! from one seed. While a [`Simulation`] is entered, `spawn`, `sleep`, `now`, `File` and the plain
//! calls of `disk` go to it instead of the driver, so that the modules above run unchanged. It must
//! not know mail.
//!
//! Runnable tasks are polled in random order. The clock stands still while there are any, and then
//! jumps to the next timer. Simulations may be nested: a crash is examined in a separate one.

#![allow(clippy::unwrap_used)]

pub(crate) mod disk;
pub(super) mod plain;

use crate::timestamp::Timestamp;
use disk::Disk;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

thread_local! {
    static CURRENT: RefCell<Option<Rc<Simulation>>> = const { RefCell::new(None) };
    /// Clocks of all simulations of a thread count from here.
    static BEGIN: Instant = Instant::now();
}

/// The wall clock when a simulation's time is 0.
pub(crate) const EPOCH_MS: u64 = 1_700_000_000_000;

type Job = Pin<Box<dyn Future<Output = ()>>>;

/// One process on one simulated machine.
pub(crate) struct Simulation {
    /// The disk on which it runs.
    pub(crate) disk: RefCell<Disk>,
    random: RefCell<fastrand::Rng>,
    tasks: RefCell<Vec<Option<(Job, Waker)>>>,
    ready: Arc<Mutex<Vec<usize>>>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    timers_set: Cell<u64>,
    now_us: Cell<u64>,
    /// How far the wall clock is behind [`EPOCH_MS`] plus the time that has passed.
    pub(crate) behind_ms: Cell<u64>,
    /// The longest that an operation of the disk takes, in microseconds.
    latency_us: u64,
}

struct TaskWaker {
    task: usize,
    ready: Arc<Mutex<Vec<usize>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock().unwrap();
        if !ready.contains(&self.task) {
            ready.push(self.task);
        }
    }
}

impl Simulation {
    /// A process that starts on `disk`, at `now_us` microseconds.
    pub(crate) fn new(seed: u64, disk: Disk, now_us: u64, latency_us: u64) -> Rc<Simulation> {
        Rc::new(Simulation {
            disk: RefCell::new(disk),
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            tasks: RefCell::default(),
            ready: Arc::default(),
            timers: RefCell::default(),
            timers_set: Cell::new(0),
            now_us: Cell::new(now_us),
            behind_ms: Cell::new(0),
            latency_us,
        })
    }

    /// Runs `act` inside the simulation.
    pub(crate) fn enter<T>(self: &Rc<Simulation>, act: impl FnOnce() -> T) -> T {
        let _restore = Entered(CURRENT.replace(Some(Rc::clone(self))));
        act()
    }

    /// The time, in microseconds.
    pub(crate) fn now_us(&self) -> u64 {
        self.now_us.get()
    }

    /// Polls one task, or moves the clock. False: nothing will ever happen again.
    pub(crate) fn step(self: &Rc<Simulation>) -> bool {
        let task = {
            let mut ready = self.ready.lock().unwrap();
            let any = self.random.borrow_mut().usize(..ready.len().max(1));
            if ready.is_empty() { None } else { Some(ready.swap_remove(any)) }
        };
        let Some(task) = task else {
            let Some(((at, _), waker)) = self.timers.borrow_mut().pop_first() else { return false };
            self.now_us.set(self.now_us.get().max(at));
            waker.wake();
            return true;
        };
        let taken = self.tasks.borrow_mut().get_mut(task).and_then(Option::take);
        if let Some((mut job, waker)) = taken {
            self.enter(|| match job.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Pending => self.tasks.borrow_mut()[task] = Some((job, waker)),
                Poll::Ready(()) => drop(job),
            });
        }
        true
    }

    /// Ends the process: its tasks are dropped, and anything that they do then has no effect.
    pub(crate) fn end(self: &Rc<Simulation>) {
        self.disk.borrow_mut().cut_power();
        self.enter(|| {
            // Tasks that end may spawn others.
            for _ in 0..100 {
                let all = self.tasks.take();
                if all.is_empty() {
                    return;
                }
                drop(all);
            }
        });
    }

    fn spawn(&self, job: Job) {
        let mut tasks = self.tasks.borrow_mut();
        let task = tasks.len();
        let ready = Arc::clone(&self.ready);
        let waker: Waker = Arc::new(TaskWaker { task, ready }).into();
        waker.wake_by_ref();
        tasks.push(Some((job, waker)));
    }

    async fn disk_works(&self) {
        let latency = self.random.borrow_mut().u64(..=self.latency_us);
        sleep(Duration::from_micros(latency)).await;
    }
}

struct Entered(Option<Rc<Simulation>>);

impl Drop for Entered {
    fn drop(&mut self) {
        drop(CURRENT.replace(self.0.take()));
    }
}

/// The simulation that this thread is in.
pub(crate) fn current() -> Option<Rc<Simulation>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Whether this thread is in a simulation.
pub(super) fn runs() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// Runs `job` in the simulation that this thread is in. A panic in it is a panic of the step.
pub(crate) fn spawn(job: impl Future<Output = ()> + 'static) {
    if let Some(simulation) = current() {
        simulation.spawn(Box::pin(job));
    }
}

/// Simulates the latency of the disk.
pub(super) async fn disk_works() {
    if let Some(simulation) = current() {
        simulation.disk_works().await;
    }
}

/// The time in the simulation.
pub(super) fn now() -> Instant {
    let passed = current().map_or(0, |simulation| simulation.now_us());
    BEGIN.with(|begin| *begin) + Duration::from_micros(passed)
}

/// The wall clock in the simulation.
pub(super) fn wall_clock() -> Timestamp {
    let at = current().map_or(0, |simulation| {
        (EPOCH_MS + simulation.now_us() / 1000).saturating_sub(simulation.behind_ms.get())
    });
    Timestamp(at)
}

/// Fills `bytes` from the simulation's random generator.
pub(super) fn fill(bytes: &mut [u8]) {
    if let Some(simulation) = current() {
        simulation.random.borrow_mut().fill(bytes);
    }
}

/// Sleeps by the simulation's clock.
pub(super) fn sleep(wait: Duration) -> Sleep {
    let now_us = current().map_or(0, |simulation| simulation.now_us());
    let wait_us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
    Sleep { until_us: now_us.saturating_add(wait_us), timer: None }
}

pub(super) struct Sleep {
    until_us: u64,
    timer: Option<(u64, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(simulation) = current() else { return Poll::Ready(()) };
        if simulation.now_us() >= self.until_us && self.timer.is_some() {
            return Poll::Ready(());
        }
        let until_us = self.until_us;
        let timer = *self.timer.get_or_insert_with(|| {
            let count = simulation.timers_set.get() + 1;
            simulation.timers_set.set(count);
            (until_us, count)
        });
        simulation.timers.borrow_mut().insert(timer, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let (Some(timer), Some(simulation)) = (self.timer, current()) {
            simulation.timers.borrow_mut().remove(&timer);
        }
    }
}
