//! One whole shard, as it is, on a simulated disk and network, from a seed: listener, session,
//! intake, spool, scheduler, route, resolver, pool and delivery.
//!
//! One history is some lives of a relay, each on the disk that the one before left. In each there
//! are clients that send mail and may vanish at any byte, a name server, and a next hop that may
//! hang up, reset, be silent or refuse at any stage. A life ends by a kill or a power failure, the
//! last one by a stop, some time after all faults have ended. It is checked that
//!
//! 1. each recipient of a message whose client has the 250 ends: it is delivered, or reported after
//!    a next hop has refused it; soon after the faults have ended none is left;
//! 2. what was refused, and what was not sent to its end, is never delivered;
//! 3. the content arrives byte for byte, below the Received field;
//! 4. what the relay knows to be delivered is not delivered again, unless it crashes so soon that
//!    it could not note it;
//! 5. after a stop in good order the spool is empty, and no socket is open.
//!
//! ```text
//! RINGPOST_SIM_SEED=17 cargo test --lib shard::simulator      replays one history
//! RINGPOST_SIM_SEEDS=2000 cargo test ...                      so many fresh ones as well
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod client;
mod next_hop;
mod truth;

use super::{FailedSpools, Plan, Request, run};
use crate::config::{Config, Machine};
use crate::dns::fake::{Zone, a, mx};
use crate::dns::simulator::name_server::{self, NameServer};
use crate::event::EventLog;
use crate::pool::{AcrossShards, AddressCounts, SiteOutages};
use crate::quota::Quotas;
use crate::ring::simulation::disk::Disk;
use crate::ring::simulation::{self, Link, Reach, SELF, SELF_IPV4, Simulation, Trace};
use crate::ring::{self, Semaphore, Sender, disk};
use crate::spool::Spool;
use crate::tls::ClientFiles;
use client::Client;
use next_hop::{Faults, NextHop};
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use truth::Truth;

/// Seeds that are run each time.
const SEEDS: u64 = 20;
/// Messages of each client, in each life.
const MESSAGES: u64 = 8;
/// All mail is delivered so long after the faults have ended: the longest retry and back-off, and
/// the longest time-out of a connection that a silent host still holds.
const ALL_IS_DELIVERED_WITHIN: Duration = Duration::from_secs(3600);
/// Outcomes are durable after `spool.outcome_interval` (50 ms) and a commit.
const NOTED_WITHIN_US: u64 = 100_000;
/// A life that ends in a crash does not last longer.
const CRASH_WITHIN_US: u64 = 500_000_000;
/// Longest operation of the disk.
const DISK_LATENCY_US: u64 = 3_000;
/// Polls and turns of the clock that one life may take.
const STEPS_MAX: u64 = 10_000_000;
/// A start takes no longer.
const STARTS_WITHIN: Duration = Duration::from_secs(2);
/// A stop takes no longer.
const STOPS_WITHIN: Duration = Duration::from_secs(120);

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));
const NEXT_HOP: SocketAddr =
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 25)), 25);
const NAME_SERVER: SocketAddr =
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 53)), 53);
const DOMAINS: [&str; 2] = ["one.test", "two.test"];

const CONFIG: &str = r#"
cores = 1
[[listener]]
address = "192.0.2.1:25"
[access]
relay_networks = ["198.51.100.0/24"]
[spool]
directory = "/spool"
[retry]
first = "1m"
max = "5m"
[pool]
backoff_max = "5m"
[route]
tls = "off"
"#;

fn config() -> Config {
    let machine =
        Machine { host_name: "relay.test".into(), cpus: vec![0], dns_servers: vec![NAME_SERVER] };
    let mut config = Config::read("test", CONFIG, &[], &machine).unwrap();
    config.spool.segment_bytes = 256 * 1024;
    config.spool.stream_threshold = 8 * 1024;
    config
}

