//! Values as text: durations, sizes, networks, addresses, names. Each has one function that reads
//! it and one that writes it. An error says what is wrong and what would be right.

use super::{HostName, Network, Scheme};
use crate::limits;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// Why a text is not valid.
pub(super) type Fault = String;

/// `5m`, `1h 30m`, `250ms`.
pub(super) fn read_duration(text: &str) -> Result<Duration, Fault> {
    let fault = || {
        format!(
            "{text:?} is not a duration; write a number and a unit: \
             \"50ms\", \"30s\", \"5m\", \"1h 30m\" or \"5d\""
        )
    };
    // For the library, M is a month; an operator who writes "5M" does not mean that.
    if text.contains('M') || text.trim() == "0" {
        return Err(fault());
    }
    humantime::parse_duration(text).map_err(|_| fault())
}

/// The shortest form that reads back as the same duration.
pub(super) fn show_duration(duration: Duration) -> String {
    const DAY: u64 = 24 * 60 * 60;
    let seconds = duration.as_secs();
    let parts = [
        (seconds / DAY, "d"),
        (seconds % DAY / 3600, "h"),
        (seconds % 3600 / 60, "m"),
        (seconds % 60, "s"),
        (u64::from(duration.subsec_millis()), "ms"),
        (u64::from(duration.subsec_micros() % 1000), "us"),
        (u64::from(duration.subsec_nanos() % 1000), "ns"),
    ];
    let shown: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if shown.is_empty() { "0s".into() } else { shown.join(" ") }
}

/// `25 MiB`, `64KiB`, `1000`: bytes. Units in powers of 1000 are accepted too, in any letter case.
pub(super) fn read_size(text: &str) -> Result<u64, Fault> {
    let fault = || {
        format!(
            "{text:?} is not a size; write a whole number of bytes, or one with KiB, MiB or GiB \
             (powers of 1024) or kB, MB or GB (of 1000) after it: \"64 KiB\""
        )
    };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let scale: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" | "bytes" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "k" | "m" | "g" | "t" if !number.is_empty() => {
            let unit = unit.trim().to_ascii_uppercase();
            return Err(format!("{text:?} is not a size; write \"{number} {unit}iB\""));
        }
        _ => return Err(fault()),
    };
    let number = u64::from_str(number).map_err(|_| fault())?;
    number.checked_mul(scale).ok_or_else(fault)
}

/// A size in the largest unit that divides it.
pub(super) fn show_size(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    units
        .iter()
        .find(|(scale, _)| bytes >= *scale && bytes.is_multiple_of(*scale))
        .map_or_else(|| bytes.to_string(), |(scale, unit)| format!("{} {unit}", bytes / scale))
}

/// An address to listen on: IP address and port.
pub(super) fn read_listen_address(text: &str) -> Result<SocketAddr, Fault> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Some(hint) = bracket_hint(text, 25) {
        return Err(hint);
    }
    if text.parse::<Ipv4Addr>().is_ok() || in_brackets(text).is_some() {
        return Err(format!("{text:?} has no port; write \"{text}:25\""));
    }
    if let Some(port) = text.strip_prefix(':').or(Some(text)).filter(|port| is_port(port)) {
        return Err(format!(
            "{text:?} has no IP address; write \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" \
             for all addresses of this machine"
        ));
    }
    Err(format!("{text:?} is not an IP address and port, such as \"127.0.0.1:2525\""))
}

/// A name server: IP address, port 53 unless given.
pub(super) fn read_server_address(text: &str) -> Result<SocketAddr, Fault> {
    if let Some(hint) = bracket_hint(text, 53) {
        return Err(hint);
    }
    if let Some(address) = in_brackets(text) {
        return Ok(SocketAddr::new(IpAddr::V6(address), 53));
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok(SocketAddr::new(IpAddr::V4(address), 53));
    }
    text.parse()
        .ok()
        .filter(|address: &SocketAddr| address.port() != 0)
        .ok_or_else(|| format!("{text:?} is not the IP address of a name server: \"192.0.2.53\""))
}

