//! What waits together, and what is reported when: the shared due time of a message at a site, the
//! bound on reports at once, and what a report says of mail that expired.

use super::*;
use crate::limits::{
    REPORT_RETRY_SECONDS, REPORT_STALL_SECONDS, REPORTS_IN_FLIGHT_MAX, RETRY_SHARED_SECONDS,
};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Takes all that is ready for the site, and defers it at these times: when each is due again.
fn deferred(
    scheduler: &mut Scheduler,
    slot: Slot,
    times: impl IntoIterator<Item = Timestamp>,
) -> Vec<Timestamp> {
    let defer = |(index, at): (u32, Timestamp)| {
        let settled = scheduler.settle(slot, index, AttemptResult::Later, reason("450"), at);
        match settled {
            Some(Disposition::Retry { due, .. }) => due,
            other => panic!("{other:?}"),
        }
    };
    (0..).zip(times).map(defer).collect()
}

#[test]
fn recipients_of_a_message_that_are_deferred_at_a_site_are_due_together() {
    let jittery = config::Retry { jitter: 0.5, ..retry() };
    let mut scheduler = Scheduler::new(jittery, 1);
    let many = ["a.test"; 100];
    let first = admit(&mut scheduler, 1, &many);
    let second = admit(&mut scheduler, 2, &many);
    demands(&mut scheduler, START);
    while scheduler.take(SITE, START, 10).is_some() {}
    // One transaction after the other, within the window.
    let spread = |index: u64| START.plus(seconds(index * (RETRY_SHARED_SECONDS - 1) / 100));
    let of_first = deferred(&mut scheduler, first, (0..100).map(spread));
    let of_second = deferred(&mut scheduler, second, (0..100).map(spread));
    assert!(of_first.iter().all(|due| *due == of_first[0]), "{of_first:?}");
    assert!(of_second.iter().all(|due| *due == of_second[0]), "{of_second:?}");
    assert_ne!(of_first[0], of_second[0], "another message draws a time of its own");
    // When they are due, one transaction takes them all.
    let due = of_first[0].max(of_second[0]).plus(seconds(1));
    demands(&mut scheduler, due);
    let works: Vec<_> = std::iter::from_fn(|| scheduler.take(SITE, due, 1000)).collect();
    let of_each: Vec<usize> = works.iter().map(|work| work.recipients.len()).collect();
    assert_eq!(of_each, [100, 100]);
}

#[test]
fn what_is_deferred_later_or_at_another_site_or_after_another_attempt_draws_a_time_of_its_own() {
    let jittery = config::Retry { jitter: 0.5, ..retry() };
    let mut scheduler = Scheduler::new(jittery, 1);
    let slot = admit(&mut scheduler, 1, &["a.test", "a.test", "b.test"]);
    while let Some(demand) = scheduler.poll(START) {
        if let Action::Route(route) = demand {
            let number = u32::from(&*scheduler.route_key(route).unwrap().domain == "b.test");
            scheduler.routed(route, SiteId(number), Timestamp::NEVER);
        }
    }
    for site in [0, 1] {
        assert!(scheduler.take(SiteId(site), START, 10).is_some());
    }
    let late = START.plus(seconds(RETRY_SHARED_SECONDS + 1));
    let due = deferred(&mut scheduler, slot, [START, late, START]);
    assert_ne!(due[0], due[1], "beyond the window");
    assert_ne!(due[0], due[2], "another site");
    assert!(due[1] > late);
    let again = due[0].max(due[1]).plus(seconds(1));
    demands(&mut scheduler, again);
    assert!(scheduler.take(SiteId(0), again, 10).is_some());
    let next = deferred(&mut scheduler, slot, [again]);
    assert!(next[0].since(again) >= seconds(60), "the second wait, not the first again");
}

