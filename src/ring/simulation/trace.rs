//! What happened in a simulation, as one number: two runs of one seed have the same.

/// FNV-1a, whose constants never change: the same on every machine.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The hash of all that happened so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trace(u64);

impl Default for Trace {
    fn default() -> Trace {
        Trace(BASIS)
    }
}

impl Trace {
    /// Something happened.
    pub(super) fn note(&mut self, what: &str, numbers: &[u64], bytes: &[u8]) {
        let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
        for byte in what.bytes().chain(numbers).chain(bytes.iter().copied()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }
}
