//! Sleeping, and yielding to other tasks of the shard.

use std::cell::Cell;
use std::time::Duration;

/// After this many yields, the rings are checked even if tasks are runnable.
const YIELDS_PER_TURN: u32 = 64;
/// Short enough to pass at once, long enough not to have passed before it begins.
pub(super) const ONE_TURN: Duration = Duration::from_micros(1);

#[cfg(test)]
use super::simulation;

thread_local! {
    static YIELDS: Cell<u32> = const { Cell::new(0) };
}

/// Sleeps on this shard: at least `wait`, usually less than 0.1 ms more.
pub async fn sleep(wait: Duration) {
    #[cfg(test)]
    if simulation::runs() {
        return simulation::sleep(wait).await;
    }
    glommio::timer::sleep(wait).await;
}

/// Lets other tasks run and the rings be checked.
///
/// Other runnable tasks run at once. The rings are checked, and clients that arrive have their
/// turn, when no task is runnable, or [`Settings::preempt`](super::Settings::preempt) has passed
/// since the last time; at every 64th call of a shard also before this one returns.
pub async fn yield_now() {
    #[cfg(test)]
    if simulation::runs() {
        return futures_lite::future::yield_now().await;
    }
    let count = YIELDS.get().wrapping_add(1);
    YIELDS.set(count);
    if count.is_multiple_of(YIELDS_PER_TURN) {
        glommio::timer::sleep(ONE_TURN).await;
    } else {
        futures_lite::future::yield_now().await;
    }
}

/// Yields if this task has run for longer than the preempt time; costs two loads if not. A stream
/// whose peer is faster than the relay never has to wait, so it must call this.
pub(super) async fn give_way() {
    #[cfg(test)]
    if simulation::runs() {
        return simulation::give_way().await;
    }
    glommio::executor().yield_if_needed().await;
}
