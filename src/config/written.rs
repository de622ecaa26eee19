//! The schema of the file: every key with its default and its range, and what it means.
//!
//! The one place for defaults. Each key is read by one line, and what is read here is what exists:
//! see `table`. The reasons stand in the annotated example, which a test holds to this file.

use super::auth;
use super::core_table::{self, CoreDefaults};
use super::error::Place;
use super::load::Machine;
use super::source::Tree;
use super::table::{Report, Table};
use super::tls;
use super::unit;
use super::{
    Access, Certificate, Config, Control, Delivery, DeliveryTls, Dns, EightBit, Event, EventOutput,
    Listener, ListenerTls, Pool, Retry, Ring, Role, Route, RouteRule, Scheme, Session, Spool,
    TransportPolicy,
};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// `struct sockaddr_un` has 108 bytes for a path and its final zero.
const UNIX_PATH_BYTES_MAX: usize = 107;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}
const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
const fn minutes(count: u64) -> Duration {
    seconds(60 * count)
}
const fn hours(count: u64) -> Duration {
    minutes(60 * count)
}
const fn days(count: u64) -> Duration {
    hours(24 * count)
}

/// Reads the whole file. The configuration counts only if `report` is empty afterwards.
pub(super) fn read(tree: Tree, machine: &Machine, report: &Report) -> Config {
    let mut file = Table::whole(tree, report);
    let host_name = host_name(&mut file, machine);
    let tls = tls::tls(file.table("tls"));
    let listeners = listeners(&mut file);
    tls::check(&tls, &listeners, report);
    let spool = spool(file.table("spool"));
    let defaults = core_default(file.table("core_default"), &spool.directory);
    let cores = core_table::read(&mut file, &defaults, &machine.cpus, report);
    let config = Config {
        host_name: host_name.into(),
        cores,
        listeners,
        tls,
        access: access(file.table("access")),
        auth: auth::auth(file.table("auth")),
        session: session(file.table("session")),
        retry: retry(file.table("retry")),
        dns: dns(file.table("dns"), machine, report),
        route: route(file.table("route")),
        pool: pool(file.table("pool")),
        delivery: delivery(file.table("delivery")),
        event: event(file.table("event"), &spool.directory),
        control: control(file.table("control"), &spool.directory, report),
        ring: ring(file.table("ring")),
        spool,
    };
    file.end();
    auth::check(&config, report);
    check_relations(&config, report);
    config
}

fn host_name(file: &mut Table, machine: &Machine) -> String {
    let check = |text: &str| {
        unit::check_domain(text)
            .map(|()| text.to_string())
            .map_err(|why| format!("{text:?} is not a domain name: {why}"))
    };
    match file.text("host_name") {
        Some((text, place)) => check(&text).unwrap_or_else(|what| {
            file.fault(&place, "host_name", what);
            text
        }),
        None => check(&machine.host_name).unwrap_or_else(|what| {
            let what = format!("this machine's name {what}; set host_name");
            file.fault(&file.place, "host_name", what);
            machine.host_name.clone()
        }),
    }
}

fn listeners(file: &mut Table) -> Vec<Listener> {
    let default = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2525);
    let place = file.place_of("listener");
    file.tables_from_text("listener", "address");
    let tables = match file.tables("listener") {
        None => vec![file.none_of("listener")],
        Some(tables) if tables.is_empty() => {
            file.fault(&place, "listener", "at least one address is needed");
            Vec::new()
        }
        Some(tables) => tables,
    };
    let mut listeners: Vec<Listener> = Vec::new();
    let mut places: Vec<(SocketAddr, Place)> = Vec::new();
    for mut table in tables {
        let place = Some(table.place_of("address")).filter(|place| *place != Place::Default);
        let is_written = place.is_some();
        let place = place.unwrap_or_else(|| table.place.clone());
        let read = |text: &str| unit::read_listen_address(text).map(Some);
        let tls = table.parsed("tls", ListenerTls::Offer, tls::read_listener_tls);
        let address = match table.parsed("address", None, read) {
            Some(address) => address,
            None if !is_written => default,
            // Said already.
            None => {
                table.end();
                continue;
            }
        };
        let role = table.parsed("role", Role::Relay, auth::read_role);
        let scheduling = table.flag("scheduling", role == Role::Submission);
        let message_bytes_max = table.size("message_bytes_max", 0, 64 * KIB..=2 * GIB);
        let recipients_max = table.count("recipients_max", 0, 100..=10_000);
        let listener = Listener {
            address,
            tls,
            scheduling,
            client_certificates: table.flag("client_certificates", false),
            role,
            message_bytes_max: (message_bytes_max > 0).then_some(message_bytes_max),
            recipients_max: (recipients_max > 0).then_some(recipients_max),
        };
        // Port 0 is a new port each time.
        let other = places.iter().find(|(other, _)| *other == address && address.port() != 0);
        if let Some((_, other)) = other {
            let before = match other {
                Place::File { line, .. } => format!(": line {line} has it too"),
                _ => String::new(),
            };
            let what = format!("\"{address}\" is listened on twice{before}");
            table.fault(&place, "address", what);
        }
        places.push((address, place));
        listeners.push(listener);
        table.end();
    }
    listeners
}

