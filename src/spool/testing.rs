//! What the tests of this module share: messages to store.

use crate::message::{
    Address, Content, ContentFlags, DsnNotify, Envelope, Message, Options, Piece, QueueId, Reason,
    Recipient, RecipientStatus, Stage, Status, Timestamp,
};
use std::path::Path;
use std::sync::Arc;

/// A message with nothing special.
pub(super) fn plain(id: u64, recipients: usize) -> Message<()> {
    let recipients = (0..recipients)
        .map(|index| Recipient::plain(Address::new(format!("r{index}@Example.ORG"))))
        .collect();
    Message {
        id: QueueId(id),
        received_at: Timestamp(1_700_000_000_000 + id),
        envelope: Envelope { reverse_path: Some(Address::new("s@example.com")), recipients },
        options: Options::default(),
        prepended_headers: b"Received: by relay\r\n".to_vec(),
        flags: ContentFlags::default(),
        content: (),
    }
}

/// A message with everything, at its extreme.
pub(super) fn extreme() -> Message<()> {
    let all = DsnNotify { success: true, failure: true, delay: true };
    let mut recipients: Vec<Recipient> = [None, Some(DsnNotify::default()), Some(all)]
        .into_iter()
        .map(|notify| Recipient {
            address: Address::new("\u{fc}".repeat(200) + "@x"),
            notify,
            original: Some("rfc822;a+2Bb".into()),
        })
        .collect();
    recipients.push(Recipient::plain(Address::new("postmaster")));
    Message {
        id: QueueId(u64::MAX),
        received_at: Timestamp::NEVER,
        envelope: Envelope { reverse_path: None, recipients },
        options: Options::every(),
        prepended_headers: vec![0, 255, 13, 10],
        flags: ContentFlags { dot_stuffed: true, eight_bit: true },
        content: (),
    }
}

/// The message with this content in memory.
pub(super) fn inline(message: Message<()>, content: &[u8]) -> Message {
    message.with_content(Content::Whole(content.to_vec()))
}

/// The message with content in pieces at {segment, offset, length}.
pub(super) fn in_pieces(message: Message<()>, draft: u64, places: &[[u32; 3]]) -> Message {
    let pieces = places.iter().zip(0..).map(|(&[segment, offset, length], index)| Piece {
        path: path_of(segment),
        segment,
        offset,
        length,
        draft: QueueId(draft),
        index,
    });
    message.with_content(Content::Streamed(pieces.collect()))
}

/// Where a segment is, for those that do not care.
pub(super) fn path_of(segment: u32) -> Arc<Path> {
    Path::new(&segment.to_string()).into()
}

/// A recipient deferred.
pub(super) fn waiting(attempts: u16, due: u64) -> RecipientStatus {
    let reason = Reason {
        stage: Stage::EndOfData,
        code: 451,
        status: Status(4, 999, 999),
        text: "later".into(),
        remote: "mx.example.org [192.0.2.1]:25".into(),
        hosts: None,
    };
    RecipientStatus::Waiting { attempts, due: Timestamp(due), reason }
}
