//! What has arrived at the sink: one entry for each recipient of each message.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::count::PairCounts;
use crate::id::Pair;
use crate::source::{Latency, histogram};

/// Number of parts with separate locks, so that threads rarely wait for each other.
const PARTS: usize = 64;
/// Largest number of entries: about 1 GB. Further arrivals are counted but not distinguished.
pub const PAIRS_MAX: u64 = 20_000_000;

/// What has arrived.
#[derive(Debug)]
pub struct Arrivals {
    start: Instant,
    parts: Vec<Mutex<PairCounts>>,
    /// From the source's first byte to the arrival, in microseconds; first arrivals only.
    latency: Mutex<Option<Histogram<u64>>>,
    /// Number of misbehaviours by `act step`.
    acts: Mutex<BTreeMap<&'static str, u64>>,
    distinct: AtomicU64,
    refused: AtomicU64,
    doubled: AtomicU64,
    corrupted: AtomicU64,
    untold: AtomicU64,
    /// Messages that are not from the source, such as bounces.
    foreign: AtomicU64,
    messages: AtomicU64,
    connections: AtomicU64,
    first_micros: AtomicU64,
    last_micros: AtomicU64,
}

impl Arrivals {
    /// Nothing yet.
    pub fn new() -> Self {
        let zero = AtomicU64::default;
        Self {
            start: Instant::now(),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            latency: Mutex::new(histogram().ok()),
            acts: Mutex::default(),
            distinct: zero(),
            refused: zero(),
            doubled: zero(),
            corrupted: zero(),
            untold: zero(),
            foreign: zero(),
            messages: zero(),
            connections: zero(),
            first_micros: AtomicU64::new(u64::MAX),
            last_micros: zero(),
        }
    }

    /// Recipients that have got their message at least once.
    pub fn distinct(&self) -> u64 {
        self.distinct.load(Ordering::Relaxed)
    }

    /// All arrivals: recipients that have got their message, and messages that are not from the
    /// source.
    pub fn arrived(&self) -> u64 {
        self.distinct() + self.foreign.load(Ordering::Relaxed)
    }

    /// Recipients whose message was accepted or refused.
    pub fn ended(&self) -> u64 {
        self.distinct() + self.refused.load(Ordering::Relaxed)
    }

    /// When the last message was accepted.
    pub fn last(&self) -> Option<Instant> {
        let micros = self.last_micros.load(Ordering::Relaxed);
        (micros > 0).then(|| self.start + std::time::Duration::from_micros(micros))
    }

    /// One line of progress.
    pub fn line(&self) -> String {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let foreign = match read(&self.foreign) {
            0 => String::new(),
            foreign => format!(", other mail {foreign}"),
        };
        format!(
            "arrived {}, refused {}, doubled {}, corrupted {}{foreign}",
            self.distinct(),
            read(&self.refused),
            read(&self.doubled),
            read(&self.corrupted)
        )
    }

