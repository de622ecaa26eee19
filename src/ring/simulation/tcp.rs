//! Simulated TCP: listeners, and connections whose bytes arrive in pieces, late, or not at all.
//!
//! A connection is two ends. What one sends is cut into packets that arrive in order; it counts
//! against the window until the other end's program has received it.
//!
//! | what happens | what a program sees |
//! | --- | --- |
//! | connect, and no listener there | `ECONNREFUSED` |
//! | connect, and the host or the link is silent, or the backlog full | nothing, for ever |
//! | connect, and the host is unreachable | `EHOSTUNREACH` |
//! | shutdown of the sending side | the other end: end of the stream, after all bytes; it may send |
//! | close with nothing unread | the same; bytes that still arrive are answered by a reset |
//! | close with unread bytes, or a reset by a peer | the other end: `ECONNRESET`, perhaps before bytes that have arrived |
//! | a connection is lost by a reset | both ends: `ECONNRESET`, after any byte |
//! | a connection is lost in silence | both ends: nothing arrives any more |
//!
//! After `ECONNRESET` was seen, a receive is the end of the stream and a send `EPIPE`, as on Linux.

use super::hosts::{Event, Hosts, Reach, is_for};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::task::{Poll, Waker};

/// The side that connects, and the one that accepts.
pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;

fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// What one end sends to the other.
enum Packet {
    Syn,
    SynAck,
    /// The connection is refused: the reason.
    Refusal(i32),
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    Established,
    /// Refused, reset, or never begun: nothing more is sent or received.
    Dead,
}

/// How a connection is lost.
#[derive(Clone, Copy)]
enum Loss {
    Reset,
    Silence,
}

struct End {
    host: usize,
    address: SocketAddr,
    state: State,
    /// The program has it.
    open: bool,
    /// Arrived, and not yet received by the program.
    arrived: VecDeque<u8>,
    fin_arrived: bool,
    /// The next receive or send returns it.
    error: Option<i32>,
    /// Sent packets that have not arrived at the other end.
    sent: VecDeque<Packet>,
    fin_sent: bool,
    /// Sent bytes that the other end's program has not received.
    outstanding: usize,
    /// When the last sent packet arrives.
    busy_until_us: u64,
    /// Packets that wait until the other host can be reached again.
    stalled: usize,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl End {
    fn new(host: usize, address: SocketAddr, state: State) -> End {
        End {
            host,
            address,
            state,
            open: true,
            arrived: VecDeque::new(),
            fin_arrived: false,
            error: None,
            sent: VecDeque::new(),
            fin_sent: false,
            outstanding: 0,
            busy_until_us: 0,
            stalled: 0,
            reader: None,
            writer: None,
        }
    }

    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }

    fn die(&mut self, number: i32) {
        if self.state != State::Dead {
            self.state = State::Dead;
            self.error = Some(number);
        }
        self.wake();
    }
}

struct Connection {
    ends: [End; 2],
    /// It is lost after so many bytes.
    loss: Option<(u64, Loss)>,
    carried: u64,
    /// Nothing arrives any more.
    silent: bool,
}

struct Listening {
    host: usize,
    address: SocketAddr,
    backlog: usize,
    waiting: VecDeque<usize>,
    waker: Option<Waker>,
    closed: bool,
}

/// All connections and listeners.
#[derive(Default)]
pub(super) struct Tcp {
    connections: BTreeMap<usize, Connection>,
    listeners: BTreeMap<usize, Listening>,
    made: usize,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndId {
    pub(super) connection: usize,
    pub(super) side: usize,
}

impl Tcp {
    fn next_number(&mut self) -> usize {
        self.made += 1;
        self.made
    }

    pub(super) fn listen(&mut self, host: usize, address: SocketAddr, backlog: usize) -> usize {
        let waiting = VecDeque::new();
        let listening = Listening { host, address, backlog, waiting, waker: None, closed: false };
        let number = self.next_number();
        self.listeners.insert(number, listening);
        number
    }

