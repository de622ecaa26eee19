//! Connected UDP sockets.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use futures_lite::io::{AsyncRead, AsyncWrite};
#[cfg(not(test))]
use glommio::net::TcpStream;
#[cfg(not(test))]
use socket2::Socket;
use socket2::{Domain, Protocol, Type};

#[cfg(test)]
use super::simulation::socket::{Socket, TcpStream};
use super::stream::{adopt, within};
use super::timer::give_way;

/// A full send buffer is emptied at the speed of the network card; after this time it never will.
const SEND_WITHIN: Duration = Duration::from_secs(1);

/// A connected UDP socket on a random local port.
pub struct Udp {
    // The driver's own datagram type keeps a receive in flight in the ring, which may take a
    // datagram after its caller is gone. Its stream type polls, then calls `recv`, which is right
    // for datagrams too.
    inner: RefCell<TcpStream>,
}

impl Udp {
    /// A new socket, connected to `server`.
    pub fn connect(server: SocketAddr) -> io::Result<Udp> {
        let socket = Socket::new(Domain::for_address(server), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        // The kernel chooses the port at random (RFC 5452 9.2: it must be hard to guess).
        socket.connect(&server.into())?;
        Ok(Udp { inner: RefCell::new(adopt(socket)) })
    }

    /// Whether `address` is one of this machine. No packet is sent: the kernel chooses an address
    /// as its own source only if it is local. (Binding to it is no test on systems that let
    /// programs bind to any address.)
    pub fn is_local(address: IpAddr) -> bool {
        if address.is_loopback() {
            return true;
        }
        // Port 9 is discard; any port will do.
        let peer = SocketAddr::new(address, 9);
        let source = || -> io::Result<Option<SocketAddr>> {
            let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP))?;
            socket.connect(&peer.into())?;
            Ok(socket.local_addr()?.as_socket())
        };
        matches!(source(), Ok(Some(source)) if source.ip() == address)
    }

    /// Sends one datagram. An ICMP error for an earlier one is returned here or by `recv`.
    pub async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let sent = within(SEND_WITHIN, None, |context| {
            Pin::new(&mut *self.inner.borrow_mut()).poll_write(context, datagram)
        })
        .await?;
        if sent == datagram.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Receives one datagram; `TimedOut` after `timeout` (coarse: up to 100 ms later). A datagram
    /// that does not fit in `into` is truncated. One receiver at a time.
    pub async fn recv(&self, into: &mut [u8], timeout: Duration) -> io::Result<usize> {
        give_way().await;
        within(timeout, None, |context| {
            Pin::new(&mut *self.inner.borrow_mut()).poll_read(context, into)
        })
        .await
    }
}
