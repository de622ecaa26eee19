//! One core: wires the stations together, starts, drains and stops them.
//!
//! Through it passes everything, but only from one station's hands to the next's. It knows no
//! protocol and no format.
//!
//! - `origin`: the queue: from a message that is durable to the ending of its last recipient.
//! - `driver`: the tasks around it, and the one cell that they share.
//! - `ending`: what an outcome makes of a recipient: retry, bounce, event.
//! - `damage`: what the spool cannot give any more.
//! - `report`: reports to senders, and the workers that make them.
//! - `queue_index`: what the spool's compactor asks of the queue.
//! - `sites`: the numbers of sites.
//! - `stop`: the end in good order.
//! - `hot`: messages kept in memory for their first attempt.
//! - `view`: what the operator is shown.

mod damage;
mod delay;
mod driver;
mod ending;
mod health;
mod hot;
mod origin;
mod queue_index;
mod report;
#[cfg(test)]
mod simulator;
mod sites;
mod stop;
mod summary;
#[cfg(test)]
mod tests;
mod trouble;
mod view;

use crate::auth::Authenticator;
use crate::config::{Config, Core, Listener};
use crate::credentials::OutboundCredentials;
use crate::dns::Resolver;
use crate::event::{Event, EventLog, Kind};
use crate::intake::Intake;
use crate::listener::{self, Receiver};
use crate::message::{QueueId, Reason, Stage, Status, Timestamp};
use crate::pool::{AcrossShards, Dispatch, Exchange, Pool};
use crate::quota::Quotas;
use crate::ring::{self, Mailbox, Sender, Signal};
use crate::route::Router;
use crate::spool::{self, QueueIndex, Recovery, Spool, SpoolError};
use crate::tls::{Client, ClientFiles, Server};
use driver::Driver;
use origin::Stations;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

pub use health::{FailedSpools, HealthEntry};
pub use summary::{AGES_MINUTES, DomainEntry, SummaryPage};
pub use view::{
    BackOffEntry, Page, RecipientEntry, SiteEntry, absence, entries_of_recovery, folders,
};

/// Events are handed to the log at least this often.
const EVENT_INTERVAL: Duration = Duration::from_millis(50);
/// Recovered messages are taken in steps of this many, with a look at the rings between.
const RECOVERY_STEP: usize = 1024;

/// What a shard is given at start.
pub struct Plan {
    /// This shard's number.
    pub index: usize,
    /// The configuration of all shards.
    pub config: Arc<Config>,
    /// This shard's own part of it.
    pub core: Core,
    /// Where to listen, with port numbers already known.
    pub listen: Vec<Listener>,
    /// The certificates, if there are any.
    pub server: Option<Arc<Server>>,
    /// Where users are checked, if there are any.
    pub authenticator: Option<Arc<Authenticator>>,
    /// Who we are at next hops that want to know, if any does.
    pub logins: Option<Arc<OutboundCredentials>>,
    /// The certificates of ours that next hops may be shown.
    pub client_files: ClientFiles,
    /// How much each has sent.
    pub quotas: Arc<Quotas>,
    /// Folders of shards that exist no more: their mail moves here.
    pub orphans: Vec<PathBuf>,
    /// The mailboxes of all shards.
    pub peers: Vec<Sender<Dispatch>>,
    /// What the pools of all shards have in common.
    pub across: AcrossShards,
    /// This shard's mailbox.
    pub mailbox: Mailbox<Dispatch>,
    /// The operator's wishes.
    pub requests: Mailbox<Request>,
    /// The event log.
    pub events: EventLog,
    /// Told when the shard ends with a spool that has failed.
    pub failed_spools: FailedSpools,
    /// Set once, when the shard serves or has failed to.
    pub ready: crossbeam_channel::Sender<Result<Ready, String>>,
}

/// A shard serves.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Which one.
    pub index: usize,
    /// Messages that were in its spool.
    pub messages: usize,
    /// Recipients whose delivery had begun and whose outcome is not on disk.
    pub in_doubt: usize,
    /// Corrupt records that were set aside.
    pub set_aside: usize,
}

/// What the control plane asks of a shard.
pub enum Request {
    /// A page of the queue.
    List {
        /// Where the last page ended; 0 to begin.
        cursor: u32,
        /// Messages on a page.
        limit: usize,
        /// Only recipients of this domain (lower-case).
        domain: Option<String>,
        /// Where the answer goes.
        reply: oneshot::Sender<Page>,
    },
    /// A part of the queue, counted by domain.
    Summary {
        /// Where the last part ended; 0 to begin.
        cursor: u32,
        /// Messages in a part.
        limit: usize,
        /// Where the answer goes.
        reply: oneshot::Sender<SummaryPage>,
    },
    /// One message.
    Show {
        /// Which.
        id: QueueId,
        /// Its waiting recipients; empty when it is not here.
        reply: oneshot::Sender<Vec<RecipientEntry>>,
    },
    /// All sites.
    Sites {
        /// Where the answer goes.
        reply: oneshot::Sender<Vec<SiteEntry>>,
    },
    /// Whether it takes mail.
    Health {
        /// Where the answer goes.
        reply: oneshot::Sender<HealthEntry>,
    },
    /// End in good order.
    Stop,
}