    /// The next connection of a listener, for which its host needs a descriptor.
    pub(super) fn poll_accept(
        &mut self,
        hosts: &mut Hosts,
        listener: usize,
        waker: &Waker,
    ) -> Poll<io::Result<EndId>> {
        let Some(listening) = self.listeners.get_mut(&listener).filter(|one| !one.closed) else {
            return Poll::Ready(Err(error(libc::EINVAL)));
        };
        if listening.waiting.is_empty() {
            listening.waker = Some(waker.clone());
            return Poll::Pending;
        }
        hosts.take_descriptor(listening.host)?;
        let connection = listening.waiting.pop_front().unwrap();
        Poll::Ready(Ok(EndId { connection, side: SERVER }))
    }

    /// Takes no more connections, and resets those that were not accepted.
    pub(super) fn close_listener(&mut self, hosts: &mut Hosts, listener: usize) {
        let Some(listening) = self.listeners.get_mut(&listener) else { return };
        listening.closed = true;
        if let Some(waker) = listening.waker.take() {
            waker.wake();
        }
        for connection in std::mem::take(&mut listening.waiting) {
            let id = EndId { connection, side: SERVER };
            self.reset(hosts, id);
            self.close(hosts, id);
        }
    }

    pub(super) fn connect(
        &mut self,
        hosts: &mut Hosts,
        host: usize,
        from: SocketAddr,
        to: SocketAddr,
    ) -> EndId {
        let there = hosts.at(host, to.ip()).unwrap_or(host);
        let link = hosts.link(host, there);
        let loss = (hosts.random.f64() < link.lost).then(|| {
            let after = hosts.random.u64(..=link.lost_within);
            (after, if hosts.random.bool() { Loss::Reset } else { Loss::Silence })
        });
        let ends = [
            End::new(host, from, State::Connecting),
            End { open: false, ..End::new(there, to, State::Dead) },
        ];
        let number = self.next_number();
        let connection = Connection { ends, loss, carried: 0, silent: false };
        self.connections.insert(number, connection);
        let end = EndId { connection: number, side: CLIENT };
        if hosts.at(host, to.ip()).is_none() {
            // A router says so.
            self.end(end).unwrap().die(libc::EHOSTUNREACH);
        } else {
            self.send(hosts, end, Packet::Syn);
        }
        end
    }

    fn end(&mut self, id: EndId) -> Option<&mut End> {
        self.connections.get_mut(&id.connection).map(|connection| &mut connection.ends[id.side])
    }

    /// The addresses of this end and of the other; `ENOTCONN` when it is dead.
    pub(super) fn addresses(&self, id: EndId) -> io::Result<(SocketAddr, SocketAddr)> {
        let connection = self.connections.get(&id.connection);
        let connection = connection.ok_or_else(|| error(libc::ENOTCONN))?;
        let (own, other) = (&connection.ends[id.side], &connection.ends[1 - id.side]);
        match own.state {
            State::Established => Ok((own.address, other.address)),
            _ => Err(error(libc::ENOTCONN)),
        }
    }

    /// Sends some of `bytes`; sending nothing waits until the connection is established.
    pub(super) fn poll_send(
        &mut self,
        hosts: &mut Hosts,
        id: EndId,
        bytes: &[u8],
        waker: &Waker,
    ) -> Poll<io::Result<usize>> {
        let Some(connection) = self.connections.get_mut(&id.connection) else {
            return Poll::Ready(Err(error(libc::EPIPE)));
        };
        let there = connection.ends[1 - id.side].host;
        let own = &mut connection.ends[id.side];
        if own.state == State::Connecting {
            own.writer = Some(waker.clone());
            return Poll::Pending;
        }
        if let Some(number) = own.error.take() {
            return Poll::Ready(Err(error(number)));
        }
        if own.state == State::Dead || own.fin_sent {
            return Poll::Ready(Err(error(libc::EPIPE)));
        }
        let link = hosts.link(own.host, there);
        let room = link.window.saturating_sub(own.outstanding);
        let count = bytes.len().min(room);
        if count == 0 && !bytes.is_empty() {
            own.writer = Some(waker.clone());
            return Poll::Pending;
        }
        own.outstanding += count;
        let mut rest = &bytes[..count];
        while !rest.is_empty() {
            let most = rest.len().min(link.piece_max);
            let length = if most < rest.len() { hosts.random.usize(1..=most) } else { most };
            let (piece, after) = rest.split_at(length);
            self.send(hosts, id, Packet::Bytes(piece.to_vec()));
            rest = after;
        }
        Poll::Ready(Ok(count))
    }

