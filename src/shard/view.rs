//! What the operator is shown of a shard's queue: what waits, since when, until when, and why.

use super::driver::Driver;
use super::health::HealthEntry;
use super::now;
use super::origin::Origin;
use crate::config::{Config, EventOutput};
use crate::message::{Message, Options, QueueId, Reason, Timestamp};
use crate::pool::{Pool, Remembered};
use crate::ring;
use crate::route::{Site, SiteKey};
use crate::scheduler::{MessageView, SiteId};
use crate::spool::{self, Placement, Recovery, Spool, SpoolError};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Sites listed in a row before the shard does something else.
const SITES_STEP: u32 = 512;

/// One recipient that waits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecipientEntry {
    /// Queue id.
    pub id: String,
    /// Reverse-path; empty for reports, `?` where the message cannot be read.
    pub from: String,
    /// Forward-path; `?@` and its domain where the message cannot be read.
    pub to: String,
    /// `waiting` for its time, `routing` (its site is looked for), `ready` (waits for a
    /// connection), `out` (being delivered), `ending` (it has ended, and its report or the record
    /// of its ending is not durable yet); `stored` in a stopped relay's spool; `damaged` when
    /// its record on the disk does not pass.
    pub state: String,
    /// When the message was received (RFC 3339).
    pub received: String,
    /// Bytes of content; 0 when not at hand.
    pub size: u64,
    /// Attempts so far.
    pub attempts: u16,
    /// When the last attempt ended (RFC 3339); known while the recipient waits after it, until a
    /// restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<String>,
    /// When it is tried next (RFC 3339); absent when that is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
    /// When it is given up (RFC 3339).
    pub expires: String,
    /// By when it is to be delivered, and the letters of BY: R, N, RT or NT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliver_by: Option<String>,
    /// The last attempt's reply or trouble.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the other hosts of that attempt said, the most telling first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_hosts: Vec<String>,
    /// Why the message cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// The site it is to be delivered to, once known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Why the site as a whole gets nothing now, and until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site_backs_off: Option<BackOffEntry>,
    /// Which shard holds it.
    pub shard: usize,
}

/// A back-off of the site that a recipient waits for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackOffEntry {
    /// When it ends (RFC 3339).
    pub until: String,
    /// What began it.
    pub reason: String,
}

/// One site, as one shard sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SiteEntry {
    /// The site's label.
    pub site: String,
    /// How its hosts came to be named: `mx`, `next-hop` or `literal`.
    pub kind: String,
    /// Which shard says so.
    pub shard: usize,
    /// Recipients of this shard's queue that are ready for it.
    pub ready: usize,
    /// Recipients of this shard's queue that are being delivered to it.
    pub out: usize,
    /// Connections that this shard holds to it.
    pub connections: usize,
    /// Connections that this shard may hold to it.
    pub connections_max: usize,
    /// Connections that all shards together may hold to it.
    #[serde(default)]
    pub connections_max_of_all: usize,
    /// Until when it backs off (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backs_off_until: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is known not to work at its hosts, and is not tried for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<FallbackEntry>,
}

/// Something that does not work at a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FallbackEntry {
    /// The host, `mx1.example.net [192.0.2.1]:25`.
    pub remote: String,
    /// `tls`, `tls-resumption` or `pipelining`.
    pub broken: String,
    /// Until when it is done without (RFC 3339).
    pub until: String,
    /// What happened.
    pub reason: String,
}

/// Part of a shard's queue.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Its recipients.
    pub entries: Vec<RecipientEntry>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<u32>,
}

fn other_hosts(reason: &Reason) -> Vec<String> {
    reason.other_hosts().iter().map(ToString::to_string).collect()
}

impl Driver {
    /// At most `limit` messages from `cursor` on.
    pub(super) async fn page(&self, cursor: u32, limit: usize, domain: Option<&str>) -> Page {
        let (found, next) = {
            let origin = self.origin.borrow();
            let (views, next) = origin.scheduler.messages_from(cursor, limit);
            let found: Vec<Found> = views.iter().map(|view| origin.found(view, domain)).collect();
            (found, next)
        };
        let mut entries = Vec::new();
        for found in found {
            self.complete(found, &mut entries).await;
        }
        Page { entries, next }
    }

