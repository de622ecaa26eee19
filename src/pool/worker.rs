//! A connection task: it waits for a job, connects only when it has one, and ends when it has been
//! idle, when the site wants fewer connections, or when other sites need its slot.

use super::connection::{Commands, Connection, ContentAhead, TlsProfile, Transacted, within};
use super::exchange::{Handling, Job};
use super::fallback::Broken;
use super::hang_ups::Charge;
use super::owner::{Interrupted, PlaceGuard, Pool, SiteOwner, fault};
use super::site::Event;
use crate::delivery::{Attempt, Next, RecipientOutcome};
use crate::message::{Address, Outcome, Reason, Stage, Status};
use crate::ring::{self, Signal};
use crate::route::Candidate;
use crate::scheduler::Scheduler;
use crate::smtp::one_line;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A transaction that a slow host drags out beyond this is given up.
const TRANSACTION_MAX: Duration = Duration::from_secs(45 * 60);
/// So is the search for a host of the site that takes mail, DNS aside.
pub(super) const OPENING_MAX: Duration = Duration::from_secs(20 * 60);
/// An attempt as a whole: beyond it, no further host is tried.
const ATTEMPT_MAX: Duration = Duration::from_secs(45 * 60);
/// An attempt (transactions until its time is over, and then a search and a transaction that had
/// begun before) is shorter than the time after which the origin asks what became of it, so that no
/// recipient is out twice.
const _: () = assert!(
    ATTEMPT_MAX.as_secs() + TRANSACTION_MAX.as_secs() + OPENING_MAX.as_secs()
        < Scheduler::OVERDUE.as_secs()
);
/// While other sites wait for a slot, a connection works this long and then ends: long enough that
/// opening the next one costs little beside it.
const TURN: Duration = Duration::from_secs(5);

/// A connection that counts as standing for its site, and at its remote address, as long as it
/// lives.
pub(super) struct PooledConnection {
    connection: Connection,
    /// It leads to a less preferred host because a better one deferred a message: the next message
    /// goes to the better one first.
    is_detour: bool,
    /// A transaction came to its end.
    has_answered: bool,
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
        let (is_detour, has_answered) = (false, false);
        PooledConnection { connection, is_detour, has_answered, _count: count, _place: place }
    }
}

impl Drop for ConnectedCount {
    fn drop(&mut self) {
        self.pool.disconnected(&self.owner);
    }
}

/// What became of the search for a host that can be used.
enum Opened {
    /// One can.
    Connection(Box<Connection>, PlaceGuard),
    /// None of them can: the attempt knows why.
    Nothing,
    /// One of its addresses has as many connections as it may.
    NoPlace(IpAddr),
}

