//! Plain, blocking file calls, for what is done while nothing else runs, or on a thread for
//! blocking work. In unit tests the same calls reach the simulated disk while a simulation runs on
//! the thread.

#[cfg(not(test))]
pub use std::fs::{File, create_dir, remove_dir, remove_file, rename};

#[cfg(test)]
pub use super::simulation::plain::{File, create_dir, remove_dir, remove_file, rename};
#[cfg(test)]
pub(super) use super::simulation::plain::{create_new, open_to_write};
#[cfg(test)]
pub use super::simulation::plain::{entries, exists, is_folder};

#[cfg(not(test))]
use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Creates `path` for reading and writing; an error when it is there.
#[cfg(not(test))]
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    options().create_new(true).open(path)
}

/// Opens `path` for reading and writing.
#[cfg(not(test))]
pub(super) fn open_to_write(path: &Path) -> io::Result<File> {
    options().open(path)
}

/// Mail is nobody's business but the relay's.
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
