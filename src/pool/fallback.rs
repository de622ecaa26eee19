//! What did not work at a host, for how long that is remembered, and what is done instead. *Pure.*
//!
//! | what did not work | remembered | instead |
//! | --- | --- | --- |
//! | the TLS handshake, or the first command after it, with `tls = "may"` | [`HOLD`] | a new connection in the clear, in the same attempt |
//! | STARTTLS was not answered within `tls_timeout`, or by a closed connection, with `tls = "may"` | [`HOLD`] | the same |
//! | the same with `must` or `must-verify` | no | the next host; else deferred |
//! | a TLS session was taken up again, and TLS failed as above | [`HOLD`]; the session is forgotten at once | a full handshake over a new connection, in the same attempt |
//! | STARTTLS answered 4xx (but 421) or 5xx, with `tls = "may"` | no | in the clear on the same connection |
//! | STARTTLS answered 421, with `tls = "may"` | no | a new connection in the clear, in the same attempt |
//! | PIPELINING: some of the commands sent together were answered, then the connection broke | [`HOLD`], if the next works | a new connection, one command at a time, in the same attempt |
//! | BDAT answered 500 to 504 | for the connection | DATA on the same connection |
//! | `AUTH=` in MAIL answered 500, 501, 504 or 555 | for the connection | MAIL without it on the same connection |
//! | EHLO answered 5xx | no | HELO on the same connection |
//!
//! 421 to STARTTLS closes the connection (RFC 5321 3.8), so what other 4xx do on the same
//! connection needs a new one. A host that is shutting down refuses that too, and the next host is
//! tried; one whose TLS is out of order gets its mail. It is not remembered: 421 says that it will
//! pass.
//!
//! `ringpost queue sites` shows what is remembered. A host is an address: behind one name there may
//! be machines that differ. It must not know connections or clocks: the time is an argument.

use crate::message::{Reason, Timestamp};
use crate::route::SiteKey;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

/// How long something is remembered: long enough that a broken host costs little, short enough
/// that one that was mended, or had a bad moment, is treated well again soon.
pub(super) const HOLD: Duration = Duration::from_secs(30 * 60);
/// Entries of one shard; the one that would end first gives way.
const ENTRIES_MAX: usize = 4096;

/// What does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Broken {
    /// TLS.
    Tls,
    /// Taking up an earlier TLS session.
    Resumption,
    /// PIPELINING (RFC 2920).
    Pipelining,
}

impl Broken {
    /// The word for `queue sites`.
    pub fn name(self) -> &'static str {
        match self {
            Broken::Tls => "tls",
            Broken::Resumption => "tls-resumption",
            Broken::Pipelining => "pipelining",
        }
    }
}

/// One thing that did not work at one host.
#[derive(Clone, Debug, PartialEq)]
pub struct Remembered {
    /// What.
    pub broken: Broken,
    /// Until when it is not tried.
    pub until: Timestamp,
    /// What happened; `remote` names the host.
    pub reason: Reason,
    /// The site for which it happened.
    site: SiteKey,
}

/// What a shard remembers of all hosts.
#[derive(Default)]
pub(super) struct Fallbacks {
    entries: HashMap<(SocketAddr, Broken), Remembered>,
}

impl Fallbacks {
    /// Whether `broken` is known not to work at `host`.
    pub(super) fn is_broken(&self, host: SocketAddr, broken: Broken, now: Timestamp) -> bool {
        self.entries.get(&(host, broken)).is_some_and(|entry| entry.until > now)
    }

    /// It did not work just now.
    pub(super) fn remember(
        &mut self,
        host: SocketAddr,
        site: &SiteKey,
        broken: Broken,
        reason: Reason,
        now: Timestamp,
    ) {
        if self.entries.len() >= ENTRIES_MAX {
            self.entries.retain(|_, entry| entry.until > now);
        }
        if self.entries.len() >= ENTRIES_MAX
            && let Some((&first, _)) = self.entries.iter().min_by_key(|(_, entry)| entry.until)
        {
            self.entries.remove(&first);
        }
        let reason = Reason { hosts: None, ..reason };
        let site = site.clone();
        let entry = Remembered { broken, until: now.plus(HOLD), reason, site };
        self.entries.insert((host, broken), entry);
    }

    /// All that is remembered, by the site's key.
    pub(super) fn by_site(&self, now: Timestamp) -> HashMap<SiteKey, Vec<Remembered>> {
        let mut sites: HashMap<SiteKey, Vec<Remembered>> = HashMap::new();
        for entry in self.entries.values().filter(|entry| entry.until > now) {
            sites.entry(entry.site.clone()).or_default().push(entry.clone());
        }
        sites
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Stage, Status};
    use crate::route::SiteKind;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn host(number: u16) -> SocketAddr {
        ([192, 0, 2, 1], number).into()
    }

    fn site() -> SiteKey {
        SiteKey::new(SiteKind::Mx, "mx:mx.test:25")
    }

    fn reason() -> Reason {
        Reason::ours(Stage::Tls, Status(4, 7, 5), "the TLS handshake failed")
    }

    #[test]
    fn it_is_remembered_for_its_time_and_for_its_host() {
        let mut fallbacks = Fallbacks::default();
        fallbacks.remember(host(1), &site(), Broken::Tls, reason(), NOW);
        assert!(fallbacks.is_broken(host(1), Broken::Tls, NOW));
        assert!(!fallbacks.is_broken(host(1), Broken::Pipelining, NOW));
        assert!(!fallbacks.is_broken(host(2), Broken::Tls, NOW));
        let later = NOW.plus(HOLD);
        assert!(!fallbacks.is_broken(host(1), Broken::Tls, later));
        assert_eq!(fallbacks.by_site(NOW).get(&site()).map(Vec::len), Some(1));
        assert!(fallbacks.by_site(later).is_empty());
    }

    #[test]
    fn at_the_bound_the_one_that_ends_first_gives_way() {
        let mut fallbacks = Fallbacks::default();
        for number in 0..=ENTRIES_MAX {
            let now = Timestamp(NOW.0 + number as u64);
            fallbacks.remember(host(number as u16), &site(), Broken::Tls, reason(), now);
        }
        assert_eq!(fallbacks.entries.len(), ENTRIES_MAX);
        assert!(!fallbacks.is_broken(host(0), Broken::Tls, NOW));
        assert!(fallbacks.is_broken(host(1), Broken::Tls, NOW));
        let after = NOW.plus(HOLD + HOLD);
        fallbacks.remember(host(1), &site(), Broken::Pipelining, reason(), after);
        assert_eq!(fallbacks.entries.len(), 1, "what is over is forgotten first");
    }
}
