//! The wire format: writes queries and reads answers. *Pure.*
//!
//! A datagram goes in, a [`Heard`] comes out. Nothing here knows servers, timeouts or caches.

use super::Mx;
use super::aliases::follow;
use super::record::{is_plain, sound_ttl, text_of};
use crate::limits;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use std::net::IpAddr;
use std::rc::Rc;

/// Longest name in text, in bytes, without the final dot (RFC 1035 2.3.4: 255 on the wire).
const NAME_BYTES_MAX: usize = 253;
/// Longest label, in bytes (RFC 1035 2.3.4).
const LABEL_BYTES_MAX: usize = 63;
/// TC in the third byte of the header (RFC 1035 4.1.1).
const TRUNCATED_BIT: u8 = 0x02;
/// QR in the third byte of the header.
const RESPONSE_BIT: u8 = 0x80;
/// The option with details about an error (RFC 8914).
const EXTENDED_ERROR: u16 = 15;
/// How much of a server's own error text is kept, in bytes.
const EXTENDED_TEXT_MAX: usize = 120;

/// The record types that mail needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Mx,
    A,
    Aaaa,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Mx => "MX",
            Kind::A => "A",
            Kind::Aaaa => "AAAA",
        }
    }

    fn record_type(self) -> RecordType {
        match self {
            Kind::Mx => RecordType::MX,
            Kind::A => RecordType::A,
            Kind::Aaaa => RecordType::AAAA,
        }
    }
}

/// A question. It is the key of the cache, so the name is normalized.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    /// Lower-case ASCII without the final dot.
    pub(super) name: Rc<str>,
    pub(super) kind: Kind,
}

impl Question {
    /// `None` when the name cannot be looked up. Names outside ASCII become A-labels (RFC 5890
    /// 2.3.2.1).
    pub(super) fn new(name: &str, kind: Kind) -> Option<Question> {
        let bare = name.strip_suffix('.').unwrap_or(name);
        if !bare.is_ascii() {
            let name = text_of(&Name::from_utf8(bare).ok()?)?;
            return Some(Question { name: name.into(), kind });
        }
        let sound = |label: &str| {
            (1..=LABEL_BYTES_MAX).contains(&label.len()) && label.bytes().all(is_plain)
        };
        if bare.len() > NAME_BYTES_MAX || !bare.split('.').all(sound) {
            return None;
        }
        Some(Question { name: bare.to_ascii_lowercase().into(), kind })
    }

    /// `MX example.test`, for texts.
    pub(super) fn words(&self) -> String {
        format!("{} {}", self.kind.word(), self.name)
    }

    fn wire_name(&self) -> Option<Name> {
        Name::from_labels(self.name.split('.').map(str::as_bytes)).ok()
    }
}

/// The query for `question`: recursion desired, EDNS with our UDP size (RFC 6891 6.2.5).
pub(super) fn query(question: &Question, id: u16) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(question.wire_name()?, question.kind.record_type()));
    let mut edns = Edns::new();
    edns.set_max_payload(limits::DNS_UDP_BYTES_MAX);
    message.set_edns(edns);
    message.to_vec().ok()
}

/// The meaning of a datagram from the server's address.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Heard {
    /// Not an answer to this query: garbage, a late answer to another one, a forgery.
    Foreign,
    /// The answer is larger than a datagram (RFC 2181 9: nothing of it may be used).
    Truncated,
    Answer(Finding),
}

/// The content of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Finding {
    /// Never empty. `ttl`, in seconds, is the smallest of the records and the aliases before them.
    Records { records: Records, ttl: u32 },
    /// The name is an alias, and its target is not in the answer: look up the target.
    Alias { to: Rc<str>, links: usize, ttl: u32 },
    /// The name exists without such records. `ttl` by RFC 2308 5, `None` without an SOA.
    NoData { ttl: Option<u32> },
    /// The name does not exist.
    NoSuchDomain { ttl: Option<u32> },
    /// The server failed; its error, as it follows "answered ".
    Failed { words: String, of_server: bool },
}

/// The records of one kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Records {
    Mx(Vec<Mx>),
    Addresses(Vec<IpAddr>),
}

/// Reads `bytes` as the answer to `question` with this `id`.
pub(super) fn hear(question: &Question, id: u16, bytes: &[u8]) -> Heard {
    // The header is read first, by hand: a truncated answer may end in the middle of a record.
    let [id_high, id_low, flags, ..] = bytes else { return Heard::Foreign };
    if u16::from_be_bytes([*id_high, *id_low]) != id || flags & RESPONSE_BIT == 0 {
        return Heard::Foreign;
    }
    if flags & TRUNCATED_BIT != 0 {
        return Heard::Truncated;
    }
    let Ok(message) = Message::from_vec(bytes) else { return Heard::Foreign };
    if message.metadata.op_code != OpCode::Query || !answers(&message, question) {
        return Heard::Foreign;
    }
    Heard::Answer(read(&message, question))
}

