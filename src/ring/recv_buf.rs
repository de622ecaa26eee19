//! The buffer for received bytes.

use std::io;

/// The first step of a buffer's memory, in bytes: commands and a small message fit, and ten
/// thousand idle connections take 40 MB.
const STEP_FIRST: usize = 4 * 1024;
/// Factor from one step to the next.
const STEP_FACTOR: usize = 4;

/// Bytes received and not yet consumed. Hides who owns the memory.
///
/// The memory grows in steps, and only after a receive that filled all of it: new memory has to be
/// zeroed, and most connections never send much at once.
pub struct RecvBuf {
    /// Empty until the first use.
    memory: Vec<u8>,
    /// The filled part of `memory` is `start..end`.
    start: usize,
    end: usize,
    capacity: usize,
    /// The last receive left no room.
    wants_more: bool,
}

impl RecvBuf {
    /// A buffer for at most `capacity` bytes; memory is allocated at the first use.
    pub fn with_capacity(capacity: usize) -> RecvBuf {
        RecvBuf { memory: Vec::new(), start: 0, end: 0, capacity, wants_more: false }
    }

    /// The bytes received and not consumed.
    pub fn filled(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }

    /// Consumes the first `count` filled bytes, or all if there are fewer.
    pub fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Whether nothing more fits before something is consumed.
    pub fn is_full(&self) -> bool {
        self.end - self.start >= self.capacity
    }

    /// Frees memory beyond the first step when nothing is filled.
    pub fn release(&mut self) {
        if self.start == self.end && self.memory.len() > STEP_FIRST {
            self.memory = Vec::new();
            self.wants_more = false;
        }
    }

    /// Reads from `source` as far as there is room. Returns the bytes read, 0 at its end. For a
    /// source that does not block. `InvalidInput` when the buffer is full.
    pub fn fill_from(&mut self, source: &mut impl io::Read) -> io::Result<usize> {
        let free = self.free();
        if free.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the receive buffer is full"));
        }
        let count = source.read(free)?;
        self.fill(count);
        Ok(count)
    }

    /// The free memory for the next bytes; empty only when full.
    pub(super) fn free(&mut self) -> &mut [u8] {
        if self.memory.is_empty() {
            self.memory = vec![0; self.capacity.min(STEP_FIRST)];
        } else if self.wants_more || self.end - self.start == self.memory.len() {
            let grown = (self.memory.len() * STEP_FACTOR).min(self.capacity);
            self.memory.resize(grown, 0);
        }
        self.wants_more = false;
        // Little room at the end causes small receives; moving costs less than another receive.
        if self.start > 0 && self.memory.len() - self.end < self.memory.len() / 4 {
            self.memory.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.memory.get_mut(self.end..).unwrap_or_default()
    }

    /// Marks the first `count` bytes of [`RecvBuf::free`] as received.
    pub(super) fn fill(&mut self, count: usize) {
        self.end = (self.end + count).min(self.memory.len());
        self.wants_more = self.end == self.memory.len();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn receive(buffer: &mut RecvBuf, bytes: &[u8]) {
        buffer.free()[..bytes.len()].copy_from_slice(bytes);
        buffer.fill(bytes.len());
    }

    #[test]
    fn bytes_stay_in_order_when_the_rest_is_moved() {
        let mut buffer = RecvBuf::with_capacity(8);
        receive(&mut buffer, b"abcdefgh");
        assert!(buffer.is_full());
        assert!(buffer.free().is_empty());
        buffer.consume(5);
        assert_eq!(buffer.filled(), b"fgh");
        receive(&mut buffer, b"ijklm");
        assert_eq!(buffer.filled(), b"fghijklm");
        assert!(buffer.is_full());
    }

    #[test]
    fn memory_grows_in_steps_as_needed_and_is_freed_when_nothing_is_filled() {
        let mut buffer = RecvBuf::with_capacity(10 * STEP_FIRST);
        let mut sent = Vec::new();
        for (round, expected) in [1, 4, 10].into_iter().enumerate() {
            let free = buffer.free().len();
            assert_eq!(buffer.memory.len(), expected * STEP_FIRST);
            let bytes = vec![b'a' + u8::try_from(round).unwrap(); free];
            receive(&mut buffer, &bytes);
            sent.extend(bytes);
            assert_eq!(buffer.filled(), sent);
        }
        assert!(buffer.is_full() && buffer.free().is_empty());
        buffer.release();
        assert_eq!(buffer.filled(), sent, "kept while filled");
        buffer.consume(usize::MAX);
        buffer.release();
        assert_eq!(buffer.memory.capacity(), 0);
        receive(&mut buffer, b"c");
        assert_eq!(buffer.filled(), b"c");
        assert_eq!(buffer.memory.len(), STEP_FIRST);
    }
}
