//! A name server for tests: a thread on a loopback port, UDP and TCP, with answers from a table or
//! any datagrams that a test provides. It writes real messages with hickory-proto.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::config;
use crate::ring;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The transport of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Udp,
    Tcp,
}

/// What the server sends for a query: any number of messages, each after a wait.
pub(crate) type Script = dyn Fn(&Message, Over) -> Vec<(Duration, Vec<u8>)> + Send + Sync;

pub(crate) struct FakeServer {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl FakeServer {
    pub(crate) fn start(
        script: impl Fn(&Message, Over) -> Vec<(Duration, Vec<u8>)> + Send + Sync + 'static,
    ) -> FakeServer {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let script: Arc<Script> = Arc::new(script);
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let log = Arc::clone(&asked);
        let note = move |query: &Message, over: Over| {
            let question = &query.queries[0];
            let line = format!("{:?} {} {}", over, question.query_type(), question.name());
            log.lock().unwrap().push(line);
        };
        let (udp_script, udp_stop, udp_note) = (Arc::clone(&script), Arc::clone(&stop), note);
        let tcp_note = udp_note.clone();
        udp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        thread::spawn(move || {
            let mut datagram = [0; 4096];
            while !udp_stop.load(Ordering::Relaxed) {
                let Ok((length, peer)) = udp.recv_from(&mut datagram) else { continue };
                let query = Message::from_vec(&datagram[..length]).unwrap();
                udp_note(&query, Over::Udp);
                let (script, socket) = (Arc::clone(&udp_script), udp.try_clone().unwrap());
                thread::spawn(move || {
                    for (wait, bytes) in script(&query, Over::Udp) {
                        thread::sleep(wait);
                        let _ = socket.send_to(&bytes, peer);
                    }
                });
            }
        });
        tcp.set_nonblocking(true).unwrap();
        let tcp_stop = Arc::clone(&stop);
        thread::spawn(move || {
            while !tcp_stop.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = tcp.accept() else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut query).unwrap();
                let query = Message::from_vec(&query).unwrap();
                tcp_note(&query, Over::Tcp);
                for (wait, bytes) in script(&query, Over::Tcp) {
                    thread::sleep(wait);
                    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
                    stream.write_all(&[&length, bytes.as_slice()].concat()).unwrap();
                }
            }
        });
        FakeServer { address, asked, stop }
    }

    /// A server that answers from `zone`.
    pub(crate) fn with_zone(zone: Zone) -> FakeServer {
        FakeServer::start(move |query, _| at_once(zone.answer(query)))
    }

    /// The queries, as `Udp MX example.test.`, in order of arrival.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn at_once(message: Message) -> Vec<(Duration, Vec<u8>)> {
    vec![(Duration::ZERO, message.to_vec().unwrap())]
}

pub(crate) fn name(text: &str) -> Name {
    Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).unwrap()
}

/// An answer to `query` without records.
pub(crate) fn reply_to(query: &Message) -> Message {
    let mut message = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_available = true;
    message.add_query(query.queries[0].clone());
    message
}

pub(crate) fn record(owner: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name(owner), ttl, data)
}

pub(crate) fn mx(preference: u16, host: &str) -> RData {
    RData::MX(MX::new(preference, name(host)))
}

pub(crate) fn a(address: &str) -> RData {
    RData::A(A(address.parse().unwrap()))
}

pub(crate) fn aaaa(address: &str) -> RData {
    RData::AAAA(AAAA(address.parse().unwrap()))
}

pub(crate) fn cname(target: &str) -> RData {
    RData::CNAME(CNAME(name(target)))
}

pub(crate) fn ns(target: &str) -> RData {
    RData::NS(NS(name(target)))
}

pub(crate) fn soa(minimum: u32) -> RData {
    RData::SOA(SOA::new(name("ns.test"), name("root.test"), 1, 60, 60, 60, minimum))
}

/// Records by owner name; for an unknown one the answer is NXDOMAIN, with an SOA.
#[derive(Clone, Default)]
pub(crate) struct Zone {
    records: Vec<Record>,
    errors: Vec<(Name, Option<RecordType>, ResponseCode)>,
    pub(crate) negative_ttl: u32,
}

impl Zone {
    pub(crate) fn new() -> Zone {
        Zone { negative_ttl: 300, ..Zone::default() }
    }

    #[must_use]
    pub(crate) fn with(mut self, owner: &str, data: RData) -> Zone {
        self.records.push(record(owner, 300, data));
        self
    }

    /// Answers `code` to all queries for `owner`, or to those of one type.
    #[must_use]
    pub(crate) fn error(
        mut self,
        owner: &str,
        kind: Option<RecordType>,
        code: ResponseCode,
    ) -> Zone {
        self.errors.push((name(owner), kind, code));
        self
    }

    pub(crate) fn answer(&self, query: &Message) -> Message {
        let asked = &query.queries[0];
        let mut message = reply_to(query);
        let failed = self.errors.iter().find(|(owner, kind, _)| {
            owner == asked.name() && kind.is_none_or(|kind| kind == asked.query_type())
        });
        if let Some((_, _, code)) = failed {
            message.metadata.response_code = *code;
            return message;
        }
        let of_owner = || self.records.iter().filter(|record| record.name == *asked.name());
        for record in of_owner() {
            let kind = record.record_type();
            if kind == asked.query_type() || kind == RecordType::CNAME {
                message.add_answer(record.clone());
            }
        }
        if message.answers.is_empty() {
            if of_owner().next().is_none() {
                message.metadata.response_code = ResponseCode::NXDomain;
            }
            message.add_authority(record("test", 3600, soa(self.negative_ttl)));
        }
        message
    }
}

/// Settings for these servers, with short waits.
pub(crate) fn settings(servers: &[SocketAddr]) -> config::Dns {
    config::Dns {
        servers: servers.to_vec(),
        timeout: Duration::from_millis(300),
        attempts: 2,
        cache_entries_max: 100,
        ttl_max: Duration::from_secs(3600),
        failure_ttl: Duration::from_secs(5),
    }
}

/// Runs one shard to its end.
pub(crate) fn on_shard<Fut: Future<Output = ()> + 'static>(
    body: impl Fn() -> Fut + Send + Clone + 'static,
) {
    let settings = ring::Settings { depth: 128, preempt: Duration::from_millis(1) };
    ring::start(&[None], &settings, move |_| body()).unwrap().join().unwrap();
}
