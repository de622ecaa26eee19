//! The name and the TTL of a record, as the resolver takes them. *Pure.*

use hickory_proto::rr::Name;

/// Whether a byte of a label can be written in text without an escape.
pub(super) fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'.' && byte != b'\\'
}

/// A name from an answer in lower case without the final dot, empty for the root; `None` when it
/// has bytes that are not allowed in host names.
pub(super) fn text_of(name: &Name) -> Option<Box<str>> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !label.iter().all(|byte| is_plain(*byte)) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    Some(text.into())
}

/// A TTL with the top bit set counts as 0 (RFC 2181 8).
pub(super) fn sound_ttl(ttl: u32) -> u32 {
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}
