//! Random operations against a plain list that is searched from end to end each time.

use super::*;
use crate::message::{Demands, IdentityId};
use std::collections::{HashMap, HashSet};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Waiting(Timestamp),
    Routing,
    Ready(SiteId),
    Out,
    /// Ended, and not reported.
    Ending,
    /// Reported, and not durable.
    Noted,
    Over,
}

/// A route key, as the model names it.
fn shown(domain: &str, demands: Demands) -> String {
    format!("{domain}{}", if demands.require_tls { "+tls" } else { "" })
}

struct Letter {
    slot: Slot,
    id: QueueId,
    expires: Timestamp,
    recipients: Vec<(String, Place, u16)>,
    finished: bool,
}

struct Model {
    scheduler: Scheduler,
    random: fastrand::Rng,
    now: Timestamp,
    letters: Vec<Letter>,
    asked: HashSet<String>,
    routes: HashMap<String, (SiteId, Timestamp)>,
    lookups: Vec<RouteId>,
    /// Sites that were offered and whose `take` has not yet said that there is no more.
    told: HashSet<SiteId>,
    reporting: Vec<ReportTask>,
    endings: usize,
    reports: usize,
}

impl Model {
    fn new(seed: u64) -> Model {
        let retry = config::Retry { jitter: 0.3, ..retry() };
        Model {
            scheduler: Scheduler::new(retry, seed),
            random: fastrand::Rng::with_seed(seed),
            now: START,
            letters: Vec::new(),
            asked: HashSet::new(),
            routes: HashMap::new(),
            lookups: Vec::new(),
            told: HashSet::new(),
            reporting: Vec::new(),
            endings: 0,
            reports: 0,
        }
    }

    fn domain(&mut self) -> String {
        format!("d{}.example", self.random.u32(0..6))
    }

    fn admit(&mut self) {
        let wait = Duration::from_secs(self.random.u64(1..30_000));
        let expires = self.now.plus(wait);
        let count = self.random.usize(1..5);
        let names: Vec<String> = (0..count).map(|_| self.domain()).collect();
        let now = self.now;
        let mut recipients = Vec::new();
        for name in &names {
            let later = Duration::from_millis(self.random.u64(1..20_000_000));
            let due = if self.random.bool() { now } else { now.plus(later) };
            let ended = self.random.u32(0..6) == 0;
            recipients.push(AdmittedRecipient { ended, ..at(name, due) });
        }
        let id = QueueId(self.random.u64(..));
        let demands = Demands { require_tls: self.random.u32(0..4) == 0 };
        let tenants = ["", "one", "two"];
        let message = Admission {
            id,
            placement: Placement::default(),
            expires,
            notice: None,
            priority: self.random.i8(-2..3),
            tenant: tenants[self.random.usize(0..3)],
            identity: IdentityId::default(),
            demands,
            recipients: &recipients,
        };
        let slot = self.scheduler.admit(&message, now);
        let places = recipients.iter().map(|recipient| {
            let place = if recipient.ended {
                Place::Over
            } else if recipient.due <= now {
                self.place_when_due(&shown(recipient.domain, demands))
            } else {
                Place::Waiting(recipient.due.min(expires))
            };
            (shown(recipient.domain, demands), place, 0)
        });
        let recipients = places.collect();
        self.letters.push(Letter { slot, id, expires, recipients, finished: false });
        self.finish();
    }

    fn place_when_due(&self, domain: &str) -> Place {
        match self.routes.get(domain) {
            Some((site, until)) if *until > self.now => Place::Ready(*site),
            _ => Place::Routing,
        }
    }

    fn letter(&mut self, slot: Slot) -> &mut Letter {
        self.letters.iter_mut().find(|letter| letter.slot == slot && !letter.finished).unwrap()
    }

    /// The clock goes on by a multiple of the tick, so that the wheel has no leeway.
    fn advance(&mut self) {
        let scale = self.random.u32(1..20);
        let step = 10 * self.random.u64(1..1 << scale);
        self.now = self.now.plus(Duration::from_millis(step));
        for letter in self.letters.iter_mut().filter(|letter| !letter.finished) {
            for (domain, place, _) in &mut letter.recipients {
                let is_here = matches!(place, Place::Waiting(_) | Place::Routing | Place::Ready(_));
                if letter.expires <= self.now && is_here {
                    *place = Place::Ending;
                } else if let Place::Waiting(due) = *place
                    && due <= self.now
                {
                    *place = match self.routes.get(domain) {
                        Some((site, until)) if *until > self.now => Place::Ready(*site),
                        _ => Place::Routing,
                    };
                }
            }
        }
        self.poll();
        self.finish();
    }

