//! What HELP says (RFC 5321 4.1.1.8): the commands, and the form of each. *Pure.*

use super::reply::Reply;
use crate::message::Status;

/// The form of each command, with what its parameters are.
const TOPICS: [(&str, &str); 15] = [
    ("EHLO", "EHLO your.host.name, or EHLO [address]; lists the extensions"),
    ("HELO", "HELO your.host.name; EHLO does more"),
    (
        "MAIL",
        "MAIL FROM:<sender@domain>, or MAIL FROM:<> for reports\n\
         SIZE=bytes BODY=7BIT|8BITMIME|BINARYMIME SMTPUTF8 RET=FULL|HDRS ENVID=id\n\
         and where EHLO lists them: REQUIRETLS MT-PRIORITY=-9..9 HOLDFOR=seconds\n\
         HOLDUNTIL=date BY=seconds;R or ;N, perhaps with T (DELIVERBY)",
    ),
    (
        "RCPT",
        "RCPT TO:<recipient@domain>, once for each recipient\n\
         NOTIFY=NEVER or SUCCESS,FAILURE,DELAY; ORCPT=rfc822;address",
    ),
    ("DATA", "DATA, then the message; a line with a single dot ends it"),
    ("BDAT", "BDAT size, then so many bytes; BDAT size LAST ends the message (RFC 3030)"),
    ("RSET", "RSET forgets the transaction"),
    ("NOOP", "NOOP does nothing"),
    ("VRFY", "VRFY address; a relay knows no mailboxes and does not say more than 252"),
    ("ETRN", "ETRN domain, or ETRN @domain with all below it: what waits is tried now"),
    ("STARTTLS", "STARTTLS, then the handshake, then EHLO again (RFC 3207)"),
    ("AUTH", "AUTH mechanism, or AUTH mechanism initial-response (RFC 4954)"),
    ("HELP", "HELP, or HELP command"),
    ("QUIT", "QUIT ends the session"),
    ("EXPN", "EXPN is not implemented: a relay has no lists"),
];

/// What is said of `topic`; of all commands when it is none that is known.
pub fn help(topic: &str) -> Reply {
    let topic = topic.split([' ', '\t']).next().unwrap_or_default();
    let known = TOPICS.iter().find(|(name, _)| name.eq_ignore_ascii_case(topic));
    known.map_or(Reply::HELP, |(_, text)| Reply::new(214, Status(2, 0, 0), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_told_of_and_anything_else_gets_the_list() {
        assert!(help("mail FROM").text.starts_with("MAIL FROM:<sender@domain>"));
        for topic in ["", "me", "MAILX"] {
            assert_eq!(help(topic), Reply::HELP);
        }
        for (name, text) in TOPICS {
            assert!(text.starts_with(name), "{name}");
            assert!(text.lines().all(|line| line.len() <= 90), "{name}");
        }
    }
}
