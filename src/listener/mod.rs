//! Accepts connections and runs their sessions: bytes between a `ring` stream and a `session`.
//!
//! Through it passes every message that comes in: from the stream to the spool's draft, and, once
//! it is durable, to the shard through [`Intake::admit`]. It applies what no session can see: how
//! many connections there are, who the client is, whether the relay takes mail at this moment. It
//! must not know where messages go.

mod connection;

use crate::config::{self, Config};
use crate::event::EventLog;
use crate::message::Timestamp;
use crate::ring::{self, Interrupter, Listener, Signal, Stream};
use crate::session::Policy;
use crate::smtp::Reply;
use crate::spool::{Message, Placement, Spool};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A connection that is refused gets its reply within this time or none.
const REFUSE_WAIT: Duration = Duration::from_secs(2);

/// Takes over a message that is durable.
pub type Admit = Box<dyn Fn(Arc<Message>, Placement)>;

/// What all listeners of one shard share.
pub struct Intake {
    /// This shard's number, for events.
    pub shard: usize,
    config: Arc<Config>,
    core: config::Core,
    policy: Rc<Policy>,
    spool: Spool,
    events: Rc<EventLog>,
    admit: Admit,
    stopping: Cell<bool>,
    ended: Signal,
    open: RefCell<Open>,
}

/// The connections that stand.
#[derive(Default)]
struct Open {
    by_client: HashMap<IpAddr, usize>,
    interrupters: HashMap<u64, Interrupter>,
    last: u64,
}

impl Intake {
    /// The intake of one shard; `admit` is called with each message after its commit.
    pub fn new(
        shard: usize,
        config: Arc<Config>,
        core: config::Core,
        spool: Spool,
        events: Rc<EventLog>,
        admit: Admit,
    ) -> Rc<Intake> {
        let policy = Rc::new(Policy {
            host_name: Arc::clone(&config.host_name),
            limits: config.session.clone(),
        });
        Rc::new(Intake {
            shard,
            config,
            core,
            policy,
            spool,
            events,
            admit,
            stopping: Cell::new(false),
            ended: Signal::new(),
            open: RefCell::default(),
        })
    }

    /// Listens on `address` and serves until [`Intake::stop`].
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn listen(self: &Rc<Self>, address: SocketAddr) -> io::Result<()> {
        let listener = Listener::bind(address)?;
        let intake = Rc::clone(self);
        ring::spawn("listener", async move {
            while !intake.stopping.get() {
                match listener.accept().await {
                    Ok(stream) => intake.take(stream),
                    Err(error) => tracing::warn!(%address, %error, "cannot accept a connection"),
                }
            }
        });
        Ok(())
    }

    /// Inbound connections that stand.
    pub fn connections(&self) -> usize {
        self.open.borrow().interrupters.len()
    }

    /// Takes no more connections, ends sessions at the next message border; returns when all have
    /// ended.
    pub async fn stop(&self) {
        self.stopping.set(true);
        for interrupter in self.open.borrow().interrupters.values() {
            interrupter.interrupt();
        }
        while self.connections() > 0 {
            self.ended.wait_for(Duration::from_millis(100)).await;
        }
    }

    fn take(self: &Rc<Self>, mut stream: Stream) {
        let address = stream.peer_address();
        let may_relay = self.config.access.may_relay(address.ip());
        match self.admit_connection(address.ip(), may_relay, &stream) {
            Ok(guard) => {
                let intake = Rc::clone(self);
                ring::spawn("session", async move {
                    connection::serve(&intake, stream, may_relay).await;
                    drop(guard);
                });
            }
            Err(reply) => {
                tracing::info!(client = %address, reply = %reply.text, "connection refused");
                ring::spawn("refusal", async move {
                    let mut line = Vec::new();
                    reply.write(&mut line);
                    let _ = stream.send_all(&line, REFUSE_WAIT).await;
                    stream.close().await;
                });
            }
        }
    }

    fn admit_connection(
        self: &Rc<Self>,
        client: IpAddr,
        may_relay: bool,
        stream: &Stream,
    ) -> Result<OpenGuard, Reply> {
        let limits = &self.config.session;
        let per_client = if may_relay {
            limits.connections_per_relay_client
        } else {
            limits.connections_per_client
        };
        let mut open = self.open.borrow_mut();
        if self.stopping.get() {
            return Err(Reply::STOPPING_AT_GREETING);
        }
        if open.interrupters.len() >= self.core.connections_max {
            return Err(Reply::TOO_MANY_CONNECTIONS);
        }
        let client = client.to_canonical();
        let count = open.by_client.entry(client).or_default();
        if *count >= per_client {
            return Err(Reply::TOO_MANY_CONNECTIONS_FROM_CLIENT);
        }
        *count += 1;
        open.last += 1;
        let number = open.last;
        open.interrupters.insert(number, stream.interrupter());
        Ok(OpenGuard { intake: Rc::clone(self), client, number })
    }

    /// Why no message can be taken at this moment, if so.
    fn unready(&self) -> Option<Reply> {
        if self.stopping.get() {
            Some(Reply::STOPPING)
        } else if let Some(cause) = self.spool.failure() {
            tracing::debug!(%cause, "mail refused: the spool has failed");
            Some(Reply::LOCAL_TROUBLE)
        } else if self.events.backlogged() {
            Some(Reply::EVENT_LOG_BEHIND)
        } else {
            None
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Counts a connection out when its session ends, however it ends.
struct OpenGuard {
    intake: Rc<Intake>,
    client: IpAddr,
    number: u64,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        {
            let mut open = self.intake.open.borrow_mut();
            open.interrupters.remove(&self.number);
            if let Some(count) = open.by_client.get_mut(&self.client) {
                *count -= 1;
                if *count == 0 {
                    open.by_client.remove(&self.client);
                }
            }
        }
        self.intake.ended.set();
    }
}
