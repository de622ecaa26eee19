//! AUTH at a next hop, step by step.

use super::*;
use crate::delivery::Login;
use crate::sasl::{Channels, Credentials, Exchange, Keys, Mechanism, Secret, Turn, decode, encode};

const EHLO_AUTH: &str = "250-mx\r\n250 AUTH LOGIN PLAIN\r\n";
const EHLO_SCRAM: &str = "250-mx\r\n250 AUTH PLAIN SCRAM-SHA-256\r\n";
const EHLO_LOGIN: &str = "250-mx\r\n250 AUTH=LOGIN\r\n";

/// A conversation with a host that knows joe, under TLS or not, after the greeting.
fn to_log_in(secured: bool, without_tls: bool) -> Conversation {
    to_log_in_with(false, secured, without_tls)
}

fn to_log_in_with(is_token: bool, secured: bool, without_tls: bool) -> Conversation {
    let credentials = Credentials { user: "joe".into(), password: Secret::new("pencil"), is_token };
    let login = Login { credentials: Arc::new(credentials), nonce: "abc".into(), without_tls };
    let mut conversation =
        Conversation::new(policy(), "mx.example".into(), manner(StartTls::Never));
    conversation.log_in_as(login);
    if secured {
        conversation.secured_from_the_start();
    }
    assert_eq!(feed(&mut conversation, GREETING).0, Step::More);
    conversation
}

fn said(step: (Step, String)) -> String {
    assert_eq!(step.0, Step::More);
    step.1
}

#[test]
fn plain_goes_in_one_line_and_login_in_three() {
    let mut plain = to_log_in(true, false);
    assert_eq!(said(feed(&mut plain, EHLO_AUTH)), "AUTH PLAIN AGpvZQBwZW5jaWw=\r\n");
    assert_eq!(feed(&mut plain, "235 2.7.0 yes\r\n").0, Step::Ready);
    let mut login = to_log_in(true, false);
    assert_eq!(said(feed(&mut login, EHLO_LOGIN)), "AUTH LOGIN\r\n");
    assert_eq!(said(feed(&mut login, "334 VXNlcm5hbWU6\r\n")), "am9l\r\n");
    assert_eq!(said(feed(&mut login, "334 UGFzc3dvcmQ6\r\n")), "cGVuY2ls\r\n");
    assert_eq!(feed(&mut login, "235 yes\r\n").0, Step::Ready);
}

#[test]
fn a_token_goes_in_one_line_and_only_by_what_is_for_tokens() {
    let mut bearer = to_log_in_with(true, true, false);
    let ehlo = "250-mx\r\n250 AUTH PLAIN XOAUTH2 OAUTHBEARER\r\n";
    let line = said(feed(&mut bearer, ehlo));
    let message = decode(line.trim_end().strip_prefix("AUTH OAUTHBEARER ").unwrap().as_bytes());
    assert_eq!(message.unwrap(), b"n,a=joe,\x01auth=Bearer pencil\x01\x01");
    assert_eq!(feed(&mut bearer, "235 yes\r\n").0, Step::Ready);
    let mut refused = to_log_in_with(true, true, false);
    let line = said(feed(&mut refused, "250-mx\r\n250 AUTH XOAUTH2\r\n"));
    assert!(line.starts_with("AUTH XOAUTH2 "), "{line}");
    assert_eq!(said(feed(&mut refused, "334 e30=\r\n")), "AQ==\r\n", "RFC 7628 3.2.3");
    let (step, _) = feed(&mut refused, "535 5.7.8 no\r\n");
    assert_eq!(unusable(&step), (Stage::Auth, Status(5, 7, 8)));
    let mut neither = to_log_in_with(true, true, false);
    assert_eq!(unusable(&feed(&mut neither, EHLO_AUTH).0), (Stage::Auth, Status(4, 7, 4)));
}

