//! Into a stopped relay's spool: through the spool's own writer, on a ring started for it.

use super::head::{FIRST, Head, LAST, Waiting};
use crate::intake::{Details, Incoming, Intake, Source};
use crate::message::{Body, ContentFlags, Envelope, Options, QueueId, Recipient, Timestamp};
use crate::ring::{self, Signal};
use crate::smtp::{ContentLimits, ContentScanner, Defect, END_LENGTH, Framing, Scanned};
use crate::smtp::{Dot, Dots, LineEnds};
use crate::spool::{PriorStatus, Settings, Spool};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};

/// Files read at once: their commits are one.
const TOGETHER: usize = 64;
/// Most bytes of the head of an exported message: some ten thousand recipients with the longest
/// reasons.
const HEAD_BYTES_MAX: u64 = 64 << 20;
/// Most bytes of a trace: it is one field or two that the relay has written.
const TRACE_BYTES_MAX: u64 = 64 * 1024;
/// How far the clock of the relay that received a message may be ahead of the one here.
const CLOCKS_APART_MAX_MS: u64 = 24 * 60 * 60 * 1000;
/// Bytes read at once.
const PIECE: usize = 64 * 1024;

/// What to import, and how.
#[derive(Clone, Debug)]
pub struct Import {
    /// The spools to share the messages out among, none of which may be in use.
    pub spools: Vec<Settings>,
    /// The relay's name.
    pub host_name: Arc<str>,
    /// How the ring is set up.
    pub ring: ring::Settings,
    /// Exported messages, or plain ones when an envelope is given for them.
    pub files: Vec<PathBuf>,
    /// For files without an envelope of their own.
    pub envelope: Option<Envelope>,
    /// Limits of a plain message; an exported one was checked when it was received.
    pub limits: ContentLimits,
    /// Give every message a new id: also what is or was in the spool is taken once more.
    pub new_ids: bool,
    /// Ids of messages that are in the spool.
    pub live: HashSet<QueueId>,
    /// Ids of messages that have ended there.
    pub ended: HashSet<QueueId>,
}

/// The result for one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It is in the spool, and durable.
    Imported(PathBuf, QueueId),
    /// It was there before.
    Known(PathBuf, QueueId),
    /// It is not there, and why.
    Refused(PathBuf, String),
}

/// Imports all files; calls `report` for each as soon as its result is sure. An error: not all were
/// read, or none.
pub fn import(what: Import, mut report: impl FnMut(Report)) -> Result<(), String> {
    let ring_settings = what.ring.clone();
    let (reports, reported) = mpsc::channel();
    let start = Arc::new(Mutex::new(Some((what, reports))));
    let shards = ring::start(&[None], &ring_settings, move |_| {
        let start = start.lock().ok().and_then(|mut start| start.take());
        async move {
            if let Some((what, reports)) = start {
                all(what, reports).await;
            }
        }
    });
    let shards = shards.map_err(|error| error.to_string())?;
    let mut failed = None;
    for result in reported {
        match result {
            Ok(one) => report(one),
            Err(cause) => failed = Some(cause),
        }
    }
    shards.join().map_err(|faults| faults.join("; "))?;
    failed.map_or(Ok(()), Err)
}

type Reports = mpsc::Sender<Result<Report, String>>;

