//! Options as records, `.eml` files and events have them, from one table. *Pure.*
//!
//! In a record the options that are given follow one another as {count u8, {tag u8, length u32,
//! value}*}, tags rising. A tag below [`SKIPPABLE`] says that the option must be understood: a
//! relay that does not know it refuses the record. From there on a relay may pass over an option
//! that it does not know, and loses it when it moves the record.

use super::field::{Fields, put_count};
use super::{Body, DeliverBy, DsnNotify, DsnReturn, Timestamp};
use std::borrow::Cow;

/// Tags from here on need not be understood.
pub const SKIPPABLE: u8 = 128;

/// Why options in a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OptionFault {
    /// They contradict themselves or the length.
    Malformed,
    /// There is one that must be understood, and is not known.
    Unknown(u8),
}

/// A row of a table of options: an option of a `T`.
pub struct OptionSpec<T> {
    /// Its name in records, above 0.
    pub tag: u8,
    /// Its name in `.eml` files; with underscores, in events.
    pub name: &'static str,
    /// What its value is, for errors: `a number from -9 to 9`.
    pub expected: &'static str,
    /// The scheduler needs it, so a start must find it without reading the record.
    pub for_queue: bool,
    /// Which events have it.
    pub events: InEvents,
    pub(super) is_set: fn(&T) -> bool,
    pub(super) put: fn(&T, &mut Vec<u8>),
    pub(super) read: fn(&mut T, &[u8]) -> Option<()>,
    pub(super) show: for<'a> fn(&'a T) -> Shown<'a>,
    pub(super) parse: fn(&mut T, &str) -> Option<()>,
}

/// Which events have an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InEvents {
    /// None.
    None,
    /// `received`.
    Received,
    /// All that are about a message.
    Every,
}

/// A value as text has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown<'a> {
    /// It is there: that says all.
    Flag,
    /// A number.
    Number(i64),
    /// Anything else.
    Text(Cow<'a, str>),
}

impl<T> OptionSpec<T> {
    pub(super) const fn for_queue(mut self) -> Self {
        self.for_queue = true;
        self
    }

    pub(super) const fn in_received(mut self) -> Self {
        self.events = InEvents::Received;
        self
    }

    pub(super) const fn in_every_event(mut self) -> Self {
        self.events = InEvents::Every;
        self
    }

    /// Its value in `of`, if it is given there.
    pub fn shown<'a>(&self, of: &'a T) -> Option<Shown<'a>> {
        (self.is_set)(of).then(|| (self.show)(of))
    }

    /// Sets it from what [`OptionSpec::shown`] gave, empty for a flag; `None` when it is not one.
    pub fn set(&self, of: &mut T, text: &str) -> Option<()> {
        (self.parse)(of, text)
    }
}

/// A row for a field: `option!(tag, "name", field)`. A field that has its default is not given.
macro_rules! option {
    ($tag:expr, $name:expr, $field:ident) => {
        $crate::message::tagged::OptionSpec::<Self> {
            tag: $tag,
            name: $name,
            expected: $crate::message::tagged::expected(|of: &Self| &of.$field),
            for_queue: false,
            events: $crate::message::tagged::InEvents::None,
            is_set: |of| $crate::message::tagged::is_given(&of.$field),
            put: |of, out| $crate::message::tagged::Value::put(&of.$field, out),
            read: |of, bytes| {
                of.$field = $crate::message::tagged::Value::read(bytes)?;
                Some(())
            },
            show: |of| $crate::message::tagged::Value::show(&of.$field),
            parse: |of, text| {
                of.$field = $crate::message::tagged::Value::parse(text)?;
                Some(())
            },
        }
    };
}
pub(super) use option;

/// What the type of a field expects.
pub(super) const fn expected<T, V: Value>(_field: fn(&T) -> &V) -> &'static str {
    V::EXPECTED
}

pub(super) fn is_given<V: Default + PartialEq>(value: &V) -> bool {
    *value != V::default()
}

/// Appends the options of `of` that are given and `wanted`.
pub(crate) fn put<T>(
    out: &mut Vec<u8>,
    of: &T,
    table: &[OptionSpec<T>],
    wanted: impl Fn(&OptionSpec<T>) -> bool,
) {
    let count_at = out.len();
    out.push(0);
    for row in table.iter().filter(|row| (row.is_set)(of) && wanted(row)) {
        out.push(row.tag);
        let length_at = out.len();
        put_count(out, 0);
        (row.put)(of, out);
        // A record is bounded far below what a u32 can say.
        let length = (out.len() - length_at - 4) as u32;
        out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
        out[count_at] += 1;
    }
}

