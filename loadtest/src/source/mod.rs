//! The source: many sessions on a few threads that send messages and record what was accepted.
//!
//! Each thread has its own event loop, results and ledger handle; they share the next message
//! number and the live counters. A message is tried once: accepted, failed, or, when the connection
//! breaks after the start of its content, unknown.

mod connection;
mod session;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::cli::Load;
use crate::content::Maker;
use crate::count::Accepted;
use crate::id::Id;
use crate::progress;

/// Messages started before the time was over may still be answered for this long.
const GRACE: Duration = Duration::from_secs(5);
/// Latencies are recorded from a microsecond to this, with three digits.
const LATENCY_MICROS_MAX: u64 = 3_600_000_000;

/// Counters that all threads share and that can be read while they run.
#[derive(Debug)]
pub struct Tally {
    start: Instant,
    attempted: AtomicU64,
    accepted: AtomicU64,
    accepted_recipients: AtomicU64,
    failed: AtomicU64,
    unknown: AtomicU64,
    connections: AtomicU64,
    /// When the last 250 was received, in microseconds after `start`.
    last_micros: AtomicU64,
}

impl Tally {
    fn new() -> Self {
        let zero = AtomicU64::default;
        Self {
            start: Instant::now(),
            attempted: zero(),
            accepted: zero(),
            accepted_recipients: zero(),
            failed: zero(),
            unknown: zero(),
            connections: zero(),
            last_micros: zero(),
        }
    }

    /// Messages accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// One line of progress.
    pub fn line(&self) -> String {
        let accepted = self.accepted();
        let seconds = self.start.elapsed().as_secs_f64().max(0.001);
        format!(
            "accepted {accepted} ({:.0}/s), failed {}, unknown {}",
            accepted as f64 / seconds,
            self.failed.load(Ordering::Relaxed),
            self.unknown.load(Ordering::Relaxed),
        )
    }
}

/// The state that all sessions share.
#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    run: u32,
    maker: Maker,
    messages: u64,
    recipients: u32,
    rate: Option<f64>,
    from: String,
    verp: bool,
    domains: Vec<String>,
    pipeline: bool,
    messages_per_session: u32,
    retry_connect: bool,
    ledger: Option<PathBuf>,
    next: AtomicU64,
    deadline: Instant,
    tally: Arc<Tally>,
}

impl Shared {
    /// The number of the next message; `None` when all were started or the time is over.
    fn next(&self) -> Option<u64> {
        if Instant::now() >= self.deadline {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.messages).then_some(number)
    }

    fn done(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.messages || Instant::now() >= self.deadline
    }
}

/// The results of one thread.
#[derive(Debug)]
struct Notes {
    /// From MAIL to the 250, in microseconds.
    latency: Histogram<u64>,
    /// Failures, as `step code` or `step: cause`, with their number.
    failures: BTreeMap<String, u64>,
    /// Number and accepted recipients of each accepted message.
    accepted: Vec<(u64, u32)>,
    /// Ledger lines not yet written.
    lines: Vec<u8>,
}

impl Notes {
    fn new() -> Result<Self, String> {
        Ok(Self {
            latency: histogram()?,
            failures: BTreeMap::new(),
            accepted: Vec::new(),
            lines: Vec::new(),
        })
    }

    fn fail(&mut self, what: &str) {
        /// Kinds of failure that are counted separately: bounds the list for a relay that sends
        /// many different codes.
        const KINDS_MAX: usize = 200;
        if let Some(count) = self.failures.get_mut(what) {
            *count += 1;
        } else if self.failures.len() < KINDS_MAX {
            self.failures.insert(what.to_owned(), 1);
        } else {
            *self.failures.entry(String::from("other")).or_default() += 1;
        }
    }
}

/// A histogram of latencies in microseconds.
///
/// # Errors
/// None in practice: the bounds are fixed and good.
pub fn histogram() -> Result<Histogram<u64>, String> {
    Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3).map_err(|e| format!("histogram: {e}"))
}

/// A running source.
#[derive(Debug)]
pub struct Source {
    /// Live counters.
    pub tally: Arc<Tally>,
    /// Name of the run.
    pub run: u32,
    stop: watch::Sender<bool>,
    running: mpsc::Receiver<()>,
    threads: Vec<JoinHandle<Result<Notes, String>>>,
}

