//! The origin side of a shard: from a message that is durable to the ending of its last recipient.
//!
//! It asks the scheduler what to do next and has it done: find the site of a domain, offer work to
//! the site's home, answer credits with jobs. Outcomes come back to `ending`.

use super::ending::DeliveryPath;
use super::hot::Hot;
use super::now;
use super::report::Asked;
use super::sites::Sites;
use crate::config::{Config, Core};
use crate::event::EventLog;
use crate::limits;
use crate::message::{IdentityId, Message, Outcome, Reason, Stage, Status, Timestamp};
use crate::pool::{Dispatch, Exchange, Job, owner_share};
use crate::ring::{self, Signal};
use crate::route::{Router, Site};
use crate::scheduler::{
    Action, Admission, AdmittedRecipient, AttemptResult, DeliveryUnit, Disposition,
    ExpiredRecipient, Flushed, RouteId, Scheduler, Slot,
};
use crate::session::Etrn;
use crate::spool::{Placement, Recovered, RecoveredRecipient, Spool, SpoolError};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What a recipient is told whose message the spool cannot give.
pub(super) const UNREADABLE: &str = "the message cannot be read from the spool";
/// Demands handled in a row before the rings are looked at.
const DEMANDS_IN_A_ROW: usize = 64;

/// A shard that is so busy that it does not say what it has found leaves ETRN with half an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Due times are those of the wall clock, which may be set forward while the shard sleeps: it is
/// looked at this often.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(30);

/// One shard's queue.
pub(super) struct Queue {
    pub(super) shard: usize,
    pub(super) config: Arc<Config>,
    pub(super) spool: Spool,
    pub(super) events: Rc<EventLog>,
    pub(super) scheduler: RefCell<Scheduler>,
    pub(super) hot: RefCell<Hot>,
    pub(super) sites: RefCell<Sites>,
    /// Reports being stored.
    pub(super) reporting: Cell<usize>,
    /// Recipients that the scheduler has ended and whose ending is not recorded yet.
    pub(super) failing: RefCell<HashMap<Slot, Vec<u32>>>,
    /// Of each message, reports that are not stored yet: its record must stay until they are.
    pub(super) reported: RefCell<HashMap<Slot, usize>>,
    /// Recipients beyond which no more mail is taken.
    recipients_max: usize,
    router: Router,
    exchange: Rc<Exchange>,
    wake: Signal,
    stopping: Cell<bool>,
    routing: Cell<usize>,
    /// Domains that are being hastened.
    flushing: Cell<usize>,
    /// What this shard has asked all of them, and how often it has.
    question: RefCell<Option<Question>>,
    questions: Cell<u64>,
    to_route: RefCell<VecDeque<RouteId>>,
    /// Domains taken from `to_route` so far.
    route_turns: Cell<u32>,
}

impl Queue {
    pub(super) fn new(
        shard: usize,
        config: Arc<Config>,
        core: &Core,
        spool: Spool,
        events: Rc<EventLog>,
        router: Router,
        exchange: Rc<Exchange>,
    ) -> Rc<Queue> {
        let scheduler = Scheduler::new(config.retry.clone(), ring::rng().u64(..));
        Rc::new(Queue {
            shard,
            config,
            spool,
            events,
            scheduler: RefCell::new(scheduler),
            hot: RefCell::new(Hot::new(core.hot_bytes_max)),
            sites: RefCell::default(),
            reporting: Cell::new(0),
            failing: RefCell::default(),
            reported: RefCell::default(),
            recipients_max: core.queue_recipients_max,
            router,
            exchange,
            wake: Signal::new(),
            stopping: Cell::new(false),
            routing: Cell::new(0),
            flushing: Cell::new(0),
            question: RefCell::default(),
            questions: Cell::new(0),
            to_route: RefCell::default(),
            route_turns: Cell::new(0),
        })
    }

