//! Recipients that a transaction has already: each gets the message once. *Pure.*
//!
//! RFC 5321 4.1.1.3 leaves a second RCPT with the same address open; it is accepted like the first,
//! and what the first said (NOTIFY, ORCPT) holds, as with Postfix. Two addresses are the same if
//! their local-parts are, byte for byte, and their domains without regard to case (RFC 5321 2.4).

use crate::message::{Address, Recipient};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Up to so many recipients are compared one by one: cheaper than an index.
const COMPARED_MAX: usize = 8;

/// An index of a transaction's recipients.
#[derive(Default)]
pub(super) struct Duplicates {
    /// Places of recipients by the hash of their addresses; of equal hashes the last.
    by_hash: BTreeMap<u64, usize>,
    indexed: usize,
}

impl Duplicates {
    /// Whether `address` is among `recipients`, which only grow from call to call.
    pub(super) fn contains(&mut self, recipients: &[Recipient], address: &Address) -> bool {
        if recipients.len() <= COMPARED_MAX {
            return recipients.iter().any(|one| is_same(&one.address, address));
        }
        for (place, one) in recipients.iter().enumerate().skip(self.indexed) {
            self.by_hash.insert(hash(&one.address), place);
        }
        self.indexed = recipients.len();
        let found = self.by_hash.get(&hash(address)).and_then(|place| recipients.get(*place));
        found.is_some_and(|one| {
            is_same(&one.address, address)
                // Another address with the same hash: hardly ever.
                || recipients.iter().any(|one| is_same(&one.address, address))
        })
    }
}

fn parts(address: &Address) -> (&str, &str) {
    let text = address.as_str();
    text.rsplit_once('@').unwrap_or((text, ""))
}

fn is_same(one: &Address, other: &Address) -> bool {
    let ((local, domain), (other_local, other_domain)) = (parts(one), parts(other));
    domain.eq_ignore_ascii_case(other_domain)
        && (local == other_local
            || is_postmaster(local, domain) && is_postmaster(other_local, domain))
}

/// `postmaster` without a domain is the same in upper and lower case (RFC 5321 4.1.1.3).
fn is_postmaster(local: &str, domain: &str) -> bool {
    domain.is_empty() && local.eq_ignore_ascii_case("postmaster")
}

fn hash(address: &Address) -> u64 {
    let (local, domain) = parts(address);
    let mut hasher = DefaultHasher::new();
    if is_postmaster(local, domain) {
        "postmaster".hash(&mut hasher);
    } else {
        local.hash(&mut hasher);
    }
    domain.bytes().for_each(|byte| byte.to_ascii_lowercase().hash(&mut hasher));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipients(addresses: &[&str]) -> Vec<Recipient> {
        let one =
            |text: &&str| Recipient { address: Address::new(*text), notify: None, original: None };
        addresses.iter().map(one).collect()
    }

    #[test]
    fn domains_are_compared_in_any_case_and_local_parts_as_they_are() {
        let few = ["a@b.test", "Postmaster", "\"x@y\"@b.test"];
        let many: Vec<String> = (0..100).map(|n| format!("u{n}@c.test")).collect();
        let many: Vec<&str> = few.into_iter().chain(many.iter().map(String::as_str)).collect();
        for all in [&few[..], &many] {
            let all = recipients(all);
            let mut index = Duplicates::default();
            for (address, is_there) in [
                ("a@b.test", true),
                ("a@B.Test", true),
                ("A@b.test", false),
                ("a@c.test", false),
                ("postMASTER", true),
                ("postmaster@b.test", false),
                ("\"x@y\"@b.TEST", true),
                ("x@y", false),
            ] {
                let found = index.contains(&all, &Address::new(address));
                assert_eq!(found, is_there, "{address} in {}", all.len());
            }
        }
    }

    #[test]
    fn an_index_grows_with_the_transaction() {
        let mut all = Vec::new();
        let mut index = Duplicates::default();
        for round in 0..2 {
            for number in 0..2000 {
                let one = recipients(&[&format!("user{number}@{}.test", number % 7)]);
                let is_there = index.contains(&all, &one[0].address);
                assert_eq!(is_there, round == 1, "{number}");
                if !is_there {
                    all.extend(one);
                }
            }
        }
        assert_eq!(all.len(), 2000);
    }
}
