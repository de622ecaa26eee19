//! The spool's speed: messages made durable per second by 1, 16, 128 and 1024 concurrent writers on
//! one shard, and how fast a start reads live messages. (Encoding is included; it costs much less
//! than a sync.) `TMPDIR` chooses the disk.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::message::{
    Address, ContentFlags, Envelope, Message, Options, Recipient, RecipientStatus,
};
use ringpost::ring;
use ringpost::spool::{Settings, Spool};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

const CONTENT: [u8; 2048] = [b'x'; 2048];

fn settings(folder: &Path) -> Settings {
    Settings {
        directory: folder.to_owned(),
        number: 0,
        segment_bytes: 64 << 20,
        stream_threshold: 256 << 10,
        content_bytes_max: 64 << 20,
        outcome_interval: Duration::from_millis(50),
    }
}

fn accepted(spool: &Spool) -> Message<()> {
    let recipient = Recipient::plain(Address::new("recipient@example.org"));
    Message {
        id: spool.next_id(ring::wall_clock()),
        received_at: ring::wall_clock(),
        envelope: Envelope {
            reverse_path: Some(Address::new("sender@example.com")),
            recipients: vec![recipient],
        },
        options: Options::default(),
        prepended_headers: vec![b't'; 120],
        flags: ContentFlags::default(),
        content: (),
    }
}

/// Stores `count` messages by `writers` tasks, and records their end; returns how long it took.
async fn run(spool: &Spool, writers: u64, count: u64) -> Duration {
    let left = Rc::new(Cell::new(count));
    let running = Rc::new(Cell::new(writers));
    let done = ring::Signal::new();
    let start = Instant::now();
    for _ in 0..writers {
        let (spool, left, running, done) =
            (spool.clone(), Rc::clone(&left), Rc::clone(&running), done.clone());
        ring::spawn("writer", async move {
            while left.get() > 0 {
                left.set(left.get() - 1);
                let mut draft = spool.draft();
                draft.extend(&CONTENT).await.unwrap();
                let accepted = accepted(&spool);
                let id = accepted.id;
                let (placement, _) = spool.store(accepted.with_content(draft)).await.unwrap();
                spool.begun(id, &[0]);
                spool.settle(id, 0, &RecipientStatus::Delivered);
                spool.dead(id, placement);
            }
            running.set(running.get() - 1);
            if running.get() == 0 {
                done.set();
            }
        });
    }
    done.wait().await;
    start.elapsed()
}

/// Starts a shard with a spool, and passes a function that runs the benchmark on it.
fn with_shard(ask_it: impl FnOnce(&dyn Fn(u64, u64) -> Duration)) {
    let (ask, asked) = mpsc::channel::<(u64, u64)>();
    let (answer, answers) = mpsc::channel();
    let asked = Arc::new(Mutex::new(asked));
    let ring_settings = ring::Settings { depth: 256, preempt: Duration::from_millis(1) };
    let shards = ring::start(&[None], &ring_settings, move |_| {
        let (asked, answer) = (Arc::clone(&asked), answer.clone());
        async move {
            let folder = tempfile::tempdir().unwrap();
            let (spool, _) = Spool::open(settings(folder.path())).await.unwrap();
            // The first segment is being filled with zeros: measure only after that.
            ring::sleep(Duration::from_secs(2)).await;
            loop {
                let next = asked.lock().unwrap().try_recv();
                match next {
                    Ok((writers, count)) => {
                        answer.send(run(&spool, writers, count).await).unwrap();
                    }
                    Err(mpsc::TryRecvError::Empty) => ring::sleep(Duration::from_millis(1)).await,
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
        }
    })
    .unwrap();
    ask_it(&|writers, count| {
        ask.send((writers, count)).unwrap();
        answers.recv().unwrap()
    });
    drop(ask);
    shards.join().unwrap();
}

fn durable(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("spool/durable");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    with_shard(|on_shard| {
        for writers in [1, 16, 128, 1024] {
            group.bench_function(format!("{writers} writers"), |bencher| {
                bencher.iter_custom(|count| on_shard(writers, count));
            });
        }
    });
    group.finish();
}

/// A start with 20 000 live messages.
fn recovery(criterion: &mut Criterion) {
    const MESSAGES: u64 = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let ring_settings = ring::Settings { depth: 256, preempt: Duration::from_millis(1) };
    ring::start(&[None], &ring_settings, move |_| {
        let path = path.clone();
        async move {
            let (spool, _) = Spool::open(settings(&path)).await.unwrap();
            let stored = Rc::new(Cell::new(0));
            for _ in 0..MESSAGES {
                let (spool, stored) = (spool.clone(), Rc::clone(&stored));
                ring::spawn("writer", async move {
                    let mut draft = spool.draft();
                    draft.extend(&CONTENT).await.unwrap();
                    spool.store(accepted(&spool).with_content(draft)).await.unwrap();
                    stored.set(stored.get() + 1);
                });
            }
            while stored.get() < MESSAGES {
                ring::sleep(Duration::from_millis(5)).await;
            }
        }
    })
    .unwrap()
    .join()
    .unwrap();
    let mut group = criterion.benchmark_group("spool/recovery");
    group.throughput(Throughput::Elements(MESSAGES)).sample_size(10);
    group.bench_function("messages", |bencher| {
        bencher.iter(|| {
            let recovery = Spool::inspect(folder.path()).unwrap();
            assert_eq!(recovery.messages.len() as u64, MESSAGES);
        });
    });
    group.finish();
}

criterion_group!(benches, durable, recovery);
criterion_main!(benches);
