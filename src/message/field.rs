//! Fields inside a record: fixed-width little-endian numbers and length-prefixed bytes. *Pure.*
//! Reading never panics and never allocates: what does not fit is `None`.

/// Reads fields one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes }
    }

    /// What is left, all of it.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// From here to where `later`, which reads the same bytes, has come.
    pub(crate) fn up_to(self, later: &Fields<'_>) -> Option<&'a [u8]> {
        self.rest.get(..self.rest.len().checked_sub(later.rest.len())?)
    }

    /// Bytes left: an upper bound for every count that a field may truthfully give.
    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    /// Everything was read; a record with more behind its last field is malformed.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A u32 length and that many bytes.
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.take(length)
    }

    /// The same, as UTF-8.
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// So many bytes.
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }
}

/// Appends a u32 length and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends a count or length as u32.
pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&word(count).to_le_bytes());
}

/// A count or length as records have it.
///
/// # Panics
/// When it does not fit. The spool bounds all that it stores far below; a cut length would make a
/// record of it that no start can read.
pub(crate) fn word(count: usize) -> u32 {
    assert!(count <= u32::MAX as usize, "{count} is beyond what a record can have");
    count as u32
}
