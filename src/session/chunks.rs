//! BDAT (RFC 3030): content in chunks of announced length. *Pure.*
//!
//! The bytes of a chunk are no commands, whatever becomes of it: a chunk that is refused is thrown
//! away to its end, and the reply comes there. Where the end is not known, or so far away that
//! nobody would wait for it, the session ends.

use super::{Session, State, Step};
use crate::message::Body;
use crate::smtp::{self, ContentScanner, Framing, Reply, Scanned};

/// A chunk of more than so many times the largest message is not read to its end: a client that
/// is told at once has nothing to send.
const WORTH_SKIPPING: u64 = 2;

/// A chunk that is coming.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub(super) size: u64,
    /// Bytes that have not come yet.
    pub(super) left: u64,
    pub(super) last: bool,
}

/// A chunk that is not wanted.
pub(super) struct Refused {
    left: u64,
    reply: Reply,
    /// The client could have known, so it counts among its errors.
    counts: bool,
}

impl Session {
    pub(super) fn bdat(&mut self, argument: &str, out: &mut Vec<u8>) -> Step {
        let Some((size, last)) = smtp::read_chunk(argument) else {
            return self.close_with(&Reply::CHUNK_SYNTAX, out);
        };
        let bytes_max = self.policy.limits.message_bytes_max;
        if size > bytes_max.saturating_mul(WORTH_SKIPPING) {
            return self.refuse_vast_chunk(Reply::too_large(bytes_max), out);
        }
        let chunk = Chunk { size, left: size, last };
        let reply = match &mut self.transaction {
            None if self.hello.is_none() => Reply::HELLO_FIRST,
            _ if !self.hello.as_ref().is_some_and(|hello| hello.extended) => Reply::NOT_IMPLEMENTED,
            None => Reply::MAIL_FIRST,
            Some(open) if open.envelope.recipients.is_empty() => Reply::NO_RECIPIENTS,
            Some(open) => {
                let (state, step) = match open.chunks.take() {
                    Some(scanner) => (State::Chunk(chunk, scanner, false), Step::More),
                    None => (State::ContentWanted(Some(chunk)), Step::ContentWanted),
                };
                self.state = state;
                return step;
            }
        };
        self.state = State::Refused(Refused { left: size, reply, counts: true });
        Step::More
    }

    /// What follows cannot be told from commands but by reading all of it, so the session ends.
    fn refuse_vast_chunk(&mut self, reply: Reply, out: &mut Vec<u8>) -> Step {
        let from = self.open_sender();
        self.transaction = None;
        let step = self.reject("data", from, None, reply, out);
        self.state = State::Closing;
        step
    }

    /// The caller wants the content that the chunk begins.
    pub(super) fn begin_chunks(&mut self, chunk: Chunk) {
        let body = self.transaction.as_ref().map(|open| open.options.body);
        let framing = match body {
            Some(Body::BinaryMime) => Framing::BinaryChunks,
            _ => Framing::Chunks,
        };
        let scanner = ContentScanner::new(self.content_limits(), framing);
        self.state = State::Chunk(chunk, scanner, false);
    }

    /// The caller does not. The transaction is over, lest the chunk behind it be taken for the
    /// first (RFC 3030 2: the client sends RSET).
    pub(super) fn decline_chunk(&mut self, chunk: Chunk, reply: Reply) {
        self.transaction = None;
        self.state = State::Refused(Refused { left: chunk.left, reply, counts: false });
    }

    pub(super) fn receive_refused(&mut self, rest: &[u8]) -> (usize, Step) {
        let State::Refused(refused) = &mut self.state else { return (0, Step::More) };
        let used = within(rest, refused.left).len();
        refused.left -= used as u64;
        (used, Step::More)
    }

    pub(super) fn receive_chunk(&mut self, rest: &[u8]) -> (usize, Step) {
        let State::Chunk(chunk, scanner, void) = &mut self.state else { return (0, Step::More) };
        let here = within(rest, chunk.left);
        let mut scanned = scanner.scan(here);
        if *void && scanned == Scanned::Stuffing {
            scanned = scanner.scan(here);
        }
        match scanned {
            Scanned::Short | Scanned::End => (0, Step::More),
            Scanned::Stuffing => (0, Step::Content(0..1)),
            // Looked at all the same: of several defects it is always the same that is told.
            Scanned::Content(length) if *void => {
                chunk.left -= length as u64;
                (length, Step::More)
            }
            Scanned::Content(length) => {
                chunk.left -= length as u64;
                *void = scanner.defect().is_some();
                (length, if *void { Step::ContentVoid } else { Step::Content(0..length) })
            }
        }
    }

    /// What is to be done at the end of a chunk, if that has come.
    pub(super) fn chunk_ended(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        match &self.state {
            State::Chunk(Chunk { left: 0, .. }, ..) => Some(self.end_of_chunk(out)),
            State::Refused(Refused { left: 0, reply, counts }) => {
                let (reply, counts) = (reply.clone(), *counts);
                self.state = State::Commands;
                if counts {
                    return Some(self.refuse("bdat", reply, out));
                }
                reply.write(out);
                Some(Step::More)
            }
            _ => None,
        }
    }

    fn end_of_chunk(&mut self, out: &mut Vec<u8>) -> Step {
        let State::Chunk(chunk, mut scanner, void) =
            std::mem::replace(&mut self.state, State::Commands)
        else {
            return Step::More;
        };
        if let (true, Some(defect)) = (void, scanner.defect()) {
            return self.refuse_content(defect, out);
        }
        if !chunk.last {
            if let Some(open) = &mut self.transaction {
                open.chunks = Some(scanner);
            }
            let text = format!("{} octets received", chunk.size);
            Reply { text: text.into(), ..Reply::OK }.write(out);
            return Step::More;
        }
        let lacks_line_end = scanner.lacks_line_end();
        if scanner.defect().is_some() {
            self.state = State::Chunk(chunk, scanner, true);
            Step::ContentVoid
        } else if lacks_line_end {
            self.state = State::Chunk(chunk, scanner, false);
            Step::ContentLineEnd
        } else {
            self.state = State::Complete(scanner);
            Step::Complete
        }
    }
}

/// What of the input belongs to a chunk of which so many bytes are left.
fn within(rest: &[u8], left: u64) -> &[u8] {
    usize::try_from(left).ok().and_then(|left| rest.get(..left)).unwrap_or(rest)
}
