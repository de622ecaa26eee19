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

use super::connection::{Connection, Transacted, within};
use super::exchange::{Dispatch, Done, Exchange, Job, homes_of};
use crate::config::Config;
use crate::delivery::Policy;
use crate::message::{Outcome, Reason, Stage, Status, Timestamp};
use crate::ring::{self, Signal};
use crate::route::{Candidate, Router, Site};
use crate::scheduler::Scheduler;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After a connection was refused beside standing ones, their number is not raised for this long.
const CEILING_HOLD: Duration = Duration::from_secs(60);
/// An address that said nothing is tried after the others for this long.
const DEAD_ADDRESS_HOLD: Duration = Duration::from_secs(300);
/// A transaction that a slow host drags out beyond this is given up: shorter than the time after
/// which the origin asks what became of it, so that no recipient is out twice.
const TRANSACTION_MAX: Duration = Duration::from_secs(45 * 60);
/// A job that has not found a host that talks to it within this time is put off, however many
/// candidates are left: the hosts of a site may all be silent, each for as long as it may.
const OPENING_MAX: Duration = Duration::from_secs(30 * 60);
const _: () =
    assert!(2 * TRANSACTION_MAX.as_secs() + OPENING_MAX.as_secs() <= Scheduler::OVERDUE.as_secs());
/// Sites without work are forgotten at this interval.
const SWEEP: Duration = Duration::from_secs(60);

/// One shard's connections to all sites that it is home of.
pub struct Pool {
    config: Arc<Config>,
    policy: Rc<Policy>,
    router: Router,
    exchange: Rc<Exchange>,
    homes: RefCell<HashMap<Arc<str>, Rc<Home>>>,
    /// Connection tasks, and the bound on them: `pool.connections_max`.
    open: Cell<usize>,
    /// Sites that want a connection when there is room again.
    starved: RefCell<VecDeque<Rc<Home>>>,
    stopping: Cell<bool>,
    stopped: Signal,
}

struct Home {
    site: Arc<Site>,
    /// This home's share of the site's connections.
    share: usize,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Origins that said they have work, in turn.
    offers: VecDeque<usize>,
    /// Arrived, and not yet taken by a connection.
    jobs: VecDeque<Box<Job>>,
    /// Asked for, and not yet answered.
    credits: usize,
    /// Connection tasks.
    tasks: usize,
    /// Of these, the ones that wait for a job.
    idle: Vec<Signal>,
    /// Of the tasks, those whose connection stands.
    connected: usize,
    /// Stands in the pool's queue for room.
    starved: bool,
    /// Connections are not raised above this before then.
    ceiling: Option<(usize, Timestamp)>,
    /// Whole-site failures in a row.
    failures: u32,
    backing_off: Option<(Timestamp, Reason)>,
    /// Addresses that said nothing lately, and until when they are tried last.
    dead: HashMap<SocketAddr, Timestamp>,
}

/// A site as `ringpost queue sites` shows it.
#[derive(Clone, Debug)]
pub struct HomeView {
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
    pub fn new(config: Arc<Config>, router: Router, exchange: Rc<Exchange>) -> Rc<Pool> {
        let policy = Rc::new(Policy {
            host_name: Arc::clone(&config.host_name),
            limits: config.delivery.clone(),
        });
        let pool = Rc::new(Pool {
            config,
            policy,
            router,
            exchange,
            homes: RefCell::default(),
            open: Cell::new(0),
            starved: RefCell::default(),
            stopping: Cell::new(false),
            stopped: Signal::new(),
        });
        let sweeper = Rc::clone(&pool);
        ring::spawn("pool sweep", async move {
            loop {
                ring::sleep(SWEEP).await;
                sweeper.homes.borrow_mut().retain(|_, home| !home.is_forgettable());
            }
        });
        pool
    }

