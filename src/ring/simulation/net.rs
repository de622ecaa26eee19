//! The network of a simulation: hosts, connections and datagrams, and what a test may do to them.
//! It must not know what the bytes mean.
//!
//! Everything in it is decided by the seed. A peer of the program under test is a plain task on
//! another host (`Simulation::spawn_on`), which uses `ring` like the program itself.

use super::hosts::{Event, Hosts, Link, Reach};
use super::tcp::{EndId, Tcp};
use super::trace::Trace;
use super::udp::Udp;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;

/// What passes between the hosts of one simulation.
pub(crate) struct Net {
    pub(super) hosts: Hosts,
    pub(super) tcp: Tcp,
    pub(super) udp: Udp,
}

/// What sockets hold of it.
pub(super) type Shared = Rc<RefCell<Net>>;

impl Net {
    pub(super) fn new(seed: u64, now_us: Rc<Cell<u64>>) -> Shared {
        let hosts = Hosts::new(seed, now_us);
        Rc::new(RefCell::new(Net { hosts, tcp: Tcp::default(), udp: Udp::default() }))
    }

    /// One more host, with these addresses; its number.
    pub(crate) fn add_host(&mut self, addresses: &[IpAddr], link: Link) -> usize {
        self.hosts.add(addresses, link)
    }

    /// Changes the link of `host` from now on.
    pub(crate) fn change_link(&mut self, host: usize, change: impl FnOnce(&mut Link)) {
        let link = self.hosts.link_of(host);
        change(link);
        if link.reach != Reach::Silent {
            self.tcp.resume(&mut self.hosts, host);
        }
    }

    /// Descriptors that the programs of `host` may have at once.
    pub(crate) fn set_descriptors_max(&mut self, host: usize, most: usize) {
        self.hosts.set_descriptors_max(host, most);
    }

    /// Descriptors that the programs of `host` have.
    pub(crate) fn descriptors(&self, host: usize) -> usize {
        self.hosts.descriptors(host)
    }

    /// Connections that some program has, or in which something is on its way.
    pub(crate) fn connections(&self) -> usize {
        self.tcp.connections()
    }

    /// What has happened so far.
    pub(crate) fn trace(&self) -> Trace {
        self.hosts.trace
    }

    pub(super) fn note(&mut self, what: &str, numbers: &[u64]) {
        self.hosts.trace.note(what, numbers, &[]);
    }

    /// True for one call in so many.
    pub(super) fn draws(&mut self, one_in: u32) -> bool {
        self.hosts.random.u32(..one_in) == 0
    }

    /// When the next packet is due.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.hosts.next_at()
    }

    /// The next packet arrives.
    pub(super) fn step(&mut self) {
        let Net { hosts, tcp, udp } = self;
        match hosts.next() {
            None => {}
            Some(Event::Packet { connection, from }) => {
                tcp.arrive(hosts, EndId { connection, side: from });
            }
            Some(Event::Datagram { from, to, bytes }) => udp.arrive(hosts, (from, to), bytes),
            Some(Event::Undelivered { sender, to, errno }) => udp.undelivered(sender, to, errno),
        }
    }
}
