//! `[access]`: who may relay.

use super::auth::Hourly;
use super::declare::table;
use super::kinds::{inline, list, needed, parsed, tables};
use super::table::Table;
use super::unit::{self, Fault};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Largest number of networks with limits: they are searched one by one for each connection.
const LIMITS_MAX: usize = 1000;

table! {
    /// Which clients may send to any domain, and which proxies may name the client. Other clients
    /// are refused with 550 5.7.1 at RCPT, unless they log in.
    pub struct Access {
        /// Networks whose clients may relay, as ADDRESS/BITS; an address alone is one host.
        /// Networks wider than /8 (IPv4) or /16 (IPv6) are refused: that would be an open relay,
        /// and soon on every block list. These clients, and users who have logged in, may also use
        /// ETRN (RFC 1985), but not on submission listeners: deferred mail for a domain is tried at
        /// once (250), or there is none (251).
        relay_networks: Vec<Network> = list("list of networks", loopback(), relay_network, show);
        /// Proxies whose connections must begin with a PROXY header, version 1 or 2, as HAProxy
        /// sends it. All rules and limits use the client address in the header, so name only
        /// machines under your control. Errors are logged at most once a minute.
        proxy_networks: Vec<Network> = list("list of networks", Vec::new(), proxy_network, show);
        /// Proxies that may use XCLIENT, as Postfix and nginx do. The attributes ADDR and PORT
        /// are used; LOGIN is refused with 550 5.7.0, because users log in with AUTH. As for
        /// proxy_networks, name only machines under your control.
        xclient_networks: Vec<Network> = list("list of networks", Vec::new(), proxy_network, show);
        /// Limits by network.
        limits("limit"): Vec<NetworkLimit> = tables(LIMITS_MAX);
    }
}

table! {
    /// How much all clients of a network together may send in an hour, unless they log in. The
    /// first network that contains the client applies.
    pub struct NetworkLimit {
        /// The network.
        network: Network = needed(parsed("network", EXAMPLE, unit::read_any_network, show));
        /// How much.
        hourly: Hourly = inline();
    }
    check = check_limits
}

const EXAMPLE: Network = Network { address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 0)), prefix: 24 };

/// An address block in CIDR form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Any address of the block.
    pub address: IpAddr,
    /// Length of the prefix in bits: 0 to 32 or 0 to 128.
    pub prefix: u8,
}

impl Network {
    /// Whether `address` is in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(block), IpAddr::V4(one)) => {
                let shift = 32 - u32::from(self.prefix.min(32));
                (u64::from(block.to_bits()) >> shift) == (u64::from(one.to_bits()) >> shift)
            }
            (IpAddr::V6(block), IpAddr::V6(one)) => {
                let shift = 128 - u32::from(self.prefix.min(128));
                block.to_bits().checked_shr(shift) == one.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl Access {
    /// Whether a client at `address` may relay. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn may_relay(&self, address: IpAddr) -> bool {
        self.relay_networks.iter().any(|network| network.contains(address))
    }

    /// Whether a connection from `address` begins with a PROXY header.
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxy_networks.iter().any(|network| network.contains(address))
    }

    /// Whether a client at `address` may use XCLIENT.
    pub fn may_xclient(&self, address: IpAddr) -> bool {
        self.xclient_networks.iter().any(|network| network.contains(address))
    }
}

fn loopback() -> Vec<Network> {
    vec![
        Network { address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), prefix: 8 },
        Network { address: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 },
    ]
}

fn show(network: &Network) -> String {
    unit::show_network(network)
}

fn relay_network(text: &str) -> Result<Network, Fault> {
    let what = "would relay for strangers; name only the networks of your own clients";
    unit::read_network(text, what)
}

fn proxy_network(text: &str) -> Result<Network, Fault> {
    let what = "would let any client forge its address; name only your own proxies";
    unit::read_network(text, what)
}

/// A network that follows one that contains it would never apply.
fn check_limits(limits: &[NetworkLimit], tables: &[Table<'_>]) {
    for (position, (limit, table)) in limits.iter().zip(tables).enumerate() {
        let network = limit.network;
        let mut before = limits.iter().zip(tables).take(position);
        let above = before.find(|(above, of)| {
            of.has("network")
                && above.network.prefix <= network.prefix
                && above.network.contains(network.address)
        });
        if let Some((above, _)) = above
            && table.has("network")
            && !table.is_wrong("network")
        {
            let above = unit::show_network(&above.network);
            let what = format!("never reached: the limit of {above} above matches first");
            table.fault(&table.place_of("network"), "network", what);
        }
    }
}
