//! Records: what is written about messages, and how. *Pure*: bytes in, records out and back.
//!
//! A record is a 20-byte header {length u32, kind u8, version u8, flags u16, crc32c u32, id u64},
//! then its payload. `length` counts both. The checksum covers all but itself and is salted with
//! the record's place, so it is filled in when the place is known ([`seal`]). Decoding takes any
//! bytes: it never panics and never allocates more than the bytes could mean.

use super::segment::checksum;
use crate::limits::ATTEMPT_HOSTS_SHOWN_MAX;
use crate::message::codec::{self, Form};
use crate::message::field::{Fields, put_bytes, put_count, word};
use crate::message::tagged::OptionFault;
use crate::message::{
    Content, ContentFlags, HostAttempt, Message, Piece, QueueId, Reason, RecipientStatus, Stage,
    Status, Timestamp,
};
use std::path::Path;
use std::sync::Arc;

/// Bytes of a record header.
pub(super) const HEADER: usize = 20;
/// The newest record version: message records are of this one, see `message::codec`. Records of all
/// versions are read.
pub(super) const VERSION: u8 = 3;
/// Of the records that are the same in all versions: content and outcomes.
const FIRST_VERSION: u8 = 1;
/// Bytes of a chunk record before its content.
pub(super) const CHUNK_PREFIX: usize = HEADER + 4;

/// Longest text or host name of a reason that is stored, in bytes.
const REASON_FIELD_BYTES_MAX: usize = 1024;

/// Most bytes of further hosts in the statuses of one message record.
const HOSTS_BYTES_MAX: usize = 16 * 1024;

/// The kind of a status: the recipient waits, and several hosts were tried.
const WAITING_WITH_HOSTS: u8 = 6;

const CRC_AT: usize = 8;
const KIND_AT: usize = 4;
pub(super) const MESSAGE: u8 = 1;
pub(super) const CHUNK: u8 = 2;
pub(super) const BEGUN: u8 = 3;
pub(super) const SETTLED: u8 = 4;

const DOT_STUFFED: u16 = 1;
const EIGHT_BIT: u16 = 2;
pub(super) const STREAMED: u16 = 4;
/// What became of a moved message so far is in the same record: one cannot be durable without the
/// other.
pub(super) const WITH_STATUSES: u16 = 8;
pub(super) const WITH_BEGUN: u16 = 16;
/// BY (RFC 2852) was given. In version 2 alone.
const WITH_DELIVER_BY: u16 = 32;
/// A report, with the recipients that have ended with it.
pub(super) const WITH_REPORTED: u16 = 64;
/// The flags that a message record of version 3 may have.
const KNOWN: u16 = DOT_STUFFED | EIGHT_BIT | STREAMED | WITH_STATUSES | WITH_BEGUN | WITH_REPORTED;

/// A record as read, but for messages (see [`decode_message`]); content is borrowed.
#[derive(Debug, PartialEq)]
pub(super) enum Record<'a> {
    /// A piece of streamed content. The id is the draft's.
    Chunk { index: u32, content: &'a [u8] },
    /// Deliveries to these recipients had begun when the batch was sealed.
    Begun(Vec<u32>),
    /// What became of one recipient.
    Settled(u32, RecipientStatus),
}

/// What became of recipients before a message's record was written. It stands in that record, so
/// that the one is not durable without the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PriorStatus {
    /// By recipient; of those never tried there is none.
    pub statuses: Vec<(u32, RecipientStatus)>,
    /// Recipients whose delivery had begun, and not ended.
    pub in_flight: Vec<u32>,
    /// The message is a report, and with it these have ended.
    pub reported: Option<Reported>,
}

/// Recipients of another message that end with the report on them: once its record passes, they
/// have ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Reported {
    /// The message that is reported on.
    pub id: QueueId,
    /// How each of its recipients ended.
    pub statuses: Vec<(u32, RecipientStatus)>,
}

/// Where a chunk record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) segment: u32,
    /// Of the record, in bytes.
    pub(super) offset: u32,
    /// Of the content alone, in bytes.
    pub(super) length: u32,
}

/// A record's header, its checksum passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) length: u32,
    pub(super) id: QueueId,
    pub(super) kind: u8,
    pub(super) version: u8,
    pub(super) flags: u16,
}

