//! One life of a relay's spools, from start to end: clients that send and give up, deliveries that
//! succeed and defer, readers, and the queue that the compactor asks.

use super::super::manifest::Manifest;
use super::super::recovery::Scan;
use super::super::testing::{plain, waiting};
use super::super::{
    MessageState, Open, Placement, QueueIndex, Remains, Reported, Settings, Spool, SpoolError,
    folder, segment,
};
use super::truth::{Found, Mail, Recipient, State, Truth};
use crate::message::{Content, Message, QueueId, RecipientStatus};
use crate::ring::{self, simulation};
use futures_lite::future;
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

const ROOT: &str = "/spool";

/// How a life is set up.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) shards: u16,
    pub(super) segment_bytes: u64,
    pub(super) stream_threshold: usize,
    pub(super) content_bytes_max: usize,
    /// Longest pause between two actions of a client, in milliseconds.
    pub(super) pause_ms: u64,
    /// Mail in 16 that waits for long.
    pub(super) patient: u32,
    /// How long clients go on.
    pub(super) life: Duration,
}

/// What the tasks of one life share.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) truth: RefCell<Truth>,
    /// Wherever the crash was: the time by which the start is judged.
    crashed_at: u64,
    random: RefCell<fastrand::Rng>,
    /// Messages whose content is read after the start.
    pub(super) read_max: usize,
    pub(super) seen: Seen,
    stopping: Cell<bool>,
    clients: Cell<usize>,
    /// The start is judged.
    pub(super) started: Cell<bool>,
    /// The life has ended in good order.
    pub(super) over: Cell<bool>,
}

/// What a life came to, so that a test can tell whether anything was tested.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) accepted: Cell<u64>,
    pub(super) refused: Cell<u64>,
    pub(super) moved: Cell<u64>,
    pub(super) recovered: Cell<u64>,
    pub(super) failures: Cell<u64>,
    pub(super) given_up: Cell<u64>,
    pub(super) streamed: Cell<u64>,
    /// Segments that a start took by their index.
    pub(super) indexed: Cell<u64>,
    reported: Cell<u64>,
    /// Lists of segments that a start compared with what it found.
    listed: Cell<u64>,
}

impl Seen {
    pub(super) fn add(&self, other: &Seen) {
        for (sum, (_, more)) in self.all().iter().zip(other.all()) {
            sum.1.set(sum.1.get() + more.get());
        }
    }

    fn all(&self) -> [(&'static str, &Cell<u64>); 10] {
        [
            ("accepted", &self.accepted),
            ("refused", &self.refused),
            ("moved", &self.moved),
            ("recovered", &self.recovered),
            ("failures", &self.failures),
            ("given up", &self.given_up),
            ("streamed", &self.streamed),
            ("indexed", &self.indexed),
            ("reported", &self.reported),
            ("listed", &self.listed),
        ]
    }

    /// A test in which something of this never happens does not test it.
    pub(super) fn assert_all(&self) {
        for (name, count) in self.all() {
            assert!(count.get() > 0, "never: {name}");
        }
    }
}

fn count(one: &Cell<u64>) {
    one.set(one.get() + 1);
}

pub(super) fn shard_folder(shard: u16) -> PathBuf {
    Path::new(ROOT).join(format!("shard-{shard}"))
}

pub(super) fn content_of(id: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(id).fill(&mut bytes);
    bytes
}

/// Opens all spools as the relay does: each shard its own, then its share of the orphans.
pub(super) async fn start(plan: &Plan) -> Result<(Vec<Spool>, Found), SpoolError> {
    folder::make(Path::new(ROOT)).map_err(|error| folder::failed(Path::new(ROOT), &error))?;
    let shards = plan.shards;
    let is_used = |folder: &Path| (0..shards).any(|shard| shard_folder(shard) == folder);
    let mut orphans = folder::orphans(Path::new(ROOT), is_used)?;
    let mut spools = Vec::new();
    let mut found = Found::default();
    for shard in 0..shards {
        let settings = Settings {
            directory: shard_folder(shard),
            number: shard,
            segment_bytes: plan.segment_bytes,
            stream_threshold: plan.stream_threshold,
            content_bytes_max: plan.content_bytes_max,
            outcome_interval: Duration::from_millis(20),
        };
        let (spool, recovery) = Spool::open_as_set(settings).await?;
        let mut all = vec![recovery];
        for orphan in std::mem::take(&mut orphans) {
            let adopted = spool.adopt(&orphan, &all).await?;
            all.push(adopted);
        }
        for recovery in all {
            found.damage.extend(recovery.set_aside);
            found.has_torn |= recovery.torn_bytes > 0;
            found.messages.extend(recovery.messages.map(|one| (shard, one)));
        }
        spools.push(spool);
    }
    let files = simulation::current().map(|simulation| simulation.disk.borrow().files());
    let is_kept = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "bad");
    found.has_quarantine = files.unwrap_or_default().iter().any(is_kept);
    Ok((spools, found))
}

