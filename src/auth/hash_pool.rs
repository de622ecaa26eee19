//! A few threads beside the shards for work that would block a shard: hashing, waiting for an HTTP
//! answer. The queue of waiting work is bounded; when it is full, the caller has to try later.

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
    /// Starts `threads` threads (at least 1) with a queue of `waiting_max` pieces of work. The
    /// threads end when the pool is dropped.
    ///
    /// # Errors
    /// No thread could be started.
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

    /// Runs `work` and returns its result; `None` when the queue is full or `work` panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, mut found) = ring::mailbox(1);
        let work: Work = Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            // The caller may be gone.
            let _ = answer.try_send(result.ok());
        });
        self.waiting.try_send(work).ok()?;
        found.recv().await
    }
}
