//! Plain, blocking file calls, for what is done while nothing else runs, or on a thread for
//! blocking work. In unit tests the same calls reach the simulated disk while a simulation runs on
//! the thread.

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

/// Creates `path` for reading and writing; an error when it is there.
#[cfg(not(test))]
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    options().create_new(true).open(path)
}

/// Opens `path` for reading and writing.
#[cfg(not(test))]
pub fn open_to_write(path: &Path) -> io::Result<File> {
    options().open(path)
}

/// Readable by the relay's user alone.
#[cfg(not(test))]
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// What is in `folder`, in no order.
#[cfg(not(test))]
pub fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

/// Whether there is a folder at `path`.
#[cfg(not(test))]
pub fn is_folder(path: &Path) -> bool {
    path.is_dir()
}

/// Whether there is something at `path`.
#[cfg(not(test))]
pub fn exists(path: &Path) -> bool {
    path.exists()
}

/// Writes zeros where `path` was never written, at `offset` or behind it: `length` bytes at most,
/// durable. Where that ended; `None` when there is nothing left to write. Blocks.
pub(super) fn fill_hole(path: &Path, offset: u64, length: u64) -> io::Result<Option<u64>> {
    #[cfg(test)]
    if let Some(filled) = super::simulation::plain::fill_hole(path, offset, length) {
        return filled;
    }
    let file = match std::fs::OpenOptions::new().write(true).open(path) {
        // Without the zeros the file is as good as before, only slower.
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

/// An error when `path` does not name the open file `descriptor` any more, or that has fewer than
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
            let text = format!("the file was cut to {} of {size} bytes", open.len());
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

/// The next hole (reserved disk that was never written is one) or data at `offset` or behind it;
/// `None` when there is none.
fn seek(file: &std::fs::File, offset: u64, whence: i32) -> io::Result<Option<u64>> {
    let from = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open; no memory is passed.
    let found = unsafe { libc::lseek(file.as_raw_fd(), from, whence) };
    match u64::try_from(found) {
        Ok(found) => Ok(Some(found)),
        Err(_) => match io::Error::last_os_error() {
            // Behind the last of them, or a file system that does not tell.
            error if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::EINVAL)) => Ok(None),
            error => Err(error),
        },
    }
}
