//! The receiving side of SMTP as a state machine. *Pure.*
#![allow(unused_variables, dead_code, clippy::todo, missing_docs)]

use crate::config;
use crate::message::{Envelope, Options, QueueId, Timestamp};
use crate::smtp::Reply;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What holds for all sessions of a listener.
pub struct Policy {
    pub host_name: Arc<str>,
    pub limits: config::Session,
}

/// Who is at the other end.
pub struct Client {
    pub address: SocketAddr,
    /// Lies in a relay network: may send to any domain.
    pub may_relay: bool,
}

pub struct Session {}

/// What the caller must do next. `receive` is called again after it, with the rest of the input.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// All complete lines were used: send what is in `out`, then receive more.
    More,
    /// DATA was given and is in order: call `begin_content` or `decline`.
    ContentWanted,
    /// These bytes of the input are content in wire form (dot-stuffed as received): keep them.
    /// Already counted in `consumed`.
    Content(std::ops::Range<usize>),
    /// The content that was kept so far is void: forget it. More may be swallowed; the reply comes
    /// at the end of data.
    ContentVoid,
    /// The final CRLF.CRLF came: `take_transaction`, make it durable, then `stored` or `decline`.
    Complete,
    /// Something was refused: for the event log. The reply is in `out` already.
    Rejected(Rejection),
    /// Send what is in `out`, then close.
    Close,
}

#[derive(Debug, PartialEq)]
pub struct Progress {
    /// Bytes of the input that were used and must not come again.
    pub consumed: usize,
    pub step: Step,
}

/// A refusal worth an event.
#[derive(Debug, PartialEq)]
pub struct Rejection {
    /// `connect`, `mail`, `rcpt`, `data`...
    pub at: &'static str,
    /// The reverse-path of the transaction, when there is one.
    pub from: Option<String>,
    /// The forward-path in question, when there is one.
    pub to: Option<String>,
    pub reply: Reply,
}

/// A complete transaction, ready for the spool.
#[derive(Debug, PartialEq)]
pub struct Transaction {
    pub envelope: Envelope,
    pub options: Options,
    /// Bytes of content received, in wire form, without the final dot line.
    pub content_bytes: u64,
    /// Some line of it begins with a dot, so it is really dot-stuffed.
    pub dot_stuffed: bool,
    /// Has bytes above 127, whatever was declared.
    pub eight_bit: bool,
}

impl Session {
    pub fn new(policy: Rc<Policy>, client: Client) -> Session {
        todo!()
    }
    /// The greeting. `early` is what the client had sent before it, if anything (TLS hello, HTTP).
    pub fn greet(&mut self, early: &[u8], out: &mut Vec<u8>) -> Step {
        todo!()
    }
    pub fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress {
        todo!()
    }
    /// Answers ContentWanted with 354.
    pub fn begin_content(&mut self, out: &mut Vec<u8>) {
        todo!()
    }
    /// The Received field (RFC 5321 4.4) for the transaction, ending in CRLF; callable from
    /// ContentWanted on.
    pub fn trace(&self, id: QueueId, now: Timestamp) -> Vec<u8> {
        todo!()
    }
    /// After Complete, once.
    pub fn take_transaction(&mut self) -> Transaction {
        todo!()
    }
    /// The message is durable: 250 with its id.
    pub fn stored(&mut self, id: QueueId, out: &mut Vec<u8>) {
        todo!()
    }
    /// Answers ContentWanted or Complete with a refusal (452 4.3.1, 451 4.3.0 ...) instead.
    pub fn decline(&mut self, reply: Reply, out: &mut Vec<u8>) {
        todo!()
    }
    /// How long to wait for more input now.
    pub fn timeout(&self) -> Duration {
        todo!()
    }
    /// The wait was too long: 421 4.4.2; close after it.
    pub fn timed_out(&mut self, out: &mut Vec<u8>) {
        todo!()
    }
    /// The relay stops: 421 4.3.2 if no transaction is in the middle of its content; whether the
    /// connection may be closed now.
    pub fn stopping(&mut self, out: &mut Vec<u8>) -> bool {
        todo!()
    }
}