/// Why an intact record cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// Of a version that is not known here: a newer relay wrote it.
    Newer(u8),
    /// Of a kind that is not known here.
    UnknownKind(u8),
    /// With flags that must be understood and are not: a newer relay wrote it.
    UnknownFlags(u16),
    /// With an option that must be understood and is not, by its tag: a newer relay wrote it.
    UnknownOption(u8),
    /// Fields that contradict each other or the length.
    Malformed,
}

/// Appends a message record; its length in bytes.
pub(super) fn put_message(out: &mut Vec<u8>, message: &Message, so_far: &PriorStatus) -> u32 {
    let PriorStatus { statuses, in_flight, reported } = so_far;
    let mut flags = 0;
    for (set, flag) in [
        (message.flags.dot_stuffed, DOT_STUFFED),
        (message.flags.eight_bit, EIGHT_BIT),
        (matches!(message.content, Content::Streamed(_)), STREAMED),
        (!statuses.is_empty(), WITH_STATUSES),
        (!in_flight.is_empty(), WITH_BEGUN),
        (reported.is_some(), WITH_REPORTED),
    ] {
        if set {
            flags |= flag;
        }
    }
    put(out, MESSAGE, flags, message.id, |out| {
        out.extend_from_slice(&message.received_at.0.to_le_bytes());
        codec::put_envelope(out, &message.envelope);
        codec::put_options(out, &message.options);
        put_bytes(out, &message.prepended_headers);
        if !statuses.is_empty() {
            put_statuses(out, statuses);
        }
        if !in_flight.is_empty() {
            put_recipients(out, in_flight);
        }
        if let Some(Reported { id, statuses }) = reported {
            out.extend_from_slice(&id.0.to_le_bytes());
            put_statuses(out, statuses);
        }
        match &message.content {
            Content::Whole(bytes) => put_bytes(out, bytes),
            Content::Streamed(pieces) => {
                let draft = pieces.first().map_or(QueueId(0), |first| first.draft);
                out.extend_from_slice(&draft.0.to_le_bytes());
                put_count(out, pieces.len());
                for piece in pieces {
                    for word in [piece.segment, piece.offset, piece.length] {
                        out.extend_from_slice(&word.to_le_bytes());
                    }
                }
            }
        }
    })
}

/// Appends a chunk record of `draft`; its length in bytes.
pub(super) fn put_chunk(out: &mut Vec<u8>, draft: QueueId, index: u32, content: &[u8]) -> u32 {
    put(out, CHUNK, 0, draft, |out| {
        out.extend_from_slice(&index.to_le_bytes());
        out.extend_from_slice(content);
    })
}

/// Appends a begun record; its length in bytes.
pub(super) fn put_begun(out: &mut Vec<u8>, id: QueueId, recipients: &[u32]) -> u32 {
    put(out, BEGUN, 0, id, |out| {
        put_recipients(out, recipients);
    })
}

/// Statuses within a message's record. All of them may have several hosts, and the record must fit
/// its segment when it moves: beyond [`HOSTS_BYTES_MAX`] only the first host of each is kept.
fn put_statuses(out: &mut Vec<u8>, statuses: &[(u32, RecipientStatus)]) {
    put_count(out, statuses.len());
    let mut left = HOSTS_BYTES_MAX;
    for (recipient, status) in statuses {
        let hosts = hosts_of(status);
        let bytes: usize = hosts.iter().copied().flatten().map(host_bytes).sum();
        let kept = hosts.filter(|_| bytes <= left);
        left -= if kept.is_some() { bytes } else { 0 };
        put_fate(out, *recipient, status, kept);
    }
}

fn put_recipients(out: &mut Vec<u8>, recipients: &[u32]) {
    put_count(out, recipients.len());
    for recipient in recipients {
        out.extend_from_slice(&recipient.to_le_bytes());
    }
}

/// Appends a settled record; its length in bytes.
pub(super) fn put_settled(
    out: &mut Vec<u8>,
    id: QueueId,
    recipient: u32,
    status: &RecipientStatus,
) -> u32 {
    put(out, SETTLED, 0, id, |out| put_fate(out, recipient, status, hosts_of(status)))
}

