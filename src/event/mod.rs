//! The event log: one JSON line for each thing that happens to mail.
//!
//! Every shard writes lines into its own buffer ([`EventLog`]) and passes it, when full or every
//! few milliseconds, to one thread that writes them all ([`EventWriter`]). This module decides
//! nothing about mail and never blocks a shard.
//!
//! *Guarantees.* Lines are written whole and, for one shard, in order. They are not synced to disk:
//! after a power failure the last ones may be missing or repeated by recovery, since the spool, not
//! this log, is authoritative. When the output is too slow, lines collect in bounded memory and
//! [`EventLog::backlogged`] tells the listener to accept no more mail. Beyond the bound, lines are
//! dropped and counted, and the count is itself an event, `lost-events`.

mod line;
mod writer;

pub use line::{Event, ForwardPath, Kind, OptionFields, Remote, TO_LIST_MAX, non_empty};
pub use writer::{BACKLOG_BYTES_MAX, BACKLOGGED_AT, BUFFER_BYTES, EventLog, EventWriter};