    /// Takes a message that is durable.
    pub(super) fn admit(&self, message: Arc<Message>, placement: Placement) {
        let now = now();
        let due = message.options.not_before.unwrap_or(now);
        let domains: Vec<Cow<'_, str>> = message
            .envelope
            .recipients
            .iter()
            .map(|recipient| recipient.address.domain_key())
            .collect();
        let recipients: Vec<AdmittedRecipient<'_>> = domains
            .iter()
            .map(|domain| AdmittedRecipient {
                domain,
                ended: false,
                attempts: 0,
                due,
                reason: None,
            })
            .collect();
        let options = &message.options;
        let (expires, notice) = self.times(&Asked {
            received_at: message.received_at,
            not_before: options.not_before,
            expires: options.expires,
            deliver_by: options.deliver_by,
            delay_wanted: wants_delay(&message),
            is_report: message.envelope.reverse_path.is_none(),
        });
        let slot = self.scheduler.borrow_mut().admit(
            &Admission {
                id: message.id,
                placement: [placement.segment, placement.offset, placement.length],
                expires,
                notice,
                priority: message.options.priority,
                tenant: &message.options.tenant,
                identity: IdentityId::default(),
                demands: message.demands(),
                recipients: &recipients,
            },
            now,
        );
        drop(recipients);
        drop(domains);
        if due <= now {
            self.hot.borrow_mut().keep(slot, message);
        }
        self.wake.set();
    }

    /// Takes a message that recovery found; how many of its recipients are in doubt.
    pub(super) fn readmit(&self, message: &Recovered) -> usize {
        let now = now();
        let first_due = message.not_before.unwrap_or(now);
        let (one, several);
        let recipients: &[AdmittedRecipient<'_>] = match &message.recipients[..] {
            [only] => {
                one = [admitted(only, first_due)];
                &one
            }
            all => {
                let all = all.iter().map(|one| admitted(one, first_due));
                several = all.collect::<Vec<_>>();
                &several
            }
        };
        let at = message.placement;
        let (expires, notice) = self.times(&Asked {
            received_at: message.received_at,
            not_before: message.not_before,
            expires: message.expires,
            deliver_by: message.deliver_by,
            delay_wanted: message.delay_wanted,
            is_report: message.null_reverse_path,
        });
        self.scheduler.borrow_mut().admit(
            &Admission {
                id: message.id,
                placement: [at.segment, at.offset, at.length],
                expires,
                notice,
                priority: message.priority,
                tenant: &message.tenant,
                identity: IdentityId::default(),
                demands: message.demands,
                recipients,
            },
            now,
        );
        self.wake.set();
        let in_doubt = message.recipients.iter().filter(|recipient| recipient.in_doubt);
        let mut count = 0;
        for recipient in in_doubt {
            count += 1;
            tracing::info!(
                id = %message.id,
                domain = %recipient.domain,
                "delivery had begun when the relay went down: it is tried again and may be doubled"
            );
        }
        count
    }

    /// Does what the scheduler demands, for as long as the shard runs.
    pub(super) async fn run(self: Rc<Self>) {
        loop {
            let mut handled = 0;
            loop {
                let demand = self.scheduler.borrow_mut().poll(now());
                let Some(demand) = demand else { break };
                self.meet(demand);
                handled += 1;
                if handled % DEMANDS_IN_A_ROW == 0 {
                    ring::yield_now().await;
                }
            }
            let wake_at = self.scheduler.borrow().wake_at();
            match wake_at {
                Some(at) => {
                    self.wake.wait_for(at.since(now()).min(LOOK_AT_CLOCK)).await;
                }
                None => self.wake.wait().await,
            }
        }
    }

    /// Has what waits for a domain tried now, on every shard, and says if there is any: as soon as
    /// one shard has found something, or all have looked.
    pub(super) async fn request_flush(&self, domain: &str, with_below: bool) -> Etrn {
        if self.flushing.get() > 0 || self.question.borrow().is_some() {
            return Etrn::Busy;
        }
        let domain: Arc<str> = domain.into();
        let (asker, number) = (self.shard, self.questions.get() + 1);
        self.questions.set(number);
        let open = self.exchange.shards();
        let (found, changed) = (false, Signal::new());
        let asked = Question { number, open, found, changed: changed.clone() };
        *self.question.borrow_mut() = Some(asked);
        let _asking = Asking(self);
        for shard in 0..open {
            let domain = Arc::clone(&domain);
            self.exchange.send(shard, Dispatch::Flush { domain, with_below, asker, number });
        }
        while changed.wait_for(ANSWER_WAIT).await {
            match self.question.borrow().as_ref() {
                Some(Question { found: true, .. }) => break,
                Some(Question { open: 0, .. }) => return Etrn::Nothing,
                _ => {}
            }
        }
        Etrn::Begun
    }