async fn all(what: Import, reports: Reports) {
    // The receiver is there as long as anything is sent.
    let fail = |cause: String| drop(reports.send(Err(cause)));
    let mut intakes = Vec::new();
    for settings in &what.spools {
        match Spool::open(settings.clone()).await {
            Ok((spool, _)) => intakes.push(Intake::new(spool, Arc::clone(&what.host_name))),
            Err(error) => return fail(error.to_string()),
        }
    }
    let importer = Rc::new(Importer {
        known: RefCell::new(what.live.clone()),
        intakes,
        next_spool: Cell::new(0),
        next_file: Cell::new(0),
        what,
    });
    let working = Rc::new(Cell::new(TOGETHER));
    let done = Signal::new();
    for _ in 0..TOGETHER {
        let (importer, reports) = (Rc::clone(&importer), reports.clone());
        let (working, done) = (Rc::clone(&working), done.clone());
        ring::spawn("import", async move {
            while let Some(path) = importer.next_file() {
                let report = match importer.file(&path).await {
                    Ok(report) => report,
                    Err(cause) => Report::Refused(path, cause),
                };
                let _ = reports.send(Ok(report));
            }
            working.set(working.get() - 1);
            if working.get() == 0 {
                done.set();
            }
        });
    }
    done.wait().await;
    for intake in &importer.intakes {
        if let Err(error) = intake.spool().sync().await {
            fail(error.to_string());
        }
    }
}

/// Opens a regular file. Opening a pipe would wait for a writer, so nothing is waited for.
fn open(path: &Path) -> Result<File, String> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| error.to_string())?;
    let found = file.metadata().map_err(|error| error.to_string())?.file_type();
    let what = match found {
        _ if found.is_file() => return Ok(file),
        _ if found.is_dir() => "a folder; name the files in it",
        _ if found.is_fifo() => "a pipe; write the message to a file first",
        _ => "a device; write the message to a file first",
    };
    Err(format!("not a regular file but {what}"))
}

struct Importer {
    what: Import,
    intakes: Vec<Intake>,
    next_spool: Cell<usize>,
    next_file: Cell<usize>,
    /// In the spool, with the messages of these files.
    known: RefCell<HashSet<QueueId>>,
}

impl Importer {
    fn next_file(&self) -> Option<PathBuf> {
        let next = self.next_file.get();
        self.next_file.set(next + 1);
        self.what.files.get(next).cloned()
    }

    /// For a message that has an id, that of the spool that gives out such ids, as far as there is
    /// one: it then knows of it.
    fn intake(&self, id: Option<QueueId>) -> Result<&Intake, String> {
        let number = id.map_or_else(
            || self.next_spool.replace(self.next_spool.get().wrapping_add(1)),
            |id| usize::from(id.spool_number()),
        );
        let place = number.checked_rem(self.intakes.len());
        let intake = place.and_then(|place| self.intakes.get(place));
        intake.ok_or_else(|| "there is no spool to import into".to_owned())
    }

    async fn file(&self, path: &Path) -> Result<Report, String> {
        let file = open(path)?;
        let mut source = BufReader::with_capacity(PIECE, file);
        let Some(head) = read_head(&mut source)? else {
            let id = self.plain(self.intake(None)?, &mut source).await?;
            return Ok(Report::Imported(path.to_owned(), id));
        };
        check_received_at(head.received_at, ring::wall_clock())?;
        let intake = self.intake((!self.what.new_ids).then_some(head.id))?;
        if !self.what.new_ids {
            if self.known.borrow().contains(&head.id) {
                return Ok(Report::Known(path.to_owned(), head.id));
            }
            if self.what.ended.contains(&head.id) {
                return Err(format!(
                    "message {} was in this spool and has ended (--new-ids takes it once more)",
                    head.id
                ));
            }
            if head.id.born() > ring::wall_clock() {
                return Err(format!(
                    "message {} has an id of the future, which the spool may give to another \
                     message (--new-ids gives it a new one)",
                    head.id
                ));
            }
            self.known.borrow_mut().insert(head.id);
        }
        let given = head.id;
        let stored = self.exported(intake, head, &mut source).await;
        if stored.is_err() {
            self.known.borrow_mut().remove(&given);
        }
        Ok(Report::Imported(path.to_owned(), stored?))
    }

