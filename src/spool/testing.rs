//! What the tests of this room share: messages to store.

use super::{Accepted, RecipientStatus};
use crate::message::{
    Address, Body, ByMode, DeliverBy, DsnNotify, DsnReturn, Envelope, Options, QueueId, Reason,
    Recipient, Stage, Status, Timestamp,
};

/// A message with nothing special.
pub(super) fn plain(id: u64, recipients: usize) -> Accepted {
    let recipients = (0..recipients)
        .map(|index| Recipient::plain(Address::new(format!("r{index}@Example.ORG"))))
        .collect();
    Accepted {
        id: QueueId(id),
        received_at: Timestamp(1_700_000_000_000 + id),
        envelope: Envelope { reverse_path: Some(Address::new("s@example.com")), recipients },
        options: Options::default(),
        prepended_headers: b"Received: by relay\r\n".to_vec(),
        dot_stuffed: false,
        eight_bit: false,
    }
}

/// A message with everything, at its extreme.
pub(super) fn extreme() -> Accepted {
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
    Accepted {
        id: QueueId(u64::MAX),
        received_at: Timestamp::NEVER,
        envelope: Envelope { reverse_path: None, recipients },
        options: Options {
            tenant: "t".repeat(300).into(),
            campaign: "c".into(),
            priority: -9,
            body: Body::BinaryMime,
            smtp_utf8: true,
            require_tls: true,
            dsn_return: Some(DsnReturn::Headers),
            dsn_envelope_id: Some("".into()),
            not_before: Some(Timestamp(0)),
            expires: Some(Timestamp::NEVER),
            deliver_by: Some(DeliverBy { at: Timestamp::NEVER, mode: ByMode::Return, trace: true }),
        },
        prepended_headers: vec![0, 255, 13, 10],
        dot_stuffed: true,
        eight_bit: true,
    }
}

/// A recipient deferred.
pub(super) fn waiting(attempts: u16, due: u64) -> RecipientStatus {
    let reason = Reason {
        stage: Stage::EndOfData,
        code: 451,
        status: Status(4, 999, 999),
        text: "later".into(),
        remote: "mx.example.org [192.0.2.1]:25".into(),
    };
    RecipientStatus::Waiting { attempts, due: Timestamp(due), reason }
}
