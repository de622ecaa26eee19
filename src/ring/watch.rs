//! The watch over the shards' hearts, from a thread of its own.
//!
//! Beats that are set ahead (see `deadline`) do not help when the thread of a shard was off its CPU
//! for longer than all of them, just between the preempt timer and the first task: on a host
//! whose CPUs are full, shards were seen asleep over runnable tasks for minutes. So a shard whose
//! heart has not beaten between two looks is woken from outside. One that is merely busy takes no
//! notice.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use atomic_waker::AtomicWaker;

/// Between two looks: several beats, and the longest that a shard sleeps wrongly, twice over.
const LOOK: Duration = Duration::from_millis(100);

/// One shard's heart.
#[derive(Default)]
pub(super) struct Heart {
    beats: AtomicU64,
    waker: AtomicWaker,
}

impl Heart {
    /// The shard is awake.
    pub(super) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Whom to wake when the beats stay out.
    pub(super) fn listen(&self, waker: &Waker) {
        self.waker.register(waker);
    }
}

/// Watches `hearts` until all are gone.
///
/// # Errors
/// The operating system gives no thread.
pub(super) fn watch(hearts: &[Arc<Heart>]) -> io::Result<()> {
    let mut watched: Vec<(Weak<Heart>, u64)> =
        hearts.iter().map(|heart| (Arc::downgrade(heart), u64::MAX)).collect();
    std::thread::Builder::new().name("heart watch".to_owned()).spawn(move || {
        while !watched.is_empty() {
            std::thread::sleep(LOOK);
            watched.retain_mut(|(heart, seen)| look(heart, seen));
        }
    })?;
    Ok(())
}

/// One look; false when the shard is gone.
fn look(heart: &Weak<Heart>, seen: &mut u64) -> bool {
    let Some(heart) = heart.upgrade() else { return false };
    let beats = heart.beats.load(Ordering::Relaxed);
    if beats == *seen {
        heart.waker.wake();
    }
    *seen = beats;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicU64);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_a_heart_that_stands_still_is_woken_and_a_shard_that_is_gone_is_forgotten() {
        let heart = Arc::new(Heart::default());
        let woken = Arc::new(Woken::default());
        let (weak, mut seen) = (Arc::downgrade(&heart), u64::MAX);
        for (beats, expected) in [(true, 0), (true, 0), (false, 1), (false, 2), (true, 2)] {
            heart.listen(&Waker::from(Arc::clone(&woken)));
            if beats {
                heart.beat();
            }
            assert!(look(&weak, &mut seen));
            assert_eq!(woken.0.load(Ordering::Relaxed), expected);
        }
        drop(heart);
        assert!(!look(&weak, &mut seen));
    }
}