/// Whether the question section repeats our question (RFC 5452 9.1). A server that could not read
/// the query may leave it out.
fn answers(message: &Message, question: &Question) -> bool {
    match message.queries.as_slice() {
        [asked] => {
            asked.query_type() == question.kind.record_type()
                && asked.query_class() == DNSClass::IN
                && text_of(asked.name()).as_deref() == Some(&*question.name)
        }
        [] => matches!(
            message.metadata.response_code,
            ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::ServFail
        ),
        _ => false,
    }
}

fn read(message: &Message, question: &Question) -> Finding {
    match message.metadata.response_code {
        ResponseCode::NoError => {}
        // After aliases it is about the last name (RFC 6604 3), so there are no records for the
        // name that was asked for.
        ResponseCode::NXDomain => return Finding::NoSuchDomain { ttl: negative_ttl(message) },
        code => {
            return Finding::Failed {
                words: error_words(message, code),
                // SERVFAIL is usually about the name, the others about the server or this relay.
                of_server: code != ResponseCode::ServFail,
            };
        }
    }
    let chain = follow(&message.answers, &question.name);
    let Some(end) = chain.end else { return failed("an alias to a name that is not a host name") };
    let mut ttl = chain.ttl;
    let mut found = Vec::new();
    let mut unusable = false;
    for record in message.answers.iter().filter(|record| record.dns_class == DNSClass::IN) {
        let wanted = record.record_type() == question.kind.record_type();
        if wanted && text_of(&record.name).as_deref() == Some(&*end) {
            ttl = ttl.min(sound_ttl(record.ttl));
            found.push(&record.data);
        }
    }
    let records = match question.kind {
        Kind::Mx => Records::Mx(mx_records(&found, &mut unusable)),
        Kind::A | Kind::Aaaa => Records::Addresses(addresses(&found)),
    };
    let empty = match &records {
        Records::Mx(records) => records.is_empty(),
        Records::Addresses(records) => records.is_empty(),
    };
    match empty {
        false => Finding::Records { records, ttl },
        true if unusable => failed("MX records without a usable host name"),
        true => nothing(message, chain.links, end, ttl),
    }
}

/// No error and no records (RFC 2308 2.2).
fn nothing(message: &Message, links: usize, end: Rc<str>, ttl: u32) -> Finding {
    let negative = negative_ttl(message);
    if negative.is_none() && links > 0 {
        return Finding::Alias { to: end, links, ttl };
    }
    let has_ns = message.authorities.iter().any(|record| record.record_type() == RecordType::NS);
    if negative.is_none() && has_ns {
        // Treating it as "no data" would deliver to the A record although there may be MX records.
        return failed("a referral (it does not resolve for this relay)");
    }
    Finding::NoData { ttl: negative }
}

fn failed(words: &str) -> Finding {
    Finding::Failed { words: words.to_owned(), of_server: false }
}

fn mx_records(found: &[&RData], unusable: &mut bool) -> Vec<Mx> {
    let mut records = Vec::with_capacity(found.len());
    for data in found {
        if let RData::MX(mx) = data {
            match text_of(&mx.exchange) {
                Some(host) => records.push(Mx { preference: mx.preference, host }),
                None => *unusable = true,
            }
        }
    }
    // Sort before cutting, so that the result does not depend on the order of the records.
    records.sort_by(|a, b| (a.preference, &a.host).cmp(&(b.preference, &b.host)));
    records.dedup();
    records.truncate(limits::DNS_RECORDS_MAX);
    records
}

fn addresses(found: &[&RData]) -> Vec<IpAddr> {
    let address = |data: &&RData| match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    };
    found.iter().filter_map(address).take(limits::DNS_RECORDS_MAX).collect()
}

/// TTL of a negative answer: the smaller of the SOA's own TTL and its MINIMUM (RFC 2308 5).
fn negative_ttl(message: &Message) -> Option<u32> {
    message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(sound_ttl(record.ttl).min(sound_ttl(soa.minimum))),
        _ => None,
    })
}

/// `SERVFAIL (DNSSEC bogus: ...)`.
fn error_words(message: &Message, code: ResponseCode) -> String {
    let name = match code {
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        other => format!("error {}", u16::from(other)),
    };
    let option = message.edns.as_ref().and_then(|e| e.option(EdnsCode::from(EXTENDED_ERROR)));
    let Some(EdnsOption::Unknown(_, bytes)) = option else { return name };
    let [high, low, text @ ..] = bytes.as_slice() else { return name };
    let cause = extended_error(u16::from_be_bytes([*high, *low]));
    let shown = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '?',
    };
    let text: String = text.iter().take(EXTENDED_TEXT_MAX).map(shown).collect();
    match text.is_empty() {
        true => format!("{name} ({cause})"),
        false => format!("{name} ({cause}: {text})"),
    }
}

