//! The control of one site at one of its owners. *Pure*: events in, actions out; the time and the
//! generator come with each event.
//!
//! It keeps counts and times: offers, credits, jobs, connection tasks, refusals. It decides which
//! origin is asked for work, how many connections there are, and when the site backs off. It must
//! not know sockets, messages, or other sites.
//!
//! | state | what is allowed | left by |
//! | --- | --- | --- |
//! | probing: no connection stands | one connection | it stands: open; it fails: backing off |
//! | open | connections up to the share | the last one goes: probing |
//! | ceiling: one more was refused beside others | as many as stood then, for a minute | time |
//! | held: the addresses of the site have no place | those that stand | time, or a place |
//! | backing off | none; all work stays with the origins | time, an operator, another owner |
//!
//! *Back-off.* The waits double from `pool.backoff_first` to `pool.backoff_max`, each varied by a
//! fifth. What begins and ends it:
//!
//! | event | what follows |
//! | --- | --- |
//! | no host can be used, no connection stands | the next wait of the curve; all owners hear of it |
//! | the same, for a probe that was asked for (ETRN) | the wait that was broken off goes on |
//! | an opening connection had to make room | the first wait; it counts as no failure |
//! | another owner backs off, and none here stands or opens | the same wait, and a little more |
//! | a connection stands | the count begins anew, here and at all other owners |
//!
//! Every owner of a site hears of the first success after a failure, so that one shard does not
//! wait for a site that another delivers to.

use crate::message::Reason;
use crate::timestamp::Timestamp;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// After a connection was refused beside standing ones, their number is not raised for this long.
const CEILING_HOLD: Duration = Duration::from_secs(60);
/// When the addresses of a site have no place for one more connection, they are looked at again
/// after this, if no place has become free before: other shards do not say when they free one.
const ADDRESS_HOLD: Duration = Duration::from_secs(2);
/// Credits that no origin has answered for this long are forgotten: a fault lost their answers, and
/// a site must not wait for them for ever. An answer that comes after all is taken.
const CREDIT_OVERDUE: Duration = Duration::from_secs(300);
/// An owner that hears of a back-off waits this much longer than the one that began it, whose probe
/// answers for both.
const PEER_GRACE: Duration = Duration::from_secs(3);
/// Each wait is varied by up to this part of it.
const JITTER: f64 = 0.2;

/// The waits of a site that does not answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackOffCurve {
    first_ms: u32,
    max_ms: u32,
}

impl BackOffCurve {
    /// From `first`, doubling, to `max`.
    pub(super) fn new(first: Duration, max: Duration) -> BackOffCurve {
        let ms = |wait: Duration| u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
        BackOffCurve { first_ms: ms(first), max_ms: ms(max.max(first)) }
    }

    /// The wait after the `failures`-th failure in a row.
    fn wait(&self, failures: u16, rng: &mut fastrand::Rng) -> Duration {
        let doublings = i32::from(failures.saturating_sub(1));
        let plain = f64::from(self.first_ms) * 2_f64.powi(doublings);
        let capped = plain.min(f64::from(self.max_ms));
        Duration::from_millis((capped * (1.0 + JITTER * (2.0 * rng.f64() - 1.0))) as u64)
    }
}

/// Something happened to a site.
#[derive(Debug)]
pub(super) enum Event {
    /// An origin has work for it.
    Offered(u16),
    /// An origin answers a credit: it has no more work.
    Drained(u16),
    /// An origin answers a credit: a job has come.
    JobArrived,
    /// A task took a job that had come.
    JobTaken,
    /// The connection that [`Actions::open`] asked for has a slot: its task begins.
    TaskBegan,
    /// A task waits for a job.
    TaskWaits,
    /// A waiting task that was woken runs.
    TaskWoke,
    /// A waiting task has given up by itself.
    TaskLeft,
    /// A task has ended. It did not wait, and its connection is gone.
    TaskEnded,
    /// A connection stands.
    Connected,
    /// It is gone.
    Disconnected,
    /// No host of the site can be used, or the site as a whole refuses mail.
    Refused(Arc<Reason>),
    /// An opening connection was ended, because other sites wait for its slot.
    Evicted(Arc<Reason>),
    /// None of the site's addresses may have one more connection.
    NoPlace,
    /// A place at an address that the site waits for is free.
    PlaceFree,
    /// An operator or a receiver says that the site takes mail again.
    TryNow,
    /// A time that [`Actions::timer`] asked for has come, or it is time to look at everything.
    Tick,
    /// Another owner delivers to the site.
    PeerDelivers,
    /// Another owner has begun to back off.
    PeerBacksOff { until: Timestamp, failures: u16, reason: Arc<Reason> },
}

