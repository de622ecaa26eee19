//! Measures the total memory of a waiting recipient: anonymous memory (`RssAnon`) per recipient of
//! a process that stores messages of 200 bytes in a spool and admits them to a scheduler, as a
//! shard does. Every second message is tried once and deferred by a server that sends another text
//! every time; the others only wait. A thousand domains. "At most" is the maximum between half of
//! the number and all of it, so that it includes the moments after a table grew. Memory that is
//! bounded separately (buffers, reasons) is excluded: it is filled before the first measurement.
//! Messages that are kept in memory for their first attempt (`hot_bytes_max`) are not included.
//!
//!     cargo bench --bench memory                     # 1 and 2 million
//!     cargo bench --bench memory -- 1000000 2000000 10000000    # 6 GB of disk below TMPDIR
//!
//! | recipients | per message | bytes each | at most | MiB in total |
//! | ---: | ---: | ---: | ---: | ---: |
//! | 1000000 | 1 | 88.4 | 88.4 | 118 |
//! | 2000000 | 1 | 90.3 | 90.3 | 206 |
//! | 10000000 | 1 | 92.6 | 92.7 | 917 |
//! | 1000000 | 10 | 54.0 | 54.0 | 110 |
//! | 2000000 | 10 | 50.2 | 52.4 | 154 |
//! | 10000000 | 10 | 52.2 | 52.6 | 555 |
//!
//! (2026-11-23, Linux 6.18, mimalloc 3, huge pages on request.) 86 bytes of it are the scheduler's
//! entries; the rest is overhead of the allocator and huge pages. The relay itself does not use
//! huge pages (two shards, loaded over SMTP with the next hop down: 102 at a million with them, 89
//! without). A streamed message (more than `spool.stream_threshold`) costs some 80 bytes more, for
//! the segments of its pieces.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ringpost::config;
use ringpost::message::{
    Address, ContentFlags, Demands, Envelope, IdentityId, Message, Options, QueueId, Reason,
    Recipient, RecipientStatus, Stage, Status,
};
use ringpost::ring;
use ringpost::scheduler::{
    Action, Admission, AdmittedRecipient, AttemptResult, Disposition, Scheduler, SiteId, Slot,
};
use ringpost::spool::{Placement, Settings, Spool};
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HOUR: Duration = Duration::from_secs(3600);
const CONTENT: [u8; 200] = [b'x'; 200];
const WRITERS: usize = 1024;
/// Messages before the first measurement: they fill memory that is bounded separately.
const BEFORE: u64 = 50_000;
const SITE: SiteId = SiteId(1);

/// Stores and admits messages.
struct Shard {
    spool: Spool,
    scheduler: RefCell<Scheduler>,
    recipients: usize,
    stored: Cell<u64>,
    /// From this number of messages on, the memory is measured.
    half: Cell<u64>,
    /// Memory before, and the maximum per message above it since half of the number.
    base: Cell<u64>,
    most: Cell<f64>,
}

impl Shard {
    async fn open(folder: &Path, recipients: usize) -> Rc<Shard> {
        let settings = Settings {
            directory: folder.to_owned(),
            number: 0,
            segment_bytes: 64 << 20,
            stream_threshold: 256 << 10,
            content_bytes_max: 64 << 20,
            outcome_interval: Duration::from_millis(50),
        };
        let retry = config::Retry {
            first: 10 * HOUR,
            factor: 1.0,
            max: 10 * HOUR,
            expire: 120 * HOUR,
            jitter: 0.2,
            delay_report: None,
        };
        Rc::new(Shard {
            spool: Spool::open(settings).await.unwrap().0,
            scheduler: RefCell::new(Scheduler::new(retry, 1)),
            recipients,
            stored: Cell::new(0),
            half: Cell::new(0),
            base: Cell::new(0),
            most: Cell::new(0.0),
        })
    }

    /// Stores and admits until there are `count` messages.
    async fn fill(self: &Rc<Shard>, count: u64) {
        self.half.set(BEFORE + count.saturating_sub(BEFORE) / 2);
        self.most.set(0.0);
        let running = Rc::new(Cell::new(WRITERS));
        let done = ring::Signal::new();
        for _ in 0..WRITERS {
            let (shard, running, done) = (Rc::clone(self), Rc::clone(&running), done.clone());
            ring::spawn("writer", async move {
                while shard.stored.get() < count {
                    let number = shard.stored.get();
                    shard.stored.set(number + 1);
                    shard.one(number).await;
                }
                running.set(running.get() - 1);
                if running.get() == 0 {
                    done.set();
                }
            });
        }
        done.wait().await;
        self.spool.sync().await.unwrap();
        self.look();
    }

