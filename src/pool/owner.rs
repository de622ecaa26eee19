//! The home of sites: who has work for them, the connections that do it, and when to leave a site
//! in peace.
//!
//! A connection is a task. It waits for a job, connects only when it has one, and goes when it has
//! been idle. Work is asked for (Credit) only for tasks that wait, so nothing piles up here: at
//! most one job per connection.
//!
//! A site that cannot be reached while no connection to it stands backs off as a whole by the retry
//! curve: the one job that found out is deferred, the others stay with their origins, and the next
//! try is a single probe. A failure beside standing connections only means that the site wants no
//! more of them: the number is not raised for a while.

use super::exchange::{Dispatch, Done, Exchange, Job, Reports, owner_share};
use super::state::State;
use crate::config::Config;
use crate::credentials::OutboundCredentials;
use crate::delivery::Policy;
use crate::message::{Outcome, Reason, Stage, Status, Timestamp};
use crate::ring::{self, Signal};
use crate::route::{Router, Site, SiteKey};
use crate::tls::{Client, Security};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Sites without work are forgotten, and lost answers and wake-ups made good, at this interval.
const SWEEP: Duration = Duration::from_secs(60);

/// One shard's connections to all sites that it is home of.
pub struct Pool {
    pub(super) config: Arc<Config>,
    pub(super) policy: Rc<Policy>,
    pub(super) client: Client,
    /// Who we are at hosts that want to know.
    pub(super) logins: Option<Arc<OutboundCredentials>>,
    pub(super) router: Router,
    exchange: Rc<Exchange>,
    owners: RefCell<HashMap<SiteKey, Rc<SiteOwner>>>,
    /// Connection tasks, and the bound on them: `pool.connections_max`.
    open: Cell<usize>,
    /// Sites that want a connection when there is room again.
    starved: RefCell<VecDeque<Rc<SiteOwner>>>,
    /// Set when the pool stops: tasks that are about to connect.
    pub(super) opening: RefCell<Vec<Signal>>,
    pub(super) stopping: Cell<bool>,
    stopped: Signal,
}

pub(super) struct SiteOwner {
    pub(super) site: Arc<Site>,
    /// This home's share of the site's connections.
    share: usize,
    pub(super) state: RefCell<State>,
}

/// A site as `ringpost queue sites` shows it.
#[derive(Clone, Debug)]
pub struct SiteOwnerView {
    /// The site.
    pub site: Arc<Site>,
    /// Connections that stand.
    pub connected: usize,
    /// Jobs under way.
    pub busy: usize,
    /// Connections that this home may hold.
    pub share: usize,
    /// Until when it backs off, and why.
    pub backing_off: Option<(Timestamp, Reason)>,
}

impl Pool {
    /// The pool of one shard.
    pub fn new(
        config: Arc<Config>,
        client: Client,
        logins: Option<Arc<OutboundCredentials>>,
        router: Router,
        exchange: Rc<Exchange>,
    ) -> Rc<Pool> {
        let policy = Rc::new(Policy {
            host_name: Arc::clone(&config.host_name),
            limits: config.delivery.clone(),
        });
        let pool = Rc::new(Pool {
            config,
            policy,
            client,
            logins,
            router,
            exchange,
            owners: RefCell::default(),
            open: Cell::new(0),
            starved: RefCell::default(),
            opening: RefCell::default(),
            stopping: Cell::new(false),
            stopped: Signal::new(),
        });
        let sweeper = Rc::clone(&pool);
        ring::spawn_vital("pool sweep", async move {
            loop {
                ring::sleep(SWEEP).await;
                sweeper.sweep();
            }
        });
        pool
    }

    /// `origin` has work for `site`.
    pub fn offered(self: &Rc<Self>, origin: usize, site: Arc<Site>) {
        let owner = self.owner(site);
        {
            let mut state = owner.state.borrow_mut();
            state.offered(origin);
            if state.backing_off.is_some() {
                let told = Dispatch::State {
                    site: Arc::clone(&owner.site),
                    backing_off: state.backing_off.clone(),
                };
                self.exchange.send(origin, told);
            }
        }
        self.pump(&owner);
    }