    /// `origin` has work for `site`.
    pub fn offered(self: &Rc<Self>, origin: usize, site: Arc<Site>) {
        let home = self.home(site);
        {
            let mut state = home.state.borrow_mut();
            if !state.offers.contains(&origin) {
                state.offers.push_back(origin);
            }
            if state.backing_off.is_some() {
                let told = Dispatch::State {
                    site: Arc::clone(&home.site),
                    backing_off: state.backing_off.clone(),
                };
                self.exchange.send(origin, told);
            }
        }
        self.pump(&home);
    }

    /// `origin` has no more work for `site`; answers one credit.
    pub fn drained(self: &Rc<Self>, origin: usize, site: Arc<Site>) {
        let home = self.home(site);
        {
            let mut state = home.state.borrow_mut();
            state.credits = state.credits.saturating_sub(1);
            state.offers.retain(|&other| other != origin);
        }
        self.pump(&home);
    }

    /// A job came; answers one credit.
    pub fn accept(self: &Rc<Self>, job: Box<Job>) {
        let home = self.home(Arc::clone(&job.site));
        let refused = {
            let mut state = home.state.borrow_mut();
            state.credits = state.credits.saturating_sub(1);
            if state.backing_off.is_some() || self.stopping.get() {
                Some(job)
            } else {
                state.jobs.push_back(job);
                None
            }
        };
        match refused {
            Some(job) => self.give_back(*job),
            None => self.pump(&home),
        }
    }

    /// Takes no more work, lets transactions end, closes the connections; returns when all are
    /// closed.
    pub async fn stop(self: &Rc<Self>) {
        self.stopping.set(true);
        let homes: Vec<Rc<Home>> = self.homes.borrow().values().cloned().collect();
        for home in homes {
            let (jobs, idle) = {
                let mut state = home.state.borrow_mut();
                (std::mem::take(&mut state.jobs), std::mem::take(&mut state.idle))
            };
            jobs.into_iter().for_each(|job| self.give_back(*job));
            idle.iter().for_each(Signal::set);
        }
        while self.open.get() > 0 {
            self.stopped.wait_for(Duration::from_millis(100)).await;
        }
    }

    /// The sites of this home.
    pub fn views(&self) -> Vec<HomeView> {
        let homes = self.homes.borrow();
        homes
            .values()
            .map(|home| {
                let state = home.state.borrow();
                HomeView {
                    site: Arc::clone(&home.site),
                    connected: state.connected,
                    busy: state.tasks.saturating_sub(state.idle.len()),
                    share: home.share,
                    backing_off: state.backing_off.clone(),
                }
            })
            .collect()
    }

    fn home(&self, site: Arc<Site>) -> Rc<Home> {
        let mut homes = self.homes.borrow_mut();
        if let Some(home) = homes.get(&site.key) {
            return Rc::clone(home);
        }
        let limits = &self.config.pool;
        let share = homes_of(
            &site.key,
            self.exchange.shards(),
            self.exchange.me(),
            limits.connections_per_site,
            limits.stripe_connections_min,
        );
        let key = Arc::clone(&site.key);
        let home = Rc::new(Home { site, share: share.connections, state: RefCell::default() });
        homes.insert(key, Rc::clone(&home));
        home
    }

    /// Gives waiting jobs to waiting connections, opens connections while there is work for more,
    /// and asks for work for those that wait.
    fn pump(self: &Rc<Self>, home: &Rc<Home>) {
        let mut credits = Vec::new();
        let mut to_spawn = 0;
        {
            let mut state = home.state.borrow_mut();
            if self.stopping.get() || state.backing_off.is_some() {
                return;
            }
            for _ in 0..state.jobs.len().min(state.idle.len()) {
                if let Some(signal) = state.idle.pop() {
                    signal.set();
                }
            }
            let has_work = !state.offers.is_empty() || !state.jobs.is_empty();
            if has_work && state.idle.is_empty() && state.tasks < state.allowed(home.share) {
                if self.open.get() < self.config.pool.connections_max {
                    state.tasks += 1;
                    self.open.set(self.open.get() + 1);
                    to_spawn = 1;
                } else if !state.starved {
                    state.starved = true;
                    self.starved.borrow_mut().push_back(Rc::clone(home));
                }
            }
            while state.idle.len() > state.jobs.len() + state.credits {
                let Some(origin) = state.offers.pop_front() else { break };
                state.offers.push_back(origin);
                state.credits += 1;
                credits.push(origin);
            }
        }
        for origin in credits {
            let credit =
                Dispatch::Credit { home: self.exchange.me(), site: Arc::clone(&home.site) };
            self.exchange.send(origin, credit);
        }
        if to_spawn > 0 {
            let pool = Rc::clone(self);
            let home = Rc::clone(home);
            ring::spawn("connection", async move {
                // Its end must be counted even if it panics.
                let _task = Task { pool: Rc::clone(&pool), home: Rc::clone(&home) };
                pool.connection(&home).await;
            });
        }
    }

