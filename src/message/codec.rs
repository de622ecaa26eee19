//! How a record has the envelope and the options of a message: as records of version 3 have it,
//! and as the two versions before it had it. *Pure.* There is no other codec; `spool` puts the
//! record around it.
//!
//! Version 3: the reverse-path {given u8, text}, {count u32, {address, options}*}, and the options
//! of MAIL; options as `tagged` has them, from [`Recipient::OPTIONS`] and [`Options::OPTIONS`].
//!
//! Versions 1 and 2 have a fixed place for each option that they know; in version 2 the time of BY
//! follows where a flag of the record says so. They are read, and not written any more.

use super::field::{Fields, put_bytes, put_count};
use super::tagged::{self, OptionFault, Value};
use super::{
    Address, Body, DeliverBy, DsnNotify, DsnReturn, Envelope, Options, Recipient, Timestamp,
};

/// Which of the forms a record has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// That of versions 1 and 2.
    Fixed {
        /// BY was given.
        deliver_by: bool,
    },
    /// That of version 3.
    Tagged,
}

/// Appends the envelope, tagged.
pub(crate) fn put_envelope(out: &mut Vec<u8>, envelope: &Envelope) {
    let reverse_path = envelope.reverse_path.as_ref();
    out.push(u8::from(reverse_path.is_some()));
    if let Some(address) = reverse_path {
        put_bytes(out, address.as_str().as_bytes());
    }
    put_count(out, envelope.recipients.len());
    for recipient in &envelope.recipients {
        put_bytes(out, recipient.address.as_str().as_bytes());
        tagged::put(out, recipient, Recipient::OPTIONS, |_| true);
    }
}

/// Appends the options, tagged.
pub(crate) fn put_options(out: &mut Vec<u8>, options: &Options) {
    tagged::put(out, options, Options::OPTIONS, |_| true);
}

/// Reads the envelope.
pub(crate) fn envelope(fields: &mut Fields<'_>, form: Form) -> Result<Envelope, OptionFault> {
    let reverse_path = optional(fields).ok_or(OptionFault::Malformed)?.map(Address::new);
    let count = fields.u32().ok_or(OptionFault::Malformed)? as usize;
    // The count is only believed as far as the bytes go: each recipient has 5 at least.
    let mut recipients = Vec::with_capacity(count.min(fields.len() / 5));
    for _ in 0..count {
        recipients.push(recipient(fields, form)?);
    }
    Ok(Envelope { reverse_path, recipients })
}

/// Reads one recipient.
pub(crate) fn recipient(fields: &mut Fields<'_>, form: Form) -> Result<Recipient, OptionFault> {
    match form {
        Form::Fixed { .. } => fixed_recipient(fields).ok_or(OptionFault::Malformed),
        Form::Tagged => {
            let address = Address::new(fields.text().ok_or(OptionFault::Malformed)?);
            let mut recipient = Recipient::plain(address);
            tagged::read(fields, &mut recipient, Recipient::OPTIONS)?;
            Ok(recipient)
        }
    }
}

/// Reads no more of a recipient than its address, and whether NOTIFY names DELAY; of a plain one
/// without a copy.
pub(crate) fn address<'a>(
    fields: &mut Fields<'a>,
    form: Form,
) -> Result<(&'a str, bool), OptionFault> {
    let before = *fields;
    if let Form::Fixed { .. } = form {
        let _notify = fields.u8();
    }
    let text = fields.text().ok_or(OptionFault::Malformed)?;
    let mut after = *fields;
    if form == Form::Tagged && after.u8() == Some(0) {
        *fields = after;
        return Ok((text, false));
    }
    *fields = before;
    let recipient = recipient(fields, form)?;
    Ok((text, recipient.notify.is_some_and(|notify| notify.delay)))
}

/// Reads the options.
pub(crate) fn options(fields: &mut Fields<'_>, form: Form) -> Result<Options, OptionFault> {
    match form {
        Form::Fixed { deliver_by } => {
            fixed_options(fields, deliver_by).ok_or(OptionFault::Malformed)
        }
        Form::Tagged => {
            let mut options = Options::default();
            tagged::read(fields, &mut options, Options::OPTIONS)?;
            Ok(options)
        }
    }
}

/// Reads the options and keeps those that the queue needs, tagged; nothing when none is given. Of
/// a message without options it allocates nothing.
pub(crate) fn queue_options(fields: &mut Fields<'_>, form: Form) -> Result<Box<[u8]>, OptionFault> {
    let mut after = *fields;
    if form == Form::Tagged && after.u8() == Some(0) {
        *fields = after;
        return Ok(Box::default());
    }
    let options = options(fields, form)?;
    if !Options::OPTIONS.iter().any(|row| row.for_queue && (row.is_set)(&options)) {
        return Ok(Box::default());
    }
    let mut out = Vec::new();
    tagged::put(&mut out, &options, Options::OPTIONS, |row| row.for_queue);
    Ok(out.into())
}

/// The options in what [`queue_options`] gave.
///
/// # Panics
/// When it is something else.
pub(crate) fn from_queue_options(bytes: &[u8]) -> Options {
    let mut options = Options::default();
    if !bytes.is_empty() {
        let read = tagged::read(&mut Fields::new(bytes), &mut options, Options::OPTIONS);
        assert_eq!(read, Ok(()), "options were read before: {bytes:?}");
    }
    options
}

fn fixed_recipient(fields: &mut Fields<'_>) -> Option<Recipient> {
    let [given, success, failure, delay, ..] = unbits(fields.u8()?);
    let notify = given.then_some(DsnNotify { success, failure, delay });
    let address = Address::new(fields.text()?);
    let original = optional(fields)?.map(Box::from);
    Some(Recipient { address, notify, original })
}

fn fixed_options(fields: &mut Fields<'_>, has_deliver_by: bool) -> Option<Options> {
    let tenant = fields.text()?.into();
    let campaign = fields.text()?.into();
    let priority = fields.u8()?.cast_signed();
    let body = Body::read(&[fields.u8()?])?;
    let [smtp_utf8, require_tls, has_return, headers, has_not_before, has_expires, ..] =
        unbits(fields.u8()?);
    let dsn_return =
        has_return.then_some(if headers { DsnReturn::Headers } else { DsnReturn::Full });
    let dsn_envelope_id = optional(fields)?.map(Box::from);
    let not_before = Timestamp(fields.u64()?);
    let expires = Timestamp(fields.u64()?);
    let mut options = Options {
        tenant,
        campaign,
        priority,
        body,
        smtp_utf8,
        require_tls,
        dsn_return,
        dsn_envelope_id,
        not_before: has_not_before.then_some(not_before),
        expires: has_expires.then_some(expires),
        // What these versions do not know was not given.
        ..Options::default()
    };
    if has_deliver_by {
        options.deliver_by = Some(DeliverBy::read(fields.take(10)?)?);
    }
    Some(options)
}

/// {given u8, text}.
pub(crate) fn optional<'a>(fields: &mut Fields<'a>) -> Option<Option<&'a str>> {
    match fields.u8()? {
        0 => Some(None),
        1 => fields.text().map(Some),
        _ => None,
    }
}

fn unbits(byte: u8) -> [bool; 8] {
    std::array::from_fn(|place| byte >> place & 1 == 1)
}