fn many_expired(count: u64) -> (Scheduler, Timestamp) {
    let mut scheduler = scheduler();
    for id in 1..=count {
        admit(&mut scheduler, id, &["a.test"]);
    }
    demands(&mut scheduler, START);
    let over = START.plus(25 * HOUR);
    demands(&mut scheduler, over);
    (scheduler, over)
}

fn taken(scheduler: &mut Scheduler, now: Timestamp) -> Vec<ReportTask> {
    std::iter::from_fn(|| scheduler.take_report(now)).collect()
}

#[test]
fn reports_that_are_made_at_once_are_bounded_and_each_that_ends_makes_place_for_one() {
    let (mut scheduler, now) = many_expired(1000);
    assert_eq!(scheduler.unreported(), 1000);
    let mut under_way = taken(&mut scheduler, now);
    assert_eq!(under_way.len(), REPORTS_IN_FLIGHT_MAX);
    assert_eq!(scheduler.wake_at(), None, "nothing to do before one of them is done");
    let mut reported = 0;
    while let Some(task) = under_way.pop() {
        let ended = scheduler.ended(task.slot);
        assert_eq!(ended.len(), 1);
        assert!(scheduler.noted(task.slot, 0));
        scheduler.over(task.slot, 0);
        scheduler.report_done(&task, ReportEnd::Stored, now);
        assert!(scheduler.finish_if_over(task.slot));
        reported += 1;
        under_way.extend(taken(&mut scheduler, now));
        assert_eq!(under_way.len(), REPORTS_IN_FLIGHT_MAX.min(1000 - reported));
    }
    assert_eq!((reported, scheduler.unreported(), scheduler.messages()), (1000, 0, 0));
}

#[test]
fn on_a_full_disk_one_report_tries_for_all_and_none_is_lost() {
    let (mut scheduler, mut now) = many_expired(100);
    let under_way = taken(&mut scheduler, now);
    for task in &under_way {
        scheduler.report_done(task, ReportEnd::NoRoom, now);
    }
    assert_eq!(taken(&mut scheduler, now), [], "all wait");
    assert_eq!(scheduler.unreported(), 100);
    for _ in 0..5 {
        now = now.plus(seconds(REPORT_STALL_SECONDS));
        assert_eq!(scheduler.wake_at().unwrap().max(now), now);
        let trying = taken(&mut scheduler, now);
        assert_eq!(trying.len(), 1, "one tries");
        scheduler.report_done(&trying[0], ReportEnd::NoRoom, now);
    }
    now = now.plus(seconds(REPORT_STALL_SECONDS));
    let trying = taken(&mut scheduler, now);
    scheduler.noted(trying[0].slot, 0);
    scheduler.report_done(&trying[0], ReportEnd::Stored, now);
    assert_eq!(taken(&mut scheduler, now).len(), REPORTS_IN_FLIGHT_MAX, "the others follow");
    assert_eq!(scheduler.unreported(), 99);
}

#[test]
fn a_message_that_cannot_be_read_holds_up_no_other_report() {
    let (mut scheduler, now) = many_expired(50);
    let under_way = taken(&mut scheduler, now);
    scheduler.report_done(&under_way[0], ReportEnd::PutOff, now);
    assert_eq!(taken(&mut scheduler, now).len(), 1, "another one has its place");
    let put_off = under_way[0].slot;
    let mut all = under_way[1..].to_vec();
    let before = now.plus(seconds(REPORT_RETRY_SECONDS - 1));
    let mut reported = 0;
    while let Some(task) = all.pop() {
        assert_ne!(task.slot, put_off);
        scheduler.noted(task.slot, 0);
        scheduler.report_done(&task, ReportEnd::Stored, before);
        reported += 1;
        all.extend(taken(&mut scheduler, before));
    }
    // And the one that was taken above.
    assert_eq!((reported, scheduler.unreported()), (48, 2));
    let after = taken(&mut scheduler, now.plus(seconds(REPORT_RETRY_SECONDS)));
    assert_eq!(after.iter().map(|task| task.slot).collect::<Vec<_>>(), [put_off]);
}

