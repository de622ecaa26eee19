//! The pool of one shard: the sites that it owns, and what drives their controls.
//!
//! What is to be done for a site is decided by [`site::Control`](super::site::Control), and which
//! site has the next connection slot by [`Slots`]; both are pure. This drives them: it carries
//! events from tasks, timers and the exchange to them, and does what they say. What it keeps of a
//! site beside its control are the things themselves: jobs, waiting tasks, hosts.
//!
//! A connection is a task. It waits for a job, connects only when it has one, and ends when it has
//! been idle. Work is asked for (Credit) only for tasks that wait, so nothing piles up here: at
//! most one job per connection.

use super::addresses::{AddressCounts, AddressPlace};
use super::exchange::{Dispatch, Done, Exchange, Handling, Job, PeerState, owner_share, owners};
use super::fallback::{Fallbacks, Remembered};
use super::outages::SiteOutages;
use super::site::{Actions, BackOff, BackOffCurve, Control, Event, PeerNews};
use super::slots::{LastTime, OpeningId, SiteNumber, Slots};
use super::state::State;
use crate::config::Config;
use crate::credentials::OutboundCredentials;
use crate::delivery::Policy;
use crate::message::{Outcome, Reason, Stage, Status};
use crate::ring::{self, Semaphore, Signal};
use crate::route::{Router, Site, SiteKey};
use crate::timestamp::Timestamp;
use crate::tls::Client;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sites without work are forgotten, and lost answers made good, at this interval.
const SWEEP: Duration = Duration::from_secs(60);
/// Sites looked at in a row, by a sweep or a listing, before the shard does something else.
const SWEEP_STEP: usize = 512;
/// While sites wait for slots, opening connections are looked at this often.
const EVICTION_LOOK: Duration = Duration::from_millis(250);
/// Timers handled in a row before the shard does something else.
const TIMERS_IN_A_ROW: usize = 64;
/// Back-offs of other owners that are remembered for sites that nothing is known of here. Beyond
/// it this owner finds out by itself.
const PEERS_DOWN_MAX: usize = 1 << 18;

/// A site that could not be reached waits behind others for a slot for this long.
const FAILED_HOLD: Duration = Duration::from_secs(60 * 60);
/// Sites of which that is remembered. Beyond it, one counts as unknown.
const FAILED_MAX: usize = 1 << 16;

/// One shard's connections to all sites that it owns.
pub struct Pool {
    pub(super) config: Arc<Config>,
    pub(super) policy: Rc<Policy>,
    pub(super) client: Client,
    /// User names and passwords for hosts that require AUTH.
    pub(super) logins: Option<Arc<OutboundCredentials>>,
    pub(super) router: Router,
    pub(super) across: AcrossShards,
    /// What is known not to work at hosts.
    pub(super) fallbacks: RefCell<Fallbacks>,
    exchange: Rc<Exchange>,
    curve: BackOffCurve,
    sites: RefCell<Sites>,
    /// Connection tasks.
    tasks: Semaphore,
    /// An earlier timer has been set, or sites wait for slots.
    timer_changed: Signal,
    stopping: Cell<bool>,
    /// The steady clock and the time of day when the pool was made.
    started: (Instant, Timestamp),
}

/// What the pools of all shards have in common. Clones share it.
#[derive(Clone)]
pub struct AcrossShards {
    /// Connections by remote address.
    pub addresses: AddressCounts,
    /// Sites that are down, for the log.
    pub outages: SiteOutages,
}

/// All sites of the pool, and what they share.
struct Sites {
    by_key: HashMap<SiteKey, SiteNumber>,
    places: Vec<Option<Rc<SiteOwner>>>,
    free: Vec<SiteNumber>,
    slots: Slots,
    timers: BinaryHeap<Reverse<(Timestamp, SiteNumber)>>,
    openings: HashMap<OpeningId, Rc<Interrupt>>,
    /// Sites that wait for a place at an address.
    for_place: HashMap<IpAddr, VecDeque<SiteNumber>>,
    /// Digests of sites that could not be reached the last time, and until when that counts: a site
    /// itself is forgotten when it has no work.
    failed_lately: HashMap<u64, Timestamp>,
    /// Digests of sites that other owners have said they back off from, and until when.
    peers_down: HashMap<u64, Timestamp>,
    rng: fastrand::Rng,
}

/// One site at this owner.
pub(super) struct SiteOwner {
    pub(super) site: Arc<Site>,
    number: SiteNumber,
    pub(super) state: RefCell<State>,
}

