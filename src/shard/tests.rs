//! The origin side on a real spool: what comes back, in which order, and what is kept until when.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::delay::DelayReport;
use super::driver::Driver;
use super::origin::Stations;
use super::report::wants_success_report;
use crate::config::{Config, Machine};
use crate::dns::Resolver;
use crate::event::EventLog;
use crate::intake::Intake;
use crate::message::{
    Address, Content, ContentFlags, DeliverBy, DsnNotify, DsnReturn, Envelope, Message, Options,
    Outcome, QueueId, Reason, Recipient, Stage, Status, Timestamp,
};
use crate::pool::{Done, Exchange, Reporter, Reports};
use crate::ring;
use crate::route::{Router, Site};
use crate::scheduler::{Action, AttemptResult, DeliveryUnit, SiteId};
use crate::spool::{Settings, Spool};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// It has a site without any look-up, where reports wait.
const SENDER: &str = "s@[192.0.2.1]";

fn on_a_shard<F: Future<Output = ()> + 'static>(body: impl Fn() -> F + Send + Clone + 'static) {
    let settings = ring::Settings { depth: 128, preempt: Duration::from_millis(1) };
    ring::start(&[None], &settings, move |_| body()).unwrap().join().unwrap();
}

async fn queue(folder: &Path) -> Rc<Driver> {
    let config = Arc::new(Config::read("test", "cores = 1", &[], &Machine::this()).unwrap());
    let (spool, _) = Spool::open(Settings {
        directory: folder.to_owned(),
        number: 0,
        segment_bytes: 256 * 1024,
        stream_threshold: 8 * 1024,
        content_bytes_max: 1 << 20,
        outcome_interval: Duration::from_millis(20),
    })
    .await
    .unwrap();
    let resolver = Resolver::new(config.dns.clone());
    let router = Router::new(
        Arc::clone(&config.host_name),
        Default::default(),
        config.route.clone(),
        resolver,
        1,
    );
    let (peer, _mailbox) = ring::mailbox(16);
    let exchange = Exchange::new(0, vec![peer]);
    let core = config.cores[0].clone();
    let events = Rc::new(EventLog::off());
    let intake = Intake::new(spool.clone(), Arc::clone(&config.host_name));
    let stations = Stations { shard: 0, config, spool, intake, events, exchange };
    let driver = Driver::new(stations, &core, router);
    ring::spawn("endings", Rc::clone(&driver).watch_endings());
    ring::spawn("dispatcher", Rc::clone(&driver).run());
    driver
}

/// A message for `a@a.test` and `b@b.test` that is out for both, in two transactions.
async fn out(queue: &Rc<Driver>) -> (Arc<Message>, [DeliveryUnit; 2]) {
    let message = ready(queue, ["a@a.test", "b@b.test"], Options::default()).await;
    let scheduler = &mut queue.origin.borrow_mut().scheduler;
    let works = [0, 1].map(|site| scheduler.take(SiteId(site), ring::wall_clock(), 100).unwrap());
    (message, works)
}

/// A message that is ready: for site 1 at `b.test`, for site 0 elsewhere.
async fn ready(queue: &Rc<Driver>, to: [&str; 2], options: Options) -> Arc<Message> {
    let now = ring::wall_clock();
    let mut draft = queue.stations.spool.draft();
    draft.extend(b"Subject: x\r\n\r\nthe content\r\n").await.unwrap();
    let recipients = to.map(|to| Recipient::plain(Address::new(to)));
    let accepted = Message {
        id: queue.stations.spool.next_id(now),
        received_at: now,
        envelope: Envelope {
            reverse_path: Some(Address::new(SENDER)),
            recipients: recipients.into(),
        },
        options,
        prepended_headers: Vec::new(),
        flags: ContentFlags::default(),
        content: (),
    };
    let stored = queue.stations.spool.store(accepted.with_content(draft)).await;
    let (placement, message) = stored.unwrap();
    queue.admit(Arc::clone(&message), placement);
    let scheduler = &mut queue.origin.borrow_mut().scheduler;
    while let Some(demand) = scheduler.poll(now) {
        if let Action::Route(domain) = demand {
            let number =
                SiteId(u32::from(&*scheduler.route_key(domain).unwrap().domain == "b.test"));
            scheduler.routed(domain, number, Timestamp::NEVER);
        }
    }
    message
}

