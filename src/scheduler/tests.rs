//! Scenarios: one promise of the scheduler each. The random comparison with a plain model is in
//! `model`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod model;
mod reports;

use super::*;
use crate::message::{Demands, IdentityId, Stage, Status};

const START: Timestamp = Timestamp(1_800_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const SITE: SiteId = SiteId(7);

fn retry() -> config::Retry {
    config::Retry {
        first: Duration::from_secs(60),
        factor: 2.0,
        max: HOUR,
        expire: 24 * HOUR,
        jitter: 0.0,
        delay_report: None,
    }
}

fn scheduler() -> Scheduler {
    Scheduler::new(retry(), 1)
}

fn reason(text: &str) -> Option<Rc<Reason>> {
    Some(Rc::new(Reason::ours(Stage::Connect, Status(4, 4, 1), text)))
}

fn shared_reason(text: &str) -> Arc<Reason> {
    Arc::new(Reason::ours(Stage::Connect, Status(4, 4, 1), text))
}

fn at(domain: &str, due: Timestamp) -> AdmittedRecipient<'_> {
    AdmittedRecipient { domain, ended: false, attempts: 0, due, reason: None }
}

fn place(segment: u32, offset: u32, length: u32) -> Placement {
    Placement { segment, offset, length }
}

fn admit_for(scheduler: &mut Scheduler, id: u64, tenant: &str, priority: i8, to: &[&str]) -> Slot {
    let recipients: Vec<_> = to.iter().map(|domain| at(domain, START)).collect();
    let message = Admission {
        id: QueueId(id),
        placement: place(1, 2, id as u32),
        expires: START.plus(24 * HOUR),
        notice: None,
        priority,
        tenant,
        identity: IdentityId::default(),
        demands: Demands::default(),
        recipients: &recipients,
    };
    scheduler.admit(&message, START)
}

fn admit(scheduler: &mut Scheduler, id: u64, to: &[&str]) -> Slot {
    admit_for(scheduler, id, "", 0, to)
}

/// All that is demanded now; lookups are answered with the one site.
fn demands(scheduler: &mut Scheduler, now: Timestamp) -> Vec<Action> {
    let mut all = Vec::new();
    while let Some(demand) = scheduler.poll(now) {
        if let Action::Route(domain) = demand {
            scheduler.routed(domain, SITE, now.plus(HOUR));
        }
        all.push(demand);
    }
    all
}

fn taken_ids(scheduler: &mut Scheduler, now: Timestamp) -> Vec<u64> {
    std::iter::from_fn(|| scheduler.take(SITE, now, 100)).map(|work| work.id.0).collect()
}

fn state(scheduler: &Scheduler, slot: Slot) -> &'static str {
    scheduler.message(slot).unwrap().recipients[0].state
}

/// What is to be reported at `now`: the message, and the indices of its recipients.
fn expired(scheduler: &mut Scheduler, now: Timestamp) -> Vec<(Slot, Vec<u32>)> {
    let mut all = Vec::new();
    while let Some(task) = scheduler.take_report(now) {
        let ended = scheduler.ended(task.slot);
        assert!(task.delayed.is_some() || ended.iter().all(|one| one.ending == Ending::Expired));
        all.push((task.slot, ended.iter().map(|one| one.index).collect()));
        for one in ended {
            assert!(scheduler.noted(task.slot, one.index));
            scheduler.over(task.slot, one.index);
        }
        scheduler.report_done(&task, ReportEnd::Stored, now);
    }
    all
}

/// The recipient's ending is durable.
fn finish(scheduler: &mut Scheduler, slot: Slot, recipient: u32) -> bool {
    scheduler.over(slot, recipient);
    scheduler.finish_if_over(slot)
}

#[test]
fn a_message_goes_from_admission_to_its_end() {
    let mut scheduler = scheduler();
    let slot = admit(&mut scheduler, 5, &["example.net"]);
    assert_eq!(state(&scheduler, slot), "routing");
    let Some(Action::Route(domain)) = scheduler.poll(START) else { panic!("a lookup is wanted") };
    assert_eq!(scheduler.route_key(domain), Some(&RouteKey::of_domain("example.net")));
    assert_eq!(scheduler.poll(START), None, "once");
    scheduler.routed(domain, SITE, START.plus(HOUR));
    assert_eq!(scheduler.poll(START), Some(Action::Offer(SITE)));
    assert_eq!(scheduler.poll(START), None);
    let work = scheduler.take(SITE, START, 10).unwrap();
    let (id, placement, recipients) =
        (QueueId(5), Placement { segment: 1, offset: 2, length: 5 }, vec![0]);
    assert_eq!(work, DeliveryUnit { slot, id, placement, recipients, untried: true });
    assert_eq!(scheduler.take(SITE, START, 10), None);
    assert!(!scheduler.finish_if_over(slot));
    let settled = scheduler.settle(slot, 0, AttemptResult::Over, None, START);
    assert_eq!(settled, Some(Disposition::Ended { attempts: 1 }));
    assert_eq!(scheduler.settle(slot, 0, AttemptResult::Over, None, START), None, "over already");
    assert!(!scheduler.finish_if_over(slot), "not before that is durable");
    assert_eq!(state(&scheduler, slot), "ending");
    assert_eq!(scheduler.find(QueueId(5)), Some(slot));
    assert!(finish(&mut scheduler, slot, 0));
    assert!(!scheduler.finish_if_over(slot));
    assert_eq!((scheduler.find(QueueId(5)), scheduler.waiting()), (None, 0));
    assert_eq!(scheduler.wake_at(), None);
    assert_eq!(scheduler.sites().count(), 0, "a site without mail is forgotten");
}