/// A site as `ringpost queue sites` shows it.
#[derive(Clone, Debug)]
pub struct SiteOwnerView {
    /// The site.
    pub site: Arc<Site>,
    /// Connections that stand.
    pub connected: usize,
    /// Jobs in flight.
    pub busy: usize,
    /// Connections that this owner may hold.
    pub share: usize,
    /// Until when it backs off, and why.
    pub backing_off: Option<(Timestamp, Arc<Reason>)>,
    /// What is known not to work at its hosts.
    pub fallbacks: Vec<Remembered>,
}

/// Why an opening connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupted {
    /// The pool stops.
    Stopping,
    /// Other sites wait for the slot.
    Evicted,
}

struct Interrupt {
    signal: Signal,
    why: Cell<Interrupted>,
}

impl Pool {
    /// The pool of one shard.
    pub fn new(
        config: Arc<Config>,
        client: Client,
        logins: Option<Arc<OutboundCredentials>>,
        router: Router,
        exchange: Rc<Exchange>,
        across: AcrossShards,
    ) -> Rc<Pool> {
        let policy = Rc::new(Policy {
            host_name: Arc::clone(&config.host_name),
            limits: config.delivery.clone(),
        });
        let sites = Sites {
            by_key: HashMap::new(),
            places: Vec::new(),
            free: Vec::new(),
            slots: Slots::new(config.pool.connections_max),
            timers: BinaryHeap::new(),
            openings: HashMap::new(),
            for_place: HashMap::new(),
            failed_lately: HashMap::new(),
            peers_down: HashMap::new(),
            rng: ring::rng(),
        };
        // A site does not back off for longer than its messages wait.
        let curve = BackOffCurve::new(
            config.pool.backoff_first.min(config.retry.first),
            config.pool.backoff_max.min(config.retry.max),
        );
        let pool = Rc::new(Pool {
            config,
            policy,
            client,
            logins,
            router,
            across,
            fallbacks: RefCell::default(),
            exchange,
            curve,
            sites: RefCell::new(sites),
            tasks: Semaphore::unlimited(),
            timer_changed: Signal::new(),
            stopping: Cell::new(false),
            started: (ring::now(), ring::wall_clock()),
        });
        let (sweeper, clock) = (Rc::clone(&pool), Rc::clone(&pool));
        ring::spawn_vital("pool sweep", async move {
            loop {
                ring::sleep(SWEEP).await;
                sweeper.sweep().await;
            }
        });
        ring::spawn_vital("pool timers", async move { clock.run_timers().await });
        pool
    }

    /// The steady clock, as a time of day: a clock that is set back must not make a site wait.
    pub(super) fn now(&self) -> Timestamp {
        let (instant, time) = self.started;
        time.plus(ring::now().saturating_duration_since(instant))
    }

    /// `origin` has work for `site`.
    pub fn offered(self: &Rc<Self>, origin: usize, site: Arc<Site>) {
        let owner = self.owner(site);
        self.handle(&owner, Event::Offered(shard_number(origin)));
        let backing_off = owner.backing_off();
        if backing_off.is_some() {
            let site = Arc::clone(&owner.site);
            self.exchange.send(origin, Dispatch::State { site, backing_off });
        }
    }

    /// `origin` has no more work for `site`; answers one credit.
    pub fn drained(self: &Rc<Self>, origin: usize, site: Arc<Site>) {
        let owner = self.owner(site);
        self.handle(&owner, Event::Drained(shard_number(origin)));
        // A task that waited for this answer may be spare now.
        if self.others_starve(&owner) {
            self.wake_spare();
        }
    }

    /// A job came; answers one credit.
    pub fn accept(self: &Rc<Self>, job: Box<Job>) {
        let owner = self.owner(Arc::clone(&job.site));
        if self.stopping.get() {
            return self.give_back(*job);
        }
        owner.state.borrow_mut().jobs.push_back(job);
        self.handle(&owner, Event::JobArrived);
    }

