//! The plain calls of `disk`, and the driver's file: they go to the simulation when this thread is
//! in one, else to the system.

#![allow(missing_docs)]

use super::disk::Disk;
use super::{current, disk_works, runs};
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

fn simulated<T>(act: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
    match current() {
        Some(simulation) => act(&mut simulation.disk.borrow_mut()),
        None => Err(io::Error::other("a simulated file outside its simulation")),
    }
}

/// A real or simulated file.
pub enum File {
    Real(fs::File),
    Simulated { node: usize, at: u64 },
}

impl File {
    fn node(node: usize) -> File {
        File::Simulated { node, at: 0 }
    }
    pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
        if runs() {
            return simulated(|disk| disk.open(path.as_ref())).map(File::node);
        }
        fs::File::open(path).map(File::Real)
    }
    pub fn create(path: impl AsRef<Path>) -> io::Result<File> {
        if runs() {
            let path = path.as_ref();
            let node = simulated(|disk| disk.create(path, false).or_else(|_| disk.open(path)));
            return node.map(File::node);
        }
        fs::File::create(path).map(File::Real)
    }
    pub fn sync_all(&self) -> io::Result<()> {
        match self {
            File::Real(file) => file.sync_all(),
            File::Simulated { node, .. } => simulated(|disk| disk.sync(*node)),
        }
    }
    pub fn metadata(&self) -> io::Result<Metadata> {
        match self {
            File::Real(file) => file.metadata().map(|metadata| Metadata(metadata.len())),
            File::Simulated { node, .. } => simulated(|disk| Ok(Metadata(disk.size(*node)))),
        }
    }
    /// The result of reserving `size` bytes, when this is a simulated file.
    pub fn simulated_reserve(&self, size: u64) -> Option<io::Result<()>> {
        match self {
            File::Real(_) => None,
            File::Simulated { node, .. } => Some(simulated(|disk| disk.reserve(*node, size))),
        }
    }
}

impl AsRawFd for File {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            File::Real(file) => file.as_raw_fd(),
            File::Simulated { .. } => -1,
        }
    }
}

pub struct Metadata(u64);

impl Metadata {
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.0
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            File::Real(file) => file.read(buffer),
            File::Simulated { node, at } => {
                let bytes = simulated(|disk| disk.read(*node, *at, buffer.len()))?;
                buffer[..bytes.len()].copy_from_slice(&bytes);
                *at += bytes.len() as u64;
                Ok(bytes.len())
            }
        }
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            File::Real(file) => file.write(bytes),
            File::Simulated { node, at } => {
                let written = simulated(|disk| disk.write(*node, *at, bytes))?;
                *at += written as u64;
                Ok(written)
            }
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            File::Real(file) => file.seek(to),
            File::Simulated { node, at } => {
                let size = simulated(|disk| Ok(disk.size(*node)))?;
                let from = |start: u64, by: i64| {
                    start.checked_add_signed(by).ok_or_else(|| io::ErrorKind::InvalidInput.into())
                };
                *at = match to {
                    SeekFrom::Start(start) => Ok(start),
                    SeekFrom::End(by) => from(size, by),
                    SeekFrom::Current(by) => from(*at, by),
                }
                .map_err(|error: io::Error| error)?;
                Ok(*at)
            }
        }
    }
}

pub(in super::super) fn create_new(path: &Path) -> io::Result<File> {
    if runs() {
        return simulated(|disk| disk.create(path, false)).map(File::node);
    }
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).mode(0o600).create_new(true).open(path).map(File::Real)
}

pub fn open_to_write(path: &Path) -> io::Result<File> {
    if runs() {
        return File::open(path);
    }
    fs::OpenOptions::new().read(true).write(true).open(path).map(File::Real)
}

/// `None` outside a simulation.
pub(in super::super) fn fill_hole(
    path: &Path,
    offset: u64,
    length: u64,
) -> Option<io::Result<Option<u64>>> {
    runs().then(|| simulated(|disk| disk.fill_hole(path, offset, length)))
}

pub fn create_dir(path: impl AsRef<Path>) -> io::Result<()> {
    if runs() {
        return simulated(|disk| disk.create(path.as_ref(), true).map(drop));
    }
    fs::create_dir(path)
}

pub fn remove_dir(path: impl AsRef<Path>) -> io::Result<()> {
    if runs() {
        return simulated(|disk| disk.remove(path.as_ref(), true));
    }
    fs::remove_dir(path)
}

pub fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    if runs() {
        return simulated(|disk| disk.remove(path.as_ref(), false));
    }
    fs::remove_file(path)
}

pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    if runs() {
        return simulated(|disk| disk.rename(from.as_ref(), to.as_ref()));
    }
    fs::rename(from, to)
}

pub fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if runs() {
        return simulated(|disk| disk.entries(folder));
    }
    fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

pub fn size(path: &Path) -> io::Result<u64> {
    if runs() {
        return simulated(|disk| disk.open(path).map(|node| disk.size(node)));
    }
    fs::metadata(path).map(|metadata| metadata.len())
}

pub fn is_folder(path: &Path) -> bool {
    if runs() {
        return simulated(|disk| Ok(disk.is_folder(path))).unwrap_or(false);
    }
    path.is_dir()
}

pub fn exists(path: &Path) -> bool {
    if runs() {
        return simulated(|disk| Ok(disk.exists(path))).unwrap_or(false);
    }
    path.exists()
}

/// The driver's file, real or simulated.
pub(in super::super) enum BufferedFile {
    Real(glommio::io::BufferedFile),
    Simulated(usize),
}

impl From<File> for BufferedFile {
    fn from(file: File) -> BufferedFile {
        match file {
            // SAFETY: the descriptor is open, and `into_raw_fd` gives up its ownership.
            File::Real(file) => BufferedFile::Real(unsafe {
                glommio::io::BufferedFile::from_raw_fd(file.into_raw_fd())
            }),
            File::Simulated { node, .. } => BufferedFile::Simulated(node),
        }
    }
}

type Driven<T> = Result<T, glommio::GlommioError<()>>;

impl BufferedFile {
    pub(in super::super) async fn write_at(&self, bytes: Vec<u8>, at: u64) -> Driven<usize> {
        match self {
            BufferedFile::Real(file) => file.write_at(bytes, at).await,
            BufferedFile::Simulated(node) => {
                disk_works().await;
                Ok(simulated(|disk| disk.write(*node, at, &bytes))?)
            }
        }
    }

    pub(in super::super) async fn read_at(&self, at: u64, length: usize) -> Driven<Vec<u8>> {
        match self {
            BufferedFile::Real(file) => file.read_at(at, length).await.map(|read| read.to_vec()),
            BufferedFile::Simulated(node) => {
                disk_works().await;
                Ok(simulated(|disk| disk.read(*node, at, length))?)
            }
        }
    }

    pub(in super::super) async fn fdatasync(&self) -> Driven<()> {
        match self {
            BufferedFile::Real(file) => file.fdatasync().await,
            BufferedFile::Simulated(node) => {
                disk_works().await;
                Ok(simulated(|disk| disk.sync(*node))?)
            }
        }
    }

    pub(in super::super) async fn close(self) -> Driven<()> {
        match self {
            BufferedFile::Real(file) => file.close().await,
            BufferedFile::Simulated(_) => Ok(()),
        }
    }
}
