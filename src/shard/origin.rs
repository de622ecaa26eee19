//! The origin side of a shard: from a message that is durable to the ending of its last recipient.
//! *No waiting*: events go in, and what follows goes at once to the spool, the event log and the
//! exchange, or comes back for `driver` to do.
//!
//! It asks the scheduler what is next: the site of a domain, an offer to the site's owner, a job
//! that answers a credit. What comes back is judged in `ending`.

use super::delay::DelayReport;
use super::hot::Hot;
use super::now;
use super::sites::Sites;
use super::trouble::Trouble;
use crate::config::{Config, Core};
use crate::event::{Event, EventLog, ForwardPath, Kind};
use crate::intake::Intake;
use crate::limits;
use crate::message::{
    IdentityId, Message, QueueId, Reason, RecipientStatus, Stage, Status, Timestamp,
};
use crate::pool::{Dispatch, Exchange, Job, owner_share};
use crate::ring::{self, Signal};
use crate::route::Site;
use crate::scheduler::{
    Action, Admission, AdmittedRecipient, AttemptResult, DeliveryUnit, Flushed, RouteId, Scheduler,
    Slot,
};
use crate::spool::{Placement, Recovered, RecoveredRecipient, Spool};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

/// One commit may hold the endings of very many recipients: so many are handled before the shard
/// does something else.
const ENDINGS_IN_A_ROW: usize = 256;

/// The stations that a shard's queue talks to.
#[derive(Clone)]
pub(super) struct Stations {
    pub(super) shard: usize,
    pub(super) config: Arc<Config>,
    pub(super) spool: Spool,
    pub(super) intake: Intake,
    pub(super) events: Rc<EventLog>,
    pub(super) exchange: Rc<Exchange>,
}

/// One shard's queue.
pub(super) struct Origin {
    pub(super) stations: Stations,
    pub(super) scheduler: Scheduler,
    pub(super) hot: Hot,
    pub(super) sites: Sites,
    /// Endings that are written and were not durable when that was asked last, in order.
    noted: VecDeque<NotedEnding>,
    /// Recipients beyond which no more mail is taken.
    recipients_max: usize,
    stopping: bool,
    /// Tasks that look for sites, and route keys that wait for one.
    routing: usize,
    to_route: VecDeque<RouteId>,
    /// Route keys taken from `to_route` so far.
    route_turns: u32,
    /// What this shard has asked all of them, and how often it has.
    pub(super) question: Option<Question>,
    pub(super) questions: u64,
    pub(super) trouble: Trouble,
}

/// An ending that is not durable yet.
struct NotedEnding {
    /// The number that the spool gave it.
    number: u64,
    slot: Slot,
    recipient: u32,
}

/// Whether anything waits for a domain, asked of all shards.
pub(super) struct Question {
    pub(super) number: u64,
    /// Shards that have not answered.
    pub(super) open: usize,
    pub(super) found: bool,
    pub(super) changed: Signal,
}

/// What came of a step.
pub(super) enum Step {
    /// Something was done.
    Done,
    /// A task is to look for the site of this route key.
    Route(RouteId),
    /// There is nothing to do now; when there is.
    Rest(Option<Timestamp>),
}

impl Origin {
    pub(super) fn new(stations: Stations, core: &Core) -> Origin {
        let scheduler = Scheduler::new(stations.config.retry.clone(), ring::rng().u64(..));
        Origin {
            stations,
            scheduler,
            hot: Hot::new(core.hot_bytes_max),
            sites: Sites::default(),
            noted: VecDeque::new(),
            recipients_max: core.queue_recipients_max,
            stopping: false,
            routing: 0,
            to_route: VecDeque::new(),
            route_turns: 0,
            question: None,
            questions: 0,
            trouble: Trouble::default(),
        }
    }

    /// Takes a message that is durable.
    pub(super) fn admit(&mut self, message: Arc<Message>, placement: Placement) {
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
        let delay = DelayReport::of(&message);
        let (expires, notice) = self.times(message.received_at, options, delay);
        let slot = self.scheduler.admit(
            &Admission {
                id: message.id,
                placement,
                expires,
                notice,
                priority: options.priority,
                tenant: &options.tenant,
                identity: IdentityId::default(),
                demands: message.demands(),
                recipients: &recipients,
            },
            now,
        );
        drop(recipients);
        drop(domains);
        if due <= now {
            self.hot.keep(slot, message);
        }
    }

