//! The simulator, first stage.
#![allow(clippy::unwrap_used, clippy::panic)]

mod life;
mod truth;

use crate::message::{SET_CLOCK, Timestamp};
use crate::ring::simulation::Simulation;
use crate::ring::simulation::disk::{Disk, Faults};
use life::{Plan, Seen, World, live, shard_folder, start_and_judge};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};
use truth::{Rot, Truth};

/// Polls and turns of the clock that one life may take.
const STEPS_MAX: u64 = 2_000_000;
/// Crashes during the examination of a crash.
const DEPTH_MAX: u32 = 2;

/// One seed, from first start to last.
struct History {
    random: fastrand::Rng,
    truth: Truth,
    plan: Plan,
    faults: Faults,
    image_odds: f64,
    latency_us: u64,
    now_us: u64,
    /// The wall clock is so far behind, in milliseconds.
    behind_ms: u64,
    lives: u32,
    crash_points: u64,
    seen: Vec<Seen>,
}

impl History {
    fn new(seed: u64) -> History {
        let mut random = fastrand::Rng::with_seed(seed);
        let stream_threshold = random.usize(1000..8000);
        let plan = Plan {
            shards: 1,
            segment_bytes: [64, 64, 128][random.usize(..3)] * 1024,
            stream_threshold,
            content_bytes_max: [1 << 20, 20_000][random.usize(..2)],
            pause_ms: random.u64(1..30),
            patient: random.u32(..8),
            life: Duration::ZERO,
        };
        let rare = |random: &mut fastrand::Rng, one_in: u32| {
            if random.u32(..one_in) == 0 { random.f64() * 0.02 } else { 0.0 }
        };
        let faults = Faults {
            write: rare(&mut random, 8),
            sync: rare(&mut random, 5),
            read: rare(&mut random, 10),
            full: rare(&mut random, 10),
        };
        History {
            truth: Truth { stream_threshold, ..Truth::default() },
            plan,
            faults,
            image_odds: random.f64() * 0.5,
            latency_us: random.u64(1..2000),
            now_us: 0,
            behind_ms: 0,
            lives: random.u32(2..7),
            crash_points: 0,
            seen: Vec::new(),
            random,
        }
    }

    fn set_clock(&self, now_us: u64) {
        let now = 1_700_000_000_000 + now_us / 1000;
        SET_CLOCK.set(Some(Timestamp(now - self.behind_ms)));
    }

    fn run(&mut self) {
        let mut disk = Disk::new(self.random.u64(..));
        let mut rot = None;
        for _ in 0..self.lives {
            (disk, rot) = self.life(disk, rot);
        }
        self.examine(disk, rot, 0);
    }

    /// One life on `disk`: the disk that it leaves to the next.
    fn life(&mut self, mut disk: Disk, rot: Option<Rot>) -> (Disk, Option<Rot>) {
        self.prepare(&mut disk);
        let mut world =
            World::new(self.plan.clone(), self.truth.clone(), self.now_us, self.random.u64(..));
        world.rot = rot;
        let image_odds = self.image_odds;
        let world = Rc::new(world);
        let simulation = Simulation::new(self.random.u64(..), disk, self.now_us, self.latency_us);
        simulation.enter(|| crate::ring::simulation::spawn(live(Rc::clone(&world))));
        let mut steps = 0;
        loop {
            self.set_clock(simulation.now_us());
            assert!(simulation.step(), "nothing happens any more");
            steps += 1;
            assert!(steps < STEPS_MAX, "no end");
            let (images, dead) = {
                let mut disk = simulation.disk.borrow_mut();
                // Nobody reports the damage twice.
                let odds = if rot.is_none() || world.started.get() { image_odds } else { 0.0 };
                disk.image_odds = odds;
                (disk.take_images(), disk.is_dead())
            };
            self.now_us = simulation.now_us();
            if !images.is_empty() {
                self.truth = world.truth.borrow().clone();
                let rot = rot.filter(|_| !world.started.get());
                for image in images {
                    self.truth.late |= image.has_failed || image.was_full;
                    let image = self.crash(image);
                    self.examine(image, rot, 1);
                }
            }
            if dead || world.over.get() {
                break;
            }
        }
        simulation.end();
        self.truth = world.truth.borrow().clone();
        self.seen.push(world.seen.clone());
        let mut disk = simulation.disk.borrow_mut().take_failed().unwrap();
        self.truth.late |= disk.has_failed || disk.was_full;
        disk = self.crash(disk);
        let unjudged = if world.started.get() { None } else { rot };
        let rot = unjudged.or_else(|| self.rot(&mut disk));
        (disk, rot)
    }

