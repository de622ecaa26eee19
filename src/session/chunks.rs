//! BDAT (RFC 3030): content in chunks of announced length. *Pure.*
//!
//! The bytes of a chunk are no commands, whatever becomes of it: a chunk that is refused is
//! discarded to its end, and the reply comes there. Where the end is not known, or too far away to
//! wait for it, the session ends.

use super::{Content, Incoming, Open, Session, Stage, State, Step};
use crate::message::Body;
use crate::smtp::{self, ContentScanner, Framing, Reply, Scanned, Verb};

/// A chunk of more than so many times the largest message is not read to its end: the client gets
/// the reply at once.
const WORTH_SKIPPING: u64 = 2;

/// A chunk that is coming.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub(super) size: u64,
    /// Bytes that have not come yet.
    pub(super) left: u64,
    pub(super) last: bool,
}

/// A chunk that is refused.
pub(super) struct DiscardedChunk {
    left: u64,
    reply: Reply,
    cause: Cause,
}

/// Why a chunk is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// It counts among the client's errors.
    ClientError,
    /// The caller declined it.
    Declined,
}

impl<G> Session<G> {
    pub(super) fn bdat(&mut self, argument: &str, out: &mut Vec<u8>) -> Step<G> {
        let Some((size, last)) = smtp::read_chunk(argument) else {
            return self.close_with(&Reply::CHUNK_SYNTAX, out);
        };
        let bytes_max = self.policy.limits.message_bytes_max;
        if size > bytes_max.saturating_mul(WORTH_SKIPPING) {
            return self.refuse_vast_chunk(Reply::too_large(bytes_max), out);
        }
        let chunk = Chunk { size, left: size, last };
        let is_extended = self.is_extended();
        let reply = match self.transaction.take() {
            None if self.hello.is_none() => Reply::HELLO_FIRST,
            transaction if !is_extended => {
                self.transaction = transaction;
                Reply::NOT_IMPLEMENTED
            }
            None => Reply::MAIL_FIRST,
            Some(open) if open.mail.envelope.recipients.is_empty() => {
                self.transaction = Some(open);
                Reply::NO_RECIPIENTS
            }
            Some(mut open) => match open.chunks.take() {
                Some(scanner) => {
                    let incoming = Incoming { open, scanner, content: Content::Kept };
                    self.state = State::Chunk(chunk, incoming);
                    return Step::More;
                }
                None => {
                    self.state = State::ContentWanted(open, Some(chunk));
                    return Step::ContentWanted;
                }
            },
        };
        let cause = Cause::ClientError;
        self.state = State::Discarding(DiscardedChunk { left: size, reply, cause });
        Step::More
    }

    /// What follows is known from commands only when all of it is read, so the session ends.
    fn refuse_vast_chunk(&mut self, reply: Reply, out: &mut Vec<u8>) -> Step<G> {
        let paths = self.open_paths();
        self.transaction = None;
        let step = self.reject(Stage::Command(Verb::Data), paths, reply, out);
        self.state = State::Closing;
        step
    }

    /// The caller wants the content that the chunk begins.
    pub(super) fn begin_chunks(&mut self, open: Open<G>, chunk: Chunk) {
        let framing = match open.mail.options.body {
            Body::BinaryMime => Framing::BinaryChunks,
            _ => Framing::Chunks,
        };
        let scanner = ContentScanner::new(self.content_limits(), framing);
        self.state = State::Chunk(chunk, Incoming { open, scanner, content: Content::Kept });
    }

    /// The caller does not. The transaction is over, or the chunk behind it would be taken for the
    /// first (RFC 3030 2: the client sends RSET).
    pub(super) fn decline_chunk(&mut self, chunk: Chunk, reply: Reply) {
        let cause = Cause::Declined;
        self.state = State::Discarding(DiscardedChunk { left: chunk.left, reply, cause });
    }

    pub(super) fn receive_discarded(&mut self, rest: &[u8]) -> (usize, Step<G>) {
        let State::Discarding(discarded) = &mut self.state else { return (0, Step::More) };
        let used = within(rest, discarded.left).len();
        discarded.left -= used as u64;
        (used, Step::More)
    }

    pub(super) fn receive_chunk(&mut self, rest: &[u8]) -> (usize, Step<G>) {
        let State::Chunk(chunk, Incoming { scanner, content, .. }) = &mut self.state else {
            return (0, Step::More);
        };
        let here = within(rest, chunk.left);
        let mut scanned = scanner.scan(here);
        if *content == Content::Void && scanned == Scanned::Stuffing {
            scanned = scanner.scan(here);
        }
        match scanned {
            Scanned::Short | Scanned::End => (0, Step::More),
            Scanned::Stuffing => (0, Step::Content(0..1)),
            // Scanned all the same: of several defects it is always the same that is reported.
            Scanned::Content(length) if *content == Content::Void => {
                chunk.left -= length as u64;
                (length, Step::More)
            }
            Scanned::Content(length) => {
                chunk.left -= length as u64;
                if scanner.defect().is_some() {
                    *content = Content::Void;
                    (length, Step::ContentVoid)
                } else {
                    (length, Step::Content(0..length))
                }
            }
        }
    }

    /// What is to be done at the end of a chunk, if that has come.
    pub(super) fn chunk_ended(&mut self, out: &mut Vec<u8>) -> Option<Step<G>> {
        match &self.state {
            State::Chunk(Chunk { left: 0, .. }, _) => {}
            State::Discarding(DiscardedChunk { left: 0, .. }) => {}
            _ => return None,
        }
        Some(match std::mem::replace(&mut self.state, State::Commands) {
            State::Chunk(chunk, incoming) => self.end_of_chunk(chunk, incoming, out),
            State::Discarding(DiscardedChunk { reply, cause: Cause::ClientError, .. }) => {
                self.refuse(Stage::Command(Verb::Bdat), reply, out)
            }
            State::Discarding(DiscardedChunk { reply, cause: Cause::Declined, .. }) => {
                reply.write(out);
                Step::More
            }
            state => {
                self.state = state;
                return None;
            }
        })
    }

    fn end_of_chunk(
        &mut self,
        chunk: Chunk,
        mut incoming: Incoming<G>,
        out: &mut Vec<u8>,
    ) -> Step<G> {
        let scanner = &mut incoming.scanner;
        if let (Content::Void, Some(defect)) = (incoming.content, scanner.defect()) {
            return self.refuse_content(incoming.open, defect, out);
        }
        if !chunk.last {
            let Incoming { mut open, scanner, .. } = incoming;
            open.chunks = Some(scanner);
            self.transaction = Some(open);
            let text = format!("{} octets received", chunk.size);
            Reply { text: text.into(), ..Reply::OK }.write(out);
            return Step::More;
        }
        let lacks_line_end = scanner.lacks_line_end();
        if scanner.defect().is_some() {
            incoming.content = Content::Void;
            self.state = State::Chunk(chunk, incoming);
            Step::ContentVoid
        } else if lacks_line_end {
            self.state = State::Chunk(chunk, incoming);
            Step::ContentLineEnd
        } else {
            self.complete(incoming)
        }
    }
}

/// What of the input belongs to a chunk of which so many bytes are left.
fn within(rest: &[u8], left: u64) -> &[u8] {
    usize::try_from(left).ok().and_then(|left| rest.get(..left)).unwrap_or(rest)
}
