//! The tasks around a shard's [`Origin`]: whatever has to wait, for the disk, a look-up, or time.
//!
//! It holds the one cell that they share. None of them keeps it borrowed while it waits. Each kind
//! of task has a bound: look-ups `ROUTE_LOOKUPS_MAX`, loads the connections that ask for work,
//! reports `REPORTS_IN_FLIGHT_MAX`, checks of damaged content one.

use super::ending::DeliveryPath;
use super::now;
use super::origin::{Origin, Question, Stations, Step};
use crate::config::Core;
use crate::listener::{self, Later};
use crate::message::{Message, Outcome, Reason, Timestamp};
use crate::pool::{Dispatch, Done};
use crate::ring::{self, Semaphore, Signal};
use crate::route::{Router, Site};
use crate::scheduler::{AttemptResult, DeliveryUnit, RouteId, Slot};
use crate::session::Etrn;
use crate::spool::{Placement, Recovered, SpoolError};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Why a recipient waits whose message the spool cannot give.
pub(super) const UNREADABLE: &str = "the message cannot be read from the spool";
/// Steps in a row before the rings are looked at.
const STEPS_IN_A_ROW: usize = 64;

/// A shard that is so busy that it does not say what it has found leaves ETRN with half an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Due times are those of the wall clock, which may be set forward while the shard sleeps: it is
/// looked at this often.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(30);

/// One shard's queue and its tasks.
pub(super) struct Driver {
    pub(super) stations: Stations,
    pub(super) origin: RefCell<Origin>,
    router: Router,
    wake: Signal,
    /// A report is done.
    pub(super) reported: Signal,
    /// Domains that are being flushed.
    flushing: Semaphore,
    /// Damaged content is being looked at.
    pub(super) checking: Semaphore,
    /// Recipients of reports under way, whose events are still to be written.
    pub(super) events_promised: Cell<usize>,
}

impl Driver {
    pub(super) fn new(stations: Stations, core: &Core, router: Router) -> Rc<Driver> {
        Rc::new(Driver {
            origin: RefCell::new(Origin::new(stations.clone(), core)),
            stations,
            router,
            wake: Signal::new(),
            reported: Signal::new(),
            flushing: Semaphore::unlimited(),
            checking: Semaphore::new(1),
            events_promised: Cell::new(0),
        })
    }

    /// Takes a message that is durable.
    pub(super) fn admit(&self, message: Arc<Message>, placement: Placement) {
        self.origin.borrow_mut().admit(message, placement);
        self.changed();
    }

    /// Takes a message that recovery found; how many of its recipients are in doubt.
    pub(super) fn readmit(&self, message: &Recovered) -> usize {
        self.origin.borrow_mut().readmit(message)
    }

    /// Does what the scheduler asks for, for as long as the shard runs.
    pub(super) async fn run(self: Rc<Self>) {
        loop {
            let mut handled = 0;
            let wake_at = loop {
                let step = self.origin.borrow_mut().step();
                match step {
                    Step::Rest(wake_at) => break wake_at,
                    Step::Route(route) => {
                        let driver = Rc::clone(&self);
                        ring::spawn("route", async move { driver.route(route).await });
                    }
                    Step::Done => {}
                }
                handled += 1;
                if handled % STEPS_IN_A_ROW == 0 {
                    ring::yield_now().await;
                }
            };
            self.begin_reports();
            match wake_at {
                Some(at) => {
                    self.wake.wait_for(at.since(now()).min(LOOK_AT_CLOCK)).await;
                }
                None => self.wake.wait().await,
            }
        }
    }

    /// Ends recipients whose ending has become durable, for as long as the shard runs.
    pub(super) async fn watch_endings(self: Rc<Self>) {
        let mut durable = 0;
        loop {
            durable = self.stations.spool.durable_beyond(durable).await;
            while self.origin.borrow_mut().durable(durable) {
                ring::yield_now().await;
            }
        }
    }

