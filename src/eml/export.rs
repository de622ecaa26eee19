//! Out of a stopped relay's spool: one file for each live message.

use super::head::{FIRST, Head, Waiting};
use crate::message::{Content, Envelope, Message, Reason, RecipientStatus};
use crate::smtp::{Dot, Dots};
use crate::spool::{Recovered, RecoveredRecipient, Spool, missing_above};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Files written before they are synced: the syncs after the first find little to do.
const TOGETHER: usize = 64;

/// Writes messages into a folder.
#[derive(Debug)]
pub struct Export {
    to: PathBuf,
    /// Written, under another name until they are on the disk.
    unsynced: Vec<(File, PathBuf, PathBuf)>,
    exported: u64,
}

impl Export {
    /// Into the folder `to`, which is made when it is missing, but nothing above it.
    pub fn new(to: &Path) -> io::Result<Export> {
        match fs::create_dir(to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let missing = missing_above(to.parent().unwrap_or(to));
                return Err(about(to, &io::Error::new(error.kind(), missing)));
            }
            Err(error) if !to.is_dir() => return Err(about(to, &error)),
            _ => {}
        }
        Ok(Export { to: to.to_owned(), unsynced: Vec::new(), exported: 0 })
    }

    /// Writes `message` of the spool's `folder` to `ID.eml`. A message that an earlier export wrote
    /// there is replaced; any other file, or a link, is left as it is, and that is an error. An
    /// error is about this message or an earlier one, and says which.
    pub fn message(&mut self, folder: &Path, message: &Recovered) -> io::Result<()> {
        let stored =
            Spool::read(folder, message.id, message.placement).map_err(io::Error::other)?;
        let path = self.to.join(format!("{}.eml", message.id));
        let part = self.to.join(format!("{}.part", message.id));
        check_replaceable(&path).map_err(|error| about(&path, &error))?;
        match write(&stored, &message.recipients, &part) {
            Ok(file) => self.unsynced.push((file, part, path)),
            Err(error) => {
                let _ = fs::remove_file(&part);
                return Err(about(&path, &error));
            }
        }
        if self.unsynced.len() >= TOGETHER { self.settle() } else { Ok(()) }
    }

    /// Ends: all messages are on the disk. Returns how many there are.
    pub fn finish(mut self) -> io::Result<u64> {
        self.settle()?;
        let synced = File::open(&self.to).and_then(|folder| folder.sync_all());
        synced.map_err(|error| about(&self.to, &error))?;
        Ok(self.exported)
    }

    fn settle(&mut self) -> io::Result<()> {
        for (file, part, path) in self.unsynced.drain(..) {
            // A rename replaces the name: it follows no link.
            let synced = file.sync_data().and_then(|()| fs::rename(&part, &path));
            synced.map_err(|error| about(&path, &error))?;
            self.exported += 1;
        }
        Ok(())
    }
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn write(stored: &Message, recipients: &[RecoveredRecipient], path: &Path) -> io::Result<File> {
    let head = Head {
        id: stored.id,
        received_at: stored.received_at,
        reverse_path: stored.envelope.reverse_path.clone(),
        options: stored.options.clone(),
        recipients: waiting(&stored.envelope, recipients),
        prepended_headers: stored.prepended_headers.len() as u64,
        content: unstuffed_length(stored)?,
    };
    // Left by an export that was killed. Only a new file is written: no link is followed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Readable by the operator alone.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut out = BufWriter::new(file);
    out.write_all(head.write().as_bytes())?;
    out.write_all(&stored.prepended_headers)?;
    each_piece(stored, |piece| out.write_all(piece))?;
    out.into_inner().map_err(io::IntoInnerError::into_error)
}

/// Whether there is nothing at `path`, or a message that was exported before.
fn check_replaceable(path: &Path) -> io::Result<()> {
    let refused = |what: &str| Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.is_file() => refused("exists, and is not a regular file"),
        Ok(_) => {
            let mut begin = [0; FIRST.len()];
            match File::open(path)?.read_exact(&mut begin) {
                Ok(()) if begin == *FIRST.as_bytes() => Ok(()),
                _ => refused("exists, and is not an exported message"),
            }
        }
    }
}

fn waiting(envelope: &Envelope, recipients: &[RecoveredRecipient]) -> Vec<Waiting> {
    let open = envelope.recipients.iter().zip(recipients).filter(|(_, one)| !one.ended);
    open.map(|(recipient, one)| Waiting {
        recipient: recipient.clone(),
        status: one.due.zip(one.reason.clone()).map(|(due, reason)| RecipientStatus::Waiting {
            attempts: one.attempts,
            due,
            reason: Reason::clone(&reason),
        }),
        in_doubt: one.in_doubt,
    })
    .collect()
}

/// Known at once, unless dots have to be counted.
fn unstuffed_length(stored: &Message) -> io::Result<u64> {
    if !stored.flags.dot_stuffed {
        return Ok(stored.content.len());
    }
    let mut length = 0;
    each_piece(stored, |piece| {
        length += piece.len() as u64;
        Ok(())
    })?;
    Ok(length)
}

/// The content without its stuffed dots, piece by piece.
fn each_piece(stored: &Message, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut dots = Dots::new(Dot::Removed);
    let mut plain = Vec::new();
    let mut piece = |bytes: &[u8]| {
        if !stored.flags.dot_stuffed {
            return take(bytes);
        }
        plain.clear();
        dots.piece(bytes, &mut plain);
        take(&plain)
    };
    match &stored.content {
        Content::Whole(bytes) => piece(bytes),
        Content::Streamed(pieces) => pieces.iter().try_for_each(|one| piece(&one.read_stopped()?)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_what_an_export_wrote_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("ours"), format!("{FIRST} 1\r\n")).unwrap();
        fs::write(at("foreign"), "precious").unwrap();
        fs::write(at("short"), "X").unwrap();
        symlink(at("ours"), at("link")).unwrap();
        symlink(at("none"), at("dangling")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        for (name, is_replaceable) in [
            ("none", true),
            ("ours", true),
            ("foreign", false),
            ("short", false),
            ("link", false),
            ("dangling", false),
            ("folder", false),
        ] {
            assert_eq!(check_replaceable(&at(name)).is_ok(), is_replaceable, "{name}");
        }
    }
}
