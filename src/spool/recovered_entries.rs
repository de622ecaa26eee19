//! What a start keeps of each message while it reads: packed, because there are millions, and given
//! up piece by piece as the queue takes them over.

use super::entry::MessageSummary;
use super::record::Extent;
use super::{Placement, Recovered, RecoveredRecipient};
use crate::message::field::word;
use crate::message::{QueueId, Reason, RecipientStatus, Timestamp, codec, domain_key};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Messages in a block of the table: what is given up at once.
const BLOCK: usize = 4096;

const _: () = assert!(size_of::<RecoveredEntry>() == 72);
const _: () = assert!(size_of::<Recipient>() == 16);

/// One message.
#[derive(Debug)]
pub(super) struct RecoveredEntry {
    pub(super) id: QueueId,
    pub(super) received_at: Timestamp,
    recipients: Recipients,
    rare: Option<Box<OptionalFields>>,
    pub(super) placement: Placement,
    /// Recipients not yet ended. At zero the rest of this is dropped.
    pub(super) open: u32,
    null_reverse_path: bool,
    delay_wanted: bool,
}

/// What few messages have.
#[derive(Debug, Default)]
struct OptionalFields {
    /// Where its content is, when that is in pieces.
    extents: Vec<Extent>,
    /// Those that the queue needs: see [`codec::queue_options`].
    options: Box<[u8]>,
}

#[derive(Debug)]
enum Recipients {
    One(Recipient),
    Many(Box<[Recipient]>),
}

#[derive(Debug)]
struct Recipient {
    waiting: Option<Box<Waiting>>,
    /// A number in [`Names`].
    domain: u32,
    ended: bool,
    in_doubt: bool,
}

#[derive(Debug)]
struct Waiting {
    attempts: u16,
    due: Timestamp,
    reason: Rc<Reason>,
}

impl RecoveredEntry {
    pub(super) fn new(
        id: QueueId,
        brief: &MessageSummary<'_>,
        placement: Placement,
        names: &mut Names,
    ) -> RecoveredEntry {
        let mut recipients = brief.domains.map(|domain| Recipient {
            waiting: None,
            domain: names.number(domain),
            ended: false,
            in_doubt: false,
        });
        let count = brief.domains.recipients();
        let recipients = match (count, recipients.next()) {
            (1, Some(only)) => Recipients::One(only),
            (_, first) => Recipients::Many(first.into_iter().chain(recipients).collect()),
        };
        // Otherwise outcomes would be taken for those of other recipients.
        assert_eq!(recipients.all().len(), count, "all domains of message {id} are read");
        let &MessageSummary { received_at, null_reverse_path, delay_wanted, .. } = brief;
        let rare = (!brief.options.is_empty()).then(|| {
            let (extents, options) = (Vec::new(), brief.options.clone());
            Box::new(OptionalFields { extents, options })
        });
        RecoveredEntry {
            id,
            received_at,
            recipients,
            rare,
            placement,
            open: word(count),
            null_reverse_path,
            delay_wanted,
        }
    }

    pub(super) fn extents(&self) -> &[Extent] {
        self.rare.as_ref().map_or(&[], |rare| &rare.extents)
    }

    pub(super) fn set_extents(&mut self, extents: Vec<Extent>) {
        if self.open > 0 && !(extents.is_empty() && self.rare.is_none()) {
            self.rare.get_or_insert_default().extents = extents;
        }
    }

    pub(super) fn begin(&mut self, recipients: &[u32]) {
        for &recipient in recipients {
            if let Some(one) = self.recipients.all_mut().get_mut(recipient as usize) {
                one.in_doubt = !one.ended;
            }
        }
    }

    /// An ending is for good: nothing after it opens the recipient again.
    pub(super) fn settle(
        &mut self,
        recipient: u32,
        status: RecipientStatus,
        reasons: &mut Reasons,
    ) {
        let one = self.recipients.all_mut().get_mut(recipient as usize);
        let Some(one) = one.filter(|one| !one.ended) else { return };
        one.in_doubt = false;
        if let RecipientStatus::Waiting { attempts, due, reason } = status {
            let reason = reasons.shared(reason);
            one.waiting = Some(Box::new(Waiting { attempts, due, reason }));
            return;
        }
        one.ended = true;
        self.open = self.open.saturating_sub(1);
        if self.open == 0 {
            // Known as ended; its details are needed no more.
            self.recipients = Recipients::none();
            self.rare = None;
        }
    }

    /// What the relay gets of it.
    fn recovered(self, names: &Names) -> Recovered {
        let rare = self.rare.map(|rare| *rare).unwrap_or_default();
        let recipients = match self.recipients {
            Recipients::One(one) => vec![one.recovered(names)],
            Recipients::Many(all) => {
                Vec::from(all).into_iter().map(|one| one.recovered(names)).collect()
            }
        };
        Recovered {
            id: self.id,
            placement: self.placement,
            received_at: self.received_at,
            options: codec::from_queue_options(&rare.options),
            recipients,
            null_reverse_path: self.null_reverse_path,
            delay_wanted: self.delay_wanted,
        }
    }
}

impl Recipients {
    fn none() -> Recipients {
        Recipients::Many(Box::default())
    }

    fn all(&self) -> &[Recipient] {
        match self {
            Recipients::One(one) => std::slice::from_ref(one),
            Recipients::Many(all) => all,
        }
    }

    fn all_mut(&mut self) -> &mut [Recipient] {
        match self {
            Recipients::One(one) => std::slice::from_mut(one),
            Recipients::Many(all) => all,
        }
    }
}

