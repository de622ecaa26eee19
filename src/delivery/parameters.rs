//! MAIL and RCPT with the parameters that the server offered. It knows no state.

use super::capabilities::Capabilities;
use super::{Mail, Protocol, asks_for_delay, needs_smtp_utf8};
use crate::message::{Body, ByMode, DsnNotify, DsnReturn, Recipient};
use crate::smtp::unitext_to_xtext;
use std::borrow::Cow;
use std::io::{Result, Write};

/// `MAIL FROM:<...>` without its line end. Writing to a Vec cannot fail.
pub(super) fn mail(mail: &Mail, offered: &Capabilities, out: &mut Vec<u8>) -> Result<()> {
    let options = mail.options();
    let reverse_path = mail.message.envelope.reverse_path.as_ref();
    let reverse_path = reverse_path.map_or("", |address| address.as_str());
    write!(out, "MAIL FROM:<{reverse_path}>")?;
    if offered.size.is_some() {
        write!(out, " SIZE={}", mail.size)?;
    }
    if options.body == Body::BinaryMime {
        write!(out, " BODY=BINARYMIME")?;
    } else if offered.eight_bit_mime && (mail.is_eight_bit() || options.body == Body::EightBitMime)
    {
        write!(out, " BODY=8BITMIME")?;
    }
    if offered.smtp_utf8 && needs_smtp_utf8(mail) {
        write!(out, " SMTPUTF8")?;
    }
    if options.require_tls && offered.require_tls {
        write!(out, " REQUIRETLS")?;
    }
    if offered.mt_priority && options.priority != 0 {
        write!(out, " MT-PRIORITY={}", options.priority)?;
    }
    if let Some(by) = options.deliver_by.filter(|_| offered.deliver_by.is_some()) {
        write!(out, " BY={};{}", by.seconds_left(mail.now), by.letters())?;
    }
    if offered.dsn {
        match options.dsn_return {
            Some(DsnReturn::Full) => write!(out, " RET=FULL")?,
            Some(DsnReturn::Headers) => write!(out, " RET=HDRS")?,
            None => {}
        }
        if let Some(id) = options.dsn_envelope_id.as_deref().and_then(word) {
            write!(out, " ENVID={id}")?;
        }
    }
    // RFC 4954 5: what the client says of who submitted it is not trusted here.
    if offered.logged_in {
        write!(out, " AUTH=<>")?;
    }
    Ok(())
}

/// `RCPT TO:<...>` without its line end.
pub(super) fn rcpt(
    one: &Recipient,
    mail: &Mail,
    offered: &Capabilities,
    out: &mut Vec<u8>,
) -> Result<()> {
    write!(out, "RCPT TO:<{}>", one.address)?;
    if !offered.dsn {
        return Ok(());
    }
    let notify = match one.notify {
        given if !asks_for_delay(mail, offered) => given,
        None => Some(DsnNotify { success: false, failure: true, delay: true }),
        Some(given) if given.is_never() => Some(given),
        Some(given) => Some(DsnNotify { delay: true, ..given }),
    };
    if let Some(notify) = notify {
        write!(out, " NOTIFY={}", wishes(notify))?;
    }
    if let Some(original) = one.original.as_deref().and_then(word) {
        write!(out, " ORCPT={original}")?;
    }
    Ok(())
}

/// Why `mail`, which is to come back if it is not delivered by its time, cannot be sent there (RFC
/// 2852 4.1.4).
pub(super) fn too_late(mail: &Mail, offered: &Capabilities, spoken: Protocol) -> Option<String> {
    let by = mail.options().deliver_by.filter(|by| by.mode == ByMode::Return)?;
    let left = by.seconds_left(mail.now);
    match (offered.deliver_by, spoken) {
        _ if left < 1 => Some("the time by which it was to be delivered (BY) is over".to_owned()),
        (None, Protocol::Smtp) => {
            let text = "the message is to be delivered by a time (BY), and the server does not \
                        offer DELIVERBY";
            Some(text.to_owned())
        }
        (Some(shortest), _) if left < i64::from(shortest) => Some(format!(
            "the message is to be delivered within {left} seconds (BY), and the server promises \
             nothing below {shortest}"
        )),
        _ => None,
    }
}

/// RFC 3461 4.1.
fn wishes(notify: DsnNotify) -> Cow<'static, str> {
    let all = [(notify.success, "SUCCESS"), (notify.failure, "FAILURE"), (notify.delay, "DELAY")];
    let set: Vec<&str> = all.into_iter().filter_map(|(set, name)| set.then_some(name)).collect();
    if set.is_empty() { Cow::Borrowed("NEVER") } else { Cow::Owned(set.join(",")) }
}

/// A value in ASCII, whatever it is (RFC 6533 3: of ORCPT the part behind `utf-8;`); `None` for
/// what could not be one word.
fn word(text: &str) -> Option<Cow<'_, str>> {
    let text = match text.is_ascii() {
        true => Cow::Borrowed(text),
        false => Cow::Owned(unitext_to_xtext(text)),
    };
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then_some(text)
}
