//! What an owner keeps of a site beside its control: the jobs that have come, the tasks that wait
//! for one, and which of its hosts were silent lately. No sockets; the time comes with each call.

use super::exchange::Job;
use super::hang_ups::HangUps;
use super::site::Control;
use crate::message::Reason;
use crate::ring::Signal;
use crate::route::Candidate;
use crate::timestamp::Timestamp;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// An address that did not answer is tried after the others for this long.
const DEAD_ADDRESS_HOLD: Duration = Duration::from_secs(300);

/// One site at its owner.
pub(super) struct State {
    pub(super) control: Control,
    /// Arrived, and not yet taken by a connection.
    pub(super) jobs: VecDeque<Box<Job>>,
    /// Tasks that wait for a job.
    pub(super) idle: Vec<Signal>,
    /// It stands in the queue for a slot.
    pub(super) starved: bool,
    /// It stands in the list of sites that may have a task without work.
    pub(super) noted_spare: bool,
    /// It stands in the queue for a place at an address.
    pub(super) waits_for_place: bool,
    /// Addresses that did not answer, and until when they are tried last.
    dead: HashMap<SocketAddr, Timestamp>,
    /// Connections that were closed at a message.
    pub(super) hang_ups: HangUps,
}

impl State {
    pub(super) fn new(control: Control) -> State {
        State {
            control,
            jobs: VecDeque::new(),
            idle: Vec::new(),
            starved: false,
            noted_spare: false,
            waits_for_place: false,
            dead: HashMap::new(),
            hang_ups: HangUps::default(),
        }
    }

    /// Takes `signal` from the waiting ones; false when it was no longer there, so a job may have
    /// been meant for it.
    pub(super) fn withdraw(&mut self, signal: &Signal) -> bool {
        let before = self.idle.len();
        self.idle.retain(|other| !other.is(signal));
        self.idle.len() < before
    }

    /// Nothing is lost with it.
    pub(super) fn is_forgettable(&self) -> bool {
        self.control.is_forgettable() && self.jobs.is_empty() && !self.starved
    }

    /// The candidates with those that said nothing lately behind the others. Other connections that
    /// stand do not bring such an address back: each new one would wait for it first.
    pub(super) fn living_first(
        &self,
        candidates: Vec<Candidate>,
        now: Timestamp,
    ) -> Vec<Candidate> {
        let is_dead =
            |candidate: &Candidate| self.dead.get(&candidate.address).is_some_and(|&t| t > now);
        let (dead, mut ordered): (Vec<_>, Vec<_>) = candidates.into_iter().partition(is_dead);
        ordered.extend(dead);
        ordered
    }

    /// An address that was dead is tried again by one connection; the others still leave it alone.
    pub(super) fn trying(&mut self, address: SocketAddr, now: Timestamp) {
        if let Some(until) = self.dead.get_mut(&address) {
            *until = now.plus(DEAD_ADDRESS_HOLD);
        }
    }

    /// It did not take the connection, or took it and never said a word: both cost a time-out.
    /// What had its time again and was not tried (the host has other addresses now) is forgotten.
    pub(super) fn tried(&mut self, address: SocketAddr, reason: &Reason, now: Timestamp) {
        self.dead.retain(|_, until| *until > now);
        if reason.code == 0 {
            self.avoid(address, now);
        } else {
            self.dead.remove(&address);
        }
    }

    /// It takes connections and gives nothing for them: the others come first.
    pub(super) fn avoid(&mut self, address: SocketAddr, now: Timestamp) {
        self.dead.insert(address, now.plus(DEAD_ADDRESS_HOLD));
    }

    /// A connection to it stands.
    pub(super) fn lives(&mut self, address: SocketAddr) {
        self.dead.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::message::{Stage, Status};
    use crate::pool::site::BackOffCurve;

    fn state() -> State {
        let curve = BackOffCurve::new(Duration::from_secs(30), Duration::from_secs(900));
        State::new(Control::new(5, curve))
    }

    fn candidate(last: u8) -> Candidate {
        let address = ([192, 0, 2, last], 25).into();
        Candidate { host: "mx.test".into(), address, preference: 0 }
    }

    fn lasts(candidates: &[Candidate]) -> Vec<String> {
        candidates.iter().map(|candidate| candidate.address.ip().to_string()).collect()
    }

    fn silence() -> Reason {
        Reason::ours(Stage::Connect, Status(4, 4, 1), "no answer")
    }

    #[test]
    fn a_dead_address_comes_last_until_its_time_and_is_then_tried_by_one() {
        let mut state = state();
        let start = Timestamp(1_000_000);
        let both = || vec![candidate(1), candidate(2)];
        state.tried(candidate(1).address, &silence(), start);
        assert_eq!(lasts(&state.living_first(both(), start)), ["192.0.2.2", "192.0.2.1"]);
        let over = start.plus(DEAD_ADDRESS_HOLD);
        assert_eq!(lasts(&state.living_first(both(), over)), ["192.0.2.1", "192.0.2.2"]);
        state.trying(candidate(1).address, over);
        assert_eq!(lasts(&state.living_first(both(), over)), ["192.0.2.2", "192.0.2.1"]);
    }

    #[test]
    fn dead_addresses_of_the_past_are_forgotten() {
        let mut state = state();
        for number in 0..=255_u8 {
            let now = Timestamp(u64::from(number) * 60_000);
            state.tried(candidate(number).address, &silence(), now);
        }
        assert!(state.dead.len() <= 6, "{}", state.dead.len());
    }
}
