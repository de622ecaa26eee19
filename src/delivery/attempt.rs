//! One attempt at one message, over as many hosts of its site as it takes. *Pure.*
//!
//! What happened at each host goes in; which recipients are to be sent where next comes out, and
//! at the end an outcome for each of them that names every host that was tried. It is the second
//! table of [`scope`](super::scope). It must not know connections, addresses or DNS.

use super::RecipientOutcome;
use super::scope::Scope;
use crate::limits;
use crate::message::{HostAttempt, Outcome, Reason, Stage};

/// How much the failure at a host tells an operator, the least first. A server's reply says more
/// than a failed handshake, that more than a refused connection, that more than silence; an address
/// without a route says only something about this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Telling {
    /// There is no route to the address.
    Unreachable,
    /// Nothing answered to the connection.
    NoAnswer,
    /// The connection was refused.
    Refused,
    /// The connection broke, or what came was no SMTP.
    Broken,
    /// TLS failed, or this relay cannot do what the host asks for.
    Tls,
    /// The server said why.
    Reply,
}

/// Whether a failure at a host ends a message when all hosts fail so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finality {
    /// Another attempt may succeed there.
    Later,
    /// The host can never take it: it lacks what the message demands.
    Never,
}

/// What happened at one host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostFailure {
    /// In the server's words, or in ours.
    pub reason: Reason,
    /// How much that tells.
    pub telling: Telling,
    /// Whether it is final.
    pub finality: Finality,
}

impl HostFailure {
    /// A failure after the connection was made.
    pub fn of_conversation(reason: Reason) -> HostFailure {
        let telling = match (reason.code, reason.stage) {
            (0, Stage::Tls | Stage::Auth | Stage::Local) => Telling::Tls,
            (0, Stage::Hello) if reason.status.1 == 7 => Telling::Tls,
            (0, _) => Telling::Broken,
            _ => Telling::Reply,
        };
        HostFailure { reason, telling, finality: Finality::Later }
    }
}

/// What an attempt does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: every recipient has an outcome, or no further host may be tried.
    End,
    /// Some recipients go over a new connection to the same host.
    SameHost,
    /// Some recipients go to the next host, if there is one.
    NextHost,
}

/// A recipient without an outcome.
struct Open {
    index: u32,
    goes: Next,
    is_settled: bool,
    /// What happened to it in transactions.
    met: Vec<HostFailure>,
}

/// See the module's documentation.
pub struct Attempt {
    open: Vec<Open>,
    outcomes: Vec<(u32, Outcome)>,
    again: Vec<u32>,
    /// Hosts that did not get as far as a transaction.
    hosts: Vec<HostFailure>,
    /// Hosts that did.
    sessions: usize,
    same_host_used: bool,
}

impl Attempt {
    /// Of `recipients`, by index in the envelope.
    pub fn new(recipients: &[u32]) -> Attempt {
        let open =
            |&index| Open { index, goes: Next::NextHost, is_settled: false, met: Vec::new() };
        Attempt {
            open: recipients.iter().map(open).collect(),
            outcomes: Vec::with_capacity(recipients.len()),
            again: Vec::new(),
            hosts: Vec::new(),
            sessions: 0,
            same_host_used: false,
        }
    }

    /// What is to be done now.
    pub fn next(&self) -> Next {
        let goes = |next| self.open.iter().any(|open| open.goes == next);
        if goes(Next::SameHost) {
            Next::SameHost
        } else if goes(Next::NextHost) && self.sessions < limits::ATTEMPT_SESSIONS_MAX {
            Next::NextHost
        } else {
            Next::End
        }
    }

    /// The recipients that are to be sent now.
    pub fn recipients(&self) -> Vec<u32> {
        let next = self.next();
        self.open.iter().filter(|open| open.goes == next).map(|open| open.index).collect()
    }

    /// A host did not get as far as a transaction.
    pub fn host_failed(&mut self, failure: HostFailure) {
        self.hosts.push(failure);
        self.open.iter_mut().for_each(|open| open.goes = Next::NextHost);
    }

    /// Whether a host got as far as a transaction that says something about more than its
    /// connection.
    pub fn had_session(&self) -> bool {
        self.sessions > 0
    }

