//! Writes the shards' buffers to the file or standard output.
//!
//! Bounds, per shard: a buffer is passed on at [`BUFFER_BYTES`]; while the thread does not keep up,
//! it grows to at most [`BACKLOG_BYTES_MAX`]. With the buffers in flight, the whole log holds at
//! most 5 MiB a shard.

use super::line::{Event, Kind};
use crate::config;
use crate::message::Timestamp;
use crate::ring;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, select_biased};
use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A buffer of this many bytes is passed on without waiting for the next flush.
pub const BUFFER_BYTES: usize = 64 * 1024;
/// Largest number of bytes that a shard holds while the thread is busy; further lines are dropped.
pub const BACKLOG_BYTES_MAX: usize = 1024 * 1024;
/// From this many bytes on, a shard should accept no more mail. The rest of the backlog is for the
/// events of deliveries and open sessions.
pub const BACKLOGGED_AT: usize = BACKLOG_BYTES_MAX / 2;

const _: () = assert!(BUFFER_BYTES < BACKLOGGED_AT && BACKLOGGED_AT < BACKLOG_BYTES_MAX);

/// Buffers in flight from each shard.
const BUFFERS_PER_SHARD: usize = 4;
/// A buffer that grew beyond this is not used again.
const SPARE_BYTES_MAX: usize = 2 * BUFFER_BYTES;
/// How long a shard that ends waits until its last lines can be passed on.
const END_WAIT: Duration = Duration::from_secs(1);
/// Pause after a failed write.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// One shard's side of the log. It belongs to its shard; nothing in it blocks, except that dropping
/// it may wait a second to pass on its last lines.
#[derive(Debug)]
pub struct EventLog {
    shard: usize,
    /// `None` when events are off.
    output: Option<Output>,
    held: RefCell<Held>,
}

#[derive(Clone, Debug)]
struct Output {
    full: Sender<Vec<u8>>,
    spare: Receiver<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Held {
    lines: Vec<u8>,
    lost: u64,
    /// The time of the last event, for the count of the lost ones.
    time: Timestamp,
}

impl EventLog {
    /// A log that discards everything.
    pub fn off() -> EventLog {
        EventLog { shard: 0, output: None, held: RefCell::default() }
    }

    /// Writes one line. Dropped and counted when the backlog is full.
    pub fn emit(&self, event: &Event<'_>) {
        let Some(output) = &self.output else { return };
        let mut held = self.held.borrow_mut();
        held.time = event.time;
        held.report_lost(self.shard);
        if !held.write(&Event { shard: self.shard, ..*event }) {
            held.lost = held.lost.saturating_add(1);
        }
        if held.lines.len() >= BUFFER_BYTES {
            held.pass_on(output);
        }
    }

    /// Passes on all lines. Call it every few milliseconds, or lines stay here while the shard is
    /// idle.
    pub fn flush(&self) {
        let Some(output) = &self.output else { return };
        let mut held = self.held.borrow_mut();
        if !held.lines.is_empty() {
            held.pass_on(output);
        }
        held.report_lost(self.shard);
    }

    /// Whether the thread does not keep up: what can wait should write no events now.
    pub fn is_behind(&self) -> bool {
        self.held.borrow().lines.len() >= BUFFER_BYTES
    }

    /// Whether the output is so far behind that no more mail should be accepted.
    pub fn backlogged(&self) -> bool {
        let held = self.held.borrow();
        held.lines.len() >= BACKLOGGED_AT || held.lost > 0
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        let Some(output) = &self.output else { return };
        let held = self.held.get_mut();
        held.report_lost(self.shard);
        let (bytes, lost) = (held.lines.len(), held.lost);
        let lines = std::mem::take(&mut held.lines);
        let sent = bytes == 0 || output.full.send_timeout(lines, END_WAIT).is_ok();
        if !sent || lost > 0 {
            let bytes = if sent { 0 } else { bytes };
            tracing::error!(
                shard = self.shard,
                bytes,
                lines = lost,
                "events were lost at the stop"
            );
        }
    }
}

impl Held {
    /// Appends a line; false when there is no room.
    fn write(&mut self, event: &Event<'_>) -> bool {
        let before = self.lines.len();
        if before >= BACKLOG_BYTES_MAX {
            return false;
        }
        let written = serde_json::to_writer(&mut self.lines, event).is_ok();
        self.lines.push(b'\n');
        let fits = written && self.lines.len() <= BACKLOG_BYTES_MAX;
        if !fits {
            self.lines.truncate(before);
        }
        fits
    }