    /// Has what waits for a domain tried now, on every shard, and says if there is any: as soon as
    /// one shard has found something, or all have looked.
    pub(super) async fn request_flush(&self, domain: &str, with_below: bool) -> Etrn {
        if self.flushing.in_use() > 0 || self.origin.borrow().question.is_some() {
            return Etrn::Busy;
        }
        let domain: Arc<str> = domain.into();
        let exchange = &self.stations.exchange;
        let (asker, open) = (self.stations.shard, exchange.shards());
        let changed = Signal::new();
        let number = {
            let origin = &mut *self.origin.borrow_mut();
            origin.questions += 1;
            let number = origin.questions;
            let changed = changed.clone();
            origin.question = Some(Question { number, open, found: false, changed });
            number
        };
        let _asking = Asking(self);
        for shard in 0..open {
            let domain = Arc::clone(&domain);
            exchange.send(shard, Dispatch::Flush { domain, with_below, asker, number });
        }
        while changed.wait_for(ANSWER_WAIT).await {
            match &self.origin.borrow().question {
                Some(Question { found: true, .. }) => break,
                Some(Question { open: 0, .. }) => return Etrn::NothingQueued,
                _ => {}
            }
        }
        Etrn::Started
    }

    /// A shard has looked what waits there.
    pub(super) fn answered(&self, number: u64, found: bool) {
        if let Some(question) = &mut self.origin.borrow_mut().question
            && question.number == number
        {
            question.open = question.open.saturating_sub(1);
            question.found |= found;
            question.changed.set();
        }
    }

    /// Tries what waits here for a domain, step by step, and has its sites tried that back off;
    /// whether there was any.
    pub(super) async fn flush(&self, domain: &str, with_below: bool) -> bool {
        let _flushing = self.flushing.try_acquire();
        let (mut any, mut cursor) = (false, Some(0));
        while let Some(from) = cursor {
            let (next, found) = self.origin.borrow_mut().flush(from, domain, with_below);
            any |= found;
            self.changed();
            ring::yield_now().await;
            cursor = next;
        }
        any
    }

    /// No more mail is to be taken until deliveries have freed memory.
    pub(super) fn is_full(&self) -> bool {
        self.origin.borrow().is_full()
    }

    /// Hands out no more work.
    pub(super) fn stop(&self) {
        self.origin.borrow_mut().stop();
    }

    /// Something changed that the scheduler may want to act on.
    pub(super) fn changed(&self) {
        self.wake.set();
    }

    /// Finds the site of one route key after the other while any wait.
    async fn route(self: Rc<Self>, first: RouteId) {
        let mut place = RoutingPlace { driver: Rc::clone(&self), route: None };
        let mut next = Some(first);
        while let Some(route) = next {
            place.route = Some(route);
            let key = self.origin.borrow().scheduler.route_key(route).cloned().unwrap_or_default();
            let found = self.router.site(&key).await;
            place.route = None;
            match found {
                Ok((site, valid_until)) => {
                    self.origin.borrow_mut().routed(route, &site, valid_until);
                }
                Err(outcome) => {
                    let waiting = self.origin.borrow_mut().scheduler.unroutable(route);
                    for (slot, recipients) in waiting {
                        self.unroutable(slot, recipients, outcome.clone()).await;
                    }
                }
            }
            self.changed();
            next = self.origin.borrow_mut().next_to_route();
        }
    }

    async fn unroutable(self: &Rc<Self>, slot: Slot, recipients: Vec<u32>, outcome: Outcome) {
        let message = match self.message(slot).await {
            Ok(message) => message,
            Err(error) => return self.unreadable(slot, &recipients, &error).await,
        };
        let outcomes = recipients.into_iter().map(|index| (index, outcome.clone())).collect();
        let path = DeliveryPath::default();
        self.origin.borrow_mut().settle(slot, &message, outcomes, path);
    }

    /// A job came back from the owner of its site.
    pub(super) fn done(self: &Rc<Self>, done: Done) {
        let (slot, message) = (Slot(done.slot), Arc::clone(&done.message));
        let unread = self.origin.borrow_mut().done(done);
        if unread {
            self.check_content(slot, message);
        }
        self.changed();
    }

    /// The owner of a site has a connection free for it: answers with one job, or that there is
    /// none.
    pub(super) fn credited(self: &Rc<Self>, owner: usize, site: Arc<Site>) {
        let origin = &mut *self.origin.borrow_mut();
        match origin.take(&site) {
            None => origin.send_drained(owner, site),
            Some(work) => match origin.hot.find(work.slot) {
                Some(message) => origin.send_job(owner, site, work, message),
                None => {
                    let driver = Rc::clone(self);
                    ring::spawn("load", async move { driver.load(owner, site, work).await });
                }
            },
        }
        self.changed();
    }

