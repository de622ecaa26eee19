//! `ringpost spool`: work on the spool of a stopped relay, and the output about it.

use super::arguments::SpoolCommand;
use super::{EXIT_USAGE, counted};
use crate::config::Config;
use crate::eml::{self, Export, Import, Report};
use crate::message::{Envelope, QueueId, Recipient, Timestamp};
use crate::ring;
use crate::shard;
use crate::smtp::ContentLimits;
use crate::spool::{self, Inspection, Settings, Spool, SpoolError, lock};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

/// The spool is damaged, or only a part was done.
const EXIT_DAMAGED: u8 = 1;
/// Nothing could be read or done.
const EXIT_UNREADABLE: u8 = EXIT_USAGE;
/// Number of domains that `stat` lists.
const DOMAINS_SHOWN: usize = 10;

/// The advice for a folder that is not a spool.
const WHICH_SPOOL: &str = "name the spool as DIR or with --spool DIR, or the configuration with \
                           --config FILE";

/// Runs the command.
pub(super) fn run(config: &Config, command: SpoolCommand) -> ExitCode {
    let done = match command {
        SpoolCommand::Verify { directory, .. } => verify(config, directory.as_deref()),
        SpoolCommand::Stat { directory, json, .. } => stat(config, directory.as_deref(), json),
        SpoolCommand::Export { directory, to, id, domain, .. } => {
            export(config, directory.as_deref(), &to, id, domain.as_deref())
        }
        SpoolCommand::Import { from_files, from, to, new_ids, .. } => {
            let envelope = from.map(|from| envelope(&from, &to)).transpose();
            envelope.and_then(|envelope| import(config, &from_files, envelope, new_ids))
        }
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(cause) => {
            eprintln!("ringpost: {cause}");
            ExitCode::from(EXIT_UNREADABLE)
        }
    }
}

/// The folders of `directory`, or of the configured spool. No relay can start on them while the
/// locks are held.
fn folders_to_read(
    config: &Config,
    directory: Option<&Path>,
) -> Result<(Vec<PathBuf>, Vec<lock::Lock>), String> {
    let root = directory.unwrap_or(&config.spool.directory);
    if !root.is_dir() {
        return Err(format!("{}: no such folder; {WHICH_SPOOL}", root.display()));
    }
    let mut locks = Vec::new();
    // The folder of one shard is locked by the root above it.
    let name = directory.and_then(|root| root.file_name()).and_then(|name| name.to_str());
    let above = name
        .filter(|name| name.starts_with("shard-") || name.starts_with("orphan-"))
        .and(root.parent());
    for locked in [Some(root), above].into_iter().flatten() {
        locks.extend(lock::acquire_for_reading(locked).map_err(|error| error.to_string())?);
    }
    let folders = match directory {
        None => shard::folders(config),
        Some(root) => spool::layout(root).map(|layout| match layout.is_empty() {
            true => vec![root.to_owned()],
            false => layout.into_iter().map(|(_, folder)| folder).collect(),
        }),
    };
    let folders = folders.map_err(|error| error.to_string())?;
    let is_spool = match folders.as_slice() {
        [] => false,
        [one] if one == root => spool::holds_segments(root).map_err(|error| error.to_string())?,
        _ => true,
    };
    // A wrong path must not be reported as clean.
    if !is_spool {
        return Err(format!(
            "{}: neither a spool (it has no folder shard-N) nor a shard's folder; {WHICH_SPOOL}",
            root.display()
        ));
    }
    Ok((folders, locks))
}

fn verify(config: &Config, directory: Option<&Path>) -> Result<u8, String> {
    let (folders, _locks) = folders_to_read(config, directory)?;
    let mut screen = Screen::default();
    let (mut messages, mut damages, mut unreadable) = (0, 0, 0);
    for folder in &folders {
        let found = match Spool::examine(folder) {
            Ok(found) => found,
            Err(error) => {
                eprintln!("ringpost: {error}");
                unreadable += 1;
                continue;
            }
        };
        messages += found.messages.len();
        damages += found.damages.len();
        verified(&mut screen, &found);
    }
    if unreadable > 0 {
        return Err(format!("{unreadable} of {} folders cannot be read", folders.len()));
    }
    if damages > 0 {
        let (places, messages) = (counted(damages, "place", "places"), live(messages));
        screen.line(&format!("DAMAGED in {places}; intact: {messages}"));
        return Ok(EXIT_DAMAGED);
    }
    screen.line(&format!("clean: {}, all intact", live(messages)));
    Ok(0)
}

