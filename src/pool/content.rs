//! Content on its way out of a connection: as it is stored, as one chunk, or made 7-bit.

use crate::delivery::{Conversation, Conversion, Loss, Unconvertible};
use crate::message::{Content, Message};
use crate::smtp::{Dot, Dots};
use crate::tls::MaybeTlsStream;
use std::borrow::Cow;
use std::io;

/// A message up to this size leaves in one send with the final dot: copying it costs less than a
/// second system call.
const ONE_SEND_BYTES_MAX: u64 = 64 * 1024;

/// Whether all content is at hand and may leave with the envelope, before it is known whether a
/// recipient is accepted.
pub(super) fn is_small(message: &Message) -> bool {
    let size = message.size();
    matches!(message.content, Content::Whole(_)) && size <= ONE_SEND_BYTES_MAX
}

/// A message that can be made 7-bit.
pub(super) struct Convertible {
    /// As it comes out of the survey.
    pub(super) conversion: Conversion,
    /// Of trace and converted content, in bytes.
    pub(super) size: u64,
}

/// Finds out whether the content can be made 7-bit, and how long it is then. It is gone through
/// twice, and a third time when it is sent, and never held as a whole; such mail is rare.
///
/// # Errors
/// It cannot be read.
pub(super) async fn convert(message: &Message) -> io::Result<Result<Convertible, Unconvertible>> {
    let mut out = Vec::new();
    let mut conversion = Conversion::survey(message.flags.dot_stuffed);
    if let Err(why) = through(&mut conversion, message, &mut out, |_| {}).await? {
        if message.envelope.reverse_path.is_some() {
            return Ok(Err(why));
        }
        out.clear();
        conversion = Conversion::survey_report(message.flags.dot_stuffed);
        if let Err(why) = through(&mut conversion, message, &mut out, |_| {}).await? {
            return Ok(Err(why));
        }
    }
    let mut size = message.prepended_headers.len() as u64;
    let mut writer = conversion.written();
    let written = through(&mut writer, message, &mut out, |out| size += out.len() as u64).await?;
    Ok(written.map(|()| Convertible { conversion, size }))
}

/// Takes all content through `conversion`; `done` sees each piece of what comes of it.
async fn through(
    conversion: &mut Conversion,
    message: &Message,
    out: &mut Vec<u8>,
    mut done: impl FnMut(&[u8]),
) -> io::Result<Result<(), Unconvertible>> {
    let mut pieces = Pieces::of(message);
    while let Some(piece) = pieces.next().await? {
        if let Err(why) = conversion.piece(&piece, out) {
            return Ok(Err(why));
        }
        done(out);
        out.clear();
    }
    let finished = conversion.finish(out);
    done(out);
    out.clear();
    Ok(finished)
}

/// What content goes through on its way to the host.
pub(super) struct ContentSender<'a> {
    pub(super) stream: &'a mut MaybeTlsStream,
    pub(super) conversation: &'a mut Conversation,
    /// What is not sent yet.
    pub(super) output: &'a mut Vec<u8>,
}

