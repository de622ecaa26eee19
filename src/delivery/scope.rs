//! What a failure is about, and what is done next. *Pure.*
//!
//! Each cell of this table is one of [`Scope`], and [`scope_of`] is the table. "Reused" is a
//! connection that has carried a message before.
//!
//! | stage | 4xx | 421 | 5xx | malformed | lost | timed out |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | connect | | | | | host | host |
//! | greeting | host | host | host | host | host | host |
//! | EHLO, AUTH | host | host | host | host | host | host |
//! | STARTTLS, TLS | host | host | host | host | host | host |
//! | RSET before MAIL | connection | connection | connection | connection | connection | connection |
//! | MAIL | transaction | transaction | transaction | transaction | transaction | transaction |
//! | MAIL, reused | transaction | connection | transaction | transaction | connection | connection |
//! | RCPT | recipient | recipient | recipient | transaction | transaction | transaction |
//! | RCPT, pipelined, others answered | recipient | recipient | recipient | connection | connection | connection |
//! | DATA | transaction | transaction | transaction | transaction | transaction | transaction |
//! | content | transaction | transaction | transaction | transaction | transaction | transaction |
//! | end of data | transaction | transaction | transaction | message | transaction | message |
//! | end of data, LMTP | recipient | transaction | recipient | message | transaction | message |
//!
//! In the pipelined row commands that were sent together with RCPT were answered, and others were
//! not: the new connection has one command at a time. After 421 to RCPT, a connection that is then
//! closed is scope connection for the other recipients.
//!
//! A connection that is lost after the end of data leaves open whether the host has taken the
//! message. The client never takes that for a delivery (RFC 5321 6.1), so there may be a copy,
//! whichever host is tried next. It is the next one, and at once: one that closes the connection
//! there mostly has rejected the message or broken down, and would do the same with each retry. A
//! host that is only silent is another matter: it mostly works on the message, and a second copy
//! elsewhere is then certain (RFC 5321 4.5.3.2.6). It has `delivery.end_of_data_timeout`, and the
//! message then waits for its retry. So does one whose host answers with something that is no reply
//! to the end of data: it has most likely taken it. A reply whose lines have different codes (RFC
//! 5321 4.2.1) is malformed at every stage, and never bounces; after the end of data only where the
//! last line refuses for good and another does not, such as `250-no` and `554 yes`.
//!
//! The content cannot be read here, at any stage: message. What STARTTLS and the handshake mean
//! where mail may go in the clear stands in the table of fall-backs (`pool::fallback`).
//!
//! What is done next for the recipients without an outcome ([`Attempt`](super::Attempt)):
//!
//! | scope | 5xx to MAIL, RCPT, DATA, content, end of data | anything else |
//! | --- | --- | --- |
//! | recipient | that recipient bounces | that recipient goes to the next host |
//! | transaction | all recipients bounce | all go to the next host |
//! | connection | a new connection to the same host, once; nothing is charged to it | the same |
//! | host | the next host | the next host |
//! | message | | deferred, no other host: it has most likely been taken, or cannot be sent |
//!
//! The next host is the next address of the site in the order of RFC 5321 5.1: by preference,
//! equal ones in random order, families in turn, those that did not answer lately last. Each
//! address counts, whether it belongs to another name or to the same one, and whether it comes from
//! MX records, a smart host or an LMTP next hop. After the last one, or after
//! [`ATTEMPT_SESSIONS_MAX`](crate::limits::ATTEMPT_SESSIONS_MAX) hosts that got as far as a
//! transaction, the recipients are deferred. A host that refuses at once at EHLO with 5xx is asked
//! by HELO first, on the same connection.
//!
//! Recipients of a transaction that was lost at RCPT go together in fewer numbers at each further
//! attempt, and soon apart (`scheduler`): what the host objects to may be one of them.
//!
//! The site as a whole backs off only when no host of it got as far as a transaction in the attempt
//! (scope host for all of them). What is about a sender, a message or a recipient is charged to
//! these. A host that closes the connection at every message is bounded apart from that
//! (`pool::hang_ups`).
//!
//! Pipelined or one by one, by DATA or by BDAT makes no difference in this table.

/// What a failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One recipient; the others of the transaction are not concerned.
    Recipient,
    /// This message from this sender at this host: another message may fare better there.
    Transaction,
    /// This connection alone: nothing was said about the message or the host.
    Connection,
    /// The host: no mail can be sent there now.
    Host,
    /// The message, whatever host is tried: it has most likely been taken, or cannot be read here.
    Message,
}

/// Where a conversation was when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// Connecting.
    Connect,
    /// Waiting for the greeting.
    Greeting,
    /// EHLO, HELO, LHLO, AUTH.
    Hello,
    /// STARTTLS and the handshake.
    Tls,
    /// RSET before MAIL of a later message.
    Reset,
    /// MAIL.
    Mail,
    /// RCPT.
    Recipient,
    /// DATA, until 354.
    Data,
    /// Sending the content.
    Content,
    /// The final dot or the last chunk.
    EndOfData,
    /// The final dot, where there is a reply for each recipient (RFC 2033 4.2).
    EndOfDataEach,
}

/// What happened there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A reply of 400 to 499 but 421.
    Later,
    /// 421: the server closes the connection (RFC 5321 3.8).
    Closing,
    /// A reply of 500 to 599.
    Refused,
    /// Something that cannot be a reply to the command.
    Malformed,
    /// The connection was closed or reset.
    Lost,
    /// No reply in time.
    TimedOut,
}

/// Whether a connection has carried a message before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Usage {
    /// This is its first transaction.
    Fresh,
    /// It is a later one: the host may have closed it meanwhile.
    Reused,
}

impl Event {
    /// What a reply with `code` of class 4 or 5 is; `Malformed` for others.
    pub fn of_code(code: u16) -> Event {
        match code {
            421 => Event::Closing,
            400..=499 => Event::Later,
            500..=599 => Event::Refused,
            _ => Event::Malformed,
        }
    }
}

/// The table above.
pub fn scope_of(point: Point, event: Event, usage: Usage) -> Scope {
    use Event::{Closing, Later, Lost, Malformed, Refused, TimedOut};
    match (point, event, usage) {
        (Point::Connect | Point::Greeting | Point::Hello | Point::Tls, _, _) => Scope::Host,
        (Point::Reset, _, _) => Scope::Connection,
        (Point::Mail, Closing | Lost | TimedOut, Usage::Reused) => Scope::Connection,
        (Point::Recipient, Later | Closing | Refused, _) => Scope::Recipient,
        (Point::EndOfDataEach, Later | Refused, _) => Scope::Recipient,
        (Point::EndOfData | Point::EndOfDataEach, Malformed | TimedOut, _) => Scope::Message,
        (Point::Mail | Point::Recipient | Point::Data | Point::Content, _, _) => Scope::Transaction,
        (Point::EndOfData | Point::EndOfDataEach, _, _) => Scope::Transaction,
    }
}