    /// Takes a message that recovery found; how many of its recipients are in doubt.
    pub(super) fn readmit(&mut self, message: &Recovered) -> usize {
        let now = now();
        let first_due = message.options.not_before.unwrap_or(now);
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
        let (options, delay) = (&message.options, DelayReport::of_recovered(message));
        let (expires, notice) = self.times(message.received_at, options, delay);
        self.scheduler.admit(
            &Admission {
                id: message.id,
                placement: at,
                expires,
                notice,
                priority: options.priority,
                tenant: &options.tenant,
                identity: IdentityId::default(),
                demands: message.demands(),
                recipients,
            },
            now,
        );
        let in_doubt = message.recipients.iter().filter(|recipient| recipient.in_doubt);
        let mut count = 0;
        for recipient in in_doubt {
            count += 1;
            let to = format!("?@{}", recipient.domain);
            let event = Event::new(Kind::InDoubt, now).of(message.id, None);
            let to = Some(ForwardPath(&to));
            self.stations.events.emit(&Event { from: None, to, ..event });
            tracing::info!(
                id = %message.id,
                domain = %recipient.domain,
                "delivery had begun when the relay went down: it is tried again and may be doubled"
            );
        }
        count
    }

    /// Does the next step that the scheduler asks for.
    pub(super) fn step(&mut self) -> Step {
        match self.scheduler.poll(now()) {
            None => return Step::Rest(self.scheduler.wake_at()),
            Some(Action::Route(route)) => {
                if self.routing < limits::ROUTE_LOOKUPS_MAX {
                    self.routing += 1;
                    return Step::Route(route);
                }
                self.to_route.push_back(route);
            }
            Some(Action::Offer(number)) => {
                if let Some(site) = self.sites.site(number).cloned() {
                    let owner = self.owner_shard(&site);
                    let offer = Dispatch::Offer { origin: self.stations.shard, site };
                    self.stations.exchange.send(owner, offer);
                }
            }
            Some(Action::Overdue { slot, recipients }) => {
                tracing::error!(
                    shard = self.stations.shard,
                    recipients = recipients.len(),
                    "a delivery never came back: it is tried again"
                );
                let text = "the delivery was lost inside the relay";
                self.put_off(slot, &recipients, AttemptResult::Later, text);
            }
        }
        Step::Done
    }

    /// The newest route key that waits for its site, so that one whose name servers answer does not
    /// stand behind thousands whose do not; every fourth time the oldest.
    pub(super) fn next_to_route(&mut self) -> Option<RouteId> {
        self.route_turns = self.route_turns.wrapping_add(1);
        match self.route_turns.is_multiple_of(4) {
            true => self.to_route.pop_front(),
            false => self.to_route.pop_back(),
        }
    }

    /// A task that looked for sites has ended.
    pub(super) fn route_task_ended(&mut self) {
        self.routing = self.routing.saturating_sub(1);
    }

    /// No more mail is to be taken until deliveries have freed memory.
    pub(super) fn is_full(&self) -> bool {
        self.scheduler.is_full() || self.scheduler.waiting() >= self.recipients_max
    }

