//! What the log says of sites that back off, over all shards.
//!
//! A site has one line when it begins to back off and one when it takes mail again, however many
//! shards serve it and however many probes fail in between:
//!
//! | the site | event | line |
//! | --- | --- | --- |
//! | is not known to be down | an owner begins to back off | warning: it backs off, and why |
//! | is down | an owner begins to back off | none |
//! | is down | it answers a transaction | information: it takes mail again, and after what time |
//! | is down, without a line | it answers a transaction | none; it is counted |
//! | is not known to be down | it answers a transaction | none |
//!
//! That a connection stands says nothing: a host may greet and close it at every message. Lines
//! have a bound, [`LINES_A_MINUTE`] of each kind; those beyond it are counted, and the number is
//! logged once a minute.

use crate::message::Reason;
use crate::ring::LogThrottle;
use crate::route::SiteKey;
use crate::timestamp::Timestamp;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lines of sites that back off, and as many of sites that take mail again. When a network is cut
/// off thousands of sites fail within seconds; `ringpost queue sites` has all of them.
const LINES_A_MINUTE: u64 = 20;
/// Sites that are remembered. One beyond it is counted at each back-off, and has no line.
const SITES_MAX: usize = 1 << 16;
/// A site that did not fail for so long is forgotten: its mail has gone elsewhere or expired.
const HOLD: Duration = Duration::from_secs(24 * 60 * 60);

/// The sites of all shards that are down. Clones share it.
#[derive(Clone)]
pub struct SiteOutages(Arc<Shared>);

struct Shared {
    /// By the digest of the site's name.
    sites: Mutex<HashMap<u64, Outage>>,
    /// How many there are: with none, a transaction takes no lock.
    count: AtomicUsize,
    begun: LogThrottle,
    over: LogThrottle,
}

struct Outage {
    since: Timestamp,
    failed_last: Timestamp,
    has_line: bool,
}

impl Default for SiteOutages {
    fn default() -> SiteOutages {
        SiteOutages(Arc::new(Shared {
            sites: Mutex::default(),
            count: AtomicUsize::new(0),
            begun: LogThrottle::new(LINES_A_MINUTE),
            over: LogThrottle::new(LINES_A_MINUTE),
        }))
    }
}

impl SiteOutages {
    /// An owner begins to back off for `wait`. The line that is to be logged.
    pub(super) fn backs_off(
        &self,
        site: &SiteKey,
        wait: Duration,
        reason: &Reason,
        now: Timestamp,
    ) -> Option<String> {
        let mut sites = self.sites();
        if let Some(outage) = sites.get_mut(&site.digest()) {
            outage.failed_last = now;
            return None;
        }
        if sites.len() >= SITES_MAX {
            self.0.begun.leave_out();
            return None;
        }
        let left_out = self.0.begun.take(now);
        let outage = Outage { since: now, failed_last: now, has_line: left_out.is_some() };
        sites.insert(site.digest(), outage);
        self.0.count.store(sites.len(), Ordering::Relaxed);
        drop(sites);
        let wait = seconds(wait);
        let others = others(left_out?);
        Some(format!("site \"{site}\" backs off for {wait}: {reason}{others}"))
    }

    /// The site answered a transaction. The line that is to be logged.
    pub(super) fn answers(&self, site: &SiteKey, now: Timestamp) -> Option<String> {
        if self.0.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut sites = self.sites();
        let outage = sites.remove(&site.digest())?;
        self.0.count.store(sites.len(), Ordering::Relaxed);
        drop(sites);
        if !outage.has_line {
            self.0.over.leave_out();
            return None;
        }
        let others = others(self.0.over.take(now)?);
        let time = seconds(now.since(outage.since));
        Some(format!("site \"{site}\" takes mail again after {time}{others}"))
    }

    /// To be called once a minute: the line about those that had none, if there were some.
    pub(super) fn look(&self, now: Timestamp) -> Option<String> {
        let mut sites = self.sites();
        sites.retain(|_, outage| now.since(outage.failed_last) < HOLD);
        self.0.count.store(sites.len(), Ordering::Relaxed);
        let down = sites.len();
        drop(sites);
        let (begun, over) = (self.0.begun.left_out(), self.0.over.left_out());
        (begun > 0 || over > 0).then(|| {
            format!(
                "{begun} more sites began to back off and {over} more take mail again: at most \
                 {LINES_A_MINUTE} of each are logged a minute; {down} are down, see \
                 \"ringpost queue sites\""
            )
        })
    }

