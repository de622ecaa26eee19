//! Group commit: the committer writes one batch and syncs it while the next one fills; the segment
//! allocator looks after segment files beside it (`segment_allocator`). Both only do what `log`
//! says.

use super::batch::{Batch, Purpose};
use super::commit_waiter::{Appended, CommitWaiter, Failure, Waiters};
use super::live::LiveRef;
use super::log::{Log, MaintenanceTask, Step, Write};
use super::readers::{Reader, Readers};
use super::record::PriorStatus;
use super::segment;
use super::{Placement, QueueIndex, SpoolError};
use crate::message::{Message, QueueId, QueueIdSource, RecipientStatus, Timestamp};
use crate::ring;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// A disk is called full when it has no space for a message of this size.
const USUAL_MAIL_BYTES: u64 = 64 * 1024;

/// Between two attempts to get space on a full disk.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// What a spool's handles and its two tasks share.
pub(super) struct Core {
    pub(super) folder: PathBuf,
    pub(super) segment_bytes: u64,
    content_bytes_max: usize,
    outcome_interval: Duration,
    pub(super) state: RefCell<State>,
    pub(super) readers: Rc<Readers>,
    /// Who knows where a message has moved to.
    pub(super) register: RefCell<Option<Weak<dyn QueueIndex>>>,
    room: Waiters,
    /// More outcomes are durable.
    settled: Waiters,
    pub(super) work: ring::Signal,
    pub(super) maintenance: ring::Signal,
    /// A segment that is being filled is needed.
    pub(super) hurry: ring::Signal,
    pub(super) cleaning: ring::Signal,
    /// The check of the segments is to end.
    pub(super) check: ring::Signal,
    ended: Waiters,
    /// The segment allocator has done something.
    pub(super) prepared: Waiters,
}

pub(super) struct State {
    pub(super) log: Log,
    pub(super) batch: Batch,
    /// Memory of all drafts, in bytes.
    pub(super) content_bytes: usize,
    ids: QueueIdSource,
    highest_id: QueueId,
    /// Of the batch that fills.
    pending: Rc<CommitWaiter>,
    /// Of the batch that is written.
    in_flight: Option<Rc<CommitWaiter>>,
    pub(super) failure: Option<String>,
    pub(super) full_cause: String,
    /// Since when an outcome waits.
    outcomes_since: Option<Instant>,
    /// A caller waits for outcomes to be durable.
    urgent: bool,
    /// Outcomes noted, those of them in sealed batches, and the durable ones of these.
    noted: u64,
    sealed: u64,
    durable: u64,
    pub(super) files: HashMap<u32, Rc<ring::File>>,
    /// Paths of segments that were handed out with pieces of streamed content, perhaps to other
    /// shards. A holder of a clone may read there.
    pub(super) paths: HashMap<u32, Arc<Path>>,
    /// What streamed messages need beside their record.
    pub(super) pieces: HashMap<QueueId, Vec<LiveRef>>,
    /// Messages whose new record is not durable yet.
    pub(super) moving: HashMap<QueueId, Moving>,
    /// Messages born in another spool that came here; only until the start is over.
    pub(super) foreign: HashSet<QueueId>,
    pub(super) closing: bool,
    /// The committer has ended, and after it the segment allocator.
    pub(super) committed: bool,
    ended: bool,
}

/// A message whose new record is not durable yet.
pub(super) struct Moving {
    pub(super) appended: Appended,
    pub(super) from: Placement,
    /// The segment that is cleaned.
    pub(super) segment: u32,
    /// Its pieces that lay there, where they are now.
    pub(super) pieces: Vec<LiveRef>,
}

enum Next {
    Rest(Option<Duration>),
    Write(Write, Rc<ring::File>),
    End,
}