    /// The results of all recipients, in one map.
    pub fn pair_counts(&self) -> PairCounts {
        self.parts.iter().flat_map(|part| lock(part).clone()).collect()
    }

    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A message was accepted.
    pub(super) fn message(&self, is_marked: bool) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.foreign.fetch_add(u64::from(!is_marked), Ordering::Relaxed);
        // Zero would mean "none yet".
        let now = (self.start.elapsed().as_micros() as u64).max(1);
        self.first_micros.fetch_min(now, Ordering::Relaxed);
        self.last_micros.fetch_max(now, Ordering::Relaxed);
    }

    /// A recipient got its message; `micros` is how long it took.
    pub(super) fn arrive(&self, pair: Pair, intact: bool, micros: Option<u64>) {
        self.corrupted.fetch_add(u64::from(!intact), Ordering::Relaxed);
        let mut part = lock(self.part(pair));
        if !part.contains_key(&pair) && self.full() {
            self.untold.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let first = part.entry(pair).or_default().arrive(intact);
        drop(part);
        if !first {
            self.doubled.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.distinct.fetch_add(1, Ordering::Relaxed);
        if let (Some(micros), Some(latency)) = (micros, lock(&self.latency).as_mut()) {
            latency.saturating_record(micros);
        }
    }

    /// A recipient was refused permanently.
    pub(super) fn refuse(&self, pair: Pair) {
        let mut part = lock(self.part(pair));
        if !part.contains_key(&pair) && self.full() {
            self.untold.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let pair_count = part.entry(pair).or_default();
        let first = !std::mem::replace(&mut pair_count.refused, true);
        self.refused.fetch_add(u64::from(first), Ordering::Relaxed);
    }

    /// The sink misbehaved in this way.
    pub(super) fn act(&self, name: &'static str) {
        *lock(&self.acts).entry(name).or_default() += 1;
    }

    fn full(&self) -> bool {
        self.ended() >= PAIRS_MAX
    }

    fn part(&self, pair: Pair) -> &Mutex<PairCounts> {
        // Successive numbers go to different parts.
        &self.parts[(pair.id.number ^ u64::from(pair.recipient)) as usize % PARTS]
    }

    /// The result.
    ///
    /// # Errors
    /// None in practice: the bounds of the histogram are fixed and good.
    pub fn report(&self) -> Result<Report, String> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let span = read(&self.last_micros).saturating_sub(read(&self.first_micros));
        let acts = lock(&self.acts).iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        Ok(Report {
            messages: read(&self.messages),
            foreign: read(&self.foreign),
            connections: read(&self.connections),
            arrived: self.distinct(),
            refused: read(&self.refused),
            doubled: read(&self.doubled),
            corrupted: read(&self.corrupted),
            untold: read(&self.untold),
            seconds: span as f64 / 1e6,
            messages_per_second: read(&self.messages) as f64 * 1e6 / span.max(1) as f64,
            latency: lock(&self.latency).as_ref().map(Latency::of).unwrap_or_default(),
            misbehaved: acts,
        })
    }
}

/// If a thread failed while it held the lock, the entries are still complete.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The result of a sink.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Messages accepted.
    pub messages: u64,
    /// Of these, mail that is not from the source, such as bounces.
    pub foreign: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Distinct recipients that got their message.
    pub arrived: u64,
    /// Distinct recipients (or, at MAIL, messages) refused permanently.
    pub refused: u64,
    /// Arrivals beyond the first.
    pub doubled: u64,
    /// Arrivals that were not intact or reached another message's recipient.
    pub corrupted: u64,
    /// Arrivals not distinguished, because the bound of the count was reached.
    pub untold: u64,
    /// From the first accepted message to the last.
    pub seconds: f64,
    /// Messages accepted per second in that time.
    pub messages_per_second: f64,
    /// From the source's first byte to the arrival.
    pub latency: Latency,
    /// Misbehaviours and how often.
    pub misbehaved: BTreeMap<String, u64>,
}

impl Report {
    /// The result as text.
    pub fn text(&self) -> String {
        // A single message has no rate.
        let rate = match self.messages {
            0 | 1 => String::new(),
            _ => format!(", {:.0}/s over {:.2} s", self.messages_per_second, self.seconds),
        };
        let other = match self.foreign {
            0 => "",
            _ => " (mail of others than `ringpost-load`, such as yours or bounces: not checked)",
        };
        let connections = if self.connections == 1 { "connection" } else { "connections" };
        let mut text = format!(
            "messages  {} in {} {connections}{rate}\narrived   {}\nrefused   {}\n\
             doubled   {}\ncorrupted {}\nother     {}{other}\nend-to-end {}\n",
            self.messages,
            self.connections,
            self.arrived,
            self.refused,
            self.doubled,
            self.corrupted,
            self.foreign,
            self.latency.text()
        );
        if self.untold > 0 {
            text.push_str(&format!("untold    {} (the count is full)\n", self.untold));
        }
        for (what, count) in &self.misbehaved {
            text.push_str(&format!("          {count} x {what}\n"));
        }
        text
    }
}