/// Runs one shard from start to stop.
pub async fn run(plan: Plan) {
    let ready = plan.ready.clone();
    let index = plan.index;
    if let Err(cause) = serve(plan).await {
        // The receiver is gone only when the start was given up already.
        let _ = ready.send(Err(format!("shard {index}: {cause}")));
    }
}

async fn serve(plan: Plan) -> Result<(), String> {
    let Plan {
        index,
        config,
        core,
        listen,
        server,
        authenticator,
        logins,
        client_files,
        quotas,
        orphans,
        peers,
        across,
        mailbox,
        requests,
        events,
        failed_spools,
        ready,
    } = plan;
    let events = Rc::new(events);
    // First of all: if this shard cannot begin, the others learn it when this is dropped.
    let exchange = Exchange::new(index, peers);
    let (spool, recovered) = open_spool(index, &config, &core, &orphans).await?;

    let resolver = Resolver::new(config.dns.clone());
    let seed = ring::rng().u64(..);
    let listeners = config.listeners.iter().map(|listener| listener.address).collect();
    let host_name = Arc::clone(&config.host_name);
    let router = Router::new(host_name, listeners, config.route.clone(), resolver, seed);
    let intake = Intake::new(spool.clone(), Arc::clone(&config.host_name));
    let stations = Stations {
        shard: index,
        config: Arc::clone(&config),
        spool: spool.clone(),
        intake: intake.clone(),
        events: Rc::clone(&events),
        exchange: Rc::clone(&exchange),
    };
    let queue = Driver::new(stations, &core, router.clone());
    let mut report = Ready { index, messages: 0, in_doubt: 0, set_aside: 0 };
    for recovery in recovered {
        tell_recovery(index, &recovery, &events);
        report.set_aside += recovery.set_aside.len();
        report.messages += recovery.messages.len();
        for (position, message) in recovery.messages.enumerate() {
            report.in_doubt += queue.readmit(&message);
            if position % RECOVERY_STEP == RECOVERY_STEP - 1 {
                ring::yield_now().await;
            }
        }
    }

    let register: Rc<dyn QueueIndex> = Rc::<Driver>::clone(&queue);
    spool.clean_for(Rc::downgrade(&register));
    drop(register);

    let client = Client::new(&config.tls, &client_files).map_err(|error| error.to_string())?;
    let pool = Pool::new(Arc::clone(&config), client, logins, router, Rc::clone(&exchange), across);
    spawn_exchange(&queue, &pool, &exchange, mailbox);
    ring::spawn_vital("dispatcher", Rc::clone(&queue).run());
    ring::spawn_vital("endings", Rc::clone(&queue).watch_endings());
    let flusher = Rc::clone(&events);
    ring::spawn_vital("event flush", async move {
        loop {
            ring::sleep(EVENT_INTERVAL).await;
            flusher.flush();
        }
    });

    let into: Rc<dyn listener::Queue> = Rc::clone(&queue) as _;
    let receiver = Receiver::new(
        Arc::clone(&config),
        core,
        listener::AuthContext { server, authenticator, quotas },
        intake,
        Rc::clone(&events),
        into,
    );
    for listener in listen {
        let address = listener.address;
        receiver
            .listen(listener)
            .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    }
    let stop = Signal::new();
    answer_requests(&queue, &pool, requests, stop.clone());
    let _ = ready.send(Ok(report));
    events.emit(&Event::new(Kind::Started, now()));

    stop.wait().await;
    let stations = stop::Stations { index, receiver, queue, pool, exchange, spool, events };
    stop::stop(&stations, config.control.stop_within).await;
    if let Some(cause) = stations.spool.failure() {
        failed_spools.add(index, &cause);
    }
    Ok(())
}

