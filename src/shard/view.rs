//! What the operator is shown of a shard's queue: who waits, since when, until when, and why.

use super::now;
use super::queue::{Queue, placement};
use crate::message::{Envelope, Options, QueueId, Reason, Timestamp, expiry, wished_end};
use crate::pool::HomeView;
use crate::scheduler::MessageView;
use crate::spool::{Message, Placement, Recovery, Spool};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// One recipient that waits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecipientEntry {
    /// Queue id.
    pub id: String,
    /// Reverse-path; empty for reports.
    pub from: String,
    /// Forward-path.
    pub to: String,
    /// `waiting` for its time, `routing` (its site is looked for), `ready` (waits for a
    /// connection), `out` (being delivered); `stored` in a stopped relay's spool.
    pub state: String,
    /// When the message was received (RFC 3339).
    pub received: String,
    /// Bytes of content; 0 when not at hand.
    pub size: u64,
    /// Attempts so far.
    pub attempts: u16,
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
    /// The site it is to be delivered to, once known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Why the site as a whole gets nothing now, and until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site_backs_off: Option<String>,
    /// Which shard holds it.
    pub shard: usize,
}

/// One site, as one shard sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SiteEntry {
    /// The site's key.
    pub site: String,
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
    /// Until when it backs off (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backs_off_until: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Part of a shard's queue.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Its recipients.
    pub entries: Vec<RecipientEntry>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<u32>,
}

impl Queue {
    /// At most `limit` messages from `cursor` on.
    pub(super) async fn page(
        self: &Rc<Self>,
        cursor: u32,
        limit: usize,
        domain: Option<&str>,
    ) -> Page {
        let (found, next) = {
            let scheduler = self.scheduler.borrow();
            let (views, next) = scheduler.messages_from(cursor, limit);
            let found: Vec<Found> = views.iter().map(|view| self.found(view, domain)).collect();
            (found, next)
        };
        let mut entries = Vec::new();
        for found in found {
            self.complete(found, &mut entries).await;
        }
        Page { entries, next }
    }

    /// The waiting recipients of one message.
    pub(super) async fn show(self: &Rc<Self>, id: QueueId) -> Vec<RecipientEntry> {
        let found = {
            let scheduler = self.scheduler.borrow();
            let view = scheduler.find(id).and_then(|slot| scheduler.message(slot));
            view.map(|view| self.found(&view, None))
        };
        let mut entries = Vec::new();
        if let Some(found) = found {
            self.complete(found, &mut entries).await;
        }
        entries
    }

    /// All sites that this shard has mail for or connections to.
    pub(super) fn site_entries(&self, homes: &[HomeView]) -> Vec<SiteEntry> {
        let mut by_key: BTreeMap<String, SiteEntry> = BTreeMap::new();
        let entry = |key: &str| SiteEntry {
            site: key.to_owned(),
            shard: self.shard,
            ..SiteEntry::default()
        };
        let sites = self.sites.borrow();
        for view in self.scheduler.borrow().sites() {
            let Some(site) = sites.site(view.site) else { continue };
            let shown = by_key.entry(site.key.to_string()).or_insert_with(|| entry(&site.key));
            shown.ready = view.ready;
            shown.out = view.out;
            if let Some(parked) = &view.parked {
                shown.backs_off_until = Some(parked.until.to_string());
                shown.reason = Some(parked.reason.to_string());
            }
        }
        for home in homes {
            let key = &home.site.key;
            let shown = by_key.entry(key.to_string()).or_insert_with(|| entry(key));
            shown.connections = home.connected;
            shown.connections_max = home.share;
            if let Some((until, reason)) = &home.backing_off {
                shown.backs_off_until = Some(until.to_string());
                shown.reason = Some(reason.to_string());
            }
        }
        by_key.into_values().collect()
    }

    /// What the scheduler knows of a message's recipients; addresses are still missing.
    fn found(&self, view: &MessageView<'_>, domain: Option<&str>) -> Found {
        let now = now();
        let wanted = view
            .recipients
            .iter()
            .filter(|recipient| domain.is_none_or(|domain| recipient.domain == domain));
        let entries = wanted.map(|recipient| {
            let site = recipient.site;
            let key = site
                .and_then(|site| self.sites.borrow().site(site).map(|site| site.key.to_string()));
            let scheduler = self.scheduler.borrow();
            let parked = site.and_then(|site| scheduler.site_state(site)?.parked);
            let entry = RecipientEntry {
                id: view.id.to_string(),
                from: String::new(),
                to: format!("?@{}", recipient.domain),
                state: recipient.state.to_owned(),
                received: view.id.born().to_string(),
                size: 0,
                attempts: recipient.attempts,
                due: recipient.due.filter(|due| *due > now).map(|due| due.to_string()),
                expires: view.expires.to_string(),
                deliver_by: None,
                reason: recipient.reason.map(|reason| reason.to_string()),
                site: key,
                site_backs_off: parked
                    .map(|parked| format!("until {}: {}", parked.until, parked.reason)),
                shard: self.shard,
            };
            (recipient.index, entry)
        });
        Found {
            id: view.id,
            placement: placement(view.placement),
            hot: self.hot.borrow().find(view.slot),
            entries: entries.collect(),
        }
    }

    /// Adds what only the message itself says. A message that cannot be read is listed without.
    async fn complete(&self, found: Found, entries: &mut Vec<RecipientEntry>) {
        if found.entries.is_empty() {
            return;
        }
        let message = match found.hot {
            Some(message) => Some(message),
            None => self.spool.load(found.id, found.placement).await.ok(),
        };
        for (index, mut entry) in found.entries {
            if let Some(message) = &message {
                let recipient = message.envelope.recipients.get(index as usize);
                entry.from = from_of(&message.envelope);
                entry.size = message.content.len();
                entry.deliver_by = deliver_by_of(&message.options);
                if let Some(recipient) = recipient {
                    entry.to = recipient.address.to_string();
                }
            }
            entries.push(entry);
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

fn from_of(envelope: &Envelope) -> String {
    envelope.reverse_path.as_ref().map_or_else(String::new, ToString::to_string)
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
        let stored = Spool::read(folder, message.id, message.placement).ok();
        let envelope = stored.as_ref().map(|stored| &stored.envelope);
        let held = message.not_before;
        let wished = wished_end(message.expires, message.deliver_by);
        let expires = expiry(message.received_at, held, wished, expire);
        let open = message.recipients.iter().enumerate().filter(|(_, one)| !one.ended);
        for (index, recipient) in open {
            let known = envelope.and_then(|envelope| envelope.recipients.get(index));
            entries.push(RecipientEntry {
                id: message.id.to_string(),
                from: envelope.map_or_else(String::new, from_of),
                to: known.map_or_else(
                    || format!("?@{}", recipient.domain),
                    |known| known.address.to_string(),
                ),
                state: "stored".to_owned(),
                received: message.received_at.to_string(),
                size: stored.as_ref().map_or(0, |stored| stored.content.len()),
                attempts: recipient.attempts,
                due: recipient.due.as_ref().map(Timestamp::to_string),
                expires: expires.to_string(),
                deliver_by: stored.as_ref().and_then(|stored| deliver_by_of(&stored.options)),
                reason: recipient.reason.as_deref().map(Reason::to_string),
                site: None,
                site_backs_off: None,
                shard,
            });
        }
    }
    entries
}
