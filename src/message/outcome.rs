//! What an attempt did to a recipient, and why.

use super::Timestamp;
use std::fmt;
use std::sync::Arc;

/// An enhanced status code (RFC 3463): class.subject.detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(pub u8, pub u16, pub u16);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// How far an attempt had come when its outcome was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Stage {
    /// Looking for the destination's hosts.
    Route = 0,
    /// Connecting to them.
    Connect = 1,
    /// Waiting for the greeting.
    Greeting = 2,
    /// EHLO or HELO.
    Hello = 3,
    /// MAIL.
    Mail = 4,
    /// RCPT.
    Recipient = 5,
    /// DATA, until 354.
    Data = 6,
    /// Sending content.
    Content = 7,
    /// After the final dot, waiting for the reply.
    EndOfData = 8,
    /// In the relay itself: expiry, an operator's act, a fault of ours.
    Local = 9,
    /// STARTTLS and the TLS handshake.
    Tls = 10,
    /// AUTH.
    Auth = 11,
}

impl Stage {
    /// The stage whose number was stored; `None` for a number that no version wrote.
    pub fn from_number(number: u8) -> Option<Stage> {
        Some(match number {
            0 => Stage::Route,
            1 => Stage::Connect,
            2 => Stage::Greeting,
            3 => Stage::Hello,
            4 => Stage::Mail,
            5 => Stage::Recipient,
            6 => Stage::Data,
            7 => Stage::Content,
            8 => Stage::EndOfData,
            9 => Stage::Local,
            10 => Stage::Tls,
            11 => Stage::Auth,
            _ => return None,
        })
    }

    /// The word for events and the queue listing.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Route => "route",
            Stage::Connect => "connect",
            Stage::Greeting => "greeting",
            Stage::Hello => "hello",
            Stage::Mail => "mail",
            Stage::Recipient => "rcpt",
            Stage::Data => "data",
            Stage::Content => "content",
            Stage::EndOfData => "end-of-data",
            Stage::Local => "local",
            Stage::Tls => "tls",
            Stage::Auth => "auth",
        }
    }
}

/// Why a recipient is where it is: the remote server's words, or ours when it had none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reason {
    /// How far the attempt had come.
    pub stage: Stage,
    /// The SMTP reply code; 0 when no server spoke.
    pub code: u16,
    /// The enhanced status: the server's, or the one that RFC 3463 gives for our cause.
    pub status: Status,
    /// One line, printable, at most [`Reason::TEXT_LENGTH_MAX`] bytes, without code and status.
    pub text: Box<str>,
    /// The host that spoke or was tried, `mx1.example.net [192.0.2.1]:25`; empty when none was.
    pub remote: Box<str>,
    /// All hosts of the attempt where there was more than one, the one above first.
    pub hosts: Option<Arc<[HostAttempt]>>,
}

/// What happened at one host in an attempt that tried several.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostAttempt {
    /// The host, `mx1.example.net [192.0.2.1]:25`.
    pub remote: Box<str>,
    /// How far the attempt had come there.
    pub stage: Stage,
    /// The SMTP reply code; 0 when the host did not reply.
    pub code: u16,
    /// The enhanced status.
    pub status: Status,
    /// One line, as in [`Reason::text`].
    pub text: Box<str>,
}

impl HostAttempt {
    /// What `reason` says about its host.
    pub fn of(reason: &Reason) -> HostAttempt {
        HostAttempt {
            remote: reason.remote.clone(),
            stage: reason.stage,
            code: reason.code,
            status: reason.status,
            text: reason.text.clone(),
        }
    }
}

/// As [`Reason`] is written.
impl fmt::Display for HostAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.code, self.status, &self.text, &self.remote)
    }
}

impl Reason {
    /// Longer replies of a server are cut here, in bytes: a bound on memory and log lines.
    pub const TEXT_LENGTH_MAX: usize = 512;

    /// A reason of our own, with no server's reply.
    pub fn ours(stage: Stage, status: Status, text: impl Into<Box<str>>) -> Reason {
        Reason { stage, code: 0, status, text: text.into(), remote: "".into(), hosts: None }
    }

    /// The hosts that were tried beside [`Reason::remote`].
    pub fn other_hosts(&self) -> &[HostAttempt] {
        self.hosts.as_deref().and_then(|hosts| hosts.get(1..)).unwrap_or_default()
    }
}

/// `450 4.2.1 Mailbox busy (mx1.example.net [192.0.2.1]:25)`.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.code, self.status, &self.text, &self.remote)
    }
}

fn write(
    f: &mut fmt::Formatter<'_>,
    code: u16,
    status: Status,
    text: &str,
    remote: &str,
) -> fmt::Result {
    if code != 0 {
        write!(f, "{code} ")?;
    }
    write!(f, "{status} {text}")?;
    if !remote.is_empty() {
        write!(f, " ({remote})")?;
    }
    Ok(())
}

/// The status of a recipient so far, as stored.
#[derive(Clone, Debug, PartialEq)]
pub enum RecipientStatus {
    /// Still to be tried.
    Waiting {
        /// Attempts so far.
        attempts: u16,
        /// When the next is due.
        due: Timestamp,
        /// Why the last one did not end it. Text and host name are stored up to 1024 bytes each.
        reason: Reason,
    },
    /// Taken by the next hop.
    Delivered,
    /// Refused for good, and reported.
    Bounced,
    /// Not delivered in time, and reported.
    Expired,
    /// Removed by an operator, or set aside because its record was damaged.
    Removed,
    /// Ended in one of these ways before the message moved to where it is now.
    Over,
}

/// What one attempt did to one recipient. Not an error: every attempt has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The next hop took responsibility (2xx after the final dot).
    Delivered(Reason),
    /// Not now: a 4xx, or trouble on the way. Try again later.
    Deferred(Reason),
    /// Never: a 5xx, or a destination that does not take mail.
    Refused(Reason),
}

impl Outcome {
    /// Why, whichever it is.
    pub fn reason(&self) -> &Reason {
        match self {
            Outcome::Delivered(reason) | Outcome::Deferred(reason) | Outcome::Refused(reason) => {
                reason
            }
        }
    }

    /// The same, to be changed.
    pub fn reason_mut(&mut self) -> &mut Reason {
        match self {
            Outcome::Delivered(reason) | Outcome::Deferred(reason) | Outcome::Refused(reason) => {
                reason
            }
        }
    }
}
