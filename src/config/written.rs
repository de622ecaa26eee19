//! The file as a whole: every table in the order of the annotated file, and the relations between
//! keys of different tables.

use super::access::Access;
use super::auth::Auth;
use super::control::Control;
use super::core::{self, CoreDefault, CoreKeys, Cores, CoresSetting, SHARDS_MAX};
use super::declare::{Entries, Key, Keys, Setting, Shape, TableNumber, table};
use super::delivery::Delivery;
use super::dns::Dns;
use super::event::EventKeys;
use super::kinds::{flag, noted, one_or_more_tables, parsed, section, tables};
use super::listener::{self, LISTENERS_MAX, Listener};
use super::pool::Pool;
use super::retry::Retry;
use super::ring::Ring;
use super::route::{self, RouteKeys};
use super::session::Session;
use super::source::Tree;
use super::spool::Spool;
use super::table::{Report, Table};
use super::tls::TlsKeys;
use super::{Config, Places, unit};
use std::sync::Arc;

table! {
    /// Ringpost: the whole configuration.
    pub(super) struct Written {
        /// The relay's own name in its greeting, EHLO, Received fields and reports. Receivers look
        /// it up, so it should resolve to this machine, and the address of this machine to it.
        host_name: Arc<str> = HostName;
        /// The shards, one for each core: "all" for one on each CPU that the process may use, a
        /// number, or a list of CPU numbers, [0, 2] or "0-3,8". At most one for each CPU that the
        /// process may use, and at most 1024 (the queue id has ten bits for the shard).
        cores: Cores = CoresSetting;
        /// Pin each shard to its CPU. false leaves the choice to the kernel, which is better if
        /// other busy processes share the CPUs. Then `cores` is "all" or a number from 1 to 1024,
        /// which may exceed the number of CPUs, and [[core]] is not allowed.
        pin: bool = flag(true);
        /// For all shards.
        core_default: CoreDefault = section();
        /// For one shard.
        core: Vec<CoreKeys> = tables(SHARDS_MAX);
        /// Addresses.
        listener: Vec<Listener> = one_or_more_tables(LISTENERS_MAX);
        /// Certificates.
        tls: TlsKeys = section();
        /// Clients.
        access: Access = section();
        /// Users.
        auth: Auth = section();
        /// Receiving.
        session: Session = section();
        /// Disk.
        spool: Spool = section();
        /// Retries.
        retry: Retry = section();
        /// Name servers.
        dns: Dns = section();
        /// Routes.
        route: RouteKeys = section();
        /// Connections.
        pool: Pool = section();
        /// Sending.
        delivery: Delivery = section();
        /// Events.
        event: EventKeys = section();
        /// Operator.
        control: Control = section();
        /// Driver.
        ring: Ring = section();
    }
}

/// The relay's own name; by default that of the machine.
struct HostName;

fn read_host_name(text: &str) -> Result<Arc<str>, unit::Fault> {
    unit::check_domain(text).map_err(|why| format!("{text:?} is not a domain name: {why}"))?;
    Ok(text.into())
}

impl HostName {
    fn setting() -> impl Setting<Arc<str>> {
        let show = |name: &Arc<str>| name.to_string();
        let example = "relay.example.net".into();
        noted("the host name of the machine", parsed("domain", example, read_host_name, show))
    }
}

impl Setting<Arc<str>> for HostName {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> Arc<str> {
        if table.has(key) {
            return HostName::setting().read(table, key);
        }
        table.take(key);
        let name = &table.report().machine.host_name;
        read_host_name(name).unwrap_or_else(|what| {
            let what = format!("this machine's name {what}; set host_name");
            table.fault(&table.place, key, what);
            name.as_str().into()
        })
    }

    fn show(&self, value: &Arc<str>, key: &'static str, into: &mut Entries) {
        HostName::setting().show(value, key, into);
    }

    fn shape(&self) -> Shape {
        HostName::setting().shape()
    }
}

/// Reads the whole file. The configuration is valid only if `report` is empty afterwards.
pub(super) fn read(tree: Tree, report: &Report) -> Config {
    let mut file = Table::whole(tree, report);
    file.tables_from_text("listener", "address");
    let mut written = Written::read(&mut file);
    let shards = core::Written {
        cores: &written.cores,
        pin: written.pin,
        default: &written.core_default,
        own: &written.core,
        directory: &written.spool.directory,
    };
    let cores = core::shards(&shards, &file);
    file.end();
    (written.cores, written.core) = core::keys_of(&cores);
    written.route.complete();
    let mut entries = Entries::new();
    written.show(&mut entries);
    let config = Config {
        host_name: written.host_name,
        cores,
        listeners: written.listener,
        tls: (&written.tls).into(),
        access: written.access,
        auth: written.auth,
        session: written.session,
        spool: written.spool,
        retry: written.retry,
        dns: written.dns,
        route: (&written.route).into(),
        pool: written.pool,
        delivery: written.delivery,
        event: (&written.event).into(),
        control: written.control,
        ring: written.ring,
        entries: Arc::new(entries),
        places: Places(report.texts().into()),
    };
    listener::check(&config, report);
    route::check(&config, report);
    check_relations(&config, report);
    config
}

