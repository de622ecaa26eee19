//! The driver: **the only room that names glommio**. Executor, listener, stream, UDP, segment file,
//! timer, mailbox. It must not know mail.
#![allow(unused_variables, clippy::todo)]

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// How the rings are set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Entries of each submission ring; a power of two.
    pub depth: usize,
    /// A busy shard looks at its rings at least this often.
    pub preempt: Duration,
}

/// Why no shard could be started. Each says what an operator can do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// io_uring is missing or forbidden.
    #[error("{0}")]
    Unavailable(String),
}

/// The running shards.
pub struct Shards {}

impl Shards {
    /// Waits until every shard's body has ended; `Err` names a shard that panicked.
    pub fn join(self) -> Result<(), Vec<String>> {
        todo!()
    }
}

/// Starts one executor for each entry of `cpus` (pinned when `Some`), runs `body(index)` on each,
/// and returns when all rings stand and every body was polled for the first time.
pub fn start<F, Fut>(
    cpus: &[Option<usize>],
    settings: &Settings,
    body: F,
) -> Result<Shards, StartError>
where
    F: Fn(usize) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = ()> + 'static,
{
    todo!()
}

/// Runs `future` on this shard. A panic in it ends it alone and is logged with `name`.
pub fn spawn(name: &'static str, future: impl Future<Output = ()> + 'static) {
    todo!()
}

/// Sleeps on this shard.
pub async fn sleep(wait: Duration) {
    todo!()
}

/// Lets other tasks run and the rings be looked at.
pub async fn yield_now() {
    todo!()
}

/// A local event: `wait` ends when `set` was called since the last `wait` ended. One waiter.
/// Clones share the event.
#[derive(Clone, Default)]
pub struct Signal {}

impl Signal {
    /// Not set.
    pub fn new() -> Signal {
        todo!()
    }
    /// Wakes the waiter, or lets the next `wait` through at once.
    pub fn set(&self) {
        todo!()
    }
    /// Waits for `set`, then clears it.
    pub async fn wait(&self) {
        todo!()
    }
    /// Waits for `set` for at most `wait`; whether it was set.
    pub async fn wait_for(&self, wait: Duration) -> bool {
        todo!()
    }
}

/// A listening socket of this shard (SO_REUSEPORT).
pub struct Listener {}

impl Listener {
    /// Listens on `address`.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        todo!()
    }
    /// The next connection. On an error (EMFILE) it waits a little before it returns.
    pub async fn accept(&self) -> io::Result<Stream> {
        todo!()
    }
}

/// Bytes received and not yet used. Hides who owns the memory.
pub struct RecvBuf {}

impl RecvBuf {
    /// Room for `capacity` bytes at most; the memory is had when first needed.
    pub fn with_capacity(capacity: usize) -> RecvBuf {
        todo!()
    }
    /// What was received and not consumed.
    pub fn filled(&self) -> &[u8] {
        todo!()
    }
    /// The first `count` filled bytes were used.
    pub fn consume(&mut self, count: usize) {
        todo!()
    }
    /// Whether nothing more fits before something is consumed.
    pub fn is_full(&self) -> bool {
        todo!()
    }
    /// Gives the memory back when nothing is filled (an idle connection keeps none).
    pub fn release(&mut self) {
        todo!()
    }
}

/// A TCP connection.
pub struct Stream {}

impl Stream {
    /// Connects; `from` binds the local address first. TimedOut after `timeout`.
    pub async fn connect(
        address: SocketAddr,
        from: Option<std::net::IpAddr>,
        timeout: Duration,
    ) -> io::Result<Stream> {
        todo!()
    }
    /// Receives into the free part of `buffer`: bytes received, 0 at the end of the stream.
    /// `TimedOut` after `timeout` (coarse: up to 100 ms later); `Interrupted` when an
    /// [`Interrupter`] of this stream was used. The stream stays usable after both.
    pub async fn recv(&mut self, buffer: &mut RecvBuf, timeout: Duration) -> io::Result<usize> {
        todo!()
    }
    /// Bytes that are there already, without waiting: `None` when there are none.
    pub fn try_recv(&mut self, buffer: &mut RecvBuf) -> io::Result<Option<usize>> {
        todo!()
    }
    /// Sends all of `bytes`; `TimedOut` when no progress was made for `timeout`.
    pub async fn send_all(&mut self, bytes: &[u8], timeout: Duration) -> io::Result<()> {
        todo!()
    }
    /// The other end.
    pub fn peer_address(&self) -> SocketAddr {
        todo!()
    }
    /// This end.
    pub fn local_address(&self) -> SocketAddr {
        todo!()
    }
    /// A handle that ends a waiting `recv` from elsewhere on the shard.
    pub fn interrupter(&self) -> Interrupter {
        todo!()
    }
    /// Sends what is buffered and the end of the stream.
    pub async fn close(self) {
        todo!()
    }
}

/// Ends a waiting `recv` of one stream, or its next one.
#[derive(Clone)]
pub struct Interrupter {}

impl Interrupter {
    /// The waiting or next `recv` returns `Interrupted`.
    pub fn interrupt(&self) {
        todo!()
    }
}

/// A connected UDP socket on a random local port.
pub struct Udp {}

impl Udp {
    /// A new socket whose peer is `server`.
    pub fn connect(server: SocketAddr) -> io::Result<Udp> {
        todo!()
    }
    /// Sends one datagram.
    pub async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        todo!()
    }
    /// Receives one datagram; `TimedOut` after `timeout`.
    pub async fn recv(&self, into: &mut [u8], timeout: Duration) -> io::Result<usize> {
        todo!()
    }
}

/// A file of fixed size, written in place.
pub struct File {}

impl File {
    /// Creates (or opens, for recycling) `path` for writing, with `size` bytes of disk reserved, its
    /// name durable in its folder. `StorageFull` when the disk has no room.
    pub async fn create(path: &Path, size: u64) -> io::Result<File> {
        todo!()
    }
    /// Opens for reading.
    pub async fn open(path: &Path) -> io::Result<File> {
        todo!()
    }
    /// Writes `bytes` at `offset` **and makes them durable**, as one call; gives the buffer back.
    /// After an error the file must not be written again: what is on disk is unknown.
    pub async fn commit(&self, bytes: Vec<u8>, offset: u64) -> io::Result<Vec<u8>> {
        todo!()
    }
    /// Exactly `length` bytes from `offset`; `UnexpectedEof` when the file is shorter.
    pub async fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        todo!()
    }
}

/// A bounded channel into a shard; any thread may hold a [`Sender`].
pub fn mailbox<T: Send>(capacity: usize) -> (Sender<T>, Mailbox<T>) {
    todo!()
}

/// The sending end: `Send`, `Clone`.
pub struct Sender<T> {
    _of: std::marker::PhantomData<T>,
}

impl<T: Send> Sender<T> {
    /// Puts `item` in and wakes the shard; gives it back when the mailbox is full or gone.
    pub fn try_send(&self, item: T) -> Result<(), T> {
        todo!()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        todo!()
    }
}

/// The receiving end; moves to its shard once and stays. `Send`.
pub struct Mailbox<T> {
    _of: std::marker::PhantomData<T>,
}

impl<T: Send> Mailbox<T> {
    /// The next item, waiting for it.
    pub async fn recv(&mut self) -> T {
        todo!()
    }
    /// The next item, if there is one.
    pub fn try_recv(&mut self) -> Option<T> {
        todo!()
    }
}
