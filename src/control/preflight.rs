//! Finds problems with this machine before a start: for `ringpost check`.
//!
//! The plain check examines only files, folders and addresses of this machine. The live check also
//! asks the name servers, looks up this relay's own name and its PTR record, and connects to the
//! configured next hops.

use super::start;
use crate::config::{Config, EventOutput, HostName, NextHop};
use crate::ring;
use crate::spool::{self, lock};
use crate::tls::{Validity, validity};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

/// A certificate that expires within this causes a warning.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// How long the live check waits for a name server.
const DNS_WAIT: Duration = Duration::from_secs(2);
/// The largest answer that the live check reads, in bytes.
const DNS_ANSWER_MAX: usize = 4096;
/// Next hops that the live check tries: each may take seconds.
const NEXT_HOPS_ASKED_MAX: usize = 20;
/// Addresses of one next hop that the live check tries, and for how long each.
const ADDRESSES_TRIED_MAX: usize = 4;
const CONNECT_WAIT: Duration = Duration::from_secs(3);

/// The results, as texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Problems with which a start would fail.
    pub faults: Vec<String>,
    /// Problems that would show later, or may.
    pub warnings: Vec<String>,
    /// Successful checks.
    pub facts: Vec<String>,
}

/// Checks files, folders and addresses.
pub fn preflight(config: &Config) -> Findings {
    let mut findings = Findings::default();
    // While a relay runs, its addresses and folders are in use.
    let runs = lock::holder(&config.spool.directory).is_some();
    certificates(config, &mut findings);
    let root = &*config.spool.directory;
    let mut folders: Vec<&Path> = vec![root];
    folders.extend(config.cores.iter().map(|core| &*core.spool));
    let socket = Some(&*config.control.socket);
    let events = match &config.event.output {
        EventOutput::File(path) => Some(&**path),
        _ => None,
    };
    let files = socket.into_iter().chain(events);
    let above = files.filter_map(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
    folders.extend(above);
    // Several keys may name the same folder.
    let mut checked = BTreeSet::new();
    for folder in folders.into_iter().filter(|folder| checked.insert(*folder)) {
        folder_is_usable(folder, root, &mut findings);
    }
    if let Err(error) = start::replaceable_socket(&config.control.socket)
        // Then the folder is a fault already.
        && error.kind() != io::ErrorKind::NotADirectory
    {
        let what = format!("{}: {error}", config.control.socket.display());
        let problem = config.problem_with(Some(&config.control.socket), what);
        findings.faults.push(problem.to_string());
    }
    if let Some(path) = events
        && let Err(fault) = event_file_is_usable(path)
    {
        findings.faults.push(config.problem_with(Some(path), fault).to_string());
    }
    if let Some(name) = &config.control.group
        && let Err(fault) = start::group(name)
    {
        findings.faults.push(fault);
    }
    if let Err(error) = start::check_open_files(config) {
        findings.faults.push(error.to_string());
    }
    for listener in &config.listeners {
        let address = listener.address;
        match ring::reserve(address) {
            Ok(_) => findings.facts.push(format!("{address} is free to listen on")),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && runs => {
                findings.facts.push(format!("{address} is in use by the running relay"));
            }
            Err(error) => findings.faults.push(format!("cannot listen on {address}: {error}")),
        }
    }
    findings
}

fn certificates(config: &Config, findings: &mut Findings) {
    let now = Duration::from_millis(ring::wall_clock().0);
    for one in config.tls.certificates.iter().chain(&config.route.certificates) {
        let path = one.cert.display();
        let Some(Validity { from, until }) = validity(&one.cert) else { continue };
        let days = |span: Duration| span.as_secs() / (24 * 3600);
        if now < from {
            let left = days(from - now);
            findings
                .warnings
                .push(format!("{path}: not valid yet: its validity begins in {left} days"));
        } else if now > until {
            let past = days(now - until);
            findings.warnings.push(format!("{path}: expired {past} days ago"));
        } else if until - now < EXPIRES_SOON {
            let left = days(until - now);
            let unit = if left == 1 { "day" } else { "days" };
            findings.warnings.push(format!("{path}: expires in {left} {unit}"));
        } else {
            findings.facts.push(format!("{path}: valid for {} days more", days(until - now)));
        }
    }
}

/// A folder that exists must be writable; a missing one must be possible to create. The shards'
/// folders in the spool directory are created with it.
fn folder_is_usable(folder: &Path, root: &Path, findings: &mut Findings) {
    let path = folder.display();
    if folder.is_dir() {
        return match writable(folder) {
            Ok(()) => findings.facts.push(format!("{path}: writable")),
            Err(error) => findings.faults.push(format!("{path}: not writable: {error}")),
        };
    }
    if folder.exists() {
        findings.faults.push(format!("{path}: not a folder"));
        return;
    }
    let above = match folder.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => return,
    };
    if above == root || findings.faults.iter().any(|fault| fault.starts_with(&*path.to_string())) {
        return;
    }
    if !above.exists() {
        findings.faults.push(format!("{path}: {}", spool::missing_above(above)));
        return;
    }
    match writable(above) {
        Ok(()) => findings.facts.push(format!("{path}: will be created")),
        Err(error) => {
            let above = above.display();
            findings.faults.push(format!("{path}: cannot be created in {above}: {error}"));
        }
    }
}