    /// One connection task, from its first job to its end.
    async fn connection(self: &Rc<Self>, home: &Rc<Home>) {
        let mut standing: Option<Standing> = None;
        while let Some(job) = self.next_job(home, &mut standing).await {
            // From here on the job is in nobody's hands but this task's: if it unwinds, the guard
            // ends the attempt.
            let mut held = Held { pool: Rc::clone(self), job: Some(job) };
            let Some(job) = held.job.as_deref() else { continue };
            let transacted = self.deliver(home, &mut standing, job).await;
            let lost = transacted.lost;
            if let Some(job) = held.job.take() {
                self.done(*job, transacted.outcomes, transacted.again);
            }
            let worn = standing.as_ref().is_some_and(|standing| {
                standing.connection.transactions >= self.config.pool.messages_per_connection
            });
            if lost {
                standing = None;
            } else if let Some(live) = standing.as_mut()
                && !live.connection.is_ready_again().await
            {
                standing = None;
            } else if worn && let Some(standing) = standing.take() {
                standing.quit().await;
            }
        }
        if let Some(standing) = standing {
            standing.quit().await;
        }
    }

    /// Delivers one job over the standing connection or a new one.
    async fn deliver(
        self: &Rc<Self>,
        home: &Rc<Home>,
        standing: &mut Option<Standing>,
        job: &Job,
    ) -> Transacted {
        if let Some(live) = standing.as_mut() {
            let reused = live.connection.transactions > 0;
            let transacted = transact(&mut live.connection, job).await;
            if !(reused && transacted.was_closed_before()) {
                return transacted;
            }
            *standing = None;
        }
        match self.open_connection(home).await {
            Ok(connection) => {
                let live = standing.insert(Standing::new(connection, home));
                self.answered(home);
                transact(&mut live.connection, job).await
            }
            Err(outcome) => self.not_reached(home, job, outcome),
        }
    }

    /// No host of the site could be used.
    fn not_reached(self: &Rc<Self>, home: &Rc<Home>, job: &Job, outcome: Outcome) -> Transacted {
        if let Outcome::Deferred(reason) = &outcome {
            let now = Timestamp::now();
            let mut state = home.state.borrow_mut();
            if state.connected > 0 {
                state.ceiling = Some((state.connected, now.plus(CEILING_HOLD)));
                drop(state);
                return Transacted {
                    outcomes: Vec::new(),
                    again: job.recipients.clone(),
                    lost: true,
                };
            }
            drop(state);
            self.back_off(home, reason.clone(), now);
        }
        let outcomes = job.recipients.iter().map(|&index| (index, outcome.clone())).collect();
        Transacted { outcomes, again: Vec::new(), lost: true }
    }

    /// A connection stands: the site is well.
    fn answered(self: &Rc<Self>, home: &Rc<Home>) {
        home.state.borrow_mut().failures = 0;
        self.pump(home);
    }

