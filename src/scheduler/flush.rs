//! Trying a destination now (ETRN, RFC 1985), because a client says that it takes mail again.

use super::entry::State;
use super::{Scheduler, SiteId};
use crate::message::Timestamp;

/// Places in the table that one step looks at.
const PLACES_MAX: u32 = 8192;

/// What came of a step.
#[derive(Debug, PartialEq)]
pub struct Flushed {
    /// Where to go on; `None` at the end.
    pub next: Option<u32>,
    /// There was something, though its delivery may have begun.
    pub found: bool,
    /// The sites of what was found, as far as they are known: those that back off should be tried.
    pub sites: Vec<SiteId>,
}

impl Scheduler {
    /// Makes recipients due whose domain is `wanted` and whose next try is still to come, from the
    /// place `cursor` (first 0) on. What was never tried is held back on purpose (RFC 4865) and
    /// stays so.
    pub fn flush(&mut self, cursor: u32, wanted: impl Fn(&str) -> bool, now: Timestamp) -> Flushed {
        self.set_now(now);
        let end = self.recipients.places().min(cursor.saturating_add(PLACES_MAX));
        let (mut sites, mut found) = (Vec::new(), false);
        for number in cursor..end {
            let Some(entry) = self.recipients.get(number) else { continue };
            let (state, route, attempts) = (entry.state(), entry.route, entry.attempts());
            let has_ended = entry.is_ending();
            if !wanted(self.routes.domain(route)) {
                continue;
            }
            found |= !has_ended && (state != State::Waiting || attempts > 0);
            match state {
                State::Waiting if attempts > 0 => {
                    self.detach(number);
                    self.recipients[number].set_due(now);
                    self.make_due(number, now);
                }
                State::Ready => {}
                _ => continue,
            }
            let site = self.routes.get(route).and_then(|known| known.site);
            if let Some((site, _)) = site
                && !sites.contains(&site)
            {
                sites.push(site);
            }
        }
        Flushed { next: (end < self.recipients.places()).then_some(end), found, sites }
    }
}
