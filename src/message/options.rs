//! What may be asked for with MAIL, each option once: its type, its tag in records, its name in
//! `.eml` files and events, and whether the queue needs it. *Pure.*
//!
//! [`Options::OPTIONS`] is the table. A new option is a field of [`Options`], a row of the table,
//! and a `Value` for its type if no other option has that type: the record codec, the spool's
//! index, `eml` and the events follow from it. CONTRIBUTING.md has the recipe.

use super::Timestamp;
use super::tagged::{OptionSpec, option};
use std::fmt;
use std::time::Duration;

/// When to report on a recipient; all false is NEVER.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DsnNotify {
    /// NOTIFY=SUCCESS.
    pub success: bool,
    /// NOTIFY=FAILURE.
    pub failure: bool,
    /// NOTIFY=DELAY.
    pub delay: bool,
}

impl DsnNotify {
    /// NOTIFY=NEVER.
    pub fn is_never(self) -> bool {
        self == DsnNotify::default()
    }

    /// NEVER, or a list of the others, in either case (RFC 3461 4.1).
    pub fn parse(text: &str) -> Option<DsnNotify> {
        let mut notify = DsnNotify::default();
        if text.eq_ignore_ascii_case("NEVER") {
            return Some(notify);
        }
        for word in text.split(',') {
            match () {
                () if word.eq_ignore_ascii_case("SUCCESS") => notify.success = true,
                () if word.eq_ignore_ascii_case("FAILURE") => notify.failure = true,
                () if word.eq_ignore_ascii_case("DELAY") => notify.delay = true,
                () => return None,
            }
        }
        Some(notify)
    }
}

/// As NOTIFY has it.
impl fmt::Display for DsnNotify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        let set: Vec<&str> =
            all.into_iter().filter_map(|(is_set, name)| is_set.then_some(name)).collect();
        f.write_str(&if set.is_empty() { "NEVER".to_owned() } else { set.join(",") })
    }
}

/// How much of the message a report carries (RFC 3461 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DsnReturn {
    /// RET=FULL.
    Full,
    /// RET=HDRS.
    Headers,
}

impl DsnReturn {
    /// The value of RET, in either case.
    pub fn parse(text: &str) -> Option<DsnReturn> {
        let all = [DsnReturn::Full, DsnReturn::Headers];
        all.into_iter().find(|one| one.name().eq_ignore_ascii_case(text))
    }

    /// As RET has it.
    pub fn name(self) -> &'static str {
        match self {
            DsnReturn::Full => "FULL",
            DsnReturn::Headers => "HDRS",
        }
    }
}

/// What the content is declared to be: BODY= (RFC 6152, RFC 3030).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// Nothing declared, or BODY=7BIT.
    #[default]
    SevenBit,
    /// BODY=8BITMIME.
    EightBitMime,
    /// BODY=BINARYMIME.
    BinaryMime,
}

impl Body {
    /// The value of BODY, in either case.
    pub fn parse(text: &str) -> Option<Body> {
        let all = [Body::SevenBit, Body::EightBitMime, Body::BinaryMime];
        all.into_iter().find(|one| one.name().eq_ignore_ascii_case(text))
    }

    /// As BODY has it.
    pub fn name(self) -> &'static str {
        match self {
            Body::SevenBit => "7BIT",
            Body::EightBitMime => "8BITMIME",
            Body::BinaryMime => "BINARYMIME",
        }
    }
}

/// What the client asked for with MAIL, and what the relay knows of the message beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The tenant that it belongs to; empty when that is not known.
    pub tenant: Box<str>,
    /// Which mailing it belongs to; empty for none.
    pub campaign: Box<str>,
    /// MT-PRIORITY (RFC 6710): -9 to 9, higher is more urgent; 0 is ordinary.
    pub priority: i8,
    /// What the content is declared to be.
    pub body: Body,
    /// SMTPUTF8 (RFC 6531) was given, and an address or a header field needs it.
    pub smtp_utf8: bool,
    /// REQUIRETLS (RFC 8689) was given.
    pub require_tls: bool,
    /// DSN RET.
    pub dsn_return: Option<DsnReturn>,
    /// DSN ENVID, still xtext-encoded.
    pub dsn_envelope_id: Option<Box<str>>,
    /// Not to be tried before this time.
    pub not_before: Option<Timestamp>,
    /// To be given up at this time; the relay's own limit holds when `None`.
    pub expires: Option<Timestamp>,
    /// BY (RFC 2852).
    pub deliver_by: Option<DeliverBy>,
}

