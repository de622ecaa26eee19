//! The output of the queue commands: a table for people, or JSON lines.

use super::arguments::{Filter, ListOrder, QueueCommand, SiteOrder, SummaryOrder};
use super::counted;
use crate::shard::{AGES_MINUTES, BackOffEntry, DomainEntry, RecipientEntry, SiteEntry};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Prints the lines of one answer.
pub(super) struct Screen {
    what: What,
    json: bool,
    filter: Filter,
    /// The time of the request, for ages.
    now: OffsetDateTime,
    shown: usize,
    /// Messages or domains to show; 0 is all.
    limit: usize,
    /// Messages so far, and the id of the last.
    messages: usize,
    last: String,
    totals: Totals,
    /// Entries to be sorted.
    held: Vec<RecipientEntry>,
    sites: BTreeMap<String, SiteEntry>,
    domains: Vec<DomainEntry>,
    /// Standard output is closed (`| head`): the rest is not printed.
    gone: bool,
}

/// The kind of answer.
#[derive(Clone, Copy, PartialEq)]
enum What {
    List,
    Show,
    Sites(SiteOrder),
    Summary(SummaryOrder),
}

/// The totals of a list.
#[derive(Default)]
struct Totals {
    recipients: u64,
    messages: u64,
    by_state: BTreeMap<String, u64>,
    oldest: Option<Duration>,
}

impl Screen {
    pub(super) fn new(command: &QueueCommand, json: bool, now: OffsetDateTime) -> Screen {
        let (what, limit, filter) = match command {
            QueueCommand::List { limit, filter, .. } => (What::List, *limit, filter.clone()),
            QueueCommand::Show { .. } => (What::Show, 0, Filter::default()),
            QueueCommand::Sites { sort, .. } => (What::Sites(*sort), 0, Filter::default()),
            QueueCommand::Summary { limit, sort, .. } => {
                (What::Summary(*sort), *limit, Filter::default())
            }
        };
        Screen {
            what,
            json,
            filter,
            now,
            shown: 0,
            limit,
            messages: 0,
            last: String::new(),
            totals: Totals::default(),
            held: Vec::new(),
            sites: BTreeMap::new(),
            domains: Vec::new(),
            gone: false,
        }
    }

    /// Handles one JSON line from the relay.
    pub(super) fn line(&mut self, line: &str) {
        match self.what {
            What::Sites(_) => match serde_json::from_str::<SiteEntry>(line) {
                Ok(entry) if !self.json => self.merge(entry),
                _ => self.print(line),
            },
            What::Summary(_) => match serde_json::from_str::<DomainEntry>(line) {
                Ok(entry) => self.domains.push(entry),
                Err(_) => self.print(line),
            },
            What::List | What::Show => match serde_json::from_str::<RecipientEntry>(line) {
                Ok(entry) => self.take(entry),
                Err(_) => self.print(line),
            },
        }
    }

    /// Handles a recipient: shown at once, unless entries are sorted.
    fn take(&mut self, entry: RecipientEntry) {
        if !self.is_wanted(&entry) {
            return;
        }
        if self.filter.sort.is_some() {
            self.held.push(entry);
        } else if self.fits(&entry) {
            self.stored(&entry);
        }
    }

    fn is_wanted(&self, entry: &RecipientEntry) -> bool {
        let Filter { domain, site, from, state, older_than, .. } = &self.filter;
        let holds = |wanted: &Option<String>, of: &str| {
            wanted
                .as_ref()
                .is_none_or(|text| of.to_ascii_lowercase().contains(&text.to_ascii_lowercase()))
        };
        let of_sender = match from.as_deref() {
            Some("<>") => entry.from.is_empty(),
            _ => holds(from, &entry.from),
        };
        of_sender
            && domain.as_ref().is_none_or(|domain| domain.eq_ignore_ascii_case(domain_of(entry)))
            && holds(site, entry.site.as_deref().unwrap_or_default())
            && state.is_none_or(|state| state.name() == entry.state)
            && older_than.is_none_or(|wanted| self.age(entry).is_some_and(|age| age > wanted))
    }

    fn age(&self, entry: &RecipientEntry) -> Option<Duration> {
        let received = OffsetDateTime::parse(&entry.received, &Rfc3339).ok()?;
        Some((self.now - received).unsigned_abs())
    }

