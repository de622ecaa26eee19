//! Detects addresses that lead back to this relay.
//!
//! Of the hosts with their addresses, only those better than this relay are kept (RFC 5321 5.1).
//! Comparing names is not enough: mailing lists are full of domains whose MX is `localhost`, and a
//! relay that trusts loopback would send itself such mail until there are too many Received fields.
//! It must not know connections.

use super::candidates::LookedUp;
use crate::ring::Udp;
use std::net::{IpAddr, SocketAddr};

/// The addresses that this relay listens on.
pub(super) struct LoopDetection {
    listeners: Vec<SocketAddr>,
}

impl LoopDetection {
    pub(super) fn new(listeners: Vec<SocketAddr>) -> LoopDetection {
        LoopDetection { listeners }
    }

    /// Keeps only hosts that are better than the best one that is this relay; returns the address
    /// of that one.
    pub(super) fn leave_out(&self, looked_up: &mut Vec<LookedUp<'_>>) -> Option<SocketAddr> {
        let mut best: Option<(u16, SocketAddr)> = None;
        for one in looked_up.iter() {
            let Ok(addresses) = &one.addresses else { continue };
            let preference = one.host.preference;
            if best.is_some_and(|(kept, _)| kept <= preference) {
                continue;
            }
            let mut with_port = addresses.iter().map(|ip| SocketAddr::new(*ip, one.host.port));
            if let Some(own) = with_port.find(|address| self.is(*address)) {
                best = Some((preference, own));
            }
        }
        let (own_preference, address) = best?;
        looked_up.retain(|one| one.host.preference < own_preference);
        Some(address)
    }

    /// Whether a connection to `address` would reach this relay.
    pub(super) fn is(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.listeners.iter().any(|listener| {
            listener.port() == address.port()
                && (listener.ip().to_canonical() == ip
                    || (is_heard_by(listener.ip(), ip) && Udp::is_local(ip)))
        })
    }
}

/// Whether `listener` accepts connections to `ip`; `[::]` accepts IPv4 too.
fn is_heard_by(listener: IpAddr, ip: IpAddr) -> bool {
    listener.is_unspecified() && (listener.is_ipv6() || ip.is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::super::SiteHost;
    use super::*;
    use crate::config::HostName;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn own(listeners: &[(IpAddr, u16)]) -> LoopDetection {
        LoopDetection::new(listeners.iter().map(|listener| SocketAddr::from(*listener)).collect())
    }

    fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
        Ipv4Addr::new(a, b, c, d).into()
    }

    #[test]
    fn an_address_is_our_own_by_what_we_listen_on() {
        let any4: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        let any6: IpAddr = Ipv6Addr::UNSPECIFIED.into();
        let mapped: IpAddr = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
        let (here, there) = (v4(127, 0, 0, 1), v4(192, 0, 2, 1));
        for (listener, address, expected) in [
            ((here, 25), (here, 25), true),
            ((here, 25), (mapped, 25), true),
            ((here, 2525), (here, 25), false),
            ((here, 25), (v4(127, 0, 0, 2), 25), false),
            ((any4, 25), (v4(127, 0, 0, 2), 25), true),
            ((any6, 25), (here, 25), true),
            ((any4, 25), (Ipv6Addr::LOCALHOST.into(), 25), false),
            // Not an address of this machine, even for a listener on all addresses.
            ((any4, 25), (there, 25), false),
            ((there, 25), (there, 25), true),
        ] {
            let found = own(&[listener]).is(address.into());
            assert_eq!(found, expected, "{listener:?} {address:?}");
        }
    }

    #[test]
    fn this_relay_and_all_hosts_that_are_no_better_are_left_out() {
        let host = |preference, name: &str| SiteHost {
            preference,
            host: HostName::Name(name.into()),
            port: 25,
        };
        let hosts = [host(0, "a.test"), host(1, "self.test"), host(1, "b.test"), host(2, "c.test")];
        let mut looked_up: Vec<LookedUp<'_>> = hosts
            .iter()
            .map(|host| {
                let is_self = matches!(&host.host, HostName::Name(name) if &**name == "self.test");
                let last = if is_self { 9 } else { 1 };
                LookedUp { host, addresses: Ok(vec![v4(192, 0, 2, last)]) }
            })
            .collect();
        let own = own(&[(v4(192, 0, 2, 9), 25)]);
        assert_eq!(own.leave_out(&mut looked_up), Some((v4(192, 0, 2, 9), 25).into()));
        assert_eq!(looked_up.len(), 1);
        assert_eq!(own.leave_out(&mut looked_up), None);
    }
}
