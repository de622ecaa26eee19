//! TCP connections.
//!
//! Reads wait for readiness: the bytes stay in the kernel until a receive takes them, so a receive
//! that ends early (deadline, interrupt, dropped future) loses nothing.

use std::cell::{Cell, OnceCell};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
#[cfg(not(test))]
use std::os::fd::{FromRawFd, IntoRawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::io::{AsyncRead, AsyncWrite};
#[cfg(not(test))]
use glommio::net::TcpStream;
#[cfg(not(test))]
use socket2::Socket;
use socket2::{Domain, Protocol, Type};

use super::deadline::{self, Wait};
use super::recv_buf::RecvBuf;
#[cfg(test)]
use super::simulation::socket::{Socket, TcpStream};
use super::timer::give_way;

/// After the end of our stream, the peer's remaining bytes are read for at most this long: closing
/// with unread bytes would reset the connection, and our last reply would be lost (RFC 1122
/// 4.2.2.13).
const LINGER: Duration = Duration::from_secs(1);
/// At most this many remaining bytes are read.
const LINGER_BYTES_MAX: usize = 256 * 1024;
/// Bytes of them read at once.
const LINGER_BUFFER: usize = 4096;

/// Between two attempts to get a socket when there is no descriptor for it.
const SOCKET_PAUSE: Duration = Duration::from_millis(100);

/// A TCP connection.
pub struct Stream {
    inner: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    interrupt: OnceCell<Rc<Interrupt>>,
}

impl Stream {
    /// Connects; `from` binds the local address first. TimedOut after `timeout`. While the process
    /// or the system has no descriptor or no memory for a socket, it waits: that is no fault of the
    /// host.
    ///
    /// `InvalidInput` when `from` is of the other address family.
    pub async fn connect(
        address: SocketAddr,
        from: Option<IpAddr>,
        timeout: Duration,
    ) -> io::Result<Stream> {
        let began = super::now();
        let socket = new_socket(Domain::for_address(address), timeout).await?;
        let timeout = timeout.saturating_sub(super::now().saturating_duration_since(began));
        socket.set_nonblocking(true)?;
        if let Some(from) = from {
            if from.is_ipv4() != address.is_ipv4() {
                let message = format!("cannot connect to {address} from {from}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            choose_port_late(&socket);
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let mut inner = adopt(socket);
        // Sending nothing is "would block" until the connection is established, then succeeds, or
        // gives the reason of the failure.
        within(timeout, None, |context| Pin::new(&mut inner).poll_write(context, &[])).await?;
        Stream::new(inner)
    }

    /// An established connection.
    pub(super) fn new(inner: TcpStream) -> io::Result<Stream> {
        let peer = inner.peer_addr()?;
        let local = inner.local_addr()?;
        // Replies and commands are written at once: waiting to fill a segment only adds delay.
        inner.set_nodelay(true)?;
        Ok(Stream { inner, peer, local, interrupt: OnceCell::new() })
    }

    /// Receives into the free part of `buffer`. Returns the bytes received, 0 at the end of the
    /// stream.
    /// `TimedOut` after `timeout` (coarse: up to 100 ms later); `Interrupted` when an
    /// [`Interrupter`] of this stream was used. The stream stays usable after both.
    /// `InvalidInput` when the buffer is full.
    pub async fn recv(&mut self, buffer: &mut RecvBuf, timeout: Duration) -> io::Result<usize> {
        give_way().await;
        let interrupt = self.interrupt.get().map(Rc::as_ref);
        let inner = &mut self.inner;
        let free = room(buffer)?;
        let count =
            within(timeout, interrupt, |context| Pin::new(&mut *inner).poll_read(context, free))
                .await?;
        buffer.fill(count);
        Ok(count)
    }

    /// Receives available bytes without waiting: `None` when there are none, `Some(0)` at the end
    /// of the stream. `InvalidInput` when the buffer is full.
    pub fn try_recv(&mut self, buffer: &mut RecvBuf) -> io::Result<Option<usize>> {
        let free = room(buffer)?;
        #[cfg(test)]
        if let Some(received) = self.inner.try_recv_simulated(free) {
            buffer.fill(received.as_ref().ok().copied().flatten().unwrap_or_default());
            return received;
        }
        // SAFETY: `free` is our own memory, of the length given; the descriptor is open as long as
        // `self.inner` is.
        let count = unsafe {
            libc::recv(
                self.inner.as_raw_fd(),
                free.as_mut_ptr().cast(),
                free.len(),
                libc::MSG_DONTWAIT,
            )
        };
        if let Ok(count) = usize::try_from(count) {
            buffer.fill(count);
            return Ok(Some(count));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => Ok(None),
            _ => Err(error),
        }
    }

    /// Sends all of `bytes`; `TimedOut` when no progress was made for `timeout` (coarse: up to
    /// 100 ms later). After an error it is not known how much was sent.
    pub async fn send_all(&mut self, bytes: &[u8], timeout: Duration) -> io::Result<()> {
        give_way().await;
        let mut rest = bytes;
        while !rest.is_empty() {
            let inner = &mut self.inner;
            let sent =
                within(timeout, None, |context| Pin::new(&mut *inner).poll_write(context, rest))
                    .await?;
            rest = rest.get(sent..).unwrap_or_default();
            if !rest.is_empty() {
                give_way().await;
            }
        }
        Ok(())
    }

    /// The address of the other side.
    pub fn peer_address(&self) -> SocketAddr {
        self.peer
    }

    /// The address of this side.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// A handle that ends a waiting `recv` from elsewhere on the shard.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter { interrupt: Rc::clone(self.interrupt.get_or_init(Rc::default)) }
    }

    /// Resets a simulated connection, as a peer may do.
    #[cfg(test)]
    pub(crate) fn reset(self) {
        self.inner.reset_simulated();
    }

    /// Sends what is buffered and the end of the stream, then waits for the peer's end, for at most
    /// one second, so that the peer can read our last reply.
    pub async fn close(mut self) {
        if self.inner.shutdown(Shutdown::Write).await.is_err() {
            return;
        }
        let until = super::now() + LINGER;
        let mut left = LINGER_BYTES_MAX;
        let mut rest = RecvBuf::with_capacity(LINGER_BUFFER);
        while left > 0 {
            let wait = until.saturating_duration_since(super::now());
            match self.recv(&mut rest, wait).await {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    rest.consume(count);
                    left = left.saturating_sub(count);
                }
            }
        }
    }
}

/// Ends a waiting `recv` of one stream, or its next one.
#[derive(Clone)]
pub struct Interrupter {
    interrupt: Rc<Interrupt>,
}

impl Interrupter {
    /// The waiting or next `recv` returns `Interrupted`.
    pub fn interrupt(&self) {
        self.interrupt.pending.set(true);
        if let Some(place) = self.interrupt.waiting.get() {
            deadline::wake(place);
        }
    }
}

/// What a stream shares with its interrupters.
#[derive(Default)]
pub(super) struct Interrupt {
    pending: Cell<bool>,
    /// The stream's index in the table of deadlines, while it waits.
    waiting: Cell<Option<usize>>,
}

/// Polls `operation` until it is ready, `timeout` has passed, or `interrupt` was used. An operation
/// that is ready at once gets no entry in the table of deadlines.
pub(super) async fn within(
    timeout: Duration,
    interrupt: Option<&Interrupt>,
    mut operation: impl FnMut(&mut Context<'_>) -> Poll<io::Result<usize>>,
) -> io::Result<usize> {
    let mut wait = Waiting { wait: None, interrupt };
    poll_fn(|context| {
        if interrupt.is_some_and(|interrupt| interrupt.pending.take()) {
            return Poll::Ready(Err(io::ErrorKind::Interrupted.into()));
        }
        match operation(context) {
            // Interrupted by a signal, not by an interrupter: try again.
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(libc::EINTR) => {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(result) => return Poll::Ready(result),
            Poll::Pending => {}
        }
        if wait.begin(timeout).poll(context.waker()) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    })
    .await
}

/// A wait that begins on demand, and is removed from the interrupter when it ends.
struct Waiting<'a> {
    wait: Option<Wait>,
    interrupt: Option<&'a Interrupt>,
}

impl Waiting<'_> {
    fn begin(&mut self, timeout: Duration) -> &Wait {
        let interrupt = self.interrupt;
        self.wait.get_or_insert_with(|| {
            let wait = Wait::new(timeout);
            if let Some(interrupt) = interrupt {
                interrupt.waiting.set(Some(wait.place()));
            }
            wait
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(interrupt) = self.interrupt {
            interrupt.waiting.set(None);
        }
    }
}

/// The free part of `buffer`; a receive into nothing would look like the end of the stream.
fn room(buffer: &mut RecvBuf) -> io::Result<&mut [u8]> {
    let free = buffer.free();
    if free.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the receive buffer is full"));
    }
    Ok(free)
}

/// Passes a socket to the driver. It may also be a connected datagram socket: the driver only calls
/// `recv` and `send`, and polls.
pub(super) fn adopt(socket: Socket) -> TcpStream {
    #[cfg(test)]
    return TcpStream::from(socket);
    #[cfg(not(test))]
    // SAFETY: the descriptor is open, and `into_raw_fd` gives up its ownership.
    unsafe {
        TcpStream::from_raw_fd(socket.into_raw_fd())
    }
}

/// A socket; within `timeout` it waits for a descriptor.
async fn new_socket(domain: Domain, timeout: Duration) -> io::Result<Socket> {
    let until = super::now() + timeout;
    loop {
        match Socket::new(domain, Type::STREAM, Some(Protocol::TCP)) {
            Err(error) if is_shortage(&error) && super::now() + SOCKET_PAUSE < until => {
                super::sleep(SOCKET_PAUSE).await;
            }
            made => return made,
        }
    }
}

/// What passes when others give back what they have.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::EINTR | libc::EAGAIN
        )
    )
}

/// Leaves the choice of a bound socket's port to `connect`, where it must only differ from ports
/// used towards the same peer. Without it, one local address can have 28,000 connections to all
/// peers together. If the kernel does not support it, only that is lost.
fn choose_port_late(socket: &Socket) {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is our own `c_int`, with its size.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}
