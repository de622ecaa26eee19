//! The conversation in the debug log: one line for each command and reply. *Pure.*
//!
//! The lines of a client pass through here to the log, which must never have credentials (RFC 4954)
//! or the content of messages. So only lines that begin with a known command are shown, for AUTH
//! only with the mechanism; for all others the log has the length.
//!
//! | a line of the client | in the log |
//! | --- | --- |
//! | `MAIL FROM:<a@b> SIZE=5` and other commands | unchanged, up to [`SHOWN_BYTES`] |
//! | `AUTH PLAIN AGpvZQBwZW5jaWw=` | `AUTH PLAIN [24 bytes]` |
//! | `AGpvZQBwZW5jaWw=`, unknown commands, content | `[24 bytes]`; lines that follow each other count together |
//!
//! Replies are shown whole: they contain no secrets.

use super::response::one_line;
use std::fmt::Write;

/// Longest part of a command or a line of a reply that is shown.
const SHOWN_BYTES: usize = 600;

const COMMANDS: [&str; 16] = [
    "EHLO", "HELO", "LHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "HELP", "VRFY",
    "EXPN", "ETRN", "STARTTLS", "XCLIENT",
];

const MECHANISMS: [&str; 8] = [
    "PLAIN",
    "LOGIN",
    "EXTERNAL",
    "XOAUTH2",
    "OAUTHBEARER",
    "CRAM-MD5",
    "SCRAM-SHA-256",
    "SCRAM-SHA-256-PLUS",
];

/// The lines of a client, without credentials and content.
#[must_use]
pub fn commands_shown(bytes: &[u8]) -> Vec<String> {
    let mut shown = Vec::new();
    let mut hidden = 0;
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        match command_shown(line) {
            Some(line) => {
                push_hidden(&mut shown, &mut hidden);
                shown.push(line);
            }
            None => hidden += line.len(),
        }
    }
    push_hidden(&mut shown, &mut hidden);
    shown
}

/// The lines of a server.
#[must_use]
pub fn replies_shown(bytes: &[u8]) -> Vec<String> {
    let lines = bytes.split_inclusive(|&byte| byte == b'\n');
    lines.map(|line| one_line(line.trim_ascii_end(), SHOWN_BYTES)).collect()
}

fn push_hidden(shown: &mut Vec<String>, hidden: &mut usize) {
    if *hidden > 0 {
        shown.push(format!("[{hidden} bytes]"));
        *hidden = 0;
    }
}

fn command_shown(line: &[u8]) -> Option<String> {
    let line = line.trim_ascii_end();
    let mut words = line.splitn(3, |&byte| byte == b' ');
    let verb = words.next()?;
    if verb.eq_ignore_ascii_case(b"AUTH") {
        let mut shown = String::from("AUTH");
        if let Some(mechanism) = words.next().filter(|word| is_mechanism(word)) {
            let _ = write!(shown, " {}", one_line(mechanism, SHOWN_BYTES));
        }
        let rest = line.len().saturating_sub(shown.len() + 1);
        if rest > 0 {
            let _ = write!(shown, " [{rest} bytes]");
        }
        return Some(shown);
    }
    let is_known = COMMANDS.iter().any(|known| verb.eq_ignore_ascii_case(known.as_bytes()));
    is_known.then(|| one_line(line, SHOWN_BYTES))
}

/// Any other name is not shown: a client with a wrong syntax may send a password there.
fn is_mechanism(word: &[u8]) -> bool {
    MECHANISMS.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_credentials_and_content_are_not() {
        for (bytes, shown) in [
            (&b"EHLO a.test\r\n"[..], &["EHLO a.test"][..]),
            (
                b"mail from:<a@b> SIZE=5\r\nRCPT TO:<c@d>\r\nDATA\r\n",
                &["mail from:<a@b> SIZE=5", "RCPT TO:<c@d>", "DATA"],
            ),
            (b"AUTH PLAIN AGpvZQBwZW5jaWw=\r\n", &["AUTH PLAIN [16 bytes]"]),
            (b"auth plain\r\n", &["AUTH plain"]),
            (b"AUTH pencil\r\n", &["AUTH [6 bytes]"]),
            (b"AUTH\r\n", &["AUTH"]),
            (b"AGpvZQBwZW5jaWw=\r\n", &["[18 bytes]"]),
            (b"BDAT 12 LAST\r\nSubject: x\r\n", &["BDAT 12 LAST", "[12 bytes]"]),
            (b"Subject: x\r\n\r\nsecret\r\n.\r\nQUIT\r\n", &["[25 bytes]", "QUIT"]),
            (b"", &[]),
            (b"NOOP \x1b[31m\r\n", &["NOOP  [31m"]),
        ] {
            assert_eq!(commands_shown(bytes), shown, "{:?}", bytes.escape_ascii().to_string());
        }
    }

    #[test]
    fn replies_are_shown_line_by_line() {
        assert_eq!(replies_shown(b"250-a\r\n250 b\r\n354 go\r\n"), ["250-a", "250 b", "354 go"]);
        assert_eq!(replies_shown(b"334 \r\n"), ["334"]);
    }
}
