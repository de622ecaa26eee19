//! The resolver as it is, on a simulated network, beside name servers that are slow, silent, wrong
//! or beset by forgers, from a seed.
//!
//! One run is some servers and some callers that look names up for a while; then the faults end. It
//! is checked that
//!
//! 1. an answer is what the zone says, whatever was forged, doubled, late or truncated;
//! 2. a name is called missing, or without such records, only if it is;
//! 3. a lookup fails only while something is wrong with the network or the servers;
//! 4. each ends within the time of all rounds over all servers;
//! 5. an answer is not cached for longer than its TTL;
//! 6. soon after the faults have ended, every name is found;
//! 7. no socket stays open.
//!
//! ```text
//! RINGPOST_SIM_SEED=17 cargo test --lib dns::simulator      replays one run
//! RINGPOST_SIM_SEEDS=2000 cargo test ...                    so many fresh ones as well
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub(crate) mod name_server;

use super::fake::{Zone, a, aaaa, cname, mx};
use super::{Answer, Failure, Mx, Resolver};
use crate::config;
use crate::limits;
use crate::ring::simulation::{self, Link, Reach, SELF, Simulation, Trace};
use crate::ring::{self, Semaphore};
use name_server::{Faults, NameServer};
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// Seeds that are run each time.
const SEEDS: u64 = 300;
/// Callers, and lookups of each.
const CALLERS: u64 = 4;
const LOOKUPS: u64 = 12;
/// The TTL of the records of `fake::Zone`.
const TTL: Duration = Duration::from_secs(300);
/// What a lookup may take beyond its time: pieces of the clock, and its own tasks.
const SLACK: Duration = Duration::from_millis(100);
const FAILURE_TTL: Duration = Duration::from_secs(5);

/// What is asked, and what the zone says.
const NAMES: [&str; 8] = [
    "plain.test",
    "two.test",
    "alias.test",
    "chain.test",
    "six.test",
    "none.test",
    "missing.test",
    "gone.alias.test",
];

fn zone() -> Zone {
    Zone::new()
        .with("plain.test", mx(10, "mx.plain.test"))
        .with("plain.test", a("198.51.100.1"))
        .with("two.test", mx(10, "mx1.two.test"))
        .with("two.test", mx(20, "mx2.two.test"))
        .with("two.test", a("198.51.100.2"))
        .with("two.test", aaaa("2001:db8::2"))
        .with("alias.test", cname("two.test"))
        .with("chain.test", cname("alias.test"))
        .with("six.test", aaaa("2001:db8::6"))
        .with("none.test", super::fake::ns("ns.test"))
        .with("gone.alias.test", cname("missing.test"))
}

fn expected_hosts(name: &str) -> Result<Vec<(u16, &'static str)>, Failure> {
    match name {
        "plain.test" => Ok(vec![(10, "mx.plain.test")]),
        "two.test" | "alias.test" | "chain.test" => {
            Ok(vec![(10, "mx1.two.test"), (20, "mx2.two.test")])
        }
        "six.test" | "none.test" => Err(Failure::NoData),
        _ => Err(Failure::NoSuchDomain),
    }
}

fn expected_addresses(name: &str) -> Result<Vec<&'static str>, Failure> {
    match name {
        "plain.test" => Ok(vec!["198.51.100.1"]),
        "two.test" | "alias.test" | "chain.test" => Ok(vec!["198.51.100.2", "2001:db8::2"]),
        "six.test" => Ok(vec!["2001:db8::6"]),
        "none.test" => Err(Failure::NoData),
        _ => Err(Failure::NoSuchDomain),
    }
}

/// What happened over all seeds, so that the test can tell whether anything was tested.
#[derive(Clone, Debug, Default)]
struct Seen {
    answers: Cell<u64>,
    missing: Cell<u64>,
    /// Only one of the two families of addresses was found.
    halves: Cell<u64>,
    timed_out: Cell<u64>,
    failed: Cell<u64>,
    forged: Cell<u64>,
    over_tcp: Cell<u64>,
    runs_without_faults: Cell<u64>,
}

fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

/// What one seed makes of network, servers and callers.
struct World {
    seed: u64,
    seen: Rc<Seen>,
    settings: config::Dns,
    servers: Vec<Rc<NameServer>>,
    /// The numbers of their hosts.
    hosts: Vec<usize>,
    /// Something may be wrong.
    faulty: Cell<bool>,
}

