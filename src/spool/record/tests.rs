//! Records written and read back, of every version, and bytes that are none.
#![allow(clippy::unwrap_used, clippy::panic)]
use super::super::entry::Entry;
use super::super::testing::{extreme, in_pieces, inline, path_of, plain, waiting};
use super::*;
use crate::message::{DeliverBy, DsnNotify};

fn round_trip(mut bytes: Vec<u8>, length: u32) -> (Vec<u8>, Header) {
    assert_eq!(bytes.len(), length as usize);
    seal(&mut bytes, 3, 4136);
    let (header, _) = check(&bytes, 3, 4136).unwrap();
    assert_eq!(check(&bytes, 3, 4137), None, "elsewhere it does not pass");
    assert_eq!(check(&bytes, 4, 4136), None, "in another segment it does not pass");
    (bytes, header)
}

fn reads_back(message: &Message, so_far: &PriorStatus) {
    let mut bytes = Vec::new();
    let length = put_message(&mut bytes, message, so_far);
    let (bytes, header) = round_trip(bytes, length);
    assert_eq!(header.id, message.id);
    let (read, read_so_far) = decode_message(&header, &bytes[HEADER..], path_of).unwrap();
    assert_eq!((&read, &read_so_far), (message, so_far));
}

#[test]
fn a_message_reads_back_as_it_was_written() {
    let none = PriorStatus::default();
    reads_back(&inline(plain(1, 1), b"Subject: x\r\n\r\n..\r\n"), &none);
    reads_back(&inline(plain(2, 0), b""), &none);
    let places = [[1, 4136, 9], [u32::MAX, u32::MAX, u32::MAX]];
    let statuses = vec![(0, RecipientStatus::Delivered), (1, waiting(u16::MAX, u64::MAX))];
    let so_far = PriorStatus { statuses, in_flight: vec![1, 2], reported: None };
    reads_back(&in_pieces(extreme(), u64::MAX, &places), &so_far);
    let statuses = vec![(0, RecipientStatus::Bounced), (u32::MAX, RecipientStatus::Expired)];
    let reported = Some(Reported { id: QueueId(u64::MAX), statuses });
    let report = PriorStatus { reported, ..PriorStatus::default() };
    reads_back(&in_pieces(plain(3, 1), u64::MAX, &places), &report);
}

/// An attempt that tried `count` hosts.
fn waiting_after_hosts(attempts: u16, count: usize) -> RecipientStatus {
    let mut status = waiting(attempts, 8);
    if let RecipientStatus::Waiting { reason, .. } = &mut status {
        let first = HostAttempt::of(reason);
        let host = |port| HostAttempt { remote: format!("x [::1]:{port}").into(), ..first.clone() };
        reason.hosts = Some((0..count).map(host).collect());
    }
    status
}

#[test]
fn outcomes_read_back_as_they_were_written() {
    let statuses = [
        RecipientStatus::Delivered,
        RecipientStatus::Bounced,
        RecipientStatus::Expired,
        RecipientStatus::Removed,
        RecipientStatus::Over,
        waiting(7, 8),
        waiting_after_hosts(9, 0),
        waiting_after_hosts(10, ATTEMPT_HOSTS_SHOWN_MAX),
    ];
    for status in statuses {
        let mut bytes = Vec::new();
        let length = put_settled(&mut bytes, QueueId(5), 9, &status);
        let (bytes, header) = round_trip(bytes, length);
        assert_eq!(decode(&header, &bytes[HEADER..]), Ok(Record::Settled(9, status)));
    }
    let mut bytes = Vec::new();
    let length = put_begun(&mut bytes, QueueId(5), &[0, 7, u32::MAX]);
    let (bytes, header) = round_trip(bytes, length);
    assert_eq!(decode(&header, &bytes[HEADER..]), Ok(Record::Begun(vec![0, 7, u32::MAX])));
    let mut bytes = Vec::new();
    let length = put_chunk(&mut bytes, QueueId(5), 3, b"abc");
    let (bytes, header) = round_trip(bytes, length);
    let chunk = Record::Chunk { index: 3, content: b"abc" };
    assert_eq!(decode(&header, &bytes[HEADER..]), Ok(chunk));
}

#[test]
fn the_hosts_of_many_recipients_do_not_make_a_record_that_fits_nowhere() {
    let many: Vec<_> = (0..1000).map(|one| (one, waiting_after_hosts(1, 8))).collect();
    let length = |statuses| {
        let so_far = PriorStatus { statuses, ..PriorStatus::default() };
        let mut bytes = Vec::new();
        let length = put_message(&mut bytes, &inline(plain(1, 1000), b"x\r\n"), &so_far);
        let (header, payload) = split(&bytes).unwrap();
        let (_, read) = decode_message(&header, payload, path_of).unwrap();
        (length as usize, read.statuses)
    };
    let (with_hosts, read) = length(many);
    let (without, _) = length((0..1000).map(|one| (one, waiting(1, 2))).collect());
    assert!(with_hosts <= without + HOSTS_BYTES_MAX + 1000, "{with_hosts} and {without}");
    let hosts = |(_, status): &(u32, RecipientStatus)| hosts_of(status).is_some();
    assert!(hosts(&read[0]) && !hosts(&read[999]), "the first ones keep theirs");
}