fn live(messages: usize) -> String {
    counted(messages, "live message", "live messages")
}

fn verified(screen: &mut Screen, found: &Inspection) {
    screen.line(&format!(
        "{}: {}, {}, {}, {}, {}, {}",
        found.folder.display(),
        counted(found.segments, "segment", "segments"),
        counted(found.batches, "batch", "batches"),
        counted(found.records, "record", "records"),
        live(found.messages.len()),
        counted(found.torn_bytes, "torn byte", "torn bytes"),
        counted(found.damages.len(), "damaged place", "damaged places"),
    ));
    if let Some((path, offset)) = &found.torn_at {
        screen.line(&format!(
            "  torn: {} byte {offset}: an incomplete commit after a crash, never acknowledged (or \
             the last commit was damaged: the two cannot be distinguished)",
            path.display()
        ));
    }
    for path in &found.bad_indexes {
        screen.line(&format!(
            "  index: {} is not valid; no mail is lost, because it is rebuilt from the records",
            path.display()
        ));
    }
    for damage in &found.damages {
        screen.line(&format!(
            "  damaged: {} byte {}, {}: {}",
            damage.path.display(),
            damage.offset,
            counted(damage.length, "byte", "bytes"),
            damage.cause
        ));
        for (offset, id) in &damage.records {
            screen.line(&format!("    the record at byte {offset}: message {id}, by its header"));
        }
    }
}

/// The numbers of `stat`, for one folder or for all.
#[derive(Debug, Default, Serialize)]
struct Counts {
    messages: u64,
    recipients: u64,
    never_tried: u64,
    waiting: u64,
    in_doubt: u64,
    /// Size of segment files on the disk.
    disk_bytes: u64,
    /// Written and still needed.
    live_bytes: u64,
    /// Written and no longer needed.
    dead_bytes: u64,
    segments: u64,
    /// When the oldest message was received (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest: Option<String>,
    #[serde(skip)]
    oldest_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    folder: Option<String>,
}

/// The output of `stat`.
#[derive(Debug, Default, Serialize)]
struct Statistics {
    #[serde(flatten)]
    total: Counts,
    /// Waiting recipients by domain, most first; at most [`DOMAINS_SHOWN`] domains.
    domains: Vec<DomainCount>,
    folders: Vec<Counts>,
}

#[derive(Debug, Serialize)]
struct DomainCount {
    domain: String,
    recipients: u64,
}

fn stat(config: &Config, directory: Option<&Path>, json: bool) -> Result<u8, String> {
    let (folders, _locks) = folders_to_read(config, directory)?;
    let mut statistics = Statistics::default();
    let mut domains: BTreeMap<Rc<str>, u64> = BTreeMap::new();
    let mut damages = 0;
    for folder in &folders {
        let found = Spool::examine(folder).map_err(|error| error.to_string())?;
        damages += found.damages.len();
        let counts = Counts::of(&found).map_err(|error| error.to_string())?;
        statistics.total.add(&counts);
        statistics.folders.push(counts);
        for recipient in found.messages.into_iter().flat_map(|message| message.recipients) {
            if !recipient.ended {
                *domains.entry(recipient.domain).or_default() += 1;
            }
        }
    }
    let mut top: Vec<(Rc<str>, u64)> = domains.into_iter().collect();
    top.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    top.truncate(DOMAINS_SHOWN);
    let named = top.into_iter();
    statistics.domains = named
        .map(|(domain, recipients)| DomainCount { domain: domain.to_string(), recipients })
        .collect();
    let mut screen = Screen::default();
    if json {
        screen.line(&serde_json::to_string(&statistics).map_err(|error| error.to_string())?);
    } else {
        statistics.print(&mut screen);
    }
    if damages > 0 {
        let places = counted(damages, "place", "places");
        eprintln!("ringpost: damaged in {places}: see `ringpost spool verify`");
    }
    Ok(0)
}