fn zone() -> Zone {
    let mut zone = Zone::new().with("hop.test", a("203.0.113.25"));
    for domain in DOMAINS.iter().chain(&["sender.test"]) {
        zone = zone.with(domain, mx(10, "hop.test"));
    }
    zone
}

type Ready = crossbeam_channel::Receiver<Result<super::Ready, String>>;

/// What one seed makes of network, clients and servers.
struct World {
    truth: Rc<Truth>,
    next_hop: Rc<NextHop>,
    name_server: Rc<NameServer>,
    /// The numbers of the hosts.
    hosts: Vec<usize>,
    clients: u64,
    first_message: u64,
    is_last: bool,
    seed: u64,
}

/// A share that is 0 in most seeds.
fn share(random: &mut fastrand::Rng, most: f64) -> f64 {
    if random.u32(..3) == 0 { random.f64() * most } else { 0.0 }
}

fn link(random: &mut fastrand::Rng) -> Link {
    let fastest = random.u64(..20_000);
    Link {
        latency_us: (fastest, fastest + random.u64(..50_000)),
        piece_max: random.usize(1..2000),
        window: random.usize(100..20_000),
        lost: share(random, 0.5),
        lost_within: [300, 3000, 30_000][random.usize(..3)],
        datagrams_lost: share(random, 0.5),
        datagrams_doubled: share(random, 0.5),
        ..Link::default()
    }
}

impl World {
    fn new(seed: u64, simulation: &Simulation, life: &Life) -> Rc<World> {
        let random = &mut fastrand::Rng::with_seed(seed);
        let hosts = [CLIENT, NEXT_HOP.ip(), NAME_SERVER.ip()]
            .map(|address| simulation.net().add_host(&[address], link(random)));
        let truth = Rc::clone(&life.truth);
        let next_hop = Rc::new(NextHop {
            address: NEXT_HOP,
            truth: Rc::clone(&truth),
            faults: Faults {
                hang_up: share(random, 0.2),
                reset: share(random, 0.2),
                silence: share(random, 0.05),
                close_with_421: share(random, 0.2),
                defer: share(random, 0.3),
                refuse: share(random, 0.3),
                forget_to_reply: share(random, 0.1),
            }
            .into(),
            random: fastrand::Rng::with_seed(random.u64(..)).into(),
            faulty: Default::default(),
            taken: Default::default(),
        });
        let faults = name_server::Faults {
            failed: share(random, 0.5),
            truncated: share(random, 0.5),
            slow: share(random, 0.5),
            ..name_server::Faults::default()
        };
        let name_server = NameServer::new(NAME_SERVER, zone(), faults, random.u64(..));
        simulation.spawn_on(hosts[1], Rc::clone(&next_hop).serve());
        simulation.spawn_on(hosts[2], Rc::clone(&name_server).serve());
        let (hosts, clients) = (hosts.into(), random.u64(1..5));
        let (first_message, is_last) = (life.number * 1_000_000, life.is_last);
        let world =
            World { truth, next_hop, name_server, hosts, clients, first_message, is_last, seed };
        Rc::new(world)
    }

    async fn run(self: Rc<Self>) {
        let config = Arc::new(config());
        let (requests, ended, ready) = start(&config);
        ring::sleep(STARTS_WITHIN).await;
        let ready = ready.try_recv().expect("the shard does not start");
        assert!(ready.is_ok(), "the shard does not start: {ready:?}");
        self.send_all().await;
        if !self.is_last {
            // Until the crash.
            std::future::pending::<()>().await;
        }
        self.end_faults();
        let until = ring::now() + ALL_IS_DELIVERED_WITHIN;
        while let Some(owed) = self.truth.owed() {
            assert!(ring::now() < until, "not delivered: {owed}");
            ring::sleep(Duration::from_secs(60)).await;
        }
        // Reports, and what is in doubt, follow.
        ring::sleep(ALL_IS_DELIVERED_WITHIN).await;
        assert!(requests.try_send(Request::Stop).is_ok());
        let stopped = futures_lite::future::or(
            async {
                ended.idle().await;
                true
            },
            async {
                ring::sleep(STOPS_WITHIN).await;
                false
            },
        );
        assert!(stopped.await, "the shard does not stop");
        let left = Spool::inspect(Path::new("/spool/shard-0")).unwrap();
        assert_eq!(left.messages.len(), 0, "something is left in the spool");
        let simulation = simulation::current().unwrap();
        // The listener ends with the tasks of the shard.
        assert_eq!(simulation.net().descriptors(SELF), 1, "a socket has stayed open");
    }