fn access(mut table: Table) -> Access {
    let loopback = || {
        vec![
            super::Network { address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), prefix: 8 },
            super::Network { address: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 },
        ]
    };
    let mut networks = |key, what| {
        let read = table.list(key, |text| unit::read_network(text, what))?;
        Some(read.into_iter().map(|(network, _)| network).collect())
    };
    let relay = "would relay for strangers; name only the networks of your own clients";
    let proxy = "would let strangers say who they are; name only your own proxies";
    let access = Access {
        relay_networks: networks("relay_networks", relay).unwrap_or_else(loopback),
        proxy_networks: networks("proxy_networks", proxy).unwrap_or_default(),
        xclient_networks: networks("xclient_networks", proxy).unwrap_or_default(),
        limits: auth::limits(&mut table),
    };
    table.end();
    access
}

fn session(mut table: Table) -> Session {
    let session = Session {
        message_bytes_max: table.size("message_bytes_max", 50 * MIB, 64 * KIB..=2 * GIB),
        recipients_max: table.count("recipients_max", 1000, 100..=10_000),
        command_line_max: size(&mut table, "command_line_max", 2 * KIB, 512..=16 * KIB),
        text_line_max: size(&mut table, "text_line_max", 64 * KIB, 1000..=2 * GIB),
        errors_max: table.number("errors_max", 20, 1..=1000),
        received_max: table.number("received_max", 100, 10..=1000),
        messages_max: table.number("messages_max", 0, 0..=1_000_000),
        vrfy: table.flag("vrfy", true),
        hold_max: table.duration("hold_max", days(7), seconds(1)..=days(365)),
        command_timeout: table.duration("command_timeout", minutes(5), seconds(1)..=hours(1)),
        data_timeout: table.duration("data_timeout", minutes(5), seconds(1)..=hours(1)),
        tls_timeout: table.duration("tls_timeout", seconds(30), seconds(1)..=minutes(10)),
        connections_per_client: table.count("connections_per_client", 50, 1..=1_000_000),
        connections_per_relay_client: table.count(
            "connections_per_relay_client",
            4096,
            1..=1_000_000,
        ),
    };
    table.end();
    session
}

fn size(
    table: &mut Table,
    key: &'static str,
    default: u64,
    allowed: std::ops::RangeInclusive<u64>,
) -> usize {
    usize::try_from(table.size(key, default, allowed)).unwrap_or(usize::MAX)
}

fn path(table: &mut Table, key: &'static str, default: PathBuf) -> PathBuf {
    table.parsed(key, default, read_path)
}

/// A path that names something.
pub(super) fn read_path(text: &str) -> Result<PathBuf, unit::Fault> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("{text:?} is not a path"));
    }
    Ok(PathBuf::from(text))
}

fn spool(mut table: Table) -> Spool {
    let spool = Spool {
        directory: path(&mut table, "directory", "ringpost-spool".into()),
        segment_bytes: table.size("segment_bytes", 64 * MIB, MIB..=4 * GIB),
        stream_threshold: size(&mut table, "stream_threshold", 256 * KIB, 4 * KIB..=GIB),
        outcome_interval: table.duration("outcome_interval", ms(50), ms(1)..=seconds(10)),
    };
    table.end();
    spool
}

fn core_default<'a>(mut table: Table, directory: &'a Path) -> CoreDefaults<'a> {
    let connections_max = table.count("connections_max", 4096, core_table::CONNECTIONS_MAX);
    let hot_bytes_max = size(&mut table, "hot_bytes_max", 64 * MIB, core_table::HOT_BYTES_MAX);
    let range = core_table::CONTENT_BYTES_MAX;
    let content_bytes_max = size(&mut table, "content_bytes_max", 64 * MIB, range);
    let range = core_table::QUEUE_RECIPIENTS_MAX;
    let queue_recipients_max = table.count("queue_recipients_max", 10_000_000, range);
    table.end();
    CoreDefaults {
        directory,
        connections_max,
        hot_bytes_max,
        content_bytes_max,
        queue_recipients_max,
    }
}