/// What is to be done now for a site.
#[derive(Debug, Default)]
pub(super) struct Actions {
    /// So many waiting tasks are to be woken: there is a job for each.
    pub(super) wake: usize,
    /// Origins to be asked for one job each.
    pub(super) credits: Vec<u16>,
    /// One more connection is wanted: `TaskBegan` when there is a slot for it.
    pub(super) open: bool,
    /// The jobs that have come go back to their origins, untried.
    pub(super) return_jobs: bool,
    /// All waiting tasks end.
    pub(super) release: bool,
    /// The failure only means that the site wants no more connections than stand: the job is tried
    /// over one of them.
    pub(super) wants_no_more: bool,
    /// Origins with work are to hear whether the site backs off.
    pub(super) tell_origins: bool,
    /// Other owners are to hear this.
    pub(super) tell_peers: Option<PeerNews>,
    /// A `Tick` is wanted at this time.
    pub(super) timer: Option<Timestamp>,
    /// A fault: so many credits were never answered.
    pub(super) lost_credits: usize,
}

/// What other owners of the site hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerNews {
    /// This one has begun to back off.
    BacksOff,
    /// This one delivers to it.
    Delivers,
}

/// A site that backs off.
#[derive(Clone, Debug)]
pub(super) struct BackOff {
    pub(super) until: Timestamp,
    pub(super) reason: Arc<Reason>,
}

/// What is known of one site at one owner.
#[derive(Debug)]
pub(super) struct Control {
    share: u16,
    curve: BackOffCurve,
    /// Origins that have work, in turn.
    offers: VecDeque<u16>,
    /// Jobs that have come and no task has taken.
    queued: u32,
    /// Jobs asked for and not answered.
    credits: u32,
    /// When a credit was given or answered last.
    credited_at: Timestamp,
    /// Connection tasks.
    tasks: u16,
    /// Of these, the ones that wait for a job.
    idle: u16,
    /// Of these, the ones that were woken and have not run yet.
    woken: u16,
    /// Of these, the ones whose connection stands.
    connected: u16,
    /// Connections are not raised above this before then.
    ceiling: Option<(u16, Timestamp)>,
    /// No connection is opened before then: the addresses have no place.
    held_until: Option<Timestamp>,
    /// Failures in a row.
    failures: u16,
    backing_off: Option<BackOff>,
    /// The end of a back-off that an operator broke off, as long as its probe has no result.
    broken_off: Option<Timestamp>,
    /// Other owners may back off: they hear of a success.
    peers_wait: bool,
}

impl Control {
    /// A site that nothing is known of; this owner may have `share` connections to it.
    pub(super) fn new(share: usize, curve: BackOffCurve) -> Control {
        Control {
            share: u16::try_from(share).unwrap_or(u16::MAX).max(1),
            curve,
            offers: VecDeque::new(),
            queued: 0,
            credits: 0,
            credited_at: Timestamp(0),
            tasks: 0,
            idle: 0,
            woken: 0,
            connected: 0,
            ceiling: None,
            held_until: None,
            failures: 0,
            backing_off: None,
            broken_off: None,
            peers_wait: false,
        }
    }