#[test]
fn scram_comes_first_and_the_host_has_to_prove_itself() {
    for (password, honest) in [("pencil", true), ("eraser", false)] {
        let mut conversation = to_log_in(true, false);
        let first = said(feed(&mut conversation, EHLO_SCRAM));
        let first = first.strip_prefix("AUTH SCRAM-SHA-256 ").unwrap().trim_end();
        let mut server = Exchange::new(Mechanism::ScramSha256, Channels::default());
        server.begin(Some(&decode(first.as_bytes()).unwrap())).unwrap();
        let keys = Keys::derive(password, b"salt", 4096);
        let Turn::Challenge(challenge) = server.keys(keys, "def").unwrap() else { panic!("none") };
        let (step, _) = feed(&mut conversation, &format!("334 {}\r\n", encode(&challenge)));
        let Step::Prove(proof) = step else { panic!("{step:?}") };
        let mut out = Vec::new();
        conversation.proved(Some(proof.work()), &mut out);
        let last = decode(out.strip_suffix(b"\r\n").unwrap()).unwrap();
        match server.receive(&last) {
            Ok(Turn::Challenge(message)) => {
                assert!(honest);
                let reply = format!("334 {}\r\n", encode(&message));
                assert_eq!(said(feed(&mut conversation, &reply)), "\r\n");
                assert_eq!(feed(&mut conversation, "235 yes\r\n").0, Step::Ready);
            }
            // A server that knows no password and says yes to all.
            _ => {
                assert!(!honest);
                let (step, out) = feed(&mut conversation, "235 yes\r\n");
                assert_eq!(unusable(&step), (Stage::Auth, Status(4, 7, 0)));
                assert_eq!(out, "QUIT\r\n");
            }
        }
    }
}

#[test]
fn a_password_does_not_go_in_the_clear_unless_told_to() {
    let mut kept = to_log_in(false, false);
    let (step, out) = feed(&mut kept, EHLO_AUTH);
    assert_eq!(unusable(&step), (Stage::Auth, Status(4, 7, 4)));
    assert_eq!(out, "QUIT\r\n");
    let mut allowed = to_log_in(false, true);
    assert!(said(feed(&mut allowed, EHLO_AUTH)).starts_with("AUTH PLAIN "));
}

#[test]
fn a_host_that_does_not_let_us_in_gets_nothing_and_mail_waits() {
    for (replies, status) in [
        (&["250 mx\r\n"][..], Status(4, 7, 4)),
        (&["250-mx\r\n250 AUTH GSSAPI CRAM-MD5\r\n"], Status(4, 7, 4)),
        (&[EHLO_AUTH, "535 5.7.8 wrong\r\n"], Status(5, 7, 8)),
        (&[EHLO_AUTH, "454 4.7.0 later\r\n"], Status(4, 7, 0)),
        (&[EHLO_AUTH, "334 more\r\n", "501 5.7.0 cancelled\r\n"], Status(4, 7, 0)),
        (&[EHLO_SCRAM, "334 *\r\n", "235 yes\r\n"], Status(4, 7, 0)),
        (&[EHLO_SCRAM, "235 yes\r\n"], Status(4, 7, 0)),
    ] {
        let mut conversation = to_log_in(true, false);
        let mut last = Step::More;
        for reply in replies {
            last = feed(&mut conversation, reply).0;
        }
        assert_eq!(unusable(&last), (Stage::Auth, status), "{replies:?}");
        assert!(matches!(last, Step::Unusable(Outcome::Deferred(_))), "{replies:?}");
    }
}

#[test]
fn a_challenge_that_asks_for_too_much_ends_it() {
    let mut conversation = to_log_in(true, false);
    feed(&mut conversation, EHLO_SCRAM);
    let challenge = encode(b"r=abcdef,s=c2FsdA==,i=99999999");
    let (step, _) = feed(&mut conversation, &format!("334 {challenge}\r\n"));
    let Step::Prove(proof) = step else { panic!("{step:?}") };
    let mut out = Vec::new();
    conversation.proved(Some(proof.work()), &mut out);
    assert_eq!(out, b"*\r\n");
    let (step, out) = feed(&mut conversation, "501 5.7.0 cancelled\r\n");
    assert_eq!(unusable(&step), (Stage::Auth, Status(4, 7, 0)));
    assert_eq!(out, "QUIT\r\n");
}

#[test]
fn rfc4954_4_what_is_no_base64_is_answered_with_an_asterisk() {
    for challenge in ["*", "=AAA", "AAA=BBB", "not base64"] {
        let mut conversation = to_log_in(true, false);
        feed(&mut conversation, EHLO_SCRAM);
        assert_eq!(said(feed(&mut conversation, &format!("334 {challenge}\r\n"))), "*\r\n");
        let (step, out) = feed(&mut conversation, "501 5.7.0 cancelled\r\n");
        let Step::Unusable(Outcome::Deferred(reason)) = step else { panic!("{step:?}") };
        assert_eq!(&*reason.text, "AUTH failed at the host: its challenge is not base64");
        assert_eq!(out, "QUIT\r\n");
    }
}

