//! Decides which lookup runs next, so that names without an answer do not block others. *Pure.*
//!
//! | class | names | waits | slots | at the bound |
//! | --- | --- | --- | --- | --- |
//! | fresh | not asked yet, or answered the last time | newest first; each 8th turn the oldest | quick: 256, for 250 ms each | of more than 16,384, with those again, the oldest fails, those again first |
//! | again | failed as late the last time, while it waited | oldest first, behind fresh; each 8th turn | quick | as fresh |
//! | known | past its quick time, answered the last time | oldest first, before late and silent | patient: 256, to the end | as late, after the late ones |
//! | late | past its quick time, not answered before | oldest first, three turns of four | patient | of more than 2,048 slow ones the oldest silent one fails, or else the oldest late one |
//! | silent | no answer the last time | oldest first, one turn of four | patient | as late, and first |
//!
//! The quick lane starts 256 lookups in 250 ms even when none is answered. A fresh name is looked
//! up soon however many others wait, and those get their turn too. A lookup that fails defers its
//! mail, which is tried again by the retry schedule. The numbers are in [`limits`].

use crate::limits;
use std::collections::VecDeque;

/// One turn in this many goes to lookups that would otherwise wait for ever; of quick turns, every
/// other one of these to the oldest fresh name.
const TURNS: u32 = 4;

/// How a name answered before, and how far its lookup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Fresh,
    Again,
    Known,
    Late,
    Silent,
}

/// What a lookup holds while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Quick,
    Patient,
}

/// Lookups that wait, and slots in use.
pub(super) struct Lanes<Q> {
    fresh: VecDeque<Q>,
    again: VecDeque<Q>,
    known: VecDeque<Q>,
    late: VecDeque<Q>,
    silent: VecDeque<Q>,
    quick_used: usize,
    patient_used: usize,
    quick_turns: u32,
    patient_turns: u32,
}

impl<Q> Lanes<Q> {
    pub(super) fn new() -> Lanes<Q> {
        Lanes {
            fresh: VecDeque::new(),
            again: VecDeque::new(),
            known: VecDeque::new(),
            late: VecDeque::new(),
            silent: VecDeque::new(),
            quick_used: 0,
            patient_used: 0,
            quick_turns: 0,
            patient_turns: 0,
        }
    }

    /// Adds `lookup` to those that wait. If that is too many, returns the one that is dropped, with
    /// its class.
    #[must_use]
    pub(super) fn push(&mut self, lookup: Q, class: Class) -> Option<(Q, Class)> {
        match class {
            Class::Fresh => self.fresh.push_back(lookup),
            Class::Again => self.again.push_back(lookup),
            Class::Known => self.known.push_back(lookup),
            Class::Late => self.late.push_back(lookup),
            Class::Silent => self.silent.push_back(lookup),
        }
        if self.fresh.len() + self.again.len() > limits::DNS_FRESH_WAITING_MAX {
            let again = self.again.pop_front().map(|oldest| (oldest, Class::Again));
            let fresh = || self.fresh.pop_front().map(|oldest| (oldest, Class::Fresh));
            return again.or_else(fresh);
        }
        if self.known.len() + self.late.len() + self.silent.len() <= limits::DNS_SLOW_WAITING_MAX {
            return None;
        }
        let silent = self.silent.pop_front().map(|oldest| (oldest, Class::Silent));
        let late = || self.late.pop_front().map(|oldest| (oldest, Class::Late));
        let known = || self.known.pop_front().map(|oldest| (oldest, Class::Known));
        silent.or_else(late).or_else(known)
    }

    /// The next lookup for which there is a slot, which it takes; [`Lanes::free`] returns it.
    pub(super) fn next(&mut self) -> Option<(Q, Slot)> {
        if self.quick_used < limits::DNS_QUICK_LOOKUPS_MAX
            && let Some(lookup) = self.next_fresh()
        {
            self.quick_used += 1;
            return Some((lookup, Slot::Quick));
        }
        if self.patient_used < limits::DNS_PATIENT_LOOKUPS_MAX
            && let Some(lookup) = self.next_slow()
        {
            self.patient_used += 1;
            return Some((lookup, Slot::Patient));
        }
        None
    }

    /// Exchanges a quick slot for a patient one; false when none is free.
    pub(super) fn exchange(&mut self) -> bool {
        // Lookups that wait for one come first.
        let waits = !(self.known.is_empty() && self.late.is_empty());
        if waits || self.patient_used >= limits::DNS_PATIENT_LOOKUPS_MAX {
            return false;
        }
        self.free(Slot::Quick);
        self.patient_used += 1;
        true
    }

    pub(super) fn free(&mut self, slot: Slot) {
        let used = match slot {
            Slot::Quick => &mut self.quick_used,
            Slot::Patient => &mut self.patient_used,
        };
        debug_assert!(*used > 0);
        *used = used.saturating_sub(1);
    }

    fn next_fresh(&mut self) -> Option<Q> {
        if self.fresh.is_empty() {
            return self.again.pop_front();
        }
        self.quick_turns = self.quick_turns.wrapping_add(1);
        match self.quick_turns % (2 * TURNS) {
            0 => self.again.pop_front().or_else(|| self.fresh.pop_front()),
            TURNS => self.fresh.pop_front(),
            _ => self.fresh.pop_back(),
        }
    }