/// What a task does after a job.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
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
            self.pool.done(*job, outcomes, Vec::new(), Handling::default());
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
            let arrived = ring::now();
            let Delivered { outcomes, again, mut handling, after } =
                self.deliver(owner, &mut standing, job).await;
            handling.elapsed = ring::now().saturating_duration_since(arrived);
            if let Some(job) = held.job.take() {
                self.done(*job, outcomes, again, handling);
            }
            if after == After::Leave {
                break;
            }
            let Some(live) = standing.as_mut() else { continue };
            let max = live.connection.transactions_max();
            let max = max.min(self.config.pool.messages_per_connection);
            let is_worn = live.connection.transactions >= max || live.is_detour;
            if !live.connection.is_ready_again().await {
                standing = None;
            } else if is_worn && let Some(standing) = standing.take() {
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

    /// One attempt: over the standing connection or a new one, and at further hosts as long as
    /// there is something for them to do (RFC 5321 5.1).
    async fn deliver(
        self: &Rc<Self>,
        owner: &Rc<SiteOwner>,
        standing: &mut Option<PooledConnection>,
        job: &Job,
    ) -> Delivered {
        if let Some(reason) = self.held_reason(owner, job) {
            let outcome = Outcome::Deferred(reason);
            return Delivered::of(all(job, &outcome), Vec::new());
        }
        let began = ring::now();
        let mut progress = AttemptProgress::new(&job.recipients);
        if let Some(live) = standing.as_mut() {
            progress.at(&live.connection.candidate);
            self.session(owner, standing, job, &mut progress).await;
        }
        while progress.attempt.next() != Next::End
            && ring::now().saturating_duration_since(began) < ATTEMPT_MAX
        {
            if let Some(no_host) = self.plan(owner, &mut progress).await {
                if progress.attempt.had_session() {
                    break;
                }
                let (outcomes, again) = self.not_reached(owner, job, all(job, &no_host));
                return Delivered::of(outcomes, again);
            }
            if progress.next.is_empty() {
                break;
            }
            // Never more connections than the site may have.
            if let Some(mut spent) = standing.take()
                && spent.connection.is_ready_again().await
            {
                spent.connection.quit().await;
            }
            let opening = self.open_connection(owner, &mut progress);
            match self.unless_interrupted(opening).await {
                Ok(Opened::Connection(connection, place)) => {
                    let live = PooledConnection::new(self, owner, *connection, place);
                    let live = standing.insert(live);
                    live.is_detour = progress.is_detour(&live.connection.candidate);
                    self.session(owner, standing, job, &mut progress).await;
                }
                Ok(Opened::Nothing) => {}
                Ok(Opened::NoPlace(address)) if !progress.attempt.had_session() => {
                    self.no_place(owner, address);
                    let untried = Delivered::of(Vec::new(), job.recipients.clone());
                    return Delivered { after: After::Leave, ..untried };
                }
                Err(Interrupted::Evicted) if !progress.attempt.had_session() => {
                    let (outcomes, again) = self.evicted(owner, job);
                    return Delivered { after: After::Leave, ..Delivered::of(outcomes, again) };
                }
                // What was not tried is given back, or has the outcome that it had elsewhere.
                Ok(Opened::NoPlace(_)) | Err(Interrupted::Stopping | Interrupted::Evicted) => {
                    let (outcomes, again) = progress.attempt.finish();
                    let (handling, after) = (progress.handling, After::Leave);
                    return Delivered { outcomes, again, handling, after };
                }
            }
        }
        let had_session = progress.attempt.had_session();
        let mut site_hung_up = None;
        if let Some(reason) = progress.hung_up.take() {
            let (sender, now) = (sender_of(job), ring::wall_clock());
            let hang_ups = &mut owner.state.borrow_mut().hang_ups;
            if hang_ups.attempt_hung_up(sender, &reason, now) == Charge::Site {
                site_hung_up = Some(reason);
            }
        }
        if let Some(reason) = site_hung_up {
            self.handle(owner, Event::Refused(Arc::new(reason)));
        }
        let (outcomes, again) = progress.attempt.finish();
        let (outcomes, again) = match had_session || outcomes.is_empty() {
            true => (outcomes, again),
            false => self.not_reached(owner, job, outcomes),
        };
        Delivered { handling: progress.handling, ..Delivered::of(outcomes, again) }
    }

    /// One transaction on the standing connection, and what it means for the attempt, the
    /// connection and the host.
    async fn session(
        self: &Rc<Self>,
        owner: &Rc<SiteOwner>,
        standing: &mut Option<PooledConnection>,
        job: &Job,
        progress: &mut AttemptProgress,
    ) {
        let Some(live) = standing.as_mut() else { return };
        let connection = &mut live.connection;
        let recipients = progress.attempt.recipients();
        let ahead = match progress.attempt.is_untried() {
            true => ContentAhead::Allowed,
            false => ContentAhead::Not,
        };
        let transacted = transact(connection, job, &recipients, ahead).await;
        let host = connection.candidate.address;
        let sender = sender_of(job);
        let now = ring::wall_clock();
        if let Some(reason) = transacted.is_hang_up() {
            if owner.state.borrow_mut().hang_ups.host_hung_up(host) == Charge::Host {
                owner.state.borrow_mut().avoid(host, now);
            }
            progress.hung_up = Some(reason.clone());
        } else if !transacted.is_about_connection() {
            owner.state.borrow_mut().hang_ups.answered(host, sender);
            progress.hung_up = None;
            // A site that was down has no older connection.
            if !std::mem::replace(&mut live.has_answered, true) {
                self.answered(owner);
            }
            if let Some(reason) = progress.pipelining_failed.take() {
                let site = &owner.site.key;
                let broken = Broken::Pipelining;
                self.fallbacks.borrow_mut().remember(host, site, broken, reason, now);
            }
        }
        if connection.conversation.pipelining_failed()
            && let Some(first) = transacted.outcomes.first()
        {
            progress.pipelining_failed = Some(first.outcome.reason().clone());
        }
        let delivered = |one: &RecipientOutcome| matches!(one.outcome, Outcome::Delivered(_));
        if progress.handling.tls.is_none() || transacted.outcomes.iter().any(delivered) {
            progress.handling = handling_of(connection);
        }
        let lost = transacted.lost;
        progress.attempt.transacted(transacted.outcomes, transacted.again);
        if lost {
            *standing = None;
        }
    }

    /// Why nothing of the sender of `job` is tried at the site now.
    fn held_reason(&self, owner: &SiteOwner, job: &Job) -> Option<Reason> {
        let sender = sender_of(job);
        let mut state = owner.state.borrow_mut();
        let reason = state.hang_ups.held(sender, ring::wall_clock())?;
        let text = format!("not tried: the last messages of this sender met: {}", reason.text);
        let text = one_line(text.as_bytes(), Reason::TEXT_LENGTH_MAX).into();
        Some(Reason { text, ..reason.clone() })
    }

    /// No host of the site got as far as a transaction. Where other connections stand, that says
    /// nothing of the job: they take it.
    fn not_reached(
        self: &Rc<Self>,
        owner: &Rc<SiteOwner>,
        job: &Job,
        outcomes: Vec<(u32, Outcome)>,
    ) -> (Vec<(u32, Outcome)>, Vec<u32>) {
        let connected = owner.state.borrow().control.connected();
        if let Some((_, outcome)) = outcomes.first()
            && (connected > 0 || matches!(outcome, Outcome::Deferred(_)))
            && self.handle(owner, Event::Refused(Arc::new(outcome.reason().clone()))).wants_no_more
        {
            return (Vec::new(), job.recipients.clone());
        }
        (outcomes, Vec::new())
    }

    /// Finds out which hosts the attempt may go to now; why there is none, when DNS says so.
    async fn plan(&self, owner: &SiteOwner, progress: &mut AttemptProgress) -> Option<Outcome> {
        if progress.attempt.next() == Next::SameHost
            && let Some(here) = progress.here.clone()
        {
            progress.next = VecDeque::from([here]);
            return None;
        }
        if !progress.is_known {
            progress.is_known = true;
            match self.router.candidates(&owner.site).await {
                Ok(candidates) => {
                    let now = ring::wall_clock();
                    let ordered = owner.state.borrow().living_first(candidates, now);
                    progress.best = ordered.first().map(|first| first.preference);
                    progress.candidates = ordered;
                }
                Err(outcome) => return Some(outcome),
            }
        }
        let is_new = |candidate: &&Candidate| !progress.tried.contains(&candidate.address);
        progress.next = progress.candidates.iter().filter(is_new).cloned().collect();
        None
    }

    /// Other sites wait for the slot, and the hosts had not answered yet.
    fn evicted(
        self: &Rc<Self>,
        owner: &Rc<SiteOwner>,
        job: &Job,
    ) -> (Vec<(u32, Outcome)>, Vec<u32>) {
        let text = "no host had answered when other destinations needed the connection";
        let reason = Reason::ours(Stage::Connect, Status(4, 4, 1), text);
        let connected = owner.state.borrow().control.connected();
        self.handle(owner, Event::Evicted(Arc::new(reason.clone())));
        if connected > 0 {
            return (Vec::new(), job.recipients.clone());
        }
        (all(job, &Outcome::Deferred(reason)), Vec::new())
    }

    /// A connection to the first host that can be used; what the others do goes to the attempt.
    async fn open_connection(
        self: &Rc<Self>,
        owner: &SiteOwner,
        progress: &mut AttemptProgress,
    ) -> Opened {
        let began = ring::now();
        let mut full = None;
        let profile = TlsProfile {
            config: &self.config,
            policy: &self.policy,
            client: &self.client,
            site: &owner.site.key,
            transport: &owner.site.transport,
            logins: self.logins.as_deref(),
            fallbacks: &self.fallbacks,
        };
        while let Some(candidate) = progress.next.pop_front() {
            let left = OPENING_MAX.saturating_sub(ring::now().saturating_duration_since(began));
            if left.is_zero() {
                break;
            }
            let address = candidate.address;
            let Some(place) = self.place(address.ip()) else {
                full.get_or_insert(address.ip());
                continue;
            };
            progress.at(&candidate);
            owner.state.borrow_mut().trying(address, ring::wall_clock());
            let commands = match progress.pipelining_failed {
                Some(_) => Commands::OneByOne,
                None => Commands::Pipelined,
            };
            match Connection::open(&candidate, &profile, commands, left).await {
                Ok(connection) => {
                    owner.state.borrow_mut().lives(address);
                    return Opened::Connection(Box::new(connection), place);
                }
                Err(failure) => {
                    owner.state.borrow_mut().tried(address, &failure.reason, ring::wall_clock());
                    progress.pipelining_failed = None;
                    progress.attempt.host_failed(failure);
                }
            }
        }
        full.map_or(Opened::Nothing, Opened::NoPlace)
    }
}

