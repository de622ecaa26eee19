//! What goes wrong again and again, in few lines of the log.

use crate::message::Timestamp;
use std::time::Duration;

/// Trouble with reports and loads that may pass: one line a minute says so.
#[derive(Default)]
pub(super) struct Trouble {
    logged: Option<Timestamp>,
    /// Cases since then.
    cases: u64,
}

impl Trouble {
    const INTERVAL: Duration = Duration::from_secs(60);

    /// There was a case.
    pub(super) fn note(&mut self, text: &str, now: Timestamp) {
        self.cases += 1;
        if self.logged.is_some_and(|at| at <= now && now.since(at) < Self::INTERVAL) {
            return;
        }
        tracing::error!(cases = self.cases, "{text}; it is tried again");
        (self.logged, self.cases) = (Some(now), 0);
    }
}
