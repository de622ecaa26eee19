//! A counting semaphore of one shard: limits how many of something are in use, and tells when none
//! is.
//!
//! | purpose | call |
//! | --- | --- |
//! | at most N at once; further ones wait | [`Semaphore::acquire`] |
//! | at most N at once; further ones are refused | [`Semaphore::try_acquire`] |
//! | a budget of bytes | [`Semaphore::acquire_many`], [`Semaphore::try_acquire_many`] |
//! | only to count, or to wait until all have ended | [`Semaphore::unlimited`] |
//! | to stop: refuse new ones, wait for the others to end | [`Semaphore::close`], then [`Semaphore::idle`] or [`Semaphore::idle_within`] |
//!
//! A [`Permit`] is a guard: dropping it releases it, also when a task panics or is dropped. Keep it
//! in the task or the value that it counts; there is no explicit release.
//!
//! Requests are served in order of arrival: small ones do not overtake a large one, and
//! `try_acquire` does not overtake waiting tasks. A request for more than the limit is served when
//! nothing else is in use, so that none waits for ever.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::task::keep_waker;

/// Permits for at most a given number at once. Clones share the permits. Belongs to one shard.
#[derive(Clone)]
pub struct Semaphore {
    shared: Rc<Shared>,
}

struct Shared {
    limit: Cell<usize>,
    in_use: Cell<usize>,
    closed: Cell<bool>,
    /// Requests that wait, in order.
    waiting: RefCell<VecDeque<Rc<Request>>>,
    /// Tasks that wait until nothing is in use.
    for_idle: RefCell<Vec<Waker>>,
}

/// One call of `acquire` that waits.
struct Request {
    count: usize,
    state: Cell<RequestState>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, PartialEq)]
enum RequestState {
    Waiting,
    /// Counted as in use; the permit is made when the task is polled.
    Granted,
    Closed,
}

impl Semaphore {
    /// At most `limit` in use at once.
    pub fn new(limit: usize) -> Semaphore {
        Semaphore {
            shared: Rc::new(Shared {
                limit: Cell::new(limit),
                in_use: Cell::new(0),
                closed: Cell::new(false),
                waiting: RefCell::default(),
                for_idle: RefCell::default(),
            }),
        }
    }

    /// Without a limit: only counts.
    pub fn unlimited() -> Semaphore {
        Semaphore::new(usize::MAX)
    }

    /// Waits for a permit; `None` when the semaphore is closed.
    pub async fn acquire(&self) -> Option<Permit> {
        self.acquire_many(1).await
    }

    /// Waits for a permit that counts `count`; `None` when the semaphore is closed.
    pub async fn acquire_many(&self, count: usize) -> Option<Permit> {
        if let Some(permit) = self.try_acquire_many(count) {
            return Some(permit);
        }
        if self.is_closed() {
            return None;
        }
        let request = Rc::new(Request {
            count,
            state: Cell::new(RequestState::Waiting),
            waker: RefCell::default(),
        });
        self.shared.waiting.borrow_mut().push_back(Rc::clone(&request));
        Acquire { shared: Rc::clone(&self.shared), request }.await
    }

    /// A permit, if one is free and no task waits for it; `None` also when closed.
    pub fn try_acquire(&self) -> Option<Permit> {
        self.try_acquire_many(1)
    }

    /// A permit that counts `count`, if there is room and no task waits; `None` also when closed.
    pub fn try_acquire_many(&self, count: usize) -> Option<Permit> {
        let shared = &self.shared;
        if shared.closed.get() || !shared.waiting.borrow().is_empty() || !shared.fits(count) {
            return None;
        }
        shared.in_use.set(shared.in_use.get().saturating_add(count));
        Some(Permit { shared: Rc::clone(shared), count })
    }

    /// The sum of all permits.
    pub fn in_use(&self) -> usize {
        self.shared.in_use.get()
    }

    /// The rest of the limit; 0 when more is in use, which is possible after
    /// [`Semaphore::set_limit`].
    pub fn available(&self) -> usize {
        self.shared.limit.get().saturating_sub(self.in_use())
    }

    /// How many may be in use at once.
    pub fn limit(&self) -> usize {
        self.shared.limit.get()
    }

    /// Changes the limit. Existing permits stay valid.
    pub fn set_limit(&self, limit: usize) {
        self.shared.limit.set(limit);
        self.shared.grant();
    }

    /// Gives no more permits, and ends all waits for one. Existing permits stay valid.
    pub fn close(&self) {
        self.shared.closed.set(true);
        let waiting = std::mem::take(&mut *self.shared.waiting.borrow_mut());
        for request in waiting {
            request.finish(RequestState::Closed);
        }
    }

