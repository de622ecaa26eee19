//! A channel for items to a shard, from any thread.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use atomic_waker::AtomicWaker;
use crossbeam_channel::{Receiver, TrySendError};

use super::timer::give_way;

/// A bounded channel into a shard; any thread may hold a [`Sender`]. It holds `capacity` items, at
/// least 1.
pub fn mailbox<T: Send>(capacity: usize) -> (Sender<T>, Mailbox<T>) {
    let (sender, receiver) = crossbeam_channel::bounded(capacity.max(1));
    let waker = Arc::new(AtomicWaker::new());
    let room = Arc::new(Room::default());
    let sender = Sender { items: sender, waker: Arc::clone(&waker), room: Arc::clone(&room) };
    (sender, Mailbox { items: receiver, waker, room })
}

/// Senders that wait for room in a full mailbox.
#[derive(Default)]
struct Room {
    /// Whether any wait; checked for each item that is taken.
    wanted: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
    /// The receiving end is gone.
    closed: AtomicBool,
}

impl Room {
    fn wake_all(&self) {
        if self.wanted.swap(false, Ordering::SeqCst) {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.drain(..).for_each(Waker::wake);
        }
    }
}

/// The sending end: `Send`, `Clone`.
pub struct Sender<T> {
    items: crossbeam_channel::Sender<T>,
    // One waker for all items. While it is taken, the task is awake and further items wake none.
    waker: Arc<AtomicWaker>,
    room: Arc<Room>,
}

impl<T: Send> Sender<T> {
    /// Sends `item` and wakes the shard; returns it when the mailbox is full or gone.
    pub fn try_send(&self, item: T) -> Result<(), T> {
        match self.items.try_send(item) {
            Ok(()) => {
                self.waker.wake();
                Ok(())
            }
            Err(TrySendError::Full(item) | TrySendError::Disconnected(item)) => Err(item),
        }
    }

    /// Waits until the mailbox has room, or is gone. Another sender may take the room first.
    pub async fn room(&self) {
        poll_fn(|context| {
            if !self.items.is_full() || self.is_gone() {
                return Poll::Ready(());
            }
            let mut waiting = self.room.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            self.room.wanted.store(true, Ordering::SeqCst);
            drop(waiting);
            // Check again: an item that was taken in between has woken none.
            match self.items.is_full() && !self.is_gone() {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
    }

    /// Whether the receiving end is gone: no item is ever taken again.
    pub fn is_gone(&self) -> bool {
        self.room.closed.load(Ordering::SeqCst)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        let (waker, room) = (Arc::clone(&self.waker), Arc::clone(&self.room));
        Sender { items: self.items.clone(), waker, room }
    }
}

/// The receiving end; it is moved to its shard once and stays there. `Send`.
pub struct Mailbox<T> {
    items: Receiver<T>,
    waker: Arc<AtomicWaker>,
    room: Arc<Room>,
}

impl<T> Drop for Mailbox<T> {
    fn drop(&mut self) {
        self.room.closed.store(true, Ordering::SeqCst);
        self.room.wake_all();
    }
}

impl<T: Send> Mailbox<T> {
    /// The next item, waiting for it; for ever when no sender is left.
    pub async fn recv(&mut self) -> T {
        give_way().await;
        poll_fn(|context| {
            if let Some(item) = self.try_recv() {
                return Poll::Ready(item);
            }
            self.waker.register(context.waker());
            // Check again: an item that was sent in between has woken none.
            match self.try_recv() {
                Some(item) => Poll::Ready(item),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// The next item, if there is one.
    pub fn try_recv(&mut self) -> Option<T> {
        let item = self.items.try_recv().ok()?;
        self.room.wake_all();
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};

    #[test]
    fn a_sender_waits_for_room_and_is_woken_by_the_next_item_taken() {
        let (sender, mut mailbox) = mailbox(1);
        assert_eq!(sender.try_send(1), Ok(()));
        assert_eq!(sender.try_send(2), Err(2));
        let other = sender.clone();
        let mut room = Box::pin(async move { other.room().await });
        assert!(block_on(poll_once(&mut room)).is_none());
        assert_eq!(mailbox.try_recv(), Some(1));
        assert!(block_on(poll_once(&mut room)).is_some());
        assert_eq!(sender.try_send(2), Ok(()));
        drop(mailbox);
        block_on(sender.room());
        assert!(sender.is_gone());
    }

    #[test]
    fn a_thread_that_waits_for_room_goes_on() {
        let (sender, mut mailbox) = mailbox(2);
        let filler = std::thread::spawn(move || {
            for item in 0..1000 {
                let mut item = item;
                while let Err(back) = sender.try_send(item) {
                    item = back;
                    block_on(sender.room());
                }
            }
        });
        let mut expected = 0;
        while expected < 1000 {
            if let Some(item) = mailbox.try_recv() {
                assert_eq!(item, expected);
                expected += 1;
            }
        }
        assert!(filler.join().is_ok());
    }
}
