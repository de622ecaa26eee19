//! Chooses the destination of a domain: literal, rule, smart host or MX. *Pure.*

use super::failures;
use crate::config::{NextHop, Route, TransportPolicy};
use crate::message::Outcome;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The tag of IPv6 literals (RFC 5321 4.1.3), in lower case like the domain.
const IPV6_TAG: &str = "ipv6:";

/// The destination of a domain, before any lookup.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Destination {
    Address(IpAddr),
    NextHop(NextHop),
    Mx,
}

/// The destination of `domain`, and the policy for the transport; Err is the outcome for
/// recipients there.
pub(super) fn destination(
    route: &Route,
    domain: &str,
) -> Result<(Destination, TransportPolicy), Outcome> {
    if domain.starts_with('[') {
        let address = literal(domain).ok_or_else(|| failures::bad_literal(domain))?;
        return Ok((Destination::Address(address), route.policy));
    }
    let rule = route.rules.iter().find(|rule| matches(&rule.domain, domain));
    let (next_hop, policy) = match rule {
        Some(rule) => (&rule.next_hop, rule.policy),
        None => (&route.smart_host, route.policy),
    };
    match next_hop {
        Some(next_hop) => Ok((Destination::NextHop(next_hop.clone()), policy)),
        // `postmaster` without a domain (RFC 5321 4.1.1.3) is a mailbox of this host; it has none.
        None if domain.is_empty() => Err(failures::no_domain()),
        None => Ok((Destination::Mx, policy)),
    }
}

/// `example.com` matches itself, `.example.com` also its subdomains, `*` everything.
fn matches(rule: &str, domain: &str) -> bool {
    if rule == "*" || rule == domain {
        return true;
    }
    let Some(parent) = rule.strip_prefix('.') else { return false };
    match domain.strip_suffix(parent) {
        Some(front) => front.is_empty() || front.ends_with('.'),
        None => false,
    }
}

/// `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
fn literal(domain: &str) -> Option<IpAddr> {
    let inside = domain.strip_prefix('[')?.strip_suffix(']')?;
    if let Ok(address) = inside.parse::<Ipv4Addr>() {
        return Some(address.into());
    }
    let (tag, address) = inside.split_at_checked(IPV6_TAG.len())?;
    if !tag.eq_ignore_ascii_case(IPV6_TAG) {
        return None;
    }
    address.parse::<Ipv6Addr>().ok().map(|address| IpAddr::V6(address).to_canonical())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::config::{DeliveryTls, HostName, RouteRule, Scheme};

    const MUST: TransportPolicy =
        TransportPolicy { tls: DeliveryTls::Must, ..TransportPolicy::ORDINARY };

    fn hop(name: &str) -> NextHop {
        NextHop { host: HostName::Name(name.into()), port: 25, scheme: Scheme::Smtp, login: None }
    }

    fn route(rules: &[(&str, Option<&str>)], smart_host: Option<&str>) -> Route {
        let rule = |(domain, to): &(&str, Option<&str>)| RouteRule {
            domain: (*domain).into(),
            next_hop: to.map(hop),
            policy: MUST,
        };
        Route {
            smart_host: smart_host.map(hop),
            rules: rules.iter().map(rule).collect(),
            port: 25,
            policy: TransportPolicy::ORDINARY,
            logins: Vec::new(),
            certificates: Vec::new(),
        }
    }

    #[test]
    fn a_rule_matches_its_domains_and_no_others() {
        for (rule, domain, expected) in [
            ("example.com", "example.com", true),
            ("example.com", "a.example.com", false),
            (".example.com", "example.com", true),
            (".example.com", "a.b.example.com", true),
            (".example.com", "badexample.com", false),
            (".example.com", "example.com.evil", false),
            ("*", "anything.test", true),
            ("*", "", true),
            (".", "example.com", false),
        ] {
            assert_eq!(matches(rule, domain), expected, "{rule} for {domain}");
        }
    }

    #[test]
    fn literals_are_read_strictly() {
        let address = |text: &str| Some(text.parse().unwrap());
        for (domain, expected) in [
            ("[192.0.2.1]", address("192.0.2.1")),
            ("[ipv6:2001:db8::1]", address("2001:db8::1")),
            ("[IPv6:2001:db8::1]", address("2001:db8::1")),
            ("[ipv6:::ffff:192.0.2.1]", address("192.0.2.1")),
            ("[2001:db8::1]", None),
            ("[192.0.2.1", None),
            ("[192.0.2.256]", None),
            ("[192.0.2.1]x", None),
            ("[ipv6:192.0.2.1]", None),
            ("[]", None),
            ("[é6:::1]", None),
        ] {
            assert_eq!(literal(domain), expected, "{domain}");
        }
    }

    #[test]
    fn the_order_is_literal_rule_smart_host_mx() {
        let rules = [("direct.test", None), ("inside.test", Some("inside")), (".test", Some("t"))];
        let route_with = route(&rules, Some("smart"));
        let of = |domain: &str| destination(&route_with, domain).unwrap();
        let (by_rule, otherwise) = (MUST, TransportPolicy::ORDINARY);
        let address = Destination::Address("192.0.2.1".parse().unwrap());
        assert_eq!(of("[192.0.2.1]"), (address, otherwise));
        assert_eq!(of("direct.test"), (Destination::Mx, by_rule), "despite the smart host");
        assert_eq!(of("inside.test"), (Destination::NextHop(hop("inside")), by_rule));
        assert_eq!(of("other.test"), (Destination::NextHop(hop("t")), by_rule));
        assert_eq!(of("example.com"), (Destination::NextHop(hop("smart")), otherwise));
        assert_eq!(of(""), (Destination::NextHop(hop("smart")), otherwise));
        let plain = destination(&route(&rules, None), "example.com");
        assert_eq!(plain, Ok((Destination::Mx, otherwise)));
    }

    #[test]
    fn without_a_smart_host_a_bare_postmaster_has_no_destination() {
        let outcome = destination(&route(&[], None), "").unwrap_err();
        assert!(matches!(&outcome, Outcome::Refused(_)));
        assert_eq!(outcome.reason().status.to_string(), "5.1.2");
        let all = route(&[("*", Some("hub"))], None);
        let hub = (Destination::NextHop(hop("hub")), MUST);
        assert_eq!(destination(&all, ""), Ok(hub));
    }
}
