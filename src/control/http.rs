//! The HTTP server on the control socket. Answers are JSON objects, one a line.
//!
//! ```text
//! GET /queue?limit=100&domain=example.net   waiting recipients, at most `limit` messages
//! GET /queue/ID                             the waiting recipients of one message
//! GET /sites                                sites, one line per shard that knows them
//! GET /summary                              waiting recipients by domain: state, age, cause
//! GET /health                               whether each shard takes mail; 503 if one does not,
//!                                           and while the relay stops
//! ```

use crate::config::Config;
use crate::message::QueueId;
use crate::ring::Sender;
use crate::shard::{self, DomainEntry, HealthEntry, Page, Request, SiteEntry};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// Messages requested from a shard at once.
const PAGE: usize = 200;
/// Messages counted by a shard at once; its mail waits meanwhile.
const SUMMARY_PAGE: usize = 2000;
/// Longest wait for a shard's answer; then the request fails.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

type Shards = Arc<Vec<Sender<Request>>>;

/// Whether the relay has been asked to stop: then no shard takes mail. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Stopping(Arc<AtomicBool>);

impl Stopping {
    /// The relay has been asked to stop.
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The shards' request mailboxes, the configuration, and whether the relay stops.
#[derive(Clone)]
struct Relay {
    shards: Shards,
    config: Arc<Config>,
    stopping: Stopping,
}

/// The routes, over the shards' request mailboxes.
pub(super) fn router(
    requests: Vec<Sender<Request>>,
    config: Arc<Config>,
    stopping: Stopping,
) -> Router {
    Router::new()
        .route("/queue", get(list))
        .route("/queue/{id}", get(show))
        .route("/sites", get(sites))
        .route("/summary", get(summary))
        .route("/health", get(health))
        .fallback(nothing)
        .with_state(Relay { shards: Arc::new(requests), config, stopping })
}

#[derive(Deserialize)]
struct ListQuery {
    /// Messages; 0 is all.
    #[serde(default)]
    limit: usize,
    domain: Option<String>,
}

/// The state of a listing.
struct Listing {
    shards: Shards,
    shard: usize,
    cursor: u32,
    left: usize,
    domain: Option<String>,
}

async fn list(State(relay): State<Relay>, Query(query): Query<ListQuery>) -> Response {
    let left = if query.limit == 0 { usize::MAX } else { query.limit };
    let domain = query.domain.map(|domain| domain.to_ascii_lowercase());
    let listing = Listing { shards: relay.shards, shard: 0, cursor: 0, left, domain };
    // Page by page, so that a listing of millions needs the memory of one page only.
    let pages = futures_lite::stream::unfold(listing, |mut listing| async {
        let page = listing.next().await?;
        // An error cuts the answer, so that what is left out is not taken for an empty queue.
        Some((page.map(|page| lines(&page.entries)), listing))
    });
    json_lines(Body::from_stream(pages))
}

impl Listing {
    async fn next(&mut self) -> Option<io::Result<Page>> {
        if self.left == 0 {
            return None;
        }
        let shard = self.shards.get(self.shard)?;
        let limit = self.left.min(PAGE);
        let (cursor, domain) = (self.cursor, self.domain.clone());
        let request = |reply| Request::List { cursor, limit, domain, reply };
        let Some(mut page) = ask_shard(shard, request).await else {
            let silent = silent(self.shard);
            self.left = 0;
            return Some(Err(io::Error::new(io::ErrorKind::TimedOut, silent)));
        };
        match page.next {
            Some(next) => self.cursor = next,
            None => {
                self.shard += 1;
                self.cursor = 0;
            }
        }
        // The limit is on messages; the entries of a page are recipients, grouped by message id.
        let mut messages = 0;
        let mut last = String::new();
        let keep = page.entries.iter().position(|entry| {
            if entry.id != last {
                messages += 1;
                last.clone_from(&entry.id);
            }
            messages > self.left
        });
        page.entries.truncate(keep.unwrap_or(page.entries.len()));
        self.left -= messages.min(self.left);
        Some(Ok(page))
    }
}

async fn show(State(relay): State<Relay>, Path(text): Path<String>) -> Response {
    let Some(id) = QueueId::parse(&text) else {
        let cause = format!("{text:?} is not a queue id: 13 letters and digits\n");
        return (StatusCode::BAD_REQUEST, cause).into_response();
    };
    for shard in relay.shards.iter() {
        let entries = ask_shard(shard, |reply| Request::Show { id, reply }).await;
        match entries {
            Some(entries) if entries.is_empty() => {}
            Some(entries) => return json_lines(Body::from(lines(&entries))),
            None => return (StatusCode::GATEWAY_TIMEOUT, "no answer\n").into_response(),
        }
    }
    let looked = tokio::task::spawn_blocking(move || shard::absence(&relay.config, id));
    let cause = looked.await.unwrap_or_else(|_| format!("{id} is not in the queue"));
    (StatusCode::NOT_FOUND, format!("{cause}\n")).into_response()
}

async fn nothing() -> Response {
    let paths = "there are /queue?limit=N&domain=D, /queue/ID, /sites, /summary and /health\n";
    (StatusCode::NOT_FOUND, paths).into_response()
}

async fn sites(State(relay): State<Relay>) -> Response {
    let mut all: Vec<SiteEntry> = Vec::new();
    for (number, shard) in relay.shards.iter().enumerate() {
        match ask_shard(shard, |reply| Request::Sites { reply }).await {
            Some(sites) => all.extend(sites),
            None => return (StatusCode::GATEWAY_TIMEOUT, silent(number)).into_response(),
        }
    }
    // Here, and not on a shard, which has mail to move.
    all.sort_by(|one, other| {
        (one.shard, &one.site, &one.kind).cmp(&(other.shard, &other.site, &other.kind))
    });
    json_lines(Body::from(lines(&all)))
}

async fn health(State(relay): State<Relay>) -> Response {
    let mut all: Vec<HealthEntry> = Vec::new();
    for (number, shard) in relay.shards.iter().enumerate() {
        let not_ok = |reason: &str| HealthEntry {
            shard: number,
            ok: false,
            reason: Some(reason.to_owned()),
        };
        if relay.stopping.0.load(Ordering::Relaxed) {
            all.push(not_ok("the relay is stopping"));
            continue;
        }
        let answer = ask_shard(shard, |reply| Request::Health { reply }).await;
        all.push(answer.unwrap_or_else(|| not_ok("it does not answer")));
    }
    let status = match all.iter().all(|one| one.ok) {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, json_lines(Body::from(lines(&all)))).into_response()
}

async fn summary(State(relay): State<Relay>) -> Response {
    let mut by_domain: BTreeMap<String, DomainEntry> = BTreeMap::new();
    for shard in relay.shards.iter() {
        let mut cursor = Some(0);
        while let Some(from) = cursor {
            let request = |reply| Request::Summary { cursor: from, limit: SUMMARY_PAGE, reply };
            let Some(page) = ask_shard(shard, request).await else {
                return (StatusCode::GATEWAY_TIMEOUT, "no answer\n").into_response();
            };
            for entry in page.domains {
                by_domain.entry(entry.domain.clone()).or_default().add(entry);
            }
            cursor = page.next;
        }
    }
    let entries = by_domain.into_iter().map(|(domain, entry)| DomainEntry { domain, ..entry });
    json_lines(Body::from(lines(&entries.collect::<Vec<_>>())))
}

async fn ask_shard<T>(
    shard: &Sender<Request>,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    shard.try_send(request(reply)).ok()?;
    tokio::time::timeout(ANSWER_WAIT, answer).await.ok()?.ok()
}

fn silent(shard: usize) -> String {
    format!("shard {shard} does not answer\n")
}

fn lines<T: Serialize>(entries: &[T]) -> Vec<u8> {
    let mut text = Vec::new();
    for entry in entries {
        if serde_json::to_writer(&mut text, entry).is_ok() {
            text.push(b'\n');
        }
    }
    text
}

fn json_lines(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Machine;
    use crate::ring;

    #[tokio::test]
    async fn a_relay_that_stops_is_not_healthy() {
        let config = Config::read("", "", &[], &Machine::this()).unwrap();
        let (shard, requests) = ring::mailbox(1);
        let stopping = Stopping::default();
        let relay = Relay {
            shards: Arc::new(vec![shard]),
            config: Arc::new(config),
            stopping: stopping.clone(),
        };
        stopping.begin();
        let answer = health(State(relay)).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = axum::body::to_bytes(answer.into_body(), 1024).await.unwrap();
        let entry: HealthEntry = serde_json::from_slice(&body).unwrap();
        assert_eq!((entry.ok, entry.reason.as_deref()), (false, Some("the relay is stopping")));
        drop(requests);
    }
}