    /// Another owner says how the site is.
    pub fn heard_of_peer(self: &Rc<Self>, site: Arc<Site>, state: PeerState) {
        let known = self.sites.borrow().find(&site.key);
        let digest = site.key.digest();
        let event = match state {
            PeerState::Delivers => {
                self.sites.borrow_mut().peers_down.remove(&digest);
                Event::PeerDelivers
            }
            PeerState::BacksOff { until, failures, reason } => {
                if known.is_none() {
                    let mut sites = self.sites.borrow_mut();
                    if sites.peers_down.len() < PEERS_DOWN_MAX {
                        sites.peers_down.insert(digest, until);
                    }
                }
                Event::PeerBacksOff { until, failures, reason }
            }
        };
        if let Some(owner) = known {
            self.handle(&owner, event);
        }
    }

    /// Takes no more work, lets transactions end, closes the connections; returns when all are
    /// closed.
    pub async fn stop(self: &Rc<Self>) {
        self.stopping.set(true);
        let interrupts: Vec<Rc<Interrupt>> =
            self.sites.borrow().openings.values().cloned().collect();
        for interrupt in interrupts {
            interrupt.why.set(Interrupted::Stopping);
            interrupt.signal.set();
        }
        let owners: Vec<Rc<SiteOwner>> = self.sites.borrow().all().cloned().collect();
        for owner in owners {
            let actions = owner.state.borrow_mut().control.stop();
            self.act(&owner, actions);
        }
        self.tasks.close();
        self.tasks.idle().await;
    }

    /// Connection tasks.
    pub fn connections(&self) -> usize {
        self.sites.borrow().slots.open()
    }

    /// Connections that all shards together may have to one site.
    pub fn connections_per_site(&self) -> usize {
        self.config.pool.connections_per_site
    }

    /// The sites of this owner. In steps: there may be very many.
    pub async fn views(&self) -> Vec<SiteOwnerView> {
        let mut views = Vec::new();
        let mut fallbacks = self.fallbacks.borrow().by_site(ring::wall_clock());
        let mut from = 0;
        loop {
            {
                let sites = self.sites.borrow();
                let step = sites.places.iter().skip(from).take(SWEEP_STEP).flatten();
                views.extend(step.map(|owner| {
                    let known = fallbacks.remove(&owner.site.key).unwrap_or_default();
                    SiteOwnerView { fallbacks: known, ..owner.view() }
                }));
                from += SWEEP_STEP;
                if from >= sites.places.len() {
                    return views;
                }
            }
            ring::yield_now().await;
        }
    }

    fn owner(&self, site: Arc<Site>) -> Rc<SiteOwner> {
        let mut sites = self.sites.borrow_mut();
        if let Some(owner) = sites.find(&site.key) {
            return owner;
        }
        let limits = &self.config.pool;
        let share = owner_share(
            &site.key,
            self.exchange.shards(),
            self.exchange.me(),
            limits.connections_per_site,
            limits.stripe_connections_min,
        );
        let mut control = Control::new(share.connections, self.curve);
        if sites.peers_down.remove(&site.key.digest()).is_some() {
            control.expect_peers();
        }
        sites.insert(site, State::new(control))
    }

    /// Tells the site's control what happened, and does what it says.
    pub(super) fn handle(self: &Rc<Self>, owner: &Rc<SiteOwner>, event: Event) -> Handled {
        let actions = {
            let (now, mut sites) = (self.now(), self.sites.borrow_mut());
            let control = &mut owner.state.borrow_mut().control;
            // Beside connections that stand, a refusal says only that these are enough.
            if control.connected() == 0 {
                sites.note_reached(&owner.site.key, &event, now);
            }
            control.handle(event, now, &mut sites.rng)
        };
        if actions.tell_peers == Some(PeerNews::BacksOff) {
            self.log_back_off(owner);
        }
        let handled = Handled { wants_no_more: actions.wants_no_more };
        self.act(owner, actions);
        handled
    }

    /// This owner has begun to back off.
    fn log_back_off(&self, owner: &SiteOwner) {
        let Some((until, reason)) = owner.backing_off() else { return };
        let (now, outages) = (self.now(), &self.across.outages);
        if let Some(line) = outages.backs_off(&owner.site.key, until.since(now), &reason, now) {
            tracing::warn!("{line}");
        }
    }

    /// The site took a transaction to its end, whatever it said of the message.
    pub(super) fn answered(&self, owner: &SiteOwner) {
        if let Some(line) = self.across.outages.answers(&owner.site.key, self.now()) {
            tracing::info!("{line}");
        }
    }

