//! The name servers: which to ask, how often, over what.
//!
//! Every query has a socket of its own, so its port is new and random, and an id of its own (RFC
//! 5452 9.2); the socket is connected, so the kernel drops what others send. What arrives and does
//! not answer the query is passed over until the time-out: a forged datagram cannot end a lookup.

use super::Failure;
use super::wire::{self, Finding, Heard, Question};
use crate::config;
use crate::limits;
use crate::message::Timestamp;
use crate::ring::{self, RecvBuf, Stream, Udp};
use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Room for the two length bytes before each message on TCP (RFC 1035 4.2.2).
const LENGTH_BYTES: usize = 2;

pub(super) struct Servers {
    list: Vec<Server>,
    timeout: Duration,
    attempts: u32,
    ids: Ids,
}

struct Server {
    address: SocketAddr,
    /// Until then it is asked after the others, because it failed.
    resting_until: Cell<Timestamp>,
}

/// What became of one query to one server.
enum Reply {
    Finding(Finding),
    Silence,
    /// It cannot be spoken to; the whole sentence.
    Broken(String),
}

impl Servers {
    pub(super) fn new(settings: &config::Dns) -> Servers {
        let server = |address: &SocketAddr| Server {
            address: *address,
            resting_until: Cell::new(Timestamp::default()),
        };
        Servers {
            list: settings.servers.iter().map(server).collect(),
            timeout: settings.timeout,
            attempts: settings.attempts.max(1),
            ids: Ids::new(),
        }
    }

    /// The longest that one lookup takes: all rounds over all servers, but never beyond the limit.
    pub(super) fn time_max(&self) -> Duration {
        let servers = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        let all = self.timeout.saturating_mul(servers.saturating_mul(self.attempts));
        all.min(Duration::from_secs(limits::DNS_LOOKUP_SECONDS_MAX))
    }

    /// Asks until a server gives a finding. A server that says that it failed is not asked again in
    /// this lookup, one that is silent is, in the next round.
    pub(super) async fn ask(
        &self,
        question: &Question,
        until: Instant,
    ) -> Result<Finding, Failure> {
        let mut said: Option<String> = None;
        let mut left = self.in_order(ring::wall_clock());
        for _ in 0..self.attempts {
            let mut silent = Vec::new();
            for server in left {
                if ring::now() >= until {
                    break;
                }
                match self.ask_one(server, question, until).await {
                    Reply::Finding(Finding::Failed { words, of_server }) => {
                        let address = server.address;
                        let asked = question.words();
                        said = Some(format!("DNS server {address} answered {words} for {asked}"));
                        if of_server {
                            server.rest();
                        }
                    }
                    Reply::Finding(finding) => {
                        server.resting_until.set(Timestamp::default());
                        return Ok(finding);
                    }
                    Reply::Broken(words) => {
                        said.get_or_insert(words);
                        server.rest();
                    }
                    Reply::Silence => {
                        server.rest();
                        silent.push(server);
                    }
                }
            }
            left = silent;
        }
        Err(said.map_or(Failure::TimedOut, |words| Failure::ServerFailed(words.into())))
    }

    /// As configured, those that failed lately last, the longest rested of them first.
    fn in_order(&self, now: Timestamp) -> Vec<&Server> {
        let mut servers: Vec<&Server> = self.list.iter().collect();
        servers.sort_by_key(|server| match server.resting_until.get() {
            until if until > now => until,
            _ => Timestamp::default(),
        });
        servers
    }

    async fn ask_one(&self, server: &Server, question: &Question, until: Instant) -> Reply {
        let id = self.ids.next();
        let Some(query) = wire::query(question, id) else {
            return Reply::Broken(format!("no query can be written for {}", question.words()));
        };
        match self.over_udp(server.address, question, id, &query, until).await {
            Ok(Heard::Answer(finding)) => Reply::Finding(finding),
            // Foreign: too much of it. TCP cannot be forged from afar.
            Ok(Heard::Truncated | Heard::Foreign) => {
                self.whole_reply(server.address, question, id, &query, until).await
            }
            Err(error) => broken_or_silent(server.address, "UDP", &error),
        }
    }

    async fn over_udp(
        &self,
        server: SocketAddr,
        question: &Question,
        id: u16,
        query: &[u8],
        until: Instant,
    ) -> io::Result<Heard> {
        let until = until.min(ring::now() + self.timeout);
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
        let until = until.min(ring::now() + self.timeout);
        let message = match over_tcp(server, query, until).await {
            Ok(message) => message,
            Err(error) => return broken_or_silent(server, "TCP", &error),
        };
        match wire::hear(question, id, &message) {
            Heard::Answer(finding) => Reply::Finding(finding),
            Heard::Foreign | Heard::Truncated => {
                let asked = question.words();
                Reply::Broken(format!("DNS server {server} sent no sound answer for {asked}"))
            }
        }
    }
}

impl Server {
    fn rest(&self) {
        let wait = Duration::from_secs(limits::DNS_SERVER_REST_SECONDS);
        self.resting_until.set(ring::wall_clock().plus(wait));
    }
}

fn broken_or_silent(server: SocketAddr, over: &str, error: &io::Error) -> Reply {
    match error.kind() {
        io::ErrorKind::TimedOut => Reply::Silence,
        _ => Reply::Broken(format!("DNS server {server} over {over}: {error}")),
    }
}

/// `TimedOut` when there is nothing left.
fn left_until(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(ring::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// One query and one answer over TCP (RFC 7766), without their length bytes.
async fn over_tcp(server: SocketAddr, query: &[u8], until: Instant) -> io::Result<Vec<u8>> {
    let mut stream = Stream::connect(server, None, left_until(until)?).await?;
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // In one piece: some servers do not wait for the second segment (RFC 7766 8).
    let mut framed = Vec::with_capacity(LENGTH_BYTES + query.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(query);
    stream.send_all(&framed, left_until(until)?).await?;
    let mut received = RecvBuf::with_capacity(LENGTH_BYTES + limits::DNS_TCP_BYTES_MAX);
    loop {
        if let [high, low, rest @ ..] = received.filled() {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if length > limits::DNS_TCP_BYTES_MAX {
                let words = format!("an answer of {length} bytes is larger than any we read");
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

/// Query ids that nobody outside can foresee: a counter through a hash with a secret random key.
struct Ids {
    secret: RandomState,
    count: Cell<u64>,
}

impl Ids {
    fn new() -> Ids {
        Ids { secret: RandomState::new(), count: Cell::new(0) }
    }

    fn next(&self) -> u16 {
        let count = self.count.get().wrapping_add(1);
        self.count.set(count);
        let [high, low, ..] = self.secret.hash_one(count).to_be_bytes();
        u16::from_be_bytes([high, low])
    }
}
