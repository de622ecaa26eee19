//! From question to result: the cache first, then one lookup for all callers with that question.
//!
//! A lookup is a separate task, so it continues, and fills the cache, even if its caller is gone.
//! Which lookups run and which wait is decided in [`lanes`](super::lanes).

use super::cache::Cache;
use super::lanes::{Class, Lanes, Slot};
use super::servers::Servers;
use super::wire::{Finding, Question, Records};
use super::{Answer, Failure, Mx};
use crate::config;
use crate::limits;
use crate::message::Timestamp;
use crate::ring;
use futures_lite::future::or;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// How long a lookup holds a quick slot.
const QUICK_TIME: Duration = Duration::from_millis(limits::DNS_QUICK_MILLIS);

/// Records in the cache; cheap to clone.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Mx(Rc<Answer<Mx>>),
    Addresses(Rc<Answer<IpAddr>>),
}

pub(super) struct Lookups {
    settings: config::Dns,
    servers: Rc<Servers>,
    state: RefCell<State>,
}

struct State {
    cache: Cache<Question, Kept>,
    /// Lookups that run or wait.
    flights: HashMap<Question, Rc<Flight>>,
    lanes: Lanes<Question>,
}

/// The result of the last lookup of a name.
struct Kept {
    result: Result<Found, Failure>,
    /// The class of its next lookup.
    class: Class,
}

/// One lookup and all callers that wait for it.
#[derive(Default)]
struct Flight {
    result: RefCell<Option<Result<Found, Failure>>>,
    /// One place for each caller; one that is gone leaves a waker without effect.
    waiters: RefCell<Vec<Option<Waker>>>,
}

impl Lookups {
    pub(super) fn new(settings: config::Dns) -> Lookups {
        let state = State {
            cache: Cache::new(settings.cache_entries_max),
            flights: HashMap::new(),
            lanes: Lanes::new(),
        };
        let servers = Rc::new(Servers::new(&settings));
        Lookups { servers, settings, state: RefCell::new(state) }
    }

    pub(super) async fn find(self: &Rc<Self>, question: Question) -> Result<Found, Failure> {
        if let Some((kept, _)) = self.state.borrow_mut().cache.get(&question, ring::wall_clock()) {
            return kept.result.clone();
        }
        self.join(question).landed().await
    }

    /// The flight for `question`: the current one, or a new one.
    fn join(self: &Rc<Self>, question: Question) -> Rc<Flight> {
        let mut state = self.state.borrow_mut();
        if let Some(flight) = state.flights.get(&question) {
            return Rc::clone(flight);
        }
        let flight = Rc::new(Flight::default());
        state.flights.insert(question.clone(), Rc::clone(&flight));
        let class = state.cache.last(&question).map_or(Class::Fresh, |kept| kept.class);
        drop(state);
        self.enqueue(question, class);
        self.start();
        flight
    }

    /// Adds a lookup to those that wait; if another one is dropped for it, that one fails.
    fn enqueue(&self, question: Question, class: Class) {
        let dropped = self.state.borrow_mut().lanes.push(question, class);
        let Some((question, class)) = dropped else { return };
        let asked = question.words();
        let text = match class {
            Class::Fresh | Class::Again => {
                let waiting = limits::DNS_FRESH_WAITING_MAX;
                format!("{asked} was not looked up: {waiting} DNS lookups are waiting")
            }
            Class::Known | Class::Late | Class::Silent => {
                let waiting = limits::DNS_SLOW_WAITING_MAX;
                format!("no DNS server answered {asked}, and {waiting} slow lookups are waiting")
            }
        };
        let failure = Failure::ServerFailed(text.into());
        if class == Class::Late {
            // The next time it does not stand among names that nothing is known of.
            let kept = Kept { result: Err(failure.clone()), class: Class::Again };
            let now = ring::wall_clock();
            self.state.borrow_mut().cache.insert(question.clone(), kept, now, now);
        }
        self.land(&question, Err(failure));
    }