impl Recipient {
    fn recovered(self, names: &Names) -> RecoveredRecipient {
        let Recipient { waiting, domain, ended, in_doubt } = self;
        let (attempts, due, reason) = match waiting.filter(|_| !ended).map(|waiting| *waiting) {
            Some(Waiting { attempts, due, reason }) => (attempts, Some(due), Some(reason)),
            None => (0, None, None),
        };
        let domain = names.name(domain);
        RecoveredRecipient { domain, ended, attempts, due, reason, in_doubt }
    }
}

/// Names kept once and numbered. Number 0 is the empty one.
#[derive(Debug)]
pub(super) struct Names {
    numbers: HashMap<Rc<str>, u32>,
    all: Vec<Rc<str>>,
}

impl Default for Names {
    fn default() -> Names {
        let empty: Rc<str> = "".into();
        Names { numbers: HashMap::from([(Rc::clone(&empty), 0)]), all: vec![empty] }
    }
}

impl Names {
    /// Of a domain, however it is spelled.
    fn number(&mut self, domain: &str) -> u32 {
        let name = &*domain_key(domain);
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = word(self.all.len());
        let name: Rc<str> = name.into();
        self.all.push(Rc::clone(&name));
        self.numbers.insert(name, number);
        number
    }

    fn name(&self, number: u32) -> Rc<str> {
        Rc::clone(&self.all[number as usize])
    }
}

/// Reasons: a site that was down has left the same one for all that waits for it.
#[derive(Debug, Default)]
pub(super) struct Reasons(HashSet<Rc<Reason>>);

impl Reasons {
    fn shared(&mut self, reason: Reason) -> Rc<Reason> {
        if let Some(known) = self.0.get(&reason) {
            return Rc::clone(known);
        }
        let reason = Rc::new(reason);
        self.0.insert(Rc::clone(&reason));
        reason
    }
}

/// All messages, by place.
#[derive(Debug, Default)]
pub(super) struct Table {
    blocks: Vec<Vec<Option<RecoveredEntry>>>,
}

impl Table {
    /// Its place.
    pub(super) fn push(&mut self, kept: RecoveredEntry) -> u32 {
        if self.blocks.last().is_none_or(|block| block.len() == BLOCK) {
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        let before = (self.blocks.len() - 1) * BLOCK;
        let block = self.blocks.last_mut().map_or(0, |block| {
            block.push(Some(kept));
            block.len() - 1
        });
        word(before + block)
    }

    pub(super) fn get(&self, place: u32) -> Option<&RecoveredEntry> {
        self.blocks.get(place as usize / BLOCK)?.get(place as usize % BLOCK)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut RecoveredEntry> {
        self.blocks.get_mut(place as usize / BLOCK)?.get_mut(place as usize % BLOCK)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &RecoveredEntry> {
        self.blocks.iter().flatten().flatten()
    }

    /// The messages with recipients still open, oldest id first.
    pub(super) fn into_live(mut self, names: Names) -> Messages {
        let mut order = Vec::new();
        let mut left = vec![0_u32; self.blocks.len()];
        for (number, block) in (0..).zip(&mut self.blocks) {
            for (at, place) in (0..).zip(block.iter_mut()) {
                match place {
                    Some(kept) if kept.open > 0 => order.push(number * BLOCK as u32 + at),
                    _ => *place = None,
                }
            }
        }
        for &place in &order {
            left[place as usize / BLOCK] += 1;
        }
        // Runs of rising ids are long: this sort makes use of them.
        order.sort_by_key(|&place| self.get(place).map(|kept| kept.id));
        for (block, left) in self.blocks.iter_mut().zip(&left) {
            if *left == 0 {
                *block = Vec::new();
            }
        }
        Messages {
            order: order.into_iter(),
            table: self,
            left,
            names,
            given: Vec::new().into_iter(),
        }
    }
}

/// Messages that were found, oldest id first. Each is handed over once, and its memory given up.
#[derive(Debug, Default)]
pub struct Messages {
    order: std::vec::IntoIter<u32>,
    table: Table,
    /// Of each block, messages not handed over yet.
    left: Vec<u32>,
    names: Names,
    given: std::vec::IntoIter<Recovered>,
}

impl From<Vec<Recovered>> for Messages {
    fn from(given: Vec<Recovered>) -> Messages {
        Messages { given: given.into_iter(), ..Messages::default() }
    }
}

impl Messages {
    /// Whether one of those still here is `id`.
    pub(super) fn has(&self, id: QueueId) -> bool {
        let of = |&place: &u32| self.table.get(place).map(|kept| kept.id);
        self.order.as_slice().binary_search_by_key(&Some(id), of).is_ok()
            || self.given.as_slice().binary_search_by_key(&id, |message| message.id).is_ok()
    }
}

impl Iterator for Messages {
    type Item = Recovered;

    fn next(&mut self) -> Option<Recovered> {
        let Some(place) = self.order.next() else { return self.given.next() };
        let (block, at) = (place as usize / BLOCK, place as usize % BLOCK);
        let kept = self.table.blocks.get_mut(block)?.get_mut(at)?.take()?;
        let left = self.left.get_mut(block)?;
        *left -= 1;
        if *left == 0
            && let Some(done) = self.table.blocks.get_mut(block)
        {
            *done = Vec::new();
        }
        Some(kept.recovered(&self.names))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = self.order.len() + self.given.len();
        (count, Some(count))
    }
}

impl ExactSizeIterator for Messages {}