    /// Counts messages; whether this one is within the limit.
    fn fits(&mut self, entry: &RecipientEntry) -> bool {
        if entry.id != self.last {
            self.messages += 1;
            self.last.clone_from(&entry.id);
        }
        let fits = self.limit == 0 || self.messages <= self.limit;
        // For a plain list the relay sends one more than is shown; else it sends all.
        if fits || !self.filter.is_plain() {
            self.count(entry);
        }
        fits
    }

    fn count(&mut self, entry: &RecipientEntry) {
        let age = self.age(entry);
        self.totals.recipients += 1;
        self.totals.messages = self.messages as u64;
        *self.totals.by_state.entry(entry.state.clone()).or_default() += 1;
        self.totals.oldest = self.totals.oldest.max(age);
    }

    /// Shows the entries of a stopped relay's spool that `command` asks for. False if it asks for a
    /// message that does not exist.
    pub(super) fn select(&mut self, entries: Vec<RecipientEntry>, command: &QueueCommand) -> bool {
        match command {
            QueueCommand::List { .. } => {
                entries.into_iter().for_each(|entry| self.take(entry));
                true
            }
            QueueCommand::Show { id, .. } => {
                let id = id.to_string();
                let mut found = false;
                for entry in entries.iter().filter(|entry| entry.id == id) {
                    self.stored(entry);
                    found = true;
                }
                found
            }
            QueueCommand::Sites { .. } | QueueCommand::Summary { .. } => true,
        }
    }

    /// Prints sorted entries and the totals.
    pub(super) fn end(&mut self) {
        if let Some(order) = self.filter.sort {
            let mut held = std::mem::take(&mut self.held);
            sort(&mut held, order);
            for entry in held {
                if self.fits(&entry) {
                    self.stored(&entry);
                }
            }
        }
        match self.what {
            What::List | What::Show => self.end_list(),
            What::Sites(order) => self.print_sites(order),
            What::Summary(order) => self.print_summary(order),
        }
    }

    fn end_list(&mut self) {
        let more = self.limit != 0 && self.messages > self.limit;
        if self.what == What::List && !self.json && self.totals.recipients > 0 {
            let Totals { recipients, messages, by_state, oldest } = &self.totals;
            let states: Vec<String> =
                by_state.iter().map(|(state, count)| format!("{count} {state}")).collect();
            let what = if more && self.filter.is_plain() { "shown: " } else { "" };
            let total = format!(
                "{what}{} of {}: {}; oldest {}",
                counted(*recipients, "recipient", "recipients"),
                counted(*messages, "message", "messages"),
                states.join(", "),
                shown_age(*oldest)
            );
            self.print(&total);
        }
        if more {
            eprintln!(
                "ringpost: there are more: --limit {} ended the list, --limit 0 shows all, and \
                 `ringpost queue summary` counts all",
                self.limit
            );
        }
        if self.json || self.shown > 0 {
            return;
        }
        match self.filter.domain.take() {
            _ if !self.filter.is_plain() => self.print("No message in the queue matches."),
            Some(domain) => self.print(&format!("No message waits for {domain}.")),
            None => self.print("The queue is empty."),
        }
    }

    fn stored(&mut self, entry: &RecipientEntry) {
        if !self.json {
            return self.recipient(entry);
        }
        if let Ok(line) = serde_json::to_string(entry) {
            self.print(&line);
        }
    }

    fn recipient(&mut self, entry: &RecipientEntry) {
        if self.what == What::Show {
            return self.details(entry);
        }
        if self.shown == 0 {
            self.print(&row("ID", "STATE", "TRIES", "NEXT", "AGE", "FROM -> TO"));
        }
        self.shown += 1;
        let age = self.age(entry);
        let from = if entry.from.is_empty() { "<>" } else { &entry.from };
        let next = next_try(entry).map_or("now".to_owned(), seconds_only);
        let tries = entry.attempts.to_string();
        let path = format!("{from} -> {}", entry.to);
        let line = row(&entry.id, &entry.state, &tries, &next, &shown_age(age), &path);
        self.print(&line);
        match (&entry.trouble, &entry.site_backs_off, &entry.reason) {
            (Some(why), ..) => self.print(&format!("{:14}{why}", "")),
            (None, Some(BackOffEntry { until, reason }), _) => {
                self.print(&format!("{:14}its site backs off until {until}: {reason}", ""));
            }
            (None, None, Some(why)) => self.print(&format!("{:14}{why}", "")),
            (None, None, None) => {}
        }
    }