#[test]
fn newer_unknown_and_malformed_records_are_told_apart() {
    let header = |kind, version| Header { length: 20, id: QueueId(1), kind, version, flags: 0 };
    let message = |kind, version| decode_message(&header(kind, version), b"\x01", path_of);
    assert_eq!(message(MESSAGE, 4).map(drop), Err(Unusable::Newer(4)));
    assert_eq!(message(CHUNK, 1).map(drop), Err(Unusable::UnknownKind(CHUNK)));
    assert_eq!(message(MESSAGE, 1).map(drop), Err(Unusable::Malformed));
    assert_eq!(decode(&header(BEGUN, 4), b""), Err(Unusable::Newer(4)));
    assert_eq!(decode(&header(99, 1), b""), Err(Unusable::UnknownKind(99)));
    for kind in [CHUNK, BEGUN, SETTLED] {
        assert_eq!(decode(&header(kind, 1), b"\x01"), Err(Unusable::Malformed));
    }
}

/// A record as the first version wrote it, byte by byte but for the checksum.
const OF_VERSION_1: &[u8] = b"\x69\0\0\0\x01\x01\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\
    \x15\xcd\x5b\x07\0\0\0\0\x01\x03\0\0\0a@b\x01\0\0\0\x03\x03\0\0\0c@d\0\
    \x01\0\0\0t\0\0\0\0\x05\0\x30\0\x09\0\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0\
    \x02\0\0\0R\n\x03\0\0\0x\r\n";

/// What the second version put between the times and the prepended headers: BY.
const OF_VERSION_2: &[u8] = b"RT\x0b\0\0\0\0\0\0\0";
const BEHIND_THE_TIMES: usize = OF_VERSION_1.len() - 13;

#[test]
fn records_of_the_versions_before_are_read() {
    let read = |bytes: &mut Vec<u8>| {
        bytes[0] = u8::try_from(bytes.len()).unwrap();
        let (header, payload) = split(bytes).unwrap();
        assert!(Entry::of(&header, payload).is_ok());
        decode_message(&header, payload, path_of).unwrap()
    };
    let mut bytes = OF_VERSION_1.to_vec();
    let (message, so_far) = read(&mut bytes);
    let options = &message.options;
    assert_eq!((&*options.tenant, options.priority), ("t", 5));
    let times = (options.not_before, options.expires, options.deliver_by);
    assert_eq!(times, (Some(Timestamp(9)), Some(Timestamp(10)), None));
    let recipient = &message.envelope.recipients[0];
    let success = DsnNotify { success: true, ..DsnNotify::default() };
    assert_eq!((recipient.address.as_str(), recipient.notify), ("c@d", Some(success)));
    assert_eq!(message.content, Content::Whole(b"x\r\n".to_vec()));
    reads_back(&message, &so_far);

    bytes[5] = 2;
    bytes[6] = 32;
    bytes.splice(BEHIND_THE_TIMES..BEHIND_THE_TIMES, OF_VERSION_2.iter().copied());
    let (with_by, _) = read(&mut bytes);
    let (mode, trace) = DeliverBy::read_letters("rt").unwrap();
    let by = DeliverBy { at: Timestamp(11), mode, trace };
    assert_eq!(with_by.options.deliver_by, Some(by));
    assert_eq!(with_by.prepended_headers, message.prepended_headers);
    reads_back(&with_by, &so_far);
}

#[test]
fn what_must_be_understood_and_is_not_is_refused() {
    let mut bytes = Vec::new();
    put_message(&mut bytes, &inline(plain(1, 1), b"x\r\n"), &PriorStatus::default());
    let (header, payload) = split(&bytes).unwrap();
    let refused = |header: &Header, payload: &[u8]| {
        assert_eq!(
            Entry::of(header, payload).map(drop),
            decode_message(header, payload, path_of).map(drop)
        );
        decode_message(header, payload, path_of).map(drop).unwrap_err()
    };
    let flags = header.flags | 0x80;
    assert_eq!(refused(&Header { flags, ..header }, payload), Unusable::UnknownFlags(0x80));
    // Behind {time, reverse-path, count, address} come the recipient's options, then those of MAIL.
    let count = 8 + (1 + 4 + 13) + 4 + (4 + 14);
    assert_eq!(payload[count..count + 2], [0, 0]);
    for at in [count, count + 1] {
        let mut changed = payload.to_vec();
        changed[at] = 1;
        changed.splice(at + 1..=at, [99, 0, 0, 0, 0]);
        assert_eq!(refused(&header, &changed), Unusable::UnknownOption(99));
        changed[at + 1] = 199;
        let read = decode_message(&header, &changed, path_of);
        assert_eq!(read.map(|(message, _)| message), Ok(inline(plain(1, 1), b"x\r\n")));
        assert!(Entry::of(&header, &changed).is_ok());
    }
}

#[test]
fn no_payload_makes_decoding_panic_or_allocate_without_bound() {
    let mut bytes = Vec::new();
    let so_far =
        PriorStatus { statuses: vec![(0, waiting(1, 2))], in_flight: vec![1], reported: None };
    put_message(&mut bytes, &inline(extreme(), b"x"), &so_far);
    let flags = u16::from_le_bytes([bytes[6], bytes[7]]);
    let payload = &bytes[HEADER..];
    let header = Header { length: 0, id: QueueId(1), kind: MESSAGE, version: 3, flags };
    for cut in 0..payload.len() {
        let read = decode_message(&header, &payload[..cut], path_of);
        assert_eq!(read.map(drop), Err(Unusable::Malformed));
    }
    for at in 0..payload.len().min(2000) {
        for value in [0, 1, 0x7f, 0xff] {
            let mut changed = payload.to_vec();
            changed[at] = value;
            let _ = decode_message(&header, &changed, path_of);
        }
    }
}
