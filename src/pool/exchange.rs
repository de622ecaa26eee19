//! The exchange: the messages between shards, over bounded channels.
//!
//! About one site they go between an origin (whose spool holds mail for it) and an owner
//! (which holds connections to it):
//!
//! ```text
//! origin                      owner
//!   | -- Offer(site) ----------> |   I have work for it
//!   | <------------ Credit ----- |   I have a connection free: send one
//!   | -- Job ------------------> |
//!   | <------------ Done ------- |
//!   | -- Drained --------------> |   (answer to a Credit) no more; I shall offer again
//!   | <------------ State ------ |   the site backs off until then, for this reason
//! ```
//!
//! A shard that stops says Closed to all when its last delivery has ended, and goes on listening
//! until all have said so: what became of its messages elsewhere is recorded before it goes.
//!
//! Bounds: one Offer per site and origin, at most one open Credit per connection, one Job or
//! Drained per Credit, one Done per Job. So the channels need no more room than sites and
//! connections; what does not fit at a moment waits here, in order, within the same bounds.

use crate::message::{Message, Outcome, QueueId, Reason, Timestamp};
use crate::ring::{self, Sender, Signal};
use crate::route::{Site, SiteKey};
use crate::tls::Security;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What one shard says to another, or to itself.
#[derive(Debug)]
pub enum Dispatch {
    /// Origin to owner: there is work for `site` where there was none.
    Offer {
        /// The shard that has the work.
        origin: usize,
        /// For which site.
        site: Arc<Site>,
    },
    /// Owner to origin: a connection is free; answer with one Job or Drained.
    Credit {
        /// The shard to answer.
        owner: usize,
        /// For which site.
        site: Arc<Site>,
    },
    /// Origin to owner: answer to a Credit, nothing (more) to send.
    Drained {
        /// The shard that answers.
        origin: usize,
        /// For which site.
        site: Arc<Site>,
    },
    /// Origin to owner: answer to a Credit, one transaction's worth.
    Job(Box<Job>),
    /// Owner to origin: what became of a Job.
    Done(Box<Done>),
    /// Owner to origin: the site backs off, or does no more.
    State {
        /// For which site.
        site: Arc<Site>,
        /// Until when, and why; `None` when it answers again.
        backing_off: Option<(Timestamp, Arc<Reason>)>,
    },
    /// Owner to the other owners of a striped site: how the site is.
    Peer {
        /// Of which site.
        site: Arc<Site>,
        /// How it is.
        state: PeerState,
    },
    /// To every shard: what waits for this domain, and perhaps below it, is to be tried now.
    Flush {
        /// As `message::domain_key` writes it.
        domain: Arc<str>,
        /// And what waits for domains below it.
        with_below: bool,
        /// The shard that wants to know if there is any.
        asker: usize,
        /// Its question.
        number: u64,
    },
    /// Answer to a Flush, when all has been looked at.
    Flushed {
        /// Of the question.
        number: u64,
        /// Something waits there.
        found: bool,
    },
    /// Origin to owner: the site is to be tried now, even if it backs off.
    Try(Arc<Site>),
    /// The last that comes from a shard that stops: no Done of a delivery comes from it any more.
    Closed,
}

/// What one owner of a site has found out that all should know.
#[derive(Clone, Debug)]
pub enum PeerState {
    /// It takes mail.
    Delivers,
    /// It does not.
    BacksOff {
        /// Until when it backs off.
        until: Timestamp,
        /// How many failures in a row there were.
        failures: u16,
        /// What its hosts said, or that they said nothing.
        reason: Arc<Reason>,
    },
}

/// One message for one site.
#[derive(Debug)]
pub struct Job {
    /// The shard whose spool holds the message.
    pub origin: usize,
    /// The origin's name for the message; comes back in [`Done`].
    pub slot: u32,
    /// Where to.
    pub site: Arc<Site>,
    /// The message, content included or to be read in pieces.
    pub message: Arc<Message>,
    /// Indices in the envelope.
    pub recipients: Vec<u32>,
    /// None of them was tried before.
    pub untried: bool,
}

/// What became of a [`Job`]: each of its recipients stands in `outcomes` or in `again`.
#[derive(Debug)]
pub struct Done {
    /// From the job.
    pub slot: u32,
    /// From the job.
    pub id: QueueId,
    /// From the job.
    pub site: Arc<Site>,
    /// From the job.
    pub message: Arc<Message>,
    /// By index in the envelope.
    pub outcomes: Vec<(u32, Outcome)>,
    /// Not tried, or put off by the server within the transaction: to be sent again at once.
    pub again: Vec<u32>,
    /// How it was done.
    pub handling: Handling,
}

