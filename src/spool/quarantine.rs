//! A record that proves damaged when it is needed: a copy of what is left goes to the quarantine.
//! At a start it is `folder` that does so, for all that its scan finds.

use super::{Placement, Spool, SpoolError, decode, folder, segment};
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
        let copy = folder::copy_of(&core.folder, at.segment, at.offset);
        if !disk::exists(&copy) {
            keep(&copy, bytes).await.map_err(|error| folder::failed(&copy, &error))?;
            let (what, copy) = (path.display(), copy.display());
            tracing::error!(%id, %what, offset = at.offset, %copy, "corrupt record set aside");
        }
        Ok(true)
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