fn done(message: &Arc<Message>, work: &DeliveryUnit, outcome: fn(Reason) -> Outcome) -> Done {
    let reason = Reason::ours(Stage::Recipient, Status(2, 0, 0), "as the test says");
    Done {
        slot: work.slot.0,
        id: work.id,
        site: Site::for_test("mx:x.test:25"),
        message: Arc::clone(message),
        outcomes: work.recipients.iter().map(|&to| (to, outcome(reason.clone()))).collect(),
        again: Vec::new(),
        handling: crate::pool::Handling::default(),
    }
}

/// Waits until all endings so far are durable, and known to be.
async fn endings(queue: &Driver) {
    queue.stations.spool.sync().await.unwrap();
    for _ in 0..100 {
        ring::yield_now().await;
    }
}

fn is_known(queue: &Driver, id: QueueId) -> bool {
    queue.origin.borrow().scheduler.find(id).is_some()
}

#[test]
fn a_message_stays_until_the_report_about_it_is_durable_whatever_else_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    on_a_shard(move || {
        let path = path.clone();
        async move {
            let queue = queue(&path).await;
            let (message, [first, second]) = out(&queue).await;
            queue.done(done(&message, &first, Outcome::Refused));
            queue.done(done(&message, &second, Outcome::Delivered));
            assert!(is_known(&queue, message.id), "its record may be all there is of the failure");
            let shown = queue.show(message.id).await;
            assert_eq!(shown.iter().map(|one| &*one.state).collect::<Vec<_>>(), ["ending"; 2]);
            queue.settle_reports().await;
            endings(&queue).await;
            assert!(!is_known(&queue, message.id));
            assert_eq!(queue.origin.borrow().scheduler.messages(), 1, "the report");
        }
    });
}

#[test]
fn an_outcome_that_comes_after_the_slot_was_used_again_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    on_a_shard(move || {
        let path = path.clone();
        async move {
            let queue = queue(&path).await;
            let (old, works) = out(&queue).await;
            for work in &works {
                queue.done(done(&old, work, Outcome::Delivered));
            }
            endings(&queue).await;
            let (new, [first, _]) = out(&queue).await;
            assert_eq!(first.slot, works[0].slot);
            queue.done(done(&old, &works[0], Outcome::Refused));
            queue.done(done(&old, &works[1], Outcome::Delivered));
            let scheduler = &queue.origin.borrow().scheduler;
            assert_eq!(scheduler.message(first.slot).unwrap().recipients.len(), 2);
            assert!(is_known(&queue, new.id) && scheduler.unreported() == 0);
        }
    });
}

#[test]
fn what_was_given_up_as_lost_and_was_delivered_is_not_delivered_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    on_a_shard(move || {
        let path = path.clone();
        async move {
            let queue = queue(&path).await;
            let (message, works) = out(&queue).await;
            let (slot, recipients) = (works[0].slot, &works[0].recipients);
            queue.origin.borrow_mut().put_off(slot, recipients, AttemptResult::Later, "lost");
            for work in &works {
                queue.done(done(&message, work, Outcome::Delivered));
            }
            endings(&queue).await;
            assert!(!is_known(&queue, message.id));
        }
    });
}

#[test]
fn a_message_that_is_damaged_on_the_disk_ends_at_once_and_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    on_a_shard(move || {
        let path = path.clone();
        async move {
            let queue = queue(&path).await;
            let (damaged, [first, _]) = out(&queue).await;
            let (whole, [other, _]) = out(&queue).await;
            for slot in [first.slot, other.slot] {
                queue.origin.borrow_mut().hot.forget(slot);
            }
            let file = path.join("00000001.seg");
            let mut bytes = std::fs::read(&file).unwrap();
            bytes[first.placement.offset as usize + 40] ^= 1;
            std::fs::write(&file, bytes).unwrap();
            let shown = queue.show(damaged.id).await;
            let found = shown.iter().map(|one| (&*one.from, &*one.to, &*one.state));
            let expected = ["?@a.test", "?@b.test"].map(|to| ("?", to, "damaged"));
            assert_eq!(found.collect::<Vec<_>>(), expected);
            let trouble = shown[0].trouble.clone().unwrap();
            assert!(trouble.contains("00000001.seg byte ") && trouble.contains("not intact"));
            let intact = queue.show(whole.id).await;
            assert_eq!((&*intact[0].from, &intact[0].trouble), (SENDER, &None));

            let error = queue.message(first.slot).await.unwrap_err();
            queue.unreadable(first.slot, &first.recipients, &error).await;
            endings(&queue).await;
            let left = queue.show(damaged.id).await.len();
            assert_eq!(left, 1, "the one that is out elsewhere has the message in memory");
            queue.unreadable(first.slot, &[1], &error).await;
            endings(&queue).await;
            assert!(!is_known(&queue, damaged.id));
            // Trouble that may pass ends nothing.
            queue.unreadable(other.slot, &other.recipients, &error).await;
            assert!(is_known(&queue, whole.id));

            queue.stations.spool.sync().await.unwrap();
            let found = Spool::inspect(&path).unwrap();
            assert_eq!(found.messages.map(|one| one.id).collect::<Vec<_>>(), [whole.id]);
            assert_eq!(std::fs::read_dir(path.join("quarantine")).unwrap().count(), 1);
        }
    });
}

