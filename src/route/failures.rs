//! Every reason for which a destination has no route, with the reply for its recipients. *Pure.*
//!
//! Only definite answers of the DNS are Refused; all else is Deferred.

use super::mx::Unusable;
use crate::dns::Failure;
use crate::message::{Outcome, Reason, Stage, Status};
use std::net::SocketAddr;

/// Bad destination system address (RFC 3463 3.2).
const BAD_DOMAIN: Status = Status(5, 1, 2);
/// Recipient address has null MX (RFC 7505 5.1).
const NULL_MX: Status = Status(5, 1, 10);
/// Unable to route (RFC 3463 3.5).
const NO_ROUTE: Status = Status(5, 4, 4);
/// Routing loop detected (RFC 3463 3.5).
const LOOP: Status = Status(5, 4, 6);
/// REQUIRETLS support required (RFC 8689 9).
const UNAUTHENTICATED_MX: Status = Status(5, 7, 30);
/// Directory server failure (RFC 3463 3.5).
const DNS_FAILED: Status = Status(4, 4, 3);
/// Unable to route, for now: an operator can correct it.
const NO_ROUTE_YET: Status = Status(4, 4, 4);

/// Routing loop detected, for now: an operator can correct it.
const LOOP_YET: Status = Status(4, 4, 6);

fn refused(status: Status, text: String) -> Outcome {
    Outcome::Refused(reason(status, text))
}

fn deferred(status: Status, text: String) -> Outcome {
    Outcome::Deferred(reason(status, text))
}

fn reason(status: Status, mut text: String) -> Reason {
    let mut end = text.len().min(Reason::TEXT_LENGTH_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    Reason::ours(Stage::Route, status, text)
}

pub(super) fn no_domain() -> Outcome {
    let text = "this relay has no mailboxes of its own, and no smart host is configured";
    refused(BAD_DOMAIN, text.to_owned())
}

pub(super) fn bad_literal(domain: &str) -> Outcome {
    refused(BAD_DOMAIN, format!("{domain} is not an address literal"))
}

pub(super) fn bad_domain(domain: &str) -> Outcome {
    refused(BAD_DOMAIN, format!("{domain} is not a valid DNS name"))
}

pub(super) fn no_mx_no_address(domain: &str) -> Outcome {
    refused(BAD_DOMAIN, format!("domain {domain} has neither MX nor address records"))
}

pub(super) fn unusable_mx(domain: &str, unusable: Unusable) -> Outcome {
    match unusable {
        Unusable::Null => refused(NULL_MX, format!("domain {domain} accepts no mail (null MX)")),
        Unusable::Loops => {
            refused(LOOP, format!("mail for {domain} loops back: this relay is its best MX"))
        }
        Unusable::NoHostName(host) => {
            refused(NO_ROUTE, format!("MX {host} of domain {domain} is not a host name"))
        }
    }
}

/// Mail that requires REQUIRETLS, for a domain whose MX records are not authenticated.
pub(super) fn unauthenticated_mx(domain: &str) -> Outcome {
    let text = format!(
        "the message requires REQUIRETLS, and the MX records of {domain} are not authenticated"
    );
    refused(UNAUTHENTICATED_MX, text)
}

/// The best host of a site is this relay itself.
pub(super) fn leads_back(key: &str, own: SocketAddr) -> Outcome {
    refused(
        LOOP,
        format!(
            "mail for {} loops back: its best host, {}, is this relay",
            site_name(key),
            shown(own)
        ),
    )
}

/// The same for a host that the operator configured: a mistake there must not bounce queued mail.
pub(super) fn next_hop_leads_back(key: &str, own: SocketAddr) -> Outcome {
    let shown = shown(own);
    let name = site_name(key);
    // A host that was configured by its address has the same name.
    let at = if name == shown { String::new() } else { format!(", {shown},") };
    deferred(LOOP_YET, format!("the configured next hop {name}{at} is this relay itself"))
}

/// The name of a site in a text for senders and operators: without the kind that its key has in
/// front, the marks of its transport, and the port of all mail.
fn site_name(key: &str) -> &str {
    let name = key.strip_prefix("mx:").or_else(|| key.strip_prefix("host:")).unwrap_or(key);
    let name = name.split_once('+').map_or(name, |(name, _)| name);
    name.strip_suffix(":25").unwrap_or(name)
}

/// An address in the form `[192.0.2.1]:25`.
fn shown(address: SocketAddr) -> String {
    format!("[{}]:{}", address.ip(), address.port())
}

/// The MX lookup failed.
pub(super) fn mx_failed(domain: &str, failure: Failure) -> Outcome {
    match failure {
        Failure::NoSuchDomain => {
            refused(BAD_DOMAIN, format!("domain {domain} does not exist (NXDOMAIN)"))
        }
        Failure::NoData => no_mx_no_address(domain),
        Failure::BadName => bad_domain(domain),
        Failure::ServerFailed(words) => deferred(DNS_FAILED, words.into()),
        Failure::TimedOut => {
            deferred(DNS_FAILED, format!("no DNS server answered in time for MX {domain}"))
        }
    }
}

/// The address lookup of a host failed for now.
pub(super) fn host_failed(host: &str, failure: &Failure) -> Outcome {
    match failure {
        Failure::ServerFailed(words) => deferred(DNS_FAILED, words.to_string()),
        _ => deferred(
            DNS_FAILED,
            format!("no DNS server answered in time for the addresses of {host}"),
        ),
    }
}

/// By definite answers of the DNS, no host of a site has an address.
pub(super) fn no_address(key: &str, host: &str, failure: Option<&Failure>) -> Outcome {
    refused(NO_ROUTE, no_address_text(key, host, failure))
}

/// The same for a host that the operator configured: a mistake there must not bounce queued mail.
pub(super) fn no_next_hop(key: &str, host: &str, failure: Option<&Failure>) -> Outcome {
    let text = no_address_text(key, host, failure);
    // It may have been written as in Postfix, whose relayhost is looked up by MX unless it is in
    // brackets.
    deferred(
        NO_ROUTE_YET,
        match failure {
            Some(Failure::NoData) => format!("{text}; a configured host is never looked up by MX"),
            _ => text,
        },
    )
}

fn no_address_text(key: &str, host: &str, failure: Option<&Failure>) -> String {
    let why = match failure {
        Some(Failure::NoSuchDomain) => "does not exist (NXDOMAIN)",
        Some(Failure::BadName) => "is not a valid DNS name",
        None => "has only addresses that mail cannot be sent to",
        Some(_) => "has no address records",
    };
    format!("no host of {} has an address: {host} {why}", site_name(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_names_a_host_as_it_was_configured_and_once() {
        let own: SocketAddr = ([127, 0, 0, 1], 3700).into();
        for (key, name) in [
            ("[127.0.0.1]:3700", "[127.0.0.1]:3700 is this relay itself"),
            ("[127.0.0.1]:3700+tls-off", "[127.0.0.1]:3700 is this relay itself"),
            ("host:vm:3700", "vm:3700, [127.0.0.1]:3700, is this relay itself"),
            ("host:vm:25", "vm, [127.0.0.1]:3700, is this relay itself"),
        ] {
            let text = next_hop_leads_back(key, own).reason().text.to_string();
            assert_eq!(text, format!("the configured next hop {name}"));
        }
    }
}