    /// Writes how many lines were lost, once the backlog is gone.
    fn report_lost(&mut self, shard: usize) {
        if self.lost == 0 || self.lines.len() >= BUFFER_BYTES {
            return;
        }
        let lost = Some(self.lost);
        let event = Event { shard, lost, ..Event::new(Kind::LostEvents, self.time) };
        if self.write(&event) {
            self.lost = 0;
        }
    }

    fn pass_on(&mut self, output: &Output) {
        match output.full.try_send(std::mem::take(&mut self.lines)) {
            Ok(()) => {
                let spare = output.spare.try_recv();
                self.lines = spare.unwrap_or_else(|_| Vec::with_capacity(BUFFER_BYTES + 4096));
            }
            // Full: the lines are kept, and passed on with the next line or flush.
            Err(TrySendError::Full(lines) | TrySendError::Disconnected(lines)) => {
                self.lines = lines;
            }
        }
    }
}

/// The thread that writes; it also gives out the shards' [`EventLog`]s.
#[derive(Debug)]
pub struct EventWriter {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    output: Output,
    orders: Sender<Order>,
    ended: Receiver<()>,
    thread: JoinHandle<()>,
}

impl EventWriter {
    /// Opens the output and starts the thread. `Err`: the file cannot be opened, or no thread can
    /// be started.
    pub fn start(config: &config::Event, shards: usize) -> io::Result<EventWriter> {
        let sink = match &config.output {
            config::EventOutput::Off => return Ok(EventWriter { running: None }),
            config::EventOutput::Stdout => Sink::Stream(Box::new(io::stdout())),
            config::EventOutput::File(path) => {
                Sink::File(RotatedFile::open(path, config.rotate_bytes, config.keep)?)
            }
        };
        EventWriter::start_with(sink, shards)
    }

    /// The log for one shard.
    pub fn log(&self, shard: usize) -> EventLog {
        let output = self.running.as_ref().map(|running| running.output.clone());
        EventLog { shard, output, held: RefCell::default() }
    }

    /// For `logrotate` and the like: continues in the file that the path names now. That also
    /// happens with the next lines; this creates the file even if there are none.
    pub fn reopen(&self) {
        if let Some(running) = &self.running
            && running.orders.is_empty()
        {
            let _ = running.orders.try_send(Order::Reopen);
        }
    }

    /// Writes all buffers that were passed on and ends the thread. Drop the shards' logs before, so
    /// that they pass on their last lines. Takes at most `within` and 100 ms more. False when
    /// some lines could not be written.
    pub fn shutdown(self, within: Duration) -> bool {
        let Some(running) = self.running else { return true };
        let _ = running.orders.try_send(Order::Stop(ring::now() + within));
        match running.ended.recv_timeout(within + Duration::from_millis(100)) {
            Ok(()) => running.thread.join().is_ok(),
            // The thread ended without reporting that all was written.
            Err(RecvTimeoutError::Disconnected) => false,
            Err(RecvTimeoutError::Timeout) => {
                tracing::error!("the event output hangs; events were lost at the stop");
                false
            }
        }
    }

