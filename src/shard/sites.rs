//! The numbers that a shard's scheduler knows its sites by. *No I/O.*
//!
//! A number keeps its meaning as long as the scheduler may know it: while recipients are ready for
//! it or out, and until the last route that leads to it is no longer valid. After that it is used
//! again, so that the table grows with the sites of the present, not of all times.

use crate::message::Timestamp;
use crate::route::{Site, SiteKey};
use crate::scheduler::SiteId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Routes are asked for again after this, however long they hold (a route to an address literal
/// holds for ever).
const ROUTE_HOLD_MAX: Duration = Duration::from_secs(3600);
/// Unused sites are looked for when there are more than this, and twice as many as were
/// left the last time.
const SWEEP_MIN: usize = 1024;

/// The sites that this shard has mail for, by number.
pub(super) struct Sites {
    by_key: HashMap<SiteKey, SiteId>,
    places: Vec<Option<Place>>,
    free: Vec<SiteId>,
    sweep_at: usize,
}

struct Place {
    site: Arc<Site>,
    /// No route to it holds longer.
    valid_until: Timestamp,
}

impl Default for Sites {
    fn default() -> Sites {
        Sites { by_key: HashMap::new(), places: Vec::new(), free: Vec::new(), sweep_at: SWEEP_MIN }
    }
}

impl Sites {
    /// The number of `site`, for a route that holds until `valid_until`; and until when the
    /// scheduler may use it. `release` forgets a site in the scheduler; false
    /// when it has something for it.
    pub(super) fn number(
        &mut self,
        site: &Arc<Site>,
        valid_until: Timestamp,
        now: Timestamp,
        release: impl FnMut(SiteId) -> bool,
    ) -> (SiteId, Timestamp) {
        let valid_until = valid_until.min(now.plus(ROUTE_HOLD_MAX));
        if let Some(&known) = self.by_key.get(&site.key) {
            if let Some(Some(place)) = self.places.get_mut(known.0 as usize) {
                place.valid_until = place.valid_until.max(valid_until);
            }
            return (known, valid_until);
        }
        if self.by_key.len() >= self.sweep_at {
            self.sweep(now, release);
        }
        let place = Some(Place { site: Arc::clone(site), valid_until });
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.places.push(None);
                SiteId(u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX))
            }
        };
        if let Some(free) = self.places.get_mut(number.0 as usize) {
            *free = place;
        }
        self.by_key.insert(site.key.clone(), number);
        (number, valid_until)
    }

    pub(super) fn find(&self, key: &SiteKey) -> Option<SiteId> {
        self.by_key.get(key).copied()
    }

    pub(super) fn site(&self, number: SiteId) -> Option<&Arc<Site>> {
        self.places.get(number.0 as usize)?.as_ref().map(|place| &place.site)
    }

    /// All sites have numbers below this.
    pub(super) fn numbers(&self) -> u32 {
        u32::try_from(self.places.len()).unwrap_or(u32::MAX)
    }

    fn sweep(&mut self, now: Timestamp, mut release: impl FnMut(SiteId) -> bool) {
        let (places, free) = (&mut self.places, &mut self.free);
        self.by_key.retain(|_, &mut number| {
            let Some(place) = places.get_mut(number.0 as usize) else { return false };
            let holds = place.as_ref().is_some_and(|place| place.valid_until > now);
            if holds || !release(number) {
                return true;
            }
            *place = None;
            free.push(number);
            false
        });
        self.sweep_at = SWEEP_MIN.max(2 * self.by_key.len());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::collections::HashSet;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn site(number: usize) -> Arc<Site> {
        Site::for_test(&format!("mx:mx{number}.test:25"))
    }

    fn minutes(minutes: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(60 * minutes))
    }

    #[test]
    fn the_same_site_has_the_same_number() {
        let mut sites = Sites::default();
        let (one, _) = sites.number(&site(1), minutes(1), NOW, |_| true);
        let (two, _) = sites.number(&site(2), minutes(1), NOW, |_| true);
        assert_ne!(one, two);
        assert_eq!(sites.number(&site(1), minutes(1), NOW, |_| true).0, one);
        assert_eq!(sites.find(&site(2).key), Some(two));
        assert_eq!(sites.site(two).unwrap().key, site(2).key);
    }

    #[test]
    fn a_route_for_ever_is_asked_for_again() {
        let mut sites = Sites::default();
        let (_, until) = sites.number(&site(1), Timestamp::NEVER, NOW, |_| true);
        assert_eq!(until, minutes(60));
    }

    #[test]
    fn the_table_does_not_grow_with_sites_of_the_past() {
        let mut sites = Sites::default();
        for number in 0..100 * SWEEP_MIN {
            let now = NOW.plus(Duration::from_secs(number as u64));
            let valid_until = now.plus(Duration::from_secs(60));
            sites.number(&site(number), valid_until, now, |_| true);
        }
        assert!(sites.places.len() <= 2 * SWEEP_MIN, "{}", sites.places.len());
        assert_eq!(sites.by_key.len() + sites.free.len(), sites.places.len());
    }

    #[test]
    fn a_number_keeps_its_meaning_while_it_is_used_or_routed_to() {
        let mut sites = Sites::default();
        let (used, _) = sites.number(&site(0), minutes(1), NOW, |_| true);
        let (routed, _) = sites.number(&site(1), minutes(1), NOW, |_| true);
        sites.number(&site(1), minutes(30), NOW, |_| true);
        let later = minutes(10);
        let mut numbers = HashSet::new();
        for number in 2..3 * SWEEP_MIN {
            let (given, _) = sites.number(&site(number), minutes(11), later, |id| id != used);
            assert!(given != used && given != routed);
            numbers.insert(given);
        }
        assert_eq!(sites.site(used).unwrap().key, site(0).key);
        assert_eq!(sites.site(routed).unwrap().key, site(1).key);
        assert_eq!(numbers.len(), 3 * SWEEP_MIN - 2, "all of these are valid");
    }
}
