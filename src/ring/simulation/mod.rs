//! The simulated ring, for unit tests: tasks, timers, a disk and a network on one thread, all from
//! one seed. While a [`Simulation`] is entered, `spawn`, `sleep`, `now`, `File`, the plain calls of
//! `disk`, `Stream`, `Listener` and `Udp` go to it instead of the driver, so that the modules above
//! run unchanged. It must not know mail.
//!
//! Runnable tasks are polled in random order. The clock stands still while there are any, and then
//! jumps to the next timer or packet. A task belongs to a host of the network: the program under
//! test runs on the first, and its peers are tasks on others ([`Simulation::spawn_on`]). What a
//! task spawns is on the same host. Simulations may be nested: a crash is examined in a separate
//! one.
//!
//! | file | is |
//! | --- | --- |
//! | `plain`, `socket` | the calls that `ring` makes of the system and the driver: real or simulated |
//! | `disk` | the simulated disk |
//! | `net` | the simulated network, as a test sees it |
//! | `hosts` | its machines and links, and what is on its way |
//! | `tcp`, `udp` | connections and datagrams |
//! | `trace` | what happened, as one number |
//!
//! Not simulated are threads: `ring::start`, and the threads that hash passwords, that ask about
//! tokens and that write events.

#![allow(clippy::unwrap_used)]

pub(crate) mod disk;
mod hosts;
pub(crate) mod net;
pub(super) mod plain;
pub(super) mod socket;
mod tcp;
mod tests;
mod trace;
mod udp;

pub(crate) use hosts::{Link, Reach, SELF, SELF_IPV4, SELF_IPV6};
pub(crate) use socket::Datagrams;
pub(crate) use trace::Trace;

use crate::timestamp::Timestamp;
use disk::Disk;
use net::Net;
use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
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

/// Makes the seed of the network of that of the tasks.
const NET_SEED: u64 = 0x5dee_ce66_d1ce_cafe;
/// One in so many calls that may give way does.
const GIVES_WAY_ONE_IN: u32 = 8;
/// Polls and turns of the clock that [`run`] allows.
const STEPS_MAX: u64 = 20_000_000;

type Job = Pin<Box<dyn Future<Output = ()>>>;

/// A task, and the host on which it runs.
struct Task {
    job: Job,
    waker: Waker,
    host: usize,
}

/// One process on one simulated machine, with a network around it.
pub(crate) struct Simulation {
    /// The disk on which it runs.
    pub(crate) disk: RefCell<Disk>,
    net: net::Shared,
    random: RefCell<fastrand::Rng>,
    tasks: RefCell<Vec<Option<Task>>>,
    /// The host of the task that is polled.
    host: Cell<usize>,
    ready: Arc<Mutex<Vec<usize>>>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    timers_set: Cell<u64>,
    now_us: Rc<Cell<u64>>,
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
        let now_us = Rc::new(Cell::new(now_us));
        Rc::new(Simulation {
            disk: RefCell::new(disk),
            net: Net::new(seed ^ NET_SEED, Rc::clone(&now_us)),
            host: Cell::new(SELF),
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            tasks: RefCell::default(),
            ready: Arc::default(),
            timers: RefCell::default(),
            timers_set: Cell::new(0),
            now_us,
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
        let Some(task) = task else { return self.pass_time() };
        self.net.borrow_mut().note("task", &[self.now_us(), task as u64]);
        let taken = self.tasks.borrow_mut().get_mut(task).and_then(Option::take);
        if let Some(mut taken) = taken {
            self.host.set(taken.host);
            self.enter(|| match taken.job.as_mut().poll(&mut Context::from_waker(&taken.waker)) {
                Poll::Pending => self.tasks.borrow_mut()[task] = Some(taken),
                Poll::Ready(()) => drop(taken),
            });
            self.host.set(SELF);
        }
        true
    }

    /// Moves the clock to the next packet or timer. False when there is none.
    fn pass_time(&self) -> bool {
        let packet = self.net.borrow().next_at();
        let timer = self.timers.borrow().first_key_value().map(|((at, _), _)| *at);
        let Some(at) = packet.into_iter().chain(timer).min() else { return false };
        self.now_us.set(self.now_us.get().max(at));
        if packet == Some(at) {
            self.net.borrow_mut().step();
        } else if let Some((_, waker)) = self.timers.borrow_mut().pop_first() {
            waker.wake();
        }
        true
    }

    /// The network.
    pub(crate) fn net(&self) -> RefMut<'_, Net> {
        self.net.borrow_mut()
    }