/// Fills in the checksums of the records in `records`, which will be written at `offset` of
/// `segment`. Their number, and the checksum over their headers.
pub(super) fn seal(records: &mut [u8], segment: u32, offset: u32) -> (u32, u32) {
    let mut at = 0;
    let mut count = 0;
    let mut over_headers = 0;
    while let Some(length) = length_at(records, at) {
        let Some(record) = records.get_mut(at..at + length as usize) else { break };
        let place = offset.saturating_add(at as u32);
        let crc = checksum(segment, place, &[&record[..CRC_AT], &record[CRC_AT + 4..]]);
        record[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        over_headers = crc32c::crc32c_append(over_headers, &record[..HEADER]);
        at += length as usize;
        count += 1;
    }
    (count, over_headers)
}

/// The length that the record at `at` claims, when that is possible at all.
pub(super) fn length_at(records: &[u8], at: usize) -> Option<u32> {
    let length = Fields::new(records.get(at..)?).u32()?;
    (length as usize >= HEADER && length as usize <= records.len() - at).then_some(length)
}

/// The id that the record at the start of `bytes` claims, whether it passes or not.
pub(super) fn claimed_id(bytes: &[u8]) -> Option<QueueId> {
    Fields::new(bytes.get(CRC_AT + 4..)?).u64().map(QueueId)
}

/// Whether the record at the start of `bytes` claims to be the message `id`, whether it passes or
/// not.
pub(super) fn claims_message(bytes: &[u8], id: QueueId) -> bool {
    bytes.get(KIND_AT) == Some(&MESSAGE) && claimed_id(bytes) == Some(id)
}

/// Checks the record that begins `bytes` (which may go on behind it) and lies at `offset` of
/// `segment`: its header and payload, or `None` when it is damaged.
pub(super) fn check(bytes: &[u8], segment: u32, offset: u32) -> Option<(Header, &[u8])> {
    let (header, payload) = split(bytes)?;
    let record = bytes.get(..header.length as usize)?;
    let crc = Fields::new(record.get(CRC_AT..)?).u32()?;
    let expected = checksum(segment, offset, &[record.get(..CRC_AT)?, record.get(CRC_AT + 4..)?]);
    (crc == expected).then_some((header, payload))
}

/// The header and payload of the record that begins `bytes`, not checked.
pub(super) fn split(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let length = length_at(bytes, 0)?;
    let (head, payload) = bytes.get(..length as usize)?.split_at_checked(HEADER)?;
    let mut fields = Fields::new(head.get(4..)?);
    let (kind, version, flags) = (fields.u8()?, fields.u8()?, fields.u16()?);
    let _crc = fields.u32()?;
    let id = QueueId(fields.u64()?);
    Some((Header { length, id, kind, version, flags }, payload))
}

/// What an intact message record says: the message, and what became of it before the record moved.
/// `path_of` gives the path of a segment.
pub(super) fn decode_message(
    header: &Header,
    payload: &[u8],
    path_of: impl FnMut(u32) -> Arc<Path>,
) -> Result<(Message, PriorStatus), Unusable> {
    if header.kind != MESSAGE {
        return Err(Unusable::UnknownKind(header.kind));
    }
    let mut fields = Fields::new(payload);
    let read = message(header, &mut fields, path_of)?;
    if fields.is_empty() { Ok(read) } else { Err(Unusable::Malformed) }
}

/// What an intact record of another kind says.
pub(super) fn decode<'a>(header: &Header, payload: &'a [u8]) -> Result<Record<'a>, Unusable> {
    if header.version > VERSION {
        return Err(Unusable::Newer(header.version));
    }
    let mut fields = Fields::new(payload);
    let record = match header.kind {
        CHUNK => {
            let index = fields.u32();
            return index
                .map(|index| Record::Chunk { index, content: fields.rest() })
                .ok_or(Unusable::Malformed);
        }
        BEGUN => begun(&mut fields).map(Record::Begun),
        SETTLED => {
            status(&mut fields).map(|(recipient, status)| Record::Settled(recipient, status))
        }
        other => return Err(Unusable::UnknownKind(other)),
    };
    record.filter(|_| fields.is_empty()).ok_or(Unusable::Malformed)
}

fn put(
    out: &mut Vec<u8>,
    kind: u8,
    flags: u16,
    id: QueueId,
    payload: impl FnOnce(&mut Vec<u8>),
) -> u32 {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let version = if kind == MESSAGE { VERSION } else { FIRST_VERSION };
    out.extend_from_slice(&[kind, version]);
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&id.0.to_le_bytes());
    payload(out);
    let length = word(out.len() - start);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    length
}

