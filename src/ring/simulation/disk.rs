//! A simulated disk with faults. Each file has durable content and later writes; each name has a
//! durable state and later changes. When power fails, any part of what was not synced is kept, in
//! any order, torn at sectors or pages.
//!
//! It assumes little about the file system: a rename is atomic (a file has its old name or its new
//! one); a name is durable when its *folder* was synced, whatever else was synced; changes to the
//! names of different files reach the disk in any order.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The page of the page cache.
pub(crate) const PAGE: usize = 4096;
const SECTOR: usize = 512;

type Page = Rc<[u8; PAGE]>;
type Name = Option<(usize, OsString)>;
/// The folder `/`.
const ROOT: usize = 0;

/// How often operations of the disk fail, by kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Writes that fail with `EIO`, partly done.
    pub(crate) write: f64,
    /// Syncs that fail with `EIO`. Some pages are written, all count as clean from then on.
    pub(crate) sync: f64,
    /// Reads that fail with `EIO`.
    pub(crate) read: f64,
    /// Creations, reservations and writes that find no room.
    pub(crate) full: f64,
}

#[derive(Clone, Default)]
struct Node {
    is_folder: bool,
    /// Folder and name: the durable one, and later ones.
    name: Name,
    names: Vec<Name>,
    size: u64,
    pages: BTreeMap<usize, Page>,
    durable_size: u64,
    durable: BTreeMap<usize, Page>,
    /// Pages written since the last sync, each as it was after each write.
    dirty: Vec<(usize, Page)>,
    /// What each write covered.
    writes: Vec<(u64, u64)>,
}

impl Node {
    fn now(&self) -> &Name {
        self.names.last().unwrap_or(&self.name)
    }
}

/// The disk of one machine.
#[derive(Clone)]
pub(crate) struct Disk {
    random: fastrand::Rng,
    nodes: Vec<Node>,
    names: BTreeMap<PathBuf, usize>,
    /// Size of the disk, in bytes.
    pub(crate) capacity: u64,
    pub(crate) faults: Faults,
    /// Whether the file system can reserve space.
    pub(crate) reserves: bool,
    /// Syncs of files so far.
    pub(crate) syncs: u64,
    /// Files opened by name so far.
    pub(crate) opened: u64,
    /// Changes so far.
    pub(crate) changes: u64,
    /// The share of changes before which an image is taken, as if power failed there.
    pub(crate) image_odds: f64,
    images: Vec<Disk>,
    /// Power fails before this change.
    pub(crate) power_until: u64,
    at_failure: Option<Box<Disk>>,
    /// An operation failed by chance.
    pub(crate) has_failed: bool,
    /// An operation found the disk full.
    pub(crate) was_full: bool,
}

fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk {
    /// An empty one, with the folder `/`.
    pub(crate) fn new(seed: u64) -> Disk {
        let root = Node { is_folder: true, ..Node::default() };
        Disk {
            random: fastrand::Rng::with_seed(seed),
            nodes: vec![root],
            names: BTreeMap::from([("/".into(), ROOT)]),
            capacity: u64::MAX,
            faults: Faults::default(),
            reserves: true,
            syncs: 0,
            opened: 0,
            changes: 0,
            image_odds: 0.0,
            images: Vec::new(),
            power_until: u64::MAX,
            at_failure: None,
            has_failed: false,
            was_full: false,
        }
    }

    /// The images taken since the last call.
    pub(crate) fn take_images(&mut self) -> Vec<Disk> {
        std::mem::take(&mut self.images)
    }

    /// Whether power has failed.
    pub(crate) fn is_dead(&self) -> bool {
        self.at_failure.is_some()
    }

    /// The disk as it was when power failed, as a process on it saw it.
    pub(crate) fn take_failed(&mut self) -> Option<Disk> {
        self.at_failure.take().map(|disk| *disk)
    }

    /// Power fails now, if it has not yet.
    pub(crate) fn cut_power(&mut self) {
        if self.at_failure.is_none() {
            self.at_failure = Some(Box::new(self.image()));
        }
    }

    fn image(&self) -> Disk {
        Disk {
            random: self.random.clone(),
            nodes: self.nodes.clone(),
            names: self.names.clone(),
            images: Vec::new(),
            at_failure: None,
            image_odds: 0.0,
            power_until: u64::MAX,
            ..*self
        }
    }

    /// A change is about to be made.
    fn change(&mut self) -> io::Result<()> {
        if self.is_dead() {
            return Err(error(libc::EIO));
        }
        if self.changes >= self.power_until {
            self.cut_power();
            return Err(error(libc::EIO));
        }
        self.changes += 1;
        if self.image_odds > 0.0 && self.random.f64() < self.image_odds {
            let image = self.image();
            self.images.push(image);
        }
        Ok(())
    }

    fn fails(&mut self, odds: f64) -> bool {
        let fails = odds > 0.0 && self.random.f64() < odds;
        self.has_failed |= fails;
        fails
    }

    fn finds_no_room(&mut self) -> bool {
        let full = self.faults.full > 0.0 && self.random.f64() < self.faults.full;
        self.was_full |= full;
        full
    }

    /// The disk after a power failure, where a random part of what was not synced is kept.
    pub(crate) fn after_power_failure(mut self, seed: u64) -> Disk {
        let mut random = fastrand::Rng::with_seed(seed);
        let grain = if random.u32(..4) == 0 { PAGE } else { SECTOR };
        // Nothing, everything, or any part.
        let odds = match random.u32(..6) {
            0 | 1 => 0.0,
            2 => 1.0,
            _ => random.f64(),
        };
        for node in &mut self.nodes {
            let changed = node.names.len();
            let kept = if random.f64() < 0.3 { 0 } else { random.usize(..=changed) };
            let name = if kept == 0 { node.name.take() } else { node.names.swap_remove(kept - 1) };
            node.name = name;
            node.names.clear();
            for (index, page) in node.dirty.drain(..) {
                let mut torn = node.durable.get(&index).map_or([0; PAGE], |page| **page);
                for at in (0..PAGE).step_by(grain) {
                    if random.f64() < odds {
                        torn[at..at + grain].copy_from_slice(&page[at..at + grain]);
                    }
                }
                node.durable.insert(index, Rc::new(torn));
            }
            if node.size != node.durable_size && random.f64() < odds {
                node.durable_size = node.size;
            }
            let pages = node.durable_size.div_ceil(PAGE as u64) as usize;
            drop(node.durable.split_off(&pages));
            node.size = node.durable_size;
            node.pages = node.durable.clone();
        }
        self.resolve();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if !self.names.values().any(|&named| named == index) {
                *node = Node::default();
            }
        }
        self.random = random;
        self.restart();
        self
    }

    /// The disk after the process was killed: everything is there, durable or not.
    pub(crate) fn after_kill(mut self) -> Disk {
        self.restart();
        self
    }

    fn restart(&mut self) {
        (self.has_failed, self.was_full) = (false, false);
        self.changes = 0;
    }

    /// Computes all paths again, from `/` down.
    fn resolve(&mut self) {
        self.names = BTreeMap::from([("/".into(), ROOT)]);
        let mut folders = vec![(ROOT, PathBuf::from("/"))];
        while let Some((folder, path)) = folders.pop() {
            for (index, node) in self.nodes.iter().enumerate() {
                let Some((_, name)) = node.now().as_ref().filter(|(at, _)| *at == folder) else {
                    continue;
                };
                let path = path.join(name);
                if node.is_folder {
                    folders.push((index, path.clone()));
                }
                self.names.insert(path, index);
            }
        }
    }

    fn name_of(&self, path: &Path) -> io::Result<Name> {
        let folder = path.parent().and_then(|parent| self.names.get(parent));
        let name = path.file_name().map(OsString::from);
        folder.copied().zip(name).map(Some).ok_or_else(not_found)
    }

    /// The files below `/`, in order.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let all = self.names.iter().filter(|(_, node)| !self.nodes[**node].is_folder);
        all.map(|(path, _)| path.clone()).collect()
    }

    /// Corrupts a few durable bytes of `path` from `at` on; whether there were any.
    pub(crate) fn rot(&mut self, path: &Path, at: u64) -> bool {
        let Some(&node) = self.names.get(path) else { return false };
        let node = &mut self.nodes[node];
        let (index, within) = ((at / PAGE as u64) as usize, (at % PAGE as u64) as usize);
        let Some(page) = node.durable.get_mut(&index) else { return false };
        let bytes = self.random.usize(1..100);
        for byte in Rc::make_mut(page).iter_mut().skip(within).take(bytes) {
            *byte ^= self.random.u8(1..);
        }
        let rotten = Rc::clone(page);
        node.pages.insert(index, rotten);
        true
    }

    /// A random offset in `path` that was written.
    pub(crate) fn any_written(&mut self, path: &Path) -> Option<u64> {
        let node = &self.nodes[*self.names.get(path)?];
        let (from, to) = self.random.choice(node.writes.iter().copied())?;
        Some(self.random.u64(from..to))
    }
}