    /// Polls to the end.
    fn poll(&mut self) {
        loop {
            match self.scheduler.poll(self.now) {
                None => break,
                Some(Action::Route(domain)) => {
                    let key = self.scheduler.route_key(domain).unwrap();
                    let name = shown(&key.domain, key.demands);
                    assert!(self.asked.insert(name), "one lookup at a time");
                    self.lookups.push(domain);
                }
                Some(Action::Offer(site)) => {
                    assert!(self.told.insert(site), "offered once");
                    assert!(self.ready(site) > 0, "an offer means work");
                }
                // Demanded again while it stays out; the model leaves them out at its leisure.
                Some(Action::Overdue { slot, recipients }) => {
                    let letter = self.letter(slot);
                    for index in recipients {
                        assert_eq!(letter.recipients[index as usize].1, Place::Out);
                    }
                }
            }
        }
        for site in (0..4).map(SiteId) {
            assert!(self.ready(site) == 0 || self.told.contains(&site), "no offer is lost");
        }
        for (domain, place, _) in self.all() {
            assert!(*place != Place::Routing || self.asked.contains(domain), "{domain} not asked");
        }
    }

    /// A worker takes a message to report on, or is done with one.
    fn report(&mut self) {
        if self.random.bool() || self.reporting.is_empty() {
            let Some(task) = self.scheduler.take_report(self.now) else { return };
            assert!(self.reporting.len() < crate::limits::REPORTS_IN_FLIGHT_MAX);
            assert!(self.reporting.iter().all(|other| other.slot != task.slot), "one at a time");
            assert_eq!(self.letter(task.slot).id, task.id);
            return self.reporting.push(task);
        }
        let at = self.random.usize(0..self.reporting.len());
        let task = self.reporting.swap_remove(at);
        let ended = self.scheduler.ended(task.slot);
        let end = [ReportEnd::Stored, ReportEnd::Stored, ReportEnd::PutOff, ReportEnd::NoRoom]
            [self.random.usize(0..4)];
        let letter = self.letters.iter_mut().find(|one| one.slot == task.slot && !one.finished);
        let recipients = &mut letter.unwrap().recipients;
        let expected: Vec<u32> = (0..)
            .zip(recipients.iter())
            .filter_map(|(index, (_, place, _))| (*place == Place::Ending).then_some(index))
            .collect();
        assert_eq!(ended.iter().map(|one| one.index).collect::<Vec<_>>(), expected);
        if end == ReportEnd::Stored {
            self.reports += 1;
            for index in expected {
                assert!(self.scheduler.noted(task.slot, index));
                assert!(!self.scheduler.noted(task.slot, index), "once");
                recipients[index as usize].1 = Place::Noted;
            }
        }
        self.scheduler.report_done(&task, end, self.now);
        self.finish();
    }

    /// Some endings become durable.
    fn durable(&mut self) {
        for letter in self.letters.iter_mut().filter(|letter| !letter.finished) {
            for (index, (_, place, _)) in (0..).zip(&mut letter.recipients) {
                if self.random.bool() {
                    self.scheduler.over(letter.slot, index);
                    if *place == Place::Noted {
                        *place = Place::Over;
                        self.endings += 1;
                    }
                }
            }
        }
        self.finish();
    }

    fn all(&self) -> impl Iterator<Item = &(String, Place, u16)> {
        self.letters.iter().flat_map(|letter| &letter.recipients)
    }

    fn ready(&self, site: SiteId) -> usize {
        self.all().filter(|(_, place, _)| *place == Place::Ready(site)).count()
    }

