//! Messages as files: out of a stopped relay's spool, and back into one. An exported message is an
//! `.eml` file with the envelope in header fields of our own on top: mail programs can read it, and
//! an import makes of it exactly what it was.
//!
//! ```text
//! X-Ringpost-Id: 06J8PA3QZ4S0W
//! X-Ringpost-From: <a@sender.test>
//! X-Ringpost-Received-At: 2026-11-23T18:36:59.123Z
//! X-Ringpost-Options: body=8BITMIME priority=-2
//! X-Ringpost-To: <b@one.test> attempts=2 due=2026-11-23T18:41:59.123Z stage=rcpt code=450
//!  status=4.2.1 text=Mailbox+20busy remote=mx.one.test+20[192.0.2.1]:25
//! X-Ringpost-To: <c@two.test>
//! X-Ringpost-Content: trace=181 content=2048
//! Received: ...
//! ```
//!
//! One `To` for each recipient that still waits; those that have ended are not in the file.
//! Values are xtext (RFC 3461 4). `Content` comes last: what follows it is the trace and the
//! content, of so many bytes, without dot-stuffing and otherwise untouched.
//! Of the trace, at most 64 KiB, every line is of a header field; what the next hop gets is
//! checked like the content of a session, whatever wrote the file.
//!
//! It must not know what the operator typed, nor when anything is delivered.

mod export;
mod head;
mod import;

pub use export::Export;
pub use head::read_reverse_path;
pub use import::{Import, Report, import};