    fn details(&mut self, entry: &RecipientEntry) {
        if self.shown == 0 {
            let from = if entry.from.is_empty() { "<>" } else { &entry.from };
            self.print(&format!("id        {}", entry.id));
            self.print(&format!("from      {from}"));
            self.print(&format!("received  {}", entry.received));
            self.print(&format!("expires   {}", entry.expires));
            if let Some(by) = &entry.deliver_by {
                self.print(&format!("by        {by}"));
            }
            self.print(&format!("size      {} bytes", entry.size));
            self.print(&format!("shard     {}", entry.shard));
        }
        self.shown += 1;
        self.print("");
        self.print(&format!("to        {}", entry.to));
        self.print(&format!("state     {}", explain(&entry.state)));
        if let Some(why) = &entry.trouble {
            self.print(&format!("          {why}"));
        }
        let last = entry.last_attempt.as_deref().map(seconds_only);
        let last = last.map_or(String::new(), |at| format!(", the last at {at}"));
        self.print(&format!("attempts  {}{last}", entry.attempts));
        self.print(&format!("next try  {}", next_try(entry).unwrap_or("now")));
        if let Some(site) = &entry.site {
            self.print(&format!("site      {site}"));
        }
        if let Some(BackOffEntry { until, reason }) = &entry.site_backs_off {
            self.print(&format!("          backs off until {until}: {reason}"));
        }
        if let Some(reason) = &entry.reason {
            let label = if entry.attempts > 0 { "last" } else { "why " };
            self.print(&format!("{label}      {reason}"));
        }
        for other in &entry.other_hosts {
            self.print(&format!("          {other}"));
        }
    }

    /// Merges one shard's entry of a site with those of other shards.
    fn merge(&mut self, entry: SiteEntry) {
        let Some(site) = self.sites.get_mut(&entry.site) else {
            self.sites.insert(entry.site.clone(), entry);
            return;
        };
        site.ready += entry.ready;
        site.out += entry.out;
        site.connections += entry.connections;
        site.connections_max += entry.connections_max;
        site.connections_max_of_all = site.connections_max_of_all.max(entry.connections_max_of_all);
        site.fallbacks.extend(entry.fallbacks);
        if entry.backs_off_until > site.backs_off_until {
            site.backs_off_until = entry.backs_off_until;
            site.reason = entry.reason;
        }
    }

    fn print_sites(&mut self, order: SiteOrder) {
        if self.json {
            return;
        }
        let mut sites: Vec<SiteEntry> = std::mem::take(&mut self.sites).into_values().collect();
        // The sort is stable: equal ones stay in the order of their names.
        match order {
            SiteOrder::Ready => sites.sort_by_key(|site| Reverse(site.ready)),
            SiteOrder::Out => sites.sort_by_key(|site| Reverse(site.out)),
            SiteOrder::Connections => sites.sort_by_key(|site| Reverse(site.connections)),
            SiteOrder::Site => {}
        }
        if sites.is_empty() {
            return self.print("No site has mail or connections.");
        }
        self.print(&format!("{:>8} {:>6} {:>12}  SITE", "READY", "OUT", "CONNECTIONS"));
        for site in &sites {
            let connections = format!("{}/{}", site.connections, site.connections_max_of_all);
            self.print(&format!(
                "{:>8} {:>6} {connections:>12}  {}",
                site.ready, site.out, site.site
            ));
            if let Some(until) = &site.backs_off_until {
                let reason = site.reason.as_deref().unwrap_or("");
                self.print(&format!("{:30}backs off until {until}: {reason}", ""));
            }
            for known in &site.fallbacks {
                self.print(&format!(
                    "{:30}without {} until {} at {}: {}",
                    "", known.broken, known.until, known.remote, known.reason
                ));
            }
        }
        let sum = |of: fn(&SiteEntry) -> usize| sites.iter().map(of).sum::<usize>();
        let total = format!(
            "{}: {} ready, {} out, {}",
            counted(sites.len() as u64, "site", "sites"),
            sum(|site| site.ready),
            sum(|site| site.out),
            counted(sum(|site| site.connections) as u64, "connection", "connections")
        );
        self.print(&total);
    }

