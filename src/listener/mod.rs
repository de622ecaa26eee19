//! Accepts connections and runs their sessions: bytes between a `ring` stream and a `session`.
//!
//! Every message that arrives over SMTP passes through it: from the stream to the `intake`, and,
//! once it is durable, to the shard's [`Queue`]. It applies what no session can see: how many
//! connections there are, who the client is, whether the relay accepts mail at this moment. It must
//! not know where messages go.

mod access;
mod authentication;
mod connection;
mod deadlines;
mod log_throttle;
pub mod proxy;

use crate::auth::Authenticator;
use crate::config::{self, Config, ListenerTls};
use crate::event::EventLog;
use crate::intake::Intake;
use crate::message::{Message, Timestamp};
use crate::quota::{Quotas, ShardQuotas};
use crate::ring::{self, Interrupter, Listener, Permit, Semaphore, Stream};
use crate::session::{Etrn, Policy};
use crate::smtp::Reply;
use crate::spool::Placement;
use crate::tls::Server;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A connection that is refused gets its reply within this time or none.
const REFUSE_WAIT: Duration = Duration::from_secs(2);

/// Connections that are being refused with a reply. Beyond it they are closed without one: each of
/// them holds a descriptor.
const REFUSALS_MAX: usize = 64;

/// What a queue answers later.
pub type Later<T> = Pin<Box<dyn Future<Output = T>>>;

/// The shard's queue, as far as listeners know it.
pub trait Queue {
    /// Takes over a message that is durable.
    fn admit(&self, message: Arc<Message>, placement: Placement);

    /// No more messages are accepted while this is true.
    fn is_full(&self) -> bool;

    /// Has messages for a domain, and perhaps for its subdomains, tried now (ETRN).
    fn flush(self: Rc<Self>, domain: String, with_subdomains: bool) -> Later<Etrn>;
}

/// What listeners authenticate clients with.
pub struct AuthContext {
    /// The certificates, if there are any.
    pub server: Option<Arc<Server>>,
    /// Checks credentials, if there are users or tokens.
    pub authenticator: Option<Arc<Authenticator>>,
    /// What users and networks have sent, over all shards.
    pub quotas: Arc<Quotas>,
}

/// One listener's rules.
struct ListenerPolicy {
    listener: config::Listener,
    policy: Rc<Policy>,
}

/// What all listeners of one shard share.
pub struct Receiver {
    config: Arc<Config>,
    auth_context: AuthContext,
    intake: Intake,
    events: Rc<EventLog>,
    queue: Rc<dyn Queue>,
    quotas: ShardQuotas,
    connections: Semaphore,
    refusals: Semaphore,
    stopping: Cell<bool>,
    open: RefCell<Open>,
}

/// The connections that are open.
#[derive(Default)]
struct Open {
    by_client: HashMap<IpAddr, usize>,
    interrupters: HashMap<u64, Interrupter>,
    last: u64,
}

impl Open {
    /// Counts one more of `client`, which may have so many.
    fn count_in(&mut self, client: IpAddr, most: usize) -> Result<IpAddr, Reply> {
        let client = client.to_canonical();
        let count = self.by_client.get(&client).copied().unwrap_or_default();
        if count >= most {
            return Err(Reply::TOO_MANY_CONNECTIONS_FROM_CLIENT);
        }
        self.by_client.insert(client, count + 1);
        Ok(client)
    }

    fn count_out(&mut self, client: IpAddr) {
        if let Some(count) = self.by_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.by_client.remove(&client);
            }
        }
    }
}

impl Receiver {
    /// Of one shard.
    pub fn new(
        config: Arc<Config>,
        core: config::Core,
        auth_context: AuthContext,
        intake: Intake,
        events: Rc<EventLog>,
        queue: Rc<dyn Queue>,
    ) -> Rc<Receiver> {
        Rc::new(Receiver {
            config,
            quotas: ShardQuotas::new(Arc::clone(&auth_context.quotas)),
            connections: Semaphore::new(core.connections_max),
            auth_context,
            intake,
            events,
            queue,
            refusals: Semaphore::new(REFUSALS_MAX),
            stopping: Cell::new(false),
            open: RefCell::default(),
        })
    }

