//! Files of fixed size, written in place.

use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
#[cfg(not(test))]
use std::os::fd::{FromRawFd, IntoRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[cfg(not(test))]
use glommio::io::BufferedFile;

use super::disk;
#[cfg(test)]
use super::simulation::{self, plain::BufferedFile};
use super::stream::is_shortage;
use super::task::{panic_message, spawn, to_the_end};

/// Bytes passed to the kernel at once: the driver keeps what it writes, so each piece is a copy.
const PIECE: usize = 1024 * 1024;
/// How often the driver is made to check whether blocking work is done.
const BLOCKING_LOOK: Duration = Duration::from_millis(10);

#[cfg(test)]
thread_local! {
    static BROKEN_DISK: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// From now on every commit of this shard fails, as on a broken disk.
#[cfg(test)]
pub fn break_disk() {
    BROKEN_DISK.set(true);
}

/// A file of fixed size, written in place.
pub struct File {
    inner: Rc<BufferedFile>,
    path: Rc<Path>,
    /// The size that [`File::create`] reserved; 0 when it was opened for reading.
    size: u64,
}

impl File {
    /// Creates (or opens, for recycling) `path` for reading and writing, with `size` bytes of disk
    /// reserved, its name durable in its folder. An existing file keeps its content, and grows to
    /// `size` when it is shorter. `StorageFull` when the disk is full: a new file is then removed
    /// again.
    pub async fn create(path: &Path, size: u64) -> io::Result<File> {
        let name = path.to_owned();
        let file = blocking(move || create_reserved(&name, size)).await;
        file.map(|file| File::new(file, path, size))
            .map_err(|error| with_context(error, "creating", path))
    }

    /// Opens for reading.
    pub async fn open(path: &Path) -> io::Result<File> {
        let name = path.to_owned();
        let file = blocking(move || disk::File::open(name)).await;
        file.map(|file| File::new(file, path, 0))
            .map_err(|error| with_context(error, "opening", path))
    }

    fn new(file: disk::File, path: &Path, size: u64) -> File {
        #[cfg(test)]
        let inner = BufferedFile::from(file);
        #[cfg(not(test))]
        // SAFETY: the descriptor is open, and `into_raw_fd` gives up its ownership.
        let inner = unsafe { BufferedFile::from_raw_fd(file.into_raw_fd()) };
        File { inner: Rc::new(inner), path: path.into(), size }
    }

    /// An error when its path no longer names the file, or the file was truncated: then data
    /// written to it would be lost with the process. Two system calls; does not wait.
    pub fn check_present(&self) -> io::Result<()> {
        check_present(&self.inner, &self.path, self.size)
    }

    /// Writes `bytes` at `offset` **and makes them durable**, as one call; returns the buffer
    /// unchanged. After an error the file must not be written again: what is on disk is unknown.
    /// A file that was removed, replaced or truncated meanwhile is an error (`NotFound` or
    /// `UnexpectedEof`).
    ///
    /// A commit that has begun is completed even if the caller no longer waits for it.
    pub async fn commit(&self, bytes: Vec<u8>, offset: u64) -> io::Result<Vec<u8>> {
        let file = Rc::clone(&self.inner);
        let (path, size) = (Rc::clone(&self.path), self.size);
        let committed = to_the_end(async move {
            #[cfg(test)]
            if BROKEN_DISK.get() {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            write_whole(&file, &bytes, offset).await?;
            // Never retried: after a failure the kernel forgets what it could not write.
            file.fdatasync().await.map_err(io::Error::from)?;
            check_present(&file, &path, size)?;
            Ok(bytes)
        });
        committed.await.flatten().map_err(|error| with_context(error, "writing", &self.path))
    }

    /// Writes zeros where the file was never written, from `offset` on: `length` bytes at most,
    /// durable. Returns where that ended; `None` when there is nothing left to write.
    ///
    /// The first write to reserved space changes metadata, which makes a sync slower; later writes
    /// do not.
    pub async fn fill(&self, offset: u64, length: u64) -> io::Result<Option<u64>> {
        let name = self.path.to_path_buf();
        let filled = blocking(move || disk::fill_hole(&name, offset, length)).await;
        filled.map_err(|error| with_context(error, "writing", &self.path))
    }

    /// Reads exactly `length` bytes from `offset`; `UnexpectedEof` when the file is shorter.
    pub async fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let bytes = self.read_up_to(offset, length).await?;
        match bytes.len() < length {
            true => Err(with_context(io::ErrorKind::UnexpectedEof.into(), "reading", &self.path)),
            false => Ok(bytes),
        }
    }

    /// Reads `length` bytes from `offset`; fewer only at the end of the file.
    pub async fn read_up_to(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = Rc::clone(&self.inner);
        let read = to_the_end(async move { read_available(&file, offset, length).await });
        read.await.flatten().map_err(|error| with_context(error, "reading", &self.path))
    }

    /// Closes the file. A file that is only dropped is closed a little later; committed data is
    /// durable either way.
    pub async fn close(self) {
        // Operations in flight hold the file too; it then closes with the last of them.
        if let Ok(file) = Rc::try_unwrap(self.inner) {
            let _ = to_the_end(file.close()).await;
        }
    }
}

/// Writes all of `bytes`, piece by piece.
async fn write_whole(file: &BufferedFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut rest = bytes;
    let mut offset = offset;
    while !rest.is_empty() {
        let piece = rest.get(..PIECE).unwrap_or(rest).to_vec();
        match file.write_at(piece, offset).await.map_err(io::Error::from) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                rest = rest.get(written..).unwrap_or_default();
                offset = offset.saturating_add(written as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// See [`File::check_present`].
fn check_present(file: &BufferedFile, path: &Path, size: u64) -> io::Result<()> {
    #[cfg(test)]
    let BufferedFile::Real(file) = file else { return Ok(()) };
    disk::check_present(file.as_raw_fd(), path, size)
}

/// Reads up to `length` bytes, piece by piece: a wrong length must not allocate memory that the
/// file cannot fill.
async fn read_available(file: &BufferedFile, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length.min(PIECE));
    while bytes.len() < length {
        let at = offset.saturating_add(bytes.len() as u64);
        match file.read_at(at, (length - bytes.len()).min(PIECE)).await.map_err(io::Error::from) {
            Ok(piece) if piece.is_empty() => break,
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// Opens or creates, reserves, and makes size and name durable. Blocks.
fn create_reserved(path: &Path, size: u64) -> io::Result<disk::File> {
    let (mut file, new) = match disk::create_new(path) {
        Ok(file) => (file, true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            (disk::open_to_write(path)?, false)
        }
        Err(error) => return Err(error),
    };
    let made = reserve_disk(&mut file, size).and_then(|()| file.sync_all()).and_then(|()| {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        // A full fsync: an fdatasync of a folder need not write a new name.
        disk::File::open(folder)?.sync_all()
    });
    match made {
        Ok(()) => Ok(file),
        Err(error) => {
            if new {
                let _ = disk::remove_file(path);
            }
            Err(error)
        }
    }
}

/// Reserves `size` bytes of disk for the file.
fn reserve_disk(file: &mut disk::File, size: u64) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    let reserved = fallocate(file, size);
    match reserved.as_ref().err().and_then(io::Error::raw_os_error) {
        Some(libc::EOPNOTSUPP) => fill_with_zeros(file, size),
        // An exhausted quota is a full disk.
        Some(libc::EDQUOT) => reserved.map_err(|e| io::Error::new(io::ErrorKind::StorageFull, e)),
        _ => reserved,
    }
}

fn fallocate(file: &disk::File, size: u64) -> io::Result<()> {
    #[cfg(test)]
    if let Some(reserved) = file.simulated_reserve(size) {
        return reserved;
    }
    let length = libc::off_t::try_from(size)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "larger than a file can be"))?;
    loop {
        // SAFETY: the descriptor is open; no memory is passed.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Reserves disk by writing, on a file system without fallocate.
fn fill_with_zeros(file: &mut disk::File, size: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    let zeros = vec![0; PIECE];
    let mut at = file.seek(SeekFrom::End(0))?;
    while at < size {
        let count = usize::try_from(size - at).unwrap_or(PIECE).min(PIECE);
        file.write_all(zeros.get(..count).unwrap_or_default())?;
        at += count as u64;
    }
    Ok(())
}

/// Runs `work` on the shard's thread for blocking work.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    #[cfg(test)]
    if simulation::runs() {
        return to_the_end(async move {
            simulation::disk_works().await;
            work()
        })
        .await?;
    }
    // The result is not returned by the driver: it would leak it if the caller is gone, and wait
    // for ever if the thread panicked.
    let done = Arc::new(Mutex::new(None));
    let here = Arc::clone(&done);
    to_the_end(async move {
        let run = move || {
            let result = catch_unwind(AssertUnwindSafe(work))
                .unwrap_or_else(|payload| Err(io::Error::other(panic_message(payload.as_ref()))));
            if let Ok(mut place) = done.lock() {
                *place = Some(result);
            }
        };
        // The driver can go to sleep just when the work is done, and miss that: a timer makes it
        // check again. In a separate task, because each poll of the work keeps a waker.
        let working = Rc::new(Cell::new(true));
        let looking = Rc::clone(&working);
        spawn("look after blocking work", async move {
            while looking.get() {
                glommio::timer::sleep(BLOCKING_LOOK).await;
            }
        });
        glommio::executor().spawn_blocking(run).await;
        working.set(false);
    })
    .await?;
    let result = here.lock().ok().and_then(|mut place| place.take());
    result.unwrap_or_else(|| Err(io::Error::other("blocking work left no result")))
}

/// Adds the operation and the path to an error; its kind stays. `WouldBlock` for want of a
/// descriptor or of memory, which passes.
fn with_context(error: io::Error, doing: &str, path: &Path) -> io::Error {
    let kind = if is_shortage(&error) { io::ErrorKind::WouldBlock } else { error.kind() };
    io::Error::new(kind, format!("{doing} {}: {error}", path.display()))
}
