//! The sending side of SMTP as a state machine; its result is an [`Outcome`] per recipient, not an
//! error. *Pure.*
#![allow(unused_variables, dead_code, clippy::todo, missing_docs)]

use crate::config;
use crate::message::{Address, Body, Outcome, Reason, ReversePath};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub struct Policy {
    pub host_name: Arc<str>,
    pub limits: config::Delivery,
}

/// One message for one site.
#[derive(Clone, Debug)]
pub struct Mail {
    pub reverse_path: ReversePath,
    /// (index in the envelope, forward-path); 1 to `recipients_max` of them.
    pub recipients: Vec<(u32, Address)>,
    /// Bytes of trace and content as they will be sent, for SIZE=.
    pub size: u64,
    pub body: Body,
    /// Content has bytes above 127.
    pub eight_bit: bool,
    pub smtp_utf8: bool,
}

/// One connection to one host: greeting, EHLO, then any number of transactions.
pub struct Conversation {}

#[derive(Debug, PartialEq)]
pub enum Step {
    /// Send `out`, then receive more.
    More,
    /// Greeting and EHLO are done, or a transaction has ended: `begin` or `quit`.
    Ready,
    /// 354 came: send `out` (empty), then trace and content in wire form, then call `content_sent`.
    SendContent,
    /// The transaction ended: each recipient either has an outcome here or stands in `again` (452
    /// after others were accepted: to be sent in another transaction at once). Next `receive` call
    /// (with whatever input is left, maybe none) gives Ready or Close.
    Finished { outcomes: Vec<(u32, Outcome)>, again: Vec<u32> },
    /// The host cannot be used (greeting 4xx/5xx, EHLO and HELO refused, nonsense instead of a
    /// reply) and no transaction had begun: try the next host.
    Unusable(Outcome),
    /// Send `out`, then close. No transaction is open.
    Close,
}

#[derive(Debug, PartialEq)]
pub struct Progress {
    pub consumed: usize,
    pub step: Step,
}

/// How a connection was lost.
#[derive(Clone, Debug, PartialEq)]
pub enum Loss {
    /// The other side closed or reset it; the operating system's words.
    Closed(String),
    /// No reply, or no progress in sending, for the time-out of the state.
    TimedOut,
    /// The content could not be read on our side.
    Content(String),
}

impl Conversation {
    /// `remote` names the host for reasons: `mx1.example.net [192.0.2.1]:25`.
    pub fn new(policy: Rc<Policy>, remote: Box<str>) -> Conversation {
        todo!()
    }
    pub fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress {
        todo!()
    }
    /// Only after Ready.
    pub fn begin(&mut self, mail: Mail, out: &mut Vec<u8>) {
        todo!()
    }
    /// After SendContent: adds the final dot line to `out`.
    pub fn content_sent(&mut self, out: &mut Vec<u8>) {
        todo!()
    }
    /// Only after Ready: QUIT.
    pub fn quit(&mut self, out: &mut Vec<u8>) {
        todo!()
    }
    /// How long to wait for the next reply, or for progress in sending content.
    pub fn timeout(&self) -> Duration {
        todo!()
    }
    /// The connection is gone: what that means, by the table above. With no transaction open the
    /// list is empty and the reason is for the host.
    pub fn lost(&mut self, loss: Loss) -> (Vec<(u32, Outcome)>, Reason) {
        todo!()
    }
}