    /// Whether [`Semaphore::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.get()
    }

    /// Waits until no permit is in use.
    pub async fn idle(&self) {
        let mut place = None;
        poll_fn(|context| {
            if self.in_use() == 0 {
                return Poll::Ready(());
            }
            let mut waiters = self.shared.for_idle.borrow_mut();
            match place.and_then(|place: usize| waiters.get_mut(place)) {
                // The list may have been woken and filled again meanwhile.
                Some(waker) if waker.will_wake(context.waker()) => {}
                _ => {
                    place = Some(waiters.len());
                    waiters.push(context.waker().clone());
                }
            }
            Poll::Pending
        })
        .await;
    }

    /// Waits until no permit is in use, for at most `limit`; whether none is.
    pub async fn idle_within(&self, limit: Duration) -> bool {
        let idle = async {
            self.idle().await;
            true
        };
        let passed = async {
            super::sleep(limit).await;
            false
        };
        futures_lite::future::or(idle, passed).await
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (in_use, limit) = (self.in_use(), self.limit());
        f.debug_struct("Semaphore").field("in_use", &in_use).field("limit", &limit).finish()
    }
}

impl Shared {
    fn fits(&self, count: usize) -> bool {
        let in_use = self.in_use.get();
        let limit = self.limit.get();
        in_use.checked_add(count).is_some_and(|sum| sum <= limit) || in_use == 0 && limit > 0
    }

    fn give_back(&self, count: usize) {
        debug_assert!(self.in_use.get() >= count, "more is given back than was taken");
        self.in_use.set(self.in_use.get().saturating_sub(count));
        self.grant();
        if self.in_use.get() == 0 {
            let waiters = std::mem::take(&mut *self.for_idle.borrow_mut());
            waiters.into_iter().for_each(Waker::wake);
        }
    }

    /// Serves the requests at the head of the queue that there is room for.
    fn grant(&self) {
        loop {
            let request = {
                let mut waiting = self.waiting.borrow_mut();
                let Some(first) = waiting.front() else { return };
                if !self.fits(first.count) {
                    return;
                }
                self.in_use.set(self.in_use.get().saturating_add(first.count));
                waiting.pop_front()
            };
            if let Some(request) = request {
                request.finish(RequestState::Granted);
            }
        }
    }
}

