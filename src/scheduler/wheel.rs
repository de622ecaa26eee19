//! The timer wheel: entries of a table by the time at which they want to be seen again.
//!
//! Five levels of 64 buckets over ticks of 10 ms reach 124 days; what lies beyond waits in a list
//! of its own until its turn of the wheel comes. Inserting and removing take constant time. An
//! entry moves down at most once per level before it comes out, and the caller bounds how many are
//! moved at a time. Nothing comes out early; at most one tick late.
//!
//! The clock may jump. Forward: what became due comes out, and empty stretches are skipped by
//! bitmap. Backward (by more than [`BACK_MAX`] ticks) or over the whole reach: the wheel is laid
//! out anew, once, at about 50 ns an entry.

use super::slab::{Linked, List, Slab, splice_out, tag_at_end};

/// Milliseconds in a tick.
pub(super) const TICK_MS: u64 = 10;

/// A clock that steps back by no more than this (ticks) is waited for instead.
const BACK_MAX: u64 = 10;

const LEVELS: usize = 5;
const BITS: u32 = 6;
const REACH_BITS: u32 = BITS * LEVELS as u32;
/// Two lists for what is beyond reach: one fills while the other, a turn later, is emptied.
const FAR: usize = LEVELS << BITS;
const OVERDUE: usize = FAR + 2;
const BUCKETS: usize = OVERDUE + 1;

/// An entry that waits for a time.
pub(super) trait Timed: Linked {
    /// The first tick at which it may come out.
    fn tick(&self) -> u64;
}

/// The tick that has begun at `ms`.
pub(super) fn tick_at(ms: u64) -> u64 {
    ms / TICK_MS
}

/// The first tick that begins no earlier than `ms`.
pub(super) fn tick_from(ms: u64) -> u64 {
    ms.div_ceil(TICK_MS)
}

pub(super) struct Wheel {
    /// Everything up to here has come out, is overdue, or is in the bucket being emptied.
    current: u64,
    buckets: Box<[List; BUCKETS]>,
    occupied: [u64; LEVELS],
    /// The bucket being emptied into lower levels. It goes before all others.
    draining: Option<usize>,
    len: usize,
}

impl Wheel {
    pub fn new() -> Wheel {
        Wheel {
            current: 0,
            buckets: Box::new([List::default(); BUCKETS]),
            occupied: [0; LEVELS],
            draining: None,
            len: 0,
        }
    }

    pub fn insert<T: Timed>(&mut self, table: &mut Slab<T>, number: u32) {
        let bucket = self.bucket_for(table[number].tick());
        self.buckets[bucket].push_back(table, number, bucket as u32);
        if let Some(bits) = self.occupied.get_mut(bucket >> BITS) {
            *bits |= 1 << (bucket & 63);
        }
        self.len += 1;
    }

    /// Takes out an entry before its time.
    pub fn remove<T: Timed>(&mut self, table: &mut Slab<T>, number: u32) {
        self.len -= 1;
        match tag_at_end(table, number) {
            None => _ = splice_out(table, number),
            Some(tag) => {
                self.buckets[tag as usize].unlink(table, number);
                self.note_if_empty(tag as usize);
            }
        }
    }

    /// Goes to the tick `now`. Call before [`Wheel::next`] and, at the latest, before an insertion
    /// into an empty wheel.
    pub fn set_now<T: Timed>(&mut self, table: &mut Slab<T>, now: u64) {
        if self.len == 0 {
            self.current = now;
            self.draining = None;
        } else if now + BACK_MAX < self.current
            || now >> REACH_BITS > (self.current >> REACH_BITS) + 1
        {
            self.lay_out_anew(table, now);
        }
    }

    /// The next entry whose tick is not after `now`; it is out of the wheel then. Spends one of
    /// `budget` for each entry touched. `None`: there is no more, or the budget is spent (then
    /// [`Wheel::wake_at`] is not after `now`).
    pub fn next<T: Timed>(
        &mut self,
        table: &mut Slab<T>,
        now: u64,
        budget: &mut usize,
    ) -> Option<u32> {
        loop {
            if let Some(number) = self.buckets[OVERDUE].pop_front(table) {
                self.len -= 1;
                return Some(number);
            }
            let Some((begins, bucket)) = self.earliest() else {
                self.current = self.current.max(now);
                return None;
            };
            if begins > now {
                self.current = self.current.max(now);
                return None;
            }
            if *budget == 0 {
                return None;
            }
            *budget -= 1;
            self.current = begins;
            self.draining = Some(bucket);
            let popped = self.buckets[bucket].pop_front(table);
            self.note_if_empty(bucket);
            let Some(number) = popped else { continue };
            self.len -= 1;
            if table[number].tick() <= self.current {
                return Some(number);
            }
            self.insert(table, number);
        }
    }

    /// The tick at which [`Wheel::next`] should be called again: not after the earliest entry's.
    pub fn wake_at(&self) -> Option<u64> {
        if !self.buckets[OVERDUE].is_empty() {
            return Some(0);
        }
        self.earliest().map(|(begins, _)| begins)
    }

