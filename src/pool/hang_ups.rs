//! Hosts that close the connection (or say 421) at every message. *Pure.*
//!
//! Such a host takes a connection for each message and gives nothing for it. What it objects to is
//! not known: a sender, the messages, this relay. So it is counted, and the counts end with the
//! first message of which the host has answered more than that:
//!
//! | in a row | what follows |
//! | --- | --- |
//! | [`IN_A_ROW_MAX`] of one sender | that sender's mail to the site is deferred for [`HOLD`], then tried once |
//! | [`IN_A_ROW_MAX`] at one host | other hosts of the site are tried before it for a while |
//! | [`SITE_IN_A_ROW_MAX`] at the site, of several senders, without a reply | the site backs off as a whole, and then the count begins anew |
//!
//! A 421 counts for the sender and the host only: some say it of a sender, and a site may have any
//! number of those; the mail of others must go all the same.
//!
//! It must not know connections or clocks: the time is an argument.

use crate::message::{Reason, Timestamp};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Connections in a row that one sender, or one host, may lose.
pub(super) const IN_A_ROW_MAX: u32 = 4;
/// Connections in a row that a site may lose to different senders.
pub(super) const SITE_IN_A_ROW_MAX: u32 = 2 * IN_A_ROW_MAX;
/// How long the mail of such a sender is kept from the site.
pub(super) const HOLD: Duration = Duration::from_secs(60);
/// Senders that a site knows; beyond it, the one that was counted longest ago is forgotten.
const SENDERS_MAX: usize = 64;

/// What a hang-up is charged to beside the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charge {
    /// Nothing.
    Nothing,
    /// The host: others are tried first.
    Host,
    /// The site as a whole.
    Site,
}

struct Sender {
    in_a_row: u32,
    /// When it was counted last.
    at: Timestamp,
    reason: Reason,
}

/// The counts of one site.
#[derive(Default)]
pub(super) struct HangUps {
    senders: HashMap<Box<str>, Sender>,
    hosts: HashMap<SocketAddr, u32>,
    in_a_row: u32,
}

impl HangUps {
    /// `host` closed the connection at a message, whatever other hosts of the site do with it.
    pub(super) fn host_hung_up(&mut self, host: SocketAddr) -> Charge {
        if self.hosts.len() >= SENDERS_MAX && !self.hosts.contains_key(&host) {
            self.hosts.clear();
        }
        let at_host = self.hosts.entry(host).or_default();
        *at_host = at_host.saturating_add(1);
        if *at_host >= IN_A_ROW_MAX { Charge::Host } else { Charge::Nothing }
    }

    /// An attempt of a message of `sender` is over, no host took it, and the last one that was
    /// reached closed the connection and said no more than `reason`.
    pub(super) fn attempt_hung_up(
        &mut self,
        sender: &str,
        reason: &Reason,
        now: Timestamp,
    ) -> Charge {
        if self.senders.len() >= SENDERS_MAX && !self.senders.contains_key(sender) {
            let oldest = self.senders.iter().min_by_key(|(_, one)| one.at);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.senders.remove(&oldest);
            }
        }
        let entry = self.senders.entry(sender.into()).or_insert_with(|| Sender {
            in_a_row: 0,
            at: now,
            reason: reason.clone(),
        });
        entry.in_a_row = entry.in_a_row.saturating_add(1);
        entry.at = now;
        entry.reason = reason.clone();
        if reason.code != 0 {
            // 421: the host speaks, and it may be of this sender alone.
            return Charge::Nothing;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row >= SITE_IN_A_ROW_MAX && self.senders.len() > 1 {
            // After the back-off as many are tried again: one alone would be the next of the same
            // kind, and behind a hundred such messages all other mail would wait for hours.
            self.in_a_row = 0;
            Charge::Site
        } else {
            Charge::Nothing
        }
    }

    /// `host` answered a message of `sender`, whatever it said.
    pub(super) fn answered(&mut self, host: SocketAddr, sender: &str) {
        self.in_a_row = 0;
        if self.senders.len() + self.hosts.len() > 0 {
            self.senders.remove(sender);
            self.hosts.remove(&host);
        }
    }