/// The extended errors that help an operator (RFC 8914 4).
fn extended_error(code: u16) -> String {
    let words = match code {
        6 => "DNSSEC bogus",
        7 => "DNSSEC signature expired",
        8 => "DNSSEC signature not yet valid",
        9 => "DNSKEY missing",
        10 => "RRSIGs missing",
        12 => "NSEC missing",
        15 => "blocked",
        16 => "censored",
        18 => "prohibited",
        22 => "no reachable authority",
        23 => "network error",
        other => return format!("extended error {other}"),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::fake::{a, cname, mx, record, reply_to, soa};
    use super::*;

    const ID: u16 = 0x1234;

    fn question(name: &str) -> Question {
        Question::new(name, Kind::Mx).unwrap()
    }

    fn answer(question: &Question) -> Message {
        reply_to(&Message::from_vec(&query(question, ID).unwrap()).unwrap())
    }

    fn heard(question: &Question, message: &Message) -> Heard {
        hear(question, ID, &message.to_vec().unwrap())
    }

    #[test]
    fn a_query_asks_for_recursion_and_names_its_size() {
        let query = Message::from_vec(&query(&question("Example.TEST."), ID).unwrap()).unwrap();
        assert_eq!(query.metadata.id, ID);
        assert!(query.metadata.recursion_desired);
        assert_eq!(query.edns.as_ref().unwrap().max_payload(), limits::DNS_UDP_BYTES_MAX);
        assert_eq!(query.queries[0].name().to_ascii(), "example.test.");
    }

    #[test]
    fn a_name_outside_ascii_is_looked_up_by_its_a_labels() {
        assert_eq!(&*question("müller.test").name, "xn--mller-kva.test");
    }

    #[test]
    fn negative_answers_are_cached_for_the_smaller_of_both_times() {
        let question = question("example.test");
        for (ttl, minimum, expected) in [(60, 300, 60), (300, 60, 60), (u32::MAX, 60, 0)] {
            let mut message = answer(&question);
            message.add_authority(record("test", ttl, soa(minimum)));
            let no_data = Heard::Answer(Finding::NoData { ttl: Some(expected) });
            assert_eq!(heard(&question, &message), no_data);
            message.metadata.response_code = ResponseCode::NXDomain;
            let none = Heard::Answer(Finding::NoSuchDomain { ttl: Some(expected) });
            assert_eq!(heard(&question, &message), none);
        }
    }

    #[test]
    fn an_error_has_the_details_from_the_server() {
        let question = question("example.test");
        let mut message = answer(&question);
        message.metadata.response_code = ResponseCode::ServFail;
        let mut edns = Edns::new();
        edns.options_mut().insert(EdnsOption::Unknown(15, b"\x00\x06no \x1b[31mDS".to_vec()));
        message.set_edns(edns);
        let words = "SERVFAIL (DNSSEC bogus: no ?[31mDS)".to_owned();
        let failed = Finding::Failed { words, of_server: false };
        assert_eq!(heard(&question, &message), Heard::Answer(failed));
    }

    #[test]
    fn an_mx_that_is_not_a_host_name_is_not_turned_into_one() {
        let question = question("example.test");
        let mut message = answer(&question);
        let dotted = Name::from_labels([&b"a.b"[..], b"test"]).unwrap();
        let odd = hickory_proto::rr::rdata::MX::new(1, dotted);
        message.add_answer(record("example.test", 60, RData::MX(odd)));
        assert!(matches!(heard(&question, &message), Heard::Answer(Finding::Failed { .. })));
        message.add_answer(record("example.test", 60, mx(2, "good.test")));
        let Heard::Answer(Finding::Records { records: Records::Mx(records), .. }) =
            heard(&question, &message)
        else {
            panic!("no records")
        };
        assert_eq!(records.len(), 1);
    }

    #[test]
    fn damaged_answers_cause_no_panic() {
        let question = question("example.test");
        let mut message = answer(&question);
        message.add_answer(record("example.test", 60, cname("b.test")));
        message.add_answer(record("b.test", 60, mx(1, "mx.b.test")));
        message.add_answer(record("b.test", 60, a("192.0.2.1")));
        message.add_authority(record("test", 60, soa(60)));
        message.set_edns(Edns::new());
        let sound = message.to_vec().unwrap();
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..50_000 {
            let mut bytes = sound.clone();
            for _ in 0..rng.usize(1..6) {
                let at = rng.usize(2..bytes.len());
                bytes[at] = rng.u8(..);
            }
            bytes.truncate(rng.usize(..=bytes.len()));
            let _ = hear(&question, ID, &bytes);
        }
    }
}
