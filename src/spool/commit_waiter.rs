//! The result of one commit, awaited by all whose records are in it. One allocation for a batch, a
//! waker for each waiter.

use super::batch::Slot;
use super::live::LiveRef;
use super::{Placement, SpoolError};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Why a batch did not become durable.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// No segment can be made: there is no space, or another error that may pass.
    Full(String),
    /// A write or sync failed.
    Failed(String),
}

impl Failure {
    /// The error for the caller; `kind` is that of the error that keeps the spool from a segment.
    pub(super) fn into_error(self, kind: io::ErrorKind) -> SpoolError {
        match self {
            Failure::Full(cause) => SpoolError::Full(io::Error::new(kind, cause)),
            Failure::Failed(cause) => SpoolError::Failed(cause),
        }
    }
}

/// One batch, from its first record until it is durable or refused.
#[derive(Debug, Default)]
pub(super) struct CommitWaiter {
    place: Cell<Option<(u32, u32)>>,
    outcome: RefCell<Option<Result<(), Failure>>>,
    for_place: Waiters,
    for_outcome: Waiters,
}

impl CommitWaiter {
    /// Segment and offset of the batch, once they are known.
    pub(super) fn place(&self) -> Option<(u32, u32)> {
        self.place.get()
    }

    /// The batch goes there.
    pub(super) fn sealed(&self, segment: u32, offset: u32) {
        self.place.set(Some((segment, offset)));
        self.for_place.wake();
    }

    /// The batch is durable, or will never be.
    pub(super) fn done(&self, outcome: Result<(), Failure>) {
        *self.outcome.borrow_mut() = Some(outcome);
        self.for_place.wake();
        self.for_outcome.wake();
    }

    /// Waits until it is known where the batch goes.
    pub(super) async fn wait_for_place(&self) -> Result<(u32, u32), Failure> {
        let mut key = None;
        poll_fn(|context| match (&*self.outcome.borrow(), self.place.get()) {
            (Some(Err(failure)), _) => Poll::Ready(Err(failure.clone())),
            (_, Some(place)) => Poll::Ready(Ok(place)),
            _ => self.for_place.register(&mut key, context),
        })
        .await
    }

    /// Waits until the batch is durable: segment and offset of it.
    pub(super) async fn wait(&self) -> Result<(u32, u32), Failure> {
        let mut key = None;
        poll_fn(|context| match (&*self.outcome.borrow(), self.place.get()) {
            (Some(Err(failure)), _) => Poll::Ready(Err(failure.clone())),
            (Some(Ok(())), Some(place)) => Poll::Ready(Ok(place)),
            _ => self.for_outcome.register(&mut key, context),
        })
        .await
    }
}

/// A mail record handed to the committer. The holder is responsible for it: it passes it on, or
/// gives it up with `State::give_up`, which takes it.
#[derive(Debug)]
pub(super) struct Appended {
    pub(super) waiter: Rc<CommitWaiter>,
    pub(super) slot: Slot,
}

impl Appended {
    /// Where the record is; `None` before that is known, and when its batch was refused.
    pub(super) fn placement(&self) -> Option<Placement> {
        let (segment, start) = self.waiter.place()?;
        let offset = start.saturating_add(self.slot.offset);
        Some(Placement { segment, offset, length: self.slot.length })
    }

    /// What it takes in its segment, once that is known: to be released there.
    pub(super) fn into_live_ref(self) -> Option<LiveRef> {
        self.placement().map(LiveRef::in_record)
    }
}

/// Tasks that wait for one event.
#[derive(Debug, Default)]
pub(super) struct Waiters(RefCell<Vec<Waker>>);

impl Waiters {
    /// Has the task woken by the next [`Waiters::wake`]; `key` is its place in the list, so that a
    /// task polled often is there once. A key is good until that wake.
    pub(super) fn register<T>(
        &self,
        key: &mut Option<usize>,
        context: &mut Context<'_>,
    ) -> Poll<T> {
        let mut wakers = self.0.borrow_mut();
        match key.and_then(|key| wakers.get_mut(key)) {
            // Another task may stand there if the list was woken and filled again meanwhile.
            Some(waker) if waker.will_wake(context.waker()) => {}
            _ => {
                *key = Some(wakers.len());
                wakers.push(context.waker().clone());
            }
        }
        Poll::Pending
    }

    /// Wakes them all.
    pub(super) fn wake(&self) {
        let wakers = std::mem::take(&mut *self.0.borrow_mut());
        for waker in wakers {
            waker.wake();
        }
    }
}
