//! Whether a shard takes mail, for health checks and for the exit status of the process.

use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

/// One shard's answer to a health check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthEntry {
    /// Which shard.
    pub shard: usize,
    /// It takes mail and sends it.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The shards whose spools had failed when they ended. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct FailedSpools(Arc<Mutex<Vec<String>>>);

impl FailedSpools {
    /// The spool of `shard` has failed by `cause`.
    pub(super) fn add(&self, shard: usize, cause: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(format!("shard {shard}: {cause}"));
    }

    /// All of them, on one line; `None` when no spool has failed.
    pub fn all(&self) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!all.is_empty()).then(|| all.join("; "))
    }
}
