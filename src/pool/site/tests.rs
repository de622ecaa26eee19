//! Each rule by itself, and random orders of events against a model of what drives the control.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::message::{Stage, Status};

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const SHARE: usize = 5;
const CURVE: BackOffCurve = BackOffCurve { first_ms: 30_000, max_ms: 900_000 };

/// A control, the time, and what its tasks do.
struct Site {
    control: Control,
    rng: fastrand::Rng,
    now: Timestamp,
}

impl Site {
    fn new() -> Site {
        Site { control: Control::new(SHARE, CURVE), rng: fastrand::Rng::with_seed(7), now: NOW }
    }

    fn on(&mut self, event: Event) -> Actions {
        self.control.handle(event, self.now, &mut self.rng)
    }

    fn wait(&mut self, wait: Duration) -> Actions {
        self.now = self.now.plus(wait);
        self.on(Event::Tick)
    }

    /// One task whose connection stands waits for a job.
    fn connect(&mut self) {
        self.on(Event::TaskBegan);
        self.on(Event::Connected);
    }

    /// The probe has a job, and fails.
    fn fail(&mut self) -> Actions {
        self.on(Event::TaskBegan);
        let actions = self.on(Event::Refused(reason()));
        self.on(Event::TaskEnded);
        actions
    }

    fn backs_off_for(&self) -> Duration {
        self.control.backing_off().map_or(Duration::ZERO, |one| one.until.since(self.now))
    }
}