#[test]
fn rfc2852_4_1_2_a_time_with_r_ends_a_message_and_one_with_n_has_it_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    on_a_shard(move || {
        let path = path.clone();
        async move {
            let queue = queue(&path).await;
            let begin = ring::wall_clock();
            let at = |seconds: u64| begin.plus(Duration::from_secs(seconds));
            let expire = queue.stations.config.retry.expire.as_secs();
            let times = |by: Option<(Timestamp, &str)>, has_sender| {
                let deliver_by = by.map(|(at, letters)| {
                    let (mode, trace) = DeliverBy::read_letters(letters).unwrap();
                    DeliverBy { at, mode, trace }
                });
                let options = Options { deliver_by, ..Options::default() };
                let delay =
                    if has_sender { DelayReport::NotRequested } else { DelayReport::NoSender };
                queue.origin.borrow().times(begin, &options, delay)
            };
            assert_eq!(times(None, true), (at(expire), None));
            assert_eq!(times(Some((at(90), "RT")), true), (at(90), None));
            assert_eq!(times(Some((at(expire + 1), "R")), true), (at(expire), None));
            let (expires, notice) = times(Some((at(90), "N")), true);
            assert_eq!(notice, Some(at(90)), "to the second");
            assert!(expires <= at(expire) && expires > at(expire - 120));
            for (by, has_sender) in [(begin, true), (at(expire + 1), true), (at(90), false)] {
                assert_eq!(times(Some((by, "N")), has_sender), (at(expire), None));
            }
        }
    });
}

#[test]
fn rfc2852_4_1_4_who_hears_of_a_message_that_is_handed_on() {
    let success = DsnNotify { success: true, ..DsnNotify::default() };
    let failure = DsnNotify { failure: true, ..DsnNotify::default() };
    let wishes = [None, Some(success), Some(failure), Some(DsnNotify::default())];
    let recipients =
        wishes.map(|notify| Recipient { notify, ..Recipient::plain(Address::new("x@b.test")) });
    let message = |letters: &str| {
        let deliver_by = DeliverBy::read_letters(letters).map(|(mode, trace)| DeliverBy {
            at: Timestamp(9),
            mode,
            trace,
        });
        Message {
            id: QueueId(1),
            received_at: Timestamp(1),
            envelope: Envelope { reverse_path: None, recipients: recipients.to_vec() },
            options: Options { deliver_by, ..Options::default() },
            flags: ContentFlags::default(),
            prepended_headers: Vec::new(),
            content: Content::Whole(Vec::new()),
        }
    };
    let to =
        |on_success, keeps_time, to_mailboxes| Reports { on_success, to_mailboxes, keeps_time };
    for (letters, reports, heard) in [
        ("", to(Reporter::NextHop, false, false), [false, false, false, false]),
        ("", to(Reporter::Relayed, false, false), [false, true, false, false]),
        // A host that knows of the time tells of it itself.
        ("N", to(Reporter::NextHop, true, false), [false, false, false, false]),
        ("R", to(Reporter::NextHop, true, false), [false, false, false, false]),
        ("NT", to(Reporter::NextHop, true, false), [true, true, true, false]),
        ("RT", to(Reporter::NextHop, true, false), [true, true, true, false]),
        ("N", to(Reporter::NextHop, false, false), [true, true, true, false]),
        ("N", to(Reporter::Relayed, false, false), [true, true, true, false]),
        // A mailbox is the last hop.
        ("NT", to(Reporter::Delivered, false, true), [false, true, false, false]),
    ] {
        let message = message(letters);
        let of_each = [0, 1, 2, 3].map(|one| wants_success_report(&message, one, reports));
        assert_eq!(of_each, heard, "{letters} {reports:?}");
    }
}