    /// Stores an exported message of which the head is read.
    async fn exported(
        &self,
        intake: &Intake,
        head: Head,
        source: &mut BufReader<File>,
    ) -> Result<QueueId, String> {
        if head.prepended_headers > TRACE_BYTES_MAX {
            return Err(format!(
                "{LAST} says trace={}; a trace has at most {TRACE_BYTES_MAX} bytes",
                head.prepended_headers
            ));
        }
        let mut prepended_headers = Vec::new();
        let read = source.by_ref().take(head.prepended_headers).read_to_end(&mut prepended_headers);
        read.map_err(|error| error.to_string())?;
        let framing = match head.options.body {
            Body::BinaryMime => Framing::BinaryChunks,
            Body::SevenBit | Body::EightBitMime => Framing::Dots,
        };
        let now = ring::wall_clock();
        let incoming = match self.what.new_ids {
            true => intake.begin(now, ()),
            false => intake.begin_as(head.id, now, ()),
        };
        let mut content = ImportedContent::new(incoming, UNLIMITED, framing);
        let mut length = 0;
        while let Some(piece) = next_piece(source)? {
            length += piece.len() as u64;
            content.piece(&piece).await;
        }
        if (prepended_headers.len() as u64, length) != (head.prepended_headers, head.content) {
            return Err(format!(
                "{} bytes follow the head, and {LAST} says {}: the file was changed or cut short",
                prepended_headers.len() as u64 + length,
                head.prepended_headers.saturating_add(head.content)
            ));
        }
        check_trace(&prepended_headers)?;
        let (incoming, flags) = content.end()?;
        let id = incoming.id();
        let (recipients, so_far) = split(head.recipients);
        let details = Details {
            envelope: Envelope { reverse_path: head.reverse_path, recipients },
            options: head.options,
            flags,
            received_at: head.received_at,
            reservation: None,
        };
        let stored = incoming.restore(Source::File(prepended_headers), details, &so_far).await;
        stored.map_err(|error| error.to_string())?;
        if !so_far.in_flight.is_empty() {
            intake.spool().sync().await.map_err(|error| error.to_string())?;
        }
        Ok(id)
    }

    /// Stores a message without an envelope of its own.
    async fn plain(
        &self,
        intake: &Intake,
        source: &mut BufReader<File>,
    ) -> Result<QueueId, String> {
        let Some(envelope) = self.what.envelope.clone() else {
            return Err(format!("does not begin with {FIRST} and needs --from and --to"));
        };
        let now = ring::wall_clock();
        let incoming = intake.begin(now, ());
        let mut content = ImportedContent::new(incoming, self.what.limits, Framing::Dots);
        let mut ends = LineEnds::default();
        let mut last = None;
        while let Some(piece) = next_piece(source)? {
            let mut lines = Vec::with_capacity(piece.len() + piece.len() / 16);
            ends.piece(&piece, &mut lines);
            last = lines.last().copied();
            content.piece(&lines).await;
        }
        if last.is_some_and(|last| last != b'\n') {
            content.piece(b"\r\n").await;
        }
        let (incoming, flags) = content.end()?;
        let id = incoming.id();
        let options = Options::default();
        let (received_at, reservation) = (now, None);
        let details = Details { envelope, options, flags, received_at, reservation };
        let stored = incoming.commit(Source::File(Vec::new()), details).await;
        stored.map_err(|error| error.to_string())?;
        Ok(id)
    }
}

fn split(waiting: Vec<Waiting>) -> (Vec<Recipient>, PriorStatus) {
    let (mut recipients, mut so_far) = (Vec::new(), PriorStatus::default());
    for (index, one) in (0..).zip(waiting) {
        recipients.push(one.recipient);
        so_far.statuses.extend(one.status.map(|status| (index, status)));
        if one.in_doubt {
            so_far.in_flight.push(index);
        }
    }
    (recipients, so_far)
}

/// A message is retried for days from then on; one of the future would be for longer.
fn check_received_at(received_at: Timestamp, now: Timestamp) -> Result<(), String> {
    if received_at.0 > now.0.saturating_add(CLOCKS_APART_MAX_MS) {
        return Err(format!(
            "X-Ringpost-Received-At: {} is more than a day ahead of this host's clock",
            received_at.exact_text()
        ));
    }
    Ok(())
}

