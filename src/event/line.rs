//! The fields of an event and their form as a JSON line.
//!
//! Fields are written in the order of this file; empty ones are left out. A release may add fields;
//! names and meanings do not change.

use crate::message::{
    Address, HostAttempt, InEvents, Options, QueueId, Reason, Recipient, Shown, Status, Timestamp,
};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use std::net::SocketAddr;

/// Largest number of recipients in a `received` line; `recipients` counts all.
pub const TO_LIST_MAX: usize = 50;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A message was made durable and answered with 250. One line for all its recipients.
    Received,
    /// A command of a client was refused.
    Rejected,
    /// The next hop took responsibility for a recipient.
    Delivered,
    /// An attempt failed and will be repeated at `due`.
    Deferred,
    /// A recipient failed: refused permanently.
    Bounced,
    /// A recipient failed: its time in the queue has expired.
    Expired,
    /// A recipient of mail with the null reverse-path was refused permanently: no report is sent.
    Dropped,
    /// A recipient's message is damaged on the disk: it is not delivered, and its remains are in
    /// the quarantine. Only the domain of the forward-path is known.
    SetAside,
    /// A delivery had begun and its result is not known: the relay ended meanwhile.
    InDoubt,
    /// Lines could not be written before this one; `lost` is their number.
    LostEvents,
    /// The shard is ready for mail.
    Started,
    /// The shard has stopped.
    Stopped,
}

/// One line. Create it with [`Event::new`] and set the fields that apply.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Event<'a> {
    /// The time, by the wall clock.
    #[serde(serialize_with = "as_text")]
    pub time: Timestamp,
    /// What happened.
    pub event: Kind,
    /// The shard; set by the log to which it is written.
    pub shard: usize,
    /// The message.
    #[serde(serialize_with = "as_text_if_any", skip_serializing_if = "Option::is_none")]
    pub id: Option<QueueId>,
    /// When the message was received.
    #[serde(serialize_with = "as_text_if_any", skip_serializing_if = "Option::is_none")]
    pub received: Option<Timestamp>,
    /// The reverse-path; empty for `<>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<&'a str>,
    /// The forward-path that the event is about; its domain is written as a further field.
    #[serde(flatten)]
    pub to: Option<ForwardPath<'a>>,
    /// Number of recipients of a received message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipients: Option<usize>,
    /// The first [`TO_LIST_MAX`] of them.
    #[serde(serialize_with = "as_list", skip_serializing_if = "<[Recipient]>::is_empty")]
    pub to_list: &'a [Recipient],
    /// The options of the message, by their names in `Options::OPTIONS`.
    #[serde(flatten)]
    pub options: OptionFields<'a>,
    /// The site to which the recipient's mail goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<&'a str>,
    /// The host that replied or was tried.
    #[serde(flatten)]
    pub remote: Option<Remote<'a>>,
    /// The stage of the conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<&'a str>,
    /// SMTP reply code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Enhanced status code.
    #[serde(serialize_with = "as_text_if_any", skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// The text of the reply; without a code, a text of the relay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<&'a str>,
    /// All hosts that were tried in the attempt, where there was more than one; `remote` first.
    #[serde(serialize_with = "as_hosts", skip_serializing_if = "<[HostAttempt]>::is_empty")]
    pub hosts: &'a [HostAttempt],
    /// Number of the attempt: the first is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u16>,
    /// The time of the next attempt.
    #[serde(serialize_with = "as_text_if_any", skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// Size of the content in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The client that sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<SocketAddr>,
    /// The address and port to which it connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<SocketAddr>,
    /// The name that the client gave in EHLO or HELO.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub helo: Option<&'a str>,
    /// `SMTP`, `ESMTP` ... (RFC 3848).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<&'a str>,
    /// The version of TLS: `TLSv1.3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<&'a str>,
    /// The cipher suite: `TLS_AES_256_GCM_SHA384`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cipher: Option<&'a str>,
    /// Milliseconds since reception.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued_ms: Option<u64>,
    /// Duration of this attempt in milliseconds, from when the connection got the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt_ms: Option<u64>,
    /// The message on which this one is a report.
    #[serde(serialize_with = "as_text_if_any", skip_serializing_if = "Option::is_none")]
    pub about: Option<QueueId>,
    /// Number of lines that were dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// The authenticated user; for a failed AUTH, the name that was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
}