#[test]
fn rfc4954_4_a_first_message_that_is_too_long_for_the_line_waits() {
    for (length, at_once) in [(367, true), (368, false)] {
        let password = "x".repeat(length);
        let password = Secret::new(password);
        let credentials = Credentials { user: "joe".into(), password, is_token: false };
        let mut conversation = to_log_in(true, false);
        conversation.log_in_as(Login {
            credentials: Arc::new(credentials),
            nonce: "abc".into(),
            without_tls: false,
        });
        let first = said(feed(&mut conversation, EHLO_AUTH));
        assert!(first.len() <= 512 && (first.len() > 500) == at_once, "{}", first.len());
        if !at_once {
            assert_eq!(first, "AUTH PLAIN\r\n");
            let message = said(feed(&mut conversation, "334 \r\n"));
            let message = decode(message.trim_end().as_bytes()).unwrap();
            assert!(message.starts_with(b"\0joe\0xxx") && message.len() == length + 5);
        }
        assert_eq!(feed(&mut conversation, "235 yes\r\n").0, Step::Ready);
    }
}

#[test]
fn rfc4954_5_mail_names_nobody_where_we_have_logged_in() {
    let mut conversation = to_log_in(true, false);
    feed(&mut conversation, EHLO_AUTH);
    assert_eq!(feed(&mut conversation, "235 yes\r\n").0, Step::Ready);
    let mut out = Vec::new();
    conversation.begin(mail(1), &mut out);
    assert_eq!(out, b"MAIL FROM:<from@a.example> AUTH=<>\r\n");
    let mut out = Vec::new();
    let mut unknown = ready();
    unknown.begin(mail(1), &mut out);
    assert!(!String::from_utf8(out).unwrap().contains("AUTH="), "not elsewhere");
}

#[test]
fn rfc4954_4_a_token_that_is_too_long_for_the_line_waits_too() {
    let password = Secret::new("t".repeat(1000));
    let credentials = Credentials { user: "joe".into(), password, is_token: true };
    for name in ["OAUTHBEARER", "XOAUTH2"] {
        let mut conversation = to_log_in(true, false);
        conversation.log_in_as(Login {
            credentials: Arc::new(credentials.clone()),
            nonce: "abc".into(),
            without_tls: false,
        });
        let ehlo = format!("250-mx\r\n250 AUTH {name}\r\n");
        assert_eq!(said(feed(&mut conversation, &ehlo)), format!("AUTH {name}\r\n"));
        let message = said(feed(&mut conversation, "334 \r\n"));
        assert!(decode(message.trim_end().as_bytes()).unwrap().len() > 1000);
        // It says what is wrong with the token, and waits for a word before it refuses.
        assert_eq!(said(feed(&mut conversation, "334 e30=\r\n")), "AQ==\r\n");
        let (step, _) = feed(&mut conversation, "535 5.7.8 no\r\n");
        assert_eq!(unusable(&step), (Stage::Auth, Status(5, 7, 8)));
    }
}

#[test]
fn a_host_that_does_not_know_the_submitter_gets_the_mail_without() {
    for code in [500, 501, 504, 555] {
        let mut conversation = to_log_in(true, false);
        feed(&mut conversation, EHLO_AUTH);
        assert_eq!(feed(&mut conversation, "235 yes\r\n").0, Step::Ready);
        conversation.begin(mail(1), &mut Vec::new());
        let (step, _) = feed(&mut conversation, &format!("{code} 5.5.4 what\r\n"));
        let Step::Finished { outcomes, again } = step else { panic!("{step:?}") };
        assert!(matches!(outcomes[0].outcome, Outcome::Deferred(_)) && again.is_empty());
        assert!(conversation.retry_without_extension());
        assert_eq!(feed(&mut conversation, "").0, Step::Ready);
        let mut out = Vec::new();
        conversation.begin(mail(1), &mut out);
        assert_eq!(out, b"MAIL FROM:<from@a.example>\r\n");
        // What it says then it says of the mail.
        let (step, _) = feed(&mut conversation, &format!("{code} 5.1.7 bad sender\r\n"));
        let Step::Finished { outcomes, .. } = step else { panic!("{step:?}") };
        assert!(
            matches!(outcomes[0].outcome, Outcome::Refused(_))
                && !conversation.retry_without_extension()
        );
    }
}