    fn start_with(sink: Sink, shards: usize) -> io::Result<EventWriter> {
        let buffers = BUFFERS_PER_SHARD * shards.max(1);
        let (full, full_to) = bounded(buffers);
        let (spare_from, spare) = bounded(buffers);
        // Room for one order of each kind.
        let (orders, orders_to) = bounded(2);
        let (ended_from, ended) = bounded(1);
        let writer = Writer { sink, orders: orders_to, stop_by: None, is_failing: false };
        let thread = std::thread::Builder::new().name("event".into()).spawn(move || {
            if writer.run(&full_to, &spare_from) {
                let _ = ended_from.send(());
            }
        })?;
        let output = Output { full, spare };
        Ok(EventWriter { running: Some(Running { output, orders, ended, thread }) })
    }
}

/// What the thread is asked to do besides writing.
enum Order {
    /// Write what was passed on, and end by then.
    Stop(Instant),
    /// Continue in the file that the path names now.
    Reopen,
}

struct Writer {
    sink: Sink,
    orders: Receiver<Order>,
    /// Set by the stop: after it, no write is tried.
    stop_by: Option<Instant>,
    /// Whether the failure was reported.
    is_failing: bool,
}

impl Writer {
    /// Runs until the stop, or until no shard is left. False when lines were lost.
    fn run(mut self, full: &Receiver<Vec<u8>>, spare: &Sender<Vec<u8>>) -> bool {
        let mut all_written = true;
        loop {
            let lines = if self.stop_by.is_some() {
                // Buffers that were passed on before the stop are still written.
                full.try_recv().ok()
            } else {
                select_biased! {
                    recv(self.orders) -> order => {
                        self.obey(order.ok());
                        continue;
                    }
                    recv(full) -> lines => lines.ok(),
                }
            };
            let Some(mut lines) = lines else { return all_written };
            let is_too_late = self.stop_by.is_some_and(|stop_by| stop_by < ring::now());
            if is_too_late || !self.write_all(&lines) {
                all_written = false;
                tracing::error!(bytes = lines.len(), "events were lost at the stop");
            }
            if lines.capacity() <= SPARE_BYTES_MAX {
                lines.clear();
                let _ = spare.try_send(lines);
            }
        }
    }

    /// `None`: the sender of orders is gone, and the relay with it.
    fn obey(&mut self, order: Option<Order>) {
        match order {
            Some(Order::Reopen) => self.sink.reopen(),
            Some(Order::Stop(stop_by)) => self.stop_by = Some(stop_by),
            None => self.stop_by = Some(ring::now() + RETRY_WAIT),
        }
    }