    fn answer(&mut self) {
        if self.lookups.is_empty() {
            return;
        }
        let domain = self.lookups.swap_remove(self.random.usize(0..self.lookups.len()));
        let key = self.scheduler.route_key(domain).unwrap();
        let name = shown(&key.domain, key.demands);
        assert!(self.asked.remove(&name));
        let place = if self.random.u32(0..4) == 0 {
            self.routes.remove(&name);
            let mut told = 0;
            for (slot, recipients) in self.scheduler.unroutable(domain) {
                for index in recipients {
                    let (to, place, _) = &self.letter(slot).recipients[index as usize];
                    assert_eq!((to, *place), (&name, Place::Routing));
                    told += 1;
                }
            }
            let routing =
                |(to, place, _): &&(String, Place, u16)| *to == name && *place == Place::Routing;
            assert_eq!(told, self.all().filter(routing).count());
            Place::Out
        } else {
            let site = SiteId(self.random.u32(0..4));
            let until = self.now.plus(Duration::from_secs(self.random.u64(0..4000)));
            self.scheduler.routed(domain, site, until);
            self.routes.insert(name.clone(), (site, until));
            Place::Ready(site)
        };
        for letter in &mut self.letters {
            for (to, at, _) in &mut letter.recipients {
                if *to == name && *at == Place::Routing {
                    *at = place;
                }
            }
        }
    }

    fn take(&mut self) {
        let site = SiteId(self.random.u32(0..4));
        let most = self.random.usize(1..4);
        match self.scheduler.take(site, self.now, most) {
            None => {
                assert_eq!(self.ready(site), 0);
                self.told.remove(&site);
            }
            Some(work) => {
                let letter = self.letter(work.slot);
                assert_eq!(letter.id, work.id);
                let here = letter.recipients.iter().filter(|(_, at, _)| *at == Place::Ready(site));
                assert_eq!(work.recipients.len(), here.count().min(most));
                for index in work.recipients {
                    let place = &mut letter.recipients[index as usize].1;
                    assert_eq!(std::mem::replace(place, Place::Out), Place::Ready(site));
                }
            }
        }
    }

    fn settle(&mut self) {
        if self.letters.is_empty() {
            return;
        }
        let at = self.random.usize(0..self.letters.len());
        let index = self.random.usize(0..self.letters[at].recipients.len());
        let result = [
            AttemptResult::Over,
            AttemptResult::Later,
            AttemptResult::Again,
            AttemptResult::Refused,
            AttemptResult::Relayed,
            AttemptResult::Postponed,
        ][self.random.usize(0..6)];
        if self.letters[at].finished {
            return;
        }
        let (slot, expires) = (self.letters[at].slot, self.letters[at].expires);
        let now = self.now;
        let settled = self.scheduler.settle(slot, index as u32, result, reason("x"), now);
        let (domain, place, tried) = self.letters[at].recipients[index].clone();
        let Some(settled) = settled else { return assert_ne!(place, Place::Out) };
        assert_eq!(place, Place::Out);
        let counts = !matches!(result, AttemptResult::Again | AttemptResult::Postponed);
        let tried = tried + u16::from(counts);
        let place = match settled {
            Disposition::Ended { attempts } => {
                assert_eq!(attempts, tried);
                match result {
                    AttemptResult::Over => Place::Noted,
                    AttemptResult::Relayed => Place::Ending,
                    _ => panic!("{result:?} has not ended"),
                }
            }
            Disposition::Failed { attempts } => {
                assert_eq!(attempts, tried);
                assert!(expires <= now || result == AttemptResult::Refused);
                Place::Ending
            }
            Disposition::Retry { attempts, due } => {
                assert!(expires > now && attempts == tried);
                assert!(matches!(
                    result,
                    AttemptResult::Later | AttemptResult::Again | AttemptResult::Postponed
                ));
                assert!(due >= now && due <= expires);
                let again = result == AttemptResult::Again;
                if again { self.place_when_due(&domain) } else { Place::Waiting(due) }
            }
        };
        self.letters[at].recipients[index] = (domain, place, tried);
        self.finish();
    }

    fn reroute(&mut self) {
        let site = SiteId(self.random.u32(0..4));
        self.scheduler.reroute(site);
        let mut gone = HashSet::new();
        for letter in &mut self.letters {
            for (to, at, _) in &mut letter.recipients {
                if *at == Place::Ready(site) {
                    *at = Place::Routing;
                    gone.insert(to.clone());
                }
            }
        }
        self.routes.retain(|domain, (to, _)| *to != site || !gone.contains(domain));
    }

    fn finish(&mut self) {
        for letter in self.letters.iter_mut().filter(|letter| !letter.finished) {
            let is_reported = self.reporting.iter().any(|task| task.slot == letter.slot);
            let is_over =
                letter.recipients.iter().all(|(_, place, _)| *place == Place::Over) && !is_reported;
            assert_eq!(self.scheduler.finish_if_over(letter.slot), is_over);
            letter.finished = is_over;
        }
    }