    fn prepare(&mut self, disk: &mut Disk) {
        let random = &mut self.random;
        self.plan.shards = random.u16(1..4);
        self.plan.life = Duration::from_millis(random.u64(100..3000));
        disk.faults = if random.u32(..3) == 0 { Faults::default() } else { self.faults };
        disk.reserves = random.u32(..8) > 0;
        let used = disk.files().len() as u64;
        disk.capacity = match random.u32(..4) {
            0 => (used + random.u64(1..8)) * self.plan.segment_bytes,
            _ => u64::MAX,
        };
        disk.power_until = match random.u32(..6) {
            0 => u64::MAX,
            1 => random.u64(1..60),
            _ => random.u64(20..3000),
        };
        // A clock that was set back.
        if random.u32(..4) == 0 {
            self.behind_ms += random.u64(..60_000);
        }
    }

    /// The process is gone, or the whole machine.
    fn crash(&mut self, disk: Disk) -> Disk {
        if self.random.u32(..8) == 0 {
            return disk.after_kill();
        }
        disk.after_power_failure(self.random.u64(..))
    }

    /// Bytes change where something was written.
    fn rot(&mut self, disk: &mut Disk) -> Option<Rot> {
        if self.random.u32(..6) > 0 {
            return None;
        }
        let path = self.random.choice(disk.files())?;
        let shard = (0..8).find(|&shard| path.parent() == Some(&shard_folder(shard)))?;
        let segment = super::segment::number(&path)?;
        let at = disk.any_written(&path)?;
        disk.rot(&path, at).then_some(Rot { shard, segment })
    }

    /// A start after a crash, judged, and perhaps cut short by others.
    fn examine(&mut self, mut disk: Disk, rot: Option<Rot>, depth: u32) {
        self.crash_points += 1;
        if std::env::var("SIMDBG").is_ok() {
            eprintln!(
                "examine depth {depth} late {} now {} shards {} rot {rot:?} files {:?}",
                self.truth.late,
                self.now_us,
                self.plan.shards,
                disk.files()
            );
        }
        disk.faults = Faults::default();
        disk.capacity = u64::MAX;
        let again = depth < DEPTH_MAX && self.random.u32(..8) == 0 && rot.is_none();
        disk.image_odds = if again { 0.2 } else { 0.0 };
        let shards = if self.random.bool() { self.plan.shards } else { self.random.u16(1..4) };
        let plan = Plan { shards, ..self.plan.clone() };
        let mut world = World::new(plan, self.truth.clone(), self.now_us, self.random.u64(..));
        world.read_max = 4;
        world.rot = rot;
        let world = Rc::new(world);
        let simulation = Simulation::new(self.random.u64(..), disk, self.now_us, 1);
        let starting = Rc::clone(&world);
        simulation.enter(|| {
            crate::ring::simulation::spawn(async move {
                let _spools = start_and_judge(&starting).await;
                starting.over.set(true);
            });
        });
        while !world.over.get() {
            self.set_clock(simulation.now_us());
            assert!(simulation.step(), "a start does not end");
            let images = simulation.disk.borrow_mut().take_images();
            for image in images {
                let image = self.crash(image);
                self.examine(image, None, depth + 1);
            }
        }
        simulation.end();
    }
}

thread_local! {
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// Runs one seed; whether all promises were kept.
fn run(seed: u64) -> (bool, History) {
    let mut history = History::new(seed);
    PANICKED.set(false);
    let kept = catch_unwind(AssertUnwindSafe(|| history.run())).is_ok();
    SET_CLOCK.set(None);
    (kept && !PANICKED.get(), history)
}

/// A panic that some task contained counts as well.
fn watch_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let _ = PANICKED.try_with(|panicked| panicked.set(true));
            before(info);
        }));
    });
}

#[test]
fn what_was_promised_is_kept_whatever_the_disk_does() {
    watch_panics();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (from, count) = match number("RINGPOST_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("RINGPOST_SIM_SEEDS").unwrap_or(20)),
    };
    let begin = Instant::now();
    let mut crash_points = 0;
    let (
        mut accepted,
        mut moved,
        mut refused,
        mut failures,
        mut given_up,
        mut recovered,
        mut streamed,
    ) = (0, 0, 0, 0, 0, 0, 0);
    let mut failed = Vec::new();
    for seed in from..from + count {
        let (kept, history) = run(seed);
        crash_points += history.crash_points;
        for seen in &history.seen {
            accepted += seen.accepted.get();
            moved += seen.moved.get();
            refused += seen.refused.get();
            failures += seen.failures.get();
            given_up += seen.given_up.get();
            recovered += seen.recovered.get();
            streamed += seen.streamed.get();
        }
        if !kept {
            eprintln!("seed {seed} failed");
            failed.push(seed);
        }
    }
    let took = begin.elapsed().as_secs_f64();
    println!(
        "{count} seeds, {crash_points} crash points in {took:.1} s, {:.0} a second; accepted {accepted} moved {moved} refused {refused} failures {failures} given up {given_up} recovered {recovered} streamed {streamed}",
        crash_points as f64 / took
    );
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}