    async fn open_connection(&self, home: &Home) -> Result<Connection, Outcome> {
        let candidates = self.router.candidates(&home.site).await?;
        let ordered = home.state.borrow().living_first(candidates, Timestamp::now());
        let mut last = None;
        let began = Instant::now();
        for candidate in &ordered {
            let left = OPENING_MAX.saturating_sub(began.elapsed());
            home.state.borrow_mut().trying(candidate.address, Timestamp::now());
            match Connection::open(candidate, &self.config, &self.policy, left).await {
                Ok(connection) => {
                    home.state.borrow_mut().dead.remove(&candidate.address);
                    return Ok(connection);
                }
                Err(outcome) => {
                    home.state.borrow_mut().tried(candidate.address, &outcome, Timestamp::now());
                    // A host that says "not now" outweighs one that says "never": another try may
                    // succeed there (RFC 5321 5.1).
                    if !matches!(
                        (&last, &outcome),
                        (Some(Outcome::Deferred(_)), Outcome::Refused(_))
                    ) {
                        last = Some(outcome);
                    }
                }
            }
            if self.stopping.get() || began.elapsed() >= OPENING_MAX {
                break;
            }
        }
        Err(last.unwrap_or_else(|| {
            Outcome::Deferred(Reason::ours(
                Stage::Connect,
                Status(4, 4, 1),
                "the destination has no address that can be tried",
            ))
        }))
    }

    fn back_off(self: &Rc<Self>, home: &Rc<Home>, reason: Reason, now: Timestamp) {
        let (jobs, idle, origins, until);
        {
            let mut state = home.state.borrow_mut();
            if state.backing_off.is_some() {
                return;
            }
            state.failures += 1;
            let wait = back_off_wait(&self.config.retry, state.failures, fastrand::f64());
            until = now.plus(wait);
            state.backing_off = Some((until, reason.clone()));
            jobs = std::mem::take(&mut state.jobs);
            idle = std::mem::take(&mut state.idle);
            origins = state.offers.clone();
        }
        tracing::debug!(site = %home.site.key, %until, %reason, "site backs off");
        jobs.into_iter().for_each(|job| self.give_back(*job));
        idle.iter().for_each(Signal::set);
        self.tell(home, origins.iter().copied());
        let pool = Rc::clone(self);
        let home = Rc::clone(home);
        ring::spawn("site back-off", async move {
            ring::sleep(until.since(Timestamp::now())).await;
            home.state.borrow_mut().backing_off = None;
            let origins = home.state.borrow().offers.clone();
            pool.tell(&home, origins.iter().copied());
            pool.pump(&home);
        });
    }

    fn tell(&self, home: &Home, origins: impl Iterator<Item = usize>) {
        let backing_off = home.state.borrow().backing_off.clone();
        for origin in origins {
            let site = Arc::clone(&home.site);
            let state = Dispatch::State { site, backing_off: backing_off.clone() };
            self.exchange.send(origin, state);
        }
    }

    /// Waits for a job; `None` when this task should end: idle for too long, stopping, backing off,
    /// or others want the room.
    async fn next_job(
        self: &Rc<Self>,
        home: &Rc<Home>,
        standing: &mut Option<Standing>,
    ) -> Option<Box<Job>> {
        loop {
            let job = home.state.borrow_mut().jobs.pop_front();
            if standing.is_none() && home.has_too_many_tasks() {
                // One that the site did not want ends here: with the next job it would only knock
                // again, at once, and keep mail from those whose connection stands.
                if let Some(job) = job {
                    self.give_back(*job);
                }
                return None;
            }
            if job.is_some() {
                return job;
            }
            let is_blocked = home.state.borrow().backing_off.is_some();
            if is_blocked || self.stopping.get() {
                return None;
            }
            let signal = Signal::new();
            home.state.borrow_mut().idle.push(signal.clone());
            self.pump(home);
            let asked = home.state.borrow().credits > 0;
            if !asked && !self.starved.borrow().is_empty() {
                home.withdraw(&signal);
                return None;
            }
            if !asked && let Some(standing) = standing.as_mut() {
                standing.connection.rest();
            }
            if !signal.wait_for(self.config.pool.idle).await && home.withdraw(&signal) {
                return None;
            }
        }
    }

