//! Compares what was accepted with what arrived. Pure except for `count`, which reads ledgers.

use std::collections::HashMap;

use serde::Serialize;

use crate::id::{Id, Pair};
use crate::{cli, ledger};

/// Accepted messages with the number of recipients that were accepted.
pub type Accepted = HashMap<Id, u32>;
/// What arrived at the sink for each recipient of each message.
pub type PairCounts = HashMap<Pair, PairCount>;

/// What arrived at the sink for one recipient of one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PairCount {
    /// How often it arrived and was accepted.
    pub arrivals: u32,
    /// How many of these were not intact.
    pub corrupt: u32,
    /// The sink refused it permanently at least once.
    pub refused: bool,
}

impl PairCount {
    /// Counts an arrival; whether it is the first.
    pub fn arrive(&mut self, intact: bool) -> bool {
        self.arrivals = self.arrivals.saturating_add(1);
        self.corrupt = self.corrupt.saturating_add(u32::from(!intact));
        self.arrivals == 1
    }
}

/// The result. It counts recipients of messages, not messages, unless noted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Messages that the relay accepted.
    pub messages: u64,
    /// Recipients of these messages.
    pub accepted: u64,
    /// Of the accepted, those that arrived at least once.
    pub arrived: u64,
    /// Of the accepted, those that the sink refused permanently: they are bounces, not losses.
    pub refused: u64,
    /// Accepted, and neither arrived nor refused when the sink stopped; it may still be queued.
    pub lost: u64,
    /// Arrivals beyond the first, accepted or not.
    pub doubled: u64,
    /// Arrivals with a wrong digest, or at another message's recipient.
    pub corrupted: u64,
    /// Arrived although the source got no 250: the connection broke before it.
    pub unknown: u64,
    /// Ids of lost messages, sorted; at most the requested number.
    pub lost_ids: Vec<String>,
}

impl Totals {
    /// Whether nothing was lost or corrupted.
    pub fn good(&self) -> bool {
        self.lost == 0 && self.corrupted == 0
    }

    /// The result as text.
    pub fn text(&self) -> String {
        let mut text = format!(
            "accepted  {} ({} messages)\narrived   {}\nrefused   {}\nlost      {}\n\
             doubled   {}\ncorrupted {}\nunknown   {}\n",
            self.accepted,
            self.messages,
            self.arrived,
            self.refused,
            self.lost,
            self.doubled,
            self.corrupted,
            self.unknown
        );
        if self.lost > 0 {
            text.push_str(
                "          (not here in time: `ringpost queue list` says what still waits)\n",
            );
        }
        for id in &self.lost_ids {
            text.push_str(&format!("lost id   {id}\n"));
        }
        text
    }
}

/// Compares both. At most `show` lost ids are listed.
pub fn judge(accepted: &Accepted, pair_counts: &PairCounts, show: usize) -> Totals {
    #[derive(Default)]
    struct Seen {
        arrived: u32,
        refused: u32,
        sender_refused: bool,
    }
    let mut totals = Totals { messages: accepted.len() as u64, ..Totals::default() };
    let mut seen: HashMap<Id, Seen> = HashMap::with_capacity(accepted.len());
    for (pair, pair_count) in pair_counts {
        totals.doubled += u64::from(pair_count.arrivals.saturating_sub(1));
        totals.corrupted += u64::from(pair_count.corrupt);
        let of_id = seen.entry(pair.id).or_default();
        if pair.recipient == Pair::ALL {
            of_id.sender_refused |= pair_count.refused;
        } else if pair_count.arrivals > 0 {
            of_id.arrived += 1;
            totals.unknown += u64::from(!accepted.contains_key(&pair.id));
        } else {
            of_id.refused += u32::from(pair_count.refused);
        }
    }
    let nothing = Seen::default();
    let mut lost_ids = Vec::new();
    for (id, recipients) in accepted {
        let of_id = seen.get(id).unwrap_or(&nothing);
        let arrived = of_id.arrived.min(*recipients);
        let missing = recipients - arrived;
        let refused = if of_id.sender_refused { missing } else { of_id.refused.min(missing) };
        totals.accepted += u64::from(*recipients);
        totals.arrived += u64::from(arrived);
        totals.refused += u64::from(refused);
        totals.lost += u64::from(missing - refused);
        if missing > refused {
            lost_ids.push(*id);
        }
    }
    lost_ids.sort_unstable();
    totals.lost_ids = lost_ids.iter().take(show).map(Id::to_string).collect();
    totals
}

/// `ringpost-load count`: true if nothing was lost or corrupted.
///
/// # Errors
/// A ledger cannot be read.
pub fn count(options: &cli::Count) -> Result<bool, String> {
    let accepted = ledger::read_accepted(&options.accepted)?;
    let pair_counts = ledger::read_arrived(&options.arrived)?;
    let totals = judge(&accepted, &pair_counts, options.show);
    crate::print_report(options.json, &totals, &totals.text())?;
    Ok(totals.good())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> Id {
        Id { run: 1, number }
    }

    fn pair_count(arrivals: u32, corrupt: u32, refused: bool) -> PairCount {
        PairCount { arrivals, corrupt, refused }
    }

    #[test]
    fn each_recipient_is_counted_once() {
        let accepted = Accepted::from([(id(1), 2), (id(2), 1), (id(3), 1), (id(4), 3)]);
        let pair_counts = PairCounts::from([
            (Pair { id: id(1), recipient: 0 }, pair_count(1, 0, false)),
            (Pair { id: id(1), recipient: 1 }, pair_count(3, 1, true)),
            (Pair { id: id(2), recipient: 0 }, pair_count(0, 0, true)),
            (Pair { id: id(4), recipient: 0 }, pair_count(1, 0, false)),
            (Pair { id: id(4), recipient: Pair::ALL }, pair_count(0, 0, true)),
            (Pair { id: id(9), recipient: 0 }, pair_count(2, 0, false)),
        ]);
        let totals = judge(&accepted, &pair_counts, 10);
        let expected = Totals {
            messages: 4,
            accepted: 7,
            arrived: 3,
            refused: 3,
            lost: 1,
            doubled: 3,
            corrupted: 1,
            unknown: 1,
            lost_ids: vec![String::from("00000001-3")],
        };
        assert_eq!(totals, expected);
        assert!(!totals.good());
    }

    #[test]
    fn one_lost_recipient_of_many_is_a_loss() {
        let accepted = Accepted::from([(id(1), 2)]);
        let pair_counts =
            PairCounts::from([(Pair { id: id(1), recipient: 0 }, pair_count(1, 0, false))]);
        assert_eq!(judge(&accepted, &pair_counts, 0).lost, 1);
    }
}
