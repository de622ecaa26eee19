//! The encodings that a report is made of: quoted-printable, RFC 5322 dates, the dot.

use crate::message::Timestamp;
use crate::smtp::quote_line;

/// `Tue, 14 Nov 2023 22:13:20 +0000` (RFC 5322 3.3).
pub(super) fn date(at: Timestamp) -> String {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let at = time::OffsetDateTime::from(at);
    let day = DAYS.get(usize::from(at.weekday().number_days_from_monday())).unwrap_or(&"Mon");
    let month = MONTHS.get(usize::from(u8::from(at.month())) - 1).unwrap_or(&"Jan");
    let (hour, minute, second) = at.to_hms();
    format!("{day}, {} {month} {:04} {hour:02}:{minute:02}:{second:02} +0000", at.day(), at.year())
}

/// The same for a part that declares 8bit (RFC 2045 2.8).
pub(super) fn is_eight_bit(text: &[u8]) -> bool {
    lines(text).all(|line| {
        line.len() <= 998 && !line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | b'\0'))
    })
}

/// Whether `text` may stand in a part that declares 7bit: lines that end with CRLF and are not too
/// long (RFC 5322 2.1.1), and no control but the tabulator, so no bare CR or LF either.
pub(super) fn is_seven_bit(text: &[u8]) -> bool {
    lines(text).all(|line| {
        line.len() <= 998 && line.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'))
    })
}

/// The lines of `text` without their CRLF; a rest without one is a line too. A bare CR or LF ends
/// nothing.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memmem::find(rest, b"\r\n").unwrap_or(rest.len());
        let (line, after) = rest.split_at_checked(end)?;
        rest = after.get(2..).unwrap_or_default();
        Some(line)
    })
}

/// Appends `text` as quoted-printable (RFC 2045 6.7), line by line. A dot that begins a line is
/// quoted as well, so the result needs no dot-stuffing.
pub(super) fn quote(text: &[u8], out: &mut Vec<u8>) {
    lines(text).for_each(|line| quote_line(line, out));
}

/// Doubles the dot that begins a line (RFC 5321 4.5.2).
pub(super) fn stuff(content: Vec<u8>) -> Vec<u8> {
    if !content.starts_with(b".") && memchr::memmem::find(&content, b"\r\n.").is_none() {
        return content;
    }
    let mut stuffed = Vec::with_capacity(content.len() + 64);
    for line in lines(&content) {
        if line.starts_with(b".") {
            stuffed.push(b'.');
        }
        stuffed.extend_from_slice(line);
        stuffed.extend_from_slice(b"\r\n");
    }
    stuffed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(text: &[u8]) -> String {
        let mut out = Vec::new();
        quote(text, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn a_date_is_that_of_rfc_5322() {
        assert_eq!(date(Timestamp(1_700_000_000_123)), "Tue, 14 Nov 2023 22:13:20 +0000");
        assert_eq!(date(Timestamp(0)), "Thu, 1 Jan 1970 00:00:00 +0000");
        assert_eq!(date(Timestamp::NEVER), "Thu, 1 Jan 1970 00:00:00 +0000");
    }

    #[test]
    fn quoted_printable_goes_line_by_line() {
        assert_eq!(
            quoted(b"a=b \r\n\xfc\tx\r\n.dot\r\nbare\nlf\r"),
            "a=3Db=20\r\n=FC\tx\r\n=2Edot\r\nbare=0Alf=0D\r\n"
        );
    }

    #[test]
    fn only_dots_that_begin_a_line_are_doubled() {
        assert_eq!(stuff(b".a\r\nb.\r\n..\r\n".to_vec()), b"..a\r\nb.\r\n...\r\n");
        assert_eq!(stuff(b"a.\r\n".to_vec()), b"a.\r\n");
    }

    #[test]
    fn a_seven_bit_part_holds_no_bare_line_ends_and_no_long_lines() {
        assert!(is_seven_bit(b"a\tb\r\n\r\nc"));
        assert!(is_seven_bit(&[&[b'x'; 998][..], b"\r\n"].concat()));
        for text in [&b"a\nb\r\n"[..], b"a\rb\r\n", b"\xfc\r\n", b"\0\r\n", &[b'x'; 999]] {
            assert!(!is_seven_bit(text));
        }
    }
}
