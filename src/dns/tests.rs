//! The resolver against name servers on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::fake::{
    FakeServer, Over, Zone, a, aaaa, at_once, cname, mx, on_shard, record, reply_to, settings,
};
use super::*;
use crate::limits;
use crate::ring;
use futures_lite::future::{or, zip};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use std::net::{SocketAddr, UdpSocket};

const SOON: Duration = Duration::from_millis(30);

/// Runs `body` on a shard with a resolver that asks `servers`.
fn with_servers<Fut: Future<Output = ()> + 'static>(
    servers: &[SocketAddr],
    body: impl Fn(Resolver) -> Fut + Send + Clone + 'static,
) {
    let settings = settings(servers);
    on_shard(move || body(Resolver::new(settings.clone())));
}

fn hosts(answer: &Answer<Mx>) -> Vec<String> {
    let mut hosts: Vec<_> =
        answer.records.iter().map(|mx| format!("{} {}", mx.preference, mx.host)).collect();
    hosts.sort();
    hosts
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn words(result: Result<Rc<Answer<Mx>>, Failure>) -> String {
    match result.unwrap_err() {
        Failure::ServerFailed(words) => words.into(),
        other => panic!("{other:?}"),
    }
}

/// An address where no server listens.
fn closed_port() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// An address that receives queries and never answers.
fn silent() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[test]
fn an_answer_is_cached_and_looked_up_once() {
    let zone = Zone::new()
        .with("example.test", mx(10, "MX1.example.test"))
        .with("example.test", mx(20, "mx2.example.test"));
    let server = FakeServer::with_zone(zone);
    with_servers(&[server.address], |resolver| async move {
        let first = resolver.mx("example.test").await.unwrap();
        assert_eq!(hosts(&first), ["10 mx1.example.test", "20 mx2.example.test"]);
        let left = first.valid_until.since(ring::wall_clock());
        assert!(left > Duration::from_secs(290) && left <= Duration::from_secs(300), "{left:?}");
        // The same name in another letter case is the same question.
        assert!(Rc::ptr_eq(&first, &resolver.mx("Example.TEST.").await.unwrap()));
    });
    assert_eq!(server.asked(), ["Udp MX example.test."]);
}

#[test]
fn concurrent_calls_with_one_question_share_one_query() {
    let zone = Zone::new().with("example.test", mx(10, "mx1.example.test"));
    let server = FakeServer::start(move |query, _| {
        let mut answers = at_once(zone.answer(query));
        answers[0].0 = SOON;
        answers
    });
    with_servers(&[server.address], |resolver| async move {
        // One of them is dropped before the answer arrives; the others still get it.
        let impatient = or(async { resolver.mx("example.test").await.map(drop) }, async {
            crate::ring::sleep(SOON / 3).await;
            Ok(())
        });
        let both = zip(resolver.mx("example.test"), resolver.mx("example.test"));
        let (_, (one, other)) = zip(impatient, both).await;
        assert!(Rc::ptr_eq(&one.unwrap(), &other.unwrap()));
    });
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn failures_are_distinguished_and_cached_for_a_time() {
    let zone = Zone::new()
        .with("nodata.test", a("192.0.2.1"))
        .error("broken.test", None, ResponseCode::ServFail)
        .error("refused.test", None, ResponseCode::Refused);
    let server = FakeServer::with_zone(zone);
    let address = server.address;
    with_servers(&[address], move |resolver| async move {
        for _ in 0..2 {
            assert_eq!(resolver.mx("missing.test").await, Err(Failure::NoSuchDomain));
            assert_eq!(resolver.mx("nodata.test").await, Err(Failure::NoData));
            assert_eq!(
                words(resolver.mx("broken.test").await),
                format!("DNS server {address} answered SERVFAIL for MX broken.test")
            );
            assert_eq!(
                words(resolver.mx("refused.test").await),
                format!("DNS server {address} answered REFUSED for MX refused.test")
            );
        }
        for bad in ["", ".", "a..b", ".test", &"x".repeat(64), &"x.".repeat(130), "a b.test"] {
            assert_eq!(resolver.mx(bad).await, Err(Failure::BadName), "{bad:?}");
        }
    });
    assert_eq!(server.asked().len(), 4, "{:?}", server.asked());
}

#[test]
fn a_negative_answer_is_cached_as_long_as_its_soa_says() {
    // MINIMUM 0 is cached for the shortest time; then it is looked up again.
    let server = FakeServer::with_zone(Zone::default());
    with_servers(&[server.address], |resolver| async move {
        assert_eq!(resolver.mx("missing.test").await, Err(Failure::NoSuchDomain));
        crate::ring::sleep(Duration::from_millis(1050)).await;
        assert_eq!(resolver.mx("missing.test").await, Err(Failure::NoSuchDomain));
    });
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn a_truncated_answer_is_repeated_over_tcp() {
    let mut zone = Zone::new();
    for number in 0..60 {
        zone = zone.with("big.test", mx(number, &format!("host{number}.big.test")));
    }
    let server = FakeServer::start(move |query, over| match over {
        Over::Tcp => at_once(zone.answer(query)),
        Over::Udp => {
            let mut cut = zone.answer(query);
            cut.metadata.truncation = true;
            let mut bytes = cut.to_vec().unwrap();
            bytes.truncate(500);
            vec![(Duration::ZERO, bytes)]
        }
    });
    with_servers(&[server.address], |resolver| async move {
        assert_eq!(resolver.mx("big.test").await.unwrap().records.len(), 60);
    });
    assert_eq!(server.asked(), ["Udp MX big.test.", "Tcp MX big.test."]);
}

#[test]
fn datagrams_that_do_not_answer_the_query_are_ignored() {
    let zone = Zone::new().with("example.test", mx(10, "right.test"));
    let server = FakeServer::start(move |query, _| {
        let forged = |change: &dyn Fn(&mut Message)| {
            let mut message = reply_to(query);
            message.add_answer(record("example.test", 300, mx(1, "evil.test")));
            change(&mut message);
            (Duration::ZERO, message.to_vec().unwrap())
        };
        let other = |name: &str| {
            let name = super::fake::name(name);
            move |message: &mut Message| {
                message.queries[0].set_name(name.clone());
            }
        };
        let mut sent = vec![
            (Duration::ZERO, Vec::new()),
            (Duration::ZERO, vec![0xff; 700]),
            forged(&|message| message.metadata.id = message.metadata.id.wrapping_add(1)),
            forged(&other("example2.test")),
            forged(&|message| {
                message.queries[0].set_query_type(RecordType::A);
            }),
            forged(&|message| message.queries.clear()),
            (Duration::ZERO, query.to_vec().unwrap()),
        ];
        sent.extend(at_once(zone.answer(query)));
        sent
    });
    with_servers(&[server.address], |resolver| async move {
        assert_eq!(hosts(&resolver.mx("example.test").await.unwrap()), ["10 right.test"]);
    });
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn many_wrong_ids_lead_to_tcp() {
    let zone = Zone::new().with("example.test", mx(10, "right.test"));
    let server = FakeServer::start(move |query, over| match over {
        Over::Tcp => at_once(zone.answer(query)),
        Over::Udp => vec![(Duration::ZERO, vec![0; 12]); crate::limits::DNS_FOREIGN_MAX],
    });
    with_servers(&[server.address], |resolver| async move {
        assert_eq!(hosts(&resolver.mx("example.test").await.unwrap()), ["10 right.test"]);
    });
}

#[test]
fn only_garbage_is_a_timeout() {
    let server = FakeServer::start(|_, _| vec![(Duration::ZERO, b"no dns at all".to_vec())]);
    with_servers(&[server.address], |resolver| async move {
        assert_eq!(resolver.mx("example.test").await, Err(Failure::TimedOut));
    });
    assert_eq!(server.asked().len(), 2, "one in each round");
}

#[test]
fn a_lost_query_is_repeated() {
    let zone = Zone::new().with("example.test", mx(10, "mx.test"));
    let seen = std::sync::atomic::AtomicUsize::new(0);
    let server = FakeServer::start(move |query, _| {
        match seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => Vec::new(),
            _ => at_once(zone.answer(query)),
        }
    });
    with_servers(&[server.address], |resolver| async move {
        assert!(resolver.mx("example.test").await.is_ok());
    });
}

#[test]
fn a_server_that_failed_is_asked_last_for_a_while() {
    let (socket, dead) = silent();
    let zone = Zone::new().with("one.test", mx(1, "mx.test")).with("two.test", mx(1, "mx.test"));
    let server = FakeServer::with_zone(zone);
    with_servers(&[dead, closed_port(), server.address], |resolver| async move {
        assert!(resolver.mx("one.test").await.is_ok());
        assert!(resolver.mx("two.test").await.is_ok());
    });
    socket.set_nonblocking(true).unwrap();
    let queries = (0..10).filter(|_| socket.recv(&mut [0; 512]).is_ok()).count();
    assert_eq!(queries, 1);
}

#[test]
fn no_server_at_all_is_a_failure_in_bounded_time() {
    let (_socket, dead) = silent();
    with_servers(&[dead], |resolver| async move {
        let begun = ring::now();
        assert_eq!(resolver.mx("example.test").await, Err(Failure::TimedOut));
        assert!(
            ring::now().saturating_duration_since(begun) < Duration::from_secs(5),
            "{:?}",
            ring::now().saturating_duration_since(begun)
        );
    });
    let closed = closed_port();
    with_servers(&[closed], move |resolver| async move {
        let words = words(resolver.mx("example.test").await);
        assert!(words.contains(&closed.to_string()) && words.contains("refused"), "{words}");
    });
}

#[test]
fn aliases_are_followed_inside_and_outside_the_answer() {
    let inside = FakeServer::start(|query, _| {
        let mut message = reply_to(query);
        // In no particular order, and with the shortest TTL on an alias.
        message.add_answer(record("c.test", 300, mx(10, "mx.test")));
        message.add_answer(record("b.test", 60, cname("c.test")));
        message.add_answer(record("a.test", 300, cname("B.test")));
        message.add_answer(record("other.test", 1, mx(1, "not-asked.test")));
        at_once(message)
    });
    with_servers(&[inside.address], |resolver| async move {
        let answer = resolver.mx("a.test").await.unwrap();
        assert_eq!(hosts(&answer), ["10 mx.test"]);
        let left = answer.valid_until.since(ring::wall_clock());
        assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?}");
    });
    assert_eq!(inside.asked().len(), 1);

    let outside = FakeServer::with_zone(
        Zone::new()
            .with("a.test", cname("b.test"))
            .with("b.test", cname("c.test"))
            .with("c.test", mx(10, "mx.test"))
            .with("gone.test", cname("missing.test")),
    );
    with_servers(&[outside.address], |resolver| async move {
        assert_eq!(hosts(&resolver.mx("a.test").await.unwrap()), ["10 mx.test"]);
        assert_eq!(resolver.mx("gone.test").await, Err(Failure::NoSuchDomain));
    });
}

#[test]
fn a_loop_of_aliases_is_a_failure_of_the_server() {
    let zone = Zone::new()
        .with("a.test", cname("b.test"))
        .with("b.test", cname("a.test"))
        .with("self.test", cname("self.test"));
    let server = FakeServer::with_zone(zone);
    with_servers(&[server.address], |resolver| async move {
        for name in ["a.test", "self.test"] {
            let words = words(resolver.mx(name).await);
            assert_eq!(words, format!("too many aliases of {name}, or a loop"));
        }
    });
    assert!(server.asked().len() <= 12);
}

#[test]
fn a_referral_is_not_taken_for_no_data() {
    let server = FakeServer::start(|query, _| {
        let mut message = reply_to(query);
        message.add_authority(record("test", 300, super::fake::ns("ns.test")));
        at_once(message)
    });
    with_servers(&[server.address], |resolver| async move {
        assert!(words(resolver.mx("example.test").await).contains("referral"));
    });
}

#[test]
fn addresses_of_both_families_are_joined() {
    let zone = Zone::new()
        .with("both.test", a("192.0.2.1"))
        .with("both.test", aaaa("2001:db8::1"))
        .with("four.test", a("192.0.2.4"))
        .with("six.test", aaaa("2001:db8::6"))
        .with("none.test", mx(1, "mx.test"))
        .with("half.test", a("192.0.2.5"))
        .error("half.test", Some(RecordType::AAAA), ResponseCode::ServFail)
        .with("doubt.test", mx(1, "mx.test"))
        .error("doubt.test", Some(RecordType::A), ResponseCode::ServFail);
    let server = FakeServer::with_zone(zone);
    with_servers(&[server.address], |resolver| async move {
        let of = async |host: &str| resolver.addresses(host).await.map(|a| a.records.clone());
        assert_eq!(of("both.test").await, Ok(addresses(&["192.0.2.1", "2001:db8::1"])));
        assert_eq!(of("four.test").await, Ok(addresses(&["192.0.2.4"])));
        assert_eq!(of("six.test").await, Ok(addresses(&["2001:db8::6"])));
        assert_eq!(of("none.test").await, Err(Failure::NoData));
        assert_eq!(of("missing.test").await, Err(Failure::NoSuchDomain));
        assert!(matches!(of("doubt.test").await, Err(Failure::ServerFailed(_))));
        let half = resolver.addresses("half.test").await.unwrap();
        assert_eq!(half.records, addresses(&["192.0.2.5"]));
        assert!(half.valid_until <= ring::wall_clock().plus(Duration::from_secs(5)));
    });
}

#[test]
fn localhost_is_resolved_without_a_query() {
    let server = FakeServer::with_zone(Zone::new());
    with_servers(&[server.address], |resolver| async move {
        for host in ["localhost", "LocalHost.", "mail.localhost"] {
            let answer = resolver.addresses(host).await.unwrap();
            assert_eq!(answer.records, addresses(&["127.0.0.1", "::1"]));
            assert_eq!(resolver.mx(host).await, Err(Failure::NoData));
        }
    });
    assert!(server.asked().is_empty());
}

#[test]
fn more_lookups_than_slots_all_end() {
    let server = FakeServer::with_zone(Zone::new());
    with_servers(&[server.address], |resolver| async move {
        let done = crate::ring::Signal::new();
        let left = Rc::new(std::cell::Cell::new(limits::DNS_QUICK_LOOKUPS_MAX * 2));
        for number in 0..limits::DNS_QUICK_LOOKUPS_MAX * 2 {
            let (resolver, done, left) = (resolver.clone(), done.clone(), Rc::clone(&left));
            crate::ring::spawn("asks", async move {
                let result = resolver.mx(&format!("n{number}.test")).await;
                assert!(matches!(result, Err(Failure::NoSuchDomain | Failure::TimedOut)));
                left.set(left.get() - 1);
                if left.get() == 0 {
                    done.set();
                }
            });
        }
        assert!(done.wait_for(Duration::from_secs(20)).await, "{} left", left.get());
    });
}

/// Answers for `good` names from `zone`, and does not answer for others.
fn silent_but_for(zone: Zone, good: &'static str) -> FakeServer {
    FakeServer::start(move |query, _| match query.queries[0].name().to_ascii().contains(good) {
        true => at_once(zone.answer(query)),
        false => Vec::new(),
    })
}

/// Looks up MX records of `count` names that get no answer, each in its own task.
fn ask_for_silent(resolver: &Resolver, count: usize) -> Rc<std::cell::Cell<usize>> {
    let left = Rc::new(std::cell::Cell::new(count));
    for number in 0..count {
        let (resolver, left) = (resolver.clone(), Rc::clone(&left));
        crate::ring::spawn("asks", async move {
            let result = resolver.mx(&format!("n{number}.silent.test")).await;
            assert!(matches!(result, Err(Failure::TimedOut | Failure::ServerFailed(_))));
            left.set(left.get() - 1);
        });
    }
    left
}

#[test]
fn silent_names_do_not_delay_a_new_name_or_one_that_was_answered_before() {
    let mut zone = Zone::new();
    zone.negative_ttl = 0;
    let zone =
        zone.with("new.good.test", mx(1, "mx.good.test")).with("new.good.test", a("192.0.2.1"));
    let server = silent_but_for(zone, "good");
    with_servers(&[server.address], |resolver| async move {
        // Cached for a second only.
        assert_eq!(resolver.mx("known.good.test").await, Err(Failure::NoSuchDomain));
        ask_for_silent(&resolver, 3000);
        crate::ring::sleep(Duration::from_millis(1100)).await;
        for name in ["new.good.test", "known.good.test"] {
            let begun = crate::ring::now();
            let _ = resolver.mx(name).await;
            assert!(
                ring::now().saturating_duration_since(begun) < Duration::from_secs(2),
                "{name}: {:?}",
                ring::now().saturating_duration_since(begun)
            );
        }
        assert!(resolver.addresses("new.good.test").await.is_ok());
    });
}

#[test]
fn a_slow_answer_before_the_timeout_is_used() {
    let zone = Zone::new().with("slow.test", mx(1, "mx.slow.test"));
    let server = FakeServer::start(move |query, _| {
        let wait = Duration::from_millis(limits::DNS_QUICK_MILLIS + 200);
        at_once(zone.answer(query)).into_iter().map(|(_, bytes)| (wait, bytes)).collect()
    });
    let mut settings = settings(&[server.address]);
    settings.timeout = Duration::from_secs(2);
    on_shard(move || {
        let resolver = Resolver::new(settings.clone());
        async move { assert!(resolver.mx("slow.test").await.is_ok()) }
    });
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_server_that_is_back_is_noticed_without_delaying_a_lookup() {
    let up = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let zone = Zone::new().with("a.test", mx(1, "mx.test"));
    let (first_zone, first_up) = (zone.clone(), std::sync::Arc::clone(&up));
    let first = FakeServer::start(move |query, _| {
        match first_up.load(std::sync::atomic::Ordering::Relaxed) {
            true => at_once(first_zone.answer(query)),
            false => Vec::new(),
        }
    });
    let second = FakeServer::with_zone(zone);
    with_servers(&[first.address, second.address], move |resolver| {
        let up = std::sync::Arc::clone(&up);
        async move {
            assert!(resolver.mx("a.test").await.is_ok());
            resolver.lookups.servers_rested();
            let begun = crate::ring::now();
            let _ = resolver.mx("b.test").await;
            assert!(
                ring::now().saturating_duration_since(begun) < Duration::from_millis(250),
                "{:?}",
                ring::now().saturating_duration_since(begun)
            );
            crate::ring::sleep(Duration::from_millis(400)).await;
            up.store(true, std::sync::atomic::Ordering::Relaxed);
            resolver.lookups.servers_rested();
            let _ = resolver.mx("c.test").await;
            crate::ring::sleep(Duration::from_millis(100)).await;
            let _ = resolver.mx("d.test").await;
        }
    });
    let of_first: Vec<_> = first.asked().iter().map(|line| line[7..8].to_owned()).collect();
    assert_eq!(of_first, ["a", "b", "c", "d"]);
    let of_second: Vec<_> = second.asked().iter().map(|line| line[7..8].to_owned()).collect();
    assert_eq!(of_second, ["a", "b", "c"]);
}

#[test]
fn a_name_that_was_silent_is_found_when_its_server_answers_again() {
    let up = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let zone = Zone::new().with("a.test", mx(1, "mx.test"));
    let server_up = std::sync::Arc::clone(&up);
    let server = FakeServer::start(move |query, _| {
        match server_up.load(std::sync::atomic::Ordering::Relaxed) {
            true => at_once(zone.answer(query)),
            false => Vec::new(),
        }
    });
    let mut settings = settings(&[server.address]);
    settings.timeout = Duration::from_millis(limits::DNS_QUICK_MILLIS + 100);
    settings.attempts = 1;
    settings.failure_ttl = Duration::from_millis(50);
    on_shard(move || {
        let resolver = Resolver::new(settings.clone());
        let up = std::sync::Arc::clone(&up);
        async move {
            assert_eq!(resolver.mx("a.test").await, Err(Failure::TimedOut));
            crate::ring::sleep(Duration::from_millis(100)).await;
            up.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(resolver.mx("a.test").await.is_ok());
        }
    });
}