    fn done(&self, job: Job, outcomes: Vec<(u32, Outcome)>, again: Vec<u32>) {
        let Job { origin, slot, site, message, recipients } = job;
        debug_assert_eq!(recipients.len(), outcomes.len() + again.len());
        let done = Done { slot, id: message.id, site, message, outcomes, again };
        self.exchange.send(origin, Dispatch::Done(Box::new(done)));
    }

    /// Returns a job untried.
    fn give_back(&self, mut job: Job) {
        let again = std::mem::take(&mut job.recipients);
        let Job { origin, slot, site, message, .. } = job;
        let done = Done { slot, id: message.id, site, message, outcomes: Vec::new(), again };
        self.exchange.send(origin, Dispatch::Done(Box::new(done)));
    }
}

/// A connection that counts as standing for its home as long as it lives.
struct Standing {
    connection: Connection,
    _count: ConnectedCount,
}

struct ConnectedCount(Rc<Home>);

impl Standing {
    fn new(connection: Connection, home: &Rc<Home>) -> Standing {
        home.state.borrow_mut().connected += 1;
        Standing { connection, _count: ConnectedCount(Rc::clone(home)) }
    }

    async fn quit(self) {
        self.connection.quit().await;
    }
}

impl Drop for ConnectedCount {
    fn drop(&mut self) {
        let mut state = self.0.state.borrow_mut();
        state.connected = state.connected.saturating_sub(1);
    }
}

/// A job in the hands of one connection task. If the task unwinds, the attempt counts as failed:
/// given back untried it would be tried, and fail, again at once.
struct Held {
    pool: Rc<Pool>,
    job: Option<Box<Job>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            let reason = Reason::ours(
                Stage::Local,
                Status(4, 3, 0),
                "a fault in the relay ended this attempt; its log has more",
            );
            let outcomes = job
                .recipients
                .iter()
                .map(|&index| (index, Outcome::Deferred(reason.clone())))
                .collect();
            self.pool.done(*job, outcomes, Vec::new());
        }
    }
}

/// Counts a connection task out at its end, and lets a starved site have the room.
struct Task {
    pool: Rc<Pool>,
    home: Rc<Home>,
}

impl Drop for Task {
    fn drop(&mut self) {
        {
            let mut state = self.home.state.borrow_mut();
            state.tasks = state.tasks.saturating_sub(1);
        }
        self.pool.open.set(self.pool.open.get().saturating_sub(1));
        self.pool.stopped.set();
        let next = self.pool.starved.borrow_mut().pop_front();
        if let Some(home) = next {
            home.state.borrow_mut().starved = false;
            self.pool.pump(&home);
        }
        self.pool.pump(&self.home);
    }
}

impl Home {
    /// Takes `signal` from the waiting ones; false when it was no longer there, so a job may have
    /// been meant for it.
    fn withdraw(&self, signal: &Signal) -> bool {
        let mut state = self.state.borrow_mut();
        let before = state.idle.len();
        state.idle.retain(|other| !other.is(signal));
        state.idle.len() < before
    }

    fn has_too_many_tasks(&self) -> bool {
        let mut state = self.state.borrow_mut();
        state.tasks > state.allowed(self.share)
    }

    fn is_forgettable(&self) -> bool {
        let state = self.state.borrow();
        state.offers.is_empty()
            && state.jobs.is_empty()
            && state.credits == 0
            && state.tasks == 0
            && state.backing_off.is_none()
            && !state.starved
    }
}

impl State {
    /// The candidates with those that said nothing lately behind the others. Other connections that
    /// stand do not bring such an address back: each new one would wait for it first.
    fn living_first(&self, candidates: Vec<Candidate>, now: Timestamp) -> Vec<Candidate> {
        let is_dead =
            |candidate: &Candidate| self.dead.get(&candidate.address).is_some_and(|&t| t > now);
        let (dead, mut ordered): (Vec<_>, Vec<_>) = candidates.into_iter().partition(is_dead);
        ordered.extend(dead);
        ordered
    }

