//! Recipient domain to site: address literals, rules, smart host, MX; and site to addresses.
//!
//! A lower-case domain goes in, a [`Site`] comes out, or the [`Outcome`] of all recipients there.
//! The order: an address literal is its own destination; else the first rule that matches holds;
//! else the smart host; else the MX records (RFC 5321 5.1). It must not know connections.
//!
//! Addresses of private networks and loopback are used when public MX records name them: a relay
//! in a private network needs them. Who may relay here decides who can make it connect there.
//!
//! | DNS says | for MX | for a host's addresses |
//! | --- | --- | --- |
//! | records | the site | candidates |
//! | `MX 0 .` | Refused 5.1.10 (RFC 7505) | |
//! | only this relay, or worse | Refused 5.4.6 | the same, by address |
//! | no such records | the domain is its own host; Refused 5.1.2 without address | next host |
//! | NXDOMAIN | Refused 5.1.2 | next host |
//! | SERVFAIL, nothing | Deferred 4.4.3 | next host |
//! | no host has an address | | Refused 5.4.4; Deferred 4.4.3 when one is unknown |
//!
//! A next hop that the operator configured never bounces mail by a wrong name: Deferred 4.4.4.

mod candidates;
mod failures;
mod loop_detection;
mod mx;
mod rules;
#[cfg(test)]
mod tests;

use crate::config;
use crate::dns::cache::Cache;
use crate::dns::{Failure, Resolver};
use crate::limits;
use crate::message::{Outcome, Timestamp};
use crate::ring;
use candidates::AddressFamilyReachability;
use loop_detection::LoopDetection;
use rules::Destination;
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

/// A destination as the receiver runs it. Domains with the same hosts share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Site {
    /// Equal for equal sites, on every shard; for listings: `mx:mx1.example.net,mx2.example.net:25`
    /// (with `;` before hosts of the next preference), `host:relay.example.net:25`,
    /// `[192.0.2.1]:25`, with `+tls-must` and the like behind it. At most
    /// [`limits::ROUTE_KEY_BYTES_MAX`] bytes; longer ones end in a hash that differs from process
    /// to process.
    pub key: Arc<str>,
    /// In order of preference; never empty.
    pub hosts: Vec<SiteHost>,
    /// How to speak to it. Mail with other demands is another site.
    pub transport: Transport,
}

/// How to speak to a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transport {
    /// What must hold on the way there.
    pub policy: config::TransportPolicy,
    /// What is spoken, and whether TLS comes first.
    pub scheme: config::Scheme,
    /// Who we are there: a place in [`config::Route::logins`].
    pub login: Option<u16>,
}

impl Transport {
    /// SMTP.
    pub const fn smtp(policy: config::TransportPolicy) -> Transport {
        Transport { policy, scheme: config::Scheme::Smtp, login: None }
    }

    /// What a site's key says of it: nothing, when it is what everybody has.
    fn mark(self) -> String {
        let mut mark = String::new();
        mark.push_str(match self.scheme {
            config::Scheme::Smtp => "",
            config::Scheme::Smtps => "+smtps",
            config::Scheme::Lmtp => "+lmtp",
        });
        let ordinary = config::TransportPolicy::ORDINARY;
        let config::TransportPolicy { tls, eight_bit, chunking, certificate } = self.policy;
        if tls != ordinary.tls {
            mark.push_str("+tls-");
            mark.push_str(tls.name());
        }
        if eight_bit != ordinary.eight_bit {
            mark.push_str("+8bit-");
            mark.push_str(eight_bit.name());
        }
        if chunking != ordinary.chunking {
            mark.push_str("+data");
        }
        if let Some(place) = certificate {
            mark.push_str(&format!("+cert-{place}"));
        }
        if let Some(login) = self.login {
            mark.push_str(&format!("+auth-{}", u32::from(login) + 1));
        }
        mark
    }
}

/// One host of a site.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SiteHost {
    /// Rank: 0 for the best hosts, 1 for the next. Only the order of MX preferences counts, so
    /// that `1 a, 5 b` and `10 a, 20 b` are the same site.
    pub preference: u16,
    /// Whom to look up; never an IP address in text.
    pub host: config::HostName,
    /// TCP port.
    pub port: u16,
}

/// Where to connect, in the order to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Host name, or the address in brackets.
    pub host: Box<str>,
    /// Its address and the port.
    pub address: SocketAddr,
}

/// One shard's router. Clones share it.
#[derive(Clone)]
pub struct Router {
    inner: Rc<Inner>,
}

struct Inner {
    host_name: Arc<str>,
    own: LoopDetection,
    route: config::Route,
    resolver: Resolver,
    /// Sites of domains, so that the next message to a domain costs one look.
    sites: RefCell<Cache<Box<str>, Arc<Site>>>,
    rng: RefCell<fastrand::Rng>,
    reach: AddressFamilyReachability,
}

impl Router {
    /// For a relay that calls itself `host_name` and takes mail at `listeners`. `seed` shuffles
    /// hosts of equal preference.
    pub fn new(
        host_name: Arc<str>,
        listeners: Vec<SocketAddr>,
        route: config::Route,
        resolver: Resolver,
        seed: u64,
    ) -> Router {
        let inner = Inner {
            host_name,
            own: LoopDetection::new(listeners),
            route,
            resolver,
            sites: RefCell::new(Cache::new(limits::ROUTE_SITES_MAX)),
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
            reach: AddressFamilyReachability::default(),
        };
        Router { inner: Rc::new(inner) }
    }