impl Counts {
    fn of(found: &Inspection) -> Result<Counts, SpoolError> {
        let live_bytes = found.live_bytes()?;
        let mut counts = Counts {
            messages: found.messages.len() as u64,
            segments: found.segments as u64,
            disk_bytes: found.disk_bytes,
            live_bytes,
            dead_bytes: found.written_bytes.saturating_sub(live_bytes),
            folder: Some(found.folder.display().to_string()),
            ..Counts::default()
        };
        counts.see_oldest(found.messages.iter().map(|message| message.received_at).min());
        let recipients = found.messages.iter().flat_map(|message| &message.recipients);
        for recipient in recipients.filter(|recipient| !recipient.ended) {
            counts.recipients += 1;
            if recipient.in_doubt {
                counts.in_doubt += 1;
            } else if recipient.due.is_none() {
                counts.never_tried += 1;
            } else {
                counts.waiting += 1;
            }
        }
        Ok(counts)
    }

    fn see_oldest(&mut self, at: Option<Timestamp>) {
        self.oldest_at = self.oldest_at.into_iter().chain(at).min();
        self.oldest = self.oldest_at.map(|at| at.to_string());
    }

    fn add(&mut self, other: &Counts) {
        self.messages += other.messages;
        self.recipients += other.recipients;
        self.never_tried += other.never_tried;
        self.waiting += other.waiting;
        self.in_doubt += other.in_doubt;
        self.disk_bytes += other.disk_bytes;
        self.live_bytes += other.live_bytes;
        self.dead_bytes += other.dead_bytes;
        self.segments += other.segments;
        self.see_oldest(other.oldest_at);
    }

    fn bytes_line(&self) -> String {
        let Counts { live_bytes, dead_bytes, disk_bytes, segments, .. } = self;
        let segments = counted(*segments, "segment", "segments");
        format!("{live_bytes} live, {dead_bytes} dead, {disk_bytes} on disk in {segments}")
    }
}

impl Statistics {
    fn print(&self, screen: &mut Screen) {
        let total = &self.total;
        screen.line(&format!("messages    {}", total.messages));
        screen.line(&format!(
            "recipients  {}: {} never tried, {} waiting for their next attempt, {} in doubt",
            total.recipients, total.never_tried, total.waiting, total.in_doubt
        ));
        screen.line(&format!("bytes       {}", total.bytes_line()));
        if let Some(oldest) = &total.oldest {
            screen.line(&format!("oldest      {oldest}"));
        }
        for (position, DomainCount { domain, recipients }) in self.domains.iter().enumerate() {
            let title = if position == 0 { "domains" } else { "" };
            screen.line(&format!("{title:11} {recipients:>8} {domain}"));
        }
        for counts in &self.folders {
            screen.line(&format!(
                "{}: {}, {}; bytes {}",
                counts.folder.as_deref().unwrap_or_default(),
                counted(counts.messages, "message", "messages"),
                counted(counts.recipients, "recipient", "recipients"),
                counts.bytes_line()
            ));
        }
    }
}

fn export(
    config: &Config,
    directory: Option<&Path>,
    to: &Path,
    id: Option<QueueId>,
    domain: Option<&str>,
) -> Result<u8, String> {
    let (folders, _locks) = folders_to_read(config, directory)?;
    let mut export = Export::new(to).map_err(|error| error.to_string())?;
    let (mut chosen, mut failed, mut damages) = (0, 0_u64, 0_usize);
    for folder in &folders {
        let found = Spool::examine(folder).map_err(|error| error.to_string())?;
        for damage in &found.damages {
            let (path, offset) = (damage.path.display(), damage.offset);
            eprintln!("ringpost: {path} byte {offset}: {}", damage.cause);
        }
        damages += found.damages.len();
        for message in &found.messages {
            let named = id.is_none_or(|id| message.id == id);
            let mut open = message.recipients.iter().filter(|recipient| !recipient.ended);
            let goes_there =
                domain.is_none_or(|domain| open.any(|one| one.domain.eq_ignore_ascii_case(domain)));
            if !(named && goes_there) {
                continue;
            }
            chosen += 1;
            if let Err(error) = export.message(folder, message) {
                eprintln!("ringpost: {}: {error}", message.id);
                failed += 1;
            }
        }
    }
    let exported = export.finish().map_err(|error| error.to_string())?;
    if let Some(id) = id.filter(|_| chosen == 0) {
        return Err(match directory {
            Some(_) => format!("{id} is not in this spool"),
            None => shard::absence(config, id),
        });
    }
    let messages = counted(exported, "message", "messages");
    Screen::default().line(&format!("exported {messages} to {}", to.display()));
    if damages > 0 {
        eprintln!(
            "ringpost: mail may be missing: the spool is damaged (see: ringpost spool verify)"
        );
    }
    Ok(if failed > 0 || damages > 0 { EXIT_DAMAGED } else { 0 })
}