    /// The first bucket that is not empty, and the tick at which it begins. What is on a level
    /// comes before all that is on higher ones, except for a bucket being emptied.
    fn earliest(&self) -> Option<(u64, usize)> {
        if let Some(bucket) = self.draining {
            return Some((self.current, bucket));
        }
        for (level, bits) in self.occupied.iter().enumerate() {
            if *bits != 0 {
                let slot = bits.trailing_zeros() as usize;
                let shift = BITS * level as u32;
                let turn = self.current >> (shift + BITS) << BITS | slot as u64;
                return Some((turn << shift, level << BITS | slot));
            }
        }
        let turn = (self.current >> REACH_BITS) + 1;
        let far = FAR + (turn & 1) as usize;
        (!self.buckets[far].is_empty()).then_some((turn << REACH_BITS, far))
    }

    fn bucket_for(&self, tick: u64) -> usize {
        if tick <= self.current {
            return OVERDUE;
        }
        // The highest digit (base 64) in which the two differ is the level.
        let level = ((tick ^ self.current).ilog2() / BITS) as usize;
        if level >= LEVELS {
            return FAR + (((self.current >> REACH_BITS) + 1) & 1) as usize;
        }
        level << BITS | (tick >> (BITS * level as u32) & 63) as usize
    }

    fn note_if_empty(&mut self, bucket: usize) {
        if !self.buckets[bucket].is_empty() {
            return;
        }
        if let Some(bits) = self.occupied.get_mut(bucket >> BITS) {
            *bits &= !(1 << (bucket & 63));
        }
        if self.draining == Some(bucket) {
            self.draining = None;
        }
    }

    fn lay_out_anew<T: Timed>(&mut self, table: &mut Slab<T>, now: u64) {
        let mut all = List::default();
        for bucket in self.buckets.iter_mut() {
            while let Some(number) = bucket.pop_front(table) {
                all.push_back(table, number, 0);
            }
        }
        self.occupied = [0; LEVELS];
        self.draining = None;
        self.current = now;
        self.len = 0;
        while let Some(number) = all.pop_front(table) {
            self.insert(table, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::slab::Links;
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Timer {
        links: Links,
        tick: u64,
    }

    impl Linked for Timer {
        fn links(&self) -> &Links {
            &self.links
        }
        fn links_mut(&mut self) -> &mut Links {
            &mut self.links
        }
    }

    impl Timed for Timer {
        fn tick(&self) -> u64 {
            self.tick
        }
    }

    /// Random insertions, removals and clock steps of every size, against a sorted map.
    #[test]
    fn entries_come_out_at_their_tick_and_never_before() {
        for seed in 0..40 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut wheel, mut table) = (Wheel::new(), Slab::<Timer>::new());
            let mut model = BTreeMap::new();
            let mut now = 100_000_000_000u64;
            wheel.set_now(&mut table, now);
            for _ in 0..3000 {
                match random.u32(0..10) {
                    0..5 => {
                        let scale = random.u32(0..34);
                        let tick = now + random.u64(0..1 << scale);
                        let number = table.insert(Timer { tick, ..Timer::default() });
                        wheel.insert(&mut table, number);
                        model.insert(number, tick);
                    }
                    5 => {
                        let chosen = model.keys().nth(random.usize(0..20)).copied();
                        if let Some(number) = chosen {
                            wheel.remove(&mut table, number);
                            table.remove(number);
                            model.remove(&number);
                        }
                    }
                    _ => {
                        let scale = random.u32(0..33);
                        let step = random.u64(0..1 << scale);
                        now = if random.u32(0..10) == 0 { now - step } else { now + step };
                        wheel.set_now(&mut table, now);
                        let mut budget = 100_000;
                        let mut last = 0;
                        while let Some(number) = wheel.next(&mut table, now, &mut budget) {
                            let tick = table.remove(number).tick;
                            assert_eq!(model.remove(&number), Some(tick));
                            assert!(tick <= now + BACK_MAX, "seed {seed}: early");
                            last = last.max(tick);
                        }
                        let next = model.values().min().copied();
                        assert!(next.is_none_or(|tick| tick > now), "seed {seed}: late");
                        match (wheel.wake_at(), next) {
                            (Some(wake), Some(next)) => assert!(now < wake && wake <= next),
                            (wake, next) => assert_eq!(wake.is_some(), next.is_some()),
                        }
                    }
                }
            }
            assert_eq!(wheel.len, model.len());
        }
    }

    #[test]
    fn a_small_budget_yields_the_same_entries_in_more_calls() {
        let (mut wheel, mut table) = (Wheel::new(), Slab::<Timer>::new());
        wheel.set_now(&mut table, 1_000_000);
        for tick in 0..1000 {
            let number = table.insert(Timer { tick: 1_300_000 + tick, ..Timer::default() });
            wheel.insert(&mut table, number);
        }
        let (mut out, mut calls) = (0, 0);
        while wheel.wake_at().is_some_and(|tick| tick <= 2_000_000) {
            calls += 1;
            let mut budget = 10;
            while wheel.next(&mut table, 2_000_000, &mut budget).is_some() {
                out += 1;
            }
        }
        assert_eq!(out, 1000);
        assert!(calls > 100 && calls < 600, "each entry moves once per level: {calls}");
    }
}