    /// `origin` has no more work for `site`; answers one credit.
    pub fn drained(self: &Rc<Self>, origin: usize, site: Arc<Site>) {
        let owner = self.owner(site);
        owner.state.borrow_mut().drained(origin, ring::wall_clock());
        self.pump(&owner);
        // A task that waited for this answer may be spare now.
        if self.others_starve(&owner) {
            owner.state.borrow_mut().wake_spare();
        }
    }

    /// A job came; answers one credit.
    pub fn accept(self: &Rc<Self>, job: Box<Job>) {
        let owner = self.owner(Arc::clone(&job.site));
        let refused = {
            let mut state = owner.state.borrow_mut();
            state.answered_credit(ring::wall_clock());
            if state.backing_off.is_some() || self.stopping.get() {
                Some(job)
            } else {
                state.jobs.push_back(job);
                None
            }
        };
        match refused {
            Some(job) => self.give_back(*job),
            None => self.pump(&owner),
        }
    }

    /// Takes no more work, lets transactions end, closes the connections; returns when all are
    /// closed.
    pub async fn stop(self: &Rc<Self>) {
        self.stopping.set(true);
        self.opening.borrow().iter().for_each(Signal::set);
        let owners: Vec<Rc<SiteOwner>> = self.owners.borrow().values().cloned().collect();
        for owner in owners {
            let (jobs, idle) = {
                let mut state = owner.state.borrow_mut();
                (std::mem::take(&mut state.jobs), std::mem::take(&mut state.idle))
            };
            jobs.into_iter().for_each(|job| self.give_back(*job));
            idle.iter().for_each(Signal::set);
        }
        while self.open.get() > 0 {
            self.stopped.wait_for(Duration::from_millis(100)).await;
        }
    }

    /// Connection tasks.
    pub fn connections(&self) -> usize {
        self.open.get()
    }

    /// The sites of this home.
    pub fn views(&self) -> Vec<SiteOwnerView> {
        let owners = self.owners.borrow();
        owners
            .values()
            .map(|owner| {
                let state = owner.state.borrow();
                SiteOwnerView {
                    site: Arc::clone(&owner.site),
                    connected: state.connected,
                    busy: state.tasks.saturating_sub(state.idle.len()),
                    share: owner.share,
                    backing_off: state.backing_off.clone(),
                }
            })
            .collect()
    }

    fn owner(&self, site: Arc<Site>) -> Rc<SiteOwner> {
        let mut owners = self.owners.borrow_mut();
        if let Some(owner) = owners.get(&site.key) {
            return Rc::clone(owner);
        }
        let limits = &self.config.pool;
        let share = owner_share(
            &site.key,
            self.exchange.shards(),
            self.exchange.me(),
            limits.connections_per_site,
            limits.stripe_connections_min,
        );
        let key = site.key.clone();
        let owner =
            Rc::new(SiteOwner { site, share: share.connections, state: RefCell::default() });
        owners.insert(key, Rc::clone(&owner));
        owner
    }

    /// Does what the site's state asks for.
    pub(super) fn pump(self: &Rc<Self>, owner: &Rc<SiteOwner>) {
        if self.stopping.get() {
            return;
        }
        let moves = owner.state.borrow_mut().moves(owner.share, ring::wall_clock());
        moves.wake.iter().for_each(Signal::set);
        for origin in moves.credits {
            let credit =
                Dispatch::Credit { owner: self.exchange.me(), site: Arc::clone(&owner.site) };
            self.exchange.send(origin, credit);
        }
        if !moves.wants_connection {
            return;
        }
        if self.has_room() {
            owner.state.borrow_mut().tasks += 1;
            self.open.set(self.open.get() + 1);
            let (pool, owner) = (Rc::clone(self), Rc::clone(owner));
            ring::spawn("connection", async move {
                // Its end must be counted even if it panics.
                let _task = Task { pool: Rc::clone(&pool), owner: Rc::clone(&owner) };
                pool.connection(&owner).await;
            });
        } else if !std::mem::replace(&mut owner.state.borrow_mut().starved, true) {
            self.starved.borrow_mut().push_back(Rc::clone(owner));
            self.ask_for_room();
        }
    }

