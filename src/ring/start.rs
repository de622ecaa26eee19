//! Starting the shards, and waiting for their end.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};

use super::start_error::StartError;
use super::task::{Contained, Lane, panic_message};
use super::watchdog::Watchdog;
use super::{deadline, probe, task, watchdog};

/// Registered buffers of one shard: the minimum of the driver. They are for direct I/O only, which
/// the relay does not use, and count three times against locked memory.
const IO_MEMORY: usize = 64 * 1024;
/// Below this a shard would do nothing but handle its preempt timer.
const PREEMPT_MIN: Duration = Duration::from_micros(100);

/// How the rings are set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Entries of each submission ring; a power of two, 8 to 32,768.
    pub depth: usize,
    /// A busy shard checks its rings at least this often; the minimum is 0.1 ms.
    pub preempt: Duration,
}

/// The running shards.
pub struct Shards {
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Shards {
    /// Whether a shard has ended: with its body, or by a fault. [`Shards::join`] gives the reason,
    /// but only when all have ended.
    pub fn any_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Whether all have ended: then [`Shards::join`] does not wait.
    pub fn all_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits until every shard's body has ended; `Err` names a shard that panicked.
    pub fn join(self) -> Result<(), Vec<String>> {
        let mut faults = Vec::new();
        for (shard, thread) in self.threads.into_iter().enumerate() {
            let ended =
                thread.join().unwrap_or_else(|payload| Err(panic_message(payload.as_ref())));
            if let Err(message) = ended {
                faults.push(format!("shard {shard} panicked: {message}"));
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// Starts one executor for each entry of `cpus` (pinned when `Some`), runs `body(index)` on each,
/// and returns when all rings exist and every body was polled once.
///
/// No body runs before all rings exist. If one panics when first polled, the others are left
/// running: the caller is expected to end the process. When a body ends, so do all tasks of its
/// shard.
pub fn start<F, Fut>(
    cpus: &[Option<usize>],
    settings: &Settings,
    body: F,
) -> Result<Shards, StartError>
where
    F: Fn(usize) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let allowed = check(cpus, settings)?;
    // A file beyond RLIMIT_FSIZE is an error of the write, and must not kill the process.
    // SAFETY: to ignore a signal installs no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let (reports, reported) = crossbeam_channel::unbounded();
    let (release, released) = crossbeam_channel::bounded(cpus.len());
    let mut threads = Vec::with_capacity(cpus.len());
    let hearts: Vec<Arc<Watchdog>> = cpus.iter().map(|_| Arc::default()).collect();
    for (index, (&cpu, watchdog)) in cpus.iter().zip(&hearts).enumerate() {
        let shard = Shard {
            index,
            cpu,
            shards: cpus.len(),
            allowed: allowed.clone(),
            settings: settings.clone(),
            reports: reports.clone(),
            released: released.clone(),
            watchdog: Arc::clone(watchdog),
        };
        let body = body.clone();
        let thread = std::thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(move || shard.run(body))
            // The threads started so far end when `release` is dropped.
            .map_err(|error| StartError::Thread { shard: index, error })?;
        threads.push(thread);
    }
    drop((reports, released));
    watchdog::watch(&hearts).map_err(|error| StartError::Thread { shard: 0, error })?;
    drop(hearts);
    // First all rings, then all bodies.
    collect(&reported, threads.len())?;
    for _ in &threads {
        // The channel has room for all, and a thread that has ended has reported why.
        let _ = release.try_send(());
    }
    collect(&reported, threads.len())?;
    Ok(Shards { threads })
}

/// Waits for one report of each shard.
fn collect(reported: &Receiver<Result<(), StartError>>, shards: usize) -> Result<(), StartError> {
    for _ in 0..shards {
        // Every thread reports; if its sender is gone, that is a fault of the driver.
        reported.recv().unwrap_or_else(|_| {
            Err(StartError::Unavailable("a shard ended while it started".to_owned()))
        })?;
    }
    Ok(())
}

/// Checks what can be checked before a thread starts; returns the CPUs that the process may use.
fn check(cpus: &[Option<usize>], settings: &Settings) -> Result<Vec<usize>, StartError> {
    if cpus.is_empty() {
        return Err(StartError::Settings("no shard is configured".to_owned()));
    }
    if !(probe::DEPTH_MIN..=probe::DEPTH_MAX).contains(&settings.depth)
        || !settings.depth.is_power_of_two()
    {
        return Err(StartError::Settings(format!(
            "a ring cannot have a depth of {}: it must be a power of two from {} to {}",
            settings.depth,
            probe::DEPTH_MIN,
            probe::DEPTH_MAX
        )));
    }
    let allowed = probe::allowed_cpus()
        .map_err(|error| StartError::Settings(format!("the CPU mask cannot be read: {error}")))?;
    for (shard, cpu) in cpus.iter().enumerate() {
        if let &Some(cpu) = cpu
            && !allowed.contains(&cpu)
        {
            return Err(StartError::Cpu { shard, cpu, allowed: ranges(&allowed) });
        }
    }
    probe::check(cpus.len(), settings.depth)?;
    Ok(allowed)
}

/// The parameters of a shard's thread.
struct Shard {
    index: usize,
    cpu: Option<usize>,
    /// Number of shards.
    shards: usize,
    /// CPUs that the process may use.
    allowed: Vec<usize>,
    settings: Settings,
    reports: Sender<Result<(), StartError>>,
    released: Receiver<()>,
    watchdog: Arc<Watchdog>,
}

impl Shard {
    /// Runs a shard's thread. `Err` is the text of a panic.
    fn run<F, Fut>(self, body: F) -> Result<(), String>
    where
        F: Fn(usize) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let executor = match self.executor() {
            Ok(executor) => executor,
            Err(error) => {
                let _ = self.reports.send(Err(error));
                return Ok(());
            }
        };
        let _ = self.reports.send(Ok(()));
        if self.released.recv().is_err() {
            return Ok(());
        }
        let index = self.index;
        self.watchdog.begin();
        let life = live(self, Contained::new(async move { body(index).await }));
        match catch_unwind(AssertUnwindSafe(|| executor.run(life))) {
            Ok((outcome, true)) => outcome,
            // The kernel may still use its memory: it is kept until the process ends.
            Ok((outcome, false)) => {
                tracing::error!(shard = index, "operations in flight outlive their shard");
                std::mem::forget(executor);
                outcome
            }
            Err(payload) => {
                std::mem::forget(executor);
                let message = message(payload);
                tracing::error!(shard = index, message, "the driver of a shard panicked");
                Err(message)
            }
        }
    }

    /// An executor on this thread, pinned before it allocates memory.
    fn executor(&self) -> Result<LocalExecutor, StartError> {
        if let Some(cpu) = self.cpu {
            probe::pin(&[cpu]).map_err(|_| StartError::Cpu {
                shard: self.index,
                cpu,
                allowed: ranges(&self.allowed),
            })?;
        }
        let make = || {
            LocalExecutorBuilder::new(Placement::Unbound)
                .io_memory(IO_MEMORY)
                .ring_depth(self.settings.depth)
                .preempt_timer(self.settings.preempt.max(PREEMPT_MIN))
                .make()
        };
        match catch_unwind(AssertUnwindSafe(make)) {
            Ok(Ok(executor)) => Ok(executor),
            Ok(Err(error)) => {
                Err(probe::ring_error(error.into(), self.shards, self.settings.depth))
            }
            Err(payload) => {
                Err(StartError::Panicked { shard: self.index, message: message(payload) })
            }
        }
    }
}

/// Runs the body on a shard's executor, with the tasks that the driver needs. Returns the outcome
/// of the body, and whether the executor may be dropped.
async fn live(shard: Shard, mut body: Contained) -> (Result<(), String>, bool) {
    // Its beats are set before there is any other task that could be left sleeping.
    let mut ticker = deadline::Ticker::new(Arc::clone(&shard.watchdog));
    poll_fn(|context| Poll::Ready(ticker.look(context))).await;
    task::spawn("deadline ticker", ticker.run());
    let mut first = true;
    let outcome = poll_fn(|context| {
        let poll = match task::vital_fault(context.waker()) {
            Some(message) => Poll::Ready(Err(message)),
            None => Pin::new(&mut body).poll(context),
        };
        if std::mem::take(&mut first) {
            let report = match &poll {
                Poll::Ready(Err(message)) => {
                    Err(StartError::Panicked { shard: shard.index, message: message.clone() })
                }
                _ => Ok(()),
            };
            let _ = shard.reports.send(report);
        }
        poll
    });
    // The thread for blocking work inherits the pinning; it must not use the shard's CPU.
    if shard.cpu.is_some() {
        let allowed = shard.allowed.clone();
        task::spawn_to_the_end(
            Lane::Work,
            glommio::executor().spawn_blocking(move || {
                let _ = probe::pin(&allowed);
            }),
        );
    }
    let outcome = outcome.await;
    if let Err(message) = &outcome {
        tracing::error!(shard = shard.index, message, "a shard panicked");
    }
    drop(body);
    let done = task::end_all().await;
    (outcome, done)
}

fn message(payload: Box<dyn Any + Send>) -> String {
    panic_message(payload.as_ref())
}

/// `0-3,8` for 0, 1, 2, 3 and 8.
fn ranges(cpus: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => parts.push((cpu, cpu)),
        }
    }
    let part = |(first, last): (usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    parts.into_iter().map(part).collect::<Vec<_>>().join(",")
}
