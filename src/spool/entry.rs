//! What a start needs of a record, and how the index of a segment has it. *Pure.*
//!
//! An [`Entry`] is read from a record or from an index, and says the same either way. In an index
//! it is {kind u8, version u8, length u32, id u64} of the record, then for a message
//! {received u64, marks u16}, what the marks say is there (the options that the queue needs,
//! tagged), the recipients' domains, statuses, deliveries begun, what it reports and extents as
//! the record has them; for what became of recipients the record's payload; for a chunk nothing.
//! Reading never panics; of a plain message it allocates nothing.

use super::record::{
    self, BEGUN, CHUNK, CHUNK_PREFIX, Extent, Header, MESSAGE, Record, Reported, SETTLED, STREAMED,
    Unusable, WITH_BEGUN, WITH_REPORTED, WITH_STATUSES,
};
use crate::message::codec::{self, Form};
use crate::message::field::{Fields, put_count};
use crate::message::{QueueId, RecipientStatus, Timestamp, domain_of};

/// Bytes of an entry that every one has.
const HEAD: usize = 14;

const NULL_REVERSE: u16 = 1;
const STATUSES: u16 = 32;
const UNDER_WAY: u16 = 64;
const EXTENTS: u16 = 128;
const DELAY_WANTED: u16 = 256;
const OPTIONS: u16 = 1024;
const REPORTED: u16 = 2048;
/// The marks that a message's entry may have.
const KNOWN: u16 =
    NULL_REVERSE | STATUSES | UNDER_WAY | EXTENTS | DELAY_WANTED | OPTIONS | REPORTED;

/// What a record says, but for content and addresses.
#[derive(Debug, PartialEq)]
pub(super) struct Entry<'a> {
    pub(super) id: QueueId,
    /// Of the record, in bytes.
    pub(super) length: u32,
    pub(super) what: What<'a>,
}

#[derive(Debug, PartialEq)]
pub(super) enum What<'a> {
    Message(MessageSummary<'a>),
    /// A piece of so many bytes of content.
    Chunk(u32),
    Begun(Vec<u32>),
    Settled(u32, RecipientStatus),
}

/// A message, as far as the queue is concerned.
#[derive(Clone, Debug)]
pub(super) struct MessageSummary<'a> {
    pub(super) received_at: Timestamp,
    pub(super) null_reverse_path: bool,
    /// NOTIFY=DELAY was given for some recipient.
    pub(super) delay_wanted: bool,
    /// Those that the queue needs: see [`codec::queue_options`].
    pub(super) options: Box<[u8]>,
    pub(super) domains: Domains<'a>,
    /// As they are written.
    statuses: &'a [u8],
    in_flight: &'a [u8],
    /// Of a report: the message that it reports on, and how recipients of that ended.
    reported: &'a [u8],
    /// The draft, and the extents of streamed content as they are written.
    extents: Option<(QueueId, &'a [u8])>,
}

/// The domains of the recipients, in envelope order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Domains<'a> {
    left: u32,
    fields: Fields<'a>,
    /// That of the envelope which they are in; `None` in an index.
    form: Option<Form>,
}

