//! A name server for simulations: tasks on a host of their own, over UDP and TCP, with the answers
//! of a zone and the faults that a seed gives it.

use super::super::fake::{Zone, a, mx, record, reply_to};
use crate::ring::simulation::{self, Datagrams};
use crate::ring::{self, Listener, RecvBuf, Stream};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// A client that says nothing is given up after this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// What may be wrong with a server, as shares of queries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Answered SERVFAIL or REFUSED.
    pub(crate) failed: f64,
    /// Over UDP answered with the truncation flag.
    pub(crate) truncated: f64,
    /// Over UDP preceded by forged and foreign datagrams.
    pub(crate) forged: f64,
    /// Over TCP hung up in the middle of the answer.
    pub(crate) hung_up: f64,
    /// Answered after a pause of up to five seconds.
    pub(crate) slow: f64,
}

/// The tasks of one server share it.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    zone: Zone,
    pub(crate) faults: RefCell<Faults>,
    random: RefCell<fastrand::Rng>,
    /// Queries so far, over UDP and over TCP.
    pub(crate) asked: [Cell<u64>; 2],
    /// Forged datagrams so far.
    pub(crate) forged: Cell<u64>,
}

impl NameServer {
    pub(crate) fn new(address: SocketAddr, zone: Zone, faults: Faults, seed: u64) -> Rc<Self> {
        Rc::new(NameServer {
            address,
            zone,
            faults: RefCell::new(faults),
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            asked: Default::default(),
            forged: Cell::new(0),
        })
    }

    /// Serves for ever. To be spawned on the host of its address.
    pub(crate) async fn serve(self: Rc<Self>) {
        let listener = Listener::bind(self.address).unwrap();
        let itself = Rc::clone(&self);
        simulation::spawn(async move {
            loop {
                let Ok(stream) = listener.accept().await else { continue };
                simulation::spawn(Rc::clone(&itself).converse(stream));
            }
        });
        let socket = Rc::new(Datagrams::bind(self.address).unwrap());
        loop {
            let (from, bytes) = socket.recv().await.unwrap();
            let Ok(query) = Message::from_vec(&bytes) else { continue };
            let (itself, socket) = (Rc::clone(&self), Rc::clone(&socket));
            simulation::spawn(async move {
                itself.asked[0].set(itself.asked[0].get() + 1);
                if itself.happens(|faults| faults.forged) {
                    itself.forge(&socket, from, &query);
                }
                let mut answer = itself.answer(&query).await;
                if itself.happens(|faults| faults.truncated) {
                    // What is in a truncated answer may not be used (RFC 2181 9).
                    answer = lie(&query);
                    answer.metadata.truncation = true;
                }
                socket.send(from, &answer.to_vec().unwrap());
            });
        }
    }

    fn happens(&self, share: impl FnOnce(&Faults) -> f64) -> bool {
        let share = share(&self.faults.borrow());
        self.random.borrow_mut().f64() < share
    }

    async fn answer(&self, query: &Message) -> Message {
        if self.happens(|faults| faults.slow) {
            let pause = self.random.borrow_mut().u64(..5000);
            ring::sleep(Duration::from_millis(pause)).await;
        }
        if self.happens(|faults| faults.failed) {
            let mut answer = reply_to(query);
            let is_refused = self.random.borrow_mut().bool();
            answer.metadata.response_code =
                if is_refused { ResponseCode::Refused } else { ResponseCode::ServFail };
            return answer;
        }
        self.zone.answer(query)
    }

    /// One client over TCP.
    async fn converse(self: Rc<Self>, mut stream: Stream) {
        let mut received = RecvBuf::with_capacity(4096);
        while let Ok(1..) = stream.recv(&mut received, PATIENCE).await {
            let [high, low, rest @ ..] = received.filled() else { continue };
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let Some(query) = rest.get(..length) else { continue };
            let Ok(query) = Message::from_vec(query) else { return };
            received.consume(2 + length);
            self.asked[1].set(self.asked[1].get() + 1);
            let answer = self.answer(&query).await.to_vec().unwrap();
            let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
            let mut framed = [&length, answer.as_slice()].concat();
            let hangs_up = self.happens(|faults| faults.hung_up);
            if hangs_up {
                framed.truncate(self.random.borrow_mut().usize(..framed.len()));
            }
            if stream.send_all(&framed, PATIENCE).await.is_err() || hangs_up {
                return;
            }
        }
        stream.close().await;
    }

    /// Datagrams that look like an answer: each is wrong in one thing.
    fn forge(&self, socket: &Datagrams, to: SocketAddr, query: &Message) {
        // Sometimes so many that the rest is asked over TCP.
        let count = [1, 3, 40][self.random.borrow_mut().usize(..3)];
        for _ in 0..count {
            self.forged.set(self.forged.get() + 1);
            let random = &mut *self.random.borrow_mut();
            let mut answer = lie(query);
            let mut from = self.address;
            match random.u32(..5) {
                0 => answer.metadata.id ^= random.u16(1..),
                1 => from.set_port(random.u16(1024..)),
                2 => from.set_ip([192, 0, 2, 66].into()),
                3 => answer = lie(&other_question(query)),
                _ => {
                    let mut garbage = vec![0; random.usize(..60)];
                    random.fill(&mut garbage);
                    // Not by chance its id.
                    if let [first, ..] = garbage.as_mut_slice() {
                        *first = query.metadata.id.to_be_bytes()[0] ^ 1;
                    }
                    socket.forge(from, to, &garbage);
                    continue;
                }
            }
            socket.forge(from, to, &answer.to_vec().unwrap());
        }
    }
}

/// The same query for another name.
fn other_question(query: &Message) -> Message {
    let mut other = query.clone();
    other.queries[0].set_name(super::super::fake::name("other.test"));
    other
}

/// An answer that is nowhere in the zone.
fn lie(query: &Message) -> Message {
    let mut answer = reply_to(query);
    let owner = query.queries[0].name().to_ascii();
    let data = match query.queries[0].query_type() {
        RecordType::MX => mx(1, "evil.test"),
        _ => a("203.0.113.66"),
    };
    answer.add_answer(record(&owner, 86_400, data));
    answer
}