    fn act(self: &Rc<Self>, owner: &Rc<SiteOwner>, actions: Actions) {
        let mut next = Some(actions);
        while let Some(actions) = next.take() {
            let open = actions.open && !self.stopping.get();
            self.act_once(owner, actions);
            if open && self.open_or_starve(owner) {
                let mut sites = self.sites.borrow_mut();
                let control = &mut owner.state.borrow_mut().control;
                next = Some(control.handle(Event::TaskBegan, self.now(), &mut sites.rng));
            }
        }
    }

    /// All but opening a connection.
    fn act_once(self: &Rc<Self>, owner: &Rc<SiteOwner>, actions: Actions) {
        if actions.lost_credits > 0 {
            let lost = actions.lost_credits;
            tracing::error!(site = %owner.site.key, lost, "credits were never answered");
        }
        let (jobs, woken) = {
            let mut state = owner.state.borrow_mut();
            let jobs = match actions.return_jobs {
                true => std::mem::take(&mut state.jobs),
                false => VecDeque::new(),
            };
            let woken = match actions.release {
                true => std::mem::take(&mut state.idle),
                false => {
                    let left = state.idle.len().saturating_sub(actions.wake);
                    state.idle.split_off(left)
                }
            };
            (jobs, woken)
        };
        jobs.into_iter().for_each(|job| self.give_back(*job));
        woken.iter().for_each(Signal::set);
        let credits = if self.stopping.get() { Vec::new() } else { actions.credits };
        for origin in credits {
            let site = Arc::clone(&owner.site);
            let credit = Dispatch::Credit { owner: self.exchange.me(), site };
            self.exchange.send(usize::from(origin), credit);
        }
        if let Some(at) = actions.timer {
            self.set_timer(at, owner.number);
        }
        if actions.tell_origins {
            self.tell_origins(owner);
        }
        if let Some(news) = actions.tell_peers {
            self.tell_peers(owner, news);
        }
        let mut state = owner.state.borrow_mut();
        if !state.noted_spare && state.control.spare() > 0 {
            state.noted_spare = true;
            self.sites.borrow_mut().slots.note_spare(owner.number);
        }
    }

    /// Begins a connection task if there is a slot; else the site waits for one.
    fn open_or_starve(self: &Rc<Self>, owner: &Rc<SiteOwner>) -> bool {
        let has_room = self.sites.borrow().slots.has_room();
        if has_room && let Some(permit) = self.tasks.try_acquire() {
            self.sites.borrow_mut().slots.task_began();
            let (pool, owner) = (Rc::clone(self), Rc::clone(owner));
            ring::spawn("connection", async move {
                let _permit = permit;
                // Its end must be counted even if it panics.
                let _task = Task { pool: Rc::clone(&pool), owner: Rc::clone(&owner) };
                pool.connection(&owner).await;
            });
            return true;
        }
        if !std::mem::replace(&mut owner.state.borrow_mut().starved, true) {
            let now = self.now();
            self.sites.borrow_mut().starve(owner, now);
            if self.sites.borrow().slots.is_full() {
                self.wake_spare();
            }
            self.timer_changed.set();
        }
        false
    }

    /// Whether another site than this one waits for a slot.
    pub(super) fn others_starve(&self, owner: &SiteOwner) -> bool {
        let own = usize::from(owner.state.borrow().starved);
        self.sites.borrow().slots.starving() > own
    }

    /// Wakes one task that has no work: it sees that others wait for its slot.
    fn wake_spare(&self) {
        loop {
            let next = {
                let mut sites = self.sites.borrow_mut();
                let Some(number) = sites.slots.next_spare() else { return };
                sites.get(number)
            };
            let Some(owner) = next else { continue };
            let mut state = owner.state.borrow_mut();
            state.noted_spare = false;
            if state.control.wake_spare() {
                let woken = state.idle.pop();
                if state.control.spare() > 0 {
                    state.noted_spare = true;
                    self.sites.borrow_mut().slots.note_spare(owner.number);
                }
                drop(state);
                woken.iter().for_each(Signal::set);
                return;
            }
        }
    }

    /// Gives slots to sites that wait, in turn, as long as there are some.
    fn give_slots(self: &Rc<Self>) {
        loop {
            let next = {
                let mut sites = self.sites.borrow_mut();
                if !sites.slots.has_room() {
                    return;
                }
                let Some(number) = sites.slots.next_starving() else { return };
                sites.get(number)
            };
            let Some(owner) = next else { continue };
            owner.state.borrow_mut().starved = false;
            self.handle(&owner, Event::Tick);
        }
    }