/// The form that envelope and options of a message record have.
///
/// # Errors
/// It cannot be read.
pub(super) fn form(version: u8, flags: u16) -> Result<Form, Unusable> {
    match version {
        0..=2 => Ok(Form::Fixed { deliver_by: flags & WITH_DELIVER_BY != 0 }),
        VERSION if flags & !KNOWN != 0 => Err(Unusable::UnknownFlags(flags & !KNOWN)),
        VERSION => Ok(Form::Tagged),
        _ => Err(Unusable::Newer(version)),
    }
}

impl From<OptionFault> for Unusable {
    fn from(fault: OptionFault) -> Unusable {
        match fault {
            OptionFault::Malformed => Unusable::Malformed,
            OptionFault::Unknown(tag) => Unusable::UnknownOption(tag),
        }
    }
}

fn message(
    header: &Header,
    fields: &mut Fields<'_>,
    path_of: impl FnMut(u32) -> Arc<Path>,
) -> Result<(Message, PriorStatus), Unusable> {
    let Header { id, flags, version, .. } = *header;
    let form = form(version, flags)?;
    let received_at = Timestamp(fields.u64().ok_or(Unusable::Malformed)?);
    let envelope = codec::envelope(fields, form)?;
    let options = codec::options(fields, form)?;
    let recipients = envelope.recipients.len();
    let rest = rest_of_message(fields, flags, recipients, path_of);
    let (prepended_headers, so_far, content) = rest.ok_or(Unusable::Malformed)?;
    let flags =
        ContentFlags { dot_stuffed: flags & DOT_STUFFED != 0, eight_bit: flags & EIGHT_BIT != 0 };
    let message = Message { id, received_at, envelope, options, flags, prepended_headers, content };
    Ok((message, so_far))
}

fn rest_of_message(
    fields: &mut Fields<'_>,
    flags: u16,
    recipients: usize,
    path_of: impl FnMut(u32) -> Arc<Path>,
) -> Option<(Vec<u8>, PriorStatus, Content)> {
    let prepended_headers = fields.bytes()?.to_vec();
    let mut so_far = PriorStatus::default();
    if flags & WITH_STATUSES != 0 {
        for _ in 0..fields.u32()? {
            let (recipient, status) = status(fields)?;
            let known = usize::try_from(recipient).ok()? < recipients;
            so_far.statuses.push(known.then_some((recipient, status))?);
        }
    }
    if flags & WITH_BEGUN != 0 {
        so_far.in_flight = begun(fields)?;
    }
    if flags & WITH_REPORTED != 0 {
        so_far.reported = Some(reported(fields)?);
    }
    let content = if flags & STREAMED != 0 {
        let draft = QueueId(fields.u64()?);
        streamed(path_of, draft, &extents(fields)?)
    } else {
        Content::Whole(fields.bytes()?.to_vec())
    };
    Some((prepended_headers, so_far, content))
}

pub(super) fn reported(fields: &mut Fields<'_>) -> Option<Reported> {
    let id = QueueId(fields.u64()?);
    let mut statuses = Vec::new();
    for _ in 0..fields.u32()? {
        statuses.push(status(fields)?);
    }
    Some(Reported { id, statuses })
}

pub(super) fn extents(fields: &mut Fields<'_>) -> Option<Vec<Extent>> {
    let count = fields.u32()? as usize;
    let mut extents = Vec::with_capacity(count.min(fields.len() / 12));
    for _ in 0..count {
        let (segment, offset, length) = (fields.u32()?, fields.u32()?, fields.u32()?);
        extents.push(Extent { segment, offset, length });
    }
    Some(extents)
}

/// The content that `extents` name, in pieces; `path_of` gives the path of a segment, which is not
/// used again while a piece holds on to its path.
pub(super) fn streamed(
    mut path_of: impl FnMut(u32) -> Arc<Path>,
    draft: QueueId,
    extents: &[Extent],
) -> Content {
    let mut path: (u32, Arc<Path>) = (0, Path::new("").into());
    let pieces = extents.iter().zip(0..).map(|(extent, index)| {
        let Extent { segment, offset, length } = *extent;
        if path.0 != segment {
            path = (segment, path_of(segment));
        }
        Piece { path: Arc::clone(&path.1), segment, offset, length, draft, index }
    });
    Content::Streamed(pieces.collect())
}