    /// Clients send their mail.
    async fn send_all(&self) {
        let clients = Semaphore::new(self.clients as usize);
        let simulation = simulation::current().unwrap();
        for number in 0..self.clients {
            let permit = clients.try_acquire().unwrap();
            let mut random = fastrand::Rng::with_seed(self.seed ^ ((number + 1) << 40));
            let client = Client {
                relay: SocketAddr::new(SELF_IPV4, 25),
                truth: Rc::clone(&self.truth),
                next: self.first_message + number * 1000,
                gives_up: share(&mut random, 0.4),
                domains: &DOMAINS,
                random,
            };
            simulation.spawn_on(self.hosts[0], async move {
                client.send(MESSAGES).await;
                drop(permit);
            });
        }
        drop(simulation);
        // Meanwhile the next hop is away for a time.
        let random = &mut fastrand::Rng::with_seed(!self.seed);
        let reach = [Reach::Open, Reach::Silent, Reach::Unreachable][random.usize(..3)];
        ring::sleep(Duration::from_secs(random.u64(..200))).await;
        self.set_reach(reach);
        ring::sleep(Duration::from_secs(random.u64(..600))).await;
        self.set_reach(Reach::Open);
        clients.idle().await;
    }

    fn set_reach(&self, reach: Reach) {
        let simulation = simulation::current().unwrap();
        simulation.net().change_link(self.hosts[1], |link| link.reach = reach);
    }

    fn end_faults(&self) {
        let simulation = simulation::current().unwrap();
        for host in &self.hosts {
            simulation.net().change_link(*host, |link| *link = Link::default());
        }
        *self.next_hop.faults.borrow_mut() = Faults::default();
        *self.name_server.faults.borrow_mut() = name_server::Faults::default();
    }
}

/// Starts the shard; where to ask it to stop, what is idle at its end, and whether it serves.
fn start(config: &Arc<Config>) -> (Sender<Request>, Semaphore, Ready) {
    if !disk::exists(Path::new("/spool")) {
        // Durable, as the lock of the spool makes it.
        disk::create_dir("/spool").unwrap();
        disk::File::open("/").unwrap().sync_all().unwrap();
    }
    let (peer, mailbox) = ring::mailbox(1024);
    let (requests, asked) = ring::mailbox(16);
    let (ready, begun) = crossbeam_channel::bounded(1);
    let ended = Semaphore::new(1);
    let permit = ended.try_acquire().unwrap();
    let plan = Plan {
        index: 0,
        config: Arc::clone(config),
        core: config.cores[0].clone(),
        listen: config.listeners.clone(),
        server: None,
        authenticator: None,
        logins: None,
        client_files: ClientFiles::new(&config.tls, &[]).unwrap(),
        quotas: Arc::new(Quotas::new(1)),
        orphans: Vec::new(),
        peers: vec![peer],
        across: AcrossShards {
            addresses: AddressCounts::new(config.pool.connections_per_site),
            outages: SiteOutages::default(),
        },
        failed_spools: FailedSpools::default(),
        mailbox,
        requests: asked,
        events: EventLog::off(),
        ready,
    };
    simulation::spawn(async move {
        run(plan).await;
        drop(permit);
    });
    (requests, ended, begun)
}

/// One life of the relay, as far as the world has to know.
struct Life {
    truth: Rc<Truth>,
    number: u64,
    is_last: bool,
}

