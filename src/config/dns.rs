//! `[dns]`: name servers.

use super::declare::{Entries, Setting, Shape, table};
use super::kinds::{count, days, duration, list, minutes, ms, noted, seconds};
use super::table::Table;
use super::unit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

table! {
    /// Name servers.
    pub struct Dns {
        /// Resolvers to ask, in this order; at most 8; port 53 unless given. A caching resolver on
        /// this machine or network is recommended.
        servers: Vec<SocketAddr> = Servers;
        /// Wait for one answer. Then the next server is asked.
        timeout: Duration = duration(seconds(3), ms(100)..=minutes(1));
        /// Rounds over all servers. Then the recipients are deferred, as [retry] says.
        attempts: u32 = count(3, 1..=10);
        /// Answers in the cache of a shard. At the limit, old ones are removed.
        cache_entries_max: usize = count(100_000, 100..=10_000_000);
        /// Longest time that an answer is cached, whatever its TTL.
        ttl_max: Duration = duration(days(1), seconds(1)..=days(7));
        /// How long a failure (SERVFAIL, no answer) is cached (RFC 9520 3.2: 1 second to 5
        /// minutes).
        failure_ttl: Duration = duration(seconds(30), seconds(1)..=minutes(5));
    }
}

/// Asked when no server is configured (as in resolv.conf(5)).
const LOCAL_NAME_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
/// Each server that does not answer costs a timeout in every round.
const SERVERS_MAX: usize = 8;

/// A list of name servers; by default those of the machine.
struct Servers;

impl Servers {
    fn setting() -> impl Setting<Vec<SocketAddr>> {
        let example = vec![
            SocketAddr::from(([192, 0, 2, 53], 53)),
            SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53], 53)),
        ];
        let servers =
            list("list of addresses", example, unit::read_server_address, SocketAddr::to_string);
        noted("the name servers of /etc/resolv.conf, or 127.0.0.1", servers)
    }
}

impl Setting<Vec<SocketAddr>> for Servers {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> Vec<SocketAddr> {
        let place = table.place_of(key);
        let mut servers = match table.list(key, unit::read_server_address) {
            Some(listed) => {
                if listed.is_empty() {
                    table.fault(&place, key, "at least one name server is needed");
                }
                if listed.len() > SERVERS_MAX {
                    table.fault(&place, key, format!("at most {SERVERS_MAX} name servers"));
                }
                let mut servers = Vec::new();
                for (server, place) in listed {
                    if servers.contains(&server) {
                        table.fault(&place, key, format!("\"{server}\" is named twice"));
                    }
                    servers.push(server);
                }
                servers
            }
            None => table.report().machine.dns_servers.clone(),
        };
        if servers.is_empty() {
            servers.push(LOCAL_NAME_SERVER);
        }
        servers
    }

    fn show(&self, value: &Vec<SocketAddr>, key: &'static str, into: &mut Entries) {
        Servers::setting().show(value, key, into);
    }

    fn shape(&self) -> Shape {
        Servers::setting().shape()
    }
}
