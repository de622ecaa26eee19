//! From a site to addresses in the order to try.

use super::{Candidate, Site, SiteHost, SiteKind, failures};
use crate::config::HostName;
use crate::dns::{Answer, Failure, Resolver};
use crate::limits;
use crate::message::{Outcome, Timestamp};
use crate::ring::Udp;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// How long the check for IPv6 is cached: an interface may appear or disappear.
const REACH_KNOWN_FOR: Duration = Duration::from_secs(60);

/// A host and the result of its lookup.
pub(super) struct LookedUp<'a> {
    pub(super) host: &'a SiteHost,
    pub(super) addresses: Result<Vec<IpAddr>, Failure>,
}

/// Looks up all hosts of `site` concurrently, so that it takes as long as the slowest one.
pub(super) async fn look_up<'a>(resolver: &Resolver, site: &'a Site) -> Vec<LookedUp<'a>> {
    let lookups = site.hosts.iter().map(|host| async move {
        let found = match &host.host {
            HostName::Address(address) => Ok(vec![*address]),
            HostName::Name(name) => {
                let answer: Result<Rc<Answer<IpAddr>>, Failure> = resolver.addresses(name).await;
                answer.map(|answer| answer.records.clone())
            }
        };
        LookedUp { host, addresses: found }
    });
    all(lookups.collect()).await
}

/// Runs all futures concurrently; their outputs in order.
async fn all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut running: Vec<Pin<Box<_>>> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<T>> = running.iter().map(|_| None).collect();
    let all_ended = poll_fn(|context| {
        let mut waiting = false;
        for (future, output) in running.iter_mut().zip(&mut outputs) {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *output = Some(value),
                    Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { Poll::Pending } else { Poll::Ready(()) }
    });
    pin!(all_ended).await;
    outputs.into_iter().flatten().collect()
}

/// The addresses by preference, hosts of equal preference shuffled, those of a host shuffled and
/// interleaved by family.
///
/// IPv4 comes first: bulk senders have their reputation on IPv4 addresses, large receivers are
/// stricter with IPv6 clients, and a broken IPv6 setup would delay every connection. IPv6 addresses
/// that this machine cannot reach are left out, unless there are no others.
pub(super) fn order(
    looked_up: &[LookedUp<'_>],
    reaches: impl Fn(Ipv6Addr) -> bool,
    rng: &mut fastrand::Rng,
) -> Vec<Candidate> {
    let mut reachable = Vec::new();
    let mut unreachable = Vec::new();
    for equal in looked_up.chunk_by(|one, next| one.host.preference == next.host.preference) {
        let mut shuffled: Vec<&LookedUp<'_>> = equal.iter().collect();
        rng.shuffle(&mut shuffled);
        for looked_up in shuffled {
            let Ok(addresses) = &looked_up.addresses else { continue };
            for address in interleaved(addresses, rng) {
                let list = match address {
                    IpAddr::V6(six) if !reaches(six) => &mut unreachable,
                    _ => &mut reachable,
                };
                list.push(candidate(looked_up.host, address));
            }
        }
    }
    // A failed attempt at an unreachable address gives a better reason than an empty list.
    let mut candidates = if reachable.is_empty() { unreachable } else { reachable };
    candidates.truncate(limits::ROUTE_CANDIDATES_MAX);
    candidates
}

fn interleaved(addresses: &[IpAddr], rng: &mut fastrand::Rng) -> Vec<IpAddr> {
    let sendable = addresses.iter().copied().filter(is_sendable);
    let (mut four, mut six): (Vec<IpAddr>, Vec<IpAddr>) = sendable.partition(IpAddr::is_ipv4);
    rng.shuffle(&mut four);
    rng.shuffle(&mut six);
    let length = four.len().max(six.len());
    let both = (0..length).flat_map(|at| [four.get(at), six.get(at)]);
    both.flatten().copied().take(limits::ROUTE_ADDRESSES_PER_HOST_MAX).collect()
}

/// Whether an address is a single host: not unspecified (which the kernel takes for this host),
/// multicast or broadcast.
fn is_sendable(address: &IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(four) => {
            four.octets().first() != Some(&0) && !four.is_multicast() && four != Ipv4Addr::BROADCAST
        }
        IpAddr::V6(six) => !six.is_unspecified() && !six.is_multicast(),
    }
}

fn candidate(host: &SiteHost, address: IpAddr) -> Candidate {
    let name = match &host.host {
        HostName::Name(name) => name.clone(),
        HostName::Address(address) => format!("[{address}]").into(),
    };
    let address = SocketAddr::new(address.to_canonical(), host.port);
    Candidate { host: name, address, preference: host.preference }
}

