//! Warnings about proxies, and about clients that behave like one: each is logged once a minute at
//! most by all shards together, because a health check comes every second, and an attacker as often
//! as the network allows.

use crate::message::Timestamp;
use crate::ring;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const INTERVAL_MS: u64 = 60_000;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Warning {
    /// A proxy begins with something else than a PROXY header.
    Malformed,
    /// A proxy did not send its whole header in time.
    Late(Duration),
    /// A proxy closed the connection within its header.
    CutShort,
    /// A PROXY header came from somewhere else.
    NoProxy,
    /// XCLIENT came from a client that may not use it.
    NoXclient,
}

/// When a warning may be logged again, and how often it was suppressed meanwhile.
struct Turns {
    next: AtomicU64,
    silent: AtomicU64,
}

static TURNS: [Turns; 5] = [const { Turns::new() }; 5];

impl Turns {
    const fn new() -> Turns {
        Turns { next: AtomicU64::new(0), silent: AtomicU64::new(0) }
    }

    /// If it is to be logged now: how often it was suppressed since the last time.
    fn take(&self, now: Timestamp) -> Option<u64> {
        let next = self.next.load(Ordering::Relaxed);
        // A clock that was set back must not bring silence for long.
        let is_due = now.0 >= next || next - now.0 > INTERVAL_MS;
        let later = now.0.saturating_add(INTERVAL_MS);
        let order = Ordering::Relaxed;
        if is_due && self.next.compare_exchange(next, later, order, order).is_ok() {
            return Some(self.silent.swap(0, Ordering::Relaxed));
        }
        self.silent.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl Warning {
    /// Logs it for `from`, unless that was done less than a minute ago.
    pub(super) fn log(self, from: SocketAddr) {
        let place = match self {
            Warning::Malformed => 0,
            Warning::Late(_) => 1,
            Warning::CutShort => 2,
            Warning::NoProxy => 3,
            Warning::NoXclient => 4,
        };
        let turns: Option<&Turns> = TURNS.get(place);
        if let Some(untold) = turns.and_then(|turns| turns.take(ring::wall_clock())) {
            tracing::warn!(address = %from, untold, "{}", self.words());
        }
    }

    /// What came and what was expected.
    fn words(self) -> String {
        const EXPECTED: &str = "its address is in access.proxy_networks, so a connection must \
             begin with \"PROXY TCP4 ...\" (version 1) or the signature of version 2";
        match self {
            Warning::Malformed => format!("closed: a proxy sent no PROXY header; {EXPECTED}"),
            Warning::Late(wait) => {
                let wait = wait.as_secs();
                format!("closed: a proxy sent no whole PROXY header within {wait} s; {EXPECTED}")
            }
            Warning::CutShort => {
                format!("a proxy closed the connection within its PROXY header; {EXPECTED}")
            }
            Warning::NoProxy => "closed: a PROXY header came from an address that is not in \
                                   access.proxy_networks; name it there if it is your proxy"
                .to_owned(),
            Warning::NoXclient => "refused: XCLIENT came from an address that is not in \
                                     access.xclient_networks; name it there if it is your proxy"
                .to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_logged_once_a_minute_with_the_number_of_those_suppressed() {
        let turns = Turns::new();
        let at = |ms: u64| Timestamp(1_795_459_000_000 + ms);
        assert_eq!(turns.take(at(0)), Some(0));
        for ms in [0, 1000, 59_999] {
            assert_eq!(turns.take(at(ms)), None);
        }
        assert_eq!(turns.take(at(60_000)), Some(3));
        assert_eq!(turns.take(at(60_001)), None);
        assert_eq!(turns.take(Timestamp(7)), Some(1), "the clock was set back");
    }
}