/// An event file that exists must be a regular file that can be written.
fn event_file_is_usable(path: &Path) -> Result<(), String> {
    let name = path.display();
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => std::fs::OpenOptions::new()
            .read(true)
            .append(true)
            .open(path)
            .map(|_| ())
            .map_err(|error| format!("{name}: not writable: {error}")),
        Ok(_) => Err(format!(
            "{name}: not a regular file; for a pipe or a device set event.output = \"stdout\""
        )),
        // It will be created.
        Err(_) => Ok(()),
    }
}

/// Only an attempt shows whether a folder is writable: permissions, read-only mounts, file systems
/// such as /proc.
fn writable(folder: &Path) -> io::Result<()> {
    let probe = folder.join(format!(".ringpost-check-{}", std::process::id()));
    std::fs::OpenOptions::new().write(true).create_new(true).open(&probe)?;
    std::fs::remove_file(&probe)
}

/// The plain check, and checks with the name servers.
pub fn live(config: &Config) -> Findings {
    let mut findings = preflight(config);
    let mut working = Vec::new();
    for server in &config.dns.servers {
        match ask(*server, &config.host_name, RecordType::A) {
            Ok(_) => {
                findings.facts.push(format!("name server {server} answers"));
                working.push(*server);
            }
            Err(error) => {
                findings.warnings.push(format!("name server {server} does not answer: {error}"));
            }
        }
    }
    if let Some(server) = working.first() {
        own_name(config, *server, &mut findings);
    }
    next_hops(config, working.first().copied(), &mut findings);
    findings
}

/// The relay's name should resolve to an address, and that address back to the name.
fn own_name(config: &Config, server: SocketAddr, findings: &mut Findings) {
    let name = &*config.host_name;
    let addresses = addresses(server, name);
    if addresses.is_empty() {
        findings.warnings.push(format!(
            "host_name {name} has no address in the DNS; many servers refuse mail from such a name"
        ));
    }
    for address in addresses {
        let back = ask(server, &reverse_name(address), RecordType::PTR).unwrap_or_default();
        let names: Vec<String> = back
            .iter()
            .filter_map(|data| match data {
                RData::PTR(name) => Some(name.0.to_ascii().trim_end_matches('.').to_owned()),
                _ => None,
            })
            .collect();
        if names.iter().any(|back| back.eq_ignore_ascii_case(name)) {
            findings.facts.push(format!("host_name {name} resolves to {address} and back"));
        } else if names.is_empty() {
            findings.warnings.push(format!(
                "host_name {name} resolves to {address}, which has no name (PTR) in the DNS"
            ));
        } else {
            findings.warnings.push(format!(
                "host_name {name} resolves to {address}, whose name (PTR) is {}",
                names.join(", ")
            ));
        }
    }
}

/// Next hops must have an address, and one must take connections. Without a `server` that answers,
/// only those are tried that need none.
fn next_hops(config: &Config, server: Option<SocketAddr>, findings: &mut Findings) {
    let hops = config.route.rules.iter().filter_map(|rule| rule.next_hop.as_ref());
    let mut tried: Vec<(&HostName, u16)> = Vec::new();
    for NextHop { host, port, .. } in config.route.smart_host.iter().chain(hops) {
        if tried.contains(&(host, *port)) {
            continue;
        }
        if tried.len() == NEXT_HOPS_ASKED_MAX {
            findings.warnings.push(format!(
                "only the first {NEXT_HOPS_ASKED_MAX} next hops have been tried, not all"
            ));
            return;
        }
        tried.push((host, *port));
        let found = match (host, server) {
            (HostName::Address(address), _) => vec![*address],
            // As the relay itself: RFC 6761 6.3.
            (HostName::Name(name), _) if is_localhost(name) => {
                vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            }
            (HostName::Name(name), Some(server)) => addresses_of_next_hop(name, server, findings),
            (HostName::Name(_), None) => continue,
        };
        if !found.is_empty() {
            connect(host, &found, *port, findings);
        }
    }
}

fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// A next hop with MX records alone was written as for Postfix, whose relayhost is looked up by MX
/// unless it is in brackets.
fn addresses_of_next_hop(name: &str, server: SocketAddr, findings: &mut Findings) -> Vec<IpAddr> {
    let found = addresses(server, name);
    if !found.is_empty() {
        let fact = format!("next hop {name} has an address");
        if !findings.facts.contains(&fact) {
            findings.facts.push(fact);
        }
        return found;
    }
    let mx = ask(server, name, RecordType::MX).unwrap_or_default();
    let best = mx.iter().filter_map(|data| match data {
        RData::MX(mx) => Some((mx.preference, mx.exchange.to_ascii())),
        _ => None,
    });
    findings.warnings.push(match best.min() {
        Some((_, host)) => format!(
            "the next hop {name} has no address in the DNS, but MX records: a next hop is never \
             looked up by MX (as in brackets in Postfix); write one of its hosts, such as \"{}\"",
            host.trim_end_matches('.')
        ),
        None => format!(
            "the next hop {name} has no address in the DNS (/etc/hosts is not used for next hops)"
        ),
    });
    found
}

/// Connects to the first address that takes a connection, and closes it at once.
fn connect(host: &HostName, found: &[IpAddr], port: u16, findings: &mut Findings) {
    let shown = match host {
        HostName::Name(name) => format!("{name}:{port}"),
        HostName::Address(address) => SocketAddr::new(*address, port).to_string(),
    };
    let mut errors = Vec::new();
    for address in found.iter().take(ADDRESSES_TRIED_MAX) {
        let address = SocketAddr::new(*address, port);
        match TcpStream::connect_timeout(&address, CONNECT_WAIT) {
            Ok(_) => {
                findings.facts.push(format!("next hop {shown} takes connections"));
                return;
            }
            Err(error) if matches!(host, HostName::Address(_)) => errors.push(error.to_string()),
            Err(error) => errors.push(format!("{address}: {error}")),
        }
    }
    let errors = errors.join("; ");
    findings.warnings.push(format!("the next hop {shown} takes no connection: {errors}"));
}

/// The addresses of a name; none when the server does not answer.
fn addresses(server: SocketAddr, name: &str) -> Vec<IpAddr> {
    let all = [RecordType::A, RecordType::AAAA].into_iter();
    let all = all.flat_map(|kind| ask(server, name, kind).unwrap_or_default());
    all.filter_map(|data| match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    })
    .collect()
}

/// `1.2.0.192.in-addr.arpa`, or the nibbles of an IPv6 address.
fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let bytes = address.octets();
            let nibbles = bytes.iter().rev().map(|b| format!("{:x}.{:x}.", b & 15, b >> 4));
            format!("{}ip6.arpa", nibbles.collect::<String>())
        }
    }
}