/// Opens the shard's spool, and moves the mail of orphaned folders into it.
async fn open_spool(
    index: usize,
    config: &Config,
    core: &Core,
    orphans: &[PathBuf],
) -> Result<(Spool, Vec<Recovery>), String> {
    let number = u16::try_from(index).map_err(|_| "more than 1024 shards".to_owned())?;
    let settings = spool::Settings {
        directory: core.spool.clone(),
        number,
        segment_bytes: config.spool.segment_bytes,
        stream_threshold: config.spool.stream_threshold,
        content_bytes_max: core.content_bytes_max,
        outcome_interval: config.spool.outcome_interval,
    };
    let (spool, recovery) = Spool::open(settings).await.map_err(|error| error.to_string())?;
    let mut recovered = vec![recovery];
    for folder in orphans {
        // Not without it: copies of some of its mail may be here already. If they were delivered
        // and forgotten before the folder is gone, they would be adopted and delivered again.
        let adopted = spool.adopt(folder, &recovered).await.map_err(|error| match error {
            SpoolError::Full(_) => format!(
                "the mail of a shard that exists no more, in {}, must move and cannot: {error}; \
                 nothing is lost: free some disk space, then start again",
                folder.display()
            ),
            error => error.to_string(),
        })?;
        tracing::info!(
            shard = index,
            folder = %folder.display(),
            messages = adopted.messages.len(),
            "took over the mail of a shard that exists no more"
        );
        recovered.push(adopted);
    }
    Ok((spool, recovered))
}

fn tell_recovery(shard: usize, recovery: &Recovery, events: &EventLog) {
    for what in &recovery.set_aside {
        tracing::error!(shard, what, "corrupt record set aside");
        // Whose mail it was cannot always be known: the place says where the copy comes from.
        let reason = Reason::ours(Stage::Local, Status(5, 3, 0), what.as_str());
        events.emit(&Event::new(Kind::SetAside, now()).because(&reason));
    }
    if recovery.torn_bytes > 0 {
        tracing::info!(
            shard,
            bytes = recovery.torn_bytes,
            "an unfinished commit was cut: nothing in it had been acknowledged"
        );
    }
}

/// Hands what comes over the exchange to the queue (origin's part) or the pool (home's part).
fn spawn_exchange(
    queue: &Rc<Driver>,
    pool: &Rc<Pool>,
    exchange: &Rc<Exchange>,
    mut mailbox: Mailbox<Dispatch>,
) {
    let (queue, pool, exchange) = (Rc::clone(queue), Rc::clone(pool), Rc::clone(exchange));
    let itself = (Rc::clone(&queue), Rc::clone(&pool), Rc::clone(&exchange));
    ring::spawn_vital("exchange", async move {
        loop {
            let dispatch = mailbox.recv().await;
            hand_over(&queue, &pool, &exchange, dispatch);
        }
    });
    let (queue, pool, exchange) = itself;
    ring::spawn_vital("exchange with itself", async move {
        let mut handed = 0_u32;
        loop {
            let dispatch = exchange.next_to_self().await;
            hand_over(&queue, &pool, &exchange, dispatch);
            handed = handed.wrapping_add(1);
            if handed.is_multiple_of(64) {
                ring::yield_now().await;
            }
        }
    });
}

fn hand_over(queue: &Rc<Driver>, pool: &Rc<Pool>, exchange: &Rc<Exchange>, dispatch: Dispatch) {
    match dispatch {
        Dispatch::Offer { origin, site } => pool.offered(origin, site),
        Dispatch::Drained { origin, site } => pool.drained(origin, site),
        Dispatch::Job(job) => pool.accept(job),
        Dispatch::Credit { owner, site } => queue.credited(owner, site),
        Dispatch::Done(done) => queue.done(*done),
        Dispatch::State { site, backing_off } => queue.site_state(&site, backing_off),
        Dispatch::Flush { domain, with_below, asker, number } => {
            let (queue, exchange) = (Rc::clone(queue), Rc::clone(exchange));
            ring::spawn("flush", async move {
                let found = queue.flush(&domain, with_below).await;
                exchange.send(asker, Dispatch::Flushed { number, found });
            });
        }
        Dispatch::Flushed { number, found } => queue.answered(number, found),
        Dispatch::Try(site) => pool.try_now(&site),
        Dispatch::Peer { site, state } => pool.heard_of_peer(site, state),
        Dispatch::Closed => exchange.heard_closed(),
    }
}

fn answer_requests(
    queue: &Rc<Driver>,
    pool: &Rc<Pool>,
    mut requests: Mailbox<Request>,
    stop: Signal,
) {
    let (queue, pool) = (Rc::clone(queue), Rc::clone(pool));
    ring::spawn_vital("requests", async move {
        loop {
            // An asker that has gone away wants no answer.
            match requests.recv().await {
                Request::List { cursor, limit, domain, reply } => {
                    let _ = reply.send(queue.page(cursor, limit, domain.as_deref()).await);
                }
                Request::Summary { cursor, limit, reply } => {
                    let _ = reply.send(queue.summary(cursor, limit));
                }
                Request::Show { id, reply } => {
                    let _ = reply.send(queue.show(id).await);
                }
                Request::Sites { reply } => {
                    let _ = reply.send(queue.site_entries(&pool).await);
                }
                Request::Health { reply } => {
                    let _ = reply.send(queue.health());
                }
                Request::Stop => stop.set(),
            }
        }
    });
}

/// The wall clock, as this module uses it.
fn now() -> Timestamp {
    ring::wall_clock()
}