pub(super) fn begun(fields: &mut Fields<'_>) -> Option<Vec<u32>> {
    let count = fields.u32()? as usize;
    let mut recipients = Vec::with_capacity(count.min(fields.len() / 4));
    for _ in 0..count {
        recipients.push(fields.u32()?);
    }
    Some(recipients)
}

/// The hosts of the last attempt, when there were several.
fn hosts_of(status: &RecipientStatus) -> Option<&[HostAttempt]> {
    let RecipientStatus::Waiting { reason, .. } = status else { return None };
    let hosts = reason.hosts.as_deref()?;
    Some(hosts.get(..ATTEMPT_HOSTS_SHOWN_MAX).unwrap_or(hosts))
}

/// What `host` takes in a record, at most.
fn host_bytes(host: &HostAttempt) -> usize {
    16 + host.text.len() + host.remote.len()
}

fn put_fate(
    out: &mut Vec<u8>,
    recipient: u32,
    status: &RecipientStatus,
    hosts: Option<&[HostAttempt]>,
) {
    out.extend_from_slice(&recipient.to_le_bytes());
    match status {
        RecipientStatus::Waiting { attempts, due, reason } => {
            out.push(if hosts.is_some() { WAITING_WITH_HOSTS } else { 0 });
            out.extend_from_slice(&attempts.to_le_bytes());
            out.extend_from_slice(&due.0.to_le_bytes());
            put_host(out, &HostAttempt::of(reason));
            if let Some(hosts) = hosts {
                put_count(out, hosts.len());
                hosts.iter().for_each(|host| put_host(out, host));
            }
        }
        RecipientStatus::Delivered => out.push(1),
        RecipientStatus::Bounced => out.push(2),
        RecipientStatus::Expired => out.push(3),
        RecipientStatus::Removed => out.push(4),
        RecipientStatus::Over => out.push(5),
    }
}

fn put_host(out: &mut Vec<u8>, host: &HostAttempt) {
    out.push(host.stage as u8);
    out.extend_from_slice(&host.code.to_le_bytes());
    let Status(class, subject, detail) = host.status;
    out.push(class);
    out.extend_from_slice(&subject.to_le_bytes());
    out.extend_from_slice(&detail.to_le_bytes());
    put_bytes(out, clipped(&host.text).as_bytes());
    put_bytes(out, clipped(&host.remote).as_bytes());
}

pub(super) fn status(fields: &mut Fields<'_>) -> Option<(u32, RecipientStatus)> {
    let recipient = fields.u32()?;
    let status = match fields.u8()? {
        kind @ (0 | WAITING_WITH_HOSTS) => {
            let attempts = fields.u16()?;
            let due = Timestamp(fields.u64()?);
            let HostAttempt { stage, code, status, text, remote } = host(fields)?;
            let hosts = if kind == WAITING_WITH_HOSTS { Some(hosts(fields)?) } else { None };
            let reason = Reason { stage, code, status, text, remote, hosts };
            RecipientStatus::Waiting { attempts, due, reason }
        }
        1 => RecipientStatus::Delivered,
        2 => RecipientStatus::Bounced,
        3 => RecipientStatus::Expired,
        4 => RecipientStatus::Removed,
        5 => RecipientStatus::Over,
        _ => return None,
    };
    Some((recipient, status))
}

fn hosts(fields: &mut Fields<'_>) -> Option<Arc<[HostAttempt]>> {
    let count = fields.u32()? as usize;
    if count > ATTEMPT_HOSTS_SHOWN_MAX {
        return None;
    }
    (0..count).map(|_| host(fields)).collect()
}

fn host(fields: &mut Fields<'_>) -> Option<HostAttempt> {
    let stage = Stage::from_number(fields.u8()?)?;
    let code = fields.u16()?;
    let status = Status(fields.u8()?, fields.u16()?, fields.u16()?);
    let text = fields.text()?.into();
    let remote = fields.text()?.into();
    Some(HostAttempt { remote, stage, code, status, text })
}

/// An outcome must fit a batch whatever the next hop said.
fn clipped(text: &str) -> &str {
    let end =
        (0..=REASON_FIELD_BYTES_MAX.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