/// A forward-path, and its domain in lower case.
#[derive(Clone, Copy, Debug)]
pub struct ForwardPath<'a>(pub &'a str);

impl Serialize for ForwardPath<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = to.serialize_map(None)?;
        fields.serialize_entry("to", self.0)?;
        // What a client gave for a path, and was refused for, has brackets or worse.
        let is_domain = |domain: &str| !domain.is_empty() && !domain.contains(['<', '>', ' ']);
        if let Some((_, domain)) = self.0.rsplit_once('@').filter(|(_, domain)| is_domain(domain)) {
            if domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
                fields.serialize_entry("domain", &domain.to_ascii_lowercase())?;
            } else {
                fields.serialize_entry("domain", domain)?;
            }
        }
        fields.end()
    }
}

/// A host in the form of [`Reason`], `name [address]:port`, and its parts.
#[derive(Clone, Copy, Debug)]
pub struct Remote<'a>(pub &'a str);

impl Serialize for Remote<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = to.serialize_map(None)?;
        fields.serialize_entry("remote", self.0)?;
        if let Some((name, rest)) = self.0.rsplit_once('[')
            && let Some((address, port)) = rest.rsplit_once("]:")
            && let Ok(port) = port.parse::<u16>()
        {
            let name = name.trim_end();
            if !name.is_empty() {
                fields.serialize_entry("remote_name", name)?;
            }
            fields.serialize_entry("remote_address", address)?;
            fields.serialize_entry("remote_port", &port)?;
        }
        fields.end()
    }
}

impl<'a> Event<'a> {
    /// An event with only its time and kind.
    pub fn new(event: Kind, time: Timestamp) -> Event<'a> {
        Event {
            time,
            event,
            shard: 0,
            id: None,
            received: None,
            from: None,
            to: None,
            recipients: None,
            to_list: &[],
            options: OptionFields::default(),
            site: None,
            remote: None,
            stage: None,
            code: None,
            status: None,
            text: None,
            hosts: &[],
            attempt: None,
            due: None,
            size: None,
            client: None,
            listener: None,
            helo: None,
            protocol: None,
            tls: None,
            cipher: None,
            queued_ms: None,
            attempt_ms: None,
            about: None,
            lost: None,
            user: None,
        }
    }

    /// Sets the message that it is about, and the time since its reception.
    #[must_use]
    pub fn of(self, id: QueueId, from: Option<&'a Address>) -> Event<'a> {
        let queued = self.time.since(id.born());
        Event {
            id: Some(id),
            received: Some(id.born()),
            from: Some(from.map_or("", Address::as_str)),
            queued_ms: Some(u64::try_from(queued.as_millis()).unwrap_or(u64::MAX)),
            ..self
        }
    }

    /// Sets those of the message's options that events of this kind have.
    #[must_use]
    pub fn with_options(self, options: &'a Options) -> Event<'a> {
        let all = self.event == Kind::Received;
        Event { options: OptionFields { options: Some(options), all }, ..self }
    }

    /// Sets all recipients, bounded: for `received`.
    #[must_use]
    pub fn to_all(self, recipients: &'a [Recipient]) -> Event<'a> {
        Event { recipients: Some(recipients.len()), to_list: recipients, ..self }
    }

    /// Sets the reply of a server, or a reason of the relay.
    #[must_use]
    pub fn because(self, reason: &'a Reason) -> Event<'a> {
        Event {
            remote: Some(Remote(&reason.remote)).filter(|remote| !remote.0.is_empty()),
            stage: Some(reason.stage.name()).filter(|stage| !stage.is_empty()),
            code: Some(reason.code).filter(|&code| code != 0),
            status: Some(reason.status),
            text: Some(&*reason.text).filter(|text| !text.is_empty()),
            hosts: reason.hosts.as_deref().unwrap_or_default(),
            ..self
        }
    }
}

/// The options of a message as fields of an event. The names have underscores for hyphens.
#[derive(Clone, Copy, Debug, Default)]
pub struct OptionFields<'a> {
    options: Option<&'a Options>,
    /// Whether to write those that only `received` has, too.
    all: bool,
}

impl Serialize for OptionFields<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = to.serialize_map(None)?;
        let options = self.options.into_iter();
        for (row, options) in
            options.flat_map(|of| Options::OPTIONS.iter().map(move |row| (row, of)))
        {
            let wanted = match row.events {
                InEvents::None => false,
                InEvents::Received => self.all,
                InEvents::Every => true,
            };
            let Some(shown) = row.shown(options).filter(|_| wanted) else { continue };
            let name = row.name.replace('-', "_");
            match shown {
                Shown::Flag => fields.serialize_entry(&name, &true)?,
                Shown::Number(number) => fields.serialize_entry(&name, &number)?,
                Shown::Text(text) => fields.serialize_entry(&name, &*text)?,
            }
        }
        fields.end()
    }
}

