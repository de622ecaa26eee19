//! `run`: source and sink in one process, the relay between them, and the exact count.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::count::{self, Totals};
use crate::process::{self, Usage};
use crate::progress::{self, Progress, Signals};
use crate::sink::Sink;
use crate::source::Source;
use crate::{cli, sink, source};

/// How long to wait for second copies after all messages have arrived.
const SETTLE: Duration = Duration::from_millis(300);
/// Largest number of lost ids that are listed.
const SHOW: usize = 20;

/// The result of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The result of the source.
    pub source: source::Report,
    /// The result of the sink.
    pub sink: sink::Report,
    /// The comparison.
    pub count: Totals,
    /// Recipients delivered per second, from the start of the source to the last arrival.
    pub delivered_per_second: f64,
    /// The resource usage of the relay, if its process id was given.
    pub relay: Option<Relay>,
}

/// The resource usage of the relay in the run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Relay {
    /// User and system time of all its threads and children.
    pub cpu_seconds: f64,
    /// The same for 1000 accepted messages.
    pub cpu_seconds_per_1000: f64,
    /// Largest resident memory since it started.
    pub peak_rss_bytes: u64,
}

impl Report {
    /// The result as text.
    pub fn text(&self) -> String {
        let mut text = format!("source\n{}sink\n{}count\n", self.source.text(), self.sink.text());
        text.push_str(&self.count.text());
        text.push_str(&format!("delivered {:.0}/s\n", self.delivered_per_second));
        if let Some(relay) = &self.relay {
            text.push_str(&format!(
                "relay     {:.2} s CPU, {:.3} s per 1000 messages, peak memory {:.1} MiB\n",
                relay.cpu_seconds,
                relay.cpu_seconds_per_1000,
                relay.peak_rss_bytes as f64 / 1_048_576.0
            ));
        }
        text
    }
}

/// Runs the command; true if nothing was lost or corrupted.
///
/// # Errors
/// The load could not be generated: no relay, a port in use, a ledger that cannot be written.
pub fn run(options: cli::Run) -> Result<bool, String> {
    let (json, report) = (options.load.json, account(options)?);
    crate::print_report(json, &report, &report.text())?;
    Ok(report.count.good())
}

/// Runs without printing.
///
/// # Errors
/// As [`run`].
pub fn account(mut options: cli::Run) -> Result<Report, String> {
    let load = &mut options.load;
    // A refused sender can only be attributed to its message if it has the id.
    load.verp |= options.behaviour.refuse.iter().any(|r| r.step == crate::misbehave::Step::Mail);
    if load.messages.saturating_mul(u64::from(load.recipients)) > sink::PAIRS_MAX {
        return Err(format!(
            "--messages times --recipients is over {}, the most that can be distinguished",
            sink::PAIRS_MAX
        ));
    }
    let before = options.pid.map(process::usage).transpose()?;
    let sink = sink::start(options.sink, &options.behaviour, options.arrived_ledger.as_deref())?;
    let start = Instant::now();
    let source = source::start(options.relay, load)?;
    let (source, totals) = progress::runtime()?.block_on(watch(source, &sink, &options))?;
    let after = options.pid.map(process::usage).transpose()?;
    let last = sink.arrivals.last();
    let sink = sink.stop()?;
    if source.attempted == 0 {
        return Err(format!("no session could be opened to {}", options.relay));
    }
    let seconds = last.map_or(0.0, |last| last.duration_since(start).as_secs_f64());
    Ok(Report {
        delivered_per_second: sink.arrived as f64 / seconds.max(1e-6),
        relay: before.zip(after).map(|(b, a)| relay(&b, &a, source.accepted)),
        count: totals,
        source,
        sink,
    })
}

fn relay(before: &Usage, after: &Usage, accepted: u64) -> Relay {
    let cpu_seconds = (after.cpu_seconds - before.cpu_seconds).max(0.0);
    Relay {
        cpu_seconds,
        cpu_seconds_per_1000: cpu_seconds * 1000.0 / accepted.max(1) as f64,
        peak_rss_bytes: after.peak_rss_bytes,
    }
}

/// Waits for the source, then for the arrivals, at most as long as `--drain` says.
async fn watch(
    mut source: Source,
    sink: &Sink,
    options: &cli::Run,
) -> Result<(source::Report, Totals), String> {
    let tally = source.tally.clone();
    let mut bar = Progress::new(options.load.quiet, options.load.messages);
    let mut signals = Signals::listen()?;
    let line = || format!("{} | {}", tally.line(), sink.arrivals.line());
    let mut stopped = false;
    loop {
        tokio::select! {
            () = source.ended() => break,
            () = signals.stop() => { stopped = true; break }
            () = bar.tick() => bar.show(tally.accepted(), &line()),
        }
    }
    let source = source.finish()?;
    let end = tokio::time::Instant::now() + options.drain;
    // The comparison takes about a microsecond a recipient, and the relay may need the core.
    let rest = Duration::from_millis(20) + Duration::from_micros(source.accepted_recipients);
    let mut look = tokio::time::interval(rest);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !stopped && tokio::time::Instant::now() < end {
        // The exact comparison is expensive: it is only done when the plain numbers suggest that
        // all have arrived. Refusals at MAIL count once for all recipients, so with them the
        // numbers may stay lower.
        let enough = sink.arrivals.ended() >= source.accepted_recipients || options.load.verp;
        if enough && count::judge(&source.ids, &sink.arrivals.pair_counts(), 0).lost == 0 {
            tokio::time::sleep(SETTLE).await;
            break;
        }
        tokio::select! {
            _ = look.tick() => {}
            () = signals.stop() => stopped = true,
            () = bar.tick() => bar.show(tally.accepted(), &line()),
        }
    }
    bar.clear();
    let totals = count::judge(&source.ids, &sink.arrivals.pair_counts(), SHOW);
    Ok((source, totals))
}