/// Reads what [`put`] has written into `of`.
pub(crate) fn read<T>(
    fields: &mut Fields<'_>,
    of: &mut T,
    table: &[OptionSpec<T>],
) -> Result<(), OptionFault> {
    let mut last = 0;
    for _ in 0..fields.u8().ok_or(OptionFault::Malformed)? {
        let tag = fields.u8().filter(|&tag| tag > last).ok_or(OptionFault::Malformed)?;
        let value = fields.bytes().ok_or(OptionFault::Malformed)?;
        last = tag;
        match table.iter().find(|row| row.tag == tag) {
            Some(row) => (row.read)(of, value).ok_or(OptionFault::Malformed)?,
            None if tag >= SKIPPABLE => {}
            None => return Err(OptionFault::Unknown(tag)),
        }
    }
    Ok(())
}

/// The type of an option's value.
pub(super) trait Value: Sized {
    /// What text must be to be one.
    const EXPECTED: &'static str;
    /// Appends it as a record has it, without its length.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads the same.
    fn read(bytes: &[u8]) -> Option<Self>;
    /// As text has it.
    fn show(&self) -> Shown<'_>;
    /// Reads text, which is empty for a flag.
    fn parse(text: &str) -> Option<Self>;
}

/// Not given: `None`.
impl<T: Value> Value for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn put(&self, out: &mut Vec<u8>) {
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        T::read(bytes).map(Some)
    }

    fn show(&self) -> Shown<'_> {
        self.as_ref().map_or(Shown::Flag, T::show)
    }

    fn parse(text: &str) -> Option<Self> {
        T::parse(text).map(Some)
    }
}

/// Not given: `false`.
impl Value for bool {
    const EXPECTED: &'static str = "given without a value";

    fn put(&self, _: &mut Vec<u8>) {}

    fn read(bytes: &[u8]) -> Option<bool> {
        bytes.is_empty().then_some(true)
    }

    fn show(&self) -> Shown<'_> {
        Shown::Flag
    }

    fn parse(text: &str) -> Option<bool> {
        text.is_empty().then_some(true)
    }
}

/// Not given: empty, where it is not in an `Option`.
impl Value for Box<str> {
    const EXPECTED: &'static str = "text";

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Box<str>> {
        std::str::from_utf8(bytes).ok().map(Box::from)
    }

    fn show(&self) -> Shown<'_> {
        Shown::Text(Cow::Borrowed(self))
    }

    fn parse(text: &str) -> Option<Box<str>> {
        Some(text.into())
    }
}

/// A priority (RFC 6710). Not given: 0.
impl Value for i8 {
    const EXPECTED: &'static str = "a number from -9 to 9";

    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.cast_unsigned());
    }

    fn read(bytes: &[u8]) -> Option<i8> {
        let &[byte] = bytes else { return None };
        Some(byte.cast_signed())
    }

    fn show(&self) -> Shown<'_> {
        Shown::Number(i64::from(*self))
    }

    fn parse(text: &str) -> Option<i8> {
        text.parse().ok().filter(|priority| (-9..=9).contains(priority))
    }
}

/// Not given: 7BIT.
impl Value for Body {
    const EXPECTED: &'static str = "7BIT, 8BITMIME or BINARYMIME";

    fn put(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Body::SevenBit => 0,
            Body::EightBitMime => 1,
            Body::BinaryMime => 2,
        });
    }

    fn read(bytes: &[u8]) -> Option<Body> {
        match bytes {
            [0] => Some(Body::SevenBit),
            [1] => Some(Body::EightBitMime),
            [2] => Some(Body::BinaryMime),
            _ => None,
        }
    }

    fn show(&self) -> Shown<'_> {
        Shown::Text(Cow::Borrowed(self.name()))
    }

    fn parse(text: &str) -> Option<Body> {
        Body::parse(text)
    }
}

impl Value for DsnReturn {
    const EXPECTED: &'static str = "FULL or HDRS";

    fn put(&self, out: &mut Vec<u8>) {
        out.push(match self {
            DsnReturn::Full => 0,
            DsnReturn::Headers => 1,
        });
    }

    fn read(bytes: &[u8]) -> Option<DsnReturn> {
        match bytes {
            [0] => Some(DsnReturn::Full),
            [1] => Some(DsnReturn::Headers),
            _ => None,
        }
    }

    fn show(&self) -> Shown<'_> {
        Shown::Text(Cow::Borrowed(self.name()))
    }

    fn parse(text: &str) -> Option<DsnReturn> {
        DsnReturn::parse(text)
    }
}

impl Value for DsnNotify {
    const EXPECTED: &'static str = "NEVER, or SUCCESS, FAILURE, DELAY with commas between them";

    fn put(&self, out: &mut Vec<u8>) {
        let bits = [(self.success, 1), (self.failure, 2), (self.delay, 4)];
        out.push(bits.into_iter().map(|(is_set, bit)| if is_set { bit } else { 0 }).sum());
    }

