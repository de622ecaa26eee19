//! The router with a resolver that asks a name server on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::config::{HostName, NextHop, Route, RouteRule, Scheme, TransportPolicy};
use crate::dns::fake::{FakeServer, Zone, a, aaaa, cname, mx, on_shard, settings};
use crate::message::Demands;
use crate::ring;
use hickory_proto::op::ResponseCode;
use std::future::Future;
use std::net::UdpSocket;

fn route() -> Route {
    let hop = |host, port| NextHop { host, port, scheme: Scheme::Smtp, login: None };
    let inside = hop(HostName::Name("inside.test".into()), 2525);
    let missing = hop(HostName::Name("missing.test".into()), 25);
    let mx_only = hop(HostName::Name("good.test".into()), 25);
    let fixed = hop(HostName::Address("192.0.2.9".parse().unwrap()), 587);
    let rule = |domain: &str, next_hop: NextHop| RouteRule {
        domain: domain.into(),
        next_hop: Some(next_hop),
        policy: TransportPolicy::ORDINARY,
    };
    Route {
        smart_host: None,
        rules: vec![
            rule(".inside.example", inside),
            rule("typo.example", missing),
            rule("mx-only.example", mx_only),
            rule("fixed.example", fixed),
        ],
        port: 25,
        policy: TransportPolicy::ORDINARY,
        logins: Vec::new(),
        certificates: Vec::new(),
    }
}

fn with_zone<Fut: Future<Output = ()> + 'static>(
    zone: Zone,
    body: impl Fn(Router, SocketAddr) -> Fut + Send + Clone + 'static,
) -> FakeServer {
    let server = FakeServer::with_zone(zone);
    let address = server.address;
    on_shard(move || {
        let resolver = Resolver::new(settings(&[address]));
        body(Router::new("relay.test".into(), Vec::new(), route(), resolver, 1), address)
    });
    server
}

/// The key of the domain's site, or `Refused 5.1.2 TEXT`.
async fn site(router: &Router, domain: &str) -> String {
    match router.site(&RouteKey::of_domain(domain)).await {
        Ok((site, _)) => site.key.to_string(),
        Err(outcome) => ending(&outcome),
    }
}

async fn tried(router: &Router, domain: &str) -> String {
    let (site, _) = router.site(&RouteKey::of_domain(domain)).await.unwrap();
    match router.candidates(&site).await {
        Ok(candidates) => {
            let shown = candidates.iter().map(|c| format!("{}={}", c.host, c.address));
            shown.collect::<Vec<_>>().join(" ")
        }
        Err(outcome) => ending(&outcome),
    }
}

fn ending(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Delivered(reason) => format!("Delivered {reason}"),
        Outcome::Deferred(reason) => format!("Deferred {reason}"),
        Outcome::Refused(reason) => format!("Refused {reason}"),
    }
}

#[test]
fn a_dns_answer_becomes_a_site_or_an_outcome() {
    let zone = Zone::new()
        .with("one.test", mx(10, "mx1.test"))
        .with("one.test", mx(20, "mx2.test"))
        .with("same.test", mx(5, "mx2.test"))
        .with("same.test", mx(1, "mx1.test"))
        .with("null.test", mx(0, "."))
        .with("loop.test", mx(10, "relay.test"))
        .with("implicit.test", a("192.0.2.1"))
        .with("six.test", aaaa("2001:db8::1"))
        .with("nothing.test", cname("empty.test"))
        .with("empty.test", mx(0, "x.test"))
        .with("relay.test", a("192.0.2.1"))
        .with("numeric.test", mx(10, "192.0.2.1"))
        .error("broken.test", None, ResponseCode::ServFail);
    with_zone(zone, |router, server| async move {
        let broken =
            format!("Deferred 4.4.3 DNS server {server} answered SERVFAIL for MX broken.test");
        for (domain, expected) in [
            ("one.test", "mx:mx1.test;mx2.test:25"),
            ("same.test", "mx:mx1.test;mx2.test:25"),
            ("null.test", "Refused 5.1.10 domain null.test accepts no mail (null MX)"),
            ("implicit.test", "mx:implicit.test:25"),
            ("six.test", "mx:six.test:25"),
            ("gone.test", "Refused 5.1.2 domain gone.test does not exist (NXDOMAIN)"),
            ("broken.test", &broken),
            ("loop.test", "Refused 5.4.6 mail for loop.test loops back: this relay is its best MX"),
            (
                "relay.test",
                "Refused 5.4.6 mail for relay.test loops back: this relay is its best MX",
            ),
            (
                "numeric.test",
                "Refused 5.4.4 MX 192.0.2.1 of domain numeric.test is not a host name",
            ),
            ("a,b.test", "Refused 5.1.2 a,b.test is not a valid DNS name"),
            ("a..test", "Refused 5.1.2 a..test is not a valid DNS name"),
            ("[192.0.2.7]", "[192.0.2.7]:25"),
            ("[ipv6:2001:db8::7]", "[2001:db8::7]:25"),
            ("[192.0.2]", "Refused 5.1.2 [192.0.2] is not an address literal"),
            ("a.inside.example", "host:inside.test:2525"),
            ("fixed.example", "[192.0.2.9]:587"),
        ] {
            assert_eq!(site(&router, domain).await, expected);
        }
    });
}

