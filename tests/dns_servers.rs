//! The resolver and the router against name servers that this project did not write: nsd, which
//! knows the zones in `tests/interop/dns`, and unbound, which resolves and validates through it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ringpost::config::{Dns, Route, TransportPolicy};
use ringpost::dns::{Failure, Resolver};
use ringpost::message::{Outcome, RouteKey};
use ringpost::ring;
use ringpost::route::Router;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/dns/servers.py");

/// Both servers; they end when it is dropped, or with this process.
struct Servers {
    script: Child,
    nsd: SocketAddr,
    unbound: SocketAddr,
}

impl Servers {
    fn start() -> Servers {
        let mut script = Command::new("python3")
            .arg(SCRIPT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut line = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = |name: &str| {
            let word = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            word.unwrap_or_else(|| panic!("servers.py said {line:?}")).parse().unwrap()
        };
        let (nsd, unbound) = (port("nsd="), port("unbound="));
        Servers { script, nsd, unbound }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // The end of its input tells the script to end the servers.
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

fn settings(servers: &[SocketAddr]) -> Dns {
    Dns {
        servers: servers.to_vec(),
        timeout: Duration::from_secs(2),
        attempts: 2,
        cache_entries_max: 1000,
        ttl_max: Duration::from_secs(3600),
        failure_ttl: Duration::from_secs(5),
    }
}

/// Runs one shard with a resolver that asks `servers`.
fn with_servers<Fut: Future<Output = ()> + 'static>(
    servers: &[SocketAddr],
    body: impl Fn(Resolver) -> Fut + Send + Clone + 'static,
) {
    let settings = settings(servers);
    let driver = ring::Settings { depth: 128, preempt: Duration::from_millis(1) };
    let shards =
        ring::start(&[None], &driver, move |_| body(Resolver::new(settings.clone()))).unwrap();
    shards.join().unwrap();
}

/// `10 mx1.mail.test, 20 mx2.mail.test`, or the failure.
async fn mx(resolver: &Resolver, domain: &str) -> String {
    match resolver.mx(domain).await {
        Ok(answer) => {
            let mut shown: Vec<String> =
                answer.records.iter().map(|mx| format!("{} {}", mx.preference, mx.host)).collect();
            shown.sort();
            shown.join(", ")
        }
        Err(failure) => format!("{failure:?}"),
    }
}

/// The key of the site, or `Refused 5.1.2`.
async fn site(router: &Router, domain: &str) -> String {
    match router.site(&RouteKey::of_domain(domain)).await {
        Ok((site, _)) => site.key.to_string(),
        Err(Outcome::Refused(reason)) => format!("Refused {}", reason.status),
        Err(Outcome::Deferred(reason)) => format!("Deferred {}", reason.status),
        Err(Outcome::Delivered(reason)) => panic!("{reason}"),
    }
}

fn router(resolver: Resolver) -> Router {
    let policy = TransportPolicy::ORDINARY;
    let route = Route {
        smart_host: None,
        rules: Vec::new(),
        port: 25,
        policy,
        logins: Vec::new(),
        certificates: Vec::new(),
    };
    Router::new("relay.mail.test".into(), Vec::new(), route, resolver, 1)
}

#[test]
#[ignore = "needs nsd, unbound and python3; .ci/run installs them and runs it"]
fn the_resolver_understands_nsd_and_unbound() {
    let servers = Servers::start();
    for server in [servers.nsd, servers.unbound] {
        with_servers(&[server], move |resolver| async move {
            for (domain, expected) in [
                ("two.mail.test", "10 mx1.mail.test, 20 mx2.mail.test"),
                ("rotated.mail.test", "10 mx1.mail.test, 20 mx2.mail.test"),
                ("a.wild.mail.test", "10 mx1.mail.test"),
                ("null.mail.test", "0 "),
                ("alias.mail.test", "10 mx1.mail.test, 20 mx2.mail.test"),
                ("far.mail.test", "10 mx1.mail.test"),
                ("implicit.mail.test", "NoData"),
                ("nothing-here.mail.test", "NoSuchDomain"),
                ("gone.mail.test", "NoSuchDomain"),
            ] {
                assert_eq!(mx(&resolver, domain).await, expected, "{domain} at {server}");
            }
            // More than a datagram holds: over TCP.
            let big = resolver.mx("big.test").await.unwrap();
            assert_eq!(big.records.len(), 60, "at {server}");
            let left = big.valid_until.since(ring::wall_clock());
            assert!(left > Duration::from_secs(290) && left <= Duration::from_secs(300));
            let both = resolver.addresses("mx1.mail.test").await.unwrap();
            assert_eq!(both.records.len(), 2, "at {server}");
            let circle = resolver.mx("circle.mail.test").await;
            assert!(matches!(circle, Err(Failure::ServerFailed(_))), "{circle:?} at {server}");
        });
    }
}

#[test]
#[ignore = "needs nsd, unbound and python3; .ci/run installs them and runs it"]
fn failures_of_real_servers_say_why() {
    let servers = Servers::start();
    let (nsd, unbound) = (servers.nsd, servers.unbound);
    with_servers(&[unbound], move |resolver| async move {
        for zone in ["bogus.test", "lame.test"] {
            let failure = mx(&resolver, zone).await;
            let expected = format!("DNS server {unbound} answered SERVFAIL");
            assert!(failure.contains(&expected), "{failure}");
            assert!(failure.contains(&format!("for MX {zone}")), "{failure}");
        }
        // unbound goes on trying for longer than any client waits.
        assert_eq!(mx(&resolver, "dead.test").await, "TimedOut");
        let bogus = mx(&resolver, "bogus.test").await;
        assert!(bogus.contains("DNSSEC") || bogus.contains("DNSKEY"), "{bogus}");
    });
    with_servers(&[nsd], move |resolver| async move {
        let failure = mx(&resolver, "unknown.example").await;
        assert!(failure.contains(&format!("DNS server {nsd} answered REFUSED")), "{failure}");
    });
}

#[test]
#[ignore = "needs nsd, unbound and python3; .ci/run installs them and runs it"]
fn a_dead_server_in_front_is_asked_once() {
    let servers = Servers::start();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let (dead, silent) = (silent.local_addr().unwrap(), Arc::new(silent));
    with_servers(&[dead, servers.unbound], move |resolver| {
        let silent = Arc::clone(&silent);
        async move {
            assert_eq!(mx(&resolver, "a.wild.mail.test").await, "10 mx1.mail.test");
            assert_eq!(datagrams(&silent), 1);
            assert_eq!(mx(&resolver, "b.wild.mail.test").await, "10 mx1.mail.test");
            assert_eq!(datagrams(&silent), 0, "its silence is remembered");
        }
    });
}

/// How many have come to `socket` since it was last asked.
fn datagrams(socket: &UdpSocket) -> usize {
    std::iter::from_fn(|| socket.recv(&mut [0; 512]).ok()).count()
}

#[test]
#[ignore = "needs nsd, unbound and python3; .ci/run installs them and runs it"]
fn zones_become_sites() {
    let servers = Servers::start();
    for server in [servers.nsd, servers.unbound] {
        with_servers(&[server], move |resolver| async move {
            let router = router(resolver);
            for (domain, expected) in [
                ("two.mail.test", "mx:mx1.mail.test;mx2.mail.test:25"),
                ("rotated.mail.test", "mx:mx1.mail.test;mx2.mail.test:25"),
                ("equal.mail.test", "mx:mx1.mail.test,mx2.mail.test,mx3.mail.test:25"),
                ("implicit.mail.test", "mx:implicit.mail.test:25"),
                ("implicit6.mail.test", "mx:implicit6.mail.test:25"),
                ("null.mail.test", "Refused 5.1.10"),
                ("text.mail.test", "Refused 5.1.2"),
                ("nothing-here.mail.test", "Refused 5.1.2"),
                ("loop.mail.test", "Refused 5.4.6"),
                ("backup.mail.test", "mx:mx1.mail.test:25"),
                ("numeric.mail.test", "Refused 5.4.4"),
                ("circle.mail.test", "Deferred 4.4.3"),
            ] {
                assert_eq!(site(&router, domain).await, expected, "{domain} at {server}");
            }
            let (missing, _) =
                router.site(&RouteKey::of_domain("missingmx.mail.test")).await.unwrap();
            let outcome = router.candidates(&missing).await.unwrap_err();
            assert_eq!(outcome.reason().status.to_string(), "5.4.4", "{outcome:?}");
            let (alias, _) = router.site(&RouteKey::of_domain("aliasmx.mail.test")).await.unwrap();
            let candidates = router.candidates(&alias).await.unwrap();
            assert_eq!(candidates[0].address, "192.0.2.1:25".parse().unwrap());
            let (equal, _) = router.site(&RouteKey::of_domain("equal.mail.test")).await.unwrap();
            assert!(!router.candidates(&equal).await.unwrap().is_empty());
        });
    }
}
