//! The spool's folder as the file system shows it, read with plain files: at start, for inspection,
//! and for adoption, when nothing else runs in it.

use super::SpoolError;
use super::manifest::{self, Manifest, Missing};
use super::recovery::{Findings, Refusal, Scan, SetAside};
use super::segment;
use crate::ring::disk::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// How the names of folders begin: of a shard that is, and of one that is no more.
const SHARD: &str = "shard-";
const ORPHAN: &str = "orphan-";
/// The folder below the spool's where bytes are kept that did not pass.
const QUARANTINE: &str = "quarantine";
/// Most bytes of one damage that are copied: more than a batch is long.
const QUARANTINE_BYTES_MAX: u64 = 64 << 20;

/// All that a folder's segments say.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) scan: Scan,
    pub(super) findings: Findings,
    /// Segment files, in order.
    pub(super) segments: Vec<u32>,
    /// What was there when the spool was closed, and is not.
    pub(super) missing: Vec<Missing>,
}

/// The folders below `root` that hold segments, by number: `shard-N`, and `orphan-N` of shards that
/// are no more. A root that is missing has none.
pub fn layout(root: &Path) -> Result<Vec<(u16, PathBuf)>, SpoolError> {
    let mut shards = Vec::new();
    for path in entries(root)? {
        if let Some((_, number)) = kind_and_number(&path)
            && disk::is_folder(&path)
        {
            shards.push((number, path));
        }
    }
    shards.sort_unstable();
    Ok(shards)
}

/// The folders below `root` whose shard is no more, for the first shard to adopt. Each gets a name
/// of its own before, durably: if the adoption is cut short and the shard is there again at the
/// next start, that begins anew, and what has moved already is not in two shards.
pub fn orphans(root: &Path, is_used: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, SpoolError> {
    let mut orphans = Vec::new();
    let mut renamed = false;
    for (number, folder) in layout(root)? {
        match kind_and_number(&folder) {
            _ if is_used(&folder) => {}
            Some((SHARD, _)) => {
                let name = |copy: u32| match copy {
                    0 => root.join(format!("{ORPHAN}{number}")),
                    copy => root.join(format!("{ORPHAN}{number}.{copy}")),
                };
                // One may be left with what was set aside in it.
                let free = (0..=u32::MAX).map(name).find(|name| !disk::exists(name));
                let Some(free) = free else { continue };
                disk::rename(&folder, &free).map_err(|error| failed(&folder, &error))?;
                orphans.push(free);
                renamed = true;
            }
            _ => orphans.push(folder),
        }
    }
    if renamed {
        sync(root)?;
    }
    Ok(orphans)
}

fn kind_and_number(folder: &Path) -> Option<(&'static str, u16)> {
    let name = folder.file_name()?.to_str()?;
    if let Some(number) = name.strip_prefix(SHARD) {
        return Some((SHARD, number.parse().ok()?));
    }
    let number = name.strip_prefix(ORPHAN)?.split('.').next()?;
    Some((ORPHAN, number.parse().ok()?))
}

/// Reads all segments of `folder`, as `scan` does it.
pub(super) fn read(folder: &Path, mut scan: Scan) -> Result<Contents, SpoolError> {
    let segments = segments(folder)?;
    for &number in &segments {
        let path = segment::path(folder, number);
        let mut file = File::open(&path).map_err(|error| failed(&path, &error))?;
        let size = file.metadata().map_err(|error| failed(&path, &error))?.len();
        self::scan(&mut scan, folder, number, &mut file, size)?;
    }
    let mut findings = scan.finish();
    findings.set_aside.append(&mut scan.cut_short);
    let missing = Manifest::read(folder).map_or_else(Vec::new, |closed| closed.missing(&scan));
    Ok(Contents { scan, findings, segments, missing })
}

/// The numbers of the segment files in `folder`, in order.
pub(super) fn segments(folder: &Path) -> Result<Vec<u32>, SpoolError> {
    let mut segments: Vec<u32> =
        entries(folder)?.iter().filter_map(|path| segment::number(path)).collect();
    segments.sort_unstable();
    Ok(segments)
}

/// Reads the next segment.
pub(super) fn scan<R: Read + Seek>(
    scan: &mut Scan,
    folder: &Path,
    number: u32,
    file: &mut R,
    size: u64,
) -> Result<(), SpoolError> {
    scan.segment(number, size, file).map_err(|refusal| match refusal {
        Refusal::Newer { segment, what } => SpoolError::Open {
            path: segment::path(folder, segment),
            cause: format!("written by a newer relay: {what}"),
        },
        Refusal::Io { segment, error } => failed(&segment::path(folder, segment), &error),
    })
}

/// The lines for the log about what was set aside. With `keep`, a copy of the bytes goes to the
/// quarantine first, and what is there already from an earlier start is not reported again.
pub(super) fn set_aside(folder: &Path, all: &[SetAside], keep: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for one in all {
        let path = segment::path(folder, one.segment);
        let copy = copy_of(folder, one.segment, one.offset);
        if keep && disk::exists(&copy) {
            continue;
        }
        let mut line = format!(
            "{} bytes {} to {}: {}",
            path.display(),
            one.offset,
            u64::from(one.offset) + u64::from(one.length),
            one.cause
        );
        // A disk too full for the copy must not keep the rest of the mail from being delivered.
        if keep && let Err(error) = copy_out(&path, one, &copy) {
            let _ = disk::remove_file(&copy);
            line.push_str(&format!(" (not copied to the quarantine: {error})"));
        }
        lines.push(line);
    }
    lines
}

/// The lines for the log about what is missing.
pub(super) fn told_missing(folder: &Path, all: &[Missing]) -> Vec<String> {
    let line = |one: &Missing| {
        format!("{} is missing: {}", segment::path(folder, one.segment).display(), one.cause)
    };
    all.iter().map(line).collect()
}

/// Where a copy is kept of what did not pass at `offset` of `segment`.
pub(super) fn copy_of(folder: &Path, segment: u32, offset: u32) -> PathBuf {
    folder.join(QUARANTINE).join(format!("{segment:08}-{offset}.bad"))
}

/// The copies that are kept in `folder`, each with the segment and offset that it is of.
pub(super) fn copies(folder: &Path) -> Vec<(PathBuf, u32, u32)> {
    let place = |copy: PathBuf| {
        let (segment, offset) =
            copy.file_name()?.to_str()?.strip_suffix(".bad")?.split_once('-')?;
        let (segment, offset) = (segment.parse().ok()?, offset.parse().ok()?);
        Some((copy, segment, offset))
    };
    let found = disk::entries(&folder.join(QUARANTINE)).unwrap_or_default();
    found.into_iter().filter_map(place).collect()
}

/// Makes durable what was read and perhaps is only in the page cache, before anything is built on
/// it. A sync is enough after a kill, but not after a commit that failed: the kernel then takes
/// pages for clean that never reached the disk. The last batch is therefore written once more, as
/// it is, with the header of its segment. (All that is before it was synced, or it would not be
/// there.)
pub(super) fn settle_down(folder: &Path, scan: &Scan) -> Result<(), SpoolError> {
    if let Some(&number) = scan.written.last() {
        let path = segment::path(folder, number);
        let batch = scan.last_batch.filter(|(of, ..)| *of == number);
        rewrite(&path, batch).map_err(|error| failed(&path, &error))?;
    }
    sync(folder)
}

fn rewrite(path: &Path, batch: Option<(u32, u32, u32)>) -> io::Result<()> {
    let mut file = disk::open_to_write(path)?;
    let batch = batch.map(|(_, begin, end)| (begin, end.saturating_sub(begin)));
    for (offset, length) in [Some((0, segment::BLOCK)), batch].into_iter().flatten() {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(u64::from(offset)))?;
        (&mut file).take(u64::from(length)).read_to_end(&mut bytes)?;
        file.seek(SeekFrom::Start(u64::from(offset)))?;
        file.write_all(&bytes)?;
    }
    file.sync_all()
}