    /// What follows from `event`.
    pub(super) fn handle(
        &mut self,
        event: Event,
        now: Timestamp,
        rng: &mut fastrand::Rng,
    ) -> Actions {
        let mut actions = Actions::default();
        match event {
            Event::Offered(origin) => {
                if !self.offers.contains(&origin) {
                    self.offers.push_back(origin);
                }
            }
            Event::Drained(origin) => {
                self.answered_credit(now);
                self.offers.retain(|&other| other != origin);
            }
            Event::JobArrived => {
                self.answered_credit(now);
                if self.backing_off.is_some() {
                    actions.return_jobs = true;
                } else {
                    self.queued += 1;
                }
            }
            Event::JobTaken => self.queued = self.queued.saturating_sub(1),
            Event::TaskBegan => self.tasks = self.tasks.saturating_add(1),
            Event::TaskWaits => self.idle += 1,
            Event::TaskWoke => {
                self.woken = self.woken.saturating_sub(1);
                // What it does next is another event: until then the job is as good as taken.
                return actions;
            }
            Event::TaskLeft => self.idle = self.idle.saturating_sub(1),
            Event::TaskEnded => self.tasks = self.tasks.saturating_sub(1),
            Event::Connected => self.connected_now(&mut actions),
            Event::Disconnected => self.connected = self.connected.saturating_sub(1),
            Event::Refused(reason) => self.refused(reason, now, rng, &mut actions),
            Event::Evicted(reason) => {
                if self.connected == 0 {
                    let until = now.plus(self.curve.wait(1, rng));
                    self.back_off(until, reason, &mut actions);
                    actions.tell_peers = Some(PeerNews::BacksOff);
                }
            }
            Event::NoPlace => {
                let until = now.plus(ADDRESS_HOLD);
                self.held_until = Some(until);
                actions.timer = Some(until);
                // Without a connection nothing here can do the jobs.
                if self.connected == 0 {
                    actions.return_jobs = std::mem::take(&mut self.queued) > 0;
                }
            }
            Event::PlaceFree => self.held_until = None,
            Event::TryNow => {
                if let Some(BackOff { until, .. }) = &self.backing_off {
                    self.broken_off = Some(*until);
                    self.resume(&mut actions);
                }
            }
            Event::Tick => self.tick(now, &mut actions),
            Event::PeerDelivers => {
                self.failures = 0;
                self.peers_wait = false;
                if self.backing_off.is_some() {
                    self.resume(&mut actions);
                }
            }
            Event::PeerBacksOff { until, failures, reason } => {
                self.peers_wait = true;
                if self.connected == 0 && self.tasks == 0 && self.backing_off.is_none() {
                    self.failures = self.failures.max(failures);
                    // The owner that began it tells the others.
                    self.back_off(until.plus(PEER_GRACE), reason, &mut actions);
                }
            }
        }
        self.moves(now, &mut actions);
        actions
    }

    /// Gives waiting jobs to waiting tasks, asks for work for those that still wait, and says
    /// whether one more connection is wanted.
    fn moves(&mut self, now: Timestamp, actions: &mut Actions) {
        if self.backing_off.is_some() {
            return;
        }
        let unclaimed = self.queued.saturating_sub(u32::from(self.woken));
        let wake = u16::try_from(unclaimed).unwrap_or(u16::MAX).min(self.idle);
        self.idle -= wake;
        self.woken += wake;
        actions.wake += usize::from(wake);
        let has_work = !self.offers.is_empty() || self.queued > u32::from(self.woken);
        actions.open = has_work && self.idle == 0 && self.tasks < self.allowed(now);
        while self.spare() > 0 {
            let Some(origin) = self.offers.pop_front() else { break };
            self.offers.push_back(origin);
            self.credits += 1;
            self.credited_at = now;
            actions.credits.push(origin);
        }
    }

    fn answered_credit(&mut self, now: Timestamp) {
        self.credits = self.credits.saturating_sub(1);
        self.credited_at = now;
    }

    fn connected_now(&mut self, actions: &mut Actions) {
        self.connected = self.connected.saturating_add(1);
        self.broken_off = None;
        self.held_until = None;
        let was_failing = self.failures > 0;
        self.failures = 0;
        let peers_wait = std::mem::take(&mut self.peers_wait);
        if self.backing_off.is_some() {
            self.resume(actions);
        }
        if was_failing || peers_wait {
            actions.tell_peers = Some(PeerNews::Delivers);
        }
    }

    fn refused(
        &mut self,
        reason: Arc<Reason>,
        now: Timestamp,
        rng: &mut fastrand::Rng,
        actions: &mut Actions,
    ) {
        if self.connected > 0 {
            self.ceiling = Some((self.connected, now.plus(CEILING_HOLD)));
            actions.wants_no_more = true;
            return;
        }
        if self.backing_off.is_some() {
            return;
        }
        // A probe that was asked for is no failure: it must not make the site wait longer than it
        // would have without it.
        let until = match self.broken_off.take() {
            Some(until) if until > now => until,
            _ => {
                self.failures = self.failures.saturating_add(1);
                now.plus(self.curve.wait(self.failures, rng))
            }
        };
        self.back_off(until, reason, actions);
        actions.tell_peers = Some(PeerNews::BacksOff);
    }

