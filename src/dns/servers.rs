//! The name servers: which to ask, how often, over UDP or TCP.
//!
//! Every query has its own socket, so its port is new and random, and its own id (RFC 5452 9.2).
//! The socket is connected, so the kernel drops datagrams from other addresses. A datagram that
//! does not answer the query is ignored until the timeout: a forged one cannot end a lookup.

use super::Failure;
use super::wire::{self, Finding, Heard, Question};
use crate::config;
use crate::limits;
use crate::ring::{self, RecvBuf, Stream, Udp};
use std::cell::Cell;
use std::cmp::Reverse;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The two length bytes before each message on TCP (RFC 1035 4.2.2).
const LENGTH_BYTES: usize = 2;

pub(super) struct Servers {
    list: Vec<Rc<Server>>,
    timeout: Duration,
    attempts: u32,
}

struct Server {
    address: SocketAddr,
    health: Cell<Health>,
    /// When it last answered. Of servers that all failed, the one that answered last is asked
    /// first: silence about one name does not mean that the server is down.
    answered: Cell<Option<Instant>>,
}

/// How the last query to a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Good,
    /// It is asked after the others. From this time on, one query is sent to it in the background,
    /// so that no lookup has to wait to find out whether it is back.
    Failed(Instant),
}

/// The result of one query to one server.
enum Reply {
    Finding(Finding),
    Silence,
    /// The query failed; the text for the log and the report.
    Broken(String),
}

impl Servers {
    pub(super) fn new(settings: &config::Dns) -> Servers {
        let server = |address: &SocketAddr| {
            let (health, answered) = (Cell::new(Health::Good), Cell::new(None));
            Rc::new(Server { address: *address, health, answered })
        };
        Servers {
            list: settings.servers.iter().map(server).collect(),
            timeout: settings.timeout,
            attempts: settings.attempts.max(1),
        }
    }

    /// Longest time of one lookup: all rounds over all servers, but never beyond the limit.
    pub(super) fn time_max(&self) -> Duration {
        let servers = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        let all = self.timeout.saturating_mul(servers.saturating_mul(self.attempts));
        all.min(Duration::from_secs(limits::DNS_LOOKUP_SECONDS_MAX))
    }

    /// Asks the servers until one gives a definite answer. A server that answered with an error is
    /// not asked again in this lookup; one that did not answer is, in the next round.
    pub(super) async fn ask(
        self: &Rc<Self>,
        question: &Question,
        until: Instant,
    ) -> Result<Finding, Failure> {
        let mut error: Option<String> = None;
        self.probe(question);
        let mut left = self.in_order();
        for round in 0..self.attempts {
            let mut silent = Vec::new();
            for server in left {
                if ring::now() >= until {
                    break;
                }
                let wait = self.wait_in_round(round);
                match self.ask_one(&server, question, wait, until).await {
                    Reply::Finding(Finding::Failed { words, .. }) => {
                        let address = server.address;
                        let asked = question.words();
                        error = Some(format!("DNS server {address} answered {words} for {asked}"));
                    }
                    Reply::Finding(finding) => return Ok(finding),
                    Reply::Broken(words) => {
                        error.get_or_insert(words);
                    }
                    Reply::Silence => silent.push(server),
                }
            }
            left = silent;
        }
        Err(error.map_or(Failure::TimedOut, |words| Failure::ServerFailed(words.into())))
    }

    /// Makes servers that failed available again at once.
    #[cfg(test)]
    pub(super) fn rested(&self) {
        for server in &self.list {
            if server.health.get() != Health::Good {
                server.health.set(Health::Failed(ring::now()));
            }
        }
    }

    fn wait_in_round(&self, round: u32) -> Duration {
        match round {
            0 if self.attempts > 1 => {
                self.timeout.min(Duration::from_millis(limits::DNS_FIRST_WAIT_MILLIS))
            }
            _ => self.timeout,
        }
    }

    /// The servers as configured, but those that failed at the end, of which the one that answered
    /// most recently comes first.
    fn in_order(&self) -> Vec<Rc<Server>> {
        let mut servers = self.list.clone();
        servers.sort_by_key(|server| match server.health.get() {
            Health::Good => (false, Reverse(None)),
            Health::Failed(_) => (true, Reverse(server.answered.get())),
        });
        servers
    }

    /// Sends `question` in the background to a server that failed some time ago.
    fn probe(self: &Rc<Self>, question: &Question) {
        let now = ring::now();
        if self.list.iter().all(|server| server.health.get() != Health::Good) {
            // The lookups themselves ask it.
            return;
        }
        for server in &self.list {
            if matches!(server.health.get(), Health::Failed(again) if again <= now) {
                server.failed();
                let (servers, server) = (Rc::clone(self), Rc::clone(server));
                let question = question.clone();
                ring::spawn("dns probe", async move {
                    let until = ring::now() + servers.time_max();
                    servers.ask_one(&server, &question, servers.timeout, until).await;
                });
            }
        }
    }