/// Removes the segments of an adopted folder, and the folder when nothing else is in it. One after
/// the other, the oldest first, each durably: if a later one, which tells that mail in an earlier
/// one has ended, went before that, the mail would come back after a crash.
pub(super) fn remove(folder: &Path, segments: &[u32]) -> Result<(), SpoolError> {
    manifest::forget(folder).map_err(|error| failed(folder, &error))?;
    for &number in segments {
        let path = segment::path(folder, number);
        match disk::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&path, &error));
            }
            _ => sync(folder)?,
        }
    }
    // Fails while there is a quarantine in it, which is for the operator to judge.
    let _ = disk::remove_dir(folder);
    Ok(())
}

/// An error about `path`.
pub(super) fn failed(path: &Path, error: &io::Error) -> SpoolError {
    SpoolError::Open { path: path.to_owned(), cause: error.to_string() }
}

/// Makes `folder`, durable in the folder above: else a power failure could take it away with all
/// that was synced in it. What is missing above it is not made: the path may be a slip, or that of
/// a disk that is not mounted.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    let above = match folder.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    let synced = || File::open(above).and_then(|above| above.sync_all());
    match disk::create_dir(folder) {
        Ok(()) => synced(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(io::Error::new(error.kind(), missing_above(above)))
        }
        // An earlier start may have made it and been killed then. If it was not us who made it,
        // the folder above may be one that we cannot open.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let _ = synced();
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Why no folder is made in `above`.
pub fn missing_above(above: &Path) -> String {
    format!(
        "the folder above it, {}, does not exist; create it, or correct the path",
        above.display()
    )
}

fn sync(folder: &Path) -> Result<(), SpoolError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| failed(folder, &error))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, SpoolError> {
    match disk::entries(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.map_err(|error| failed(folder, &error)),
    }
}

fn copy_out(from: &Path, what: &SetAside, copy: &Path) -> io::Result<()> {
    if let Some(quarantine) = copy.parent() {
        make(quarantine)?;
    }
    let mut source = File::open(from)?;
    source.seek(SeekFrom::Start(u64::from(what.offset)))?;
    let mut bytes = Vec::new();
    source.take(u64::from(what.length).min(QUARANTINE_BYTES_MAX)).read_to_end(&mut bytes)?;
    let mut file = File::create(copy)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    // Its segment may be used again: then this is all that is left of the bytes.
    File::open(copy.parent().unwrap_or(Path::new(".")))?.sync_all()
}