/// What indexes say is what the bytes say.
fn compare(world: &World) {
    // Of what rotted, an index may still tell.
    if world.may_not_read() || !world.chance(30) {
        return;
    }
    let Ok(folders) = folder::layout(Path::new(ROOT)) else { return };
    for (_, folder) in folders {
        let read = |scan| folder::read(&folder, scan).ok();
        let (Some(by_index), Some(by_all)) = (read(Scan::default()), read(Scan::of_all_bytes()))
        else {
            return;
        };
        if Manifest::read(&folder).is_some() {
            count(&world.seen.listed);
        }
        let (findings, other) = (by_index.findings, by_all.findings);
        assert_eq!((findings.next_batch, findings.cut), (other.next_batch, other.cut));
        let (scan, all) = (by_index.scan, by_all.scan);
        assert_eq!((&scan.written, &scan.blank), (&all.written, &all.blank));
        assert_eq!((scan.batches, scan.records), (all.batches, all.records));
        assert!(all.bad_indexes.iter().all(|bad| !scan.indexed.contains(bad)));
        assert_eq!(scan.replay.said(), all.replay.said());
        world.seen.indexed.set(world.seen.indexed.get() + scan.indexed.len() as u64);
    }
}

/// A start, what it finds judged and read.
pub(super) async fn start_and_judge(world: &Rc<World>) -> Option<Vec<Spool>> {
    compare(world);
    let (spools, found) = match start(&world.plan).await {
        Ok(started) => started,
        Err(error) => {
            assert!(world.in_trouble(), "no start: {error}");
            return None;
        }
    };
    if world.is_dead() {
        return None;
    }
    world.truth.borrow().judge(&found, world.crashed_at);
    // Of many, some: every record has passed its checksum already.
    let count_read = world.read_max.min(found.messages.len());
    let all = found.messages.iter();
    let sample = world.random.borrow_mut().choose_multiple(all, count_read);
    for (shard, message) in sample {
        let spool = &spools[usize::from(*shard)];
        let id = message.id;
        let length = world.truth.borrow().mails[&id.0].length;
        match read(spool, id, message.placement).await {
            Ok(content) => assert!(content == content_of(id.0, length), "content of {id}"),
            Err(error) => assert!(world.may_not_read(), "{id}: {error}"),
        }
        count(&world.seen.recovered);
    }
    for spool in &spools {
        world.fresh_id(spool);
    }
    world.truth.borrow_mut().resume(&found);
    world.started.set(true);
    Some(spools)
}

/// The content of a message.
async fn read(spool: &Spool, id: QueueId, at: Placement) -> Result<Vec<u8>, String> {
    let message = spool.load(id, at).await.map_err(|error| error.to_string())?;
    content(&message).await
}

async fn content(message: &Message) -> Result<Vec<u8>, String> {
    match &message.content {
        Content::Whole(bytes) => Ok(bytes.clone()),
        Content::Streamed(pieces) => {
            let mut all = Vec::new();
            for piece in pieces {
                all.extend(piece.read().await.map_err(|error| error.to_string())?);
            }
            Ok(all)
        }
    }
}

