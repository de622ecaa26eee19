//! From MX records to the hosts of a site. *Pure.*

use super::SiteHost;
use crate::config::HostName;
use crate::dns::Mx;
use crate::limits;
use std::net::IpAddr;

/// Why no host of an MX set can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// Only `MX 0 .`: the domain accepts no mail (RFC 7505).
    Null,
    /// This relay is among the best hosts.
    Loops,
    /// No entry is a host name; this is the first.
    NoHostName(Box<str>),
}

/// The hosts to deliver to, best first, for a relay with the name `own_name`. The order of the
/// records does not matter.
pub(super) fn choose(own_name: &str, records: &[Mx], port: u16) -> Result<Vec<SiteHost>, Unusable> {
    if records.iter().all(|mx| mx.host.is_empty()) {
        return Err(Unusable::Null);
    }
    // The root beside other hosts is ignored (RFC 7505 3 forbids it). An IP address as text is not
    // a host name (RFC 5321 5.1), and using it would hide the mistake.
    let mut usable: Vec<&Mx> =
        records.iter().filter(|mx| is_host_name(&mx.host) && !is_address(&mx.host)).collect();
    if usable.is_empty() {
        let first = records.iter().map(|mx| &mx.host).filter(|host| !host.is_empty()).min();
        return Err(Unusable::NoHostName(first.cloned().unwrap_or_default()));
    }
    // No hosts that are not better than this relay: they would send it back (RFC 5321 5.1).
    let own = usable.iter().filter(|mx| is_same_host(own_name, &mx.host));
    if let Some(own_preference) = own.map(|mx| mx.preference).min() {
        usable.retain(|mx| mx.preference < own_preference);
    }
    if usable.is_empty() {
        return Err(Unusable::Loops);
    }
    usable.sort_by(|a, b| (a.preference, &a.host).cmp(&(b.preference, &b.host)));
    Ok(ranked(&usable, port))
}

/// Each host once, at its best preference; preferences become ranks.
fn ranked(sorted: &[&Mx], port: u16) -> Vec<SiteHost> {
    let mut hosts: Vec<SiteHost> = Vec::new();
    let mut preference_before = None;
    for mx in sorted {
        let host = HostName::Name(mx.host.clone());
        if hosts.len() >= limits::ROUTE_HOSTS_MAX || hosts.iter().any(|kept| kept.host == host) {
            continue;
        }
        let rank_before = hosts.last().map_or(0, |kept| kept.preference);
        let steps = preference_before.is_some_and(|before| before != mx.preference);
        hosts.push(SiteHost { preference: rank_before + u16::from(steps), host, port });
        preference_before = Some(mx.preference);
    }
    hosts
}

/// Labels of letters, digits, hyphens, underscores (they occur) and non-ASCII characters. The
/// separators of site keys are not allowed: a host name with one could forge the key of another
/// site, and get that site's mail.
pub(super) fn is_host_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | 0x80..);
    text.split('.').all(|label| !label.is_empty() && label.bytes().all(plain))
}

fn is_address(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
}

pub(super) fn is_same_host(own_name: &str, host: &str) -> bool {
    own_name.trim_end_matches('.').eq_ignore_ascii_case(host)
}