/// The operations behind the calls of `plain` and the file of the ring.
impl Disk {
    pub(super) fn open(&mut self, path: &Path) -> io::Result<usize> {
        if self.is_dead() || self.fails(self.faults.read) {
            return Err(error(libc::EIO));
        }
        self.opened += 1;
        self.names.get(path).copied().ok_or_else(not_found)
    }

    pub(super) fn create(&mut self, path: &Path, is_folder: bool) -> io::Result<usize> {
        self.change()?;
        if self.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let name = self.name_of(path)?;
        if self.finds_no_room() {
            return Err(error(libc::ENOSPC));
        }
        self.nodes.push(Node { is_folder, names: vec![name], ..Node::default() });
        self.names.insert(path.to_owned(), self.nodes.len() - 1);
        Ok(self.nodes.len() - 1)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?;
        let node = *self.names.get(from).ok_or_else(not_found)?;
        let name = self.name_of(to)?;
        if let Some(&replaced) = self.names.get(to) {
            self.nodes[replaced].names.push(None);
        }
        self.nodes[node].names.push(name);
        self.nodes[node].writes.clear();
        self.resolve();
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path, folder: bool) -> io::Result<()> {
        self.change()?;
        let &node = self.names.get(path).ok_or_else(not_found)?;
        let occupied = self.names.keys().any(|name| name.parent() == Some(path));
        if self.nodes[node].is_folder != folder || occupied {
            return Err(error(libc::ENOTEMPTY));
        }
        self.names.remove(path);
        self.nodes[node].names.push(None);
        Ok(())
    }

