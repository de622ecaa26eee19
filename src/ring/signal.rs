//! A local event.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::task::keep_waker;

/// A local event: `wait` ends when `set` was called since the last `wait` ended. One waiter.
/// Clones share the event.
#[derive(Clone, Default)]
pub struct Signal {
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    set: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Signal {
    /// Not set.
    pub fn new() -> Signal {
        Signal::default()
    }

    /// Wakes the waiter, or lets the next `wait` through at once.
    pub fn set(&self) {
        self.shared.set.set(true);
        let waiter = self.shared.waiter.take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Whether both are clones of the same event.
    pub fn is(&self, other: &Signal) -> bool {
        Rc::ptr_eq(&self.shared, &other.shared)
    }

    /// Waits for `set`, then clears it.
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.shared.set.take() {
                return Poll::Ready(());
            }
            keep_waker(&mut self.shared.waiter.borrow_mut(), context.waker());
            Poll::Pending
        })
        .await;
    }

    /// Waits for `set` for at most `wait`; whether it was set.
    pub async fn wait_for(&self, wait: Duration) -> bool {
        let set = async {
            self.wait().await;
            true
        };
        let passed = async {
            super::sleep(wait).await;
            false
        };
        futures_lite::future::or(set, passed).await
    }
}
