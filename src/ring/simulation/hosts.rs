//! The machines of a simulated network: their addresses, the link of each, the descriptors that
//! each has left, and the queue of what is on its way between them.
//!
//! Host 0 is the machine that a simulation is about. Each further host has one link to all others,
//! with its latency, its bandwidth and its faults. Packets between the addresses of one host take
//! no time and are never lost.

use super::trace::Trace;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

/// The machine that a simulation is about.
pub(crate) const SELF: usize = 0;
/// Its addresses.
pub(crate) const SELF_IPV4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub(crate) const SELF_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// Ports that are chosen for sockets without one.
const CHOSEN_PORTS: std::ops::Range<u16> = 32_768..61_000;

/// Whether packets to and from a host arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    Open,
    /// Packets vanish. Those of connections are sent again when the host is back.
    Silent,
    /// A router says that there is no such host.
    Unreachable,
}

/// The line between a host and all others. The default is a perfect one without any delay.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) reach: Reach,
    /// The shortest and the longest time that a packet takes, in microseconds.
    pub(crate) latency_us: (u64, u64),
    /// What each connection carries in one direction; 0 for no limit.
    pub(crate) bytes_per_second: u64,
    /// Bytes sent in one direction of a connection and not received yet.
    pub(crate) window: usize,
    /// Sent bytes are cut into random pieces up to this size.
    pub(crate) piece_max: usize,
    /// The share of connections that are lost.
    pub(crate) lost: f64,
    /// Those are lost after so many bytes at most, of both directions together.
    pub(crate) lost_within: u64,
    /// The shares of datagrams that never arrive, arrive twice, or arrive late.
    pub(crate) datagrams_lost: f64,
    pub(crate) datagrams_doubled: f64,
    pub(crate) datagrams_late: f64,
    /// How late, at most, in microseconds.
    pub(crate) late_us: u64,
}

impl Default for Link {
    fn default() -> Link {
        Link {
            reach: Reach::Open,
            latency_us: (0, 0),
            bytes_per_second: 0,
            window: 256 * 1024,
            piece_max: usize::MAX,
            lost: 0.0,
            lost_within: 0,
            datagrams_lost: 0.0,
            datagrams_doubled: 0.0,
            datagrams_late: 0.0,
            late_us: 0,
        }
    }
}

/// One machine.
struct Host {
    addresses: Vec<IpAddr>,
    link: Link,
    descriptors: usize,
    descriptors_max: usize,
}

/// What is on its way.
pub(super) enum Event {
    /// The next packet of a connection, from this side of it.
    Packet {
        connection: usize,
        from: usize,
    },
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    /// A router or host answers the datagram that `sender` sent to `to`.
    Undelivered {
        sender: SocketAddr,
        to: SocketAddr,
        errno: i32,
    },
}

/// All hosts, and what is on its way between them.
pub(super) struct Hosts {
    pub(super) random: fastrand::Rng,
    pub(super) trace: Trace,
    now_us: Rc<Cell<u64>>,
    hosts: Vec<Host>,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
}

impl Hosts {
    pub(super) fn new(seed: u64, now_us: Rc<Cell<u64>>) -> Hosts {
        let mut hosts = Hosts {
            random: fastrand::Rng::with_seed(seed),
            trace: Trace::default(),
            now_us,
            hosts: Vec::new(),
            queue: BTreeMap::new(),
            queued: 0,
        };
        hosts.add(&[SELF_IPV4, SELF_IPV6], Link::default());
        hosts
    }

    /// One more host; its number.
    pub(super) fn add(&mut self, addresses: &[IpAddr], link: Link) -> usize {
        let addresses = addresses.to_vec();
        assert!(addresses.iter().all(|&address| self.at(SELF, address).is_none()), "taken");
        self.hosts.push(Host { addresses, link, descriptors: 0, descriptors_max: usize::MAX });
        self.hosts.len() - 1
    }

    pub(super) fn link_of(&mut self, host: usize) -> &mut Link {
        &mut self.hosts[host].link
    }

    pub(super) fn set_descriptors_max(&mut self, host: usize, most: usize) {
        self.hosts[host].descriptors_max = most;
    }

    pub(super) fn descriptors(&self, host: usize) -> usize {
        self.hosts[host].descriptors
    }

    /// Takes a descriptor of `host`; `EMFILE` when it has none left.
    pub(super) fn take_descriptor(&mut self, host: usize) -> io::Result<()> {
        let host = &mut self.hosts[host];
        if host.descriptors >= host.descriptors_max {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        host.descriptors += 1;
        Ok(())
    }

    pub(super) fn give_descriptor_back(&mut self, host: usize) {
        self.hosts[host].descriptors -= 1;
    }

    /// The host that `address` names, seen from `host`.
    pub(super) fn at(&self, host: usize, address: IpAddr) -> Option<usize> {
        if address.is_loopback() {
            return Some(host);
        }
        self.hosts.iter().position(|host| host.addresses.contains(&address))
    }

    /// Whether a socket of `host` may have this address.
    pub(super) fn has(&self, host: usize, address: IpAddr) -> bool {
        address.is_unspecified() || self.at(host, address) == Some(host)
    }

    /// The address from which `host` speaks to `to`, if it has one of that family.
    pub(super) fn source(&self, host: usize, to: IpAddr) -> io::Result<IpAddr> {
        if self.has(host, to) {
            return Ok(to);
        }
        let own = self.hosts[host].addresses.iter().copied();
        own.into_iter()
            .find(|own| own.is_ipv4() == to.is_ipv4())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENETUNREACH))
    }

    pub(super) fn choose_port(&mut self) -> u16 {
        self.random.u16(CHOSEN_PORTS)
    }

    /// The line between two hosts: that of the one that is not the machine itself.
    pub(super) fn link(&self, one: usize, other: usize) -> Link {
        if one == other { Link::default() } else { self.hosts[one.max(other)].link.clone() }
    }

    /// Whether packets between two hosts arrive.
    pub(super) fn reach(&self, one: usize, other: usize) -> Reach {
        let links = [one, other].map(|host| self.hosts[host].link.reach);
        match links {
            _ if one == other => Reach::Open,
            [Reach::Silent, _] | [_, Reach::Silent] => Reach::Silent,
            [Reach::Unreachable, _] | [_, Reach::Unreachable] => Reach::Unreachable,
            _ => Reach::Open,
        }
    }

    pub(super) fn now_us(&self) -> u64 {
        self.now_us.get()
    }

    /// How long a packet takes over `link`.
    pub(super) fn latency(&mut self, link: &Link) -> u64 {
        self.random.u64(link.latency_us.0..=link.latency_us.1)
    }

    pub(super) fn schedule(&mut self, at_us: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((at_us, self.queued), event);
    }

    /// When the next event is due.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn next(&mut self) -> Option<Event> {
        self.queue.pop_first().map(|(_, event)| event)
    }
}

/// Whether a socket at `local` is meant by `address`.
pub(super) fn is_for(local: SocketAddr, address: SocketAddr) -> bool {
    let any = local.ip().is_unspecified() && local.is_ipv4() == address.is_ipv4();
    local.port() == address.port() && (any || local.ip() == address.ip())
}
