//! A message's content: in memory, or in pieces on the disk that any shard may read.

use super::record::{self, CHUNK_PREFIX, Extent, Record};
use super::segment;
use crate::message::QueueId;
use crate::ring;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Content in wire form.
#[derive(Debug)]
pub enum Content {
    /// In memory.
    Whole(Vec<u8>),
    /// In pieces on disk; each is read when needed, by any shard.
    Streamed(Vec<Piece>),
}

/// A piece of streamed content.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The segment file. While somebody has a clone of it, the file stays as it is.
    pub path: Arc<Path>,
    /// Where its record begins in the file, in bytes.
    pub offset: u64,
    /// Of the content alone, in bytes.
    pub length: u32,
    draft: QueueId,
    index: u32,
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

    /// The pieces that `extents` name; `path_of` gives the path of a segment, which is not used
    /// again while a piece holds on to its path.
    pub(super) fn streamed(
        mut path_of: impl FnMut(u32) -> Arc<Path>,
        draft: QueueId,
        extents: &[Extent],
    ) -> Content {
        let mut path: (u32, Arc<Path>) = (0, Path::new("").into());
        let pieces = extents.iter().zip(0..).map(|(extent, index)| {
            if path.0 != extent.segment {
                path = (extent.segment, path_of(extent.segment));
            }
            Piece {
                path: Arc::clone(&path.1),
                offset: u64::from(extent.offset),
                length: extent.length,
                draft,
                index,
            }
        });
        Content::Streamed(pieces.collect())
    }
}

impl Piece {
    /// Reads the piece and checks it. `InvalidData` when the disk gave other bytes than were
    /// written.
    pub async fn read(&self) -> io::Result<Vec<u8>> {
        self.content_of(self.record().await?)
    }

    /// Its bytes as they lie on the disk, whatever they are.
    pub(super) async fn record(&self) -> io::Result<Vec<u8>> {
        let file = ring::File::open(&self.path).await?;
        file.read(self.offset, CHUNK_PREFIX + self.length as usize).await
    }

    /// The same with a plain file, from a stopped relay's spool.
    pub fn read_stopped(&self) -> io::Result<Vec<u8>> {
        let mut record = vec![0; CHUNK_PREFIX + self.length as usize];
        std::fs::File::open(&self.path)?.read_exact_at(&mut record, self.offset)?;
        self.content_of(record)
    }

    fn content_of(&self, mut record: Vec<u8>) -> io::Result<Vec<u8>> {
        let damaged = || {
            let place = format!("{} byte {}", self.path.display(), self.offset);
            io::Error::new(io::ErrorKind::InvalidData, format!("{place}: damaged content"))
        };
        let segment = segment::number(&self.path).ok_or_else(damaged)?;
        let offset = u32::try_from(self.offset).map_err(|_| damaged())?;
        let (header, payload) = record::check(&record, segment, offset).ok_or_else(damaged)?;
        let ours = header.id == self.draft
            && header.length as usize == record.len()
            && matches!(record::decode(&header, payload),
                Ok(Record::Chunk { index, .. }) if index == self.index);
        if !ours {
            return Err(damaged());
        }
        record.drain(..CHUNK_PREFIX);
        Ok(record)
    }
}