    fn back_off(&mut self, until: Timestamp, reason: Arc<Reason>, actions: &mut Actions) {
        self.backing_off = Some(BackOff { until, reason });
        self.peers_wait = true;
        self.release(actions);
        actions.timer = Some(until);
        actions.tell_origins = true;
    }

    /// All that waits here goes: tasks end, jobs go back.
    fn release(&mut self, actions: &mut Actions) {
        actions.return_jobs |= std::mem::take(&mut self.queued) > 0;
        self.woken += std::mem::take(&mut self.idle);
        actions.release = true;
    }

    fn resume(&mut self, actions: &mut Actions) {
        self.backing_off = None;
        actions.tell_origins = true;
    }

    fn tick(&mut self, now: Timestamp, actions: &mut Actions) {
        if self.held_until.is_some_and(|until| until <= now) {
            self.held_until = None;
        }
        if self.backing_off.as_ref().is_some_and(|back_off| back_off.until <= now) {
            self.resume(actions);
        }
        if self.credits > 0 && now.since(self.credited_at) >= CREDIT_OVERDUE {
            actions.lost_credits = std::mem::take(&mut self.credits) as usize;
        }
    }

    /// Waiting tasks for which no job was asked: they could go.
    pub(super) fn spare(&self) -> usize {
        let unclaimed = self.queued.saturating_sub(u32::from(self.woken));
        usize::from(self.idle).saturating_sub(unclaimed.saturating_add(self.credits) as usize)
    }

    /// One waiting task is to be woken because others want its slot; false when none is spare.
    pub(super) fn wake_spare(&mut self) -> bool {
        let is_spare = self.spare() > 0;
        if is_spare {
            self.idle -= 1;
            self.woken += 1;
        }
        is_spare
    }

    /// The pool stops: whatever waits here goes.
    pub(super) fn stop(&mut self) -> Actions {
        let mut actions = Actions::default();
        self.release(&mut actions);
        actions
    }

    /// There are more tasks than the site takes connections: one that has none must end instead of
    /// trying again and again, and keep jobs from those whose connection stands.
    pub(super) fn is_above_ceiling(&self, now: Timestamp) -> bool {
        self.tasks > self.allowed(now).max(1)
    }

    /// How many connections may be open now.
    fn allowed(&self, now: Timestamp) -> u16 {
        if self.held_until.is_some_and(|until| until > now) {
            return self.connected;
        }
        if self.connected == 0 {
            return 1;
        }
        match self.ceiling {
            Some((ceiling, until)) if until > now => ceiling.clamp(1, self.share),
            _ => self.share,
        }
    }

    /// Nothing is lost with it.
    pub(super) fn is_forgettable(&self) -> bool {
        self.offers.is_empty()
            && self.queued == 0
            && self.credits == 0
            && self.tasks == 0
            && self.backing_off.is_none()
    }

    /// Why the site backs off, and until when.
    pub(super) fn backing_off(&self) -> Option<&BackOff> {
        self.backing_off.as_ref()
    }

    /// Another owner has said that it backs off, before anything was known here.
    pub(super) fn expect_peers(&mut self) {
        self.peers_wait = true;
    }

    /// Failures in a row.
    pub(super) fn failures(&self) -> u16 {
        self.failures
    }

    /// Connections that stand.
    pub(super) fn connected(&self) -> usize {
        usize::from(self.connected)
    }

    /// Tasks that do not wait for a job.
    pub(super) fn busy(&self) -> usize {
        usize::from(self.tasks.saturating_sub(self.idle))
    }

    /// Connections that this owner may have to the site.
    pub(super) fn share(&self) -> usize {
        usize::from(self.share)
    }

    /// Origins that have work.
    pub(super) fn origins(&self) -> impl Iterator<Item = u16> {
        self.offers.iter().copied()
    }
}

#[cfg(test)]
mod tests;
