//! A record that proves damaged when it is needed: a copy of what is left goes to the quarantine.
//! At a start it is `folder` that does so, for all that its scan finds.

use super::commit::Core;
use super::{Placement, Spool, SpoolError, decode, folder, inspection, record, segment};
use crate::message::{Piece, QueueId};
use crate::ring::{self, disk};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Most copies that are looked through for one message, and most bytes of all of them.
const COPIES_SEARCHED_MAX: usize = 1000;
const BYTES_SEARCHED_MAX: u64 = 256 << 20;

/// The copy in the quarantines of `folders` that says it is the message `id`. What is left of a
/// record may not say so any more, and pieces of streamed content never do. Blocks.
pub fn quarantined(folders: &[PathBuf], id: QueueId) -> Option<PathBuf> {
    let mut left = BYTES_SEARCHED_MAX;
    let copies = folders.iter().flat_map(|folder| folder::copies(folder));
    for (copy, segment, offset) in copies.take(COPIES_SEARCHED_MAX) {
        let mut bytes = Vec::new();
        let Ok(file) = File::open(&copy) else { continue };
        // Of one that cannot be read whole the part that can is looked at.
        let _ = file.take(left).read_to_end(&mut bytes);
        left = left.saturating_sub(bytes.len() as u64);
        let is_at = |at: usize| record::claims_message(bytes.get(at..).unwrap_or_default(), id);
        // A record, or a batch with some that do not pass.
        let mut damaged = inspection::damaged_records(&bytes, segment, offset).into_iter();
        if is_at(0) || damaged.any(|(place, _)| is_at(place.saturating_sub(offset) as usize)) {
            return Some(copy);
        }
    }
    None
}

/// What is left of a record that does not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remains {
    /// A copy, in the quarantine.
    Copy(PathBuf),
    /// The file is gone, or ends before the record.
    Nothing,
}

impl fmt::Display for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remains::Copy(copy) => write!(f, "what is left of it is in {}", copy.display()),
            Remains::Nothing => f.write_str("nothing is left of it"),
        }
    }
}

impl Core {
    /// Whether the folder is as this relay left it, as far as one can see. If not (perhaps its disk
    /// is not mounted any more) a file that is not found there need not be lost.
    pub(super) fn is_present(&self) -> bool {
        self.state.borrow().files.values().any(|file| file.check_present().is_ok())
    }
}

impl Spool {
    /// For a message that [`Spool::load`] said is damaged: reads its record once more, and if it
    /// still does not pass, keeps a copy of what is left in the quarantine. It is said in the log
    /// once, however often it is found.
    ///
    /// After an error (no space for the copy, or the disk does not give the bytes) nothing is known
    /// and nothing has changed.
    pub async fn set_aside(
        &self,
        id: QueueId,
        at: Placement,
    ) -> Result<Option<Remains>, SpoolError> {
        let core = &self.handle.core;
        let path = segment::path(&core.folder, at.segment);
        let unreadable = |error: io::Error| folder::failed(&path, &error);
        let bytes = match ring::File::open(&path).await {
            Ok(file) => {
                let read = file.read_up_to(u64::from(at.offset), at.length as usize).await;
                file.close().await;
                read.map_err(unreadable)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && core.is_present() => {
                Vec::new()
            }
            Err(error) => return Err(unreadable(error)),
        };
        if decode(|segment| core.path(segment), &core.folder, id, at, &bytes).is_ok() {
            return Ok(None);
        }
        self.keep(id, &path, at, bytes).await.map(Some)
    }

    /// The same for streamed content that could not be read: the first of `pieces` that does not
    /// pass.
    pub async fn set_aside_pieces(
        &self,
        id: QueueId,
        pieces: &[Piece],
    ) -> Result<Option<Remains>, SpoolError> {
        for piece in pieces {
            let unreadable = |error: io::Error| folder::failed(&piece.path, &error);
            match piece.read().await {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    let bytes = piece.record().await.map_err(unreadable)?;
                    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    let at = Placement { segment: piece.segment, offset: piece.offset, length };
                    return self.keep(id, &piece.path, at, bytes).await.map(Some);
                }
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && self.handle.core.is_present() =>
                {
                    return Ok(Some(Remains::Nothing));
                }
                Err(error) => return Err(unreadable(error)),
            }
        }
        Ok(None)
    }

    /// Copies `bytes`, which are at `at`, unless a copy is there.
    async fn keep(
        &self,
        id: QueueId,
        path: &Path,
        at: Placement,
        bytes: Vec<u8>,
    ) -> Result<Remains, SpoolError> {
        if bytes.is_empty() {
            return Ok(Remains::Nothing);
        }
        let copy = folder::copy_of(&self.handle.core.folder, at.segment, at.offset);
        if !disk::exists(&copy) {
            keep(&copy, bytes).await.map_err(|error| folder::failed(&copy, &error))?;
            let (what, kept) = (path.display(), copy.display());
            let offset = at.offset;
            tracing::error!(%id, %what, offset, copy = %kept, "corrupt record set aside");
        }
        Ok(Remains::Copy(copy))
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