    fn print_summary(&mut self, order: SummaryOrder) {
        let mut domains = std::mem::take(&mut self.domains);
        match order {
            SummaryOrder::Total => domains.sort_by_key(|one| Reverse(one.recipients)),
            SummaryOrder::Age => domains.sort_by_key(|one| Reverse(one.oldest_seconds)),
            SummaryOrder::Domain => {}
        }
        let shown = if self.limit == 0 { domains.len() } else { self.limit.min(domains.len()) };
        if self.json {
            for entry in domains.iter().take(shown) {
                if let Ok(line) = serde_json::to_string(entry) {
                    self.print(&line);
                }
            }
            return;
        }
        if domains.is_empty() {
            return self.print("The queue is empty.");
        }
        let mut head = format!("{:>8}", "TOTAL");
        for bound in AGES_MINUTES {
            head.push_str(&format!(" {bound:>6}"));
        }
        let last = AGES_MINUTES.last().copied().unwrap_or_default();
        head.push_str(&format!(" {:>6}", format!("{last}+")));
        head.push_str(&format!(
            " {:>6} {:>6} {:>6} {:>6} {:>6}  DOMAIN",
            "4XX", "DNS", "CONN", "READY", "OUT"
        ));
        self.print(&head);
        let mut total = DomainEntry { domain: "(all)".to_owned(), ..DomainEntry::default() };
        let count = domains.len();
        for (position, entry) in domains.into_iter().enumerate() {
            if position < shown {
                self.print(&summary_row(&entry));
            }
            total.add(entry);
        }
        self.print(&summary_row(&total));
        if shown < count {
            eprintln!("ringpost: there are {count} domains; --limit 0 shows all");
        }
    }

    fn print(&mut self, line: &str) {
        if !self.gone && writeln!(io::stdout(), "{line}").is_err() {
            self.gone = true;
        }
    }
}

fn row(id: &str, state: &str, tries: &str, next: &str, age: &str, path: &str) -> String {
    format!("{id:13} {state:8} {tries:>5} {next:20} {age:>7} {path}")
}

fn summary_row(entry: &DomainEntry) -> String {
    let mut row = format!("{:>8}", entry.recipients);
    for count in entry.ages {
        row.push_str(&format!(" {count:>6}"));
    }
    let DomainEntry { after_reply, after_dns, after_connection, ready, out, domain, .. } = entry;
    row.push_str(&format!(" {after_reply:>6} {after_dns:>6} {after_connection:>6}"));
    row.push_str(&format!(" {ready:>6} {out:>6}"));
    row.push_str(&format!("  {domain}"));
    row
}

fn domain_of(entry: &RecipientEntry) -> &str {
    entry.to.rsplit_once('@').map_or("", |(_, domain)| domain)
}

/// Sorts entries; times in RFC 3339 and UTC can be compared as text.
fn sort(entries: &mut [RecipientEntry], order: ListOrder) {
    let next = |entry: &RecipientEntry| next_try(entry).unwrap_or_default().to_owned();
    match order {
        ListOrder::Age => entries.sort_by(|a, b| a.received.cmp(&b.received)),
        ListOrder::Next => entries.sort_by_key(next),
        ListOrder::Tries => entries.sort_by_key(|entry| Reverse(entry.attempts)),
        ListOrder::Size => entries.sort_by_key(|entry| Reverse(entry.size)),
        ListOrder::From => entries.sort_by(|a, b| a.from.cmp(&b.from)),
        ListOrder::Domain => entries.sort_by(|a, b| domain_of(a).cmp(domain_of(b))),
    }
}

/// The two largest units: `2d 3h`, `5m 10s`.
fn shown_age(age: Option<Duration>) -> String {
    let Some(age) = age else { return "?".to_owned() };
    let seconds = age.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let first = units.iter().position(|(scale, _)| seconds >= *scale).unwrap_or(3);
    let mut left = seconds;
    let mut parts = Vec::new();
    for (scale, unit) in units.iter().skip(first).take(2) {
        if left / scale > 0 || parts.is_empty() {
            parts.push(format!("{}{unit}", left / scale));
        }
        left %= scale;
    }
    parts.join(" ")
}