    /// Receives what has arrived; without a waker, `WouldBlock` when that is nothing.
    pub(super) fn receive(
        &mut self,
        id: EndId,
        into: &mut [u8],
        waker: &Waker,
    ) -> Poll<io::Result<usize>> {
        let Some(connection) = self.connections.get_mut(&id.connection) else {
            return Poll::Ready(Ok(0));
        };
        let own = &mut connection.ends[id.side];
        let count = own.arrived.len().min(into.len());
        if count > 0 {
            for (place, byte) in into.iter_mut().zip(own.arrived.drain(..count)) {
                *place = byte;
            }
            let other = &mut connection.ends[1 - id.side];
            other.outstanding -= count;
            if let Some(writer) = other.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Ok(count));
        }
        if let Some(number) = own.error.take() {
            return Poll::Ready(Err(error(number)));
        }
        if own.fin_arrived || own.state == State::Dead {
            return Poll::Ready(Ok(0));
        }
        own.reader = Some(waker.clone());
        Poll::Pending
    }

    /// The end of what this end sends.
    pub(super) fn shut_down(&mut self, hosts: &mut Hosts, id: EndId) -> io::Result<()> {
        let own = self.end(id).filter(|own| own.state == State::Established);
        let own = own.ok_or_else(|| error(libc::ENOTCONN))?;
        if !std::mem::replace(&mut own.fin_sent, true) {
            self.send(hosts, id, Packet::Fin);
        }
        Ok(())
    }

    /// The program has closed this end.
    pub(super) fn close(&mut self, hosts: &mut Hosts, id: EndId) {
        let Some(own) = self.end(id) else { return };
        if own.state == State::Established && own.arrived.is_empty() {
            let _ = self.shut_down(hosts, id);
        } else if own.state == State::Established {
            self.reset(hosts, id);
        }
        if let Some(own) = self.end(id) {
            own.open = false;
            own.arrived.clear();
            own.wake();
        }
        self.forget(id.connection);
    }

    /// This end gives the connection up at once.
    pub(super) fn reset(&mut self, hosts: &mut Hosts, id: EndId) {
        let Some(own) = self.end(id) else { return };
        if own.state == State::Established {
            own.die(libc::ECONNRESET);
            self.send(hosts, id, Packet::Reset);
        }
    }

    fn send(&mut self, hosts: &mut Hosts, id: EndId, packet: Packet) {
        let Some(connection) = self.connections.get_mut(&id.connection) else { return };
        if connection.silent {
            return;
        }
        let there = connection.ends[1 - id.side].host;
        let own = &mut connection.ends[id.side];
        let link = hosts.link(own.host, there);
        let mut at_us = own.busy_until_us.max(hosts.now_us() + hosts.latency(&link));
        if let Packet::Bytes(bytes) = &packet
            && link.bytes_per_second > 0
        {
            at_us += bytes.len() as u64 * 1_000_000 / link.bytes_per_second;
        }
        own.busy_until_us = at_us;
        own.sent.push_back(packet);
        hosts.schedule(at_us, Event::Packet { connection: id.connection, from: id.side });
    }

    /// The next packet from `from` arrives, if it can.
    pub(super) fn arrive(&mut self, hosts: &mut Hosts, from: EndId) {
        let Some(connection) = self.connections.get_mut(&from.connection) else { return };
        let there = connection.ends[1 - from.side].host;
        let own = &mut connection.ends[from.side];
        let reach = hosts.reach(own.host, there);
        if reach == Reach::Silent {
            own.stalled += 1;
            return;
        }
        let Some(packet) = own.sent.pop_front() else { return };
        let numbers = [hosts.now_us(), from.connection as u64, from.side as u64];
        if connection.silent {
            return;
        }
        let to = EndId { connection: from.connection, side: 1 - from.side };
        match packet {
            Packet::Syn => {
                hosts.trace.note("syn", &numbers, &[]);
                self.greet(hosts, to, reach);
            }
            Packet::SynAck => {
                hosts.trace.note("established", &numbers, &[]);
                let own = &mut connection.ends[to.side];
                own.state = State::Established;
                own.wake();
                if !own.open {
                    self.reset(hosts, to);
                }
            }
            Packet::Refusal(number) => {
                hosts.trace.note("refused", &numbers, &[]);
                connection.ends[to.side].die(number);
            }
            Packet::Bytes(bytes) => {
                hosts.trace.note("bytes", &numbers, &bytes);
                self.deliver(hosts, to, bytes);
            }
            Packet::Fin => {
                hosts.trace.note("end", &numbers, &[]);
                let own = &mut connection.ends[to.side];
                own.fin_arrived = true;
                own.wake();
            }
            Packet::Reset => {
                hosts.trace.note("reset", &numbers, &[]);
                let own = &mut connection.ends[to.side];
                if hosts.random.bool() {
                    own.arrived.clear();
                }
                own.die(libc::ECONNRESET);
            }
        }
        self.forget(from.connection);
    }

