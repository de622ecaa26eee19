//! What lives in a segment: a count for each segment, and a reference for each holder of a record.

use super::Placement;

/// The live mail of one segment. The queue knows which they are: a set of ids here would cost every
/// message that waits some fifteen bytes more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    /// Message and chunk records that are needed.
    pub(super) records: u32,
    /// Of them all.
    pub(super) bytes: u64,
}

impl Live {
    /// So many records more, of `bytes` together.
    pub(super) fn add(&mut self, records: u32, bytes: u32) {
        self.records += records;
        self.bytes += u64::from(bytes);
    }
}

/// Records that a message or a draft needs in one segment. They count as alive from the seal of
/// their batch until [`Log::release`](super::log::Log::release), which takes this: so it happens
/// once. Too early, and mail is lost with its segment; never, and the segment stays until the next
/// start.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LiveRef {
    pub(super) segment: u32,
    pub(super) records: u32,
    pub(super) bytes: u32,
}

impl LiveRef {
    /// The one record at `at`.
    pub(super) fn in_record(at: Placement) -> LiveRef {
        LiveRef { segment: at.segment, records: 1, bytes: at.length }
    }
}
