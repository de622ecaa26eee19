//! The inputs: those of the corpus unchanged, then endless mutations of them.

use std::fs;
use std::path::Path;

/// Tokens that matter to a parser of SMTP.
const WORDS: [&[u8]; 44] = [
    b"\r\n",
    b"\r",
    b"\n",
    b".",
    b"\r\n.\r\n",
    b"\n.\r\n",
    b"\r.\r\n",
    b"\0",
    b"\xff",
    b"\xc3\xbc",
    b" ",
    b"\t",
    b"<",
    b">",
    b"@",
    b"\"",
    b"\\",
    b"[",
    b"]",
    b":",
    b"=",
    b"+",
    b";",
    b"-",
    b"EHLO a\r\n",
    b"MAIL FROM:<a@b>",
    b"RCPT TO:<c@d>",
    b"DATA\r\n",
    b"BDAT 5\r\n",
    b"BDAT 0 LAST\r\n",
    b"RSET\r\n",
    b"QUIT\r\n",
    b" SMTPUTF8",
    b" BODY=BINARYMIME",
    b" NOTIFY=NEVER",
    b" ORCPT=rfc822;a",
    b" SIZE=99999999999999999999",
    b"Received: x\r\n",
    b"[IPv6:::1]",
    b"250-",
    b"250 ",
    b"PROXY TCP4 ",
    b"IPV6:",
    b"18446744073709551615",
];

/// Longest input, in bytes.
const BYTES_MAX: usize = 4096;

/// The inputs of one target.
pub struct Inputs {
    kept: Vec<Vec<u8>>,
    given: usize,
    random: fastrand::Rng,
}

impl Inputs {
    /// Reads the files of a folder.
    pub fn read(folder: &Path, seed: u64) -> Inputs {
        let entries = fs::read_dir(folder).expect("the corpus of the target");
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
        paths.sort();
        let kept: Vec<_> = paths.iter().map(|path| fs::read(path).expect("a file")).collect();
        assert!(!kept.is_empty(), "nothing in {}", folder.display());
        Inputs { kept, given: 0, random: fastrand::Rng::with_seed(seed) }
    }

    /// Number of inputs in the corpus; these come first.
    pub fn kept(&self) -> u64 {
        self.kept.len() as u64
    }

    /// The next input.
    pub fn next(&mut self) -> Vec<u8> {
        self.given += 1;
        if let Some(input) = self.kept.get(self.given - 1) {
            return input.clone();
        }
        let random = &mut self.random;
        let mut input = random.choice(&self.kept).cloned().unwrap_or_default();
        for _ in 0..random.usize(1..8) {
            let at = random.usize(..=input.len());
            let to = random.usize(at..=input.len().min(at + 16));
            match random.u8(..6) {
                0 => _ = input.drain(at..to),
                1 => _ = input.splice(at..to, random.choice(WORDS).unwrap_or(b"").iter().copied()),
                2 => _ = input.splice(at..at, random.choice(WORDS).unwrap_or(b"").iter().copied()),
                3 => {
                    input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.u8(..8))
                }
                4 => {
                    let other = random.choice(&self.kept).cloned().unwrap_or_default();
                    let from = random.usize(..=other.len());
                    input.truncate(at);
                    input.extend_from_slice(other.get(from..).unwrap_or_default());
                }
                _ => {
                    let part = input.get(at..to).unwrap_or_default().repeat(random.usize(1..40));
                    _ = input.splice(at..at, part);
                }
            }
        }
        input.truncate(BYTES_MAX);
        input
    }
}

/// Positions to split an input of `length` bytes, in order, including its end.
pub fn cuts(length: usize, seed: u64) -> Vec<usize> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cuts: Vec<usize> = (0..random.usize(..12)).map(|_| random.usize(..=length)).collect();
    cuts.push(length);
    cuts.sort_unstable();
    cuts
}
