//! Measures a start with a large queue: fills a spool, then times a start until the scheduler has
//! every message. Run by hand, because it needs gigabytes:
//!
//!     cargo bench --bench recovery -- fill DIRECTORY MESSAGES [SHARDS]
//!     cargo bench --bench recovery -- start DIRECTORY [SHARDS]
//!     cargo bench --bench recovery -- strip DIRECTORY [SHARDS]
//!
//! `start` does not change the spool, except for a new segment. `strip` removes the indexes, as if
//! an older relay had written the segments: a start then reads every byte. For cold files, write 3
//! to `/proc/sys/vm/drop_caches` before.
//!
//! One million messages of 2 KB with one recipient each, in two shards at once (2.4 GB in 36
//! segments of 64 MiB, all sealed by a stop); until the last of them is in the scheduler; three
//! runs, fastest to slowest. 2026-11-24: 2 x AMD EPYC (virtual) with other load, Linux 6.18,
//! ext4 without a journal on a virtual disk. Warm: files in the page cache. Cold: after
//! `drop_caches`.
//!
//! | | warm | cold | read |
//! | --- | ---: | ---: | ---: |
//! | start by index | 1.00 to 1.13 s | 1.09 to 1.43 s | 170 MB |
//! | start by all bytes (`strip`) | 1.58 to 1.70 s | 1.97 to 3.08 s | 2,432 MB |
//! | `cat` of all segments | 0.35 to 0.97 s | 1.50 to 3.90 s | 2,432 MB |
//!
//! Of the 170 MB, 128 are two unused spare segments, which are searched for lost commits. Without
//! other load, the start by index took 0.56 to 0.93 s warm (before link-time optimisation). Memory
//! of both shards with all messages waiting: 154 to 163 MiB, 187 to 207 MiB at its peak.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ringpost::config::Retry;
use ringpost::message::{
    Address, ContentFlags, Demands, Envelope, IdentityId, Message, Options, Recipient,
};
use ringpost::ring;
use ringpost::scheduler::{Admission, AdmittedRecipient, Scheduler};
use ringpost::spool::{Settings, Spool};
use std::cell::Cell;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The same allocator as in the relay.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONTENT: [u8; 2048] = [b'x'; 2048];
const WRITERS: u64 = 2000;

fn settings(root: &Path, shard: usize) -> Settings {
    Settings {
        directory: root.join(format!("shard-{shard}")),
        number: u16::try_from(shard).unwrap(),
        segment_bytes: 64 << 20,
        stream_threshold: 256 << 10,
        content_bytes_max: 64 << 20,
        outcome_interval: Duration::from_millis(50),
    }
}

fn accepted(spool: &Spool, number: u64) -> Message<()> {
    let to = format!("recipient{number}@d{}.example.org", number % 5000);
    Message {
        id: spool.next_id(ring::wall_clock()),
        received_at: ring::wall_clock(),
        envelope: Envelope {
            reverse_path: Some(Address::new("sender@example.com")),
            recipients: vec![Recipient::plain(Address::new(to))],
        },
        options: Options::default(),
        prepended_headers: vec![b't'; 120],
        flags: ContentFlags::default(),
        content: (),
    }
}

async fn fill(root: PathBuf, shard: usize, messages: u64) {
    let (spool, _) = Spool::open(settings(&root, shard)).await.unwrap();
    let left = Rc::new(Cell::new(messages));
    let running = Rc::new(Cell::new(WRITERS));
    let done = ring::Signal::new();
    for _ in 0..WRITERS {
        let (spool, left) = (spool.clone(), Rc::clone(&left));
        let (running, done) = (Rc::clone(&running), done.clone());
        ring::spawn("writer", async move {
            while left.get() > 0 {
                left.set(left.get() - 1);
                let mut draft = spool.draft();
                draft.extend(&CONTENT).await.unwrap();
                let accepted = accepted(&spool, left.get());
                spool.store(accepted.with_content(draft)).await.unwrap();
            }
            running.set(running.get() - 1);
            if running.get() == 0 {
                done.set();
            }
        });
    }
    done.wait().await;
    spool.close().await;
}