    /// Why mail of `sender` is not to be tried now, if that is so. When the time is over, it may be
    /// tried once.
    pub(super) fn held(&mut self, sender: &str, now: Timestamp) -> Option<&Reason> {
        let entry = self.senders.get_mut(sender)?;
        if entry.in_a_row < IN_A_ROW_MAX {
            return None;
        }
        if now.since(entry.at) >= HOLD {
            // One message finds out; the others wait for what becomes of it.
            entry.at = now;
            return None;
        }
        Some(&entry.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Stage, Status};

    impl HangUps {
        /// A site of one host: the attempt ends with it.
        fn hung_up(
            &mut self,
            host: SocketAddr,
            sender: &str,
            reason: &Reason,
            now: Timestamp,
        ) -> Charge {
            let at_host = self.host_hung_up(host);
            match self.attempt_hung_up(sender, reason, now) {
                Charge::Nothing => at_host,
                charge => charge,
            }
        }
    }

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn host(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 25).into()
    }

    fn reason() -> Reason {
        Reason::ours(Stage::Mail, Status(4, 4, 2), "the connection was lost")
    }

    #[test]
    fn one_sender_is_held_and_others_are_not() {
        let mut counts = HangUps::default();
        for _ in 1..IN_A_ROW_MAX {
            assert_eq!(counts.hung_up(host(1), "a@x.test", &reason(), NOW), Charge::Nothing);
            assert_eq!(counts.held("a@x.test", NOW), None);
        }
        assert_eq!(counts.hung_up(host(1), "a@x.test", &reason(), NOW), Charge::Host);
        assert!(counts.held("a@x.test", NOW).is_some());
        assert_eq!(counts.held("b@x.test", NOW), None);
        let later = NOW.plus(HOLD);
        assert_eq!(counts.held("a@x.test", later), None, "one may find out");
        assert!(counts.held("a@x.test", later).is_some(), "and only one");
        counts.answered(host(1), "a@x.test");
        assert_eq!(counts.held("a@x.test", later), None);
    }

    #[test]
    fn one_sender_alone_never_stops_the_site() {
        let mut counts = HangUps::default();
        for _ in 0..100 {
            assert_ne!(counts.hung_up(host(1), "a@x.test", &reason(), NOW), Charge::Site);
        }
    }

    #[test]
    fn several_senders_in_a_row_stop_the_site_and_an_answer_begins_anew() {
        let mut counts = HangUps::default();
        let mut charges = Vec::new();
        for number in 0..SITE_IN_A_ROW_MAX {
            let sender = format!("s{number}@x.test");
            charges.push(counts.hung_up(host(number as u8), &sender, &reason(), NOW));
        }
        assert_eq!(charges.pop(), Some(Charge::Site));
        assert!(charges.iter().all(|charge| *charge == Charge::Nothing));
        for number in 1..SITE_IN_A_ROW_MAX {
            let sender = format!("t{number}@x.test");
            let charge = counts.hung_up(host(100 + number as u8), &sender, &reason(), NOW);
            assert_eq!(charge, Charge::Nothing, "after the back-off");
        }
        counts.answered(host(1), "s1@x.test");
        assert_eq!(counts.hung_up(host(9), "s9@x.test", &reason(), NOW), Charge::Nothing);
    }

    #[test]
    fn many_senders_that_get_421_do_not_stop_the_site() {
        let mut counts = HangUps::default();
        let said = Reason { code: 421, ..reason() };
        for number in 0..10 * SITE_IN_A_ROW_MAX {
            let sender = format!("s{number}@x.test");
            assert_eq!(counts.attempt_hung_up(&sender, &said, NOW), Charge::Nothing);
        }
        for _ in 0..IN_A_ROW_MAX {
            counts.attempt_hung_up("bad@x.test", &said, NOW);
        }
        assert!(counts.held("bad@x.test", NOW).is_some());
        assert!(counts.held("good@x.test", NOW).is_none());
    }

    #[test]
    fn the_number_of_senders_is_bounded() {
        let mut counts = HangUps::default();
        for number in 0..10 * SENDERS_MAX {
            let now = Timestamp(NOW.0 + number as u64);
            counts.hung_up(host(1), &format!("s{number}@x.test"), &reason(), now);
        }
        assert_eq!(counts.senders.len(), SENDERS_MAX);
    }
}