    /// The site of a lower-case recipient domain (or address literal in brackets), and until when
    /// that holds; or what becomes of its recipients instead (Deferred or Refused).
    pub async fn site(&self, domain: &str) -> Result<(Arc<Site>, Timestamp), Outcome> {
        if let Some((site, valid_until)) =
            self.inner.sites.borrow_mut().get(domain, ring::wall_clock())
        {
            return Ok((Arc::clone(site), valid_until));
        }
        let (destination, policy) = rules::destination(&self.inner.route, domain)?;
        let (site, valid_until) = match destination {
            Destination::Address(address) => {
                let there = SocketAddr::new(address, self.inner.route.port);
                if self.inner.own.is(there) {
                    return Err(failures::leads_back(domain, there));
                }
                let transport = Transport::smtp(policy);
                (Site::of_address(address, self.inner.route.port, transport), Timestamp::NEVER)
            }
            Destination::NextHop(next_hop) => {
                let site = Site::of_next_hop(&next_hop, policy);
                if let config::HostName::Address(address) = next_hop.host
                    && let there = SocketAddr::new(address, next_hop.port)
                    && self.inner.own.is(there)
                {
                    return Err(failures::next_hop_leads_back(&site.key, there));
                }
                (site, Timestamp::NEVER)
            }
            Destination::Mx => self.inner.by_mx(domain, Transport::smtp(policy)).await?,
        };
        let site = Arc::new(site);
        let mut sites = self.inner.sites.borrow_mut();
        sites.insert(domain.into(), Arc::clone(&site), valid_until, ring::wall_clock());
        Ok((site, valid_until))
    }

    /// Addresses of a site's hosts, in the order to try: by preference, equal ones shuffled, the
    /// addresses of a host interleaved by family. Err: none to be had.
    pub async fn candidates(&self, site: &Site) -> Result<Vec<Candidate>, Outcome> {
        let inner = &self.inner;
        let mut looked_up = candidates::look_up(&inner.resolver, site).await;
        if let Some(own) = inner.own.leave_out(&mut looked_up)
            && looked_up.is_empty()
        {
            return Err(candidates::leads_back(site, own));
        }
        let now = ring::wall_clock();
        let reaches = |address| inner.reach.reaches(address, now);
        let ordered = candidates::order(&looked_up, reaches, &mut inner.rng.borrow_mut());
        if ordered.is_empty() { Err(candidates::why_none(site, &looked_up)) } else { Ok(ordered) }
    }
}

impl Inner {
    async fn by_mx(
        &self,
        domain: &str,
        transport: Transport,
    ) -> Result<(Site, Timestamp), Outcome> {
        if !mx::is_host_name(domain) {
            return Err(failures::bad_domain(domain));
        }
        let port = self.route.port;
        match self.resolver.mx(domain).await {
            Ok(answer) => {
                let hosts = mx::choose(&self.host_name, &answer.records, port)
                    .map_err(|unusable| failures::unusable_mx(domain, unusable))?;
                let key = mx::key(&hosts, port, transport);
                Ok((Site { key, hosts, transport }, answer.valid_until))
            }
            Err(Failure::NoData) => self.by_implicit_mx(domain, transport).await,
            Err(failure) => Err(failures::mx_failed(domain, failure)),
        }
    }

    /// Without MX records the domain is its own host (RFC 5321 5.1), if it has an address.
    async fn by_implicit_mx(
        &self,
        domain: &str,
        transport: Transport,
    ) -> Result<(Site, Timestamp), Outcome> {
        if mx::is_same_host(&self.host_name, domain) {
            return Err(failures::unusable_mx(domain, mx::Unusable::Loops));
        }
        match self.resolver.addresses(domain).await {
            Ok(answer) => {
                let port = self.route.port;
                let host = config::HostName::Name(domain.into());
                let hosts = vec![SiteHost { preference: 0, host, port }];
                let key = mx::key(&hosts, port, transport);
                Ok((Site { key, hosts, transport }, answer.valid_until))
            }
            Err(Failure::NoData | Failure::NoSuchDomain) => Err(failures::no_mx_no_address(domain)),
            Err(failure) => Err(failures::host_failed(domain, &failure)),
        }
    }
}

impl Site {
    /// Its hosts were named by MX records, or are the recipient's domain in want of them.
    pub fn is_by_mx(&self) -> bool {
        self.key.starts_with(mx::PREFIX)
    }

    fn of_address(address: IpAddr, port: u16, transport: Transport) -> Site {
        let host = config::HostName::Address(address);
        let hosts = vec![SiteHost { preference: 0, host, port }];
        Site { key: format!("[{address}]:{port}{}", transport.mark()).into(), hosts, transport }
    }

    fn of_next_hop(next_hop: &config::NextHop, policy: config::TransportPolicy) -> Site {
        let transport = Transport { policy, scheme: next_hop.scheme, login: next_hop.login };
        match &next_hop.host {
            config::HostName::Address(address) => {
                Site::of_address(*address, next_hop.port, transport)
            }
            config::HostName::Name(name) => {
                let host = next_hop.host.clone();
                let hosts = vec![SiteHost { preference: 0, host, port: next_hop.port }];
                let key = format!("{}{name}", mx::NEXT_HOP_PREFIX);
                Site { key: mx::bounded(&key, next_hop.port, transport), hosts, transport }
            }
        }
    }
}