#[test]
fn mail_that_expires_behind_a_dead_site_says_what_is_wrong_with_the_site() {
    let mut scheduler = scheduler();
    let untried = admit(&mut scheduler, 1, &["a.test"]);
    let tried = admit(&mut scheduler, 2, &["a.test"]);
    demands(&mut scheduler, START);
    let work = scheduler.take(SITE, START, 10).unwrap();
    assert_eq!(work.slot, untried);
    let refusal = reason("450 come back later");
    scheduler.settle(untried, 0, AttemptResult::Later, refusal.clone(), START);
    // The names of the slots follow what was taken: from here on the second is the untried one.
    let (tried, untried) = (untried, tried);
    let over = START.plus(25 * HOUR);
    scheduler.park(SITE, over.plus(HOUR), shared_reason("no answer from any host"), START);
    let other = admit(&mut scheduler, 3, &["b.test"]);
    demands(&mut scheduler, START);
    demands(&mut scheduler, over);
    let said = |scheduler: &mut Scheduler, slot| {
        let ended = scheduler.ended(slot);
        assert_eq!(ended[0].ending, Ending::Expired);
        (ended[0].reason.as_ref().unwrap().text.to_string(), ended[0].site)
    };
    assert_eq!(said(&mut scheduler, untried), ("no answer from any host".into(), Some(SITE)));
    let (words, _) = said(&mut scheduler, tried);
    assert_eq!(words, "450 come back later", "what its own attempt met");
    // It came when the site was known to be dead already.
    assert_eq!(said(&mut scheduler, other), ("no answer from any host".into(), Some(SITE)));
}

#[test]
fn how_long_the_last_attempt_took_is_known_until_the_report() {
    let mut scheduler = scheduler();
    let slot = admit(&mut scheduler, 1, &["a.test", "a.test", "a.test"]);
    demands(&mut scheduler, START);
    scheduler.take(SITE, START, 10).unwrap();
    let took = Duration::from_millis(1234);
    scheduler.attempt_took(slot, 0, took);
    assert_eq!(scheduler.ended(slot), [], "out: there is nothing to keep it for");
    for index in [0, 1] {
        scheduler.settle(slot, index, AttemptResult::Refused, reason("550"), START);
    }
    scheduler.attempt_took(slot, 0, took);
    scheduler.attempt_took(slot, 2, took);
    let ended = scheduler.ended(slot);
    assert_eq!(ended.iter().map(|one| one.elapsed).collect::<Vec<_>>(), [Some(took), None]);
    // Its links are used again when its place is.
    for index in [0, 1] {
        assert!(scheduler.noted(slot, index));
        scheduler.over(slot, index);
    }
    admit(&mut scheduler, 2, &["a.test", "b.test"]);
    demands(&mut scheduler, START.plus(25 * HOUR));
    assert!(scheduler.ended(slot).iter().all(|one| one.elapsed.is_none()));
}

#[test]
fn the_full_content_goes_with_the_first_report_of_a_message_alone() {
    let mut scheduler = scheduler();
    let slot = admit(&mut scheduler, 1, &["a.test", "a.test"]);
    let other = admit(&mut scheduler, 2, &["a.test"]);
    assert!(scheduler.may_return_content(slot) && scheduler.may_return_content(other));
    scheduler.content_returned(slot);
    assert!(!scheduler.may_return_content(slot) && scheduler.may_return_content(other));
    // A slot that is used again is another message's.
    demands(&mut scheduler, START.plus(25 * HOUR));
    for index in [0, 1] {
        scheduler.noted(slot, index);
        finish(&mut scheduler, slot, index);
    }
    let again = admit(&mut scheduler, 3, &["a.test"]);
    assert_eq!(again, slot);
    assert!(scheduler.may_return_content(again));
}