    pub(super) fn entries(&mut self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        self.open(folder)?;
        let inside = self.names.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.cloned().collect())
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.names.contains_key(path)
    }

    pub(super) fn is_folder(&self, path: &Path) -> bool {
        self.names.get(path).is_some_and(|&node| self.nodes[node].is_folder)
    }

    pub(super) fn size(&self, node: usize) -> u64 {
        self.nodes[node].size
    }

    pub(super) fn reserve(&mut self, node: usize, size: u64) -> io::Result<()> {
        self.change()?;
        if !self.reserves {
            return Err(error(libc::EOPNOTSUPP));
        }
        self.grow(node, size)
    }

    fn grow(&mut self, node: usize, size: u64) -> io::Result<()> {
        let more = size.saturating_sub(self.nodes[node].size);
        let used: u64 = self.names.values().map(|&named| self.nodes[named].size).sum();
        if more > 0 && (used + more > self.capacity || self.finds_no_room()) {
            self.was_full = true;
            return Err(error(libc::ENOSPC));
        }
        self.nodes[node].size += more;
        Ok(())
    }

    /// Bytes written, perhaps fewer than given.
    pub(super) fn write(&mut self, node: usize, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.change()?;
        let fails = self.fails(self.faults.write);
        let short = fails || self.random.u32(..50) == 0;
        // The kernel copies page by page: a short write ends between two of them.
        let pages = bytes.len() / PAGE;
        let end = match short && pages > 1 {
            true => self.random.usize(1..pages) * PAGE,
            false => bytes.len(),
        };
        let bytes = bytes.get(..end).unwrap_or_default();
        self.grow(node, offset + bytes.len() as u64)?;
        let node = &mut self.nodes[node];
        let mut at = offset as usize;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (index, within) = (at / PAGE, at % PAGE);
            let (now, later) = rest.split_at(rest.len().min(PAGE - within));
            let mut page = node.pages.get(&index).map_or([0; PAGE], |page| **page);
            page[within..within + now.len()].copy_from_slice(now);
            let page = Rc::new(page);
            node.dirty.push((index, Rc::clone(&page)));
            node.pages.insert(index, page);
            at += now.len();
            rest = later;
        }
        node.writes.push((offset, offset + bytes.len() as u64));
        if fails { Err(error(libc::EIO)) } else { Ok(bytes.len()) }
    }

    /// Writes zeros to the next pages that were never written, and syncs.
    pub(super) fn fill_hole(
        &mut self,
        path: &Path,
        offset: u64,
        length: u64,
    ) -> io::Result<Option<u64>> {
        let node = self.open(path)?;
        let Node { pages, size, .. } = &self.nodes[node];
        let is_hole = |index: &usize| !pages.contains_key(index);
        let (first, end) = (offset as usize / PAGE, size.div_ceil(PAGE as u64) as usize);
        let Some(start) = (first..end).find(is_hole) else { return Ok(None) };
        let count = (start..end).take_while(is_hole).count().min(length as usize / PAGE);
        for index in start..start + count {
            let mut at = index * PAGE;
            let end = (at + PAGE).min(self.nodes[node].size as usize);
            while at < end {
                at += self.write(node, at as u64, &[0; PAGE][..end - at])?;
            }
        }
        self.sync(node)?;
        Ok(Some(((start + count) * PAGE) as u64))
    }

    pub(super) fn read(&mut self, node: usize, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        if self.is_dead() || self.fails(self.faults.read) {
            return Err(error(libc::EIO));
        }
        let node = &self.nodes[node];
        let end = node.size.min(offset.saturating_add(length as u64));
        let mut bytes = Vec::with_capacity(end.saturating_sub(offset) as usize);
        let mut at = offset;
        while at < end {
            let (index, within) = ((at / PAGE as u64) as usize, (at % PAGE as u64) as usize);
            let count = (PAGE - within).min((end - at) as usize);
            match node.pages.get(&index) {
                Some(page) => bytes.extend_from_slice(&page[within..within + count]),
                None => bytes.resize(bytes.len() + count, 0),
            }
            at += count as u64;
        }
        Ok(bytes)
    }

    /// Makes a file's bytes durable, or a folder's names.
    pub(super) fn sync(&mut self, node: usize) -> io::Result<()> {
        self.change()?;
        let fails = self.fails(self.faults.sync);
        if self.nodes[node].is_folder {
            return if fails { Err(error(libc::EIO)) } else { self.sync_names(node) };
        }
        self.syncs += 1;
        let Disk { nodes, random, .. } = self;
        let node = &mut nodes[node];
        if fails {
            for (index, page) in node.dirty.drain(..) {
                if random.bool() {
                    node.durable.insert(index, page);
                }
            }
            return Err(error(libc::EIO));
        }
        for (index, page) in node.dirty.drain(..) {
            node.durable.insert(index, page);
        }
        node.durable_size = node.size;
        Ok(())
    }

    fn sync_names(&mut self, folder: usize) -> io::Result<()> {
        let inside = |name: &Name| name.as_ref().is_some_and(|(at, _)| *at == folder);
        for node in &mut self.nodes {
            if !node.names.is_empty() && (inside(&node.name) || node.names.iter().any(inside)) {
                node.name = node.names.pop().flatten();
                node.names.clear();
            }
        }
        Ok(())
    }
}
