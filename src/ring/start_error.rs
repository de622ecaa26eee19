//! Why shards cannot start, with advice for the operator.

use std::io;

/// Why no shard could be started. Each text says what an operator can do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// io_uring is missing or forbidden.
    #[error("{0}")]
    Unavailable(String),
    /// The rings need more locked memory than the process may have.
    #[error(
        "the limit of locked memory (RLIMIT_MEMLOCK) is {}, for all processes of the user; \
         {shards} shards with rings of depth {depth} need about {}: set LimitMEMLOCK=infinity for \
         the service (ulimit -l), give it CAP_IPC_LOCK, or configure fewer shards or a lower depth",
        readable(*limit), readable(*needed)
    )]
    MemoryLock {
        /// The limit that holds, in bytes.
        limit: u64,
        /// What the shards need, in bytes, estimated.
        needed: u64,
        /// The number of shards to start.
        shards: usize,
        /// Entries of each ring.
        depth: usize,
    },
    /// A shard cannot be pinned to its CPU.
    #[error(
        "shard {shard} cannot run on CPU {cpu}: the process may use CPUs {allowed} (see the \
         configured cores, and the CPU set of the service or container)"
    )]
    Cpu {
        /// The shard's index.
        shard: usize,
        /// The requested CPU.
        cpu: usize,
        /// The CPUs that this process may use: `0-3,8`.
        allowed: String,
    },
    /// The settings are not valid.
    #[error("{0}")]
    Settings(String),
    /// The operating system could not create a thread.
    #[error("cannot create a thread for shard {shard}: {error} (see the task limit, TasksMax)")]
    Thread {
        /// The shard's index.
        shard: usize,
        /// The error of the system.
        error: io::Error,
    },
    /// A shard panicked while it started.
    #[error("shard {shard} panicked while it started: {message}")]
    Panicked {
        /// The shard's index.
        shard: usize,
        /// The text of the panic.
        message: String,
    },
}

/// `8 MiB`, rounded down; `none` for no limit.
fn readable(bytes: u64) -> String {
    match bytes {
        libc::RLIM_INFINITY => "none".to_owned(),
        0..0x10_0000 => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", bytes / (1024 * 1024)),
    }
}