impl<'a> Entry<'a> {
    /// Of an intact record.
    pub(super) fn of(header: &Header, payload: &'a [u8]) -> Result<Entry<'a>, Unusable> {
        let what = if header.kind == MESSAGE {
            What::Message(MessageSummary::of(header, payload)?)
        } else {
            What::of(record::decode(header, payload)?).ok_or(Unusable::Malformed)?
        };
        Ok(Entry { id: header.id, length: header.length, what })
    }

    /// The next one of an index; `None` when there is none that this version could have written.
    pub(super) fn read(fields: &mut Fields<'a>) -> Option<Entry<'a>> {
        let (kind, version) = (fields.u8()?, fields.u8()?);
        let (length, id) = (fields.u32()?, QueueId(fields.u64()?));
        let payload_bytes = (length as usize).checked_sub(record::HEADER)?;
        if version > record::VERSION {
            return None;
        }
        let what = match kind {
            MESSAGE => What::Message(MessageSummary::read(fields)?),
            CHUNK => What::Chunk(u32::try_from((length as usize).checked_sub(CHUNK_PREFIX)?).ok()?),
            BEGUN | SETTLED => {
                let payload = fields.take(payload_bytes)?;
                What::of(
                    record::decode(&Header { length, id, kind, version, flags: 0 }, payload)
                        .ok()?,
                )?
            }
            _ => return None,
        };
        Some(Entry { id, length, what })
    }
}

impl<'a> What<'a> {
    fn of(record: Record<'_>) -> Option<What<'a>> {
        Some(match record {
            Record::Chunk { content, .. } => What::Chunk(u32::try_from(content.len()).ok()?),
            Record::Begun(recipients) => What::Begun(recipients),
            Record::Settled(recipient, status) => What::Settled(recipient, status),
        })
    }
}

/// Appends the entry of a whole record, whose checksum need not be there yet. `None`, and nothing
/// is appended, when an index cannot say it.
pub(super) fn put(out: &mut Vec<u8>, record: &[u8]) -> Option<()> {
    let (header, payload) = record::split(record)?;
    let before = out.len();
    out.extend_from_slice(&[header.kind, header.version]);
    out.extend_from_slice(&header.length.to_le_bytes());
    out.extend_from_slice(&header.id.0.to_le_bytes());
    let said = match header.kind {
        MESSAGE => {
            let summary = MessageSummary::of(&header, payload).ok();
            summary.and_then(|summary| summary.put(out))
        }
        BEGUN | SETTLED => {
            out.extend_from_slice(payload);
            Some(())
        }
        _ => Some(()),
    };
    if said.is_none() {
        out.truncate(before);
    }
    said
}

/// No entry is longer than its record.
const _: () = assert!(HEAD <= record::HEADER);

impl<'a> MessageSummary<'a> {
    /// Of a message record. It takes what [`record::decode_message`] takes.
    fn of(header: &Header, payload: &'a [u8]) -> Result<MessageSummary<'a>, Unusable> {
        let form = record::form(header.version, header.flags)?;
        let mut fields = Fields::new(payload);
        let head = (|| {
            let received_at = Timestamp(fields.u64()?);
            let reverse_path = codec::optional(&mut fields)?;
            Some((received_at, reverse_path.is_none(), fields.u32()?))
        })();
        let (received_at, null_reverse_path, count) = head.ok_or(Unusable::Malformed)?;
        let domains = Domains { left: count, fields, form: Some(form) };
        let mut delay_wanted = false;
        for _ in 0..count {
            let (_, wants_delay) = codec::address(&mut fields, form)?;
            delay_wanted |= wants_delay;
        }
        let options = codec::queue_options(&mut fields, form)?;
        let summary = MessageSummary {
            received_at,
            null_reverse_path,
            delay_wanted,
            options,
            domains,
            statuses: &[],
            in_flight: &[],
            reported: &[],
            extents: None,
        };
        summary.with_rest(fields, header.flags).ok_or(Unusable::Malformed)
    }

    /// With what the record says behind the options.
    fn with_rest(mut self, mut fields: Fields<'a>, flags: u16) -> Option<MessageSummary<'a>> {
        let _prepended_headers = fields.bytes()?;
        if flags & WITH_STATUSES != 0 {
            self.statuses = statuses(&mut fields, self.domains.left)?;
        }
        if flags & WITH_BEGUN != 0 {
            self.in_flight = counted(&mut fields, 4)?;
        }
        if flags & WITH_REPORTED != 0 {
            self.reported = reported(&mut fields)?;
        }
        if flags & STREAMED != 0 {
            self.extents = Some((QueueId(fields.u64()?), counted(&mut fields, 12)?));
        } else {
            let _content = fields.bytes()?;
        }
        fields.is_empty().then_some(self)
    }

    /// Of an index.
    fn read(fields: &mut Fields<'a>) -> Option<MessageSummary<'a>> {
        let received_at = Timestamp(fields.u64()?);
        let marks = fields.u16().filter(|marks| marks & !KNOWN == 0)?;
        let marked = |mark: u16| marks & mark != 0;
        let options = match marked(OPTIONS) {
            true => codec::queue_options(fields, Form::Tagged).ok()?,
            false => Box::default(),
        };
        let count = fields.u32()?;
        let domains = Domains { left: count, fields: *fields, form: None };
        for _ in 0..count {
            let length = fields.u8()?;
            std::str::from_utf8(fields.take(usize::from(length))?).ok()?;
        }
        Some(MessageSummary {
            received_at,
            null_reverse_path: marked(NULL_REVERSE),
            delay_wanted: marked(DELAY_WANTED),
            options,
            domains,
            statuses: if marked(STATUSES) { statuses(fields, count)? } else { &[] },
            in_flight: if marked(UNDER_WAY) { counted(fields, 4)? } else { &[] },
            reported: if marked(REPORTED) { reported(fields)? } else { &[] },
            extents: match marked(EXTENTS) {
                true => Some((QueueId(fields.u64()?), counted(fields, 12)?)),
                false => None,
            },
        })
    }

    fn put(&self, out: &mut Vec<u8>) -> Option<()> {
        let marks = [
            (self.null_reverse_path, NULL_REVERSE),
            (!self.statuses.is_empty(), STATUSES),
            (!self.in_flight.is_empty(), UNDER_WAY),
            (self.extents.is_some(), EXTENTS),
            (self.delay_wanted, DELAY_WANTED),
            (!self.options.is_empty(), OPTIONS),
            (!self.reported.is_empty(), REPORTED),
        ];
        let set = marks.iter().filter(|(set, _)| *set);
        let marks: u16 = set.fold(0, |marks, (_, mark)| marks | mark);
        out.extend_from_slice(&self.received_at.0.to_le_bytes());
        out.extend_from_slice(&marks.to_le_bytes());
        out.extend_from_slice(&self.options);
        put_count(out, self.domains.left as usize);
        for domain in self.domains {
            // No valid path has a longer one (RFC 5321 4.5.3.1.2).
            out.push(u8::try_from(domain.len()).ok()?);
            out.extend_from_slice(domain.as_bytes());
        }
        out.extend_from_slice(self.statuses);
        out.extend_from_slice(self.in_flight);
        out.extend_from_slice(self.reported);
        if let Some((draft, extents)) = self.extents {
            out.extend_from_slice(&draft.0.to_le_bytes());
            out.extend_from_slice(extents);
        }
        Some(())
    }

    /// What became of recipients before the record moved, by recipient.
    pub(super) fn statuses(&self) -> impl Iterator<Item = (u32, RecipientStatus)> + use<'a> {
        let mut fields = Fields::new(self.statuses);
        // None, or a count and statuses that were read before.
        let count = fields.u32().unwrap_or(0);
        (0..count).map_while(move |_| record::status(&mut fields))
    }

    /// Recipients whose delivery had begun before the record moved.
    pub(super) fn in_flight(&self) -> Vec<u32> {
        if self.in_flight.is_empty() {
            return Vec::new();
        }
        let begun = record::begun(&mut Fields::new(self.in_flight));
        assert!(begun.is_some(), "it was read before");
        begun.into_iter().flatten().collect()
    }

    /// What it reports, when it is a report.
    pub(super) fn reported(&self) -> Option<Reported> {
        if self.reported.is_empty() {
            return None;
        }
        let reported = record::reported(&mut Fields::new(self.reported));
        assert!(reported.is_some(), "it was read before");
        reported
    }

    /// The draft and where its pieces are, when the content is in pieces.
    pub(super) fn extents(&self) -> Option<(QueueId, Vec<Extent>)> {
        let (draft, extents) = self.extents?;
        Some((draft, record::extents(&mut Fields::new(extents))?))
    }
}

/// Two briefs are the same that say the same, however they are written.
impl PartialEq for MessageSummary<'_> {
    fn eq(&self, other: &Self) -> bool {
        let said = |brief: &Self| {
            (
                (brief.received_at, brief.null_reverse_path),
                (brief.delay_wanted, brief.options.clone()),
            )
        };
        said(self) == said(other)
            && self.domains.eq(other.domains)
            && (self.statuses, self.in_flight) == (other.statuses, other.in_flight)
            && self.reported == other.reported
            && self.extents == other.extents
    }
}

impl Domains<'_> {
    /// Recipients.
    pub(super) fn recipients(&self) -> usize {
        self.left as usize
    }
}

impl<'a> Iterator for Domains<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.left = self.left.checked_sub(1)?;
        // All forms were checked when the entry was read.
        let Some(form) = self.form else {
            let length = self.fields.u8()?;
            return std::str::from_utf8(self.fields.take(usize::from(length))?).ok();
        };
        let (address, _) = codec::address(&mut self.fields, form).ok()?;
        Some(domain_of(address))
    }
}

/// A count and that many statuses, about recipients below `recipients`.
fn statuses<'a>(fields: &mut Fields<'a>, recipients: u32) -> Option<&'a [u8]> {
    let begin = *fields;
    for _ in 0..fields.u32()? {
        let (recipient, _) = record::status(fields)?;
        (recipient < recipients).then_some(())?;
    }
    begin.up_to(fields)
}