/// Time of the next attempt: the entry's own, or the end of its site's back-off. `None` is now.
fn next_try(entry: &RecipientEntry) -> Option<&str> {
    let of_site = entry.site_backs_off.as_ref().map(|back_off| back_off.until.as_str());
    entry.due.as_deref().or(of_site)
}

/// `2026-11-23T18:36:59.123Z` without its fraction: `2026-11-23T18:36:59Z`.
fn seconds_only(time: &str) -> String {
    time.split_once('.').map_or(time.to_owned(), |(whole, _)| format!("{whole}Z"))
}

fn explain(state: &str) -> &str {
    match state {
        "waiting" => "waiting for its next attempt",
        "routing" => "waiting for the lookup of its site",
        "ready" => "waiting for a connection to its site",
        "out" => "being delivered now",
        "stored" => "in the spool of a stopped relay",
        "damaged" => "damaged on the disk; it will be moved to the quarantine at its next attempt",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::arguments::State;
    use super::*;

    #[test]
    fn ages_have_at_most_two_units() {
        let shown = |seconds| shown_age(Some(Duration::from_secs(seconds)));
        assert_eq!(shown(0), "0s");
        assert_eq!(shown(70), "1m 10s");
        assert_eq!(shown(3600), "1h");
        assert_eq!(shown(2 * 86_400 + 3 * 3600 + 59), "2d 3h");
        assert_eq!(shown_age(None), "?");
    }

    #[test]
    fn entries_are_chosen_by_every_filter_and_ordered() {
        let entry = |from: &str, to: &str, state: &str, received: &str, size| RecipientEntry {
            from: from.to_owned(),
            to: to.to_owned(),
            state: state.to_owned(),
            received: received.to_owned(),
            site: Some("mx:a".to_owned()).filter(|_| state == "ready"),
            size,
            ..RecipientEntry::default()
        };
        let mut entries = [
            entry("", "x@b.test", "ready", "2026-01-02T00:00:00.000Z", 5),
            entry("News@s.test", "y@a.test", "waiting", "2026-01-01T00:00:00.000Z", 9),
        ];
        let chosen = |filter: Filter| {
            let command =
                QueueCommand::List { limit: 0, filter, json: false, settings: Default::default() };
            let now = OffsetDateTime::from_unix_timestamp(1_767_312_000 + 3600).ok();
            let screen = now.map(|now| Screen::new(&command, false, now));
            let wanted = entries
                .iter()
                .filter(|entry| screen.as_ref().is_some_and(|screen| screen.is_wanted(entry)));
            wanted.map(|entry| entry.size).collect::<Vec<_>>()
        };
        let all = Filter::default;
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(chosen(all()), [5, 9]);
        assert_eq!(chosen(Filter { domain: text("A.test"), ..all() }), [9]);
        assert_eq!(chosen(Filter { from: text("news@"), ..all() }), [9]);
        assert_eq!(chosen(Filter { from: text("<>"), ..all() }), [5]);
        assert_eq!(chosen(Filter { site: text("mx:"), ..all() }), [5]);
        assert_eq!(chosen(Filter { state: Some(State::Waiting), ..all() }), [9]);
        let day = Duration::from_secs(86_400);
        assert_eq!(chosen(Filter { older_than: Some(day), ..all() }), [9]);
        sort(&mut entries, ListOrder::Age);
        assert_eq!(entries.first().map(|entry| entry.size), Some(9));
        sort(&mut entries, ListOrder::Domain);
        assert_eq!(entries.first().map(|entry| entry.size), Some(9));
    }

    #[test]
    fn a_recipient_ready_for_a_site_in_back_off_is_not_tried_now() {
        let mut entry = RecipientEntry { state: "ready".to_owned(), ..RecipientEntry::default() };
        assert_eq!(next_try(&entry), None);
        entry.site_backs_off = Some(BackOffEntry {
            until: "2026-11-23T20:35:20.423Z".to_owned(),
            reason: "421 4.3.2 too busy: later".to_owned(),
        });
        assert_eq!(next_try(&entry), Some("2026-11-23T20:35:20.423Z"));
        entry.due = Some("2026-11-23T21:00:00.000Z".to_owned());
        assert_eq!(next_try(&entry), entry.due.as_deref());
    }
}