impl Core {
    pub(super) fn new(
        settings: &super::Settings,
        log: Log,
        highest_id: Option<QueueId>,
    ) -> Rc<Core> {
        let state = State {
            log,
            batch: Batch::default(),
            content_bytes: 0,
            ids: QueueIdSource::new(settings.number, highest_id),
            highest_id: highest_id.unwrap_or(QueueId(u64::from(settings.number) << 54)),
            pending: Rc::default(),
            in_flight: None,
            failure: None,
            full_cause: String::new(),
            outcomes_since: None,
            urgent: false,
            noted: 0,
            sealed: 0,
            durable: 0,
            files: HashMap::new(),
            paths: HashMap::new(),
            pieces: HashMap::new(),
            moving: HashMap::new(),
            foreign: HashSet::new(),
            closing: false,
            committed: false,
            ended: false,
        };
        Rc::new(Core {
            folder: settings.directory.clone(),
            segment_bytes: settings.segment_bytes,
            content_bytes_max: settings.content_bytes_max,
            outcome_interval: settings.outcome_interval,
            state: RefCell::new(state),
            readers: Rc::default(),
            register: RefCell::new(None),
            room: Waiters::default(),
            settled: Waiters::default(),
            work: ring::Signal::new(),
            maintenance: ring::Signal::new(),
            hurry: ring::Signal::new(),
            cleaning: ring::Signal::new(),
            check: ring::Signal::new(),
            ended: Waiters::default(),
            prepared: Waiters::default(),
        })
    }

    /// No handle is left: what was noted is still committed.
    pub(super) fn close(&self) {
        self.state.borrow_mut().closing = true;
        self.work.set();
        self.maintenance.set();
        self.hurry.set();
        self.cleaning.set();
        self.check.set();
    }

    /// Waits until all that was noted is committed, and nothing changes on the disk any more.
    pub(super) async fn closed(&self) {
        self.close();
        let mut key = None;
        poll_fn(|context| match self.state.borrow().ended {
            true => Poll::Ready(()),
            false => self.ended.register(&mut key, context),
        })
        .await;
    }

    /// Waits until the first segments are made, or cannot be.
    pub(super) async fn prepared(&self) {
        let mut key = None;
        poll_fn(|context| {
            let state = self.state.borrow();
            match state.log.is_prepared() || state.is_over() {
                true => Poll::Ready(()),
                false => self.prepared.register(&mut key, context),
            }
        })
        .await;
    }

    pub(super) fn next_id(&self, now: Timestamp) -> QueueId {
        let mut state = self.state.borrow_mut();
        let id = state.ids.next(now);
        state.highest_id = id;
        id
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.state.borrow().failure.clone()
    }

    pub(super) fn is_full(&self) -> Option<String> {
        let state = self.state.borrow();
        (!state.log.takes(Purpose::Mail, USUAL_MAIL_BYTES)).then(|| state.full_cause.clone())
    }

    /// Whether drafts may keep `bytes` more in memory.
    pub(super) fn has_content_room(&self, bytes: usize) -> bool {
        self.state.borrow().content_bytes.saturating_add(bytes) <= self.content_bytes_max
    }

    /// A draft that kept `before` bytes of memory keeps `now`.
    pub(super) fn charge_content(&self, before: usize, now: usize) {
        let state = &mut *self.state.borrow_mut();
        state.content_bytes = state.content_bytes.saturating_sub(before).saturating_add(now);
    }

    /// Waits until the batch that fills takes more mail. `Full` when the disk has no space for
    /// `bytes` more of it.
    pub(super) async fn wait_for_room(
        &self,
        purpose: Purpose,
        bytes: usize,
    ) -> Result<(), Failure> {
        let mut key = None;
        poll_fn(|context| {
            let state = self.state.borrow();
            if let Some(cause) = &state.failure {
                return Poll::Ready(Err(Failure::Failed(cause.clone())));
            }
            let waiting = state.batch.mail_bytes();
            if waiting >= state.log.mail_bytes_max() {
                return self.room.register(&mut key, context);
            }
            match state.log.takes(purpose, waiting as u64 + bytes as u64) {
                true => Poll::Ready(Ok(())),
                false => Poll::Ready(Err(Failure::Full(state.full_cause.clone()))),
            }
        })
        .await
    }

    /// Appends a piece of streamed content. Wait for room before.
    pub(super) fn chunk(
        &self,
        purpose: Purpose,
        draft: QueueId,
        index: u32,
        content: &[u8],
    ) -> Appended {
        let mut state = self.state.borrow_mut();
        state.batch.set_purpose(purpose);
        let slot = state.batch.chunk(draft, index, content);
        self.work.set();
        Appended { waiter: Rc::clone(&state.pending), slot }
    }

