//! Simulated UDP: datagrams that are lost, doubled, late, or forged.
//!
//! A connected socket takes datagrams of its peer alone, so a forged one arrives only if it bears
//! the peer's address and was sent to the socket's port. To a port without a socket, or a host that
//! is unreachable, the sender's socket gets the error of the ICMP message.

use super::hosts::{Event, Hosts, Reach, is_for};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::task::{Poll, Waker};

/// Datagrams that a socket holds for its program; further ones are dropped.
const HELD_MAX: usize = 256;

struct Socket {
    host: usize,
    address: SocketAddr,
    peer: Option<SocketAddr>,
    arrived: VecDeque<(SocketAddr, Vec<u8>)>,
    /// The next receive or send returns it.
    error: Option<i32>,
    reader: Option<Waker>,
}

impl Socket {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// All sockets.
#[derive(Default)]
pub(super) struct Udp {
    sockets: BTreeMap<usize, Socket>,
    made: usize,
}

impl Udp {
    /// A socket at `address` that takes the datagrams of `peer`, or of all.
    pub(super) fn open(
        &mut self,
        host: usize,
        address: SocketAddr,
        peer: Option<SocketAddr>,
    ) -> usize {
        self.made += 1;
        let arrived = VecDeque::new();
        let socket = Socket { host, address, peer, arrived, error: None, reader: None };
        self.sockets.insert(self.made, socket);
        self.made
    }

    pub(super) fn close(&mut self, number: usize) {
        self.sockets.remove(&number);
    }

    pub(super) fn addresses(&self, number: usize) -> io::Result<(SocketAddr, Option<SocketAddr>)> {
        let socket = self.sockets.get(&number);
        let socket = socket.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        Ok((socket.address, socket.peer))
    }

    /// Sends from a connected socket.
    pub(super) fn send(
        &mut self,
        hosts: &mut Hosts,
        number: usize,
        bytes: &[u8],
    ) -> io::Result<usize> {
        let socket = self.sockets.get_mut(&number);
        let socket = socket.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        if let Some(number) = socket.error.take() {
            return Err(io::Error::from_raw_os_error(number));
        }
        let peer = socket.peer.ok_or_else(|| io::Error::from_raw_os_error(libc::EDESTADDRREQ))?;
        let (host, from) = (socket.host, socket.address);
        send_from(hosts, host, (from, peer), bytes);
        Ok(bytes.len())
    }

    /// The next datagram and its sender.
    pub(super) fn poll_receive(
        &mut self,
        number: usize,
        waker: &Waker,
    ) -> Poll<io::Result<(SocketAddr, Vec<u8>)>> {
        let Some(socket) = self.sockets.get_mut(&number) else {
            return Poll::Ready(Err(io::Error::from_raw_os_error(libc::EBADF)));
        };
        if let Some(number) = socket.error.take() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(number)));
        }
        match socket.arrived.pop_front() {
            Some(datagram) => Poll::Ready(Ok(datagram)),
            None => {
                socket.reader = Some(waker.clone());
                Poll::Pending
            }
        }
    }

    /// A datagram has arrived at a host.
    pub(super) fn arrive(
        &mut self,
        hosts: &mut Hosts,
        (from, to): (SocketAddr, SocketAddr),
        bytes: Vec<u8>,
    ) {
        let numbers = [hosts.now_us(), u64::from(from.port()), u64::from(to.port())];
        hosts.trace.note("datagram", &numbers, &bytes);
        let is_meant = |socket: &Socket| {
            is_for(socket.address, to)
                && hosts.has(socket.host, to.ip())
                && socket.peer.is_none_or(|peer| peer == from)
        };
        match self.sockets.values_mut().find(|socket| is_meant(socket)) {
            Some(socket) if socket.arrived.len() < HELD_MAX => {
                socket.arrived.push_back((from, bytes));
                socket.wake();
            }
            Some(_) => {}
            None => {
                let errno = libc::ECONNREFUSED;
                let undelivered = Event::Undelivered { sender: from, to, errno };
                hosts.schedule(hosts.now_us(), undelivered);
            }
        }
    }

    /// What `sender` sent to `to` was answered by an error.
    pub(super) fn undelivered(&mut self, sender: SocketAddr, to: SocketAddr, errno: i32) {
        let senders = self.sockets.values_mut();
        for socket in senders.filter(|one| one.address == sender && one.peer == Some(to)) {
            socket.error = Some(errno);
            socket.wake();
        }
    }
}

/// Sends a datagram out of `host`, which may claim to come from anywhere.
pub(super) fn send_from(
    hosts: &mut Hosts,
    host: usize,
    (from, to): (SocketAddr, SocketAddr),
    bytes: &[u8],
) {
    let there = hosts.at(host, to.ip());
    let reach = there.map_or(Reach::Unreachable, |there| hosts.reach(host, there));
    let link = hosts.link(host, there.unwrap_or(host));
    match reach {
        Reach::Silent => return,
        Reach::Unreachable => {
            let errno = libc::EHOSTUNREACH;
            let at_us = hosts.now_us() + hosts.latency(&link);
            return hosts.schedule(at_us, Event::Undelivered { sender: from, to, errno });
        }
        Reach::Open => {}
    }
    let copies = if hosts.random.f64() < link.datagrams_doubled { 2 } else { 1 };
    for _ in 0..copies {
        if hosts.random.f64() < link.datagrams_lost {
            continue;
        }
        let mut at_us = hosts.now_us() + hosts.latency(&link);
        if hosts.random.f64() < link.datagrams_late {
            at_us += hosts.random.u64(..=link.late_us);
        }
        hosts.schedule(at_us, Event::Datagram { from, to, bytes: bytes.to_vec() });
    }
}
