//! Tasks of a shard: a panic ends only its task, and all tasks end before their executor.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use glommio::{Latency, Shares, TaskQueueHandle};

use super::timer::ONE_TURN;

/// Longest wait for operations in flight when a shard's body ends.
const FINISH_WITHIN: Duration = Duration::from_secs(5);
/// How often such operations are checked.
const FINISH_LOOK: Duration = Duration::from_millis(1);
/// Turns that tasks get to end after a shard's body has ended. One is enough for a task that does
/// not wait for others.
const END_TURNS_MAX: usize = 1000;

thread_local! {
    static REGISTRY: RefCell<TaskRegistry> = RefCell::default();
}

/// Polls of a task of [`spawn_ahead`] in the lane for arrivals: a client has its greeting after
/// one, or after two when the first gave way.
const POLLS_AHEAD: u32 = 2;

/// Which of a shard's two queues of runnable tasks a task stands in. While both have some, each has
/// half of the CPU, in turns of [`Settings::preempt`](super::Settings::preempt).
///
/// With one queue a new client would wait for every lookup and connection that is runnable before
/// each step until its greeting: tens of milliseconds while thousands of sites are tried. All of a
/// session in the first queue would be worse: less mail would share a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Accepting connections, and the first steps with a client.
    Arrivals,
    /// All else.
    Work,
}

/// The tasks of this shard.
#[derive(Default)]
struct TaskRegistry {
    /// The driver's queue for [`Lane::Arrivals`], once it is used.
    arrivals: Option<TaskQueueHandle>,
    /// The waker of each task that was polled and has not ended, for the end of the shard.
    wakers: Vec<Option<Waker>>,
    /// Free places in `wakers`.
    free: Vec<usize>,
    /// Tasks spawned and not ended.
    tasks: usize,
    /// Operations begun by [`to_the_end`] and not ended.
    unfinished: usize,
    /// The shard's body has ended: tasks end when next polled.
    ending: bool,
    /// The panic of a vital task.
    fault: Option<String>,
    /// The waker of the task that runs the body.
    fault_waiter: Option<Waker>,
}

/// Runs `future` on this shard, not before the caller yields. A panic ends only this task, and is
/// logged with `name`. If it still runs when the shard's body ends, it is dropped.
///
/// Must be called on a shard.
pub fn spawn(name: &'static str, future: impl Future<Output = ()> + 'static) {
    with_registry(|registry| registry.tasks += 1);
    schedule(Lane::Work, Task::new(name, Contained::new(future)));
}

/// The same for a task that begins ahead of those that are runnable already; after its first steps
/// it is one of them.
pub fn spawn_ahead(name: &'static str, future: impl Future<Output = ()> + 'static) {
    with_registry(|registry| registry.tasks += 1);
    let mut task = Task::new(name, Contained::new(future));
    task.polls_ahead = Some(POLLS_AHEAD);
    schedule(Lane::Arrivals, task);
}

/// The same for a task that the shard cannot do without: a panic in it ends the shard's body, and
/// `Shards::join` names it. Without it, the shard might accept mail and not deliver it; the end of
/// a shard is noticed, and the relay is restarted.
pub fn spawn_vital(name: &'static str, future: impl Future<Output = ()> + 'static) {
    spawn(name, vital(name, future));
}

/// The same for a task that is ahead of all others at each of its steps: they must be few and
/// short.
pub fn spawn_vital_ahead(name: &'static str, future: impl Future<Output = ()> + 'static) {
    with_registry(|registry| registry.tasks += 1);
    schedule(Lane::Arrivals, Task::new(name, Contained::new(vital(name, future))));
}

async fn vital(name: &'static str, future: impl Future<Output = ()> + 'static) {
    let Err(message) = Contained::new(future).await else { return };
    let waiter = with_registry(|registry| {
        registry.fault.get_or_insert_with(|| format!("task '{name}': {message}"));
        registry.fault_waiter.take()
    });
    if let Some(waiter) = waiter {
        waiter.wake();
    }
}