    async fn one(&self, number: u64) {
        let domains: Vec<String> = (0..self.recipients as u64)
            .map(|index| format!("d{}.example", (number * 7 + index) % 1000))
            .collect();
        let address = |domain: &String| Recipient::plain(Address::new(format!("to@{domain}")));
        let id = self.spool.next_id(ring::wall_clock());
        let accepted = Message {
            id,
            received_at: ring::wall_clock(),
            envelope: Envelope {
                reverse_path: Some(Address::new("sender@example.com")),
                recipients: domains.iter().map(address).collect(),
            },
            options: Options::default(),
            prepended_headers: vec![b't'; 120],
            flags: ContentFlags::default(),
            content: (),
        };
        let mut draft = self.spool.draft();
        draft.extend(&CONTENT).await.unwrap();
        let (placement, message) = self.spool.store(accepted.with_content(draft)).await.unwrap();
        drop(message);
        self.admit(number, id, &domains, placement);
        if number.is_multiple_of(10_000) && number > self.half.get() {
            self.look();
        }
    }

    fn admit(&self, number: u64, id: QueueId, domains: &[String], at: Placement) {
        let now = ring::wall_clock();
        // Half of them are due now and tried; the others are due when the bench does not poll.
        let is_tried = number.is_multiple_of(2);
        let due = if is_tried { now } else { now.plus(HOUR) };
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
        let mut scheduler = self.scheduler.borrow_mut();
        let slot = scheduler.admit(
            &Admission {
                id,
                placement: at,
                expires: now.plus(120 * HOUR),
                notice: None,
                priority: 0,
                tenant: "",
                identity: IdentityId::default(),
                demands: Demands::default(),
                recipients: &recipients,
            },
            now,
        );
        while let Some(demand) = scheduler.poll(now) {
            if let Action::Route(domain) = demand {
                scheduler.routed(domain, SITE, now.plus(200 * HOUR));
            }
        }
        while let Some(work) = scheduler.take(SITE, now, 100) {
            self.spool.begun(work.id, &work.recipients);
            for &recipient in &work.recipients {
                self.defer(&mut scheduler, work.slot, recipient, number);
            }
        }
        assert!(scheduler.message(slot).is_some());
    }

    /// Defers like a server with a different number in every reply.
    fn defer(&self, scheduler: &mut Scheduler, slot: Slot, recipient: u32, number: u64) {
        let now = ring::wall_clock();
        let reason = Rc::new(Reason {
            code: 450,
            remote: "mx1.example.net [192.0.2.1]:25".into(),
            ..Reason::ours(
                Stage::Recipient,
                Status(4, 2, 1),
                format!("The user is receiving mail too quickly, {number:016x} - smtp"),
            )
        });
        let why = Some(Rc::clone(&reason));
        let (id, _) = scheduler.whereabouts(slot).unwrap();
        let settled = scheduler.settle(slot, recipient, AttemptResult::Later, why, now);
        let Some(Disposition::Retry { attempts, due }) = settled else { panic!("{settled:?}") };
        let status = RecipientStatus::Waiting { attempts, due, reason: (*reason).clone() };
        self.spool.settle(id, recipient, &status);
    }

    fn per_recipient(&self, count: u64) -> f64 {
        let count = (count * self.recipients as u64) as f64;
        (memory() as f64 - self.base.get() as f64) / count
    }

    fn look(&self) {
        let since = self.per_recipient(self.stored.get().saturating_sub(BEFORE).max(1));
        self.most.set(self.most.get().max(since));
    }
}

/// Anonymous memory of this process, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Fills up to each of `counts` recipients and prints the memory for each.
fn measure(folder: PathBuf, recipients: usize, counts: Vec<u64>) {
    let settings = ring::Settings { depth: 256, preempt: Duration::from_millis(1) };
    let shards = ring::start(&[None], &settings, move |_| {
        let (folder, counts) = (folder.clone(), counts.clone());
        async move {
            let shard = Shard::open(&folder, recipients).await;
            shard.fill(BEFORE).await;
            shard.base.set(memory());
            for count in counts {
                let messages = count / recipients as u64;
                shard.fill(BEFORE + messages).await;
                let now = shard.per_recipient(messages);
                let (most, whole) = (shard.most.get(), memory() >> 20);
                println!("| {count} | {recipients} | {now:.1} | {most:.1} | {whole} |");
            }
        }
    });
    shards.unwrap().join().unwrap();
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut numbers: Vec<u64> =
        arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    if let Some(folder) = arguments.iter().find_map(|argument| argument.strip_prefix("--in=")) {
        let recipients = numbers.remove(0) as usize;
        return measure(folder.into(), recipients, numbers);
    }
    if numbers.is_empty() {
        numbers = vec![1_000_000, 2_000_000];
    }
    println!("| recipients | per message | bytes each | at most | MiB in total |");
    println!("| ---: | ---: | ---: | ---: | ---: |");
    // Each in a separate process, without memory of the one before.
    for recipients in [1, 10] {
        let folder = tempfile::tempdir().unwrap();
        let numbers = numbers.iter().map(u64::to_string);
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .arg(format!("--in={}", folder.path().display()))
            .args([recipients.to_string()].into_iter().chain(numbers))
            .status()
            .unwrap();
        assert!(status.success());
    }
}
