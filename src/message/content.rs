//! The content of a message: where its bytes are, and what is known of them. *Pure*: `spool` reads
//! the pieces.

use super::QueueId;
use std::path::Path;
use std::sync::Arc;

/// Content in wire form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// In memory.
    Whole(Vec<u8>),
    /// In pieces on disk; each is read when needed, by any shard.
    Streamed(Vec<Piece>),
}

/// A piece of streamed content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The segment file. While a clone of it exists, the file stays as it is.
    pub path: Arc<Path>,
    /// The number of that segment.
    pub segment: u32,
    /// Where its record begins in the file, in bytes.
    pub offset: u32,
    /// Of the content alone, in bytes.
    pub length: u32,
    /// The draft that it was written for.
    pub draft: QueueId,
    /// Its position in the content, from 0.
    pub index: u32,
}

/// What was found out about the content while it arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentFlags {
    /// Some line begins with a dot that transparency added (RFC 5321 4.5.2).
    pub dot_stuffed: bool,
    /// Has bytes above 127, whatever was declared.
    pub eight_bit: bool,
}

impl Content {
    /// Bytes in all.
    pub fn len(&self) -> u64 {
        match self {
            Content::Whole(bytes) => bytes.len() as u64,
            Content::Streamed(pieces) => pieces.iter().map(|piece| u64::from(piece.length)).sum(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