/// A next hop as written: the port may be missing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WrittenHop {
    pub host: HostName,
    pub port: Option<u16>,
    pub scheme: Scheme,
}

/// RFC 8314 3.3.
const SMTPS_PORT: u16 = 465;
/// Never 25 (RFC 2033 5); 24 is assigned to "any private mail system", and usual for LMTP.
const LMTP_PORT: u16 = 24;

impl WrittenHop {
    /// The port; for plain SMTP `port` unless one was written.
    pub fn port_or(&self, port: u32) -> u16 {
        self.port.unwrap_or(match self.scheme {
            Scheme::Smtp => u16::try_from(port).unwrap_or(25),
            Scheme::Smtps => SMTPS_PORT,
            Scheme::Lmtp => LMTP_PORT,
        })
    }
}

/// `HOST` or `HOST:PORT`, with or without a scheme before it.
pub(super) fn read_next_hop(text: &str) -> Result<WrittenHop, Fault> {
    let by_scheme = |(prefix, scheme)| Some((text.strip_prefix(prefix)?, scheme));
    let (bare, scheme) = SCHEMES.into_iter().find_map(by_scheme).unwrap_or((text, Scheme::Smtp));
    let (host, port) = read_host_and_port(bare)?;
    if scheme == Scheme::Lmtp && port == Some(25) {
        return Err(format!("{text:?}: LMTP must not be spoken on port 25 (RFC 2033 5)"));
    }
    Ok(WrittenHop { host, port, scheme })
}

fn read_host_and_port(text: &str) -> Result<(HostName, Option<u16>), Fault> {
    match transport_hint(text) {
        Some(hint) => Err(hint),
        None => read_bare_host_and_port(text),
    }
}

fn read_bare_host_and_port(text: &str) -> Result<(HostName, Option<u16>), Fault> {
    if let Some(hint) = bracket_hint(text, 25) {
        return Err(hint);
    }
    if let Some(address) = in_brackets(text) {
        return Ok((HostName::Address(IpAddr::V6(address)), None));
    }
    let fault = |why: &str| {
        let forms = "write \"mx\", \"HOST\" or \"HOST:PORT\", or a host with \"smtps://\" or \
                     \"lmtp://\" before it";
        format!("{text:?} is not a next hop: {why}; {forms}")
    };
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(fault(&format!("{scheme}:// is not supported")));
    }
    if text.contains(',') {
        return Err(fault("a list is not allowed"));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => {
            let number = port.parse().ok().filter(|&number: &u16| number != 0);
            (host, Some(number.ok_or_else(|| fault(&format!("{port:?} is not a port")))?))
        }
        None => (text, None),
    };
    if let Some(address) = in_brackets(host) {
        return Ok((HostName::Address(IpAddr::V6(address)), port));
    }
    if host.starts_with('[') || host.ends_with(']') {
        let without = text.replace(['[', ']'], "");
        return Err(format!(
            "{text:?} is not a next hop: only IPv6 addresses have brackets here; a host is never \
             looked up by MX, as [HOST] in Postfix's relayhost; write {without:?}"
        ));
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Ok((HostName::Address(IpAddr::V4(address)), port));
    }
    // Names of hosts on private networks may have underscores.
    check_domain(&host.replace('_', "x")).map_err(|why| fault(&why))?;
    Ok((HostName::Name(host.to_ascii_lowercase().into()), port))
}

/// Transports of Postfix, each with what a next hop has before the host in its place.
const TRANSPORTS: [(&str, &str); 6] = [
    ("smtp", ""),
    ("relay", ""),
    ("esmtp", ""),
    ("submission", ""),
    ("smtps", "smtps://"),
    ("lmtp", "lmtp://"),
];