/// Overwrites the last block of every segment, where the footer of an index is.
fn strip(root: &Path, shards: u64) {
    for shard in 0..shards {
        for entry in std::fs::read_dir(root.join(format!("shard-{shard}"))).unwrap() {
            let file = std::fs::File::options().write(true).open(entry.unwrap().path()).unwrap();
            let size = file.metadata().unwrap().len();
            file.write_all_at(&[0; 4096], size - 4096).unwrap();
            file.sync_all().unwrap();
        }
    }
}

/// A line of `/proc/self/status`, in MiB.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    found.trim().split(' ').next().unwrap().parse::<u64>().unwrap() >> 10
}

async fn start(root: PathBuf, shard: usize) {
    let begin = Instant::now();
    let (_spool, recovery) = Spool::open(settings(&root, shard)).await.unwrap();
    let opened = begin.elapsed();
    let retry = Retry {
        first: Duration::from_secs(300),
        factor: 2.0,
        max: Duration::from_secs(14_400),
        expire: Duration::from_secs(432_000),
        jitter: 0.1,
        delay_report: None,
    };
    let mut scheduler = Scheduler::new(retry, 7);
    let now = ring::wall_clock();
    let count = recovery.messages.len();
    let (segments, bytes_read) = (recovery.segments, recovery.bytes_read);
    for message in recovery.messages {
        let [one] = &message.recipients[..] else { panic!("each has one recipient") };
        let recipients = [AdmittedRecipient {
            domain: &one.domain,
            ended: one.ended,
            attempts: one.attempts,
            due: one.due.unwrap_or(now),
            reason: one.reason.clone(),
        }];
        let at = message.placement;
        let admission = Admission {
            id: message.id,
            placement: at,
            expires: message.received_at.plus(Duration::from_secs(432_000)),
            notice: None,
            priority: message.options.priority,
            tenant: &message.options.tenant,
            identity: IdentityId::default(),
            demands: Demands::default(),
            recipients: &recipients,
        };
        scheduler.admit(&admission, now);
    }
    println!(
        "shard {shard}: {count} messages, {segments} segments, {} MB read: opened after \
         {opened:?}, in the scheduler after {:?}",
        bytes_read >> 20,
        begin.elapsed()
    );
    // Wait until all shards are done and the allocator has released unused memory.
    ring::sleep(Duration::from_secs(3)).await;
    assert_eq!(scheduler.messages(), count);
    if shard == 0 {
        println!("memory: {} MiB, at its peak {} MiB", memory("VmRSS:"), memory("VmHWM:"));
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().filter(|one| one != "--bench").collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let number = |at: usize, otherwise: u64| -> u64 {
        words.get(at).map_or(otherwise, |text| text.parse().expect("a number"))
    };
    let (filling, root) = match words.get(..2) {
        Some(["fill", root]) => (true, PathBuf::from(root)),
        Some(["start", root]) => (false, PathBuf::from(root)),
        Some(["strip", root]) => return strip(Path::new(root), number(2, 2)),
        _ => return eprintln!("fill DIRECTORY MESSAGES [SHARDS] | start|strip DIRECTORY [SHARDS]"),
    };
    let messages = number(2, 1_000_000);
    let shards = number(if filling { 3 } else { 2 }, 2);
    let cpus: Vec<Option<usize>> = (0..shards as usize).map(Some).collect();
    let ring_settings = ring::Settings { depth: 256, preempt: Duration::from_millis(1) };
    let begin = Instant::now();
    let running = ring::start(&cpus, &ring_settings, move |shard| {
        let root = root.clone();
        async move {
            if filling {
                fill(root, shard, messages / shards).await;
            } else {
                start(root, shard).await;
            }
        }
    });
    running.unwrap().join().unwrap();
    if filling {
        println!("filled after {:?}", begin.elapsed());
    }
}