/// The panic of a vital task; when there is none yet, `waker` is woken when there is.
pub(super) fn vital_fault(waker: &Waker) -> Option<String> {
    with_registry(|registry| {
        if registry.fault.is_none() {
            keep_waker(&mut registry.fault_waiter, waker);
        }
        registry.fault.clone()
    })
}

/// Completes `operation` even if the caller stops waiting for its output, or the shard's body ends:
/// for operations in which the kernel uses our memory, and those that must not be left half done.
pub(super) async fn to_the_end<T: 'static>(
    operation: impl Future<Output = T> + 'static,
) -> io::Result<T> {
    let handover = Rc::new(Handover { output: Cell::new(None), waiter: RefCell::new(None) });
    let far_end = Rc::clone(&handover);
    with_registry(|registry| registry.unfinished += 1);
    schedule(Lane::Work, async move {
        let output = Rc::clone(&far_end);
        let contained = Contained::new(async move {
            let value = operation.await;
            output.output.set(Some(Ok(value)));
        });
        if let Err(message) = contained.await {
            let message = format!("an operation of the driver panicked: {message}");
            far_end.output.set(Some(Err(io::Error::other(message))));
        }
        with_registry(|registry| registry.unfinished = registry.unfinished.saturating_sub(1));
        let waiter = far_end.waiter.take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    });
    poll_fn(|context| match handover.output.take() {
        Some(output) => Poll::Ready(output),
        None => {
            keep_waker(&mut handover.waiter.borrow_mut(), context.waker());
            Poll::Pending
        }
    })
    .await
}

/// The same for a task of the driver itself that no caller waits for.
pub(super) fn spawn_to_the_end(lane: Lane, operation: impl Future<Output = ()> + 'static) {
    with_registry(|registry| registry.unfinished += 1);
    schedule(lane, async move {
        if let Err(message) = Contained::new(operation).await {
            tracing::error!(message, "a task of the driver panicked");
        }
        with_registry(|registry| registry.unfinished = registry.unfinished.saturating_sub(1));
    });
}

/// Where an operation leaves its output for its caller.
struct Handover<T> {
    output: Cell<Option<io::Result<T>>>,
    waiter: RefCell<Option<Waker>>,
}

/// Drops all tasks of this shard and waits for operations in flight. Whether none is left: if some
/// are, the executor must not be dropped, because the kernel may still use its memory.
pub(super) async fn end_all() -> bool {
    with_registry(|registry| registry.ending = true);
    for _ in 0..END_TURNS_MAX {
        let wakers: Vec<Waker> =
            with_registry(|registry| registry.wakers.iter().flatten().cloned().collect());
        if with_registry(|registry| registry.tasks) == 0 {
            break;
        }
        wakers.into_iter().for_each(Waker::wake);
        // A yield would leave the other queue waiting.
        glommio::timer::sleep(ONE_TURN).await;
    }
    let until = Instant::now() + FINISH_WITHIN;
    while with_registry(|registry| registry.unfinished) > 0 && Instant::now() < until {
        glommio::timer::sleep(FINISH_LOOK).await;
    }
    with_registry(|registry| registry.tasks == 0 && registry.unfinished == 0)
}

/// Stores `waker` in `place`, without a clone if it is there already.
pub(super) fn keep_waker(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(kept) if kept.will_wake(waker) => {}
        _ => *place = Some(waker.clone()),
    }
}

/// The text of a panic.
pub(super) fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a text".to_owned()
    }
}

/// A future whose panics, in `poll` or in its destructor, become an `Err` with their text.
pub(super) struct Contained {
    // Boxed, so that it can be dropped where a panic is caught, and so that a leftover waker holds
    // a few bytes instead of a whole session.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Contained {
    pub(super) fn new(future: impl Future<Output = ()> + 'static) -> Contained {
        Contained { future: Some(Box::pin(future)) }
    }

    /// Drops the future; the text of the panic if its destructor panics.
    fn end(&mut self) -> Result<(), String> {
        let future = self.future.take();
        catch_unwind(AssertUnwindSafe(|| drop(future)))
            .map_err(|payload| panic_message(payload.as_ref()))
    }
}