    /// A connection to `owner`'s site stands.
    pub(super) fn connected(self: &Rc<Self>, owner: &Rc<SiteOwner>) {
        self.sites.borrow_mut().slots.connected();
        self.handle(owner, Event::Connected);
        self.give_slots();
    }

    /// It is gone.
    pub(super) fn disconnected(self: &Rc<Self>, owner: &Rc<SiteOwner>) {
        self.sites.borrow_mut().slots.disconnected();
        self.handle(owner, Event::Disconnected);
    }

    /// A place for one more connection to `address`.
    pub(super) fn place(self: &Rc<Self>, address: IpAddr) -> Option<PlaceGuard> {
        let place = Some(self.across.addresses.try_place(address)?);
        Some(PlaceGuard { pool: Rc::clone(self), place })
    }

    /// The site waits for a place at `address`.
    pub(super) fn no_place(self: &Rc<Self>, owner: &Rc<SiteOwner>, address: IpAddr) {
        if !std::mem::replace(&mut owner.state.borrow_mut().waits_for_place, true) {
            let mut sites = self.sites.borrow_mut();
            sites.for_place.entry(address.to_canonical()).or_default().push_back(owner.number);
        }
        self.handle(owner, Event::NoPlace);
    }

    fn place_free(self: &Rc<Self>, address: IpAddr) {
        let next = {
            let mut sites = self.sites.borrow_mut();
            let Some(waiting) = sites.for_place.get_mut(&address) else { return };
            let next = waiting.pop_front();
            if waiting.is_empty() {
                sites.for_place.remove(&address);
            }
            next.and_then(|number| sites.get(number))
        };
        if let Some(owner) = next {
            owner.state.borrow_mut().waits_for_place = false;
            self.handle(&owner, Event::PlaceFree);
        }
    }

    /// A receiver says that the site takes mail again: if it backs off, that ends.
    pub fn try_now(self: &Rc<Self>, site: &Site) {
        let owner = self.sites.borrow().find(&site.key);
        if let Some(owner) = owner {
            self.handle(&owner, Event::TryNow);
        }
    }

    fn set_timer(&self, at: Timestamp, number: SiteNumber) {
        let mut sites = self.sites.borrow_mut();
        let is_first = sites.timers.peek().is_none_or(|Reverse((first, _))| at < *first);
        sites.timers.push(Reverse((at, number)));
        if is_first {
            self.timer_changed.set();
        }
    }

    /// Ends back-offs and holds in time, and takes slots from hosts that do not answer while others
    /// wait.
    async fn run_timers(self: Rc<Self>) {
        loop {
            let mut handled = 0;
            while let Some(number) = self.due_timer() {
                let owner = self.sites.borrow().get(number);
                if let Some(owner) = owner {
                    self.handle(&owner, Event::Tick);
                }
                handled += 1;
                if handled % TIMERS_IN_A_ROW == 0 {
                    ring::yield_now().await;
                }
            }
            self.evict();
            let (first, starving) = {
                let sites = self.sites.borrow();
                (sites.timers.peek().map(|Reverse((at, _))| *at), sites.slots.starving() > 0)
            };
            let until = first.map(|at| at.since(self.now()));
            let look = starving.then_some(EVICTION_LOOK);
            match until.into_iter().chain(look).min() {
                Some(wait) if starving => ring::sleep(wait).await,
                Some(wait) => drop(self.timer_changed.wait_for(wait).await),
                None => self.timer_changed.wait().await,
            }
        }
    }

    fn due_timer(&self) -> Option<SiteNumber> {
        let mut sites = self.sites.borrow_mut();
        let Reverse((at, number)) = *sites.timers.peek()?;
        if at > self.now() {
            return None;
        }
        sites.timers.pop();
        Some(number)
    }

    fn evict(&self) {
        let sites = self.sites.borrow();
        for id in sites.slots.evictions(self.now()) {
            if let Some(interrupt) = sites.openings.get(&id) {
                interrupt.signal.set();
            }
        }
    }