    /// A shard has looked what waits there.
    pub(super) fn answered(&self, number: u64, found: bool) {
        if let Some(question) = self.question.borrow_mut().as_mut()
            && question.number == number
        {
            question.open = question.open.saturating_sub(1);
            question.found |= found;
            question.changed.set();
        }
    }

    /// Tries what waits here for a domain, step by step, and has its sites tried that back off;
    /// whether there was any.
    pub(super) async fn flush(&self, domain: Arc<str>, with_below: bool) -> bool {
        let mut any = false;
        self.flushing.set(self.flushing.get() + 1);
        let wanted = |name: &str| match name.strip_suffix(&*domain) {
            Some(before) => before.is_empty() || with_below && before.ends_with('.'),
            None => false,
        };
        let mut cursor = Some(0);
        while let Some(from) = cursor {
            let Flushed { next, found, sites } =
                self.scheduler.borrow_mut().flush(from, wanted, now());
            any |= found;
            for number in sites {
                let Some(site) = self.sites.borrow().site(number).cloned() else { continue };
                let owner = self.owner_shard(&site);
                self.exchange.send(owner, Dispatch::Try(site));
            }
            self.changed();
            ring::yield_now().await;
            cursor = next;
        }
        self.flushing.set(self.flushing.get() - 1);
        any
    }

    /// No more mail is to be taken until deliveries have made room in memory.
    pub(super) fn is_full(&self) -> bool {
        let scheduler = self.scheduler.borrow();
        scheduler.is_full() || scheduler.waiting() >= self.recipients_max
    }

    /// Hands out no more work.
    pub(super) fn stop(&self) {
        self.stopping.set(true);
    }

    /// Something changed that the scheduler may want to act on.
    pub(super) fn changed(&self) {
        self.wake.set();
    }

    fn meet(self: &Rc<Self>, demand: Action) {
        match demand {
            Action::Route(route) => {
                if self.routing.get() < limits::ROUTE_LOOKUPS_MAX {
                    self.routing.set(self.routing.get() + 1);
                    let queue = Rc::clone(self);
                    ring::spawn("route", async move { queue.route(route).await });
                } else {
                    self.to_route.borrow_mut().push_back(route);
                }
            }
            Action::Offer(number) => {
                let Some(site) = self.sites.borrow().site(number).cloned() else { return };
                let owner = self.owner_shard(&site);
                let offer = Dispatch::Offer { origin: self.shard, site };
                self.exchange.send(owner, offer);
            }
            Action::Expired { slot, recipients } => self.expired(slot, recipients),
            Action::Delayed { slot, until, recipients } => self.delayed(slot, until, recipients),
            Action::Overdue { slot, recipients } => {
                tracing::error!(
                    shard = self.shard,
                    recipients = recipients.len(),
                    "a delivery never came back: it is tried again"
                );
                self.put_off(slot, &recipients, "the delivery was lost inside the relay");
            }
        }
    }

    fn owner_shard(&self, site: &Site) -> usize {
        let limits = &self.config.pool;
        owner_share(
            &site.key,
            self.exchange.shards(),
            self.shard,
            limits.connections_per_site,
            limits.stripe_connections_min,
        )
        .owner
    }

    /// Finds the site of one route key after the other while any wait.
    async fn route(self: Rc<Self>, first: RouteId) {
        let mut place = RoutingPlace { queue: Rc::clone(&self), route: None };
        let mut next = Some(first);
        while let Some(route) = next {
            place.route = Some(route);
            let key = self.scheduler.borrow().route_key(route).cloned().unwrap_or_default();
            let found = self.router.site(&key).await;
            place.route = None;
            match found {
                Ok((site, valid_until)) => self.routed(route, &site, valid_until),
                Err(outcome) => {
                    let waiting = self.scheduler.borrow_mut().unroutable(route);
                    for (slot, recipients) in waiting {
                        self.unroutable(slot, recipients, outcome.clone()).await;
                    }
                }
            }
            self.changed();
            next = self.next_to_route();
        }
    }

