//! The end of a shard in good order, in two phases: all pools first, then all spools.
//!
//! A shard that has nothing to deliver may still have messages out on other shards. What becomes of
//! them must be on its disk before it goes, or they would be delivered again after the restart. So
//! each shard ends its deliveries, says so to all others, and goes on listening until all have said
//! the same. Every step is bounded, whatever clients, servers or other shards do.

use super::driver::Driver;
use crate::event::{Event, EventLog, Kind};
use crate::listener::Receiver;
use crate::pool::{Exchange, Pool};
use crate::ring;
use crate::spool::Spool;
use futures_lite::future::{or, zip};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

/// The other shards are asked to stop at the same time, and may be this much later. The same again
/// is for the reports of what they said.
const LATER: Duration = Duration::from_secs(1);

/// What there is to be stopped.
pub(super) struct Stations {
    pub(super) index: usize,
    pub(super) receiver: Rc<Receiver>,
    pub(super) queue: Rc<Driver>,
    pub(super) pool: Rc<Pool>,
    pub(super) exchange: Rc<Exchange>,
    pub(super) spool: Spool,
    pub(super) events: Rc<EventLog>,
}

/// Stops all stations: transactions in both directions may finish within `limit`.
pub(super) async fn stop(stations: &Stations, limit: Duration) {
    let Stations { index, receiver, queue, pool, exchange, spool, events } = stations;
    let shard = *index;
    let began = ring::now();
    let left = || limit.saturating_sub(ring::now().saturating_duration_since(began));

    queue.stop();
    // Both at once: a client that dawdles must not let deliveries begin until they are cut.
    if within(left(), zip(receiver.stop(), pool.stop())).await.is_none() {
        tracing::warn!(
            shard,
            inbound = receiver.connections(),
            outbound = pool.connections(),
            "connections still open when the time to stop was over: they are cut"
        );
    }
    exchange.close();
    if within(left() + LATER, exchange.closed_by_all()).await.is_none() {
        tracing::warn!(shard, "another shard does not end: what it delivered may be doubled");
    }
    if within(left() + LATER, queue.settle_reports()).await != Some(true) {
        tracing::warn!(shard, "reports that could not be stored are made after the restart");
        if within(LATER, queue.halt_reports()).await.is_none() {
            tracing::warn!(shard, "a report is still under way: its events may be missing");
        }
    }
    match within(left() + LATER, spool.sync()).await {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            tracing::error!(shard, %error, "last commit failed: some deliveries may be repeated");
        }
        None => tracing::error!(shard, "last commit not written: some deliveries may be repeated"),
    }
    if within(left() + LATER, spool.close()).await.is_none() {
        tracing::warn!(shard, "the spool does not end: the next start takes longer");
    }
    events.emit(&Event::new(Kind::Stopped, ring::wall_clock()));
    events.flush();
}

/// What `work` came to; `None` when it took longer than `limit`.
async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let ended = async { Some(work.await) };
    let late = async {
        ring::sleep(limit).await;
        None
    };
    or(ended, late).await
}
