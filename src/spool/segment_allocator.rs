//! The segment allocator: makes segments before they are needed, writes zeros to them, uses dead
//! ones again and removes those that are too many, beside the committer. It only does what `log`
//! says.

use super::commit::{Core, RETRY};
use super::commit_waiter::Failure;
use super::log::{MaintenanceEnd, MaintenanceTask};
use super::{SpoolError, segment};
use crate::limits::{SPOOL_FILL_BYTES_PER_SECOND, SPOOL_FILL_STEP_BYTES};
use crate::ring::{self, disk};
use std::io;
use std::rc::Rc;
use std::time::Duration;

impl Core {
    /// The error for a caller whose record did not become durable.
    pub(super) fn error_of(&self, failure: Failure) -> SpoolError {
        failure.into_error(self.state.borrow().log.no_room_kind())
    }

    async fn carry_out(&self, task: MaintenanceTask) -> io::Result<MaintenanceEnd> {
        let path = |number| segment::path(&self.folder, number);
        let made = match task {
            MaintenanceTask::Fill { segment } => return self.fill(segment).await,
            MaintenanceTask::Create { segment } => segment,
            MaintenanceTask::Recycle { from, to } => {
                self.close_files(from);
                disk::rename(path(from), path(to))?;
                to
            }
            MaintenanceTask::Delete { segment } => {
                self.close_files(segment);
                if let Err(error) = disk::remove_file(path(segment))
                    && error.kind() != io::ErrorKind::NotFound
                {
                    return Err(error);
                }
                // Opening the folder's newest file for recycling makes the folder durable as well.
                let newest = self.state.borrow().files.keys().max().copied();
                if let Some(newest) = newest {
                    ring::File::create(&path(newest), self.segment_bytes).await?;
                }
                return Ok(MaintenanceEnd::Done);
            }
        };
        let is_recycled = matches!(task, MaintenanceTask::Recycle { .. });
        let opened = loop {
            match ring::File::create(&path(made), self.segment_bytes).await {
                // There is no descriptor for the moment: on a full disk the segment would be lost.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && is_recycled => {
                    ring::sleep(RETRY).await;
                    if self.state.borrow().is_over() {
                        break Err(error);
                    }
                }
                opened => break opened,
            }
        };
        match opened {
            Ok(file) => {
                self.state.borrow_mut().files.insert(made, Rc::new(file));
                Ok(MaintenanceEnd::Done)
            }
            Err(_) if is_recycled => {
                // The old name is gone; a file that cannot be used again is of no use.
                let _ = disk::remove_file(path(made));
                Ok(MaintenanceEnd::Gone)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes zeros to what was never written of a spare segment, within a share of the disk. A
    /// commit that needs the segment waits for one piece; the rest stays as it is.
    async fn fill(&self, segment: u32) -> io::Result<MaintenanceEnd> {
        let file = self.state.borrow().files.get(&segment).map(Rc::clone);
        let Some(file) = file else { return Ok(MaintenanceEnd::Gone) };
        let mut offset = 0;
        loop {
            match file.fill(offset, SPOOL_FILL_STEP_BYTES).await {
                Ok(Some(end)) => offset = end,
                Ok(None) => return Ok(MaintenanceEnd::Done),
                Err(error) => {
                    self.close_files(segment);
                    let _ = disk::remove_file(segment::path(&self.folder, segment));
                    return Err(error);
                }
            }
            let wait = SPOOL_FILL_STEP_BYTES as f64 / SPOOL_FILL_BYTES_PER_SECOND as f64;
            self.hurry.wait_for(Duration::from_secs_f64(wait)).await;
            let state = self.state.borrow();
            if state.log.is_waited_for() || state.is_over() {
                return Ok(MaintenanceEnd::Done);
            }
        }
    }

    fn close_files(&self, number: u32) {
        let state = &mut *self.state.borrow_mut();
        state.files.remove(&number);
        self.readers.close(number);
        state.paths.remove(&number);
    }
}

/// The longest wait between two attempts to get a segment on a full disk: they cost little, and
/// another program may keep the disk full for weeks.
const RETRY_MAX: Duration = Duration::from_secs(8);

/// Keeps for as long as the spool is open, and its committer may need a segment.
pub(super) async fn keep(core: Rc<Core>) {
    let mut retry_at = ring::now();
    let mut retry = RETRY;
    loop {
        let (task, no_room, over) = {
            let state = &mut *core.state.borrow_mut();
            // After a failed sync the folder stays as it is, for recovery.
            let task = if state.failure.is_some() { None } else { state.next_task() };
            (task, state.log.no_room(), state.closing && state.committed)
        };
        let Some(task) = task else {
            let wait = retry_at.saturating_duration_since(ring::now());
            match (over, no_room) {
                (true, _) => return core.end(),
                (false, true) if wait.is_zero() => core.state.borrow_mut().log.try_again(),
                (false, true) => {
                    core.maintenance.wait_for(wait).await;
                }
                // Kept by a reader, perhaps on another shard, who does not say when it is done.
                (false, false) if core.state.borrow().log.has_dead() => {
                    core.maintenance.wait_for(RETRY).await;
                }
                (false, false) => core.maintenance.wait().await,
            }
            continue;
        };
        match core.carry_out(task).await {
            Ok(end) => {
                retry = RETRY;
                core.state.borrow_mut().log.maintenance_done(end);
            }
            Err(error) => {
                let state = &mut *core.state.borrow_mut();
                state.full_cause = error.to_string();
                state.log.maintenance_done(MaintenanceEnd::Failed(error.kind()));
                retry_at = ring::now() + retry;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
        core.work.set();
        core.prepared.wake();
        if !matches!(task, MaintenanceTask::Create { .. }) && core.state.borrow().log.no_room() {
            ring::sleep(RETRY).await;
        }
    }
}