/// How a [`Job`] was done. Where one attempt went to several hosts: at the last that took mail.
#[derive(Clone, Debug, Default)]
pub struct Handling {
    /// What protected the connection, if there was one and it was.
    pub tls: Option<Arc<Security>>,
    /// Who reports on those delivered.
    pub reports: Reports,
    /// From the job's arrival at its connection to the end of the attempt.
    pub elapsed: Duration,
}

/// Which reports the sender is still to get about a delivered recipient, and from which host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// If it asked for NOTIFY=SUCCESS.
    pub on_success: Reporter,
    /// It was handed to its mailbox, not to another relay.
    pub to_mailboxes: bool,
    /// The host offers DELIVERBY (RFC 2852): it knows by when.
    pub keeps_time: bool,
}

/// Which host reports a delivery to the sender, if it asked for that (NOTIFY=SUCCESS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reporter {
    /// The next hop: it has DSN (RFC 3461 5.2.1).
    NextHop,
    /// This relay: it was handed to a host without DSN (RFC 3461 5.2.2).
    #[default]
    Relayed,
    /// This relay: it was handed to a mailbox, over LMTP.
    Delivered,
}

/// One shard's end of the exchange.
pub struct Exchange {
    me: usize,
    /// By shard; the own place is unused.
    peers: Vec<Sender<Dispatch>>,
    /// What did not fit, in order, by shard; the own queue is what the shard says to itself.
    waiting: RefCell<Vec<VecDeque<Dispatch>>>,
    to_self: Signal,
    /// By shard: a task waits for room in its channel.
    overflowing: RefCell<Vec<bool>>,
    closed: Cell<bool>,
    /// Shards that have closed, this one included.
    closed_peers: Cell<usize>,
    closing: Signal,
}

/// A shard that fails sends it too: the others need not wait for it.
impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.closed.get() {
            for peer in &self.peers {
                let _ = peer.try_send(Dispatch::Closed);
            }
        }
    }
}

impl Exchange {
    /// The end of shard `me`; `peers` are the mailboxes of all shards, its own included.
    pub fn new(me: usize, peers: Vec<Sender<Dispatch>>) -> Rc<Exchange> {
        let waiting = RefCell::new(peers.iter().map(|_| VecDeque::new()).collect());
        let overflowing = RefCell::new(vec![false; peers.len()]);
        Rc::new(Exchange {
            me,
            peers,
            waiting,
            to_self: Signal::new(),
            overflowing,
            closed: Cell::new(false),
            closed_peers: Cell::new(0),
            closing: Signal::new(),
        })
    }

    /// This shard's number.
    pub fn me(&self) -> usize {
        self.me
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.peers.len()
    }

    /// Sends to shard `to`, in order. Never waits and never loses.
    pub fn send(self: &Rc<Self>, to: usize, dispatch: Dispatch) {
        let mut waiting = self.waiting.borrow_mut();
        let (Some(queue), Some(peer)) = (waiting.get_mut(to), self.peers.get(to)) else {
            debug_assert!(false, "no such shard: {to}");
            return;
        };
        if to == self.me {
            queue.push_back(dispatch);
            self.to_self.set();
            return;
        }
        if queue.is_empty() {
            let Err(back) = peer.try_send(dispatch) else { return };
            queue.push_back(back);
        } else {
            queue.push_back(dispatch);
        }
        drop(waiting);
        let mut overflowing = self.overflowing.borrow_mut();
        if let Some(known) = overflowing.get_mut(to)
            && !std::mem::replace(known, true)
        {
            let exchange = Rc::clone(self);
            ring::spawn_vital("exchange overflow", async move { exchange.drain_to(to).await });
        }
    }

    /// Says Closed to all: this shard delivers no more.
    pub fn close(self: &Rc<Self>) {
        if !self.closed.replace(true) {
            (0..self.shards()).for_each(|shard| self.send(shard, Dispatch::Closed));
        }
    }

    /// A Closed came.
    pub fn heard_closed(&self) {
        self.closed_peers.set(self.closed_peers.get() + 1);
        self.closing.set();
    }

    /// Waits until all shards, this one included, have closed and all that they said before has
    /// been heard.
    pub async fn closed_by_all(&self) {
        while self.closed_peers.get() < self.shards() {
            self.closing.wait().await;
        }
    }

    /// What this shard says to itself next.
    pub async fn next_to_self(&self) -> Dispatch {
        loop {
            let next = self.waiting.borrow_mut().get_mut(self.me).and_then(VecDeque::pop_front);
            match next {
                Some(dispatch) => return dispatch,
                None => self.to_self.wait().await,
            }
        }
    }