    fn has_room(&self) -> bool {
        self.open.get() < self.config.pool.connections_max
    }

    /// Whether another site than this one wants room.
    pub(super) fn others_starve(&self, owner: &Rc<SiteOwner>) -> bool {
        self.starved.borrow().iter().any(|starved| !Rc::ptr_eq(starved, owner))
    }

    /// Wakes one task that waits for nothing but its own end: it sees that others starve.
    fn ask_for_room(&self) {
        let owners = self.owners.borrow();
        let _ = owners.values().any(|owner| owner.state.borrow_mut().wake_spare());
    }

    /// Gives room to starved sites, in turn, as long as there is some.
    fn give_room(self: &Rc<Self>) {
        while self.has_room() {
            let next = self.starved.borrow_mut().pop_front();
            let Some(owner) = next else { return };
            owner.state.borrow_mut().starved = false;
            self.pump(&owner);
        }
    }

    /// Forgets sites without work. What a fault of ours may have left waiting for ever goes on.
    fn sweep(self: &Rc<Self>) {
        let now = ring::wall_clock();
        self.owners.borrow_mut().retain(|_, owner| !owner.state.borrow().is_forgettable());
        let owners: Vec<Rc<SiteOwner>> = self.owners.borrow().values().cloned().collect();
        for owner in owners {
            let forgotten = owner.state.borrow_mut().forget_overdue_credits(now);
            if forgotten > 0 {
                tracing::error!(site = %owner.site.key, forgotten, "nobody answered for work");
                self.pump(&owner);
            }
            let until = owner.state.borrow().backing_off.as_ref().map(|(until, _)| *until);
            if let Some(until) = until
                && now.since(until) > SWEEP
            {
                tracing::error!(site = %owner.site.key, "nobody ended the back-off");
                self.end_back_off(&owner, until);
            }
        }
    }

    /// The site as a whole said no, or did not answer. True when it only wants no more connections
    /// than stand; else it backs off.
    pub(super) fn refused(self: &Rc<Self>, owner: &Rc<SiteOwner>, reason: &Reason) -> bool {
        let now = ring::wall_clock();
        let wants_no_more = owner.state.borrow_mut().refused_more(now);
        if !wants_no_more {
            self.back_off(owner, reason.clone(), now);
        }
        wants_no_more
    }

    fn back_off(self: &Rc<Self>, owner: &Rc<SiteOwner>, reason: Reason, now: Timestamp) {
        let (jobs, idle, origins, until);
        {
            let mut state = owner.state.borrow_mut();
            if state.backing_off.is_some() {
                return;
            }
            state.failures += 1;
            let wait = back_off_wait(&self.config.retry, state.failures, ring::rng().f64());
            until = now.plus(wait);
            state.backing_off = Some((until, reason.clone()));
            jobs = std::mem::take(&mut state.jobs);
            idle = std::mem::take(&mut state.idle);
            origins = state.offers.clone();
        }
        tracing::debug!(site = %owner.site.key, %until, %reason, "site backs off");
        jobs.into_iter().for_each(|job| self.give_back(*job));
        idle.iter().for_each(Signal::set);
        self.tell(owner, origins.iter().copied());
        let pool = Rc::clone(self);
        let owner = Rc::clone(owner);
        ring::spawn("site back-off", async move {
            ring::sleep(until.since(ring::wall_clock())).await;
            pool.end_back_off(&owner, until);
        });
    }

    /// Somebody says that the site takes mail again: if it backs off, that ends.
    pub fn try_now(self: &Rc<Self>, site: &Site) {
        let owner = self.owners.borrow().get(&site.key).cloned();
        let Some(owner) = owner else { return };
        let until = owner.state.borrow().backing_off.as_ref().map(|(until, _)| *until);
        if let Some(until) = until {
            self.end_back_off(&owner, until);
        }
    }

    fn end_back_off(self: &Rc<Self>, owner: &Rc<SiteOwner>, until: Timestamp) {
        let origins = {
            let mut state = owner.state.borrow_mut();
            if state.backing_off.as_ref().is_none_or(|(known, _)| *known != until) {
                return;
            }
            state.backing_off = None;
            state.offers.clone()
        };
        self.tell(owner, origins.into_iter());
        self.pump(owner);
    }