fn reason() -> Arc<Reason> {
    Arc::new(Reason::ours(Stage::Connect, Status(4, 4, 1), "no answer"))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_first_connection_is_a_probe_and_the_share_follows_when_it_stands() {
    let mut site = Site::new();
    assert!(site.on(Event::Offered(0)).open);
    assert!(!site.on(Event::TaskBegan).open, "no other before it stands");
    assert!(site.on(Event::Connected).open);
    for _ in 2..SHARE {
        assert!(site.on(Event::TaskBegan).open);
    }
    assert!(!site.on(Event::TaskBegan).open, "the share is a bound");
}

#[test]
fn a_waiting_task_asks_each_origin_in_turn_for_one_job() {
    let mut site = Site::new();
    for origin in [0, 1, 0] {
        site.on(Event::Offered(origin));
    }
    let mut asked = Vec::new();
    for _ in 0..4 {
        site.connect();
        asked.extend(site.on(Event::TaskWaits).credits);
    }
    assert_eq!(asked, [0, 1, 0, 1]);
    assert_eq!(site.control.spare(), 0);
    assert!(site.on(Event::Tick).credits.is_empty(), "one credit for each that waits");
}

#[test]
fn an_origin_that_has_drained_is_not_asked_until_it_offers_again() {
    let mut site = Site::new();
    site.on(Event::Offered(0));
    site.connect();
    assert_eq!(site.on(Event::TaskWaits).credits, [0]);
    assert!(site.on(Event::Drained(0)).credits.is_empty());
    assert_eq!(site.control.spare(), 1);
    assert_eq!(site.on(Event::Offered(0)).credits, [0]);
}

#[test]
fn a_job_wakes_one_task() {
    let mut site = Site::new();
    site.on(Event::Offered(0));
    for _ in 0..2 {
        site.connect();
        site.on(Event::TaskWaits);
    }
    assert_eq!(site.on(Event::JobArrived).wake, 1);
    assert_eq!(site.on(Event::Tick).wake, 0, "the other one is not woken for the same job");
    site.on(Event::TaskWoke);
    site.on(Event::JobTaken);
    assert_eq!(site.on(Event::JobArrived).wake, 1);
}

#[test]
fn the_waits_double_up_to_the_longest_and_begin_anew_after_a_success() {
    let mut site = Site::new();
    site.on(Event::Offered(0));
    for plain in [30, 60, 120, 240, 480, 900, 900] {
        let failed = site.fail();
        assert!(failed.tell_origins && failed.tell_peers == Some(PeerNews::BacksOff));
        let wait = site.backs_off_for().as_secs_f64() / f64::from(plain);
        assert!((0.79..=1.21).contains(&wait), "{wait} of {plain}");
        let resumed = site.wait(site.backs_off_for());
        assert!(resumed.tell_origins && resumed.tell_peers.is_none());
        assert!(resumed.open, "one probe");
    }
    site.on(Event::TaskBegan);
    assert_eq!(site.on(Event::Connected).tell_peers, Some(PeerNews::Delivers));
    assert_eq!(site.on(Event::Connected).tell_peers, None, "said once");
    site.on(Event::Disconnected);
    site.on(Event::Disconnected);
    site.on(Event::TaskEnded);
    site.fail();
    assert!(site.backs_off_for() <= seconds(36));
}

#[test]
fn nothing_moves_while_the_site_backs_off() {
    let mut site = Site::new();
    site.on(Event::Offered(0));
    site.fail();
    for event in [Event::Offered(1), Event::TaskWaits, Event::Tick, Event::Drained(9)] {
        let actions = site.on(event);
        assert!(actions.credits.is_empty() && !actions.open && actions.wake == 0);
    }
    assert!(site.on(Event::JobArrived).return_jobs);
    assert!(!site.control.is_forgettable());
}

#[test]
fn a_refusal_beside_standing_connections_only_bounds_their_number() {
    let mut site = Site::new();
    site.on(Event::Offered(0));
    site.connect();
    site.connect();
    site.on(Event::TaskBegan);
    let refused = site.on(Event::Refused(reason()));
    assert!(refused.wants_no_more && refused.tell_peers.is_none());
    assert!(site.control.backing_off().is_none());
    assert!(site.control.is_above_ceiling(site.now), "the one that was refused must end");
    assert!(!site.on(Event::TaskEnded).open);
    assert!(site.wait(CEILING_HOLD).open, "after a while one more is tried");
}

#[test]
fn a_probe_that_was_asked_for_costs_nothing_when_it_fails() {
    let mut site = Site::new();
    site.on(Event::Offered(0));
    site.fail();
    let until = site.control.backing_off().unwrap().until;
    for _ in 0..5 {
        let asked = site.on(Event::TryNow);
        assert!(asked.open && asked.tell_origins);
        site.fail();
        assert_eq!(site.control.backing_off().unwrap().until, until);
    }
    site.wait(until.since(site.now));
    site.fail();
    let wait = site.backs_off_for();
    assert!(wait >= seconds(48) && wait <= seconds(72), "the second failure: {wait:?}");
}

#[test]
fn an_evicted_connection_counts_as_no_failure() {
    let mut site = Site::new();
    site.on(Event::Offered(0));
    for _ in 0..3 {
        site.on(Event::TaskBegan);
        site.on(Event::Evicted(reason()));
        site.on(Event::TaskEnded);
        assert!(site.backs_off_for() <= seconds(36), "{:?}", site.backs_off_for());
        site.wait(site.backs_off_for());
    }
    assert_eq!(site.control.failures(), 0);
}

#[test]
fn a_success_elsewhere_ends_the_back_off_here() {
    let mut site = Site::new();
    site.on(Event::Offered(0));
    site.fail();
    site.wait(seconds(1));
    let heard = site.on(Event::PeerDelivers);
    assert!(heard.open && heard.tell_origins);
    site.fail();
    assert!(site.backs_off_for() <= seconds(36), "the count began anew");
}

#[test]
fn a_back_off_elsewhere_is_kept_here_too_unless_a_connection_stands() {
    let down = |until| Event::PeerBacksOff { until, failures: 3, reason: reason() };
    let mut site = Site::new();
    site.on(Event::Offered(0));
    let heard = site.on(down(NOW.plus(seconds(60))));
    assert!(heard.tell_origins && heard.tell_peers.is_none(), "the others know");
    assert!(site.backs_off_for() > seconds(60), "the other one's probe comes first");
    site.wait(seconds(70));
    site.on(Event::TaskBegan);
    assert_eq!(site.on(Event::Connected).tell_peers, Some(PeerNews::Delivers));

    let mut site = Site::new();
    site.on(Event::Offered(0));
    site.connect();
    assert!(!site.on(down(NOW.plus(seconds(60)))).tell_origins);
    assert!(site.control.backing_off().is_none());
}

#[test]
fn without_a_place_at_its_addresses_a_site_waits_for_one() {
    let mut site = Site::new();
    site.on(Event::Offered(0));
    site.on(Event::TaskBegan);
    let held = site.on(Event::NoPlace);
    assert!(held.tell_peers.is_none() && !held.tell_origins, "it is no failure of the site");
    assert!(!site.on(Event::TaskEnded).open);
    assert!(!site.on(Event::Offered(1)).open);
    assert!(site.on(Event::PlaceFree).open);
    site.on(Event::TaskBegan);
    site.on(Event::NoPlace);
    site.on(Event::TaskEnded);
    assert!(site.wait(ADDRESS_HOLD).open);
}

#[test]
fn credits_that_are_never_answered_are_forgotten() {
    let mut site = Site::new();
    site.on(Event::Offered(0));
    site.connect();
    assert_eq!(site.on(Event::TaskWaits).credits, [0]);
    assert_eq!(site.on(Event::Tick).lost_credits, 0);
    let actions = site.wait(CREDIT_OVERDUE);
    assert_eq!((actions.lost_credits, actions.credits), (1, vec![0]), "asked again");
    site.on(Event::JobArrived);
    site.on(Event::JobArrived);
    assert_eq!(site.control.credits, 0, "the late answer does no harm");
}

/// What drives one control, in the smallest form: jobs are numbers, tasks are states.
struct Driver {
    site: Site,
    tasks: Vec<Task>,
    jobs: u32,
    /// Work that each origin has, and whether it has offered it.
    work: [(u32, bool); 3],
    open_credits: Vec<u16>,
    timers: Vec<Timestamp>,
    wants_slot: bool,
    /// Whether the site takes connections now.
    is_up: bool,
    delivered: u32,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Task {
    Begun,
    Waiting { connected: bool },
    Woken { connected: bool },
    Opening,
    Busy,
}

impl Driver {
    fn new(seed: u64) -> Driver {
        let site = Site { rng: fastrand::Rng::with_seed(seed), ..Site::new() };
        Driver {
            site,
            tasks: Vec::new(),
            jobs: 0,
            work: [(0, false); 3],
            open_credits: Vec::new(),
            timers: Vec::new(),
            wants_slot: false,
            is_up: true,
            delivered: 0,
        }
    }

    fn on(&mut self, event: Event) -> Actions {
        let backed_off = self.site.control.backing_off().is_some();
        let actions = self.site.on(event);
        if actions.return_jobs {
            // They go back to some origin, which offers them again.
            let returned = std::mem::take(&mut self.jobs);
            self.work[0].0 += returned;
            if returned > 0 && !self.work[0].1 {
                self.work[0].1 = true;
                self.on_offer(0);
            }
        }
        if actions.release {
            for task in &mut self.tasks {
                if let Task::Waiting { connected } = *task {
                    *task = Task::Woken { connected };
                }
            }
        }
        for _ in 0..actions.wake {
            let waiting = |task: &&mut Task| matches!(task, Task::Waiting { .. });
            let task = self.tasks.iter_mut().find(waiting).expect("only waiting tasks are woken");
            let Task::Waiting { connected } = *task else { continue };
            *task = Task::Woken { connected };
        }
        self.open_credits.extend(&actions.credits);
        self.timers.extend(actions.timer);
        self.wants_slot |= actions.open;
        let backs_off = self.site.control.backing_off().is_some();
        assert!(!(backed_off && backs_off) || (actions.credits.is_empty() && !actions.open));
        assert!(self.site.control.credits as usize <= SHARE, "a credit has a task");
        assert!(self.tasks.len() <= SHARE + 1);
        actions
    }

    fn on_offer(&mut self, origin: u16) {
        let actions = self.site.on(Event::Offered(origin));
        self.open_credits.extend(&actions.credits);
        self.wants_slot |= actions.open;
    }

    /// Something that can happen now happens.
    fn step(&mut self) {
        let choice = self.site.rng.u32(0..12);
        match choice {
            0 => {
                let origin = self.site.rng.usize(0..3);
                self.work[origin].0 += 1;
                if !std::mem::replace(&mut self.work[origin].1, true) {
                    self.on(Event::Offered(origin as u16));
                }
            }
            1 | 2 => self.answer_credit(),
            3 if self.wants_slot => {
                // As the pool does: the wish is looked at again when there is a slot.
                let still_wanted = self.on(Event::Tick).open;
                self.wants_slot = false;
                if still_wanted {
                    self.tasks.push(Task::Begun);
                    self.on(Event::TaskBegan);
                }
            }
            4 => {
                let wait = seconds(self.site.rng.u64(0..40));
                self.site.now = self.site.now.plus(wait);
                let now = self.site.now;
                let due = self.timers.iter().filter(|at| **at <= now).count();
                self.timers.retain(|at| *at > now);
                (0..due).for_each(|_| drop(self.on(Event::Tick)));
            }
            5 => self.is_up ^= self.site.rng.u32(0..8) == 0,
            6 if self.site.rng.u32(0..20) == 0 => drop(self.on(Event::TryNow)),
            6 if self.site.rng.u32(0..20) == 0 => drop(self.on(Event::PeerDelivers)),
            7 if self.site.rng.u32(0..20) == 0 => {
                let until = self.site.now.plus(seconds(60));
                self.on(Event::PeerBacksOff { until, failures: 2, reason: reason() });
                self.timers.extend(self.site.control.backing_off().map(|one| one.until));
            }
            _ => self.run_task(),
        }
    }

    fn answer_credit(&mut self) {
        if self.open_credits.is_empty() {
            return;
        }
        let at = self.site.rng.usize(0..self.open_credits.len());
        let origin = self.open_credits.swap_remove(at);
        let (work, offered) = &mut self.work[usize::from(origin)];
        if *work == 0 {
            *offered = false;
            self.on(Event::Drained(origin));
            return;
        }
        *work -= 1;
        self.jobs += 1;
        self.on(Event::JobArrived);
    }

    fn run_task(&mut self) {
        if self.tasks.is_empty() {
            return;
        }
        let at = self.site.rng.usize(0..self.tasks.len());
        match self.tasks[at] {
            Task::Begun => self.next_job(at, false),
            Task::Waiting { .. } => {}
            Task::Woken { connected } => {
                self.site.control.handle(Event::TaskWoke, self.site.now, &mut self.site.rng);
                self.next_job(at, connected);
            }
            Task::Opening if self.is_up => {
                self.tasks[at] = Task::Busy;
                self.on(Event::Connected);
            }
            Task::Opening => {
                let refused = match self.site.rng.u32(0..8) {
                    0 => self.on(Event::NoPlace),
                    1 => self.on(Event::Evicted(reason())),
                    _ => self.on(Event::Refused(reason())),
                };
                drop(refused);
                self.work[0].0 += 1;
                if !std::mem::replace(&mut self.work[0].1, true) {
                    self.on_offer(0);
                }
                self.next_job(at, false);
            }
            Task::Busy => {
                self.delivered += 1;
                let stays = self.is_up;
                if !stays {
                    self.on(Event::Disconnected);
                }
                self.next_job(at, stays);
            }
        }
    }

    /// What a task does that has no job, as `worker` has it.
    fn next_job(&mut self, at: usize, connected: bool) {
        let now = self.site.now;
        let ends = self.site.control.backing_off().is_some()
            || (!connected && self.site.control.is_above_ceiling(now));
        if !ends && self.jobs > 0 {
            self.jobs -= 1;
            self.tasks[at] = if connected { Task::Busy } else { Task::Opening };
            self.on(Event::JobTaken);
        } else if ends || self.site.rng.u32(0..30) == 0 {
            self.tasks.swap_remove(at);
            if connected {
                self.on(Event::Disconnected);
            }
            self.on(Event::TaskEnded);
        } else {
            self.tasks[at] = Task::Waiting { connected };
            self.on(Event::TaskWaits);
        }
    }

    /// Nothing waits without a cause that ends by itself.
    fn check(&self) {
        let control = &self.site.control;
        assert_eq!(control.queued, self.jobs);
        let count = |wanted: fn(&Task) -> bool| self.tasks.iter().filter(|one| wanted(one)).count();
        let idle = count(|task| matches!(task, Task::Waiting { .. }));
        assert_eq!(usize::from(control.idle), idle);
        assert_eq!(usize::from(control.tasks), self.tasks.len());
        if control.backing_off().is_some() {
            assert!(self.timers.iter().any(|at| *at >= control.backing_off().unwrap().until));
            return;
        }
        let has_work = control.offers.iter().next().is_some() || self.jobs > 0;
        let moves = count(|task| !matches!(task, Task::Waiting { .. })) > 0
            || !self.open_credits.is_empty()
            || self.wants_slot
            || control.held_until.is_some();
        assert!(!has_work || moves, "work waits and nothing moves: {control:?}");
    }
}

#[test]
fn in_any_order_of_events_nothing_is_stuck_and_nothing_is_exceeded() {
    for seed in 0..60 {
        let mut driver = Driver::new(seed);
        for _ in 0..4_000 {
            driver.step();
            driver.check();
        }
        assert!(driver.delivered > 20, "seed {seed}: {}", driver.delivered);
    }
}