    /// An address that was dead is tried again by one connection; the others still leave it alone.
    fn trying(&mut self, address: SocketAddr, now: Timestamp) {
        if let Some(until) = self.dead.get_mut(&address) {
            *until = now.plus(DEAD_ADDRESS_HOLD);
        }
    }

    /// It did not take the connection, or took it and never said a word: both cost a time-out.
    /// What had its time again and was not tried (the host has other addresses now) is forgotten.
    fn tried(&mut self, address: SocketAddr, outcome: &Outcome, now: Timestamp) {
        self.dead.retain(|_, until| *until > now);
        if outcome.reason().code == 0 {
            self.dead.insert(address, now.plus(DEAD_ADDRESS_HOLD));
        } else {
            self.dead.remove(&address);
        }
    }

    /// How many connections may be open now: one until the first stands (a probe), then the share,
    /// unless the site has lately refused to take more.
    fn allowed(&mut self, share: usize) -> usize {
        if self.connected == 0 {
            return 1;
        }
        match self.ceiling {
            Some((ceiling, until)) if until > Timestamp::now() => ceiling.clamp(1, share),
            _ => {
                self.ceiling = None;
                share
            }
        }
    }
}

/// One transaction, within [`TRANSACTION_MAX`].
async fn transact(connection: &mut Connection, job: &Job) -> Transacted {
    if let Some(transacted) = within(TRANSACTION_MAX, connection.transact(job)).await {
        return transacted;
    }
    let (outcomes, _) = connection.give_up();
    Transacted { outcomes, again: Vec::new(), lost: true }
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

    fn candidate(last: u8) -> Candidate {
        Candidate { host: "mx.test".into(), address: ([192, 0, 2, last], 25).into() }
    }

    fn lasts(candidates: &[Candidate]) -> Vec<String> {
        candidates.iter().map(|candidate| candidate.address.ip().to_string()).collect()
    }

    fn silence() -> Outcome {
        Outcome::Deferred(Reason::ours(Stage::Connect, Status(4, 4, 1), "no answer"))
    }

    #[test]
    fn a_dead_address_comes_last_until_its_time_and_is_then_tried_by_one() {
        let mut state = State::default();
        let start = Timestamp(1_000_000);
        let both = || vec![candidate(1), candidate(2)];
        state.tried(candidate(1).address, &silence(), start);
        assert_eq!(lasts(&state.living_first(both(), start)), ["192.0.2.2", "192.0.2.1"]);
        let over = start.plus(DEAD_ADDRESS_HOLD);
        assert_eq!(lasts(&state.living_first(both(), over)), ["192.0.2.1", "192.0.2.2"]);
        state.trying(candidate(1).address, over);
        assert_eq!(lasts(&state.living_first(both(), over)), ["192.0.2.2", "192.0.2.1"]);
    }

    #[test]
    fn dead_addresses_of_the_past_are_forgotten() {
        let mut state = State::default();
        for number in 0..=255_u8 {
            let now = Timestamp(u64::from(number) * 60_000);
            state.tried(candidate(number).address, &silence(), now);
        }
        assert!(state.dead.len() <= 6, "{}", state.dead.len());
    }

    #[test]
    fn the_back_off_grows_to_its_bound_and_stays_there() {
        let retry = crate::config::Retry {
            first: Duration::from_secs(60),
            factor: 2.0,
            max: Duration::from_secs(600),
            expire: Duration::from_secs(86400),
            jitter: 0.1,
        };
        let waits: Vec<u64> = (1..=6).map(|n| back_off_wait(&retry, n, 0.5).as_secs()).collect();
        assert_eq!(waits, [60, 120, 240, 480, 600, 600]);
        assert_eq!(back_off_wait(&retry, u32::MAX, 0.0).as_secs(), 540);
        assert_eq!(back_off_wait(&retry, 1, 1.0).as_secs(), 66);
    }
}