/// What one seed makes of everything.
struct History {
    random: fastrand::Rng,
    truth: Rc<Truth>,
    now_us: u64,
    traces: Vec<Trace>,
    /// Messages that next hops took, and their faults.
    taken: u64,
    faulty: u64,
}

impl History {
    fn new(seed: u64) -> History {
        History {
            random: fastrand::Rng::with_seed(seed),
            truth: Rc::default(),
            now_us: 0,
            traces: Vec::new(),
            taken: 0,
            faulty: 0,
        }
    }

    fn run(&mut self) {
        let mut disk = Disk::new(self.random.u64(..));
        let lives = [1, 1, 2, 4][self.random.usize(..4)];
        for number in 0..lives {
            let truth = Rc::clone(&self.truth);
            disk = self.life(disk, &Life { truth, number, is_last: number + 1 == lives });
        }
    }

    /// One life on `disk`: the disk that it leaves to the next.
    fn life(&mut self, mut disk: Disk, life: &Life) -> Disk {
        let (mut crash_at, mut power_until) = (u64::MAX, u64::MAX);
        if !life.is_last {
            crash_at = self.now_us + self.random.u64(..CRASH_WITHIN_US);
            // Not while the folder of the spool is made, which is not the shard's work.
            power_until = [u64::MAX, self.random.u64(5..300)][self.random.usize(..2)];
        }
        disk.power_until = power_until;
        let simulation = Simulation::new(self.random.u64(..), disk, self.now_us, DISK_LATENCY_US);
        let world = simulation.enter(|| World::new(self.random.u64(..), &simulation, life));
        let over = Rc::new(Cell::new(false));
        let (ends, running) = (Rc::clone(&over), Rc::clone(&world));
        simulation.spawn_on(SELF, async move {
            running.run().await;
            ends.set(true);
        });
        for step in 0.. {
            assert!(step < STEPS_MAX, "a life has no end");
            let is_dead = simulation.disk.borrow().is_dead();
            if over.get() || is_dead || simulation.now_us() >= crash_at {
                break;
            }
            assert!(simulation.step(), "nothing happens any more");
        }
        let crashed_at = simulation.now_us();
        self.now_us = crashed_at + self.random.u64(2_000..60_000_000);
        self.traces.push(simulation.net().trace());
        simulation.end();
        self.taken += world.next_hop.taken.get();
        self.faulty += world.next_hop.faulty.get();
        self.truth.crashed(crashed_at, crashed_at.saturating_sub(NOTED_WITHIN_US));
        let disk = simulation.disk.borrow_mut().take_failed().unwrap();
        match self.random.u32(..4) {
            0 => disk.after_kill(),
            _ => disk.after_power_failure(self.random.u64(..)),
        }
    }
}

fn run_seed(seed: u64) -> History {
    let mut history = History::new(seed);
    let kept = simulation::run_watched(|| history.run());
    assert!(kept.is_ok(), "the history of seed {seed} failed");
    history
}

#[test]
fn every_acknowledged_recipient_ends_whatever_clients_next_hops_and_the_power_do() {
    let seeds = simulation::seeds(0..SEEDS);
    let (mut sums, mut crashes) = ([0; 8], 0);
    for &seed in &seeds {
        let history = run_seed(seed);
        crashes += history.traces.len() - 1;
        let more = [history.taken as usize, history.faulty as usize];
        let figures = history.truth.figures().into_iter().chain(more);
        sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
    }
    let names = [
        "acknowledged",
        "in doubt",
        "refused",
        "never sent",
        "delivered twice",
        "reported",
        "taken",
        "faults of the next hop",
    ];
    let sums: Vec<_> = names.into_iter().zip(sums).collect();
    println!("{} histories, {crashes} crashes: {sums:?}", seeds.len());
    for (name, sum) in sums.iter().filter(|(name, _)| *name != "refused") {
        assert!(*sum > 0 || seeds.len() == 1, "never: {name}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    let runs = || (0..4).map(|seed| run_seed(seed).traces).collect::<Vec<_>>();
    assert_eq!(runs(), runs());
}