#[test]
fn a_deferred_recipient_is_due_exactly_when_told_and_not_before() {
    let mut scheduler = scheduler();
    let slot = admit(&mut scheduler, 1, &["example.net"]);
    let mut now = Timestamp(START.0 + 3);
    for attempt in 1..=6 {
        demands(&mut scheduler, now);
        scheduler.take(SITE, now, 1).unwrap();
        let settled = scheduler.settle(slot, 0, AttemptResult::Later, reason("busy"), now);
        let due = now.plus(Duration::from_secs(60 << (attempt - 1)));
        assert_eq!(settled, Some(Disposition::Retry { attempts: attempt, due }));
        assert!(scheduler.wake_at().unwrap() <= due.plus(Duration::from_millis(10)));
        assert_eq!(demands(&mut scheduler, Timestamp(due.0 - 1)), []);
        assert_eq!(state(&scheduler, slot), "waiting");
        assert_eq!(scheduler.message(slot).unwrap().recipients[0].due, Some(due));
        now = due.plus(Duration::from_millis(10));
    }
}

#[test]
fn the_time_of_the_last_attempt_is_known_while_a_recipient_waits_after_it() {
    let mut scheduler = scheduler();
    let slot = admit(&mut scheduler, 1, &["example.net"]);
    let last = |scheduler: &Scheduler| {
        let recipient = scheduler.message(slot).unwrap().recipients.remove(0);
        (recipient.state, recipient.last_attempt)
    };
    assert_eq!(last(&scheduler), ("routing", None), "never tried");
    demands(&mut scheduler, START);
    assert_eq!(last(&scheduler), ("ready", None));
    scheduler.take(SITE, START, 1).unwrap();
    assert_eq!(last(&scheduler), ("out", None));
    let ended = Timestamp(START.0 + 5_999);
    scheduler.settle(slot, 0, AttemptResult::Later, reason("busy"), ended);
    let to_the_second = Some(Timestamp(START.0 + 5_000));
    assert_eq!(last(&scheduler), ("waiting", to_the_second));
    // The route is too old by then.
    let due = ended.plus(2 * HOUR);
    let Some(Action::Route(route)) = scheduler.poll(due) else { panic!("no route is asked for") };
    assert_eq!(last(&scheduler), ("routing", to_the_second));
    scheduler.routed(route, SITE, due.plus(HOUR));
    assert_eq!(last(&scheduler), ("ready", None));
    scheduler.take(SITE, due, 1).unwrap();
    scheduler.settle(slot, 0, AttemptResult::Postponed, None, due);
    assert_eq!(last(&scheduler), ("waiting", None), "what was put off was not tried");
}

#[test]
fn again_counts_as_no_attempt_and_goes_back_at_once() {
    let mut scheduler = scheduler();
    let slot = admit(&mut scheduler, 1, &["example.net"]);
    demands(&mut scheduler, START);
    scheduler.take(SITE, START, 1).unwrap();
    assert_eq!(scheduler.take(SITE, START, 1), None);
    let settled = scheduler.settle(slot, 0, AttemptResult::Again, None, START);
    assert_eq!(settled, Some(Disposition::Retry { attempts: 0, due: START }));
    assert_eq!(scheduler.poll(START), Some(Action::Offer(SITE)));
}

