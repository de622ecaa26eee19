//! Reads the pieces of streamed content, which any shard may do.

use super::record::{self, CHUNK_PREFIX, Record};
use crate::limits::SPOOL_PIECES_READ_MAX;
use crate::message::Piece;
use crate::ring::{self, Semaphore};
use std::io;
use std::os::unix::fs::FileExt;

thread_local! {
    /// Of this shard: each piece that is being read has a file of its own open.
    static READS: Semaphore = Semaphore::new(SPOOL_PIECES_READ_MAX);
}

impl Piece {
    /// Reads the piece and checks it. `InvalidData` when the disk gave other bytes than were
    /// written, or fewer.
    pub async fn read(&self) -> io::Result<Vec<u8>> {
        self.content_of(self.record().await?)
    }

    /// Its bytes as they lie on the disk, whatever they are, as far as the file goes.
    pub(super) async fn record(&self) -> io::Result<Vec<u8>> {
        let _turn = READS.with(Semaphore::clone).acquire().await;
        let file = ring::File::open(&self.path).await?;
        let length = CHUNK_PREFIX + self.length as usize;
        let read = file.read_up_to(u64::from(self.offset), length).await;
        file.close().await;
        read
    }

    /// The same with a plain file, from a stopped relay's spool.
    pub fn read_stopped(&self) -> io::Result<Vec<u8>> {
        let mut record = vec![0; CHUNK_PREFIX + self.length as usize];
        std::fs::File::open(&self.path)?.read_exact_at(&mut record, u64::from(self.offset))?;
        self.content_of(record)
    }

    fn content_of(&self, mut record: Vec<u8>) -> io::Result<Vec<u8>> {
        let damaged = || {
            let place = format!("{} byte {}", self.path.display(), self.offset);
            io::Error::new(io::ErrorKind::InvalidData, format!("{place}: damaged content"))
        };
        let (header, payload) =
            record::check(&record, self.segment, self.offset).ok_or_else(damaged)?;
        let matches = header.id == self.draft
            && header.length as usize == record.len()
            && matches!(record::decode(&header, payload),
                Ok(Record::Chunk { index, .. }) if index == self.index);
        if !matches {
            return Err(damaged());
        }
        record.drain(..CHUNK_PREFIX);
        Ok(record)
    }
}
