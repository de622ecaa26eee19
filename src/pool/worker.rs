//! A connection task: it waits for a job, connects only when it has one, and goes when it has been
//! idle, when the site wants fewer connections, or when others must have the room.

use super::connection::{Connection, TlsProfile, Transacted, within};
use super::exchange::{Job, Reports};
use super::owner::{Interrupted, PlaceGuard, Pool, SiteOwner, fault};
use super::site::Event;
use crate::message::{Outcome, Reason, Stage, Status};
use crate::ring::{self, Signal};
use crate::scheduler::Scheduler;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A transaction that a slow host drags out beyond this is given up.
const TRANSACTION_MAX: Duration = Duration::from_secs(45 * 60);
/// So is the search for a host of the site that takes mail, DNS aside.
pub(super) const OPENING_MAX: Duration = Duration::from_secs(20 * 60);
/// An attempt (a transaction on a connection found closed, the search, a transaction) is shorter
/// than the time after which the origin asks what became of it, so that no recipient is out twice.
const _: () =
    assert!(TRANSACTION_MAX.as_secs() * 2 + OPENING_MAX.as_secs() < Scheduler::OVERDUE.as_secs());
/// While other sites wait for room, a connection works this long and then goes: long enough that
/// opening the next one costs little beside it.
const TURN: Duration = Duration::from_secs(5);

/// A connection that counts as standing for its site, and at its remote address, as long as it
/// lives.
pub(super) struct PooledConnection {
    pub(super) connection: Connection,
    _count: ConnectedCount,
    _place: PlaceGuard,
}

struct ConnectedCount {
    pool: Rc<Pool>,
    owner: Rc<SiteOwner>,
}

impl PooledConnection {
    fn new(
        pool: &Rc<Pool>,
        owner: &Rc<SiteOwner>,
        connection: Connection,
        place: PlaceGuard,
    ) -> PooledConnection {
        pool.connected(owner);
        let count = ConnectedCount { pool: Rc::clone(pool), owner: Rc::clone(owner) };
        PooledConnection { connection, _count: count, _place: place }
    }
}

impl Drop for ConnectedCount {
    fn drop(&mut self) {
        self.pool.disconnected(&self.owner);
    }
}

/// Why there is no connection to a site.
enum NotOpened {
    /// What its hosts, or the lack of them, mean for a recipient.
    Outcome(Outcome),
    /// One of its addresses has as many connections as it may.
    NoPlace(IpAddr),
}

/// What a task does after a job.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Waits for another one.
    Stay,
    /// Ends, so that its slot is free.
    Leave,
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
            let outcomes = job.recipients.iter().map(|&index| (index, fault())).collect();
            self.pool.done(*job, outcomes, Vec::new(), None, Reports::default());
        }
    }
}

impl Pool {
    /// One connection task, from its first job to its end.
    pub(super) async fn connection(self: &Rc<Self>, owner: &Rc<SiteOwner>) {
        let began = ring::now();
        let mut standing: Option<PooledConnection> = None;
        while let Some(job) = self.next_job(owner, &mut standing, began).await {
            if let Some(live) = standing.take_if(|live| !live.connection.is_trusted(&self.client)) {
                live.connection.quit().await;
            }
            // From here on only this task has the job: if it unwinds, the guard ends the attempt.
            let mut held = Held { pool: Rc::clone(self), job: Some(job) };
            let Some(job) = held.job.as_deref() else { continue };
            let (transacted, next) = self.deliver(owner, &mut standing, job).await;
            let lost = transacted.lost;
            let refusal = transacted.refusal_of_all().cloned();
            if let Some(job) = held.job.take() {
                let tls = standing.as_ref().and_then(|live| live.connection.security());
                let reports = standing.as_ref().map(|live| live.connection.reports());
                let reports = reports.unwrap_or_default();
                self.done(*job, transacted.outcomes, transacted.again, tls, reports);
            }
            let worn = standing.as_ref().is_some_and(|standing| {
                let max = standing.connection.transactions_max();
                let max = max.min(self.config.pool.messages_per_connection);
                standing.connection.transactions >= max
            });
            if lost {
                standing = None;
                if let Some(reason) = refusal {
                    self.handle(owner, Event::Refused(Arc::new(reason)));
                }
                if next == Next::Leave {
                    break;
                }
            } else if let Some(live) = standing.as_mut()
                && !live.connection.is_ready_again().await
            {
                standing = None;
            } else if worn && let Some(standing) = standing.take() {
                standing.connection.quit().await;
            }
        }
        if let Some(standing) = standing {
            standing.connection.quit().await;
        }
    }

    /// Waits for a job; `None` when this task should end.
    async fn next_job(
        self: &Rc<Self>,
        owner: &Rc<SiteOwner>,
        standing: &mut Option<PooledConnection>,
        began: Instant,
    ) -> Option<Box<Job>> {
        loop {
            let now = self.now();
            if standing.is_none() && owner.state.borrow().control.is_above_ceiling(now) {
                // With the next job it would only be refused again, at once, and keep mail from
                // those whose connection stands.
                if let Some(job) = self.take_job(owner) {
                    self.give_back(*job);
                }
                return None;
            }
            if let Some(job) = self.take_job(owner) {
                return Some(job);
            }
            if self.must_end(owner, began) {
                return None;
            }
            let signal = Signal::new();
            owner.state.borrow_mut().idle.push(signal.clone());
            self.handle(owner, Event::TaskWaits);
            let is_spare = owner.state.borrow().control.spare() > 0;
            if is_spare && self.others_starve(owner) && self.withdraw(owner, &signal) {
                return None;
            }
            if is_spare && let Some(standing) = standing.as_mut() {
                standing.connection.rest();
            }
            let woken = signal.wait_for(self.config.pool.idle).await;
            if !woken && self.withdraw(owner, &signal) {
                return None;
            }
            self.handle(owner, Event::TaskWoke);
        }
    }