#[test]
fn a_known_site_is_not_asked_for_again_until_its_answer_is_old() {
    let mut scheduler = scheduler();
    admit(&mut scheduler, 1, &["example.net"]);
    demands(&mut scheduler, START);
    assert_eq!(taken_ids(&mut scheduler, START), [1]);
    scheduler.settle(Slot(0), 0, AttemptResult::Over, None, START);
    assert!(finish(&mut scheduler, Slot(0), 0));
    admit(&mut scheduler, 2, &["example.net"]);
    assert_eq!(demands(&mut scheduler, START), [Action::Offer(SITE)], "still known");
    assert_eq!(taken_ids(&mut scheduler, START), [2]);
    let later = START.plus(HOUR);
    scheduler.settle(Slot(0), 0, AttemptResult::Later, None, START);
    let all = demands(&mut scheduler, later);
    assert!(matches!(all[..], [Action::Route(_), Action::Offer(SITE)]), "{all:?}");
}

#[test]
fn expiry_ends_what_is_not_out_and_the_rest_when_it_comes_back() {
    let mut scheduler = scheduler();
    let slot = admit(&mut scheduler, 1, &["a.example", "a.example", "b.example", "a.example"]);
    let Some(Action::Route(first)) = scheduler.poll(START) else { panic!() };
    scheduler.routed(first, SITE, START.plus(HOUR));
    // b.example stays without an answer; 0 is out; 1 waits; 3 is ready.
    assert_eq!(scheduler.take(SITE, START, 2).unwrap().recipients, [0, 1]);
    scheduler.settle(slot, 1, AttemptResult::Later, None, START.plus(23 * HOUR)).unwrap();
    let end = START.plus(24 * HOUR);
    while scheduler.poll(end).is_some() {}
    // 0 is still out, and may end soon: they are reported together if it does.
    assert_eq!(scheduler.take_report(end), None);
    let end = end.plus(Duration::from_secs(3));
    assert_eq!(expired(&mut scheduler, end), [(slot, vec![1, 2, 3])]);
    assert!(!scheduler.finish_if_over(slot));
    let settled = scheduler.settle(slot, 0, AttemptResult::Later, None, end);
    assert_eq!(settled, Some(Disposition::Failed { attempts: 1 }));
    assert_eq!(expired(&mut scheduler, end), [(slot, vec![0])]);
    assert!(scheduler.finish_if_over(slot));
    scheduler.routed(RouteId(1), SITE, end);
    assert_eq!(scheduler.poll(end), None, "a late answer finds none");
}

#[test]
fn a_due_time_is_capped_to_expiry_and_then_it_is_over() {
    let mut scheduler = scheduler();
    let slot = admit(&mut scheduler, 1, &["example.net"]);
    demands(&mut scheduler, START);
    scheduler.take(SITE, START, 1).unwrap();
    let expires = START.plus(24 * HOUR);
    let almost = Timestamp(expires.0 - 5);
    let settled = scheduler.settle(slot, 0, AttemptResult::Later, None, almost);
    assert_eq!(settled, Some(Disposition::Retry { attempts: 1, due: expires }));
    let late = expires.plus(Duration::from_millis(10));
    assert_eq!(demands(&mut scheduler, late), []);
    assert_eq!(expired(&mut scheduler, late), [(slot, vec![0])]);
}

#[test]
fn what_never_comes_back_is_demanded_back_and_a_clock_set_forward_alone_does_not() {
    let mut scheduler = scheduler();
    let slot = admit(&mut scheduler, 1, &["example.net", "example.net"]);
    demands(&mut scheduler, START);
    scheduler.take(SITE, START, 10).unwrap();
    let jumped = START.plus(20 * HOUR);
    assert_eq!(demands(&mut scheduler, jumped), []);
    let late = jumped.plus(HOUR + Duration::from_secs(1));
    let overdue = || vec![Action::Overdue { slot, recipients: vec![0, 1] }];
    assert_eq!(demands(&mut scheduler, late), overdue());
    assert_eq!(demands(&mut scheduler, late), []);
    assert_eq!(demands(&mut scheduler, late.plus(HOUR + HOUR / 2)), overdue(), "again");
    for index in 0..2 {
        let settled = scheduler.settle(slot, index, AttemptResult::Later, None, late).unwrap();
        assert!(matches!(settled, Disposition::Retry { attempts: 1, .. }));
    }
}

#[test]
fn tenants_take_turns_whatever_they_have_queued() {
    let mut scheduler = scheduler();
    for id in 0..6 {
        admit_for(&mut scheduler, id, "large", 0, &["example.net"]);
    }
    admit_for(&mut scheduler, 100, "small", 0, &["example.net"]);
    admit_for(&mut scheduler, 101, "small", 0, &["example.net"]);
    demands(&mut scheduler, START);
    assert_eq!(taken_ids(&mut scheduler, START), [0, 100, 1, 101, 2, 3, 4, 5]);
}

