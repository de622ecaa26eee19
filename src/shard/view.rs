//! What the operator is shown of a shard's queue: who waits, since when, until when, and why.

use super::now;
use super::queue::{Queue, placement};
use crate::message::{Envelope, QueueId, Reason, Timestamp};
use crate::pool::HomeView;
use crate::scheduler::MessageView;
use crate::spool::Recovery;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::rc::Rc;

/// One recipient that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecipientEntry {
    /// Queue id.
    pub id: String,
    /// Reverse-path; empty for reports.
    pub from: String,
    /// Forward-path.
    pub to: String,
    /// `waiting` for its time, `routing` (its site is looked for), `ready` (waits for a connection),
    /// `out` (being delivered); `stored` in a stopped relay's spool.
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
        let (messages, next) = self.scheduler.borrow().messages_from(cursor, limit);
        let mut entries = Vec::new();
        for view in &messages {
            let is_wanted = domain.is_none_or(|domain| {
                view.recipients.iter().any(|recipient| &*recipient.domain == domain)
            });
            if is_wanted {
                entries.extend(self.entries_of(view, domain).await);
            }
        }
        Page { entries, next }
    }

    /// The waiting recipients of one message.
    pub(super) async fn show(self: &Rc<Self>, id: QueueId) -> Vec<RecipientEntry> {
        let view = {
            let scheduler = self.scheduler.borrow();
            scheduler.find(id).and_then(|slot| scheduler.message(slot))
        };
        match view {
            Some(view) => self.entries_of(&view, None).await,
            None => Vec::new(),
        }
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

    async fn entries_of(&self, view: &MessageView, domain: Option<&str>) -> Vec<RecipientEntry> {
        let hot = self.scheduler.borrow().find(view.id).and_then(|slot| {
            self.hot.borrow().find(slot)
        });
        let message = match hot {
            Some(message) => Some(message),
            None => self.spool.load(view.id, placement(view.placement)).await.ok(),
        };
        let envelope = message.as_ref().map(|message| &message.envelope);
        let size = message.as_ref().map_or(0, |message| message.content.len());
        let now = now();
        view.recipients
            .iter()
            .filter(|recipient| domain.is_none_or(|domain| &*recipient.domain == domain))
            .map(|recipient| {
                let site = recipient.site.and_then(|site| {
                    self.sites.borrow().site(site).map(|site| site.key.to_string())
                });
                let parked =
                    recipient.site.and_then(|site| self.scheduler.borrow().site_state(site));
                RecipientEntry {
                    id: view.id.to_string(),
                    from: from_of(envelope),
                    to: to_of(envelope, recipient.index, &recipient.domain),
                    state: recipient.state.to_owned(),
                    received: view.id.born().to_string(),
                    size,
                    attempts: recipient.attempts,
                    due: (recipient.due > now).then(|| recipient.due.to_string()),
                    expires: view.expires.to_string(),
                    reason: recipient.reason.as_deref().map(Reason::to_string),
                    site,
                    site_backs_off: parked
                        .map(|parked| format!("until {}: {}", parked.until, parked.reason)),
                    shard: self.shard,
                }
            })
            .collect()
    }
}

fn from_of(envelope: Option<&Envelope>) -> String {
    envelope
        .and_then(|envelope| envelope.reverse_path.as_ref())
        .map_or_else(String::new, ToString::to_string)
}

/// The address; when the record cannot be read, what is known of it.
fn to_of(envelope: Option<&Envelope>, index: u32, domain: &str) -> String {
    envelope
        .and_then(|envelope| envelope.recipients.get(index as usize))
        .map_or_else(|| format!("?@{domain}"), |recipient| recipient.address.to_string())
}

/// The same view of a stopped relay's spool.
pub fn entries_of_recovery(
    recovery: &Recovery,
    shard: usize,
    expire: std::time::Duration,
) -> Vec<RecipientEntry> {
    let mut entries = Vec::new();
    for message in &recovery.messages {
        let ours = message.received_at.plus(expire);
        let expires = message.options.expires.map_or(ours, |wished| wished.min(ours));
        for recipient in message.recipients.iter().filter(|recipient| !recipient.ended) {
            entries.push(RecipientEntry {
                id: message.id.to_string(),
                from: message.from.as_ref().map_or_else(String::new, ToString::to_string),
                to: recipient.address.to_string(),
                state: "stored".to_owned(),
                received: message.received_at.to_string(),
                size: message.size,
                attempts: recipient.attempts,
                due: recipient.due.as_ref().map(Timestamp::to_string),
                expires: expires.to_string(),
                reason: recipient.reason.as_ref().map(Reason::to_string),
                site: None,
                site_backs_off: None,
                shard,
            });
        }
    }
    entries
}