/// A share that is 0 in most seeds.
fn share(random: &mut fastrand::Rng) -> f64 {
    if random.u32(..3) == 0 { random.f64() * 0.7 } else { 0.0 }
}

fn link(random: &mut fastrand::Rng) -> Link {
    let fastest = random.u64(..5_000);
    Link {
        reach: match random.u32(..12) {
            0 => Reach::Silent,
            1 => Reach::Unreachable,
            _ => Reach::Open,
        },
        latency_us: (fastest, fastest + random.u64(..100_000)),
        piece_max: random.usize(1..100),
        window: random.usize(20..2000),
        lost: share(random),
        lost_within: 200,
        datagrams_lost: share(random),
        datagrams_doubled: share(random),
        datagrams_late: share(random),
        late_us: random.u64(..8_000_000),
        ..Link::default()
    }
}

impl World {
    fn new(seed: u64, seen: &Rc<Seen>, simulation: &Simulation) -> Rc<World> {
        let random = &mut fastrand::Rng::with_seed(seed);
        let is_perfect = random.u32(..8) == 0;
        let (mut servers, mut hosts) = (Vec::new(), Vec::new());
        for number in 0..random.u8(1..4) {
            let ip: IpAddr = [203, 0, 113, 10 + number].into();
            let (mut link, mut faults) = (
                link(random),
                Faults {
                    failed: share(random),
                    truncated: share(random),
                    forged: share(random),
                    hung_up: share(random),
                    slow: share(random),
                },
            );
            if is_perfect {
                (link, faults) = (Link::default(), Faults::default());
            }
            let host = simulation.net().add_host(&[ip], link);
            let address = SocketAddr::new(ip, 53);
            let server = NameServer::new(address, zone(), faults, random.u64(..));
            simulation.spawn_on(host, Rc::clone(&server).serve());
            servers.push(server);
            hosts.push(host);
        }
        let settings = config::Dns {
            servers: servers.iter().map(|server| server.address).collect(),
            timeout: Duration::from_millis(random.u64(300..5000)),
            attempts: random.u32(1..4),
            cache_entries_max: 100,
            ttl_max: Duration::from_secs(3600),
            failure_ttl: FAILURE_TTL,
        };
        if is_perfect {
            count(&seen.runs_without_faults);
        }
        let seen = Rc::clone(seen);
        let faulty = Cell::new(!is_perfect);
        Rc::new(World { seed, seen, settings, servers, hosts, faulty })
    }

    /// How long a lookup may take.
    fn time_max(&self) -> Duration {
        let rounds = self.settings.attempts * self.servers.len() as u32;
        (self.settings.timeout * rounds).min(Duration::from_secs(limits::DNS_LOOKUP_SECONDS_MAX))
    }

    async fn run(self: Rc<Self>) {
        // The servers listen when this goes on.
        ring::sleep(Duration::from_millis(1)).await;
        let resolver = Resolver::new(self.settings.clone());
        let callers = Semaphore::new(CALLERS as usize);
        for caller in 0..CALLERS {
            let permit = callers.try_acquire().unwrap();
            let (world, resolver) = (Rc::clone(&self), resolver.clone());
            let mut random = fastrand::Rng::with_seed(self.seed ^ (caller << 32));
            simulation::spawn(async move {
                for _ in 0..LOOKUPS {
                    let pause = [10, 1_000, 400_000][random.usize(..3)];
                    ring::sleep(Duration::from_millis(random.u64(..pause))).await;
                    world.look_up(&resolver, NAMES[random.usize(..NAMES.len())]).await;
                }
                drop(permit);
            });
        }
        callers.idle().await;
        self.end_faults();
        // What is still late arrives, failures leave the cache, and servers that rest are asked.
        let rest = Duration::from_secs(limits::DNS_SERVER_REST_SECONDS);
        ring::sleep(self.time_max() + rest + FAILURE_TTL).await;
        for name in NAMES {
            self.look_up(&resolver, name).await;
        }
        ring::sleep(self.time_max() + rest).await;
        let simulation = simulation::current().unwrap();
        assert_eq!(simulation.net().descriptors(SELF), 0, "a socket has stayed open");
        for server in &self.servers {
            self.seen.forged.set(self.seen.forged.get() + server.forged.get());
            self.seen.over_tcp.set(self.seen.over_tcp.get() + server.asked[1].get());
        }
    }

