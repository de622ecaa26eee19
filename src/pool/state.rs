//! What a home knows of its site, and what it decides from that: who is woken, who is asked for
//! work, whether one more connection is wanted. No sockets, no clock: the time is told.

use super::exchange::Job;
use crate::message::{Outcome, Reason, Timestamp};
use crate::ring::Signal;
use crate::route::Candidate;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// After a connection was refused beside standing ones, their number is not raised for this long.
const CEILING_HOLD: Duration = Duration::from_secs(60);
/// An address that did not answer is tried after the others for this long.
const DEAD_ADDRESS_HOLD: Duration = Duration::from_secs(300);
/// Credits that nobody has answered for this long are forgotten: their answers were lost by a fault
/// of ours, and a site must not wait for them for ever. An answer that comes after all is taken.
const CREDIT_OVERDUE: Duration = Duration::from_secs(300);

/// One site at its home.
#[derive(Default)]
pub(super) struct State {
    /// Origins that said they have work, in turn.
    pub(super) offers: VecDeque<usize>,
    /// Arrived, and not yet taken by a connection.
    pub(super) jobs: VecDeque<Box<Job>>,
    /// Asked for, and not yet answered.
    credits: usize,
    /// When a credit was given or answered last.
    credited_at: Timestamp,
    /// Connection tasks.
    pub(super) tasks: usize,
    /// Of these, the ones that wait for a job.
    pub(super) idle: Vec<Signal>,
    /// Of the tasks, those whose connection stands.
    pub(super) connected: usize,
    /// Stands in the pool's queue for room.
    pub(super) starved: bool,
    /// Connections are not raised above this before then.
    ceiling: Option<(usize, Timestamp)>,
    /// Whole-site failures in a row.
    pub(super) failures: u32,
    pub(super) backing_off: Option<(Timestamp, Reason)>,
    /// Addresses that did not answer, and until when they are tried last.
    dead: HashMap<SocketAddr, Timestamp>,
}

/// What is to be done now for a site.
#[derive(Default)]
pub(super) struct Moves {
    /// Waiting tasks for which there is a job.
    pub(super) wake: Vec<Signal>,
    /// Origins to be asked for one job each.
    pub(super) credits: Vec<usize>,
    /// There is work for one more connection.
    pub(super) wants_connection: bool,
}

impl State {
    /// `origin` has work.
    pub(super) fn offered(&mut self, origin: usize) {
        if !self.offers.contains(&origin) {
            self.offers.push_back(origin);
        }
    }

    /// `origin` answers a credit: no more work.
    pub(super) fn drained(&mut self, origin: usize, now: Timestamp) {
        self.answered_credit(now);
        self.offers.retain(|&other| other != origin);
    }

    /// A credit was answered.
    pub(super) fn answered_credit(&mut self, now: Timestamp) {
        self.credits = self.credits.saturating_sub(1);
        self.credited_at = now;
    }

    /// Gives waiting jobs to waiting connections, asks for work for those that still wait, and says
    /// whether one more connection is wanted. Nothing while the site backs off.
    pub(super) fn moves(&mut self, share: usize, now: Timestamp) -> Moves {
        let mut moves = Moves::default();
        if self.backing_off.is_some() {
            return moves;
        }
        let wake = self.jobs.len().min(self.idle.len());
        moves.wake = self.idle.split_off(self.idle.len() - wake);
        let has_work = !self.offers.is_empty() || !self.jobs.is_empty();
        moves.wants_connection =
            has_work && self.idle.is_empty() && self.tasks < self.allowed(share, now);
        while self.spare() > 0 {
            let Some(origin) = self.offers.pop_front() else { break };
            self.offers.push_back(origin);
            self.credits += 1;
            self.credited_at = now;
            moves.credits.push(origin);
        }
        moves
    }

    /// Waiting tasks for which nothing was asked: they could go.
    pub(super) fn spare(&self) -> usize {
        self.idle.len().saturating_sub(self.jobs.len() + self.credits)
    }

