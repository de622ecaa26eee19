//! The progress display: a bar on a terminal, a line each second elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The runtime of a thread: it owns its sockets and timers and shares nothing.
///
/// # Errors
/// The kernel has no free descriptors.
pub fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| format!("event loop: {e}"))
}

/// Handles SIGTERM and SIGINT: the run ends at once, with the summary.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on the signals do not end the process.
    ///
    /// # Errors
    /// The handlers cannot be set.
    pub fn listen() -> Result<Self, String> {
        let handler = |kind| signal(kind).map_err(|e| format!("signals: {e}"));
        Ok(Self {
            terminate: handler(SignalKind::terminate())?,
            interrupt: handler(SignalKind::interrupt())?,
        })
    }

    /// Returns when one of them is received.
    pub async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The bar or the lines.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    start: Instant,
    interval: tokio::time::Interval,
}

impl Progress {
    /// A `goal` of 0 means that it is not known.
    pub fn new(quiet: bool, goal: u64) -> Self {
        let terminal = std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
        let bar = (terminal && !quiet).then(|| {
            let bar = if goal > 0 { ProgressBar::new(goal) } else { ProgressBar::no_length() };
            let style = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        let every = Duration::from_millis(if bar.is_some() { 100 } else { 1000 });
        let mut interval = tokio::time::interval(every);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        interval.reset();
        Self { bar, quiet, start: Instant::now(), interval }
    }

    /// Returns when it is time to show again.
    pub async fn tick(&mut self) {
        self.interval.tick().await;
    }

    /// Shows the progress.
    pub fn show(&self, position: u64, line: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(position);
                bar.set_message(line.to_owned());
            }
            None if self.quiet => {}
            None => eprintln!("{:6.1} s  {line}", self.start.elapsed().as_secs_f64()),
        }
    }

    /// Clears the progress from the terminal before the result.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