    /// Appends a message, which needs `pieces` from now on. `None` when it is longer than any
    /// segment could hold: then the pieces are not needed. Wait for room before.
    pub(super) fn message(
        &self,
        purpose: Purpose,
        message: &Message,
        so_far: &PriorStatus,
        pieces: Vec<LiveRef>,
    ) -> Option<Appended> {
        let state = &mut *self.state.borrow_mut();
        state.batch.set_purpose(purpose);
        let slot = state.batch.message(message, so_far);
        if slot.length as usize > state.log.record_bytes_max() {
            state.batch.undo(slot);
            state.release(pieces);
            return None;
        }
        if !pieces.is_empty() {
            state.pieces.insert(message.id, pieces);
        }
        self.work.set();
        Some(Appended { waiter: Rc::clone(&state.pending), slot })
    }

    pub(super) fn begin(&self, id: QueueId, recipients: &[u32]) {
        self.note(|state| state.batch.begin(id, recipients));
    }

    pub(super) fn settle(&self, id: QueueId, recipient: u32, status: &RecipientStatus) -> u64 {
        self.note(|state| {
            state.batch.settle(id, recipient, status);
        });
        let state = self.state.borrow();
        // What a failed spool does not record is never durable.
        if state.failure.is_some() { u64::MAX } else { state.noted }
    }

    /// Waits until more than `known` outcomes are durable; how many are. Never, once the spool has
    /// failed.
    pub(super) async fn durable_beyond(&self, known: u64) -> u64 {
        let mut key = None;
        poll_fn(|context| match self.state.borrow().durable {
            durable if durable > known => Poll::Ready(durable),
            _ => self.settled.register(&mut key, context),
        })
        .await
    }

    /// Everything of `id` is dead: its record at `at`, its pieces, and copies not durable yet.
    pub(super) fn dead(&self, id: QueueId, at: Placement) {
        let state = &mut *self.state.borrow_mut();
        let mut empty = state.log.release(LiveRef::in_record(at));
        if let Some(pieces) = state.pieces.remove(&id) {
            empty |= state.release(pieces);
        }
        if let Some(moving) = state.moving.remove(&id) {
            empty |= state.give_up_move(moving);
        }
        if empty {
            self.maintenance.set();
        }
    }

    /// A message that was appended, and everything of it, is not needed.
    pub(super) fn give_up_message(&self, id: QueueId, appended: Appended) {
        let state = &mut *self.state.borrow_mut();
        let mut empty = state.give_up(appended);
        if let Some(pieces) = state.pieces.remove(&id) {
            empty |= state.release(pieces);
        }
        if empty {
            self.maintenance.set();
        }
    }

    /// Pieces that were appended are not needed.
    pub(super) fn give_up(&self, all: impl Iterator<Item = Appended>) {
        let state = &mut *self.state.borrow_mut();
        let mut empty = false;
        for appended in all {
            empty |= state.give_up(appended);
        }
        if empty {
            self.maintenance.set();
        }
    }

    /// Waits until all that was noted is durable.
    pub(super) async fn sync(&self) -> Result<(), Failure> {
        let noted = self.state.borrow().noted;
        loop {
            let waiter = {
                let state = &mut *self.state.borrow_mut();
                if let Some(cause) = &state.failure {
                    return Err(Failure::Failed(cause.clone()));
                }
                let waiting = state.batch.has_mail() || state.batch.has_outcomes();
                if state.durable >= noted || (!waiting && state.in_flight.is_none()) {
                    return Ok(());
                }
                state.urgent = waiting;
                match &state.in_flight {
                    Some(waiter) if state.sealed >= noted => Rc::clone(waiter),
                    _ => Rc::clone(&state.pending),
                }
            };
            self.work.set();
            waiter.wait().await?;
        }
    }

    /// The error for a record of `id` that is not at `at`, intact.
    pub(super) fn damaged(&self, id: QueueId, at: Placement) -> SpoolError {
        let path = segment::path(&self.folder, at.segment);
        SpoolError::Damaged { path, offset: at.offset, id }
    }

    /// The file of `segment`, for reading.
    pub(super) async fn reader(&self, number: u32) -> io::Result<Reader> {
        self.readers.open(&self.folder, number).await
    }

    /// The path of `segment`, which is not used again while there is a clone of this.
    pub(super) fn path(&self, segment: u32) -> Arc<Path> {
        let paths = &mut self.state.borrow_mut().paths;
        let path = paths.entry(segment).or_insert_with(|| {
            let path: Arc<Path> = segment::path(&self.folder, segment).into();
            path
        });
        Arc::clone(path)
    }