    /// The recipients of one message that are not over.
    pub(super) async fn show(&self, id: QueueId) -> Vec<RecipientEntry> {
        let found = {
            let origin = self.origin.borrow();
            let scheduler = &origin.scheduler;
            let view = scheduler.find(id).and_then(|slot| scheduler.message(slot));
            view.map(|view| origin.found(&view, None))
        };
        let mut entries = Vec::new();
        if let Some(found) = found {
            self.complete(found, &mut entries).await;
        }
        entries
    }

    /// Whether this shard takes mail. After a commit that failed it takes none until a restart.
    pub(super) fn health(&self) -> HealthEntry {
        let spool = &self.stations.spool;
        let failure = spool.failure().map(|cause| format!("its spool has failed: {cause}"));
        let reason = failure.or_else(|| {
            let cause = spool.is_full()?;
            Some(format!("there is no space on the disk for mail of clients: {cause}"))
        });
        HealthEntry { shard: self.stations.shard, ok: reason.is_none(), reason }
    }

    /// All sites that this shard has mail for or connections to.
    pub(super) async fn site_entries(&self, pool: &Pool) -> Vec<SiteEntry> {
        let owners = pool.views().await;
        let connections_max_of_all = pool.connections_per_site();
        let mut by_key: HashMap<SiteKey, SiteEntry> = HashMap::new();
        let entry = |site: &Site| SiteEntry {
            site: site.key.to_string(),
            kind: site.kind.name().to_owned(),
            shard: self.stations.shard,
            connections_max_of_all,
            ..SiteEntry::default()
        };
        let mut from = 0;
        loop {
            {
                let origin = self.origin.borrow();
                if from >= origin.sites.numbers() {
                    break;
                }
                for number in (from..from.saturating_add(SITES_STEP)).map(SiteId) {
                    let Some(view) = origin.scheduler.site_state(number) else { continue };
                    let Some(site) = origin.sites.site(number) else { continue };
                    let shown = by_key.entry(site.key.clone()).or_insert_with(|| entry(site));
                    shown.ready = view.ready;
                    shown.out = view.out;
                    if let Some(parked) = &view.parked {
                        shown.backs_off_until = Some(parked.until.to_string());
                        shown.reason = Some(parked.reason.to_string());
                    }
                }
            }
            from = from.saturating_add(SITES_STEP);
            ring::yield_now().await;
        }
        for (position, owner) in owners.into_iter().enumerate() {
            if position % SITES_STEP as usize == 0 {
                ring::yield_now().await;
            }
            let key = owner.site.key.clone();
            let shown = by_key.entry(key).or_insert_with(|| entry(&owner.site));
            shown.connections = owner.connected;
            shown.connections_max = owner.share;
            if let Some((until, reason)) = &owner.backing_off {
                shown.backs_off_until = Some(until.to_string());
                shown.reason = Some(reason.to_string());
            }
            let entry = |known: &Remembered| FallbackEntry {
                remote: known.reason.remote.to_string(),
                broken: known.broken.name().to_owned(),
                until: known.until.to_string(),
                reason: known.reason.text.to_string(),
            };
            shown.fallbacks = owner.fallbacks.iter().map(entry).collect();
        }
        by_key.into_values().collect()
    }

    /// Adds what only the message itself says.
    async fn complete(&self, found: Found, entries: &mut Vec<RecipientEntry>) {
        if found.entries.is_empty() {
            return;
        }
        let message = match found.hot {
            Some(message) => Ok(message),
            None => self.stations.spool.load(found.id, found.placement).await,
        };
        for (index, mut entry) in found.entries {
            entry.complete(index as usize, &message);
            entries.push(entry);
        }
    }
}

impl Origin {
    /// What the scheduler knows of a message's recipients; addresses are still missing.
    fn found(&self, view: &MessageView<'_>, domain: Option<&str>) -> Found {
        let now = now();
        let wanted = view
            .recipients
            .iter()
            .filter(|recipient| domain.is_none_or(|domain| recipient.domain == domain));
        let entries = wanted.map(|recipient| {
            let site = recipient.site;
            let key = site.and_then(|site| self.sites.site(site).map(|site| site.key.to_string()));
            let parked = site.and_then(|site| self.scheduler.site_state(site)?.parked);
            let entry = RecipientEntry {
                id: view.id.to_string(),
                from: String::new(),
                to: format!("?@{}", recipient.domain),
                state: recipient.state.to_owned(),
                received: view.id.born().to_string(),
                size: 0,
                attempts: recipient.attempts,
                last_attempt: recipient.last_attempt.map(|at| at.to_string()),
                due: recipient.due.filter(|due| *due > now).map(|due| due.to_string()),
                expires: view.expires.to_string(),
                deliver_by: None,
                reason: recipient.reason.map(|reason| reason.to_string()),
                other_hosts: recipient.reason.map(|reason| other_hosts(reason)).unwrap_or_default(),
                trouble: None,
                site: key,
                site_backs_off: parked.map(|parked| BackOffEntry {
                    until: parked.until.to_string(),
                    reason: parked.reason.to_string(),
                }),
                shard: self.stations.shard,
            };
            (recipient.index, entry)
        });
        Found {
            id: view.id,
            placement: view.placement,
            hot: self.hot.find(view.slot),
            entries: entries.collect(),
        }
    }
}