/// The outcome for recipients when no host of `site` has an address to try.
pub(super) fn why_none(site: &Site, looked_up: &[LookedUp<'_>]) -> Outcome {
    let name = |host: &SiteHost| match &host.host {
        HostName::Name(name) => name.to_string(),
        HostName::Address(address) => format!("[{address}]"),
    };
    let unknown = looked_up.iter().find_map(|looked_up| match &looked_up.addresses {
        Err(failure @ (Failure::ServerFailed(_) | Failure::TimedOut)) => {
            Some((looked_up.host, failure))
        }
        _ => None,
    });
    if let Some((host, failure)) = unknown {
        return failures::host_failed(&name(host), failure);
    }
    let (host, failure) = match looked_up.first() {
        Some(first) => (name(first.host), first.addresses.as_ref().err()),
        None => (String::new(), Some(&Failure::NoData)),
    };
    let label = site.key.as_str();
    match site.kind {
        SiteKind::NextHop => failures::no_next_hop(label, &host, failure),
        SiteKind::Mx | SiteKind::Literal => failures::no_address(label, &host, failure),
    }
}

/// The outcome for recipients when the best host of `site` is this relay, at `own`.
pub(super) fn leads_back(site: &Site, own: SocketAddr) -> Outcome {
    match site.kind {
        SiteKind::NextHop => failures::next_hop_leads_back(site.key.as_str(), own),
        SiteKind::Mx | SiteKind::Literal => failures::leads_back(site.key.as_str(), own),
    }
}

/// Whether this machine has a route to the IPv6 internet.
#[derive(Default)]
pub(super) struct AddressFamilyReachability {
    /// The last result, and until when it is valid.
    known: Cell<Option<(bool, Timestamp)>>,
}

impl AddressFamilyReachability {
    /// Loopback, private and link-local addresses are always tried. For global ones, connecting a
    /// UDP socket shows whether there is a route; no packet is sent.
    pub(super) fn reaches(&self, address: Ipv6Addr, now: Timestamp) -> bool {
        let is_global = address.segments().first().is_some_and(|first| first & 0xe000 == 0x2000);
        if !is_global {
            return true;
        }
        if let Some((reaches, until)) = self.known.get()
            && now < until
        {
            return reaches;
        }
        let reaches = Udp::connect(SocketAddr::new(address.into(), 53)).is_ok();
        self.known.set(Some((reaches, now.plus(REACH_KNOWN_FOR))));
        reaches
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn host(preference: u16, name: &str) -> SiteHost {
        SiteHost { preference, host: HostName::Name(name.into()), port: 25 }
    }

    fn found<'a>(host: &'a SiteHost, addresses: &[&str]) -> LookedUp<'a> {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        LookedUp { host, addresses: Ok(addresses) }
    }

    fn shown(candidates: &[Candidate]) -> Vec<String> {
        candidates.iter().map(|c| format!("{} {}", c.host, c.address)).collect()
    }

    fn rng() -> fastrand::Rng {
        fastrand::Rng::with_seed(7)
    }

    #[test]
    fn address_families_alternate_and_preferences_keep_their_order() {
        let (one, two) = (host(0, "one.test"), host(1, "two.test"));
        let looked_up = [
            found(&one, &["2001:db8::1", "192.0.2.1", "2001:db8::2"]),
            found(&two, &["192.0.2.2"]),
        ];
        let candidates = order(&looked_up, |_| true, &mut rng());
        let families: Vec<bool> = candidates.iter().map(|c| c.address.is_ipv4()).collect();
        assert_eq!(families, [true, false, false, true]);
        assert_eq!(&*candidates[3].host, "two.test");
    }

    #[test]
    fn equal_hosts_are_shuffled() {
        let hosts = [host(0, "a.test"), host(0, "b.test"), host(0, "c.test")];
        let looked_up: Vec<_> = hosts.iter().map(|host| found(host, &["192.0.2.1"])).collect();
        let mut rng = rng();
        let mut leads: Vec<Box<str>> =
            (0..60).map(|_| order(&looked_up, |_| true, &mut rng)[0].host.clone()).collect();
        leads.sort();
        leads.dedup();
        assert_eq!(leads.len(), 3);
    }

    #[test]
    fn unreachable_ipv6_is_left_out_unless_there_is_nothing_else() {
        let (both, six) = (host(0, "both.test"), host(1, "six.test"));
        let all = [found(&both, &["192.0.2.1", "2001:db8::1"]), found(&six, &["2001:db8::2"])];
        let candidates = order(&all, |_| false, &mut rng());
        assert_eq!(shown(&candidates), ["both.test 192.0.2.1:25"]);
        let candidates = order(&all[1..], |_| false, &mut rng());
        assert_eq!(shown(&candidates), ["six.test [2001:db8::2]:25"]);
    }

    #[test]
    fn addresses_that_are_not_a_single_host_are_not_used() {
        let host = host(0, "odd.test");
        let odd = ["0.0.0.0", "0.1.2.3", "255.255.255.255", "224.0.0.1", "::", "ff02::1"];
        assert!(order(&[found(&host, &odd)], |_| true, &mut rng()).is_empty());
        let mapped = order(&[found(&host, &["::ffff:192.0.2.1"])], |_| false, &mut rng());
        assert!(mapped.len() <= 1);
    }

    #[test]
    fn one_host_cannot_crowd_out_the_others() {
        let hosts: Vec<_> = (0..5).map(|n| host(n, &format!("h{n}.test"))).collect();
        let many: Vec<String> = (1..=30).map(|n| format!("192.0.2.{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let looked_up: Vec<_> = hosts.iter().map(|host| found(host, &many)).collect();
        let candidates = order(&looked_up, |_| true, &mut rng());
        assert_eq!(candidates.len(), limits::ROUTE_CANDIDATES_MAX);
        assert!(candidates.iter().any(|candidate| &*candidate.host == "h2.test"));
    }

    #[test]
    fn a_loopback_address_is_always_tried() {
        let reach = AddressFamilyReachability::default();
        assert!(reach.reaches(Ipv6Addr::LOCALHOST, Timestamp(0)));
        assert!(reach.reaches("fd00::1".parse().unwrap(), Timestamp(0)));
    }
}
