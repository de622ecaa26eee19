//! Recipient domain to site: rules, smart host, MX, address literals.
#![allow(unused_variables, dead_code, clippy::todo, missing_docs)]

use crate::config;
use crate::dns::Resolver;
use crate::message::{Outcome, Timestamp};
use std::net::SocketAddr;
use std::sync::Arc;

/// A destination as the receiver runs it. Domains with the same hosts share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Site {
    /// Equal for equal sites, on every shard; for listings: `mx:mx1.example.net,mx2.example.net`,
    /// `host:relay.example.net:25`, `[192.0.2.1]:25`.
    pub key: Arc<str>,
    /// In order of preference; never empty.
    pub hosts: Vec<SiteHost>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SiteHost {
    pub preference: u16,
    pub host: config::HostName,
    pub port: u16,
}

/// Where to connect, in the order to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Host name, or the address in brackets.
    pub host: Box<str>,
    pub address: SocketAddr,
}

/// One shard's router. Clones share it.
#[derive(Clone)]
pub struct Router {}

impl Router {
    /// `seed` shuffles hosts of equal preference.
    pub fn new(host_name: Arc<str>, route: config::Route, resolver: Resolver, seed: u64) -> Router {
        todo!()
    }
    /// The site of a lower-case recipient domain (or address literal in brackets), and until when
    /// that holds; or what becomes of its recipients instead (Deferred or Refused).
    pub async fn site(&self, domain: &str) -> Result<(Arc<Site>, Timestamp), Outcome> {
        todo!()
    }
    /// Addresses of a site's hosts, in the order to try: by preference, equal ones shuffled, the
    /// addresses of a host interleaved by family. Err: none to be had.
    pub async fn candidates(&self, site: &Site) -> Result<Vec<Candidate>, Outcome> {
        todo!()
    }
}
