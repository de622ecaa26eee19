//! Limits connections to the control socket: their number, and how long they may be idle.
//!
//! A script that forgets to close its connections must not take the descriptors that mail needs.
//! At the limit, a connection waits in the socket's backlog until another one ends.

use crate::limits;
use crate::ring;
use axum::serve::Listener;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Pause after a failed accept (for example, because no descriptor is free).
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);

/// The socket with a limit on its connections.
pub(super) struct Connections {
    socket: UnixListener,
    free: Arc<Semaphore>,
    idle_max: Duration,
}

impl Connections {
    pub(super) fn new(socket: UnixListener) -> Connections {
        Connections {
            socket,
            free: Arc::new(Semaphore::new(limits::CONTROL_CONNECTIONS_MAX)),
            idle_max: Duration::from_secs(limits::CONTROL_IDLE_SECONDS),
        }
    }
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let permit = Arc::clone(&self.free).acquire_owned().await;
            if let (Ok(permit), Ok((stream, address))) = (permit, self.socket.accept().await) {
                let idle = Box::pin(tokio::time::sleep(self.idle_max));
                let idle_max = self.idle_max;
                return (Connection { stream, idle, idle_max, _permit: permit }, address);
            }
            tokio::time::sleep(ACCEPT_AGAIN).await;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// A connection that ends when it is idle for too long.
pub(super) struct Connection {
    stream: UnixStream,
    idle: Pin<Box<Sleep>>,
    idle_max: Duration,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// `result`, unless it is pending and the connection was idle for too long.
    fn unless_idle<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.idle.as_mut().reset(Instant::from_std(ring::now() + self.idle_max));
            return result;
        }
        ready!(self.idle.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.unless_idle(context, result)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.unless_idle(context, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