/// `None` for an empty text: an event leaves out empty fields.
pub fn non_empty(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn as_text<T: std::fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn as_text_if_any<T: std::fmt::Display, S: Serializer>(
    value: &Option<T>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.collect_str(value),
        None => to.serialize_none(),
    }
}

/// One host of an attempt, with the same field names as the event.
#[derive(Serialize)]
struct Host<'a> {
    #[serde(flatten)]
    remote: Remote<'a>,
    stage: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(serialize_with = "as_text")]
    status: Status,
    text: &'a str,
}

fn as_hosts<S: Serializer>(hosts: &&[HostAttempt], to: S) -> Result<S::Ok, S::Error> {
    let mut list = to.serialize_seq(Some(hosts.len()))?;
    for host in *hosts {
        list.serialize_element(&Host {
            remote: Remote(&host.remote),
            stage: host.stage.name(),
            code: Some(host.code).filter(|&code| code != 0),
            status: host.status,
            text: &host.text,
        })?;
    }
    list.end()
}

fn as_list<S: Serializer>(recipients: &&[Recipient], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(recipients.iter().take(TO_LIST_MAX).map(|one| one.address.as_str()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::message::Stage;

    const NOW: Timestamp = Timestamp(1_700_000_000_123);

    fn line(event: &Event<'_>) -> String {
        serde_json::to_string(event).unwrap()
    }

    fn id() -> QueueId {
        QueueId((NOW.0 - 1500) * 1000)
    }

    #[test]
    fn a_received_message() {
        let sender = Address::new("a@example.org");
        let to: Vec<Recipient> = ["b@example.net", "\"c d\"@example.net"]
            .map(|address| Recipient::plain(Address::new(address)))
            .into();
        let options = Options {
            tenant: "shop".into(),
            priority: -2,
            smtp_utf8: true,
            not_before: Some(NOW),
            ..Options::default()
        };
        let event = Event {
            size: Some(4711),
            client: Some("[2001:db8::1]:2525".parse().unwrap()),
            listener: Some("192.0.2.9:25".parse().unwrap()),
            helo: Some("app.example.org"),
            protocol: Some("ESMTP"),
            ..Event::new(Kind::Received, NOW).of(id(), Some(&sender)).to_all(&to)
        }
        .with_options(&options);
        assert_eq!(
            line(&event),
            concat!(
                r#"{"time":"2023-11-14T22:13:20.123Z","event":"received","shard":0,"#,
                r#""id":"001GA4GC0JF8R","received":"2023-11-14T22:13:18.623Z","#,
                r#""from":"a@example.org","recipients":2,"#,
                r#""to_list":["b@example.net","\"c d\"@example.net"],"tenant":"shop","#,
                r#""priority":-2,"smtputf8":true,"not_before":"2023-11-14T22:13:20.123Z","#,
                r#""size":4711,"client":"[2001:db8::1]:2525","listener":"192.0.2.9:25","#,
                r#""helo":"app.example.org","protocol":"ESMTP","queued_ms":1500}"#
            )
        );
    }

    #[test]
    fn events_after_the_first_have_few_of_the_options() {
        let tenant = Options { tenant: "t".into(), ..Options::default() };
        let options = Options { priority: 3, require_tls: true, ..tenant };
        let text = line(&Event::new(Kind::Delivered, NOW).with_options(&options));
        assert!(text.ends_with(r#""shard":0,"tenant":"t"}"#), "{text}");
        let none = Options::default();
        let text = line(&Event::new(Kind::Received, NOW).with_options(&none));
        assert!(text.ends_with(r#""shard":0}"#), "{text}");
    }

    #[test]
    fn a_deferred_recipient_of_a_message_without_sender() {
        let reason = Reason {
            stage: Stage::Recipient,
            code: 450,
            status: Status(4, 2, 1),
            text: "Mailbox \"b\"\tbusy".into(),
            remote: "mx1.example.net [192.0.2.1]:25".into(),
            hosts: None,
        };
        let event = Event {
            to: Some(ForwardPath("b@Example.net")),
            site: Some("mx:mx1.example.net"),
            attempt: Some(2),
            due: Some(Timestamp(NOW.0 + 60_000)),
            attempt_ms: Some(12),
            ..Event::new(Kind::Deferred, NOW).of(id(), None).because(&reason)
        };
        assert_eq!(
            line(&event),
            concat!(
                r#"{"time":"2023-11-14T22:13:20.123Z","event":"deferred","shard":0,"#,
                r#""id":"001GA4GC0JF8R","received":"2023-11-14T22:13:18.623Z","from":"","#,
                r#""to":"b@Example.net","domain":"example.net","#,
                r#""site":"mx:mx1.example.net","remote":"mx1.example.net [192.0.2.1]:25","#,
                r#""remote_name":"mx1.example.net","remote_address":"192.0.2.1","#,
                r#""remote_port":25,"#,
                r#""stage":"rcpt","code":450,"status":"4.2.1","text":"Mailbox \"b\"\tbusy","#,
                r#""attempt":2,"due":"2023-11-14T22:14:20.123Z","queued_ms":1500,"attempt_ms":12}"#
            )
        );
    }

    #[test]
    fn a_host_is_split_into_its_parts_where_possible() {
        for (remote, parts) in [
            (
                "mx [2001:db8::1]:25",
                r#","remote_name":"mx","remote_address":"2001:db8::1","remote_port":25"#,
            ),
            ("[192.0.2.1]:2525", r#","remote_address":"192.0.2.1","remote_port":2525"#),
            ("mx", ""),
            ("mx [192.0.2.1]:x", ""),
        ] {
            let event = Event { remote: Some(Remote(remote)), ..Event::new(Kind::Deferred, NOW) };
            let expected = format!(r#""shard":0,"remote":"{remote}"{parts}}}"#);
            assert!(line(&event).ends_with(&expected), "{}", line(&event));
        }
    }

    #[test]
    fn the_other_kinds_have_names_of_lower_case_words() {
        for (kind, name) in [
            (Kind::Rejected, "rejected"),
            (Kind::Delivered, "delivered"),
            (Kind::Bounced, "bounced"),
            (Kind::Expired, "expired"),
            (Kind::Dropped, "dropped"),
            (Kind::SetAside, "set-aside"),
            (Kind::InDoubt, "in-doubt"),
            (Kind::LostEvents, "lost-events"),
            (Kind::Started, "started"),
            (Kind::Stopped, "stopped"),
        ] {
            let expected =
                format!(r#"{{"time":"2023-11-14T22:13:20.123Z","event":"{name}","shard":0}}"#);
            assert_eq!(line(&Event::new(kind, NOW)), expected);
        }
    }

    #[test]
    fn what_is_no_address_has_no_domain() {
        for (given, domain) in [("a@B.test", Some("b.test")), ("<x@>", None), ("<a b@c d>", None)] {
            let event = Event { to: Some(ForwardPath(given)), ..Event::new(Kind::Rejected, NOW) };
            let fields: serde_json::Value = serde_json::from_str(&line(&event)).unwrap();
            assert_eq!((fields["to"].as_str(), fields["domain"].as_str()), (Some(given), domain));
        }
    }

    #[test]
    fn a_long_list_of_recipients_is_truncated_and_counted() {
        let to: Vec<Recipient> = (0..1000)
            .map(|number| Recipient::plain(Address::new(format!("r{number}@example.net"))))
            .collect();
        let text = line(&Event::new(Kind::Received, NOW).to_all(&to));
        assert!(text.contains(r#""recipients":1000"#));
        assert!(text.contains("r49@") && !text.contains("r50@"));
    }
}
