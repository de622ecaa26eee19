//! Work that would hold up a shard (hashing, waiting for another server's answer), done on a few
//! threads beside the shards. Only so much work may wait; beyond it a caller has to try later.

use crate::ring;
use crossbeam_channel::{Receiver, Sender};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

type Work = Box<dyn FnOnce() + Send>;

/// A few threads, shared by all shards.
pub struct HashPool {
    waiting: Sender<Work>,
}

impl HashPool {
    /// So many threads (1 or more), before which so much work may wait. They end with this value.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start(threads: usize, waiting_max: usize) -> io::Result<HashPool> {
        let (waiting, next) = crossbeam_channel::bounded::<Work>(waiting_max);
        for _ in 0..threads.max(1) {
            let next: Receiver<Work> = next.clone();
            let working = move || {
                while let Ok(work) = next.recv() {
                    work();
                }
            };
            std::thread::Builder::new().name("work".to_owned()).spawn(working)?;
        }
        Ok(HashPool { waiting })
    }

    /// What `work` has found; `None` when too much waits already, or it has panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, mut found) = ring::mailbox(1);
        let work: Work = Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            // The client may have gone meanwhile.
            let _ = answer.try_send(result.ok());
        });
        self.waiting.try_send(work).ok()?;
        found.recv().await
    }
}