    /// Whether no transaction was begun.
    pub fn is_untried(&self) -> bool {
        self.sessions == 0 && !self.same_host_used
    }

    /// What a transaction made of the recipients that it was about.
    pub fn transacted(&mut self, outcomes: Vec<RecipientOutcome>, again: Vec<u32>) {
        let mut new_connection = false;
        let may_reconnect = !self.same_host_used;
        let mut from = 0;
        for RecipientOutcome { index, outcome, scope } in outcomes {
            let Some(at) = self.find(index, from) else { continue };
            from = at + 1;
            let Some(open) = self.open.get_mut(at) else { continue };
            match (&outcome, scope) {
                (Outcome::Delivered(_) | Outcome::Refused(_), _)
                | (Outcome::Deferred(_), Scope::Message) => {
                    open.is_settled = true;
                    let met = std::mem::take(&mut open.met);
                    self.settle(index, &met, outcome);
                }
                (Outcome::Deferred(_), Scope::Connection) if may_reconnect => {
                    open.goes = Next::SameHost;
                    new_connection = true;
                }
                (Outcome::Deferred(reason), _) => {
                    open.goes = Next::NextHost;
                    open.met.push(HostFailure::of_conversation(reason.clone()));
                }
            }
        }
        for index in again {
            if let Some(open) = self.find(index, from).and_then(|at| self.open.get_mut(at)) {
                open.is_settled = true;
                self.again.push(index);
            }
        }
        self.open.retain(|open| !open.is_settled);
        match new_connection {
            true => self.same_host_used = true,
            false => self.sessions += 1,
        }
    }

    /// The place of a recipient; most often it is `from`, because outcomes come in order.
    fn find(&self, index: u32, from: usize) -> Option<usize> {
        let is_it = |open: &Open| open.index == index;
        let behind = self.open.get(from..)?.iter().position(is_it).map(|at| from + at);
        behind.or_else(|| self.open.iter().position(is_it))
    }

    /// Every recipient with its outcome, and those that are to be sent again at once: because the
    /// server takes no more of them in one transaction, or because no host was tried for them.
    pub fn finish(mut self) -> (Vec<(u32, Outcome)>, Vec<u32>) {
        for open in std::mem::take(&mut self.open) {
            // A host that says "not now" outweighs one that says "never": another attempt may
            // succeed there (RFC 5321 5.1).
            let failures = || self.hosts.iter().chain(&open.met);
            let later = failures().filter(|failure| failure.finality == Finality::Later);
            let outcome = match (later.max_by(most_telling), failures().max_by(most_telling)) {
                (Some(later), _) => Outcome::Deferred(later.reason.clone()),
                (None, Some(never)) => Outcome::Refused(never.reason.clone()),
                (None, None) => {
                    self.again.push(open.index);
                    continue;
                }
            };
            self.settle(open.index, &open.met, outcome);
        }
        (self.outcomes, self.again)
    }

    fn settle(&mut self, index: u32, met: &[HostFailure], mut outcome: Outcome) {
        if self.hosts.len() + met.len() > 0 {
            let reason = outcome.reason_mut();
            let mut others: Vec<&HostFailure> = self.hosts.iter().chain(met).collect();
            // The outcome's own host comes first; that of a deferral is among those that failed.
            others.retain(|failure| failure.reason != *reason);
            others.sort_by_key(|failure| std::cmp::Reverse(failure.telling));
            // An address without a route was not tried, unless there is nothing else to say.
            others.retain(|failure| failure.telling > Telling::Unreachable);
            if !others.is_empty() {
                let others = others.into_iter().map(|failure| HostAttempt::of(&failure.reason));
                let all = std::iter::once(HostAttempt::of(reason)).chain(others);
                reason.hosts = Some(all.take(limits::ATTEMPT_HOSTS_SHOWN_MAX).collect());
            }
        }
        self.outcomes.push((index, outcome));
    }
}

/// The first of those that tell most.
fn most_telling(one: &&HostFailure, other: &&HostFailure) -> std::cmp::Ordering {
    // Of equals `max_by` takes the last, so equal is less.
    one.telling.cmp(&other.telling).then(std::cmp::Ordering::Greater)
}
