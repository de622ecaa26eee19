//! A connection task: it waits for a job, connects only when it has one, and goes when it has been
//! idle, when the site wants fewer connections, or when others must have the room.

use super::connection::{Connection, TlsProfile, Transacted, within};
use super::exchange::{Job, Reports};
use super::owner::{Pool, SiteOwner, fault};
use crate::message::{Outcome, Reason, Stage, Status};
use crate::ring::{self, Signal};
use crate::scheduler::Scheduler;
use futures_lite::future::or;
use std::rc::Rc;
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

/// A connection that counts as standing for its home as long as it lives.
pub(super) struct PooledConnection {
    pub(super) connection: Connection,
    _count: ConnectedCount,
}

struct ConnectedCount(Rc<SiteOwner>);

impl PooledConnection {
    pub(super) fn new(connection: Connection, owner: &Rc<SiteOwner>) -> PooledConnection {
        owner.state.borrow_mut().connected += 1;
        PooledConnection { connection, _count: ConnectedCount(Rc::clone(owner)) }
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
            // From here on the job is in nobody's hands but this task's: if it unwinds, the guard
            // ends the attempt.
            let mut held = Held { pool: Rc::clone(self), job: Some(job) };
            let Some(job) = held.job.as_deref() else { continue };
            let transacted = self.deliver(owner, &mut standing, job).await;
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
                    self.refused(owner, &reason);
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
            if standing.is_none() && owner.state.borrow().is_above_ceiling(ring::wall_clock()) {
                // With the next job it would only knock again, at once, and keep mail from those
                // whose connection stands.
                let job = owner.state.borrow_mut().jobs.pop_front();
                job.into_iter().for_each(|job| self.give_back(*job));
                return None;
            }
            if let Some(job) = owner.state.borrow_mut().jobs.pop_front() {
                return Some(job);
            }
            if self.must_end(owner, began) {
                return None;
            }
            let signal = Signal::new();
            owner.state.borrow_mut().idle.push(signal.clone());
            self.pump(owner);
            let is_spare = owner.state.borrow().spare() > 0;
            if is_spare && self.others_starve(owner) && owner.state.borrow_mut().withdraw(&signal) {
                return None;
            }
            if is_spare && let Some(standing) = standing.as_mut() {
                standing.connection.rest();
            }
            if !signal.wait_for(self.config.pool.idle).await
                && owner.state.borrow_mut().withdraw(&signal)
            {
                return None;
            }
        }
    }

    /// Whether a task without a job should not ask for one: stopping, backing off, or its turn is
    /// over while others wait for room.
    fn must_end(&self, owner: &Rc<SiteOwner>, began: Instant) -> bool {
        let state = owner.state.borrow();
        self.stopping.get()
            || state.backing_off.is_some()
            || (began.elapsed() >= TURN && self.others_starve(owner))
    }

    /// Delivers one job over the standing connection or a new one.
    async fn deliver(
        self: &Rc<Self>,
        owner: &Rc<SiteOwner>,
        standing: &mut Option<PooledConnection>,
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
        match self.unless_stopping(self.open_connection(owner)).await {
            Some(Ok(connection)) => {
                let live = standing.insert(PooledConnection::new(connection, owner));
                owner.state.borrow_mut().failures = 0;
                self.pump(owner);
                transact(&mut live.connection, job).await
            }
            Some(Err(outcome)) => self.not_reached(owner, job, &outcome),
            None => Transacted::untried(job),
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
        let connected = owner.state.borrow().connected;
        if (connected > 0 || matches!(outcome, Outcome::Deferred(_)))
            && self.refused(owner, outcome.reason())
        {
            return Transacted::untried(job);
        }
        let outcomes = job.recipients.iter().map(|&index| (index, outcome.clone())).collect();
        Transacted { outcomes, again: Vec::new(), lost: true }
    }

    /// What `opening` gives; `None` when the pool stops meanwhile.
    pub(super) async fn unless_stopping(
        &self,
        opening: impl Future<Output = Result<Connection, Outcome>>,
    ) -> Option<Result<Connection, Outcome>> {
        if self.stopping.get() {
            return None;
        }
        let stop = Signal::new();
        self.opening.borrow_mut().push(stop.clone());
        let opened = async { Some(opening.await) };
        let stopped = async {
            stop.wait().await;
            None
        };
        let result = or(opened, stopped).await;
        self.opening.borrow_mut().retain(|other| !other.is(&stop));
        result
    }

    async fn open_connection(&self, owner: &SiteOwner) -> Result<Connection, Outcome> {
        let candidates = self.router.candidates(&owner.site).await?;
        let ordered = owner.state.borrow().living_first(candidates, ring::wall_clock());
        let mut last = None;
        let began = ring::now();
        let way = TlsProfile {
            config: &self.config,
            policy: &self.policy,
            client: &self.client,
            transport: &owner.site.transport,
            logins: self.logins.as_deref(),
        };
        for candidate in &ordered {
            let left = OPENING_MAX.saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            owner.state.borrow_mut().trying(candidate.address, ring::wall_clock());
            match Connection::open(candidate, &way, left).await {
                Ok(connection) => {
                    owner.state.borrow_mut().lives(candidate.address);
                    return Ok(connection);
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
        Err(last.unwrap_or_else(|| {
            Outcome::Deferred(Reason::ours(
                Stage::Connect,
                Status(4, 4, 1),
                "the destination has no address that can be tried",
            ))
        }))
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
