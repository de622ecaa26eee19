//! A bounded cache of values that expire. *Pure.*
//!
//! When it is full, it evicts by second chance (the clock algorithm): an entry used since the hand
//! last passed stays for another round. A bulk relay looks up a few large receivers all the time
//! and a long tail of domains once each; with oldest-first, the tail would evict the large ones.

use crate::message::Timestamp;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// A bounded number of values by key, each with its own expiry.
pub(crate) struct Cache<K, V> {
    places: HashMap<K, usize>,
    entries: Vec<Entry<K, V>>,
    hand: usize,
    entries_max: usize,
}

struct Entry<K, V> {
    key: K,
    value: V,
    valid_until: Timestamp,
    /// Used since the hand last passed.
    used: bool,
}

impl<K: Hash + Eq + Clone, V> Cache<K, V> {
    /// A cache for `entries_max` entries, at least one.
    pub(crate) fn new(entries_max: usize) -> Cache<K, V> {
        Cache {
            places: HashMap::new(),
            entries: Vec::new(),
            hand: 0,
            entries_max: entries_max.max(1),
        }
    }

    /// The value of `key` with its expiry, unless it has expired.
    pub(crate) fn get<Q>(&mut self, key: &Q, now: Timestamp) -> Option<(&V, Timestamp)>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let entry = self.entries.get_mut(*self.places.get(key)?)?;
        if entry.valid_until <= now {
            return None;
        }
        entry.used = true;
        Some((&entry.value, entry.valid_until))
    }

    /// The value of `key`, expired or not.
    pub(crate) fn last<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.entries.get(*self.places.get(key)?).map(|entry| &entry.value)
    }

    /// Stores `value` until `valid_until`, in place of the old value of `key`.
    pub(crate) fn insert(&mut self, key: K, value: V, valid_until: Timestamp, now: Timestamp) {
        let entry = Entry { key: key.clone(), value, valid_until, used: false };
        if let Some(place) = self.places.get(&key)
            && let Some(kept) = self.entries.get_mut(*place)
        {
            *kept = entry;
            return;
        }
        if self.entries.len() < self.entries_max {
            self.places.insert(key, self.entries.len());
            self.entries.push(entry);
            return;
        }
        let place = self.free_place(now);
        if let Some(old) = self.entries.get_mut(place) {
            self.places.remove(&old.key);
            *old = entry;
            self.places.insert(key, place);
        }
    }

    /// Number of entries, expired or not.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The next place whose entry has expired or was not used. Two rounds at most: the first clears
    /// every mark.
    fn free_place(&mut self, now: Timestamp) -> usize {
        loop {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.entries.len().max(1);
            match self.entries.get_mut(place) {
                Some(entry) if entry.used && entry.valid_until > now => entry.used = false,
                _ => return place,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);
    const LATER: Timestamp = Timestamp(2_000);

    #[test]
    fn an_entry_is_valid_before_its_expiry_and_not_at_it() {
        let mut cache = Cache::new(4);
        cache.insert("a", 1, LATER, NOW);
        assert_eq!(cache.get("a", Timestamp(1_999)), Some((&1, LATER)));
        assert_eq!(cache.get("a", LATER), None);
        cache.insert("a", 2, Timestamp(3_000), LATER);
        assert_eq!(cache.get("a", LATER), Some((&2, Timestamp(3_000))));
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn a_used_entry_outlives_a_long_tail() {
        let mut cache = Cache::new(4);
        cache.insert("large".to_owned(), 0, LATER, NOW);
        for number in 1..100 {
            assert!(cache.get("large", NOW).is_some(), "gone after {number}");
            cache.insert(format!("tail{number}"), number, LATER, NOW);
            assert!(cache.len() <= 4);
        }
    }

    #[test]
    fn expired_entries_are_evicted_first_even_when_used() {
        let mut cache = Cache::new(2);
        cache.insert("old", 1, LATER, NOW);
        cache.insert("good", 2, Timestamp(9_000), NOW);
        assert!(cache.get("old", NOW).is_some());
        assert!(cache.get("good", NOW).is_some());
        cache.insert("new", 3, Timestamp(9_000), LATER);
        assert!(cache.get("good", LATER).is_some());
        assert!(cache.get("new", LATER).is_some());
    }

    #[test]
    fn a_cache_of_size_zero_holds_one_entry() {
        let mut cache = Cache::new(0);
        cache.insert("a", 1, LATER, NOW);
        cache.insert("b", 2, LATER, NOW);
        assert_eq!(cache.get("a", NOW), None);
        assert_eq!(cache.get("b", NOW), Some((&2, LATER)));
    }
}