/// The trace is sent in front of the content as it is: so it must be whole lines of a header, and
/// no line may be the dot that ends the content.
fn check_trace(prepended_headers: &[u8]) -> Result<(), String> {
    if prepended_headers.is_empty() {
        return Ok(());
    }
    if !prepended_headers.ends_with(b"\r\n") {
        return Err("the trace does not end with a line".to_owned());
    }
    let mut scanner = ContentScanner::new(UNLIMITED, Framing::Chunks);
    let mut seen = 0;
    while let Some(rest) = prepended_headers.get(seen..).filter(|rest| !rest.is_empty()) {
        match scanner.scan(rest) {
            Scanned::Content(length) => seen += length,
            Scanned::Stuffing => return Err("a line of the trace begins with a dot".to_owned()),
            Scanned::Short | Scanned::End => break,
        }
    }
    if let Some(defect) = scanner.defect() {
        return Err(refusal(defect).replace("the content", "the trace"));
    }
    let mut lines = prepended_headers.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let begins_with_field = prepended_headers.first().is_some_and(|first| !is_fold(*first));
    if !begins_with_field || !lines.all(is_line_of_a_field) {
        return Err("the trace has a line that is not of a header field (name: text)".to_owned());
    }
    Ok(())
}

/// Whether the line begins a field, or goes on with one (RFC 5322 2.2, 2.2.3).
fn is_line_of_a_field(line: &[u8]) -> bool {
    let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
    let is_field =
        name.len() < line.len() && !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    is_field || line.first().is_some_and(|&first| is_fold(first))
}

