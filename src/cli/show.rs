//! What the queue commands print: a table for people, or the JSON lines as they came.

use super::arguments::QueueCommand;
use crate::shard::{RecipientEntry, SiteEntry};
use std::io::{self, Write};

/// Prints lines of one answer.
pub(super) struct Screen {
    what: What,
    json: bool,
    shown: usize,
    /// Messages to show; 0 is all.
    limit: usize,
    /// Messages so far, and the id of the last.
    messages: usize,
    last: String,
    /// Of which domain, when one was asked for.
    domain: Option<String>,
    /// Standard output is gone (`| head`): the rest is not printed.
    gone: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    List,
    Show,
    Sites,
}

impl Screen {
    pub(super) fn new(command: &QueueCommand, json: bool) -> Screen {
        let what = match command {
            QueueCommand::List { .. } => What::List,
            QueueCommand::Show { .. } => What::Show,
            QueueCommand::Sites { .. } => What::Sites,
        };
        let (limit, domain) = match command {
            QueueCommand::List { limit, domain, .. } => (*limit, domain.clone()),
            QueueCommand::Show { .. } | QueueCommand::Sites { .. } => (0, None),
        };
        let last = String::new();
        Screen { what, json, shown: 0, limit, messages: 0, last, domain, gone: false }
    }

    /// One JSON line from the relay.
    pub(super) fn line(&mut self, line: &str) {
        if self.json && self.limit == 0 {
            return self.print(line);
        }
        match self.what {
            What::Sites => match serde_json::from_str::<SiteEntry>(line) {
                Ok(entry) => self.site(&entry),
                Err(_) => self.print(line),
            },
            What::List | What::Show => match serde_json::from_str::<RecipientEntry>(line) {
                Ok(entry) if !self.fits(&entry) => {}
                Ok(_) if self.json => self.print(line),
                Ok(entry) => self.recipient(&entry),
                Err(_) => self.print(line),
            },
        }
    }

    /// Counts the messages: whether this one is within the limit.
    fn fits(&mut self, entry: &RecipientEntry) -> bool {
        if entry.id != self.last {
            self.messages += 1;
            self.last.clone_from(&entry.id);
        }
        self.limit == 0 || self.messages <= self.limit
    }

    /// The entries of a stopped relay's spool that `command` asks for; whether there was any, or
    /// none was asked for by name.
    pub(super) fn select(&mut self, entries: Vec<RecipientEntry>, command: &QueueCommand) -> bool {
        match command {
            QueueCommand::List { domain, .. } => {
                for entry in entries {
                    let is_wanted = domain.as_ref().is_none_or(|domain| {
                        entry
                            .to
                            .rsplit_once('@')
                            .is_some_and(|(_, of)| of.eq_ignore_ascii_case(domain))
                    });
                    if is_wanted && self.fits(&entry) {
                        self.stored(&entry);
                    }
                }
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
            QueueCommand::Sites { .. } => true,
        }
    }

    pub(super) fn end(&mut self) {
        if self.limit != 0 && self.messages > self.limit {
            eprintln!(
                "ringpost: there are more: --limit {} ended the list, --limit 0 shows all",
                self.limit
            );
        }
        if self.json || self.shown > 0 {
            return;
        }
        match self.what {
            What::List | What::Show => match self.domain.take() {
                Some(domain) => self.print(&format!("Nothing waits for {domain}.")),
                None => self.print("The queue is empty."),
            },
            What::Sites => self.print("No site has mail or connections."),
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
            self.print(&row("ID", "STATE", "TRIES", "NEXT", "FROM -> TO"));
        }
        self.shown += 1;
        let from = if entry.from.is_empty() { "<>" } else { &entry.from };
        let next = next_try(entry).map_or("now".to_owned(), seconds_only);
        let tries = entry.attempts.to_string();
        let line = row(&entry.id, &entry.state, &tries, &next, &format!("{from} -> {}", entry.to));
        self.print(&line);
        match (&entry.trouble, &entry.site_backs_off, &entry.reason) {
            (Some(why), ..) => self.print(&format!("{:14}{why}", "")),
            (None, Some(why), _) => self.print(&format!("{:14}its site backs off {why}", "")),
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
        self.print(&format!("attempts  {}", entry.attempts));
        self.print(&format!("next try  {}", next_try(entry).unwrap_or("now")));
        if let Some(site) = &entry.site {
            self.print(&format!("site      {site}"));
        }
        if let Some(why) = &entry.site_backs_off {
            self.print(&format!("          backs off {why}"));
        }
        if let Some(reason) = &entry.reason {
            self.print(&format!("last      {reason}"));
        }
    }

    fn site(&mut self, entry: &SiteEntry) {
        if self.shown == 0 {
            self.print(&format!(
                "{:>5} {:>8} {:>6} {:>12}  SITE",
                "SHARD", "READY", "OUT", "CONNECTIONS"
            ));
        }
        self.shown += 1;
        let connections = format!("{}/{}", entry.connections, entry.connections_max);
        self.print(&format!(
            "{:>5} {:>8} {:>6} {connections:>12}  {}",
            entry.shard, entry.ready, entry.out, entry.site
        ));
        if let Some(until) = &entry.backs_off_until {
            let reason = entry.reason.as_deref().unwrap_or("");
            self.print(&format!("{:36}backs off until {until}: {reason}", ""));
        }
    }

    fn print(&mut self, line: &str) {
        if !self.gone && writeln!(io::stdout(), "{line}").is_err() {
            self.gone = true;
        }
    }
}

fn row(id: &str, state: &str, tries: &str, next: &str, who: &str) -> String {
    format!("{id:13} {state:8} {tries:>5} {next:20} {who}")
}

/// When: its own time, or that of the site it is ready for. `None` is now.
fn next_try(entry: &RecipientEntry) -> Option<&str> {
    let of_site =
        || Some(entry.site_backs_off.as_deref()?.strip_prefix("until ")?.split_once(": ")?.0);
    entry.due.as_deref().or_else(of_site)
}

/// `2026-11-23T18:36:59.123Z` without its fraction: `2026-11-23T18:36:59Z`.
fn seconds_only(time: &str) -> String {
    time.split_once('.').map_or(time.to_owned(), |(whole, _)| format!("{whole}Z"))
}

fn explain(state: &str) -> &str {
    match state {
        "waiting" => "waiting for its next try",
        "routing" => "waiting for the DNS to name its site",
        "ready" => "waiting for a connection to its site",
        "out" => "being delivered now",
        "stored" => "in the spool of a stopped relay",
        "damaged" => "damaged on the disk; when its turn comes it is set aside in the quarantine",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ready_for_a_site_that_backs_off_is_not_tried_now() {
        let mut entry = RecipientEntry { state: "ready".to_owned(), ..RecipientEntry::default() };
        assert_eq!(next_try(&entry), None);
        entry.site_backs_off =
            Some("until 2026-11-23T20:35:20.423Z: 421 4.3.2 too busy: later".to_owned());
        assert_eq!(next_try(&entry), Some("2026-11-23T20:35:20.423Z"));
        entry.due = Some("2026-11-23T21:00:00.000Z".to_owned());
        assert_eq!(next_try(&entry), entry.due.as_deref());
    }
}