/// Everything, to the end of the life.
pub(super) async fn live(world: Rc<World>) {
    let Some(spools) = start_and_judge(&world).await else {
        world.over.set(true);
        return;
    };
    let mut queues = Vec::new();
    for (shard, spool) in (0..).zip(&spools) {
        let queue: Rc<dyn QueueIndex> = Rc::new(Queue { world: Rc::clone(&world), shard });
        spool.clean_for(Rc::downgrade(&queue));
        queues.push(queue);
        for sender in 0..5 {
            if sender < 2 {
                world.spawn(send(Rc::clone(&world), spool.clone(), shard));
            }
            world.spawn(deliver(Rc::clone(&world), spool.clone(), shard));
        }
        world.spawn(report(Rc::clone(&world), spool.clone(), shard));
        world.spawn(look(Rc::clone(&world), spool.clone(), shard));
        world.spawn(sync(Rc::clone(&world), spool.clone(), shard));
    }
    ring::sleep(world.plan.life).await;
    world.stopping.set(true);
    while world.clients.get() > 0 {
        ring::sleep(Duration::from_millis(10)).await;
    }
    // The compactor and the segment allocator have time to do all that they want.
    ring::sleep(Duration::from_secs(20)).await;
    world.judge_disk();
    for spool in &spools {
        let synced = spool.sync().await;
        assert!(synced.is_ok() || world.in_trouble(), "{synced:?}");
    }
    drop((spools, queues));
    ring::sleep(Duration::from_secs(3)).await;
    world.over.set(true);
}

impl World {
    pub(super) fn new(plan: Plan, truth: Truth, crashed_at: u64, seed: u64) -> World {
        World {
            plan,
            truth: RefCell::new(truth),
            crashed_at,
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            read_max: usize::MAX,
            seen: Seen::default(),
            stopping: Cell::new(false),
            clients: Cell::new(0),
            started: Cell::new(false),
            over: Cell::new(false),
        }
    }

    fn spawn(self: &Rc<World>, client: impl Future<Output = ()> + 'static) {
        let world = Rc::clone(self);
        world.clients.set(world.clients.get() + 1);
        simulation::spawn(async move {
            client.await;
            world.clients.set(world.clients.get() - 1);
        });
    }

    fn now(&self) -> u64 {
        simulation::current().map_or(0, |simulation| simulation.now_us())
    }

    /// Power has failed: what tasks see from here on never happened.
    fn is_dead(&self) -> bool {
        simulation::current().is_none_or(|simulation| simulation.disk.borrow().is_dead())
    }

    /// Something was refused or went wrong in this life.
    fn in_trouble(&self) -> bool {
        simulation::current().is_none_or(|simulation| {
            let disk = simulation.disk.borrow();
            disk.is_dead() || disk.has_failed || disk.was_full
        })
    }

    fn may_not_read(&self) -> bool {
        self.in_trouble() || self.truth.borrow().has_rotted()
    }

    fn chance(&self, of_100: u32) -> bool {
        self.random.borrow_mut().u32(..100) < of_100
    }

    async fn pause(&self, most_ms: u64) {
        let wait = self.random.borrow_mut().u64(..=most_ms * 1000);
        ring::sleep(Duration::from_micros(wait)).await;
    }

    /// No id is given twice, whatever the clock says.
    fn fresh_id(&self, spool: &Spool) -> QueueId {
        let id = spool.next_id(ring::wall_clock());
        let truth = self.truth.borrow();
        // What rotted may have been the highest.
        let known = !truth.has_rotted() && truth.mails.get(&id.0).is_some_and(|mail| mail.is_known);
        assert!(!known, "the id {id} is given a second time");
        id
    }

    /// Segments keep to the factor of the mail that lives.
    fn judge_disk(&self) {
        // What cannot be read cannot move.
        if self.may_not_read() {
            return;
        }
        let Some(simulation) = simulation::current() else { return };
        let files = simulation.disk.borrow().files();
        let truth = self.truth.borrow();
        for shard in 0..self.plan.shards {
            let folder = shard_folder(shard);
            let here = files.iter().filter(|path| path.parent() == Some(&folder)).count() as u64;
            // A record or piece is as long as its blocks, when it is committed alone.
            let block = u64::from(segment::BLOCK);
            let threshold = truth.stream_threshold.max(1) as u64;
            let blocks = |bytes: u64| bytes.div_ceil(block) * block;
            let disk_of = |length: u64| match length <= threshold {
                true => blocks(length + 600),
                false => length.div_ceil(threshold) * blocks(threshold + 100) + block,
            };
            let live = truth.waiting_at(shard);
            let live: u64 = live.iter().map(|id| disk_of(truth.mails[id].length as u64)).sum();
            // Twice the live mail, four more, the spares, and one that is about to go; in whole
            // segments.
            let most = 2 * live.div_ceil(self.plan.segment_bytes) + 4 + 4 + 1;
            assert!(here <= most, "shard {shard}: {here} segments for {live} bytes");
        }
    }
}