/// Checks relations between keys of different tables.
fn check_relations(config: &Config, report: &Report) {
    let (session, spool, retry) = (&config.session, &config.spool, &config.retry);
    let size = unit::show_size;
    if retry.first > retry.max {
        let (first, max) = (unit::show_duration(retry.first), unit::show_duration(retry.max));
        let what = format!("retry.first ({first}) must not be longer than retry.max ({max})");
        report.relation(["retry.first", "retry.max"], what);
    }
    let threshold = spool.stream_threshold as u64;
    if threshold > spool.segment_bytes / 4 {
        let what = format!(
            "spool.stream_threshold ({}) must not be more than a quarter of spool.segment_bytes \
             ({})",
            size(threshold),
            size(spool.segment_bytes)
        );
        report.relation(["spool.stream_threshold", "spool.segment_bytes"], what);
    }
    // A message is stored in one segment: 7/8 are for content, 1/8 for the envelope.
    if session.message_bytes_max > spool.segment_bytes / 8 * 7 {
        let what = format!(
            "session.message_bytes_max ({}) must not be more than 7/8 of spool.segment_bytes \
             ({}): reduce it to {}, or raise spool.segment_bytes",
            size(session.message_bytes_max),
            size(spool.segment_bytes),
            size(spool.segment_bytes / 8 * 7)
        );
        report.relation(["session.message_bytes_max", "spool.segment_bytes"], what);
    }
    let envelope = session.recipients_max as u64 * session.command_line_max as u64;
    if envelope > spool.segment_bytes / 8 {
        let what = format!(
            "session.recipients_max ({}) times session.command_line_max ({}) must not be more \
             than 1/8 of spool.segment_bytes ({})",
            session.recipients_max,
            size(session.command_line_max as u64),
            size(spool.segment_bytes)
        );
        report.relation(["session.recipients_max", "spool.segment_bytes"], what);
    }
}

/// A key, with the name and the header of its table.
pub(super) struct Declared {
    /// The full name of the table, `route.rule`; empty at the top.
    pub table: String,
    /// `[retry]`, `[[route.rule]]`; empty at the top.
    pub head: String,
    /// Whether the table is optional, so that the annotated file has it as an example.
    pub is_example: bool,
    pub key: Key,
}

impl Declared {
    /// The key with its tables, `retry.first`.
    pub fn path(&self) -> String {
        join(&self.table, self.key.name)
    }
}

/// `retry` and `first`: `retry.first`.
pub(super) fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

/// All declarations, flat, in their order.
pub(super) fn declared() -> Vec<Declared> {
    let mut all = Vec::new();
    collect(("", ""), false, Written::keys(), &mut all);
    all
}

/// Adds the keys of a table, given by its name and header, and then those of the tables in it.
fn collect(of: (&str, &str), is_example: bool, keys: Vec<Key>, all: &mut Vec<Declared>) {
    let mut tables = Vec::new();
    for key in keys {
        let (table, head) = (of.0.into(), of.1.into());
        match key.shape {
            Shape::Inline(keys) => collect(of, is_example, keys, all),
            Shape::Table(shape) => tables.push((join(of.0, key.name), shape)),
            Shape::Value(_) => all.push(Declared { table, head, is_example, key }),
        }
    }
    for (path, shape) in tables {
        let head = head_of(&path, shape.number);
        collect((&path, &head), shape.number.is_example(), shape.keys, all);
    }
}

/// `[retry]` or `[[route.rule]]`.
pub(super) fn head_of(path: &str, number: TableNumber) -> String {
    match number {
        TableNumber::One | TableNumber::Optional => format!("[{path}]"),
        TableNumber::OneOrMore | TableNumber::Any => format!("[[{path}]]"),
    }
}

/// The tables that have a key of this name, each with its header.
pub(super) fn tables_with(name: &str) -> Vec<(String, String)> {
    let with = declared().into_iter().filter(|one| one.key.name == name && !one.table.is_empty());
    with.map(|one| (one.table, one.head)).collect()
}
