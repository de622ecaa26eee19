//! Items for a shard, from any thread.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use atomic_waker::AtomicWaker;
use crossbeam_channel::{Receiver, TrySendError};

use super::timer::give_way;

/// A bounded channel into a shard; any thread may hold a [`Sender`]. It holds `capacity` items, at
/// least 1.
pub fn mailbox<T: Send>(capacity: usize) -> (Sender<T>, Mailbox<T>) {
    let (sender, receiver) = crossbeam_channel::bounded(capacity.max(1));
    let waker = Arc::new(AtomicWaker::new());
    (Sender { items: sender, waker: Arc::clone(&waker) }, Mailbox { items: receiver, waker })
}

/// The sending end: `Send`, `Clone`.
pub struct Sender<T> {
    items: crossbeam_channel::Sender<T>,
    // One waker for all items: while it is taken, further items wake nobody, who is awake anyhow.
    waker: Arc<AtomicWaker>,
}

impl<T: Send> Sender<T> {
    /// Puts `item` in and wakes the shard; gives it back when the mailbox is full or gone.
    pub fn try_send(&self, item: T) -> Result<(), T> {
        match self.items.try_send(item) {
            Ok(()) => {
                self.waker.wake();
                Ok(())
            }
            Err(TrySendError::Full(item) | TrySendError::Disconnected(item)) => Err(item),
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender { items: self.items.clone(), waker: Arc::clone(&self.waker) }
    }
}

/// The receiving end; moves to its shard once and stays. `Send`.
pub struct Mailbox<T> {
    items: Receiver<T>,
    waker: Arc<AtomicWaker>,
}

impl<T: Send> Mailbox<T> {
    /// The next item, waiting for it; for ever when no sender is left.
    pub async fn recv(&mut self) -> T {
        give_way().await;
        poll_fn(|context| {
            if let Ok(item) = self.items.try_recv() {
                return Poll::Ready(item);
            }
            self.waker.register(context.waker());
            // Again: an item that came in between has woken nobody.
            match self.items.try_recv() {
                Ok(item) => Poll::Ready(item),
                Err(_) => Poll::Pending,
            }
        })
        .await
    }

    /// The next item, if there is one.
    pub fn try_recv(&mut self) -> Option<T> {
        self.items.try_recv().ok()
    }
}