/// A client: sends mail, one message after the other.
async fn send(world: Rc<World>, spool: Spool, shard: u16) {
    while !world.stopping.get() {
        world.pause(world.plan.pause_ms).await;
        if world.is_dead() {
            return;
        }
        let failed_before = spool.failure().is_some();
        let (id, mail) = world.offer(&spool, shard);
        let answer = hand_over(&world, &spool, id, &mail, None).await;
        if world.is_dead() {
            return;
        }
        let is_known = matches!(answer, Some((_, State::Accepted)));
        assert!(!failed_before || !is_known, "accepted after a failure");
        if let Some(answer) = answer {
            world.answered(id, answer);
        }
    }
}

/// Reports that deliveries failed, and ends them with the report.
async fn report(world: Rc<World>, spool: Spool, shard: u16) {
    while !world.stopping.get() {
        world.pause(world.plan.pause_ms).await;
        if world.is_dead() {
            return;
        }
        let Some((failed, recipients)) = world.take_job(shard) else { continue };
        spool.begun(QueueId(failed), &recipients);
        world.pause(15).await;
        let (id, mail) = world.offer(&spool, shard);
        world.each(failed, &recipients, |one| one.reports.push(id.0));
        let all = recipients.iter().map(|&one| (one, RecipientStatus::Bounced)).collect();
        let reported = Reported { id: QueueId(failed), statuses: all };
        let answer = hand_over(&world, &spool, id, &mail, Some(reported)).await;
        if world.is_dead() {
            return;
        }
        let Some((placement, State::Accepted)) = answer else {
            // The queue would make another one: this one may be there beside it.
            world.each(failed, &recipients, |one| {
                one.reports.retain(|&report| report != id.0);
                one.stray_reports.push(id.0);
                one.is_taken = false;
            });
            // Its endings stand in its record alone, so it is not said to be removed.
            if let Some((_, State::Refused)) = answer {
                world.answered(id, (None, State::Refused));
            }
            continue;
        };
        count(&world.seen.reported);
        world.answered(id, (placement, State::Accepted));
        for recipient in recipients {
            spool.settle(QueueId(failed), recipient, &RecipientStatus::Bounced);
            let now = world.now();
            world.each(failed, &[recipient], |one| one.settle(&RecipientStatus::Bounced, now));
        }
        let over = world.truth.borrow().mails.get(&failed).filter(|mail| mail.over()).cloned();
        if let Some(placement) = over.and_then(|mail| mail.placement) {
            spool.dead(QueueId(failed), placement);
        }
    }
}

/// Sends one message: where it is and what was answered; `None` when it is not known.
async fn hand_over(
    world: &Rc<World>,
    spool: &Spool,
    id: QueueId,
    mail: &Mail,
    reported: Option<Reported>,
) -> Option<(Option<Placement>, State)> {
    let (length, recipients) = (mail.length, mail.recipients.len());
    let refused = |error: SpoolError| match error {
        SpoolError::Full(_) => {
            count(&world.seen.refused);
            Some((None, State::Refused))
        }
        error => {
            count(&world.seen.failures);
            assert!(world.in_trouble() && spool.failure().is_some(), "{error}");
            None
        }
    };
    let mut draft = if reported.is_some() { spool.report_draft() } else { spool.draft() };
    let part = world.random.borrow_mut().usize(200..9000);
    for bytes in content_of(id.0, length).chunks(part) {
        if let Err(error) = draft.extend(bytes).await {
            return refused(error).or(Some((None, State::Refused)));
        }
        if world.chance(2) {
            return Some((None, State::Refused));
        }
        if world.chance(20) {
            world.pause(3).await;
        }
    }
    let accepted = Message { id, ..plain(id.0, recipients) };
    let accepted = accepted.with_content(draft);
    let storing = async {
        Some(match reported {
            Some(reported) => spool.store_report(accepted, reported).await,
            None => spool.store(accepted).await,
        })
    };
    let stored = if world.chance(4) {
        let gone = async {
            world.pause(10).await;
            None
        };
        future::or(storing, gone).await
    } else {
        storing.await
    };
    match stored {
        Some(Ok((placement, message))) => {
            count(&world.seen.accepted);
            if matches!(message.content, Content::Streamed(_)) {
                count(&world.seen.streamed);
            }
            Some((Some(placement), State::Accepted))
        }
        Some(Err(error)) => refused(error),
        None => {
            count(&world.seen.given_up);
            Some((None, State::GivenUp(world.now())))
        }
    }
}