/// The advice for a next hop with a transport before it, as in Postfix's transport_maps: the same
/// without it, if that is a next hop.
fn transport_hint(text: &str) -> Option<Fault> {
    let (transport, rest) = text.split_once(':')?;
    let (_, scheme) = TRANSPORTS.iter().find(|(name, _)| *name == transport)?;
    // A host may have the name of a transport.
    if is_port(rest) || rest.starts_with("//") {
        return None;
    }
    let not = format!("{text:?} is not a next hop: it is the form of Postfix's transport_maps");
    if rest.is_empty() {
        return Some(format!("{not}; write \"mx\""));
    }
    let own = read_bare_host_and_port(rest)
        .or_else(|_| read_bare_host_and_port(&rest.replace(['[', ']'], "")));
    match own.and_then(|(host, port)| {
        let scheme = SCHEMES.iter().find(|(prefix, _)| prefix == scheme);
        let scheme = scheme.map_or(Scheme::Smtp, |(_, scheme)| *scheme);
        let shown = show_next_hop(&WrittenHop { host, port, scheme });
        read_next_hop(&shown).map(|_| shown)
    }) {
        Ok(shown) => Some(format!("{not}; write {shown:?}")),
        Err(_) => Some(format!("{not}; write \"mx\", \"HOST\" or \"HOST:PORT\"")),
    }
}

/// The prefixes of next hops that do not use plain SMTP.
pub(super) const SCHEMES: [(&str, Scheme); 2] =
    [("smtps://", Scheme::Smtps), ("lmtp://", Scheme::Lmtp)];

/// `host:port`, with brackets where an IPv6 address needs them.
pub(super) fn show_next_hop(hop: &WrittenHop) -> String {
    let known = SCHEMES.iter().find(|(_, scheme)| *scheme == hop.scheme);
    let scheme = known.map_or("", |(text, _)| text);
    match (&hop.host, hop.port) {
        (HostName::Name(name), None) => format!("{scheme}{name}"),
        (HostName::Name(name), Some(port)) => format!("{scheme}{name}:{port}"),
        (HostName::Address(IpAddr::V6(address)), None) => format!("{scheme}[{address}]"),
        (HostName::Address(address), None) => format!("{scheme}{address}"),
        (HostName::Address(address), Some(port)) => {
            format!("{scheme}{}", SocketAddr::new(*address, port))
        }
    }
}

fn in_brackets(text: &str) -> Option<Ipv6Addr> {
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.parse::<u16>().is_ok()
}

/// The advice for an IPv6 address without brackets, or with only one of them: the last part may be
/// a port or a part of the address, and both readings are suggested.
fn bracket_hint(text: &str, port: u16) -> Option<Fault> {
    if in_brackets(text).is_some() || text.parse::<SocketAddr>().is_ok() {
        return None;
    }
    let bare = text.replace(['[', ']'], "");
    let whole = bare.parse::<Ipv6Addr>().ok().map(|address| format!("\"[{address}]:{port}\""));
    let split = bare.rsplit_once(':').and_then(|(address, port)| {
        let address: Ipv6Addr = address.parse().ok()?;
        is_port(port).then(|| format!("\"[{address}]:{port}\""))
    });
    let right = match (split, whole) {
        (Some(split), Some(whole)) => format!("{split}, or {whole} if all of it is the address"),
        (one, other) => one.or(other)?,
    };
    Some(format!("{text:?} is not clear: IPv6 addresses need brackets here; write {right}"))
}

/// The widest blocks that one operator can own: 10.0.0.0/8 and a /16 of IPv6, besides the private
/// and link-local space of IPv6. A wider one would make an open relay.
const IPV4_PREFIX_MIN: u8 = 8;
const IPV6_PREFIX_MIN: u8 = 16;
const IPV6_OWN: [(Ipv6Addr, u8); 2] = [
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
];

/// A block in CIDR form, or one address. Blocks that are too wide for one operator are refused:
/// `what` says why.
pub(super) fn read_network(text: &str, what: &str) -> Result<Network, Fault> {
    let network = read_any_network(text)?;
    let first = network.address;
    let too_wide = match first {
        IpAddr::V4(_) => network.prefix < IPV4_PREFIX_MIN,
        IpAddr::V6(first) => {
            let own = IPV6_OWN.iter().any(|&(address, prefix)| {
                let block = Network { address: IpAddr::V6(address), prefix };
                network.prefix >= prefix && block.contains(IpAddr::V6(first))
            });
            network.prefix < IPV6_PREFIX_MIN && !own
        }
    };
    if too_wide {
        return Err(format!(
            "{text:?} {what} (at least /{IPV4_PREFIX_MIN} for IPv4, /{IPV6_PREFIX_MIN} for IPv6)"
        ));
    }
    Ok(network)
}