    fn tell(&self, owner: &SiteOwner, origins: impl Iterator<Item = usize>) {
        let backing_off = owner.state.borrow().backing_off.clone();
        for origin in origins {
            let site = Arc::clone(&owner.site);
            let state = Dispatch::State { site, backing_off: backing_off.clone() };
            self.exchange.send(origin, state);
        }
    }

    /// Sends the outcomes back. A recipient of which the delivery said nothing would be out for
    /// ever: its attempt has failed.
    pub(super) fn done(
        &self,
        job: Job,
        mut outcomes: Vec<(u32, Outcome)>,
        again: Vec<u32>,
        tls: Option<Arc<Security>>,
        reports: Reports,
    ) {
        let Job { origin, slot, site, message, recipients, .. } = job;
        if recipients.len() != outcomes.len() + again.len() {
            let told: HashSet<u32> =
                outcomes.iter().map(|(index, _)| *index).chain(again.iter().copied()).collect();
            let untold: Vec<u32> =
                recipients.into_iter().filter(|index| !told.contains(index)).collect();
            tracing::error!(id = %message.id, recipients = ?untold, "a delivery forgot recipients");
            outcomes.extend(untold.into_iter().map(|index| (index, fault())));
        }
        let done = Done { slot, id: message.id, site, message, outcomes, again, tls, reports };
        self.exchange.send(origin, Dispatch::Done(Box::new(done)));
    }

    /// Returns a job untried.
    pub(super) fn give_back(&self, mut job: Job) {
        let again = std::mem::take(&mut job.recipients);
        let Job { origin, slot, site, message, .. } = job;
        let (outcomes, tls) = (Vec::new(), None);
        let done = Done {
            slot,
            id: message.id,
            site,
            message,
            outcomes,
            again,
            tls,
            reports: Reports::default(),
        };
        self.exchange.send(origin, Dispatch::Done(Box::new(done)));
    }
}

/// What a fault of ours makes of an attempt.
pub(super) fn fault() -> Outcome {
    Outcome::Deferred(Reason::ours(
        Stage::Local,
        Status(4, 3, 0),
        "a fault in the relay ended this attempt; its log has more",
    ))
}

/// Counts a connection task out at its end, and lets starved sites have the room.
struct Task {
    pool: Rc<Pool>,
    owner: Rc<SiteOwner>,
}

impl Drop for Task {
    fn drop(&mut self) {
        {
            let mut state = self.owner.state.borrow_mut();
            state.tasks = state.tasks.saturating_sub(1);
        }
        self.pool.open.set(self.pool.open.get().saturating_sub(1));
        self.pool.stopped.set();
        if !self.pool.stopping.get() {
            self.pool.give_room();
        }
        self.pool.pump(&self.owner);
    }
}

/// The wait after the `failures`-th failure in a row; `chance` (0 to 1) makes the jitter.
fn back_off_wait(retry: &crate::config::Retry, failures: u32, chance: f64) -> Duration {
    let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
    let plain = retry.first.as_secs_f64() * retry.factor.powi(exponent);
    let capped = plain.min(retry.max.as_secs_f64());
    Duration::from_secs_f64(capped * (1.0 + retry.jitter * (2.0 * chance - 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_grows_to_its_bound_and_stays_there() {
        let retry = crate::config::Retry {
            first: Duration::from_secs(60),
            factor: 2.0,
            max: Duration::from_secs(600),
            expire: Duration::from_secs(86400),
            jitter: 0.1,
            delay_report: None,
        };
        let waits: Vec<u64> = (1..=6).map(|n| back_off_wait(&retry, n, 0.5).as_secs()).collect();
        assert_eq!(waits, [60, 120, 240, 480, 600, 600]);
        assert_eq!(back_off_wait(&retry, u32::MAX, 0.0).as_secs(), 540);
        assert_eq!(back_off_wait(&retry, 1, 1.0).as_secs(), 66);
    }
}
