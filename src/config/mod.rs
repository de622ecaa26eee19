//! Reads the configuration (TOML file, flags) and checks it.
//!
//! Each table of the file is declared in a module of its name (`retry`: `[retry]`) with the macro
//! of `declare`, one entry for each key; `written` lists all tables. [`Config`] is the result that
//! every other module reads. Nothing here knows what the values are used for.
// The documentation of keys is written for operators: `[retry]` in it names a table.
#![allow(rustdoc::broken_intra_doc_links)]

mod access;
mod annotated;
mod auth;
mod changes;
mod control;
mod core;
mod declare;
mod delivery;
mod dns;
mod error;
mod event;
mod explain;
mod kinds;
mod listener;
mod load;
mod machine;
mod pool;
mod postfix;
mod private;
mod render;
mod retry;
mod ring;
mod route;
mod session;
mod source;
mod spool;
mod table;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;
mod unit;
mod written;

pub use access::{Access, Network, NetworkLimit};
pub use annotated::annotated;
pub use auth::{Auth, Hourly};
pub use changes::Change;
pub use control::Control;
pub use core::Core;
pub use declare::Apply;
pub use delivery::Delivery;
pub use dns::Dns;
pub use error::{ConfigError, Place, Problem};
pub use event::{Event, EventOutput};
pub use explain::{UnknownKey, schema};
pub use listener::{Listener, ListenerTls, Role};
pub use load::{DEFAULT_FILE, Origin};
pub use machine::Machine;
pub use pool::Pool;
pub use private::look_at_private;
#[cfg(test)]
pub use private::write_private;
pub use retry::Retry;
pub use ring::Ring;
pub use route::{
    DeliveryTls, EightBit, HostName, Login, NextHop, Route, RouteRule, Scheme, TransportPolicy,
};
pub use session::Session;
pub use source::{Override, OverrideFlag};
pub use spool::Spool;
pub use tls::{Certificate, Roots, Tls};
pub use tokens::Tokens;

use declare::Entries;
use std::path::Path;
use std::sync::Arc;

/// The whole checked configuration. Built once at start and shared, read-only, by all shards.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The relay's own name in the greeting, the EHLO reply, Received and its EHLO to next hops.
    pub host_name: Arc<str>,
    /// One per shard, in shard order; never empty.
    pub cores: Vec<Core>,
    /// Addresses to listen on, each on every shard; never empty.
    pub listeners: Vec<Listener>,
    /// Certificates and certificate authorities.
    pub tls: Tls,
    /// Which clients may relay.
    pub access: Access,
    /// Users.
    pub auth: Auth,
    /// The receiving side.
    pub session: Session,
    /// The disk side.
    pub spool: Spool,
    /// When mail is tried again.
    pub retry: Retry,
    /// Name servers.
    pub dns: Dns,
    /// Where mail goes.
    pub route: Route,
    /// Connections to next hops.
    pub pool: Pool,
    /// The sending side.
    pub delivery: Delivery,
    /// The event log.
    pub event: Event,
    /// The control socket, and the time to stop.
    pub control: Control,
    /// The io_uring driver.
    pub ring: Ring,
    /// Every key with its value, as written in the file.
    entries: Arc<Entries>,
    places: Places,
}

/// Where texts were written, to find the key of a file. It is no part of what is configured: two
/// configurations with the same values are equal.
#[derive(Clone, Debug)]
struct Places(Arc<[table::WrittenText]>);

impl PartialEq for Places {
    fn eq(&self, _: &Places) -> bool {
        true
    }
}

impl Config {
    /// `what` is wrong with `file`: the problem with the key that names it, where one does.
    pub fn problem_with(&self, file: Option<&Path>, what: String) -> Problem {
        let names = |one: &&table::WrittenText| file == Some(Path::new(&one.text));
        let (place, key) = match self.places.0.iter().find(names) {
            Some(one) => (one.place.clone(), one.key.clone()),
            None => (Place::Default, String::new()),
        };
        Problem { place, key, what }
    }
}
