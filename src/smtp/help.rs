//! The reply to HELP (RFC 5321 4.1.1.8): the commands that this client may use, and the syntax of
//! each. *Pure.*

use super::command::Verb;
use super::reply::Reply;
use crate::message::Status;

/// The syntax of each command and of its parameters, in the order in which HELP lists them.
const TOPICS: [(Verb, &str, &str); 16] = [
    (Verb::Ehlo, "EHLO", "EHLO hostname, or EHLO [address]; the reply lists the extensions"),
    (Verb::Helo, "HELO", "HELO hostname; EHLO offers more"),
    (
        Verb::Mail,
        "MAIL",
        "MAIL FROM:<sender@domain>, or MAIL FROM:<> for delivery reports\n\
         SIZE=bytes BODY=7BIT|8BITMIME|BINARYMIME SMTPUTF8 RET=FULL|HDRS ENVID=id\n\
         and where EHLO lists them: REQUIRETLS MT-PRIORITY=-9..9 HOLDFOR=seconds\n\
         HOLDUNTIL=date BY=seconds;R or ;N, optionally with T (DELIVERBY)",
    ),
    (
        Verb::Rcpt,
        "RCPT",
        "RCPT TO:<recipient@domain>, once for each recipient\n\
         NOTIFY=NEVER or SUCCESS,FAILURE,DELAY; ORCPT=rfc822;address",
    ),
    (Verb::Data, "DATA", "DATA, then the message; a line with a single dot ends it"),
    (
        Verb::Bdat,
        "BDAT",
        "BDAT size, then that many bytes; BDAT size LAST ends the message (RFC 3030)",
    ),
    (Verb::Rset, "RSET", "RSET aborts the mail transaction"),
    (Verb::Noop, "NOOP", "NOOP does nothing"),
    (Verb::Vrfy, "VRFY", "VRFY address; a relay has no mailboxes and always replies 252"),
    (Verb::Etrn, "ETRN", "ETRN domain, or ETRN @domain with its subdomains: starts its queue"),
    (Verb::StartTls, "STARTTLS", "STARTTLS, then the TLS handshake, then EHLO again (RFC 3207)"),
    (Verb::Auth, "AUTH", "AUTH mechanism [initial-response] (RFC 4954)"),
    (Verb::Xclient, "XCLIENT", "XCLIENT attribute=value ... (Postfix XCLIENT_README)"),
    (Verb::Help, "HELP", "HELP, or HELP command"),
    (Verb::Quit, "QUIT", "QUIT ends the session"),
    (Verb::Expn, "EXPN", "EXPN is not implemented: a relay has no mailing lists"),
];

/// The reply to HELP with this argument: the syntax of a command that is offered to this client, or
/// else the list of those commands.
pub fn help(argument: &str, is_offered: impl Fn(Verb) -> bool) -> Reply {
    let topic = argument.split([' ', '\t']).next().unwrap_or_default();
    let found = TOPICS.iter().find(|(verb, name, _)| {
        name.eq_ignore_ascii_case(topic) && (*verb == Verb::Expn || is_offered(*verb))
    });
    match found {
        Some((_, _, text)) => Reply::new(214, Status(2, 0, 0), text),
        None => list(is_offered),
    }
}

fn list(is_offered: impl Fn(Verb) -> bool) -> Reply {
    let mut text = "Commands:".to_owned();
    for (verb, name, _) in TOPICS {
        if verb != Verb::Expn && is_offered(verb) {
            text.push(' ');
            text.push_str(name);
        }
    }
    text.push_str(
        "\nHELP command gives the syntax of a command\n\
         A message: EHLO hostname, MAIL FROM:<sender@domain>, RCPT TO:<recipient@domain>, DATA\n\
         Lines end with <CRLF>; a line with a single dot ends the message (RFC 5321)",
    );
    Reply { text: text.into(), ..Reply::new(214, Status(2, 0, 0), "") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered_to_all(verb: Verb) -> bool {
        !matches!(verb, Verb::StartTls | Verb::Auth | Verb::Etrn | Verb::Xclient)
    }

    #[test]
    fn each_command_has_a_topic_and_anything_else_gets_the_list() {
        assert!(help("mail FROM", |_| true).text.starts_with("MAIL FROM:<sender@domain>"));
        for topic in ["", "me", "MAILX", "starttls", "ETRN"] {
            assert_eq!(help(topic, offered_to_all), list(offered_to_all), "{topic}");
        }
        for (_, name, text) in TOPICS {
            assert_eq!(help(name, |_| true).text, text);
            assert!(text.starts_with(name), "{name}");
            assert!(text.lines().all(|line| line.len() <= 90), "{name}");
        }
    }

    #[test]
    fn only_offered_commands_are_listed() {
        let first = |reply: Reply| reply.text.lines().next().map(str::to_owned);
        assert_eq!(
            first(list(offered_to_all)).as_deref(),
            Some("Commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT")
        );
        assert_eq!(
            first(list(|_| true)).as_deref(),
            Some(
                "Commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY ETRN STARTTLS AUTH XCLIENT \
                 HELP QUIT"
            )
        );
    }
}