    /// Waits for at most `wait` for the answer, and not beyond `until`.
    async fn ask_one(
        &self,
        server: &Server,
        question: &Question,
        wait: Duration,
        until: Instant,
    ) -> Reply {
        let id = match new_id() {
            Ok(id) => id,
            Err(error) => return Reply::Broken(format!("no random number for a query: {error}")),
        };
        let Some(query) = wire::query(question, id) else {
            return Reply::Broken(format!("cannot write a DNS query for {}", question.words()));
        };
        let first = until.min(ring::now() + wait);
        let reply = match self.over_udp(server.address, question, id, &query, first).await {
            Ok(Heard::Answer(finding)) => Reply::Finding(finding),
            // Too many foreign datagrams: ask over TCP, which an outsider cannot forge.
            Ok(Heard::Truncated | Heard::Foreign) => {
                let until = until.min(ring::now() + self.timeout);
                self.whole_reply(server.address, question, id, &query, until).await
            }
            Err(error) => broken_or_silent(server.address, "UDP", &error),
        };
        match &reply {
            Reply::Finding(Finding::Failed { of_server: true, .. }) => server.failed(),
            Reply::Finding(_) => server.answered(),
            Reply::Silence | Reply::Broken(_) => server.failed(),
        }
        reply
    }

    async fn over_udp(
        &self,
        server: SocketAddr,
        question: &Question,
        id: u16,
        query: &[u8],
        until: Instant,
    ) -> io::Result<Heard> {
        let socket = Udp::connect(server)?;
        socket.send(query).await?;
        let mut datagram = vec![0; usize::from(limits::DNS_UDP_BYTES_MAX)];
        for _ in 0..limits::DNS_FOREIGN_MAX {
            let length = socket.recv(&mut datagram, left_until(until)?).await?;
            match wire::hear(question, id, datagram.get(..length).unwrap_or_default()) {
                Heard::Foreign => {}
                heard => return Ok(heard),
            }
        }
        Ok(Heard::Foreign)
    }

    async fn whole_reply(
        &self,
        server: SocketAddr,
        question: &Question,
        id: u16,
        query: &[u8],
        until: Instant,
    ) -> Reply {
        let message = match over_tcp(server, query, until).await {
            Ok(message) => message,
            Err(error) => return broken_or_silent(server, "TCP", &error),
        };
        match wire::hear(question, id, &message) {
            Heard::Answer(finding) => Reply::Finding(finding),
            Heard::Foreign | Heard::Truncated => {
                let asked = question.words();
                Reply::Broken(format!("DNS server {server} sent no valid answer for {asked}"))
            }
        }
    }
}

impl Server {
    fn failed(&self) {
        let wait = Duration::from_secs(limits::DNS_SERVER_REST_SECONDS);
        self.health.set(Health::Failed(ring::now() + wait));
    }

    fn answered(&self) {
        self.health.set(Health::Good);
        self.answered.set(Some(ring::now()));
    }
}

fn broken_or_silent(server: SocketAddr, over: &str, error: &io::Error) -> Reply {
    match error.kind() {
        io::ErrorKind::TimedOut => Reply::Silence,
        _ => Reply::Broken(format!("DNS server {server} over {over}: {error}")),
    }
}

/// The time until `until`; `TimedOut` when there is none.
fn left_until(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(ring::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// One query and one answer over TCP (RFC 7766), without their length bytes.
async fn over_tcp(server: SocketAddr, query: &[u8], until: Instant) -> io::Result<Vec<u8>> {
    let mut stream = Stream::connect(server, None, left_until(until)?).await?;
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // In one segment: some servers do not wait for a second one (RFC 7766 8).
    let mut framed = Vec::with_capacity(LENGTH_BYTES + query.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(query);
    stream.send_all(&framed, left_until(until)?).await?;
    let mut received = RecvBuf::with_capacity(LENGTH_BYTES + limits::DNS_TCP_BYTES_MAX);
    loop {
        if let [high, low, rest @ ..] = received.filled() {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if length > limits::DNS_TCP_BYTES_MAX {
                let words = format!("an answer of {length} bytes is too large");
                return Err(io::Error::new(io::ErrorKind::InvalidData, words));
            }
            if let Some(message) = rest.get(..length) {
                return Ok(message.to_vec());
            }
        }
        if stream.recv(&mut received, left_until(until)?).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A query id that an outsider cannot predict (RFC 5452 4.3).
fn new_id() -> io::Result<u16> {
    let mut id = [0; 2];
    ring::random_bytes(&mut id)?;
    Ok(u16::from_ne_bytes(id))
}
