//! Received bytes.

/// Bytes received and not yet used. Hides who owns the memory.
pub struct RecvBuf {
    /// Empty until first needed, then of full length.
    memory: Vec<u8>,
    /// The filled part of `memory` is `start..end`.
    start: usize,
    end: usize,
    capacity: usize,
}

impl RecvBuf {
    /// Room for `capacity` bytes at most; the memory is had when first needed.
    pub fn with_capacity(capacity: usize) -> RecvBuf {
        RecvBuf { memory: Vec::new(), start: 0, end: 0, capacity }
    }

    /// What was received and not consumed.
    pub fn filled(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }

    /// The first `count` filled bytes were used; more than there are is all of them.
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

    /// Gives the memory back when nothing is filled (an idle connection keeps none).
    pub fn release(&mut self) {
        if self.start == self.end {
            self.memory = Vec::new();
            self.start = 0;
            self.end = 0;
        }
    }

    /// Where the next bytes go; empty only when full.
    pub(super) fn free(&mut self) -> &mut [u8] {
        if self.memory.is_empty() {
            self.memory = vec![0; self.capacity];
        }
        // Little room at the end makes small receives; moving costs less than another one.
        if self.start > 0 && self.capacity - self.end < self.capacity / 4 {
            self.memory.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.memory.get_mut(self.end..).unwrap_or_default()
    }

    /// The first `count` bytes of [`RecvBuf::free`] were received.
    pub(super) fn fill(&mut self, count: usize) {
        self.end = (self.end + count).min(self.memory.len());
    }
}

#[cfg(test)]
mod tests {
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
    fn memory_is_given_back_only_when_nothing_is_filled() {
        let mut buffer = RecvBuf::with_capacity(8);
        receive(&mut buffer, b"ab");
        buffer.release();
        assert_eq!(buffer.filled(), b"ab");
        buffer.consume(99);
        buffer.release();
        assert_eq!(buffer.memory.capacity(), 0);
        receive(&mut buffer, b"c");
        assert_eq!(buffer.filled(), b"c");
    }
}