    /// A connection attempt has reached the host of its other end.
    fn greet(&mut self, hosts: &mut Hosts, to: EndId, reach: Reach) {
        let Some(own) = self.end(to) else { return };
        let (host, address) = (own.host, own.address);
        // A host that is unreachable answers nothing itself, but the client learns it.
        if reach == Reach::Unreachable {
            return self.send(hosts, to, Packet::Refusal(libc::EHOSTUNREACH));
        }
        let here = self
            .listeners
            .iter()
            .filter(|(_, one)| one.host == host && !one.closed && is_for(one.address, address));
        let here: Vec<usize> = here.map(|(number, _)| *number).collect();
        let Some(number) = hosts.random.choice(here) else {
            return self.send(hosts, to, Packet::Refusal(libc::ECONNREFUSED));
        };
        let Some(listening) = self.listeners.get_mut(&number) else { return };
        if listening.waiting.len() >= listening.backlog {
            return;
        }
        listening.waiting.push_back(to.connection);
        if let Some(waker) = listening.waker.take() {
            waker.wake();
        }
        if let Some(own) = self.end(to) {
            own.state = State::Established;
            own.open = true;
        }
        self.send(hosts, to, Packet::SynAck);
    }

    fn deliver(&mut self, hosts: &mut Hosts, to: EndId, bytes: Vec<u8>) {
        let Some(connection) = self.connections.get_mut(&to.connection) else { return };
        let mut bytes = bytes;
        let mut lost = None;
        if let Some((after, loss)) = connection.loss
            && connection.carried + bytes.len() as u64 > after
        {
            bytes.truncate((after - connection.carried) as usize);
            lost = Some(loss);
        }
        connection.carried += bytes.len() as u64;
        let own = &mut connection.ends[to.side];
        if !own.open {
            // There is no socket here any more.
            self.send(hosts, to, Packet::Reset);
            return;
        }
        if own.state == State::Established {
            own.arrived.extend(bytes);
        }
        if let Some(reader) = own.reader.take() {
            reader.wake();
        }
        match lost {
            None => {}
            Some(Loss::Reset) => {
                connection.silent = true;
                connection.ends.iter_mut().for_each(|end| end.die(libc::ECONNRESET));
            }
            Some(Loss::Silence) => connection.silent = true,
        }
    }

    /// Packets to and from `host` that waited set out again.
    pub(super) fn resume(&mut self, hosts: &mut Hosts, host: usize) {
        for (&connection, one) in &mut self.connections {
            if !one.ends.iter().any(|end| end.host == host) {
                continue;
            }
            for (from, end) in one.ends.iter_mut().enumerate() {
                for _ in 0..std::mem::take(&mut end.stalled) {
                    hosts.schedule(hosts.now_us(), Event::Packet { connection, from });
                }
            }
        }
    }

    /// Forgets a connection that no program has and in which nothing is on its way.
    fn forget(&mut self, number: usize) {
        let is_over = |end: &End| !end.open && end.sent.is_empty();
        let over = self.connections.get(&number).is_some_and(|connection| {
            connection.ends.iter().all(is_over)
                || connection.silent && connection.ends.iter().all(|end| !end.open)
        });
        if over {
            self.connections.remove(&number);
        }
    }

    /// Connections that are not over.
    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }
}
