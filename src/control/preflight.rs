//! Finds problems with this machine before a start: for `ringpost check`.
//!
//! The plain check examines only files, folders and addresses of this machine. The live check also
//! asks the name servers, and looks up this relay's own name and its PTR record.

use super::start;
use crate::config::{Config, EventOutput, HostName};
use crate::ring;
use crate::spool::{self, lock};
use crate::tls::{Validity, validity};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

/// A certificate that expires within this causes a warning.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// How long the live check waits for a name server.
const DNS_WAIT: Duration = Duration::from_secs(2);
/// The largest answer that the live check reads, in bytes.
const DNS_ANSWER_MAX: usize = 4096;
/// Next hops that the live check looks up: each may take seconds.
const NEXT_HOPS_ASKED_MAX: usize = 20;

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
    for folder in [root].into_iter().chain(config.cores.iter().map(|core| &*core.spool)) {
        folder_is_usable(folder, root, &mut findings);
    }
    let socket = Some(&*config.control.socket);
    let events = match &config.event.output {
        EventOutput::File(path) => Some(&**path),
        _ => None,
    };
    for file in socket.into_iter().chain(events) {
        match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => {
                folder_is_usable(folder, root, &mut findings);
            }
            _ => {}
        }
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
        next_hops(config, *server, &mut findings);
    }
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

/// Next hops must have an address. One with MX records alone was written as for Postfix, whose
/// relayhost is looked up by MX unless it is in brackets.
fn next_hops(config: &Config, server: SocketAddr, findings: &mut Findings) {
    let hops = config.route.rules.iter().filter_map(|rule| rule.next_hop.as_ref());
    let names: BTreeSet<&str> = config
        .route
        .smart_host
        .iter()
        .chain(hops)
        .filter_map(|hop| match &hop.host {
            HostName::Name(name) => Some(&**name),
            HostName::Address(_) => None,
        })
        .take(NEXT_HOPS_ASKED_MAX)
        .collect();
    for name in names {
        if !addresses(server, name).is_empty() {
            findings.facts.push(format!("next hop {name} has an address"));
            continue;
        }
        let mx = ask(server, name, RecordType::MX).unwrap_or_default();
        let best = mx.iter().filter_map(|data| match data {
            RData::MX(mx) => Some((mx.preference, mx.exchange.to_ascii())),
            _ => None,
        });
        findings.warnings.push(match best.min() {
            Some((_, host)) => format!(
                "the next hop {name} has no address in the DNS, but MX records: a next hop is \
                 never looked up by MX (as in brackets in Postfix); write one of its hosts, such \
                 as \"{}\"",
                host.trim_end_matches('.')
            ),
            None => format!("the next hop {name} has no address in the DNS"),
        });
    }
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

    #[test]
    fn a_name_server_that_does_not_answer_causes_a_warning() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        drop(socket);
        assert!(ask(address, "a.test", RecordType::A).is_err());
    }
}
