//! Routing: from a route key to a site (address literals, rules, smart host, MX), and from a site
//! to addresses.
//!
//! A [`RouteKey`] goes in, a [`Site`] comes out, or the [`Outcome`] of all recipients there. The
//! order: an address literal is its own destination; else the first rule that matches applies; else
//! the smart host; else the MX records (RFC 5321 5.1). The requirements of the domain's policy and
//! of the message are decided before hosts are looked up (`policy`), and are part of the site. It
//! must not know connections.
//!
//! Addresses of private networks and loopback are used even when public MX records name them: a
//! relay in a private network needs that. So clients that may relay can make it connect there.
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
//! A next hop that the operator configured never bounces mail: a wrong name is Deferred 4.4.4, and
//! one that turns out to be this relay itself is Deferred 4.4.6.

mod candidates;
mod failures;
mod loop_detection;
mod mx;
mod policy;
mod rules;
mod site;
#[cfg(test)]
mod tests;

pub use site::{
    CredentialsId, Site, SiteHost, SiteKey, SiteKind, SourceId, TlsPolicy, Transport, Verify,
};

use crate::config;
use crate::dns::cache::Cache;
use crate::dns::{Failure, Resolver};
use crate::limits;
use crate::message::{Outcome, RouteKey};
use crate::ring;
use crate::timestamp::Timestamp;
use candidates::AddressFamilyReachability;
use loop_detection::LoopDetection;
use rules::Destination;
use site::FileMarks;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long a site that does not come from the DNS is cached. It is not cached for ever, because
/// its address may become one of this machine (a virtual address that moves).
const FIXED_SITE_TTL: Duration = Duration::from_secs(60);

/// Where to connect, in the order to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Host name, or the address in brackets.
    pub host: Box<str>,
    /// Its address and the port.
    pub address: SocketAddr,
    /// The host's preference: lower ones come first (RFC 5321 5.1).
    pub preference: u16,
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
    files: FileMarks,
    /// Sites by route key.
    sites: RefCell<Cache<RouteKey, Arc<Site>>>,
    rng: RefCell<fastrand::Rng>,
    reach: AddressFamilyReachability,
}

impl Router {
    /// A router for a relay with the name `host_name` that listens at `listeners`. `seed` is for
    /// shuffling hosts of equal preference.
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
            files: FileMarks::new(&route),
            route,
            resolver,
            sites: RefCell::new(Cache::new(limits::ROUTE_SITES_MAX)),
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
            reach: AddressFamilyReachability::default(),
        };
        Router { inner: Rc::new(inner) }
    }

    /// The site of a route key, and until when it is valid. Err: the outcome for its recipients
    /// (Deferred or Refused).
    pub async fn site(&self, key: &RouteKey) -> Result<(Arc<Site>, Timestamp), Outcome> {
        let inner = &self.inner;
        if let Some((site, valid_until)) = inner.sites.borrow_mut().get(key, ring::wall_clock()) {
            return Ok((Arc::clone(site), valid_until));
        }
        let domain = &*key.domain;
        let (destination, configured) = rules::destination(&inner.route, domain)?;
        let transport = Transport::smtp(policy::decide(key, configured), configured);
        let (site, valid_until) = match destination {
            Destination::Address(address) => {
                let there = SocketAddr::new(address, inner.route.port);
                if inner.own.is(there) {
                    return Err(failures::leads_back(domain, there));
                }
                let host = config::HostName::Address(address);
                let site = inner.fixed(SiteKind::Literal, host, inner.route.port, transport);
                (site, ring::wall_clock().plus(FIXED_SITE_TTL))
            }
            Destination::NextHop(next_hop) => {
                let config::NextHop { host, port, scheme, login } = next_hop;
                let credentials = login.map(CredentialsId);
                let transport = Transport { protocol: scheme, credentials, ..transport };
                let address = match &host {
                    config::HostName::Address(address) => Some(SocketAddr::new(*address, port)),
                    config::HostName::Name(_) => None,
                };
                let site = inner.fixed(SiteKind::NextHop, host, port, transport);
                if let Some(own) = address.filter(|address| inner.own.is(*address)) {
                    return Err(failures::next_hop_leads_back(site.key.as_str(), own));
                }
                (site, ring::wall_clock().plus(FIXED_SITE_TTL))
            }
            Destination::Mx => inner.by_mx(domain, transport).await?,
        };
        let site = Arc::new(site);
        let mut sites = inner.sites.borrow_mut();
        sites.insert(key.clone(), Arc::clone(&site), valid_until, ring::wall_clock());
        Ok((site, valid_until))
    }

    /// Addresses of a site's hosts, in the order to try: by preference, equal ones shuffled, the
    /// addresses of a host interleaved by family. Err: there are none.
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
                Ok((self.mx_site(domain, hosts, transport)?, answer.valid_until))
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
                Ok((self.mx_site(domain, hosts, transport)?, answer.valid_until))
            }
            Err(Failure::NoData | Failure::NoSuchDomain) => Err(failures::no_mx_no_address(domain)),
            Err(failure) => Err(failures::host_failed(domain, &failure)),
        }
    }

    /// The site of a domain with those of these MX hosts that its policy permits.
    fn mx_site(
        &self,
        domain: &str,
        hosts: Vec<SiteHost>,
        transport: Transport,
    ) -> Result<Site, Outcome> {
        let hosts = policy::permitted(&transport.tls, domain, SiteKind::Mx, hosts)?;
        Ok(self.site(SiteKind::Mx, mx::shown(&hosts), hosts, transport))
    }

    /// A site of one host that does not come from MX records.
    fn fixed(
        &self,
        kind: SiteKind,
        host: config::HostName,
        port: u16,
        transport: Transport,
    ) -> Site {
        let text = match &host {
            config::HostName::Name(name) => format!("host:{name}"),
            config::HostName::Address(address) => format!("[{address}]"),
        };
        self.site(kind, text, vec![SiteHost { preference: 0, host, port }], transport)
    }

    fn site(
        &self,
        kind: SiteKind,
        text: String,
        hosts: Vec<SiteHost>,
        transport: Transport,
    ) -> Site {
        let port = hosts.first().map_or(self.route.port, |host| host.port);
        let label = site::label(&text, port, &site::transport_mark(&transport, &self.files));
        Site { key: SiteKey::new(kind, &label), kind, hosts: hosts.into(), transport }
    }
}
