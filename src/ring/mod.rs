//! The driver: **the only module that names glommio**. Executor, listener, stream, UDP, segment
//! file, timer, mailbox, semaphore, clocks, random numbers. It must not know mail.
//!
//! What passes through it: bytes, connections, files and wake-ups of one shard, and items sent to
//! a shard from other threads. [`start()`], [`reserve`], [`raise_open_files`], the clocks, random
//! numbers, [`LogThrottle`], [`Sender`], and a [`Mailbox`] before it reaches its shard may be used
//! on any thread. Everything else belongs to the shard that created it, and may only be used there.
//!
//! It is the only module with `unsafe`, and the only one that works around faults of the driver
//! below it. Pitfalls of glommio 0.9.0, and where each is handled:
//!
//! | pitfall | handled in |
//! | --- | --- |
//! | a panic in one task kills the shard; one in a destructor aborts the process | `task`: panics in poll and drop of every task are caught; `spawn_vital` ends the shard in order |
//! | `spawn_local` polls the new task on the stack of the caller | `task::spawn` schedules only |
//! | tasks that outlive the executor are never freed, nor their sockets | `task::end_all`, before the executor is dropped |
//! | an executor that is dropped while an operation is in flight frees memory that the kernel still uses | `task::to_the_end`: such operations are waited for; else the executor is kept |
//! | file, accept and blocking operations keep one more waker (of at most 32,767) for each poll | `task::to_the_end`: only their own wake-ups poll them |
//! | `spawn` succeeds before the ring exists; a forbidden ring panics with "kernel too old", a missing operation ends the process | `probe` asks the kernel first; `start` waits for each shard's report |
//! | locked memory is short with several shards | `probe`: a warning before, an error with figures after |
//! | pinning reads the CPU topology and fails without a message | `start` pins its own threads; `probe` checks the mask |
//! | a busy shard polls its rings every 100 ms | `start`: `Settings::preempt` |
//! | a preempt timer that fires before the first task is run puts the shard to sleep with a full queue | `deadline`: a heartbeat; `watchdog` when that is not enough, by a signal at the start |
//! | runnable tasks run in the order in which they were woken: a new client waits for all of them | `task::spawn_ahead`: a second queue |
//! | `yield_now` polls no ring; a stream that is always ready never yields | `timer::yield_now`; `timer::give_way` in each receive and send |
//! | a timer for each receive costs 10 % | `deadline`: one table and one ticker for each shard |
//! | `accept` fails at once, in a loop, without descriptors | `listener`: a growing pause before the error |
//! | an accept that is dropped, or a copied `AcceptedTcpStream`, leaks or closes twice | `listener`: one task accepts and hands over |
//! | `connect` with a name blocks; `bind` panics on a bad one | addresses only, sockets made by socket2 |
//! | `send_to` damages datagrams | `udp`: connected sockets, plain `send` |
//! | a UDP receive that is dropped may lose the next datagram | `udp`: readiness, no receive in flight |
//! | `Directory::sync` is an fdatasync, which need not make a new name durable | `file`: a true fsync |
//! | `write_at` keeps the buffer, and may write less | `file`: writes copies of pieces, continues after a short one |
//! | opening a path with a NUL panics; a large read may panic if memory is short | `file`: opened by std; read in pieces |
//! | a panic in `spawn_blocking` hangs its caller; its result leaks if no caller waits | `file::blocking` |
//! | the driver may sleep although blocking work is done | `file::blocking`: a timer beside it |
//! | the thread for blocking work is pinned with the shard | `start` gives it the process's mask |
//! | `shared_channel` spins until both ends are connected | `mailbox`: crossbeam and one waker |
//! | a waker is cloned at most 32,767 times | `mailbox`: one waker for each mailbox, not for each item |

mod clock;
mod deadline;
pub mod disk;
mod file;
mod listener;
mod log_throttle;
mod mailbox;
mod probe;
mod recv_buf;
mod reservation;
mod semaphore;
mod signal;
#[cfg(test)]
pub(crate) mod simulation;
mod start;
mod start_error;
mod stream;
mod task;
#[cfg(test)]
mod tests;
mod timer;
mod udp;
mod watchdog;

/// The driver's name, under which it logs.
pub const DRIVER: &str = "glommio";

pub use clock::{now, random_bytes, rng, wall_clock};
pub use file::File;
#[cfg(test)]
pub use file::break_disk;
pub use listener::Listener;
pub use log_throttle::LogThrottle;
pub use mailbox::{Mailbox, Sender, mailbox};
pub use probe::raise_open_files;
pub use recv_buf::RecvBuf;
pub use reservation::{Reservation, reserve};
pub use semaphore::{Permit, Semaphore};
pub use signal::Signal;
pub use start::{Settings, Shards, start};
pub use start_error::StartError;
pub use stream::{Interrupter, Stream};
pub use task::{spawn, spawn_ahead, spawn_vital, spawn_vital_ahead};
pub use timer::{sleep, yield_now};
pub use udp::Udp;
