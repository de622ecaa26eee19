//! Listening sockets.
//!
//! One task of each listener accepts on request, and keeps the connection for `accept` to take. So
//! an `accept` that is dropped loses no connection: the next call gets it, or it is closed with the
//! listener.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
#[cfg(not(test))]
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

#[cfg(not(test))]
use glommio::net::TcpListener;

use super::reservation::{listen, own_address};
use super::signal::Signal;
#[cfg(test)]
use super::simulation::socket::TcpListener;
use super::stream::Stream;
use super::task::{self, Lane};

/// Connections that the kernel holds for each shard until they are accepted.
const BACKLOG: i32 = 1024;
/// Wait before the first error in a row is returned, and the longest wait.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A listening socket of this shard (SO_REUSEPORT).
pub struct Listener {
    /// Held so that the descriptor is open as long as this listener exists.
    _inner: Rc<TcpListener>,
    /// The descriptor of `_inner`.
    descriptor: RawFd,
    shared: Rc<Shared>,
    address: SocketAddr,
}

/// Shared by `accept` and the accepting task.
#[derive(Default)]
struct Shared {
    /// Wakes the task.
    bell: Signal,
    /// An `accept` waits.
    wanted: Cell<bool>,
    /// The result of the task for it.
    ready: RefCell<Option<io::Result<Stream>>>,
    waiter: RefCell<Option<Waker>>,
    /// The listener is gone.
    closed: Cell<bool>,
}

impl Listener {
    /// Listens on `address`.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        let socket = listen(address, BACKLOG)?;
        let address = own_address(&socket)?;
        let descriptor = socket.as_raw_fd();
        #[cfg(test)]
        let inner = Rc::new(TcpListener::from(socket));
        #[cfg(not(test))]
        // SAFETY: the descriptor is open, and `into_raw_fd` gives up its ownership.
        let inner = Rc::new(unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) });
        let shared = Rc::<Shared>::default();
        task::spawn_to_the_end(
            Lane::Arrivals,
            accept_when_asked(Rc::clone(&inner), Rc::clone(&shared)),
        );
        Ok(Listener { _inner: inner, descriptor, shared, address })
    }

    /// The address on which it listens, with the chosen port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection. On an error (EMFILE) it waits a little before it returns: 10 ms, and
    /// twice as long after each further one, up to a second. One caller at a time.
    pub async fn accept(&self) -> io::Result<Stream> {
        poll_fn(|context| {
            if let Some(result) = self.shared.ready.take() {
                return Poll::Ready(result);
            }
            task::keep_waker(&mut self.shared.waiter.borrow_mut(), context.waker());
            if !self.shared.wanted.replace(true) {
                self.shared.bell.set();
            }
            Poll::Pending
        })
        .await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.closed.set(true);
        self.shared.bell.set();
        // Ends an accept in flight. Cancelling it could lose a connection that was just accepted.
        #[cfg(test)]
        self._inner.shut_down_simulated();
        // SAFETY: the descriptor is open as long as `self._inner` is.
        unsafe { libc::shutdown(self.descriptor, libc::SHUT_RDWR) };
    }
}

/// The accepting task: ends with its listener.
async fn accept_when_asked(listener: Rc<TcpListener>, shared: Rc<Shared>) {
    let mut pause = PAUSE_MIN;
    loop {
        shared.bell.wait().await;
        if shared.closed.get() {
            return;
        }
        if !shared.wanted.get() {
            continue;
        }
        let result = accept_one(&listener).await;
        if shared.closed.get() {
            return;
        }
        if result.is_ok() {
            pause = PAUSE_MIN;
        } else {
            // Without descriptors or memory, the error would return at once, in a loop.
            super::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        shared.wanted.set(false);
        shared.ready.replace(Some(result));
        let waiter = shared.waiter.take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

/// The next connection that is still open, or an error of the listener.
async fn accept_one(listener: &TcpListener) -> io::Result<Stream> {
    loop {
        let error = match listener.accept().await {
            Ok(stream) => match Stream::new(stream) {
                Ok(stream) => return Ok(stream),
                // Reset before it was accepted.
                Err(_) => continue,
            },
            Err(error) => io::Error::from(error),
        };
        // Errors of one connection, not of the listener (accept(2), "Error handling").
        match error.raw_os_error() {
            Some(
                libc::ECONNABORTED
                | libc::EPROTO
                | libc::EINTR
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP,
            ) => continue,
            _ => return Err(error),
        }
    }
}
