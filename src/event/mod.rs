//! The event log: one JSON line for each thing that happened to mail.
//!
//! Every shard writes lines into a buffer of its own ([`EventLog`]) and hands it over, when full or
//! every few milliseconds, to one thread that writes all of them out ([`EventWriter`]). Through
//! here pass finished facts; this module decides nothing about mail and waits for nothing.
//!
//! *What is promised.* Lines come out whole and, for one shard, in order. They are not synced to
//! disk: after a power failure the last ones may be missing or repeated by recovery, since the
//! spool, not this log, is the truth. When the output does not keep up, lines collect in bounded
//! memory and [`EventLog::backlogged`] tells the listener to stop taking mail; beyond the bound
//! lines are dropped and counted, and the count is itself an event, `lost-events`.

mod line;
mod writer;

pub use line::{Event, ForwardPath, Kind, OptionFields, Remote, TO_LIST_MAX, non_empty};
pub use writer::{BACKLOG_BYTES_MAX, BACKLOGGED_AT, BUFFER_BYTES, EventLog, EventWriter};