    /// Forgets sites without work, and what faults may have left waiting.
    async fn sweep(self: &Rc<Self>) {
        let now = self.now();
        {
            let mut sites = self.sites.borrow_mut();
            sites.peers_down.retain(|_, until| *until > now);
            sites.failed_lately.retain(|_, until| *until > now);
        }
        if let Some(line) = self.across.outages.look(now) {
            tracing::warn!("{line}");
        }
        let mut from = 0;
        loop {
            let step: Vec<Rc<SiteOwner>> = {
                let sites = self.sites.borrow();
                if from >= sites.places.len() {
                    return;
                }
                sites.places.iter().skip(from).take(SWEEP_STEP).flatten().cloned().collect()
            };
            from += SWEEP_STEP;
            for owner in step {
                self.handle(&owner, Event::Tick);
                if owner.state.borrow().is_forgettable() {
                    self.sites.borrow_mut().forget(&owner);
                }
            }
            ring::yield_now().await;
        }
    }

    fn tell_origins(&self, owner: &SiteOwner) {
        let (origins, backing_off) = {
            let state = owner.state.borrow();
            let origins: Vec<u16> = state.control.origins().collect();
            (origins, owner_back_off(&state.control))
        };
        if let Some((until, reason)) = &backing_off {
            tracing::debug!(site = %owner.site.key, %until, %reason, "site backs off");
        }
        for origin in origins {
            let site = Arc::clone(&owner.site);
            let state = Dispatch::State { site, backing_off: backing_off.clone() };
            self.exchange.send(usize::from(origin), state);
        }
    }

    /// Tells the other owners of a striped site.
    fn tell_peers(&self, owner: &SiteOwner, news: PeerNews) {
        let failures = owner.state.borrow().control.failures();
        let state = match (news, owner.backing_off()) {
            (PeerNews::Delivers, _) => PeerState::Delivers,
            (PeerNews::BacksOff, Some((until, reason))) => {
                PeerState::BacksOff { until, failures, reason }
            }
            (PeerNews::BacksOff, None) => return,
        };
        let limits = &self.config.pool;
        let peers = owners(
            &owner.site.key,
            self.exchange.shards(),
            limits.connections_per_site,
            limits.stripe_connections_min,
        );
        for peer in peers.filter(|peer| *peer != self.exchange.me()) {
            let site = Arc::clone(&owner.site);
            self.exchange.send(peer, Dispatch::Peer { site, state: state.clone() });
        }
    }

    /// What `opening` gives, unless the pool stops or other sites need the slot before.
    pub(super) async fn unless_interrupted<T>(
        &self,
        opening: impl Future<Output = T>,
    ) -> Result<T, Interrupted> {
        if self.stopping.get() {
            return Err(Interrupted::Stopping);
        }
        let interrupt =
            Rc::new(Interrupt { signal: Signal::new(), why: Cell::new(Interrupted::Evicted) });
        let guard = {
            let mut sites = self.sites.borrow_mut();
            let id = sites.slots.opening(self.now());
            sites.openings.insert(id, Rc::clone(&interrupt));
            Opening { pool: self, id }
        };
        let opened = async { Ok(opening.await) };
        let interrupted = async {
            interrupt.signal.wait().await;
            Err(interrupt.why.get())
        };
        let result = futures_lite::future::or(opened, interrupted).await;
        drop(guard);
        result
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Sends the outcomes back. A recipient of which the delivery said nothing would be out for
    /// ever: its attempt has failed.
    pub(super) fn done(
        &self,
        job: Job,
        mut outcomes: Vec<(u32, Outcome)>,
        again: Vec<u32>,
        handling: Handling,
    ) {
        let Job { origin, slot, site, message, recipients, .. } = job;
        if recipients.len() != outcomes.len() + again.len() {
            let has_outcome =
                |index: &u32| again.contains(index) || outcomes.iter().any(|(one, _)| one == index);
            let forgotten: Vec<u32> =
                recipients.into_iter().filter(|index| !has_outcome(index)).collect();
            let id = message.id;
            tracing::error!(%id, recipients = ?forgotten, "a delivery forgot recipients");
            outcomes.extend(forgotten.into_iter().map(|index| (index, fault())));
        }
        let done = Done { slot, id: message.id, site, message, outcomes, again, handling };
        self.exchange.send(origin, Dispatch::Done(Box::new(done)));
    }

    /// Returns a job untried.
    pub(super) fn give_back(&self, mut job: Job) {
        let again = std::mem::take(&mut job.recipients);
        let Job { origin, slot, site, message, .. } = job;
        let outcomes = Vec::new();
        let done = Done {
            slot,
            id: message.id,
            site,
            message,
            outcomes,
            again,
            handling: Handling::default(),
        };
        self.exchange.send(origin, Dispatch::Done(Box::new(done)));
    }
}

/// What an event meant for the task that reports it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handled {
    /// The failure only means that the site wants no more connections than stand.
    pub(super) wants_no_more: bool,
}