/// Delivers, or tries to.
async fn deliver(world: Rc<World>, spool: Spool, shard: u16) {
    while !world.stopping.get() {
        world.pause(world.plan.pause_ms).await;
        let Some((id, recipients)) = world.take_job(shard) else { continue };
        spool.begun(QueueId(id), &recipients);
        // Some take so long that what had begun must be known after a crash.
        let most_ms = if world.chance(10) { 600 } else { 15 };
        world.pause(most_ms).await;
        if world.is_dead() {
            return;
        }
        let mut dead = None;
        for recipient in recipients {
            let now = world.now();
            let truth = &mut *world.truth.borrow_mut();
            let Some(mail) = truth.mails.get_mut(&id) else { continue };
            let status = status(&mut world.random.borrow_mut(), mail.patient);
            spool.settle(QueueId(id), recipient, &status);
            mail.recipients[recipient as usize].settle(&status, now);
            if mail.over() {
                dead = mail.placement;
            }
        }
        if let Some(placement) = dead {
            spool.dead(QueueId(id), placement);
        }
    }
}

fn status(random: &mut fastrand::Rng, patient: bool) -> RecipientStatus {
    let ends = if patient { random.u32(..200) == 0 } else { random.u32(..4) > 0 };
    match random.u32(..10) {
        _ if !ends => waiting(random.u16(..), random.u64(..)),
        0 => RecipientStatus::Bounced,
        1 => RecipientStatus::Expired,
        _ => RecipientStatus::Delivered,
    }
}

impl World {
    /// A message that is about to be handed over.
    fn offer(&self, spool: &Spool, shard: u16) -> (QueueId, Mail) {
        let id = self.fresh_id(spool);
        let random = &mut *self.random.borrow_mut();
        let length = match random.u32(..10) {
            0 => 0,
            1..7 => random.usize(..1000),
            7..9 => random.usize(..10_000),
            _ => random.usize(..30_000),
        };
        let recipients = random.usize(1..4);
        let mail = Mail {
            state: State::Offered,
            is_known: false,
            recipients: vec![Recipient::default(); recipients],
            length,
            placement: None,
            shard,
            patient: random.u32(..16) < self.plan.patient,
        };
        self.truth.borrow_mut().mails.insert(id.0, mail.clone());
        (id, mail)
    }

    fn answered(&self, id: QueueId, (placement, state): (Option<Placement>, State)) {
        if let Some(mail) = self.truth.borrow_mut().mails.get_mut(&id.0) {
            mail.is_known = state == State::Accepted;
            (mail.state, mail.placement) = (state, placement);
        }
    }

    fn each(&self, id: u64, recipients: &[u32], mut change: impl FnMut(&mut Recipient)) {
        let truth = &mut *self.truth.borrow_mut();
        let Some(mail) = truth.mails.get_mut(&id) else { return };
        for &recipient in recipients {
            if let Some(one) = mail.recipients.get_mut(recipient as usize) {
                change(one);
            }
        }
    }

    /// Some recipients of one message for which no delivery is under way.
    fn take_job(&self, shard: u16) -> Option<(u64, Vec<u32>)> {
        let (truth, random) = (&mut *self.truth.borrow_mut(), &mut *self.random.borrow_mut());
        let id = random.choice(truth.waiting_at(shard))?;
        let mail = truth.mails.get_mut(&id)?;
        let now = self.now();
        let mut taken = Vec::new();
        for (index, recipient) in (0..).zip(&mut mail.recipients) {
            if !recipient.ended() && !recipient.is_taken && random.u32(..3) > 0 {
                recipient.is_taken = true;
                recipient.begin(now);
                taken.push(index);
            }
        }
        (!taken.is_empty()).then_some((id, taken))
    }
}