/// An id, a count and that many statuses.
fn reported<'a>(fields: &mut Fields<'a>) -> Option<&'a [u8]> {
    let begin = *fields;
    record::reported(fields)?;
    begin.up_to(fields)
}

/// A count and that many items of `size` bytes.
fn counted<'a>(fields: &mut Fields<'a>, size: usize) -> Option<&'a [u8]> {
    let begin = *fields;
    let bytes = (fields.u32()? as usize).checked_mul(size)?;
    fields.take(bytes)?;
    begin.up_to(fields)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::record::PriorStatus;
    use super::super::testing::{extreme, in_pieces, inline, path_of, plain, waiting};
    use super::*;

    fn records() -> Vec<Vec<u8>> {
        let so_far = PriorStatus {
            statuses: vec![(0, RecipientStatus::Over), (1, waiting(1, 2))],
            in_flight: vec![1],
            reported: None,
        };
        let report = PriorStatus {
            reported: Some(Reported {
                id: QueueId(7),
                statuses: vec![(3, RecipientStatus::Bounced), (4, RecipientStatus::Expired)],
            }),
            ..PriorStatus::default()
        };
        let content = b"Subject: x\r\n\r\nx\r\n";
        let mut all = vec![Vec::new(); 8];
        let none = PriorStatus::default();
        record::put_message(&mut all[0], &inline(plain(1, 1), content), &none);
        record::put_message(&mut all[1], &inline(plain(2, 3), content), &so_far);
        let streamed = in_pieces(extreme(), 9, &[[1, 2, 3], [1, 2, 3]]);
        record::put_message(&mut all[2], &streamed, &so_far);
        record::put_chunk(&mut all[3], QueueId(9), 0, b"abc");
        record::put_begun(&mut all[4], QueueId(2), &[0, 2]);
        record::put_settled(&mut all[5], QueueId(2), 1, &waiting(3, 4));
        record::put_settled(&mut all[6], QueueId(2), 2, &RecipientStatus::Delivered);
        record::put_message(&mut all[7], &inline(plain(8, 1), content), &report);
        all
    }

    #[test]
    fn an_index_says_of_a_record_what_the_record_says() {
        let mut index = Vec::new();
        for record in records() {
            let before = index.len();
            put(&mut index, &record).unwrap();
            assert!(index.len() - before <= record.len());
        }
        let all = records();
        let mut fields = Fields::new(&index);
        for record in &all {
            let (header, payload) = record::split(record).unwrap();
            let said = Entry::of(&header, payload).unwrap();
            assert_eq!(Entry::read(&mut fields).unwrap(), said);
        }
        assert!(fields.is_empty());
    }

    #[test]
    fn a_plain_message_takes_a_few_dozen_bytes() {
        let mut index = Vec::new();
        put(&mut index, &records()[0]).unwrap();
        assert_eq!(index.len(), 40);
    }

    fn decoded(header: &Header, payload: &[u8]) -> Result<(), Unusable> {
        match header.kind {
            MESSAGE => record::decode_message(header, payload, path_of).map(drop),
            _ => record::decode(header, payload).map(drop),
        }
    }

    #[test]
    fn an_entry_is_made_of_exactly_the_records_that_can_be_read() {
        for record in records() {
            for at in record::HEADER..record.len() {
                for value in [0, 1, 2, 0x7f, 0xff] {
                    let mut changed = record.clone();
                    changed[at] = value;
                    let (header, payload) = record::split(&changed).unwrap();
                    let read = decoded(&header, payload);
                    assert_eq!(Entry::of(&header, payload).map(drop), read, "byte {at}");
                }
            }
            for length in record::HEADER..record.len() {
                let (mut header, payload) = record::split(&record).unwrap();
                header.length = u32::try_from(length).unwrap();
                let cut = &payload[..length - record::HEADER];
                let read = decoded(&header, cut);
                assert_eq!(Entry::of(&header, cut).map(drop), read);
            }
        }
    }

    #[test]
    fn no_index_makes_reading_panic() {
        let mut index = Vec::new();
        records().iter().for_each(|record| put(&mut index, record).unwrap());
        for at in 0..index.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = index.clone();
                changed[at] = value;
                let mut fields = Fields::new(&changed);
                while Entry::read(&mut fields).is_some() {}
                let mut fields = Fields::new(&index[..at]);
                while Entry::read(&mut fields).is_some() {}
            }
        }
    }
}
