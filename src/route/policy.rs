//! What the policy of a domain and a message require of the hosts. *Pure.*
//!
//! It is decided for each recipient domain before domains with the same hosts are grouped into one
//! site: the policy becomes part of the site's transport, and two domains with the same MX hosts
//! and different policies are two sites. Policies that a domain publishes (MTA-STS, DANE) belong
//! here.
//!
//! | the message requires | hosts named by | policy | which hosts |
//! | --- | --- | --- | --- |
//! | nothing | any | as the route says | all |
//! | REQUIRETLS | the operator, an address literal | verified TLS and REQUIRETLS | all |
//! | REQUIRETLS | MX records | the same | only the recipient's domain itself |
//! | REQUIRETLS | no host is left | Refused 5.7.30 | |
//!
//! REQUIRETLS (RFC 8689 4.2.1): a certificate is worth something only if the host's name comes from
//! a trusted source. The operator names a next hop, and the sender the recipient's domain; but MX
//! records can be forged by an attacker. Without DNSSEC or MTA-STS to authenticate them, mail to MX
//! hosts is returned.

use super::{SiteHost, SiteKind, TlsPolicy, failures, mx};
use crate::config::{HostName, TransportPolicy};
use crate::message::{Outcome, RouteKey};

/// The TLS policy for `key`'s domain, where the route has the policy `configured`.
pub(super) fn decide(key: &RouteKey, configured: TransportPolicy) -> TlsPolicy {
    if key.demands.require_tls { TlsPolicy::RequireTls } else { configured.tls.into() }
}

/// The hosts that `policy` permits for mail to `domain`; Err when there is none.
pub(super) fn permitted(
    policy: &TlsPolicy,
    domain: &str,
    kind: SiteKind,
    mut hosts: Vec<SiteHost>,
) -> Result<Vec<SiteHost>, Outcome> {
    match (policy, kind) {
        (TlsPolicy::RequireTls, SiteKind::Mx) => {
            hosts.retain(
                |one| matches!(&one.host, HostName::Name(name) if mx::is_same_host(name, domain)),
            );
            if hosts.is_empty() { Err(failures::unauthenticated_mx(domain)) } else { Ok(hosts) }
        }
        (TlsPolicy::RequireTls, SiteKind::NextHop | SiteKind::Literal)
        | (TlsPolicy::Off | TlsPolicy::Opportunistic | TlsPolicy::Mandatory(_), _) => Ok(hosts),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::config::DeliveryTls;
    use crate::message::Demands;
    use crate::route::Verify;

    fn hosts(names: &[&str]) -> Vec<SiteHost> {
        let host = |name: &&str| SiteHost {
            preference: 0,
            host: HostName::Name((*name).into()),
            port: 25,
        };
        names.iter().map(host).collect()
    }

    #[test]
    fn requirements_of_the_message_override_the_route() {
        let plain = RouteKey::of_domain("a.test");
        let demands = Demands { require_tls: true };
        let demanding = RouteKey { demands, ..plain.clone() };
        for (tls, policy) in [
            (DeliveryTls::Off, TlsPolicy::Off),
            (DeliveryTls::May, TlsPolicy::Opportunistic),
            (DeliveryTls::Must, TlsPolicy::Mandatory(Verify::Nothing)),
            (DeliveryTls::Verify, TlsPolicy::Mandatory(Verify::HostName)),
        ] {
            let configured = TransportPolicy { tls, ..TransportPolicy::ORDINARY };
            assert_eq!(decide(&plain, configured), policy);
            assert_eq!(decide(&demanding, configured), TlsPolicy::RequireTls);
        }
    }

    #[test]
    fn require_tls_goes_to_hosts_whose_name_is_authenticated() {
        let require = TlsPolicy::RequireTls;
        let all = ["a.test", "mx.a.test"];
        let kept = |policy: &TlsPolicy, kind, names: &[&str]| {
            permitted(policy, "a.test", kind, hosts(names)).map(|hosts| hosts.len())
        };
        assert_eq!(kept(&TlsPolicy::Opportunistic, SiteKind::Mx, &all), Ok(2));
        assert_eq!(kept(&require, SiteKind::NextHop, &all), Ok(2));
        assert_eq!(kept(&require, SiteKind::Literal, &all), Ok(2));
        assert_eq!(kept(&require, SiteKind::Mx, &all), Ok(1));
        let none = kept(&require, SiteKind::Mx, &all[1..]).unwrap_err();
        assert!(matches!(&none, Outcome::Refused(_)));
        assert_eq!(none.reason().status.to_string(), "5.7.30");
    }
}