impl Future for Contained {
    type Output = Result<(), String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = self.future.as_mut() else { return Poll::Ready(Ok(())) };
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => Poll::Ready(self.end()),
            Err(payload) => {
                let message = panic_message(payload.as_ref());
                let _ = self.end();
                Poll::Ready(Err(message))
            }
        }
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// A spawned task: counted, and ended with its shard.
struct Task {
    name: &'static str,
    contained: Contained,
    /// Its index in the registry, once it was polled.
    place: Option<usize>,
    /// Polls before it goes to [`Lane::Work`], if it is to.
    polls_ahead: Option<u32>,
    ended: bool,
}

impl Task {
    fn new(name: &'static str, contained: Contained) -> Task {
        Task { name, contained, place: None, polls_ahead: None, ended: false }
    }

    /// Goes on in [`Lane::Work`] as a task of its own, which is polled there at least once.
    fn go_on_in_work(&mut self) {
        let future = self.contained.future.take();
        self.ended = true;
        drop(self.leave_place());
        schedule(Lane::Work, Task::new(self.name, Contained { future }));
    }

    fn leave_place(&mut self) -> Option<Waker> {
        with_registry(|registry| {
            let place = self.place.take()?;
            registry.free.push(place);
            registry.wakers.get_mut(place)?.take()
        })
    }

    /// Leaves the registry, and drops the future.
    fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        // First the future, while the task is still counted: it may own tasks and operations.
        if let Err(message) = self.contained.end() {
            tracing::error!(name = self.name, message, "a task panicked while it was dropped");
        }
        with_registry(|registry| registry.tasks = registry.tasks.saturating_sub(1));
        drop(self.leave_place());
    }
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let ending = with_registry(|registry| registry.ending);
        if !ending {
            if self.place.is_none() {
                self.place = Some(enter(context.waker()));
            }
            match Pin::new(&mut self.contained).poll(context) {
                Poll::Pending => {
                    let left = self.polls_ahead.map(|polls| polls.saturating_sub(1));
                    self.polls_ahead = left;
                    if left != Some(0) {
                        return Poll::Pending;
                    }
                    self.go_on_in_work();
                    return Poll::Ready(());
                }
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(message)) => {
                    tracing::error!(name = self.name, message, "a task panicked; only it ends");
                }
            }
        }
        self.end();
        Poll::Ready(())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.end();
    }
}

/// Takes a place in the registry.
fn enter(waker: &Waker) -> usize {
    let waker = Some(waker.clone());
    with_registry(|registry| {
        if let Some(place) = registry.free.pop()
            && let Some(free) = registry.wakers.get_mut(place)
        {
            *free = waker;
            return place;
        }
        registry.wakers.push(waker);
        registry.wakers.len() - 1
    })
}

/// The registry may be gone when a thread ends: then there is nothing to keep.
fn with_registry<T: Default>(act: impl FnOnce(&mut TaskRegistry) -> T) -> T {
    REGISTRY.try_with(|registry| act(&mut registry.borrow_mut())).unwrap_or_default()
}

/// Puts `future` into one of the shard's queues. Unlike `spawn_local`, `spawn_local_into` does not
/// poll it at once on the stack of the caller, which may hold a borrow that the future needs.
fn schedule(lane: Lane, future: impl Future<Output = ()> + 'static) {
    #[cfg(test)]
    if super::simulation::runs() {
        return super::simulation::spawn(future);
    }
    let queue = match lane {
        Lane::Arrivals => {
            with_registry(|registry| *registry.arrivals.get_or_insert_with(new_queue))
        }
        Lane::Work => TaskQueueHandle::default(),
    };
    match glommio::spawn_local_into(future, queue) {
        Ok(task) => drop(task.detach()),
        // The queues exist as long as the executor.
        Err(error) => tracing::error!(%error, "a task could not be queued"),
    }
}

/// A second queue, with as many shares as the default one.
fn new_queue() -> TaskQueueHandle {
    glommio::executor().create_task_queue(Shares::default(), Latency::NotImportant, "arrivals")
}
