//! The spool's folder as the file system shows it, read with plain files: at start, for inspection,
//! and for adoption, when nothing else runs in it.

use super::SpoolError;
use super::recovery::{Findings, Refusal, Scan, SetAside};
use super::segment;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

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
}

/// The shard folders `shard-N` below `root`, by number. A root that is missing has none.
pub fn layout(root: &Path) -> Result<Vec<(u16, PathBuf)>, SpoolError> {
    let mut shards = Vec::new();
    for path in entries(root)? {
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix("shard-"))
            .and_then(|number| number.parse().ok());
        if let Some(number) = number
            && path.is_dir()
        {
            shards.push((number, path));
        }
    }
    shards.sort_unstable();
    Ok(shards)
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
    let findings = scan.finish();
    Ok(Contents { scan, findings, segments })
}

/// The numbers of the segment files in `folder`, in order.
pub(super) fn segments(folder: &Path) -> Result<Vec<u32>, SpoolError> {
    let mut segments: Vec<u32> =
        entries(folder)?.iter().filter_map(|path| segment::number(path)).collect();
    segments.sort_unstable();
    Ok(segments)
}

/// Reads the next segment.
pub(super) fn scan(
    scan: &mut Scan,
    folder: &Path,
    number: u32,
    file: &mut File,
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
        if keep && copy.exists() {
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
            let _ = fs::remove_file(&copy);
            line.push_str(&format!(" (not copied to the quarantine: {error})"));
        }
        lines.push(line);
    }
    lines
}

/// Where a copy is kept of what did not pass at `offset` of `segment`.
pub(super) fn copy_of(folder: &Path, segment: u32, offset: u32) -> PathBuf {
    folder.join(QUARANTINE).join(format!("{segment:08}-{offset}.bad"))
}

/// Syncs the newest segment and the folder: what a crash of the relay alone left in the page cache
/// was read as if it were on the disk, and must be before anything is built on it.
pub(super) fn settle_down(folder: &Path, newest: Option<u32>) -> Result<(), SpoolError> {
    if let Some(number) = newest {
        let path = segment::path(folder, number);
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(|error| failed(&path, &error))?;
    }
    sync(folder)
}

/// Removes the segments of an adopted folder, and the folder when nothing else is in it.
pub(super) fn remove(folder: &Path, segments: &[u32]) -> Result<(), SpoolError> {
    for &number in segments {
        let path = segment::path(folder, number);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&path, &error));
            }
            _ => {}
        }
    }
    sync(folder)?;
    // Fails while there is a quarantine in it, which is for the operator to judge.
    let _ = fs::remove_dir(folder);
    Ok(())
}

/// An error about `path`.
pub(super) fn failed(path: &Path, error: &io::Error) -> SpoolError {
    SpoolError::Open { path: path.to_owned(), cause: error.to_string() }
}

fn sync(folder: &Path) -> Result<(), SpoolError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| failed(folder, &error))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, SpoolError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(folder, &error)),
    };
    entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<PathBuf>>>()
        .map_err(|error| failed(folder, &error))
}

fn copy_out(from: &Path, what: &SetAside, copy: &Path) -> io::Result<()> {
    if let Some(quarantine) = copy.parent() {
        fs::create_dir_all(quarantine)?;
    }
    let mut source = File::open(from)?;
    source.seek(SeekFrom::Start(u64::from(what.offset)))?;
    let mut bytes = Vec::new();
    source.take(u64::from(what.length).min(QUARANTINE_BYTES_MAX)).read_to_end(&mut bytes)?;
    let mut file = File::create(copy)?;
    file.write_all(&bytes)?;
    file.sync_all()
}
