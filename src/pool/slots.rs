//! The connection slots of one shard, and which site has the next one. *Pure.*
//!
//! A connection task holds a slot from its begin to its end. It knows sites only by number.
//!
//! | bound | reason | at the bound |
//! | --- | --- | --- |
//! | `pool.connections_max` | descriptors, memory | an idle one goes, a busy one after its turn |
//! | 3 of 4 of it: tasks without a connection | silent hosts must not have all | others wait |
//! | 7 of 8 of these: opening longer than [`QUICK`] | quick hosts find a slot | the oldest goes |
//!
//! Sites that wait for a slot get one in turn: the one that has waited longest, then the one that
//! came last, and so on. So none waits for ever, and a new one does not stand behind thousands.
//! Sites that could not be reached the last time wait apart, and have every [`FAILED_TURN`]th slot:
//! those that are silent come back again and again, and would stand before and behind all others.
//!
//! Every step takes the same time for any number of sites.

use crate::timestamp::Timestamp;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Most hosts that take mail have greeted by then.
pub(super) const QUICK: Duration = Duration::from_secs(1);
/// Where there are too few slots to set some apart, an opening connection has this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Of the slots, this one goes to a site that could not be reached the last time.
const FAILED_TURN: u32 = 4;

/// What is known of a site that waits for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastTime {
    /// A connection stood, or nothing is known of it.
    ReachedOrUnknown,
    /// It could not be reached.
    Failed,
}

/// A site of this shard's pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SiteNumber(pub(super) u32);

/// An opening connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct OpeningId(u64);

/// The slots of one shard.
pub(super) struct Slots {
    connections_max: usize,
    unconnected_max: usize,
    /// Opening for longer than [`QUICK`], when others wait.
    slow_max: usize,
    /// Tasks.
    open: usize,
    /// Of these, the ones whose connection does not stand.
    unconnected: usize,
    /// Of these, the ones that connect, and since when; the oldest first.
    openings: BTreeMap<OpeningId, Timestamp>,
    next_opening: u64,
    /// Sites that wait for a slot, each once.
    starving: Waiting,
    /// The same, of those that could not be reached the last time.
    starving_failed: Waiting,
    turns: u32,
    /// Sites that had tasks without work when they were last seen, each once.
    spare: VecDeque<SiteNumber>,
}

/// Sites that wait in one line.
#[derive(Default)]
struct Waiting {
    sites: VecDeque<SiteNumber>,
    newest_next: bool,
}

impl Waiting {
    /// The oldest and the newest in turn.
    fn next(&mut self) -> Option<SiteNumber> {
        self.newest_next = !self.newest_next;
        match self.newest_next {
            true => self.sites.pop_front(),
            false => self.sites.pop_back(),
        }
    }
}

impl Slots {
    pub(super) fn new(connections_max: usize) -> Slots {
        let unconnected_max = (connections_max - connections_max / 4).max(1);
        Slots {
            connections_max,
            unconnected_max,
            slow_max: unconnected_max - unconnected_max.div_ceil(8),
            open: 0,
            unconnected: 0,
            openings: BTreeMap::new(),
            next_opening: 0,
            starving: Waiting::default(),
            starving_failed: Waiting::default(),
            turns: 0,
            spare: VecDeque::new(),
        }
    }

    /// A task may begin.
    pub(super) fn has_room(&self) -> bool {
        self.open < self.connections_max && self.unconnected < self.unconnected_max
    }

    /// Another connection that has nothing to do should go.
    pub(super) fn is_full(&self) -> bool {
        self.open >= self.connections_max
    }

    pub(super) fn task_began(&mut self) {
        self.open += 1;
        self.unconnected += 1;
    }

    /// A task has ended, whose connection does not stand.
    pub(super) fn task_ended(&mut self) {
        self.open = self.open.saturating_sub(1);
        self.unconnected = self.unconnected.saturating_sub(1);
    }

    pub(super) fn connected(&mut self) {
        self.unconnected = self.unconnected.saturating_sub(1);
    }

    pub(super) fn disconnected(&mut self) {
        self.unconnected += 1;
    }