    /// The newest domain that waits to be routed, so that one whose name servers answer does not
    /// stand behind thousands whose do not; every fourth time the oldest.
    fn next_to_route(&self) -> Option<RouteId> {
        let turn = self.route_turns.get().wrapping_add(1);
        self.route_turns.set(turn);
        let mut waiting = self.to_route.borrow_mut();
        if turn.is_multiple_of(4) { waiting.pop_front() } else { waiting.pop_back() }
    }

    fn routed(&self, route: RouteId, site: &Arc<Site>, valid_until: Timestamp) {
        let mut scheduler = self.scheduler.borrow_mut();
        let now = now();
        let release = |number| {
            let Some(view) = scheduler.site_state(number) else { return true };
            let is_parked = view.parked.is_some_and(|parked| parked.until > now);
            if view.ready > 0 || view.out > 0 || view.offered || is_parked {
                return false;
            }
            scheduler.unpark(number);
            true
        };
        let (number, valid_until) = self.sites.borrow_mut().number(site, valid_until, now, release);
        scheduler.routed(route, number, valid_until);
    }

    /// A home has a connection free for `site`: answers with one job, or that there is none.
    pub(super) fn credited(self: &Rc<Self>, owner: usize, site: Arc<Site>) {
        match self.take(&site) {
            None => {
                let drained = Dispatch::Drained { origin: self.shard, site };
                self.exchange.send(owner, drained);
            }
            Some(work) => {
                let hot = self.hot.borrow().find(work.slot);
                match hot {
                    Some(message) => self.send_job(owner, site, work, message),
                    None => {
                        let queue = Rc::clone(self);
                        ring::spawn("load", async move { queue.load(owner, site, work).await });
                    }
                }
            }
        }
        self.changed();
    }

    fn take(&self, site: &Site) -> Option<DeliveryUnit> {
        // What becomes of a delivery could not be recorded by a spool that has failed: after the
        // restart it would be done again.
        if self.stopping.get() || self.spool.failure().is_some() {
            return None;
        }
        let number = self.sites.borrow().find(&site.key)?;
        let recipients_max = self.config.delivery.recipients_max;
        self.scheduler.borrow_mut().take(number, now(), recipients_max)
    }

    /// Loads a message that is no longer in memory. The credit must be answered, so when it cannot
    /// be read the next one is taken instead.
    async fn load(self: Rc<Self>, owner: usize, site: Arc<Site>, work: DeliveryUnit) {
        let mut loading =
            Loading { queue: Rc::clone(&self), owner, site: Arc::clone(&site), work: Some(work) };
        while let Some(work) = loading.work.clone() {
            let DeliveryUnit { slot, id, placement: at, recipients, .. } = work;
            match self.spool.load(id, placement(at)).await {
                Ok(message) => {
                    let Some(work) = loading.work.take() else { return };
                    return self.send_job(owner, site, work, message);
                }
                Err(error) => {
                    self.unreadable(slot, &recipients, &error).await;
                    loading.work = self.take(&site);
                }
            }
        }
        let drained = Dispatch::Drained { origin: self.shard, site };
        self.exchange.send(owner, drained);
    }

    fn send_job(&self, owner: usize, site: Arc<Site>, work: DeliveryUnit, message: Arc<Message>) {
        self.spool.begun(work.id, &work.recipients);
        let job = Job {
            origin: self.shard,
            slot: work.slot.0,
            site,
            message,
            recipients: work.recipients,
            untried: work.untried,
        };
        self.exchange.send(owner, Dispatch::Job(Box::new(job)));
    }

    /// Puts recipients off for trouble of our own, which is in the diagnostics already: their
    /// addresses are not to be had, so no event is written.
    pub(super) fn put_off(self: &Rc<Self>, slot: Slot, recipients: &[u32], text: &str) {
        let reason = Rc::new(Reason::ours(Stage::Local, Status(4, 3, 0), text));
        let mut expired = Vec::new();
        {
            let mut scheduler = self.scheduler.borrow_mut();
            for &index in recipients {
                let why = Some(Rc::clone(&reason));
                let settled = scheduler.settle(slot, index, AttemptResult::Later, why, now());
                if let Some(Disposition::Expired { attempts }) = settled {
                    expired.push(ExpiredRecipient {
                        index,
                        attempts,
                        reason: Some(Rc::clone(&reason)),
                    });
                }
            }
        }
        if !expired.is_empty() {
            self.expired(slot, expired);
        }
        self.changed();
    }

