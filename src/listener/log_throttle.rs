//! Warnings about proxies, about clients that behave like one, and about messages that cannot be
//! stored: each is logged once a minute at most by all shards together, because a health check
//! comes every second, and an attacker or a full disk's mail as often as the network allows.

use crate::message::QueueId;
use crate::ring::{self, LogThrottle};
use crate::spool::SpoolError;
use std::net::SocketAddr;
use std::time::Duration;

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

static THROTTLES: [LogThrottle; 5] = [const { LogThrottle::new(1) }; 5];

static NOT_STORED: LogThrottle = LogThrottle::new(10);

/// A message was refused because it cannot be stored.
pub(super) fn not_stored(id: QueueId, error: &SpoolError) {
    if let Some(untold) = NOT_STORED.take(ring::wall_clock()) {
        tracing::warn!(%id, %error, untold, "message not stored");
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
        let throttle: Option<&LogThrottle> = THROTTLES.get(place);
        if let Some(untold) = throttle.and_then(|one| one.take(ring::wall_clock())) {
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