    /// Where the queue has the record of `id`.
    pub(super) fn placement(&self, id: QueueId) -> Option<Placement> {
        let register = self.register.borrow().as_ref()?.upgrade()?;
        register.placement(id)
    }

    pub(super) fn wake_committer(&self) {
        self.work.set();
    }

    pub(super) fn wake_allocator(&self) {
        self.maintenance.set();
    }

    /// Notes an outcome: it rides in the next commit, which comes after the interval at the latest.
    fn note(&self, what: impl FnOnce(&mut State)) {
        let state = &mut *self.state.borrow_mut();
        if state.failure.is_some() {
            return;
        }
        what(state);
        state.noted += 1;
        if !state.batch.has_outcomes() {
            return;
        }
        let first = state.outcomes_since.is_none();
        state.outcomes_since.get_or_insert_with(ring::now);
        if first || state.batch.outcome_bytes() >= state.log.mail_bytes_max() {
            self.work.set();
        }
    }

    fn next(&self) -> Next {
        let state = &mut *self.state.borrow_mut();
        loop {
            if state.failure.is_some() {
                return if state.closing { Next::End } else { Next::Rest(None) };
            }
            if let Some(rest) = state.not_yet(self.outcome_interval) {
                return rest;
            }
            match state.log.step(&mut state.batch, ring::wall_clock(), state.highest_id) {
                Step::Idle => {
                    state.urgent = false;
                    state.outcomes_since = None;
                    if !state.closing {
                        return Next::Rest(None);
                    }
                    // The next start need not read what was written last.
                    let Some(index) = state.log.seal() else { return Next::End };
                    return self.write(state, index);
                }
                Step::Write(write) => return self.write(state, write),
                Step::Wait => {
                    self.maintenance.set();
                    self.hurry.set();
                    return Next::Rest(None);
                }
                Step::Full => {
                    state.batch.drop_mail();
                    state.refuse();
                    self.room.wake();
                }
                Step::Stuck => {
                    state.refuse();
                    return if state.closing { Next::End } else { Next::Rest(Some(RETRY)) };
                }
            }
        }
    }

    fn write(&self, state: &mut State, write: Write) -> Next {
        if write.is_index {
            // No caller waits for it.
        } else if write.is_batch {
            let waiter = std::mem::take(&mut state.pending);
            waiter.sealed(write.segment, write.offset);
            state.in_flight = Some(waiter);
            if state.batch.has_outcomes() {
                // More than fits a batch: the next one goes at once.
                state.urgent = true;
            } else {
                state.sealed = state.noted;
                state.outcomes_since = None;
                state.urgent = false;
            }
            self.room.wake();
        } else {
            state.files.retain(|&number, _| number >= write.segment);
        }
        match state.files.get(&write.segment) {
            Some(file) => Next::Write(write, Rc::clone(file)),
            None => {
                // A segment that the segment allocator did not make cannot be the head.
                self.fail(state, format!("segment {} is not open", write.segment));
                Next::Rest(None)
            }
        }
    }

    fn written(&self, is_batch: bool, result: io::Result<Vec<u8>>) {
        let state = &mut *self.state.borrow_mut();
        match result {
            Ok(buffer) => {
                state.log.written();
                if is_batch {
                    state.batch.give_back(buffer);
                    state.durable = state.sealed;
                    self.settled.wake();
                    if let Some(waiter) = state.in_flight.take() {
                        waiter.done(Ok(()));
                    }
                } else {
                    // A new head: more disk is used than before.
                    self.cleaning.set();
                }
                self.maintenance.set();
            }
            // What is on disk is unknown, and a second sync may say yes without having written: the
            // spool takes nothing more (see "fsyncgate"). Recovery tells what is there.
            Err(error) => self.fail(state, error.to_string()),
        }
    }

    /// Writes the index of a segment that takes no more batches. Not being able to is no failure of
    /// the spool: all that the segment holds was synced before.
    async fn write_index(&self, index: Write, file: &ring::File) {
        let written = file.commit(index.bytes, u64::from(index.offset)).await;
        if let Err(error) = written {
            let segment = index.segment;
            tracing::warn!(segment, %error, "no index: the next start reads the whole segment");
        }
        self.state.borrow_mut().log.indexed();
        self.maintenance.set();
    }