    /// Hands out no more work.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
    }

    pub(super) fn owner_shard(&self, site: &Site) -> usize {
        let limits = &self.stations.config.pool;
        owner_share(
            &site.key,
            self.stations.exchange.shards(),
            self.stations.shard,
            limits.connections_per_site,
            limits.stripe_connections_min,
        )
        .owner
    }

    /// The site of a route key was found.
    pub(super) fn routed(&mut self, route: RouteId, site: &Arc<Site>, valid_until: Timestamp) {
        let now = now();
        let scheduler = &mut self.scheduler;
        let release = |number| {
            let Some(view) = scheduler.site_state(number) else { return true };
            let is_parked = view.parked.is_some_and(|parked| parked.until > now);
            if view.ready > 0 || view.out > 0 || view.ending > 0 || view.offered || is_parked {
                return false;
            }
            scheduler.unpark(number);
            true
        };
        let (number, valid_until) = self.sites.number(site, valid_until, now, release);
        self.scheduler.routed(route, number, valid_until);
    }

    /// Work for `site`, if there is any.
    pub(super) fn take(&mut self, site: &Site) -> Option<DeliveryUnit> {
        // What becomes of a delivery could not be recorded by a spool that has failed: after the
        // restart it would be done again.
        if self.stopping || self.stations.spool.failure().is_some() {
            return None;
        }
        let number = self.sites.find(&site.key)?;
        let recipients_max = self.stations.config.delivery.recipients_max;
        self.scheduler.take(number, now(), recipients_max)
    }

    /// Answers a credit: there is nothing for the site (any more).
    pub(super) fn send_drained(&self, owner: usize, site: Arc<Site>) {
        let drained = Dispatch::Drained { origin: self.stations.shard, site };
        self.stations.exchange.send(owner, drained);
    }

    /// Answers a credit with a job.
    pub(super) fn send_job(
        &self,
        owner: usize,
        site: Arc<Site>,
        work: DeliveryUnit,
        message: Arc<Message>,
    ) {
        self.stations.spool.begun(work.id, &work.recipients);
        let job = Job {
            origin: self.stations.shard,
            slot: work.slot.0,
            site,
            message,
            recipients: work.recipients,
            untried: work.untried,
        };
        self.stations.exchange.send(owner, Dispatch::Job(Box::new(job)));
    }

    /// Puts recipients off for trouble of our own, which is in the diagnostics already: their
    /// addresses are not to be had, so no event is written.
    pub(super) fn put_off(
        &mut self,
        slot: Slot,
        recipients: &[u32],
        result: AttemptResult,
        text: &str,
    ) {
        let reason = Rc::new(Reason::ours(Stage::Local, Status(4, 3, 0), text));
        for &index in recipients {
            self.scheduler.settle(slot, index, result, Some(Rc::clone(&reason)), now());
        }
    }

    /// What the owner of a site says about it. What waited while it was not tried is routed
    /// again before it is tried again: its domain may have moved to other hosts meanwhile.
    pub(super) fn site_state(
        &mut self,
        site: &Site,
        backing_off: Option<(Timestamp, Arc<Reason>)>,
    ) {
        let Some(number) = self.sites.find(&site.key) else { return };
        match backing_off {
            Some((until, reason)) => self.scheduler.park(number, until, reason, now()),
            None => {
                self.scheduler.unpark(number);
                self.scheduler.reroute(number);
            }
        }
    }

    /// Tries what waits here for a domain, from the place `cursor` on, and has its sites tried that
    /// back off: where to go on, and whether there was any.
    pub(super) fn flush(&mut self, cursor: u32, domain: &str, below: bool) -> (Option<u32>, bool) {
        let wanted = |name: &str| match name.strip_suffix(domain) {
            Some(before) => before.is_empty() || below && before.ends_with('.'),
            None => false,
        };
        let Flushed { next, found, sites } = self.scheduler.flush(cursor, wanted, now());
        for number in sites {
            let Some(site) = self.sites.site(number).cloned() else { continue };
            let owner = self.owner_shard(&site);
            self.stations.exchange.send(owner, Dispatch::Try(site));
        }
        (next, found)
    }

    /// Writes that a recipient has ended; it is over when that is durable.
    pub(super) fn note_ending(
        &mut self,
        slot: Slot,
        id: QueueId,
        recipient: u32,
        status: &RecipientStatus,
    ) {
        let number = self.stations.spool.settle(id, recipient, status);
        self.noted.push_back(NotedEnding { number, slot, recipient });
    }

    /// Endings up to this number are durable: their recipients are over. Handles some of them;
    /// false when all are done.
    pub(super) fn durable(&mut self, number: u64) -> bool {
        for _ in 0..ENDINGS_IN_A_ROW {
            let is_durable = |ending: &&NotedEnding| ending.number <= number;
            let Some(ending) = self.noted.front().filter(is_durable) else { return false };
            let NotedEnding { slot, recipient, .. } = *ending;
            self.noted.pop_front();
            self.scheduler.over(slot, recipient);
            self.free_if_over(slot);
        }
        true
    }

    /// Forgets a message whose last recipient is over.
    pub(super) fn free_if_over(&mut self, slot: Slot) {
        let Some((id, at)) = self.scheduler.whereabouts(slot) else { return };
        if self.scheduler.finish_if_over(slot) {
            self.hot.forget(slot);
            self.stations.spool.dead(id, at);
        }
    }

    /// Whether the message `id` is in this slot.
    pub(super) fn is_at(&self, slot: Slot, id: QueueId) -> bool {
        self.scheduler.whereabouts(slot).is_some_and(|(known, _)| known == id)
    }
}

/// A recipient that recovery found, as the scheduler takes it.
fn admitted(recipient: &RecoveredRecipient, first_due: Timestamp) -> AdmittedRecipient<'_> {
    AdmittedRecipient {
        domain: &recipient.domain,
        ended: recipient.ended,
        attempts: recipient.attempts,
        due: recipient.due.unwrap_or(first_due),
        reason: recipient.reason.clone(),
    }
}
