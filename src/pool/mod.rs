//! Connections per site: the home of a site holds them, asks origin shards for work, and sends
//! the outcomes back.
//!
//! Through it pass jobs (one message for one site, content included) and their outcomes. Bytes run
//! between a `ring` stream and a `delivery` conversation. It must not know how the message came in,
//! nor what becomes of an outcome.
//!
//! - `exchange`: the only traffic between shards, and who is home of which site.
//! - `home`: all sites of one shard: their connections, credits, back-off.
//! - `state`: one site: what is known of it and what follows from that, without I/O.
//! - `worker`: a connection task, from its first job to its end.
//! - `connection`: one TCP connection, from connect to QUIT.

mod connection;
mod content;
mod exchange;
mod owner;
mod state;
mod worker;

pub use exchange::{Dispatch, Done, Exchange, Job, Reporter, Reports, owner_share};
pub use owner::{Pool, SiteOwnerView};