    /// A task that panics while it holds the lock leaves whole entries behind.
    fn sites(&self) -> MutexGuard<'_, HashMap<u64, Outage>> {
        self.0.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a line, if others had none before it.
fn others(left_out: u64) -> String {
    match left_out {
        0 => String::new(),
        more => format!(" (and {more} more before)"),
    }
}

/// `45s`, `2m 30s`, `3h 5m`.
fn seconds(time: Duration) -> String {
    let seconds = (time.as_millis() + 500) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::message::{Stage, Status};
    use crate::route::SiteKind;

    fn site(label: &str) -> SiteKey {
        SiteKey::new(SiteKind::Mx, label)
    }

    fn reason() -> Reason {
        let remote = "mx.test [192.0.2.1]:25".into();
        let text = "the host refused the connection";
        Reason { remote, ..Reason::ours(Stage::Connect, Status(4, 4, 1), text) }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp(1_795_459_000_000 + seconds * 1000)
    }

    const WAIT: Duration = Duration::from_secs(30);

    #[test]
    fn a_site_has_one_line_when_it_goes_down_and_one_when_it_comes_back() {
        let outages = SiteOutages::default();
        let other_shard = outages.clone();
        let key = site("mx:mx.test:25");
        assert_eq!(outages.answers(&key, at(0)), None, "it was not down");
        assert_eq!(
            outages.backs_off(&key, WAIT, &reason(), at(1)).as_deref(),
            Some(
                "site \"mx:mx.test:25\" backs off for 30s: 4.4.1 the host refused the connection \
                 (mx.test [192.0.2.1]:25)"
            )
        );
        assert_eq!(other_shard.backs_off(&key, WAIT, &reason(), at(1)), None, "the other shard");
        assert_eq!(outages.backs_off(&key, WAIT * 2, &reason(), at(31)), None, "a probe");
        assert_eq!(outages.answers(&site("mx:other.test:25"), at(40)), None, "another site");
        assert_eq!(
            other_shard.answers(&key, at(151)).as_deref(),
            Some("site \"mx:mx.test:25\" takes mail again after 2m 30s")
        );
        assert_eq!(outages.answers(&key, at(152)), None);
        assert!(outages.backs_off(&key, WAIT, &reason(), at(160)).is_some(), "down once more");
    }

    #[test]
    fn thousands_of_sites_that_go_down_have_few_lines_and_are_counted() {
        let outages = SiteOutages::default();
        let keys: Vec<SiteKey> = (0..3000).map(|n| site(&format!("mx:m{n}.test:25"))).collect();
        let lines =
            keys.iter().filter_map(|key| outages.backs_off(key, WAIT, &reason(), at(1))).count();
        assert_eq!(lines, LINES_A_MINUTE as usize);
        let line = outages.look(at(50)).unwrap();
        assert!(line.starts_with("2980 more sites began to back off and 0 more take"), "{line}");
        assert!(line.contains("3000 are down"), "{line}");
        assert_eq!(outages.look(at(55)), None, "nothing new");
        let lines = keys.iter().filter_map(|key| outages.answers(key, at(60))).count();
        assert_eq!(lines, LINES_A_MINUTE as usize, "those that had a line before");
        let line = outages.look(at(61)).unwrap();
        assert!(line.starts_with("0 more sites began to back off and 29"), "{line}");
    }

    #[test]
    fn a_table_that_is_full_costs_lines_and_no_memory() {
        let outages = SiteOutages::default();
        for n in 0..SITES_MAX {
            outages.backs_off(&site(&n.to_string()), WAIT, &reason(), at(1));
        }
        outages.look(at(1));
        assert_eq!(outages.backs_off(&site("one more"), WAIT, &reason(), at(90)), None);
        assert!(outages.look(at(91)).unwrap().starts_with("1 more sites"));
        let forgotten = at(1).plus(HOLD);
        assert_eq!(outages.look(forgotten), None);
        assert!(outages.sites().is_empty());
        assert!(outages.backs_off(&site("one more"), WAIT, &reason(), forgotten).is_some());
    }

    #[test]
    fn times_are_shown_as_people_read_them() {
        for (ms, text) in [(400, "0s"), (29_600, "30s"), (60_000, "1m 0s"), (11_100_000, "3h 5m")] {
            assert_eq!(seconds(Duration::from_millis(ms)), text);
        }
    }
}
