//! What waits, counted by domain: by age as qshape does, by state, and by what was wrong with the
//! last attempt. No record is read, so it is cheap on a queue of millions.

use super::driver::Driver;
use super::now;
use crate::message::{Reason, Stage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The upper bounds of the ages that are counted together, in minutes; beyond the last there is one
/// more.
pub const AGES_MINUTES: [u64; 9] = [5, 10, 20, 40, 80, 160, 320, 640, 1280];

/// The recipients of one domain that wait in one shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainEntry {
    /// The domain.
    pub domain: String,
    /// All recipients.
    pub recipients: u64,
    /// Those that wait for their next attempt.
    pub waiting: u64,
    /// Those whose site is being looked up.
    pub routing: u64,
    /// Those that wait for a connection.
    pub ready: u64,
    /// Those that are being delivered, or whose end is being recorded.
    pub out: u64,
    /// Those whose last attempt ended with a reply 4xx.
    pub after_reply: u64,
    /// Those whose last attempt found no hosts in the DNS.
    pub after_dns: u64,
    /// Those whose last attempt failed to connect, or lost the connection.
    pub after_connection: u64,
    /// By age since reception: see [`AGES_MINUTES`].
    pub ages: [u64; AGES_MINUTES.len() + 1],
    /// The age of the oldest, in seconds.
    pub oldest_seconds: u64,
    /// Why one of them waits: the reason of the oldest that was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl DomainEntry {
    /// Adds what another shard, or another page, has of the same domain.
    pub fn add(&mut self, other: DomainEntry) {
        self.recipients += other.recipients;
        self.waiting += other.waiting;
        self.routing += other.routing;
        self.ready += other.ready;
        self.out += other.out;
        self.after_reply += other.after_reply;
        self.after_dns += other.after_dns;
        self.after_connection += other.after_connection;
        for (age, more) in self.ages.iter_mut().zip(other.ages) {
            *age += more;
        }
        if other.reason.is_some()
            && (self.reason.is_none() || other.oldest_seconds > self.oldest_seconds)
        {
            self.reason = other.reason;
        }
        self.oldest_seconds = self.oldest_seconds.max(other.oldest_seconds);
    }

    fn count(&mut self, state: &str, age: Duration, reason: Option<&Reason>) {
        self.recipients += 1;
        match state {
            "waiting" => self.waiting += 1,
            "routing" => self.routing += 1,
            "ready" => self.ready += 1,
            _ => self.out += 1,
        }
        let minutes = age.as_secs() / 60;
        let slot = AGES_MINUTES.iter().position(|bound| minutes < *bound);
        let slot = slot.unwrap_or(AGES_MINUTES.len());
        if let Some(count) = self.ages.get_mut(slot) {
            *count += 1;
        }
        if let Some(reason) = reason {
            match reason.stage {
                _ if reason.code != 0 => self.after_reply += 1,
                Stage::Route => self.after_dns += 1,
                _ => self.after_connection += 1,
            }
            if self.reason.is_none() || age.as_secs() > self.oldest_seconds {
                self.reason = Some(reason.to_string());
            }
        }
        self.oldest_seconds = self.oldest_seconds.max(age.as_secs());
    }
}

/// A part of a shard's queue, counted.
#[derive(Clone, Debug, Default)]
pub struct SummaryPage {
    /// One for each domain.
    pub domains: Vec<DomainEntry>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<u32>,
}

impl Driver {
    /// Counts at most `limit` messages from `cursor` on.
    pub(super) fn summary(&self, cursor: u32, limit: usize) -> SummaryPage {
        let now = now();
        let origin = self.origin.borrow();
        let (views, next) = origin.scheduler.messages_from(cursor, limit);
        let mut by_domain: BTreeMap<&str, DomainEntry> = BTreeMap::new();
        for view in &views {
            let age = now.since(view.id.born());
            for recipient in &view.recipients {
                let entry = by_domain.entry(recipient.domain).or_default();
                entry.count(recipient.state, age, recipient.reason.map(|reason| &**reason));
            }
        }
        let domains = by_domain
            .into_iter()
            .map(|(domain, entry)| DomainEntry { domain: domain.to_owned(), ..entry });
        SummaryPage { domains: domains.collect(), next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Status;

    #[test]
    fn recipients_are_counted_by_age_state_and_cause() {
        let mut entry = DomainEntry::default();
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let reply = Reason {
            stage: Stage::Recipient,
            code: 450,
            status: Status(4, 2, 0),
            text: "greylisted".into(),
            remote: "".into(),
            hosts: None,
        };
        let dns = Reason::ours(Stage::Route, Status(4, 4, 3), "no answer");
        entry.count("ready", minutes(1), None);
        entry.count("waiting", minutes(7), Some(&reply));
        entry.count("waiting", minutes(5000), Some(&dns));
        assert_eq!((entry.recipients, entry.ready, entry.waiting), (3, 1, 2));
        assert_eq!((entry.after_reply, entry.after_dns, entry.after_connection), (1, 1, 0));
        assert_eq!(entry.ages, [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert!(entry.reason.clone().is_some_and(|reason| reason.contains("no answer")));
        let mut all = DomainEntry::default();
        all.add(entry.clone());
        all.add(entry);
        assert_eq!((all.recipients, all.oldest_seconds), (6, 300_000));
    }
}
