//! Stub resolver with a cache: MX records and addresses, as one shard needs them.
//!
//! hickory-proto for the messages, `ring` for UDP and TCP. A name goes in, an [`Answer`] or a
//! [`Failure`] comes out; kinds of failures are distinguished, because each has another outcome for
//! the mail. It must not know mail: `route` decides what a null MX or a missing one means.
//!
//! ```text
//! Resolver -> lookup -> cache
//!                |  one query for all callers with that question; aliases
//!                +----> lanes (pure): which lookup runs next
//!                +----> servers: rounds, timeouts, UDP, then TCP
//!                          +----> wire (pure): writes queries, reads answers
//! ```
//!
//! It trusts the path to its servers and asks them for recursion. It does not fall back to queries
//! without EDNS: one's own resolver is expected to support it.

mod aliases;
pub(crate) mod cache;
#[cfg(test)]
pub(crate) mod fake;
mod lanes;
mod lookup;
mod record;
mod servers;
#[cfg(test)]
pub(crate) mod simulator;
#[cfg(test)]
mod tests;
mod wire;

use crate::config;
use crate::message::Timestamp;
use crate::ring;
use futures_lite::future::zip;
use lookup::{Found, Lookups};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;
use wire::{Kind, Question};

/// One shard's resolver. Clones share it, with its cache.
#[derive(Clone)]
pub struct Resolver {
    lookups: Rc<Lookups>,
    /// How long addresses of one family are cached when the lookup of the other has failed.
    failure_ttl: Duration,
    ttl_max: Duration,
}

/// Records of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// The records; never empty, and at most [`crate::limits::DNS_RECORDS_MAX`].
    pub records: Vec<T>,
    /// When the answer expires.
    pub valid_until: Timestamp,
}

/// A mail exchanger (RFC 5321 5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mx {
    /// Hosts with a lower one are tried first.
    pub preference: u16,
    /// Lower-case, without the final dot; empty for the root (null MX, RFC 7505).
    pub host: Box<str>,
}

/// Why there is no answer. Each kind has another outcome for the mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// NXDOMAIN.
    NoSuchDomain,
    /// The name exists, records of this type do not.
    NoData,
    /// The name server answered SERVFAIL, REFUSED or the like, or could not be reached; the text
    /// names server and question.
    ServerFailed(Box<str>),
    /// No name server answered in time.
    TimedOut,
    /// The name cannot be looked up (too long, empty label).
    BadName,
}

impl Resolver {
    /// A resolver with an empty cache. It sends no query by itself.
    pub fn new(settings: config::Dns) -> Resolver {
        let failure_ttl = settings.failure_ttl;
        let ttl_max = settings.ttl_max;
        Resolver { lookups: Rc::new(Lookups::new(settings)), failure_ttl, ttl_max }
    }

    /// MX records of a domain, in no particular order. Concurrent calls for one domain share one
    /// query.
    pub async fn mx(&self, domain: &str) -> Result<Rc<Answer<Mx>>, Failure> {
        let question = Question::new(domain, Kind::Mx).ok_or(Failure::BadName)?;
        if is_localhost(&question.name) {
            return Err(Failure::NoData);
        }
        match self.lookups.find(question).await? {
            Found::Mx(answer) => Ok(answer),
            // The cache key has the record type, so this is of that type.
            Found::Addresses(_) => Err(Failure::NoData),
        }
    }

    /// A and AAAA records together; the caller interleaves them. NoData or NoSuchDomain only when
    /// it is the answer to both.
    ///
    /// When one lookup fails and the other has records, those are the answer, but not for long.
    pub async fn addresses(&self, host: &str) -> Result<Rc<Answer<IpAddr>>, Failure> {
        let four = Question::new(host, Kind::A).ok_or(Failure::BadName)?;
        if is_localhost(&four.name) {
            return Ok(Rc::new(self.localhost()));
        }
        let six = Question { name: Rc::clone(&four.name), kind: Kind::Aaaa };
        match zip(self.addresses_of(four), self.addresses_of(six)).await {
            (Ok(four), Ok(six)) => Ok(Rc::new(Answer {
                records: four.records.iter().chain(&six.records).copied().collect(),
                valid_until: four.valid_until.min(six.valid_until),
            })),
            (Ok(half), Err(failure)) | (Err(failure), Ok(half)) => match failure {
                Failure::NoData | Failure::NoSuchDomain => Ok(half),
                _ => Ok(Rc::new(Answer {
                    records: half.records.clone(),
                    valid_until: half.valid_until.min(ring::wall_clock().plus(self.failure_ttl)),
                })),
            },
            (Err(four), Err(six)) => Err(worse(four, six)),
        }
    }

    async fn addresses_of(&self, question: Question) -> Result<Rc<Answer<IpAddr>>, Failure> {
        match self.lookups.find(question).await? {
            Found::Addresses(answer) => Ok(answer),
            // The cache key has the record type, so this is of that type.
            Found::Mx(_) => Err(Failure::NoData),
        }
    }

    fn localhost(&self) -> Answer<IpAddr> {
        Answer {
            records: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            valid_until: ring::wall_clock().plus(self.ttl_max),
        }
    }
}

/// `localhost` and its subdomains are never looked up in the DNS (RFC 6761 6.3).
fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// The less definite one of two failures: a name is not reported as missing while one of its
/// lookups has failed.
fn worse(one: Failure, other: Failure) -> Failure {
    let doubt = |failure: &Failure| match failure {
        Failure::NoSuchDomain => 0,
        Failure::NoData => 1,
        Failure::BadName => 2,
        Failure::TimedOut => 3,
        Failure::ServerFailed(_) => 4,
    };
    if doubt(&one) >= doubt(&other) { one } else { other }
}
