//! A record that proves damaged when it is needed: a copy of what is left goes to the quarantine.
//! At a start it is `folder` that does so, for all that its scan finds.

use super::{Piece, Placement, Spool, SpoolError, decode, folder, segment};
use crate::message::QueueId;
use crate::ring::{self, disk};
use std::io;
use std::path::Path;

impl Spool {
    /// For a message that [`Spool::load`] said is damaged: reads its record once more, and if it
    /// still does not pass, keeps a copy of it in the quarantine. Whether that is so. It is said in
    /// the log once, however often it is found.
    ///
    /// After an error (no room for the copy, or the disk does not give the bytes) nothing is known
    /// and nothing has changed.
    pub async fn set_aside(&self, id: QueueId, at: Placement) -> Result<bool, SpoolError> {
        let core = &self.handle.core;
        let path = segment::path(&core.folder, at.segment);
        let unreadable = |error: io::Error| folder::failed(&path, &error);
        let file = ring::File::open(&path).await.map_err(unreadable)?;
        let read = file.read(u64::from(at.offset), at.length as usize).await;
        file.close().await;
        let bytes = read.map_err(unreadable)?;
        if decode(|segment| core.path(segment), &core.folder, id, at, &bytes).is_ok() {
            return Ok(false);
        }
        self.keep(id, &path, at, bytes).await?;
        Ok(true)
    }

    /// The same for streamed content that could not be read: whether one of `pieces` does not pass.
    pub async fn set_aside_pieces(
        &self,
        id: QueueId,
        pieces: &[Piece],
    ) -> Result<bool, SpoolError> {
        for piece in pieces {
            let Some(segment) = segment::number(&piece.path) else { continue };
            let unreadable = |error: io::Error| folder::failed(&piece.path, &error);
            match piece.read().await {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    let bytes = piece.record().await.map_err(unreadable)?;
                    let offset = u32::try_from(piece.offset).unwrap_or(u32::MAX);
                    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    let at = Placement { segment, offset, length };
                    self.keep(id, &piece.path, at, bytes).await?;
                    return Ok(true);
                }
                Err(error) => return Err(unreadable(error)),
            }
        }
        Ok(false)
    }

    /// Copies `bytes`, which are at `at`, unless a copy is there.
    async fn keep(
        &self,
        id: QueueId,
        path: &Path,
        at: Placement,
        bytes: Vec<u8>,
    ) -> Result<(), SpoolError> {
        let copy = folder::copy_of(&self.handle.core.folder, at.segment, at.offset);
        if !disk::exists(&copy) {
            keep(&copy, bytes).await.map_err(|error| folder::failed(&copy, &error))?;
            let (what, copy) = (path.display(), copy.display());
            tracing::error!(%id, %what, offset = at.offset, %copy, "corrupt record set aside");
        }
        Ok(())
    }
}

/// Writes `bytes` to `copy`, whole or not at all.
async fn keep(copy: &Path, bytes: Vec<u8>) -> io::Result<()> {
    let part = copy.with_extension("part");
    if let Some(quarantine) = copy.parent() {
        folder::make(quarantine)?;
    }
    let file = ring::File::create(&part, bytes.len() as u64).await?;
    let written = file.commit(bytes, 0).await;
    file.close().await;
    written.map(drop).and_then(|()| disk::rename(&part, copy)).inspect_err(|_| {
        let _ = disk::remove_file(&part);
    })
}