/// A transaction that took `a@a.test` and did this to the other recipient: its state then.
async fn left_out(queue: &Rc<Driver>, other: &str, outcome: Outcome, first: Outcome) -> String {
    // What an earlier one has left.
    while queue.origin.borrow_mut().scheduler.take(SiteId(1), ring::wall_clock(), 100).is_some() {}
    let message = ready(queue, ["a@a.test", other], Options::default()).await;
    let mut works = Vec::new();
    {
        let scheduler = &mut queue.origin.borrow_mut().scheduler;
        for site in [0, 1] {
            works.extend(scheduler.take(SiteId(site), ring::wall_clock(), 100));
        }
    }
    let slot = works[0].slot;
    let outcomes = vec![(0, first), (1, outcome)];
    queue.done(Done { outcomes, ..done(&message, &works[0], Outcome::Delivered) });
    let origin = queue.origin.borrow();
    let view = origin.scheduler.message(slot).unwrap();
    let states = view.recipients.iter().filter(|one| one.index == 1);
    states.map(|one| one.state.to_owned()).collect()
}

#[test]
fn a_next_hop_that_takes_one_domain_per_transaction_gets_the_others_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    on_a_shard(move || {
        let path = path.clone();
        async move {
            let queue = queue(&path).await;
            let reply = |stage, code| Reason {
                code,
                ..Reason::ours(stage, Status(4, 5, 2), "one domain at a time")
            };
            let taken = || Outcome::Delivered(reply(Stage::Content, 250));
            let put_off = |stage, code| Outcome::Deferred(reply(stage, code));
            for code in [450, 451, 452] {
                let state = left_out(&queue, "b@b.test", put_off(Stage::Recipient, code), taken());
                assert_eq!(state.await, "ready", "{code}");
            }
            for (what, other, outcome, first) in [
                ("closing", "b@b.test", put_off(Stage::Recipient, 421), taken()),
                ("of the sender", "b@b.test", put_off(Stage::Mail, 452), taken()),
                ("of the content", "b@b.test", put_off(Stage::Content, 452), taken()),
                ("the same domain", "b@a.test", put_off(Stage::Recipient, 452), taken()),
                ("the same domain", "b@A.test", put_off(Stage::Recipient, 452), taken()),
                (
                    "nothing was taken",
                    "b@b.test",
                    put_off(Stage::Recipient, 452),
                    put_off(Stage::Recipient, 452),
                ),
            ] {
                let state = left_out(&queue, other, outcome, first).await;
                assert_eq!(state, "waiting", "{what}");
            }
        }
    });
}

#[test]
fn the_full_content_goes_with_the_first_report_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    on_a_shard(move || {
        let path = path.clone();
        async move {
            let queue = queue(&path).await;
            let full = Options { dsn_return: Some(DsnReturn::Full), ..Options::default() };
            let message = ready(&queue, ["a@a.test", "b@b.test"], full).await;
            for site in [0, 1] {
                let taken = {
                    let scheduler = &mut queue.origin.borrow_mut().scheduler;
                    scheduler.take(SiteId(site), ring::wall_clock(), 100)
                };
                queue.done(done(&message, &taken.unwrap(), Outcome::Refused));
                queue.settle_reports().await;
            }
            endings(&queue).await;
            assert!(!is_known(&queue, message.id));
            let found = Spool::inspect(&path).unwrap();
            let full: Vec<bool> = found
                .messages
                .map(|report| {
                    let read = Spool::read(&path, report.id, report.placement).unwrap();
                    let Content::Whole(content) = &read.content else { panic!() };
                    String::from_utf8_lossy(content).contains("the content")
                })
                .collect();
            assert_eq!(full, [true, false]);
        }
    });
}

#[test]
fn reports_under_way_promise_a_bounded_number_of_events() {
    let cells = [
        (0, 1, true),
        (0, 1000, true),
        (0, 1001, true),
        (1, 999, true),
        (1, 1000, false),
        (900, 100, true),
        (900, 101, false),
        (1000, 1, false),
    ];
    for (promised, more, place) in cells {
        assert_eq!(super::report::have_place(promised, more), place, "{promised} and {more}");
    }
}