fn retry(mut table: Table) -> Retry {
    let retry = Retry {
        first: table.duration("first", minutes(5), seconds(1)..=days(1)),
        factor: table.real("factor", 2.0, 1.0..=10.0),
        max: table.duration("max", hours(4), seconds(1)..=days(7)),
        expire: table.duration("expire", days(5), seconds(1)..=days(30)),
        jitter: table.real("jitter", 0.1, 0.0..=0.5),
        delay_report: table.parsed("delay_report", Some(hours(4)), read_delay_report),
    };
    table.end();
    retry
}

fn read_delay_report(text: &str) -> Result<Option<Duration>, unit::Fault> {
    if text == "off" {
        return Ok(None);
    }
    let wait = unit::read_duration(text).map_err(|what| format!("{what}; or write \"off\""))?;
    if (seconds(1)..=days(30)).contains(&wait) {
        return Ok(Some(wait));
    }
    Err(format!("{text} is out of range; allowed: 1s to 30d, or \"off\""))
}

fn dns(mut table: Table, machine: &Machine, report: &Report) -> Dns {
    let servers = match table.list("servers", unit::read_server_address) {
        Some(listed) => {
            let mut servers = Vec::new();
            if listed.is_empty() {
                report.unfit("dns.servers", "at least one name server is needed");
            }
            if listed.len() > DNS_SERVERS_MAX {
                let what = format!("at most {DNS_SERVERS_MAX} name servers");
                report.unfit("dns.servers", what);
            }
            for (server, place) in listed {
                if servers.contains(&server) {
                    table.fault(&place, "servers", format!("\"{server}\" is named twice"));
                }
                servers.push(server);
            }
            servers
        }
        None => machine.dns_servers.clone(),
    };
    let dns = Dns {
        servers: if servers.is_empty() { vec![LOCAL_NAME_SERVER] } else { servers },
        timeout: table.duration("timeout", seconds(3), ms(100)..=minutes(1)),
        attempts: table.number("attempts", 3, 1..=10),
        cache_entries_max: table.count("cache_entries_max", 100_000, 100..=10_000_000),
        ttl_max: table.duration("ttl_max", days(1), seconds(1)..=days(7)),
        // RFC 9520 3.2: failures are kept for at least 1 second and at most 5 minutes.
        failure_ttl: table.duration("failure_ttl", seconds(30), seconds(1)..=minutes(5)),
    };
    table.end();
    dns
}

/// Asked when nothing names another (resolv.conf(5) does the same).
const LOCAL_NAME_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
/// Each unanswered server costs a time-out in every round.
const DNS_SERVERS_MAX: usize = 8;

/// The longest list of rules: they are tried one after the other.
const RULES_MAX: usize = 10_000;

fn route(mut table: Table) -> Route {
    let port = u16::try_from(table.number("port", 25, 1..=65_535)).unwrap_or(25);
    let smart_host_place = table.place_of("smart_host");
    let mut smart_host = table.parsed("smart_host", None, |text| read_hop(text, port));
    let (mut certificates, mut logins) = (Vec::new(), Vec::new());
    auth::login(&mut table, &mut smart_host, &mut logins);
    let policy = policy(&mut table, TransportPolicy::ORDINARY, &mut certificates);
    check_implicit(&table, &smart_host_place, "smart_host", &smart_host, policy.tls);
    table.none_of("rule").know(&["domain", "next_hop", "tls", "eight_bit", "tls_cert", "tls_key"]);
    table.none_of("rule").know(&["auth", "auth_without_tls", "chunking"]);
    let place = table.place_of("rule");
    let tables = table.tables("rule").unwrap_or_default();
    if tables.len() > RULES_MAX {
        table.fault(&place, "rule", format!("at most {RULES_MAX} rules"));
    }
    let mut earlier = BTreeSet::new();
    let mut rules = Vec::new();
    for mut table in tables {
        let mut rule = route_rule(&mut table, &mut earlier, port, policy, &mut certificates);
        auth::login(&mut table, &mut rule.next_hop, &mut logins);
        table.end();
        rules.push(rule);
    }
    table.end();
    Route { smart_host, rules, port, policy, logins, certificates }
}