impl Request {
    fn finish(&self, state: RequestState) {
        self.state.set(state);
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The future of a request.
struct Acquire {
    shared: Rc<Shared>,
    request: Rc<Request>,
}

impl Future for Acquire {
    type Output = Option<Permit>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Permit>> {
        match self.request.state.get() {
            RequestState::Waiting => {
                keep_waker(&mut self.request.waker.borrow_mut(), context.waker());
                Poll::Pending
            }
            RequestState::Granted => {
                // From now on the permit releases it.
                self.request.state.set(RequestState::Closed);
                let (shared, count) = (Rc::clone(&self.shared), self.request.count);
                Poll::Ready(Some(Permit { shared, count }))
            }
            RequestState::Closed => Poll::Ready(None),
        }
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        match self.request.state.get() {
            RequestState::Waiting => {
                self.shared.waiting.borrow_mut().retain(|one| !Rc::ptr_eq(one, &self.request));
                // Requests after it may fit now.
                self.shared.grant();
            }
            RequestState::Granted => self.shared.give_back(self.request.count),
            RequestState::Closed => {}
        }
    }
}

/// A permit of a [`Semaphore`]; released when dropped.
#[must_use = "a permit that is dropped is released at once"]
pub struct Permit {
    shared: Rc<Shared>,
    count: usize,
}

impl Permit {
    /// The number that it counts.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Releases all but `count`, when less is needed than was requested.
    pub fn shrink_to(&mut self, count: usize) {
        let less = self.count.saturating_sub(count);
        if less > 0 {
            self.count -= less;
            self.shared.give_back(less);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("count", &self.count).finish()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.count > 0 {
            self.shared.give_back(self.count);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;
    use futures_lite::future::{block_on, poll_once, zip};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// A future that is polled by hand.
    type Boxed<'a> = Pin<Box<dyn Future<Output = Option<Permit>> + 'a>>;

    fn ask(semaphore: &Semaphore, count: usize) -> Boxed<'_> {
        Box::pin(semaphore.acquire_many(count))
    }

    /// The result of a request; `None` while it waits.
    fn poll(request: &mut Boxed<'_>) -> Option<Option<Permit>> {
        block_on(poll_once(request))
    }

    #[test]
    fn there_are_as_many_permits_as_the_limit_and_dropped_ones_are_released() {
        let semaphore = Semaphore::new(2);
        let first = semaphore.try_acquire().unwrap();
        let _second = semaphore.try_acquire().unwrap();
        assert!(semaphore.try_acquire().is_none());
        assert_eq!((semaphore.in_use(), semaphore.available()), (2, 0));
        drop(first);
        assert_eq!((semaphore.in_use(), semaphore.available()), (1, 1));
        assert!(semaphore.try_acquire().is_some());
        assert!(Semaphore::new(0).try_acquire().is_none());
    }

    #[test]
    fn a_panic_releases_the_permit() {
        let semaphore = Semaphore::new(1);
        let permit = semaphore.try_acquire();
        let fault = catch_unwind(AssertUnwindSafe(|| {
            let _permit = permit;
            panic!("on purpose");
        }));
        assert!(fault.is_err());
        assert_eq!(semaphore.in_use(), 0);
    }

    #[test]
    fn requests_are_served_in_order_and_none_is_overtaken() {
        let semaphore = Semaphore::new(3);
        let held = semaphore.try_acquire_many(2).unwrap();
        let (mut large, mut small) = (ask(&semaphore, 3), ask(&semaphore, 1));
        assert!(poll(&mut large).is_none());
        assert!(poll(&mut small).is_none(), "one is free, but an earlier request waits");
        assert!(semaphore.try_acquire().is_none(), "try_acquire does not overtake either");
        drop(held);
        let granted = poll(&mut large).unwrap().unwrap();
        assert!(poll(&mut small).is_none());
        drop(granted);
        assert!(poll(&mut small).unwrap().is_some());
    }

    #[test]
    fn a_dropped_request_lets_the_next_one_through() {
        let semaphore = Semaphore::new(2);
        let _held = semaphore.try_acquire().unwrap();
        let (mut large, mut small) = (ask(&semaphore, 2), ask(&semaphore, 1));
        assert!(poll(&mut large).is_none() && poll(&mut small).is_none());
        drop(large);
        assert!(poll(&mut small).unwrap().is_some());
    }

    #[test]
    fn a_grant_that_is_not_collected_is_released() {
        let semaphore = Semaphore::new(1);
        let held = semaphore.try_acquire().unwrap();
        let (mut first, mut second) = (ask(&semaphore, 1), ask(&semaphore, 1));
        assert!(poll(&mut first).is_none() && poll(&mut second).is_none());
        drop(held);
        assert_eq!(semaphore.in_use(), 1, "granted to the first, which was not polled yet");
        drop(first);
        let granted = poll(&mut second).unwrap().unwrap();
        drop((granted, second));
        assert_eq!(semaphore.in_use(), 0);
    }

    #[test]
    fn more_than_the_limit_is_granted_alone() {
        let semaphore = Semaphore::new(2);
        let held = semaphore.try_acquire().unwrap();
        let mut request = ask(&semaphore, 5);
        assert!(poll(&mut request).is_none());
        drop(held);
        let mut permit = poll(&mut request).unwrap().unwrap();
        assert_eq!((permit.count(), semaphore.available()), (5, 0));
        permit.shrink_to(1);
        assert_eq!((permit.count(), semaphore.in_use()), (1, 1));
    }

    #[test]
    fn the_limit_may_change() {
        let semaphore = Semaphore::new(1);
        let held = semaphore.try_acquire().unwrap();
        let mut request = ask(&semaphore, 1);
        assert!(poll(&mut request).is_none());
        semaphore.set_limit(2);
        let second = poll(&mut request).unwrap().unwrap();
        semaphore.set_limit(1);
        assert_eq!((semaphore.in_use(), semaphore.available()), (2, 0));
        drop(held);
        assert!(semaphore.try_acquire().is_none());
        drop(second);
        assert!(semaphore.try_acquire().is_some());
    }

    #[test]
    fn closing_ends_waits_and_the_last_released_permit_makes_it_idle() {
        let semaphore = Semaphore::new(1);
        let held = semaphore.try_acquire().unwrap();
        let mut request = ask(&semaphore, 1);
        assert!(poll(&mut request).is_none());
        semaphore.close();
        assert!(poll(&mut request).unwrap().is_none());
        assert!(semaphore.try_acquire().is_none() && semaphore.is_closed());
        assert!(block_on(semaphore.acquire()).is_none());

        let mut idle = Box::pin(zip(semaphore.idle(), semaphore.idle()));
        assert!(block_on(poll_once(&mut idle)).is_none());
        drop(held);
        assert!(block_on(poll_once(&mut idle)).is_some());
        block_on(semaphore.idle());
    }
}