    /// Starts lookups while there are slots.
    fn start(self: &Rc<Self>) {
        loop {
            let next = self.state.borrow_mut().lanes.next();
            let Some((question, slot)) = next else { break };
            ring::spawn("dns", Rc::clone(self).run(question, slot));
        }
    }

    /// Runs a lookup until it ends, or until its quick time is over without a patient slot.
    async fn run(self: Rc<Self>, question: Question, slot: Slot) {
        let turn = Turn { lookups: &self, slot: Cell::new(slot) };
        let landing =
            Landing { lookups: &self, question: question.clone(), over: Cell::new(false) };
        let mut lookup = pin!(self.look_up(&landing.question));
        let quick_answer = match slot {
            Slot::Patient => None,
            Slot::Quick => {
                let passed = async {
                    ring::sleep(QUICK_TIME).await;
                    None
                };
                or(async { Some(lookup.as_mut().await) }, passed).await
            }
        };
        let is_slow = quick_answer.is_none();
        let (result, ttl) = match quick_answer {
            Some(answer) => answer,
            None => {
                if slot == Slot::Quick && !turn.goes_on() {
                    landing.over.set(true);
                    drop(turn);
                    let class = self.class_of_late(&question);
                    self.enqueue(question.clone(), class);
                    return self.start();
                }
                self.start();
                lookup.await
            }
        };
        let now = ring::wall_clock();
        let class = match &result {
            Err(Failure::TimedOut) => Class::Silent,
            // Resolvers answer SERVFAIL when they got no answer themselves.
            Err(Failure::ServerFailed(_)) if is_slow => Class::Silent,
            _ => Class::Fresh,
        };
        let kept = Kept { result: result.clone(), class };
        self.state.borrow_mut().cache.insert(question, kept, now.plus(ttl), now);
        landing.land(result);
        drop(turn);
        self.start();
    }

    /// The class of a name whose quick time is over.
    fn class_of_late(&self, question: &Question) -> Class {
        match self.state.borrow().cache.last(question) {
            Some(kept) if kept.class == Class::Fresh => Class::Known,
            _ => Class::Late,
        }
    }

    /// Makes servers that failed available again at once.
    #[cfg(test)]
    pub(super) fn servers_rested(&self) {
        self.servers.rested();
    }

    fn land(&self, question: &Question, result: Result<Found, Failure>) {
        let flight = self.state.borrow_mut().flights.remove(question);
        if let Some(flight) = flight {
            flight.land(result);
        }
    }

    /// Asks the servers, again for each alias that the answer does not resolve. Returns the result
    /// and how long it is valid.
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
                        let words = format!("too many aliases of {}, or a loop", question.name);
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
                // `Servers::ask` turns these into a failure after it has asked the others.
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

    /// Without an SOA there is no TTL (RFC 2308 5: do not cache). It is cached as briefly as a
    /// failure, so that a large mailing does not cause one query per message.
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

/// A running lookup. If its task ends early, all callers that wait get a failure.
struct Landing<'a> {
    lookups: &'a Lookups,
    question: Question,
    /// It has ended, or waits again.
    over: Cell<bool>,
}

impl Landing<'_> {
    fn land(&self, result: Result<Found, Failure>) {
        self.over.set(true);
        self.lookups.land(&self.question, result);
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        if !self.over.get() {
            self.land(Err(Failure::ServerFailed("the DNS lookup was aborted".into())));
        }
    }
}

/// A slot that is returned however its lookup ends.
struct Turn<'a> {
    lookups: &'a Rc<Lookups>,
    slot: Cell<Slot>,
}

impl Turn<'_> {
    /// Gives up the quick slot; true if the lookup continues in a patient one.
    fn goes_on(&self) -> bool {
        let exchanged = self.lookups.state.borrow_mut().lanes.exchange();
        if exchanged {
            self.slot.set(Slot::Patient);
        }
        exchanged
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.lookups.state.borrow_mut().lanes.free(self.slot.get());
        // After a panic, nothing else would start the waiting lookups. At the end of the shard none
        // must be started.
        if std::thread::panicking() {
            self.lookups.start();
        }
    }
}