/// The keys that routes and rules share; those of a rule stand in for those of the route.
fn policy(
    table: &mut Table,
    others: TransportPolicy,
    certificates: &mut Vec<Certificate>,
) -> TransportPolicy {
    let own = tls::certificate(table, ["tls_cert", "tls_key"], false).map(|certificate| {
        let known = certificates.iter().position(|known| *known == certificate);
        known.unwrap_or_else(|| {
            certificates.push(certificate);
            certificates.len() - 1
        })
    });
    TransportPolicy {
        tls: table.parsed("tls", others.tls, tls::read_delivery_tls),
        eight_bit: table.parsed("eight_bit", others.eight_bit, read_eight_bit),
        chunking: table.flag("chunking", others.chunking),
        certificate: own.or(others.certificate),
    }
}

fn read_eight_bit(text: &str) -> Result<EightBit, unit::Fault> {
    match text {
        "bounce" => Ok(EightBit::Bounce),
        "convert" => Ok(EightBit::Convert),
        "send" => Ok(EightBit::Send),
        _ => Err(format!("{text:?} is not a way; write \"bounce\", \"convert\" or \"send\"")),
    }
}

fn route_rule(
    rule: &mut Table,
    earlier: &mut BTreeSet<String>,
    port: u16,
    others: TransportPolicy,
    certificates: &mut Vec<Certificate>,
) -> RouteRule {
    let mut domain = String::new();
    match rule.text("domain") {
        Some((text, place)) => {
            domain = text.to_ascii_lowercase();
            if let Err(what) = check_rule_domain(&domain, earlier) {
                rule.fault(&place, "domain", what);
            }
        }
        None => {
            let what = "missing; write domain = \"example.com\", \".example.com\" or \"*\"";
            rule.fault(&rule.place, "domain", what);
        }
    }
    let policy = policy(rule, others, certificates);
    let mut next_hop = None;
    let hop_place = rule.place_of("next_hop");
    match rule.text("next_hop") {
        Some((text, place)) => match read_hop(&text, port) {
            Ok(hop) => next_hop = hop,
            Err(what) => rule.fault(&place, "next_hop", what),
        },
        None => {
            let what = "missing; write next_hop = \"HOST:PORT\" or \"mx\"";
            rule.fault(&rule.place, "next_hop", what);
        }
    }
    check_implicit(rule, &hop_place, "next_hop", &next_hop, policy.tls);
    earlier.insert(domain.clone());
    RouteRule { domain: domain.into(), next_hop, policy }
}

/// TLS from the first byte and no TLS at all do not go together.
fn check_implicit(
    table: &Table,
    place: &Place,
    key: &str,
    hop: &Option<super::NextHop>,
    tls: DeliveryTls,
) {
    if tls == DeliveryTls::Off && hop.as_ref().is_some_and(|hop| hop.scheme == Scheme::Smtps) {
        let what = "smtps:// is TLS from the first byte, and tls is \"off\" here; \
                    write tls = \"must\" or \"must-verify\", or leave smtps:// out";
        table.fault(place, key, what);
    }
}

/// RFC 8314 3.3.
const SMTPS_PORT: u16 = 465;
/// Never 25 (RFC 2033 5); this one is for "any private mail system", and in use for it.
const LMTP_PORT: u16 = 24;

fn read_hop(text: &str, port: u16) -> Result<Option<super::NextHop>, unit::Fault> {
    if text.eq_ignore_ascii_case("mx") {
        return Ok(None);
    }
    let by_scheme = |(prefix, scheme)| Some((text.strip_prefix(prefix)?, scheme));
    let (bare, scheme) =
        unit::SCHEMES.into_iter().find_map(by_scheme).unwrap_or((text, Scheme::Smtp));
    let (host, own_port) = unit::read_next_hop(bare)?;
    let default_port = match scheme {
        Scheme::Smtp => port,
        Scheme::Smtps => SMTPS_PORT,
        Scheme::Lmtp => LMTP_PORT,
    };
    let port = own_port.unwrap_or(default_port);
    if scheme == Scheme::Lmtp && port == 25 {
        return Err(format!("{text:?}: LMTP must not be spoken on port 25 (RFC 2033 5)"));
    }
    Ok(Some(super::NextHop { host, port, scheme, login: None }))
}

/// The first rule that matches holds, so one behind its like would never be reached.
fn check_rule_domain(domain: &str, earlier: &BTreeSet<String>) -> Result<(), unit::Fault> {
    if domain != "*" {
        unit::check_domain(domain.strip_prefix('.').unwrap_or(domain)).map_err(|why| {
            format!(
                "{domain:?} is not a domain: {why}; \
                 write \"example.com\", \".example.com\" or \"*\""
            )
        })?;
    }
    let above = domain.char_indices().filter(|&(_, c)| c == '.').map(|(at, _)| &domain[at..]);
    let mut covering = ["*", domain].into_iter().chain(above);
    let dotted = format!(".{domain}");
    match covering
        .find(|rule| earlier.contains(*rule))
        .or_else(|| earlier.contains(&dotted).then_some(dotted.as_str()))
    {
        Some(rule) => Err(format!("never reached: the rule for {rule:?} above holds first")),
        None => Ok(()),
    }
}