#[test]
fn urgent_mail_goes_first_but_bulk_is_not_starved() {
    let mut scheduler = scheduler();
    for id in 0..40 {
        admit_for(&mut scheduler, 1000 + id, "", -5, &["example.net"]);
        admit_for(&mut scheduler, 2000 + id, "", -9, &["example.net"]);
        admit_for(&mut scheduler, 3000 + id, "", 5, &["example.net"]);
    }
    demands(&mut scheduler, START);
    let first: Vec<u64> = taken_ids(&mut scheduler, START)[..40].to_vec();
    let count = |from: u64| first.iter().filter(|id| **id / 1000 == from).count();
    assert_eq!((count(3), count(1), count(2)), (35, 2, 3));
    assert_eq!(first[..7], [3000, 3001, 3002, 3003, 3004, 3005, 3006]);
}

#[test]
fn one_transaction_takes_the_recipients_of_a_site_over_all_its_domains() {
    let mut scheduler = scheduler();
    let to = ["a.example", "b.example", "a.example", "other.example", "b.example"];
    let slot = admit(&mut scheduler, 1, &to);
    while let Some(demand) = scheduler.poll(START) {
        if let Action::Route(domain) = demand {
            let other = &*scheduler.route_key(domain).unwrap().domain == "other.example";
            let site = if other { SiteId(9) } else { SITE };
            scheduler.routed(domain, site, START.plus(HOUR));
        }
    }
    assert_eq!(scheduler.take(SITE, START, 3).unwrap().recipients, [0, 1, 2]);
    assert_eq!(scheduler.take(SITE, START, 0).unwrap().recipients, [4], "at least one");
    assert_eq!(scheduler.take(SITE, START, 3), None);
    assert_eq!(scheduler.take(SiteId(9), START, 3).unwrap().recipients, [3]);
    let view = scheduler.site_state(SITE).unwrap();
    assert_eq!((view.ready, view.out), (0, 4));
    let view = scheduler.message(slot).unwrap();
    assert_eq!((view.recipients[3].state, view.recipients[3].site), ("out", Some(SiteId(9))));
}

#[test]
fn an_offer_comes_exactly_when_there_is_work_that_was_not_told() {
    let mut scheduler = scheduler();
    admit(&mut scheduler, 1, &["example.net"]);
    assert_eq!(demands(&mut scheduler, START).len(), 2);
    admit(&mut scheduler, 2, &["example.net"]);
    assert_eq!(demands(&mut scheduler, START), [], "the site was told already");
    assert_eq!(taken_ids(&mut scheduler, START), [1, 2]);
    // Gone before it was offered: no offer.
    let slot = admit(&mut scheduler, 3, &["example.net"]);
    assert_eq!(scheduler.remove(slot, &[0, 9]), [(0, Disposition::Ended { attempts: 0 })]);
    assert!(finish(&mut scheduler, slot, 0));
    assert_eq!(demands(&mut scheduler, START), []);
    admit(&mut scheduler, 4, &["example.net"]);
    assert_eq!(demands(&mut scheduler, START), [Action::Offer(SITE)]);
}

#[test]
fn a_domain_without_a_site_gives_its_recipients_out_once_for_each_message() {
    let mut scheduler = scheduler();
    let first = admit(&mut scheduler, 1, &["a.example", "b.example", "a.example"]);
    let second = admit(&mut scheduler, 2, &["a.example"]);
    let Some(Action::Route(domain)) = scheduler.poll(START) else { panic!() };
    let all = scheduler.unroutable(domain);
    assert_eq!(all, [(first, vec![0, 2]), (second, vec![0])]);
    assert_eq!(scheduler.unroutable(domain), []);
    for index in [0, 2] {
        let settled =
            scheduler.settle(first, index, AttemptResult::Over, reason("no such domain"), START);
        assert_eq!(settled, Some(Disposition::Ended { attempts: 1 }));
    }
    assert!(!scheduler.finish_if_over(first));
    assert!(matches!(
        scheduler.settle(second, 0, AttemptResult::Later, None, START),
        Some(Disposition::Retry { attempts: 1, .. })
    ));
}

#[test]
fn what_waits_for_a_domain_is_tried_now_but_not_what_is_held() {
    let mut scheduler = scheduler();
    let tried = admit(&mut scheduler, 1, &["a.test"]);
    let other = admit(&mut scheduler, 2, &["b.test"]);
    for slot in [tried, other] {
        for demand in demands(&mut scheduler, START) {
            if let Action::Route(domain) = demand {
                scheduler.routed(domain, SITE, START.plus(HOUR));
            }
        }
        scheduler.take(SITE, START, 1).unwrap();
        scheduler.settle(slot, 0, AttemptResult::Later, reason("busy"), START);
    }
    let held = [at("a.test", START.plus(HOUR))];
    let held = scheduler.admit(
        &Admission {
            id: QueueId(3),
            placement: place(1, 2, 3),
            expires: START.plus(24 * HOUR),
            notice: None,
            priority: 0,
            tenant: "",
            identity: IdentityId::default(),
            demands: Demands::default(),
            recipients: &held,
        },
        START,
    );
    let flushed = scheduler.flush(0, |domain| domain == "a.test", START);
    assert_eq!(flushed, Flushed { next: None, found: true, sites: vec![SITE] });
    let states = [tried, other, held].map(|slot| state(&scheduler, slot));
    assert_eq!(states, ["ready", "waiting", "waiting"]);
    assert_eq!(taken_ids(&mut scheduler, START), [1]);
}

