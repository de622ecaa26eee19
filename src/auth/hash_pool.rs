//! Work that would hold up a shard (hashing, waiting for somebody else's answer), done on a few
//! threads beside the shards. So much waits and no more: what comes then is told to come again.

use crate::ring;
use crossbeam_channel::{Receiver, Sender};
use futures_lite::future::or;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use tokio::sync::oneshot;

/// A shard that sleeps over the news that work is done looks again after this.
const LOOK: Duration = Duration::from_millis(20);

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
                    // Its caller learns of a panic by getting no answer.
                    let _ = catch_unwind(AssertUnwindSafe(work));
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
        let (tell, mut found) = oneshot::channel();
        let work: Work = Box::new(move || {
            // Nobody waits when the client has gone.
            let _ = tell.send(work());
        });
        self.waiting.try_send(work).ok()?;
        loop {
            let answer = async { Some((&mut found).await.ok()) };
            let look = async {
                ring::sleep(LOOK).await;
                None
            };
            if let Some(answer) = or(answer, look).await {
                return answer;
            }
        }
    }
}