    /// Writes a buffer of whole lines, with retries until it is written or the stop's time is over.
    fn write_all(&mut self, lines: &[u8]) -> bool {
        let mut rest = lines;
        self.sink.begin(lines.len());
        while !rest.is_empty() {
            match self.sink.write(rest) {
                Ok(count) if count > 0 => {
                    rest = rest.get(count..).unwrap_or_default();
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!("the event output works again");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    let error = result.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into());
                    if !std::mem::replace(&mut self.is_failing, true) {
                        tracing::error!(%error, "the event output fails; events are kept");
                    }
                    if !self.wait_to_retry() {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Waits before a retry. False when the stop leaves no time for it.
    fn wait_to_retry(&mut self) -> bool {
        if let Some(stop_by) = self.stop_by {
            let left = stop_by.saturating_duration_since(ring::now());
            std::thread::sleep(left.min(RETRY_WAIT / 10));
            return !left.is_zero();
        }
        match self.orders.recv_timeout(RETRY_WAIT) {
            // This file may end with half a line: the next buffer goes to the other one.
            Ok(Order::Reopen) | Err(RecvTimeoutError::Timeout) => {}
            Ok(order) => self.obey(Some(order)),
            Err(RecvTimeoutError::Disconnected) => self.obey(None),
        }
        true
    }
}

enum Sink {
    File(RotatedFile),
    Stream(Box<dyn Write + Send>),
}

impl Sink {
    /// Called before a buffer of `length` bytes. Only here may the file be changed for another one,
    /// since buffers end with a whole line.
    fn begin(&mut self, length: usize) {
        if let Sink::File(file) = self {
            file.follow_path();
            file.rotate_for(length as u64);
        }
    }

    /// Opens the file that the path names now.
    fn reopen(&mut self) {
        if let Sink::File(file) = self {
            file.follow_path();
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::File(file) => file.write(bytes),
            Sink::Stream(stream) => {
                let count = stream.write(bytes)?;
                // The bytes are written: a failed flush must not write them twice.
                let _ = stream.flush();
                Ok(count)
            }
        }
    }
}

/// A file that is renamed to `.1` when it is full, `.1` to `.2`, and so on to `.keep`.
struct RotatedFile {
    path: PathBuf,
    file: File,
    size: u64,
    rotate_bytes: u64,
    /// Size from which it is rotated; more than `rotate_bytes` after a rotation that failed.
    rotate_at: u64,
    keep: usize,
    /// Whether it was reported that the path names another file, which cannot be opened.
    is_stray: bool,
}

/// The file has mail addresses: only the relay's user and its group may read it.
const MODE: u32 = 0o640;

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path)
}

impl RotatedFile {
    fn open(path: &Path, rotate_bytes: u64, keep: usize) -> io::Result<RotatedFile> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("event file {}: {error}", path.display()))
        };
        // A pipe or a device must not block the thread, nor be renamed.
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let text = "not a regular file; for a pipe set event.output = \"stdout\"";
            return Err(named(io::Error::new(io::ErrorKind::InvalidInput, text)));
        }
        let mut file = open(path).map_err(named)?;
        let mut size = file.seek(SeekFrom::End(0))?;
        let mut last = [b'\n'];
        if size > 0 {
            file.seek(SeekFrom::Start(size - 1))?;
            file.read_exact(&mut last)?;
        }
        // After a crash the last line may be incomplete: the next one must not be joined to it. If
        // the disk is full now, the first write handles that.
        if last != [b'\n'] && file.write_all(b"\n").is_ok() {
            size += 1;
        }
        let path = path.to_path_buf();
        let rotate_at = rotate_bytes;
        Ok(RotatedFile { path, file, size, rotate_bytes, rotate_at, keep, is_stray: false })
    }

    /// Continues in the file that the path names, which logrotate or an operator may have replaced,
    /// removed (then a new one is created) or emptied (`copytruncate`). While it cannot be opened,
    /// lines go to the file that is open.
    fn follow_path(&mut self) {
        let named = fs::metadata(&self.path);
        let open_one = self.file.metadata();
        let is_same = match (&named, &open_one) {
            (Ok(named), Ok(own)) => (named.dev(), named.ino()) == (own.dev(), own.ino()),
            (Err(error), _) if error.kind() == io::ErrorKind::NotFound => false,
            // Unknown: an error of the file system will show at the next write.
            _ => true,
        };
        if is_same {
            if let Ok(named) = named
                && named.len() < self.size
            {
                (self.size, self.rotate_at) = (named.len(), self.rotate_bytes);
            }
            return;
        }
        match RotatedFile::open(&self.path, self.rotate_bytes, self.keep) {
            Ok(file) => {
                tracing::info!(path = %self.path.display(), "event file reopened");
                *self = file;
            }
            Err(error) if !std::mem::replace(&mut self.is_stray, true) => {
                tracing::error!(%error, "the event file was moved, and no new one can be opened");
            }
            Err(_) => {}
        }
    }

    fn rotate_for(&mut self, length: u64) {
        if self.size == 0 || self.size.saturating_add(length) <= self.rotate_at {
            return;
        }
        match self.rotate() {
            Ok(file) => {
                self.file = file;
                self.size = 0;
                self.rotate_at = self.rotate_bytes;
            }
            Err(error) => {
                let path = self.path.display();
                tracing::error!(%error, %path, "cannot rotate the event file");
                self.rotate_at = self.size.saturating_add(self.rotate_bytes.max(length));
            }
        }
    }

    /// Opens the new file. Until that succeeds, the old one stays open.
    fn rotate(&self) -> io::Result<File> {
        for number in (1..self.keep).rev() {
            rename_if_there(&self.numbered(number), &self.numbered(number + 1))?;
        }
        if self.keep > 0 {
            rename_if_there(&self.path, &self.numbered(1))?;
        } else {
            fs::remove_file(&self.path)?;
        }
        open(&self.path)
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.size += count as u64;
        Ok(count)
    }
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