#[test]
fn a_site_whose_hosts_are_gone_is_looked_up_anew() {
    let mut scheduler = scheduler();
    let slot = admit(&mut scheduler, 1, &["example.net"]);
    demands(&mut scheduler, START);
    scheduler.reroute(SITE);
    assert_eq!(state(&scheduler, slot), "routing");
    assert_eq!(scheduler.take(SITE, START, 1), None);
    let Some(Action::Route(domain)) = scheduler.poll(START) else { panic!() };
    scheduler.routed(domain, SiteId(8), START.plus(HOUR));
    assert_eq!(scheduler.poll(START), Some(Action::Offer(SiteId(8))));
    assert_eq!(scheduler.take(SiteId(8), START, 1).unwrap().slot, slot);
}

/// At RCPT of one of them the host closes the connection; which one is not known.
#[test]
fn recipients_of_a_transaction_that_was_lost_at_rcpt_go_apart() {
    let lost = |code| Reason {
        code,
        ..Reason::ours(Stage::Recipient, Status(4, 4, 2), "the connection was lost")
    };
    for (reason, together) in [
        (lost(0), [6, 1]),
        // A reply is about one recipient, and another stage about all.
        (lost(451), [100, 100]),
        (Reason::ours(Stage::Data, Status(4, 4, 2), "the connection was lost"), [100, 100]),
    ] {
        let mut scheduler = scheduler();
        let slot = admit(&mut scheduler, 1, &["a.test"; 120]);
        let (mut now, reason) = (START, Some(Rc::new(reason)));
        demands(&mut scheduler, now);
        for wanted in [100, together[0], together[1]] {
            let unit = scheduler.take(SITE, now, 100).unwrap();
            assert_eq!(unit.recipients.len(), wanted, "{reason:?}");
            let mut others = Vec::new();
            while let Some(other) = scheduler.take(SITE, now, 100) {
                others.push(other);
            }
            for index in others.into_iter().chain([unit]).flat_map(|unit| unit.recipients) {
                scheduler.settle(slot, index, AttemptResult::Later, reason.clone(), now);
            }
            now = now.plus(2 * HOUR);
            demands(&mut scheduler, now);
        }
    }
}

#[test]
fn a_recovered_message_goes_on_where_it_was() {
    let mut scheduler = scheduler();
    let due = START.plus(HOUR / 3);
    let why = reason("greylisted");
    let message = Admission {
        id: QueueId(77),
        placement: Placement::default(),
        expires: START.plus(24 * HOUR),
        notice: None,
        priority: 100,
        tenant: "shop",
        identity: IdentityId::default(),
        demands: Demands::default(),
        recipients: &[
            AdmittedRecipient { ended: true, ..at("x.example", START) },
            AdmittedRecipient { attempts: 3, reason: why.clone(), ..at("y.example", due) },
        ],
    };
    let slot = scheduler.admit(&message, START);
    let view = scheduler.message(slot).unwrap();
    assert_eq!((view.id, view.priority, view.tenant), (QueueId(77), 9, "shop"));
    assert_eq!(
        view.recipients,
        [RecipientView {
            index: 1,
            domain: "y.example",
            state: "waiting",
            site: None,
            attempts: 3,
            noted: false,
            due: Some(due),
            last_attempt: None,
            reason: why.as_ref(),
        }]
    );
    scheduler.moved(slot, place(4, 5, 6));
    assert_eq!(scheduler.message(slot).unwrap().placement, place(4, 5, 6));
    demands(&mut scheduler, due);
    scheduler.take(SITE, due, 1).unwrap();
    let settled = scheduler.settle(slot, 1, AttemptResult::Later, None, due);
    let next = due.plus(Duration::from_secs(480));
    assert_eq!(settled, Some(Disposition::Retry { attempts: 4, due: next }));
    assert_eq!(scheduler.message(slot).unwrap().recipients[0].reason, why.as_ref());
    let over = AdmittedRecipient { ended: true, ..at("x.example", START) };
    let slot = scheduler.admit(&Admission { recipients: &[over], ..message }, START);
    assert!(scheduler.finish_if_over(slot), "none was left");
}

