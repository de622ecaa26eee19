//! Plain, blocking file calls, for use while nothing else runs, or on a thread for blocking work.
//! In unit tests they go to the simulated disk while a simulation runs on the thread.

#[cfg(not(test))]
pub use std::fs::{File, create_dir, remove_dir, remove_file, rename};

#[cfg(test)]
pub(super) use super::simulation::plain::create_new;
#[cfg(test)]
pub use super::simulation::plain::{File, create_dir, remove_dir, remove_file, rename};
#[cfg(test)]
pub use super::simulation::plain::{entries, exists, is_folder, open_to_write, size};

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
#[cfg(not(test))]
use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt, path::PathBuf};

/// Bytes given to the kernel at once.
const PIECE: usize = 1024 * 1024;

/// Creates `path` for reading and writing; an error when it exists.
#[cfg(not(test))]
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    options().create_new(true).open(path)
}

/// Opens `path` for reading and writing.
#[cfg(not(test))]
pub fn open_to_write(path: &Path) -> io::Result<File> {
    options().open(path)
}

/// Options for files that only the relay's user may read.
#[cfg(not(test))]
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// The entries of `folder`, in no particular order.
#[cfg(not(test))]
pub fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

/// Whether there is a folder at `path`.
#[cfg(not(test))]
pub fn is_folder(path: &Path) -> bool {
    path.is_dir()
}

/// Whether `path` exists.
#[cfg(not(test))]
pub fn exists(path: &Path) -> bool {
    path.exists()
}

/// Writes zeros where `path` was never written, from `offset` on: `length` bytes at most, durable.
/// Returns where that ended; `None` when there is nothing left to write. Blocks.
pub(super) fn fill_hole(path: &Path, offset: u64, length: u64) -> io::Result<Option<u64>> {
    #[cfg(test)]
    if let Some(filled) = super::simulation::plain::fill_hole(path, offset, length) {
        return filled;
    }
    let file = match std::fs::OpenOptions::new().write(true).open(path) {
        // Without the zeros the file is still valid, only slower.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            return Ok(None);
        }
        file => file?,
    };
    let size = file.metadata()?.len();
    let Some(start) = seek(&file, offset, libc::SEEK_HOLE)?.filter(|&start| start < size) else {
        return Ok(None);
    };
    let end = seek(&file, start, libc::SEEK_DATA)?.unwrap_or(size).min(size);
    let end = end.min(start.saturating_add(length));
    let zeros = vec![0; PIECE];
    let mut at = start;
    while at < end {
        let count = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
        file.write_all_at(zeros.get(..count).unwrap_or_default(), at)?;
        at += count as u64;
    }
    file.sync_data()?;
    Ok(Some(end))
}

/// An error when `path` no longer names the open file `descriptor`, or the file has fewer than
/// `size` bytes. The path was used a moment ago, so this does not wait for the disk.
pub(super) fn check_present(descriptor: RawFd, path: &Path, size: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as the caller holds its file, and is not closed
    // here.
    let file = ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(descriptor) });
    let open = file.metadata()?;
    let gone = |what: &str| {
        let text = format!("the file was {what} while the relay used it");
        Err(io::Error::new(io::ErrorKind::NotFound, text))
    };
    match std::fs::symlink_metadata(path) {
        Ok(named) if (named.dev(), named.ino()) != (open.dev(), open.ino()) => gone("replaced"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => gone("removed"),
        Err(error) => Err(error),
        Ok(_) if open.len() < size => {
            let text = format!("the file was truncated to {} of {size} bytes", open.len());
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
        }
        Ok(_) => Ok(()),
    }
}

/// The size of the file that `path` names.
#[cfg(not(test))]
pub fn size(path: &Path) -> io::Result<u64> {
    std::fs::metadata(path).map(|metadata| metadata.len())
}

/// The next hole (reserved space that was never written is one) or data from `offset` on; `None`
/// when there is none.
fn seek(file: &std::fs::File, offset: u64, whence: i32) -> io::Result<Option<u64>> {
    let from = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open; no memory is passed.
    let found = unsafe { libc::lseek(file.as_raw_fd(), from, whence) };
    match u64::try_from(found) {
        Ok(found) => Ok(Some(found)),
        Err(_) => match io::Error::last_os_error() {
            // After the last of them, or the file system does not support it.
            error if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::EINVAL)) => Ok(None),
            error => Err(error),
        },
    }
}