    /// The segment allocator ends after the committer: from here on nothing changes on the disk.
    pub(super) fn end(&self) {
        let mut state = self.state.borrow_mut();
        // Without the list the next start compares nothing: no reason to fail a stop.
        if state.failure.is_none()
            && let Err(error) = state.log.closed().write(&self.folder)
        {
            tracing::debug!(folder = %self.folder.display(), %error, "no list of segments");
        }
        state.ended = true;
        self.ended.wake();
    }

    fn fail(&self, state: &mut State, cause: String) {
        tracing::error!(
            folder = %self.folder.display(),
            cause,
            "the spool has failed: until a restart no mail is taken and none is sent"
        );
        let failure = Failure::Failed(cause.clone());
        state.failure = Some(cause);
        state.batch.drop_all();
        if let Some(waiter) = state.in_flight.take() {
            waiter.done(Err(failure.clone()));
        }
        std::mem::take(&mut state.pending).done(Err(failure));
        self.room.wake();
    }
}

impl State {
    /// What to wait for before the next commit; `None`: it is time.
    fn not_yet(&self, interval: Duration) -> Option<Next> {
        let crowded = self.batch.outcome_bytes() >= self.log.mail_bytes_max();
        if self.batch.has_mail() || self.urgent || self.closing || crowded {
            return None;
        }
        let Some(since) = self.outcomes_since else { return Some(Next::Rest(None)) };
        let waited = ring::now().saturating_duration_since(since);
        (waited < interval).then(|| Next::Rest(Some(interval - waited)))
    }

    /// Answers the callers that wait for the batch that fills: no space.
    fn refuse(&mut self) {
        let failure = Failure::Full(self.full_cause.clone());
        std::mem::take(&mut self.pending).done(Err(failure));
    }

    /// This record is not needed; whether it was the last that lived in its segment. Of a batch
    /// that was refused nothing is left to give up.
    fn give_up(&mut self, appended: Appended) -> bool {
        match appended.placement() {
            Some(at) => self.log.release(LiveRef::in_record(at)),
            None if Rc::ptr_eq(&appended.waiter, &self.pending) => {
                self.batch.forget(appended.slot);
                false
            }
            None => false,
        }
    }

    /// These records are not needed; whether a segment is left without any.
    pub(super) fn release(&mut self, live_refs: Vec<LiveRef>) -> bool {
        live_refs.into_iter().fold(false, |empty, live_ref| self.log.release(live_ref) | empty)
    }

    /// The new copies of a message that moves are dead.
    pub(super) fn give_up_move(&mut self, moving: Moving) -> bool {
        let Moving { appended, pieces, .. } = moving;
        self.give_up(appended) | self.release(pieces)
    }

    /// Appends a message that moves, as if it were new. `None` when no batch could hold it.
    pub(super) fn append_moved(
        &mut self,
        message: &Message,
        so_far: &PriorStatus,
    ) -> Option<Appended> {
        self.batch.set_purpose(Purpose::Move);
        let slot = self.batch.message(message, so_far);
        // Its statuses may have made it longer than a new one can be.
        if slot.length as usize > self.log.record_bytes_max() * 2 {
            self.batch.undo(slot);
            return None;
        }
        Some(Appended { waiter: Rc::clone(&self.pending), slot })
    }

    pub(super) fn next_task(&mut self) -> Option<MaintenanceTask> {
        let paths = &self.paths;
        self.log.next_task(|segment| {
            paths.get(&segment).is_some_and(|path| Arc::strong_count(path) > 1)
        })
    }

    /// Closed, or failed.
    pub(super) fn is_over(&self) -> bool {
        self.closing || self.failure.is_some()
    }
}

/// Commits for as long as the spool is open.
pub(super) async fn commit(core: Rc<Core>) {
    loop {
        match core.next() {
            Next::Rest(None) => core.work.wait().await,
            Next::Rest(Some(wait)) => {
                core.work.wait_for(wait).await;
            }
            Next::Write(write, file) if write.is_index => {
                let writer = Rc::clone(&core);
                let writing = async move { writer.write_index(write, &file).await };
                // At the end nothing comes that could be kept waiting.
                if core.state.borrow().closing {
                    writing.await;
                } else {
                    ring::spawn("spool index", writing);
                }
            }
            Next::Write(write, file) => {
                let result = file.commit(write.bytes, u64::from(write.offset)).await;
                core.written(write.is_batch, result);
            }
            Next::End => {
                core.state.borrow_mut().committed = true;
                core.maintenance.set();
                return;
            }
        }
    }
}
