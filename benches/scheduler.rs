//! The cost of one message in the scheduler, from admission to its end, while a million others
//! wait.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::config;
use ringpost::message::{Demands, IdentityId, Placement, QueueId, Timestamp};
use ringpost::scheduler::{
    Action, Admission, AdmittedRecipient, AttemptResult, Disposition, Scheduler, SiteId,
};
use std::time::Duration;

const START: Timestamp = Timestamp(1_800_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn scheduler(waiting: u64) -> Scheduler {
    let retry = config::Retry {
        first: Duration::from_secs(60),
        factor: 2.0,
        max: HOUR,
        expire: 24 * HOUR,
        jitter: 0.2,
        delay_report: None,
    };
    let mut scheduler = Scheduler::new(retry, 1);
    for id in 0..waiting {
        admit(&mut scheduler, id, "waiting.example", START.plus(HOUR));
    }
    scheduler
}

fn admit(scheduler: &mut Scheduler, id: u64, domain: &str, due: Timestamp) {
    let recipient = AdmittedRecipient { domain, ended: false, attempts: 0, due, reason: None };
    let message = Admission {
        id: QueueId(id),
        placement: Placement::default(),
        expires: START.plus(24 * HOUR),
        notice: None,
        priority: 0,
        tenant: "",
        identity: IdentityId::default(),
        demands: Demands::default(),
        recipients: &[recipient],
    };
    scheduler.admit(&message, START);
}

fn route(scheduler: &mut Scheduler) {
    while let Some(demand) = scheduler.poll(START) {
        if let Action::Route(domain) = demand {
            scheduler.routed(domain, SiteId(1), START.plus(HOUR));
        }
    }
}

fn one_message(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler");
    group.throughput(Throughput::Elements(1));
    for waiting in [0, 1_000_000] {
        let mut scheduler = scheduler(waiting);
        let mut id = waiting;
        group.bench_function(format!("delivered at once, {waiting} waiting"), |bench| {
            bench.iter(|| {
                id += 1;
                admit(&mut scheduler, id, "example.net", START);
                route(&mut scheduler);
                let work = scheduler.take(SiteId(1), START, 100).expect("one is ready");
                let settled = scheduler.settle(work.slot, 0, AttemptResult::Over, None, START);
                scheduler.over(work.slot, 0);
                assert_eq!(settled, Some(Disposition::Ended { attempts: 1 }));
                assert!(scheduler.finish_if_over(work.slot));
            });
        });
        group.bench_function(format!("deferred and removed, {waiting} waiting"), |bench| {
            bench.iter(|| {
                id += 1;
                admit(&mut scheduler, id, "example.net", START);
                route(&mut scheduler);
                let work = scheduler.take(SiteId(1), START, 100).expect("one is ready");
                scheduler.settle(work.slot, 0, AttemptResult::Later, None, START).expect("was out");
                scheduler.remove(work.slot, &[0]);
                scheduler.over(work.slot, 0);
                assert!(scheduler.finish_if_over(work.slot));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, one_message);
criterion_main!(benches);