impl Sites {
    /// Remembers whether a connection stood the last time.
    fn note_reached(&mut self, key: &SiteKey, event: &Event, now: Timestamp) {
        match event {
            Event::Connected if !self.failed_lately.is_empty() => {
                self.failed_lately.remove(&key.digest());
            }
            Event::Refused(_) | Event::Evicted(_) if self.failed_lately.len() < FAILED_MAX => {
                self.failed_lately.insert(key.digest(), now.plus(FAILED_HOLD));
            }
            _ => {}
        }
    }

    /// The site waits for a slot.
    fn starve(&mut self, owner: &SiteOwner, now: Timestamp) {
        let until = self.failed_lately.get(&owner.site.key.digest());
        let last_time = match until.is_some_and(|until| *until > now) {
            true => LastTime::Failed,
            false => LastTime::ReachedOrUnknown,
        };
        self.slots.starve(owner.number, last_time);
    }

    fn find(&self, key: &SiteKey) -> Option<Rc<SiteOwner>> {
        self.get(*self.by_key.get(key)?)
    }

    fn get(&self, number: SiteNumber) -> Option<Rc<SiteOwner>> {
        self.places.get(number.0 as usize)?.clone()
    }

    fn all(&self) -> impl Iterator<Item = &Rc<SiteOwner>> {
        self.places.iter().flatten()
    }

    fn insert(&mut self, site: Arc<Site>, state: State) -> Rc<SiteOwner> {
        let number = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            SiteNumber(u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX))
        });
        self.by_key.insert(site.key.clone(), number);
        let owner = Rc::new(SiteOwner { site, number, state: RefCell::new(state) });
        if let Some(place) = self.places.get_mut(number.0 as usize) {
            *place = Some(Rc::clone(&owner));
        }
        owner
    }

    fn forget(&mut self, owner: &SiteOwner) {
        self.by_key.remove(&owner.site.key);
        if let Some(place) = self.places.get_mut(owner.number.0 as usize)
            && place.take().is_some()
        {
            self.free.push(owner.number);
        }
        // A table that was full of sites once gives its memory back.
        if self.by_key.len() < self.by_key.capacity() / 8 {
            self.by_key.shrink_to_fit();
        }
    }
}

impl SiteOwner {
    fn backing_off(&self) -> Option<(Timestamp, Arc<Reason>)> {
        owner_back_off(&self.state.borrow().control)
    }

    fn view(&self) -> SiteOwnerView {
        let control = &self.state.borrow().control;
        SiteOwnerView {
            site: Arc::clone(&self.site),
            connected: control.connected(),
            busy: control.busy(),
            share: control.share(),
            backing_off: owner_back_off(control),
            fallbacks: Vec::new(),
        }
    }
}

fn owner_back_off(control: &Control) -> Option<(Timestamp, Arc<Reason>)> {
    control.backing_off().map(|BackOff { until, reason }| (*until, Arc::clone(reason)))
}

/// Shards have numbers below 1024: a queue id has ten bits for them.
fn shard_number(shard: usize) -> u16 {
    u16::try_from(shard).unwrap_or(u16::MAX)
}

/// What a fault of the relay makes of an attempt.
pub(super) fn fault() -> Outcome {
    Outcome::Deferred(Reason::ours(
        Stage::Local,
        Status(4, 3, 0),
        "a fault in the relay ended this attempt; its log has more",
    ))
}

/// Counts a connection task out at its end, and lets sites that wait have the slot.
struct Task {
    pool: Rc<Pool>,
    owner: Rc<SiteOwner>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.pool.sites.borrow_mut().slots.task_ended();
        if !self.pool.stopping.get() {
            self.pool.give_slots();
        }
        self.pool.handle(&self.owner, Event::TaskEnded);
    }
}

/// An opening connection, as long as it is one.
struct Opening<'a> {
    pool: &'a Pool,
    id: OpeningId,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut sites = self.pool.sites.borrow_mut();
        sites.slots.opened(self.id);
        sites.openings.remove(&self.id);
    }
}

/// A place at a remote address. When it is given back, a site that waits for one is tried.
pub(super) struct PlaceGuard {
    pool: Rc<Pool>,
    place: Option<AddressPlace>,
}

impl Drop for PlaceGuard {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        let address = place.address();
        drop(place);
        self.pool.place_free(address);
    }
}