    fn take_job(self: &Rc<Self>, owner: &Rc<SiteOwner>) -> Option<Box<Job>> {
        let job = owner.state.borrow_mut().jobs.pop_front()?;
        self.handle(owner, Event::JobTaken);
        Some(job)
    }

    /// The task waits no more; false when it was woken meanwhile.
    fn withdraw(self: &Rc<Self>, owner: &Rc<SiteOwner>, signal: &Signal) -> bool {
        let waited = owner.state.borrow_mut().withdraw(signal);
        if waited {
            self.handle(owner, Event::TaskLeft);
        }
        waited
    }

    /// Whether a task without a job should not ask for one: stopping, backing off, or its turn is
    /// over while others wait for a slot.
    fn must_end(&self, owner: &Rc<SiteOwner>, began: Instant) -> bool {
        let turn_is_over = ring::now().saturating_duration_since(began) >= TURN;
        self.is_stopping()
            || owner.state.borrow().control.backing_off().is_some()
            || (turn_is_over && self.others_starve(owner))
    }

    /// Delivers one job over the standing connection or a new one.
    async fn deliver(
        self: &Rc<Self>,
        owner: &Rc<SiteOwner>,
        standing: &mut Option<PooledConnection>,
        job: &Job,
    ) -> (Transacted, Next) {
        if let Some(live) = standing.as_mut() {
            let reused = live.connection.transactions > 0;
            let transacted = transact(&mut live.connection, job).await;
            if !(reused && transacted.was_closed_before()) {
                return (transacted, Next::Stay);
            }
            *standing = None;
        }
        match self.unless_interrupted(self.open_connection(owner)).await {
            Ok(Ok((connection, place))) => {
                let live = standing.insert(PooledConnection::new(self, owner, connection, place));
                (transact(&mut live.connection, job).await, Next::Stay)
            }
            Ok(Err(NotOpened::Outcome(outcome))) => {
                (self.not_reached(owner, job, &outcome), Next::Stay)
            }
            Ok(Err(NotOpened::NoPlace(address))) => {
                self.no_place(owner, address);
                (Transacted::untried(job), Next::Leave)
            }
            Err(Interrupted::Stopping) => (Transacted::untried(job), Next::Leave),
            Err(Interrupted::Evicted) => (self.evicted(owner, job), Next::Leave),
        }
    }

    /// No host of the site could be used. Where other connections stand, that says nothing of the
    /// job: they take it.
    fn not_reached(
        self: &Rc<Self>,
        owner: &Rc<SiteOwner>,
        job: &Job,
        outcome: &Outcome,
    ) -> Transacted {
        let connected = owner.state.borrow().control.connected();
        if (connected > 0 || matches!(outcome, Outcome::Deferred(_)))
            && self.handle(owner, Event::Refused(Arc::new(outcome.reason().clone()))).wants_no_more
        {
            return Transacted::untried(job);
        }
        Transacted::all(job, outcome)
    }

    /// Other sites wait for the slot, and the hosts had not answered yet.
    fn evicted(self: &Rc<Self>, owner: &Rc<SiteOwner>, job: &Job) -> Transacted {
        let text = "no host had answered when other destinations needed the connection";
        let reason = Reason::ours(Stage::Connect, Status(4, 4, 1), text);
        let connected = owner.state.borrow().control.connected();
        self.handle(owner, Event::Evicted(Arc::new(reason.clone())));
        if connected > 0 {
            return Transacted::untried(job);
        }
        Transacted::all(job, &Outcome::Deferred(reason))
    }

    async fn open_connection(
        self: &Rc<Self>,
        owner: &SiteOwner,
    ) -> Result<(Connection, PlaceGuard), NotOpened> {
        let candidates = self.router.candidates(&owner.site).await.map_err(NotOpened::Outcome)?;
        let ordered = owner.state.borrow().living_first(candidates, ring::wall_clock());
        let (mut last, mut full) = (None, None);
        let began = ring::now();
        let way = TlsProfile {
            config: &self.config,
            policy: &self.policy,
            client: &self.client,
            transport: &owner.site.transport,
            logins: self.logins.as_deref(),
        };
        for candidate in &ordered {
            let left = OPENING_MAX.saturating_sub(ring::now().saturating_duration_since(began));
            if left.is_zero() {
                break;
            }
            let Some(place) = self.place(candidate.address.ip()) else {
                full.get_or_insert(candidate.address.ip());
                continue;
            };
            owner.state.borrow_mut().trying(candidate.address, ring::wall_clock());
            match Connection::open(candidate, &way, left).await {
                Ok(connection) => {
                    owner.state.borrow_mut().lives(candidate.address);
                    return Ok((connection, place));
                }
                Err(outcome) => {
                    owner.state.borrow_mut().tried(candidate.address, &outcome, ring::wall_clock());
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
        }
        if let Some(address) = full {
            return Err(NotOpened::NoPlace(address));
        }
        Err(NotOpened::Outcome(last.unwrap_or_else(|| {
            Outcome::Deferred(Reason::ours(
                Stage::Connect,
                Status(4, 4, 1),
                "the destination has no address that can be tried",
            ))
        })))
    }
}

/// One transaction, within [`TRANSACTION_MAX`].
pub(super) async fn transact(connection: &mut Connection, job: &Job) -> Transacted {
    if let Some(transacted) = within(TRANSACTION_MAX, connection.transact(job)).await {
        return transacted;
    }
    let (outcomes, _) = connection.give_up();
    Transacted { outcomes, again: Vec::new(), lost: true }
}