    /// What the home of a site says about it. What waited while it was left in peace is routed
    /// again before it is tried again: its domain may have moved to other hosts meanwhile.
    pub(super) fn site_state(&self, site: &Site, backing_off: Option<(Timestamp, Reason)>) {
        let Some(number) = self.sites.borrow().find(&site.key) else { return };
        let mut scheduler = self.scheduler.borrow_mut();
        match backing_off {
            Some((until, reason)) => scheduler.park(number, until, Rc::new(reason), now()),
            None => {
                scheduler.unpark(number);
                scheduler.reroute(number);
                drop(scheduler);
                self.changed();
            }
        }
    }

    async fn unroutable(self: &Rc<Self>, slot: Slot, recipients: Vec<u32>, outcome: Outcome) {
        let message = match self.message(slot).await {
            Ok(message) => message,
            Err(error) => return self.unreadable(slot, &recipients, &error).await,
        };
        let outcomes = recipients.into_iter().map(|index| (index, outcome.clone())).collect();
        self.settle(slot, &message, outcomes, DeliveryPath::default());
    }

    /// The message in `slot`, from memory or from the spool.
    pub(super) async fn message(&self, slot: Slot) -> Result<Arc<Message>, SpoolError> {
        if let Some(message) = self.hot.borrow().find(slot) {
            return Ok(message);
        }
        let whereabouts = self.scheduler.borrow().whereabouts(slot);
        let Some((id, at)) = whereabouts else {
            return Err(SpoolError::Failed("the message has ended".to_owned()));
        };
        self.spool.load(id, placement(at)).await
    }
}

/// Whether anything waits for a domain, asked of all shards.
struct Question {
    number: u64,
    /// Shards that have not answered.
    open: usize,
    found: bool,
    changed: Signal,
}

/// Who asked waits for the answers, or has gone.
struct Asking<'a>(&'a Queue);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.question.borrow_mut().take();
    }
}

/// One of the route tasks; counted out however it ends.
struct RoutingPlace {
    queue: Rc<Queue>,
    /// What it looks for. A task that ends in the middle must not leave its recipients waiting for
    /// the answer.
    route: Option<RouteId>,
}

impl Drop for RoutingPlace {
    fn drop(&mut self) {
        let queue = &self.queue;
        queue.routing.set(queue.routing.get().saturating_sub(1));
        if let Some(route) = self.route.take() {
            let waiting = queue.scheduler.borrow_mut().unroutable(route);
            for (slot, recipients) in waiting {
                queue.put_off(slot, &recipients, "a fault in the relay ended the look-up");
            }
        }
    }
}

/// Work that is being loaded for a credit. If the task ends in the middle, both are answered for.
struct Loading {
    queue: Rc<Queue>,
    owner: usize,
    site: Arc<Site>,
    work: Option<DeliveryUnit>,
}

impl Drop for Loading {
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        self.queue.put_off(work.slot, &work.recipients, UNREADABLE);
        // There may be more, which the scheduler does not offer again by itself.
        let (origin, site) = (self.queue.shard, &self.site);
        for dispatch in [
            Dispatch::Drained { origin, site: Arc::clone(site) },
            Dispatch::Offer { origin, site: Arc::clone(site) },
        ] {
            self.queue.exchange.send(self.owner, dispatch);
        }
    }
}

/// Whether somebody is to be told when it waits long.
fn wants_delay(message: &Message) -> bool {
    let mut recipients = message.envelope.recipients.iter();
    recipients.any(|one| one.notify.is_some_and(|notify| notify.delay))
}

/// The spool's words for where a message is, from the scheduler's.
pub(super) fn placement(at: [u32; 3]) -> Placement {
    Placement { segment: at[0], offset: at[1], length: at[2] }
}

/// What the scheduler is told of a recipient that recovery found.
fn admitted(recipient: &RecoveredRecipient, first_due: Timestamp) -> AdmittedRecipient<'_> {
    AdmittedRecipient {
        domain: &recipient.domain,
        ended: recipient.ended,
        attempts: recipient.attempts,
        due: recipient.due.unwrap_or(first_due),
        reason: recipient.reason.clone(),
    }
}
