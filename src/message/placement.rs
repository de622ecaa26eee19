//! Where a message is kept, for those that only pass it on.

/// Where a message record is in the segments of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Number of the segment.
    pub segment: u32,
    /// Of the record in it, in bytes.
    pub offset: u32,
    /// Of the record, in bytes.
    pub length: u32,
}
