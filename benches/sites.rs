//! The cost of a site that refuses connections at once: time, with 5,000 and with 100,000 such
//! sites, and memory while it backs off. Each is an address on loopback without a listener; offers,
//! credits and jobs pass as between the shards of a relay.
//!
//!     cargo bench --bench sites
//!
//! The time must be the same with 100,000 as with 5,000: no code goes through all sites.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringpost::config::{Config, Machine};
use ringpost::dns::Resolver;
use ringpost::message::{
    Address, Content, ContentFlags, Envelope, Message, Options, QueueId, Recipient, RouteKey,
};
use ringpost::pool::{AcrossShards, AddressCounts, Dispatch, Exchange, Job, Pool, SiteOutages};
use ringpost::ring;
use ringpost::route::Router;
use ringpost::tls::{Client, ClientFiles};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Anonymous memory of this process, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn message() -> Arc<Message> {
    Arc::new(Message {
        id: QueueId(1),
        received_at: ring::wall_clock(),
        envelope: Envelope {
            reverse_path: Some(Address::new("a@sender.test")),
            recipients: vec![Recipient::plain(Address::new("b@sink.test"))],
        },
        options: Options::default(),
        flags: ContentFlags::default(),
        prepended_headers: Vec::new(),
        content: Content::Whole(b"Subject: x\r\n\r\nx\r\n".to_vec()),
    })
}

/// All of `count` sites are offered, tried, and back off: how long that takes, and the memory of
/// each.
async fn refuse(count: u32, port: u16) -> (Duration, u64) {
    let text = format!(
        "cores = 1\n[route]\nport = {port}\n[pool]\nbackoff_first = \"1h\"\n\
                        backoff_max = \"1h\"\n"
    );
    let config = Arc::new(Config::read("bench", &text, &[], &Machine::this()).unwrap());
    let resolver = Resolver::new(config.dns.clone());
    let host_name = Arc::clone(&config.host_name);
    let router = Router::new(host_name, Vec::new(), config.route.clone(), resolver, 1);
    let (peer, _mailbox) = ring::mailbox(16);
    let exchange = Exchange::new(0, vec![peer]);
    let files = ClientFiles::new(&config.tls, &[]).unwrap();
    let client = Client::new(&config.tls, &files).unwrap();
    let addresses = AddressCounts::new(20);
    let across = AcrossShards { addresses, outages: SiteOutages::default() };
    let pool =
        Pool::new(config, client, None, router.clone(), std::rc::Rc::clone(&exchange), across);
    let message = message();
    let before = memory();
    let began = Instant::now();
    for number in 0..count {
        let [_, a, b, c] = number.to_be_bytes();
        let key = RouteKey::of_domain(&format!("[127.{}.{b}.{c}]", a + 1));
        let (site, _) = router.site(&key).await.unwrap();
        pool.offered(0, site);
        if number % 64 == 63 {
            ring::yield_now().await;
        }
    }
    let mut refused = 0;
    let mut handled = 0_u32;
    while refused < count {
        match exchange.next_to_self().await {
            Dispatch::Credit { site, .. } => pool.accept(Box::new(Job {
                origin: 0,
                slot: 0,
                site,
                message: Arc::clone(&message),
                recipients: vec![0],
                untried: true,
            })),
            Dispatch::Done(done) => refused += done.outcomes.len() as u32,
            _ => {}
        }
        handled += 1;
        if handled.is_multiple_of(64) {
            ring::yield_now().await;
        }
    }
    (began.elapsed(), memory().saturating_sub(before) / u64::from(count))
}

fn run(count: u32) -> (Duration, u64) {
    // A port without a listener: chosen by the kernel and released again.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = ring::Settings { depth: 256, preempt: Duration::from_millis(1) };
    let (tell, told) = mpsc::channel();
    let shards = ring::start(&[None], &settings, move |_| {
        let tell = tell.clone();
        async move {
            let _ = tell.send(refuse(count, port).await);
        }
    });
    shards.unwrap().join().unwrap();
    told.recv().unwrap()
}

fn sites(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sites that refuse");
    group.sample_size(10);
    for count in [5_000, 100_000] {
        group.throughput(Throughput::Elements(u64::from(count)));
        let (mut bytes, mut fastest) = (0, Duration::MAX);
        group.bench_function(BenchmarkId::from_parameter(count), |bench| {
            bench.iter_custom(|times| {
                (0..times)
                    .map(|_| {
                        let (took, each) = run(count);
                        bytes = bytes.max(each);
                        fastest = fastest.min(took / count);
                        took
                    })
                    .sum()
            });
        });
        println!("{count} sites that back off: {bytes} bytes each, {fastest:?} at best");
    }
    group.finish();
}

criterion_group!(benches, sites);
criterion_main!(benches);
