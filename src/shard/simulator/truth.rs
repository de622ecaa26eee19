//! What clients were promised and next hops have got, in one simulated history.
//!
//! A recipient's address names the message: `r1.m17@d.test` is the second recipient of message 17.

use crate::ring::simulation;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// How far a client came with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The end of the content was never sent: it must not arrive.
    Never,
    /// It was refused with a reply: it must not arrive.
    Refused,
    /// The end of the content was sent, and no reply has come: it may arrive or not.
    InDoubt,
    /// The client has the 250: each recipient ends, by delivery or by a report.
    Acknowledged,
}

/// A message of a client.
#[derive(Clone, Debug)]
pub(super) struct Mail {
    pub(super) content: Vec<u8>,
    /// Those that the relay has taken.
    pub(super) recipients: Vec<String>,
    pub(super) sent: Sent,
}

/// What has become of a recipient.
#[derive(Clone, Debug, Default)]
struct Ending {
    /// Copies that a next hop has taken.
    copies: u32,
    /// Since when the relay knows of one: it has read the reply.
    known_us: Option<u64>,
    reported: bool,
    /// A next hop has refused it for good.
    refused: bool,
}

/// Everything, over one history.
#[derive(Default)]
pub(super) struct Truth {
    mails: RefCell<BTreeMap<u64, Mail>>,
    endings: RefCell<BTreeMap<String, Ending>>,
    /// What happened to each message, in order.
    stories: RefCell<BTreeMap<u64, Vec<String>>>,
}

pub(super) fn recipient(message: u64, number: usize, domain: &str) -> String {
    format!("r{number}.m{message}@{domain}")
}

fn message_of(recipient: &str) -> u64 {
    let number = recipient.split_once(".m").and_then(|(_, rest)| rest.split_once('@'));
    number.and_then(|(number, _)| number.parse().ok()).unwrap_or_else(|| panic!("{recipient}"))
}

fn now_us() -> u64 {
    simulation::current().map_or(0, |simulation| simulation.now_us())
}

impl Truth {
    fn note(&self, message: u64, what: &str) {
        let line = format!("{} us: {what}", now_us());
        self.stories.borrow_mut().entry(message).or_default().push(line);
    }

    /// What happened to the message of `to`, one line each.
    fn story(&self, to: &str) -> String {
        let stories = self.stories.borrow();
        stories.get(&message_of(to)).map(|lines| lines.join("\n")).unwrap_or_default()
    }

    pub(super) fn begun(&self, message: u64, mail: Mail) {
        self.note(message, "begun");
        self.mails.borrow_mut().insert(message, mail);
    }

    pub(super) fn change(&self, message: u64, change: impl FnOnce(&mut Mail)) {
        let mut mails = self.mails.borrow_mut();
        let mail = mails.get_mut(&message).unwrap();
        change(mail);
        self.note(message, &format!("{:?}, {:?}", mail.sent, mail.recipients));
    }

    pub(super) fn refused(&self, to: &str) {
        self.note(message_of(to), &format!("{to} refused by the next hop"));
        self.endings.borrow_mut().entry(to.to_owned()).or_default().refused = true;
    }

    /// A next hop has taken a message. It is checked at once: what is wrong now stays wrong.
    pub(super) fn delivered(&self, to: &str, content: &[u8]) {
        self.note(message_of(to), &format!("{to} delivered"));
        let mails = self.mails.borrow();
        let mail = mails.get(&message_of(to)).unwrap_or_else(|| panic!("{to}: who sent that?"));
        assert!(mail.recipients.iter().any(|one| one == to), "{to}: not a recipient");
        assert!(
            matches!(mail.sent, Sent::InDoubt | Sent::Acknowledged),
            "{to}: delivered, although it was not sent\n{}",
            self.story(to)
        );
        assert!(content.ends_with(&mail.content), "{to}: other content");
        let top = &content[..content.len() - mail.content.len()];
        assert!(top.starts_with(b"Received: "), "{to}: {}", String::from_utf8_lossy(top));
        let mut endings = self.endings.borrow_mut();
        let ending = endings.entry(to.to_owned()).or_default();
        let story = || self.story(to);
        assert_eq!(ending.known_us, None, "{to}: the relay knows it was taken\n{}", story());
        ending.copies += 1;
    }

    /// The relay has read that it was taken.
    pub(super) fn known(&self, to: &str) {
        self.note(message_of(to), &format!("{to}: the relay has read the reply"));
        let mut endings = self.endings.borrow_mut();
        let ending = endings.entry(to.to_owned()).or_default();
        ending.known_us = ending.known_us.or(Some(now_us()));
    }

    /// The relay has crashed: what it came to know after `noted_us` it may have forgotten.
    pub(super) fn crashed(&self, crashed_us: u64, noted_us: u64) {
        for story in self.stories.borrow_mut().values_mut() {
            story.push(format!("{crashed_us} us: the relay ends, or crashes"));
        }
        for ending in self.endings.borrow_mut().values_mut() {
            ending.known_us = ending.known_us.filter(|&known_us| known_us <= noted_us);
        }
    }

    /// A report says that `to` has failed.
    pub(super) fn reported(&self, to: &str) {
        self.note(message_of(to), &format!("{to} reported"));
        let mut endings = self.endings.borrow_mut();
        let ending = endings.entry(to.to_owned()).or_default();
        assert!(ending.refused, "{to}: reported, and no next hop has refused it");
        ending.reported = true;
    }

    /// The first promise that is broken for now: a recipient that is owed.
    pub(super) fn owed(&self) -> Option<String> {
        let (mails, endings) = (self.mails.borrow(), self.endings.borrow());
        for mail in mails.values().filter(|mail| mail.sent == Sent::Acknowledged) {
            for to in &mail.recipients {
                let ending = endings.get(to).cloned().unwrap_or_default();
                if ending.copies == 0 && !ending.reported {
                    return Some(format!("{to}\n{}", self.story(to)));
                }
            }
        }
        None
    }

    /// Messages that ended so for their clients; recipients delivered more than once, and reported.
    pub(super) fn figures(&self) -> [usize; 6] {
        let (mails, endings) = (self.mails.borrow(), self.endings.borrow());
        let sent = |how| mails.values().filter(|mail| mail.sent == how).count();
        [
            sent(Sent::Acknowledged),
            sent(Sent::InDoubt),
            sent(Sent::Refused),
            sent(Sent::Never),
            endings.values().filter(|ending| ending.copies > 1).count(),
            endings.values().filter(|ending| ending.reported).count(),
        ]
    }
}