/// Starts the threads.
///
/// # Errors
/// The options contradict each other, or a thread cannot be started.
pub fn start(to: SocketAddr, load: &Load) -> Result<Source, String> {
    let run = load.run.unwrap_or_else(|| fastrand::u32(..));
    let tally = Arc::new(Tally::new());
    if let Some(path) = &load.ledger {
        // Opened here and not only in the threads, so that a wrong path is reported at once.
        crate::ledger::Ledger::open(path)?;
    }
    let shared = Arc::new(Shared {
        to,
        run,
        maker: Maker::new(load.size as usize, u64::from(run)),
        messages: load.messages,
        recipients: load.recipients,
        rate: load.rate,
        from: load.from.clone(),
        verp: load.verp,
        domains: load.domains.clone(),
        pipeline: !load.no_pipeline,
        messages_per_session: load.messages_per_session,
        retry_connect: load.retry_connect,
        ledger: load.ledger.clone(),
        next: AtomicU64::new(0),
        deadline: tally.start + load.time,
        tally: tally.clone(),
    });
    let (stop, stopped) = watch::channel(false);
    let (alive, running) = mpsc::channel(1);
    let threads = load.threads.min(load.sessions);
    let mut handles = Vec::new();
    for thread in 0..threads {
        let sessions = load.sessions / threads + u32::from(thread < load.sessions % threads);
        let (shared, stopped, alive) = (shared.clone(), stopped.clone(), alive.clone());
        let named = std::thread::Builder::new().name(format!("source-{thread}"));
        let handle = named.spawn(move || {
            let notes = work(&shared, sessions, stopped);
            drop(alive);
            notes
        });
        handles.push(handle.map_err(|e| format!("thread: {e}"))?);
    }
    Ok(Source { tally, run, stop, running, threads: handles })
}

fn work(shared: &Arc<Shared>, sessions: u32, stop: watch::Receiver<bool>) -> Result<Notes, String> {
    let hard = tokio::time::Instant::from_std(shared.deadline + GRACE);
    progress::runtime()?.block_on(session::sessions(shared, sessions, hard, stop))
}

impl Source {
    /// Returns when all sessions have ended.
    pub async fn ended(&mut self) {
        // No value is ever sent: the channel closes when the last thread ends.
        while self.running.recv().await.is_some() {}
    }

    /// Stops running sessions and returns the result.
    ///
    /// # Errors
    /// A ledger could not be written, or a thread failed.
    pub fn finish(self) -> Result<Report, String> {
        // It fails only when all threads have ended, which is the goal.
        let _ = self.stop.send(true);
        let mut latency = histogram()?;
        let mut failures = BTreeMap::new();
        let mut accepted = Accepted::new();
        for thread in self.threads {
            let notes = thread.join().map_err(|_| String::from("a source thread failed"))??;
            latency.add(&notes.latency).map_err(|e| format!("histogram: {e}"))?;
            for (what, count) in notes.failures {
                *failures.entry(what).or_default() += count;
            }
            let of_run = notes.accepted.iter().map(|(n, r)| (Id { run: self.run, number: *n }, *r));
            accepted.extend(of_run);
        }
        let tally = &self.tally;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let seconds = read(&tally.last_micros) as f64 / 1e6;
        Ok(Report {
            run: format!("{:08x}", self.run),
            attempted: read(&tally.attempted),
            accepted: read(&tally.accepted),
            accepted_recipients: read(&tally.accepted_recipients),
            failed: read(&tally.failed),
            unknown: read(&tally.unknown),
            connections: read(&tally.connections),
            seconds,
            accepted_per_second: read(&tally.accepted) as f64 / seconds.max(1e-6),
            latency: Latency::of(&latency),
            failures,
            ids: accepted,
        })
    }
}

/// Percentiles of a histogram, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Number of measurements.
    pub count: u64,
    /// Half are at most this.
    pub p50_ms: f64,
    /// 99 % are at most this.
    pub p99_ms: f64,
    /// 99.9 % are at most this.
    pub p999_ms: f64,
    /// All are at most this.
    pub max_ms: f64,
}

impl Latency {
    /// Reads a histogram of microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            count: histogram.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: histogram.max() as f64 / 1000.0,
        }
    }

    /// The result as text.
    pub fn text(&self) -> String {
        if self.count == 0 {
            return "nothing was measured".to_owned();
        }
        format!(
            "p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
            self.p50_ms, self.p99_ms, self.p999_ms, self.max_ms
        )
    }
}

/// The result of a source.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Name of the run.
    pub run: String,
    /// Messages started.
    pub attempted: u64,
    /// Messages accepted.
    pub accepted: u64,
    /// Recipients of the accepted messages.
    pub accepted_recipients: u64,
    /// Messages that were certainly not accepted.
    pub failed: u64,
    /// Messages whose connection broke before the reply: accepted or not.
    pub unknown: u64,
    /// Sessions opened.
    pub connections: u64,
    /// From the start to the last 250.
    pub seconds: f64,
    /// Messages accepted per second.
    pub accepted_per_second: f64,
    /// From MAIL to the 250.
    pub latency: Latency,
    /// Failures with their number, including connections that could not be opened.
    pub failures: BTreeMap<String, u64>,
    /// What was accepted.
    #[serde(skip)]
    pub ids: Accepted,
}

impl Report {
    /// The result as text.
    pub fn text(&self) -> String {
        let mut text = format!(
            "run       {}\nattempted {} in {} sessions\naccepted  {} ({} recipients), {:.0}/s \
             over {:.2} s\nfailed    {}\nunknown   {}\naccept    {}\n",
            self.run,
            self.attempted,
            self.connections,
            self.accepted,
            self.accepted_recipients,
            self.accepted_per_second,
            self.seconds,
            self.failed,
            self.unknown,
            self.latency.text()
        );
        for (what, count) in &self.failures {
            text.push_str(&format!("          {count} x {what}\n"));
        }
        text
    }
}