    /// Wakes a task that could go, if there is one: it looks whether it should.
    pub(super) fn wake_spare(&mut self) -> bool {
        let spare = if self.spare() > 0 { self.idle.pop() } else { None };
        spare.as_ref().inspect(|signal| signal.set()).is_some()
    }

    /// Takes `signal` from the waiting ones; false when it was no longer there, so a job may have
    /// been meant for it.
    pub(super) fn withdraw(&mut self, signal: &Signal) -> bool {
        let before = self.idle.len();
        self.idle.retain(|other| !other.is(signal));
        self.idle.len() < before
    }

    /// A connection was refused. True when others stand: the site wants no more for a while.
    /// False when it takes none at all.
    pub(super) fn refused_more(&mut self, now: Timestamp) -> bool {
        if self.connected > 0 {
            self.ceiling = Some((self.connected, now.plus(CEILING_HOLD)));
        }
        self.connected > 0
    }

    /// There are more tasks than the site takes connections: one that has none must end instead of
    /// trying again and again.
    pub(super) fn is_above_ceiling(&self, now: Timestamp) -> bool {
        self.ceiling.is_some_and(|(ceiling, until)| until > now && self.tasks > ceiling.max(1))
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
    pub(super) fn tried(&mut self, address: SocketAddr, outcome: &Outcome, now: Timestamp) {
        self.dead.retain(|_, until| *until > now);
        if outcome.reason().code == 0 {
            self.dead.insert(address, now.plus(DEAD_ADDRESS_HOLD));
        } else {
            self.dead.remove(&address);
        }
    }

    /// A connection to it stands.
    pub(super) fn lives(&mut self, address: SocketAddr) {
        self.dead.remove(&address);
    }

    /// Forgets credits that nobody answers; how many.
    pub(super) fn forget_overdue_credits(&mut self, now: Timestamp) -> usize {
        if now.since(self.credited_at) < CREDIT_OVERDUE {
            return 0;
        }
        std::mem::take(&mut self.credits)
    }

    /// Nothing is lost with it.
    pub(super) fn is_forgettable(&self) -> bool {
        self.offers.is_empty()
            && self.jobs.is_empty()
            && self.credits == 0
            && self.tasks == 0
            && self.backing_off.is_none()
            && !self.starved
    }

    /// How many connections may be open now: one until the first stands (a probe), then the share,
    /// unless the site has lately refused to take more.
    fn allowed(&mut self, share: usize, now: Timestamp) -> usize {
        if self.connected == 0 {
            return 1;
        }
        match self.ceiling {
            Some((ceiling, until)) if until > now => ceiling.clamp(1, share),
            _ => {
                self.ceiling = None;
                share
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::message::{Stage, Status};

    const NOW: Timestamp = Timestamp(1_700_000_000_000);
    const SHARE: usize = 5;

    /// A task begins to wait; what follows from it.
    fn task_waits(state: &mut State, signal: &Signal) -> Moves {
        state.idle.push(signal.clone());
        state.moves(SHARE, NOW)
    }

    fn opened(state: &mut State) -> Signal {
        state.tasks += 1;
        Signal::new()
    }

    #[test]
    fn the_first_connection_is_a_probe_and_the_share_follows_when_it_stands() {
        let mut state = State::default();
        state.offered(0);
        assert!(state.moves(SHARE, NOW).wants_connection);
        let _probe = opened(&mut state);
        assert!(!state.moves(SHARE, NOW).wants_connection, "nobody else before it stands");
        state.connected = 1;
        for _ in 1..SHARE {
            assert!(state.moves(SHARE, NOW).wants_connection);
            opened(&mut state);
        }
        assert!(!state.moves(SHARE, NOW).wants_connection, "the share is a bound");
    }

    #[test]
    fn a_waiting_task_asks_each_origin_in_turn_and_for_one_job() {
        let mut state = State { connected: 1, ..State::default() };
        state.offered(0);
        state.offered(1);
        state.offered(0);
        let asked: Vec<usize> = (0..4)
            .flat_map(|_| {
                let signal = opened(&mut state);
                task_waits(&mut state, &signal).credits
            })
            .collect();
        assert_eq!(asked, [0, 1, 0, 1]);
        assert_eq!(state.spare(), 0);
        assert!(state.moves(SHARE, NOW).credits.is_empty(), "one credit for each that waits");
    }

    #[test]
    fn who_has_drained_is_not_asked_until_it_offers_again() {
        let mut state = State { connected: 1, ..State::default() };
        state.offered(0);
        let signal = opened(&mut state);
        assert_eq!(task_waits(&mut state, &signal).credits, [0]);
        state.drained(0, NOW);
        assert!(state.moves(SHARE, NOW).credits.is_empty());
        assert_eq!(state.spare(), 1);
        state.offered(0);
        assert_eq!(state.moves(SHARE, NOW).credits, [0]);
    }

    #[test]
    fn a_refused_connection_beside_standing_ones_is_a_ceiling_for_a_while() {
        let mut state = State { connected: 2, tasks: 4, ..State::default() };
        state.offered(0);
        assert!(state.refused_more(NOW));
        assert!(state.is_above_ceiling(NOW), "a task without a connection ends");
        state.tasks = 2;
        assert!(!state.is_above_ceiling(NOW));
        assert!(!state.moves(SHARE, NOW).wants_connection);
        let later = NOW.plus(CEILING_HOLD);
        assert!(state.moves(SHARE, later).wants_connection);
    }

    #[test]
    fn with_no_connection_standing_a_refusal_is_the_site_s() {
        let mut state = State { tasks: 1, ..State::default() };
        assert!(!state.refused_more(NOW));
        assert!(!state.is_above_ceiling(NOW));
    }

    #[test]
    fn credits_that_nobody_answers_do_not_hold_a_site_for_ever() {
        let mut state = State { connected: 1, ..State::default() };
        state.offered(0);
        let signal = opened(&mut state);
        assert_eq!(task_waits(&mut state, &signal).credits, [0]);
        assert_eq!(state.forget_overdue_credits(NOW), 0);
        let later = NOW.plus(CREDIT_OVERDUE);
        assert_eq!(state.forget_overdue_credits(later), 1);
        assert_eq!(state.moves(SHARE, later).credits, [0], "asked again");
        state.answered_credit(later);
        state.answered_credit(later);
        assert_eq!(state.spare(), 1, "the late answer does no harm");
    }

    #[test]
    fn nothing_moves_while_the_site_backs_off() {
        let mut state = State { connected: 1, ..State::default() };
        state.offered(0);
        let reason = silence().reason().clone();
        state.backing_off = Some((NOW.plus(Duration::from_secs(60)), reason));
        let signal = opened(&mut state);
        let moves = task_waits(&mut state, &signal);
        assert!(moves.credits.is_empty() && !moves.wants_connection);
        assert!(!state.is_forgettable());
    }

    fn candidate(last: u8) -> Candidate {
        Candidate { host: "mx.test".into(), address: ([192, 0, 2, last], 25).into() }
    }

    fn lasts(candidates: &[Candidate]) -> Vec<String> {
        candidates.iter().map(|candidate| candidate.address.ip().to_string()).collect()
    }

    fn silence() -> Outcome {
        Outcome::Deferred(Reason::ours(Stage::Connect, Status(4, 4, 1), "no answer"))
    }

    #[test]
    fn a_dead_address_comes_last_until_its_time_and_is_then_tried_by_one() {
        let mut state = State::default();
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
        let mut state = State::default();
        for number in 0..=255_u8 {
            let now = Timestamp(u64::from(number) * 60_000);
            state.tried(candidate(number).address, &silence(), now);
        }
        assert!(state.dead.len() <= 6, "{}", state.dead.len());
    }
}