fn import(
    config: &Config,
    files: &[PathBuf],
    envelope: Option<Envelope>,
    new_ids: bool,
) -> Result<u8, String> {
    let root = &config.spool.directory;
    let _lock = lock::acquire(root).map_err(|error| match lock::holder(root) {
        Some(_) => format!("{error}: send the mail to the running relay by SMTP, or stop it first"),
        None => error.to_string(),
    })?;
    let (mut live, mut ended) = (HashSet::new(), HashSet::new());
    let files = eml_files(files)?;
    if files.is_empty() {
        return Err("nothing to import: there are no .eml files".to_owned());
    }
    for folder in shard::folders(config).map_err(|error| error.to_string())? {
        let found = Spool::examine(&folder).map_err(|error| error.to_string())?;
        live.extend(found.messages.iter().map(|message| message.id));
        ended.extend(found.ended);
    }
    let what = Import {
        spools: spools(config),
        host_name: Arc::clone(&config.host_name),
        ring: ring::Settings { depth: config.ring.depth, preempt: config.ring.preempt },
        files,
        envelope,
        limits: ContentLimits {
            bytes_max: config.session.message_bytes_max,
            line_max: config.session.text_line_max,
            received_max: config.session.received_max,
        },
        new_ids,
        live,
        ended,
    };
    let given = what.files.len();
    let mut screen = Screen::default();
    let (mut imported, mut known, mut refused) = (0, 0, 0);
    let done = eml::import(what, |report| match report {
        Report::Imported(path, id) => {
            imported += 1;
            screen.line(&format!("imported {id} {}", path.display()));
        }
        Report::Known(path, id) => {
            known += 1;
            screen.line(&format!("already there: {id} {}", path.display()));
        }
        Report::Refused(path, cause) => {
            refused += 1;
            eprintln!("ringpost: {}: {cause}", path.display());
        }
    });
    screen.line(&format!(
        "of {}: {imported} imported, {known} already there, {refused} refused",
        counted(given, "file", "files")
    ));
    done?;
    Ok(if refused > 0 { EXIT_DAMAGED } else { 0 })
}

/// The shards' spools, as the relay opens them.
fn spools(config: &Config) -> Vec<Settings> {
    let cores = (0..).zip(&config.cores);
    cores
        .map(|(number, core)| Settings {
            directory: core.spool.clone(),
            number,
            segment_bytes: config.spool.segment_bytes,
            stream_threshold: config.spool.stream_threshold,
            content_bytes_max: 64 << 20,
            outcome_interval: config.spool.outcome_interval,
        })
        .collect()
}

/// The files named, and for folders the `.eml` files in them, in order.
fn eml_files(named: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for path in named {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let unreadable = |error: io::Error| format!("{}: {error}", path.display());
        let mut inside = Vec::new();
        for entry in std::fs::read_dir(path).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.path();
            if file.extension().is_some_and(|extension| extension == "eml") {
                inside.push(file);
            }
        }
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

/// The envelope from `--from` and `--to`.
fn envelope(from: &str, to: &[String]) -> Result<Envelope, String> {
    let read = |text: &str| match text.starts_with('<') {
        true => eml::read_reverse_path(text),
        false => eml::read_reverse_path(&format!("<{text}>")),
    };
    let reverse_path = read(from).ok_or_else(|| {
        format!("--from {from:?}: not an address; write name@example.com, or <> for none")
    })?;
    let recipient = |text: &String| {
        let address = read(text).flatten();
        address.map(Recipient::plain).ok_or_else(|| {
            format!("--to {text:?}: not an address to deliver to; write name@example.com")
        })
    };
    Ok(Envelope { reverse_path, recipients: to.iter().map(recipient).collect::<Result<_, _>>()? })
}

/// Standard output, which may be closed (`| head`): the rest is then not printed.
#[derive(Debug, Default)]
struct Screen {
    gone: bool,
}

impl Screen {
    fn line(&mut self, line: &str) {
        if !self.gone && writeln!(io::stdout(), "{line}").is_err() {
            self.gone = true;
        }
    }
}
