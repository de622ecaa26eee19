//! Builds delivery status notifications (RFC 3464). *Pure.*
#![allow(unused_variables, dead_code, clippy::todo, missing_docs)]

use crate::message::{Address, QueueId, Reason, Recipient, Timestamp};

/// What a report is about.
pub struct Report<'a> {
    /// The relay's name: Reporting-MTA.
    pub host_name: &'a str,
    /// To whom: the reverse-path of the message, never null.
    pub to: &'a Address,
    pub id: QueueId,
    pub received_at: Timestamp,
    /// ENVID as given.
    pub envelope_id: Option<&'a str>,
    pub failed: &'a [Failed<'a>],
    /// The start of the original content in wire form (dot-stuffed when `dot_stuffed`), with the
    /// trace on top; its header is returned.
    pub trace: &'a [u8],
    pub content: &'a [u8],
    pub dot_stuffed: bool,
    /// Makes the boundary and Message-ID unique.
    pub report_id: QueueId,
    pub now: Timestamp,
}

pub struct Failed<'a> {
    pub recipient: &'a Recipient,
    pub reason: &'a Reason,
    pub attempts: u16,
    /// Given up for its age, not refused.
    pub expired: bool,
}

/// The report's content in wire form (CRLF, dot-stuffed), at most [`CONTENT_BYTES_MAX`].
pub fn report(report: &Report<'_>) -> Vec<u8> {
    todo!()
}
