//! `[pool]`: connections to other servers.

use super::declare::table;
use super::kinds::{count, days, duration, minutes, ms, optional, seconds};
use std::time::Duration;

table! {
    /// Connections to other servers. A site is all hosts that accept mail for a domain; domains
    /// with the same MX hosts are one site.
    pub struct Pool {
        /// Connections to one site, of all shards together. Further mail for the site waits. Too
        /// many cause 421 replies and cost reputation: ask the site, or raise the number slowly.
        connections_per_site: usize = count(20, 1..=10_000);
        /// Messages over one connection. Then it is closed and a new one is opened, so that load
        /// balancers can distribute them.
        messages_per_connection: u32 = count(100, 1..=1_000_000);
        /// A connection with nothing to send is closed after this time.
        idle: Duration = duration(seconds(5), ms(100)..=minutes(5));
        /// A site that may have at least this many connections for each shard is served by several
        /// shards, each with its share. A smaller site is served by one shard, so that connections
        /// are reused more.
        stripe_connections_min: usize = count(4, 1..=1000);
        /// Outbound connections of one shard, over all sites. At the limit, another site waits
        /// until an idle connection is closed. Up to three quarters may be connections that are
        /// still opening; while sites wait, those that have been opening longest are closed.
        connections_max: usize = count(4096, 1..=100_000);
        /// Connections to one remote address, of all shards and sites together: many names may
        /// resolve to one machine. At the limit, a site tries its other addresses, or waits for a
        /// connection to close. Without it, only connections_per_site limits them.
        connections_per_address: Option<usize> = optional(count(20, 1..=10_000));
        /// Back-off of a site that cannot be reached or refuses all mail: no connection is tried
        /// for this long, and for twice as long after each further failure. Then one connection is
        /// tried. The first that succeeds ends the back-off on all shards. If retry.first is
        /// shorter, that applies.
        backoff_first: Duration = duration(seconds(30), ms(100)..=days(1));
        /// The longest back-off of a site. If retry.max is shorter, that applies.
        backoff_max: Duration = duration(minutes(15), ms(100)..=days(1));
    }
}