    /// Sends what did not fit into the channel of shard `to`, in order, until nothing is left.
    async fn drain_to(&self, to: usize) {
        let Some(peer) = self.peers.get(to) else { return };
        loop {
            peer.room().await;
            let mut waiting = self.waiting.borrow_mut();
            let Some(queue) = waiting.get_mut(to) else { return };
            if peer.is_gone() {
                queue.clear();
            }
            while let Some(dispatch) = queue.pop_front() {
                if let Err(back) = peer.try_send(dispatch) {
                    queue.push_front(back);
                    break;
                }
            }
            if queue.is_empty() {
                if let Some(known) = self.overflowing.borrow_mut().get_mut(to) {
                    *known = false;
                }
                return;
            }
        }
    }
}

/// The owner of a site for an origin, and the connections that it may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerShare {
    /// The owner shard.
    pub owner: usize,
    /// Its share of the site's connections; at least 1.
    pub connections: usize,
}

/// Which shard owns `site_key` for mail of shard `origin`.
///
/// A site whose limit gives each of several shards at least `stripe_min` connections is striped:
/// it has as many owners as that allows, each with an equal share, and a shard that is an owner
/// itself keeps its own mail. Every shard computes the same, so none needs to be asked.
pub fn owner_share(
    site_key: &SiteKey,
    shards: usize,
    origin: usize,
    connections: usize,
    stripe_min: usize,
) -> OwnerShare {
    let (first, stripes) = stripes(site_key, shards, connections, stripe_min);
    let position = (origin + shards - first) % shards.max(1);
    let stripe = if position < stripes { position } else { origin % stripes };
    let share = connections / stripes + usize::from(stripe < connections % stripes);
    OwnerShare { owner: (first + stripe) % shards.max(1), connections: share.max(1) }
}

/// The owners of a site: one, or several when it is striped.
pub(super) fn owners(
    site_key: &SiteKey,
    shards: usize,
    connections: usize,
    stripe_min: usize,
) -> impl Iterator<Item = usize> {
    let (first, stripes) = stripes(site_key, shards, connections, stripe_min);
    (0..stripes).map(move |stripe| (first + stripe) % shards.max(1))
}

/// The first owner of a site, and how many there are.
fn stripes(
    site_key: &SiteKey,
    shards: usize,
    connections: usize,
    stripe_min: usize,
) -> (usize, usize) {
    let stripes = (connections / stripe_min.max(1)).clamp(1, shards.max(1));
    let first = usize::try_from(site_key.digest() % shards.max(1) as u64).unwrap_or(0);
    (first, stripes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::SiteKind;

    fn owners(connections: usize, shards: usize) -> Vec<OwnerShare> {
        let key = SiteKey::new(SiteKind::Mx, "mx:a.test");
        (0..shards).map(|origin| owner_share(&key, shards, origin, connections, 4)).collect()
    }

    #[test]
    fn a_small_site_has_one_owner_for_all() {
        let all = owners(3, 8);
        assert!(all.iter().all(|share| *share == all[0]), "{all:?}");
        assert_eq!(all[0].connections, 3);
    }

    #[test]
    fn a_large_site_has_owners_everywhere_and_their_shares_sum_to_the_limit() {
        for (connections, shards) in [(20, 2), (21, 4), (64, 8), (17, 3)] {
            let all = owners(connections, shards);
            for (origin, share) in all.iter().enumerate() {
                assert_eq!(share.owner, origin, "each keeps its own mail");
            }
            assert_eq!(all.iter().map(|share| share.connections).sum::<usize>(), connections);
        }
    }

    #[test]
    fn a_middling_site_has_some_owners_and_all_agree_on_their_shares() {
        let all = owners(10, 8);
        let mut by_owner = std::collections::BTreeMap::new();
        for share in &all {
            assert_eq!(
                *by_owner.entry(share.owner).or_insert(share.connections),
                share.connections
            );
        }
        assert_eq!(by_owner.len(), 2);
        assert_eq!(by_owner.values().sum::<usize>(), 10);
        for owner in by_owner.keys() {
            assert_eq!(all[*owner].owner, *owner, "an owner keeps its own mail");
        }
        let key = SiteKey::new(SiteKind::Mx, "mx:a.test");
        let mut all: Vec<usize> = super::owners(&key, 8, 10, 4).collect();
        all.sort_unstable();
        assert_eq!(all, by_owner.into_keys().collect::<Vec<_>>());
    }
}