    /// Runs `job` on `host`. A panic in it is a panic of the step.
    pub(crate) fn spawn_on(&self, host: usize, job: impl Future<Output = ()> + 'static) {
        self.spawn(host, Box::pin(job));
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

    fn spawn(&self, host: usize, job: Job) {
        let mut tasks = self.tasks.borrow_mut();
        let task = tasks.len();
        let ready = Arc::clone(&self.ready);
        let waker: Waker = Arc::new(TaskWaker { task, ready }).into();
        waker.wake_by_ref();
        tasks.push(Some(Task { job, waker, host }));
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

/// The host of the task that runs.
fn current_host() -> usize {
    current().map_or(SELF, |simulation| simulation.host.get())
}

/// Runs `body` in a simulation to its end, then ends all other tasks; what happened. `set_up` adds
/// hosts and their tasks before it begins.
pub(crate) fn run(
    seed: u64,
    set_up: impl FnOnce(&Simulation),
    body: impl Future<Output = ()> + 'static,
) -> Trace {
    let simulation = Simulation::new(seed, Disk::new(seed), 0, 0);
    let over = Rc::new(Cell::new(false));
    let ends = Rc::clone(&over);
    let ran = run_watched(|| {
        simulation.enter(|| set_up(&simulation));
        simulation.spawn_on(SELF, async move {
            body.await;
            ends.set(true);
        });
        for step in 0.. {
            if over.get() {
                break;
            }
            assert!(step < STEPS_MAX, "seed {seed}: no end");
            assert!(simulation.step(), "seed {seed}: nothing happens any more");
        }
    });
    let trace = simulation.net().trace();
    simulation.end();
    assert!(ran.is_ok(), "seed {seed} failed");
    trace
}

/// The seeds that a test runs: `fixed` ones, and `RINGPOST_SIM_SEEDS` fresh ones from
/// `RINGPOST_SIM_FROM` on; or `RINGPOST_SIM_SEED` alone.
pub(crate) fn seeds(fixed: impl Iterator<Item = u64>) -> Vec<u64> {
    let number = |name: &str| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    if let Some(seed) = number("RINGPOST_SIM_SEED") {
        return vec![seed];
    }
    let first = number("RINGPOST_SIM_FROM").unwrap_or_else(|| super::wall_clock().0);
    let fresh = number("RINGPOST_SIM_SEEDS").unwrap_or(0);
    println!("fresh seeds: {fresh} from {first}");
    fixed.chain(first..first + fresh).collect()
}

thread_local! {
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `act`. An error if there was a panic, even if some task contained it.
pub(crate) fn run_watched(act: impl FnOnce()) -> Result<(), ()> {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let _ = PANICKED.try_with(|panicked| panicked.set(true));
            before(info);
        }));
    });
    PANICKED.set(false);
    let ended = catch_unwind(AssertUnwindSafe(act)).is_ok();
    if ended && !PANICKED.get() { Ok(()) } else { Err(()) }
}

/// Lets other tasks run, now and then.
pub(super) async fn give_way() {
    let gives_way =
        current().is_some_and(|simulation| simulation.net.borrow_mut().draws(GIVES_WAY_ONE_IN));
    if gives_way {
        futures_lite::future::yield_now().await;
    }
}

/// Runs `job` in the simulation that this thread is in. A panic in it is a panic of the step.
pub(crate) fn spawn(job: impl Future<Output = ()> + 'static) {
    if let Some(simulation) = current() {
        simulation.spawn(simulation.host.get(), Box::pin(job));
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