    fn read(bytes: &[u8]) -> Option<DsnNotify> {
        let &[bits @ 0..8] = bytes else { return None };
        let [success, failure, delay] = [1, 2, 4].map(|bit| bits & bit != 0);
        Some(DsnNotify { success, failure, delay })
    }

    fn show(&self) -> Shown<'_> {
        Shown::Text(Cow::Owned(self.to_string()))
    }

    fn parse(text: &str) -> Option<DsnNotify> {
        DsnNotify::parse(text)
    }
}

impl Value for Timestamp {
    const EXPECTED: &'static str = "a date such as 2026-11-24T06:00:00Z";

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Timestamp> {
        Some(Timestamp(u64::from_le_bytes(bytes.try_into().ok()?)))
    }

    fn show(&self) -> Shown<'_> {
        Shown::Text(Cow::Owned(self.exact_text()))
    }

    fn parse(text: &str) -> Option<Timestamp> {
        Timestamp::parse(text)
    }
}

/// {the letters in two bytes, the time u64}.
impl Value for DeliverBy {
    const EXPECTED: &'static str = "a date, a semicolon, and R, N, RT or NT";

    fn put(&self, out: &mut Vec<u8>) {
        let mut letters = [0; 2];
        for (place, letter) in letters.iter_mut().zip(self.letters().bytes()) {
            *place = letter;
        }
        out.extend_from_slice(&letters);
        self.at.put(out);
    }

    fn read(bytes: &[u8]) -> Option<DeliverBy> {
        let (letters, at) = bytes.split_at_checked(2)?;
        let letters = std::str::from_utf8(letters).ok()?;
        let (mode, trace) = DeliverBy::read_letters(letters.trim_end_matches('\0'))?;
        Some(DeliverBy { at: Timestamp::read(at)?, mode, trace })
    }

    fn show(&self) -> Shown<'_> {
        Shown::Text(Cow::Owned(format!("{};{}", self.at.exact_text(), self.letters())))
    }

    fn parse(text: &str) -> Option<DeliverBy> {
        let (at, letters) = text.split_once(';')?;
        let (mode, trace) = DeliverBy::read_letters(letters)?;
        Some(DeliverBy { at: Timestamp::parse(at)?, mode, trace })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Options;
    use super::*;

    fn written(options: &Options) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, options, Options::OPTIONS, |_| true);
        out
    }

    fn read_back(bytes: &[u8]) -> Result<Options, OptionFault> {
        let mut options = Options::default();
        let mut fields = Fields::new(bytes);
        read(&mut fields, &mut options, Options::OPTIONS)?;
        if fields.is_empty() { Ok(options) } else { Err(OptionFault::Malformed) }
    }

    #[test]
    fn options_that_are_not_given_take_one_byte() {
        assert_eq!(written(&Options::default()), [0]);
        assert_eq!(read_back(&[0]), Ok(Options::default()));
    }

    #[test]
    fn an_unknown_option_is_refused_unless_it_may_be_skipped() {
        assert_eq!(read_back(&[1, 100, 1, 0, 0, 0, 7]), Err(OptionFault::Unknown(100)));
        assert_eq!(read_back(&[1, 200, 1, 0, 0, 0, 7]), Ok(Options::default()));
        let priority = Options { priority: 3, ..Options::default() };
        let mut both = written(&priority);
        both[0] = 2;
        both.extend_from_slice(&[255, 0, 0, 0, 0]);
        assert_eq!(read_back(&both), Ok(priority));
    }

    #[test]
    fn malformed_options_are_refused() {
        for bytes in [
            &[][..],
            &[1],
            &[1, 3, 2, 0, 0, 0, 7],
            &[1, 3, 2, 0, 0, 0, 7, 7],
            &[1, 0, 0, 0, 0, 0],
            &[2, 5, 0, 0, 0, 0, 5, 0, 0, 0, 0],
            &[2, 6, 0, 0, 0, 0, 5, 0, 0, 0, 0],
            &[1, 5, 1, 0, 0, 0, 1],
            &[1, 4, 1, 0, 0, 0, 3],
            &[1, 1, 1, 0, 0, 0, 0xff],
        ] {
            assert_eq!(read_back(bytes), Err(OptionFault::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn tags_rise_and_names_are_told_apart() {
        let rows = Options::OPTIONS;
        assert!(rows.windows(2).all(|pair| pair[0].tag < pair[1].tag));
        for row in rows {
            assert!(row.tag > 0 && !row.name.contains(['_', ' ', '=']), "{}", row.name);
            assert_eq!(rows.iter().filter(|other| other.name == row.name).count(), 1);
        }
    }
}