/// The answer of one name server over UDP.
fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Result<Vec<RData>, String> {
    let name = Name::from_ascii(format!("{name}.")).map_err(|error| error.to_string())?;
    let mut query = Message::new(ring::rng().u16(..), MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name, kind));
    let bytes = query.to_vec().map_err(|error| error.to_string())?;
    let asked = || -> io::Result<Vec<u8>> {
        let local: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((local, 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(DNS_WAIT))?;
        socket.send(&bytes)?;
        let mut answer = vec![0; DNS_ANSWER_MAX];
        let length = socket.recv(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    };
    let answer = asked().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("no answer within {} s", DNS_WAIT.as_secs())
        }
        _ => error.to_string(),
    })?;
    let answer = Message::from_vec(&answer).map_err(|error| error.to_string())?;
    Ok(answer.answers.into_iter().map(|record| record.data).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Machine;

    #[test]
    fn addresses_have_names_in_the_dns() {
        let v4 = reverse_name("192.0.2.1".parse().unwrap());
        assert_eq!(v4, "1.2.0.192.in-addr.arpa");
        let v6 = reverse_name("2001:db8::1".parse().unwrap());
        assert!(v6.starts_with("1.0.0.0.") && v6.ends_with("8.b.d.0.1.0.0.2.ip6.arpa"), "{v6}");
    }

    #[test]
    fn a_folder_is_writable_can_be_created_or_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let judged = |path: &Path| {
            let mut findings = Findings::default();
            folder_is_usable(path, Path::new("/nowhere"), &mut findings);
            findings
        };
        assert!(judged(folder.path()).faults.is_empty());
        assert!(judged(&folder.path().join("new")).faults.is_empty());
        assert_eq!(judged(&folder.path().join("no/new")).faults.len(), 1);
        assert_eq!(judged(Path::new("/proc/spool")).faults.len(), 1);
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(judged(&file).faults.first().unwrap().ends_with("not a folder"));
    }

    fn config(text: &str) -> Config {
        Config::read("r.toml", text, &[], &Machine::this()).unwrap()
    }

    #[test]
    fn a_file_that_a_start_refuses_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().display();
        let file = folder.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let faults = |key: &str, value: &str| {
            let text = format!(
                "spool.directory = \"{root}/spool\"\ncontrol.socket = \"{root}/socket\"\n\
                 listener = [{{address = \"127.0.0.1:0\"}}]\ncores = 1\n"
            );
            let text = match key {
                "control.socket" => text.replace(&format!("{root}/socket"), value),
                _ => format!("{text}{key} = \"{value}\"\n"),
            };
            preflight(&config(&text)).faults
        };
        // The key, its value, and the fault if there is one.
        let table = [
            (
                "event.file",
                "/dev/null".to_owned(),
                "r.toml:5: event.file: /dev/null: not a regular",
            ),
            ("event.file", format!("{root}"), "not a regular file"),
            ("event.file", format!("{root}/file"), ""),
            ("event.file", format!("{root}/link"), ""),
            ("event.file", format!("{root}/new"), ""),
            ("control.socket", format!("{root}/file"), "r.toml:2: control.socket: "),
            ("control.socket", format!("{root}/link"), "not a socket"),
            ("control.socket", format!("{root}"), "not a socket"),
            ("control.socket", format!("{root}/new"), ""),
        ];
        for (key, value, expected) in table {
            let faults = faults(key, &value);
            match expected {
                "" => assert!(faults.is_empty(), "{key} {value}: {faults:?}"),
                text => assert!(
                    faults.iter().any(|fault| fault.contains(text)),
                    "{key} {value}: {faults:?}"
                ),
            }
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    }

    #[test]
    fn a_folder_of_several_keys_is_reported_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let text = format!("spool.directory = \"{}\"\n", root.display());
        let findings = preflight(&config(&text));
        let shown = format!("{}: writable", root.display());
        assert_eq!(findings.facts.iter().filter(|fact| **fact == shown).count(), 1);
        std::fs::write(root.join("file"), "").unwrap();
        let text = format!("spool.directory = \"{}/file\"\n", root.display());
        let faults = preflight(&config(&text)).faults;
        let about = faults.iter().filter(|fault| fault.contains("not a folder"));
        assert_eq!(about.count(), 1, "{faults:?}");
    }

    #[test]
    fn a_next_hop_that_takes_no_connection_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let tried = |hop: &str| {
            let mut findings = Findings::default();
            next_hops(&config(&format!("route.smart_host = \"{hop}\"\n")), None, &mut findings);
            findings
        };
        for host in ["127.0.0.1", "localhost", "mail.localhost"] {
            let hop = format!("{host}:{port}");
            let findings = tried(&hop);
            assert_eq!(findings.warnings, Vec::<String>::new());
            assert_eq!(findings.facts, [format!("next hop {hop} takes connections")]);
        }
        assert_eq!(tried("mail.example.com"), Findings::default(), "no name server");
        drop(listener);
        for host in ["127.0.0.1", "localhost"] {
            let warnings = tried(&format!("{host}:{port}")).warnings;
            let expected = format!("the next hop {host}:{port} takes no connection: ");
            assert!(warnings.first().unwrap().starts_with(&expected), "{warnings:?}");
        }
    }

    #[test]
    fn a_name_server_that_does_not_answer_causes_a_warning() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        drop(socket);
        assert!(ask(address, "a.test", RecordType::A).is_err());
    }
}