#[test]
fn a_clock_set_back_makes_what_was_tried_wait_no_longer() {
    let mut scheduler = scheduler();
    let mut slots = Vec::new();
    for id in 0..3 {
        let slot = admit(&mut scheduler, id, &["a.test"]);
        demands(&mut scheduler, START);
        scheduler.take(SITE, START, 1).unwrap();
        slots.push(slot);
    }
    assert!(scheduler.take(SITE, START, 1).is_none());
    // One is deferred for an hour at most, one stays out, one is held for its sender.
    scheduler.settle(slots[0], 0, AttemptResult::Later, reason("later"), START).unwrap();
    scheduler.settle(slots[1], 0, AttemptResult::Over, None, START).unwrap();
    scheduler.finish_if_over(slots[1]);
    let held = [at("b.test", START.plus(HOUR))];
    let message = Admission { id: QueueId(9), recipients: &held, ..admission(&held) };
    scheduler.admit(&message, START);

    let back = Timestamp(START.0 - 86_400_000);
    assert_eq!(demands(&mut scheduler, back.plus(Duration::from_secs(59))), []);
    let again = demands(&mut scheduler, back.plus(HOUR));
    assert_eq!(again, [Action::Offer(SITE)]);
    let work = scheduler.take(SITE, back.plus(HOUR), 1).unwrap();
    assert_eq!(work.slot, slots[0]);
    // Out since before the step: missed after two times half of the watchdog's time.
    let late = (0..=4).find_map(|hours| {
        let now = back.plus(HOUR * (hours + 1));
        let all = demands(&mut scheduler, now);
        all.into_iter().find(|action| matches!(action, Action::Overdue { .. }))
    });
    assert!(late.is_some(), "the watchdog does not wait for a day");
    // The sender's own time is a time of day.
    demands(&mut scheduler, START.plus(HOUR));
    assert!(scheduler.take(SITE, START.plus(HOUR), 1).is_some_and(|work| work.untried));
}

#[test]
fn a_due_time_from_before_a_restart_is_at_most_the_longest_wait_ahead() {
    let mut scheduler = scheduler();
    let far = START.plus(24 * HOUR);
    let tried = AdmittedRecipient { attempts: 2, ..at("tried.test", far) };
    let recipients = [tried, at("held.test", START.plus(20 * HOUR))];
    scheduler.admit(&Admission { expires: START.plus(48 * HOUR), ..admission(&recipients) }, START);
    assert_eq!(demands(&mut scheduler, START.plus(HOUR - Duration::from_secs(1))), []);
    assert!(demands(&mut scheduler, START.plus(HOUR)).contains(&Action::Offer(SITE)));
    let work = scheduler.take(SITE, START.plus(HOUR), 10).unwrap();
    assert_eq!(work.recipients, [0]);
}

