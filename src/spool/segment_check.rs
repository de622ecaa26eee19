//! Looks whether segments that hold mail were removed or cut while the relay runs, a few at a time,
//! so that mail that is gone is named in the log and by an event, and not only missed at the next
//! start. The segment that is written is looked at by every commit.
//!
//! | found | done |
//! | --- | --- |
//! | as it was | nothing |
//! | shorter, or gone | an error in the log; each message whose record is behind the end is set aside, unless it is in memory: then a warning, and it is delivered from there |
//! | gone, and the whole folder with it | nothing here: the next commit ends the intake |
//! | the file system does not say | nothing: it is asked again |

use super::commit::Core;
use super::{Handle, QueueIndex, Spool, segment};
use crate::message::QueueId;
use crate::ring::{self, disk};
use std::collections::HashMap;
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Segments looked at each time: some 2 microseconds each.
const SEGMENTS_PER_LOOK: usize = 64;

/// Looks until the spool is closed or has failed.
pub(super) async fn run(spool: Weak<Handle>, register: Weak<dyn QueueIndex>) {
    let Some(check) = spool.upgrade().map(|handle| handle.core.check.clone()) else { return };
    let mut sizes: HashMap<u32, u64> = HashMap::new();
    let mut last = 0;
    // Segments of earlier starts may be of another size than today's: what they have now counts.
    // Recovery has looked at them.
    let mut first_round = true;
    loop {
        let Some(handle) = spool.upgrade() else { return };
        if handle.core.state.borrow().is_over() || register.strong_count() == 0 {
            return;
        }
        let segments = handle.core.state.borrow().log.alive_after(last, SEGMENTS_PER_LOOK);
        for &segment in &segments {
            let Some(size) = handle.core.size_of(segment) else { continue };
            let expected = sizes.insert(segment, size).unwrap_or(handle.core.segment_bytes);
            if size < expected && !first_round {
                let spool = Spool { handle: Rc::clone(&handle) };
                spool.report_cut(segment, size, &register).await;
            }
        }
        let round_is_over = segments.len() < SEGMENTS_PER_LOOK;
        last = segments.last().copied().filter(|_| !round_is_over).unwrap_or_default();
        if round_is_over {
            let log = &handle.core.state.borrow().log;
            sizes.retain(|&segment, _| log.alive_in(segment).records > 0);
        }
        drop(handle);
        if std::mem::take(&mut first_round) && !round_is_over {
            first_round = true;
            ring::yield_now().await;
        } else {
            check.wait_for(INTERVAL).await;
        }
    }
}

impl Core {
    /// The size of a segment: 0 when it is gone; `None` when that cannot be said.
    fn size_of(&self, segment: u32) -> Option<u64> {
        match disk::size(&segment::path(&self.folder, segment)) {
            Ok(size) => Some(size),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_present() => Some(0),
            Err(_) => None,
        }
    }
}

impl Spool {
    /// Everything in `segment` from `end` on is gone.
    async fn report_cut(&self, segment: u32, end: u64, register: &Weak<dyn QueueIndex>) {
        let core = &self.handle.core;
        let path = segment::path(&core.folder, segment);
        tracing::error!(
            path = %path.display(),
            bytes_left = end,
            "a segment was removed or cut while the relay runs: mail in it is lost"
        );
        let mut cursor = Some(0);
        while let Some(from) = cursor {
            let Some(index) = register.upgrade() else { return };
            let (found, next) = index.in_segment(segment, from);
            cursor = next;
            for id in found {
                self.report_lost(id, segment, end, &index).await;
            }
            drop(index);
            ring::yield_now().await;
        }
    }

    async fn report_lost(&self, id: QueueId, segment: u32, end: u64, index: &Rc<dyn QueueIndex>) {
        let behind = index.placement(id).filter(|at| {
            at.segment == segment && u64::from(at.offset) + u64::from(at.length) > end
        });
        let Some(at) = behind else { return };
        if index.is_in_memory(id) {
            tracing::warn!(%id, "the message is gone from the disk; it is still in memory");
            return;
        }
        match self.set_aside(id, at).await {
            Ok(Some(remains)) if index.placement(id) == Some(at) => index.lost(id, &remains),
            Ok(_) => {}
            Err(error) => tracing::error!(%id, %error, "what is left cannot be looked at"),
        }
    }
}