    /// Tasks.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    pub(super) fn opening(&mut self, now: Timestamp) -> OpeningId {
        let id = OpeningId(self.next_opening);
        self.next_opening += 1;
        self.openings.insert(id, now);
        id
    }

    pub(super) fn opened(&mut self, id: OpeningId) {
        self.openings.remove(&id);
    }

    /// `site` waits for a slot. It must not wait already.
    pub(super) fn starve(&mut self, site: SiteNumber, last_time: LastTime) {
        match last_time {
            LastTime::ReachedOrUnknown => self.starving.sites.push_back(site),
            LastTime::Failed => self.starving_failed.sites.push_back(site),
        }
    }

    /// The site that has the next slot; it waits no more.
    pub(super) fn next_starving(&mut self) -> Option<SiteNumber> {
        self.turns = self.turns.wrapping_add(1);
        match self.turns.is_multiple_of(FAILED_TURN) {
            true => self.starving_failed.next().or_else(|| self.starving.next()),
            false => self.starving.next().or_else(|| self.starving_failed.next()),
        }
    }

    /// Sites that wait for a slot.
    pub(super) fn starving(&self) -> usize {
        self.starving.sites.len() + self.starving_failed.sites.len()
    }

    /// `site` may have a task without work. It must not be noted already.
    pub(super) fn note_spare(&mut self, site: SiteNumber) {
        self.spare.push_back(site);
    }

    /// A site that may have a task without work; it is noted no more.
    pub(super) fn next_spare(&mut self) -> Option<SiteNumber> {
        self.spare.pop_front()
    }

    /// The opening connections that must make room for sites that wait.
    pub(super) fn evictions(&self, now: Timestamp) -> Vec<OpeningId> {
        let waiting = self.starving();
        if waiting == 0 || self.has_room() {
            return Vec::new();
        }
        let patience = if self.slow_max == 0 { PATIENCE } else { QUICK };
        let slow = |(_, began): &(&OpeningId, &Timestamp)| now.since(**began) >= patience;
        let slow: Vec<OpeningId> =
            self.openings.iter().take_while(slow).map(|(id, _)| *id).collect();
        let too_many = slow.len().saturating_sub(self.slow_max).min(waiting);
        slow.into_iter().take(too_many).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn open(slots: &mut Slots, count: usize, now: Timestamp) -> Vec<OpeningId> {
        let one = |_| {
            slots.task_began();
            slots.opening(now)
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn tasks_without_a_connection_have_three_quarters() {
        let mut slots = Slots::new(8);
        open(&mut slots, 5, NOW);
        assert!(slots.has_room());
        let ids = open(&mut slots, 1, NOW);
        assert!(!slots.has_room() && !slots.is_full());
        slots.opened(ids[0]);
        slots.connected();
        assert!(slots.has_room(), "one that stands leaves its place to another");
        open(&mut slots, 1, NOW);
        slots.connected();
        open(&mut slots, 1, NOW);
        assert!(slots.is_full() && !slots.has_room());
        slots.task_ended();
        assert!(slots.has_room());
    }

    #[test]
    fn the_longest_opening_ones_make_room_when_others_wait() {
        let mut slots = Slots::new(64);
        let ids = open(&mut slots, 48, NOW);
        let later = NOW.plus(QUICK);
        assert!(slots.evictions(later).is_empty(), "none waits");
        (0..100).for_each(|number| slots.starve(SiteNumber(number), LastTime::ReachedOrUnknown));
        assert!(slots.evictions(NOW).is_empty(), "they have just begun");
        assert_eq!(slots.evictions(later), ids[..6], "one eighth is kept for quick ones");
        for id in &ids[..6] {
            slots.opened(*id);
            slots.task_ended();
        }
        open(&mut slots, 6, later);
        assert!(slots.evictions(later).is_empty());
        assert_eq!(slots.evictions(later.plus(QUICK)), ids[6..12]);
    }

    #[test]
    fn a_host_that_greets_late_has_some_seconds_even_when_all_wait() {
        let mut slots = Slots::new(4096);
        let mut openings = open(&mut slots, 3072, NOW);
        let unknown = LastTime::ReachedOrUnknown;
        (0..100_000).for_each(|number| slots.starve(SiteNumber(number), unknown));
        let last = *openings.last().unwrap();
        let mut now = NOW;
        while openings.contains(&last) {
            now = now.plus(Duration::from_millis(250));
            let evicted = slots.evictions(now);
            openings.retain(|id| !evicted.contains(id));
            for id in evicted {
                slots.opened(id);
                slots.task_ended();
            }
            while slots.has_room() {
                open(&mut slots, 1, now);
            }
        }
        assert!(now.since(NOW) >= Duration::from_secs(5), "{:?}", now.since(NOW));
    }

    #[test]
    fn a_small_pool_is_patient() {
        let mut slots = Slots::new(1);
        let ids = open(&mut slots, 1, NOW);
        slots.starve(SiteNumber(7), LastTime::ReachedOrUnknown);
        assert!(slots.evictions(NOW.plus(QUICK)).is_empty());
        assert_eq!(slots.evictions(NOW.plus(PATIENCE)), ids);
    }

    #[test]
    fn the_oldest_and_the_newest_take_turns() {
        let mut slots = Slots::new(1);
        (0..6).for_each(|number| slots.starve(SiteNumber(number), LastTime::ReachedOrUnknown));
        let order = std::iter::from_fn(|| slots.next_starving());
        assert_eq!(order.map(|site| site.0).collect::<Vec<_>>(), [0, 5, 1, 4, 2, 3]);
    }

    #[test]
    fn sites_that_failed_the_last_time_have_every_fourth_slot() {
        let mut slots = Slots::new(1);
        for number in 0..6 {
            slots.starve(SiteNumber(number), LastTime::ReachedOrUnknown);
            slots.starve(SiteNumber(100 + number), LastTime::Failed);
        }
        assert_eq!(slots.starving(), 12);
        let order = std::iter::from_fn(|| slots.next_starving());
        let order: Vec<u32> = order.map(|site| site.0).collect();
        assert_eq!(order, [0, 5, 1, 100, 4, 2, 3, 105, 101, 104, 102, 103]);
    }

    /// How long a site waits that was never tried, beside `silent` ones that come back `pause`
    /// after they had to make room.
    fn wait_beside(silent: u32, pause: Duration) -> Duration {
        const STEP: Duration = Duration::from_millis(50);
        let mut slots = Slots::new(4096);
        (0..silent).for_each(|number| slots.starve(SiteNumber(number), LastTime::ReachedOrUnknown));
        let mut at_work: std::collections::HashMap<OpeningId, SiteNumber> = Default::default();
        let mut away: VecDeque<(Timestamp, SiteNumber)> = VecDeque::new();
        let good = SiteNumber(u32::MAX);
        let (mut now, mut worst, mut since) = (NOW, Duration::ZERO, None);
        for step in 0..1200 {
            now = now.plus(STEP);
            while let Some((_, site)) = away.front().copied().filter(|(until, _)| *until <= now) {
                away.pop_front();
                slots.starve(site, LastTime::Failed);
            }
            // A moment after the others of the step, so that it is neither oldest nor newest.
            if since.is_none() && step % 37 == 0 {
                slots.starve(good, LastTime::ReachedOrUnknown);
                since = Some(now);
            }
            let looks = step % 5 == 0;
            for id in slots.evictions(now).into_iter().filter(|_| looks) {
                slots.opened(id);
                slots.task_ended();
                away.extend(at_work.remove(&id).map(|site| (now.plus(pause), site)));
            }
            while slots.has_room() {
                let Some(site) = slots.next_starving() else { break };
                if site == good {
                    worst = worst.max(now.since(since.take().unwrap()));
                    continue;
                }
                slots.task_began();
                at_work.insert(slots.opening(now), site);
            }
        }
        worst.max(since.map_or(Duration::ZERO, |since| now.since(since)))
    }

    #[test]
    fn a_site_that_answers_waits_two_seconds_at_most_beside_silent_ones_that_come_back() {
        for silent in [5_000, 50_000] {
            for pause in [1, 30] {
                let waited = wait_beside(silent, Duration::from_secs(pause));
                assert!(waited <= Duration::from_secs(2), "{silent} {pause} s: {waited:?}");
            }
        }
    }
}