fn is_fold(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// The fields on top of an exported message; `None`, and nothing is read, when it is not one.
fn read_head(source: &mut BufReader<File>) -> Result<Option<Head>, String> {
    let start = source.fill_buf().map_err(|error| error.to_string())?;
    if !start.starts_with(FIRST.as_bytes()) {
        return Ok(None);
    }
    let mut text = Vec::new();
    let mut head = source.take(HEAD_BYTES_MAX);
    loop {
        let line = text.len();
        let read = head.read_until(b'\n', &mut text).map_err(|error| error.to_string())?;
        if read == 0 {
            return Err(format!("{LAST} is missing"));
        }
        if text.get(line..).is_some_and(|line| line.starts_with(LAST.as_bytes())) {
            return Head::read(&text).map(Some);
        }
    }
}

fn next_piece(source: &mut impl Read) -> Result<Option<Vec<u8>>, String> {
    let mut piece = Vec::with_capacity(PIECE);
    let read = source.take(PIECE as u64).read_to_end(&mut piece);
    read.map_err(|error| error.to_string())?;
    Ok((!piece.is_empty()).then_some(piece))
}

const UNLIMITED: ContentLimits =
    ContentLimits { bytes_max: u64::MAX, line_max: usize::MAX, received_max: u32::MAX };

/// Content of a file on its way in: dot-stuffed, and checked as in a session.
struct ImportedContent {
    incoming: Incoming,
    dots: Dots,
    /// Of a binary body: it is checked as it is, not stuffed.
    is_binary: bool,
    scanner: ContentScanner,
    /// What the scanner has left for the next piece.
    ahead: Vec<u8>,
}

impl ImportedContent {
    fn new(incoming: Incoming, limits: ContentLimits, framing: Framing) -> ImportedContent {
        ImportedContent {
            incoming,
            dots: Dots::new(Dot::Doubled),
            is_binary: framing == Framing::BinaryChunks,
            scanner: ContentScanner::new(limits, framing),
            ahead: Vec::new(),
        }
    }

    async fn piece(&mut self, piece: &[u8]) {
        let mut stuffed = Vec::with_capacity(piece.len() + 64);
        self.dots.piece(piece, &mut stuffed);
        self.scan(if self.is_binary { piece } else { &stuffed });
        self.incoming.push(&stuffed).await;
    }

    fn scan(&mut self, stuffed: &[u8]) {
        self.ahead.extend_from_slice(stuffed);
        let mut seen = 0;
        while let Some(rest) = self.ahead.get(seen..) {
            match self.scanner.scan(rest) {
                Scanned::Content(length) => seen += length,
                Scanned::Stuffing => {}
                Scanned::Short | Scanned::End => break,
            }
        }
        self.ahead.drain(..seen);
    }

    fn end(mut self) -> Result<(Incoming, ContentFlags), String> {
        // The dot line ends it if, and only if, it stands on a line of its own.
        let lacks_line_end = if self.is_binary {
            self.scanner.lacks_line_end()
        } else {
            self.scan(b".\r\n");
            self.ahead.len() != END_LENGTH
        };
        if let Some(defect) = self.scanner.defect() {
            return Err(refusal(defect).to_owned());
        }
        if lacks_line_end {
            return Err("the content does not end with a line".to_owned());
        }
        Ok((self.incoming, self.scanner.flags()))
    }
}

fn refusal(defect: Defect) -> &'static str {
    match defect {
        Defect::TooLarge => "larger than session.message_bytes_max",
        Defect::BareLf => "the content has an LF without a CR",
        Defect::BareCr => "the content has a CR without an LF",
        Defect::Nul => "the content has a NUL byte",
        Defect::TooManyHops => "more Received fields than session.received_max: a loop",
        Defect::LineTooLong => "a line is longer than session.text_line_max",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_regular_file_is_read_and_a_pipe_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        for (path, word) in
            [(&*pipe, "pipe"), (folder.path(), "folder"), (Path::new("/dev/null"), "device")]
        {
            let refused = open(path).unwrap_err();
            assert!(refused.contains(word) && refused.contains("regular"), "{refused}");
        }
        assert!(open(&file).is_ok());
        assert!(open(&folder.path().join("none")).unwrap_err().contains("No such file"));
    }

    #[test]
    fn a_trace_is_lines_of_a_header_and_nothing_else() {
        for good in ["", "Received: from a\r\n\tby b; now\r\n", "A: b\r\nC: .\r\n .\r\n"] {
            assert_eq!(check_trace(good.as_bytes()), Ok(()), "{good:?}");
        }
        for (bad, says) in [
            ("A: b", "does not end with a line"),
            ("A: b\r\n.\r\nMAIL FROM:<e@v.il>\r\n", "a line of the trace begins with a dot"),
            ("A: b\r\n..C: d\r\n", "a line of the trace begins with a dot"),
            ("A: b\n.\r\n", "the trace has an LF without a CR"),
            ("A: b\r.\r\n", "the trace has a CR without an LF"),
            ("A: b\r\r\n", "the trace has a CR without an LF"),
            ("A: \0\r\n", "the trace has a NUL byte"),
            ("A: b\r\n\r\nbody: x\r\n", "not of a header field"),
            (" fold: of nothing\r\n", "not of a header field"),
            ("A: b\r\nRSET\r\n", "not of a header field"),
            ("MAIL FROM:<e@v.il>\r\n", "not of a header field"),
        ] {
            let fault = check_trace(bad.as_bytes()).unwrap_err();
            assert!(fault.contains(says), "{bad:?}: {fault}");
        }
    }

    #[test]
    fn a_message_of_the_future_is_refused_beyond_a_day() {
        let now = Timestamp(1_700_000_000_000);
        for (ahead, fits) in [(0, true), (86_400_000, true), (86_400_001, false)] {
            let received_at = Timestamp(now.0 + ahead);
            assert_eq!(check_received_at(received_at, now).is_ok(), fits, "{ahead}");
        }
        let fault = check_received_at(Timestamp(u64::MAX), now).unwrap_err();
        assert!(fault.contains("18446744073709551615 is more than a day ahead"), "{fault}");
    }
}
