//! Whether the sender of a message gets a notice of delay. *Pure.*

use crate::message::Message;
use crate::spool::Recovered;

/// Whether the sender of a message gets a notice of delay, unless BY decides that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DelayReport {
    /// NOTIFY=DELAY was given for some recipient.
    Requested,
    /// It was not.
    NotRequested,
    /// There is no sender that could get it.
    NoSender,
}

impl DelayReport {
    pub(super) fn of(message: &Message) -> DelayReport {
        let mut recipients = message.envelope.recipients.iter();
        let wanted = recipients.any(|one| one.notify.is_some_and(|notify| notify.delay));
        DelayReport::new(message.envelope.reverse_path.is_some(), wanted)
    }

    pub(super) fn of_recovered(message: &Recovered) -> DelayReport {
        DelayReport::new(!message.null_reverse_path, message.delay_wanted)
    }

    fn new(has_sender: bool, wanted: bool) -> DelayReport {
        match (has_sender, wanted) {
            (false, _) => DelayReport::NoSender,
            (true, true) => DelayReport::Requested,
            (true, false) => DelayReport::NotRequested,
        }
    }
}