    /// Loads a message that is no longer in memory. The credit must be answered, so when it cannot
    /// be read the next one is taken instead.
    async fn load(self: Rc<Self>, owner: usize, site: Arc<Site>, work: DeliveryUnit) {
        let mut loading =
            Loading { driver: Rc::clone(&self), owner, site: Arc::clone(&site), work: Some(work) };
        while let Some(work) = loading.work.clone() {
            let DeliveryUnit { slot, id, placement: at, recipients, .. } = work;
            match self.stations.spool.load(id, at).await {
                Ok(message) => {
                    let Some(work) = loading.work.take() else { return };
                    let origin = &mut *self.origin.borrow_mut();
                    // The slot may be another message's by now, if this one was given up for lost.
                    if origin.is_at(slot, id) {
                        origin.hot.keep_loaded(slot, &message);
                    }
                    return origin.send_job(owner, site, work, message);
                }
                Err(error) => {
                    self.unreadable(slot, &recipients, &error).await;
                    loading.work = self.origin.borrow_mut().take(&site);
                }
            }
        }
        self.origin.borrow().send_drained(owner, site);
    }

    /// What the owner of a site says about it.
    pub(super) fn site_state(&self, site: &Site, backing_off: Option<(Timestamp, Arc<Reason>)>) {
        self.origin.borrow_mut().site_state(site, backing_off);
        self.changed();
    }

    /// The message in `slot`, from memory or from the spool.
    pub(super) async fn message(&self, slot: Slot) -> Result<Arc<Message>, SpoolError> {
        let (id, at) = {
            let origin = self.origin.borrow();
            if let Some(message) = origin.hot.find(slot) {
                return Ok(message);
            }
            let whereabouts = origin.scheduler.whereabouts(slot);
            let ended = || SpoolError::Failed("the message has ended".to_owned());
            whereabouts.ok_or_else(ended)?
        };
        self.stations.spool.load(id, at).await
    }
}

/// A client waits for the answers, or has gone.
struct Asking<'a>(&'a Driver);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.origin.borrow_mut().question.take();
    }
}

/// One of the route tasks; counted out however it ends.
struct RoutingPlace {
    driver: Rc<Driver>,
    /// What it looks for. A task that ends in the middle must not leave its recipients waiting for
    /// the answer.
    route: Option<RouteId>,
}

impl Drop for RoutingPlace {
    fn drop(&mut self) {
        let origin = &mut *self.driver.origin.borrow_mut();
        origin.route_task_ended();
        if let Some(route) = self.route.take() {
            for (slot, recipients) in origin.scheduler.unroutable(route) {
                let text = "a fault in the relay ended the look-up";
                origin.put_off(slot, &recipients, AttemptResult::Later, text);
            }
            self.driver.changed();
        }
    }
}

/// Work that is being loaded for a credit. If the task ends in the middle, both are answered for.
struct Loading {
    driver: Rc<Driver>,
    owner: usize,
    site: Arc<Site>,
    work: Option<DeliveryUnit>,
}

impl Drop for Loading {
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        let origin = &mut *self.driver.origin.borrow_mut();
        origin.put_off(work.slot, &work.recipients, AttemptResult::Later, UNREADABLE);
        // There may be more, which the scheduler does not offer again by itself.
        let (me, site) = (self.driver.stations.shard, &self.site);
        for dispatch in [
            Dispatch::Drained { origin: me, site: Arc::clone(site) },
            Dispatch::Offer { origin: me, site: Arc::clone(site) },
        ] {
            self.driver.stations.exchange.send(self.owner, dispatch);
        }
    }
}

impl listener::Queue for Driver {
    fn admit(&self, message: Arc<Message>, placement: Placement) {
        Driver::admit(self, message, placement);
    }

    fn is_full(&self) -> bool {
        Driver::is_full(self)
    }

    fn flush(self: Rc<Self>, domain: String, with_subdomains: bool) -> Later<Etrn> {
        Box::pin(async move { self.request_flush(&domain, with_subdomains).await })
    }
}