/// What an attempt did.
struct Delivered {
    /// By index in the envelope.
    outcomes: Vec<(u32, Outcome)>,
    /// To be sent again at once.
    again: Vec<u32>,
    handling: Handling,
    after: After,
}

impl Delivered {
    fn of(outcomes: Vec<(u32, Outcome)>, again: Vec<u32>) -> Delivered {
        Delivered { outcomes, again, handling: Handling::default(), after: After::Stay }
    }
}

/// The same outcome for all recipients of `job`.
fn all(job: &Job, outcome: &Outcome) -> Vec<(u32, Outcome)> {
    job.recipients.iter().map(|&index| (index, outcome.clone())).collect()
}

/// One attempt as it goes from host to host.
struct AttemptProgress {
    attempt: Attempt,
    handling: Handling,
    /// The host that was tried last.
    here: Option<Candidate>,
    tried: Vec<SocketAddr>,
    /// The site's hosts have been looked up: these.
    is_known: bool,
    candidates: Vec<Candidate>,
    /// The ones that are tried now, in order.
    next: VecDeque<Candidate>,
    /// The preference of the first host.
    best: Option<u16>,
    /// The host here may break at PIPELINING: it is tried again without, and why.
    pipelining_failed: Option<Reason>,
    /// The host that was reached last closed the connection at the message, and why.
    hung_up: Option<Reason>,
}