    /// Listens there and serves until [`Receiver::stop`].
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn listen(self: &Rc<Self>, listener: config::Listener) -> io::Result<()> {
        let address = listener.address;
        let mut limits = self.config.session.clone();
        limits.message_bytes_max = listener.message_bytes_max.unwrap_or(limits.message_bytes_max);
        limits.recipients_max = listener.recipients_max.unwrap_or(limits.recipients_max);
        let policy = Policy { host_name: Arc::clone(&self.config.host_name), limits };
        let listener_policy = Rc::new(ListenerPolicy { listener, policy: Rc::new(policy) });
        let listener = Listener::bind(address)?;
        let receiver = Rc::clone(self);
        ring::spawn_vital_ahead("listener", async move {
            while !receiver.stopping.get() {
                match listener.accept().await {
                    Ok(stream) => receiver.take(stream, &listener_policy),
                    Err(error) => tracing::warn!(%address, %error, "cannot accept a connection"),
                }
            }
        });
        Ok(())
    }

    /// Inbound connections that are open.
    pub fn connections(&self) -> usize {
        self.connections.in_use()
    }

    /// Takes no more connections, ends sessions between two messages; returns when all have
    /// ended.
    pub async fn stop(&self) {
        self.stopping.set(true);
        for interrupter in self.open.borrow().interrupters.values() {
            interrupter.interrupt();
        }
        self.connections.idle().await;
    }

    fn take(self: &Rc<Self>, mut stream: Stream, listener_policy: &Rc<ListenerPolicy>) {
        let address = stream.peer_address();
        // The bound for a client behind a proxy is known when the proxy has named the client.
        let most = match self.config.access.is_proxy(address.ip()) {
            true => usize::MAX,
            false => self.connections_of(address.ip()),
        };
        match self.admit_connection(address.ip(), most, &stream) {
            Ok(mut guard) => {
                let (receiver, listener_policy) = (Rc::clone(self), Rc::clone(listener_policy));
                ring::spawn_ahead("session", async move {
                    connection::serve(&receiver, stream, &mut guard, &listener_policy).await;
                    drop(guard);
                });
            }
            // Words in the clear would be no TLS to a client that waits for it.
            Err(_) if listener_policy.listener.tls == ListenerTls::Implicit => {}
            Err(reply) => {
                tracing::info!(client = %address, reply = %reply.text, "connection refused");
                let Some(permit) = self.refusals.try_acquire() else { return };
                ring::spawn_ahead("refusal", async move {
                    let _permit = permit;
                    let mut line = Vec::new();
                    reply.write(&mut line);
                    let _ = stream.send_all(&line, REFUSE_WAIT).await;
                    stream.close().await;
                });
            }
        }
    }

    /// Connections that a client at `address` may have.
    fn connections_of(&self, address: IpAddr) -> usize {
        let limits = &self.config.session;
        if self.config.access.may_relay(address) {
            limits.connections_per_relay_client
        } else {
            limits.connections_per_client
        }
    }

    fn admit_connection(
        self: &Rc<Self>,
        client: IpAddr,
        most: usize,
        stream: &Stream,
    ) -> Result<OpenGuard, Reply> {
        if self.stopping.get() {
            return Err(Reply::STOPPING_AT_GREETING);
        }
        let permit = self.connections.try_acquire().ok_or(Reply::TOO_MANY_CONNECTIONS)?;
        let mut open = self.open.borrow_mut();
        let client = open.count_in(client, most)?;
        open.last += 1;
        let number = open.last;
        open.interrupters.insert(number, stream.interrupter());
        Ok(OpenGuard { receiver: Rc::clone(self), client, number, _permit: permit })
    }

    /// Why no message can be taken at this moment, if so.
    fn unready(&self) -> Option<Reply> {
        if self.stopping.get() {
            Some(Reply::STOPPING)
        } else if let Some(cause) = self.intake.spool().failure() {
            tracing::debug!(%cause, "mail refused: the spool has failed");
            Some(Reply::LOCAL_ERROR)
        } else if self.events.backlogged() {
            Some(Reply::BUSY)
        } else if self.queue.is_full() {
            Some(Reply::STORAGE_FULL)
        } else {
            None
        }
    }

    fn now(&self) -> Timestamp {
        ring::wall_clock()
    }
}

/// Counts a connection out when its session ends, however it ends.
struct OpenGuard {
    receiver: Rc<Receiver>,
    client: IpAddr,
    number: u64,
    _permit: Permit,
}

impl OpenGuard {
    /// Counts the connection for another client, which a proxy has named.
    fn override_client(&mut self, client: IpAddr) -> Result<(), Reply> {
        let most = self.receiver.connections_of(client);
        let mut open = self.receiver.open.borrow_mut();
        open.count_out(self.client);
        match open.count_in(client, most) {
            Ok(client) => self.client = client,
            Err(reply) => {
                // It is still counted as it was, until it is closed.
                let _ = open.count_in(self.client, usize::MAX);
                return Err(reply);
            }
        }
        Ok(())
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        let mut open = self.receiver.open.borrow_mut();
        open.interrupters.remove(&self.number);
        open.count_out(self.client);
    }
}