fn pool(mut table: Table) -> Pool {
    let pool = Pool {
        connections_per_site: table.count("connections_per_site", 20, 1..=10_000),
        messages_per_connection: table.number("messages_per_connection", 500, 1..=1_000_000),
        idle: table.duration("idle", seconds(5), ms(100)..=minutes(5)),
        stripe_connections_min: table.count("stripe_connections_min", 4, 1..=1000),
        connections_max: table.count("connections_max", 4096, 1..=100_000),
    };
    table.end();
    pool
}

fn delivery(mut table: Table) -> Delivery {
    let reply = seconds(1)..=hours(1);
    let delivery = Delivery {
        connect_timeout: table.duration("connect_timeout", seconds(30), seconds(1)..=minutes(10)),
        tls_timeout: table.duration("tls_timeout", minutes(1), seconds(1)..=minutes(10)),
        greeting_timeout: table.duration("greeting_timeout", minutes(5), reply.clone()),
        hello_timeout: table.duration("hello_timeout", minutes(5), reply.clone()),
        mail_timeout: table.duration("mail_timeout", minutes(5), reply.clone()),
        recipient_timeout: table.duration("recipient_timeout", minutes(5), reply.clone()),
        data_timeout: table.duration("data_timeout", minutes(2), reply.clone()),
        content_timeout: table.duration("content_timeout", minutes(3), reply.clone()),
        end_of_data_timeout: table.duration("end_of_data_timeout", minutes(10), reply),
        recipients_max: table.count("recipients_max", 100, 1..=1000),
    };
    table.end();
    delivery
}

fn event(mut table: Table, directory: &Path) -> Event {
    let file = path(&mut table, "file", directory.join("events.jsonl"));
    let output = table.parsed("output", EventOutput::File(file.clone()), |text| match text {
        "file" => Ok(EventOutput::File(file.clone())),
        "stdout" => Ok(EventOutput::Stdout),
        "off" => Ok(EventOutput::Off),
        _ => Err(format!("{text:?} is not an output; write \"file\", \"stdout\" or \"off\"")),
    });
    let event = Event {
        output,
        rotate_bytes: table.size("rotate_bytes", 256 * MIB, 64 * KIB..=TIB),
        keep: table.count("keep", 8, 0..=1000),
    };
    table.end();
    event
}

fn control(mut table: Table, directory: &Path, report: &Report) -> Control {
    let control = Control {
        socket: path(&mut table, "socket", directory.join("control.sock")),
        stop_within: table.duration("stop_within", seconds(20), Duration::ZERO..=hours(1)),
    };
    let length = control.socket.as_os_str().len();
    if length > UNIX_PATH_BYTES_MAX {
        let what = format!(
            "the path of control.socket has {length} bytes, and the kernel takes at most \
             {UNIX_PATH_BYTES_MAX}: {:?}; set control.socket to a shorter one",
            control.socket
        );
        report.relation(["spool.directory", "control.socket"], what);
    }
    table.end();
    control
}

fn ring(mut table: Table) -> Ring {
    let ring = Ring {
        depth: table.count("depth", 256, 64..=32_768),
        preempt: table.duration("preempt", ms(1), Duration::from_micros(100)..=ms(100)),
    };
    table.end();
    ring
}

/// What no key says alone.
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
    // A message lies in one segment: seven parts of eight are for content, one for the envelope.
    if session.message_bytes_max > spool.segment_bytes / 8 * 7 {
        let what = format!(
            "session.message_bytes_max ({}) must not be more than 7/8 of spool.segment_bytes \
             ({}): lower it to {}, or raise spool.segment_bytes",
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
    let bytes = spool.segment_bytes;
    if !bytes.is_multiple_of(4 * KIB) {
        let below = bytes / (4 * KIB) * (4 * KIB);
        let what = format!(
            "{bytes} bytes are not a multiple of 4 KiB; the nearest that are: \"{}\" and \"{}\"",
            size(below),
            size(below + 4 * KIB)
        );
        report.unfit("spool.segment_bytes", what);
    }
    let depth = config.ring.depth;
    if !depth.is_power_of_two() {
        let above = depth.next_power_of_two();
        let what =
            format!("{depth} is not a power of two; the nearest are {} and {above}", above / 2);
        report.unfit("ring.depth", what);
    }
}