/// A message of a listing, before its record is read.
struct Found {
    id: QueueId,
    placement: Placement,
    hot: Option<Arc<Message>>,
    /// By index in the envelope.
    entries: Vec<(u32, RecipientEntry)>,
}

fn deliver_by_of(options: &Options) -> Option<String> {
    options.deliver_by.map(|by| format!("{} {}", by.at, by.letters()))
}

impl RecipientEntry {
    /// Adds what the message says of the recipient at `index`, or why it does not.
    fn complete(&mut self, index: usize, message: &Result<Arc<Message>, SpoolError>) {
        match message {
            Ok(message) => {
                let from = message.envelope.reverse_path.as_ref();
                self.from = from.map_or_else(String::new, ToString::to_string);
                self.size = message.content.len();
                self.deliver_by = deliver_by_of(&message.options);
                let held = message.options.not_before.filter(|_| self.attempts == 0);
                if let (Some(until), None, Some(_)) = (held, &self.reason, &self.due) {
                    self.reason = Some(format!("held until {until}, as its sender asked"));
                }
                if let Some(recipient) = message.envelope.recipients.get(index) {
                    self.to = recipient.address.to_string();
                }
            }
            Err(error) => {
                self.from = "?".to_owned();
                self.trouble = Some(error.to_string());
                if let SpoolError::Damaged { .. } = error {
                    self.state = "damaged".to_owned();
                }
            }
        }
    }
}

/// All folders of the configured spool: shards that are, and shards that were.
///
/// # Errors
/// The spool's folder cannot be read.
pub fn folders(config: &Config) -> Result<Vec<PathBuf>, SpoolError> {
    let layout = spool::layout(&config.spool.directory)?;
    let mut folders: Vec<PathBuf> = layout.into_iter().map(|(_, folder)| folder).collect();
    folders.extend(config.cores.iter().map(|core| core.spool.clone()).filter(|path| path.is_dir()));
    folders.sort();
    folders.dedup();
    Ok(folders)
}

/// Why `id` is not in the queue, as far as the disk tells. Reads files, and blocks.
pub fn absence(config: &Config, id: QueueId) -> String {
    let copy = folders(config).ok().and_then(|folders| spool::quarantined(&folders, id));
    if let Some(copy) = copy {
        return format!(
            "{id} proved damaged on the disk and was set aside: what is left of it is in {} (bytes \
             for a forensic look, no letter)",
            copy.display()
        );
    }
    let log = match &config.event.output {
        EventOutput::File(path) => format!("the event log, {}, says", path.display()),
        EventOutput::Stdout | EventOutput::Off => "the event log says".to_owned(),
    };
    format!("{id} is not in the queue: it has ended ({log} how), or it never was")
}

/// The same view of a stopped relay's spool: what `recovery` found in `folder`.
pub fn entries_of_recovery(
    folder: &Path,
    recovery: Recovery,
    shard: usize,
    expire: Duration,
) -> Vec<RecipientEntry> {
    let mut entries = Vec::new();
    for message in recovery.messages {
        let stored = Spool::read(folder, message.id, message.placement);
        let expires = message.options.expires_at(message.received_at, expire);
        let open = message.recipients.iter().enumerate().filter(|(_, one)| !one.ended);
        for (index, recipient) in open {
            let mut entry = RecipientEntry {
                id: message.id.to_string(),
                to: format!("?@{}", recipient.domain),
                state: "stored".to_owned(),
                received: message.received_at.to_string(),
                attempts: recipient.attempts,
                due: recipient.due.as_ref().map(Timestamp::to_string),
                expires: expires.to_string(),
                reason: recipient.reason.as_deref().map(Reason::to_string),
                shard,
                ..RecipientEntry::default()
            };
            entry.complete(index, &stored);
            entries.push(entry);
        }
    }
    entries
}