    fn next_slow(&mut self) -> Option<Q> {
        if let Some(known) = self.known.pop_front() {
            return Some(known);
        }
        if self.late.is_empty() {
            return self.silent.pop_front();
        }
        self.patient_turns = self.patient_turns.wrapping_add(1);
        let turn_of_silent = self.patient_turns.is_multiple_of(TURNS);
        let silent = if turn_of_silent { self.silent.pop_front() } else { None };
        silent.or_else(|| self.late.pop_front())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn with(lookups: &[(u32, Class)]) -> Lanes<u32> {
        let mut lanes = Lanes::new();
        for (lookup, class) in lookups {
            assert_eq!(lanes.push(*lookup, *class), None);
        }
        lanes
    }

    /// Lanes with all quick slots in use, by lookups that are not answered.
    fn with_full_quick_lane() -> Lanes<u32> {
        let mut lanes = Lanes::new();
        for number in 0..limits::DNS_QUICK_LOOKUPS_MAX {
            assert!(lanes.push(number as u32, Class::Fresh).is_none());
            assert!(matches!(lanes.next(), Some((_, Slot::Quick))));
        }
        lanes
    }

    #[test]
    fn fresh_names_go_newest_first_and_each_fourth_turn_is_the_oldest() {
        let mut lanes = with(&[1, 2, 3, 4, 5, 6].map(|number| (number, Class::Fresh)));
        let order: Vec<_> = std::iter::from_fn(|| lanes.next()).map(|(lookup, _)| lookup).collect();
        assert_eq!(order, [6, 5, 4, 1, 3, 2]);
    }

    #[test]
    fn names_that_were_dropped_go_behind_fresh_ones_and_take_each_eighth_turn() {
        let mut lanes = with(&[(1, Class::Again), (2, Class::Again)]);
        for number in 10..18 {
            assert_eq!(lanes.push(number, Class::Fresh), None);
        }
        let order: Vec<_> = std::iter::from_fn(|| lanes.next()).map(|(lookup, _)| lookup).collect();
        assert_eq!(order, [17, 16, 15, 10, 14, 13, 12, 1, 11, 2]);
    }

    #[test]
    fn known_names_go_before_late_ones_and_silent_ones_take_each_fourth_turn() {
        let mut lanes = with(&[
            (40, Class::Silent),
            (41, Class::Silent),
            (20, Class::Late),
            (21, Class::Late),
            (22, Class::Late),
            (23, Class::Late),
            (10, Class::Known),
        ]);
        let order: Vec<_> = std::iter::from_fn(|| lanes.next()).collect();
        let expected = [10, 20, 21, 22, 40, 23, 41].map(|lookup| (lookup, Slot::Patient));
        assert_eq!(order, expected);
    }

    #[test]
    fn silent_names_in_all_patient_slots_leave_the_quick_lane_free() {
        let mut lanes = Lanes::new();
        for number in 0..limits::DNS_PATIENT_LOOKUPS_MAX + 10 {
            assert!(lanes.push(number as u32, Class::Silent).is_none());
        }
        let started = std::iter::from_fn(|| lanes.next()).count();
        assert_eq!(started, limits::DNS_PATIENT_LOOKUPS_MAX);
        assert!(lanes.push(7_000, Class::Fresh).is_none());
        assert_eq!(lanes.next(), Some((7_000, Slot::Quick)));
    }

    #[test]
    fn a_lookup_past_its_quick_time_gives_its_slot_to_the_next() {
        let mut lanes = with_full_quick_lane();
        assert!(lanes.push(7_000, Class::Fresh).is_none());
        assert_eq!(lanes.next(), None);
        assert!(lanes.exchange());
        assert_eq!(lanes.next(), Some((7_000, Slot::Quick)));
        lanes.free(Slot::Patient);
        assert_eq!((lanes.quick_used, lanes.patient_used), (256, 0));
    }

    #[test]
    fn without_a_patient_slot_it_waits_with_the_late_ones() {
        let mut lanes = with_full_quick_lane();
        while lanes.exchange() {
            assert!(lanes.push(7_000, Class::Fresh).is_none());
            assert_eq!(lanes.next(), Some((7_000, Slot::Quick)));
        }
        assert_eq!(lanes.patient_used, limits::DNS_PATIENT_LOOKUPS_MAX);
        assert!(lanes.push(1, Class::Late).is_none());
        lanes.free(Slot::Quick);
        assert_eq!(lanes.next(), None);
        lanes.free(Slot::Patient);
        assert!(!lanes.exchange(), "the waiting one comes first");
        assert_eq!(lanes.next(), Some((1, Slot::Patient)));
    }

    #[test]
    fn at_the_bound_the_oldest_silent_name_is_dropped_and_then_the_oldest_late_one() {
        let mut lanes = with(&[(1, Class::Silent), (2, Class::Late), (3, Class::Known)]);
        for _ in 3..limits::DNS_SLOW_WAITING_MAX {
            assert_eq!(lanes.push(9, Class::Known), None);
        }
        assert_eq!(lanes.push(9, Class::Known), Some((1, Class::Silent)));
        assert_eq!(lanes.push(9, Class::Known), Some((2, Class::Late)));
        assert_eq!(lanes.push(9, Class::Known), Some((3, Class::Known)));
    }

    #[test]
    fn at_the_bound_the_oldest_fresh_name_is_dropped_and_not_the_new_one() {
        let mut lanes = Lanes::new();
        for number in 0..limits::DNS_FRESH_WAITING_MAX {
            assert_eq!(lanes.push(number, Class::Fresh), None);
        }
        let bound = limits::DNS_FRESH_WAITING_MAX;
        assert_eq!(lanes.push(bound, Class::Fresh), Some((0, Class::Fresh)));
        assert_eq!(lanes.next(), Some((bound, Slot::Quick)));
    }
}
