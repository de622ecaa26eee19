//! From question to result: the cache first, then one query for all who ask the same.
//!
//! A lookup is a task of its own, so it goes on, and fills the cache, when who asked has gone. At
//! most a fixed number run; the rest wait in order of arrival, and beyond a second limit fail.

use super::cache::Cache;
use super::servers::Servers;
use super::wire::{Finding, Question, Records};
use super::{Answer, Failure, Mx};
use crate::config;
use crate::limits;
use crate::message::Timestamp;
use crate::ring;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Records as they are kept; a clone costs a count.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Mx(Rc<Answer<Mx>>),
    Addresses(Rc<Answer<IpAddr>>),
}

pub(super) struct Lookups {
    settings: config::Dns,
    servers: Servers,
    state: RefCell<State>,
}

struct State {
    cache: Cache<Question, Result<Found, Failure>>,
    /// Lookups that run or wait for their turn.
    flights: HashMap<Question, Rc<Flight>>,
    /// Those that wait, the oldest in front.
    waiting: VecDeque<Question>,
    /// Tasks that look up.
    workers: usize,
}

/// One lookup and all who wait for it.
#[derive(Default)]
struct Flight {
    result: RefCell<Option<Result<Found, Failure>>>,
    /// One place for each who waits; one that went away leaves its waker, which wakes nobody.
    waiters: RefCell<Vec<Option<Waker>>>,
}

impl Lookups {
    pub(super) fn new(settings: config::Dns) -> Lookups {
        let state = State {
            cache: Cache::new(settings.cache_entries_max),
            flights: HashMap::new(),
            waiting: VecDeque::new(),
            workers: 0,
        };
        Lookups { servers: Servers::new(&settings), settings, state: RefCell::new(state) }
    }

    pub(super) async fn find(self: &Rc<Self>, question: Question) -> Result<Found, Failure> {
        if let Some((kept, _)) = self.state.borrow_mut().cache.get(&question, ring::wall_clock()) {
            return kept.clone();
        }
        self.join(question)?.landed().await
    }

    /// The flight for `question`: the one under way, or a new one.
    fn join(self: &Rc<Self>, question: Question) -> Result<Rc<Flight>, Failure> {
        let mut state = self.state.borrow_mut();
        if let Some(flight) = state.flights.get(&question) {
            return Ok(Rc::clone(flight));
        }
        if state.waiting.len() >= limits::DNS_LOOKUPS_WAITING_MAX {
            return Err(Failure::ServerFailed("too many DNS lookups are waiting".into()));
        }
        let flight = Rc::new(Flight::default());
        state.flights.insert(question.clone(), Rc::clone(&flight));
        state.waiting.push_back(question);
        if state.workers < limits::DNS_LOOKUPS_MAX {
            state.workers += 1;
            ring::spawn("dns", Rc::clone(self).work());
        }
        Ok(flight)
    }

    /// Looks up one after the other until none is waiting.
    async fn work(self: Rc<Self>) {
        let _worker = Worker(&self);
        loop {
            let next = self.state.borrow_mut().waiting.pop_front();
            let Some(question) = next else { break };
            let landing = Landing { lookups: &self, question };
            let (result, ttl) = self.look_up(&landing.question).await;
            let now = ring::wall_clock();
            let key = landing.question.clone();
            let mut state = self.state.borrow_mut();
            state.cache.insert(key, result.clone(), now.plus(ttl), now);
            drop(state);
            landing.land(result);
        }
    }

    /// Asks the servers, again for each alias that leads out of their answer. Gives the result and
    /// how long it holds.
    async fn look_up(&self, question: &Question) -> (Result<Found, Failure>, Duration) {
        let until = ring::now() + self.servers.time_max();
        let mut asked = question.clone();
        let mut links_so_far = 0;
        let mut ttl_so_far = u32::MAX;
        loop {
            let finding = match self.servers.ask(&asked, until).await {
                Ok(finding) => finding,
                Err(failure) => return (Err(failure), self.settings.failure_ttl),
            };
            match finding {
                Finding::Alias { to, links, ttl } => {
                    links_so_far += links;
                    ttl_so_far = ttl_so_far.min(ttl);
                    if links_so_far > limits::DNS_ALIASES_MAX {
                        let words = format!("aliases of {} go in a circle or on", question.name);
                        let failure = Failure::ServerFailed(words.into());
                        return (Err(failure), self.settings.failure_ttl);
                    }
                    asked = Question { name: to, kind: question.kind };
                }
                Finding::Records { records, ttl } => {
                    let ttl = self.bounded(ttl.min(ttl_so_far));
                    return (Ok(found(records, ring::wall_clock().plus(ttl))), ttl);
                }
                Finding::NoData { ttl } => {
                    return (Err(Failure::NoData), self.negative(ttl, ttl_so_far));
                }
                Finding::NoSuchDomain { ttl } => {
                    return (Err(Failure::NoSuchDomain), self.negative(ttl, ttl_so_far));
                }
                // The servers' own room turns these into a failure after asking the others.
                Finding::Failed { words, .. } => {
                    return (Err(Failure::ServerFailed(words.into())), self.settings.failure_ttl);
                }
            }
        }
    }

    fn bounded(&self, ttl: u32) -> Duration {
        let ttl = Duration::from_secs(u64::from(ttl.max(limits::DNS_TTL_SECONDS_MIN)));
        ttl.min(self.settings.ttl_max)
    }

    /// Without an SOA nothing says how long (RFC 2308 5: do not cache): as short as a failure, so
    /// that a whole mailing does not ask one by one.
    fn negative(&self, ttl: Option<u32>, aliases_ttl: u32) -> Duration {
        match ttl {
            Some(ttl) => self.bounded(ttl.min(aliases_ttl)),
            None => self.settings.failure_ttl.min(self.settings.ttl_max),
        }
    }
}

fn found(records: Records, valid_until: Timestamp) -> Found {
    match records {
        Records::Mx(records) => Found::Mx(Rc::new(Answer { records, valid_until })),
        Records::Addresses(records) => Found::Addresses(Rc::new(Answer { records, valid_until })),
    }
}

impl Flight {
    async fn landed(&self) -> Result<Found, Failure> {
        let mut place = None;
        poll_fn(|context| {
            if let Some(result) = &*self.result.borrow() {
                return Poll::Ready(result.clone());
            }
            let mut waiters = self.waiters.borrow_mut();
            let place = *place.get_or_insert_with(|| {
                waiters.push(None);
                waiters.len() - 1
            });
            if let Some(waiter) = waiters.get_mut(place) {
                match waiter {
                    Some(waker) if waker.will_wake(context.waker()) => {}
                    _ => *waiter = Some(context.waker().clone()),
                }
            }
            Poll::Pending
        })
        .await
    }

    fn land(&self, result: Result<Found, Failure>) {
        self.result.borrow_mut().get_or_insert(result);
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        waiters.into_iter().flatten().for_each(Waker::wake);
    }
}

/// A lookup of a worker. Ends for all who wait also when the worker ends in the middle.
struct Landing<'a> {
    lookups: &'a Lookups,
    question: Question,
}

impl Landing<'_> {
    fn land(&self, result: Result<Found, Failure>) {
        let flight = self.lookups.state.borrow_mut().flights.remove(&self.question);
        if let Some(flight) = flight {
            flight.land(result);
        }
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.land(Err(Failure::ServerFailed("the DNS lookup was broken off".into())));
    }
}

/// Counts a worker while it lives.
struct Worker<'a>(&'a Lookups);

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.borrow_mut();
        state.workers = state.workers.saturating_sub(1);
    }
}
