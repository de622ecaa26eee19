//! The watchdog: a thread that checks the heartbeats of all shards.
//!
//! Beats that are set ahead (see `deadline`) do not help when the thread of a shard was off its CPU
//! for longer than all of them, just between the preempt timer and the first task: on a host with
//! busy CPUs, shards have slept for minutes although tasks were runnable. So a shard without a
//! heartbeat between two checks is woken from outside. For a shard that is only busy, this has no
//! effect.
//!
//! At its start, a shard can fall asleep before any of its tasks was polled: then there is no waker
//! yet, and its thread gets a signal, which ends its wait in the kernel.

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use atomic_waker::AtomicWaker;

/// Time between two checks: several beats. A shard sleeps wrongly for at most twice this.
const LOOK: Duration = Duration::from_millis(100);

/// The heartbeat of one shard.
#[derive(Default)]
pub(super) struct Watchdog {
    beats: AtomicU64,
    waker: AtomicWaker,
    /// The thread to interrupt as long as there is no waker; else 0.
    thread: AtomicI32,
}

impl Watchdog {
    /// Called by the shard while it is awake.
    pub(super) fn heartbeat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on the calling thread is interrupted when there is no heartbeat, until the first
    /// [`Watchdog::listen`].
    pub(super) fn begin(&self) {
        // SAFETY: it takes nothing and cannot fail.
        let thread = unsafe { libc::gettid() };
        self.thread.store(thread, Ordering::Release);
    }

    /// Sets the waker for a missing heartbeat.
    pub(super) fn listen(&self, waker: &Waker) {
        self.waker.register(waker);
        self.thread.store(0, Ordering::Release);
    }

    fn wake(&self) {
        match self.thread.load(Ordering::Acquire) {
            0 => self.waker.wake(),
            thread => interrupt(thread),
        }
    }
}

/// The signal that interrupts a shard. It is ignored by default, so that one that is late or comes
/// from elsewhere is harmless.
const INTERRUPT: libc::c_int = libc::SIGURG;

/// The handler does nothing; its existence makes a wait end with EINTR.
extern "C" fn interrupted(_: libc::c_int) {}

/// Interrupts `thread` of this process; no effect if it has ended.
fn interrupt(thread: i32) {
    // SAFETY: no memory is passed, and the process handles the signal, or ignores it.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, INTERRUPT) };
}

/// Makes [`INTERRUPT`] end waits.
fn handle_interrupts() -> io::Result<()> {
    // SAFETY: zeros are a valid value: no flags, among them SA_RESTART, and no signals blocked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = interrupted as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the handler does nothing, so it may run at any place.
    match unsafe { libc::sigaction(INTERRUPT, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Watches all shards of `hearts` until they are gone.
///
/// # Errors
/// The operating system cannot create a thread.
pub(super) fn watch(hearts: &[Arc<Watchdog>]) -> io::Result<()> {
    handle_interrupts()?;
    let mut watched: Vec<(Weak<Watchdog>, u64)> =
        hearts.iter().map(|watchdog| (Arc::downgrade(watchdog), u64::MAX)).collect();
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        while !watched.is_empty() {
            std::thread::sleep(LOOK);
            watched.retain_mut(|(watchdog, seen)| look(watchdog, seen));
        }
    })?;
    Ok(())
}

/// One check; false when the shard is gone.
fn look(watchdog: &Weak<Watchdog>, seen: &mut u64) -> bool {
    let Some(watchdog) = watchdog.upgrade() else { return false };
    let beats = watchdog.beats.load(Ordering::Relaxed);
    if beats == *seen {
        watchdog.wake();
    }
    *seen = beats;
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::task::Wake;

    #[test]
    fn a_thread_that_cannot_be_woken_yet_is_interrupted() {
        handle_interrupts().unwrap();
        let watchdog = Arc::new(Watchdog::default());
        let sleeper = std::thread::spawn({
            let watchdog = Arc::clone(&watchdog);
            move || {
                watchdog.begin();
                // SAFETY: no descriptors are passed; it waits for the time alone.
                let done = unsafe { libc::poll(std::ptr::null_mut(), 0, 10_000) };
                (done, io::Error::last_os_error().kind())
            }
        });
        let (weak, mut seen) = (Arc::downgrade(&watchdog), 0);
        while !sleeper.is_finished() {
            assert!(look(&weak, &mut seen));
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(sleeper.join().unwrap(), (-1, io::ErrorKind::Interrupted));
        let woken = Arc::new(Woken::default());
        watchdog.listen(&Waker::from(Arc::clone(&woken)));
        assert!(look(&weak, &mut seen));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1, "it has a waker now");
    }

    #[derive(Default)]
    struct Woken(AtomicU64);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_a_shard_without_a_heartbeat_is_woken_and_one_that_is_gone_is_forgotten() {
        let watchdog = Arc::new(Watchdog::default());
        let woken = Arc::new(Woken::default());
        let (weak, mut seen) = (Arc::downgrade(&watchdog), u64::MAX);
        for (beats, expected) in [(true, 0), (true, 0), (false, 1), (false, 2), (true, 2)] {
            watchdog.listen(&Waker::from(Arc::clone(&woken)));
            if beats {
                watchdog.heartbeat();
            }
            assert!(look(&weak, &mut seen));
            assert_eq!(woken.0.load(Ordering::Relaxed), expected);
        }
        drop(watchdog);
        assert!(!look(&weak, &mut seen));
    }
}