impl Options {
    /// All options, in the order in which they are written. A tag names its option in records for
    /// ever: it is not used again for another one.
    pub const OPTIONS: &[OptionSpec<Options>] = &[
        option!(1, "tenant", tenant).for_queue().in_every_event(),
        option!(2, "campaign", campaign).in_every_event(),
        option!(3, "priority", priority).for_queue().in_received(),
        option!(4, "body", body).in_received(),
        option!(5, "smtputf8", smtp_utf8).in_received(),
        option!(6, "requiretls", require_tls).for_queue().in_received(),
        option!(7, "ret", dsn_return),
        option!(8, "not-before", not_before).for_queue().in_received(),
        option!(9, "expires", expires).for_queue().in_received(),
        option!(10, "deliver-by", deliver_by).for_queue().in_received(),
        option!(11, "envid", dsn_envelope_id).in_received(),
    ];

    /// When a message that came in at `received_at` is given up: `limit` after it, or after the
    /// time that it was held until, and no later than the sender wished, by either of two options.
    pub fn expires_at(&self, received_at: Timestamp, limit: Duration) -> Timestamp {
        let begin = self.not_before.map_or(received_at, |time| time.max(received_at));
        let wished = [self.expires, self.deliver_by.and_then(DeliverBy::returns_at)];
        wished.into_iter().flatten().fold(begin.plus(limit), Timestamp::min)
    }
}

/// By when a message is to be delivered (RFC 2852 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliverBy {
    /// The by-time, as a time of the day.
    pub at: Timestamp,
    /// What happens then to recipients that still wait.
    pub mode: ByMode,
    /// Each host that it is given to is reported to the sender.
    pub trace: bool,
}

/// The by-mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByMode {
    /// `N`: it is reported to the sender, and attempts go on.
    Notify,
    /// `R`: it is returned.
    Return,
}

impl DeliverBy {
    /// Behind the by-time: `R`, `N`, `RT` or `NT`.
    pub fn letters(self) -> &'static str {
        match (self.mode, self.trace) {
            (ByMode::Notify, false) => "N",
            (ByMode::Notify, true) => "NT",
            (ByMode::Return, false) => "R",
            (ByMode::Return, true) => "RT",
        }
    }

    /// What [`DeliverBy::letters`] or a client wrote.
    pub fn read_letters(text: &str) -> Option<(ByMode, bool)> {
        match text.to_ascii_uppercase().as_str() {
            "N" => Some((ByMode::Notify, false)),
            "NT" => Some((ByMode::Notify, true)),
            "R" => Some((ByMode::Return, false)),
            "RT" => Some((ByMode::Return, true)),
            _ => None,
        }
    }

    /// What is left of its time, in whole seconds as BY can say them; below 0 when it is over.
    pub fn seconds_left(self, now: Timestamp) -> i64 {
        const MOST: i64 = 999_999_999;
        let whole = |left: Duration| i64::try_from(left.as_secs()).unwrap_or(MOST).min(MOST);
        if self.at >= now { whole(self.at.since(now)) } else { -whole(now.since(self.at)) }
    }

    /// When the message is returned to its sender for it, if it is.
    pub fn returns_at(self) -> Option<Timestamp> {
        (self.mode == ByMode::Return).then_some(self.at)
    }

    /// When its sender gets a report that it still waits, if that was asked for.
    pub fn notifies_at(self) -> Option<Timestamp> {
        (self.mode == ByMode::Notify).then_some(self.at)
    }
}

#[cfg(test)]
impl Options {
    /// All of them given, for the tests of what must carry them.
    pub(crate) fn every() -> Options {
        let at = Timestamp(1_700_000_000_002);
        Options {
            tenant: "t n\u{e9} ".repeat(50).into(),
            campaign: "=+\r\n".into(),
            priority: -9,
            body: Body::BinaryMime,
            smtp_utf8: true,
            require_tls: true,
            dsn_return: Some(DsnReturn::Headers),
            dsn_envelope_id: Some("".into()),
            not_before: Some(Timestamp(0)),
            expires: Some(Timestamp::NEVER),
            deliver_by: Some(DeliverBy { at, mode: ByMode::Notify, trace: true }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_in_the_table_once_and_all_can_be_given() {
        let every = Options::every();
        for row in Options::OPTIONS {
            assert!(row.shown(&every).is_some(), "{}", row.name);
            assert!(row.shown(&Options::default()).is_none(), "{}", row.name);
        }
    }

    #[test]
    fn a_held_message_has_its_whole_time_after_that() {
        let day = Duration::from_secs(86_400);
        let at = |days: u64| Timestamp(days * 86_400_000);
        let expiry = |held: Option<u64>, wished: Option<u64>| {
            let (not_before, expires) = (held.map(at), wished.map(at));
            let options = Options { not_before, expires, ..Options::default() };
            options.expires_at(at(1), day)
        };
        assert_eq!(expiry(None, None), at(2));
        assert_eq!(expiry(Some(5), None), at(6));
        assert_eq!(expiry(Some(0), None), at(2));
        assert_eq!(expiry(Some(5), Some(3)), at(3));
    }
}