/// A block in CIDR form, or one address.
pub(super) fn read_any_network(text: &str) -> Result<Network, Fault> {
    let fault = || {
        format!(
            "{text:?} is not a network; write ADDRESS/BITS: \"192.0.2.0/24\", \"2001:db8::/32\""
        )
    };
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address = IpAddr::from_str(address.trim()).map_err(|_| fault())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        Some(prefix) => u8::from_str(prefix.trim()).ok().filter(|&prefix| prefix <= bits),
        None => Some(bits),
    };
    let written = Network { address, prefix: prefix.ok_or_else(fault)? };
    // IPv4 clients are compared as IPv4 (`Network::contains`), so blocks of mapped addresses are
    // stored as IPv4 too.
    let network = match (address.to_canonical(), written.prefix.checked_sub(96)) {
        (IpAddr::V4(inner), Some(prefix)) if address.is_ipv6() => {
            Network { address: IpAddr::V4(inner), prefix }
        }
        _ => written,
    };
    let first = first_address(network);
    if first != network.address {
        let prefix = network.prefix;
        let address = network.address;
        return Err(format!(
            "{text:?} has address bits after the prefix; write \"{first}/{prefix}\" for the \
             block, or \"{address}\" for the one address"
        ));
    }
    Ok(network)
}

fn first_address(network: Network) -> IpAddr {
    match network.address {
        IpAddr::V4(address) => {
            let shift = 32 - u32::from(network.prefix.min(32));
            let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let shift = 128 - u32::from(network.prefix.min(128));
            let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

/// A block as written in the file.
pub(super) fn show_network(network: &Network) -> String {
    format!("{}/{}", network.address, network.prefix)
}

/// Checks a domain (RFC 5321 4.1.2): labels of letters, digits and hyphens.
pub(super) fn check_domain(text: &str) -> Result<(), Fault> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err("it is an IP address, not a name".into());
    }
    if text.len() > limits::DOMAIN_BYTES_MAX {
        return Err(format!("it is longer than {} bytes", limits::DOMAIN_BYTES_MAX));
    }
    if !text.is_ascii() {
        return Err("write names outside ASCII in their \"xn--\" form".into());
    }
    if text.ends_with('.') {
        return Err("no dot at the end".into());
    }
    for label in text.split('.') {
        // RFC 1035 2.3.4: 63 octets.
        if label.is_empty() || label.len() > 63 {
            return Err("each part between dots has 1 to 63 characters".into());
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(format!("{label:?} begins or ends with a hyphen"));
        }
        if let Some(odd) = label.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-') {
            return Err(format!("{odd:?} is not allowed in a domain name"));
        }
    }
    Ok(())
}

/// Largest number of CPUs in a list: more than any machine has.
const CPUS_MAX: usize = 8192;

/// `0-3,8`: CPU numbers as the kernel writes them.
pub(super) fn read_cpu_list(text: &str) -> Result<Vec<usize>, Fault> {
    let fault = || format!("{text:?} is not a list of CPU numbers, such as \"0-3,8\"");
    let mut cpus = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first = usize::from_str(first).map_err(|_| fault())?;
        let last = usize::from_str(last).map_err(|_| fault())?;
        if first > last {
            return Err(format!("{text:?}: {part} is descending; write {last}-{first}"));
        }
        if last >= CPUS_MAX || cpus.len() + (last - first) >= CPUS_MAX {
            return Err(fault());
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

/// CPU numbers as the kernel writes them, in their order.
pub(super) fn show_cpu_list(cpus: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => runs.push((cpu, cpu)),
        }
    }
    let show = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(show).collect::<Vec<_>>().join(",")
}
