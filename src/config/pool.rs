//! `[pool]`: connections to other servers.

use super::declare::table;
use super::kinds::{count, days, duration, minutes, ms, optional, seconds};
use std::time::Duration;

table! {
    /// Connections to other servers. A site is all hosts that take mail for a domain; domains with
    /// the same MX hosts are one site.
    pub struct Pool {
        /// Connections to one site, of all shards together. Further mail for the site waits. More
        /// than a site likes costs 421 replies and reputation: ask the site, or raise it slowly.
        connections_per_site: usize = count(20, 1..=10_000);
        /// Messages over one connection. Then it is closed and another one is opened, so that load
        /// balancers can spread them.
        messages_per_connection: u32 = count(100, 1..=1_000_000);
        /// A connection with nothing to send is closed after this time.
        idle: Duration = duration(seconds(5), ms(100)..=minutes(5));
        /// A site that may have at least this many connections for each shard is served by several
        /// shards, each with its share. Smaller sites belong to one shard, which reuses connections
        /// best.
        stripe_connections_min: usize = count(4, 1..=1000);
        /// Outbound connections of one shard, over all sites. At the limit another site waits until
        /// an idle connection is closed. Three quarters of them may be still opening; while sites
        /// wait, those that have been opening longest are ended.
        connections_max: usize = count(4096, 1..=100_000);
        /// Connections to one remote address, of all shards together and whatever the sites: many
        /// names may lead to one machine. At the limit a site tries its other addresses, or waits
        /// for a connection to close. Not set, only connections_per_site holds.
        connections_per_address: Option<usize> = optional(count(20, 1..=10_000));
        /// A site that cannot be reached, or refuses all mail, is left in peace for this long, and
        /// for twice as long after each further failure. Then one connection is tried. The first
        /// that stands ends it on all shards. If retry.first is shorter, that holds.
        backoff_first: Duration = duration(seconds(30), ms(100)..=days(1));
        /// The longest time that a site is left in peace. If retry.max is shorter, that holds.
        backoff_max: Duration = duration(minutes(15), ms(100)..=days(1));
    }
}