#[test]
fn neither_mx_nor_address_is_refused() {
    let zone = Zone::new().with("text.test", super::super::dns::fake::ns("ns.test"));
    with_zone(zone, |router, _| async move {
        assert_eq!(
            site(&router, "text.test").await,
            "Refused 5.1.2 domain text.test has neither MX nor address records"
        );
    });
}

#[test]
fn a_site_is_cached_until_its_records_expire() {
    let zone = Zone::new().with("one.test", mx(10, "mx1.test"));
    let server = with_zone(zone, |router, _| async move {
        let (first, until) = router.site(&RouteKey::of_domain("one.test")).await.unwrap();
        let (again, until_again) = router.site(&RouteKey::of_domain("one.test")).await.unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(until, until_again);
        assert!(until > ring::wall_clock() && until < Timestamp::NEVER);
    });
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn hosts_become_addresses_or_an_outcome() {
    let zone = Zone::new()
        .with("good.test", mx(10, "missing.test"))
        .with("good.test", mx(20, "mx2.test"))
        .with("mx2.test", a("127.0.0.2"))
        .with("mx2.test", aaaa("::1"))
        .with("alias.test", mx(10, "alias-of-mx2.test"))
        .with("alias-of-mx2.test", cname("mx2.test"))
        .with("bad.test", mx(10, "missing.test"))
        .with("odd.test", mx(10, "odd-host.test"))
        .with("odd-host.test", a("0.0.0.0"))
        .with("doubt.test", mx(10, "missing.test"))
        .with("doubt.test", mx(20, "broken.test"))
        .with("inside.test", a("127.0.0.3"))
        .error("broken.test", None, ResponseCode::ServFail);
    with_zone(zone, |router, _| async move {
        for (domain, expected) in [
            ("good.test", "mx2.test=127.0.0.2:25 mx2.test=[::1]:25"),
            // RFC 5321 5.1 forbids an alias there; senders follow it anyway.
            ("alias.test", "alias-of-mx2.test=127.0.0.2:25 alias-of-mx2.test=[::1]:25"),
            (
                "bad.test",
                "Refused 5.4.4 no host of missing.test has an address: missing.test does \
                 not exist (NXDOMAIN)",
            ),
            (
                "odd.test",
                "Refused 5.4.4 no host of odd-host.test has an address: odd-host.test has \
                 only addresses that mail cannot be sent to",
            ),
            ("x.inside.example", "inside.test=127.0.0.3:2525"),
            ("fixed.example", "[192.0.2.9]=192.0.2.9:587"),
            (
                "typo.example",
                "Deferred 4.4.4 no host of missing.test has an address: missing.test \
                 does not exist (NXDOMAIN)",
            ),
            (
                "mx-only.example",
                "Deferred 4.4.4 no host of good.test has an address: good.test has no \
                 address records; a configured host is never looked up by MX",
            ),
            ("[ipv6:::1]", "[::1]=[::1]:25"),
        ] {
            assert_eq!(tried(&router, domain).await, expected);
        }
        let doubt = tried(&router, "doubt.test").await;
        assert!(doubt.starts_with("Deferred 4.4.3 DNS server"), "{doubt}");
    });
}

#[test]
fn a_site_of_an_address_is_not_cached_for_ever() {
    with_zone(Zone::new(), |router, _| async move {
        for domain in ["fixed.example", "[192.0.2.7]"] {
            let (_, until) = router.site(&RouteKey::of_domain(domain)).await.unwrap();
            assert!(until <= ring::wall_clock().plus(FIXED_SITE_TTL), "{domain}");
        }
    });
}

/// An address that was not this relay's when it was routed, but is when it is connected to: a
/// virtual address that moves.
#[test]
fn a_next_hop_that_becomes_this_relay_defers_its_mail() {
    let server = FakeServer::with_zone(Zone::new());
    let address = server.address;
    on_shard(move || async move {
        let here: SocketAddr = "127.0.0.1:2525".parse().unwrap();
        let hop = |host| NextHop { host, port: 2525, scheme: Scheme::Smtp, login: None };
        let smart = hop(HostName::Address(here.ip()));
        let route = Route { smart_host: Some(smart), port: 2525, ..route() };
        let with_listeners = |listeners| {
            let resolver = Resolver::new(settings(&[address]));
            Router::new("relay.test".into(), listeners, route.clone(), resolver, 1)
        };
        let (elsewhere, local) = (with_listeners(Vec::new()), with_listeners(vec![here]));
        let (site, _) = elsewhere.site(&RouteKey::of_domain("a.test")).await.unwrap();
        assert_eq!(site.kind, SiteKind::NextHop);
        let ending = ending(&local.candidates(&site).await.unwrap_err());
        assert!(ending.starts_with("Deferred 4.4.6 the configured next hop"), "{ending}");
        // The same if the router sees it at once; but a literal is the sender's mistake.
        let ending = self::site(&local, "a.test").await;
        assert!(ending.starts_with("Deferred 4.4.6 the configured next hop"), "{ending}");
        let literal = self::site(&local, "[127.0.0.1]").await;
        assert!(literal.starts_with("Refused 5.4.6"), "{literal}");
    });
}

#[test]
fn requirements_of_a_message_make_another_site() {
    let zone = Zone::new()
        .with("one.test", mx(10, "mx.test"))
        .with("mx.test", mx(10, "mx.test"))
        .with("mx.test", mx(20, "other.test"));
    with_zone(zone, |router, _| async move {
        let demands = Demands { require_tls: true };
        let demanding = |domain: &str| RouteKey { demands, ..RouteKey::of_domain(domain) };
        let label = |key: RouteKey| {
            let router = router.clone();
            async move { router.site(&key).await.map(|(site, _)| site.key.to_string()) }
        };
        assert_eq!(
            label(RouteKey::of_domain("mx.test")).await.unwrap(),
            "mx:mx.test;other.test:25"
        );
        assert_eq!(label(demanding("mx.test")).await.unwrap(), "mx:mx.test:25+requiretls");
        let refused = ending(&label(demanding("one.test")).await.unwrap_err());
        assert!(refused.starts_with("Refused 5.7.30"), "{refused}");
        let fixed = label(demanding("fixed.example")).await.unwrap();
        assert_eq!(fixed, "[192.0.2.9]:587+requiretls");
    });
}

#[test]
fn no_answer_defers() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    on_shard(move || async move {
        let resolver = Resolver::new(settings(&[address]));
        let router = Router::new("relay.test".into(), Vec::new(), route(), resolver, 1);
        assert_eq!(
            site(&router, "one.test").await,
            "Deferred 4.4.3 no DNS server answered in time for MX one.test"
        );
    });
}

#[test]
fn rfc5321_5_1_a_name_is_looked_up_without_a_search_domain() {
    let server = with_zone(Zone::new(), |router, _| async move {
        for domain in ["inside", "squeaky.sales"] {
            let refused = site(&router, domain).await;
            assert!(refused.starts_with("Refused 5.1.2 "), "{refused}");
        }
    });
    assert_eq!(server.asked(), ["Udp MX inside.", "Udp MX squeaky.sales."]);
}

#[test]
fn rfc5321_5_1_a_domain_with_mx_records_is_not_its_own_host() {
    let zone =
        Zone::new().with("only.test", mx(10, "missing.test")).with("only.test", a("127.0.0.2"));
    with_zone(zone, |router, _| async move {
        let ending = tried(&router, "only.test").await;
        assert!(ending.starts_with("Refused 5.4.4 no host of missing.test"), "{ending}");
    });
}