/// The hosts in the form of a site's label.
pub(super) fn shown(hosts: &[SiteHost]) -> String {
    let mut text = "mx:".to_owned();
    let mut before: Option<&SiteHost> = None;
    for host in hosts {
        if let Some(before) = before {
            text.push(if before.preference == host.preference { ',' } else { ';' });
        }
        match &host.host {
            HostName::Name(name) => text.push_str(name),
            HostName::Address(address) => text.push_str(&format!("[{address}]")),
        }
        before = Some(host);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::route::site::label;

    fn records(set: &[(u16, &str)]) -> Vec<Mx> {
        set.iter()
            .map(|(preference, host)| Mx { preference: *preference, host: (*host).into() })
            .collect()
    }

    fn key(hosts: &[SiteHost], port: u16) -> String {
        label(&shown(hosts), port, "")
    }

    /// The label of the site, or the reason why there is none.
    fn chosen(set: &[(u16, &str)]) -> Result<String, Unusable> {
        let hosts = choose("relay.test", &records(set), 25)?;
        Ok(key(&hosts, 25))
    }

    #[test]
    fn hosts_are_chosen_by_table() {
        for (set, expected) in [
            (&[(10, "a.test")][..], Ok("mx:a.test:25")),
            (&[(20, "b.test"), (10, "a.test")], Ok("mx:a.test;b.test:25")),
            (&[(10, "b.test"), (10, "a.test")], Ok("mx:a.test,b.test:25")),
            // Only the order of preferences matters.
            (&[(1, "a.test"), (1, "b.test"), (65535, "c.test")], Ok("mx:a.test,b.test;c.test:25")),
            // A host that is listed twice: its better preference.
            (&[(20, "a.test"), (10, "a.test"), (15, "b.test")], Ok("mx:a.test;b.test:25")),
            (&[(0, "")], Err(Unusable::Null)),
            (&[(0, ""), (10, "")], Err(Unusable::Null)),
            (&[(0, ""), (10, "a.test")], Ok("mx:a.test:25")),
            // Our own name excludes all hosts that are not better.
            (
                &[(10, "a.test"), (20, "relay.test"), (20, "b.test"), (30, "c.test")],
                Ok("mx:a.test:25"),
            ),
            (&[(10, "relay.test"), (20, "a.test")], Err(Unusable::Loops)),
            (&[(10, "relay.test"), (10, "a.test")], Err(Unusable::Loops)),
            (&[(10, "192.0.2.1")], Err(Unusable::NoHostName("192.0.2.1".into()))),
            (&[(10, "192.0.2.1"), (20, "a.test")], Ok("mx:a.test:25")),
            (&[(10, "a.test,b.test")], Err(Unusable::NoHostName("a.test,b.test".into()))),
            (&[(10, "a.test:25"), (10, "")], Err(Unusable::NoHostName("a.test:25".into()))),
        ] {
            assert_eq!(chosen(set), expected.map(str::to_owned), "{set:?}");
        }
    }

    #[test]
    fn the_same_set_in_any_order_is_the_same_site() {
        let mut set = vec![(10, "a.test"), (10, "b.test"), (20, "c.test"), (30, "d.test")];
        let expected = choose("relay.test", &records(&set), 25).unwrap();
        for _ in 0..set.len() {
            set.rotate_left(1);
            assert_eq!(choose("relay.test", &records(&set), 25).unwrap(), expected);
        }
        assert_ne!(key(&expected, 25), key(&expected, 26));
    }

    #[test]
    fn equal_keys_mean_equal_hosts_and_ranks_rise_by_one() {
        let one = choose("relay.test", &records(&[(1, "a.test"), (5, "b.test")]), 25).unwrap();
        let other = choose("relay.test", &records(&[(10, "a.test"), (20, "b.test")]), 25).unwrap();
        assert_eq!(one, other);
        assert_eq!(one.iter().map(|host| host.preference).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn many_hosts_are_cut_to_the_best_and_a_long_key_keeps_its_bound() {
        let names: Vec<String> =
            (0..40).map(|n| format!("host-number-{n:02}.example.test")).collect();
        let set: Vec<(u16, &str)> = names.iter().map(|name| (10, name.as_str())).collect();
        let hosts = choose("relay.test", &records(&set), 25).unwrap();
        assert_eq!(hosts.len(), limits::ROUTE_HOSTS_MAX);
        let whole = key(&hosts, 25);
        assert!(whole.len() <= limits::ROUTE_KEY_BYTES_MAX, "{whole}");
        assert!(whole.starts_with("mx:host-number-00.example.test,") && whole.ends_with(":25"));
        assert_eq!(whole, key(&hosts, 25));
        // Sets that differ only after the cut have different keys.
        assert_ne!(whole, key(&hosts[..15], 25));
    }

    #[test]
    fn a_host_name_has_labels_of_letters_digits_and_hyphens() {
        for (text, expected) in [
            ("mx1.example.test", true),
            ("_mx.example.test", true),
            ("müller.test", true),
            ("", false),
            ("a..b", false),
            ("a.", false),
            ("a,b", false),
            ("a;b", false),
            ("a:b", false),
            ("a~b", false),
            ("[a]", false),
        ] {
            assert_eq!(is_host_name(text), expected, "{text}");
        }
    }
}