    /// Every recipient is where the model has it.
    fn compare(&self) {
        let mut live = 0;
        for letter in self.letters.iter().filter(|letter| !letter.finished) {
            assert_eq!(self.scheduler.find(letter.id), Some(letter.slot));
            let view = self.scheduler.message(letter.slot).unwrap();
            let here = letter.recipients.iter().enumerate().filter(|(_, r)| r.1 != Place::Over);
            let expected = here.map(|(index, (domain, place, attempts))| {
                let (state, due) = match place {
                    Place::Waiting(due) => ("waiting", Some(*due)),
                    Place::Routing => ("routing", None),
                    Place::Ready(_) => ("ready", None),
                    Place::Ending | Place::Noted => ("ending", None),
                    _ => ("out", None),
                };
                (index as u32, domain.trim_end_matches("+tls"), state, *attempts, due)
            });
            let seen = view.recipients.iter().map(|recipient| {
                let due = recipient.due.filter(|_| recipient.state == "waiting");
                (recipient.index, recipient.domain, recipient.state, recipient.attempts, due)
            });
            let seen: Vec<_> = seen.collect();
            assert_eq!(seen, expected.collect::<Vec<_>>());
            live += seen.len();
        }
        assert_eq!(self.scheduler.waiting(), live);
        let ready: usize = self.scheduler.sites().map(|site| site.ready).sum();
        assert_eq!(ready, (0..4).map(|site| self.ready(SiteId(site))).sum::<usize>());
        let (mut timed, mut unreported) = (false, false);
        for letter in self.letters.iter().filter(|letter| !letter.finished) {
            let is_reported = self.reporting.iter().any(|task| task.slot == letter.slot);
            for (_, place, _) in &letter.recipients {
                timed |= !matches!(place, Place::Ending | Place::Noted | Place::Over);
                unreported |= *place == Place::Ending && !is_reported;
            }
        }
        let wakes = self.scheduler.wake_at().is_some();
        assert!(wakes || !timed, "no state without a timer");
        assert!(wakes || !unreported || !self.reporting.is_empty(), "a report is forgotten");
    }
}

#[test]
fn every_recipient_is_in_exactly_one_state_and_ends_exactly_once() {
    let (mut endings, mut reports) = (0, 0);
    for seed in 0..60 {
        let mut model = Model::new(seed);
        for _ in 0..1200 {
            match model.random.u32(0..22) {
                0..5 => model.admit(),
                5..9 => model.answer(),
                9..13 => model.take(),
                13..17 => model.settle(),
                17 => model.reroute(),
                18 | 20 => model.report(),
                19 => model.durable(),
                _ => model.advance(),
            }
            model.compare();
        }
        endings += model.endings;
        reports += model.reports;
        // To the end: what is out is settled, the rest expires and is reported.
        model.now = model.now.plus(30 * HOUR);
        for task in std::mem::take(&mut model.reporting) {
            model.scheduler.report_done(&task, ReportEnd::PutOff, model.now);
        }
        while !model.scheduler.is_empty_after_settling(&mut model.now) {}
        assert_eq!(model.scheduler.waiting(), 0, "seed {seed}");
        assert_eq!(model.scheduler.unreported(), 0, "seed {seed}");
    }
    assert!(endings > 1000 && reports > 300, "{endings} {reports}");
}

impl Scheduler {
    /// Ends all that is left at `now`, after every expiry; true when nothing is.
    fn is_empty_after_settling(&mut self, clock: &mut Timestamp) -> bool {
        let now = *clock;
        while self.poll(now).is_some() {}
        while let Some(task) = self.take_report(now) {
            for ended in self.ended(task.slot) {
                self.noted(task.slot, ended.index);
            }
            self.report_done(&task, ReportEnd::Stored, now);
        }
        *clock = now.plus(Duration::from_secs(10));
        let (views, _) = self.messages_from(0, usize::MAX);
        let out: Vec<(Slot, u32)> = views
            .iter()
            .flat_map(|view| view.recipients.iter().map(|recipient| (view.slot, recipient.index)))
            .collect();
        for (slot, index) in &out {
            let settled = self.settle(*slot, *index, AttemptResult::Later, None, now);
            assert!(matches!(settled, Some(Disposition::Failed { .. }) | None));
            self.over(*slot, *index);
            self.finish_if_over(*slot);
        }
        out.is_empty()
    }
}