    fn end_faults(&self) {
        let simulation = simulation::current().unwrap();
        for (host, server) in self.hosts.iter().zip(&self.servers) {
            simulation.net().change_link(*host, |link| *link = Link::default());
            *server.faults.borrow_mut() = Faults::default();
        }
        self.faulty.set(false);
    }

    /// Looks `name` up, and checks the answer.
    async fn look_up(&self, resolver: &Resolver, name: &str) {
        let faulty = self.faulty.get();
        let begun = ring::now();
        let hosts = resolver.mx(name).await;
        let between = ring::now();
        let addresses = resolver.addresses(name).await;
        for took in [between - begun, ring::now() - between] {
            assert!(took <= self.time_max() + SLACK, "{name}: {took:?}");
        }
        let hosts = hosts.map(|answer| {
            self.check_age(answer.valid_until.since(ring::wall_clock()));
            sorted_hosts(&answer)
        });
        let expected = expected_hosts(name);
        let expected =
            expected.map(|all| all.iter().map(|(n, host)| format!("{n} {host}")).collect());
        self.check(name, faulty, hosts, expected);

        let found = addresses.map(|answer| {
            self.check_age(answer.valid_until.since(ring::wall_clock()));
            answer.records.iter().map(IpAddr::to_string).collect::<Vec<_>>()
        });
        let expected: Result<Vec<String>, _> =
            expected_addresses(name).map(|all| all.iter().map(ToString::to_string).collect());
        match (&found, &expected) {
            // Where one of the two lookups fails, the other's answer is taken.
            (Ok(half), Ok(all)) if faulty && half.len() < all.len() => {
                assert!(half.iter().all(|one| all.contains(one)), "{name}: {half:?}");
                count(&self.seen.halves);
            }
            _ => self.check(name, faulty, found, expected),
        }
    }

    fn check_age(&self, left: Duration) {
        assert!(left <= TTL, "cached for {left:?}");
    }

    fn check(
        &self,
        name: &str,
        faulty: bool,
        found: Result<Vec<String>, Failure>,
        expected: Result<Vec<String>, Failure>,
    ) {
        match &found {
            Ok(_) => count(&self.seen.answers),
            Err(Failure::NoData | Failure::NoSuchDomain) => count(&self.seen.missing),
            Err(Failure::TimedOut) if faulty => return count(&self.seen.timed_out),
            Err(Failure::ServerFailed(_)) if faulty => return count(&self.seen.failed),
            Err(_) => {}
        }
        assert_eq!(found, expected, "{name}");
    }
}

fn sorted_hosts(answer: &Answer<Mx>) -> Vec<String> {
    let mut hosts: Vec<String> =
        answer.records.iter().map(|mx| format!("{} {}", mx.preference, mx.host)).collect();
    hosts.sort();
    hosts
}

fn run(seed: u64, seen: &Rc<Seen>) -> Trace {
    let place: Rc<std::cell::OnceCell<Rc<World>>> = Rc::default();
    let set_up = |simulation: &Simulation| {
        let _ = place.set(World::new(seed, seen, simulation));
    };
    let world = Rc::clone(&place);
    simulation::run(seed, set_up, async move {
        let world = Rc::clone(world.get().unwrap());
        world.run().await;
    })
}

#[test]
fn whatever_the_network_does_a_name_is_found_as_it_is_or_not_at_all() {
    let seen = Rc::<Seen>::default();
    let seeds = simulation::seeds(0..SEEDS);
    for &seed in &seeds {
        run(seed, &seen);
    }
    println!("{} runs: {seen:?}", seeds.len());
    if seeds.len() == 1 {
        return;
    }
    for (what, count) in [
        ("answers", &seen.answers),
        ("missing", &seen.missing),
        ("halves", &seen.halves),
        ("timed out", &seen.timed_out),
        ("failed", &seen.failed),
        ("forged", &seen.forged),
        ("over TCP", &seen.over_tcp),
        ("runs without faults", &seen.runs_without_faults),
    ] {
        assert!(count.get() > 10, "too seldom: {what}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    let seen = Rc::<Seen>::default();
    let runs = || (0..20).map(|seed| run(seed, &seen)).collect::<Vec<_>>();
    assert_eq!(runs(), runs());
}