impl ContentSender<'_> {
    /// Trace and content, after the host asked for them; what ends them goes to the output.
    pub(super) async fn send(
        &mut self,
        message: &Message,
        conversion: Option<&Conversion>,
    ) -> Result<(), Loss> {
        let wait = self.conversation.timeout();
        if self.conversation.is_chunked() {
            return self.send_chunk(message).await;
        }
        if let Some(conversion) = conversion {
            return self.send_converted(message, conversion.written()).await;
        }
        match &message.content {
            Content::Whole(content) if message.content.len() <= ONE_SEND_BYTES_MAX => {
                self.output.extend_from_slice(&message.prepended_headers);
                self.output.extend_from_slice(content);
            }
            Content::Whole(content) => {
                self.stream.send_all(&message.prepended_headers, wait).await.map_err(loss_of)?;
                self.stream.send_all(content, wait).await.map_err(loss_of)?;
            }
            Content::Streamed(pieces) => {
                self.stream.send_all(&message.prepended_headers, wait).await.map_err(loss_of)?;
                for piece in pieces {
                    let bytes = piece.read().await.map_err(|error| unreadable(&error))?;
                    self.stream.send_all(&bytes, wait).await.map_err(loss_of)?;
                }
            }
        }
        self.conversation.content_sent(self.output);
        Ok(())
    }

    /// The same of content that is at hand, to the output.
    pub(super) fn put(&mut self, message: &Message) {
        let Content::Whole(stored) = &message.content else { return };
        let mut plain = Vec::new();
        let content = match message.flags.dot_stuffed {
            true => {
                Dots::new(Dot::Removed).piece(stored, &mut plain);
                &plain
            }
            false => stored,
        };
        let length = message.prepended_headers.len() + content.len();
        self.conversation.chunk(length as u64, self.output);
        self.output.extend_from_slice(&message.prepended_headers);
        self.output.extend_from_slice(content);
        self.conversation.content_sent(self.output);
    }

    /// The whole message as one chunk (RFC 3030). Its length comes first, so content that is kept
    /// with added dots is gone through twice; such mail is rare.
    async fn send_chunk(&mut self, message: &Message) -> Result<(), Loss> {
        let wait = self.conversation.timeout();
        let mut length = message.prepended_headers.len() as u64;
        let mut pieces = Unstuffed::of(message);
        while let Some(piece) = pieces.next().await.map_err(|error| unreadable(&error))? {
            length += piece.len() as u64;
        }
        self.conversation.chunk(length, self.output);
        self.output.extend_from_slice(&message.prepended_headers);
        let mut pieces = Unstuffed::of(message);
        while let Some(piece) = pieces.next().await.map_err(|error| unreadable(&error))? {
            self.stream.send_all(self.output, wait).await.map_err(loss_of)?;
            self.output.clear();
            self.output.extend_from_slice(&piece);
        }
        self.conversation.content_sent(self.output);
        Ok(())
    }

    /// The content made 7-bit, dot-stuffed as it is stored.
    async fn send_converted(
        &mut self,
        message: &Message,
        mut writer: Conversion,
    ) -> Result<(), Loss> {
        let wait = self.conversation.timeout();
        let changed = |_| Loss::Content("it is no longer what was surveyed".to_owned());
        self.output.extend_from_slice(&message.prepended_headers);
        let mut pieces = Pieces::of(message);
        while let Some(piece) = pieces.next().await.map_err(|error| unreadable(&error))? {
            writer.piece(&piece, self.output).map_err(changed)?;
            if self.output.len() as u64 > ONE_SEND_BYTES_MAX {
                self.stream.send_all(self.output, wait).await.map_err(loss_of)?;
                self.output.clear();
            }
        }
        writer.finish(self.output).map_err(changed)?;
        self.conversation.content_sent(self.output);
        Ok(())
    }
}

/// What an error of the connection means for the conversation.
pub(super) fn loss_of(error: io::Error) -> Loss {
    match error.kind() {
        io::ErrorKind::TimedOut => Loss::TimedOut,
        _ => Loss::Closed(error.to_string()),
    }
}

fn unreadable(error: &io::Error) -> Loss {
    Loss::Content(error.to_string())
}

/// Stored content, piece by piece.
struct Pieces<'a> {
    content: &'a Content,
    /// Pieces that have been given.
    given: usize,
}

impl<'a> Pieces<'a> {
    fn of(message: &'a Message) -> Pieces<'a> {
        Pieces { content: &message.content, given: 0 }
    }

    async fn next(&mut self) -> io::Result<Option<Cow<'a, [u8]>>> {
        self.given += 1;
        match self.content {
            Content::Whole(bytes) => Ok((self.given == 1).then_some(Cow::Borrowed(bytes))),
            Content::Streamed(pieces) => match pieces.get(self.given - 1) {
                Some(piece) => Ok(Some(Cow::Owned(piece.read().await?))),
                None => Ok(None),
            },
        }
    }
}

/// The same without the dots that transparency added.
struct Unstuffed<'a> {
    pieces: Pieces<'a>,
    dots: Option<Dots>,
}

impl<'a> Unstuffed<'a> {
    fn of(message: &'a Message) -> Unstuffed<'a> {
        let dots = message.flags.dot_stuffed.then(|| Dots::new(Dot::Removed));
        Unstuffed { pieces: Pieces::of(message), dots }
    }

    async fn next(&mut self) -> io::Result<Option<Cow<'a, [u8]>>> {
        let piece = self.pieces.next().await?;
        let Some(dots) = &mut self.dots else { return Ok(piece) };
        Ok(piece.map(|stuffed| {
            let mut plain = Vec::with_capacity(stuffed.len());
            dots.piece(&stuffed, &mut plain);
            Cow::Owned(plain)
        }))
    }
}
