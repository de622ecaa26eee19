//! Stub resolver with a cache. hickory-proto for the wire, the shard's own UDP and TCP.
#![allow(unused_variables, dead_code, clippy::todo, missing_docs)]

use crate::config;
use crate::message::Timestamp;
use std::net::IpAddr;
use std::rc::Rc;

/// One shard's resolver. Clones share it.
#[derive(Clone)]
pub struct Resolver {}

#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    pub records: Vec<T>,
    /// Until then the answer is good.
    pub valid_until: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mx {
    pub preference: u16,
    /// Lower-case, without the final dot; empty for the root (null MX, RFC 7505).
    pub host: Box<str>,
}

/// Why there is no answer. Kept apart, because mail ends differently by each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// NXDOMAIN.
    NoSuchDomain,
    /// The name exists, records of this type do not.
    NoData,
    /// The name server said SERVFAIL, REFUSED or the like; its words.
    ServerFailed(Box<str>),
    /// No name server answered in time.
    TimedOut,
    /// The name cannot be asked for (too long, empty label).
    BadName,
}

impl Resolver {
    pub fn new(settings: config::Dns) -> Resolver {
        todo!()
    }
    /// MX records of a domain, in no order.
    pub async fn mx(&self, domain: &str) -> Result<Rc<Answer<Mx>>, Failure> {
        todo!()
    }
    /// A and AAAA together, AAAA and A interleaved by the caller; NoData only when both are.
    pub async fn addresses(&self, host: &str) -> Result<Rc<Answer<IpAddr>>, Failure> {
        todo!()
    }
}