fn admission<'a>(recipients: &'a [AdmittedRecipient<'a>]) -> Admission<'a> {
    Admission {
        id: QueueId(77),
        placement: place(1, 2, 3),
        expires: START.plus(24 * HOUR),
        notice: None,
        priority: 0,
        tenant: "",
        identity: IdentityId::default(),
        demands: Demands::default(),
        recipients,
    }
}

#[test]
fn a_clock_set_back_makes_nothing_due_early() {
    let mut scheduler = scheduler();
    let slot = admit(&mut scheduler, 1, &["example.net"]);
    demands(&mut scheduler, START);
    scheduler.take(SITE, START, 1).unwrap();
    let back = Timestamp(START.0 - 86_400_000);
    scheduler.settle(slot, 0, AttemptResult::Later, None, back).unwrap();
    assert_eq!(demands(&mut scheduler, back.plus(Duration::from_secs(59))), []);
    assert_eq!(state(&scheduler, slot), "waiting");
    demands(&mut scheduler, back.plus(Duration::from_secs(61)));
    assert_eq!(state(&scheduler, slot), "ready");
}

#[test]
fn parking_explains_and_does_not_stop() {
    let mut scheduler = scheduler();
    let until = START.plus(HOUR);
    scheduler.park(SITE, until, shared_reason("421 too many"), START);
    admit(&mut scheduler, 1, &["example.net"]);
    demands(&mut scheduler, START);
    let parked = scheduler.site_state(SITE).unwrap().parked.unwrap();
    assert_eq!((parked.since, parked.until), (START, until));
    assert_eq!(taken_ids(&mut scheduler, START), [1]);
    scheduler.unpark(SITE);
    assert_eq!(scheduler.site_state(SITE).unwrap().parked, None);
    for site in 0..100_000 {
        let now = START.plus(Duration::from_secs(site));
        let soon = now.plus(Duration::from_secs(60));
        scheduler.park(SiteId(100 + site as u32), soon, shared_reason("busy"), now);
    }
    assert!(scheduler.sites().count() < 3000, "old knowledge is swept out");
}

#[test]
fn a_listing_goes_by_cursor_over_gaps() {
    let mut scheduler = scheduler();
    for id in 0..10_000 {
        admit(&mut scheduler, id, &["example.net"]);
    }
    for id in (0..10_000).filter(|id| id % 100 != 0) {
        let slot = scheduler.find(QueueId(id)).unwrap();
        scheduler.remove(slot, &[0]);
        assert!(finish(&mut scheduler, slot, 0));
    }
    let (mut cursor, mut seen, mut calls) = (Some(0), Vec::new(), 0);
    while let Some(from) = cursor {
        let (views, next) = scheduler.messages_from(from, 7);
        assert!(views.len() <= 7);
        seen.extend(views.iter().map(|view| view.id.0));
        cursor = next;
        calls += 1;
    }
    assert_eq!(seen, (0..10_000).step_by(100).collect::<Vec<u64>>());
    assert!(calls >= 15);
}

#[test]
fn nonsense_from_outside_finds_nothing() {
    let mut scheduler = scheduler();
    let slot = admit(&mut scheduler, 1, &["example.net", "example.net"]);
    for index in [0, 5, u32::MAX] {
        assert_eq!(scheduler.settle(slot, index, AttemptResult::Over, None, START), None);
        assert_eq!(scheduler.settle(Slot(index), index, AttemptResult::Over, None, START), None);
    }
    scheduler.routed(RouteId(99), SITE, START);
    assert_eq!(scheduler.unroutable(RouteId(u32::MAX)), []);
    assert_eq!(scheduler.route_key(RouteId(99)), None);
    assert!(!scheduler.finish_if_over(Slot(u32::MAX)));
    assert_eq!(scheduler.messages_from(u32::MAX, 10), (Vec::new(), None));
    let never = Admission {
        id: QueueId(u64::MAX),
        placement: Placement::default(),
        expires: Timestamp::NEVER,
        notice: None,
        priority: i8::MIN,
        tenant: "",
        identity: IdentityId::default(),
        demands: Demands::default(),
        recipients: &[at("", Timestamp::NEVER)],
    };
    let slot = scheduler.admit(&never, Timestamp::NEVER);
    assert_eq!(scheduler.find(QueueId(u64::MAX)), Some(slot));
    while scheduler.poll(Timestamp::NEVER).is_some() {}
    while scheduler.poll(Timestamp(0)).is_some() {}
}

#[test]
fn domains_and_tenants_are_forgotten_when_nothing_refers_to_them() {
    let mut scheduler = scheduler();
    for id in 0..20_000 {
        let domain = format!("d{id}.example");
        let slot = admit_for(&mut scheduler, id, &format!("t{id}"), 0, &[&domain]);
        demands(&mut scheduler, START);
        assert_eq!(taken_ids(&mut scheduler, START), [id]);
        scheduler.settle(slot, 0, AttemptResult::Over, None, START);
        assert!(finish(&mut scheduler, slot, 0));
    }
    assert_eq!(scheduler.routes(), 4096);
    assert_eq!(scheduler.messages(), 0);
}

/// What the module's documentation states. (Times are measured in `benches/scheduler.rs`.)
#[test]
fn a_waiting_message_costs_at_most_87_bytes_at_any_number_of_them() {
    const COUNT: u64 = 1_000_000;
    const BYTES: u64 = 87;
    // A block of each of the two tables is filled.
    const BLOCKS: u64 = 2 * (4 << 20);
    let mut scheduler = scheduler();
    let domains: Vec<String> = (0..1000).map(|number| format!("d{number}.example")).collect();
    for id in 0..COUNT {
        let domain = domains[(id * 7 % 1000) as usize].as_str();
        let due = START.plus(Duration::from_millis(id % 86_400_000));
        let message = Admission {
            id: QueueId(START.0 * 1000 + id * 13),
            placement: Placement::default(),
            expires: START.plus(120 * HOUR),
            notice: None,
            priority: 0,
            tenant: "",
            identity: IdentityId::default(),
            demands: Demands::default(),
            recipients: &[at(domain, due)],
        };
        scheduler.admit(&message, START);
        let bytes = scheduler.bytes() as u64;
        assert!(bytes <= BYTES * id + BLOCKS, "{bytes} for {id}");
    }
    let end = START.plus(48 * HOUR);
    let mut demanded = 0;
    while scheduler.wake_at().is_some_and(|wake| wake <= end) {
        while let Some(demand) = scheduler.poll(end) {
            demanded += 1;
            if let Action::Route(domain) = demand {
                scheduler.routed(domain, SITE, end.plus(HOUR));
            }
        }
    }
    let mut taken = 0;
    while let Some(work) = scheduler.take(SITE, end, 10) {
        scheduler.settle(work.slot, 0, AttemptResult::Later, None, end).unwrap();
        taken += 1;
    }
    assert_eq!((taken, demanded), (COUNT, 1001));
    assert!(scheduler.bytes() as u64 <= BYTES * COUNT + BLOCKS, "{}", scheduler.bytes());
}

#[test]
fn a_server_that_says_something_else_every_time_does_not_fill_the_memory() {
    let mut scheduler = scheduler();
    let all = names::REASONS_MAX as u64 + 500;
    let mut slots = Vec::new();
    for id in 0..all {
        let slot = admit(&mut scheduler, id, &["example.net"]);
        demands(&mut scheduler, START);
        let work = scheduler.take(SITE, START, 1).unwrap();
        let code = if id % 2 == 0 { 450 } else { 451 };
        let why = Reason { code, ..(*reason(&format!("reply {id}")).unwrap()).clone() };
        scheduler.settle(work.slot, 0, AttemptResult::Later, Some(Rc::new(why)), START).unwrap();
        slots.push(slot);
    }
    let why = |scheduler: &Scheduler, slot: Slot| {
        let view = scheduler.message(slot).unwrap();
        Rc::clone(view.recipients[0].reason.unwrap())
    };
    assert_eq!(&*why(&scheduler, slots[7]).text, "reply 7");
    let (one, other) = (slots[all as usize - 2], slots[all as usize - 4]);
    let short = why(&scheduler, one);
    assert_eq!((short.stage, short.code, &*short.text), (Stage::Connect, 450, names::NOT_KEPT));
    assert!(Rc::ptr_eq(&short, &why(&scheduler, other)), "kept once");
    for slot in slots {
        scheduler.remove(slot, &[0]);
        assert!(finish(&mut scheduler, slot, 0));
    }
    let slot = admit(&mut scheduler, all, &["example.net"]);
    demands(&mut scheduler, START);
    scheduler.take(SITE, START, 1).unwrap();
    scheduler.settle(slot, 0, AttemptResult::Later, reason("there is room again"), START).unwrap();
    assert_eq!(&*why(&scheduler, slot).text, "there is room again");
}

#[test]
fn who_waits_long_is_told_of_once_and_expires_all_the_same() {
    let mut scheduler = Scheduler::new(retry(), 1);
    let due = at("a.test", START.plus(Duration::from_secs(50_000)));
    let at = |seconds: u64| START.plus(Duration::from_secs(seconds));
    let message = Admission {
        id: QueueId(1),
        placement: Placement::default(),
        expires: at(86_400),
        notice: Some(at(600)),
        priority: 0,
        tenant: "",
        identity: IdentityId::default(),
        demands: Demands::default(),
        recipients: &[due],
    };
    let slot = scheduler.admit(&message, START);
    assert_eq!(demands(&mut scheduler, at(599)), []);
    let recipients = vec![ExpiredRecipient { index: 0, attempts: 0, reason: None }];
    let delayed = Some(DelayNotice { until: at(86_400), recipients });
    let mut task_at = |time: u64| {
        demands(&mut scheduler, at(time));
        let task = scheduler.take_report(at(time))?;
        scheduler.report_done(&task, ReportEnd::Stored, at(time));
        Some(task)
    };
    let task = (600..=720).find_map(&mut task_at).unwrap();
    assert_eq!((task.slot, task.delayed), (slot, delayed), "within two minutes");
    assert_eq!(task_at(49_000), None, "once");
    demands(&mut scheduler, at(86_400));
    assert_eq!(expired(&mut scheduler, at(86_400)), [(slot, vec![0])]);
}

#[test]
fn beside_an_expiry_that_is_aligned_a_notice_comes_exactly() {
    let at = |milliseconds: u64| START.plus(Duration::from_millis(milliseconds));
    for (expires, notice) in
        [(3_000, 2_500), (86_400_000, 2_345), (86_400_000, 86_399_999), (400 * 86_400_000, 1)]
    {
        let aligned = aligned(at(expires), at(notice));
        assert!(aligned <= at(expires) && at(expires).since(aligned) < Duration::from_secs(120));
        assert!(aligned > at(notice));
        let kept =
            Message::new(QueueId(1), Placement::default(), aligned, Some(at(notice)), 0).notice();
        let fits = at(expires).since(at(notice)) > Duration::from_secs(1)
            && at(expires).since(at(notice)) < Duration::from_secs(45 * 86_400);
        assert!(!fits || kept == Some(at(notice)), "{expires} {notice}: {kept:?}");
    }
}