impl AttemptProgress {
    fn new(recipients: &[u32]) -> AttemptProgress {
        AttemptProgress {
            attempt: Attempt::new(recipients),
            handling: Handling::default(),
            here: None,
            hung_up: None,
            tried: Vec::new(),
            is_known: false,
            candidates: Vec::new(),
            next: VecDeque::new(),
            best: None,
            pipelining_failed: None,
        }
    }

    /// `candidate` is tried.
    fn at(&mut self, candidate: &Candidate) {
        if !self.tried.contains(&candidate.address) {
            self.tried.push(candidate.address);
        }
        if self.here.as_ref() != Some(candidate) {
            self.pipelining_failed = None;
        }
        self.here = Some(candidate.clone());
    }

    /// `candidate` is there only because a better host deferred the message.
    fn is_detour(&self, candidate: &Candidate) -> bool {
        let is_worse = self.best.is_some_and(|best| candidate.preference > best);
        is_worse && self.attempt.had_session()
    }
}

fn handling_of(connection: &Connection) -> Handling {
    let (tls, reports) = (connection.security(), connection.reports());
    Handling { tls, reports, ..Handling::default() }
}

fn sender_of(job: &Job) -> &str {
    job.message.envelope.reverse_path.as_ref().map_or("", Address::as_str)
}

/// One transaction, within [`TRANSACTION_MAX`].
pub(super) async fn transact(
    connection: &mut Connection,
    job: &Job,
    recipients: &[u32],
    ahead: ContentAhead,
) -> Transacted {
    match within(TRANSACTION_MAX, connection.transact(job, recipients, ahead)).await {
        Some(transacted) => transacted,
        None => connection.give_up(),
    }
}