/// Reads mail back, and keeps what it reads for a while.
async fn look(world: Rc<World>, spool: Spool, shard: u16) {
    while !world.stopping.get() {
        world.pause(world.plan.pause_ms * 2).await;
        let (id, at, length) = {
            let truth = world.truth.borrow();
            let waiting = truth.waiting_at(shard);
            let Some(id) = world.random.borrow_mut().choice(waiting) else { continue };
            let mail = &truth.mails[&id];
            let Some(at) = mail.placement else { continue };
            (id, at, mail.length)
        };
        let loaded = spool.load(QueueId(id), at).await;
        let over = world.truth.borrow().mails[&id].over();
        let message = match loaded {
            Ok(message) => message,
            Err(error) => {
                assert!(over || world.may_not_read(), "{}: {error}", QueueId(id));
                continue;
            }
        };
        if world.chance(30) {
            world.pause(500).await;
        }
        match content(&message).await {
            Ok(content) => assert!(content == content_of(id, length), "{}", QueueId(id)),
            Err(error) => assert!(world.may_not_read(), "{}: {error}", QueueId(id)),
        }
    }
}

/// Asks for what was noted to be made durable, now and then.
async fn sync(world: Rc<World>, spool: Spool, shard: u16) {
    while !world.stopping.get() {
        world.pause(200).await;
        let mut noted = Vec::new();
        for (&id, mail) in world.truth.borrow().mails.iter().filter(|(_, m)| m.shard == shard) {
            noted.extend((0..).zip(&mail.recipients).map(|(at, one)| (id, at, one.statuses.len())));
        }
        if spool.sync().await.is_err() || world.is_dead() {
            continue;
        }
        let truth = &mut *world.truth.borrow_mut();
        for (id, at, count) in noted {
            let mail = truth.mails.get_mut(&id);
            if let Some(one) = mail.and_then(|mail| mail.recipients.get_mut::<usize>(at)) {
                one.durable = one.durable.max(count);
            }
        }
    }
}

/// The queue of one shard, as the compactor knows it.
struct Queue {
    world: Rc<World>,
    shard: u16,
}

impl QueueIndex for Queue {
    fn placement(&self, id: QueueId) -> Option<Placement> {
        let truth = self.world.truth.borrow();
        let here = |mail: &&Mail| {
            mail.shard == self.shard && mail.state == State::Accepted && !mail.over()
        };
        truth.mails.get(&id.0).filter(here)?.placement
    }

    fn in_segment(&self, segment: u32, _: u32) -> (Vec<QueueId>, Option<u32>) {
        let here = self.world.truth.borrow().waiting_at(self.shard);
        let all = here.into_iter().map(QueueId);
        (
            all.filter(|&id| self.placement(id).is_some_and(|at| at.segment == segment)).collect(),
            None,
        )
    }

    fn message_state(&self, id: QueueId) -> Option<MessageState> {
        self.placement(id)?;
        let truth = self.world.truth.borrow();
        let all = &truth.mails.get(&id.0)?.recipients;
        // As the relay does: see `store_report`.
        if all.iter().any(|one| !one.ended() && !one.reports.is_empty()) {
            return None;
        }
        let open = (0..).zip(all);
        let open = open.filter(|(_, one)| !one.ended()).map(|(index, one)| Open {
            index,
            status: one.statuses.last().map(|(status, _)| status.status()),
            in_flight: one.begun_at.is_some(),
        });
        Some(MessageState { open: open.collect() })
    }

    fn moved(&self, id: QueueId, to: Placement) {
        if self.world.is_dead() {
            return;
        }
        count(&self.world.seen.moved);
        if let Some(mail) = self.world.truth.borrow_mut().mails.get_mut(&id.0) {
            mail.placement = Some(to);
        }
    }

    fn is_in_memory(&self, _: QueueId) -> bool {
        false
    }

    fn lost(&self, id: QueueId, remains: &Remains) {
        panic!("no file is cut in a simulation, and {id} is lost: {remains}");
    }
}
