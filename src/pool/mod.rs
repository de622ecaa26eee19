//! Connections per site: the owner of a site holds them, asks origin shards for work, and sends
//! the outcomes back.
//!
//! It passes jobs (one message for one site, content included) to hosts and their outcomes back,
//! and bytes between a `ring` stream and a `delivery` conversation. It must not know how the
//! message came in, nor what becomes of an outcome.
//!
//! - `exchange`: the only traffic between shards, and which shard owns which site.
//! - `site`: the control of one site, pure: offers, credits, connections, back-off.
//! - `slots`: which site has the next connection slot of the shard, pure.
//! - `addresses`: connections by remote address, over all shards.
//! - `owner`: the driver: carries events to these, and does what they say.
//! - `state`: what an owner keeps of a site beside its control.
//! - `worker`: a connection task, from its first job to its end.
//! - `connection`: one TCP connection, from connect to QUIT.
//! - `content`: content on its way to a host: as stored, as one chunk, or made 7-bit.
//! - `fallback`: what did not work at a host, and what is done instead.
//! - `hang_ups`: hosts that close the connection at every message.
//! - `outages`: what the log says of sites that back off, over all shards.

mod addresses;
mod connection;
mod content;
mod exchange;
mod fallback;
mod hang_ups;
mod outages;
mod owner;
mod site;
mod slots;
mod state;
mod worker;

pub use addresses::AddressCounts;
pub use exchange::{
    Dispatch, Done, Exchange, Handling, Job, PeerState, Reporter, Reports, owner_share,
};
pub use fallback::{Broken, Remembered};
pub use outages::SiteOutages;
pub use owner::{AcrossShards, Pool, SiteOwnerView};
